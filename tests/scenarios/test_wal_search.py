# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The search for a lost table as an operator starts it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import connect

from lab import REPOSITORY, machine
from lab.postgresql import PostgresServer
from tests.timelines import abandoned_timeline

SECRET = "the-monitor's-secret"
Play = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def shop(server_place: Path) -> Iterator[PostgresServer]:
    """A server with an archive in a folder, on which a table was dropped."""
    archive = server_place / "wal-scenario" / "archive"
    server = PostgresServer(archive.parent, settings={
        "fsync": "off", "shared_buffers": "16MB", "autovacuum": "off",
        "archive_mode": "on",
        # It is there whole or not at all.
        "archive_command": f"cp %p {archive}/new.%f && mv {archive}/new.%f {archive}/%f",
    })
    machine.make_folder(server.folder, None, 0o711)
    machine.make_folder(archive, machine.unprivileged_user())
    with server:
        with connect(server.login, "tests") as connection:
            connection.execute(f"CREATE ROLE monitor LOGIN PASSWORD '{SECRET.replace(chr(39), chr(39) * 2)}'")
            connection.execute("CREATE DATABASE shop")
        with connect(server.login.at("shop"), "tests") as connection:
            for statement in ("CREATE TABLE order_lines (id int)", "CREATE TABLE kept (id int)",
                              "DROP TABLE order_lines", "CREATE TABLE behind (id int)"):
                connection.execute(statement.encode())
            name = connection.execute("SELECT pg_walfile_name(pg_current_wal_lsn()) AS name").fetchone()["name"]
            connection.execute("SELECT pg_switch_wal()")
        assert machine.wait_for((archive / name).exists, 20)
        yield server


@pytest.fixture
def play(shop: PostgresServer, tmp_path: Path) -> Play:
    """Start the playbook; SECRET stands in nothing that it prints."""
    local = {"ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}"}
    (tmp_path / "monitor").write_text(SECRET)
    password = f"{{{{ lookup('ansible.builtin.file', '{tmp_path / 'monitor'}') }}}}"
    inventory: dict[str, Any] = {"all": {
        "vars": {**local, "system": "tests", "run_directory": str(tmp_path / "runs")},
        "children": {
            "servers": {"hosts": {"vps": {}}},
            "databases": {"hosts": {"shop-db": {
                "server": "vps", "database_host": "127.0.0.1", "database_port": shop.port, "database_name": "shop",
                "database_monitor": {"user": "monitor", "password": password}, "database_sslmode": "disable",
                "wal_search_directory": str(shop.folder / "archive"),
                "postgresql_bin_directory": str(shop.bin_directory),
            }}},
        },
    }}
    (tmp_path / "inventory.yml").write_text(yaml.safe_dump(inventory))

    def start(*arguments: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [str(Path(sys.executable).parent / "ansible-playbook"), "playbooks/wal_search.yml", "-i",
             str(tmp_path / "inventory.yml"), "-e", "target=shop-db", *arguments],
            cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=120, stdin=subprocess.DEVNULL,
            env={**os.environ, "ANSIBLE_NOCOLOR": "1", "LC_ALL": "C.UTF-8"},
        )
        assert SECRET not in done.stdout + done.stderr
        return done

    return start


def report_of(folder: Path) -> dict[str, Any]:
    return json.loads(next((folder / "runs").glob("*/report.json")).read_text(encoding="utf-8"))


@pytest.mark.parametrize("more", [(), ("--check", "-vvv")])
def test_the_operator_is_told_when_a_table_was_lost_and_where_to_go_back_to(
    play: Play, tmp_path: Path, more: tuple[str, ...]
) -> None:
    """A86 ⚠: the time, the transaction and the target just before it."""
    done = play("-e", "wal_search_table=order_lines", "-e", "wal_search_minimum_deleted_rows=7", *more)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "public.order_lines was dropped at " in done.stdout
    way_back = "The state just before the newest loss comes back with: ansible-playbook sre.runbooks.database_pitr"
    assert way_back in done.stdout
    assert re.search(r"-e to=20\S+ -e exclusive=true \(look first with --check\)", done.stdout)
    if "--check" not in more:
        report = report_of(tmp_path)
        assert report["outcome"] == "done"
        assert way_back in json.dumps(report), "who comes later finds it as well"
        assert "wal_search_schema=" not in json.dumps(report), "what was not given is not in the command"
        assert "wal_search_minimum_deleted_rows=7" in json.dumps(report), "the command that is shown asks the same"


@pytest.mark.parametrize(("table", "code", "words"), [
    ("kept", 0, "No drop or truncation of kept, and no transaction that deleted 1 row or more of it, was found"),
    ("never_was", 2, "check the name"),
])
def test_nothing_found_is_only_a_success_where_it_is_proven(play: Play, table: str, code: int, words: str) -> None:
    done = play("-e", f"wal_search_table={table}")
    assert done.returncode == code, done.stdout + done.stderr
    assert words in " ".join(done.stdout.split())


def test_no_recovery_is_shown_to_what_may_be_outside_of_the_live_history(
    play: Play, shop: PostgresServer, tmp_path: Path
) -> None:
    """A86 ⚠: a recovery goes along the live timeline, and the archive has another one as well."""
    archive = tmp_path / "archive"
    shutil.copytree(shop.folder / "archive", archive)
    newest = max(path for path in archive.iterdir() if len(path.name) == 24)
    shutil.copyfile(newest, archive / f"00000002{newest.name[8:]}")
    done = play("-e", "wal_search_table=order_lines", "-e", f"wal_search_directory={archive}",
                "-e", "wal_search_live=false", "-e", "wal_search_timeline=1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "public.order_lines was dropped at " in done.stdout
    assert "Whether that is in the live history is unknown" in " ".join(done.stdout.split())
    assert "-e to=" not in done.stdout


def test_no_recovery_is_shown_to_what_the_live_cluster_has_left(play: Play, shop: PostgresServer) -> None:
    """A86 ⚠: after an undone recovery, what was done on its timeline is in no history that a recovery goes along."""
    with abandoned_timeline(shop), connect(shop.login.at("shop"), "tests") as connection:
        connection.execute("DROP TABLE kept")
        name = connection.execute("SELECT pg_walfile_name(pg_current_wal_lsn()) AS name").fetchone()["name"]
        connection.execute("SELECT pg_switch_wal()")
        assert machine.wait_for((shop.folder / "archive" / name).exists, 20)
    done = play("-e", "wal_search_table=kept", "-e", "wal_search_timeline=2")
    said = " ".join(done.stdout.split())
    assert "public.kept was dropped at " in said, done.stdout + done.stderr
    assert "It happened on timeline 2 at " in said
    assert "That is not in the live history, along which sre.runbooks.database_pitr recovers." in said
    assert "-e to=" not in said
