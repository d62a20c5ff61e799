# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Work in the background, with a real keeper on this machine and a connection that the test can cut."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible_collections.sre.runbooks.plugins.plugin_utils import job, job_keeper
from ansible_collections.sre.runbooks.plugins.plugin_utils.job import Job

from lab import machine


class Connection:
    """Runs command lines here, and can be cut."""

    def __init__(self) -> None:
        self.cut_at: str | None = None
        self.cut_for = 0

    def execute(self, command: str, in_data: bytes | None = None) -> dict[str, Any]:
        if self.cut_at and f" {self.cut_at} " in command and self.cut_for:
            self.cut_for -= 1
            raise AnsibleConnectionFailure("Connection refused")
        done = subprocess.run(["/bin/sh", "-c", command], input=in_data or b"", capture_output=True, check=False)
        return {"rc": done.returncode, "stdout": done.stdout.decode(), "stderr": done.stderr.decode()}


@pytest.fixture
def connection() -> Connection:
    return Connection()


def begin(connection: Connection, folder: Path, said: list[str]) -> Job:
    return Job(connection.execute, str(folder), "store", said.append)


def test_stdin_output_errors_and_exit_code_come_back_as_they_are(connection: Connection, tmp_path: Path) -> None:
    payload = os.urandom(300_000)
    done = begin(connection, tmp_path / "job", []).run(
        sys.executable, "wc -c; printf 'é\\n.'; echo trouble >&2; exit 3", payload
    )
    assert (done["rc"], done["stdout"].split()[0], done["stderr"]) == (3, "300000", "trouble\n")
    assert done["stdout"].endswith("\né\n.")
    assert not (tmp_path / "job").exists()


def test_a_line_is_said_once_and_in_order(connection: Connection, tmp_path: Path) -> None:
    """Half a line is not said before its end is there."""
    said: list[str] = []
    file = tmp_path / "job" / "progress.jsonl"
    one, two = '{"message": "one"}', '{"message": "two"}'
    command = f"printf '%s\\n%s' '{one}' '{two[:8]}' > {file}; sleep 0.5; printf '%s\\n' '{two[8:]}' >> {file}"
    begin(connection, tmp_path / "job", said).run(sys.executable, command, b"")
    assert said == ["one", "two"]


def test_a_line_that_a_full_disk_has_cut_stops_nobody(connection: Connection, tmp_path: Path) -> None:
    said: list[str] = []
    file = tmp_path / "job" / "progress.jsonl"
    lines = """'{"mess' '{"message": "two"}'"""
    begin(connection, tmp_path / "job", said).run(sys.executable, f"printf '%s\\n' {lines} > {file}", b"")
    assert said == ["…", "two"]


def test_a_host_that_never_answers_again_ends_the_run_and_not_the_work(
    connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "RETRY_S", 0.01)
    monkeypatch.setattr(job, "TOLERATED_S", 0.1)
    connection.cut_at, connection.cut_for = "look", 10**6
    said: list[str] = []
    with pytest.raises(AnsibleConnectionFailure, match=r"store has not answered for .*works on.*same command again"):
        begin(connection, tmp_path / "job", said).run(sys.executable, f"sleep 0.5; touch {tmp_path}/done", b"")
    assert said
    assert machine.wait_for((tmp_path / "job" / "result.json").exists, 30)
    assert (tmp_path / "done").exists()


def test_an_answer_that_is_lost_starts_nothing_twice(connection: Connection, tmp_path: Path) -> None:
    """Ansible's ssh sends a command again when a kept connection broke under it."""
    execute = connection.execute

    def twice(command: str, in_data: bytes | None = None) -> dict[str, Any]:
        if " start " in command:
            execute(command, in_data)
        return execute(command, in_data)

    connection.execute = twice  # type: ignore[method-assign]
    begin(connection, tmp_path / "job", []).run(sys.executable, f"cat >> {tmp_path}/got", b"once")
    assert (tmp_path / "got").read_bytes() == b"once"


def test_a_folder_that_cannot_be_removed_does_not_spoil_the_result(connection: Connection, tmp_path: Path) -> None:
    connection.cut_at, connection.cut_for = "remove", 1
    said: list[str] = []
    assert begin(connection, tmp_path / "job", said).run(sys.executable, "true", b"")["rc"] == 0
    assert said == [f"the folder {tmp_path}/job is left on store; a later job there removes it: Connection refused"]


def test_only_what_ended_long_ago_is_removed_by_the_next(connection: Connection, tmp_path: Path) -> None:
    connection.cut_at, connection.cut_for = "remove", 2
    old, new = (tmp_path / f"{job_keeper.PREFIX}{name}" for name in ("old", "new"))
    for folder in (old, new):
        begin(connection, folder, []).run(sys.executable, "true", b"")
    long_ago = old.stat().st_mtime - job_keeper.LEFTOVER_S - 60
    at_work = tmp_path / f"{job_keeper.PREFIX}at-work"
    seen = tmp_path / "seen"
    # Again and again, since the keeper still writes its own files into the folder.
    age = f"touch -c -d @{long_ago:.0f} {old} {at_work}"
    outer = f"until test -e {seen}; do {age}; sleep 0.05; done"
    other = subprocess.Popen(
        [sys.executable, "-c", Path(job_keeper.__file__).read_text(), "start", str(at_work), "0", outer]
    )
    assert other.wait() == 0
    assert machine.wait_for(lambda: abs(at_work.stat().st_mtime - long_ago) < 2, 30)
    begin(connection, tmp_path / f"{job_keeper.PREFIX}next", []).run(sys.executable, "true", b"")
    assert not old.exists()
    assert new.exists()
    assert at_work.exists()
    seen.touch()
    assert machine.wait_for((at_work / "result.json").exists, 30)


def test_a_place_that_cannot_be_written_is_an_error_with_a_way_out(connection: Connection) -> None:
    with pytest.raises(AnsibleActionFail, match=r"could not be made on store: .*ansible_async_dir"):
        begin(connection, Path("/proc/nobody/job"), []).run(sys.executable, "true", b"")
