# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The driver `process`: a service that is a process of a host, known by its file with the process id."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.files import write_whole
from ansible_collections.sre.runbooks.plugins.module_utils.run.progress import Progress

NEEDED = ("pid_file", "command")
STOP_TIMEOUT_S = 30
# A service that lives so long after its start has read its configuration and opened its port.
ALIVE_S = 1.0
POLL_S = 0.05
LOG_LINES = 5
LOG_BYTES = 8192
# The file with the process id is written after the process has started; clocks of both are this exact.
SLACK_S = 2.0


def read_process(pid: int, proc: Path = Path("/proc")) -> dict[str, Any] | None:
    """A living process: `pid, process_started` (clock ticks since boot), `command, directory, uid, gid`.

    None when there is none, or when it has ended and only waits for its parent.
    """
    folder = proc / str(pid)
    try:
        fields = (folder / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        command = (folder / "cmdline").read_bytes().decode("utf-8", "surrogateescape").split("\0")[:-1]
        status = folder.stat()
    except (FileNotFoundError, ProcessLookupError):
        return None
    if fields[0] in "ZX":
        return None
    directory = None
    with contextlib.suppress(OSError):
        directory = str((folder / "cwd").readlink())
    return {
        "pid": pid, "process_started": int(fields[19]), "command": command, "directory": directory,
        "uid": status.st_uid, "gid": status.st_gid,
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


class ProcessService:
    """One service that is a process.

    Args:
        name: of the service, for messages.
        control: `pid_file, command` and, optional, `directory, log_file, stop_timeout_seconds, kill` (SIGKILL for one
            that does not end in time; never without it).
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
        self.stop_timeout_s = float(control.get("stop_timeout_seconds") or STOP_TIMEOUT_S)
        self.may_kill = str(control.get("kill") or "").lower() in ("true", "yes", "1")
        self.progress = progress

    def observe(self) -> dict[str, Any]:
        """See control.Service. The record has the inventory's command: a running one may have changed its title."""
        found = self._find()
        owner = found or {"uid": os.geteuid(), "gid": os.getegid()}
        return {
            "driver": "process", "running": found is not None, "pid": found["pid"] if found else None,
            "process_started": found["process_started"] if found else None, "command": self.command,
            "directory": (found or {}).get("directory") or self.directory, "uid": owner["uid"], "gid": owner["gid"],
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
        other = {}
        if os.geteuid() == 0 and record.get("uid"):
            other = {"user": record["uid"], "group": record["gid"], "extra_groups": []}
        try:
            with (self.log_file or Path(os.devnull)).open("ab") as log:
                child = subprocess.Popen(
                    record["command"], cwd=record["directory"], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    start_new_session=True, **other,
                )
        except OSError as error:
            raise RunbookError(
                f"The service {self.name} did not come back: {error.strerror}: {error.filename}.",
                f"Start it in {record['directory']}: {' '.join(record['command'])}", service=self.name,
            ) from error
        write_whole(
            self.pid_file, f"{child.pid}\n", 0o644, (record["uid"], record["gid"]) if other else None
        )
        return child

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
        return f" Its last lines: {' | '.join(lines)}" if lines else f" Its log {self.log_file} is empty."
