# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

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
