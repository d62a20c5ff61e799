# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Restores as an operator starts them: data destroyed, runs killed, consumers that do not come back."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace

import psycopg
import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.backup.catalog import list_backups
from ansible_collections.sre.runbooks.plugins.module_utils.backup.manifest import Manifest, write_manifest
from ansible_collections.sre.runbooks.plugins.module_utils.backup.marker import split
from ansible_collections.sre.runbooks.plugins.module_utils.backup.properties import Extension
from ansible_collections.sre.runbooks.plugins.module_utils.backup.store import TargetFolder
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import Login, connect

from lab import machine
from tests.scenarios.conftest import Platform, Played

TARGET, SERVICE, TABLE = "dbis-db", "app", "payments"
# The owner's check, which waits where a test says so by a role: roles are seen from every database.
HELD_CHECK = (
    f"SELECT count(*) > 0 FROM {TABLE}, pg_sleep(CASE WHEN EXISTS (SELECT FROM pg_roles WHERE rolname = "
    "CASE WHEN current_database() LIKE '%\\_\\_restoring\\_%' THEN 'hold_copy' ELSE 'hold_live' END) THEN 4 ELSE 0 END)"
)


@dataclass(frozen=True)
class Scene:
    """The platform with one backup that every test restores."""

    platform: Platform
    manifest: Manifest

    @property
    def admin(self) -> Login:
        """The superuser, on the database postgres."""
        return self.platform.lab.login(TARGET, "admin").at("postgres")

    @property
    def database(self) -> str:
        """The live name."""
        return self.manifest.database.name

    def run(self, statement: str, database: str | None = None) -> list[dict]:
        """One statement as the superuser, in the live database."""
        with connect(self.admin.at(database or self.database), "tests") as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def old_rows(self) -> int:
        """How many of the backup's payments are there."""
        # The manifest's time is cut to milliseconds, and a service writes twice a second.
        newest = f"'{self.manifest.newest_row_at}'::timestamptz + interval '1 millisecond'"
        return self.run(f"SELECT count(*) AS n FROM {TABLE} WHERE created_at <= {newest}")[0]["n"]

    @property
    def wanted_rows(self) -> int:
        """How many there were in the backup."""
        return next(table.rows for table in self.manifest.tables if table.name == TABLE)

    def destroy(self) -> None:
        """Half of the payments are gone."""
        self.run(f"DELETE FROM {TABLE} WHERE id % 2 = 0")
        assert self.old_rows() < self.wanted_rows

    def states(self) -> dict[str, str]:
        """The state in each database's marker, `open` without one."""
        rows = self.run("SELECT datname, shobj_description(oid, 'pg_database') AS c FROM pg_database", "postgres")
        found = {row["datname"]: split(row["c"])[1] for row in rows if row["datname"].startswith(self.database)}
        return {name: marker.state if marker else "open" for name, marker in found.items()}

    def arguments(self, *more: str) -> tuple[str, ...]:
        """What an operator gives."""
        return (
            "-e", f"target={TARGET}", "-e", f"approve={TARGET}", "-e", f"backup={self.manifest.backup_id}",
            "-e", "database_restore_least_rung=archive", *more,
        )

    def restore(self, *more: str) -> Played:
        """The playbook, to its end."""
        return self.platform.play("database_restore", *self.arguments(*more))

    def service_pid(self) -> int | None:
        """The process of the consumer."""
        return self.platform.lab.service_pid(SERVICE)

    def assert_restored(self) -> None:
        """The live database is the backup, nothing is left but the old one, no lock, and the consumer works."""
        assert self.old_rows() == self.wanted_rows
        assert not list((self.platform.lab.folder / "locks").glob("*.json"))
        states = self.states()
        assert states.pop(self.database) == "open"
        assert set(states.values()) <= {"retired", "abandoned"}
        assert self.platform.get(SERVICE)[0] == 200

    def records(self, kind: str) -> list[dict]:
        """The data of the newest run's records of one kind."""
        lines = (self.platform.newest_run() / "run.jsonl").read_text(encoding="utf-8").splitlines()
        return [entry["data"] for entry in map(json.loads, lines) if entry["kind"] == kind]


@pytest.fixture(scope="module")
def _scene(dbis: Platform) -> Scene:
    played = dbis.play("database_backup", "-e", f"target={TARGET}")
    assert played.returncode == 0, played.output
    store = dbis.lab.folder / "stores" / "backup-store"
    backup = list_backups(TargetFolder(store, "dbis_core", TARGET))[-1]
    return Scene(dbis, backup.manifest)


@pytest.fixture
def scene(_scene: Scene) -> Iterator[Scene]:
    """Data was destroyed. Afterwards the old databases are dropped, and the consumer works."""
    _scene.destroy()
    yield _scene
    for name, state in _scene.states().items():
        if state in ("retired", "abandoned"):
            _scene.run(f'DROP DATABASE "{name}" WITH (FORCE)', "postgres")
    if _scene.service_pid() is None:
        _scene.platform.lab.start_service(SERVICE)
    _scene.platform.wait_until_up(SERVICE)


def test_destroyed_rows_come_back_then_undo_brings_the_other_state_back(scene: Scene) -> None:
    """A85 ⚠ B43 ⚠ D15 ⚠ D25 ⚠: proven before the swap, measured, kept, and the way back is a command."""
    played = scene.restore()
    assert played.returncode == 0, played.output
    scene.assert_restored()
    assert "deleted since the backup" in " ".join(played.output.split())
    assert "application 'sre.runbooks" not in played.output, "our own sessions alarm nobody"
    assert "To undo:" in played.output
    assert "database_restore_undo" in played.output
    measures = {one["name"]: one for one in scene.records("measure")}
    assert measures["recovery_time"]["objective"] == 3600
    assert measures["recovery_point"]["objective"] == 86400
    assert 0 < measures["exchange"]["value"] < measures["outage"]["value"] < measures["recovery_time"]["value"]
    retired = [name for name, state in scene.states().items() if state == "retired"]
    assert len(retired) == 1

    listed = scene.platform.play("database_retired", "-e", f"target={TARGET}", "-e", "drop=true")
    assert listed.returncode == 0, listed.output
    assert f"{retired[0]}: " in listed.output
    assert "put aside by a restore, kept until 20" in " ".join(listed.output.split())
    assert retired[0] in scene.states(), "its hour has not come"

    refused = scene.platform.play("database_restore_undo", "-e", f"target={TARGET}")
    assert refused.returncode != 0
    assert "rows inserted, 0 updated and 0 deleted" in refused.output
    assert scene.old_rows() == scene.wanted_rows
    # Going back is carried out, and whoever is not well afterwards is said beside it.
    scene.platform.fault("down", SERVICE)
    try:
        undone = scene.platform.play(
            "database_restore_undo", "-e", f"target={TARGET}", "-e", f"approve={TARGET}",
            "-e", "database_restore_answer_seconds=1",
        )
    finally:
        scene.platform.mend(SERVICE)
    assert undone.returncode == 2, undone.output
    assert f"{TARGET}: DONE. {scene.database} is as it was before the restore." in undone.output
    assert "Health:   1 critical after; the report names each" in undone.output
    assert "To go on:" not in undone.output
    assert undone.stdout.strip().splitlines()[-1].startswith("done (health: 1 critical after). Report: ")
    lost = next(one for one in scene.records("measure") if one["name"] == "rows_lost")
    assert lost["value"] > 0
    assert scene.old_rows() < scene.wanted_rows
    assert sorted(scene.states().values()) == ["abandoned", "open"]
    assert scene.platform.get(SERVICE)[0] == 200

    name = next(name for name, state in scene.states().items() if state == "abandoned")
    comment = scene.run(
        f"SELECT shobj_description(oid, 'pg_database') AS c FROM pg_database WHERE datname = '{name}'", "postgres"
    )[0]["c"]
    old = comment.replace(json.loads(comment.split(": ", 1)[1])["until"], "2020-01-01T00:00:00Z")
    scene.run(f"COMMENT ON DATABASE \"{name}\" IS '{old}'", "postgres")
    dropped = scene.platform.play("database_retired", "-e", f"target={TARGET}", "-e", "drop=true")
    assert dropped.returncode == 0, dropped.output
    assert list(scene.states()) == [scene.database]


def test_check_mode_shows_the_plan_and_touches_nothing(scene: Scene) -> None:
    pid, states = scene.service_pid(), scene.states()
    played = scene.platform.play("database_restore", *scene.arguments("--check", "--diff"))
    assert played.returncode == 0, played.output
    for step in ("restore the backup beside the live database", "exchange the names", "stop the service"):
        assert step in played.output
    assert (scene.service_pid(), scene.states()) == (pid, states)


def test_without_a_terminal_and_an_approval_it_is_refused_and_nothing_is_touched(scene: Scene) -> None:
    pid, states = scene.service_pid(), scene.states()
    played = scene.platform.play("database_restore", *scene.arguments("-e", "approve="))
    assert played.returncode != 0
    assert "there is no terminal to ask on" in played.output
    assert "REFUSED" in played.output
    assert (scene.service_pid(), scene.states()) == (pid, states)


def test_a_window_that_closes_while_the_copy_is_made_stops_nobody_and_is_undone(scene: Scene) -> None:
    """D30 ⚠: the calendar is asked again before the first stop."""
    pid = scene.service_pid()
    later = "{{ [{'name': 'Audit', 'from': '2020-01-01', 'until': '2099-01-01'}] if run_folder is defined else [] }}"
    played = scene.restore("-e", json.dumps({"run_freezes": later}))
    assert played.returncode == 2, played.output
    assert "is frozen by Audit" in played.output, played.output
    report = json.loads((scene.platform.newest_run() / "report.json").read_text(encoding="utf-8"))
    assert report["outcome"] == "failed and undone"
    assert scene.service_pid() == pid
    assert scene.states() == {scene.database: "open"}


def test_an_extension_that_the_server_lacks_is_refused_before_anybody_is_stopped(scene: Scene) -> None:
    """A85 ⚠ B43 ⚠: extensions are looked at first."""
    store = scene.platform.lab.folder / "stores" / "backup-store"
    folder = TargetFolder(store, "dbis_core", TARGET).backup(scene.manifest.backup_id)
    extensions = [Extension("no_such_thing", "1.0", "public")]
    write_manifest(folder, replace(scene.manifest, database=replace(scene.manifest.database, extensions=extensions)))
    pid, states = scene.service_pid(), scene.states()
    try:
        played = scene.restore()
    finally:
        write_manifest(folder, scene.manifest)
    assert played.returncode != 0
    assert "REFUSED" in played.output
    assert "extension no_such_thing 1.0 is not available on the server" in played.output
    assert (scene.service_pid(), scene.states()) == (pid, states)


def test_a_stopped_backend_is_named_and_everything_is_undone(scene: Scene) -> None:
    """A consumer that ailed before it was stopped ails afterwards, and is no reason to say that undoing failed."""
    scene.platform.fault("down", SERVICE)
    login = scene.platform.lab.login(TARGET, "application").at(scene.database)
    with psycopg.connect(
        host=login.host, port=login.port, user=login.user, password=login.password, dbname=login.database,
        application_name="frozen report",
    ) as frozen:
        pid = frozen.info.backend_pid
        os.kill(pid, signal.SIGSTOP)
        try:
            played = scene.restore(
                "-e", "database_restore_session_timeout_seconds=1", "-e", "database_restore_drop_timeout_seconds=2",
                "-e", "database_restore_answer_seconds=2",
            )
        finally:
            os.kill(pid, signal.SIGCONT)
            scene.platform.mend(SERVICE)
    assert played.returncode != 0
    assert "FAILED AND UNDONE" in played.output
    assert f"pid {pid} (user {login.user}, application 'frozen report')" in played.output
    # DROP DATABASE waits for every process of the server, also for the stopped one: what is left is said.
    assert "__restoring_" in played.output
    assert "could not be dropped" in played.output
    assert scene.old_rows() < scene.wanted_rows
    assert scene.states()[scene.database] == "open"
    assert scene.platform.get(SERVICE)[0] == 200
    again = scene.restore()
    assert again.returncode == 0, again.output
    scene.assert_restored()


def test_a_consumer_that_does_not_come_back_is_named_and_the_same_command_goes_on(scene: Scene) -> None:
    """X5 X6. The restored database stays: rows that were written to it are never taken back without a person.

    An answer with status 200 whose body says `down` is no proof of a consumer that is back.
    """
    config = scene.platform.lab.service_folder(SERVICE) / "config.json"
    hidden = config.with_name("config.hidden")
    config.rename(hidden)
    try:
        played = scene.restore()
    finally:
        hidden.rename(config)
    assert played.returncode != 0
    assert f"The service {SERVICE} did not come back: it ended with exit code 1" in played.output
    assert "Its last lines:" in played.output
    assert "is restored and open, and stays so" in played.output
    assert scene.old_rows() == scene.wanted_rows
    assert scene.states()[scene.database] == "opened"

    config.with_name("control.json").write_text('{"down": "from its start"}', encoding="utf-8")
    try:
        down = scene.restore("-e", "database_restore_answer_seconds=2")
    finally:
        scene.platform.mend(SERVICE)
    assert down.returncode != 0
    assert f"{SERVICE} did not become healthy within 2 s: critical {SERVICE} health" in " ".join(down.output.split())
    assert scene.states()[scene.database] == "opened"
    again = scene.restore()
    assert again.returncode == 0, again.output
    assert scene.service_pid() is not None
    scene.assert_restored()


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
    undo = ("database_restore_undo", "-e", f"target={TARGET}", "-e", f"approve={TARGET}")
    with _rename_held(scene) as rename:
        child = scene.platform.begin(*undo)
        try:
            assert machine.wait_for(lambda: "closed" in scene.states().values(), 60), _output(child)
            _kill(child.pid, signal.SIGKILL, whole=True)
        finally:
            _reap(child)
        rename.rollback()
    assert scene.states()[scene.database] == "closed"
    again = scene.platform.play(*undo)
    assert again.returncode == 0, again.output
    assert "unknown: going back was begun before" in again.output
    assert scene.old_rows() < scene.wanted_rows
    assert sorted(scene.states().values()) == ["abandoned", "open"]
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
