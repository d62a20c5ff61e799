# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Backups and restores in trouble, as an operator meets them: what is said, the exit code, and that nothing is lost."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.backup.manifest import MANIFEST, read_manifest
from ansible_collections.sre.runbooks.plugins.module_utils.backup.verdict import read_verdicts

from lab import machine
from tests.scenarios.backup_platform import ODD_NAME, ROLES, WRONG, Backups
from tests.scenarios.test_backup_verify import data_file, flip, folder
from tests.scenarios.test_run import NEVER

__all__ = ["folder"]  # a fixture: a whole backup of the orders

ORDERS = ("-e", "target=orders-db")
APPROVED = (*ORDERS, "-e", "approve=orders-db")
RESTORE = ("database_restore", *APPROVED, "-e", "database_restore_least_rung=archive")


def destroy(backups: Backups) -> None:
    """Half of the orders are gone."""
    backups.sql("DELETE FROM orders WHERE id % 2 = 0")
    assert backups.orders() == 2500


def assert_refused(played: subprocess.CompletedProcess[str], outcome: str, *words: str) -> None:
    """Exit code 2, the outcome, and the sentence with the values and the next step."""
    assert played.returncode == 2, played.stdout
    assert f"orders-db: {outcome}." in played.stdout
    for word in words:
        assert word in " ".join(played.stdout.split()), (word, played.stdout)


@contextlib.contextmanager
def reconnecting(backups: Backups) -> Iterator[list[int | None]]:
    """A client that connects again and again; what it saw, a number of orders or None for a refusal."""
    login = replace(backups.server.login, user="shop", password=ROLES["shop"])
    seen: list[int | None] = []
    ended = threading.Event()

    def reconnect() -> None:
        while not ended.is_set():
            try:
                with psycopg.connect(
                    host=login.host, port=login.port, user=login.user, password=login.password, dbname=ODD_NAME
                ) as connection:
                    seen.append(connection.execute("SELECT count(*) FROM orders").fetchone()[0])
            except psycopg.Error:
                seen.append(None)
            # Without a pause one client takes a whole core from the playbook.
            ended.wait(0.02)

    client = threading.Thread(target=reconnect)
    client.start()
    try:
        yield seen
    finally:
        ended.set()
        client.join()


def test_an_odd_name_goes_through_backup_proof_restore_and_back(backups: Backups) -> None:
    """A80 A81 A85 ⚠ X2: every statement reaches this database, and never another one with the same tables.

    A client that reconnects in a loop sees the old rows, then the restored ones, and nothing between.
    """
    for other in ("postgres", "local"):
        backups.sql("CREATE TABLE orders AS SELECT n AS id FROM generate_series(1, 7) AS n", other)
    try:
        for playbook in ("database_backup", "backup_verify"):
            played = backups.play(playbook, *ORDERS)
            assert played.returncode == 0, played.stdout
        (made,) = backups.folders("orders-db")
        manifest = read_manifest(made)
        assert (manifest.database.name, manifest.tables[0].rows) == (ODD_NAME, 5000)
        assert read_verdicts(made)[-1].rung == "application"
        destroy(backups)
        with reconnecting(backups) as seen:
            played = backups.play("database_restore", *APPROVED)
            assert machine.wait_for(lambda: 5000 in seen, 10)
        assert played.returncode == 0, played.stdout
        assert [count for count, _unused in itertools.groupby(one for one in seen if one is not None)] == [2500, 5000]
        analysed = "SELECT last_analyze FROM pg_stat_user_tables WHERE relname = 'orders'"
        assert backups.sql(analysed)[0]["last_analyze"]
        (kept,) = backups.left()
        assert kept.startswith(f"{ODD_NAME}__retired_")
        played = backups.play("database_restore_undo", *APPROVED)
        assert played.returncode == 0, played.stdout
        assert backups.orders() == 2500
        for other in ("postgres", "local"):
            assert backups.orders(other) == 7
            assert backups.sql(analysed, other)[0]["last_analyze"] is None
    finally:
        backups.sql("DROP TABLE orders", "postgres")


def test_a_backup_started_at_a_terminal_is_whole(backups: Backups) -> None:
    """X1: no byte goes through a terminal, and a file that was cut is not taken for a whole one."""
    code, shown = backups.play_at_terminal("database_backup", *ORDERS)
    assert code == 0, shown
    (made,) = backups.folders("orders-db")
    assert read_verdicts(made)[-1].rung == "archive"
    largest = max((made / "data").glob("*.dat.gz"), key=lambda path: path.stat().st_size)
    os.truncate(largest, largest.stat().st_size - 1)
    cut = backups.play("backup_verify", *ORDERS)
    size = largest.stat().st_size
    assert_refused(
        cut, "DONE", f"{largest.name} has {size} bytes instead of {size + 1}", "Make a new backup now"
    )


def test_a_damaged_backup_is_never_restored_and_the_live_database_stays(backups: Backups, folder: Path) -> None:
    """A85 ⚠ X14 ⚠: also when the last proof was before the damage."""
    destroy(backups)
    flip(data_file(folder))
    assert_refused(
        backups.play(*RESTORE), "FAILED AND UNDONE", "has another SHA-256 than in the manifest",
        "Do not use it: the same command without -e backup takes the newest one that is proven and whole",
    )
    assert read_verdicts(folder)[-1].verdict == "corrupt"
    listed = backups.play("backup_catalog", *ORDERS)
    assert listed.returncode == 2, listed.stdout
    assert f"{folder.name}  " in listed.stdout
    assert_refused(backups.play(*RESTORE, "-e", f"backup={folder.name}"), "REFUSED", f"{folder.name} is corrupt")
    flip(folder / MANIFEST)
    assert_refused(
        backups.play(*RESTORE), "REFUSED", f"{MANIFEST} is not what was written",
        "Copy one from another store with the playbook sre.runbooks.backup_copy",
    )
    assert backups.orders() == 2500
    assert backups.left() == []


def test_a_disk_that_fills_while_restoring_costs_nothing_and_the_same_command_goes_through_with_room(
    backups: Backups, small_space: Path
) -> None:
    """A85 ⚠: no disk check. The disk of a tablespace of a table's own cannot be seen in advance."""
    # Autovacuum would give the disk the room of what is deleted.
    backups.sql("ALTER TABLE orders SET (autovacuum_enabled = false)")
    backups.sql("INSERT INTO orders (v) SELECT sha512(n::text::bytea)::text FROM generate_series(1, 35000) AS n")
    assert backups.play("database_backup", *ORDERS).returncode == 0
    backups.sql("DELETE FROM orders WHERE id > 5000")
    played = backups.play(*RESTORE)
    assert_refused(
        played, "FAILED AND UNDONE", "No space left on device", "is as it was before",
        "Make room on the server's disk, then run the same command again",
    )
    assert backups.orders() == 5000
    assert backups.left() == []
    subprocess.run([shutil.which("mount") or "mount", "-o", "remount,size=64m", str(small_space)], check=True)
    again = backups.play(*RESTORE)
    assert again.returncode == 0, again.stdout
    assert backups.orders() == 40000


def held_dump(backups: Backups, child: subprocess.Popen[str]) -> int:
    """The process of the pg_dump that a playbook has started and that is at work."""
    assert machine.wait_for(lambda: any(path.stat().st_size for path in backups.store.rglob("*.dat.gz")), 60)
    family = [child.pid]
    for pid in family:
        family += machine.children_of(pid)
    return next(pid for pid in family if Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].endswith(b"pg_dump"))


def test_a_dump_that_is_killed_alone_and_a_backup_that_is_interrupted_leave_no_backup(backups: Backups) -> None:
    """A61 ⚠ A80 ⚠ D23 ⚠ X4 ⚠: the exit code of pg_dump counts. Ctrl-C reaches every process of the terminal's group."""
    backups.sql("CREATE TABLE big AS SELECT i, md5(i::text) AS v FROM generate_series(1, 1500000) AS i")
    child = backups.begin("database_backup", *ORDERS)
    machine.send(held_dump(backups, child), signal.SIGKILL)
    shown, _unused = child.communicate(timeout=60)
    played = subprocess.CompletedProcess(child.args, child.returncode, shown)
    assert_refused(
        played, "FAILED AND UNDONE", "pg_dump of", "was killed by signal 9",
        "Nothing is left that looks like a backup; mend the cause and start it again.",
    )
    assert backups.folders("orders-db") == []
    assert backups.left() == []

    child = backups.begin("database_backup", *ORDERS)
    held_dump(backups, child)
    os.killpg(child.pid, signal.SIGINT)
    shown, _unused = child.communicate(timeout=60)
    assert child.returncode != 0, shown
    assert "Interrupted: the run did not end, and what it had stopped stays stopped" in shown
    again = backups.play("database_backup", *ORDERS)
    assert again.returncode == 0, again.stdout
    assert backups.left() == []


ADMIN = "No connection to PostgreSQL as postgres@127.0.0.1"
NEXT = " Check that the server runs and that host, port, user and password in the inventory are right."
PASSWORDS = [
    ("database_backup", "database_admin", "REFUSED", ADMIN, NEXT),
    ("backup_verify", "postgresql_admin", "FAILED AND UNDONE", "is unverifiable", NEXT),
    ("database_restore", "database_admin", "REFUSED", ADMIN, NEXT),
    ("database_restore_undo", "database_admin", "REFUSED", ADMIN, NEXT),
    ("database_retired", "database_admin", "REFUSED", ADMIN, NEXT),
    ("health", "database_monitor", "DONE", "unknown orders-db monitor: No connection to PostgreSQL as watcher@", ""),
]


@pytest.mark.usefixtures("folder")
def test_a_wrong_password_is_one_sentence_with_the_next_step_and_is_never_shown(backups: Backups) -> None:
    """X3 X18 ⚠: in every playbook, at -vvv, in the records and in the report."""
    for playbook, variable, outcome, words, step in PASSWORDS:
        user = "watcher" if playbook == "health" else "postgres"
        password = "{{ lookup('ansible.builtin.file', secrets_directory ~ '/wrong') }}"
        wrong = json.dumps({variable: {"user": user, "password": password}})
        played = backups.play(playbook, *APPROVED, "-vvv", "-e", wrong)
        said = " ".join(played.stdout.replace('\\"', '"').split())
        assert played.returncode == 2, (playbook, played.stdout)
        failed = f'password authentication failed for user "{user}".{step}'
        for word in (words, failed, f"orders-db: {outcome}"):
            assert word in said, (playbook, word)
        assert WRONG not in played.stdout + played.stderr, playbook
    assert not any(WRONG.encode() in path.read_bytes() for path in backups.written())
    assert backups.orders() == 5000
    assert backups.left() == []


def test_a_monitor_without_pg_monitor_is_unknown_and_told_which_grant_to_run(backups: Backups) -> None:
    """B34 ⚠: hidden columns are NULL, which must never read as "nothing there"."""
    well = backups.play("health", *ORDERS, "-e", "health_wait_for_second_sample=false")
    assert well.returncode == 0, well.stdout
    backups.sql("REVOKE pg_monitor FROM watcher", "postgres")
    try:
        played = backups.play("health", *ORDERS, "-e", "health_wait_for_second_sample=false")
    finally:
        backups.sql("GRANT pg_monitor TO watcher", "postgres")
    assert played.returncode == 2, played.stdout
    (failed,) = {line for line in played.stdout.split("\\n") if line.startswith("unknown")}
    assert failed.startswith("unknown   orders-db monitor.longest_transaction_seconds")
    assert "watcher is no member of pg_monitor" in failed
    assert "GRANT pg_monitor TO" in failed


def test_outside_its_window_a_restore_is_refused_and_says_when_it_may(backups: Backups) -> None:
    """D30 ⚠: change rules were never enforced."""
    played = backups.play(*RESTORE, "-e", json.dumps({"run_windows": NEVER}))
    assert_refused(
        played, "REFUSED", "database_restore is outside its windows", "The next window is Never today",
        "run_window_override",
    )
    assert backups.left() == []


@pytest.mark.parametrize(
    "playbook", ["database_backup", "backup_verify", "database_restore", "database_restore_undo"]
)
def test_a_playbook_that_acts_wants_its_target(backups: Backups, playbook: str) -> None:
    """D30 ⚠: nothing is done to a target that nobody named."""
    played = backups.play(playbook)
    assert played.returncode == 4, played.stdout
    assert "No target was given" in played.stderr
    assert f"ansible-playbook playbooks/{playbook}.yml" in " ".join(played.stderr.split())
    assert not backups.runs.exists()
