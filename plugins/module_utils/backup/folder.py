# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A store in a folder: `<store_path>/<system>/<target>/<backup_id>/`, plain or encrypted."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import BinaryIO

from ansible_collections.sre.runbooks.plugins.module_utils.backup import transfer
from ansible_collections.sre.runbooks.plugins.module_utils.backup.archive import describe_files, files_below
from ansible_collections.sre.runbooks.plugins.module_utils.backup.catalog import Backup
from ansible_collections.sre.runbooks.plugins.module_utils.backup.manifest import (
    MANIFEST,
    File,
    Manifest,
    Stored,
    is_backup_id,
    read_manifest,
    read_proven,
    write_manifest,
)
from ansible_collections.sre.runbooks.plugins.module_utils.backup.store import (
    DATA,
    Privacy,
    Room,
    TargetStore,
    flock_of,
    undone_by,
)
from ansible_collections.sre.runbooks.plugins.module_utils.backup.verdict import (
    VERDICTS,
    Verdict,
    append_verdict,
    read_verdicts,
)
from ansible_collections.sre.runbooks.plugins.module_utils.backup.work import (
    abandoned,
    work_folder,
)
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.files import remove_folder, sync_folder
from ansible_collections.sre.runbooks.plugins.module_utils.run.progress import Progress
from ansible_collections.sre.runbooks.plugins.module_utils.run.words import size as size_words

PARTIAL = ".partial-"
REMOVING = ".removing-"
LOCK = ".lock"


class TargetFolder(TargetStore):
    """The backups of one target in a folder."""

    def __init__(self, store_path: Path, system: str, target: str, privacy: Privacy | None = None) -> None:
        super().__init__(system, target, privacy)
        self.store_path = store_path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def path(self) -> Path:
        """The folder of this target."""
        return self.store_path / self.system / self.target

    def backup(self, backup_id: str) -> Path:
        """The folder of one backup; it need not exist."""
        return self.path / backup_id

    def partial(self, backup_id: str) -> Path:
        """The folder of a backup while it is made."""
        return self.path / f"{PARTIAL}{backup_id}"

    @property
    def identity(self) -> tuple[str | None, ...]:
        return (str(self.path.resolve()),)

    def _place_of(self, backup_id: str) -> Path:
        """Where its files are, also while it is made."""
        folder = self.backup(backup_id)
        return folder if folder.is_dir() else self.partial(backup_id)

    def at(self, backup_id: str) -> str:
        return str(self.backup(backup_id))

    @property
    def is_in_place(self) -> bool:
        return not self.privacy.recipients

    def require(self) -> None:
        """Refuse a store that is not there: a forgotten mount must not fill the disk below it.

        Raises:
            RunbookError: the store's folder does not exist.
        """
        if not self.store_path.is_dir():
            raise RunbookError(
                f"The store's folder {self.store_path} does not exist.",
                "Create it, or mount what belongs there; store_path in the inventory names it.",
            )

    def rooms(self) -> tuple[Room, ...]:
        kept = Room(self.path, self.stored_free_bytes(), is_work=False)
        return (kept,) if self.is_in_place else (kept, work_room(self.work_directory))

    def stored_free_bytes(self) -> int:
        return free_below(self.path)

    def backups(self) -> list[Backup]:
        return [self._look(backup_id) for backup_id in self.ids()]

    def ids(self) -> list[str]:
        try:
            return sorted(entry.name for entry in self.path.iterdir() if is_backup_id(entry.name))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise RunbookError(
                f"The store's folder {self.path} cannot be read: {error.strerror}.",
                "Look at its owner and rights; a folder that cannot be read is no empty catalog.",
            ) from error

    def _look(self, backup_id: str) -> Backup:
        place, problem, verdicts = self.at(backup_id), "", ()
        try:
            verdicts = tuple(self.verdicts(backup_id))
            data = read_proven(self.backup(backup_id))
            is_of = [data["system"], data["target"], data["backup_id"]]
            if is_of == [self.system, self.target, backup_id]:
                return Backup.of(data, place, verdicts)
            problem = f"The manifest in {place} is that of {'/'.join(map(str, is_of))}."
        except RunbookError as error:
            problem = error.message
        except OSError as error:
            problem = f"{error.filename or place} cannot be read: {error.strerror}."
        except (KeyError, TypeError, ValueError) as error:
            problem = f"The manifest in {place} has not the form of one: {error!r}."
        return Backup(backup_id, place, problem, verdicts)

    def _manifest(self, backup_id: str) -> Manifest:
        return read_manifest(self.backup(backup_id))

    def verdicts(self, backup_id: str) -> list[Verdict]:
        return read_verdicts(self.backup(backup_id))

    def add_verdict(self, verdict: Verdict) -> None:
        append_verdict(self.backup(verdict.backup_id), verdict)

    def names(self, backup_id: str) -> list[str]:
        return [name for name in files_below(self._place_of(backup_id)) if name not in (MANIFEST, VERDICTS)]

    def leftovers(self) -> list[str]:
        left = [folder for prefix in (PARTIAL, REMOVING) for folder in sorted(self.path.glob(f"{prefix}*"))]
        return [str(folder) for folder in [*left, *abandoned(self.work_directory)]]

    def remove_leftovers(self) -> list[str]:
        names = self.leftovers()
        for name in names:
            remove_folder(Path(name))
        return names

    def locked(self) -> AbstractContextManager[None]:
        return flock_of(self.path / LOCK, self.target)

    @contextlib.contextmanager
    def making(self, backup_id: str) -> Iterator[Path]:
        made = self.partial(backup_id)
        made.mkdir(mode=0o700)
        with undone_by(partial(remove_folder, made), str(made)):
            if self.is_in_place:
                yield made
            else:
                with work_folder(self.work_directory, backup_id) as work:
                    yield work

    def sending(self, backup_id: str, folder: Path, jobs: int, estimated_bytes: int) -> transfer.Sending:
        if self.is_in_place:
            return InPlace(folder, jobs)
        meter = transfer.Meter(f"encrypting into {self.partial(backup_id)}")
        return transfer.Sending(folder, self.recipients(), partial(self.put, backup_id), meter, jobs, estimated_bytes)

    def unsend(self, backup_id: str) -> None:
        if not self.is_in_place:
            remove_folder(self.partial(backup_id) / DATA)

    def put(self, backup_id: str, name: str, stream: BinaryIO, about_bytes: int) -> Stored:  # noqa: ARG002 - S3 asks
        return write_stream(self.partial(backup_id) / name, stream)

    def publish(self, manifest: Manifest) -> None:
        made = self.partial(manifest.backup_id)
        sync_folder(made / DATA)
        write_manifest(made, manifest)
        made.rename(self.backup(manifest.backup_id))
        sync_folder(self.path)

    def remove(self, backup_id: str) -> None:
        going = self.path / f"{REMOVING}{backup_id}"
        try:
            self.backup(backup_id).rename(going)
        except OSError as error:
            raise RunbookError(
                f"{self.at(backup_id)} cannot be removed: {error.strerror}.", "Look at its owner and rights."
            ) from error
        sync_folder(self.path)
        remove_folder(going)

    @contextlib.contextmanager
    def plain(self, manifest: Manifest, jobs: int, progress: Progress) -> Iterator[Path]:
        if not manifest.encryption:
            yield self.backup(manifest.backup_id)
            return
        with super().plain(manifest, jobs, progress) as work:
            yield work

    def stored(self, manifest: Manifest) -> transfer.Open:
        folder = self._place_of(manifest.backup_id)

        @contextlib.contextmanager
        def open_stored(name: str) -> Iterator[Iterator[bytes]]:
            with reading(folder / name):
                stream = (folder / name).open("rb", buffering=0)
            with stream:
                yield chunks_of(stream, folder / name)

        return open_stored


def work_room(folder: Path) -> Room:
    """Room for plain data on their way."""
    return Room(folder, free_below(folder), is_work=True)


def free_below(place: Path) -> int:
    """Free space for this user, of the file system that `place` is or would be on."""
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what the system says into a sentence."""
    try:
        yield
    except OSError as error:
        raise RunbookError(f"{path} cannot be read: {error.strerror}.", "Look at the disk of the store.") from error


def chunks_of(stream: BinaryIO, path: Path) -> Iterator[bytes]:
    """What is in an open file.

    Raises:
        RunbookError: it cannot be read.
    """
    with reading(path):
        yield from iter(lambda: stream.read(transfer.CHUNK), b"")


class InPlace(transfer.Sending):
    """The files of a dump that need not be sent: they lie where they belong, and are hashed when it has ended."""

    def __init__(self, folder: Path, jobs: int) -> None:
        self._folder, self._jobs = folder, jobs

    def look(self) -> None:
        """Nothing has to be sent."""

    def finish(self, paths: Iterable[str], progress: Progress) -> list[File]:
        """What a manifest says of them."""
        paths = list(paths)
        progress.say(f"hashing {size_words(sum((self._folder / path).stat().st_size for path in paths))}")
        return describe_files(self._folder, paths, self._jobs)

    def __exit__(self, *_error: object) -> None:
        """Nothing is under way."""


def write_stream(path: Path, stream: BinaryIO) -> Stored:
    """Write a stream to a new file, durable when this returns."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    digest, count = hashlib.sha256(), 0
    with path.open("xb", buffering=0) as target:
        path.chmod(0o600)
        while chunk := stream.read(transfer.CHUNK):
            digest.update(chunk)
            count += len(chunk)
            target.write(chunk)
        os.fsync(target.fileno())
    return Stored(count, digest.hexdigest())
