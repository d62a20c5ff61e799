# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A PostgreSQL of the lab whose WAL pgBackRest archives: Debian's programs, a repository in a folder or a bucket."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
from pathlib import Path
from typing import ClassVar

from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError

from lab import machine
from lab.postgresql import ENVIRONMENT, PostgresServer

STANZA = "lab"
INSTALLED = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
COMMAND_S = 120.0


def has_pgbackrest() -> bool:
    """Whether Debian's pgBackRest and a PostgreSQL that it knows are on this machine."""
    return bool(INSTALLED) and shutil.which("pgbackrest") is not None


class PgBackRestServer(PostgresServer):
    """A cluster that archives into a repository.

    Sessions come by TCP with a password, or by a socket whose folder nobody but the server's user can enter: that is
    how pgBackRest comes.

    Args:
        folder: everything of this server; as root below `machine.state_root()`.
        port: on 127.0.0.1; None takes the one that the folder remembers, or a free one.
        repository: lines of pgBackRest's configuration that say where the repository is; None is a folder beside.
        settings: further lines for postgresql.conf.
    """

    LOCALE: ClassVar[tuple[str, ...]] = ("--locale", "C.UTF-8")

    def __init__(
        self, folder: Path, port: int | None = None, repository: dict[str, str] | None = None,
        settings: dict[str, str] | None = None,
    ) -> None:
        super().__init__(folder, port)
        self.repository = repository or {"repo1-path": str(folder / "repository")}
        self.config = folder / "pgbackrest.conf"
        self.socket_directory = folder / "socket"
        self.bin_directory = INSTALLED[0].parent if INSTALLED else Path("/usr/lib/postgresql")
        self.settings = {
            "fsync": "off", "shared_buffers": "16MB", "max_connections": "30", **(settings or {}),
            "wal_level": "replica",
            "unix_socket_directories": str(self.socket_directory), "archive_mode": "on", "archive_timeout": "0",
            "archive_command": f"pgbackrest --config={self.config} --stanza={STANZA} archive-push %p",
        }

    @property
    def control(self) -> dict[str, list[str]]:
        """How the server is started and stopped: the commands that an inventory names."""
        common = [*self._as_user(), str(self.bin_directory / "pg_ctl"), "-D", str(self.data_directory), "-w", "-s"]
        return {"start": [*common, "-l", str(self.folder / "own" / "server.log"), "start"],
                "stop": [*common, "-m", "fast", "stop"]}

    def pgbackrest(self, command: str, *options: str) -> str:
        """Run a command of pgBackRest as the server's user, and return what it wrote.

        Raises:
            RunbookError: it ended with another code than 0.
        """
        done = subprocess.run(
            ["pgbackrest", f"--config={self.config}", f"--stanza={STANZA}", *options, command],
            capture_output=True, text=True, check=False, cwd="/", env=ENVIRONMENT, umask=0o077, timeout=COMMAND_S,
            **machine.popen_as(self._user),
        )
        if done.returncode != 0:
            raise RunbookError(f"pgbackrest {command} failed: {done.stdout.strip()} {done.stderr.strip()}")
        return done.stdout

    @property
    def has_backup(self) -> bool:
        """Whether the repository has a base backup."""
        stanzas = json.loads(self.pgbackrest("info", "--output=json"))
        return any(stanza["backup"] for stanza in stanzas)

    def backup(self, kind: str = "full") -> str:
        """Make a base backup, the stanza too where there is none, and return what pgBackRest wrote."""
        self.pgbackrest("stanza-create")
        self.pgbackrest("check")
        return self.pgbackrest("backup", f"--type={kind}", "--log-level-console=info")

    def end_all(self, which: str = "data*") -> None:
        """Kill every server whose data directory is below the folder, the ones beside the live one too."""
        for file in self.folder.glob(f"{which}/postmaster.pid"):
            with contextlib.suppress(FileNotFoundError, IndexError, ValueError):
                pid = int(file.read_text(encoding="utf-8").splitlines()[0])
                if machine.is_running(pid, str(file.parent)):
                    machine.send(pid, signal.SIGQUIT)
                    machine.wait_for(lambda pid=pid: machine.has_ended(pid), self.STOP_S)

    def _as_user(self) -> list[str]:
        if self._user is None:
            return []
        return ["setpriv", f"--reuid={self._user.pw_uid}", f"--regid={self._user.pw_gid}", "--clear-groups"]

    def _prepare(self) -> None:
        if (self.data_directory / "PG_VERSION").exists():
            return
        # The folder is the server's user's own, as a distribution's is: what stands beside the data is put there.
        machine.make_folder(self.folder, self._user, 0o711)
        super()._prepare()
        for name in ("socket", "repository", "own", "lock", "log", "spool"):
            machine.make_folder(self.folder / name, self._user)
        with (self.data_directory / "pg_hba.conf").open("a", encoding="utf-8") as stream:
            stream.write("# Nobody else can enter the folder of the socket.\nlocal all all trust\n")

    def _write_settings(self) -> None:
        super()._write_settings()
        lines = {
            "repo1-retention-full": "99", **self.repository, "lock-path": str(self.folder / "lock"),
            "log-path": str(self.folder / "log"), "spool-path": str(self.folder / "spool"), "log-level-file": "off",
            "start-fast": "y", "compress-level": "1",
        }
        cluster = {"pg1-path": str(self.data_directory), "pg1-port": str(self.port),
                   "pg1-socket-path": str(self.socket_directory), "pg1-user": "postgres"}
        sections = {"global": lines, STANZA: cluster}
        text = "".join(
            f"[{name}]\n" + "".join(f"{key}={value}\n" for key, value in content.items())
            for name, content in sections.items()
        )
        machine.write_private(self.config, text, self._user)
