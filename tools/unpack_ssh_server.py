# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Debian's OpenSSH server, over which tests reach a store. Unpacked only: an installed one would serve this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools import heartbeat
from tools.repository import ROOT

PLACE = ROOT / ".venv" / "openssh"
# The server, and the one library of it that a machine with the client alone lacks.
PACKAGES = ("openssh-server", "libwrap0")
DPKG = shutil.which("dpkg") or "dpkg"


def main() -> int:
    """Unpack it when we may; else one sentence."""
    with tempfile.TemporaryDirectory(prefix="openssh-") as folder:
        if not shutil.which("apt-get") or not _download(Path(folder)) or not shutil.which("ssh"):
            print(
                "The tests reach a store over ssh, and there is no server or no client for it:"
                " sudo apt-get install openssh-server openssh-client, then start again.", file=sys.stderr,
            )
            return 1
        for package in Path(folder).glob("*.deb"):
            subprocess.run([DPKG, "--extract", str(package), f"{folder}/unpacked"], check=True)
        shutil.rmtree(PLACE, ignore_errors=True)
        shutil.move(f"{folder}/unpacked", PLACE)
    return 0


def _download(folder: Path) -> bool:
    os.chdir(folder)
    apt = ["apt-get", "-qq", "-o", "Dpkg::Use-Pty=0", "-o", "APT::Sandbox::User=root"]
    commands = {"Downloading OpenSSH's server": [*apt, "download", *PACKAGES]}
    if os.geteuid() == 0:
        install = [*apt, "install", "--yes", "--no-install-recommends", "openssh-client"]
        client = {} if shutil.which("ssh") else {"Installing OpenSSH's client": install}
        commands = {"Reading Debian's list of packages": [*apt, "update"], **client, **commands}
    return not any(heartbeat.run(title, command) for title, command in commands.items())


if __name__ == "__main__":
    sys.exit(main())
