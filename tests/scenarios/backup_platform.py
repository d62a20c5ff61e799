# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A small platform for the backup playbooks: one server with databases, one for drills, two stores.

| fixture | scope | what |
|---|---|---|
| `backups` | function | `Backups`: `orders-db` (odd name), `local-db` (store on its server), `broken-db` (no login) |
| `small_disk` | function | a folder on a file system of 64 MB (root only) |
| `small_server` | function | a PostgreSQL server on a file system of 100 MB (root only) |
| `small_space` | function | a file system of 10 MB onto which the table of orders was moved (root only) |
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import connect, identifier
from psycopg import sql

from lab import machine
from lab.pgbackrest import PgBackRestServer
from lab.postgresql import PostgresServer
from tests.disks import mounted
from tests.leftovers import is_left, one_worker_at_a_time

REPOSITORY = Path(__file__).resolve().parent.parent.parent
ODD_NAME = "Ordres d'été \"2026\" a=b"
PREFIX = "backup-tests-"
WRONG = "a-wrong-word"
# The application's and the monitor's role, with their passwords.
ROLES = {"shop": "shop-word", "watcher": "watcher-word"}


class Backups:
    """The platform, and playbooks against it."""

    def __init__(self, server: PostgresServer, scratch: PostgresServer, folder: Path) -> None:
        self.server, self.scratch_server, self.folder = server, scratch, folder
        self.name, self.password = ODD_NAME, server.login.password
        self.store, self.local_store, self.runs = folder / "store", folder / "local-store", folder / "runs"
        for path in (self.store, self.local_store, folder / "home"):
            path.mkdir()
        for name, one in (("admin", server), ("scratch", scratch)):
            machine.write_private(folder / name, one.login.password)
        for role, password in ROLES.items():
            machine.write_private(folder / role, password)
        machine.write_private(folder / "wrong", WRONG)
        (folder / "hosts.yml").write_text(yaml.safe_dump(self._inventory(scratch)), encoding="utf-8")

    def _inventory(self, scratch: PostgresServer) -> dict[str, Any]:
        def login(user: str, secret: str) -> dict[str, str]:
            return {
                "user": user, "password": f"{{{{ lookup('ansible.builtin.file', secrets_directory ~ '/{secret}') }}}}",
            }

        def admin(secret: str) -> dict[str, str]:
            return login("postgres", secret)

        def check(name: str, **more: Any) -> dict[str, Any]:
            place = "{'host': database_host, 'port': database_port, 'database': database_name, 'sslmode': 'disable'}"
            return {
                "kind": "postgresql", "name": name, "login": f"{{{{ {place} | combine(database_{name}) }}}}", **more
            }

        databases = {
            "orders-db": {
                "database_name": ODD_NAME, "backup_store": "remote-store",
                "database_newest_row_query": "SELECT max(created_at) FROM orders",
                "database_application_check": "SELECT count(*) > 0, count(*) || ' orders' FROM orders",
                "health_checks": [check("application"), check("monitor", measures=["longest_transaction_seconds"])],
            },
            "local-db": {"database_name": "local", "backup_store": "local-store"},
            "broken-db": {
                "database_name": "local", "backup_store": "remote-store", "database_admin": admin("wrong"),
            },
        }
        return {
            "all": {
                "vars": {
                    "system": "backup_tests", "secrets_directory": str(self.folder), "run_directory": str(self.runs),
                    "run_lock_directory": str(self.folder / "locks"), "ansible_connection": "local",
                    "ansible_python_interpreter": "{{ ansible_playbook_python }}",
                },
                "children": {
                    "databases": {
                        "hosts": databases,
                        "vars": {
                            "database_host": "127.0.0.1", "database_port": self.server.port,
                            "database_sslmode": "disable", "database_admin": admin("admin"), "server": "db-server",
                            "database_application": login("shop", "shop"),
                            "database_monitor": login("watcher", "watcher"),
                            "scratch_server": "scratch", "postgresql_bin_directory": str(self.server.bin_directory),
                            "database_restore_export_directory": str(self.folder / "exports"),
                            "backup_policy": {
                                "retention_days": 30, "maximum_age_seconds": 90000,
                                "maximum_drilled_age_seconds": 2764800,
                            },
                            "recovery_time_objective_seconds": 14400, "recovery_point_objective_seconds": 86400,
                        },
                    },
                    "stores": {
                        "hosts": {
                            "remote-store": {"server": "store-server", "store_path": str(self.store)},
                            "local-store": {"server": "db-server", "store_path": str(self.local_store)},
                        }
                    },
                    "servers": {
                        "hosts": {
                            "db-server": {}, "store-server": {},
                            "scratch": {
                                "postgresql_host": "127.0.0.1", "postgresql_port": scratch.port,
                                "postgresql_admin": admin("scratch"),
                            },
                        }
                    },
                },
            }
        }

    def sql(self, statements: str, database: str = ODD_NAME) -> list[dict[str, Any]]:
        """Run statements, in the orders' database; returns the rows of a single one."""
        with connect(self.server.login.at(database), "tests") as connection:
            cursor = connection.execute(statements.encode())
            return cursor.fetchall() if cursor.description else []

    def orders(self, database: str = ODD_NAME) -> int:
        """How many orders there are."""
        return self.sql("SELECT count(*) AS n FROM orders", database)[0]["n"]

    def left(self) -> list[str]:
        """What a run may not leave: databases of drills and swaps, half a backup, a lock that somebody holds."""
        found = [str(path) for path in (*self.store.rglob(".partial-*"), *self.folder.glob("locks/*.json"))]
        for server in (self.server, self.scratch_server):
            with connect(server.login, "tests") as connection:
                names = {row["datname"] for row in connection.execute("SELECT datname FROM pg_database")}
            found += sorted(names - {"postgres", "template0", "template1", ODD_NAME, "local"})
        return found

    def argv(self, playbook: str, *arguments: str) -> list[str]:
        """The command of a playbook."""
        return [
            str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(self.folder / "hosts.yml"),
            f"playbooks/{playbook}.yml", *arguments,
        ]

    def environment(self) -> dict[str, str]:
        """The environment of a playbook: a home of its own, and no terminal."""
        own = {
            name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "PG", "XDG_"))
        }
        return {**own, "HOME": str(self.folder / "home"), "NO_COLOR": "1"}

    def play(self, playbook: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a playbook to its end."""
        return subprocess.run(
            self.argv(playbook, *arguments), cwd=REPOSITORY, env=self.environment(), stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=180, check=False,
        )

    def begin(self, playbook: str, *arguments: str) -> subprocess.Popen[str]:
        """Start a playbook in a session, and so in a process group, of its own."""
        return subprocess.Popen(
            self.argv(playbook, *arguments), cwd=REPOSITORY, env=self.environment(), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )

    def play_at_terminal(self, playbook: str, *arguments: str) -> tuple[int, str]:
        """Run a playbook at a terminal to its end; the exit code and what it showed."""
        terminal, inside = pty.openpty()
        child = subprocess.Popen(
            self.argv(playbook, *arguments), cwd=REPOSITORY, env=self.environment(), stdin=inside, stdout=inside,
            stderr=inside, start_new_session=True,
        )
        os.close(inside)
        shown = b""
        # The last process that has the terminal open ends the reading with an error.
        with contextlib.suppress(OSError):
            while read := os.read(terminal, 65536):
                shown += read
        os.close(terminal)
        return child.wait(), shown.decode("utf-8", "replace")

    def folders(self, target: str) -> list[Path]:
        """The backups of a target, oldest first."""
        found = [*self.store.glob(f"backup_tests/{target}/2*"), *self.local_store.glob(f"backup_tests/{target}/2*")]
        return sorted(path for path in found if path.is_dir())

    def written(self) -> list[Path]:
        """Every file that a run or a backup wrote."""
        places = (self.runs, self.store, self.local_store, self.folder / "home")
        return [path for place in places for path in place.rglob("*") if path.is_file()]

    def records(self) -> list[dict[str, Any]]:
        """The records of all runs, oldest first."""
        return [
            json.loads(line)
            for path in sorted(self.runs.glob("*/run.jsonl")) for line in path.read_text().splitlines()
        ]

    def scratch(self, server: PostgresServer) -> str:
        """The variables that make another server the scratch server."""
        secret = self.folder / "other-scratch"
        machine.write_private(secret, server.login.password)
        password = f"{{{{ lookup('ansible.builtin.file', '{secret}') }}}}"
        return json.dumps(
            {"postgresql_port": server.port, "postgresql_admin": {"user": "postgres", "password": password}}
        )


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "small-disk", "64m") as folder:
        yield folder


@pytest.fixture
def small_server(server_place: Path) -> Iterator[PostgresServer]:
    settings = {"fsync": "off", "wal_level": "minimal", "max_wal_senders": "0", "min_wal_size": "32MB"}
    with (
        mounted(server_place / "small", "100m") as folder,
        PostgresServer(folder / "server", settings=settings) as server,
    ):
        yield server


@pytest.fixture
def small_space(backups: Backups, server_place: Path) -> Iterator[Path]:
    # A table's own tablespace is where no preflight looks.
    with mounted(server_place / "small", "10m") as folder:
        space = machine.make_folder(folder / "space", machine.unprivileged_user())
        backups.sql(f"CREATE TABLESPACE small LOCATION '{space}'", "postgres")
        backups.sql("ALTER TABLE orders SET TABLESPACE small")
        yield folder
        for row in backups.sql("SELECT datname FROM pg_database WHERE oid IN (SELECT pg_tablespace_databases(oid)"
                               " FROM pg_tablespace WHERE spcname = 'small')", "postgres"):
            with connect(backups.server.login, "tests") as connection:
                connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(identifier(row["datname"])))
        backups.sql("DROP TABLESPACE small", "postgres")


@pytest.fixture(scope="session")
def server_place() -> Iterator[Path]:
    """A folder that servers can reach; what a killed test run left is ended first."""
    root = machine.state_root()
    with one_worker_at_a_time():
        for left in root.glob(f"{PREFIX}*"):
            if is_left(left.name):
                _end(left)
    folder = root / f"{PREFIX}{os.getpid()}"
    folder.mkdir(mode=0o711)
    yield folder
    _end(folder)


def _end(folder: Path) -> None:
    for configuration in folder.rglob("pgbackrest.conf"):
        PgBackRestServer(configuration.parent).end_all()
    for data in folder.rglob("data/PG_VERSION"):
        PostgresServer(data.parent.parent).kill()
    if (folder / "small").is_mount():
        subprocess.run([shutil.which("umount") or "umount", "--lazy", str(folder / "small")], check=True)
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def backup_servers(server_place: Path) -> Iterator[tuple[PostgresServer, PostgresServer]]:
    """The databases' server, and the one for drills."""
    settings = {"fsync": "off", "max_connections": "40", "shared_buffers": "32MB"}
    with PostgresServer(server_place / "databases", settings=settings) as server, \
            PostgresServer(server_place / "scratch", settings=settings) as scratch:
        with connect(server.login, "tests") as connection:
            for role, password in ROLES.items():
                connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{password}'".encode())
            connection.execute(b"GRANT pg_read_all_data TO shop; GRANT pg_monitor TO watcher")
        yield server, scratch


@pytest.fixture
def backups(backup_servers: tuple[PostgresServer, PostgresServer], tmp_path: Path) -> Iterator[Backups]:
    server, scratch = backup_servers
    with connect(server.login, "tests") as connection:
        for name in (ODD_NAME, "local"):
            connection.execute(sql.SQL("CREATE DATABASE {}").format(identifier(name)))
        folder = tmp_path / "platform"
        folder.mkdir()
        platform = Backups(server, scratch, folder)
        platform.sql(
            "CREATE TABLE orders (id bigserial PRIMARY KEY, created_at timestamptz DEFAULT now(), v text);"
            "INSERT INTO orders (v) SELECT md5(i::text) FROM generate_series(1, 5000) AS i"
        )
        yield platform
        for row in connection.execute("SELECT datname FROM pg_database WHERE NOT datistemplate").fetchall():
            if row["datname"] != "postgres":
                connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(identifier(row["datname"])))
