# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Where a recovery stands, in a file beside the data directories: it must be readable when no server runs."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.files import write_whole
from ansible_collections.sre.runbooks.plugins.module_utils.run.progress import Progress

FORMAT = 1
# In their order. `exchanging`: the live server is stopped and the folders are renamed. `opening`: the restored one
# starts in the live one's place. `opened`: it was promoted, and whoever may write does. `done`: its new timeline has a
# proven base backup.
UNTOUCHED, RESTORING, RESTORED = "untouched", "restoring", "restored"
EXCHANGING, OPENING, OPENED, DONE, UNDOING = "exchanging", "opening", "opened", "done", "undoing"
STATES = (UNTOUCHED, RESTORING, RESTORED, EXCHANGING, OPENING, OPENED, DONE, UNDOING)
# Folders beside the data directory.
CONTROL, RESTORING_FOLDER = ".pitr", ".restoring"


@dataclass(frozen=True)
class Position:
    """Where a recovery stands. No secret is in it."""

    state: str = UNTOUCHED
    run: str = ""
    backup: str = ""
    target: dict[str, Any] | None = None
    timeline: int = 0
    system_identifier: str = ""
    port: int = 0
    # Folder of the live cluster that was put aside, or will be.
    kept: str = ""
    until: str = ""
    # Of an undo: the folder that the restored cluster gets.
    abandoned: str = ""
    new_backup: str = ""
    # The position of a finished recovery before this one, which an undo of this one reaches again.
    before: dict[str, Any] | None = None


class Places:
    """The folders beside a data directory, and the position in one of them.

    Args:
        data_directory: of the live cluster.
    """

    def __init__(self, data_directory: Path) -> None:
        self.data = data_directory
        self.control = data_directory.with_name(data_directory.name + CONTROL)
        self.restoring = data_directory.with_name(data_directory.name + RESTORING_FOLDER)
        self.socket = self.control / "socket"
        self.spool = self.control / "spool"
        self.log = self.control / "server.log"
        self.hba = self.control / "pg_hba.conf"
        self.file = self.control / "position.json"

    def aside(self, word: str, stamp: str) -> Path:
        """Where a cluster is put aside: `<data directory>.<word>-<stamp>`."""
        return self.data.with_name(f"{self.data.name}.{word}-{stamp}")

    def read(self) -> Position:
        """The position; `untouched` without a file.

        Raises:
            RunbookError: the file is of another form, so nobody knows what is live.
        """
        try:
            text = self.file.read_text(encoding="utf-8")
        except FileNotFoundError:
            return Position()
        except OSError as error:
            raise RunbookError(
                f"The position in {self.file} cannot be read: {error.strerror}.",
                "Run this as the server's user or root.",
            ) from error
        try:
            content = json.loads(text)
            if content.pop("format") != FORMAT or content["state"] not in STATES:
                raise ValueError("it is of another version")
            return Position(**content)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise RunbookError(
                f"The position in {self.file} is of no form that this version knows: {error}.",
                "Look which folder beside the data directory is which, then move that file away.",
            ) from error

    def write(self, position: Position, **changes: Any) -> Position:
        """Write the position, whole and on the disk, and return it.

        Raises:
            OSError: it cannot be written; then the old one is as it was.
        """
        position = replace(position, **changes)
        write_whole(self.file, json.dumps({"format": FORMAT, **asdict(position)}, indent=1) + "\n", owner=self._owner())
        sync_folder(self.control)
        return position

    def prepare(self, owner: tuple[int, int]) -> None:
        """Make the folder of the position and those in it, which nobody but the server's user can enter."""
        for folder in (self.control, self.socket, self.spool):
            folder.mkdir(mode=0o700, exist_ok=True)
            if os.geteuid() == 0:
                os.chown(folder, *owner)
            folder.chmod(0o700)

    def clear(self, position: Position) -> Position:
        """Write that nothing of a recovery is left but what was there before it, and return that."""
        if position.before:
            return self.write(Position(**position.before))
        self.file.unlink(missing_ok=True)
        sync_folder(self.control)
        return Position()

    @contextlib.contextmanager
    def alone(self, progress: Progress, wait_s: float) -> Iterator[None]:
        """Keep every other run from this data directory; the kernel lets go when the process ends, however it ends.

        Raises:
            RunbookError: another one still works on it after `wait_s`.
        """
        descriptor = os.open(self.control / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + wait_s
        try:
            if owner := self._owner():
                os.fchown(descriptor, *owner)
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise RunbookError(
                            f"Another run still works on {self.data}; waited {wait_s:.0f} s for it.",
                            "Wait until it has ended, then start the same command again: it goes on from there.",
                        ) from None
                progress.tick(lambda: f"waiting for the run that still works on {self.data}")
                time.sleep(0.1)
            yield
        finally:
            os.close(descriptor)

    def _owner(self) -> tuple[int, int] | None:
        if os.geteuid() != 0:
            return None
        status = self.control.stat()
        return status.st_uid, status.st_gid


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
