# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Where the backups of one target live: what every kind of store can do."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from ansible_collections.sre.runbooks.plugins.module_utils.backup.catalog import Backup
from ansible_collections.sre.runbooks.plugins.module_utils.backup.encryption import (
    CIPHER,
    Keyring,
    Recipient,
    read_recipients,
)
from ansible_collections.sre.runbooks.plugins.module_utils.backup.manifest import (
    WRITTEN_BY_OTHERS,
    Encryption,
    Manifest,
    ManifestCorruptError,
    Stored,
)
from ansible_collections.sre.runbooks.plugins.module_utils.backup.transfer import Meter, Open, Sending, fetch, prove
from ansible_collections.sre.runbooks.plugins.module_utils.backup.verdict import Verdict
from ansible_collections.sre.runbooks.plugins.module_utils.backup.work import default_directory, room_for, work_folder
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.moments import now
from ansible_collections.sre.runbooks.plugins.module_utils.run.progress import Progress

DATA = "data"
GLOBALS = "globals.sql"
# What must stay free on a store for its file system's own needs and other writers.
RESERVE_BYTES = 16 << 20


def new_backup_id(moment: datetime) -> str:
    """A new id: the start in UTC, its part of the second as a hexadecimal fraction, so that names sort by age."""
    return f"{moment.astimezone(UTC):%Y%m%dT%H%M%SZ}-{moment.microsecond * 0x10000 // 1_000_000:04x}"


@dataclass(frozen=True)
class Room:
    """Free space for this user where a backup is written.

    Args:
        folder: it need not exist.
        free_bytes: of its file system.
        is_work: whether plain data only lie there on their way.
    """

    folder: Path
    free_bytes: int
    is_work: bool


@dataclass(frozen=True)
class Privacy:
    """Who can read what a store keeps, and where plain data may lie on its way.

    Args:
        recipients: files with the public keys that backups are encrypted to; empty leaves them plain.
        keyring: where the secret keys are that open them again.
        work_directory: where plain data lie while they are sent or proven; None is a folder below /var/tmp.
    """

    recipients: tuple[str, ...] = ()
    keyring: Keyring = field(default_factory=Keyring)
    work_directory: Path | None = None


class TargetStore(ABC):
    """The backups of one target in one store.

    Args:
        system: the inventory's own name.
        target: the inventory host.
        privacy: who may read them.

    Raises:
        RunbookError: a name would leave the store.
    """

    def __init__(self, system: str, target: str, privacy: Privacy | None = None) -> None:
        for part in (system, target):
            if not part or "/" in part or part.startswith("."):
                raise RunbookError(
                    f"{part!r} cannot be the name of a folder in a store.", "Rename it in the inventory."
                )
        self.system, self.target, self.privacy = system, target, privacy or Privacy()

    @abstractmethod
    def __str__(self) -> str:
        """The place, as people and plans name it."""

    @property
    @abstractmethod
    def identity(self) -> tuple[str | None, ...]:
        """The same for all that mean this place, whatever they are called."""

    @abstractmethod
    def at(self, backup_id: str) -> str:
        """The place of one backup, as people name it."""

    @abstractmethod
    def require(self) -> None:
        """Make sure that the store is there.

        Raises:
            RunbookError: it is not, or may not be used.
        """

    @abstractmethod
    def rooms(self) -> tuple[Room, ...]:
        """The places of this host that a backup is written to."""

    @abstractmethod
    def stored_free_bytes(self) -> int | None:
        """Room for what the store keeps; None where nobody says."""

    @abstractmethod
    def ids(self) -> list[str]:
        """The ids of all backups, oldest first.

        Raises:
            RunbookError: the store cannot be read, which is no empty catalog.
        """

    def newest_manifest(self) -> Manifest | None:
        """The manifest of the newest backup whose manifest is whole; only one is read, since each may be large."""
        for backup_id in reversed(self.ids()):
            with contextlib.suppress(RunbookError, OSError):
                return self.manifest(backup_id)
        return None

    @abstractmethod
    def backups(self) -> list[Backup]:
        """All backups, oldest first; one that is broken or cannot be read is listed with its problem.

        Raises:
            RunbookError: the store cannot be read, which is no empty catalog.
        """

    def manifest(self, backup_id: str) -> Manifest:
        """The manifest of one backup, proven whole, and that of this very backup of this target.

        Raises:
            ManifestCorruptError: it is that of another one.
            RunbookError: see manifest.parse_manifest.
        """
        found = self._manifest(backup_id)
        is_of, wanted = (found.system, found.target, found.backup_id), (self.system, self.target, backup_id)
        if is_of != wanted:
            raise ManifestCorruptError(
                f"{self.at(backup_id)} has the manifest of {'/'.join(is_of)} instead of {'/'.join(wanted)}.",
                WRITTEN_BY_OTHERS,
            )
        return found

    @abstractmethod
    def _manifest(self, backup_id: str) -> Manifest:
        """The manifest that lies there."""

    def locked_until(self, backup_id: str) -> datetime | None:  # noqa: ARG002 - a bucket asks
        """Until when the store itself keeps a backup whatever is asked of it; None where it does not.

        Raises:
            RunbookError: nobody can know.
        """
        return None

    @abstractmethod
    def verdicts(self, backup_id: str) -> list[Verdict]:
        """The verdicts of one backup, oldest first."""

    @abstractmethod
    def add_verdict(self, verdict: Verdict) -> None:
        """Write a verdict beside its backup, durable when this returns."""

    @abstractmethod
    def names(self, backup_id: str) -> list[str]:
        """The names of a backup's files, as they are kept; without manifest and verdicts."""

    @abstractmethod
    def leftovers(self) -> list[str]:
        """What killed backups left."""

    @abstractmethod
    def remove_leftovers(self) -> list[str]:
        """Remove it; only under the lock. Returns the names removed."""

    @abstractmethod
    def locked(self) -> AbstractContextManager[None]:
        """Hold the lock of this target for the making of a backup.

        Raises:
            RunbookError: another process of this host makes one.
        """

    @abstractmethod
    def making(self, backup_id: str) -> AbstractContextManager[Path]:
        """An empty folder to dump into; when the block fails, nothing is left of it, nor of what was sent."""

    @abstractmethod
    def sending(self, backup_id: str, folder: Path, jobs: int, estimated_bytes: int) -> Sending:
        """Brings the dumped files, which are estimated at so many bytes, into the store."""

    @abstractmethod
    def unsend(self, backup_id: str) -> None:
        """Take away what was sent of a backup that is being made, since its dump begins anew."""

    @abstractmethod
    def put(self, backup_id: str, name: str, stream: BinaryIO, about_bytes: int) -> Stored:
        """Store a stream of about so many bytes as a file of a backup that is being made; says what was stored."""

    @abstractmethod
    def stored(self, manifest: Manifest) -> Open:
        """Opens what the store has of a backup, or of one that is being made, by the names of its files there."""

    @abstractmethod
    def publish(self, manifest: Manifest) -> None:
        """Write the manifest: from now on the backup exists, durable when this returns."""

    @abstractmethod
    def remove(self, backup_id: str) -> None:
        """Remove a backup for good; from the first moment on it is none. Only under the lock.

        Raises:
            RunbookError: it, or a part of it, cannot be removed.
        """

    def prove(self, manifest: Manifest, jobs: int, progress: Progress) -> None:
        """Compare every byte that the store has with the manifest; needs no key.

        Raises:
            BrokenFileError: a file is not what was written.
        """
        meter = Meter("reading files", manifest.stored_bytes)
        with progress.during(meter.words):
            prove(manifest, self.stored(manifest), meter, jobs)

    @contextlib.contextmanager
    def plain(self, manifest: Manifest, jobs: int, progress: Progress) -> Iterator[Path]:
        """A folder with the backup's plain files, for as long as the block lasts.

        Where `is_in_place`, it is the store's own, and nothing was compared yet; else every byte was.

        Raises:
            BrokenFileError: a file is not what was written.
            KeyMissingError: no secret key of this host opens it.
        """
        meter = Meter("fetching", manifest.stored_bytes)
        with work_folder(self.work_directory, manifest.backup_id) as work:
            with room_for(work, manifest.total_bytes), progress.during(meter.words):
                fetch(manifest, work, self.stored(manifest), self.privacy.keyring, meter, jobs)
            yield work

    @property
    @abstractmethod
    def is_in_place(self) -> bool:
        """Whether a plain backup is read where it lies."""

    @property
    def work_directory(self) -> Path:
        """Where plain data lie on their way, below a folder for each target of each store."""
        store = hashlib.sha256(repr(self.identity).encode()).hexdigest()[:8]
        return (self.privacy.work_directory or default_directory()) / f"{self.system}.{self.target}.{store}"

    def recipients(self) -> list[Recipient]:
        """Whom to encrypt to.

        Raises:
            RunbookError: a key is missing or cannot be used.
        """
        return read_recipients(self.privacy.recipients) if self.privacy.recipients else []

    def sealed(self, manifest: Manifest) -> Manifest:
        """The manifest with the keys that open the backup."""
        if not self.privacy.recipients:
            return manifest
        return replace(manifest, encryption=Encryption(CIPHER, [key.fingerprint for key in self.recipients()]))


@contextlib.contextmanager
def undone_by(undo: Callable[[], None], left: str) -> Iterator[None]:
    """When the block fails, undo it. When that fails as well, the first error is raised, and says what is left."""
    try:
        yield
    except BaseException as error:
        try:
            undo()
        except (RunbookError, OSError) as second:
            if isinstance(error, RunbookError):
                error.hint = f"{error.hint} {left} is still there, since it could not be removed: {second}"
            error.add_note(f"{left} is still there: {str(second).rstrip('.')}.")
        raise


def left_after(error: BaseException, nothing: str) -> str:
    """What is left after a failure that was undone, in words; `nothing` where all of it is gone."""
    return " ".join(getattr(error, "__notes__", ())) or nothing


@contextlib.contextmanager
def flock_of(path: Path, target: str) -> Iterator[None]:
    """Hold a target's flock; the kernel lets go of it when the process ends, however it ends.

    Raises:
        RunbookError: another process holds it, or the folder cannot be written.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise RunbookError(
            f"The folder {path.parent} cannot be written: {error.strerror}.",
            "Look at its owner and rights, and at the room of its disk.",
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunbookError(
                f"Another backup of {target} is being made: {_holder(descriptor)} holds {path}.",
                "Wait until it has ended, then start this again.", target=target,
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"process": os.getpid(), "since": now()}).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _holder(descriptor: int) -> str:
    try:
        record = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {record['process']} since {record['since']}"
    except (ValueError, KeyError, TypeError):
        return "a process"
