# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The files of an export: rows as CSV, what they are, and a script that loads them. No I/O but writing them."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import identifier
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.words import counted, size

NEW, CHANGED, DELETED, UNCLEAR = KINDS = ("new", "changed", "deleted", "unclear")
SCRIPT = "load.sql"
DIRECTORY = "database_restore_export_directory"
HINT = f"Name another folder: {DIRECTORY}."
# A folder may be on the server's own disk, which must not become full for files that are a convenience.
FREE_SHARE = 0.05


@dataclass
class RowFile:
    """A CSV file with a header, as COPY writes and reads it."""

    file: str
    rows: int
    bytes: int
    sha256: str


@dataclass
class TableExport:
    """What was found in a table. `deleted` rows are known by their keys alone, and None where a table has none.

    Args:
        columns: of the files with rows.
        key: of the files with keys.
        loadable: whether the database that is live again has all these columns.
    """

    schema: str
    name: str
    columns: list[str]
    key: list[str]
    fixed: list[str]
    loadable: bool = True
    files: dict[str, RowFile] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.schema}.{self.name}"

    def rows(self, kind: str) -> int | None:
        """How many there are of one of KINDS."""
        if not self.key and kind != NEW:
            return None
        return self.files[kind].rows if kind in self.files else 0

    def line(self) -> str:
        """A sentence for people."""
        found = ", ".join(f"{one.rows:,} {kind} in {one.file}" for kind, one in self.files.items())
        return " ".join([f"{self.label}: {found or 'no rows'}.", *self.notes])

    def as_dict(self) -> dict[str, Any]:
        """For the manifest and a result: never a value of a row."""
        return {
            "table": self.label, "columns": self.columns, "key": self.key,
            **{kind: self.rows(kind) for kind in KINDS},
            "files": [{"kind": kind, **asdict(one)} for kind, one in self.files.items()], "notes": self.notes,
        }


class Writer:
    """Writes one file of an export, which exists only when it has rows.

    Raises:
        RunbookError: it cannot be written, or the disk is nearly full.
    """

    def __init__(self, path: Path, header: Sequence[str]) -> None:
        self.path, self.rows = path, 0
        self._header, self._bytes = header, 0
        self._hash = hashlib.sha256()
        self._stream: Any = None

    def write(self, block: bytes, rows: int = 0) -> None:
        """Append to the file; `rows` of them."""
        try:
            if self._stream is None:
                descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                self._stream = os.fdopen(descriptor, "wb")
                self._put(line(self._header))
            self._put(block)
            self.rows += rows
            if rows:
                disk = shutil.disk_usage(self.path.parent)
                if disk.free < FREE_SHARE * disk.total:
                    raise RunbookError(
                        f"The disk of {self.path.parent} has only {size(disk.free)} free, and is left alone.",
                        HINT,
                    )
        except OSError as error:
            raise RunbookError(
                f"{self.path} cannot be written: {error.strerror}.", HINT
            ) from error

    def _put(self, block: bytes) -> None:
        self._stream.write(block)
        self._hash.update(block)
        self._bytes += len(block)

    def discard(self) -> None:
        """Take the file away again."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
            self.path.unlink()

    def close(self) -> RowFile | None:
        """Put the file on the disk; None when there were no rows."""
        if self._stream is None:
            return None
        with self._stream as stream:
            stream.flush()
            os.fsync(stream.fileno())
        return RowFile(self.path.name, self.rows, self._bytes, self._hash.hexdigest())


def line(values: Sequence[str]) -> bytes:
    """A line of CSV in which nothing is null."""
    return (",".join('"' + value.replace('"', '""') + '"' for value in values) + "\n").encode()


def safe(name: str) -> str:
    """A name as one of a file: letters, digits, dots, hyphens and underscores."""
    return re.sub(r"[^\w.-]", "_", name)


def summary(tables: Sequence[TableExport]) -> dict[str, Any]:
    """How many rows of each kind, and all that in words."""
    numbers = {kind: sum(one.rows(kind) or 0 for one in tables) for kind in KINDS}
    parts = [f"{numbers[kind]:,} {kind}" for kind in (CHANGED, DELETED) if numbers[kind]]
    text = ", ".join([counted(numbers[NEW], "new row"), *parts])
    if numbers[UNCLEAR]:
        text += f" and {counted(numbers[UNCLEAR], 'key')} that may have been deleted,"
    touched = sum(1 for one in tables if one.files)
    return {**numbers, "text": f"{text} in {counted(touched, 'table')}" if touched else "nothing"}


def load_script(database: str, aside: str, tables: Sequence[TableExport]) -> str:
    """A script for psql that brings a database what an export has: all of it or nothing.

    Deleted rows go first, children before parents; then the new ones come, parents before children, then the changes.
    """
    lines = [
        f"-- What was written to {_comment(aside)} while it was live. Read it first, and leave out what is not wanted.",
        "-- In this folder, as a role that may write to these tables (their triggers fire):",
        f"--   psql -X -d {_comment(_shell(database))} -f {SCRIPT}",
        r"\set ON_ERROR_STOP on", r"\encoding UTF8", "BEGIN;",
    ]
    blocks: list[tuple[str, Sequence[TableExport], Callable[[TableExport, int], list[str]]]] = [
        (DELETED, list(reversed(tables)), _delete), (NEW, tables, _insert), (CHANGED, tables, _update),
    ]
    number = 0
    for kind, ordered, statements in blocks:
        for one in ordered:
            if kind not in one.files:
                continue
            number += 1
            lines += ["", f"-- {_comment(one.label)}: {one.files[kind].rows:,} {kind}"]
            lines += [f"-- {_comment(note)}" for note in one.notes]
            if any(mark in name for name in (one.schema, one.name, *one.columns, *one.key) for mark in "\r\n"):
                # psql takes the next line for a command of its own.
                lines.append("-- A name of it has a line break: load it by hand.")
                continue
            usable = one.loadable or kind == DELETED
            lines += [text if usable else f"-- {text}" for text in statements(one, number)]
    return "\n".join([*lines, "", "COMMIT;", ""])


def _insert(one: TableExport, _number: int) -> list[str]:
    return [f"\\copy {_table(one)} ({_quoted(one.columns)}) FROM '{one.files[NEW].file}' WITH (FORMAT csv, HEADER)"]


def _update(one: TableExport, number: int) -> list[str]:
    columns = [name for name in one.columns if name not in one.key and name not in one.fixed]
    changes = ", ".join(f"{_quoted([name])} = c.{_quoted([name])}" for name in columns)
    statement = f"UPDATE ONLY {_table(one)} AS t SET {changes} FROM changes_{number} AS c WHERE {_same(one)};"  # noqa: S608
    return [*_staged(one, number, CHANGED, one.columns), *([statement] if changes else [])]


def _delete(one: TableExport, number: int) -> list[str]:
    return [
        *_staged(one, number, DELETED, one.key),
        f"DELETE FROM ONLY {_table(one)} AS t USING changes_{number} AS c WHERE {_same(one)};",  # noqa: S608
    ]


def _staged(one: TableExport, number: int, kind: str, columns: Sequence[str]) -> list[str]:
    names = _quoted(columns)
    empty = f"SELECT {names} FROM {_table(one)} LIMIT 0"  # noqa: S608
    return [
        f"CREATE TEMPORARY TABLE changes_{number} ON COMMIT DROP AS {empty};",
        f"\\copy changes_{number} ({names}) FROM '{one.files[kind].file}' WITH (FORMAT csv, HEADER)",
    ]


def _same(one: TableExport) -> str:
    return " AND ".join(f"t.{_quoted([name])} = c.{_quoted([name])}" for name in one.key)


def _table(one: TableExport) -> str:
    return identifier(one.schema, one.name).as_string()


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(identifier(name).as_string() for name in names)


def _comment(text: str) -> str:
    return " ".join(text.split())


def _shell(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
