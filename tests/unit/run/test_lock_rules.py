"""Who may hold a target, and what goes over from a run that died."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.lock import (
    Lock,
    acquire,
    alive,
    from_dict,
    identify,
    machine,
    remember,
)
from ansible_collections.sre.runbooks.plugins.module_utils.run.lock_file import LockFile

NOW = datetime(2026, 11, 21, 3, 0, tzinfo=UTC)
STOPPED = [{"target": "orders", "running": True}]


def holder(run: str, pid: int | None = None, **changed: Any) -> dict[str, Any]:
    return {**identify(pid or os.getpid(), "amira"), "run": run, **changed}


def held(by: dict[str, Any], moment: datetime = NOW) -> Lock:
    lock, _reason = acquire(None, "orders-db", by, moment=moment, seconds=3600, here=machine())
    return remember(lock, STOPPED, [])


def take(current: Lock, by: dict[str, Any], take_over: str = "", moment: datetime = NOW) -> tuple[Lock, str]:
    return acquire(current, "orders-db", by, moment=moment, seconds=3600, here=machine(), take_over=take_over)


@pytest.fixture(scope="module")
def dead() -> dict[str, Any]:
    """A holder whose process has ended."""
    with subprocess.Popen(["sleep", "60"]) as process:
        identity = holder("dead-run", process.pid)
        process.kill()
    return identity


def test_a_living_holder_refuses_everybody_else_with_who_since_until_and_how() -> None:
    with pytest.raises(RunbookError) as error:
        take(held(holder("first-run")), holder("second-run"))
    said = str(error.value)
    for part in ("orders-db", "first-run", "amira@", "2026-11-21T03:00:00Z", "2026-11-21T04:00:00Z",
                 "-e run_lock_take_over=first-run"):
        assert part in said


def test_a_dead_holder_on_this_machine_is_taken_over_with_what_it_had_stopped(dead: dict[str, Any]) -> None:
    lock, reason = take(held(dead), holder("second-run"))
    assert (lock.run, lock.quiesced) == ("second-run", STOPPED)
    assert "is gone" in reason


def test_a_process_id_that_was_given_to_another_process_is_no_living_holder() -> None:
    reused = holder("first-run", process_started=1)
    assert alive(reused, machine()) is False


def test_where_processes_cannot_be_looked_at_a_holder_is_believed(tmp_path: Path, dead: dict[str, Any]) -> None:
    nowhere = machine(tmp_path)
    assert alive({**dead, **nowhere}, nowhere) is None


@pytest.mark.parametrize("elsewhere", [{"host": "another"}, {"boot_id": "b"}, {"namespace": "pid:[1]"}])
def test_a_holder_elsewhere_is_taken_over_only_after_expiry(elsewhere: dict[str, str], dead: dict[str, Any]) -> None:
    lock = held({**dead, **elsewhere})
    with pytest.raises(RunbookError):
        take(lock, holder("second-run"), moment=NOW + timedelta(seconds=3599))
    assert take(lock, holder("second-run"), moment=NOW + timedelta(seconds=3600))[0].run == "second-run"


LOCK_HOST = {"host": "bastion", "boot_id": "b", "namespace": "pid:[1]"}


@pytest.mark.parametrize(("gone", "later", "taken"), [("", 0, False), ("first-run", 0, True), ("", 9999, False),
                                                      ("another-run", 9999, False)])
def test_a_lock_host_believes_the_controller_that_both_runs_share(gone: str, later: int, taken: bool) -> None:
    """There the process cannot be looked at: without word that it is gone it lives, also past its expiry."""
    lock, by, moment = held(holder("first-run")), holder("second-run"), NOW + timedelta(seconds=later)

    def ask() -> Lock:
        return acquire(lock, "orders-db", by, moment=moment, seconds=3600, here=LOCK_HOST, gone=gone)[0]

    if taken:
        assert (ask().run, ask().quiesced) == ("second-run", STOPPED)
    else:
        with pytest.raises(RunbookError):
            ask()


def test_a_living_holder_on_this_machine_is_not_taken_over_by_its_expiry() -> None:
    with pytest.raises(RunbookError):
        take(held(holder("first-run")), holder("second-run"), moment=NOW + timedelta(days=2))


@pytest.mark.parametrize(("named", "taken"), [("first-run", True), ("other-run", False), ("", False)])
def test_a_lock_is_taken_on_purpose_only_by_naming_its_run(named: str, taken: bool) -> None:
    lock = held(holder("first-run"))
    if taken:
        assert take(lock, holder("second-run"), named)[0].quiesced == STOPPED
    else:
        with pytest.raises(RunbookError):
            take(lock, holder("second-run"), named)


def test_the_same_run_holds_on_and_keeps_its_beginning() -> None:
    lock = held(holder("first-run"))
    again, reason = take(lock, holder("first-run"), moment=NOW + timedelta(minutes=5))
    assert (again.since, reason) == (lock.since, "")


def test_how_it_was_before_the_first_stop_is_never_overwritten() -> None:
    """The next run finds the consumer stopped already; that is not how it was."""
    lock = remember(held(holder("first-run")), [{"target": "orders", "running": False}, {"target": "web", "x": 1}], [])
    assert lock.quiesced == [{"target": "orders", "running": True}, {"target": "web", "x": 1}]
    assert remember(lock, [], ["orders"]).quiesced == [{"target": "web", "x": 1}]


@pytest.mark.parametrize("target", ["orders-db", "../../etc/passwd", "a/b c'\"ü", ".", "bakery_ia.orders-db"])
def test_any_target_has_a_file_of_its_own_below_the_folder(tmp_path: Path, target: str) -> None:
    file = LockFile(tmp_path / "locks", target)
    lock = held(holder("first-run"))
    with file.guard():
        file.write(lock)
    assert [path.parent for path in (tmp_path / "locks").glob("*.json")] == [tmp_path / "locks"]
    assert file.read() == lock
    assert file.path.stat().st_mode & 0o777 == 0o600
    with file.guard():
        file.write(None)
    assert file.read() is None


def _as(uid: int, group: int, directory: str, run: str, outcome: Any) -> None:
    os.setgroups([group])
    os.setgid(uid)
    os.setuid(uid)
    os.umask(0o077)
    file = LockFile(Path(directory), "orders-db")
    try:
        with file.guard():
            held_by = file.read()
            file.write(held(holder(run)))
        outcome.put((held_by.run if held_by else "", oct(file.path.stat().st_mode & 0o777), file.path.stat().st_gid))
    except RunbookError as error:
        outcome.put(str(error))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be two users")
@pytest.mark.parametrize("mode", [0o2770, 0o770])
def test_two_people_of_one_group_share_a_folder_of_locks(mode: int) -> None:
    """Whatever their umask; the folder's own group says who they are."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as parent:
        os.chmod(parent, 0o755)  # noqa: S103
        directory = Path(parent) / "locks"
        directory.mkdir()
        os.chown(directory, 0, 4242)
        directory.chmod(mode)
        seen = []
        for uid, run in ((65101, "first-run"), (65102, "second-run"), (65101, "third-run")):
            answers: Any = multiprocessing.Queue()
            person = multiprocessing.Process(target=_as, args=(uid, 4242, str(directory), run, answers))
            person.start()
            seen.append(answers.get(timeout=30))
            person.join()
        assert seen == [("", "0o660", 4242), ("first-run", "0o660", 4242), ("second-run", "0o660", 4242)]
        assert not [path for path in directory.iterdir() if path.name not in (".guard", "orders-db.json")]


def test_a_lock_that_cannot_be_read_is_held_by_somebody(tmp_path: Path) -> None:
    file = LockFile(tmp_path, "orders-db")
    file.path.write_text("{")
    with pytest.raises(RunbookError, match="cannot be read"):
        file.read()


def test_what_is_still_stopped_is_remembered_without_a_holder() -> None:
    left = from_dict(Lock("orders-db", None, quiesced=STOPPED).as_dict())
    lock, reason = take(left, holder("second-run"))
    assert (lock.run, lock.quiesced, reason) == ("second-run", STOPPED, "")
