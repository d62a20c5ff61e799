"""pg_backup_verify against a real server: what is good passes, and what is not is called by its name."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.backup import scratch
from ansible_collections.sre.runbooks.plugins.module_utils.backup.manifest import MANIFEST, read_manifest, render
from ansible_collections.sre.runbooks.plugins.module_utils.backup.verdict import read_verdicts
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import Login, connect

from lab import machine
from lab.postgresql import PostgresServer

Call = Callable[..., dict[str, Any]]
RUNGS = ["bytes", "archive", "restore", "content", "application"]
COPYING = "SELECT count(*) AS n FROM pg_stat_progress_copy WHERE datname LIKE 'sre%scratch%'"
SCRATCH = "SELECT datname FROM pg_database WHERE datname LIKE 'sre%scratch%'"


@pytest.fixture(scope="module")
def scratch_server(server_folder: Path) -> Iterator[PostgresServer]:
    """A server that drills may load: other roles, other databases."""
    with PostgresServer(server_folder / "scratch-postgresql", settings={"fsync": "off"}) as server:
        yield server


@pytest.fixture
def verify_arguments(backup_arguments: Call) -> Call:
    """The arguments of pg_backup_verify, for a drill on a server."""

    def arguments(server: Login, **more: Any) -> dict[str, Any]:
        kept = {
            name: value for name, value in backup_arguments(server.at("postgres")).items()
            if name in ("login", "store_path", "system", "target", "postgresql_bin_directory")
        }
        return {**kept, **more}

    return arguments


@pytest.fixture
def folder(whole_store: Path, store: Path) -> Path:
    """A whole backup of a database that has one of each thing in it."""
    shutil.copytree(whole_store, store, dirs_exist_ok=True)
    (folder,) = store.glob("bakery_ia/orders-db/2*")
    return folder


def passed(result: dict[str, Any]) -> list[str]:
    return [rung["name"] for rung in result["verdict"]["rungs"] if rung["passed"]]


def last_detail(result: dict[str, Any]) -> str:
    return result["verdict"]["rungs"][-1]["detail"]


def left(server: PostgresServer) -> list[str]:
    with connect(server.login) as connection:
        return [row["datname"] for row in connection.execute(SCRATCH)]


@pytest.mark.parametrize("rung", RUNGS)
def test_a_whole_backup_is_good_up_to_each_rung(
    folder: Path, scratch_server: PostgresServer, call_module: Call, verify_arguments: Call, rung: str
):
    """A81 B40 ⚠ X14 ⚠: restored, counted, asked; never only listed."""
    check = "SELECT count(*) = 2000, 'orders: ' || count(*) FROM orders"
    result = call_module(
        "pg_backup_verify", verify_arguments(scratch_server.login, rung=rung, application_check=check)
    )
    assert result["verdict"]["verdict"] == "good", last_detail(result)
    assert result["verdict"]["rung"] == rung
    assert passed(result) == RUNGS[: RUNGS.index(rung) + 1]
    assert read_verdicts(folder)[-1].as_dict() == result["verdict"]
    assert left(scratch_server) == []
    assert (result["recovery_seconds"] is None) == (rung in ("bytes", "archive"))
    assert result["verdict"]["fetch_s"] == 0, "it is read where it lies"


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0x10
    path.write_bytes(bytes(data))


def largest(folder: Path) -> Path:
    return max((folder / "data").glob("*.dat.gz"), key=lambda path: path.stat().st_size)


DAMAGE = {
    "a byte of a data file": (lambda folder: flip(largest(folder), 200), "corrupt", "SHA-256"),
    "a byte of the table of contents": (lambda folder: flip(folder / "data/toc.dat", 50), "corrupt", "toc.dat"),
    "a byte of the manifest": (lambda folder: flip(folder / MANIFEST, 99), "corrupt", "is not what was written"),
    "a byte of the globals": (lambda folder: flip(folder / "globals.sql", 20), "corrupt", "globals.sql"),
    "a data file": (lambda folder: largest(folder).unlink(), "incomplete", "files are missing"),
    "the table of contents": (lambda folder: (folder / "data/toc.dat").unlink(), "incomplete", "data/toc.dat"),
    "the manifest": (lambda folder: (folder / MANIFEST).unlink(), "incomplete", "is no backup"),
    "the end of a data file": (
        lambda folder: largest(folder).write_bytes(largest(folder).read_bytes()[:-9]), "corrupt", "bytes instead of"
    ),
    "nothing, but a stranger's file is there": (
        lambda folder: (folder / "data/9999.dat.gz").write_bytes(b"x"), "corrupt", "not in the manifest"
    ),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_found_and_named(
    folder: Path, scratch_server: PostgresServer, call_module: Call, verify_arguments: Call, what: str
):
    damage, verdict, words = DAMAGE[what]
    damage(folder)
    result = call_module("pg_backup_verify", verify_arguments(scratch_server.login))
    assert (result["verdict"]["verdict"], result["verdict"]["rung"]) == (verdict, None)
    assert words in last_detail(result)
    assert left(scratch_server) == []


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a manifest as somebody would who also mends its hash."""
    data = read_manifest(folder).as_dict()
    change(data)
    (folder / MANIFEST).write_bytes(render(data))


def test_a_broken_block_is_found_although_its_hash_fits(
    folder: Path, scratch_server: PostgresServer, call_module: Call, verify_arguments: Call
):
    """A81 ⚠: pg_restore --list reads no data; every block is inflated to its end."""
    path = largest(folder)
    path.write_bytes(path.read_bytes()[:-9])

    def adopt(data: dict[str, Any]) -> None:
        for file in data["files"]:
            if file["path"] == f"data/{path.name}":
                file |= {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}

    rewrite(folder, adopt)
    result = call_module("pg_backup_verify", verify_arguments(scratch_server.login))
    assert (result["verdict"]["verdict"], result["verdict"]["rung"]) == ("corrupt", "bytes")
    assert "ends too early" in last_detail(result)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda table: table.update(rows=1999), "has 2000 rows instead of 1999"),
        (lambda table: table.update(fingerprint="1"), "has other contents"),
    ],
)
def test_other_content_than_counted_is_corrupt(
    folder: Path, scratch_server: PostgresServer, call_module: Call, verify_arguments: Call, change: Call, words: str
):
    rewrite(folder, lambda data: [change(table) for table in data["tables"] if table["name"] == "orders"])
    result = call_module("pg_backup_verify", verify_arguments(scratch_server.login))
    assert (result["verdict"]["verdict"], result["verdict"]["rung"]) == ("corrupt", "restore")
    assert words in last_detail(result)
    assert left(scratch_server) == []


def test_a_table_that_the_archive_lacks_is_incomplete(
    folder: Path, scratch_server: PostgresServer, call_module: Call, verify_arguments: Call
):
    rewrite(folder, lambda data: data["tables"].append(
        {"schema": "public", "name": "lost", "kind": "table", "rows": 4, "fingerprint": None}
    ))
    result = call_module("pg_backup_verify", verify_arguments(scratch_server.login))
    assert (result["verdict"]["verdict"], result["verdict"]["rung"]) == ("incomplete", "bytes")
    assert "public.lost" in last_detail(result)


def test_a_manifest_of_the_future_is_unverifiable(
    folder: Path, scratch_server: PostgresServer, call_module: Call, verify_arguments: Call
):
    rewrite(folder, lambda data: data.update(format=2))
    result = call_module("pg_backup_verify", verify_arguments(scratch_server.login))
    assert result["verdict"]["verdict"] == "unverifiable"


@pytest.mark.parametrize(
    ("check", "verdict", "words"),
    [
        ("SELECT false, 'no payments since Monday'", "corrupt", "no payments since Monday"),
        ("SELECT nothing_like_it FROM orders", "unverifiable", "nothing_like_it"),
        (None, "unverifiable", "database_application_check"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_the_owner_has_the_last_word(
    scratch_server: PostgresServer, call_module: Call, verify_arguments: Call, check: str | None,
    verdict: str, words: str,
):
    result = call_module(
        "pg_backup_verify", verify_arguments(scratch_server.login, rung="application", application_check=check)
    )
    assert (result["verdict"]["verdict"], result["verdict"]["rung"]) == (verdict, "content")
    assert words in last_detail(result)
    assert left(scratch_server) == []


@pytest.mark.usefixtures("folder")
def test_a_server_that_does_not_answer_is_no_verdict_on_the_backup(
    scratch_server: PostgresServer, call_module: Call, verify_arguments: Call
):
    arguments = verify_arguments(scratch_server.login)
    arguments["login"]["port"] = machine.free_port()
    result = call_module("pg_backup_verify", arguments)
    assert (result["verdict"]["verdict"], result["verdict"]["rung"]) == ("unverifiable", "archive")
    assert "No connection to PostgreSQL" in last_detail(result)
    assert scratch_server.login.password not in json.dumps(result)


def test_an_extension_that_the_scratch_server_lacks_is_no_verdict_on_the_backup(
    database: Login, scratch_server: PostgresServer, server_folder: Path, call_module: Call, backup_arguments: Call,
    verify_arguments: Call,
):
    """The drill's server lacks its files; where it has them the same backup is good."""
    place = machine.make_folder(server_folder / "extensions", None, 0o755)
    files = machine.make_folder(place / "extension", None, 0o755)
    for name, text in (("bakery.control", "default_version = '1.0'\n"), ("bakery--1.0.sql", "CREATE TYPE loaf;\n")):
        (files / name).write_text(text)
        (files / name).chmod(0o644)
    setting = f"extension_control_path = '$system:{place}'"
    with connect(database) as connection:
        connection.execute(f"SET {setting}".encode())
        connection.execute("CREATE EXTENSION bakery")
    assert "backup" in call_module("pg_backup", backup_arguments(database))
    result = call_module("pg_backup_verify", verify_arguments(scratch_server.login))
    assert (result["verdict"]["verdict"], result["verdict"]["rung"]) == ("unverifiable", "archive")
    assert 'extension "bakery" is not available' in last_detail(result)
    assert left(scratch_server) == []
    with connect(scratch_server.login) as connection:
        connection.execute(f"ALTER SYSTEM SET {setting}".encode())
        connection.execute("SELECT pg_reload_conf()")
        try:
            result = call_module("pg_backup_verify", verify_arguments(scratch_server.login))
        finally:
            connection.execute("ALTER SYSTEM RESET extension_control_path")
            connection.execute("SELECT pg_reload_conf()")
    assert result["verdict"]["verdict"] == "good", last_detail(result)


def test_roles_that_a_scratch_server_lacks_are_made_without_login(
    database: Login, scratch_server: PostgresServer, call_module: Call, backup_arguments: Call, verify_arguments: Call
):
    with connect(database) as connection:
        connection.execute('CREATE ROLE "the owner ñ" LOGIN')
        try:
            connection.execute('CREATE TABLE t (i int); ALTER TABLE t OWNER TO "the owner ñ"')
            assert "backup" in call_module("pg_backup", backup_arguments(database))
            result = call_module("pg_backup_verify", verify_arguments(scratch_server.login))
        finally:
            connection.execute('DROP OWNED BY "the owner ñ"; DROP ROLE "the owner ñ"')
    assert result["verdict"]["verdict"] == "good", last_detail(result)
    assert any("the owner ñ" in note for note in result["notes"])
    with connect(scratch_server.login) as connection:
        role = connection.execute("SELECT rolcanlogin FROM pg_roles WHERE rolname = 'the owner ñ'").fetchone()
    assert role == {"rolcanlogin": False}


@pytest.mark.parametrize(
    ("free_bytes", "verdict", "words"),
    [
        (None, "unverifiable", "is not known"), (1000, "unverifiable", "has 1.0 kB free"),
        (10**12, "good", "as in the manifest"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_the_databases_own_server_is_loaded_only_with_known_room(
    filled: Login, call_module: Call, verify_arguments: Call, free_bytes: int | None, verdict: str,
    words: str,
):
    result = call_module(
        "pg_backup_verify", verify_arguments(filled, own_server=True, free_bytes=free_bytes)
    )
    assert result["verdict"]["verdict"] == verdict
    assert words in last_detail(result)


@pytest.mark.usefixtures("folder")
def test_a_scratch_server_that_is_the_databases_own_gets_no_drill_without_room(
    filled: Login, call_module: Call, verify_arguments: Call
):
    """What the inventory calls a scratch server can be a second name of production."""
    result = call_module("pg_backup_verify", verify_arguments(filled, own_server=False))
    assert result["verdict"]["verdict"] == "unverifiable"
    assert "on the database's own server" in last_detail(result)


def test_the_next_drill_drops_what_a_killed_one_left(
    database: Login, scratch_server: PostgresServer, start_module: Callable[..., subprocess.Popen[str]],
    call_module: Call, backup_arguments: Call, verify_arguments: Call,
):
    with connect(database) as connection:
        connection.execute("CREATE TABLE t AS SELECT i, md5(i::text) AS v FROM generate_series(1, 1000000) AS i")
        connection.execute("CREATE INDEX ON t (v)")
    assert "backup" in call_module("pg_backup", backup_arguments(database))
    with connect(scratch_server.login) as connection:
        connection.execute("CREATE DATABASE sre_scratch_of_somebody_else")
        child = start_module("pg_backup_verify", verify_arguments(scratch_server.login))
        assert machine.wait_for(lambda: connection.execute(COPYING).fetchone()["n"] > 0, 30)
        child.send_signal(signal.SIGKILL)
        child.communicate()
        assert len(left(scratch_server)) == 2
        result = call_module("pg_backup_verify", verify_arguments(scratch_server.login))
        assert result["verdict"]["verdict"] == "good", last_detail(result)
        assert any("which a killed drill left" in note for note in result["notes"])
        assert left(scratch_server) == ["sre_scratch_of_somebody_else"]
        connection.execute("DROP DATABASE sre_scratch_of_somebody_else")


def test_what_a_drill_left_is_dropped_and_what_cannot_be_is_named(
    scratch_server: PostgresServer, call_module: Call, verify_arguments: Call
):
    """B40 ⚠: it holds what is in production, and is no less there when a playbook says that it was undone."""
    arguments = verify_arguments(scratch_server.login, state="cleared", backup_id="20261121T021500Z-3fa9")
    name = scratch.scratch_name(arguments["backup_id"])
    with connect(scratch_server.login) as drill:
        drill.execute(f"CREATE DATABASE {name}".encode())
        drill.execute(scratch.LOCK, [name])
        held = call_module("pg_backup_verify", arguments)
        assert f"The scratch database {name} with the data of {arguments['backup_id']} stays on" in held["msg"]
        assert f"DROP DATABASE {name}" in held["msg"]
        assert left(scratch_server) == [name]
    assert call_module("pg_backup_verify", arguments, check_mode=True)["changed"]
    assert left(scratch_server) == [name]
    dropped = call_module("pg_backup_verify", arguments)
    assert f"{name}, which a drill left, is dropped." in dropped["message"]
    assert left(scratch_server) == []
    assert not call_module("pg_backup_verify", arguments)["changed"]
    silent = replace(scratch_server.login, port=machine.free_port())
    unknown = call_module("pg_backup_verify", arguments | {"login": verify_arguments(silent)["login"]})
    assert "cannot be known: No connection to PostgreSQL" in unknown["msg"]


TEMPLATE = "UPDATE pg_database SET datistemplate = true WHERE datname = current_database() RETURNING datistemplate"


def test_a_good_drill_says_which_database_it_could_not_drop(
    folder: Path, scratch_server: PostgresServer, call_module: Call, verify_arguments: Call
):
    """B40 ⚠: what is proven is proven, and a copy of production that stays is no part of it."""
    check = f"WITH made AS ({TEMPLATE}) SELECT datistemplate FROM made"
    result = call_module(
        "pg_backup_verify", verify_arguments(scratch_server.login, rung="application", application_check=check)
    )
    assert result["verdict"]["verdict"] == "good", last_detail(result)
    (name,) = left(scratch_server)
    assert f"The scratch database {name} on 127.0.0.1:{scratch_server.port} could not be dropped" in result["left"]
    arguments = verify_arguments(scratch_server.login, state="cleared", backup_id=folder.name)
    assert "cannot drop a template database" in call_module("pg_backup_verify", arguments)["msg"]
    with connect(scratch_server.login) as connection:
        connection.execute(f"ALTER DATABASE {name} IS_TEMPLATE false".encode())
    assert call_module("pg_backup_verify", arguments)["changed"]
    assert left(scratch_server) == []


def test_check_mode_chooses_and_touches_nothing(
    folder: Path, scratch_server: PostgresServer, call_module: Call, verify_arguments: Call
):
    result = call_module("pg_backup_verify", verify_arguments(scratch_server.login), check_mode=True)
    assert result["plan"][0]["target"] == f"orders-db {folder.name}"
    assert result["backup_id"] == folder.name
    assert result["plan"][0]["before"] == "no rung"
    assert not read_verdicts(folder)


def test_a_program_that_is_missing_says_nothing_about_the_backup(
    folder: Path, scratch_server: PostgresServer, call_module: Call, verify_arguments: Call, tmp_path: Path
):
    """A81 ⚠: a verdict corrupt would undo every proof before it."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "pg_dump").symlink_to(scratch_server.bin_directory / "pg_dump")
    result = call_module("pg_backup_verify", verify_arguments(
        scratch_server.login, rung="archive", postgresql_bin_directory=str(programs)
    ))
    assert result["verdict"]["verdict"] == "unverifiable", last_detail(result)
    assert "pg_restore does not exist" in last_detail(result)
    assert read_verdicts(folder)[-1].verdict == "unverifiable"
