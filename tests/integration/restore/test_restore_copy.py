# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A backup restored beside everything else: whole or in part, here or on an empty server, and by no superuser."""

from __future__ import annotations

import re
import secrets
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.backup import copying
from ansible_collections.sre.runbooks.plugins.module_utils.backup.copying import Copy, Request
from ansible_collections.sre.runbooks.plugins.module_utils.backup.encryption import Keyring
from ansible_collections.sre.runbooks.plugins.module_utils.backup.folder import TargetFolder
from ansible_collections.sre.runbooks.plugins.module_utils.backup.properties import read_properties
from ansible_collections.sre.runbooks.plugins.module_utils.backup.restore import drop_kept, list_kept
from ansible_collections.sre.runbooks.plugins.module_utils.backup.store import Privacy
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import Login, connect
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.progress import Progress

from lab import machine
from lab.keys import Key
from lab.postgresql import PostgresServer
from tests.integration.backup.conftest import as_arguments
from tests.integration.restore.conftest import CHECK, Shop, shops

MORE = """
CREATE TABLE measured (at date, v int) PARTITION BY RANGE (at);
CREATE TABLE measured_2025 PARTITION OF measured FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE measured_2026 PARTITION OF measured FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
INSERT INTO measured SELECT '2025-12-01'::date + i, i FROM generate_series(1, 60) AS i;
CREATE TABLE items (id int PRIMARY KEY, order_id bigint REFERENCES orders);
INSERT INTO items SELECT i, i FROM generate_series(1, 50) AS i;
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'never'; END $$;
CREATE TRIGGER refuse BEFORE DELETE ON items FOR EACH ROW EXECUTE FUNCTION refuse();
CREATE SCHEMA other; CREATE TABLE other.orders (id int); INSERT INTO other.orders VALUES (1), (2);
CREATE MATERIALIZED VIEW totals AS SELECT count(*) FROM orders;
CREATE PUBLICATION all_orders FOR TABLE orders;
CREATE ROLE "{group}" NOINHERIT; CREATE ROLE {member} LOGIN CREATEDB PASSWORD 'secret-word';
GRANT "{group}" TO {member} WITH ADMIN OPTION; GRANT pg_read_all_data TO {member};
ALTER ROLE {member} SET work_mem = '5MB'; GRANT SELECT ON orders TO "{group}";
"""
DAMAGE = """
DELETE FROM orders WHERE id > 50;
DELETE FROM measured WHERE v > 40; INSERT INTO items SELECT i, 1 FROM generate_series(51, 60) AS i;
DROP SCHEMA other CASCADE;
"""
TOKEN = secrets.token_hex(3)
GROUP, MEMBER = f'Group "{TOKEN}"; x', f"member_{TOKEN}"
QUOTED = GROUP.replace('"', '""')
OWNED = """
CREATE ROLE {owner}; CREATE ROLE {restorer} LOGIN PASSWORD 'word';
ALTER DATABASE {database} OWNER TO {owner}; ALTER DATABASE {database} SET log_statement = 'none';
ALTER TABLE orders OWNER TO {owner}; ALTER TABLE "Odd ""table"" ñ" OWNER TO {owner};
ALTER SEQUENCE countdown OWNER TO {owner};
CREATE SCHEMA mine AUTHORIZATION {owner}; CREATE TABLE mine.t AS SELECT 1 AS a; ALTER TABLE mine.t OWNER TO {owner};
CREATE SCHEMA theirs AUTHORIZATION {app}; CREATE TABLE theirs.t (); ALTER TABLE theirs.t OWNER TO {app};
ALTER DEFAULT PRIVILEGES FOR ROLE {owner} GRANT SELECT ON TABLES TO {app};
"""


@dataclass(frozen=True)
class Copier:
    """Makes copies of a shop's backup.

    Args:
        shop: whose database has gone on since.
        backup_id: of the backup.
    """

    shop: Shop
    backup_id: str

    def request(self, **changes: Any) -> Request:
        """What the module is asked, as the role asks."""
        request = Request(
            login=self.shop.admin, live=self.shop.admin, database=self.shop.name, run="run-copy",
            place=self.shop.place, least_rung=None, backup_id=self.backup_id, lock_wait_s=20,
            bin_directory=str(self.shop.server.bin_directory),
        )
        return replace(request, **changes)

    def make(self, *, check: bool = False, **changes: Any) -> tuple[dict[str, Any], list[str]]:
        """Make a copy; its result, and the steps."""
        copy = Copy(self.request(**changes), Progress(), check=check)
        return copy.make(), [f"{step.step}: {step.target}" for step in copy.plan.steps]

    def refused(self, **changes: Any) -> str:
        """Why a copy is refused."""
        with pytest.raises(RunbookError) as caught:
            self.make(**changes)
        return str(caught.value)


@pytest.fixture(scope="module")
def damaged(postgresql_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copier]:
    """One shop for the tests that only read it: backed up, then damaged."""
    with shops(postgresql_server, tmp_path_factory.mktemp("copied")) as make:
        shop = make(f"shop_{secrets.token_hex(4)}")
        shop.run(MORE.format(group=QUOTED, member=MEMBER))
        backup = shop.back_up()
        shop.run(DAMAGE)
        yield Copier(shop, backup.backup_id)
        shop.run(f'DROP OWNED BY "{QUOTED}", {MEMBER}; DROP ROLE "{QUOTED}", {MEMBER}')


@pytest.fixture
def copier(damaged: Copier) -> Iterator[Copier]:
    """Copies of its backup, dropped after each test."""
    yield damaged
    for name in damaged.shop.databases():
        if name != damaged.shop.name:
            damaged.shop.run(f'DROP DATABASE "{name}" WITH (FORCE)', "postgres")


@pytest.fixture(scope="module")
def empty_server(server_folder: Path) -> Iterator[PostgresServer]:
    settings = {"fsync": "off", "shared_buffers": "16MB", "max_connections": "30"}
    with PostgresServer(server_folder / "empty-postgresql", settings=settings) as server:
        yield server


def rows(login: Login, query: str) -> list[tuple[Any, ...]]:
    with connect(login, "tests") as connection:
        return [tuple(row.values()) for row in connection.execute(query.encode()).fetchall()]


def test_a_copy_beside_the_live_database_is_whole_and_leaves_the_live_one_alone(copier: Copier) -> None:
    """A85 ⚠: the copy has the backup's owner, privileges, settings and comment, and goes away at its hour."""
    shop = copier.shop
    before = read_of(shop, shop.name)
    planned, steps = copier.make(check=True, application_check=CHECK)
    assert shop.databases() == [shop.name]
    made, done = copier.make(application_check=CHECK)
    assert (steps, planned["name"]) == (done, made["name"])
    assert made["application_check"] == "1000 orders"
    assert made["name"] == f"{shop.name}__copy_{copier.backup_id}"
    assert (made["roles_created"], made["to_do"]) == ([], [])
    assert shop.orders() == 50
    assert rows(shop.admin.at(made["name"]), "SELECT count(*) FROM orders") == [(1000,)]
    assert read_of(shop, made["name"]) == before
    kept = [
        (one["database"], one["state"], one["expired"])
        for one in list_kept(shop.admin, datetime.now(UTC) + timedelta(hours=73)) if one["name"] == made["name"]
    ]
    assert kept == [(shop.name, "copy", True)]
    # A restore of the live one neither takes it for a leftover nor for one to go back to.
    position = shop.reach("prepared", check=True).position
    assert (position["copies"], position["kept"]) == ([], [])
    assert "already" in copier.refused()
    drop_kept(shop.admin, [made["name"]])
    assert shop.databases() == [shop.name]


def read_of(shop: Shop, name: str) -> dict[str, Any]:
    """The properties of a database that are its own."""
    with connect(shop.admin, "tests") as connection:
        found = read_properties(connection, name).as_dict()
    own = {key: value for key, value in found.items() if key not in ("name", "size_bytes", "extensions")}
    return {**own, "comment": found["comment"].split("\nsre.runbooks: ")[0]}


def test_a_copy_with_a_name_of_its_own_stays_and_a_name_that_is_taken_is_refused(copier: Copier) -> None:
    shop = copier.shop
    name = f"{shop.name}_again"
    made, _steps = copier.make(name=name)
    assert (made["name"], made["until"]) == (name, "")
    assert name not in [one["name"] for one in list_kept(shop.admin, datetime.now(UTC))]
    for taken in (name, shop.name):
        assert f"There is a database '{taken}'" in copier.refused(name=taken)
    assert shop.orders() == 50


def test_named_tables_come_with_their_rows_alone_and_are_counted_beside_the_live_ones(copier: Copier) -> None:
    """D24 ⚠: the rows of one table, as they were then, from files that their manifest seals."""
    shop = copier.shop
    made, _steps = copier.make(tables=("items", "public.measured", 'Odd "table" ñ'))
    assert {one["table"]: (one["live"], one["backup"], one["difference"]) for one in made["tables"]} == {
        "public.items": (60, 50, 10), 'public.Odd "table" ñ': (7, 7, 0),
        "public.measured_2025": (30, 30, 0), "public.measured_2026": (10, 30, -20),
    }
    copy = shop.admin.at(made["name"])
    counted = [
        rows(copy, f"SELECT count(*) FROM {name}")[0][0]
        for name in ("items", "measured", "orders", "pg_largeobject_metadata", "pg_trigger", "pg_publication")
    ]
    assert counted == [50, 60, 0, 0, 0, 0]
    assert rows(copy, "SELECT last_value FROM orders_id_seq") == [(1000,)]
    assert rows(copy, "SELECT conname FROM pg_constraint WHERE contype = 'p' AND conrelid = 'items'::regclass")


def test_a_schema_comes_alone_and_a_table_that_is_gone_live_has_no_difference(copier: Copier) -> None:
    made, _steps = copier.make(schema="other")
    assert made["tables"] == [{"table": "other.orders", "live": None, "backup": 2, "difference": None}]


@pytest.mark.parametrize(("asked", "words"), [
    ({"tables": ("orders",)}, "public.orders"),
    ({"tables": ("itmes",)}, "items"),
    ({"tables": ("totals",)}, "materialized view"),
    ({"schema": "nowhere"}, "no tables in a schema 'nowhere'"),
    ({"schema": "other", "tables": ("items",)}, "Give one of them"),
])
def test_what_cannot_be_told_apart_or_is_not_there_is_refused(
    copier: Copier, asked: dict[str, Any], words: str
) -> None:
    assert words in copier.refused(**asked)
    assert copier.shop.databases() == [copier.shop.name]


def test_an_empty_server_gets_the_roles_first_without_passwords_and_says_what_each_needs(
    copier: Copier, empty_server: PostgresServer
) -> None:
    """A82 ⚠: globals and roles come with the backup. X18: no password does."""
    shop, group, member = copier.shop, GROUP, MEMBER
    there = empty_server.login
    elsewhere: dict[str, Any] = {"login": there, "name": shop.name, "live": None}
    try:
        _planned, steps = copier.make(check=True, **elsewhere)
        assert f"create the role: {member}" in steps
        assert rows(there, f"SELECT count(*) FROM pg_roles WHERE rolname = '{member}'") == [(0,)]
        made, done = copier.make(**elsewhere)
        assert steps == done
        assert set(made["roles_created"]) == {group, member, shop.application.user}
        assert rows(there, "SELECT rolname, rolcanlogin, rolcreatedb, rolinherit, rolpassword FROM pg_authid"
                           f" WHERE rolname = '{member}'") == [(member, False, False, True, None)]
        assert rows(there, "SELECT pg_get_userbyid(roleid), admin_option FROM pg_auth_members"
                           f" WHERE member = '{member}'::regrole ORDER BY 1"
                    ) == [(group, True)]
        said = [line for line in made["to_do"] if f"role {member} " in line]
        assert f'GRANT "pg_read_all_data" TO "{member}"' in said[3]
        assert f'ALTER ROLE "{member}" LOGIN PASSWORD' in said[0]
        assert f'ALTER ROLE "{member}" CREATEDB' in said[1]
        assert "work_mem" in said[2]
        assert rows(there.at(shop.name), "SELECT count(*) FROM orders") == [(1000,)]
    finally:
        with connect(there, "tests") as admin:
            admin.execute(f"DROP DATABASE IF EXISTS {shop.name}".encode())
            for role in (f'"{QUOTED}"', member, shop.application.user):
                admin.execute(f"DROP ROLE IF EXISTS {role}".encode())


def test_what_fails_on_another_server_leaves_neither_database_nor_role(
    copier: Copier, empty_server: PostgresServer
) -> None:
    shop = copier.shop
    said = copier.refused(login=empty_server.login, name=shop.name, live=None, application_check="SELECT false")
    assert "is not true" in said
    names = rows(empty_server.login, "SELECT datname FROM pg_database WHERE datname NOT LIKE 'template%'")
    assert names == [("postgres",)]
    assert rows(empty_server.login, "SELECT rolname FROM pg_roles WHERE rolname LIKE 'shop_%'") == []


def test_what_a_killed_call_left_is_dropped_also_that_of_another_backup(
    copier: Copier, start_module: Callable[..., subprocess.Popen[str]]
) -> None:
    """The name of the copy is there only when the copy is whole."""
    shop = copier.shop

    def unfinished() -> list[str]:
        return [name for name in shop.databases() if "__restoring_" in name]

    child = start_module("pg_restore_copy", {
        "login": as_arguments(shop.admin), "database": shop.name, "run": "run-killed", "least_rung": "none",
        "store_path": str(shop.place.store_path), "system": shop.place.system, "target": shop.place.target,
        "postgresql_bin_directory": str(shop.server.bin_directory),
    })
    assert machine.wait_for(lambda: unfinished() or child.poll() is not None, 60)
    child.kill()
    child.communicate()
    (left,) = unfinished()
    assert machine.wait_for(lambda: not shop.run(
        "SELECT FROM pg_stat_activity WHERE application_name = 'sre.runbooks swap'", "postgres"), 20)
    newer = shop.back_up()
    made, steps = copier.make(backup_id=None)
    assert steps[0] == f"drop what a run that ended left: {left}"
    assert made["backup"]["backup_id"] == newer.backup_id
    assert shop.databases() == sorted([shop.name, made["name"]])


def test_from_an_encrypted_store_the_roles_are_known_once_the_backup_is_here(
    copier: Copier, empty_server: PostgresServer, keys: dict[str, Key], tmp_path: Path
) -> None:
    """Who is a member of whom is in globals.sql, which is encrypted like everything else; check mode says so."""
    key = keys["first"]
    privacy = Privacy((str(key.public),), Keyring(str(key.home)), tmp_path / "work")
    shop = replace(copier.shop, place=TargetFolder(tmp_path, "shops", "sealed", privacy))
    sealed = Copier(shop, shop.back_up().backup_id)
    elsewhere: dict[str, Any] = {"login": empty_server.login, "name": "sealed", "live": None}
    planned, steps = sealed.make(check=True, **elsewhere)
    assert copying.UNREAD in planned["notes"]
    assert f"create the role: {GROUP}" in steps
    assert f"create the role: {MEMBER}" not in steps
    made, _steps = sealed.make(**elsewhere)
    assert MEMBER in made["roles_created"]
    assert rows(empty_server.login.at("sealed"), "SELECT count(*) FROM orders") == [(50,)]
    with connect(empty_server.login, "tests") as admin:
        admin.execute("DROP DATABASE sealed")
        admin.execute(f'DROP ROLE "{QUOTED}", {MEMBER}, {shop.application.user}'.encode())
    assert not [path for path in (tmp_path / "work").rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_some_tables_come_for_their_owners_alone_because_their_policies_stay_behind(
    make_shop: Callable[..., Shop]
) -> None:
    """B43: rows that row security hides from a role are not opened to it by a copy without the policies."""
    shop = make_shop(f"shop_{secrets.token_hex(4)}")
    app, seen = shop.application, "SELECT count(*) FROM orders"
    shop.run(
        f"GRANT SELECT ON orders TO {app.user}; ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO {app.user};"
        " ALTER TABLE orders ENABLE ROW LEVEL SECURITY; CREATE POLICY few ON orders FOR SELECT USING (id <= 3);"
        f" GRANT CONNECT ON DATABASE {shop.name} TO {app.user}"
    )
    assert rows(app.at(shop.name), seen) == [(3,)]
    copier = Copier(shop, shop.back_up().backup_id)
    part, _steps = copier.make(tables=("orders",))
    copy = shop.admin.at(part["name"])
    assert rows(copy, seen) == [(1000,)]
    with pytest.raises(RunbookError, match="permission denied for database"):
        connect(app.at(part["name"]), "tests")
    assert rows(copy, f"SELECT has_table_privilege('{app.user}', 'orders', 'SELECT'), has_database_privilege("
                      f"'{app.user}', current_database(), 'CONNECT')") == [(False, False)]
    assert rows(copy, "SELECT count(*) FROM pg_default_acl") == [(0,)]
    whole, _steps = copier.make(name=f"{shop.name}_whole")
    assert rows(app.at(whole["name"]), seen) == [(3,)]
    for name in (part["name"], whole["name"]):
        shop.run(f'DROP DATABASE "{name}"', "postgres")


def test_a_database_that_stands_in_the_way_is_never_dropped(copier: Copier, monkeypatch: pytest.MonkeyPatch) -> None:
    """A85 ⚠: a call takes away what it made itself, and nothing else."""
    shop = copier.shop
    building = copying.copy_name(f"{shop.name}_again", copier.backup_id)

    def somebody_else(*_arguments: Any) -> tuple[str, ...]:
        shop.run(f'CREATE DATABASE "{building}"', "postgres")
        return ()

    monkeypatch.setattr(Copy, "_leftovers", somebody_else)
    assert "already exists" in copier.refused(name=f"{shop.name}_again")
    assert shop.databases() == sorted([shop.name, building])


def test_two_databases_whose_long_names_begin_alike_do_not_drop_each_others_copies(
    copier: Copier
) -> None:
    shop = copier.shop
    first, second = (f"{shop.name}_{'long' * 9}_{year}" for year in (2025, 2026))
    unmarked = copying.copy_name(first, copier.backup_id)
    shop.run(f'CREATE DATABASE "{unmarked}"', "postgres")
    copier.make(name=second)
    assert shop.databases() == sorted([shop.name, second, unmarked])


@pytest.fixture(params=["postgresql_server", "older_server"])
def owned(request: pytest.FixtureRequest, make_shop: Callable[..., Shop]) -> Iterator[Copier]:
    """A shop that belongs to a role of its own, with what such an owner can make, and a restorer with no rights."""
    shop = make_shop(f"shop_{secrets.token_hex(4)}", request.getfixturevalue(request.param))
    owner, restorer = f"owner_{secrets.token_hex(4)}", f"restorer_{secrets.token_hex(4)}"
    app = shop.application.user
    shop.run(OWNED.format(database=shop.name, owner=owner, restorer=restorer, app=app))
    oids = shop.run("SELECT oid FROM pg_largeobject_metadata")
    shop.run("; ".join(f"ALTER LARGE OBJECT {row['oid']} OWNER TO {owner}" for row in oids))
    backup = shop.back_up()
    yield Copier(
        replace(shop, application=replace(shop.application, user=restorer, password="word")), backup.backup_id
    )
    names = [f'"{name}"' for name in shop.databases()]
    for name in names:
        shop.run(f"DROP DATABASE {name} WITH (FORCE)", "postgres")
    shop.run(f"REVOKE SET ON PARAMETER log_statement FROM {restorer}; DROP OWNED BY {restorer}; DROP ROLE {owner},"
             f" {restorer}", "postgres")


# What the server says to a restorer who may not create databases, set another role's settings there (nor act as that
# role), act as the owner, or set what only superusers set.
ACT_AS = "must be (able to SET ROLE|member of role)"  # the second is said before version 16
REFUSALS = (
    "permission denied to create database", ACT_AS, ACT_AS, "permission denied to set parameter",
)


def test_a_restorer_who_is_no_superuser_is_told_each_right_that_is_missing_and_needs_no_other(
    owned: Copier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The statements in the refusal are run as they stand: with them it restores. With one less it is refused, and
    where it is not, the server refuses."""
    shop = owned.shop
    login = shop.application.at("postgres")
    with pytest.raises(RunbookError) as caught:
        owned.make(check=True, login=login)
    problems = caught.value.context["problems"]
    statements = [problem.partition(": ")[2] for problem in problems]
    assert len(statements) == len(REFUSALS), problems
    for left_out, words in zip(statements, REFUSALS, strict=True):
        for statement in statements:
            if statement != left_out:
                shop.run(statement, "postgres")
        assert left_out in owned.refused(check=True, login=login)
        with monkeypatch.context() as patched:
            patched.setattr(copying, "missing_rights", lambda *_arguments: [])
            assert re.search(words, owned.refused(login=login))
        assert shop.databases() == [shop.name]
        take_back(shop, login.user)
    for statement in statements:
        shop.run(statement, "postgres")
    made, _steps = owned.make(login=login, application_check=CHECK)
    properties = read_of(shop, made["name"])
    assert properties == read_of(shop, shop.name)
    copy = shop.admin.at(made["name"])
    assert rows(copy, "SELECT count(*) FROM orders") == [(1000,)]
    assert rows(copy, "SELECT count(*) FROM pg_class WHERE relowner = (SELECT oid FROM pg_roles WHERE rolname ="
                      f" '{login.user}')") == [(0,)]


def take_back(shop: Shop, role: str) -> None:
    """Take from a role what it was given."""
    members = shop.run("SELECT pg_get_userbyid(roleid) AS name FROM pg_auth_members WHERE member ="
                       f" '{role}'::regrole", "postgres")
    for one in members:
        shop.run(f"REVOKE {one['name']} FROM {role}", "postgres")
    shop.run(f"ALTER ROLE {role} NOCREATEDB NOCREATEROLE", "postgres")
    shop.run(f"REVOKE SET ON PARAMETER log_statement FROM {role}", "postgres")


def test_without_superuser_things_in_somebody_elses_schema_are_refused_by_name(owned: Copier) -> None:
    """The dump grants the right to create there only at its end, and a superuser does without."""
    shop = owned.shop
    owner = shop.run("SELECT tableowner AS name FROM pg_tables WHERE tablename = 'orders'")[0]["name"]
    shop.run(f"ALTER TABLE theirs.t OWNER TO {owner}; CREATE FUNCTION f() RETURNS event_trigger LANGUAGE plpgsql AS"
             " $$ BEGIN END $$; CREATE EVENT TRIGGER e ON sql_drop EXECUTE FUNCTION f()")
    newer = shop.back_up()
    said = owned.refused(check=True, login=shop.application.at("postgres"), backup_id=newer.backup_id)
    assert f"{owner} owns something in the schema theirs" in said
    assert "Only a superuser can create event trigger e" in said
