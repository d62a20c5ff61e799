# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Somebody without root starts a lab from a clone of their own, measures it and takes it down.

Root plays that somebody as `nobody`, with a Python that everybody may start; anybody else as themselves.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import REPOSITORY, machine

NAME = f"tests-{os.getpid()}-plain"
PARTS = ("ansible.cfg", "galaxy.yml", "inventories", "lab", "meta", "playbooks", "plugins", "roles")
PACKAGES = Path(sysconfig.get_paths()["purelib"])


def _is_open(path: Path) -> bool:
    """Whether everybody can reach it."""
    return all(one.stat().st_mode & 0o001 for one in path.resolve().parents)


def _python() -> str:
    """A Python of our version that this user can start."""
    user = machine.unprivileged_user()
    if user is None or (_is_open(Path(sys.executable)) and _is_open(PACKAGES)):
        return sys.executable
    system = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    if not (_is_open(PACKAGES) and Path(system).exists()):
        pytest.skip("Other users can start no Python with these packages: this clone's folders are closed to them.")
    return system


@pytest.fixture
def clone() -> Iterator[Path]:
    """A copy of the tree that belongs to the user, and what the lab keeps for them taken away at the end."""
    user = machine.unprivileged_user()
    state = Path(f"/var/tmp/sre-runbooks-lab-{user.pw_uid if user else os.getuid()}")
    was_there = state.exists()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        place = Path(folder) / "clone"
        for part in PARTS:
            source = REPOSITORY / part
            copy = shutil.copytree if source.is_dir() else shutil.copy
            place.mkdir(exist_ok=True)
            copy(source, place / part)
        (Path(folder) / "home").mkdir()
        if user:
            for path in (Path(folder), *Path(folder).rglob("*")):
                os.chown(path, user.pw_uid, user.pw_gid)
        yield place
    if state.exists() and not was_there:
        shutil.rmtree(state)


def test_a_user_without_root_starts_measures_and_ends_a_lab(clone: Path) -> None:
    python, user = _python(), machine.unprivileged_user()
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(clone.parent / "home"), "PYTHONPATH": str(PACKAGES),
        "LC_ALL": "C.UTF-8", "ANSIBLE_NOCOLOR": "1", "PYTHONDONTWRITEBYTECODE": "1",
    }

    def run(*argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [python, "-m", *argv], cwd=clone, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=90, check=False, **machine.popen_as(user),
        )

    inventory = ("-i", "inventories/dbis_core/hosts.yml", "-i", f".lab/{NAME}/overlay.yml")
    up = run("lab", "up", "dbis_core", "--name", NAME)
    try:
        assert up.returncode == 0, up.stdout + up.stderr
        health = run(
            "ansible", "playbook", *inventory, "sre.runbooks.health", "-e", "health_wait_for_second_sample=false"
        )
        assert health.returncode == 0, health.stdout + health.stderr
        backup = run("ansible", "playbook", *inventory, "sre.runbooks.database_backup", "-e", "target=dbis-db")
        assert backup.returncode == 0, backup.stdout + backup.stderr
        reports = list(clone.glob(f"build/runs/{NAME}/*/report.html"))
        assert len(reports) == 2
        assert all(report.stat().st_uid == (user.pw_uid if user else os.getuid()) for report in reports)
    finally:
        down = run("lab", "down", "--name", NAME)
    assert down.returncode == 0, down.stderr
    assert not (clone / ".lab").exists()
