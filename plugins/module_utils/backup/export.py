# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What was written to a database while it was live, and is not in the one that came back: in files, to read and load.

Transaction numbers count for the whole server, so a row's own (xmin) tells whether it was written after an exchange:
exactly, without a copy of the database as it was then. Nothing is written to either of the two.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible_collections.sre.runbooks.plugins.module_utils.backup.counts import SETTINGS
from ansible_collections.sre.runbooks.plugins.module_utils.backup.export_files import (
    CHANGED,
    DELETED,
    DIRECTORY,
    KINDS,
    NEW,
    SCRIPT,
    UNCLEAR,
    TableExport,
    Writer,
    line,
    load_script,
    safe,
    summary,
)
from ansible_collections.sre.runbooks.plugins.module_utils.backup.losses import MADE_AT, SECOND, read_written
from ansible_collections.sre.runbooks.plugins.module_utils.backup.manifest import Manifest
from ansible_collections.sre.runbooks.plugins.module_utils.backup.snapshot import OURS, count_large_objects
from ansible_collections.sre.runbooks.plugins.module_utils.backup.work import require_private
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import first_line, identifier
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.files import remove_folder, write_whole
from ansible_collections.sre.runbooks.plugins.module_utils.run.moments import now, utc_text
from ansible_collections.sre.runbooks.plugins.module_utils.run.progress import Progress
from ansible_collections.sre.runbooks.plugins.module_utils.run.words import about

with contextlib.suppress(ImportError):  # connect() tells the operator
    import psycopg
    from psycopg import errors, sql
    from psycopg.rows import tuple_row

if TYPE_CHECKING:
    Connection = psycopg.Connection[dict[str, Any]]

MANIFEST = "manifest.json"
SECONDS = "database_restore_export_seconds"
INEXACT = "Since when its rows were written is not known: all that differ are exported."
# Rows that are looked up at once: bounds what is held in memory.
BATCH = 5000
# Transaction numbers in rows have 32 bits: what is further apart than half of that cannot be told apart.
COMPARABLE = 2**31

# A type without its length is said by -1; NULL would say character, which is character(1). What makes two keys the same
# is the operator of the key's own index (btree's strategy 3), which may be an extension's.
COLUMNS = f"""
SELECT c.oid::bigint AS oid, n.nspname AS schema, c.relname AS name, a.attname AS column,
       format_type(a.atttypid, -1) AS type, a.attgenerated <> '' AS computed, a.attidentity = 'a' AS fixed,
       CASE WHEN k.place < i.indnkeyatts THEN k.place END AS key,
       (SELECT format('OPERATOR(%I.%s)', s.nspname, o.oprname) FROM pg_opclass AS p
        JOIN pg_amop AS e ON e.amopfamily = p.opcfamily AND e.amopstrategy = 3 AND e.amoplefttype = p.opcintype
             AND e.amoprighttype = p.opcintype
        JOIN pg_operator AS o ON o.oid = e.amopopr JOIN pg_namespace AS s ON s.oid = o.oprnamespace
        WHERE p.oid = i.indclass[k.place]) AS equals
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_index AS i ON i.indrelid = c.oid AND i.indisprimary AND i.indisvalid
LEFT JOIN LATERAL (SELECT array_position(i.indkey::int2[], a.attnum) AS place) AS k ON true
WHERE c.relkind = 'r' AND {OURS} ORDER BY 2, 3, a.attnum
"""  # noqa: S608
REFERENCES = """
SELECT conrelid::bigint AS child, confrelid::bigint AS parent FROM pg_constraint WHERE contype = 'f'
AND conrelid <> confrelid
"""
NOW = """
SELECT txid_snapshot_xmax(txid_current_snapshot()) AS xid,
       (SELECT system_identifier::text FROM pg_control_system()) AS system
"""


def default_directory() -> Path:
    """Where the files go by default: on a disk that lasts, one folder for each user."""
    return Path("/var/tmp") / f"sre.runbooks-exports-{os.getuid()}"  # noqa: S108 - owner and mode are proven before use


def require_writable(directory: Path) -> None:
    """Refuse a folder that this user cannot make, while nothing has been touched; it is made later.

    Raises:
        RunbookError: it is not for this user alone, or the first one above it that is there cannot be written.
    """
    if directory.is_dir():
        require_private(directory, DIRECTORY)
    above = next((one for one in (directory, *directory.parents) if one.exists()), directory)
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise RunbookError(
            f"What was written since cannot be exported into {directory}: {above} cannot be written by this user.",
            f"Name another folder ({DIRECTORY}), or leave the export out (-e {SECONDS}=0).",
        )


@dataclass(frozen=True)
class Boundaries:
    """Transactions that tell when a row was written; None where that cannot be told.

    Args:
        since: rows of the database that was put aside and have a later one were written while it was live.
        until: rows of the one that is live again and have a later one were written after it came back.
        backup: rows of the latter with an earlier one were in the backup that the other was restored from.
    """

    since: int | None = None
    until: int | None = None
    backup: int | None = None


def read_boundaries(
    connection: Connection, *, since: int, until: int, back_oid: int, backup: Manifest | None
) -> Boundaries:
    """The boundaries that count on this server now.

    Args:
        connection: to the server.
        since: the transaction of the exchange that made the one live that is put aside now.
        until: the transaction of the exchange that put it aside.
        back_oid: of the database that is live again.
        backup: what the other one was restored from; None when the store no longer has it.
    """
    row = connection.execute(NOW).fetchone()

    def comparable(xid: int) -> int | None:
        return xid if xid and 0 <= row["xid"] - xid < COMPARABLE else None

    taken = 0
    if backup and backup.written.database == back_oid and backup.system_identifier == row["system"]:
        taken = backup.snapshot.xid
    return Boundaries(comparable(since), comparable(until), comparable(taken))


@dataclass(frozen=True)
class Column:
    """A column: `computed` ones cannot be loaded, `fixed` ones (always as identity) not be changed.

    `equals` is the operator that finds a key, where the column is part of one.
    """

    name: str
    type: str
    computed: bool
    fixed: bool
    equals: str | None


@dataclass(frozen=True)
class TableShape:
    """A table's columns, and those of its primary key in that order."""

    oid: int
    schema: str
    name: str
    columns: tuple[Column, ...]
    key: tuple[Column, ...]

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.schema}.{self.name}"

    @property
    def loadable(self) -> tuple[str, ...]:
        """The columns that can be loaded."""
        return tuple(column.name for column in self.columns if not column.computed)


def read_shapes(connection: Connection) -> dict[tuple[str, str], TableShape]:
    """The tables that hold rows themselves, by schema and name."""
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in connection.execute(COLUMNS):
        rows.setdefault((row["schema"], row["name"]), []).append(row)
    shapes = {}
    for name, found in rows.items():
        columns = [Column(row["column"], row["type"], row["computed"], row["fixed"], row["equals"]) for row in found]
        keys = {row["key"]: column for row, column in zip(found, columns, strict=True) if row["key"] is not None}
        shapes[name] = TableShape(found[0]["oid"], *name, tuple(columns), tuple(keys[place] for place in sorted(keys)))
    return shapes


def parents_first(shapes: Sequence[TableShape], references: Sequence[tuple[int, int]]) -> list[TableShape]:
    """Tables in an order in which rows can be inserted; by name where tables refer to each other in a circle.

    Args:
        shapes: the tables.
        references: pairs of a referring and a referred table, by oid.
    """
    by_oid = {shape.oid: shape for shape in shapes}
    graph: dict[int, set[int]] = {oid: set() for oid in by_oid}
    for child, parent in references:
        if child in by_oid and parent in by_oid:
            graph[child].add(parent)
    try:
        return [by_oid[oid] for oid in TopologicalSorter(graph).static_order()]
    except CycleError:
        return list(shapes)


class Exporter:
    """Finds what only one database has, and writes it into a folder of its own.

    Args:
        aside: a session in the database that was put aside, which nobody else is in.
        back: a session in the one that is live again.
        boundaries: what tells when a row was written.
        directory: where the folder is made, for this user alone.
        progress: where to report.
        seconds: how long all of it may take.
    """

    def __init__(
        self, aside: Connection, back: Connection, boundaries: Boundaries, directory: Path, progress: Progress,
        seconds: float,
    ) -> None:
        self.aside, self.back, self.boundaries = aside, back, boundaries
        self.directory, self.progress, self.seconds = directory, progress, seconds
        self._started = time.monotonic()
        self._deadline = self._started + seconds
        self._doing = ""
        self._deletions: dict[int, int] = {}

    def write(self, database: str, aside: str) -> dict[str, Any]:
        """Compare every table and write the files; the folder is there whole or not at all.

        Returns:
            What `summary` gives, `folder` (empty where there was nothing to write) and `seconds`.

        Raises:
            RunbookError: it took too long, or cannot be read or written. Nothing is lost: all rows are where they were.
        """
        hint = (
            f"Nothing is lost: {aside} has all of it. Run the same command again; -e {SECONDS}=<seconds> gives it"
            " another time, and 0 leaves it out."
        )
        partial = self.directory / f".partial-{safe(aside)}"
        try:
            require_private(self.directory, DIRECTORY)
            remove_folder(partial)
            partial.mkdir(mode=0o700)
            with self.progress.during(lambda: self._doing):
                tables, notes = self._compare(partial)
            return self._finish(partial, database, aside, tables, notes)
        except RunbookError as error:
            raise RunbookError(str(error), hint) from error
        except errors.QueryCanceled as error:
            raise self._late(hint) from error
        except errors.DataError as error:  # its text quotes a value
            raise RunbookError(f"{self._doing} failed: a value does not fit the other table's column.", hint) from error
        except errors.Error as error:
            raise RunbookError(f"{self._doing} failed: {first_line(error).rstrip('.')}.", hint) from error
        except UnicodeDecodeError as error:
            raise RunbookError(f"{self._doing} failed: a key is in no known encoding.", hint) from error
        except TimeoutError as error:
            raise self._late(hint) from error
        except OSError as error:
            raise RunbookError(f"The files in {self.directory} cannot be written: {error.strerror}.", hint) from error
        finally:
            with contextlib.suppress(RunbookError):  # the next one takes it away
                remove_folder(partial)

    def _late(self, hint: str) -> RunbookError:
        return RunbookError(f"The export did not end within {about(self.seconds)}; last was: {self._doing}.", hint)

    def _finish(
        self, partial: Path, database: str, aside: str, tables: list[TableExport], notes: list[str]
    ) -> dict[str, Any]:
        told, exact = [one for one in tables if one.files or one.notes], self.boundaries.since is not None
        found = {
            **summary(tables), "exact": exact, "tables": [one.as_dict() for one in told],
            "lines": [*([] if exact else [INEXACT]), *(one.line() for one in told), *notes],
            "seconds": round(time.monotonic() - self._started, 1), "folder": "",
        }
        if any(one.files for one in tables):
            folder = self.directory / safe(aside)
            found["folder"] = str(folder)
            manifest = {"format": 1, "database": database, "from": aside, "exported_at": now(), **found}
            write_whole(partial / SCRIPT, load_script(database, aside, tables))
            write_whole(partial / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
            remove_folder(folder)  # of the same database, by a call that was killed before it was called done
            partial.rename(folder)
        return found

    def _compare(self, folder: Path) -> tuple[list[TableExport], list[str]]:
        for connection in (self.aside, self.back):
            for setting in SETTINGS:
                connection.execute(setting.encode())
            # An application that comes back may alter a table; whoever waits to read one is in nobody's way.
            connection.execute("SET lock_timeout = 0")
        self._deletions = self._read_deletions()
        ours, theirs = read_shapes(self.aside), read_shapes(self.back)
        references = [(row["child"], row["parent"]) for row in self.aside.execute(REFERENCES)]
        notes = [
            f"{'.'.join(name)} is only in the database that is back, and was left as it is."
            for name in theirs if name not in ours
        ]
        if count_large_objects(self.aside) or count_large_objects(self.back):
            notes.append("Large objects are not compared: those written since are only in the database put aside.")
        tables = []
        for number, shape in enumerate(parents_first(list(ours.values()), references), start=1):
            self._doing = f"comparing {shape.label} ({number} of {len(ours)})"
            self._in_time()
            other = theirs.get((shape.schema, shape.name))
            # A transaction for each table: what an application that came back wants to alter waits no longer than that.
            with self._snapshot(self.aside), self._snapshot(self.back):
                tables.append(self._compare_table(folder / f"{number:03d}-{safe(shape.label)}", shape, other))
        return tables, notes

    def _read_deletions(self) -> dict[int, int]:
        """At most how many rows of a table were deleted, by oid, where the server has counted all along.

        TRUNCATE is in no counter, but changes the table's own row in the catalog.
        """
        counters, made_at = read_written(self.aside), utc_text(self.aside.execute(MADE_AT).fetchone()["made_at"])
        if counters.since[:SECOND] > made_at[:SECOND] or self.boundaries.since is None:
            return {}
        query = sql.SQL("SELECT t.oid::bigint AS oid FROM pg_class AS t WHERE {}").format(_later(self.boundaries.since))
        rewritten = {row["oid"] for row in self.aside.execute(query)}
        return {one.oid: one.deleted for one in counters.tables if one.oid not in rewritten}

    @contextlib.contextmanager
    def _snapshot(self, connection: Connection) -> Iterator[None]:
        with connection.transaction(force_rollback=True):
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            left = max(1, int((self._deadline - time.monotonic()) * 1000))
            connection.execute(f"SET LOCAL statement_timeout = {left}".encode())
            yield

    def _in_time(self) -> None:
        if time.monotonic() > self._deadline:
            raise TimeoutError

    def _compare_table(self, base: Path, shape: TableShape, other: TableShape | None) -> TableExport:
        found = TableExport(
            shape.schema, shape.name, list(shape.loadable), [column.name for column in shape.key],
            [column.name for column in shape.columns if column.fixed],
        )
        writers = {
            kind: Writer(
                base.with_name(f"{base.name}.{kind}.csv"), found.columns if kind in (NEW, CHANGED) else found.key
            )
            for kind in KINDS
        }
        try:
            _note_differences(found, shape, other)
            if other is None:
                self._copy_all(shape, writers[NEW])
            elif shape.key and set(shape.key) <= {one for one in other.columns if not one.computed}:
                self._by_key(shape, other, writers)
            else:
                found.key = []
                self._by_content(shape, other, writers[NEW])
                if writers[NEW].rows:
                    found.notes.append(
                        "It has no primary key: a changed row is a new one here, and a deleted one is not seen."
                    )
        finally:
            closed = {kind: writer.close() for kind, writer in writers.items()}
        found.files = {kind: one for kind, one in closed.items() if one}
        if UNCLEAR in found.files:
            found.notes.append(
                "The keys in its file 'unclear' were deleted since the exchange, or written to the database that is"
                " back after the backup: nobody can tell which."
            )
        return found

    # by key

    def _by_key(self, shape: TableShape, other: TableShape, writers: dict[str, Writer]) -> None:
        common = _common(shape, other)
        keys = sql.SQL(", ").join(sql.SQL("{}::text").format(identifier("t", key.name)) for key in shape.key)
        query = sql.SQL("SELECT t.ctid::text, {}, {} FROM ONLY {} AS t WHERE {}").format(
            _content(common), keys, identifier(shape.schema, shape.name), self._written_since()
        )
        for rows in self._batches(self.aside, query):
            there = self._look_up(self.back, other, shape.key, [row[2:] for row in rows], _content(common))
            new = [row[0] for number, row in enumerate(rows) if number not in there]
            changed = [row[0] for number, row in enumerate(rows) if there.get(number, row[1]) != row[1]]
            self._copy(shape, new, writers[NEW])
            self._copy(shape, changed, writers[CHANGED])
        certain = sql.SQL("false")
        if self.boundaries.backup is not None:
            # A row whose number is further away than half of all is older than that, and frozen.
            certain = sql.SQL("age(t.xmin) > age({0}) OR age(t.xmin) < 0").format(_xid(self.boundaries.backup))
        query = sql.SQL("SELECT {}, {} FROM ONLY {} AS t WHERE NOT ({})").format(
            certain, keys, identifier(other.schema, other.name),
            _later(self.boundaries.until) if self.boundaries.until is not None else sql.SQL("false"),
        )
        for rows in self._batches(self.back, query):
            there = self._look_up(self.aside, shape, shape.key, [row[1:] for row in rows], sql.SQL("NULL"))
            for number, row in enumerate(rows):
                if number not in there:
                    writers[DELETED if row[0] else UNCLEAR].write(line(row[1:]), 1)
        if self._deletions.get(shape.oid, writers[DELETED].rows + 1) <= writers[DELETED].rows:
            writers[UNCLEAR].discard()  # all that were deleted are known

    def _look_up(
        self, connection: Connection, shape: TableShape, key: Sequence[Column], values: Sequence[Sequence[str]],
        what: Any,
    ) -> dict[int, Any]:
        """`what` of the rows with these keys, by the place of the key in `values`; those that are there."""
        own = {column.name: column for column in shape.columns}
        names = [sql.Identifier(f"k{number}") for number in range(len(key))]
        columns = [sql.Literal(list(column)) for column in zip(*values, strict=True)]
        same = [
            sql.SQL("{} {} u.{}::{}").format(
                identifier("t", column.name), sql.SQL(column.equals), name, sql.SQL(own[column.name].type)
            )
            for column, name in zip(key, names, strict=True)
        ]
        query = sql.SQL(
            "SELECT u.n - 1, {} FROM unnest({}) WITH ORDINALITY AS u({}, n) JOIN ONLY {} AS t ON {}"
        ).format(
            what, sql.SQL(", ").join(sql.SQL("{}::text[]").format(column) for column in columns),
            sql.SQL(", ").join(names), identifier(shape.schema, shape.name), sql.SQL(" AND ").join(same),
        )
        return dict(connection.cursor(row_factory=tuple_row).execute(query).fetchall())

    # by content

    def _by_content(self, shape: TableShape, other: TableShape, writer: Writer) -> None:
        """Rows written since that the other has not, or not as often: EXCEPT ALL, by what the rows contain."""
        content = _content(_common(shape, other))
        table = identifier(shape.schema, shape.name)
        query = sql.SQL(
            "SELECT content, count(*), array_agg(place) FILTER (WHERE written) FROM (SELECT {} AS content,"
            " t.ctid::text AS place, {} AS written FROM ONLY {} AS t) AS r GROUP BY content HAVING bool_or(written)"
        ).format(content, self._written_since(), table)
        for rows in self._batches(self.aside, query):
            count = sql.SQL(
                "SELECT content, count(*) FROM (SELECT {} AS content FROM ONLY {} AS t) AS r"
                " WHERE content = ANY({}::text[]) GROUP BY content"
            ).format(content, identifier(other.schema, other.name), sql.Literal([row[0] for row in rows]))
            there = dict(self.back.cursor(row_factory=tuple_row).execute(count).fetchall())
            more = [
                place for content_of_row, number, places in rows
                for place in places[: max(0, number - there.get(content_of_row, 0))]
            ]
            self._copy(shape, more, writer)

    def _copy_all(self, shape: TableShape, writer: Writer) -> None:
        query = sql.SQL("SELECT t.ctid::text FROM ONLY {} AS t WHERE {}").format(
            identifier(shape.schema, shape.name), self._written_since()
        )
        for rows in self._batches(self.aside, query):
            self._copy(shape, [row[0] for row in rows], writer)

    # both

    def _written_since(self) -> Any:
        return sql.SQL("true") if self.boundaries.since is None else _later(self.boundaries.since)

    def _batches(self, connection: Connection, query: Any) -> Iterator[list[tuple[Any, ...]]]:
        with connection.cursor("export", row_factory=tuple_row) as cursor:
            cursor.execute(query)
            while rows := cursor.fetchmany(BATCH):
                self._in_time()
                yield rows

    def _copy(self, shape: TableShape, places: Sequence[str], writer: Writer) -> None:
        """Append the rows at these places, which stay where they are: nobody else is in that database."""
        for start in range(0, len(places), BATCH):
            batch = places[start : start + BATCH]
            query = sql.SQL(
                "COPY (SELECT {} FROM ONLY {} WHERE ctid = ANY({}::text[]::tid[])) TO STDOUT WITH (FORMAT csv)"
            ).format(
                sql.SQL(", ").join(identifier(name) for name in shape.loadable),
                identifier(shape.schema, shape.name), sql.Literal(list(batch)),
            )
            with self.aside.cursor() as cursor, cursor.copy(query) as copy:
                for block in copy:
                    writer.write(bytes(block))
            writer.write(b"", len(batch))


def _common(shape: TableShape, other: TableShape) -> tuple[str, ...]:
    theirs = set(other.loadable)
    return tuple(name for name in shape.loadable if name in theirs)


def _note_differences(found: TableExport, shape: TableShape, other: TableShape | None) -> None:
    if other is None:
        found.loadable = False
        found.notes.append("The database that is back has no such table.")
        return
    for names, text in (
        (set(shape.loadable) - set(other.loadable), "The table in the database that is back lacks"),
        (set(other.loadable) - set(shape.loadable), "Only the table in the database that is back has"),
    ):
        if names:
            found.notes.append(f"{text} {', '.join(sorted(names))}.")
    found.loadable = set(shape.loadable) <= set(other.loadable)


def _content(names: Sequence[str]) -> Any:
    return sql.SQL("md5(ROW({})::text)").format(sql.SQL(", ").join(identifier("t", name) for name in names))


def _xid(xid: int) -> Any:
    return sql.SQL("{}::xid").format(sql.Literal(str(xid % 2**32)))


def _later(xid: int) -> Any:
    """Whether a row was written by a later transaction; a number further away than half of all is no later one."""
    return sql.SQL("age(t.xmin) >= 0 AND age(t.xmin) < age({})").format(_xid(xid))
