# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The driver `process`: a service that is a process of a host, known by its file with the process id."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.files import write_whole
from ansible_collections.sre.runbooks.plugins.module_utils.run.progress import Progress
from ansible_collections.sre.runbooks.plugins.module_utils.run.redact import without_secrets

NEEDED = ("pid_file", "command")
STOP_TIMEOUT_S = 30
# A service that lives so long after its start has read its configuration and opened its port.
ALIVE_S = 1.0
POLL_S = 0.05
LOG_LINES = 5
LOG_BYTES = 8192
# The file with the process id is written after the process has started; clocks of both are this exact.
SLACK_S = 2.0
VARIABLE = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]*)=(.*)")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def read_process(pid: int, proc: Path = Path("/proc")) -> dict[str, Any] | None:
    """A living process: `pid, process_started` (clock ticks since boot), `command, directory, uid, gid, umask`.

    None when there is none, or when it has ended and only waits for its parent.
    """
    folder = proc / str(pid)
    try:
        fields = (folder / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        command = (folder / "cmdline").read_bytes().decode("utf-8", "surrogateescape").split("\0")[:-1]
        status = folder.stat()
        umask = re.search(r"^Umask:\t(\d+)$", (folder / "status").read_text(encoding="utf-8", errors="replace"), re.M)
    except (FileNotFoundError, ProcessLookupError):
        return None
    if fields[0] in "ZX":
        return None
    directory = None
    with contextlib.suppress(OSError):
        directory = str((folder / "cwd").readlink())
    return {
        "pid": pid, "process_started": int(fields[19]), "command": command, "directory": directory,
        "uid": status.st_uid, "gid": status.st_gid, "umask": umask[1] if umask else None,
    }


def started_at(ticks: int, proc: Path = Path("/proc")) -> float:
    """Seconds since the epoch of a start in clock ticks since boot."""
    lines = (proc / "stat").read_text(encoding="utf-8").splitlines()
    boot = next(int(line.split()[1]) for line in lines if line.startswith("btime "))
    return boot + ticks / os.sysconf("SC_CLK_TCK")


def is_same_command(running: list[str], wanted: list[str]) -> bool:
    """Whether a process runs the command of the inventory; an interpreter may stand before it."""
    tail = running[-len(wanted) :]
    return (
        len(tail) == len(wanted) and tail[1:] == wanted[1:]
        and os.path.basename(tail[0]) == os.path.basename(wanted[0])
    )


def read_environment(path: Path) -> dict[str, str]:
    """The variables of a file with `NAME=value` on each line, as systemd's EnvironmentFile; `#` begins a comment.

    Raises:
        RunbookError: it cannot be read, or a line is of another form; the message never quotes a value.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise RunbookError(
            f"The environment_file {path} cannot be read: {getattr(error, 'strerror', None) or 'it is no UTF-8'}.",
            "Mend the path in service_control, or the file's rights.",
        ) from error
    found = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith(("#", ";")):
            continue
        match = VARIABLE.fullmatch(line)
        if not match:
            raise RunbookError(f"Line {number} of {path} is not of the form NAME=value.", "Mend it, then start again.")
        value = match[2].strip()
        found[match[1]] = value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'" else value
    return found


class ProcessService:
    """One service that is a process.

    Args:
        name: of the service, for messages.
        control: `pid_file, command` and, optional, `directory, log_file, environment_file, stop_timeout_seconds,
            kill` (SIGKILL for one that does not end in time; never without it).
        progress: where to report.

    Raises:
        RunbookError: the inventory lacks what is needed.
    """

    def __init__(self, name: str, control: Mapping[str, Any], progress: Progress) -> None:
        missing = [key for key in NEEDED if not control.get(key)]
        if missing:
            raise RunbookError(
                f"The service {name} is driven by process, and its service_control lacks {', '.join(missing)}.",
                "Give it in the inventory.",
            )
        self.name = name
        self.pid_file = Path(str(control["pid_file"]))
        self.command = [str(part) for part in control["command"]]
        self.directory = str(control.get("directory") or "/")
        self.log_file = Path(str(control["log_file"])) if control.get("log_file") else None
        self.environment_file = Path(str(control["environment_file"])) if control.get("environment_file") else None
        self.stop_timeout_s = float(control.get("stop_timeout_seconds") or STOP_TIMEOUT_S)
        self.may_kill = str(control.get("kill") or "").lower() in ("true", "yes", "1")
        self.progress = progress

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """See control.Service. The kernel lets go of the lock when the process ends, however it ends."""
        place = self.pid_file.with_name(f"{self.pid_file.name}.lock")
        try:
            descriptor = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise RunbookError(
                f"The file {place}, which keeps others from {self.name} meanwhile, cannot be opened: {error.strerror}.",
                "Run as the user that the service belongs to (become), and see that the folder is there.",
                service=self.name,
            ) from error
        try:
            self._wait_for_lock(descriptor, place)
            yield
        finally:
            os.close(descriptor)

    def _wait_for_lock(self, descriptor: int, place: Path) -> None:
        deadline = time.monotonic() + 2 * self.stop_timeout_s + ALIVE_S
        while True:
            with contextlib.suppress(BlockingIOError):
                return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.monotonic() > deadline:
                raise RunbookError(
                    f"Another run is stopping or starting the service {self.name}: it holds {place}.",
                    "Wait until it has ended, then run the same command again.", service=self.name,
                )
            self.progress.tick(lambda: f"waiting for another run that works on {self.name}")
            time.sleep(POLL_S)

    def observe(self) -> dict[str, Any]:
        """See control.Service. The record has the inventory's command: a running one may have changed its title."""
        found = self._find()
        owner = found or {"uid": os.geteuid(), "gid": os.getegid()}
        return {
            "driver": "process", "running": found is not None, "pid": found["pid"] if found else None,
            "process_started": found["process_started"] if found else None, "command": self.command,
            "directory": (found or {}).get("directory") or self.directory, "uid": owner["uid"], "gid": owner["gid"],
            "umask": (found or {}).get("umask"),
        }

    def quiesce(self, record: dict[str, Any]) -> None:
        """See control.Service."""
        if not record["running"]:
            return
        try:
            handle = os.pidfd_open(record["pid"])
        except ProcessLookupError:
            return
        try:
            # The handle holds the process; only now does its start say that it is still the one that was recorded.
            now = read_process(record["pid"])
            if now is None or now["process_started"] != record["process_started"]:
                return
            signal.pidfd_send_signal(handle, signal.SIGTERM)
            if self._gone(handle, self.stop_timeout_s):
                return
            if self.may_kill:
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                if self._gone(handle, self.stop_timeout_s):
                    return
        except ProcessLookupError:
            return
        except PermissionError as error:
            raise RunbookError(
                f"The service {self.name} (process {record['pid']}) belongs to the user {record['uid']}, and this run"
                f" to the user {os.geteuid()}, who may not stop it.",
                "Run as the user that the service belongs to (become), then run the same command again.",
                service=self.name, pid=record["pid"],
            ) from error
        finally:
            os.close(handle)
        raise RunbookError(
            f"The service {self.name} (process {record['pid']}) was asked to end and still runs after "
            f"{self.stop_timeout_s:.0f} s.{self._log_tail()}",
            "See what it waits for; `kill: true` in its service_control allows SIGKILL, a longer "
            "stop_timeout_seconds gives it time.",
            service=self.name, pid=record["pid"],
        )

    def release(self, record: dict[str, Any]) -> dict[str, Any]:
        """See control.Service."""
        if not record.get("running", True):
            return self.observe()
        now = self.observe()
        if now["running"]:
            return now
        child = self._start(record)
        deadline = time.monotonic() + ALIVE_S
        while time.monotonic() < deadline:
            # A service that puts itself into the background ends its first process and writes its own file.
            if child.poll() is not None and self._find() is None:
                raise RunbookError(
                    f"The service {self.name} did not come back: it ended with exit code {child.returncode} right "
                    f"after its start.{self._log_tail()}",
                    f"Mend what it says and start it in {record['directory']}: {' '.join(record['command'])}",
                    service=self.name,
                )
            time.sleep(POLL_S)
        return self.observe()

    def notes(self) -> list[str]:
        """See control.Service."""
        if self.pid_file.exists():
            return []
        return [
            f"The service {self.name} counts as stopped, since its file {self.pid_file} is not on"
            f" {os.uname().nodename}. If it runs there without it, or elsewhere, stop it by hand first."
        ]

    def _find(self) -> dict[str, Any] | None:
        """The process that the file names, unless its id was given to another one since."""
        try:
            written, pid = self.pid_file.stat().st_mtime, int(self.pid_file.read_text(encoding="utf-8").split()[0])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, IndexError) as error:
            raise RunbookError(
                f"The file {self.pid_file} of the service {self.name} holds no process id that can be read.",
                "Look at it and at the service, then run the same command again.",
            ) from error
        found = read_process(pid)
        if found is None or is_same_command(found["command"], self.command):
            return found
        return found if started_at(found["process_started"]) <= written + SLACK_S else None

    def _start(self, record: dict[str, Any]) -> subprocess.Popen[bytes]:
        other = (record["uid"], record["gid"]) if os.geteuid() == 0 and record.get("uid") else None

        def before() -> None:
            # In the child, which still holds the lock of `alone`: a run that is killed here leaves the service known.
            # A service that goes into the background writes its own file afterwards, and nobody overwrites that.
            write_whole(self.pid_file, f"{os.getpid()}\n", 0o644, other)
            if record.get("umask"):
                os.umask(int(record["umask"], 8))
            if other:
                os.setgroups([])
                os.setgid(other[1])
                os.setuid(other[0])

        try:
            with (self.log_file or Path(os.devnull)).open("ab") as log:
                return subprocess.Popen(
                    record["command"], cwd=record["directory"], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    start_new_session=True, env=self._environment(other[0] if other else os.geteuid()),
                    preexec_fn=before,
                )
        except (OSError, subprocess.SubprocessError) as error:
            reason = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) else (
                f"{self.pid_file} cannot be written, or the user {record.get('uid')} cannot be taken"
            )
            raise RunbookError(
                f"The service {self.name} did not come back: {reason}.",
                f"Start it in {record['directory']}: {' '.join(record['command'])}", service=self.name,
            ) from error

    def _environment(self, uid: int) -> dict[str, str]:
        """What a service manager would give it, never this process's own, which may hold the operator's secrets."""
        plain = {"PATH": PATH, "LANG": "C.UTF-8"}
        with contextlib.suppress(KeyError):
            user = pwd.getpwuid(uid)
            plain |= {"HOME": user.pw_dir, "USER": user.pw_name, "LOGNAME": user.pw_name, "SHELL": user.pw_shell}
        return plain | (read_environment(self.environment_file) if self.environment_file else {})

    def _gone(self, handle: int, timeout_s: float) -> bool:
        """Wait for the process behind a handle to end."""
        poller = select.poll()
        poller.register(handle, select.POLLIN)
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if poller.poll(1000 * min(0.5, max(0.0, deadline - time.monotonic()))):
                return True
            self.progress.tick(lambda: f"waiting for {self.name} to end")
        return False

    def _log_tail(self) -> str:
        """The service's last lines, as a sentence to put behind another one; empty without a log."""
        if self.log_file is None:
            return ""
        try:
            with self.log_file.open("rb") as stream:
                stream.seek(max(0, self.log_file.stat().st_size - LOG_BYTES))
                lines = stream.read().decode("utf-8", "replace").strip().splitlines()[-LOG_LINES:]
        except OSError as error:
            return f" Its log {self.log_file} cannot be read ({error.strerror})."
        if not lines:
            return f" Its log {self.log_file} is empty."
        return f" Its last lines: {without_secrets(' | '.join(lines))}"
