# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The manifest of a backup: what was in the database at the snapshot, and every file with its size and SHA-256.

It is written last. A folder without one is no backup.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from ansible_collections.sre.runbooks.plugins.module_utils.backup.properties import Properties
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.files import sync_folder

FORMAT = 1
MANIFEST = "manifest.json"
BACKUP_ID = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{4}")
# What pg_dump and pg_dumpall write; a name that leads elsewhere would be written there by who fetches the backup.
FILE_PATH = re.compile(r"globals\.sql|data/[A-Za-z0-9_][A-Za-z0-9_.-]*")
WRITTEN_BY_OTHERS = "Do not use this backup: find out who wrote it, and choose another one of the catalog."
# The last line of a manifest: the SHA-256 of all the text before it.
HASH_LINE = re.compile(rb',\n "sha256": "([0-9a-f]{64})"\n}\n')
HASH_LINE_BYTES = len(',\n "sha256": ""\n}\n') + 64


def is_backup_id(name: str) -> bool:
    """Whether a name is one that a backup can have: a moment in UTC, and four hexadecimal digits."""
    try:
        return bool(BACKUP_ID.fullmatch(name) and datetime.strptime(name[:16], "%Y%m%dT%H%M%SZ"))  # noqa: DTZ007
    except ValueError:
        return False


class ManifestMissingError(RunbookError):
    """There is no manifest: what lies there is no backup, or no whole one."""


class ManifestCorruptError(RunbookError):
    """The manifest is not what was written: its own SHA-256 does not fit."""


class ManifestUnknownError(RunbookError):
    """The manifest is whole, and of a format that this version does not know."""


@dataclass(frozen=True)
class Snapshot:
    """The one moment that dump and counts show.

    Args:
        lsn: None on a server that is in recovery and replays nothing.
        xid: whatever has an earlier transaction is in it.
    """

    id: str
    lsn: str | None
    taken_at: str
    xid: int


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
class Stored:
    """What the store has of a file, where that is not the plain file itself.

    Args:
        bytes: its size there.
        sha256: of these bytes, hexadecimal.
        part_bytes: size of the parts in which it was sent to S3; None in a folder.
        checksum: S3's own SHA-256 of it, base64; with `-<parts>` it is the hash of the parts' hashes.
    """

    bytes: int
    sha256: str
    part_bytes: int | None = None
    checksum: str | None = None


@dataclass(frozen=True)
class Encryption:
    """How the files of a backup are encrypted; `recipients` are the fingerprints of the keys that open them."""

    cipher: str
    recipients: list[str]


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
    """A file of the backup; `path` is relative to the backup, with `/`; size and SHA-256 are the plain file's."""

    path: str
    bytes: int
    sha256: str
    stored: Stored | None = None


@dataclass(frozen=True)
class Manifest:
    """Everything known of a backup. Times are ISO 8601 in UTC; see docs/architecture.md.

    `objects` is None only where some tables were chosen out of a backup: nothing was counted of them alone.
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
    written: Written
    encryption: Encryption | None = None
    objects: dict[str, int] | None = None
    format: int = field(default=FORMAT)

    @property
    def stored_bytes(self) -> int:
        """What its files take in the store."""
        return sum(file.stored.bytes if file.stored else file.bytes for file in self.files)

    def as_dict(self) -> dict[str, Any]:
        """The manifest as plain data, without its own hash."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Manifest:
        """Build a manifest from what `as_dict` gave.

        Raises:
            ManifestCorruptError: it does not have the form of one, or its id or the path of a file is none of a backup.
        """
        known = {name: value for name, value in data.items() if name != "sha256"}
        try:
            manifest = cls(
                **{
                    **known,
                    "database": Properties.from_dict(data["database"]),
                    "snapshot": Snapshot(**data["snapshot"]),
                    "tables": [Table(**table) for table in data["tables"]],
                    "sequences": [Sequence(**sequence) for sequence in data["sequences"]],
                    "files": [_file(file) for file in data["files"]],
                    "encryption": Encryption(**data["encryption"]) if data.get("encryption") else None,
                    "written": Written.from_dict(data["written"]),
                }
            )
            wrong = [file.path for file in manifest.files if not FILE_PATH.fullmatch(file.path)]
            known_id = is_backup_id(manifest.backup_id)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ManifestCorruptError(f"A manifest has not the form of one: {error!r}.", WRITTEN_BY_OTHERS) from error
        if wrong or not known_id:
            raise ManifestCorruptError(
                f"A manifest names the file {wrong[0]!r}, which no backup has." if wrong
                else f"A manifest has the id {manifest.backup_id!r}, which no backup has.", WRITTEN_BY_OTHERS,
            )
        return manifest


def _file(data: dict[str, Any]) -> File:
    stored = data.get("stored")
    return File(**{**data, "stored": Stored(**stored) if stored else None})


def render(data: dict[str, Any]) -> bytes:
    """The text that stands for `data` in a manifest file, its own hash in the last line."""
    bare = {name: value for name, value in data.items() if name != "sha256"}
    head = json.dumps(bare, indent=1, ensure_ascii=False).removesuffix("\n}").encode()
    return head + f',\n "sha256": "{hashlib.sha256(head).hexdigest()}"\n}}\n'.encode()


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

    Raises:
        ManifestMissingError: there is none.
        RunbookError: see prove_manifest.
    """
    return Manifest.from_dict(read_proven(folder))


def read_proven(folder: Path) -> dict[str, Any]:
    """The data of a backup's manifest, proven, without the work of building a Manifest, for a long catalog.

    Raises:
        ManifestMissingError: there is none.
        RunbookError: see prove_manifest.
    """
    path = folder / MANIFEST
    try:
        raw = path.read_bytes()
    except FileNotFoundError as error:
        raise ManifestMissingError(
            f"{folder} holds no {MANIFEST}, so it is no backup.", "Choose another backup of the catalog."
        ) from error
    return prove_manifest(raw, str(path))


def parse_manifest(raw: bytes, place: str) -> Manifest:
    """Prove the text of a manifest, and read it.

    Raises:
        RunbookError: see prove_manifest.
    """
    return Manifest.from_dict(prove_manifest(raw, place))


def prove_manifest(raw: bytes, place: str) -> dict[str, Any]:
    """Prove the text of a manifest, so that no changed byte goes unseen; its data.

    Args:
        raw: the file's content.
        place: where it is, for the error.

    Raises:
        ManifestCorruptError: a byte of it is not what was written.
        ManifestUnknownError: its format is another one.
    """
    try:
        data = json.loads(raw)
        whole = isinstance(data, dict) and _hash_fits(raw)
    except (ValueError, RecursionError):
        whole = False
    if not whole:
        raise ManifestCorruptError(
            f"{place} is not what was written: its SHA-256 does not fit its content.",
            "Do not restore from this backup; choose another one of the catalog and look at the store's disk.",
        )
    if data.get("format") != FORMAT:
        raise ManifestUnknownError(
            f"{place} has format {data.get('format')}, and this version reads format {FORMAT}.",
            "Use the version of sre.runbooks that made this backup, or a newer one.",
        )
    return data


def _hash_fits(raw: bytes) -> bool:
    end = HASH_LINE.fullmatch(raw, len(raw) - HASH_LINE_BYTES) if len(raw) > HASH_LINE_BYTES else None
    return end is not None and hashlib.sha256(raw[: end.start()]).hexdigest().encode() == end[1]
