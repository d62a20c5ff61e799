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
    apt = [shutil.which("apt-get") or "apt-get", "-qq", "-o", "APT::Sandbox::User=root"]
    if os.geteuid() == 0 and shutil.which("apt-get"):
        heartbeat.run("Reading Debian's list of packages", [*apt, "update"])
    with tempfile.TemporaryDirectory(prefix="openssh-") as folder:
        os.chdir(folder)
        if not shutil.which("apt-get") or heartbeat.run("Downloading OpenSSH's server", [*apt, "download", *PACKAGES]):
            print(
                "The tests reach a store over ssh, and there is no server for it: sudo apt-get install openssh-server,"
                " then start again.", file=sys.stderr,
            )
            return 1
        for package in Path(folder).glob("*.deb"):
            subprocess.run([DPKG, "--extract", str(package), "unpacked"], check=True)
        shutil.rmtree(PLACE, ignore_errors=True)
        shutil.move("unpacked", PLACE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
