# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What each server of the lab needs from this machine: a folder, a port, an unprivileged user, a process's end."""

from __future__ import annotations

import contextlib
import os
import pwd
import random
import secrets
import signal
import socket
import string
import time
from collections.abc import Callable
from pathlib import Path

from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError

# Below the range from which Linux gives ports to outgoing connections, so that a stopped server finds its port again.
PORTS = range(20000, 32000)
POLL_S = 0.02
_given_ports: set[int] = set()


def state_root() -> Path:
    """This user's folder for everything that the lab starts; root's can be entered by others, since servers drop root.

    It is below /var/tmp, or below the folder that SRE_RUNBOOKS_LAB_DIRECTORY names.

    Raises:
        RunbookError: somebody else owns the folder (/var/tmp is open to everybody).
    """
    parent = os.environ.get("SRE_RUNBOOKS_LAB_DIRECTORY", "/var/tmp")  # noqa: S108 - the owner is checked below
    root = Path(parent) / f"sre-runbooks-lab-{os.geteuid()}"
    root.mkdir(mode=0o700, exist_ok=True)
    if root.is_symlink() or root.stat().st_uid != os.geteuid():
        raise RunbookError(f"{root} belongs to somebody else.", "Remove it, then start again.")
    root.chmod(0o711 if os.geteuid() == 0 else 0o700)
    return root


def unprivileged_user() -> pwd.struct_passwd | None:
    """Whom servers run as: `nobody` when we are root (PostgreSQL refuses root), ourselves (None) otherwise."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


def popen_as(user: pwd.struct_passwd | None) -> dict[str, object]:
    """The arguments of subprocess.Popen that start a child as this user."""
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}


def make_folder(path: Path, user: pwd.struct_passwd | None, mode: int = 0o700) -> Path:
    """Make a folder of this user.

    Raises:
        RunbookError: the user could not reach it, because a folder above it is closed.
    """
    path.mkdir(parents=True, exist_ok=True)
    if user:
        for parent in path.resolve().parents:
            if not parent.stat().st_mode & 0o001:
                raise RunbookError(
                    f"{parent} is closed to the user {user.pw_name}, as whom servers run when root starts them.",
                    f"Choose a folder below {state_root()}.",
                )
        os.chown(path, user.pw_uid, user.pw_gid)
    path.chmod(mode)
    return path


def write_private(path: Path, text: str, user: pwd.struct_passwd | None = None) -> None:
    """Write a file that only its owner (we, or this user) can read."""
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:
        stream.write(text)
    if user:
        os.chown(path, user.pw_uid, user.pw_gid)


def random_password() -> str:
    """32 random characters (B19 ⚠: base64 has characters that break URLs; letters and digits never do)."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _unused in range(32))


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on, and that this process has not given away yet."""
    for port in random.sample(PORTS, len(PORTS)):
        if port in _given_ports:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                _given_ports.add(port)
                return port
    raise RunbookError("No TCP port between 20000 and 31999 is free on 127.0.0.1.")


def wait_for(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Poll until the condition holds; False when it did not within this time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def process_stat(pid: int) -> tuple[str, int] | None:
    """A process's state letter and its parent's id; None when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, parent = text.rpartition(")")[2].split()[:2]
    return state, int(parent)


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or only a zombie. One that is just ending loses its arguments first, and lives."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    stat = process_stat(pid)
    return stat is None or stat[0] in "ZX"


def is_running(pid: int, argument: str) -> bool:
    """Whether this process lives, has not ended as a zombie, and has this text among its arguments.

    A process id alone proves nothing: it may have been given to another process since it was written down.
    """
    if has_ended(pid):
        return False
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return argument in command


def children_of(pid: int) -> list[int]:
    """The direct children of a process."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            stat = process_stat(int(entry.name))
            if stat and stat[1] == pid:
                found.append(int(entry.name))
    return found


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal; a process that has just ended is fine."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
