# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The file of a target's lock, for one user or for a group of them."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.files import PRIVATE, write_whole
from ansible_collections.sre.runbooks.plugins.module_utils.run.lock import Lock, from_dict

SHARED = 0o660


class LockFile:
    """The file of one target's lock, changed by one process at a time.

    A folder that its group may write is shared: then so are the files in it.

    Args:
        directory: where the locks are kept; made for this user alone when missing.
        target: what is locked; any text.
    """

    def __init__(self, directory: Path, target: str) -> None:
        self.directory = directory
        self.path = directory / f"{quote(target, safe='')}.json"

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        """Keep all others out of this directory's locks meanwhile."""
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = self._open_guard()
        except OSError as error:
            raise self._unusable(error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _open_guard(self) -> int:
        place = self.directory / ".guard"
        with contextlib.suppress(FileNotFoundError):
            return os.open(place, os.O_RDWR | os.O_CLOEXEC)
        with contextlib.suppress(FileExistsError):
            mode, owner = self._sharing()
            # The umask must not narrow it: between two users it would lock one of them out for good.
            descriptor, temporary = tempfile.mkstemp(dir=self.directory, prefix=".guard.")
            try:
                os.fchown(descriptor, *owner)
                os.fchmod(descriptor, mode)
                os.link(temporary, place)
            finally:
                os.close(descriptor)
                os.unlink(temporary)
        return os.open(place, os.O_RDWR | os.O_CLOEXEC)

    def _sharing(self) -> tuple[int, tuple[int, int]]:
        """Permissions, user and group of this folder's files."""
        folder = self.directory.stat()
        return (SHARED, (-1, folder.st_gid)) if folder.st_mode & stat.S_IWGRP else (PRIVATE, (-1, -1))

    def _unusable(self, error: OSError) -> RunbookError:
        return RunbookError(
            f"The locks' folder {self.directory} on {socket.gethostname()} cannot be written: {error.strerror}.",
            "Make it there once, as root, for the group of those who act:"
            f" install -d -m 2770 -g <group> {self.directory} (or give all of them another one as run_lock_directory).",
        )

    def read(self) -> Lock | None:
        """The lock as it stands; None when there is none.

        Raises:
            RunbookError: the file is there and cannot be read, which is no proof that nobody holds it.
        """
        try:
            return from_dict(json.loads(self.path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise RunbookError(
                f"The lock {self.path} cannot be read ({type(error).__name__}).",
                "Look who works on the target, then remove the file.",
            ) from error

    def write(self, lock: Lock | None) -> None:
        """Put the lock in place whole, or take it away when it is None.

        Raises:
            RunbookError: the folder cannot be written.
        """
        try:
            if lock is None:
                self.path.unlink(missing_ok=True)
                return
            write_whole(self.path, json.dumps(lock.as_dict(), ensure_ascii=False, indent=1), *self._sharing())
        except OSError as error:
            raise self._unusable(error) from error
