# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The lab as somebody who practises uses it: up, status, break, mend, down, and two of them side by side."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
import yaml
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import connect

from lab import REPOSITORY, data, machine
from lab.cli import main
from lab.demo import Demo, Rows
from lab.postgresql import PostgresServer
from lab.stage import Stage, end_family
from lab.state import Lab

PROMPT_S = 10.0


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def _lab(*arguments: str) -> Done:
    """`python -m lab`, in this process: a new one each time costs more than the test."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        try:
            returncode = main(arguments)
        except SystemExit as ended:
            returncode = int(ended.code or 0)
    return Done(returncode, stdout.getvalue(), stderr.getvalue())


def _processes_below(folder: Path) -> list[int]:
    return [int(one.name) for one in Path("/proc").iterdir()
            if one.name.isdigit() and machine.is_running(int(one.name), f"{folder}/")]


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Lab, Lab]]:
    """Two labs of one system, side by side."""
    names = [f"tests-{os.getpid()}-one", f"tests-{os.getpid()}-two"]
    try:
        for name in names:
            done = _lab("up", "dbis_core", "--name", name)
            assert done.returncode == 0, done.stdout + done.stderr
            assert f"-i inventories/dbis_core/hosts.yml -i .lab/{name}/overlay.yml" in done.stdout
        yield Lab(names[0]), Lab(names[1])
    finally:
        for name in names:
            if Lab(name).exists:
                _lab("down", "--name", name)


@pytest.fixture
def one(pair: tuple[Lab, Lab]) -> Iterator[Lab]:
    """The first of them, mended after the test."""
    yield pair[0]
    _lab("mend", "--name", pair[0].name)


def _health(lab: Lab) -> tuple[int | None, str]:
    return lab.ask("app")


def test_two_labs_share_no_port_and_no_identity(pair: tuple[Lab, Lab]) -> None:
    ports = [port for lab in pair for port in lab.record["ports"].values()]
    assert len(set(ports)) == len(ports)
    identities = set()
    for lab in pair:
        for host in ("dbis-db", "drill-server"):
            with connect(lab.server(host).login) as connection:
                row = connection.execute("SELECT system_identifier AS id FROM pg_control_system()").fetchone()
                identities.add(row["id"])
    assert len(identities) == 4


def test_status_names_each_host_and_is_plain_text_in_a_pipe(one: Lab) -> None:
    done = _lab("status", "--name", one.name)
    assert done.returncode == 0, done.stdout
    assert "3 of 3 up" in done.stdout
    assert all(host in done.stdout for host in ("app", "dbis-db", "drill-server"))
    assert "\033" not in done.stdout


def test_up_again_starts_only_what_is_missing(one: Lab) -> None:
    before = one.server("dbis-db").pid
    assert _lab("break", "stop", "--name", one.name).returncode == 0
    assert _lab("status", "--name", one.name).returncode == 1
    assert _lab("up", "dbis_core", "--name", one.name).returncode == 0
    assert one.server("dbis-db").pid == before
    assert _health(one)[0] == 200


def test_up_again_shows_the_lab_in_a_clone_that_lost_its_link(one: Lab) -> None:
    one.link.unlink()
    assert _lab("up", "dbis_core", "--name", one.name).returncode == 0
    assert (one.link / "overlay.yml").samefile(one.folder / "overlay.yml")


def test_secrets_are_private_and_stand_in_no_argument(one: Lab) -> None:
    secrets = [path for path in (one.folder / "secrets").rglob("*") if path.is_file()]
    assert {path.relative_to(one.folder / "secrets").as_posix() for path in secrets} == {
        "dbis-db/admin", "dbis-db/application", "dbis-db/monitor", "drill-server/admin"
    }
    assert all(path.stat().st_mode & 0o077 == 0 for path in (*secrets, one.folder / "secrets"))
    arguments = b"".join(Path(f"/proc/{pid}/cmdline").read_bytes() for pid in _processes_below(one.folder))
    overlay = (one.folder / "overlay.yml").read_bytes()
    assert arguments
    for path in secrets:
        assert path.read_bytes() not in arguments + overlay


def test_the_overlay_wins_over_the_production_inventory(one: Lab) -> None:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("ansible-inventory")), *one.inventory_arguments, "--host", "dbis-db"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=60,
    )
    variables = json.loads(done.stdout)
    assert variables["database_host"] == "127.0.0.1"
    assert variables["database_port"] == one.port("dbis-db")
    assert variables["database_sslmode"] == "disable"
    assert variables["backup_policy"]["retention_days"] == 30
    assert variables["secrets_directory"] == str(one.folder / "secrets")
    # In a container a runbook that acts is refused without a folder of which somebody says that it lasts.
    assert variables["run_directory"] == str(REPOSITORY / "build" / "runs" / one.name)
    assert (variables["run_lock_host"], variables["run_lock_directory"]) == ("localhost", str(one.folder / "locks"))


def test_the_application_is_no_superuser_and_the_monitor_may_only_monitor(one: Lab) -> None:
    with connect(one.login("dbis-db", "application")) as connection:
        row = connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").fetchone()
        assert row["rolsuper"] is False
    with connect(one.login("dbis-db", "monitor")) as connection:
        assert connection.execute("SELECT pg_has_role('pg_monitor', 'member') AS is_member").fetchone()["is_member"]
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT FROM payments")


def test_the_write_path_keeps_writing(one: Lab) -> None:
    def newest() -> str:
        return json.loads(one.ask("app", "/payments")[1])["newest"]

    before = newest()
    assert machine.wait_for(lambda: newest() > before, PROMPT_S)


FAULTS = {
    "empty": lambda status, body: status == 200 and body == "",
    "html": lambda status, body: status == 200 and body.startswith("<!doctype html>"),
    "down": lambda status, body: status == 200 and json.loads(body)["status"] == "down",
    "old": lambda _status, body: _age_s(body) > 7000,
    "stale": lambda _status, body: _age_s(body) > 2,
    "version": lambda _status, body: json.loads(body)["version"] != "1.0.0",
    "errors": lambda status, _body: status == 500,
    "refusing": lambda status, _body: status is None,
    "leak": lambda status, body: status in (200, 503) and json.loads(body)["pool"]["in_use"] >= 3,
}


def _age_s(body: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(json.loads(body)["timestamp"])).total_seconds()


def _is_mended(lab: Lab, fault: str) -> bool:
    status, body = _health(lab)
    return status == 200 and not FAULTS[fault](status, body)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_shows_and_is_mended(one: Lab, fault: str) -> None:
    assert _lab("break", fault, "--name", one.name).returncode == 0
    assert machine.wait_for(lambda: FAULTS[fault](*_health(one)), PROMPT_S), _health(one)
    assert _lab("mend", "--name", one.name).returncode == 0
    assert machine.wait_for(lambda: _is_mended(one, fault), PROMPT_S)


def test_a_service_that_hangs_accepts_and_never_answers(one: Lab) -> None:
    _lab("break", "hang", "--name", one.name)
    assert machine.wait_for(lambda: "timed out" in one.ask("app", timeout_s=0.5)[1], PROMPT_S)


def test_a_blocked_session_is_blocked_by_another(one: Lab) -> None:
    """B34 ⚠: a wait for a row's lock has no relation, and only pg_blocking_pids tells."""
    def blocked() -> int:
        with connect(one.login("dbis-db", "monitor")) as connection:
            return connection.execute(
                "SELECT count(*) AS blocked FROM pg_stat_activity WHERE cardinality(pg_blocking_pids(pid)) > 0"
            ).fetchone()["blocked"]

    assert _lab("break", "blocked", "--name", one.name).returncode == 0
    assert blocked() == 1
    assert _lab("mend", "--name", one.name).returncode == 0
    assert blocked() == 0


def test_a_service_outlives_its_database(one: Lab) -> None:
    _lab("break", "database-stop", "--name", one.name)
    assert machine.wait_for(lambda: _health(one)[0] == 503, PROMPT_S)
    pid = one.service_pid("app")
    _lab("mend", "--name", one.name)
    assert machine.wait_for(lambda: _health(one)[0] == 200, PROMPT_S)
    assert one.service_pid("app") == pid


def test_a_service_ends_in_order_and_takes_its_pid_file_along(one: Lab) -> None:
    pid = one.service_pid("app")
    os.kill(pid, 15)
    assert machine.wait_for(lambda: not machine.is_running(pid, "service.py"), PROMPT_S)
    assert not (one.service_folder("app") / "pid").exists()
    assert "ended" in (one.service_folder("app") / "service.log").read_text().splitlines()[-1]


def test_prometheus_can_read_the_metrics(one: Lab) -> None:
    """D2."""
    names = {line.split("{")[0].split(" ")[0] for line in one.ask("app", "/metrics")[1].splitlines()}
    assert {"payments_initiated_total", "payments_failed_total", "process_cpu_user_seconds_total"} <= names


def test_destroyed_data_is_gone(pair: tuple[Lab, Lab]) -> None:
    lab = pair[1]
    assert _lab("break", "drop-table", "--name", lab.name).returncode == 0
    assert machine.wait_for(lambda: lab.ask("app", "/payments")[0] == 503, PROMPT_S)
    with connect(lab.login("dbis-db")) as connection:
        assert connection.execute("SELECT to_regclass('payments') AS there").fetchone()["there"] is None


def test_down_leaves_nothing_behind_also_when_something_was_broken(pair: tuple[Lab, Lab]) -> None:
    lab = pair[1]
    folder = lab.folder
    assert _processes_below(folder)
    assert _lab("break", "hang", "--name", lab.name).returncode == 0
    assert _lab("down", "--name", lab.name).returncode == 0
    assert _processes_below(folder) == []
    assert not folder.exists()
    assert not lab.link.is_symlink()


def test_down_works_after_half_a_start() -> None:
    name = f"tests-{os.getpid()}-half"
    child = subprocess.Popen(
        [sys.executable, "-m", "lab", "up", "bakery_ia", "--name", name], cwd=REPOSITORY, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    )
    for line in child.stdout:
        if "is ready" in line:
            break
    child.kill()
    child.communicate()
    lab = Lab(name)
    running = _processes_below(lab.folder)
    assert _lab("down", "--name", name).returncode == 0
    assert running
    assert machine.wait_for(lambda: not _processes_below(lab.folder), PROMPT_S)
    assert not lab.folder.exists()


def test_a_cluster_with_an_archive_can_be_recovered_and_down_leaves_nothing_of_a_recovery_that_was_cut_off() -> None:
    name = f"tests-{os.getpid()}-archived"
    lab = Lab(name)
    try:
        done = _lab("up", "dbis_core", "--name", name, "--archive", "dbis-db")
        assert done.returncode == 0, done.stdout + done.stderr
        again = _lab("up", "dbis_core", "--name", name)
        assert again.returncode == 0, again.stderr
        server = lab.archived_server("dbis-db")
        assert server.has_backup
        hosts = yaml.safe_load((lab.folder / "overlay.yml").read_text(encoding="utf-8"))["all"]["children"]
        assert hosts["databases"]["hosts"]["dbis-db"]["server"] == "dbis-db-server"
        assert hosts["servers"]["hosts"]["dbis-db-server"]["postgresql_data_directory"] == str(server.data_directory)

        server.stop()
        beside = server.data_directory.with_name("data.restoring")
        server.data_directory.rename(beside)
        subprocess.run(
            [*server._as_user(), str(server.bin_directory / "pg_ctl"), "-D", str(beside), "-w", "-s", "-l",
             str(server.folder / "own" / "beside.log"), "start"], check=True, cwd="/",
        )
        running = _processes_below(lab.folder)
    finally:
        assert _lab("down", "--name", name).returncode == 0
    assert running
    assert machine.wait_for(lambda: not _processes_below(lab.folder), PROMPT_S)
    assert not lab.folder.exists()


@pytest.mark.parametrize("demo", ["lab.demo", "lab.demo_recovery"])
def test_a_second_demo_is_refused_and_leaves_the_first_ones_lab_alone(demo: str) -> None:
    with open(machine.state_root() / "demo.lock", "a", encoding="utf-8") as lock:
        with contextlib.suppress(BlockingIOError):  # a demo runs already, which is as good
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        done = subprocess.run(
            [sys.executable, "-m", demo], cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False
        )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("A demo of yours is running already")
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_demo_ends_the_playbook_of_one_that_was_killed_with_what_it_started_and_nothing_else() -> None:
    class Other(Stage):
        NAME = f"tests-{os.getpid()}-stage"

    waits = (
        "import subprocess, sys, time;"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); time.sleep(60)"
    )
    playbook, bystander = (
        subprocess.Popen([sys.executable, "-c", waits, "ansible-playbook", f".lab/{name}/overlay.yml"])
        for name in (Other.NAME, f"{Other.NAME}-too")
    )
    try:
        assert machine.wait_for(lambda: machine.children_of(playbook.pid) != [], PROMPT_S)
        family = [playbook.pid, *machine.children_of(playbook.pid)]
        Other().end_playbooks()
        assert machine.wait_for(lambda: all(map(machine.has_ended, family)), PROMPT_S)
        assert bystander.poll() is None
    finally:
        for one in (playbook, bystander):
            end_family(one.pid)


@pytest.mark.parametrize(("arguments", "sentence"), [
    (("up", "no_such_system"), "The lab does not know a system no_such_system."),
    (("up", "dbis_core", "--name", "../escape"), "is no name for a lab"),
    (("up", "dbis_core", "--archive", "orders-db", "--name", "nowhere"), "dbis_core has no database orders-db."),
    (("up",), "the following arguments are required: system"),
    (("status", "--name", "nowhere"), "Start it: .venv/bin/python -m lab up <system> --name nowhere."),
    (("down", "--name", "nowhere"), "There is no lab nowhere."),
    (("break", "rain", "--name", "nowhere"), "There is no fault rain."),
    (("fill", "--bytes", "-1", "--name", "nowhere"), "is no size such as 500MB"),
    (("dance",), "invalid choice"),
])
def test_bad_input_gets_one_sentence(arguments: tuple[str, ...], sentence: str) -> None:
    done = _lab(*arguments)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_the_demo_says_each_measure_in_its_own_unit(capsys: pytest.CaptureFixture[str]) -> None:
    destroyed_at = datetime.now(UTC)
    measures = [
        {"name": "rows_lost", "value": 90, "unit": "rows", "objective": None},
        {"name": "recovery_time", "value": 12.5, "unit": "s", "objective": 3600},
    ]
    Demo().tell(2.0, 20.0, destroyed_at, Rows(100, destroyed_at), Rows(10, destroyed_at), {"measures": measures})
    shown = " ".join(capsys.readouterr().out.split())
    assert "rows lost 90 rows" in shown
    assert "recovery time, objective 1 h 12.5 s" in shown


def test_fill_makes_eight_tables_of_the_size_that_was_asked_for(postgresql_server: PostgresServer) -> None:
    wanted = 24_000_000
    with connect(postgresql_server.login) as connection:
        connection.execute("CREATE DATABASE filled")
        try:
            seen: list[int] = []
            login = postgresql_server.login.at("filled")
            done = data.fill(login, wanted, lambda bytes_, _total: seen.append(bytes_))
            assert wanted <= done < wanted * 1.2
            assert seen == sorted(seen)
            assert data.fill(login, wanted) == done
            with connect(login) as inside:
                tables = inside.execute("SELECT count(*) AS tables FROM pg_stat_user_tables").fetchone()["tables"]
            assert tables >= 8
        finally:
            connection.execute("DROP DATABASE filled WITH (FORCE)")
