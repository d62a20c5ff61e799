# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Compare a restored database with its manifest, exactly, and ask the application's own check."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ansible_collections.sre.runbooks.plugins.module_utils.backup.counts import TableCounter, open_connections
from ansible_collections.sre.runbooks.plugins.module_utils.backup.manifest import Manifest, Sequence, Table
from ansible_collections.sre.runbooks.plugins.module_utils.backup.objects import count_objects, missing
from ansible_collections.sre.runbooks.plugins.module_utils.backup.properties import Extension, read_properties
from ansible_collections.sre.runbooks.plugins.module_utils.backup.snapshot import (
    count_large_objects,
    list_relations,
    read_sequences,
)
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import (
    Login,
    connect,
    first_line,
    identifier,
)
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.progress import Progress
from ansible_collections.sre.runbooks.plugins.module_utils.run.words import counted

if TYPE_CHECKING:
    import psycopg

with contextlib.suppress(ImportError):  # connect() tells the operator
    from psycopg import errors
    from psycopg.rows import tuple_row

INCREMENTS = "SELECT schemaname, sequencename, increment_by, min_value, max_value FROM pg_sequences"
SHOWN = 10


def further(one: Sequence, other: Sequence, increment: int) -> bool:
    """Whether sequence `one` has come further than `other`; a sequence may count down."""
    if one.last_value == other.last_value:
        return one.is_called and not other.is_called
    return (one.last_value > other.last_value) == (increment > 0)


def differences(
    manifest: Manifest, tables: Iterable[Table], sequences: Iterable[Sequence], extensions: Iterable[Extension],
    large_objects: int, increments: Mapping[tuple[str, str], int], objects: Mapping[str, int] | None = None,
) -> list[str]:
    """What a restored database lacks or has too much, each a phrase; empty when it is what the manifest says.

    A sequence may be further than in the manifest: sequences follow no snapshot. An extension may have another
    version: a dump does not name one, and the server's package decides (see `changed_extensions`).
    """
    found = []
    wanted_tables = {(table.schema, table.name): table for table in manifest.tables}
    there_tables = {(table.schema, table.name): table for table in tables}
    for key, wanted in wanted_tables.items():
        name = ".".join(key)
        there = there_tables.get(key)
        if there is None:
            found.append(f"the {wanted.kind} {name} is missing")
        elif wanted.rows is not None and there.rows != wanted.rows:
            found.append(f"{name} has {there.rows} rows instead of {wanted.rows}")
        elif wanted.fingerprint is not None and there.fingerprint != wanted.fingerprint:
            found.append(f"{name} has other contents")
    found += [f"there is a table too many, {'.'.join(key)}" for key in there_tables.keys() - wanted_tables.keys()]
    there_sequences = {(one.schema, one.name): one for one in sequences}
    for wanted in manifest.sequences:
        key = (wanted.schema, wanted.name)
        there = there_sequences.get(key)
        if there is None:
            found.append(f"the sequence {'.'.join(key)} is missing")
        elif further(wanted, there, increments.get(key, 1)):
            found.append(f"the sequence {'.'.join(key)} stands at {there.last_value} before {wanted.last_value}")
    installed = {extension.name for extension in extensions}
    found += [
        f"the extension {extension.name} is missing"
        for extension in manifest.database.extensions if extension.name not in installed
    ]
    if large_objects != manifest.large_objects:
        found.append(f"there are {large_objects} large objects instead of {manifest.large_objects}")
    if objects:
        found += missing(manifest.objects or {}, objects)
    return found


def changed_extensions(manifest: Manifest, extensions: Iterable[Extension]) -> list[str]:
    """Extensions whose version here is another one than in the backup, each a sentence."""
    there = {extension.name: extension.version for extension in extensions}
    return [
        f"The extension {one.name} has version {there[one.name]} here, and had {one.version} in the backup."
        for one in manifest.database.extensions if there.get(one.name, one.version) != one.version
    ]


def count_tables(
    login: Login, jobs: int, progress: Progress, *, fingerprints: bool = False,
    only: Collection[tuple[str, str]] | None = None,
) -> list[Table]:
    """The exact number of rows of all tables of a database, or of some (schema and name), now."""
    with connect(login, "compare") as connection:
        relations = [
            one for one in list_relations(connection) if only is None or (one.schema, one.name) in only
        ]
    counter = TableCounter(open_connections(login, None, jobs), relations, fingerprints=fingerprints)
    try:
        with progress.during(lambda: f"counting rows: {counter.done()} of {counted(len(relations), 'table')}"):
            counter.start()
            return counter.result()
    finally:
        counter.close()


def compare(login: Login, manifest: Manifest, jobs: int, progress: Progress) -> list[str]:
    """Compare the database that `login` names with the manifest.

    Returns:
        Sentences worth knowing that are no difference (`changed_extensions`).

    Raises:
        RunbookError: it is not what the manifest says; all differences are in the context.
    """
    fingerprints = any(table.fingerprint is not None for table in manifest.tables)
    tables = count_tables(login, jobs, progress, fingerprints=fingerprints)
    with connect(login, "compare") as connection:
        extensions = read_properties(connection).extensions
        increments = {key: bounds[0] for key, bounds in read_increments(connection).items()}
        found = differences(
            manifest, tables, read_sequences(connection), extensions, count_large_objects(connection), increments,
            count_objects(connection),
        )
    if found:
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise RunbookError(
            f"The restored database is not what the manifest of {manifest.backup_id} says: "
            f"{'; '.join(found[:SHOWN])}{more}.",
            "Do not use this backup; verify it with the playbook sre.runbooks.backup_verify and choose another one.",
            differences=found,
        )
    return changed_extensions(manifest, extensions)


def read_increments(connection: psycopg.Connection[dict[str, Any]]) -> dict[tuple[str, str], tuple[int, int, int]]:
    """Increment, least and greatest value of each sequence."""
    return {
        (row["schemaname"], row["sequencename"]): (row["increment_by"], row["min_value"], row["max_value"])
        for row in connection.execute(INCREMENTS)
    }


def advance_sequences(
    live: psycopg.Connection[dict[str, Any]], copy: psycopg.Connection[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Advance each sequence of the copy to the live one's value where that is further.

    What has left the system under a number (an invoice, a payment) is not undone by a restore, so no number may be
    given out twice.

    Returns:
        What was advanced: `sequence, before, after`.
    """
    bounds = read_increments(copy)
    ahead = {(one.schema, one.name): one for one in read_sequences(live)}
    moved = []
    for one in read_sequences(copy):
        key = (one.schema, one.name)
        increment, least, greatest = bounds.get(key, (1, one.last_value, one.last_value))
        live_one = ahead.get(key)
        if live_one is None or not further(live_one, one, increment) or not least <= live_one.last_value <= greatest:
            continue
        copy.execute(
            "SELECT setval(%s::text::regclass, %s, %s)",
            [identifier(*key).as_string(copy), live_one.last_value, live_one.is_called],
        )
        moved.append({"sequence": ".".join(key), "before": one.last_value, "after": live_one.last_value})
    return moved


def ask_application(login: Login, query: str, timeout_s: float) -> str:
    """Run the application's own check in the database that `login` names.

    Returns:
        Its text, empty when it gives none.

    Raises:
        RunbookError: it is not true, it cannot be run, or it took too long.
    """
    hint = "The query is database_application_check in the inventory: one row, first a boolean, then a text."
    with connect(login, "application check") as connection:
        connection.execute(f"SET statement_timeout = {int(timeout_s * 1000)}".encode())
        try:
            # Not as a dictionary: two columns without a name have the same one.
            row = connection.cursor(row_factory=tuple_row).execute(query.encode()).fetchone()
        except errors.Error as error:
            raise RunbookError(
                f"The application's own check of {login.database!r} failed: {first_line(error).rstrip('.')}.", hint
            ) from error
    values = row or (None,)
    text = str(values[1]) if len(values) > 1 and values[1] is not None else ""
    if values[0] is not True:
        raise RunbookError(
            f"The application's own check of {login.database!r} is not true: it gave {values[0]}"
            + (f" ({text})." if text else "."), hint, answer=str(values[0]),
        )
    return text
