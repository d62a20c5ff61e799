"""pg_backup against a real server."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.backup.folder import TargetFolder
from ansible_collections.sre.runbooks.plugins.module_utils.backup.manifest import MANIFEST, Manifest, read_manifest
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import Login, connect

from lab import machine

Call = Callable[..., dict[str, Any]]


def manifest_of(result: dict[str, Any]) -> Manifest:
    assert "backup" in result, result.get("msg", result)
    return read_manifest(Path(result["backup"]["place"]))


def rows(manifest: Manifest) -> dict[str, int | None]:
    return {f"{table.schema}.{table.name}": table.rows for table in manifest.tables}


def test_everything_in_a_database_with_an_odd_name_is_in_its_backup(
    filled: Login, call_module: Call, backup_arguments: Call
):
    """A80 B39 D14 ⚠ X14 ⚠: what is there is counted, not assumed."""
    result = call_module("pg_backup", backup_arguments(filled, newest_row_query="SELECT max(created_at) FROM orders"))
    manifest = manifest_of(result)
    assert rows(manifest) == {
        "Odd Schema.with \"quotes\" ñ": 3, "public.cache": 1, "public.child": 2, "public.empty": 0,
        "public.measured": None, "public.measured_2025": 30, "public.measured_2026": 30, "public.orders": 2000,
        "public.outside": None, "public.parent": 1, "public.totals": None,
    }
    kinds = {table.name: table.kind for table in manifest.tables}
    assert kinds["cache"] == "unlogged table"
    assert kinds["measured"] == "partitioned table"
    assert kinds["outside"] == "foreign table"
    assert kinds["totals"] == "materialized view"
    assert manifest.large_objects == 2
    assert {sequence.name: sequence.last_value for sequence in manifest.sequences} == {
        "downwards": -2, "orders_id_seq": 2000
    }
    assert manifest.database.name == filled.database
    assert manifest.database.comment == "the owner's words"
    assert [setting.value for setting in manifest.database.settings] == ["8MB"]
    assert {"file_fdw", "pg_trgm", "plpgsql"} == {extension.name for extension in manifest.database.extensions}
    assert manifest.newest_row_at
    assert manifest.snapshot.lsn
    assert manifest.compression == "gzip:1"
    folder = Path(result["backup"]["place"])
    assert {file.path for file in manifest.files} | {MANIFEST} == {
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()
    }


def test_passwords_of_roles_stay_out_unless_asked_for(
    database: Login, call_module: Call, backup_arguments: Call
):
    """X18 ⚠."""
    without = manifest_of(call_module("pg_backup", backup_arguments(database)))
    with_them = manifest_of(call_module("pg_backup", backup_arguments(database, role_credentials=True)))
    place = TargetFolder(Path(backup_arguments(database)["store_path"]), "bakery_ia", "orders-db")
    assert "SCRAM" not in (place.backup(without.backup_id) / "globals.sql").read_text()
    assert "SCRAM" in (place.backup(with_them.backup_id) / "globals.sql").read_text()


def test_check_mode_says_what_it_would_do_and_changes_nothing(
    filled: Login, call_module: Call, backup_arguments: Call, store: Path
):
    result = call_module("pg_backup", backup_arguments(filled), check_mode=True)
    assert [step["step"] for step in result["plan"]] == ["back up database"]
    assert "11 tables" in result["plan"][0]["after"]
    assert result["estimated_bytes"] < result["free_bytes"]
    assert "back up database" in result["diff"]["after"]
    assert list(store.iterdir()) == []


def test_fingerprints_tell_changed_content_from_the_same(
    database: Login, call_module: Call, backup_arguments: Call
):
    with connect(database) as connection:
        connection.execute("CREATE TABLE t (t text, v double precision)")
        connection.execute("INSERT INTO t SELECT i::text, random() FROM generate_series(1, 100) AS i")
        first = manifest_of(call_module("pg_backup", backup_arguments(database, fingerprints=True)))
        connection.execute("CREATE TABLE u AS SELECT * FROM t ORDER BY v DESC")
        connection.execute("UPDATE t SET t = 'changed' WHERE t = '50'")
        second = manifest_of(call_module("pg_backup", backup_arguments(database, fingerprints=True)))
    before, (changed, reordered) = first.tables[0].fingerprint, [table.fingerprint for table in second.tables]
    assert before == reordered
    assert before != changed


def test_a_row_security_policy_hides_no_row(
    database: Login, call_module: Call, backup_arguments: Call
):
    """A role that a policy binds is refused; counting what it can see would prove half a table."""
    with connect(database) as connection:
        connection.execute("CREATE ROLE bound LOGIN PASSWORD 'bound' IN ROLE pg_read_all_data")
        try:
            connection.execute("CREATE TABLE secretive (a int); INSERT INTO secretive VALUES (1), (2)")
            connection.execute("CREATE POLICY one ON secretive USING (a = 1)")
            connection.execute("ALTER TABLE secretive ENABLE ROW LEVEL SECURITY")
            arguments = backup_arguments(database)
            arguments["login"] |= {"user": "bound", "password": "bound"}
            result = call_module("pg_backup", arguments)
        finally:
            connection.execute("DROP ROLE bound")
    assert result["failed"]
    assert "row-level security" in result["msg"]


def test_a_wrong_password_is_one_sentence_without_the_password(
    database: Login, call_module: Call, backup_arguments: Call, store: Path
):
    """X3 X18 ⚠."""
    arguments = backup_arguments(database)
    arguments["login"]["password"] = "wrong-word-7731"
    result = call_module("pg_backup", arguments)
    assert result["failed"]
    assert "password authentication failed" in result["msg"]
    assert "wrong-word-7731" not in json.dumps(result)
    assert list(store.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"store_path": "/nonexistent/store"}, "The store's folder /nonexistent/store does not exist"),
        ({"database": "no such ñ"}, "no such ñ"),
        ({"postgresql_bin_directory": "/usr/bin/nowhere"}, "No pg_dump of version"),
        ({"compression_level": 10}, "compression_level is 10"),
        ({"target": "../escape"}, "cannot be the name of a folder"),
    ],
)
def test_what_cannot_work_is_refused_with_the_values(
    database: Login, call_module: Call, backup_arguments: Call, store: Path, change: dict[str, Any], words: str
):
    result = call_module("pg_backup", {**backup_arguments(database), **change})
    assert result["failed"]
    assert words in result["msg"]
    assert not list(store.rglob(MANIFEST))


@pytest.mark.parametrize(
    ("query", "words"),
    [("SELECT nothing", "The query for the newest row failed"), ("SELECT 5", "which is no time stamp")],
)
def test_a_broken_query_for_the_newest_row_costs_no_backup(
    database: Login, call_module: Call, backup_arguments: Call, query: str, words: str
):
    """B34: a typing error in the inventory must not be found by the nightly backup that then is not there."""
    arguments = {**backup_arguments(database), "newest_row_query": query}
    assert words in call_module("pg_backup", arguments, check_mode=True)["notes"][0], "said before it begins"
    result = call_module("pg_backup", arguments)
    assert result["backup"]["newest_row_at"] is None
    assert words in result["notes"][0]


def slow_table(login: Login) -> None:
    with connect(login) as connection:
        connection.execute(
            "CREATE TABLE big AS SELECT i, md5(i::text) || md5((i * 7)::text) AS v"
            " FROM generate_series(1, 1500000) AS i"
        )


def wait_for_dump(store: Path) -> None:
    assert machine.wait_for(lambda: any(path.stat().st_size for path in store.rglob("*.dat.gz")), 30)


def test_a_killed_backup_is_none_and_the_next_one_cleans_up(
    database: Login, start_module: Callable[..., subprocess.Popen[str]], call_module: Call, backup_arguments: Call,
    store: Path,
):
    """B39 D14 ⚠ X14 ⚠: kill -9 of the module; its pg_dump dies with it."""
    slow_table(database)
    child = start_module("pg_backup", backup_arguments(database))
    wait_for_dump(store)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    place = TargetFolder(store, "bakery_ia", "orders-db")
    assert place.backups() == []
    assert len(place.leftovers()) == 1
    planned = call_module("pg_backup", backup_arguments(database), check_mode=True)
    assert planned["plan"][0]["step"] == "remove what a killed backup left"
    manifest_of(call_module("pg_backup", backup_arguments(database)))
    assert place.leftovers() == []
    assert len(place.backups()) == 1


def test_a_killed_pg_dump_fails_the_backup_and_leaves_nothing(
    database: Login, start_module: Callable[..., subprocess.Popen[str]], backup_arguments: Call, store: Path
):
    """X4 ⚠: the exit code of pg_dump counts."""
    slow_table(database)
    child = start_module("pg_backup", backup_arguments(database))
    wait_for_dump(store)
    (dump,) = [pid for pid in machine.children_of(child.pid) if b"pg_dump" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    machine.send(dump, signal.SIGKILL)
    result = json.loads(child.communicate(timeout=60)[0])
    assert result["failed"]
    assert "pg_dump" in result["msg"]
    assert [path for path in store.rglob("*") if path.is_file()] == [store / "bakery_ia/orders-db/.lock"]


def test_two_backups_of_one_target_at_once_are_refused(
    database: Login, start_module: Callable[..., subprocess.Popen[str]], call_module: Call, backup_arguments: Call,
    store: Path,
):
    slow_table(database)
    first = start_module("pg_backup", backup_arguments(database))
    wait_for_dump(store)
    second = call_module("pg_backup", backup_arguments(database))
    assert second["failed"]
    assert f"Another backup of orders-db is being made: process {first.pid}" in second["msg"]
    manifest_of(json.loads(first.communicate(timeout=60)[0]))


def test_tables_that_are_made_and_emptied_meanwhile_do_not_break_a_backup(
    database: Login, call_module: Call, backup_arguments: Call
):
    """Dump and counts agree, and a TRUNCATE that waits for the locks does not end in a deadlock nobody sees."""
    with connect(database) as connection:
        connection.execute("CREATE TABLE steady AS SELECT i FROM generate_series(1, 100000) AS i")
        connection.execute("CREATE TABLE emptied AS SELECT i FROM generate_series(1, 1000) AS i")
    stop = threading.Event()

    def churn() -> None:
        with connect(database) as connection:
            number = 0
            while not stop.wait(0.05):
                number += 1
                connection.execute(f"CREATE TABLE made_{number} (i int)")
                if number % 20 == 0:
                    connection.execute("TRUNCATE emptied")
                    connection.execute("INSERT INTO emptied SELECT i FROM generate_series(1, 1000) AS i")

    churning = threading.Thread(target=churn)
    churning.start()
    try:
        manifest = manifest_of(call_module("pg_backup", backup_arguments(database)))
    finally:
        stop.set()
        churning.join()
    assert rows(manifest)["public.steady"] == 100000
    assert rows(manifest)["public.emptied"] in (0, 1000)


def test_a_session_that_waits_for_a_table_makes_the_backup_go_on_with_one_job(
    database: Login, start_module: Callable[..., subprocess.Popen[str]], backup_arguments: Call
):
    """The waiting TRUNCATE gets its turn between two attempts; the backup is made in the end."""
    slow_table(database)
    with connect(database) as connection:
        connection.execute("CREATE TABLE emptied AS SELECT i FROM generate_series(1, 1000) AS i")
        child = start_module("pg_backup", backup_arguments(database))
        place = Path(backup_arguments(database)["store_path"])
        wait_for_dump(place)
        connection.execute("TRUNCATE emptied")
    manifest = manifest_of(json.loads(child.communicate(timeout=60)[0]))
    assert rows(manifest)["public.emptied"] in (0, 1000)


def test_a_deadlock_while_the_tables_are_locked_is_another_attempt(
    database: Login, start_module: Callable[..., subprocess.Popen[str]], backup_arguments: Call, tmp_path: Path
):
    """A migration that takes the same tables in another order waits for the backup, and the backup for it."""
    progress = tmp_path / "progress"
    with connect(database) as admin, connect(database, autocommit=False) as migration:
        admin.execute("CREATE TABLE a (i int); CREATE TABLE b (i int); INSERT INTO b VALUES (1)")
        # The server ends who has waited this long: the backup, since the migration never looks.
        name = admin.info.dbname
        admin.execute(f"ALTER DATABASE {name} SET deadlock_timeout = '2s'")
        migration.execute("SET LOCAL deadlock_timeout = '60s'")
        migration.execute("LOCK TABLE b IN ACCESS EXCLUSIVE MODE")
        child = start_module("pg_backup", backup_arguments(database, progress_file=str(progress)))
        waiting = "SELECT FROM pg_locks WHERE NOT granted AND relation = 'b'::regclass"
        assert machine.wait_for(lambda: admin.execute(waiting).rowcount == 1, 30)
        migration.execute("LOCK TABLE a IN ACCESS EXCLUSIVE MODE")
        migration.rollback()
    manifest = manifest_of(json.loads(child.communicate(timeout=60)[0]))
    assert rows(manifest) == {"public.a": 0, "public.b": 1}
    assert "another session and this one waited for each other's tables; beginning again" in progress.read_text()
