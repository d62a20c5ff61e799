# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Programs of Debian that the tests need: `install_from_debian.py chromium|postgresql|pgbackrest`."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools import heartbeat

# What each is for.
PACKAGES = {
    "chromium": "The tests open reports in Chromium",
    "postgresql": "The tests back up and restore a server of an older version, with its own programs",
    "pgbackrest": "The tests recover clusters to a point in time",
}
# Debian's package makes a cluster and starts it, unless this says no; the tests make their own.
CLUSTERS = Path("/etc/postgresql-common/createcluster.conf")


def main(package: str) -> int:
    """Install it when we may; else one sentence."""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        print(
            f"{PACKAGES[package]}, and there is none: sudo apt-get install {package}, then start again.",
            file=sys.stderr,
        )
        return 1
    apt = ["apt-get", "-qq", "-o", "Dpkg::Use-Pty=0", "-o", "Dpkg::Options::=--force-confold"]
    os.environ["DEBIAN_FRONTEND"] = "noninteractive"
    if package != "chromium" and not CLUSTERS.exists():
        CLUSTERS.parent.mkdir(parents=True, exist_ok=True)
        CLUSTERS.write_text("create_main_cluster = false\n", encoding="utf-8")
    return heartbeat.run("Reading Debian's list of packages", [*apt, "update"]) or heartbeat.run(
        f"Installing {package}", [*apt, "install", "--yes", "--no-install-recommends", package]
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
