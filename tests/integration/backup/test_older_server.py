# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A server of an older major version, with its own client programs: Debian's, where the machine has one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import Login, connect

from lab.postgresql import PostgresServer


@pytest.fixture(scope="module")
def older(older_server: PostgresServer) -> Login:
    """A database on an older server."""
    with connect(older_server.login, "tests") as connection:
        connection.execute("CREATE DATABASE shop")
    with connect(older_server.login.at("shop"), "tests") as connection:
        connection.execute(
            "CREATE TABLE orders (id serial, at timestamptz DEFAULT now());"
            "INSERT INTO orders SELECT FROM generate_series(1, 500);"
            "COMMENT ON DATABASE shop IS 'the owner''s words'"
        )
    return older_server.login.at("shop")


def test_a_database_of_an_older_server_is_backed_up_proven_and_brought_back(
    older: Login, older_server: PostgresServer, call_module: Callable[..., dict[str, Any]],
    backup_arguments: Callable[..., dict[str, Any]],
) -> None:
    """A80 B43 ⚠: pg_dump knows compression by a word, such as gzip:1, only since 16."""
    arguments = backup_arguments(older, postgresql_bin_directory=str(older_server.bin_directory))
    made = call_module("pg_backup", {**arguments, "fingerprints": True})
    assert made.get("backup", {}).get("rows") == 500, made
    drill = {name: value for name, value in arguments.items() if name != "database"}
    proof = call_module("pg_backup_verify", {**drill, "own_server": True, "free_bytes": 10**12})
    assert proof["verdict"]["verdict"] == "good", proof
    with connect(older, "tests") as connection:
        connection.execute("DELETE FROM orders WHERE id > 100")
    for state in ("prepared", "swapped", "done"):
        result = call_module("pg_restore_swap", {**arguments, "run": "r", "state": state})
        assert result.get("changed"), result
    with connect(older, "tests") as connection:
        row = connection.execute(
            "SELECT count(*) AS rows, (SELECT shobj_description(oid, 'pg_database') FROM pg_database"
            " WHERE datname = current_database()) AS comment FROM orders"
        ).fetchone()
    assert row == {"rows": 500, "comment": "the owner's words"}
