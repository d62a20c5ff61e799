# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Small file systems of a test's own. Only root can mount them; there, a mount that fails is a failure."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


def require_root() -> None:
    """Leave a test out that needs a file system of its own."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")


@contextlib.contextmanager
def mounted(folder: Path, size: str, mode: str = "0755") -> Iterator[Path]:
    """A file system of its own, of this size."""
    require_root()
    folder.mkdir(parents=True, exist_ok=True)
    mount, unmount = (shutil.which(name) or name for name in ("mount", "umount"))
    subprocess.run([mount, "-t", "tmpfs", "-o", f"size={size},mode={mode}", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run([unmount, "--lazy", str(folder)], check=True)


def fill(folder: Path, leave: int) -> Path:
    """Fill a file system but for so many bytes; the ballast."""
    ballast = folder / "ballast"
    with ballast.open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, shutil.disk_usage(folder).free - leave)
    return ballast
