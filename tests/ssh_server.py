# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A real ssh server of the tests' own, on loopback, for the user who runs them."""

from __future__ import annotations

import contextlib
import getpass
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from lab import machine

UNPACKED = Path(sys.prefix) / "openssh"
PROGRAMS = ("/usr/sbin/sshd", str(UNPACKED / "usr/sbin/sshd"))
SEPARATED = Path("/run/sshd")
START_S = 20.0


def _program() -> str:
    for path in PROGRAMS:
        if Path(path).exists():
            return path
    raise AssertionError("The ssh server is missing; run: make ssh-server, or apt-get install openssh-server")


def _keygen(path: Path) -> str:
    program = shutil.which("ssh-keygen")
    assert program, "The ssh client is missing; run: apt-get install openssh-client"
    subprocess.run([program, "-q", "-t", "ed25519", "-N", "", "-C", "tests", "-f", str(path)], check=True)
    return path.with_suffix(".pub").read_text(encoding="utf-8").strip()


class SshServer:
    """The server, with a host key and a client key that nobody else has.

    Args:
        folder: its own, with a short path: control sockets of ssh lie in it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, machine.free_port()
        self._child: subprocess.Popen[bytes] | None = None
        self.jobs, self.remote = folder / "jobs", folder / "remote"
        host_key, client_key = _keygen(folder / "host"), _keygen(folder / "client")
        (folder / "authorized").write_text(client_key + "\n", encoding="utf-8")
        (folder / "known").write_text(f"[127.0.0.1]:{self.port} {host_key}\n", encoding="utf-8")
        (folder / "configuration").write_text(
            f"ListenAddress 127.0.0.1:{self.port}\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized\n"
            "AuthenticationMethods publickey\nStrictModes no\nUsePAM no\nPidFile none\nLogLevel ERROR\n"
            "Subsystem sftp internal-sftp\n", encoding="utf-8",
        )

    def variables(self) -> dict[str, Any]:
        """What an inventory says of a host that is reached through this server."""
        return {
            "ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": self.port,
            "ansible_user": getpass.getuser(), "ansible_ssh_private_key_file": str(self.folder / "client"),
            "ansible_ssh_common_args": f"-F none -o UserKnownHostsFile={self.folder}/known",
            "ansible_control_path_dir": str(self.folder / "control"), "ansible_pipelining": True,
            "ansible_python_interpreter": sys.executable, "ansible_async_dir": str(self.jobs),
            "ansible_remote_tmp": str(self.remote),
        }

    def written(self) -> list[Path]:
        """Every file that modules left on the host, or have there while they work."""
        return [path for place in (self.jobs, self.remote) for path in place.rglob("*") if path.is_file()]

    def start(self) -> None:
        """Listen."""
        argv = [_program(), "-D", "-e", "-f", str(self.folder / "configuration")]
        libraries = ":".join(str(path.parent) for path in UNPACKED.rglob("libwrap.so.0"))
        with (self.folder / "log").open("ab") as log:
            self._child = subprocess.Popen(
                [*self._as_root(), *argv], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env={**os.environ, "LD_LIBRARY_PATH": libraries},
            )
        assert machine.wait_for(self._listens, START_S), (self.folder / "log").read_text(encoding="utf-8")

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def _as_root(self) -> list[str]:
        """A server of root wants a user and a folder that an installed one has: seen by it alone, in its own mounts."""
        if os.geteuid() != 0:
            return []
        SEPARATED.mkdir(mode=0o755, exist_ok=True)
        with contextlib.suppress(KeyError):
            pwd.getpwnam("sshd")
            return []
        users = self.folder / "users"
        users.write_text(
            Path("/etc/passwd").read_text(encoding="utf-8") + "sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin\n",
            encoding="utf-8",
        )
        mount = 'mount --bind "$0" /etc/passwd && exec "$@"'
        return [
            shutil.which("unshare") or "unshare", "--mount", "--propagation", "private", "/bin/sh", "-c", mount,
            str(users),
        ]

    def stop(self) -> None:
        """Do not answer any more, and cut all connections, as a network does; what runs at their ends lives on."""
        assert self._child
        sessions = [one for session in machine.children_of(self._child.pid)
                    for one in (session, *machine.children_of(session))]
        self._child.terminate()
        self._child.wait()
        for one in sessions:
            if machine.is_running(one, "sshd"):
                machine.send(one, signal.SIGKILL)
