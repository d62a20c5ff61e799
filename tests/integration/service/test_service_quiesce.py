# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A service is stopped, remembered and brought back as it was; nothing else is ever touched."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.progress import Progress
from ansible_collections.sre.runbooks.plugins.module_utils.service.process import ProcessService, read_process

from lab import machine
from tests.conftest import COLLECTIONS
from tests.integration.backup.conftest import call_module, start_module

__all__ = ["call_module", "start_module"]  # fixtures

POLITE = "import time\nprint('ready', flush=True)\ntime.sleep(600)\n"
STUBBORN = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + POLITE
BROKEN = "import sys\nsys.exit('the port 8080 is taken')\n"


class Running:
    """A service in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.program = folder / "service.py"
        self.control: dict[str, Any] = {
            "driver": "process", "pid_file": str(folder / "pid"), "command": [sys.executable, str(self.program)],
            "directory": str(folder), "log_file": str(folder / "log"), "stop_timeout_seconds": 1,
        }

    def start(self, text: str = POLITE) -> int:
        self.program.write_text(text, encoding="utf-8")
        with (self.folder / "log").open("ab") as log:
            child = subprocess.Popen(self.control["command"], stdout=log, stderr=log, cwd=self.folder)
        (self.folder / "pid").write_text(f"{child.pid}\n", encoding="utf-8")
        assert machine.wait_for(lambda: "ready" in (self.folder / "log").read_text(encoding="utf-8"), 10)
        return child.pid

    @property
    def pid(self) -> int:
        return int((self.folder / "pid").read_text(encoding="utf-8"))

    def service(self, **changes: Any) -> ProcessService:
        return ProcessService("orders", {**self.control, **changes}, Progress())


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """A service, ended afterwards."""
    one = Running(tmp_path)
    yield one
    with contextlib.suppress(FileNotFoundError, ValueError, ProcessLookupError):
        if machine.is_running(one.pid, str(one.program)):
            os.kill(one.pid, signal.SIGKILL)


def test_check_run_check_run_stops_once_and_brings_exactly_that_back(
    running: Running, call_module: Callable[..., dict[str, Any]]
) -> None:
    """X6: how it was is recorded before the stop and restored from the record."""
    pid = running.start()
    arguments = {"name": "orders", "control": running.control, "state": "quiesced"}
    checked = call_module("service_quiesce", arguments, check_mode=True)
    assert checked["changed"]
    assert read_process(pid)
    began = datetime.now(UTC).replace(microsecond=0)
    stopped = call_module("service_quiesce", arguments)
    done_at = datetime.fromisoformat(stopped["plan"][0].pop("at"))
    assert stopped["plan"] == checked["plan"]
    assert began <= done_at <= datetime.now(UTC)
    assert stopped["record"] == checked["record"]
    assert stopped["record"]["pid"] == pid
    assert read_process(pid) is None
    assert not call_module("service_quiesce", arguments, check_mode=True)["changed"]
    assert not call_module("service_quiesce", arguments)["changed"]

    back = {**arguments, "state": "released", "record": stopped["record"]}
    assert call_module("service_quiesce", back, check_mode=True)["changed"]
    released = call_module("service_quiesce", back)
    assert released["changed"]
    assert released["record"]["running"]
    now = read_process(running.pid)
    assert now["command"] == running.control["command"]
    assert now["directory"] == str(running.folder)
    assert not call_module("service_quiesce", back)["changed"]


def test_its_umask_comes_back_and_our_own_environment_stays_with_us(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """X6 X18: a token of the operator has no business in a service that lives for months."""
    (running.folder / "environment").write_text("# the orders' own\nORDERS_MODE='night shift'\n", encoding="utf-8")
    running.start("import os\nos.umask(0o037)\n" + POLITE)
    service = running.service(environment_file=str(running.folder / "environment"))
    record = service.observe()
    assert record["umask"] == "0037"
    service.quiesce(record)
    running.program.write_text(POLITE, encoding="utf-8")
    monkeypatch.setenv("OPERATORS_TOKEN", "s3cret")
    now = service.release(record)
    assert now["umask"] == "0037"
    variables = Path(f"/proc/{running.pid}/environ").read_text(encoding="utf-8").split("\0")
    assert "ORDERS_MODE=night shift" in variables
    assert not any("s3cret" in variable for variable in variables)


def test_a_file_of_variables_is_never_quoted(running: Running) -> None:
    (running.folder / "environment").write_text("the password is s3cret\n", encoding="utf-8")
    running.start()
    service = running.service(environment_file=str(running.folder / "environment"))
    record = service.observe()
    service.quiesce(record)
    with pytest.raises(RunbookError, match=r"Line 1 of .* is not of the form NAME=value") as caught:
        service.release(record)
    assert "s3cret" not in str(caught.value)


def test_a_service_in_the_background_keeps_the_file_that_it_wrote(running: Running) -> None:
    """Its first process ends; the id that counts is the one that it wrote itself."""
    running.program.write_text(POLITE, encoding="utf-8")
    running.control["command"] = [sys.executable, str(running.program)]
    record = {**running.service().observe(), "running": True}
    running.program.write_text(
        "import os, sys\nif os.fork():\n    os._exit(0)\n"
        f"open({str(running.folder / 'pid')!r}, 'w').write(str(os.getpid()))\n" + POLITE, encoding="utf-8",
    )
    now = running.service().release(record)
    assert now["running"]
    assert now["pid"] == running.pid
    assert read_process(running.pid)["command"] == running.control["command"]


def test_one_run_at_a_time_works_on_a_service(running: Running) -> None:
    """X5: two that start it at once would start it twice."""
    running.start()
    one, other = running.service(stop_timeout_seconds=0.1), running.service(stop_timeout_seconds=0.1)
    busy = pytest.raises(RunbookError, match="Another run is stopping or starting the service orders")
    with one.alone(), busy, other.alone():
        pass
    with other.alone():
        assert other.observe()["running"]


# Starts a service, and waits in the new process, before that has become the service, until a file says go on.
HALFWAY = """
import json, os, sys, time
from pathlib import Path
from ansible_collections.sre.runbooks.plugins.module_utils.run.progress import Progress
from ansible_collections.sre.runbooks.plugins.module_utils.service import process

control, record, here = json.loads(sys.argv[1]), json.loads(sys.argv[2]), Path(sys.argv[3])
write_whole = process.write_whole

def write_and_wait(*arguments):
    write_whole(*arguments)
    (here / "halfway").write_text(str(os.getpid()))
    deadline = time.monotonic() + 30
    while not (here / "go on").exists() and time.monotonic() < deadline:
        time.sleep(0.01)

process.write_whole = write_and_wait
service = process.ProcessService("orders", control, Progress())
with service.alone():
    service.release(record)
"""


def test_a_run_that_is_killed_while_a_service_begins_leaves_one_that_is_known(running: Running) -> None:
    """X6: killed between fork and exec, the next run waits for the service, finds it, and starts no second one."""
    running.start()
    service = running.service(stop_timeout_seconds=0.1)
    record = service.observe()
    service.quiesce(record)
    driver = subprocess.Popen(
        [sys.executable, "-c", HALFWAY, json.dumps(running.control), json.dumps(record), str(running.folder)],
        env={**os.environ, "PYTHONPATH": str(COLLECTIONS)},
    )
    halfway, first = running.folder / "halfway", None
    try:
        assert machine.wait_for(lambda: halfway.exists() and halfway.read_text() != "", 10)
        driver.kill()
        first = int(halfway.read_text())
        busy = pytest.raises(RunbookError, match="Another run is stopping or starting the service orders")
        with busy, service.alone():
            pass
    finally:
        (running.folder / "go on").touch()
        driver.kill()
        driver.wait()
    assert machine.wait_for(lambda: (read_process(first) or {}).get("command") == running.control["command"], 10)
    with service.alone():
        now = service.release(record)
    assert (now["running"], now["pid"]) == (True, first)


def test_what_a_service_printed_is_quoted_without_its_secrets(running: Running) -> None:
    """X18: many a program prints the address of its database before it dies."""
    running.start()
    service = running.service()
    record = service.observe()
    service.quiesce(record)
    running.program.write_text("import sys\nsys.exit('postgresql://shop:s3cret@db/shop password=s3cret')\n")
    with pytest.raises(RunbookError, match=r"postgresql://shop:\*\*\*@db/shop password=\*\*\*") as caught:
        service.release(record)
    assert "s3cret" not in str(caught.value)


def test_a_service_without_its_file_is_not_passed_over_in_silence(
    running: Running, call_module: Callable[..., dict[str, Any]]
) -> None:
    arguments = {"name": "orders", "control": running.control, "state": "quiesced"}
    seen = call_module("service_quiesce", arguments, check_mode=True)
    assert "counts as stopped" in seen["notes"][0]
    assert not list(running.folder.iterdir()), "looking leaves nothing"


def test_a_service_that_did_not_run_is_not_started(running: Running) -> None:
    """X6: a count that is written down, not one that is assumed."""
    service = running.service()
    record = service.observe()
    assert not record["running"]
    service.quiesce(record)
    assert not service.release(record)["running"]


def test_a_service_that_does_not_end_is_reported_and_never_killed(running: Running) -> None:
    pid = running.start(STUBBORN)
    service = running.service()
    with pytest.raises(RunbookError, match=rf"process {pid}.* still runs after 1 s.*Its last lines: ready"):
        service.quiesce(service.observe())
    assert read_process(pid)
    allowed = running.service(kill=True)
    allowed.quiesce(allowed.observe())
    assert read_process(pid) is None


def test_a_service_that_does_not_come_back_is_named_with_its_last_lines(running: Running) -> None:
    running.start()
    service = running.service()
    record = service.observe()
    service.quiesce(record)
    running.program.write_text(BROKEN, encoding="utf-8")
    with pytest.raises(RunbookError, match=r"orders did not come back: it ended with exit code 1.*port 8080 is taken"):
        service.release(record)


def test_another_process_that_got_the_id_is_never_touched(running: Running, tmp_path: Path) -> None:
    """A file with a process id proves nothing once the service has ended."""
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        running.program.write_text(POLITE, encoding="utf-8")
        file = tmp_path / "pid"
        file.write_text(f"{other.pid}\n", encoding="utf-8")
        os.utime(file, (0, 0))
        assert not running.service().observe()["running"]
        stale = {**running.service().observe(), "running": True, "pid": other.pid, "process_started": 1}
        running.service().quiesce(stale)
        assert read_process(other.pid)
    finally:
        other.kill()
        other.wait()


@pytest.mark.parametrize("driver", ["kubernetes", "compose", "systemd"])
def test_a_driver_that_is_not_served_yet_is_refused_with_a_sentence(
    call_module: Callable[..., dict[str, Any]], driver: str
) -> None:
    result = call_module("service_quiesce", {"name": "orders", "control": {"driver": driver}, "state": "quiesced"})
    assert result["failed"]
    assert f"The service orders is driven by {driver}, which is not served yet." in result["msg"]
    assert """start the same command with -e '{"consumers": []}'""" in result["msg"]
