# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Files and folders that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from pathlib import Path

from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError

PRIVATE = 0o600


def write_whole(path: Path, text: str, mode: int = PRIVATE, owner: tuple[int, int] | None = None) -> None:
    """Put a file in place in one step, and on the disk before that; readers see the old text or the new one.

    Args:
        path: its folder is there.
        text: its new content, in UTF-8.
        mode: its permissions, whatever the umask.
        owner: user and group by number; by default the process's own, or the group of a setgid folder.

    Raises:
        OSError: it cannot be written; then the old file is as it was.
    """
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            if owner is not None:
                os.fchown(stream.fileno(), *owner)
            os.fchmod(stream.fileno(), mode)
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk.

    Raises:
        OSError: the folder is not there, or its disk fails.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
