# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The manifest of a backup: what was in the database at the snapshot, and every file with its size and SHA-256.

It is written last. A folder without one is no backup.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.sre.runbooks.plugins.module_utils.backup.properties import Properties
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError

FORMAT = 1
MANIFEST = "manifest.json"


class ManifestMissingError(RunbookError):
    """There is no manifest: what lies there is no backup, or no whole one."""


class ManifestCorruptError(RunbookError):
    """The manifest is not what was written: its own SHA-256 does not fit."""


class ManifestUnknownError(RunbookError):
    """The manifest is whole, and of a format that this version does not know."""


@dataclass(frozen=True)
class Snapshot:
    """The one moment that dump and counts show. `lsn` is None on a server that is in recovery and replays nothing."""

    id: str
    lsn: str | None
    taken_at: str


@dataclass(frozen=True)
class Table:
    """A table at the snapshot.

    Args:
        schema: its schema.
        name: its name.
        kind: `table`, `unlogged table`, `partitioned table`, `foreign table`, `materialized view`.
        rows: exact number of rows of the table alone, without its children; None where the dump holds no rows
            of it (partitioned and foreign tables, and materialized views, which a restore computes anew).
        fingerprint: see counts.FINGERPRINT; None when none was taken.
    """

    schema: str
    name: str
    kind: str
    rows: int | None = None
    fingerprint: str | None = None


@dataclass(frozen=True)
class Sequence:
    """A sequence at the snapshot, as pg_dump saves it."""

    schema: str
    name: str
    last_value: int
    is_called: bool


@dataclass(frozen=True)
class Counter:
    """How many rows of a table were ever written, by the server's counters (pg_stat_all_tables)."""

    oid: int
    schema: str
    name: str
    inserted: int = 0
    updated: int = 0
    deleted: int = 0


@dataclass(frozen=True)
class Written:
    """The server's counters of rows written, so that somebody can tell later how many were written since.

    Args:
        database: its oid; another database under the same name has counters of its own.
        since: when the counters began anew the last time.
        tables: the counter of each table that holds rows itself.
    """

    database: int
    since: str
    tables: list[Counter]

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Written:
        """Build it from plain data."""
        return cls(**{**data, "tables": [Counter(**table) for table in data["tables"]]})


@dataclass(frozen=True)
class File:
    """A file of the backup; `path` is relative to the backup's folder, with `/`."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Everything known of a backup. Times are ISO 8601 in UTC; see docs/architecture.md.

    `written` is None in a manifest of before it was kept.
    """

    backup_id: str
    system: str
    target: str
    started_at: str
    ended_at: str
    server_version: str
    client_version: str
    system_identifier: str
    database: Properties
    snapshot: Snapshot
    newest_row_at: str | None
    tables: list[Table]
    sequences: list[Sequence]
    large_objects: int
    roles: list[str]
    files: list[File]
    total_bytes: int
    compression: str
    jobs: int
    written: Written | None = None
    format: int = field(default=FORMAT)

    def as_dict(self) -> dict[str, Any]:
        """The manifest as plain data, without its own hash."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Manifest:
        """Build a manifest from what `as_dict` gave."""
        known = {name: value for name, value in data.items() if name != "sha256"}
        return cls(
            **{
                **known,
                "database": Properties.from_dict(data["database"]),
                "snapshot": Snapshot(**data["snapshot"]),
                "tables": [Table(**table) for table in data["tables"]],
                "sequences": [Sequence(**sequence) for sequence in data["sequences"]],
                "files": [File(**file) for file in data["files"]],
                "written": Written.from_dict(data["written"]) if data.get("written") else None,
            }
        )


def _canonical(data: dict[str, Any]) -> bytes:
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def render(data: dict[str, Any]) -> bytes:
    """The one text that stands for `data` in a manifest file, its own hash included."""
    bare = {name: value for name, value in data.items() if name != "sha256"}
    whole = {**bare, "sha256": hashlib.sha256(_canonical(bare)).hexdigest()}
    return (json.dumps(whole, indent=1, ensure_ascii=False) + "\n").encode()


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest into the backup's folder: whole and durable, or not at all."""
    unfinished = folder / f"{MANIFEST}.partial"
    with unfinished.open("wb") as stream:
        stream.write(render(manifest.as_dict()))
        stream.flush()
        os.fsync(stream.fileno())
    unfinished.rename(folder / MANIFEST)
    sync_folder(folder)


def read_manifest(folder: Path) -> Manifest:
    """Read and prove the manifest of a backup's folder.

    The file must be, byte for byte, what `render` makes of its own data, so that no changed byte goes unseen.

    Raises:
        ManifestMissingError: there is none.
        ManifestCorruptError: a byte of it is not what was written.
        ManifestUnknownError: its format is another one.
    """
    path = folder / MANIFEST
    try:
        raw = path.read_bytes()
    except FileNotFoundError as error:
        raise ManifestMissingError(
            f"{folder} holds no {MANIFEST}, so it is no backup.", "Choose another backup of the catalog."
        ) from error
    try:
        data = json.loads(raw)
        whole = isinstance(data, dict) and render(data) == raw
    except (ValueError, RecursionError):
        whole = False
    if not whole:
        raise ManifestCorruptError(
            f"{path} is not what was written: its SHA-256 does not fit its content.",
            "Do not restore from this backup; choose another one of the catalog and look at the store's disk.",
        )
    if data.get("format") != FORMAT:
        raise ManifestUnknownError(
            f"{path} has format {data.get('format')}, and this version reads format {FORMAT}.",
            "Use the version of sre.runbooks that made this backup, or a newer one.",
        )
    return Manifest.from_dict(data)
