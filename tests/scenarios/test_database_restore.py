# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Restores as an operator starts them: data destroyed, refusals, consumers that do not come back, and the way back."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace

import psycopg
from ansible_collections.sre.runbooks.plugins.module_utils.backup.folder import TargetFolder
from ansible_collections.sre.runbooks.plugins.module_utils.backup.manifest import write_manifest
from ansible_collections.sre.runbooks.plugins.module_utils.backup.properties import Extension

from tests.scenarios.restore_scene import SERVICE, TABLE, TARGET, Scene, made_scene, scene

__all__ = ["made_scene", "scene"]


def test_destroyed_rows_come_back_then_undo_brings_the_other_state_back(scene: Scene) -> None:
    """A85 ⚠ B43 ⚠ D15 ⚠ D25 ⚠: proven before the swap, measured, kept, and the way back is a command."""
    played = scene.restore()
    assert played.returncode == 0, played.output
    scene.assert_restored()
    assert "deleted since then come back" in " ".join(played.output.split())
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
    assert "rows inserted and 0 updated since the exchange" in " ".join(refused.output.split())
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
    # What the application wrote to the restored database is in files, and no value of it in output and records.
    exports = [one["text"] for one in scene.records("message") if "exported on backup-store into" in one["text"]]
    folder = next((scene.platform.lab.folder / "exports").iterdir())
    assert f"in 2 tables; exported on backup-store into {folder}, where" in undone.output
    assert len(exports) == 1
    assert str(folder) in exports[0]
    exported = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert next(one["new"] for one in exported["tables"] if one["table"] == f"public.{TABLE}") > 0
    assert undone.stdout.strip().splitlines()[-1].startswith("done (health: 1 critical after). Report: ")
    lost = next(one for one in scene.records("measure") if one["name"] == "rows_lost")
    assert lost["value"] > 0
    assert scene.old_rows() < scene.wanted_rows
    assert sorted(scene.states().values()) == ["abandoned", "open"]
    assert scene.platform.get(SERVICE)[0] == 200

    name = next(name for name, state in scene.states().items() if state == "abandoned")
    back_again = next(line for line in undone.output.splitlines() if "To undo:" in line)
    assert back_again.endswith(f"-e target={TARGET} -e retired={name}")
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
    assert f"{TARGET}: DONE (check mode). A plan was shown and nothing was changed: " in played.output
    assert (scene.service_pid(), scene.states()) == (pid, states)


def test_without_a_terminal_and_an_approval_it_is_refused_and_nothing_is_touched(scene: Scene) -> None:
    pid, states = scene.service_pid(), scene.states()
    played = scene.platform.play("database_restore", *scene.arguments("-e", "approve="))
    assert played.returncode != 0
    assert "there is no terminal to ask on" in played.output
    assert "  Then:     ansible-playbook" in played.output
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
