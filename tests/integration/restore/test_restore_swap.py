# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A database is brought back whole, nobody notices before the exchange, and every way back works."""

from __future__ import annotations

import os
import secrets
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.backup import preflight
from ansible_collections.sre.runbooks.plugins.module_utils.backup.losses import read_written
from ansible_collections.sre.runbooks.plugins.module_utils.backup.manifest import Manifest, write_manifest
from ansible_collections.sre.runbooks.plugins.module_utils.backup.properties import read_properties
from ansible_collections.sre.runbooks.plugins.module_utils.backup.swap import Swap
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql import marker as markers
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import connect, identifier
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.progress import Progress
from psycopg import sql

from lab import machine
from lab.postgresql import PostgresServer
from tests.disks import mounted
from tests.integration.backup.conftest import as_arguments, call_module, start_module
from tests.integration.restore.conftest import Shop

__all__ = ["call_module", "start_module"]  # fixtures


def properties_of(shop: Shop):
    with connect(shop.admin.at(shop.name), "tests") as connection:
        found = read_properties(connection)
    return {key: value for key, value in found.as_dict().items() if key != "size_bytes"}


def written(shop: Shop) -> tuple[int, int, int]:
    """Rows inserted, updated and deleted, by the server's counters, which each session reports a moment later."""
    with connect(shop.admin.at(shop.name), "tests") as connection:
        tables = read_written(connection).tables
    return tuple(sum(getattr(one, name) for one in tables) for name in ("inserted", "updated", "deleted"))


def position(shop: Shop):
    swap = Swap(shop.admin, shop.name, "look", Progress())
    try:
        return swap.position()
    finally:
        swap.connection.close()


ODD_NAMES = ['we"ird \'shop\' a=b ñ', "x" * 63, "ñ" * 31]


@pytest.mark.parametrize("name", [None, *ODD_NAMES], ids=["plain", "quotes, spaces, =, ñ", "63 bytes", "62 bytes of ñ"])
def test_a_destroyed_database_comes_back_with_rows_properties_and_sequences(
    make_shop: Callable[[str], Shop], name: str | None
) -> None:
    """A85 ⚠ D15 ⚠: ACL, settings, owner, encoding and comment survive, and no number is given out twice."""
    shop = make_shop(name or f"shop_{secrets.token_hex(4)}")
    manifest = shop.back_up()
    before = properties_of(shop)
    shop.run("INSERT INTO orders (what) SELECT 'late' FROM generate_series(1, 50)")
    shop.run("DELETE FROM orders WHERE id <= 1000")
    shop.run('TRUNCATE "Odd ""table"" ñ"')
    shop.run("SELECT nextval('countdown')")

    prepared = shop.reach("prepared")
    assert prepared.values["backup"]["backup_id"] == manifest.backup_id
    assert prepared.values["losses"]["newest_live_row_at"] > manifest.newest_row_at
    assert shop.orders() == 50, "nobody notices the copy"
    assert not shop.reach("prepared").plan, "prepared twice changes nothing"
    swapped = shop.reach("swapped")
    assert swapped.values["exchange_seconds"] > 0
    assert not shop.reach("swapped").plan
    assert shop.reach("done").plan
    assert not shop.reach("done").plan

    assert shop.orders() == 1000
    assert shop.run('SELECT count(*) AS n FROM "Odd ""table"" ñ"')[0]["n"] == 7
    assert properties_of(shop) == before
    assert shop.run("SELECT nextval('orders_id_seq') AS n")[0]["n"] == 1051
    assert shop.run("SELECT nextval('countdown') AS n")[0]["n"] == -4
    kept = position(shop).kept
    assert [(one.name, one.marker.state, one.allows) for one in kept] == [
        (swapped.values["retired"], markers.RETIRED, False)
    ]
    assert all(len(found.encode()) <= 63 for found in shop.databases())


def test_check_mode_tells_everything_and_changes_nothing(shop: Shop) -> None:
    shop.back_up()
    before = shop.databases()
    result = shop.reach("prepared", check=True)
    assert [step["step"] for step in result.as_dict()["plan"]] == ["restore the backup beside the live database"]
    assert result.position["state"] == "untouched"
    assert [step["step"] for step in shop.reach("swapped", check=True).as_dict()["plan"]] == [
        "forbid new connections and end all sessions", "exchange the names", "let applications in"
    ]
    assert shop.databases() == before


def test_what_people_changed_on_the_database_since_the_backup_stays(shop: Shop) -> None:
    """A85 ⚠: the owner's own comment survives, and so do a new limit and a new setting."""
    shop.back_up()
    name = sql.Identifier(shop.name)
    with connect(shop.admin, "tests") as connection:
        connection.execute(sql.SQL("COMMENT ON DATABASE {} IS 'written since'").format(name))
        connection.execute(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT 44").format(name))
        connection.execute(sql.SQL("ALTER DATABASE {} SET statement_timeout = '7s'").format(name))
    before = properties_of(shop)
    notes = shop.reach("prepared").values["notes"]
    shop.reach("swapped")
    shop.reach("done")
    assert properties_of(shop) == before
    assert any("connection limit is 44 now and was 55" in note for note in notes)


def test_forty_sessions_and_a_client_that_reconnects_in_a_loop_do_not_get_between(shop: Shop) -> None:
    """A85 ⚠: other sessions block a rename. The loop sees the old database, then only refusals, then the new one."""
    shop.back_up()
    shop.run("INSERT INTO orders (what) VALUES ('lost')")
    shop.reach("prepared")
    held = [psycopg.connect(**_keywords(shop)) for _unused in range(20)]
    seen: list[object] = []
    stop = threading.Event()

    def reconnect() -> None:
        while not stop.is_set():
            try:
                with psycopg.connect(**_keywords(shop)) as connection:
                    seen.append(connection.execute("SELECT count(*) FROM orders").fetchone()[0])
            except psycopg.Error:
                seen.append(None)

    thread = threading.Thread(target=reconnect)
    thread.start()
    try:
        _wait(lambda: 1001 in seen)
        result = shop.reach("swapped")
        _wait(lambda: 1000 in seen)
    finally:
        stop.set()
        thread.join()
        for connection in held:
            connection.close()
    assert result.values["sessions_ended"] >= 20
    answers = [count for count in seen if count is not None]
    assert answers == sorted(answers, reverse=True)
    assert set(answers) == {1001, 1000}


def test_a_backend_that_is_stopped_by_a_signal_is_named_and_the_old_database_opens_again(shop: Shop) -> None:
    """A85 ⚠: pods not awaited, other sessions block the rename."""
    shop.back_up()
    shop.reach("prepared")
    with psycopg.connect(**_keywords(shop), application_name="stuck till") as stuck:
        pid = stuck.info.backend_pid
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(RunbookError) as raised:
                shop.reach("swapped", session_timeout_s=1.0)
            left = shop.reach("undone", drop_timeout_s=2.0).values["left"]
            assert left, "DROP DATABASE waits for the stopped process"
            assert position(shop).state == "restoring", "a copy that is half dropped is never exchanged"
        finally:
            os.kill(pid, signal.SIGCONT)
    assert f"pid {pid} (user {shop.application.user}, application 'stuck till')" in raised.value.message
    assert f"kill -CONT {pid}" in raised.value.hint
    assert shop.orders() == 1000
    assert not shop.reach("undone").values["left"]
    assert shop.databases() == [shop.name]
    assert position(shop).live.marker is None


def test_a_lock_on_the_database_is_named_and_the_old_database_opens_again(shop: Shop) -> None:
    shop.back_up()
    shop.reach("prepared")
    with psycopg.connect(**_keywords(shop, admin=True), application_name="half an alter") as other:
        other.execute(
            sql.SQL("ALTER ROLE {} IN DATABASE {} SET work_mem = '5MB'").format(
                identifier(shop.application.user), identifier(shop.name)
            )
        )
        with pytest.raises(RunbookError, match="half an alter"):
            shop.reach("swapped")
        assert shop.orders() == 1000
        other.rollback()
    assert shop.reach("swapped").values["retired"]


def test_a_smoke_check_that_fails_brings_the_old_database_back(shop: Shop) -> None:
    shop.back_up()
    shop.run("INSERT INTO orders (what) VALUES ('kept')")
    shop.reach("prepared")
    with pytest.raises(RunbookError, match="is not true"):
        shop.reach("swapped", application_check="SELECT current_database() LIKE '%__restoring_%'")
    assert shop.orders() == 1001
    assert position(shop).state == "prepared"
    assert properties_of(shop)["connection_limit"] == 55


def test_a_smoke_check_that_fails_when_the_session_is_lost_as_well_brings_the_old_database_back(shop: Shop) -> None:
    """A85 ⚠: a server that goes away is noticed by who asks it first, and that is not the session that exchanges."""
    shop.back_up()
    shop.run("DELETE FROM orders WHERE id > 10")
    shop.reach("prepared")
    both = (
        "SELECT NOT bool_and(pg_terminate_backend(pid, 5000)), 'no' FROM pg_stat_activity"
        " WHERE application_name = 'sre.runbooks swap'"
    )
    with pytest.raises(RunbookError, match="gave False"):
        shop.reach("swapped", application_check=both)
    assert shop.orders() == 10
    shop.reach("swapped")
    assert shop.orders() == 1000


@pytest.mark.parametrize("stopped_at", ["closed", "exchanged", "opened"])
@pytest.mark.parametrize("then", ["swapped", "undone"])
def test_from_each_place_where_a_call_can_die_the_next_one_goes_on_or_back(
    shop: Shop, stopped_at: str, then: str
) -> None:
    """A85 ⚠: a second run must not trip over what the first one left."""
    shop.back_up()
    shop.run("DELETE FROM orders")
    before = properties_of(shop)
    shop.reach("prepared")
    swap = Swap(shop.admin, shop.name, "killed", Progress())
    until = "2126-01-01T00:00:00Z"
    copy = swap.position().prepared()
    swap.close(copy.marker.backup, copy)
    if stopped_at != "closed":
        swap.end_sessions([copy])
        swap.exchange(swap.position().prepared(), until, back=False)
    if stopped_at == "opened":
        swap.open(55)
    swap.connection.close()
    assert position(shop).state == stopped_at
    assert shop.is_reachable() == (stopped_at == "opened")

    if then == "swapped":
        assert shop.reach("prepared").position["state"] == stopped_at, "what was begun is ended first"
        shop.reach("swapped")
        shop.reach("done")
        assert shop.orders() == 1000
    elif stopped_at == "opened":
        with pytest.raises(RunbookError, match="have been let into"):
            shop.reach("undone")
        assert shop.orders() == 1000
        shop.reach("undone", losses_agreed=True)
        shop.reach("done")
        assert shop.orders() == 0
    else:
        shop.reach("undone")
        assert shop.orders() == 0
        assert shop.databases() == [shop.name]
    assert properties_of(shop) == before


def test_a_copy_that_a_dead_run_left_is_dropped_and_made_anew(shop: Shop) -> None:
    manifest = shop.back_up()
    names = [f"{shop.name}__restoring_{manifest.backup_id}", f"{shop.name}__restoring_20200101T000000Z-abcd"]
    with connect(shop.admin, "tests") as connection:
        for name in names:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(identifier(name)))
    plan = shop.reach("prepared").as_dict()["plan"]
    assert sorted(step["target"] for step in plan if step["step"].startswith("drop")) == sorted(names)
    assert shop.databases() == [shop.name, names[0]]


def test_undo_says_what_would_be_lost_then_brings_the_old_one_back_and_keeps_the_other(shop: Shop) -> None:
    shop.back_up()
    shop.run("DELETE FROM orders WHERE id > 10")
    shop.reach("prepared")
    shop.reach("swapped")
    shop.reach("done")
    with connect(shop.application, "shop") as connection:
        connection.execute("INSERT INTO orders (what) SELECT 'new' FROM generate_series(1, 12)")
        connection.execute("UPDATE orders SET what = 'changed' WHERE id <= 3")
    _wait(lambda: shop.run("SELECT sum(n_tup_upd) AS n FROM pg_stat_user_tables")[0]["n"] == 3)

    losses = shop.reach("undone", check=True).values["losses"]
    assert losses["lost"] == "about 12 rows inserted and 3 updated since the exchange"
    assert not shop.reach("undone").plan, "without an agreement nothing happens to a finished restore"
    undone = shop.reach("undone", losses_agreed=True)
    shop.reach("done")
    assert shop.orders() == 10
    assert [(one.name, one.marker.state) for one in position(shop).kept] == [
        (undone.values["abandoned"], markers.ABANDONED)
    ]
    with pytest.raises(RunbookError, match="is undone already"):
        shop.reach("undone", losses_agreed=True)
    assert shop.orders() == 10


def test_a_database_that_is_gone_altogether_is_brought_back(shop: Shop) -> None:
    """B43 ⚠: no safety copy. Here there is not even a live database left to keep."""
    shop.back_up()
    before = properties_of(shop)
    with connect(shop.admin, "tests") as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(identifier(shop.name)))
    shop.reach("prepared")
    assert shop.reach("swapped").values["retired"] is None
    shop.reach("done")
    assert shop.orders() == 1000
    assert properties_of(shop) == before


def test_without_a_live_database_there_is_no_way_back_and_somebody_says_how_to_go_on(shop: Shop) -> None:
    shop.back_up()
    for state in ("prepared", "swapped", "done"):
        shop.reach(state)
    with connect(shop.admin, "tests") as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(identifier(shop.name)))
    with pytest.raises(RunbookError, match=f"no live database '{shop.name}' to exchange") as error:
        shop.reach("undone", losses_agreed=True)
    assert "rename it by hand" in error.value.hint
    with pytest.raises(RunbookError, match="There is no database") as error:
        Swap(shop.admin, shop.name, "a run", Progress())._live()
    assert "sre.runbooks.database_restore brings it back" in error.value.hint


def test_two_operators_at_once_never_work_on_one_database_together(shop: Shop) -> None:
    shop.back_up()
    other = Swap(shop.admin, shop.name, "the other", Progress())
    with other.alone(1), pytest.raises(RunbookError, match="Another run still works"):
        shop.reach("prepared", lock_wait_s=0.3)
    assert shop.databases() == [shop.name]
    assert shop.reach("prepared").plan


def test_everything_that_is_wrong_is_told_at_once_before_anything_is_changed(shop: Shop) -> None:
    """A85 ⚠ B43 ⚠: extensions, owner, disk are looked at first."""
    manifest = shop.back_up()
    role = f"gone_{secrets.token_hex(3)}"
    changed = {
        **manifest.as_dict(), "roles": [*manifest.roles, role], "server_version": "99.1",
        "database": {**manifest.as_dict()["database"],
                     "extensions": [{"name": "no_such_thing", "version": "1", "schema": "public"}]},
    }
    write_manifest(shop.place.backup(manifest.backup_id), Manifest.from_dict(changed))
    with pytest.raises(RunbookError) as raised:
        shop.reach("prepared", check=True)
    text = " ".join(raised.value.context["problems"])
    assert "extension no_such_thing 1 is not available" in text
    assert f"lacks the roles {role}" in text
    assert "is of PostgreSQL 99" in text
    assert shop.databases() == [shop.name]


def test_a_restored_database_that_is_not_what_the_manifest_says_is_never_exchanged(shop: Shop) -> None:
    """A85 ⚠: swaps even after a failed restore."""
    manifest = shop.back_up()
    tables = [
        {**table, "rows": 999, "fingerprint": None} if table["name"] == "orders" else table
        for table in manifest.as_dict()["tables"]
    ]
    write_manifest(
        shop.place.backup(manifest.backup_id), Manifest.from_dict({**manifest.as_dict(), "tables": tables})
    )
    with pytest.raises(RunbookError, match=r"public\.orders has 1000 rows instead of 999"):
        shop.reach("prepared")
    assert shop.databases() == [shop.name]


def test_a_data_file_that_is_broken_ends_the_restore_and_leaves_nothing(shop: Shop) -> None:
    """A85 ⚠: no --exit-on-error."""
    manifest = shop.back_up()
    folder = shop.place.backup(manifest.backup_id) / "data"
    largest = max(folder.glob("*.dat.gz"), key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 0xFF
    largest.write_bytes(data)
    with pytest.raises(RunbookError, match=r"has another SHA-256|pg_restore into"):
        shop.reach("prepared")
    assert shop.databases() == [shop.name]


@pytest.mark.parametrize(
    ("path", "words"), [("data/toc.dat", r"toc\.dat has another SHA-256"), ("manifest.json", "is not what was written")]
)
def test_one_changed_byte_in_what_describes_the_backup_is_refused(shop: Shop, path: str, words: str) -> None:
    """A85 ⚠: a backup that was proven weeks ago is looked at again, to the byte."""
    manifest = shop.back_up()
    file = shop.place.backup(manifest.backup_id) / path
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0x01
    file.write_bytes(data)
    with pytest.raises(RunbookError, match=words):
        shop.reach("prepared", backup_id=manifest.backup_id)
    assert shop.databases() == [shop.name]


def test_what_changed_between_preparing_and_exchanging_is_caught_up(shop: Shop) -> None:
    """D15 ⚠: no number is given out twice, and nobody's grant or setting is lost."""
    shop.back_up()
    shop.reach("prepared")
    name, role = identifier(shop.name), identifier(shop.application.user)
    with connect(shop.admin.at(shop.name), "tests") as connection:
        connection.execute("INSERT INTO orders (what) SELECT 'late' FROM generate_series(1, 50)")
        for statement in (
            "COMMENT ON DATABASE {database} IS 'new'", "ALTER DATABASE {database} SET statement_timeout = '9s'",
            "ALTER DATABASE {database} RESET search_path", "ALTER DATABASE {database} CONNECTION LIMIT 33",
            "ALTER ROLE {role} IN DATABASE {database} RESET work_mem",
            "REVOKE CONNECT ON DATABASE {database} FROM {role} CASCADE",
            "GRANT CREATE ON DATABASE {database} TO {role}",
        ):
            connection.execute(sql.SQL(statement).format(database=name, role=role))
    before = properties_of(shop)
    assert not shop.reach("prepared").plan, "the copy is used as it is"
    swapped = shop.reach("swapped")
    shop.reach("done")
    assert properties_of(shop) == before
    assert shop.run("SELECT nextval('orders_id_seq') AS n")[0]["n"] == 1051
    assert swapped.values["losses"]["rows_lost"] == 50
    assert not swapped.values["losses"]["uncounted"]


def test_rows_written_since_the_backup_are_a_figure_also_beside_deleted_ones(shop: Shop) -> None:
    """D15 D25: by the server's counters; where those began anew since, the least is told, and why."""
    _wait(lambda: written(shop) == (1007, 0, 0))
    shop.back_up()
    shop.run("DELETE FROM orders WHERE id > 10")
    shop.run("INSERT INTO orders (what) SELECT 'new' FROM generate_series(1, 20)")
    shop.run("UPDATE orders SET what = 'changed' WHERE id <= 3")
    shop.run("CREATE TABLE younger AS SELECT 1 AS n")
    _wait(lambda: written(shop) == (1028, 3, 990))
    found = shop.reach("prepared", check=True).values["losses"]
    assert (found["inserted"], found["updated"], found["deleted"]) == (21, 3, 990)
    assert (found["rows_lost"], found["uncounted"]) == (21, [])
    assert {one["table"] for one in found["tables"]} == {"public.orders", "public.younger"}

    shop.run("SELECT pg_stat_reset()")
    shop.run("ANALYZE")
    _wait(lambda: shop.reach("prepared", check=True).values["losses"]["uncounted"] == ["public.orders"])
    found = shop.reach("prepared", check=True).values["losses"]
    assert (found["inserted"], found["updated"], found["deleted"]) == (None, None, None)
    assert "at least 1 row, and an unknown number in public.orders" in found["lost"]
    assert "began anew at" in found["lost"]


def test_counters_that_a_crash_emptied_are_never_taken_for_nothing_written(
    server_folder: Path, make_shop: Callable[..., Shop]
) -> None:
    """A killed server forgets its statistics, and says so only in those of its background writer."""
    crashing = PostgresServer(server_folder / "crashing-postgresql", settings={"fsync": "off"}).start()
    shop = make_shop("crashed", crashing)
    _wait(lambda: written(shop) == (1007, 0, 0))
    shop.back_up()
    crashing.kill()
    crashing.start()
    shop.run("INSERT INTO orders (what) SELECT 'new' FROM generate_series(1, 2000)")
    _wait(lambda: written(shop) == (2000, 0, 0))
    assert "began anew at" in shop.reach("prepared", check=True).values["losses"]["lost"]
    shop.reach("prepared")
    shop.reach("swapped")
    shop.reach("done")
    assert shop.reach("undone", check=True).values["losses"]["lost"] == (
        "about 0 rows inserted and 0 updated since the exchange"
    )
    crashing.kill()
    crashing.start()
    assert "began anew at" in shop.reach("undone", check=True).values["losses"]["lost"]


def test_a_way_back_that_fails_leaves_the_restored_one_live_open_and_unfinished(shop: Shop) -> None:
    shop.back_up()
    shop.reach("prepared")
    shop.reach("swapped")
    with psycopg.connect(**_keywords(shop, admin=True)) as other:
        other.execute(
            sql.SQL("ALTER ROLE {} IN DATABASE {} SET work_mem = '5MB'").format(
                identifier(shop.application.user), identifier(shop.name)
            )
        )
        with pytest.raises(RunbookError, match="could not be renamed"):
            shop.reach("undone", losses_agreed=True)
        other.rollback()
    assert shop.is_reachable()
    assert position(shop).state == "opened"


def test_the_room_of_a_copy_that_is_dropped_first_counts_as_free(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = shop.back_up()
    monkeypatch.setattr(preflight, "free_bytes", lambda *_unused: None)
    needed = preflight.needed_bytes(manifest, None)
    with pytest.raises(RunbookError, match="of disk are needed"):
        shop.reach("prepared", check=True, free_bytes=needed - 1_000_000)
    with connect(shop.admin, "tests") as connection:
        left = f"{shop.name}__restoring_20200101T000000Z-abcd"
        connection.execute(sql.SQL("CREATE DATABASE {}").format(identifier(left)))
    assert shop.reach("prepared", check=True, free_bytes=needed - 1_000_000).plan
    with pytest.raises(RunbookError, match="of disk are needed"):
        shop.reach("prepared", check=True, free_bytes=0)


def test_a_wrong_password_is_said_in_one_sentence_without_the_password(shop: Shop) -> None:
    shop.back_up()
    with pytest.raises(RunbookError, match="No connection to PostgreSQL as postgres@") as raised:
        shop.reach("prepared", login=replace(shop.admin, password="not-the-password"))
    assert "not-the-password" not in str(raised.value)


def _keywords(shop: Shop, *, admin: bool = False) -> dict[str, object]:
    login = shop.admin if admin else shop.application
    return {
        "host": login.host, "port": login.port, "user": login.user, "password": login.password,
        "dbname": login.database,
    }


def _wait(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come in time"
        time.sleep(0.02)


def test_a_disk_that_fills_while_restoring_is_said_and_the_copy_gives_its_room_back(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A85 ⚠: no disk check. Another machine's disk cannot be seen in advance, so the restore itself has to cope."""
    monkeypatch.setattr(preflight, "free_bytes", lambda *_unused: None)
    with mounted(shop.server.folder / "small", "24m", "0777") as folder:
        machine.make_folder(folder / "space", machine.unprivileged_user())
        _admin(shop, f"CREATE TABLESPACE small LOCATION '{folder / 'space'}'")
        try:
            _admin(shop, f"ALTER DATABASE {shop.name} SET TABLESPACE small")
            rows = "SELECT sha512(n::text::bytea)::text FROM generate_series(1, 35000) AS n"
            shop.run(f"INSERT INTO orders (what) {rows}")
            shop.back_up()
            with pytest.raises(RunbookError, match="No space left on device") as raised:
                shop.reach("prepared")
            assert raised.value.hint.startswith("Make room on the server's disk")
            assert shop.orders() == 36000
            assert shop.databases() == [shop.name]
        finally:
            _admin(shop, f"ALTER DATABASE {shop.name} SET TABLESPACE pg_default")
            _admin(shop, "DROP TABLESPACE IF EXISTS small")


def test_kept_databases_are_listed_with_their_cost_and_dropped_only_after_their_hour(
    shop: Shop, call_module: Callable[..., dict[str, Any]]
) -> None:
    """A85 ⚠: `_old` exists on the second run."""
    shop.back_up()
    kept = []
    for _unused in range(2):
        shop.reach("prepared")
        kept.append(shop.reach("swapped").values["retired"])
        shop.reach("done")
    found = next(one for one in position(shop).kept if one.name == kept[0])
    swap = Swap(shop.admin, shop.name, "clock", Progress())
    swap.mark(found, replace(found.marker, until="2020-01-01T00:00:00Z"))
    swap.connection.close()
    arguments = {"login": as_arguments(shop.admin), "database": shop.name}

    listed = call_module("pg_retired_databases", arguments)
    assert [(one["name"], one["expired"]) for one in listed["databases"]] == [(kept[0], True), (kept[1], False)]
    assert all(one["size_bytes"] > 1_000_000 for one in listed["databases"])
    assert not listed["changed"]
    arguments["drop_expired"] = True
    checked = call_module("pg_retired_databases", arguments, check_mode=True)
    assert kept[0] in shop.databases()
    dropped = call_module("pg_retired_databases", arguments)
    assert dropped["plan"] == checked["plan"]
    assert shop.databases() == [shop.name, kept[1]]
    assert not call_module("pg_retired_databases", arguments)["changed"]


def _admin(shop: Shop, statement: str) -> None:
    with connect(shop.admin, "tests") as connection:
        connection.execute(statement.encode())
