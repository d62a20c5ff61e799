# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the lab's servers have in common: one folder that remembers the port, a start that is waited for, an end."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError

from lab import machine

PORT_ATTEMPTS = 5


class Server:
    """One server below one folder. The folder remembers port and password, so that anybody who has it can go on.

    Args:
        folder: everything of this server; as root below `machine.state_root()`.
        port: on 127.0.0.1; None takes the one that the folder remembers, or a free one.
    """

    NAME: ClassVar[str]
    # What stands in the log when somebody else was faster with the port.
    PORT_TAKEN: ClassVar[str]
    STOP_S: ClassVar[float]

    def __init__(self, folder: Path, port: int | None) -> None:
        self.folder = folder
        self.log_file = folder / "server.log"
        self._password_file = folder / "password"
        self._port_file = folder / "port"
        self._port = port
        if port is None and self._port_file.exists():
            self._port = int(self._port_file.read_text(encoding="utf-8"))

    @property
    def port(self) -> int:
        """The TCP port on 127.0.0.1; known once the server was started."""
        if self._port is None:
            raise RunbookError(f"The server below {self.folder} was never started and has no port yet.")
        return self._port

    @property
    def pid(self) -> int | None:
        """The server's process id; None when it does not run."""
        raise NotImplementedError

    def start(self) -> Self:
        """Start the server and wait until it accepts connections; a folder that is new is prepared first.

        Raises:
            RunbookError: the server could not be prepared, ended, or did not answer in time.
        """
        if self.pid:
            return self
        self._prepare()
        chosen = self._port is not None
        for attempt in range(PORT_ATTEMPTS):
            if not chosen:
                self._port = machine.free_port()
            if self._launch():
                self._port_file.write_text(str(self.port), encoding="utf-8")
                return self
            if chosen or attempt == PORT_ATTEMPTS - 1 or self.PORT_TAKEN not in self._log_tail():
                break
        # One that lives and does not answer would hold its ports for ever.
        self.kill()
        raise RunbookError(f"The {self.NAME} server below {self.folder} did not start: {self._log_tail()}")

    def stop(self) -> None:
        """End the server in order; one that does not end in time is killed."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the server at once."""
        raise NotImplementedError

    def _end(self, number: signal.Signals) -> None:
        """Ask the server to end; one that does not in time is killed."""
        pid = self.pid
        if pid is None:
            return
        machine.send(pid, number)
        if not machine.wait_for(lambda: self.pid is None, self.STOP_S):
            self.kill()

    def _prepare(self) -> None:
        """Make what a new folder lacks."""
        raise NotImplementedError

    def _launch(self) -> bool:
        """Start the server; False when it ended before it was ready."""
        raise NotImplementedError

    def _log_tail(self) -> str:
        lines = self.log_file.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return " ".join(lines[-3:]) or "it wrote no log"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class PidFileServer(Server):
    """A server that writes no file with its process id: the lab does."""

    def __init__(self, folder: Path, port: int | None) -> None:
        super().__init__(folder, port)
        self._pid_file = folder / "pid"

    @property
    def _argument(self) -> str:
        """What stands among its arguments and no other server's."""
        raise NotImplementedError

    @property
    def pid(self) -> int | None:
        """The server's process id; None when it does not run."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            pid = int(self._pid_file.read_text(encoding="utf-8"))
            if machine.is_running(pid, self._argument):
                return pid
        return None

    def kill(self) -> None:
        """End the server at once."""
        pid = self.pid
        if pid is not None:
            machine.send(pid, signal.SIGKILL)
            machine.wait_for(lambda: not machine.is_running(pid, self._argument), self.STOP_S)
