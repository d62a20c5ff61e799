# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Clusters recovered to a point in time: beside the live one, exchanged, backed up anew, and back again."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql import marker
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import connect

from lab import machine
from lab.pgbackrest import STANZA
from lab.postgresql import ENVIRONMENT
from tests.conftest import COLLECTIONS
from tests.disks import fill, require_root
from tests.integration.backup.conftest import as_arguments
from tests.integration.pitr.conftest import Archived

CLOSED = "SELECT count(*) FROM pg_file_settings WHERE name LIKE 'recovery_target%'"


@pytest.mark.parametrize("kind", ["lsn", "name", "transaction"])
def test_each_kind_of_target_brings_the_moment_before_the_accident_and_undo_the_kept_cluster(
    archived: Archived, kind: str
) -> None:
    """A86 ⚠: the target is explicit, reached beside the live cluster, and again where it is promoted."""
    target = {"target_kind": kind, **archived.targets[kind]}
    restored = archived.done("restored", **target)
    assert archived.beside_orders(restored) == 100
    assert archived.orders() == 10, "nothing was changed live"
    archived.done("exchanged", **target)
    assert archived.orders() == 100
    archived.done("undone", losses_agreed=True)
    assert archived.orders() == 10


def test_the_time_that_the_search_of_the_wal_found_brings_the_moment_before_the_accident(archived: Archived) -> None:
    """A86 ⚠: at night nobody knows the time."""
    archived.archive()
    found = archived.call_module("pg_wal_search", {
        "login": as_arguments(archived.server.login), "database": "postgres", "table": "orders",
        "minimum_deleted_rows": 50, "pgbackrest": {"config": str(archived.server.config), "stanza": STANZA},
        "postgresql_bin_directory": str(archived.server.bin_directory), "since": archived.moment,
    })
    target = found["events"][-1]["targets"]["time"]
    restored = archived.done("restored", target=target["value"], exclusive=target["exclusive"])
    assert archived.beside_orders(restored) == 100


def test_dropped_rows_come_back_to_the_moment_before_with_a_proven_base_backup(archived: Archived) -> None:
    """A86 ⚠: recovery.signal, beside and not over live files, a kept cluster, a proven base, an undo."""
    timeline, cut_out = archived.info()["timeline"], archived.now()
    looked = archived.done("restored", check_mode=True)
    assert looked.get("changed"), looked
    assert not archived.beside
    assert "losing" in looked["losses"]

    restored = archived.done("restored")
    assert restored.get("changed"), restored
    assert restored["position"]["state"] == "restored"
    assert {one["name"] for one in restored["databases"]} == {"postgres"}
    again = archived.done("restored")
    assert again.get("changed") is False, again
    assert again["databases"] == restored["databases"], "who is asked once more sees the same"

    exchanged = archived.done("exchanged")
    assert exchanged.get("changed"), exchanged
    assert exchanged["timeline"] > timeline
    assert archived.done("exchanged").get("changed") is False

    archived.run("ALTER SYSTEM SET work_mem = '7MB'")
    done = archived.done("done")
    assert done.get("changed"), done
    assert archived.run("SELECT count(*) FROM pg_file_settings WHERE name = 'work_mem'") == 1, "set since by somebody"
    assert done["new_backup"]["timeline"] == exchanged["timeline"]
    kept = [one["backup"] for one in archived.info()["backups"]]
    assert archived.base in kept, "the repository is to keep one, and that is for later"
    assert archived.run("SHOW archive_mode") == "on"
    assert archived.run(CLOSED) == 0, "the next start must not go back"
    assert archived.done("done")["changed"] is False
    archived.run("INSERT INTO orders VALUES (999)")
    once_more = archived.done("restored")
    assert (once_more["changed"], once_more["position"]["state"]) == (False, "done"), "what was written since is kept"
    assert "so nothing is left to do" in " ".join(once_more["notes"])
    archived.run("DELETE FROM orders WHERE id = 999")
    refused = archived.reach("restored", target=cut_out)
    assert "is not in the live cluster: that was recovered to time" in refused["msg"], refused

    # The same, with a byte of the new base backup flipped before it was read: as after a kill between the two.
    position = archived.data.with_name("data.pitr") / "position.json"
    text = position.read_text(encoding="utf-8")
    position.write_text(text.replace('"state": "done"', '"state": "opened"'), encoding="utf-8")
    label = done["new_backup"]["backup"]
    flipped = archived.server.folder / "repository" / "backup" / STANZA / label / "pg_data" / "base" / "1" / "1247.gz"
    whole = flipped.read_bytes()
    middle = len(whole) // 2
    flipped.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1:])
    unproven = archived.reach("done")
    assert "is not proven: verify says invalid" in unproven["msg"], unproven
    flipped.write_bytes(whole)
    position.write_text(text, encoding="utf-8")
    later = archived.now()
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


def test_the_copy_beside_can_do_nothing_and_whose_password_was_changed_since_is_named(archived: Archived) -> None:
    """A86 ⚠: restored roles have the passwords of the target; the copy listens on no network and archives nothing."""
    archived.run("CREATE ROLE late LOGIN PASSWORD 'x'")
    restored = archived.done("restored")
    assert "late" in " ".join(restored["notes"])
    assert "postgres" not in " ".join(restored["notes"])
    with connect(archived.login_beside(restored), "tests") as connection:
        row = connection.execute(
            "SELECT current_setting('archive_mode') AS archives, current_setting('listen_addresses') AS network,"
            " current_setting('max_logical_replication_workers') AS workers"
        ).fetchone()
        assert row == {"archives": "off", "network": "", "workers": "0"}
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            connection.execute("DELETE FROM orders")
    assert Path(restored["reached"]["socket"]).stat().st_mode & 0o777 == 0o700
    archived.done("undone")
    assert archived.beside == []
    assert archived.done("undone")["changed"] is False
    archived.run("DROP ROLE late")


def test_a_check_that_a_lock_keeps_out_is_asked_before_the_recovery_is_done(archived: Archived) -> None:
    """A86 ⚠: just before the end of a DROP TABLE nobody can read the table; not asked is not passed."""
    archived.run("CREATE TABLE sales AS SELECT 1 AS id")
    with connect(archived.server.login, "tests", autocommit=False) as dropping:
        dropping.execute("DROP TABLE sales")
        accident = dropping.execute("SELECT pg_current_xact_id()::text AS id").fetchone()["id"]
        dropping.commit()
    given = {
        "target": accident, "target_kind": "transaction", "exclusive": True, "backup": archived.base,
        "application_check": "SELECT count(*) = 1, 'a row of ' || count(*) FROM sales",
    }
    drilled = archived.reach("restored", drill=True, **given)
    assert "could not be asked at the target, so it is not proven" in drilled["msg"], drilled
    assert "a target a moment earlier or later" in drilled["msg"]
    archived.done("undone", drill=True)

    for looks in (archived.done("restored", **given), archived.done("restored", **given)):
        assert looks["application_check"] == "not asked"
        assert "It is asked then, before the recovery is done" in " ".join(looks["notes"]), "and on a second look"
    archived.done("exchanged", **given)
    failed = archived.reach("done", **{**given, "application_check": "SELECT count(*) = 2, 'too few' FROM sales"})
    assert "did not pass in the recovered cluster, which is live: too few" in failed["msg"], failed
    assert "go back with sre.runbooks.database_pitr_undo" in failed["msg"]
    with connect(archived.server.login, "tests", autocommit=False) as migrating:
        migrating.execute("LOCK TABLE sales")
        locked = archived.reach("done", **given)
    assert "could not be asked: somebody locks what it reads" in locked["msg"], locked
    assert archived.info()["position"]["state"] == "opened"
    assert archived.done("done", **given)["application_check"] == "passed"
    assert archived.done("done", **given)["application_check"] == "passed"


def test_what_is_lost_is_counted_to_the_moment_when_the_live_server_was_stopped(archived: Archived) -> None:
    """A86 ⚠: consumers write on while a cluster is restored and looked at."""
    moment = datetime.fromisoformat(archived.moment)

    def since() -> float:
        return (datetime.fromisoformat(archived.now()) - moment).total_seconds()

    looked = archived.done("restored", check_mode=True)
    restored = archived.done("restored")
    assert looked["lost_seconds"] < restored["lost_seconds"] < since(), "until it stood there"
    archived.run("SELECT pg_sleep(0.5)")
    written = since()
    exchanged = archived.done("exchanged")
    assert written < exchanged["lost_seconds"] < since()
    assert archived.done("exchanged")["lost_seconds"] == exchanged["lost_seconds"], "after a kill too"


def test_a_server_that_is_down_is_recovered_from_what_it_had_archived(archived: Archived) -> None:
    """A86 ⚠: the commonest reason to recover is a server that does not start any more."""
    archived.archive()
    archived.server.kill()
    looked = archived.info()
    assert (looked["sessions"], looked["window"]["archives"], looked["problems"]) == (None, False, [])
    found = archived.done("restored", check_mode=True)
    assert "had not archived cannot be recovered" in " ".join(found["notes"])
    restored = archived.done("restored")
    assert archived.beside_orders(restored) == 100
    archived.done("exchanged")
    assert archived.orders() == 100
    archived.done("undone", losses_agreed=True)
    assert archived.orders() == 10


def test_a_server_that_is_down_cannot_give_what_it_had_not_archived(archived: Archived) -> None:
    """A86 ⚠: a target after the newest WAL would be missed, silently."""
    archived.archive()
    archived.run("SELECT pg_sleep(2.1)")
    later = archived.lose()
    archived.server.kill()
    refused = archived.reach("restored", target=later)
    assert "is after the newest WAL in the archive: you would get data up to" in refused["msg"], refused
    assert "Start it or mend its archiving" in refused["msg"]


def test_a_missing_segment_of_wal_is_refused_although_verify_calls_the_repository_ok(archived: Archived) -> None:
    """A86 ⚠: no WAL-chain check."""
    segment = archived.archive()
    archived.run("CREATE TABLE IF NOT EXISTS more (id int)")
    archived.archive()
    assert archived.info()["backups"][0]["gaps"] == []
    with archived.without(segment):
        assert archived.info()["backups"][0]["gaps"] == [segment]
        refused = archived.reach("restored", check_mode=True, target=archived.now(), backup=archived.base)
        assert f"The WAL segment {segment} is missing in the archive" in refused["msg"], refused
        assert "Choose a time before that" in refused["msg"]
    archived.run("DROP TABLE more")


@pytest.mark.parametrize(("changes", "words"), [
    ({"target": "2126-01-01T00:00:00Z"}, "is in the future: now is"),
    ({"target": "2016-01-01T00:00:00Z"}, "No backup ended before time 2016-01-01"),
    ({"target": "2026-11-21T10:00:00"}, "has no zone"),
    ({"target": "yesterday"}, "is no time. Give ISO 8601 with a zone"),
    ({"target": None}, "No target was given. Say up to when"),
    ({"target_kind": "lsn", "target": "0/3000000"}, f"pgbackrest.conf --stanza={STANZA} info, as the server's"),
    ({"target_kind": "lsn", "target": "0/28", "backup": "base"}, "after the target"),
    ({"target_kind": "lsn", "target": "FFF/28", "backup": "base"}, "has not been written yet"),
    ({"target_kind": "transaction", "target": "one", "backup": "base"}, "is no transaction"),
    ({"stanza": "another"}, "The stanza 'another' is of no use"),
    ({"data_directory": "/tmp"}, "is no data directory that can be read"),
    ({"config": "/nowhere.conf"}, "/nowhere.conf"),
])
def test_what_cannot_be_reached_is_refused_with_a_sentence(
    cluster: Archived, changes: dict[str, Any], words: str
) -> None:
    """A86 ⚠: a zone, a set, a target before or after everything that there is."""
    given = {"target": cluster.now(), **changes, **({"backup": cluster.base} if "backup" in changes else {})}
    refused = cluster.reach("restored", **given)
    assert words in refused["msg"], refused
    assert cluster.beside == []


def test_a_backup_that_is_not_there_is_refused_with_those_that_are(cluster: Archived) -> None:
    refused = cluster.reach("restored", target=cluster.now(), backup="20000101-000000F")
    assert f"There is no backup '20000101-000000F'. There are: {cluster.base}" in refused["msg"], refused


@pytest.fixture
def stranger(archived: Archived) -> Iterator[Path]:
    """A data directory of the same version, which the repository knows nothing of."""
    folder = machine.make_folder(archived.server.folder.with_name("other"), machine.unprivileged_user())
    subprocess.run(
        [str(archived.server.bin_directory / "initdb"), "-D", str(folder / "data"), "--no-sync", "--no-instructions"],
        cwd="/", env=ENVIRONMENT, umask=0o077, check=True, capture_output=True, timeout=60,
        **machine.popen_as(machine.unprivileged_user()),
    )
    return folder / "data"


def test_the_repository_of_another_cluster_is_refused(archived: Archived, stranger: Path) -> None:
    """A86 ⚠: pgBackRest restores any stanza into any folder."""
    archived.archive()
    refused = archived.reach("restored", data_directory=str(stranger))
    assert f"The stanza '{STANZA}' holds the cluster" in refused["msg"], refused
    assert f"and {stranger} is" in refused["msg"]
    assert archived.info(data_directory=str(stranger))["msg"] == refused["msg"]
    served = archived.reach("restored", data_directory=str(stranger.parent))
    assert "is no data directory" in served["msg"], served


def test_too_little_disk_is_refused_before_anything_is_made(archived: Archived) -> None:
    """A86 ⚠: what is needed and what is free, before anything is made."""
    require_root()
    ballast = fill(archived.server.folder, 8 << 20)
    try:
        refused = archived.reach("restored")
    finally:
        ballast.unlink()
    assert "has 8.4 MB free, and the restored cluster needs" in refused["msg"], refused
    assert "Make room there" in refused["msg"]
    assert archived.beside == []


def as_user(uid: int) -> dict[str, Any]:
    """Arguments of subprocess for a Python that has what ours has."""
    path = os.pathsep.join([str(COLLECTIONS), sysconfig.get_path("purelib")])
    return {"user": uid, "group": uid, "extra_groups": [], "env": {**ENVIRONMENT, "PYTHONPATH": path}, "cwd": "/"}


def python_for(uid: int) -> str:
    """One that this user can run: ours may be below /root."""
    for python in (sys.executable, "/usr/bin/python3"):
        with contextlib.suppress(OSError):
            if subprocess.run([python, "-c", "import psycopg"], **as_user(uid), check=False).returncode == 0:
                return python
    pytest.skip("no Python that the server's user can run has psycopg")


def test_the_servers_own_user_recovers_it_and_nobody_else_can(archived: Archived) -> None:
    """A86 ⚠: who may; what root began its user goes on with."""
    user = machine.unprivileged_user()
    if user is None:
        pytest.skip("all tests run as that user")
    control = {name: argv[argv.index("-D") - 1:] for name, argv in archived.server.control.items()}
    temporary = machine.make_folder(archived.server.folder / "tmp", user)
    python = python_for(user.pw_uid)

    def call(uid: int, state: str, **more: Any) -> dict[str, Any]:
        arguments = archived.arguments(state, control=control, _ansible_remote_tmp=str(temporary), **more)
        done = subprocess.run(
            [python, "-m", "ansible_collections.sre.runbooks.plugins.modules.pg_pitr"], **as_user(uid), text=True,
            input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}), capture_output=True, timeout=120, check=False,
        )
        assert done.stdout, done.stderr
        return json.loads(done.stdout)

    temporary.chmod(0o777)
    refused = call(user.pw_uid - 1, "restored")
    assert "can be read: Permission denied" in refused["msg"], refused
    archived.done("restored")
    for state in ("restored", "exchanged", "undone"):
        result = call(user.pw_uid, state, losses_agreed=True)
        assert not result.get("failed"), result
    assert archived.orders() == 10


def test_a_server_of_another_container_is_not_taken_for_one_that_is_down(archived: Archived) -> None:
    """A86 ⚠: its folder would be renamed under it."""
    argv = ["unshare", "--fork", "--pid", "--mount-proc"]
    if os.geteuid() != 0 or subprocess.run([*argv, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("only root can make a namespace of processes")
    done = subprocess.run(
        [*argv, sys.executable, "-m", "ansible_collections.sre.runbooks.plugins.modules.pg_pitr"], text=True,
        input=json.dumps({"ANSIBLE_MODULE_ARGS": archived.arguments("restored")}), capture_output=True, timeout=60,
        check=False, env={**os.environ, "PYTHONPATH": str(COLLECTIONS)},
    )
    assert "and no process of it is seen from here" in json.loads(done.stdout)["msg"], done.stdout
    assert archived.beside == []


def test_a_cluster_of_whose_databases_one_is_being_restored_is_refused(archived: Archived) -> None:
    """A86 ⚠: two databases of a cluster have two locks."""
    mark = marker.join(None, marker.Marker(marker.CLOSED, "r7", "pos"))
    archived.run(f"COMMENT ON DATABASE postgres IS '{mark}'")
    try:
        refused = archived.reach("restored", check_mode=True)
        assert "The run r7 restores the database 'pos' of this cluster" in refused["msg"], refused
        assert archived.info()["problems"] == refused["error"]["problems"]
    finally:
        archived.run("COMMENT ON DATABASE postgres IS NULL")


def test_an_archive_that_does_not_take_what_is_written_is_said_at_once(archived: Archived) -> None:
    """A86 ⚠: what was not archived cannot be recovered."""
    archived.run("ALTER SYSTEM SET archive_command = 'false'")
    archived.run("SELECT pg_reload_conf()")
    try:
        result = archived.reach("restored", target=archived.now(), archive_timeout_seconds=20)
        assert "does not come into the archive: " in result["msg"], result
        assert "See the server's log on archive_command" in result["msg"]
        assert archived.beside == []
    finally:
        archived.run("ALTER SYSTEM RESET archive_command")
        archived.run("SELECT pg_reload_conf()")


def test_a_start_that_fails_makes_the_old_cluster_live_again(archived: Archived) -> None:
    """A86 ⚠: no safety copy; what was not promoted goes back by itself."""
    archived.done("restored")
    control = archived.server.control
    # It starts the old cluster, and not the one that stands in its place in recovery.
    only_old = ["sh", "-c", f'test ! -e {archived.data}/recovery.signal && exec "$@"', "start"]
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
    hanging = {**control, "stop": ["sh", "-c", '"$@"; exec sleep 60', "stop", *control["stop"]]}
    child = archived.start_module("pg_pitr", archived.arguments("exchanged", control=hanging))
    assert machine.wait_for(lambda: archived.server.pid is None, 20)
    child.kill()
    child.wait()
    position = json.loads((archived.data.with_name("data.pitr") / "position.json").read_text(encoding="utf-8"))
    assert position["state"] == "exchanging"
    # As far as a kill could have come.
    archived.data.rename(position["kept"])
    archived.done("exchanged")
    assert archived.orders() == 100


def test_a_restore_point_that_never_was_is_told(archived: Archived) -> None:
    """A86 ⚠: PostgreSQL would open the cluster at the end of all WAL."""
    missing = archived.reach("restored", target="no such point", target_kind="name", backup=archived.base)
    assert "The recovery ended before name no such point" in missing["msg"], missing
    assert archived.orders() == 10


def test_killed_at_every_stage_the_same_call_converges_and_one_cluster_is_live(archived: Archived) -> None:
    """A86 ⚠: killed anywhere and run again, it goes on."""
    restoring, control = archived.data.with_name("data.restoring"), archived.data.with_name("data.pitr")
    stages = (
        ("restored", (control / "position.json").exists),
        ("restored", (restoring / "base").exists),
        ("restored", (restoring / "postmaster.pid").exists),
        ("exchanged", lambda: "exchanging" in (control / "position.json").read_text(encoding="utf-8")),
        ("exchanged", lambda: bool(list(archived.data.parent.glob("data.retired-*")))),
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
