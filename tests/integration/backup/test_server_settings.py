# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What people set on servers, databases, roles and in their own shells does not end a backup or lead it elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.backup.counts import TableCounter, open_connections
from ansible_collections.sre.runbooks.plugins.module_utils.backup.snapshot import hold_snapshot
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import (
    Login,
    connect,
    identifier,
    tool_options,
)
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from psycopg import sql

from lab.postgresql import PostgresServer

LIMITS = {
    "statement_timeout": "1h", "lock_timeout": "1h", "idle_in_transaction_session_timeout": "1h",
    "idle_session_timeout": "1h", "transaction_timeout": "1h", "default_transaction_read_only": "on",
}
NONE = {name: "off" if name == "default_transaction_read_only" else "0" for name in LIMITS}
SHOWN = "SELECT name, setting FROM pg_settings WHERE name = ANY(%s)"


@pytest.fixture
def limited(database: Login) -> Login:
    """A database whose sessions are limited in every way that the server offers."""
    with connect(database.at("postgres"), "tests") as connection:
        for name, value in LIMITS.items():
            connection.execute(
                sql.SQL("ALTER DATABASE {} SET {} TO {}").format(identifier(database.database), identifier(name), value)
            )
    return database


def test_no_limit_that_a_database_sets_ends_a_session_of_ours(limited: Login) -> None:
    """A dump holds its snapshot for hours: a transaction_timeout (since PostgreSQL 17) would end it."""
    with connect(limited, "tests") as connection:
        shown = connection.execute(SHOWN, [list(LIMITS)]).fetchall()
    assert {row["name"]: row["setting"] for row in shown} == NONE


def test_no_limit_that_a_database_sets_ends_a_client_tool(limited: Login) -> None:
    with connect(limited, "tests") as connection:
        options = f"{limited.environment()['PGOPTIONS']} {tool_options(connection)}"
    with psycopg.connect(
        host=limited.host, port=limited.port, user=limited.user, password=limited.password, dbname=limited.database,
        options=options,
    ) as tool:
        assert dict(tool.execute(SHOWN, [list(LIMITS)]).fetchall()) == NONE


def test_a_database_without_an_encoding_is_backed_up_and_proven(
    postgresql_server: PostgresServer, database: Login, call_module: Callable[..., dict[str, Any]],
    backup_arguments: Callable[..., dict[str, Any]],
) -> None:
    """SQL_ASCII, the encoding of a cluster that was made with the locale C."""
    name = f"{database.database}_ascii"
    with connect(postgresql_server.login, "tests") as connection:
        connection.execute(sql.SQL(
            "CREATE DATABASE {} TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C' LOCALE_PROVIDER libc"
        ).format(identifier(name)))
        try:
            login = database.at(name)
            with connect(login, "tests") as inside:
                inside.execute("CREATE TABLE names (name text); INSERT INTO names VALUES ('x')")
            arguments = backup_arguments(login)
            assert "backup" in call_module("pg_backup", arguments)
            arguments.pop("database")
            proof = call_module("pg_backup_verify", {**arguments, "own_server": True, "free_bytes": 10**12})
            assert proof["verdict"]["verdict"] == "good", proof
        finally:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(identifier(name)))


def test_a_callers_own_service_or_address_does_not_lead_a_backup_elsewhere(
    database: Login, call_module: Callable[..., dict[str, Any]], backup_arguments: Callable[..., dict[str, Any]],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """libpq takes a service, and an address beside a host, from the environment of whoever starts a playbook."""
    (tmp_path / "services").write_text("[other]\nhost=127.0.0.1\nport=1\n")
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    monkeypatch.setenv("PGSERVICE", "other")
    monkeypatch.setenv("PGHOSTADDR", "127.0.0.2")
    result = call_module("pg_backup", backup_arguments(database))
    assert "backup" in result, result


def test_a_count_lets_go_of_each_table_when_it_is_done_with_it(filled: Login) -> None:
    """A server has room for so many locks and no more; a count of 20,000 tables would take them all."""
    connections = open_connections(filled, None, 1)
    with connect(filled, "tests") as connection, hold_snapshot(filled) as held:
        connections += open_connections(filled, held.snapshot.id, 1)
        counter = TableCounter(connections, held.relations, fingerprints=False)
        try:
            counter.start()
            assert len(counter.result()) == len(held.relations)
            locks = connection.execute(
                "SELECT count(*) AS n FROM pg_locks WHERE locktype = 'relation' AND pid = ANY(%s)",
                [[one.info.backend_pid for one in connections]],
            ).fetchone()
        finally:
            counter.close()
    assert locks["n"] == 0


def test_more_tables_than_a_server_can_lock_are_refused_with_the_setting_to_raise(server_folder: Path) -> None:
    settings = {"max_locks_per_transaction": "10", "max_connections": "10", "shared_buffers": "1MB", "fsync": "off"}
    with PostgresServer(server_folder / "few-locks", settings=settings) as server:
        with connect(server.login, "tests") as connection:
            for number in range(15):
                connection.execute(
                    f"DO $$ BEGIN FOR i IN 1..200 LOOP EXECUTE format('CREATE TABLE t{number}_%s ()', i);"
                    " END LOOP; END $$"
                )
        with pytest.raises(RunbookError) as caught, hold_snapshot(server.login):
            pass
    assert "3000 tables" in caught.value.message
    assert "max_locks_per_transaction is 10" in caught.value.message
