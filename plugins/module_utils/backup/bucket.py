# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A store in a bucket of S3. Names carry what a catalog shows, so that listing a thousand backups is one request:

    <prefix>/<system>/<target>/manifests/<backup_id>~<taken_at>~<newest_row_at>~<total_bytes>.json
    <prefix>/<system>/<target>/verdicts/<backup_id>~<proven_at>~<verdict>~<rung>.json
    <prefix>/<system>/<target>/data/<backup_id>/<file>
    <prefix>/<system>/<target>/claims/<backup_id>.json      who made it
    <prefix>/<system>/<target>/removals/<backup_id>.json    while it is removed

Times in names are milliseconds since 1970; what is not known is `none`. A manifest is written last. What a failed or a
killed process wrote is taken away by its writer's name, so never what another machine wrote.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import BinaryIO

from ansible_collections.sre.runbooks.plugins.module_utils.backup import transfer
from ansible_collections.sre.runbooks.plugins.module_utils.backup.catalog import Backup, parse_time
from ansible_collections.sre.runbooks.plugins.module_utils.backup.claims import Claims
from ansible_collections.sre.runbooks.plugins.module_utils.backup.folder import work_room
from ansible_collections.sre.runbooks.plugins.module_utils.backup.manifest import (
    Manifest,
    ManifestCorruptError,
    ManifestMissingError,
    Stored,
    is_backup_id,
    parse_manifest,
    render,
)
from ansible_collections.sre.runbooks.plugins.module_utils.backup.s3 import (
    LEAST_PART_BYTES,
    AlreadyThereError,
    Body,
    Bucket,
    S3Bucket,
    StoredObject,
    part_bytes_for,
)
from ansible_collections.sre.runbooks.plugins.module_utils.backup.store import (
    Privacy,
    Room,
    TargetStore,
    flock_of,
    undone_by,
)
from ansible_collections.sre.runbooks.plugins.module_utils.backup.verdict import (
    BAD,
    UNREADABLE,
    Verdict,
    hashed,
    parse_verdict,
)
from ansible_collections.sre.runbooks.plugins.module_utils.backup.work import (
    abandoned,
    require_private,
    work_folder,
)
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.files import remove_folder
from ansible_collections.sre.runbooks.plugins.module_utils.run.moments import utc_text

# One file alone may become so many times what a whole dump is estimated at.
ESTIMATES_FAIL = 4
UNKNOWN = "none"
SEPARATOR = "~"
# What is claimed for longer is shown as a problem: no backup takes so long (its own time-out is far below).
GIVEN_UP = timedelta(hours=49)
# Milliseconds until the year 5138, so that every number is a moment.
MOMENT = rf"({UNKNOWN}|[0-9]{{1,14}})"
MANIFEST_NAME = re.compile(rf"([^~]*)~{MOMENT}~{MOMENT}~([0-9]{{1,18}})\.json")
VERDICT_NAME = re.compile(r"([^~]*)~([0-9]{1,14})~([^~]*)~([^~]*)\.json")


class TargetBucket(TargetStore):
    """The backups of one target in a bucket.

    Args:
        maximum_bytes_per_second: cap of all that is sent together; None has none.
    """

    is_in_place = False

    def __init__(
        self, bucket: Bucket, system: str, target: str, privacy: Privacy | None = None,
        maximum_bytes_per_second: int | None = None,
    ) -> None:
        super().__init__(system, target, privacy)
        self._s3 = S3Bucket(bucket)
        self._maximum = maximum_bytes_per_second
        self._root = f"{system}/{target}"
        self._claims = Claims(self._s3, self._root, self.work_directory / "claims")

    def __str__(self) -> str:
        return self._s3.url(self._root)

    @property
    def identity(self) -> tuple[str | None, ...]:
        return (self._s3.bucket.endpoint, str(self))

    def at(self, backup_id: str) -> str:
        return f"{self._s3.url(self._root)}/data/{backup_id}"

    def require(self) -> None:
        self._s3.require()

    def rooms(self) -> tuple[Room, ...]:
        return (work_room(self.work_directory),)

    def stored_free_bytes(self) -> None:
        return None

    def ids(self) -> list[str]:
        return sorted({one for one in (id_in(one.key) for one in self._s3.list(f"{self._root}/manifests/")) if one})

    def backups(self) -> list[Backup]:
        # In this order, so that what is made meanwhile has a claim, or a manifest.
        sent = set(self._s3.folders(f"{self._root}/data/"))
        claims, verdicts = self._claims.all(), self._listed_verdicts()
        found: dict[str, Backup] = {}
        for one in self._s3.list(f"{self._root}/manifests/"):
            backup = self._backup_of(one.key, verdicts)
            if backup is None:
                continue
            if backup.backup_id in found:
                backup = replace(backup, problem="It has more than one manifest.", taken_at=None)
            found[backup.backup_id] = backup
        oldest = datetime.now(UTC) - GIVEN_UP
        for backup_id in sent - set(found):
            since, proofs = claims.get(backup_id), tuple(verdicts.get(backup_id, ()))
            # Some servers list a folder for a while after its last file is gone.
            if is_backup_id(backup_id) and (since is None or since < oldest or proofs) and self.names(backup_id):
                found[backup_id] = Backup(backup_id, self.at(backup_id), self._without_manifest(since), proofs)
        return sorted(found.values(), key=lambda backup: backup.backup_id)

    def _without_manifest(self, since: datetime | None) -> str:
        begun = f" It was begun at {utc_text(since, 'seconds')}." if since else ""
        return (
            f"It has files and no manifest.{begun} Either a machine was killed while it sent it, and its next backup"
            " takes them away, or somebody removed the manifest. Look at it, and remove by hand what nobody needs, its"
            f" object below {self._root}/claims as well."
        )

    def _listed_verdicts(self) -> dict[str, list[Verdict]]:
        verdicts: dict[str, list[Verdict]] = {}
        for one in sorted(self._s3.list(f"{self._root}/verdicts/"), key=by_server):
            if verdict := verdict_of(one.key):
                verdicts.setdefault(verdict.backup_id, []).append(verdict)
        return verdicts

    def _backup_of(self, key: str, verdicts: dict[str, list[Verdict]]) -> Backup | None:
        """What the name of a manifest says; None for an object that is not even called like a backup."""
        backup_id = id_in(key)
        if backup_id is None:
            return None
        proofs, parts = tuple(verdicts.get(backup_id, ())), MANIFEST_NAME.fullmatch(name_in(key))
        if parts is None or parts[2] == UNKNOWN:
            return Backup(backup_id, self.at(backup_id), f"The name {key!r} is none of a manifest.", proofs)
        newest = time_of(parts[3])
        return Backup(
            backup_id, self.at(backup_id), "", proofs, time_of(parts[2]), utc_text(newest) if newest else None,
            int(parts[4]),
        )

    def _manifest(self, backup_id: str) -> Manifest:
        keys = self._manifest_keys(backup_id)
        if not keys:
            raise ManifestMissingError(
                f"{self.at(backup_id)} has no manifest, so it is no backup.", "Choose another backup of the catalog."
            )
        if len(keys) > 1:
            raise ManifestCorruptError(
                f"{self.at(backup_id)} has {len(keys)} manifests.", "Find out who wrote them; choose another backup."
            )
        return parse_manifest(self._s3.read(keys[0]), self._s3.url(keys[0]))

    def _manifest_keys(self, backup_id: str) -> list[str]:
        return [one.key for one in self._s3.list(self._manifests(backup_id))]

    def locked_until(self, backup_id: str) -> datetime | None:
        moments = [self._s3.locked_until(key) for key in self._manifest_keys(backup_id)]
        return max((moment for moment in moments if moment and moment > datetime.now(UTC)), default=None)

    def verdicts(self, backup_id: str) -> list[Verdict]:
        verdicts = []
        for one in sorted(self._s3.list(f"{self._root}/verdicts/{backup_id}{SEPARATOR}"), key=by_server):
            if named := verdict_of(one.key):
                text = self._s3.read(one.key).decode("utf-8", "replace")
                verdicts.append(parse_verdict(text, backup_id, named.proven_at))
        return verdicts

    def add_verdict(self, verdict: Verdict) -> None:
        parts = (
            verdict.backup_id, name_of(parse_time(verdict.proven_at)), verdict.verdict, verdict.rung or UNKNOWN
        )
        text = json.dumps(hashed(verdict), ensure_ascii=False)
        self._s3.put_bytes(f"{self._root}/verdicts/{SEPARATOR.join(parts)}.json", text.encode())

    def names(self, backup_id: str) -> list[str]:
        data = self._data(backup_id)
        return [one.key.removeprefix(data) for one in self._s3.list(data)]

    def leftovers(self) -> list[str]:
        return [*(str(folder) for folder in abandoned(self.work_directory)), *map(self.at, self._unfinished())]

    def _unfinished(self) -> list[str]:
        """Ids of what a killed process of this machine was sending, or any machine was removing."""
        notes = self._claims.abandoned()
        there = set(self.ids()) if notes else set()
        return sorted({backup_id for backup_id, _writer in notes} - there | set(self._going()))

    def _going(self) -> list[str]:
        return [one for one in (id_in(one.key) for one in self._s3.list(f"{self._root}/removals/")) if one]

    def remove_leftovers(self) -> list[str]:
        names, notes = self.leftovers(), self._claims.abandoned()
        there = set(self.ids()) if notes else set()
        for backup_id, writer in notes:
            if backup_id in there:
                self._claims.forget(backup_id, writer)
            else:
                self._undo(backup_id, writer)
        for backup_id in self._going():
            self._remove(backup_id)
        for folder in abandoned(self.work_directory):
            remove_folder(folder)
        return names

    def locked(self) -> AbstractContextManager[None]:
        require_private(self.work_directory.parent)
        return flock_of(self.work_directory.parent / f".{self.work_directory.name}.lock", self.target)

    @contextlib.contextmanager
    def making(self, backup_id: str) -> Iterator[Path]:
        writer = self._s3.writer
        with work_folder(self.work_directory, backup_id) as work, self._claims.taken(backup_id):
            if self.names(backup_id) or self._manifest_keys(backup_id):
                self._claims.give_back(backup_id, writer)
                raise RunbookError(
                    f"{self.at(backup_id)} holds files already, or a manifest, that another machine wrote.",
                    "Nothing there is overwritten: look at the catalog of that store, then start it again.",
                )
            with undone_by(partial(self._undo, backup_id, writer), f"What was sent to {self.at(backup_id)}"):
                yield work

    def _undo(self, backup_id: str, writer: str) -> None:
        """Take away what one process wrote. Its manifest first: while that may be there, its files must be as well.

        Raises:
            RunbookError: a part of it stays; its claim as well, so that this is done again.
        """
        self._s3.delete(self._s3.written_by(self._manifests(backup_id), writer))
        if self._claims.writer(backup_id) == writer:
            self._s3.abort_unfinished(self._data(backup_id))
        self._s3.delete(self._s3.written_by(self._data(backup_id), writer))
        self._claims.give_back(backup_id, writer)

    def sending(self, backup_id: str, folder: Path, jobs: int, estimated_bytes: int) -> transfer.Sending:
        meter = transfer.Meter(f"sending to {self.at(backup_id)}", maximum_bytes_per_second=self._maximum)
        most = estimated_bytes * ESTIMATES_FAIL
        # The size of an object's parts is chosen when it is begun, and they are held in memory.
        followed = most if part_bytes_for(most) == LEAST_PART_BYTES else None
        return transfer.Sending(folder, self.recipients(), partial(self.put, backup_id), meter, jobs, followed)

    def unsend(self, backup_id: str) -> None:
        self._s3.abort_unfinished(self._data(backup_id))
        self._s3.delete(self._s3.written_by(self._data(backup_id), self._s3.writer))

    def put(self, backup_id: str, name: str, stream: BinaryIO, about_bytes: int) -> Stored:
        return self._s3.put(f"{self._data(backup_id)}{name}", stream, part_bytes_for(about_bytes))

    def publish(self, manifest: Manifest) -> None:
        newest = parse_time(manifest.newest_row_at) if manifest.newest_row_at else None
        parts = (
            manifest.backup_id, name_of(parse_time(manifest.snapshot.taken_at)), name_of(newest),
            str(manifest.total_bytes),
        )
        self._s3.put_bytes(f"{self._root}/manifests/{SEPARATOR.join(parts)}.json", render(manifest.as_dict()))

    def remove(self, backup_id: str) -> None:
        with contextlib.suppress(AlreadyThereError):  # another machine was killed while it did this
            self._s3.put_bytes(self._removal(backup_id), b"{}")
        self._remove(backup_id)

    def _remove(self, backup_id: str) -> None:
        prefixes = (self._manifests(backup_id), f"{self._root}/verdicts/{backup_id}{SEPARATOR}", self._data(backup_id))
        for prefix in prefixes:
            self._s3.delete([one.key for one in self._s3.list(prefix)])
        self._s3.delete([self._claims.key(backup_id), self._removal(backup_id)])

    def stored(self, manifest: Manifest) -> transfer.Open:
        checksums = {
            transfer.stored_name(manifest, file.path): file.stored.checksum for file in manifest.files if file.stored
        }

        @contextlib.contextmanager
        def open_stored(name: str) -> Iterator[Iterator[bytes]]:
            with self._s3.open(f"{self._data(manifest.backup_id)}{name}") as body:
                require_checksum(name, body, checksums.get(name))
                yield body.chunks

        return open_stored

    def _data(self, backup_id: str) -> str:
        return f"{self._root}/data/{backup_id}/"

    def _manifests(self, backup_id: str) -> str:
        return f"{self._root}/manifests/{backup_id}{SEPARATOR}"

    def _removal(self, backup_id: str) -> str:
        return f"{self._root}/removals/{backup_id}.json"


def require_checksum(name: str, body: Body, wanted: str | None) -> None:
    """Compare the checksum that the server states with that in the manifest, where both are.

    Raises:
        BrokenFileError: they differ, so this is not the object that was sent.
    """
    if wanted and body.checksum and body.checksum != wanted:
        raise transfer.BrokenFileError(
            f"{name} has the checksum {body.checksum} in the store instead of {wanted}", name=name
        )


def name_in(key: str) -> str:
    """The last part of an object's name."""
    return key.rsplit("/", 1)[-1]


def id_in(key: str) -> str | None:
    """The id of a backup with which an object's name begins; None where it does not."""
    found = name_in(key).removesuffix(".json").split(SEPARATOR)[0]
    return found if is_backup_id(found) else None


def by_server(listed: StoredObject) -> tuple[datetime, bool, str]:
    """Orders verdicts by the server's clock, which is one; within its second, one that is bad is the last word."""
    return (listed.modified_at, any(f"{SEPARATOR}{bad}{SEPARATOR}" in listed.key for bad in BAD), listed.key)


def verdict_of(key: str) -> Verdict | None:
    """What the name of a verdict says; None when it is none."""
    parts = VERDICT_NAME.fullmatch(name_in(key))
    moment = time_of(parts[2]) if parts else None
    if parts is None or moment is None or not is_backup_id(parts[1]):
        return None
    try:
        return Verdict(parts[3], None if parts[4] == UNKNOWN else parts[4], utc_text(moment), parts[1])
    except ValueError:
        return Verdict(UNREADABLE, None, utc_text(moment), parts[1])


def name_of(moment: datetime | None) -> str:
    """A moment as a part of a name: milliseconds since 1970."""
    return UNKNOWN if moment is None else str(round(moment.timestamp() * 1000))


def time_of(name: str) -> datetime | None:
    """The moment that a part of a name says, which MOMENT has seen."""
    return None if name == UNKNOWN else datetime.fromtimestamp(int(name) / 1000, UTC)
