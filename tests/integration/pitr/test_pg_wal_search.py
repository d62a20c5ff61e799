# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""When a table was lost, from the archived WAL of real servers; what is right is what the server itself says."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import psycopg
import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import Login, connect

from lab import machine
from lab.pgbackrest import PgBackRestServer
from lab.postgresql import ENVIRONMENT, PostgresServer, bin_directory
from tests.integration.backup.conftest import as_arguments
from tests.integration.conftest import OLDER
from tests.timelines import abandoned_timeline

CallModule = Callable[..., dict[str, Any]]
# Small segments, so that transactions and records cross their borders.
SEGMENT = ("--wal-segsize", "1")


class OlderWithSmallSegments(PostgresServer):
    LOCALE: ClassVar[tuple[str, ...]] = ("--locale", "C.UTF-8", *SEGMENT)


class NewestWithSmallSegments(PostgresServer):
    LOCALE: ClassVar[tuple[str, ...]] = (*PostgresServer.LOCALE, *SEGMENT)


class Scene:
    """A server whose WAL is copied into a folder, and a database `shop` on it."""

    def __init__(self, server: PostgresServer, archive: Path, call_module: CallModule) -> None:
        self.server = server
        self.archive = archive
        self.login: Login = server.login.at("shop")
        self._call = call_module

    def run(self, *statements: str) -> None:
        """Each in a transaction of its own, in one session."""
        with connect(self.login, "tests") as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def one(self, query: str) -> Any:
        with connect(self.login, "tests") as connection:
            return next(iter(connection.execute(query.encode()).fetchone().values()))

    def transaction(self, *statements: str) -> tuple[int, datetime]:
        """Do it in one transaction, and have the server say which one it was and when it was committed."""
        with connect(self.login, "tests") as connection:
            with connection.transaction():
                for statement in statements:
                    connection.execute(statement.encode())
                xid = connection.execute("SELECT pg_current_xact_id()::xid::text AS xid").fetchone()["xid"]
            at = connection.execute("SELECT pg_xact_commit_timestamp(%s::xid) AS at", [xid]).fetchone()["at"]
            return int(xid), at

    def switch(self) -> str:
        """Have what was written so far archived; the name of the last segment."""
        # A segment without a record is not ended.
        name = self.one("SELECT pg_walfile_name(pg_current_wal_lsn()) FROM pg_logical_emit_message(false, 'test', 'x')")
        self.run("SELECT pg_switch_wal()")
        assert machine.wait_for((self.archive / name).exists, 20), name
        return str(name)

    def search(self, table: str | None = None, **more: Any) -> dict[str, Any]:
        arguments = {
            "wal_directory": str(self.archive), "login": as_arguments(self.login), "database": "shop", "table": table,
            "postgresql_bin_directory": str(self.server.bin_directory), **more,
        }
        return self._call("pg_wal_search", {name: value for name, value in arguments.items() if value is not None})

    def without_login(self, table: str | None = None, **more: Any) -> dict[str, Any]:
        return self.search(table, login=None, database=None, **more)


def brief(result: dict[str, Any]) -> list[tuple[Any, ...]]:
    assert "events" in result, result
    return [(one["kind"], one["table"], one["rows"]) for one in result["events"]]


def who(result: dict[str, Any]) -> list[tuple[int, datetime]]:
    assert "events" in result, result
    return [(one["xid"], datetime.fromisoformat(one["at"])) for one in result["events"]]


def started(server: PostgresServer, archive: Path, call_module: CallModule) -> Scene:
    machine.make_folder(server.folder, None, 0o711)
    machine.make_folder(archive, machine.unprivileged_user())
    server.start()
    with connect(server.login, "tests") as connection:
        connection.execute("CREATE DATABASE shop")
        connection.execute("CREATE DATABASE elsewhere")
    return Scene(server, archive, call_module)


def settings(archive: Path) -> dict[str, str]:
    return {
        "fsync": "off", "shared_buffers": "16MB", "max_connections": "30", "archive_mode": "on",
        # It is there whole or not at all.
        "archive_command": f"cp %p {archive}/new.%f && mv {archive}/new.%f {archive}/%f",
        "track_commit_timestamp": "on", "max_prepared_transactions": "5", "max_wal_size": "64MB", "min_wal_size": "2MB",
        "autovacuum": "off",
    }


@pytest.fixture(scope="module", params=["older", "newest"])
def scene(
    request: pytest.FixtureRequest, server_folder: Path, call_module: CallModule
) -> Iterator[Scene]:
    """One per version of pg_waldump: their lines differ."""
    kind = OlderWithSmallSegments if request.param == "older" else NewestWithSmallSegments
    folder = server_folder / f"wal-{request.param}"
    # A level that writes more into some records.
    level = {"wal_level": "logical"} if request.param == "newest" else {}
    server = kind(folder, settings={**settings(folder / "archive"), **level})
    server.bin_directory = OLDER[0].parent if request.param == "older" else bin_directory()
    yield started(server, folder / "archive", call_module)
    server.stop(immediate=True)


@pytest.fixture(scope="module")
def old(server_folder: Path, call_module: CallModule) -> Iterator[Scene]:
    """Debian's server, for what does not depend on the version."""
    folder = server_folder / "wal-one"
    server = OlderWithSmallSegments(folder, settings=settings(folder / "archive"))
    server.bin_directory = OLDER[0].parent
    yield started(server, folder / "archive", call_module)
    server.stop(immediate=True)


def test_a_dropped_table_is_found_with_the_transaction_and_the_time_that_the_server_has(scene: Scene) -> None:
    """A86 ⚠: the time of the accident is looked up, not guessed."""
    scene.run("CREATE TABLE orders (id serial PRIMARY KEY, what text)",
              "INSERT INTO orders (what) SELECT repeat('x', 50) FROM generate_series(1, 30000)")
    truth = scene.transaction("DROP TABLE orders")
    scene.switch()
    found = scene.search("orders")
    assert (found["answer"], brief(found), who(found)) == ("found", [("drop", "orders", None)], [truth]), found
    assert not found["changed"]
    assert f"public.orders was dropped at {found['events'][0]['at']} by transaction {truth[0]}" in found["message"]
    assert found["lines_not_understood"] == 0


def test_a_truncated_table_is_found_also_the_second_time(scene: Scene) -> None:
    """After the first TRUNCATE the table's file has another number than the table."""
    scene.run("CREATE TABLE stock (id int PRIMARY KEY, what text)", "INSERT INTO stock VALUES (1, 'a')")
    first = scene.transaction("TRUNCATE stock")
    scene.run("INSERT INTO stock VALUES (1, 'a')")
    second = scene.transaction("TRUNCATE stock", "INSERT INTO stock VALUES (2, 'b')")
    scene.switch()
    found = scene.search("stock")
    assert brief(found) == [("truncate", "stock", None)] * 2, found
    assert who(found) == [first, second]


def test_deleted_rows_are_counted_by_transaction_with_subtransactions_and_without_those_rolled_back(
    scene: Scene,
) -> None:
    scene.run("CREATE TABLE lines (id int)", "INSERT INTO lines SELECT generate_series(1, 5000)", "CHECKPOINT")
    few = scene.transaction("DELETE FROM lines WHERE id <= 10")
    most = scene.transaction(
        "DELETE FROM lines WHERE id <= 2000", "SAVEPOINT a", "DELETE FROM lines WHERE id <= 3000", "RELEASE a",
        "SAVEPOINT b", "DELETE FROM lines", "ROLLBACK TO b",
    )
    scene.switch()
    found = scene.search("lines")
    assert (brief(found), who(found)) == ([("delete", "lines", 10), ("delete", "lines", 2990)], [few, most])
    assert all(one["rows_complete"] for one in found["events"])
    assert brief(scene.search("lines", minimum_deleted_rows=11)) == [("delete", "lines", 2990)]


def test_a_small_table_that_was_emptied_is_found_by_its_name_and_counted_without_it(scene: Scene) -> None:
    """A86 ⚠: `DELETE FROM settings` of 900 rows is a loss as well, and so are many small ones."""
    scene.run("CREATE TABLE settings (id int)", "INSERT INTO settings SELECT generate_series(1, 1000)", "CHECKPOINT")
    since = scene.one("SELECT clock_timestamp()").isoformat()
    most = scene.transaction("DELETE FROM settings WHERE id <= 900")
    for id_ in range(901, 904):
        last = scene.transaction(f"DELETE FROM settings WHERE id = {id_}")
    scene.switch()
    found = scene.search("settings")
    assert brief(found) == [("delete", "settings", 900), *[("delete", "settings", 1)] * 3], found
    assert who(found)[0] == most
    assert who(found)[-1] == last
    assert "A larger loss came before it" in found["message"]
    assert found["events"][0]["sentence"] in found["message"]
    every = scene.search(since=since)
    assert (every["answer"], brief(every)) == ("not found", []), every
    assert "no transaction that deleted 1,000 rows or more" in every["message"]
    assert "4 smaller deletions of 903 rows in all are not reported" in every["message"]


def test_a_row_that_moves_to_another_partition_was_not_deleted(scene: Scene) -> None:
    scene.run("CREATE TABLE shifts (id int) PARTITION BY RANGE (id)",
              "CREATE TABLE shifts_1 PARTITION OF shifts FOR VALUES FROM (0) TO (10)",
              "CREATE TABLE shifts_2 PARTITION OF shifts FOR VALUES FROM (10) TO (20)",
              "INSERT INTO shifts SELECT generate_series(0, 9)", "UPDATE shifts SET id = id + 10")
    scene.switch()
    assert (found := scene.search("shifts"))["answer"] == "not found", found
    truth = scene.transaction("DELETE FROM shifts WHERE id = 15")
    scene.switch()
    assert who(scene.search("shifts")) == [truth]


def test_what_only_rewrites_a_table_is_no_loss(scene: Scene) -> None:
    """A check that fails for a detector that takes every new file for a truncation."""
    scene.run(
        "CREATE TABLE parcels (id int, at text)", "CREATE INDEX parcels_id ON parcels (id)",
        "INSERT INTO parcels SELECT g, 'x' FROM generate_series(1, 100) g",
        "CREATE MATERIALIZED VIEW parcels_view AS SELECT * FROM parcels",
        "VACUUM FULL parcels", "CLUSTER parcels USING parcels_id", "REINDEX TABLE parcels",
        "REFRESH MATERIALIZED VIEW parcels_view", "DROP MATERIALIZED VIEW parcels_view",
        "ALTER TABLE parcels ALTER COLUMN id TYPE bigint", "ALTER TABLE parcels SET UNLOGGED",
        "ALTER TABLE parcels SET LOGGED", "BEGIN; TRUNCATE parcels; ROLLBACK", "BEGIN; DROP TABLE parcels; ROLLBACK",
        "BEGIN; DELETE FROM parcels; ROLLBACK", "CREATE TEMPORARY TABLE parcels (i int); DROP TABLE pg_temp.parcels",
    )
    scene.switch()
    found = scene.search("parcels", minimum_deleted_rows=1)
    assert (found["answer"], brief(found)) == ("not found", []), found
    truth = scene.transaction("TRUNCATE parcels")
    scene.switch()
    assert who(scene.search("parcels")) == [truth]


@pytest.mark.parametrize(("name", "statements"), [
    ("first", ["TRUNCATE first", "ALTER TABLE first ALTER COLUMN id TYPE bigint"]),
    ("last", ["ALTER TABLE last ALTER COLUMN id TYPE bigint", "TRUNCATE last"]),
])
def test_a_truncation_is_found_in_a_transaction_that_also_rewrites_the_table(
    scene: Scene, name: str, statements: list[str]
) -> None:
    scene.run(f"CREATE TABLE {name} (id int, what text)", f"INSERT INTO {name} VALUES (1, 'a')")
    truth = scene.transaction(*statements)
    scene.switch()
    found = scene.search(name)
    assert (brief(found), who(found)) == ([("truncate", name, None)], [truth])


def test_a_table_is_found_by_the_name_it_had_before_it_was_put_aside_and_dropped(scene: Scene) -> None:
    scene.run("CREATE TABLE customers (id int)")
    truth = scene.transaction("ALTER TABLE customers RENAME TO customers_old", "CREATE TABLE customers (id int)",
                              "DROP TABLE customers_old")
    scene.switch()
    found = scene.search("customers")
    assert (brief(found), who(found)) == ([("drop", "customers_old", None)], [truth])
    assert "customers_old (before: customers) was dropped" in found["message"]


def test_a_database_that_was_dropped_and_made_anew_is_said(scene: Scene) -> None:
    """What is asked for may have been in the old one."""
    with connect(scene.server.login, "tests") as connection:
        connection.execute("CREATE DATABASE renewed")
        connection.execute("DROP DATABASE renewed")
        connection.execute("CREATE DATABASE renewed")
    with connect(scene.server.login.at("renewed"), "tests") as connection:
        connection.execute("CREATE TABLE orders (id int)")
    since = datetime.now(UTC).isoformat()
    scene.switch()
    found = scene.search("orders", database="renewed")
    assert (found["answer"], len(found["databases"])) == ("unknown", 1), found
    assert "The database renewed was dropped" in found["message"]
    scene.run("CREATE TABLE IF NOT EXISTS behind (id int)")
    scene.switch()
    assert scene.search("orders", database="renewed", since=since)["answer"] == "not found"


def test_without_the_live_database_the_wal_itself_names_what_is_gone(scene: Scene) -> None:
    """Neither a base backup nor the live catalog has a table that lived for an hour, and VACUUM took its row away."""
    scene.run("CHECKPOINT", "CREATE TABLE briefly (id int)", "ALTER TABLE briefly RENAME TO short_lived",
              "INSERT INTO short_lived VALUES (1)")
    truth = scene.transaction("DROP TABLE short_lived")
    scene.run("VACUUM pg_class")
    scene.switch()
    found = scene.without_login("short_lived")
    assert (brief(found), who(found)) == ([("drop", "short_lived", None)], [truth])


def test_compressed_pages_of_the_catalog_are_read(scene: Scene) -> None:
    scene.run("CREATE TABLE squeezed (id int)", "CHECKPOINT")
    truth = scene.transaction("SET LOCAL wal_compression = on", "DROP TABLE squeezed")
    scene.switch()
    assert who(scene.without_login("squeezed")) == [truth]


def test_a_catalog_that_was_itself_rewritten_is_followed(scene: Scene) -> None:
    scene.run("CREATE SCHEMA moved", "CREATE TABLE moved.before (id int)", "VACUUM FULL pg_class",
              "VACUUM FULL pg_namespace", "CREATE TABLE moved.after (id int)")
    before = scene.transaction("DROP TABLE moved.before")
    after = scene.transaction("DROP TABLE moved.after", "DROP SCHEMA moved")
    scene.switch()
    for result in (scene.search(schema="moved"), scene.without_login(schema="moved")):
        named = [one for one in result["events"] if one["schema"] == "moved"]
        assert [(one["table"], one["xid"]) for one in named] == [("before", before[0]), ("after", after[0])], result


def test_a_prepared_transaction_counts_from_its_commit(scene: Scene) -> None:
    scene.run("CREATE TABLE ledger (id int)", "INSERT INTO ledger SELECT generate_series(1, 2000)")
    scene.run("BEGIN; DELETE FROM ledger; PREPARE TRANSACTION 'one'")
    scene.switch()
    assert (found := scene.search("ledger"))["answer"] == "not found", found
    scene.run("COMMIT PREPARED 'one'")
    scene.switch()
    assert brief(scene.search("ledger")) == [("delete", "ledger", 2000)]


def test_a_partition_is_found_by_the_name_of_its_table(old: Scene) -> None:
    old.run("CREATE TABLE measured (id int) PARTITION BY RANGE (id)",
            "CREATE TABLE measured_1 PARTITION OF measured FOR VALUES FROM (0) TO (10)",
            "CREATE TABLE measured_2 PARTITION OF measured FOR VALUES FROM (10) TO (20)")
    truth = old.transaction("TRUNCATE measured")
    old.switch()
    found = old.search("measured")
    assert sorted(brief(found)) == [("truncate", "measured_1", None), ("truncate", "measured_2", None)]
    assert who(found) == [truth, truth]


def test_a_table_of_the_same_name_in_another_schema_or_database_is_another_one(old: Scene) -> None:
    old.run("CREATE TABLE twin (id int)", "CREATE SCHEMA other", "CREATE TABLE other.twin (id int)")
    with connect(old.server.login.at("elsewhere"), "tests") as connection:
        connection.execute("CREATE TABLE twin (id int); ")
        connection.execute("DROP TABLE twin")
    truth = old.transaction("DROP TABLE other.twin")
    old.switch()
    assert who(old.search("twin", schema="other")) == [truth]
    assert old.search("twin", schema="public")["answer"] == "not found"
    assert len(who(old.without_login("twin"))) == 2


def test_since_and_until_bound_the_search_and_names_are_known_all_the_same(old: Scene) -> None:
    old.run("CREATE TABLE early (id int)", "CREATE TABLE middle (id int)", "CREATE TABLE late (id int)")
    for table in ("early", "middle", "late"):
        old.switch()
        old.run("CREATE TABLE ballast AS SELECT repeat('x', 500) FROM generate_series(1, 6000)", "DROP TABLE ballast",
                "CHECKPOINT")
        if table == "middle":
            since = datetime.now(UTC)
        old.run(f"DROP TABLE {table}")
        if table == "middle":
            until = datetime.now(UTC)
    old.switch()
    found = old.without_login(since=since.isoformat(), until=until.isoformat())
    assert [one["table"] for one in found["events"]] == ["middle"], found
    assert not found["unnamed"]
    whole = old.without_login()
    assert [one for one in whole["events"] if one["table"] == "middle"] == found["events"]
    # It did not read from the beginning, or the test would prove nothing.
    assert found["searched"]["from_lsn"] != whole["searched"]["from_lsn"]
    far = old.search("middle", since="2001-01-01T00:00:00Z", until="2001-01-02T00:00:00Z")
    assert far["answer"] == "unknown"
    assert "after the time that was asked for" in far["message"]


@pytest.mark.parametrize("hurt", ["missing", "damaged", "foreign", "cut"])
def test_an_answer_over_a_hole_is_no_proof_that_nothing_happened(
    old: Scene, tmp_path: Path, hurt: str
) -> None:
    """A86 ⚠: a missing segment is said, and what it may have held is unknown."""
    old.run(f"CREATE TABLE gone_{hurt} (id int)", f"CREATE TABLE kept_{hurt} (id int)", "CHECKPOINT")
    old.switch()
    old.run(f"DROP TABLE gone_{hurt}")
    segment = old.switch()
    old.run("CHECKPOINT", "CREATE TABLE IF NOT EXISTS behind (id int)", f"DROP TABLE kept_{hurt}")
    old.switch()
    archive = tmp_path / "archive"
    shutil.copytree(old.archive, archive)
    assert brief(old.search(f"gone_{hurt}", wal_directory=str(archive))) == [("drop", f"gone_{hurt}", None)]
    bad = archive / segment
    if hurt == "missing":
        bad.unlink()
    elif hurt == "damaged":
        content = bytearray(bad.read_bytes())
        content[60:90] = bytes(30)
        bad.write_bytes(content)
    elif hurt == "foreign":
        content = bytearray(bad.read_bytes())
        content[24:32] = b"another!"  # the cluster's own number
        bad.write_bytes(content)
    else:
        bad.write_bytes(bad.read_bytes()[:4096])
    found = old.search(f"gone_{hurt}", wal_directory=str(archive))
    assert (found["answer"], brief(found)) == ("unknown", []), found
    assert segment in found["message"]
    assert "is unknown" in found["message"]
    assert len(found["holes"]) == 1
    behind = old.search(f"kept_{hurt}", wal_directory=str(archive))
    assert brief(behind) == [("drop", f"kept_{hurt}", None)]
    assert segment in behind["message"]


def test_a_count_that_may_have_begun_before_a_hole_is_said_to_be_at_least_that(old: Scene, tmp_path: Path) -> None:
    old.run("CREATE TABLE wide (id int)", "INSERT INTO wide SELECT generate_series(1, 3000)")
    with connect(old.login, "tests") as connection, connection.transaction():
        connection.execute("DELETE FROM wide WHERE id <= 1500")
        segment = old.switch()
        connection.execute("DELETE FROM wide")
    old.switch()
    archive = tmp_path / "archive"
    shutil.copytree(old.archive, archive)
    (archive / segment).unlink()
    event = old.search("wide", wal_directory=str(archive))["events"][0]
    assert event["rows"] < 3000
    assert not event["rows_complete"]
    assert event["sentence"].startswith("At least ")


def test_a_table_that_was_dropped_a_moment_ago_is_not_said_to_be_there(old: Scene) -> None:
    """A86 ⚠: the segment in which it was dropped is not archived yet."""
    old.run("CHECKPOINT", "CREATE TABLE momentary (id int)")
    old.switch()
    assert (found := old.search("momentary"))["answer"] == "not found", found
    truth = old.transaction("DROP TABLE momentary")
    found = old.search("momentary")
    assert found["answer"] == "unknown", found
    assert "The table momentary is not in the live database any more" in found["message"]
    assert "SELECT pg_switch_wal()" in found["message"]
    for name, arguments in (("since", {"since": datetime.now(UTC).isoformat()}),
                            ("until", {"until": datetime.now(UTC).isoformat()})):
        without = old.without_login("momentary", **arguments)
        assert (without["answer"], "what was done after it is unknown" in without["message"]) == ("unknown", True), name
    old.switch()
    assert who(old.search("momentary")) == [truth]


def test_a_table_that_never_was_is_unknown_and_not_a_clean_bill(old: Scene) -> None:
    found = old.search("no_such_table")
    assert found["answer"] == "unknown"
    assert "check the name" in found["message"]


def test_the_archive_of_another_server_is_refused(old: Scene, scene: Scene) -> None:
    found = old.search("x", wal_directory=str(scene.archive), postgresql_bin_directory=None)
    assert found["failed"]
    assert "The archive is of the cluster" in found["msg"]


@pytest.mark.parametrize(("arguments", "words"), [
    ({"since": "2026-11-21 14:00"}, "has no zone"),
    ({"wal_directory": "/nowhere"}, "cannot be read"),
    ({"timeline": 7}, "lacks 00000007.history"),
])
def test_what_cannot_be_searched_is_refused_with_a_sentence(
    old: Scene, arguments: dict[str, Any], words: str
) -> None:
    old.switch()
    found = old.search("x", **arguments)
    assert found["failed"]
    assert words in found["msg"]


@pytest.mark.parametrize("kind", ["time", "lsn", "transaction"])
def test_recovery_to_each_target_brings_the_table_as_it_was_just_before(
    old: Scene, server_folder: Path, kind: str
) -> None:
    """A86 ⚠: target and what is included are explicit, and the state is the one before the accident."""
    folder = server_folder / f"wal-recovered-{kind}"
    machine.make_folder(folder, machine.unprivileged_user(), 0o711)
    (folder / "password").write_text((old.server.folder / "password").read_text())
    subprocess.run(
        [str(old.server.bin_directory / "pg_basebackup"), "-h", "127.0.0.1", "-p", str(old.server.port), "-U",
         "postgres", "-D", str(folder / "data"), "-c", "fast", "-X", "none", "--no-sync"],
        env={**ENVIRONMENT, "PGPASSWORD": old.login.password}, check=True, cwd="/", capture_output=True, timeout=60,
        **machine.popen_as(machine.unprivileged_user()),
    )
    old.run(f"CREATE TABLE wanted_{kind} (id int)", f"INSERT INTO wanted_{kind} SELECT generate_series(1, 77)")
    old.transaction(f"DROP TABLE wanted_{kind}")
    old.run("CREATE TABLE IF NOT EXISTS later (id int)")
    old.switch()
    target = old.search(f"wanted_{kind}")["events"][0]["targets"][kind]
    assert target["exclusive"]
    setting = {"time": "recovery_target_time", "lsn": "recovery_target_lsn", "transaction": "recovery_target_xid"}[kind]
    (folder / "data" / "recovery.signal").touch()
    recovered = OlderWithSmallSegments(folder, settings={
        "restore_command": f"cp {old.archive}/%f %p", setting: target["value"], "recovery_target_inclusive": "off",
        "recovery_target_action": "promote", "archive_mode": "off", "max_prepared_transactions": "5",
        "max_connections": "30", "fsync": "off", "track_commit_timestamp": "on",
    })
    recovered.bin_directory = old.server.bin_directory
    with recovered:
        def rows() -> int | None:
            try:
                with connect(recovered.login.at("shop"), "tests") as connection:
                    if connection.execute("SELECT pg_is_in_recovery() AS still").fetchone()["still"]:
                        return None
                    return connection.execute(f"SELECT count(*) AS rows FROM wanted_{kind}").fetchone()["rows"]
            except psycopg.Error:
                return None

        assert machine.wait_for(lambda: rows() == 77, 20), recovered.log_file.read_text()[-2000:]


def test_the_timeline_of_the_live_server_is_searched_with_those_that_led_to_it(
    server_folder: Path, call_module: CallModule
) -> None:
    """A86 ⚠: after a recovery the archive has two histories, and the segment in which they part twice."""
    folder = server_folder / "wal-timelines"
    first = OlderWithSmallSegments(folder, settings=settings(folder / "archive"))
    first.bin_directory = OLDER[0].parent
    scene = started(first, folder / "archive", call_module)
    scene.run(*(f"CREATE TABLE {name} (id int)" for name in ("common", "abandoned", "own")), "CHECKPOINT")
    common = scene.transaction("DROP TABLE common")
    scene.switch()
    with abandoned_timeline(first):
        abandoned = scene.transaction("DROP TABLE abandoned")
        scene.switch()
        found = scene.search()
        assert who(found) == [common, abandoned], found
        assert [one["timeline"] for one in found["events"]] == [1, 2]
        assert not found["holes"]
    try:
        own = scene.transaction("DROP TABLE own")
        scene.switch()
        assert who(scene.search()) == [common, own]
        assert scene.search()["searched"]["other_timelines"] == [2]
        other = scene.search(timeline=2)
        assert who(other) == [common, abandoned]
        assert [one["in_live_history"] for one in other["events"]] == [True, False], "no recovery leads to the second"
        assert [one["in_live_history"] for one in scene.search()["events"]] == [True, True]
        assert scene.without_login(timeline=2)["events"][-1]["in_live_history"] is None
        doubtful = scene.without_login("own")
        assert (doubtful["answer"], who(doubtful)) == ("unknown", [])
        assert "Timeline 2, the newest, was searched; the archive has more of 1." in doubtful["message"]
    finally:
        first.stop(immediate=True)


def test_an_archive_of_pgbackrest_is_searched_through_its_own_commands(
    server_folder: Path, call_module: CallModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A86 ⚠, with more segments than are fetched at once."""
    class Server(PgBackRestServer):
        LOCALE: ClassVar[tuple[str, ...]] = (*PgBackRestServer.LOCALE, *SEGMENT)

    folder = server_folder / "wal-pgbackrest"
    server = Server(folder, repository={"repo1-path": str(folder / "repository"), "archive-async": "y"})
    server.settings |= {"track_commit_timestamp": "on", "autovacuum": "off"}
    with server:
        server.pgbackrest("stanza-create")
        with connect(server.login, "tests") as connection:
            connection.execute("CREATE DATABASE shop")
        scene = Scene(server, server_folder, call_module)
        scene.run("CREATE TABLE orders (id int, what text)", "CREATE TABLE kept (id int)")
        truths = []
        for _round in range(2):
            scene.run("INSERT INTO orders SELECT g, repeat('x', 300) FROM generate_series(1, 10000) g")
            truths.append(scene.transaction("DELETE FROM orders"))
        truths.append(scene.transaction("DROP TABLE orders"))
        scene.run("SELECT pg_switch_wal()")
        name = scene.one("SELECT pg_walfile_name(pg_current_wal_lsn() - 1)")
        assert machine.wait_for(
            lambda: (scene.one("SELECT last_archived_wal FROM pg_stat_archiver") or "") >= name, 60
        )
        # The real one, which says as whom it runs.
        program = folder / "bin" / "pgbackrest"
        machine.make_folder(program.parent, None, 0o755)
        program.write_text(f'#!/bin/sh\nid -u >> {folder}/own/users\nexec {shutil.which("pgbackrest")} "$@"\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(program.parent), prepend=":")
        found = scene.search("orders", wal_directory=None, pgbackrest={"config": str(server.config), "stanza": "lab"})
        assert set((folder / "own" / "users").read_text().split()) == {str(server.config.stat().st_uid)}
        assert brief(found) == [("delete", "orders", 10000)] * 2 + [("drop", "orders", None)], found
        assert who(found) == truths
        assert not found["holes"]
        kept = scene.search("kept", wal_directory=None, pgbackrest={"config": str(server.config), "stanza": "lab"},
                            since=truths[-1][1].isoformat())
        assert kept["answer"] == "not found"
        first, last = (int(one, 16) for one in re.findall(r"/([0-9A-F]+)", str(found["searched"])))
        assert (last - first) >> 20 > 8
        # What another user leaves there, and what is fetched ahead, is in the server's way.
        assert not (folder / "spool" / "archive" / "lab" / "in").exists()
        assert {path.stat().st_uid for path in (folder / "spool").rglob("*")} == {(folder / "spool").stat().st_uid}
        assert {path.stat().st_uid for path in (folder / "lock").rglob("*")} <= {(folder / "lock").stat().st_uid}
