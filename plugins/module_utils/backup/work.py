# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Folders for plain data on its way to or from a store: 0700, held by the process that uses them, removed always.

What a killed process left is removed by the next one on the same host that makes such a folder, whatever for.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.files import remove_folder
from ansible_collections.sre.runbooks.plugins.module_utils.run.words import size as size_words

HELD = ".held"
LARGER = "Make room there, or name a folder on a larger disk: store_work_directory."


def default_directory() -> Path:
    """Below /var/tmp, since a dump is often larger than the memory behind /tmp; one for each user."""
    return Path("/var/tmp") / f"sre.runbooks-work-{os.getuid()}"  # noqa: S108 - owner and mode are proven before use


def require_private(folder: Path, variable: str = "store_work_directory") -> None:
    """Make the folder, and those above it, for this user alone, and make sure that nobody else could put things there.

    Args:
        folder: for plain data.
        variable: the one that names another.

    Raises:
        RunbookError: it cannot be made, or belongs to somebody else, or others may look into it or put another one in
            its place.
    """
    try:
        for missing in [one for one in (folder, *folder.parents) if not one.exists()][::-1]:
            missing.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        insecure = next((one for one in {*folder.parents, *folder.resolve().parents} if not _is_secure(one)), None)
    except OSError as error:
        raise RunbookError(
            f"The folder {folder} cannot be made: {error.strerror}.", f"Name another one: {variable}."
        ) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise RunbookError(
            f"The folder {folder} is not a folder of this user alone (owner {found.st_uid}, mode"
            f" {stat.S_IMODE(found.st_mode):o}).",
            f"Plain data lie there for a while: chmod it to 700, or name another one: {variable}.",
        )
    if insecure:
        above = insecure.stat()
        raise RunbookError(
            f"Another user could put another folder in the place of the folder {folder}: {insecure} has the owner"
            f" {above.st_uid} and the mode {stat.S_IMODE(above.st_mode):o}.",
            "Plain data lie there for a while: let each folder above it belong to this user or to root, and be writable"
            f" for nobody else, or name another one: {variable}.",
        )


def _is_secure(folder: Path) -> bool:
    """Whether only this user and root decide what the names in a folder mean, as in a sticky one."""
    found, own = folder.stat(), {0, os.getuid()}
    if found.st_uid not in own or folder.lstat().st_uid not in own:
        return False
    # Who is in a group that root lets write is root's own choice.
    writable = stat.S_IWOTH if found.st_uid == 0 else stat.S_IWOTH | stat.S_IWGRP
    return bool(found.st_mode & stat.S_ISVTX) or not found.st_mode & writable


@contextlib.contextmanager
def work_folder(root: Path, name: str) -> Iterator[Path]:
    """A new folder below `root`, gone when the block ends, however it ends. Those of killed processes go first.

    Raises:
        RunbookError: it cannot be made.
    """
    require_private(root)
    for left in abandoned(root):
        remove_folder(left)
    with _making(root):
        folder = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=root))
        descriptor = os.open(folder / HELD, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        (folder / "plain").mkdir(mode=0o700)
        yield folder / "plain"
    finally:
        remove_folder(folder)
        os.close(descriptor)


@contextlib.contextmanager
def _making(root: Path) -> Iterator[None]:
    """Only one process at a time makes folders, or looks whose are held: a new one is not held yet."""
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def room_for(folder: Path, needed_bytes: int) -> Iterator[None]:
    """Make sure that so much can be written to a folder, and say so where it cannot after all.

    Raises:
        RunbookError: there is less room, or the disk is full, or cannot be written.
    """
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise RunbookError(
            f"The plain files take {size_words(needed_bytes)}, and {folder} has {size_words(free)} free.", LARGER,
            needed_bytes=needed_bytes, free_bytes=free,
        )
    try:
        yield
    except OSError as error:
        raise RunbookError(f"The plain files cannot be written to {folder}: {error.strerror}.", LARGER) from error


def abandoned(root: Path) -> list[Path]:
    """Folders below `root` that nobody holds: their processes were killed."""
    if not root.is_dir():
        return []
    found = []
    with _making(root):
        for folder in sorted(root.iterdir()):
            with contextlib.suppress(OSError):
                descriptor = os.open(folder / HELD, os.O_RDWR | os.O_CLOEXEC)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    found.append(folder)
                finally:
                    os.close(descriptor)
    return found
