# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""After an undo, what was written to the restored database is in files that hold that and nothing else, and load."""

from __future__ import annotations

import csv
import hashlib
import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.backup.swap import Swap
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import connect
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.progress import Progress

from tests.integration.backup.conftest import as_arguments, call_module, start_module
from tests.integration.restore.conftest import Shop

__all__ = ["call_module", "start_module"]  # fixtures

TABLES = """
CREATE TABLE lines (
    "order" bigint REFERENCES orders, "line, no" int, price numeric(9, 2), tags text[], doc json, note text,
    twice numeric GENERATED ALWAYS AS (price * 2) STORED, PRIMARY KEY ("order", "line, no"));
CREATE TABLE log (message text, at date);
CREATE TABLE stock (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, what text);
CREATE TABLE untouched (id int PRIMARY KEY, "100%s" text);
INSERT INTO lines SELECT id, 1, 1.50, ARRAY['a', NULL], '{"b": 1}', '' FROM orders WHERE id <= 100;
INSERT INTO log SELECT 'started', '2026-01-01' FROM generate_series(1, 3);
INSERT INTO stock (what) SELECT 'thing' FROM generate_series(1, 20);
INSERT INTO untouched SELECT n, 'same' FROM generate_series(1, 50) AS n;
"""
# Between the backup and the restore: what an undo brings back, and what is none of those written since.
ACCIDENT = """
DELETE FROM lines WHERE "order" > 10;
UPDATE orders SET what = 'broken' WHERE id BETWEEN 501 AND 600;
INSERT INTO orders (what) SELECT 'after the backup' FROM generate_series(1, 40);
INSERT INTO log VALUES ('accident', '2026-01-02');
"""
# While the restored database was live.
SINCE = """
INSERT INTO orders (what) VALUES ('new'), (E'"quoted",\\nand broken'), ('ñ');
UPDATE orders SET what = 'changed' WHERE id IN (1, 2, 550);
UPDATE orders SET what = what WHERE id BETWEEN 3 AND 9;
DELETE FROM lines WHERE "order" = 7;
INSERT INTO lines SELECT max(id), 1, 9.99, '{"x,y"}', NULL, NULL FROM orders;
UPDATE lines SET note = NULL WHERE "order" = 8;
INSERT INTO log VALUES ('started', '2026-01-01'), ('hello', NULL);
UPDATE stock SET what = 'moved' WHERE id = 5;
DELETE FROM stock WHERE id = 6;
INSERT INTO stock (what) VALUES ('added');
"""


@pytest.fixture
def undone(shop: Shop) -> Iterator[tuple[Shop, str]]:
    """A shop that was restored, written to, and brought back; with the name of the database that was put aside."""
    yield from _undone(shop, SINCE)


def _undone(shop: Shop, since: str, accident: str = ACCIDENT) -> Iterator[tuple[Shop, str]]:
    shop.run(TABLES)
    shop.back_up()
    shop.run(accident)
    for state in ("prepared", "swapped", "done"):
        shop.reach(state)
    shop.run(since)
    aside = shop.reach("undone", losses_agreed=True).values["abandoned"]
    yield shop, aside


def exported(shop: Shop, directory: Path, **more: Any) -> dict[str, Any]:
    return shop.reach("exported", export_directory=directory, **more).values["export"]


def found_in(export_: dict[str, Any]) -> dict[str, tuple[Any, ...]]:
    return {
        one["table"].split(".")[1]: tuple(one[kind] for kind in ("new", "changed", "deleted", "unclear"))
        for one in export_["tables"]
    }


def rows_of(folder: Path, table: str, kind: str) -> list[dict[str, str]]:
    file = next(folder.glob(f"*public.{table}.{kind}.csv"))
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def load(shop: Shop, folder: Path) -> subprocess.CompletedProcess[str]:
    login = shop.admin.at(shop.name)
    return subprocess.run(
        [shop.server.bin_directory / "psql", "-X", "-q", "-f", "load.sql"], cwd=folder, check=False, text=True,
        capture_output=True, env=login.environment(),
    )


def test_only_what_was_written_since_is_exported_and_the_script_loads_it(
    undone: tuple[Shop, str], tmp_path: Path
) -> None:
    """A85 ⚠ B43 ⚠: what an undo takes away can be read and brought back; values stand in the files alone."""
    shop, aside = undone
    assert shop.is_reachable(), "applications are in before anything is exported"
    shop.run("INSERT INTO orders (what) VALUES ('after the undo')")
    found = exported(shop, tmp_path / "exports")
    assert found_in(found) == {
        "orders": (3, 3, 0, 0), "lines": (1, 1, 1, 0), "log": (2, None, None, None), "stock": (1, 1, 1, 0),
    }
    assert found["exact"]
    assert found["text"] == "7 new rows, 5 changed, 2 deleted in 4 tables"
    folder = Path(found["folder"])
    assert folder == tmp_path / "exports" / aside
    assert folder.stat().st_mode & 0o777 == folder.parent.stat().st_mode & 0o777 == 0o700
    assert {one.stat().st_mode & 0o777 for one in folder.iterdir()} == {0o600}
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    files = {file["file"]: file for table in manifest["tables"] for file in table["files"]}
    assert sorted([*files, "load.sql", "manifest.json"]) == sorted(one.name for one in folder.iterdir())
    for name, file in files.items():
        content = (folder / name).read_bytes()
        assert (file["bytes"], file["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert not {"moved", "hello", "changed"} & set(json.dumps([found, manifest]).replace('"changed"', "").split('"'))
    assert [row["what"] for row in rows_of(folder, "orders", "new")] == ["new", '"quoted",\nand broken', "ñ"]
    assert rows_of(folder, "stock", "deleted") == [{"id": "6"}]

    assert shop.run("SELECT count(*) AS n FROM orders WHERE what = 'after the backup'")[0]["n"] == 40
    loaded = load(shop, folder)
    assert loaded.returncode == 0, loaded.stderr
    everything = "SELECT * FROM orders WHERE id IN (1, 2, 3, 550) OR what ~ 'new|quoted|ñ' ORDER BY id"
    assert shop.run(everything)[:3] == _aside(shop, aside, everything)[:3]
    for query in ('SELECT *, doc::text FROM lines WHERE "order" < 10 OR "order" > 1000 ORDER BY 1, 2',
                  "SELECT * FROM stock ORDER BY id"):
        ours, theirs = shop.run(query), _aside(shop, aside, query)
        assert ours == theirs
    assert [row["message"] for row in shop.run("SELECT message FROM log ORDER BY 1")] == [
        "accident", "hello", "started", "started", "started", "started",
    ]
    assert shop.run("INSERT INTO stock (what) VALUES ('next') RETURNING id")[0]["id"] == 22, "no number comes twice"
    shop.reach("done")


def _aside(shop: Shop, name: str, query: str) -> list[dict[str, Any]]:
    shop.run(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true', "postgres")
    return shop.run(query, name)


def test_a_folder_that_cannot_be_made_is_refused_before_anything_is_touched(
    undone: tuple[Shop, str], tmp_path: Path
) -> None:
    """Where it can be seen only later, the rows are where they were, and that is said."""
    shop, aside = undone
    (tmp_path / "file").write_text("")
    with pytest.raises(RunbookError, match="file cannot be written by this user"):
        shop.reach("undone", check=True, export_directory=tmp_path / "file" / "exports")
    with pytest.raises(RunbookError, match=f"cannot be made: .* Nothing is lost: {aside} has all of it."):
        exported(shop, tmp_path / "file" / "exports")
    tmp_path.chmod(0o755)
    with pytest.raises(RunbookError, match="is not a folder of this user alone"):
        shop.reach("undone", check=True, export_directory=tmp_path)


def test_keys_of_every_type_are_found(shop: Shop, tmp_path: Path) -> None:
    """A key that is cut, or compared by another rule than its index has, would be taken for a deleted one."""
    shop.run("""
    CREATE EXTENSION citext;
    CREATE TYPE size AS ENUM ('s', 'm');
    CREATE DOMAIN code AS char(3) CHECK (VALUE <> '');
    CREATE TABLE lands (land char(2), mask bit(4), v int, PRIMARY KEY (land, mask));
    CREATE TABLE names (name citext, code code, v int, PRIMARY KEY (name, code));
    CREATE TABLE sizes (size size, parts varchar(5)[], at timestamptz, v int, PRIMARY KEY (size, parts, at));
    INSERT INTO lands VALUES ('DE', B'1010', 1), ('DK', B'1010', 1), ('DE', B'1011', 1);
    INSERT INTO names VALUES ('Anna', 'abc', 1), ('anton', 'abd', 1);
    INSERT INTO sizes VALUES ('s', '{a,b}', '2026-11-21 14:30+01', 1), ('m', '{a,b}', '2026-11-21 14:30+01', 1);
    """)
    since = """
    UPDATE lands SET v = 2 WHERE land = 'DK'; UPDATE names SET v = 2, name = 'ANNA' WHERE name = 'anna';
    UPDATE sizes SET v = 2 WHERE size = 's'; DELETE FROM lands WHERE mask = B'1011';
    """
    next(_undone(shop, since, "DELETE FROM log"))
    found = exported(shop, tmp_path / "exports")
    assert found_in(found) == {"lands": (0, 1, 1, 0), "names": (0, 1, 0, 0), "sizes": (0, 1, 0, 0)}
    assert load(shop, Path(found["folder"])).stderr == ""
    assert [row["land"] + row["mask"] for row in shop.run("SELECT land, mask FROM lands ORDER BY 1, 2")] == [
        "DE1010", "DK1010"
    ]


def test_nothing_written_leaves_no_folder(shop: Shop, tmp_path: Path) -> None:
    for _shop, _aside_name in _undone(shop, "SELECT 1"):
        found = exported(shop, tmp_path / "exports")
        assert (found["text"], found["folder"], found["tables"]) == ("nothing", "", [])
        assert list((tmp_path / "exports").iterdir()) == []


def test_keys_that_nobody_can_tell_are_no_deleted_ones(shop: Shop, tmp_path: Path) -> None:
    """A row that the accident's side got after the backup is not in the restored database, and was never deleted."""
    for _shop, _aside_name in _undone(shop, "DELETE FROM orders WHERE id IN (111, 112, 551)"):
        found = exported(shop, tmp_path / "exports")
        assert found_in(found) == {"orders": (0, 0, 2, 41)}, "551 was changed after the backup, then deleted"
        assert "that may have been deleted" in found["text"]
        assert "nobody can tell" in " ".join(found["tables"][0]["notes"])
        assert "unclear" not in (Path(found["folder"]) / "load.sql").read_text(encoding="utf-8").split("BEGIN")[0]
        assert load(shop, Path(found["folder"])).returncode == 0
        assert shop.run("SELECT count(*) AS n FROM orders WHERE id IN (111, 112, 551)")[0]["n"] == 1


def test_other_columns_and_tables_are_said_and_what_cannot_be_loaded_is_not_tried(shop: Shop, tmp_path: Path) -> None:
    """TRUNCATE stands in no counter of the server's: what it took away are deleted rows all the same."""
    since = """
    ALTER TABLE stock ADD COLUMN colour text; UPDATE stock SET colour = 'red' WHERE id = 1;
    CREATE TABLE made_since (id int PRIMARY KEY);
    INSERT INTO "a\n\\! touch broken\n" VALUES (2);
    INSERT INTO made_since VALUES (1), (2);
    DROP TABLE log;
    TRUNCATE untouched;
    """
    # A name is somebody else's text: psql would run the line in its middle.
    shop.run('CREATE TABLE "a\n\\! touch broken\n" (id int PRIMARY KEY)')
    for _shop, _aside_name in _undone(shop, since):
        found = exported(shop, tmp_path / "exports")
        notes = {one["table"]: " ".join(one["notes"]) for one in found["tables"]}
        assert found_in(found)["made_since"] == (2, 0, 0, 0)
        assert found_in(found)["untouched"] == (0, 0, 50, 0)
        assert "has no such table" in notes["public.made_since"]
        assert "lacks colour" in notes["public.stock"]
        assert "A name of it has a line break" in (Path(found["folder"]) / "load.sql").read_text(encoding="utf-8")
        assert "public.log is only in the database that is back, and was left as it is." in found["lines"]
        assert load(shop, Path(found["folder"])).returncode == 0
        assert not (Path(found["folder"]) / "broken").exists()


def test_without_the_exchange_s_transaction_all_that_differs_is_exported_and_said_so(
    undone: tuple[Shop, str], tmp_path: Path
) -> None:
    """A number that lies half of all numbers back or further cannot be compared with those of rows any more."""
    shop, _aside_name = undone
    swap = Swap(shop.admin, shop.name, "test", Progress())
    live = swap.position().live
    swap.mark(live, replace(live.marker, xid=live.marker.xid - 2**31))
    swap.connection.close()
    found = exported(shop, tmp_path / "exports")
    assert not found["exact"]
    assert "not known" in found["lines"][0]
    counts = found_in(found)
    assert counts["orders"][:2] == (3, 102), "what the accident broke is told apart no more: 3 changed, and 99 of it"
    assert counts["lines"][0] == 91, "the rows that it deleted are new ones to the database that is back"


def test_the_module_says_what_it_will_do_and_too_long_an_export_loses_nothing(
    undone: tuple[Shop, str], tmp_path: Path, call_module: Any
) -> None:
    shop, aside = undone
    arguments = {
        "login": as_arguments(shop.admin), "database": shop.name, "run": "run-x", "system": shop.place.system,
        "target": shop.place.target, "store_path": str(tmp_path / "store-0"), "state": "exported",
        "export_directory": str(tmp_path / "exports"),
    }
    looked = call_module("pg_restore_swap", arguments, check_mode=True)
    assert not looked["changed"]
    assert not (tmp_path / "exports").exists()
    assert not call_module("pg_restore_swap", {**arguments, "export_seconds": 0})["changed"]
    with pytest.raises(RunbookError, match="did not end within 0 s; last was: comparing") as late:
        exported(shop, tmp_path / "exports", export_s=1e-6)
    assert aside in str(late.value)
    assert list((tmp_path / "exports").iterdir()) == []
    first = call_module("pg_restore_swap", arguments)
    assert first["export"]["new"] == 7
    assert [step["step"] for step in first["plan"]] == ["export what was written since"]
    again = call_module("pg_restore_swap", arguments)
    assert again["export"]["folder"] == first["export"]["folder"]
    with connect(shop.admin, "tests") as connection:
        row = connection.execute("SELECT datallowconn FROM pg_database WHERE datname = %s", [aside]).fetchone()
    assert not row["datallowconn"], "the database that was put aside is closed again"
