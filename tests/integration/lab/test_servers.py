# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The lab's servers behave like production's where it matters: passwords, loopback, their own identity."""

from __future__ import annotations

import stat
from pathlib import Path

import psycopg
import pytest
import redis
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import Login, connect
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError

from lab import machine
from lab.postgresql import PostgresServer
from lab.redis import RedisServer


def _identifier(login: Login) -> int:
    with connect(login) as connection:
        return connection.execute("SELECT system_identifier AS id FROM pg_control_system()").fetchone()["id"]


def test_a_database_of_a_test_is_empty_and_its_own(database: Login) -> None:
    with connect(database) as connection:
        row = connection.execute(
            "SELECT current_database() AS name, (SELECT count(*) FROM pg_stat_user_tables) AS tables"
        ).fetchone()
    assert row == {"name": database.database, "tables": 0}


def test_nobody_comes_in_without_the_password(postgresql_server: PostgresServer, redis_server: RedisServer) -> None:
    login = postgresql_server.login
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(host=login.host, port=login.port, user="postgres", password="wrong", dbname="postgres")
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(port=redis_server.port, password="wrong").ping()
    assert redis.Redis(port=redis_server.port, password=redis_server.password).ping()


def test_passwords_lie_in_files_that_only_their_owner_reads(
    postgresql_server: PostgresServer, redis_server: RedisServer
) -> None:
    for file in (postgresql_server.folder / "password", redis_server.folder / "password",
                 redis_server.folder / "redis.conf"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


def test_a_server_has_its_own_identity_and_survives_stop_and_kill(
    server_folder: Path, postgresql_server: PostgresServer
) -> None:
    with PostgresServer(server_folder / "own", settings={"fsync": "off", "work_mem": "5MB"}) as server:
        first = _identifier(server.login)
        assert first != _identifier(postgresql_server.login)
        port = server.port
        server.stop()
        assert server.pid is None
        again = PostgresServer(server_folder / "own").start()
        assert (again.port, _identifier(again.login)) == (port, first)
        with connect(again.login) as connection:
            assert connection.execute("SHOW work_mem").fetchone()["work_mem"] == "5MB"
        pid = again.pid
        children = machine.children_of(pid)
        again.kill()
        assert children
        assert not [one for one in (pid, *children) if machine.is_running(one, "postgres")]
        assert _identifier(again.start().login) == first
        again.stop()


def test_a_port_that_is_taken_is_said(
    server_folder: Path, postgresql_server: PostgresServer, redis_server: RedisServer
) -> None:
    with pytest.raises(RunbookError, match="could not create any TCP"):
        PostgresServer(server_folder / "taken", port=postgresql_server.port).start()
    with pytest.raises(RunbookError, match="Address already in use"):
        RedisServer(server_folder / "taken-too", port=redis_server.port).start()
