# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One snapshot for dump and counts, with every table locked before it is taken."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ansible_collections.sre.runbooks.plugins.module_utils.backup import manifest
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import (
    Login,
    connect,
    first_line,
    identifier,
)
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.moments import now, utc_text

if TYPE_CHECKING:
    import psycopg

# connect() tells the operator when it is missing.
with contextlib.suppress(ImportError):
    from psycopg import errors, sql

LOCKABLE = ("table", "unlogged table", "partitioned table")
COUNTED = ("table", "unlogged table")
LOCK_TIMEOUT_S = 10
# Sessions beside the one that holds the locks queue behind anybody who wants a table for himself, and he waits for
# the locks that are held: the server sees no deadlock in that, so it must end by itself, and soon.
QUEUE_TIMEOUT_S = 2
BATCH = 200

# What belongs to an extension is made by CREATE EXTENSION; names that begin with pg_ are the server's own.
OURS = """
n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND c.relpersistence <> 't' AND NOT EXISTS (
    SELECT FROM pg_depend AS d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
"""
TABLES = f"""
SELECT c.oid::bigint AS oid, n.nspname AS schema, c.relname AS name,
       CASE WHEN c.relkind = 'p' THEN 'partitioned table' WHEN c.relkind = 'f' THEN 'foreign table'
            WHEN c.relkind = 'm' THEN 'materialized view' WHEN c.relpersistence = 'u' THEN 'unlogged table'
            ELSE 'table' END AS kind
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'f', 'm') AND {OURS} ORDER BY 2, 3
"""  # noqa: S608
SEQUENCES = f"""
SELECT n.nspname AS schema, c.relname AS name
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.relkind = 'S' AND {OURS} ORDER BY 1, 2
"""  # noqa: S608
# pg_shdepend does not name the first superuser, so owners are read too.
ROLES = """
SELECT DISTINCT role FROM (
    SELECT pg_get_userbyid(refobjid) AS role FROM pg_shdepend
    WHERE refclassid = 'pg_authid'::regclass AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
    UNION SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid >= 16384
    UNION SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE oid >= 16384
    UNION SELECT pg_get_userbyid(proowner) FROM pg_proc WHERE oid >= 16384
) AS named WHERE role !~ '^pg_' ORDER BY 1
"""


class RetryError(Exception):
    """The database changed while it was being locked, or a lock was not to be had: begin again."""


@dataclass(frozen=True)
class Relation:
    """A table as the catalog has it."""

    oid: int
    schema: str
    name: str
    kind: str


@dataclass(frozen=True)
class HeldSnapshot:
    """A snapshot that other sessions can import while `connection` stays open."""

    connection: Any
    snapshot: manifest.Snapshot
    relations: tuple[Relation, ...]


def list_relations(connection: psycopg.Connection[dict[str, Any]]) -> tuple[Relation, ...]:
    """All tables, partitioned and foreign tables and materialized views, without the extensions' own."""
    return tuple(Relation(**row) for row in connection.execute(TABLES))


def _lock(connection: psycopg.Connection[dict[str, Any]], relations: Sequence[Relation]) -> None:
    lockable = [relation for relation in relations if relation.kind in LOCKABLE]
    for start in range(0, len(lockable), BATCH):
        names = sql.SQL(", ").join(
            sql.SQL("ONLY {}").format(identifier(relation.schema, relation.name))
            for relation in lockable[start : start + BATCH]
        )
        connection.execute(sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(names))


@contextlib.contextmanager
def hold_snapshot(login: Login) -> Iterator[HeldSnapshot]:
    """Lock all tables, then take and export the snapshot; both last as long as the context.

    A table that is emptied by TRUNCATE between a snapshot and its lock looks empty to that snapshot. So the locks
    come first (LOCK TABLE takes no snapshot), and the list of tables is compared with the one inside the snapshot.

    Raises:
        RetryError: a table was made, dropped or renamed meanwhile, or is locked by somebody for too long.
        RunbookError: the role may not lock a table.
    """
    connection = connect(login, "backup")
    try:
        relations = list_relations(connection)
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(f"{LOCK_TIMEOUT_S}s"))
        try:
            _lock(connection, relations)
        except (errors.UndefinedTable, errors.InvalidSchemaName, errors.WrongObjectType) as error:
            raise RetryError(f"a table was dropped or renamed while all were locked ({first_line(error)})") from error
        except errors.LockNotAvailable as error:
            raise RetryError(f"a table stayed locked by somebody for {LOCK_TIMEOUT_S} s") from error
        except errors.DeadlockDetected as error:
            raise RetryError("another session and this one waited for each other's tables") from error
        except errors.OutOfMemory as error:
            connection.execute("ROLLBACK")
            most = connection.execute("SHOW max_locks_per_transaction").fetchone()["max_locks_per_transaction"]
            raise RunbookError(
                f"{login.database} has {len(relations)} tables, more than its server can lock at once: its"
                f" max_locks_per_transaction is {most}.",
                "Raise it there (each of max_connections brings that many) and restart the server.",
                tables=len(relations),
            ) from error
        except errors.InsufficientPrivilege as error:
            raise RunbookError(
                f"{login.place} may not read every table: {first_line(error)}.",
                f"Grant it: GRANT pg_read_all_data TO {login.user}, or use the owner as database_admin.",
            ) from error
        row = connection.execute(
            "SELECT pg_export_snapshot() AS id, CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()"
            " ELSE pg_current_wal_lsn() END::text AS lsn, txid_snapshot_xmin(txid_current_snapshot()) AS xid"
        ).fetchone()
        snapshot = manifest.Snapshot(row["id"], row["lsn"], now(), row["xid"])
        if list_relations(connection) != relations:
            raise RetryError("a table was made, dropped or renamed while all were locked")
        yield HeldSnapshot(connection, snapshot, relations)
    finally:
        connection.close()


def read_sequences(connection: psycopg.Connection[dict[str, Any]]) -> list[manifest.Sequence]:
    """The state of all sequences. They follow no snapshot: a dump that comes later may save a later value."""
    names = [(row["schema"], row["name"]) for row in connection.execute(SEQUENCES)]
    sequences = []
    for start in range(0, len(names), BATCH):
        query = sql.SQL(" UNION ALL ").join(
            sql.SQL("SELECT {} AS schema, {} AS name, last_value, is_called FROM {}").format(
                schema, name, identifier(schema, name)
            )
            for schema, name in names[start : start + BATCH]
        )
        sequences += [manifest.Sequence(**row) for row in connection.execute(query)]
    return sequences


def count_large_objects(connection: psycopg.Connection[dict[str, Any]]) -> int:
    """How many large objects there are."""
    return connection.execute("SELECT count(*) AS n FROM pg_largeobject_metadata").fetchone()["n"]


def read_roles(connection: psycopg.Connection[dict[str, Any]], properties: Any) -> list[str]:
    """All roles that the database's objects, owners, privileges and settings name."""
    roles = {row["role"] for row in connection.execute(ROLES)} | {properties.owner}
    roles |= {name for grant in properties.acl or [] for name in (grant.grantor, grant.grantee) if name}
    roles |= {setting.role for setting in properties.settings if setting.role}
    return sorted(role for role in roles if not role.startswith("pg_"))


def read_newest_row(connection: psycopg.Connection[dict[str, Any]], query: str) -> str | None:
    """What the inventory's query says: the time of the newest row, None for an empty table.

    Raises:
        RunbookError: the query fails, or gives no time.
    """
    hint = "Mend database_newest_row_query in the inventory: one row, one column, a time stamp."
    try:
        # A savepoint where a transaction is open: a query that fails must not end the snapshot.
        with connection.transaction():
            row = connection.execute(query.encode()).fetchone()
    except errors.Error as error:
        raise RunbookError(f"The query for the newest row failed: {first_line(error)}.", hint) from error
    value = next(iter(row.values())) if row else None
    if value is None:
        return None
    if not isinstance(value, datetime):
        raise RunbookError(f"The query for the newest row gave {value!r}, which is no time stamp.", hint)
    return utc_text(value if value.tzinfo else value.replace(tzinfo=UTC))
