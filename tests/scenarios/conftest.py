# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whole systems for the scenario tests, and playbooks started as an operator starts them.

| fixture | scope | what |
|---|---|---|
| `bakery` | module | a `Platform`: the system bakery_ia, up, in a lab of these tests' own |
| `dbis` | module | the same for dbis_core |
| `mended` | function | ends every fault of `bakery` after the test (destroyed data stays destroyed) |

A `Platform` has

    play(playbook, *arguments, timeout_s=180, **environment) -> Played(returncode, stdout, stderr, argv)
    begin(playbook, *arguments, **environment) -> subprocess.Popen   # for tests that kill it; its own process group
    inventory        the -i arguments
    runs             the folder with the runs of these tests (run_directory), newest last: `newest_run()`
    lab              lab.state.Lab: lab.login("orders-db", "admin" | "application" | "monitor"),
                     lab.server("orders-db"), lab.url("orders-service"), lab.service_pid(…), lab.folder, lab.status()
    fault(name, host=None), mend(host=None)      as `python -m lab break | mend`
    get(service, path="/health") -> (status or None, body as text)
    wait_until_up(*services)

`play("health", "-e", "target=all")` runs playbooks/health.yml from the repository, without a terminal.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab import REPOSITORY, faults, machine
from lab.state import Lab, lab_names
from tests.leftovers import is_left, one_worker_at_a_time
from tests.scenarios.backup_platform import (
    backup_servers,
    backups,
    server_place,
    small_disk,
    small_server,
    small_space,
)

# The fixtures of the backup playbooks, for the tests beside this file.
__all__ = ["backup_servers", "backups", "server_place", "small_disk", "small_server", "small_space"]

PREFIX = "tests-"
WAIT_S = 30.0


@dataclass(frozen=True)
class Played:
    """How a playbook ended."""

    argv: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        """Everything that the operator saw."""
        return self.stdout + self.stderr


class Platform:
    """A system in a lab, and the ways to work on it."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab = lab
        self.inventory = lab.inventory_arguments
        self.runs = folder / "runs"
        self._folder = folder

    def _argv(self, playbook: str, arguments: tuple[str, ...]) -> list[str]:
        program = Path(sys.executable).with_name("ansible-playbook")
        return [str(program), *self.inventory, f"playbooks/{playbook.removesuffix('.yml')}.yml", *arguments]

    def _environment(self, given: dict[str, str]) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "PG"))}
        return {**own, "XDG_STATE_HOME": str(self._folder / "state"), "ANSIBLE_NOCOLOR": "1", **given}

    def begin(self, playbook: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start a playbook in a session of its own, without a terminal."""
        return subprocess.Popen(
            self._argv(playbook, ("-e", f"run_directory={self.runs}", *arguments)), cwd=REPOSITORY,
            env=self._environment(environment), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, start_new_session=True,
        )

    def play(self, playbook: str, *arguments: str, timeout_s: float = 180, **environment: str) -> Played:
        """Run a playbook to its end."""
        child = self.begin(playbook, *arguments, **environment)
        try:
            stdout, stderr = child.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            stdout, stderr = child.communicate()
            pytest.fail(f"{playbook} was still running after {timeout_s} s:\n{stdout[-3000:]}\n{stderr[-1000:]}")
        return Played(tuple(child.args), child.returncode, stdout, stderr)

    def newest_run(self) -> Path:
        """The folder of the newest run; names sort by age."""
        return max(path for path in self.runs.iterdir() if path.is_dir())

    def fault(self, name: str, host: str | None = None) -> str:
        """Let something go wrong."""
        return faults.start(self.lab, name, host)

    def mend(self, host: str | None = None) -> None:
        """End the faults, and wait until every service is healthy again."""
        faults.end(self.lab, host)
        self.wait_until_up(*([host] if host in self.lab.system.hosts["services"] else []))

    def get(self, service: str, path: str = "/health") -> tuple[int | None, str]:
        """HTTP status and body; None and the reason when there is no answer."""
        return self.lab.ask(service, path, timeout_s=5)

    def wait_until_up(self, *services: str) -> None:
        """Until these services, or all, answer with HTTP 200."""
        for service in services or self.lab.system.hosts["services"]:
            assert machine.wait_for(lambda name=service: self.get(name)[0] == 200, WAIT_S), self.get(service)


def _platform(system: str, folder: Path) -> Iterator[Platform]:
    with one_worker_at_a_time():
        for name in lab_names():
            if name.startswith(PREFIX) and is_left(name):
                Lab(name).down(print)
    lab = Lab(f"{PREFIX}{os.getpid()}-{system}")
    try:
        lab.up(system, print)
        yield Platform(lab, folder)
    finally:
        lab.down(print)


# A lab writes all the time, which costs the tests that do not need it: it is up only for the file that does.
@pytest.fixture(scope="module")
def bakery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """The system bakery_ia, up."""
    yield from _platform("bakery_ia", tmp_path_factory.mktemp("bakery"))


@pytest.fixture(scope="module")
def dbis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """The system dbis_core, up."""
    yield from _platform("dbis_core", tmp_path_factory.mktemp("dbis"))


@pytest.fixture
def mended(bakery: Platform) -> Iterator[Platform]:
    """The bakery, whose faults end with the test."""
    yield bakery
    bakery.mend()
