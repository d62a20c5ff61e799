# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A shop whose database has a backup, and everything that a restore has to bring back or leave alone."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.backup import dump
from ansible_collections.sre.runbooks.plugins.module_utils.backup.folder import TargetFolder
from ansible_collections.sre.runbooks.plugins.module_utils.backup.manifest import Manifest
from ansible_collections.sre.runbooks.plugins.module_utils.backup.restore import Request, Restore, Result
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import Login, connect, identifier
from ansible_collections.sre.runbooks.plugins.module_utils.run.progress import Progress
from psycopg import sql

from lab.postgresql import PostgresServer
from tests.integration.backup.conftest import start_module

__all__ = ["start_module"]  # a fixture, for the tests beside this file

NEWEST = "SELECT max(created_at) FROM orders"
CHECK = "SELECT count(*) > 0, count(*) || ' orders' FROM orders"
SCHEMA = """
CREATE TABLE orders (id bigserial PRIMARY KEY, what text NOT NULL, created_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE "Odd ""table"" ñ" (id int PRIMARY KEY);
CREATE SEQUENCE countdown INCREMENT BY -1;
CREATE EXTENSION pg_trgm;
INSERT INTO orders (what) SELECT 'order ' || n FROM generate_series(1, 1000) AS n;
INSERT INTO "Odd ""table"" ñ" SELECT generate_series(1, 7);
SELECT nextval('countdown'), nextval('countdown');
SELECT lo_from_bytea(0, 'a large object');
"""
PROPERTIES = (
    "ALTER DATABASE {database} CONNECTION LIMIT 55",
    "COMMENT ON DATABASE {database} IS E'The shop''s own.\\nAsk Ada.'",
    "ALTER DATABASE {database} SET search_path TO \"$user\", public, 'odd, one'",
    "ALTER ROLE {role} IN DATABASE {database} SET work_mem = '3MB'",
    "REVOKE TEMPORARY ON DATABASE {database} FROM PUBLIC",
    "GRANT CONNECT ON DATABASE {database} TO {role} WITH GRANT OPTION",
)


@dataclass(frozen=True)
class Shop:
    """One database, its application's login, and its backups.

    Args:
        server: where it lives.
        name: the database.
        application: the login of the application's own role, which owns nothing.
        place: where its backups are.
    """

    server: PostgresServer
    name: str
    application: Login
    place: TargetFolder

    @property
    def admin(self) -> Login:
        """The superuser, on the database postgres."""
        return self.server.login

    def run(self, statement: str, database: str | None = None) -> list[dict[str, Any]]:
        """Run one statement in the shop's database, as the superuser."""
        with connect(self.admin.at(database or self.name), "tests") as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def back_up(self) -> Manifest:
        """Make a backup."""
        request = dump.Request(
            login=self.admin, database=self.name, place=self.place, jobs=2, compression_level=1, fingerprints=True,
            credentials=False, newest_row_query=NEWEST, bin_directory=str(self.server.bin_directory), timeout_s=120,
        )
        with self.place.locked():
            return dump.BackupMaker(request, dump.observe(request), Progress()).make()

    def request(self, **changes: Any) -> Request:
        """What the module is asked to do, as the role asks."""
        request = Request(
            login=self.admin, database=self.name, run=f"run-{secrets.token_hex(3)}", place=self.place, least_rung=None,
            application_check=CHECK, newest_row_query=NEWEST, bin_directory=str(self.server.bin_directory),
            lock_wait_s=20,
        )
        return replace(request, **changes)

    def reach(self, state: str, *, check: bool = False, **changes: Any) -> Result:
        """Bring the swap to a state."""
        return Restore(self.request(**changes), Progress(), check=check).reach(state)

    def databases(self) -> list[str]:
        """The names of all databases of this shop, also those that a swap made."""
        rows = self.run("SELECT datname FROM pg_database ORDER BY 1", "postgres")
        return [row["datname"] for row in rows if row["datname"].startswith(self.name[:12])]

    def orders(self, login: Login | None = None) -> int:
        """How many orders the application sees."""
        with connect(login or self.application, "shop") as connection:
            return connection.execute("SELECT count(*) AS n FROM orders").fetchone()["n"]

    def is_reachable(self) -> bool:
        """Whether the application can connect."""
        with contextlib.suppress(psycopg.OperationalError):
            psycopg.connect(
                host=self.application.host, port=self.application.port, user=self.application.user,
                password=self.application.password, dbname=self.name,
            ).close()
            return True
        return False


@contextlib.contextmanager
def shops(usual: PostgresServer, folder: Path) -> Iterator[Callable[..., Shop]]:
    """Makes shops with a database of the given name, on the usual server or another; all of it is dropped again."""
    made = []

    def make(name: str, server: PostgresServer = usual, role: str | None = None) -> Shop:
        role, password = role or f"shop_{secrets.token_hex(4)}", secrets.token_hex(8)
        store = folder / f"store-{len(made)}"
        store.mkdir()
        login = server.login
        shop = Shop(
            server, name, replace(login, user=role, password=password, database=name),
            TargetFolder(store, "shops", f"shop-{len(made)}"),
        )
        made.append((shop, role))
        with connect(login, "tests") as admin:
            admin.execute(
                sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(identifier(role), sql.Literal(password))
            )
            admin.execute(sql.SQL("CREATE DATABASE {}").format(identifier(name)))
            for statement in PROPERTIES:
                admin.execute(sql.SQL(statement).format(database=identifier(name), role=identifier(role)))
        with connect(login.at(name), "tests") as connection:
            connection.execute(SCHEMA.encode())
            connection.execute(
                sql.SQL("GRANT ALL ON ALL TABLES IN SCHEMA public TO {0}; GRANT ALL ON ALL SEQUENCES IN SCHEMA public "
                        "TO {0}").format(identifier(role))
            )
        return shop

    try:
        yield make
    finally:
        for shop, role in made:
            with connect(shop.admin, "tests") as admin:
                for name in shop.databases():
                    admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(identifier(name)))
                admin.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(identifier(role)))


@pytest.fixture
def make_shop(postgresql_server: PostgresServer, tmp_path: Path) -> Iterator[Callable[..., Shop]]:
    """Makes the shops of one test."""
    with shops(postgresql_server, tmp_path) as make:
        yield make


@pytest.fixture
def shop(make_shop: Callable[..., Shop]) -> Shop:
    """A shop of this test's own."""
    return make_shop(f"shop_{secrets.token_hex(4)}")
