# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who may write a backup into a bucket.

A claim is an object that only one process of all machines can put, and that stays beside the backup: a key that may
not delete is enough to make one. A note of it on the process's own machine lasts until the backup is whole, so that
this machine, and no other one, takes away what was begun by a process that was killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from ansible_collections.sre.runbooks.plugins.module_utils.backup.s3 import AlreadyThereError, S3Bucket
from ansible_collections.sre.runbooks.plugins.module_utils.backup.work import require_private
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.moments import now


class Claims:
    """The claims of one target.

    Args:
        s3: the bucket.
        root: of the target in it.
        folder: of the notes on this machine.
    """

    def __init__(self, s3: S3Bucket, root: str, folder: Path) -> None:
        self._s3, self._folder, self._prefix = s3, folder, f"{root}/claims/"

    @contextlib.contextmanager
    def taken(self, backup_id: str) -> Iterator[None]:
        """Have the claim. The note stays when the block fails, unless that gave the claim back.

        Raises:
            RunbookError: another process has it.
        """
        require_private(self._folder)
        note = self._note(backup_id, self._s3.writer)
        descriptor = os.open(note, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            try:
                said = {"host": socket.gethostname(), "since": now()}
                self._s3.put_bytes(self.key(backup_id), json.dumps(said).encode())
            except AlreadyThereError as error:
                note.unlink()
                raise RunbookError(
                    f"{self._s3.url(self.key(backup_id))} says that another machine is copying this backup, or was"
                    " killed while it did.",
                    "Start this again when it has ended. What a killed one left is taken away by the next run on the"
                    " same machine; when that machine is gone, remove this object and the files of the backup by hand.",
                ) from error
            self._s3.require_refusal(self.key(backup_id))
            yield
            note.unlink()
        finally:
            os.close(descriptor)

    def give_back(self, backup_id: str, writer: str) -> None:
        """Let another process have the claim, where it is still this writer's; nothing is left of what it wrote.

        Raises:
            RunbookError: it cannot be removed.
        """
        if self.writer(backup_id) == writer:
            self._s3.delete([self.key(backup_id)])
        self.forget(backup_id, writer)

    def forget(self, backup_id: str, writer: str) -> None:
        """Take the note away."""
        self._note(backup_id, writer).unlink(missing_ok=True)

    def writer(self, backup_id: str) -> str | None:
        """Which process has the claim; None where nobody has."""
        return self._s3.writer_of(self.key(backup_id))

    def all(self) -> dict[str, datetime]:
        """Since when which backups are claimed, by whomever."""
        listed = {one.key.removeprefix(self._prefix): one.modified_at for one in self._s3.list(self._prefix)}
        return {name.removesuffix(".json"): moment for name, moment in listed.items()}

    def abandoned(self) -> list[tuple[str, str]]:
        """Ids and writers of the notes of processes of this machine that ended in the middle."""
        found = []
        for note in sorted(self._folder.iterdir()) if self._folder.is_dir() else []:
            with contextlib.suppress(BlockingIOError, FileNotFoundError):
                descriptor = os.open(note, os.O_RDWR | os.O_CLOEXEC)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    backup_id, _unused, writer = note.name.partition(".")
                    found.append((backup_id, writer))
                finally:
                    os.close(descriptor)
        return found

    def _note(self, backup_id: str, writer: str) -> Path:
        return self._folder / f"{backup_id}.{writer}"

    def key(self, backup_id: str) -> str:
        """The object's name."""
        return f"{self._prefix}{backup_id}.json"
