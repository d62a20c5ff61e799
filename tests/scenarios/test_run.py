"""The run around a runbook, as an operator meets it: target, window, lock, approval, outcome, report."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PLAYBOOK = Path("tests/scenarios/playbooks/run.yml")
INVENTORY = Path("tests/scenarios/playbooks/inventory.yml")
ANSIBLE_PLAYBOOK = Path(sys.executable).parent / "ansible-playbook"
LONGEST_S = 90


@dataclass
class Operator:
    """Somebody who starts the playbook, with a state folder that all operators of a test share."""

    state: Path
    running: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "XDG_STATE_HOME": str(self.state), "ANSIBLE_NOCOLOR": "1", "COLUMNS": "400"}

    def command(self, *arguments: str, playbook: Path = PLAYBOOK, **variables: Any) -> list[str]:
        return [str(ANSIBLE_PLAYBOOK), "-i", str(INVENTORY), str(playbook), "-e", json.dumps(variables), *arguments]

    def run(self, *arguments: str, **variables: Any) -> subprocess.CompletedProcess[str]:
        """Start it without a terminal and wait for its end."""
        return subprocess.run(
            self.command(*arguments, **variables), cwd=REPOSITORY, env=self.environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=LONGEST_S, check=False,
        )

    def start(self, *arguments: str, **variables: Any) -> subprocess.Popen[str]:
        """Start it and go on."""
        process = subprocess.Popen(
            self.command(*arguments, **variables), cwd=REPOSITORY, env=self.environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        self.running.append(process)
        return process

    def type(self, answer: str, *arguments: str, **variables: Any) -> tuple[int, str]:
        """Start it at a terminal and type the answer when it asks; returns the exit code and what was shown."""
        pid, terminal = pty.fork()
        if pid == 0:
            os.chdir(REPOSITORY)
            command = self.command(*arguments, **variables)
            os.execve(command[0], command, self.environment)  # noqa: S606
        shown, answered, deadline = b"", False, time.monotonic() + LONGEST_S
        while time.monotonic() < deadline:
            if not select.select([terminal], [], [], 1)[0]:
                continue
            try:
                shown += os.read(terminal, 65536)
            except OSError:
                break
            if not answered and b"to go on" in shown:
                answered = True
                # The prompt throws away what was typed before it began to listen.
                time.sleep(0.5)
                os.write(terminal, answer.encode())
        _pid, status = os.waitpid(pid, 0)
        os.close(terminal)
        return os.waitstatus_to_exitcode(status), shown.decode("utf-8", "replace")

    def runs(self) -> list[Path]:
        return sorted((self.state / "sre.runbooks" / "runs").glob("2*"), key=lambda path: path.stat().st_mtime)

    def records(self, kind: str = "") -> list[dict[str, Any]]:
        """The records of the latest run."""
        lines = (self.runs()[-1] / "run.jsonl").read_text().splitlines()
        return [entry for entry in map(json.loads, lines) if kind in ("", entry["kind"])]

    def report(self) -> dict[str, Any]:
        return json.loads((self.runs()[-1] / "report.json").read_text())

    def lock_file(self, target: str) -> Path:
        return self.state / "sre.runbooks" / "locks" / f"{target}.json"

    def locks(self) -> dict[str, dict[str, Any]]:
        folder = self.state / "sre.runbooks" / "locks"
        return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


@pytest.fixture
def operator(tmp_path: Path) -> Iterator[Operator]:
    somebody = Operator(tmp_path)
    yield somebody
    for process in somebody.running:
        if process.poll() is None:
            process.kill()
        process.communicate()


def until(condition: Callable[[], Any], what: str) -> None:
    """Wait for a condition, with an end."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"not within 30 s: {what}"
        time.sleep(0.05)


def error(shown: str) -> str:
    """The first error, as one line."""
    found = re.search(r"\[ERROR\]: (.*?)(?:\nOrigin|\Z)", shown, re.DOTALL)
    return " ".join(found[1].split()) if found else ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], ["No target was given", "orders-db, payments-db, audit-db", "-e target=<target>"]),
        (["-e", "target=order-db"], ["There is no target order-db", "did you mean orders-db", "-e target=orders-db"]),
        (["-e", "target=databases"], ["is 3 hosts: orders-db", "-e target=databases -e expect=<count>"]),
        (["-e", "target=orders-db", "--limit", "audit-db"], ["The limit audit-db leaves nothing", "without --limit"]),
    ],
)
def test_a_wrong_target_is_one_sentence_with_the_right_command(
    operator: Operator, arguments: list[str], said: list[str]
) -> None:
    """D30 ⚠: no mutating play without a gate; a plain pattern would end with exit code 0 and nothing done."""
    ended = operator.run(*arguments)
    assert ended.returncode != 0
    for part in ["ansible-playbook tests/scenarios/playbooks/run.yml", *said]:
        assert part in error(ended.stdout)
    assert not operator.runs()


@pytest.mark.parametrize(
    ("playbook", "variable"),
    [
        ("backup_retention", "remove"), ("backup_retention", "backup_retention_remove"),
        ("database_retired", "drop"), ("database_retired", "database_restore_drop_expired"),
    ],
)
def test_whichever_variable_tells_to_remove_the_gates_of_an_acting_run_stand_before_it(
    operator: Operator, playbook: str, variable: str
) -> None:
    """D30 ⚠: the role's own variable is no way round the expected number, the windows and the target's lock."""

    def run(**variables: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            operator.command(playbook=Path(f"playbooks/{playbook}.yml"), **variables), cwd=REPOSITORY,
            env=operator.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=LONGEST_S, check=False,
        )

    many = run(**{variable: "true"})
    assert many.returncode != 0
    assert "Say how many you expect" in error(many.stdout), many.stdout
    if variable in ("remove", "drop"):
        assert f"-e {variable}=true" in error(many.stdout), "what was asked for is said again"
    assert not operator.runs()
    freeze = {"name": "year's end", "from": "2020-01-01 00:00", "to": "2099-01-01 00:00"}
    one = run(**{variable: "true"}, target="orders-db", run_freezes=[freeze])
    assert one.returncode == 2
    assert operator.records("run")[0]["data"]["changes"] is True
    assert "year's end" in one.stdout
    assert operator.records("begin")[0]["data"]["command"].count(f"-e {variable}=") == 1
    looks = run(**{variable: "false"}, target="orders-db", run_freezes=[freeze])
    assert "year's end" not in looks.stdout
    assert operator.records("run")[0]["data"]["changes"] is False


def test_a_variable_that_nobody_reads_but_was_meant_for_one_is_refused(operator: Operator) -> None:
    """Without it the newest backup would be taken, and nobody would notice."""
    ended = subprocess.run(
        operator.command(playbook=Path("playbooks/backup_verify.yml"), target="orders-db", backup_id="20261121T0215"),
        cwd=REPOSITORY, env=operator.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=LONGEST_S, check=False,
    )
    assert ended.returncode == 2
    assert "REFUSED. This playbook has no variable backup_id; did you mean backup?" in ended.stdout
    assert "-e backup=<value>" in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        (["-e", "target=databases", "-e", "expect=3", "--list-hosts"], 3),
        (["-e", "target=databases", "-e", "expect=2", "--limit", "orders-db:audit-db", "--list-hosts"], 2),
        (["--syntax-check"], 0),
        (["--list-tasks"], 0),
    ],
)
def test_a_right_target_means_what_ansible_takes_it_for(operator: Operator, arguments: list[str], count: int) -> None:
    ended = operator.run(*arguments)
    assert ended.returncode == 0, ended.stdout
    assert f"hosts ({count})" in ended.stdout or not count


def test_the_target_is_checked_from_an_empty_folder_with_an_empty_home(operator: Operator, tmp_path: Path) -> None:
    home = tmp_path / "empty"
    home.mkdir()
    ended = subprocess.run(
        [ANSIBLE_PLAYBOOK, "-i", REPOSITORY / INVENTORY, REPOSITORY / PLAYBOOK], cwd=home, text=True,
        env={
            **operator.environment, "HOME": str(home),
            "ANSIBLE_COLLECTIONS_PATH": str(REPOSITORY / ".ansible/collections"),
        },
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=LONGEST_S, check=False,
    )
    assert ended.returncode != 0
    assert "No target was given" in error(ended.stdout)


@pytest.mark.parametrize(
    ("mode", "code", "outcome", "said"),
    [
        ("done", 0, "done", "It was done."),
        ("nothing", 0, "nothing to do", "It was done."),
        ("preflight", 2, "refused", "The preflight found something."),
        ("undo", 2, "failed and undone", "The disk is full."),
        ("undo_fails", 2, "failed and undo failed", "The way back is closed too."),
        ("late", 2, "unknown", "The service does not answer."),
        ("forgotten", 2, "refused", "changed nothing yet"),
    ],
)
def test_every_end_has_an_outcome_an_exit_code_and_a_report(
    operator: Operator, mode: str, code: int, outcome: str, said: str
) -> None:
    ended = operator.run(target="orders-db", mode=mode)
    assert ended.returncode == code, ended.stdout
    report = operator.report()
    (target,) = report["targets"]
    assert (report["outcome"], target["name"], target["outcome"]) == (outcome, "orders-db", outcome)
    assert said in target["message"]
    page = operator.runs()[-1] / "report.html"
    assert said in page.read_text()
    assert ended.stdout.strip().splitlines()[-1] == f"{outcome}. Report: {page}"
    if code:
        assert f'"msg": "{outcome}: ' in ended.stdout
        assert f"-e mode={mode}" in target["resume"]
    assert operator.locks() == {}


def test_the_way_back_is_a_command_that_reaches_the_same_hosts_and_places(operator: Operator, tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("vault-password", "variables.json")}
    for file in files.values():
        file.write_text("{}")
    ended = operator.run(
        "--vault-password-file", str(files["vault-password"]), "-e", f"@{files['variables.json']}", target="orders-db",
        mode="done", run_lock_directory=str(tmp_path / "locks"), secret="hunter2",
    )
    assert ended.returncode == 0, ended.stdout
    (target,) = operator.report()["targets"]
    assert target["undo"] == (
        f"ansible-playbook sre.runbooks.database_restore_undo -i {INVENTORY}"
        f" --vault-password-file {files['vault-password']} -e run_lock_directory={tmp_path / 'locks'}"
        f" -e @{files['variables.json']} -e target=orders-db"
    )
    assert f"To undo:  {target['undo']}" in ended.stdout


def test_a_lock_that_cannot_be_released_makes_a_success_unknown(operator: Operator) -> None:
    ended = operator.run(target="orders-db", mode="lock_lost", lock_file=str(operator.lock_file("orders-db")))
    assert ended.returncode == 2
    (target,) = operator.report()["targets"]
    assert target["outcome"] == "unknown"
    assert target["message"].startswith("done was reached, then this failed: The lock ")
    assert target["failure"]["task"] == "Release the target's lock"


def test_a_folder_of_locks_that_nobody_made_is_refused_with_the_command_that_makes_it(operator: Operator) -> None:
    locks = operator.state / "no folder" / "locks"
    locks.parent.write_text("")
    ended = operator.run(target="orders-db", run_lock_directory=str(locks))
    assert ended.returncode == 2
    assert f"The locks' folder {locks} on " in error(ended.stdout)
    assert f"install -d -m 2770 -g <group> {locks}" in error(ended.stdout)
    assert operator.report()["outcome"] == "refused"


def test_a_missing_secret_file_is_named_in_the_report(operator: Operator) -> None:
    """What failed was a template, so writing it down must template nothing."""
    ended = operator.run(target="orders-db", mode="missing_secret", secret_file=str(operator.state / "gone"))
    assert ended.returncode == 2
    (target,) = operator.report()["targets"]
    assert target["failure"]["task"] == "Read a secret whose file is missing"
    assert str(operator.state / "gone") in target["message"]


def test_all_hosts_and_batches_of_a_play_are_one_run(operator: Operator) -> None:
    for arguments in (["--forks", "3"], ["-e", "batch=1"]):
        ended = operator.run("-e", "expect=3", *arguments, target="databases")
        assert ended.returncode == 0, ended.stdout
        assert {target["name"] for target in operator.report()["targets"]} == {"orders-db", "payments-db", "audit-db"}
        assert {target["outcome"] for target in operator.report()["targets"]} == {"done"}
    assert len(operator.runs()) == 2
    for folder in operator.runs():
        assert folder.stat().st_mode & 0o777 == 0o700
        assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
        assert {path.name for path in folder.iterdir()} == {"run.jsonl", "tasks.jsonl", "report.json", "report.html"}


def test_a_sweep_is_one_run_over_all_its_hosts(operator: Operator) -> None:
    ended = operator.run("--limit", "databases", playbook=PLAYBOOK.with_name("sweep.yml"), found="unknown")
    assert ended.returncode == 2
    (target,) = operator.report()["targets"]
    assert target["hosts"] == ["orders-db", "payments-db", "audit-db"]
    assert "3 hosts: UNKNOWN. 3 hosts were looked at." in ended.stdout
    assert target["command"] == f"ansible-playbook {PLAYBOOK.with_name('sweep.yml')} -i {INVENTORY} --limit databases"
    assert operator.locks() == {}


def test_two_operators_at_once_and_the_second_is_told_who_is_at_work(operator: Operator) -> None:
    """The first goes on undisturbed by the refused one; who names its run takes the lock over on purpose."""
    go_on = operator.state / "go-on"
    first = operator.start(target="orders-db", mode="wait", go_on=str(go_on))
    until(lambda: operator.locks().get("orders-db", {}).get("quiesced"), "the first holds the lock")
    holder = operator.locks()["orders-db"]
    second = operator.run(target="orders-db")
    assert second.returncode == 2
    assert operator.report()["outcome"] == "refused"
    for part in ("orders-db is locked by the run", holder["run"], f"process {first.pid}", holder["since"],
                 holder["until"], f"-e run_lock_take_over={holder['run']}"):
        assert part in error(second.stdout)
    assert operator.locks()["orders-db"] == holder
    third = operator.run(target="orders-db", run_lock_take_over=holder["run"])
    assert third.returncode == 0, third.stdout
    assert any(holder["run"] in entry["data"]["text"] for entry in operator.records("message"))
    go_on.touch()
    shown, _nothing = first.communicate(timeout=LONGEST_S)
    assert first.returncode == 0, shown
    assert operator.locks() == {}


def test_after_kill_9_the_next_run_takes_over_with_what_was_stopped(operator: Operator) -> None:
    go_on = operator.state / "go-on"
    first = operator.start(target="orders-db", mode="wait", go_on=str(go_on))
    until(lambda: operator.locks().get("orders-db", {}).get("quiesced"), "the first holds the lock")
    dead = operator.locks()["orders-db"]["run"]
    first.send_signal(signal.SIGKILL)
    first.wait(LONGEST_S)
    ended = operator.run(target="orders-db")
    go_on.touch()
    assert ended.returncode == 0, ended.stdout
    texts = [entry["data"]["text"] for entry in operator.records("message")]
    assert any(f"taken over from the run {dead}" in text and "is gone" in text for text in texts)
    assert f"orders-db: the lock was taken over from the run {dead}: " in ended.stdout
    assert "Still stopped by an earlier run: orders." in texts
    # Nobody released it, so it stays remembered, and holds nobody up.
    left = operator.locks()["orders-db"]
    assert (left["run"], left["process"], [entry["target"] for entry in left["quiesced"]]) == ("", None, ["orders"])
    assert operator.run(target="orders-db").returncode == 0


def test_the_report_of_a_killed_run_is_written_by_the_one_that_takes_over(operator: Operator) -> None:
    first = operator.start(target="orders-db", mode="wait", go_on=str(operator.state / "go-on"))
    until(lambda: operator.locks().get("orders-db", {}).get("quiesced"), "the first holds the lock")
    (killed,) = operator.runs()
    first.send_signal(signal.SIGKILL)
    first.wait(LONGEST_S)
    assert not (killed / "report.html").exists()
    ended = operator.run(target="orders-db")
    (operator.state / "go-on").touch()
    assert ended.returncode == 0, ended.stdout
    (target,) = json.loads((killed / "report.json").read_text())["targets"]
    assert (target["outcome"], target["ended"]) == ("unknown", True)
    (taker,) = (folder.name for folder in operator.runs() if folder != killed)
    assert f"The run {taker} took over" in target["message"]
    assert f"its process {first.pid} is gone" in target["message"]
    assert "-e target=orders-db" in target["resume"]
    assert "took over" in (killed / "report.html").read_text()


UNSHARE = ("unshare", "--pid", "--fork", "--mount-proc")


@pytest.mark.skipif(os.getuid() != 0 or not shutil.which("unshare"), reason="only root can make a set of process ids")
def test_a_lock_host_learns_from_the_controller_whether_the_holder_lives(operator: Operator) -> None:
    """The lock host sees other processes than the controller, as another machine would."""
    operator.state.joinpath("python").write_text(f'#!/bin/sh\nexec {" ".join(UNSHARE)} {sys.executable} "$@"\n')
    operator.state.joinpath("python").chmod(0o755)
    operator.state.joinpath("lock_host.yml").write_text(json.dumps({"all": {"hosts": {"bastion": {
        "ansible_connection": "local", "ansible_python_interpreter": str(operator.state / "python")}}}}))
    there = {"target": "orders-db", "run_lock_host": "bastion", "run_lock_seconds": 1}
    inventory = ("-i", str(operator.state / "lock_host.yml"))
    first = operator.start(*inventory, **there, mode="wait", go_on=str(operator.state / "go-on"))
    until(lambda: operator.locks().get("orders-db", {}).get("quiesced"), "the first holds the lock")
    dead = operator.locks()["orders-db"]["run"]
    expiry = operator.locks()["orders-db"]["until"]
    until(lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()) > expiry, "the lock expired")
    refused = operator.run(*inventory, **there)
    assert refused.returncode == 2
    assert f"orders-db is locked by the run {dead}" in error(refused.stdout)
    first.send_signal(signal.SIGKILL)
    first.wait(LONGEST_S)
    ended = operator.run(*inventory, **there)
    (operator.state / "go-on").touch()
    assert ended.returncode == 0, ended.stdout
    assert any(f"its process {first.pid} is gone" in entry["data"]["text"] for entry in operator.records("message"))


def test_a_host_whose_python_is_too_old_is_said_with_the_variable_that_names_another(operator: Operator) -> None:
    """The real one at hand is made as old as it matters."""
    operator.state.joinpath("sitecustomize.py").write_text("import datetime\ndel datetime.UTC\n")
    python = operator.state / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={operator.state} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    inventory = operator.state / "lock_host.yml"
    host = {"ansible_connection": "local", "ansible_python_interpreter": str(python)}
    inventory.write_text(json.dumps({"all": {"hosts": {"bastion": host}}}))
    ended = operator.run("-i", str(inventory), target="orders-db", run_lock_host="bastion")
    assert ended.returncode == 2
    assert "The Python of bastion is older than 3.11" in error(ended.stdout)
    assert "ansible_python_interpreter" in error(ended.stdout)
    stopping = subprocess.run(
        [ANSIBLE_PLAYBOOK.with_name("ansible"), "bastion", "-i", inventory, "-m", "sre.runbooks.service_quiesce", "-a",
         json.dumps({"name": "orders", "control": {"driver": "process"}, "state": "quiesced"})],
        cwd=REPOSITORY, env=operator.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=LONGEST_S, check=False,
    )
    assert "The Python of bastion is older than 3.11" in stopping.stdout


def test_the_command_that_goes_on_can_be_run_as_it_is_shown(operator: Operator) -> None:
    """A value with a space stays whole, and files, user and place of the records are given again."""
    (operator.state / "more.yml").write_text("other: from a file\n")
    (operator.state / "vault").write_text("word")
    place = operator.state / "other runs"
    first = operator.run(
        "-e", f"@{operator.state}/more.yml", "--vault-password-file", str(operator.state / "vault"), "-u", "ops", "-b",
        target="orders-db", mode="preflight", label="2026-11-21 02:00 isn't \"it\"", run_directory=str(place),
    )
    assert first.returncode == 2
    (folder,) = place.glob("2*")
    command = shlex.split(json.loads((folder / "report.json").read_text())["targets"][0]["resume"])
    again = subprocess.run(
        [str(ANSIBLE_PLAYBOOK), *command[1:]], cwd=REPOSITORY, env=operator.environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=LONGEST_S, check=False,
    )
    assert again.returncode == 2, again.stdout
    second = next(one for one in place.glob("2*") if one != folder)
    report = json.loads((second / "report.json").read_text())["targets"][0]
    assert shlex.split(report["resume"]) == command
    assert json.loads(command[-1]) == {"label": "2026-11-21 02:00 isn't \"it\""}
    for words in (["-u", "ops"], ["--vault-password-file", str(operator.state / "vault")], ["-b"],
                  ["-e", f"@{operator.state}/more.yml"]):
        assert any(command[index : index + len(words)] == words for index in range(len(command))), words
    assert not operator.runs()


NEVER = [{"name": "Never today", "days": ["mon"], "week_of_month": 5, "start": "03:00", "end": "03:01"}]


def test_outside_its_window_a_run_is_refused_and_says_when_it_may(operator: Operator) -> None:
    """D30 ⚠ change rules were never enforced."""
    ended = operator.run(target="orders-db", run_windows=NEVER)
    assert ended.returncode == 2
    assert "example is outside its windows. The next window is Never today: Mon " in error(ended.stdout)
    (target,) = operator.report()["targets"]
    assert target["outcome"] == "refused"
    assert target["resume"].endswith(
        """-e target=orders-db -e mode=done -e '{"run_window_override": "<why it cannot wait>"}'"""
    )
    assert operator.locks() == {}


@pytest.mark.parametrize(
    ("window", "said"),
    [
        ({"runbooks": "example"}, "runbooks of the window w is 'example'"),
        ({"runbooks": ["database_restor"]}, "names the runbook database_restor"),
        ({"day": ["sun"]}, "has the unknown key day"),
    ],
)
def test_a_window_that_is_mistyped_is_refused_and_never_passed_over(
    operator: Operator, window: dict[str, Any], said: str
) -> None:
    ended = operator.run(target="orders-db", run_windows=[{"name": "w", "start": "02:00", "end": "04:00", **window}])
    assert ended.returncode == 2
    assert said in error(ended.stdout)
    assert operator.report()["outcome"] == "refused"


def test_a_window_that_closes_before_the_first_stop_undoes_what_was_prepared(operator: Operator) -> None:
    """D30 ⚠: a preparation may take longer than the window."""
    freeze = {"name": "Audit", "from": "2020-01-01", "until": "2099-01-01"}
    ended = operator.run(target="orders-db", mode="window_closes", freezes_later=[freeze])
    assert ended.returncode == 2
    (target,) = operator.report()["targets"]
    assert target["outcome"] == "failed and undone"
    assert "example is frozen by Audit" in target["message"]


def test_a_job_in_a_container_says_where_its_records_are_to_be_kept(operator: Operator) -> None:
    elsewhere = {**operator.environment, "XDG_STATE_HOME": "", "HOME": str(operator.state)}
    elsewhere["AWX_PRIVATE_DATA_DIR"] = "/runner"
    lasting = {"run_directory": str(operator.state / "lasting")}
    nowhere, half, kept = (
        subprocess.run(
            operator.command(target="orders-db", **place), cwd=REPOSITORY, env=elsewhere, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=LONGEST_S, check=False,
        )
        for place in ({}, lasting, {**lasting, "run_lock_directory": str(operator.state / "locks")})
    )
    assert nowhere.returncode == 2
    assert "The run's records and its target's lock may be gone after this job" in error(nowhere.stdout)
    assert "-e run_directory=<folder> -e run_lock_directory=<folder>" in error(nowhere.stdout)
    assert half.returncode == 2
    assert "The run's target's lock may be gone after this job" in error(half.stdout)
    assert error(half.stdout).endswith("-e run_lock_directory=<folder>")
    assert kept.returncode == 0, kept.stdout
    assert len(list((operator.state / "lasting").glob("2*/report.html"))) == 2


def test_an_override_of_the_window_goes_on_and_is_written_down(operator: Operator) -> None:
    ended = operator.run(target="orders-db", run_windows=NEVER, run_window_override="Customers cannot pay.")
    assert ended.returncode == 0, ended.stdout
    assert any("Customers cannot pay." in message["text"] for message in operator.report()["targets"][0]["messages"])


def test_check_mode_looks_at_any_time_takes_no_lock_and_asks_nothing(operator: Operator) -> None:
    ended = operator.run("--check", target="orders-db", run_windows=NEVER, mode="approval")
    assert ended.returncode == 0, ended.stdout
    assert operator.report()["check"] is True
    assert "outside its windows" in operator.report()["targets"][0]["messages"][0]["text"]
    assert not (operator.state / "sre.runbooks" / "locks").exists()


def test_without_a_terminal_nobody_approves(operator: Operator) -> None:
    ended = operator.run(target="orders-db", mode="approval")
    assert ended.returncode == 2
    assert "about 4120 rows" in ended.stdout
    assert "there is no terminal to ask on" in error(ended.stdout)
    (target,) = operator.report()["targets"]
    assert target["outcome"] == "refused"
    assert target["resume"].endswith("-e target=orders-db -e mode=approval -e approve=orders-db")


@pytest.mark.parametrize(
    ("approve", "code"), [("orders-db", 0), ("true", 2)]
)
def test_only_the_targets_own_name_approves(operator: Operator, approve: str, code: int) -> None:
    assert operator.run(target="orders-db", mode="approval", approve=approve).returncode == code
    assert operator.report()["outcome"] == ("refused" if code else "done")


def test_a_group_is_approved_by_the_name_that_was_given_as_target(operator: Operator) -> None:
    ended = operator.run(target="databases", expect=3, mode="approval", approve="databases")
    assert ended.returncode == 0, ended.stdout


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [("orders-db\r", 0, "Approved by terminal"), ("yes\r", 2, "the answer was yes")],
)
def test_at_a_terminal_the_name_is_typed(operator: Operator, answer: str, code: int, said: str) -> None:
    ended, shown = operator.type(answer, target="orders-db", mode="approval")
    assert ended == code, shown
    assert said in (operator.runs()[-1] / "report.json").read_text()
    if code:  # who was asked is asked again
        assert operator.report()["targets"][0]["resume"].endswith("-e target=orders-db -e mode=approval")


def test_no_answer_in_time_is_no_also_when_the_name_was_typed_without_return(operator: Operator) -> None:
    ended, shown = operator.type("orders-db", target="orders-db", mode="approval", answer_within=2)
    assert ended == 2, shown
    assert operator.report()["outcome"] == "refused"


def test_a_secret_is_in_no_file_no_output_and_no_command_line(operator: Operator) -> None:
    secret = "s3cr3t-of-the-test-" + os.urandom(8).hex()
    place = operator.state / "secret"
    place.write_text(secret)
    log = operator.state / "shown"
    with log.open("w") as stream:
        process = subprocess.Popen(
            operator.command("-vvv", target="orders-db", mode="secret", secret_file=str(place)), cwd=REPOSITORY,
            env=operator.environment, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT,
        )
        seen = 0
        while process.poll() is None:
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    assert secret.encode() not in path.read_bytes()
                    seen += 1
                except (FileNotFoundError, ProcessLookupError):
                    continue
    assert seen
    assert process.returncode == 2
    assert operator.report()["targets"][0]["failure"]["message"]
    place.unlink()
    for path in (path for path in operator.state.rglob("*") if path.is_file()):
        assert secret not in path.read_text(errors="replace"), path


def test_the_journal_writes_names_and_times_and_nothing_else(operator: Operator) -> None:
    operator.run(target="orders-db", mode="undo")
    lines = [json.loads(line) for line in (operator.runs()[-1] / "tasks.jsonl").read_text().splitlines()]
    assert {key for line in lines for key in line} == {
        "at", "host", "task", "role", "phase", "action", "status", "duration_s"
    }
    failed = [line["task"] for line in lines if line["status"] == "failed"]
    assert "Fail in the middle" in failed
    begun = next(line for line in lines if line["action"] == "sre.runbooks.run_begin")
    assert (begun["role"], begun["phase"]) == ("sre.runbooks.run", "begin")
    assert operator.report()["tasks"]
