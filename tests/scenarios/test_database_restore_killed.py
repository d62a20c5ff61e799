# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Restores that are killed, held up or begun twice: the same command goes on, and the database is whole."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator

import psycopg
import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.backup.swap import LOCK_KEY
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import connect

from lab import machine
from tests.scenarios.restore_scene import SERVICE, TABLE, TARGET, Scene, made_scene, scene

__all__ = ["made_scene", "scene"]

UNDO = ("database_restore_undo", "-e", f"target={TARGET}", "-e", f"approve={TARGET}")
# The owner's check, which waits where a test says so by a role: roles are seen from every database.
HELD_CHECK = (
    f"SELECT count(*) > 0 FROM {TABLE}, pg_sleep(CASE WHEN EXISTS (SELECT FROM pg_roles WHERE rolname = "
    "CASE WHEN current_database() LIKE '%\\_\\_restoring\\_%' THEN 'hold_copy' ELSE 'hold_live' END) THEN 4 ELSE 0 END)"
)


def test_a_module_that_outlives_its_playbook_is_not_undone_by_the_next_run(scene: Scene) -> None:
    pid = scene.service_pid()
    with connect(scene.admin, "orphan") as other:
        other.execute(f"SELECT pg_advisory_lock({LOCK_KEY})", [scene.database])
        played = scene.restore("-e", "database_restore_lock_wait_seconds=1")
    assert played.returncode == 2, played.output
    assert f"{TARGET}: FAILED AND UNDONE. Another run still works on the database '{scene.database}'" in played.output
    assert scene.service_pid() == pid
    assert scene.states() == {scene.database: "open"}


def test_two_operators_at_once_and_the_second_is_told_who_works(scene: Scene) -> None:
    scene.run("CREATE ROLE hold_copy", "postgres")
    first = scene.platform.begin("database_restore", *scene.arguments("-e", _held()))
    try:
        assert machine.wait_for(lambda: "restoring" in scene.states().values(), 60)
        second = scene.restore()
        assert second.returncode != 0
        assert "is locked by the run" in second.output
    finally:
        scene.run("DROP ROLE hold_copy", "postgres")
        out, err = first.communicate(timeout=120)
    assert first.returncode == 0, out + err
    scene.assert_restored()


# Whole: with everything that the playbook started, without it, or (None) as Ctrl-C at a terminal reaches all of it.
KILLS = {
    "with the module": [("restoring", signal.SIGKILL, True), ("closed", signal.SIGKILL, True),
                        ("exchanged", signal.SIGKILL, True)],
    "the playbook alone": [("restoring", signal.SIGKILL, False), ("closed", signal.SIGKILL, False)],
    "by Ctrl-C, then the playbook alone": [("restoring", signal.SIGINT, None), ("exchanged", signal.SIGKILL, False)],
}


@pytest.mark.parametrize("kills", KILLS.values(), ids=KILLS)
def test_killed_anywhere_the_same_command_at_once_goes_on_and_ends_whole(
    scene: Scene, kills: list[tuple[str, int, bool | None]]
) -> None:
    """A85 ⚠: killed before the quiesce, between closing and the renames, after the exchange, one after the other."""
    for moment, number, whole in kills:
        _begin_and_kill(scene, moment, number, whole=whole)
    played = scene.restore("-e", _held())
    assert played.returncode == 0, played.output
    scene.assert_restored()


def _begin_and_kill(scene: Scene, moment: str, number: int, *, whole: bool | None) -> None:
    """Start a restore, and kill it when the databases say that it has come so far."""
    role = {"restoring": "hold_copy", "exchanged": "hold_live"}.get(moment)
    with contextlib.ExitStack() as stack:
        rename = stack.enter_context(_rename_held(scene)) if moment == "closed" else None
        child = scene.platform.begin("database_restore", *scene.arguments("-e", _held()))
        stack.callback(_reap, child)
        # What would hold the exchange also holds the check of the live database, which comes before everything.
        if role == "hold_live":
            begun = {"restoring", "prepared", "closed"}
            assert machine.wait_for(lambda: begun & set(scene.states().values()), 60), _output(child)
        if role:
            scene.run(f"CREATE ROLE {role}", "postgres")
            stack.callback(scene.run, f"DROP ROLE IF EXISTS {role}", "postgres")
        assert machine.wait_for(lambda: moment in scene.states().values(), 60), _output(child)
        _kill(child.pid, number, whole=whole)
        if role:
            scene.run(f"DROP ROLE {role}", "postgres")
        if rename:
            rename.rollback()


def test_a_way_back_that_is_killed_while_closed_is_ended_by_the_same_command(scene: Scene) -> None:
    """A85 ⚠: what is lost can no longer be counted then, and is never called nothing."""
    played = scene.restore()
    assert played.returncode == 0, played.output
    with _rename_held(scene) as rename:
        child = scene.platform.begin(*UNDO)
        try:
            assert machine.wait_for(lambda: "closed" in scene.states().values(), 60), _output(child)
            _kill(child.pid, signal.SIGKILL, whole=True)
        finally:
            _reap(child)
        rename.rollback()
    assert scene.states()[scene.database] == "closed"
    again = scene.platform.play(*UNDO)
    assert again.returncode == 0, again.output
    assert "unknown: going back was begun before" in again.output
    assert scene.old_rows() < scene.wanted_rows
    assert sorted(scene.states().values()) == ["abandoned", "open"]
    assert scene.platform.get(SERVICE)[0] == 200


def test_going_back_from_a_killed_restore_drops_its_copy_and_leaves_the_live_database(scene: Scene) -> None:
    """A85 ⚠ D30 ⚠: a window that closes meanwhile stops nobody, and what is live then is said as it is."""
    _begin_and_kill(scene, "restoring", signal.SIGKILL, whole=True)
    pid = scene.service_pid()
    later = "{{ [{'name': 'Audit', 'from': '2020-01-01', 'until': '2099-01-01'}] if run_folder is defined else [] }}"
    late = scene.platform.play(*UNDO, "-e", json.dumps({"run_freezes": later}))
    assert late.returncode == 2, late.output
    assert "is frozen by Audit" in late.output
    assert f"FAILED AND UNDONE. {scene.database} is as it was before the restore, and open." in late.output
    assert scene.service_pid() == pid
    undone = scene.platform.play(*UNDO)
    assert undone.returncode == 0, undone.output
    assert "nothing: no application was let in" in " ".join(undone.output.split())
    assert scene.states() == {scene.database: "open"}
    assert scene.old_rows() < scene.wanted_rows
    assert scene.platform.get(SERVICE)[0] == 200


@contextlib.contextmanager
def _rename_held(scene: Scene) -> Iterator[psycopg.Connection]:
    """An ALTER ROLE … IN DATABASE that nobody committed: a rename has to wait for it."""
    user = scene.platform.lab.login(TARGET, "application").user
    with connect(scene.admin, "half an alter", autocommit=False) as other:
        other.execute(f'ALTER ROLE "{user}" IN DATABASE "{scene.database}" SET work_mem = \'5MB\''.encode())
        yield other


def _held() -> str:
    return json.dumps({"database_application_check": HELD_CHECK})


def _family(pid: int) -> list[int]:
    """A process and everything that it started, as far as it is still theirs."""
    found = [pid]
    for one in found:
        found += machine.children_of(one)
    return found


def _kill(pid: int, number: int, *, whole: bool | None) -> None:
    """With the module, without it, or (None) as a terminal does with Ctrl-C: the whole process group."""
    if whole is None:
        os.killpg(pid, number)
        return
    for one in _family(pid) if whole else [pid]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, number)


def _reap(child: subprocess.Popen[str]) -> None:
    if child.poll() is None:
        child.kill()
    child.stdout.close()
    child.stderr.close()
    child.wait()


def _output(child: subprocess.Popen[str]) -> str:
    child.kill()
    out, err = child.communicate()
    return out + err
