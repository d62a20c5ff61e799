# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A data directory and the server in it, as far as they can be seen and moved without a session."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from ansible_collections.sre.runbooks.plugins.module_utils.run import process
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.progress import Progress

LOOK_S = 30.0
POLL_S = 0.05
DISTRIBUTIONS = ("/usr/lib/postgresql/{major}/bin", "/usr/pgsql-{major}/bin")
# A container ends when this process ends (A86 ⚠).
FIRST_PROCESS = 1
LOG_BYTES = 65536
# Settings, and what pg_controldata calls them.
LIMITS = {
    "max_connections": "max_connections", "max_worker_processes": "max_worker_processes",
    "max_wal_senders": "max_wal_senders", "max_prepared_transactions": "max_prepared_xacts",
    "max_locks_per_transaction": "max_locks_per_xact",
}


class Cluster:
    """One data directory.

    Args:
        data: the folder.
        programs: of the server's own version.
        owner: user and group of the folder, when we are root: pg_ctl refuses root (A86 ⚠).
        progress: where to report.
    """

    def __init__(self, data: Path, programs: Path, owner: tuple[int, int] | None, progress: Progress) -> None:
        self.data = data
        self.programs = programs
        self.owner = owner
        self.progress = progress

    def control_data(self) -> dict[str, str]:
        """What pg_controldata says, by its labels.

        Raises:
            RunbookError: the folder is no cluster of this version.
        """
        done = process.run(
            [str(self.programs / "pg_controldata"), "-D", str(self.data)], timeout_s=LOOK_S, owner=self.owner,
            hint="Check data_directory, and that the programs are those of the server's version.",
        )
        pairs = (line.partition(":") for line in done.stdout.splitlines())
        return {label.strip(): value.strip() for label, _colon, value in pairs}

    def limits(self) -> dict[str, int]:
        """What a server needs at least to replay this cluster's WAL while it answers, by the names of the settings."""
        found = self.control_data()
        return {name: int(found[f"{label} setting"]) for name, label in LIMITS.items() if f"{label} setting" in found}

    def pid(self) -> int | None:
        """The postmaster's process id; None when none is seen here. It works in its data directory, which proves it.

        A process that we may not look at may be it. One in another namespace (a container's) is not seen: that is what
        survey.unseen is for.
        """
        try:
            pid = int((self.data / "postmaster.pid").read_text(encoding="utf-8").splitlines()[0])
        except (OSError, IndexError, ValueError):
            return None
        try:
            return pid if os.path.samefile(f"/proc/{pid}/cwd", self.data) else None
        except PermissionError:
            return pid
        except OSError:
            return None

    def left_pid_file(self) -> bool:
        """Whether a server that is not seen may run here, or was killed: one that stops takes its file away."""
        return self.pid() is None and (self.data / "postmaster.pid").exists()

    def status(self) -> str:
        """The server's own word: `ready` (also for reading alone), `starting`, `stopping`; empty when none runs."""
        if self.pid() is None:
            return ""
        with contextlib.suppress(OSError, IndexError):
            return (self.data / "postmaster.pid").read_text(encoding="utf-8").splitlines()[7].strip()
        return "starting"

    def in_recovery(self) -> bool:
        """Whether nobody can have written here yet: PostgreSQL takes the file away when it promotes."""
        return (self.data / "recovery.signal").exists()

    def start_beside(self, settings: Mapping[str, str], log: Path) -> None:
        """Start the server with settings that win over every file. Returns at once.

        Raises:
            RunbookError: pg_ctl could not start it.
        """
        log.unlink(missing_ok=True)
        # pg_ctl hands this one line to a shell.
        options = shlex.join([part for name, value in settings.items() for part in ("-c", f"{name}={value}")])
        process.run(
            [str(self.programs / "pg_ctl"), "-D", str(self.data), "-l", str(log), "-W", "-s", "-o", options, "start"],
            timeout_s=LOOK_S, owner=self.owner, hint=f"See {log}.",
        )

    def stop(self, timeout_s: float) -> None:
        """Stop the server when one runs; sessions are ended.

        Raises:
            RunbookError: it is still there after its time.
        """
        if self.pid() is None:
            return
        with self.progress.during(lambda: f"waiting for the server in {self.data} to stop"):
            process.run(
                [str(self.programs / "pg_ctl"), "-D", str(self.data), "-m", "fast", "-w", "-s", "-t",
                 str(max(1, int(timeout_s))), "stop"],
                timeout_s=timeout_s + LOOK_S, owner=self.owner, check=False,
            )
        self.wait_stopped(1.0)

    def wait_stopped(self, timeout_s: float) -> None:
        """Until no server runs here.

        Raises:
            RunbookError: one still does.
        """
        deadline = time.monotonic() + timeout_s
        while (pid := self.pid()) is not None:
            if time.monotonic() > deadline:
                raise RunbookError(
                    f"The server in {self.data} (pid {pid}) still runs after {timeout_s:.0f} s.",
                    "It is about to stop: see its log for what it waits for, and give it longer (stop_timeout_seconds)."
                    if self.status() == "stopping" else
                    "See whether something starts it again, such as a container or a watchdog, and stop that first.",
                    pid=pid,
                )
            time.sleep(POLL_S)

    def command(self, argv: Sequence[str], what: str, timeout_s: float) -> None:
        """Start or stop the live server as the inventory says.

        Raises:
            RunbookError: the command failed.
        """
        with self.progress.during(lambda: what):
            done = process.run(
                list(argv), timeout_s=timeout_s, check=False, hint="Check postgresql_control in the inventory.",
            )
        if done.returncode != 0:
            raise RunbookError(
                f"{what.capitalize()} failed: {Path(argv[0]).name} {done.ending}, and said: "
                f"{done.stderr_tail or 'nothing'}.", "See the server's log, and postgresql_control in the inventory.",
            )

    def wait_promoted(self, timeout_s: float) -> None:
        """Until the server is up and has left recovery.

        Raises:
            RunbookError: it ended, or took too long.
        """
        deadline = time.monotonic() + timeout_s
        while not self.accepts_writes():
            if self.pid() is None or time.monotonic() > deadline:
                raise RunbookError(
                    f"The server in {self.data} {'ended' if self.pid() is None else 'is not up'} before it accepted "
                    f"writes ({timeout_s:.0f} s were given).",
                    "See its log, which is where postgresql_control has it written; then run the same command again.",
                )
            self.progress.tick(lambda: f"waiting for the server in {self.data} to leave recovery")
            time.sleep(POLL_S)

    def accepts_writes(self) -> bool:
        """Whether the server is up, and has left recovery."""
        if self.in_recovery() or self.status() != "ready":
            return False
        return self.control_data()["Database cluster state"] == "in production"

    def last_written_at(self) -> datetime | None:
        """When the server last wrote WAL, archived or not; None where there is none."""
        times = [path.stat().st_mtime for path in (self.data / "pg_wal").glob("[0-9A-F]" * 24)]
        return datetime.fromtimestamp(max(times), UTC) if times else None

    def stopped_at(self) -> datetime | None:
        """When the server in this folder wrote its last and was shut down; None when it runs, or was killed."""
        if self.control_data()["Database cluster state"] != "shut down":
            return None
        # Nobody writes the file after that, and to rename the folder does not touch it.
        return datetime.fromtimestamp((self.data / "global" / "pg_control").stat().st_mtime, UTC)

    def reload(self) -> None:
        """Have the server read its configuration again."""
        pid = self.pid()
        if pid is not None:
            os.kill(pid, signal.SIGHUP)


def find_programs(data: Path, directory: str | None) -> tuple[Path, str]:
    """The server programs for a data directory, and its major version.

    Raises:
        RunbookError: it is no data directory, or there are none.
    """
    try:
        version = (data / "PG_VERSION").read_text(encoding="utf-8").strip()
    except OSError as error:
        raise RunbookError(
            f"{data} is no data directory that can be read: {error.strerror}.",
            "Check data_directory, and run this as the server's user or root.",
        ) from error
    places = [directory] if directory else [place.format(major=version) for place in DISTRIBUTIONS]
    for place in places:
        if (Path(place) / "pg_ctl").is_file():
            return Path(place), version
    raise RunbookError(
        f"No pg_ctl of PostgreSQL {version} is in {', '.join(places)}.",
        "Set postgresql_bin_directory in the inventory.",
    )


def read_log(log: Path) -> list[str]:
    """The last lines of a server's log; none when it wrote none."""
    try:
        # It lies in a folder of the server's user.
        with open(log, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NOFOLLOW)) as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - LOG_BYTES))
            return stream.read().decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return []
