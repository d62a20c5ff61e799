# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Exact row counts and fingerprints of tables, on several connections at once."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from queue import Empty, SimpleQueue
from typing import Any

from ansible_collections.sre.runbooks.plugins.module_utils.backup.manifest import Table
from ansible_collections.sre.runbooks.plugins.module_utils.backup.snapshot import (
    COUNTED,
    QUEUE_TIMEOUT_S,
    Relation,
    RetryError,
)
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import (
    Login,
    connect,
    first_line,
    identifier,
)
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError

# connect() tells the operator when it is missing.
with contextlib.suppress(ImportError):
    from psycopg import errors, sql

# The sum of a 64-bit hash of each row's text: the same for the same rows in any order, twice the same row counts
# twice. It finds accidents, not malice, and costs about as much as reading every column. Text depends on settings,
# so SETTINGS fixes them; a type whose text is not a pure function of its value (regclass of a renamed object)
# differs although nothing was lost. Columns stand in the order of their names: a table that inherits gets its columns
# in another order from a restore when its parent got one later.
FINGERPRINT = "sum(hashtextextended(ROW({})::text, 0)::numeric)::text"
COLUMNS = """
SELECT attname AS name FROM pg_attribute WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped
ORDER BY attname COLLATE "C"
"""
SETTINGS = (
    "SET row_security = off", "SET timezone = 'UTC'", "SET datestyle = 'ISO, YMD'", "SET intervalstyle = 'postgres'",
    "SET extra_float_digits = 1", "SET bytea_output = 'hex'", "SET search_path = ''",
    f"SET lock_timeout = '{QUEUE_TIMEOUT_S}s'",
)


def open_connections(login: Login, snapshot_id: str | None, number: int) -> list[Any]:
    """Connections that count; all of them in the exported snapshot, if one is given."""
    connections = []
    for _unused in range(number):
        connection = connect(login, "count")
        connections.append(connection)
        if snapshot_id:
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            connection.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(snapshot_id))
    return connections


class TableCounter:
    """Counts tables in threads, one for each connection; `result` waits for them.

    Args:
        connections: `close` closes them.
        relations: what to count; kinds whose rows no dump holds come back with `rows` None.
        fingerprints: take them too.
    """

    def __init__(self, connections: Sequence[Any], relations: Sequence[Relation], *, fingerprints: bool) -> None:
        self._connections, self._fingerprints = list(connections), fingerprints
        self._relations = list(relations)
        self._tables: dict[int, Table] = {}
        self._todo: SimpleQueue[Relation] = SimpleQueue()
        self._errors: list[Exception] = []
        self._stop = threading.Event()
        for relation in relations:
            if relation.kind in COUNTED:
                self._todo.put(relation)
            else:
                self._tables[relation.oid] = Table(relation.schema, relation.name, relation.kind)
        self._threads = [
            threading.Thread(target=self._work, args=[connection], daemon=True) for connection in self._connections
        ]

    def start(self) -> None:
        """Begin to count."""
        for thread in self._threads:
            thread.start()

    def done(self) -> int:
        """How many tables are counted."""
        return len(self._tables)

    def check(self) -> None:
        """Raise what a thread ran into, as soon as it did."""
        if self._errors:
            raise self._errors[0]

    def result(self) -> list[Table]:
        """All tables in the order they were given, once all are counted."""
        for thread in self._threads:
            thread.join()
        self.check()
        return [self._tables[relation.oid] for relation in self._relations]

    def close(self) -> None:
        """End the threads, also in the middle of a long count."""
        self._stop.set()
        for connection, thread in zip(self._connections, self._threads, strict=True):
            if thread.is_alive():
                connection.cancel_safe()
        for thread in self._threads:
            if thread.ident:
                thread.join()
        for connection in self._connections:
            connection.close()

    def _work(self, connection: Any) -> None:
        what = "The tables"
        try:
            for setting in SETTINGS:
                connection.execute(setting.encode())
            while not self._stop.is_set() and not self._errors:
                relation = self._todo.get_nowait()
                what = f"The rows of {relation.schema}.{relation.name}"
                self._tables[relation.oid] = self._count(connection, relation)
        except Empty:
            return
        except (errors.LockNotAvailable, errors.DeadlockDetected):
            self._errors.append(RetryError(f"{what} were wanted by another session"))
        except errors.Error as error:
            hint = "Look at the server and its log, then start it again."
            if isinstance(error, errors.InsufficientPrivilege):
                hint = "Give database_admin the right to read every row (owner, BYPASSRLS or superuser)."
            self._errors.append(RunbookError(f"{what} cannot be counted: {first_line(error).rstrip('.')}.", hint))

    def _count(self, connection: Any, relation: Relation) -> Table:
        fingerprint = sql.SQL("NULL")
        if self._fingerprints:
            names = [identifier(row["name"]) for row in connection.execute(COLUMNS, [relation.oid])]
            fingerprint = sql.SQL(FINGERPRINT).format(sql.SQL(", ").join(names))
        query = sql.SQL("SELECT count(*) AS rows, {} AS fingerprint FROM ONLY {}").format(
            fingerprint, identifier(relation.schema, relation.name)
        )
        # Going back to before it lets go of the table's lock: a server has room for so many and no more.
        with connection.transaction(force_rollback=True):
            row = connection.execute(query).fetchone()
        text = (row["fingerprint"] or "0") if self._fingerprints else None
        return Table(relation.schema, relation.name, relation.kind, row["rows"], text)
