# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Where a recovery stands, in a file beside the data directories: it must be readable when no server runs."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import stat
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.files import sync_folder, write_whole
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
STAMP = r"\d{8}T\d{6}Z"


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
    # What came of the owner's own check; see application.py. Empty before it was asked.
    application_check: str = ""
    # Lines that the exchange added to postgresql.auto.conf, and that go when the restored cluster is promoted.
    added: tuple[str, ...] = ()
    # A drill's copy: the next drill removes it, and nobody exchanges it.
    drill: bool = False
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
            content["added"] = tuple(content.get("added", ()))
            position = Position(**content)
            self._require_own(position)
            return position
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise RunbookError(
                f"The position in {self.file} is of no form that this version knows: {error}.",
                "Look which folder beside the data directory is which, then move that file away.",
            ) from error

    def _require_own(self, position: Position) -> None:
        """Whoever may write the file must not have us rename other folders than those of this cluster.

        Raises:
            ValueError: it names another one.
        """
        for word, folder in (("retired", position.kept), ("abandoned", position.abandoned)):
            if folder and not re.fullmatch(re.escape(f"{self.data}.{word}-") + STAMP, folder):
                raise ValueError(f"{folder} is no folder that a recovery of {self.data} puts aside")

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
        control = open_private(self.control, owner)
        try:
            for folder in (self.socket, self.spool):
                os.close(open_private(folder, owner, inside=control))
        finally:
            os.close(control)

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
        # What is here belongs to the server's user: as root nothing that leads elsewhere is followed or given away.
        descriptor = os.open(self.control / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        deadline = time.monotonic() + wait_s
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
                raise RunbookError(f"{self.control / 'lock'} is no file of its own.", "Remove it, and see who made it.")
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
                            busy=True,
                        ) from None
                progress.tick(lambda: f"waiting for the run that still works on {self.data}")
                time.sleep(0.1)
            yield
        finally:
            os.close(descriptor)

    def _owner(self) -> tuple[int, int] | None:
        if os.geteuid() != 0:
            return None
        status = self.control.lstat()
        return status.st_uid, status.st_gid


def open_private(folder: Path, owner: tuple[int, int], inside: int | None = None) -> int:
    """Make a folder that nobody but its owner can enter, and return its descriptor, which the caller closes.

    Args:
        folder: the folder.
        owner: user and group who get it, where we are root.
        inside: descriptor of the folder that it is in; then no link is followed on the way there.

    Raises:
        RunbookError: it is a link, or no folder: as root we would give away what it leads to.
    """
    name = folder if inside is None else folder.name
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=inside)
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=inside)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR):
            raise
        raise RunbookError(
            f"{folder} is a link, or no folder.", "Remove it, and see who made it. Nothing was changed.",
        ) from error
    try:
        if os.geteuid() == 0:
            os.fchown(descriptor, *owner)
        os.fchmod(descriptor, 0o700)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
