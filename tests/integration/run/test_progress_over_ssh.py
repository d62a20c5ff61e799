# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Progress of a long module on another machine, over a real ssh server."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab import machine
from tests.conftest import REPOSITORY
from tests.ssh_server import SshServer

PLUGINS = Path(__file__).parent / "plugins"
WAIT_S = 60.0


class Work:
    """A playbook with one long task on the host `server`, which the test lets go on."""

    def __init__(self, folder: Path, server: SshServer) -> None:
        self.server, self.folder, self.gate = server, folder, folder / "gate"
        self.secret = secrets.token_hex(16)
        self._secret_file = folder / "secret"
        machine.write_private(self._secret_file, self.secret)
        self._children: list[subprocess.Popen[str]] = []
        self.output = ""

    def begin(
        self, *arguments: str, task: dict[str, Any] | None = None, variables: dict[str, Any] | None = None,
        **options: Any,
    ) -> subprocess.Popen[str]:
        """Start it; its output is read with `read_until` or `read_all`."""
        inventory = {"all": {"hosts": {"server": {**self.server.variables(), **(variables or {})}}}}
        (self.folder / "hosts.yml").write_text(yaml.safe_dump(inventory), encoding="utf-8")
        password = f"{{{{ lookup('ansible.builtin.file', '{self._secret_file}') }}}}"
        long_work = {"gate": str(self.gate), "password": password, **options}
        tasks = [
            {"name": "Work", "long_work": long_work, "register": "work", **(task or {})},
            {"name": "Show", "ansible.builtin.debug": {"var": "work"}},
        ]
        play = [{"name": "Play", "hosts": "server", "gather_facts": False, "tasks": tasks}]
        (self.folder / "play.yml").write_text(yaml.safe_dump(play), encoding="utf-8")
        own = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
        child = subprocess.Popen(
            [str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(self.folder / "hosts.yml"),
             str(self.folder / "play.yml"), *arguments],
            cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
            env={
                **own, "ANSIBLE_LIBRARY": str(PLUGINS / "modules"), "ANSIBLE_ACTION_PLUGINS": str(PLUGINS / "action"),
                "ANSIBLE_NOCOLOR": "1", "PYTHONUNBUFFERED": "1",
            },
        )
        self._children.append(child)
        return child

    def read_until(self, child: subprocess.Popen[str], text: str) -> str:
        """Read until a line with this text comes; the line."""
        assert child.stdout
        for line in child.stdout:
            self.output += line
            if text in line:
                return line
        raise AssertionError(f"{text!r} never came:\n{self.output}")

    def read_all(self, child: subprocess.Popen[str]) -> int:
        """Read the rest; the exit code."""
        assert child.stdout
        self.output += child.stdout.read()
        return child.wait(WAIT_S)

    def read_begun(self, child: subprocess.Popen[str]) -> int:
        """Read the module's first line; its process id."""
        found = re.search(r"^  server: begun by process (\d+) é$", self.read_until(child, "  server: begun by"))
        assert found, self.output
        return int(found[1])

    def open_gate(self) -> None:
        """Let the module go on."""
        self.gate.touch()

    def jobs(self) -> list[Path]:
        """The folders of jobs on the host."""
        return list(self.server.jobs.glob("*"))

    def end(self) -> None:
        """Let everything end that is still at work."""
        self.open_gate()
        for child in self._children:
            if child.poll() is None:
                child.kill()
            child.wait()
        assert machine.wait_for(lambda: not self.jobs(), WAIT_S), self.jobs()


@pytest.fixture
def work(tmp_path: Path, ssh_server: SshServer) -> Iterator[Work]:
    one = Work(tmp_path, ssh_server)
    yield one
    one.end()
    shutil.rmtree(ssh_server.jobs, ignore_errors=True)


def test_lines_are_shown_while_the_module_works_and_nothing_is_left(work: Work) -> None:
    """The module goes on only after its first line was read here."""
    child = work.begin("-vvv")
    work.read_begun(child)
    written = work.server.written()
    assert {path.name for path in written} >= {"progress.jsonl", "keeper.py", "lock"}
    assert not [path for path in written if work.secret.encode() in path.read_bytes()]
    assert all(path.stat().st_mode & 0o077 == 0 for path in work.jobs())
    work.open_gate()
    assert work.read_all(child) == 0, work.output
    assert "  server: the gate is open\n" in work.output
    assert '"got": 32' in work.output
    assert work.secret not in work.output
    assert work.server.written() == []
    assert work.jobs() == []


def test_a_module_works_in_the_background_as_it_does_in_front(work: Work) -> None:
    """The same result and umask, except for where the progress goes; once for all hosts, in the name of none."""
    work.open_gate()
    results = []
    for variables in ({}, {"ansible_connection": "local"}):
        assert work.read_all(work.begin(variables=variables, task={"run_once": True})) == 0
        assert "\n  the gate is open\n" in work.output
        results.append(re.sub(r'"said_to": ".*"', "", work.output[work.output.index("TASK [Show]"):]))
        work.output = ""
    assert results[0] == results[1]


@pytest.mark.parametrize("pipelining", [True, False])
def test_a_module_that_fails_says_what_it_says_on_this_machine(work: Work, pipelining: bool) -> None:
    work.open_gate()
    child = work.begin(variables={"ansible_pipelining": pipelining}, broken=True)
    assert work.read_all(child) == 2
    assert "The work was refused: 3 of 4. Do it again." in work.output
    assert "Traceback" not in work.output
    assert work.jobs() == []


def _python_of(user: pwd.struct_passwd) -> str:
    """A Python that this user can run, too; the tests' own may be below somebody's closed home."""
    for path in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        with contextlib.suppress(OSError):
            code = "import datetime; datetime.UTC"
            if subprocess.run([path, "-c", code], **machine.popen_as(user), cwd="/", check=False).returncode == 0:
                return path
    pytest.skip(f"{user.pw_name} can run no Python 3.11 or newer here")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user without a password")
def test_another_user_does_the_work(work: Work, server_folder: Path) -> None:
    """A user without a home, who may enter neither the folder of ssh's user nor that of Ansible's modules."""
    user = machine.unprivileged_user()
    assert user
    jobs = machine.make_folder(server_folder / "jobs", user)
    work.gate = machine.make_folder(server_folder / "gate", user) / "open"
    child = work.begin(
        task={"become": True, "become_user": user.pw_name, "become_method": "su", "become_flags": "-s /bin/sh"},
        variables={"ansible_async_dir": str(jobs), "ansible_python_interpreter": _python_of(user)},
    )
    work.read_begun(child)
    (job,) = jobs.glob("*")
    assert job.owner() == user.pw_name
    work.open_gate()
    assert work.read_all(child) == 0, work.output
    assert f'"user": {user.pw_uid}' in work.output
    assert list(jobs.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named_with_the_way_out(work: Work) -> None:
    assert work.read_all(work.begin(variables={"ansible_async_dir": "/proc/nobody"})) == 2
    assert "could not be made on server" in work.output
    assert "ansible_async_dir" in work.output


def test_a_host_that_is_not_there_is_unreachable_as_ever(work: Work) -> None:
    assert work.read_all(work.begin(variables={"ansible_port": machine.free_port()})) == 4
    assert "Connection refused" in work.output


def test_a_connection_that_is_lost_for_a_while_costs_nothing(work: Work) -> None:
    child = work.begin()
    work.read_begun(child)
    work.server.stop()
    try:
        assert "works on" in work.read_until(child, "server does not answer")
    finally:
        work.server.start()
    work.open_gate()
    assert work.read_all(child) == 0, work.output
    assert work.output.count("begun by") == 1
    assert work.output.count("the gate is open") == 1
    assert work.jobs() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_interrupted_ends_the_module_and_lets_it_tidy_up(work: Work, number: signal.Signals) -> None:
    child = work.begin()
    module = work.read_begun(child)
    child.send_signal(number)
    assert work.read_all(child) != 0
    assert machine.wait_for(lambda: not machine.is_running(module, ""), WAIT_S)
    assert work.gate.with_suffix(".tidied").exists()
    assert machine.wait_for(lambda: not work.jobs(), WAIT_S), work.jobs()


def test_a_module_outlives_a_killed_playbook(work: Work) -> None:
    """The same as on this machine: its own lock keeps the next one out meanwhile."""
    child = work.begin()
    module = work.read_begun(child)
    child.kill()
    child.wait()
    assert machine.is_running(module, "")
    work.open_gate()
    assert machine.wait_for(work.gate.with_suffix(".done").exists, WAIT_S)


def test_a_module_that_is_killed_there_is_no_success_and_no_endless_wait(work: Work) -> None:
    child = work.begin()
    machine.send(work.read_begun(child), signal.SIGKILL)
    assert work.read_all(child) == 2
    assert work.jobs() == []


def test_a_job_that_is_killed_with_its_keeper_is_told(work: Work) -> None:
    child = work.begin()
    module = work.read_begun(child)
    (job,) = work.jobs()
    (keeper,) = (pid for pid in _processes() if machine.is_running(pid, f"{job}/keeper.py\0watch"))
    for pid in (keeper, module):
        machine.send(pid, signal.SIGKILL)
    assert work.read_all(child) == 2
    assert "has ended without a result" in work.output
    shutil.rmtree(job)


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def test_check_mode_shows_progress_and_leaves_nothing_on_the_host(work: Work) -> None:
    assert work.read_all(work.begin("--check")) == 0, work.output
    assert '"said_to": "nowhere"' not in work.output
    assert not list(work.server.jobs.glob("*"))


@pytest.mark.parametrize("connection", ["ssh", "local"])
def test_async_of_ones_own_is_refused_with_the_way_out(work: Work, connection: str) -> None:
    child = work.begin(task={"async": 60, "poll": 1}, variables={"ansible_connection": connection})
    assert work.read_all(child) == 2
    assert "Take async and poll away" in work.output
