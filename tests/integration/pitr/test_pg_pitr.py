# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Clusters recovered to a point in time: beside the live one, exchanged, backed up anew, and back again."""

from __future__ import annotations

import json
from pathlib import Path

import psycopg
import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import Login, connect

from lab import machine
from tests.integration.pitr.conftest import Archived


def test_dropped_rows_come_back_to_the_moment_before_and_undo_brings_the_kept_cluster(archived: Archived) -> None:
    """A86 ⚠: recovery.signal, beside and not over live files, a kept cluster, a proven base, an undo."""
    looked = archived.done("restored", check_mode=True)
    assert looked.get("changed"), looked
    assert not archived.beside
    assert "losing" in looked["losses"]

    restored = archived.done("restored")
    assert restored.get("changed"), restored
    assert restored["position"]["state"] == "restored"
    assert {one["name"] for one in restored["databases"]} == {"postgres"}
    assert archived.orders() == 10, "nothing was changed live"
    again = archived.done("restored")
    assert again.get("changed") is False, again

    exchanged = archived.done("exchanged")
    assert exchanged.get("changed"), exchanged
    assert archived.orders() == 100
    assert exchanged["timeline"] == 2
    assert archived.done("exchanged").get("changed") is False

    done = archived.done("done")
    assert done.get("changed"), done
    assert done["new_backup"]["timeline"] == 2
    assert archived.run("SHOW archive_mode") == "on"
    left = archived.run("SELECT count(*) FROM pg_file_settings WHERE name LIKE 'recovery_target%'")
    assert left == 0, "the next start must not go back"
    assert archived.done("done")["changed"] is False

    # The same, with a byte of the new base backup flipped before it was read: as after a kill between the two.
    position = archived.server.folder / "data.pitr" / "position.json"
    text = position.read_text(encoding="utf-8")
    position.write_text(text.replace('"state": "done"', '"state": "opened"'), encoding="utf-8")
    label = done["new_backup"]["backup"]
    flipped = archived.server.folder / "repository" / "backup" / "lab" / label / "pg_data" / "base" / "1" / "1247.gz"
    content = bytearray(flipped.read_bytes())
    content[len(content) // 2] ^= 1
    flipped.write_bytes(content)
    unproven = archived.reach("done")
    assert "is not proven: verify says invalid" in unproven["msg"], unproven
    position.write_text(text, encoding="utf-8")
    later = archived.run("SELECT clock_timestamp()").isoformat()
    for state, steps in (("exchanged", 4), ("done", 2)):
        planned = archived.done(state, check_mode=True, target=later)["plan"]
        assert len(planned) == steps, "another recovery after this one is planned whole"
        assert archived.done(state, check_mode=True)["plan"] == [], "this one is done"
    archived.run("INSERT INTO orders VALUES (1000)")

    refused = archived.reach("undone")
    assert refused.get("failed"), refused
    assert archived.orders() == 101
    undone = archived.done("undone", losses_agreed=True)
    assert undone.get("changed"), undone
    assert archived.orders() == 10
    assert archived.beside == ["data.abandoned"]


def test_a_password_that_was_changed_since_is_told_and_locks_nobody_out_of_the_recovery(archived: Archived) -> None:
    """A86 ⚠: restored roles have the passwords of the target."""
    archived.run("CREATE ROLE late LOGIN PASSWORD 'x'")
    restored = archived.done("restored")
    assert "late" in " ".join(restored["notes"])
    assert "postgres" not in " ".join(restored["notes"])
    archived.done("undone")
    assert archived.beside == []
    assert archived.done("undone")["changed"] is False


def test_a_missing_segment_of_wal_is_refused_although_verify_calls_the_repository_ok(archived: Archived) -> None:
    """A86 ⚠: no WAL-chain check."""
    archived.run("SELECT pg_switch_wal()")
    archived.run("CREATE TABLE more AS SELECT generate_series(1, 10)")
    archived.run("SELECT pg_switch_wal()")
    archived.server.pgbackrest("check")
    segments = sorted((archived.server.folder / "repository" / "archive" / "lab" / "15-1").rglob("*-*.gz"))
    newest = archived.info()["backups"][-1]
    assert newest["gaps"] == []
    # The one after the backup's own, which holds the rows.
    segments[3].unlink()
    assert archived.info()["backups"][-1]["gaps"] == [segments[3].name[:24]]
    refused = archived.reach("restored", check_mode=True, target=archived.run("SELECT clock_timestamp()").isoformat())
    assert refused.get("failed"), refused
    assert segments[3].name[:24] in refused["msg"]


def test_refusals_name_what_is_wrong_before_anything_is_made(archived: Archived) -> None:
    """A86 ⚠: another cluster, an archive that does not come, a server's folder that is not the data directory."""
    wrong = archived.arguments("restored")
    wrong["stanza"] = "another"
    result = archived.call_module("pg_pitr", wrong)
    assert "another" in result["msg"], result
    archived.run("ALTER SYSTEM SET archive_command = 'false'")
    archived.run("SELECT pg_reload_conf()")
    now = archived.run("SELECT clock_timestamp()").isoformat()
    result = archived.reach("restored", target=now, archive_timeout_seconds=20)
    assert "does not come into the archive" in result["msg"], result
    assert archived.beside == []


def test_a_start_that_fails_makes_the_old_cluster_live_again(archived: Archived) -> None:
    """A86 ⚠: no safety copy; what was not promoted goes back by itself."""
    archived.done("restored")
    control = archived.server.control
    # It starts the old cluster, and not the one that stands in its place in recovery.
    only_old = ["sh", "-c", f'test ! -e {archived.server.data_directory}/recovery.signal && exec "$@"', "start"]
    failed = archived.reach("exchanged", control={**control, "start": [*only_old, *control["start"]]})
    assert failed.get("failed"), failed
    assert archived.orders() == 10
    assert archived.beside == ["data.restoring"]
    archived.done("restored")
    archived.done("exchanged")
    assert archived.orders() == 100


def test_a_call_killed_between_the_two_renames_is_gone_on_with(archived: Archived) -> None:
    """A86 ⚠: killed anywhere, the same command goes on."""
    archived.done("restored")
    control = archived.server.control
    # The stop that never comes back: the live server is down, and the module is killed.
    hanging = {**control, "stop": ["sh", "-c", '"$@"; sleep 60', "stop", *control["stop"]]}
    child = archived.start_module("pg_pitr", archived.arguments("exchanged", control=hanging))
    assert machine.wait_for(lambda: archived.server.pid is None, 20)
    child.kill()
    child.wait()
    data = archived.server.data_directory
    position = json.loads((data.with_name("data.pitr") / "position.json").read_text(encoding="utf-8"))
    assert position["state"] == "exchanging"
    # As far as a kill could have come.
    data.rename(position["kept"])
    archived.done("exchanged")
    assert archived.orders() == 100
    archived.done("undone", losses_agreed=True)
    assert archived.orders() == 10


def test_a_restore_point_is_reached_beside_and_one_that_never_was_is_told(archived: Archived) -> None:
    """A86 ⚠: target action and window; the copy is read-only, listens on no network and archives nothing."""
    archived.run("SELECT pg_create_restore_point('before the release')")
    archived.run("DELETE FROM orders")
    backup = archived.info()["backups"][-1]["backup"]
    missing = archived.reach("restored", target="no such point", target_kind="name", backup=backup)
    assert "The recovery ended before name no such point" in missing["msg"], missing
    restored = archived.done("restored", target="before the release", target_kind="name", backup=backup)
    reached = restored["reached"]
    beside = Login(reached["socket"], reached["port"], "postgres", "", "postgres", "disable")
    with connect(beside, "tests") as connection:
        row = connection.execute(
            "SELECT (SELECT count(*) FROM orders) AS orders, current_setting('archive_mode') AS archives,"
            " current_setting('listen_addresses') AS network,"
            " current_setting('max_logical_replication_workers') AS workers"
        ).fetchone()
        assert row == {"orders": 10, "archives": "off", "network": "", "workers": "0"}
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            connection.execute("DELETE FROM orders")
    assert Path(reached["socket"]).stat().st_mode & 0o777 == 0o700
    archived.done("undone")
    assert archived.orders() == 0


def test_killed_at_every_stage_the_same_call_converges_and_one_cluster_is_live(archived: Archived) -> None:
    """A86 ⚠: killed anywhere and run again, it goes on."""
    data = archived.server.data_directory
    restoring, control = data.with_name("data.restoring"), data.with_name("data.pitr")
    stages = (
        ("restored", (control / "position.json").exists),
        ("restored", (restoring / "base").exists),
        ("restored", (restoring / "postmaster.pid").exists),
        ("exchanged", lambda: "exchanging" in (control / "position.json").read_text(encoding="utf-8")),
        ("exchanged", lambda: bool(list(data.parent.glob("data.retired-*")))),
        ("exchanged", lambda: "opening" in (control / "position.json").read_text(encoding="utf-8")),
    )
    for state, come in stages:
        if state == "exchanged" and archived.beside != ["data.retired"]:
            archived.done("restored")
        child = archived.start_module("pg_pitr", archived.arguments(state))
        assert machine.wait_for(lambda child=child, come=come: come() or child.poll() is not None, 60)
        child.kill()
        child.communicate()
    archived.done("restored")
    archived.done("exchanged")
    assert archived.orders() == 100
    assert archived.beside == ["data.retired"]
    archived.done("done")
    archived.done("undone", losses_agreed=True)
    assert archived.orders() == 10
