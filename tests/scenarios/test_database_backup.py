"""The playbook database_backup, as an operator starts it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import yaml
from ansible_collections.sre.runbooks.plugins.module_utils.backup.manifest import MANIFEST, read_manifest
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import connect

from lab import machine
from tests.scenarios.backup_platform import REPOSITORY
from tests.ssh_server import SshServer


def test_a_database_with_an_odd_name_is_backed_up_and_read_back(backups):
    """A80 B39 D14 ⚠: the password is nowhere, the backup is whole."""
    done = backups.play("database_backup", "-e", "target=orders-db", "-vvv")
    assert done.returncode == 0, done.stdout[-3000:]
    (folder,) = backups.folders("orders-db")
    assert read_manifest(folder).database.name == backups.name
    assert "orders-db: DONE." in done.stdout
    assert backups.password not in done.stdout + done.stderr
    assert all(backups.password.encode() not in path.read_bytes() for path in backups.written())


def test_one_failing_database_does_not_stop_the_others(backups):
    done = backups.play("database_backup", "-e", "target=databases", "-e", "expect=3")
    assert done.returncode != 0
    assert len(backups.folders("orders-db")) == 1
    assert len(backups.folders("local-db")) == 1
    assert backups.folders("broken-db") == []
    assert "password authentication failed" in done.stdout
    assert "broken-db: REFUSED." in done.stdout


def test_a_store_on_the_databases_own_server_is_warned_of(backups):
    """B38 ⚠."""
    done = backups.play("database_backup", "-e", "target=local-db")
    assert done.returncode == 0, done.stdout[-3000:]
    assert "WARNING: the store local-store and the database local-db are both on the server db-server" in done.stdout
    elsewhere = backups.play("database_backup", "-e", "target=orders-db")
    assert elsewhere.returncode == 0, elsewhere.stdout[-3000:]
    assert "WARNING" not in elsewhere.stdout


def test_check_mode_plans_and_writes_nothing_into_the_store(backups):
    done = backups.play("database_backup", "-e", "target=orders-db", "--check", "--diff")
    assert done.returncode == 0, done.stdout[-3000:]
    assert "back up database" in done.stdout
    assert backups.folders("orders-db") == []


def test_many_targets_want_their_number(backups):
    done = backups.play("database_backup", "-e", "target=databases")
    assert done.returncode != 0
    assert "Say how many you expect" in done.stdout + done.stderr
    assert not list(backups.store.rglob(MANIFEST))


def test_a_store_that_becomes_full_while_dumping_is_said_with_the_values(backups, small_disk: Path):
    """X4 ⚠: a first backup teaches a wrong estimate, then the data does not compress any more."""
    backups.sql("CREATE TABLE filler AS SELECT repeat('x', 1000) AS v FROM generate_series(1, 10000)")
    extra = ("-e", "target=orders-db", "-e", f'{{"store_path": "{small_disk}"}}')
    first = backups.play("database_backup", *extra)
    assert first.returncode == 0, first.stdout[-3000:]
    backups.sql(
        "CREATE TABLE noise AS SELECT string_agg(sha512((random()::text || j)::bytea), ''::bytea) AS v"
        " FROM generate_series(1, 2750) AS i, generate_series(1, 400) AS j GROUP BY i"
    )
    before = sorted(path for path in small_disk.rglob(MANIFEST))
    second = backups.play("database_backup", *extra)
    assert second.returncode != 0
    assert f"The disk for {small_disk}/backup_tests/orders-db became full while" in second.stdout
    assert "orders-db: FAILED AND UNDONE." in second.stdout
    assert sorted(path for path in small_disk.rglob(MANIFEST)) == before
    assert not list(small_disk.rglob(".partial-*"))


def test_a_store_that_is_too_small_is_refused_before(backups, small_disk: Path):
    backups.sql("CREATE TABLE filler AS SELECT md5(i::text) AS v FROM generate_series(1, 1000000) AS i")
    done = backups.play("database_backup", "-e", "target=orders-db", "-e", f'{{"store_path": "{small_disk}"}}')
    assert done.returncode != 0
    assert f"free for {small_disk}/backup_tests/orders-db, and a backup" in done.stdout
    assert "orders-db: REFUSED." in done.stdout
    assert not [path for path in small_disk.rglob("*") if path.is_file()]


def test_nobody_else_can_read_a_backup(backups):
    assert backups.play("database_backup", "-e", "target=orders-db").returncode == 0
    (folder,) = backups.folders("orders-db")
    assert folder.stat().st_mode & 0o077 == 0
    assert folder.stat().st_uid == os.geteuid()


def test_after_kill_the_same_command_is_refused_while_the_module_lives_and_goes_through_when_it_is_dead(backups):
    """kill -9 of ansible-playbook alone, its module lives on; then of the module too."""
    backups.sql("CREATE TABLE big AS SELECT i, md5(i::text) AS v FROM generate_series(1, 1500000) AS i")
    child = subprocess.Popen(
        backups.argv("database_backup", "-e", "target=orders-db"), cwd=REPOSITORY, env=backups.environment(),
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )
    assert machine.wait_for(lambda: any(path.stat().st_size for path in backups.store.rglob("*.dat.gz")), 60)
    module = json.loads((backups.store / "backup_tests/orders-db/.lock").read_text())["process"]
    machine.send(module, signal.SIGSTOP)
    try:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        refused = backups.play("database_backup", "-e", "target=orders-db")
    finally:
        machine.send(module, signal.SIGKILL)
    assert refused.returncode != 0
    assert f"Another backup of orders-db is being made: process {module}" in refused.stdout
    assert backups.folders("orders-db") == []
    done = backups.play("database_backup", "-e", "target=orders-db")
    assert done.returncode == 0, done.stdout
    assert len(backups.folders("orders-db")) == 1
    assert not list(backups.store.rglob(".partial-*"))


def _over_ssh(backups, server: SshServer) -> subprocess.Popen[str]:
    """A backup of the orders into a store on another machine, while somebody else wants the table for itself."""
    overlay = backups.folder / "over-ssh.yml"
    host = {**server.variables(), "ansible_python_interpreter": "{{ ansible_playbook_python }}"}
    overlay.write_text(yaml.safe_dump({"stores": {"hosts": {"remote-store": host}}}), encoding="utf-8")
    return subprocess.Popen(
        backups.argv("database_backup", "-i", str(overlay), "-e", "target=orders-db", "-vvv"), cwd=REPOSITORY,
        env=backups.environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True,
    )


def _read_until(child: subprocess.Popen[str], beginning: str) -> str:
    """What it shows up to a line that begins like this."""
    shown = ""
    for line in child.stdout:
        shown += line
        if line.startswith(beginning):
            return shown
    raise AssertionError(f"{beginning!r} never came:\n{shown[-3000:]}")


def test_a_store_on_another_machine_is_backed_up_into_without_silence(backups, ssh_server: SshServer):
    """A80 B39 ⚠: over real ssh. The dump waits for a table that somebody else has until its progress was read here."""
    with connect(backups.server.login.at(backups.name), "tests", autocommit=False) as migration:
        migration.execute("LOCK TABLE orders")
        child = _over_ssh(backups, ssh_server)
        output = _read_until(child, "  orders-db: attempt 1 of 5")
        written = ssh_server.written()
        assert "progress.jsonl" in [path.name for path in written]
        assert not [path for path in written if backups.password.encode() in path.read_bytes()]
    output += child.stdout.read()
    assert child.wait() == 0, output[-3000:]
    assert "  orders-db: dumping 1 table in snapshot" in output
    assert "orders-db: DONE." in output
    assert backups.password not in output
    (folder,) = backups.folders("orders-db")
    assert read_manifest(folder).database.name == backups.name
    assert ssh_server.written() == []


def test_an_interrupted_backup_on_another_machine_leaves_nothing(backups, ssh_server: SshServer):
    """Ctrl-C; over ssh it does not reach the module by itself."""
    with connect(backups.server.login.at(backups.name), "tests", autocommit=False) as migration:
        migration.execute("LOCK TABLE orders")
        child = _over_ssh(backups, ssh_server)
        _read_until(child, "  orders-db: attempt 1 of 5")
        child.send_signal(signal.SIGINT)
        child.stdout.read()
        assert child.wait() != 0
        assert machine.wait_for(lambda: not ssh_server.written(), 60), ssh_server.written()
    # The folder of its job is removed only when no process of it is alive.
    assert not list(backups.store.rglob(".partial-*"))
