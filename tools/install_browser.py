# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Debian's Chromium, in which a test opens the reports as a person would."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools import heartbeat


def main() -> int:
    """Install it when we may; else one sentence."""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        print(
            "The tests open reports in Chromium, and there is none: sudo apt-get install chromium, then start again.",
            file=sys.stderr,
        )
        return 1
    apt = ["apt-get", "-qq", "-o", "Dpkg::Use-Pty=0"]
    os.environ["DEBIAN_FRONTEND"] = "noninteractive"
    return heartbeat.run("Reading Debian's list of packages", [*apt, "update"]) or heartbeat.run(
        "Installing Chromium", [*apt, "install", "--yes", "--no-install-recommends", "chromium"]
    )


if __name__ == "__main__":
    sys.exit(main())
