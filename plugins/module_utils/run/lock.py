# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One holder per target: who it is, whether it still lives, and what it had stopped."""

from __future__ import annotations

import getpass
import os
import socket
from pathlib import Path
from typing import Any


def started_at_tick(pid: int, proc: Path = Path("/proc")) -> int | None:
    """When a process started, in clock ticks since boot; None when there is no such process (or it is a zombie)."""
    try:
        fields = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def machine() -> dict[str, str]:
    """What tells this machine, since its last start, and this set of process ids from all others."""
    return {
        "host": socket.gethostname(),
        "boot_id": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "namespace": os.readlink("/proc/self/ns/pid"),
    }


def identify(pid: int, user: str = "") -> dict[str, Any]:
    """The identity of a holder: a process of this machine, and the person behind it."""
    who = user or os.environ.get("SUDO_USER") or getpass.getuser()
    return {"user": who, **machine(), "pid": pid, "process_started": started_at_tick(pid)}
