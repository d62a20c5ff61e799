# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Where backups live: `<store_path>/<system>/<target>/<backup_id>/` in a folder."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ansible_collections.sre.runbooks.plugins.module_utils.backup.manifest import sync_folder
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.moments import now

BACKUP_ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{4}")
PARTIAL = ".partial-"
LOCK = ".lock"
DATA = "data"
GLOBALS = "globals.sql"


def new_backup_id(moment: datetime) -> str:
    """A new id: the start in UTC and four random hexadecimal digits, so that names sort by age."""
    return f"{moment.astimezone(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"


@dataclass(frozen=True)
class TargetFolder:
    """The backups of one target in one store."""

    store_path: Path
    system: str
    target: str

    def __post_init__(self) -> None:
        for part in (self.system, self.target):
            if not part or "/" in part or part.startswith("."):
                raise RunbookError(
                    f"{part!r} cannot be the name of a folder in a store.", "Rename it in the inventory."
                )

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

    def backup_ids(self) -> list[str]:
        """The ids of all folders that may be backups, oldest first.

        Raises:
            RunbookError: the folder is there and cannot be read.
        """
        try:
            return sorted(entry.name for entry in self.path.iterdir() if BACKUP_ID.fullmatch(entry.name))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise RunbookError(
                f"The store's folder {self.path} cannot be read: {error.strerror}.",
                "Look at its owner and rights; a folder that cannot be read is no empty catalog.",
            ) from error

    def leftovers(self) -> list[Path]:
        """What killed backups left."""
        return sorted(self.path.glob(f"{PARTIAL}*")) if self.path.is_dir() else []

    def free_bytes(self) -> int:
        """Free space of the store's file system for this user."""
        place = self.path
        while not place.exists():
            place = place.parent
        return shutil.disk_usage(place).free

    def require_store(self) -> None:
        """Refuse a store that is not there: a forgotten mount must not fill the disk below it.

        Raises:
            RunbookError: the store's folder does not exist.
        """
        if not self.store_path.is_dir():
            raise RunbookError(
                f"The store's folder {self.store_path} does not exist.",
                "Create it, or mount what belongs there; store_path in the inventory names it.",
            )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold this target's flock; the kernel lets go of it when the process ends, however it ends.

        Raises:
            RunbookError: another process holds it, or the folder cannot be written.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise RunbookError(
                f"The store's folder {self.path} cannot be written: {error.strerror}.",
                "Look at its owner and rights, and at the room of its disk.",
            ) from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RunbookError(
                    f"Another backup of {self.target} is being made: {_holder(descriptor)} holds {self.path / LOCK}.",
                    "Wait until it has ended, then start this again.", target=self.target,
                ) from error
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps({"process": os.getpid(), "since": now()}).encode(), 0)
            yield
        finally:
            os.close(descriptor)

    def remove_leftovers(self) -> list[str]:
        """Remove what killed backups left; only under the lock. Returns the names removed."""
        names = []
        for folder in self.leftovers():
            remove_folder(folder)
            names.append(folder.name)
        return names

    def publish(self, backup_id: str) -> Path:
        """Give a finished backup its name, durable when this returns."""
        final = self.backup(backup_id)
        self.partial(backup_id).rename(final)
        sync_folder(self.path)
        return final


def remove_folder(folder: Path) -> None:
    """Remove a folder. A program that is just dying may still write into it, so this tries a few times.

    Raises:
        RunbookError: it is still there.
    """
    for _unused in range(20):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)
    raise RunbookError(f"{folder} cannot be removed.", "Remove it by hand, and look at its owner and rights.")


def _holder(descriptor: int) -> str:
    try:
        record = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {record['process']} since {record['since']}"
    except (ValueError, KeyError, TypeError):
        return "a process"
