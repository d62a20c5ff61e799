"""A child process: its exit code is believed, its secrets stay out of argv, it never outlives its bound (X4, X18)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.run import process
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_output_and_duration_are_returned():
    completed = process.run(python("print('größe')"), timeout_s=20)
    assert completed.returncode == 0
    assert completed.stdout == "größe\n"
    assert completed.duration_s > 0


def test_a_failing_program_raises_with_its_code_and_the_last_lines_it_printed():
    code = "import sys; [print('line', n, file=sys.stderr) for n in range(100)]; sys.exit(3)"
    with pytest.raises(RunbookError) as caught:
        process.run(python(code), timeout_s=20, hint="Look there.")
    assert caught.value.context["returncode"] == 3
    assert "exit code 3" in caught.value.message
    assert "line 99" in caught.value.message
    assert "line 50" not in caught.value.message
    assert str(caught.value).endswith("Look there.")


def test_a_program_that_somebody_killed_is_said_to_be_killed():
    with pytest.raises(RunbookError, match="was killed by signal 9: it printed no error"):
        process.run(python("import os; os.kill(os.getpid(), 9)"), timeout_s=10)


def test_a_program_that_does_not_exist_is_named():
    with pytest.raises(RunbookError, match="/nowhere/pg_dump does not exist"):
        process.run(["/nowhere/pg_dump"], timeout_s=5)


def test_a_program_that_hangs_is_ended_and_named():
    with pytest.raises(RunbookError, match="still running after 1 s"):
        process.run(python("import time; time.sleep(600)"), timeout_s=1)


def test_a_program_that_ignores_sigterm_is_killed(monkeypatch):
    monkeypatch.setattr(process, "GRACE_S", 0.5)
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    with pytest.raises(RunbookError, match="was ended"):
        process.run(python(code), timeout_s=1)


def test_secrets_reach_the_child_by_environment_only():
    completed = process.run(
        python("import os; print(os.environ['PGPASSWORD'])"), timeout_s=20, secrets={"PGPASSWORD": "s3cret"}
    )
    assert completed.stdout == "s3cret\n"
    assert not any("s3cret" in argument for argument in completed.argv)
    assert "PGPASSWORD" not in os.environ


def test_what_watches_the_child_can_end_it():
    class DiskFullError(Exception):
        pass

    def watch() -> None:
        raise DiskFullError

    with pytest.raises(DiskFullError):
        process.run(python("import time; time.sleep(600)"), timeout_s=60, while_waiting=watch)


def test_a_child_dies_with_the_killed_process_that_started_it(tmp_path: Path):
    """A dump whose module was killed with kill -9 must not go on writing."""
    pid_file = tmp_path / "pid"
    child = f"import os, time; open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    parent = subprocess.Popen(
        python(
            "import sys; sys.path.insert(0, 'tests'); import conftest\n"
            "from ansible_collections.sre.runbooks.plugins.module_utils.run import process\n"
            f"process.run([sys.executable, '-c', {child!r}], timeout_s=600)"
        )
    )
    _wait_until(lambda: pid_file.exists() and pid_file.read_text() != "")
    pid = int(pid_file.read_text())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    _wait_until(lambda: not _alive(pid))


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def _wait_until(condition, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)


def test_what_a_program_quotes_of_its_data_stays_out_of_errors():
    """X4: the rows that a restore stumbled over are nobody's to read in a report."""
    said = (
        "pg_restore: from TOC entry 7; 0 16390 TABLE DATA people postgres",
        "pg_restore: error: COPY failed for table people: ERROR:  duplicate key value violates unique constraint",
        "DETAIL:  Key (mail)=(jane@example.org) already exists.",
        "CONTEXT:  COPY people, line 4: jane@example.org",
        "  a second line of the same row",
        "Command was: COPY public.people (mail) FROM stdin;",
    )
    assert process.own_words("pg_restore", said) == list(said[:2])
    assert process.own_words("orders", said) == list(said), "a program that does not name itself is quoted whole"
