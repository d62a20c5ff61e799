# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the monitor learns of a real standby that follows a real primary."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import Login, connect

from lab import machine
from lab.postgresql import PostgresServer
from tests.integration.health.conftest import login_of

WAIT_S = 30.0
# Its own thresholds are 30 and 300 s, longer than a test should take.
LAG = {"measure": "replication_lag_seconds", "warning": 0.5, "critical": 3600}


@dataclass(frozen=True)
class Pair:
    """A primary, its standby, and who watches both."""

    primary: PostgresServer
    standby: PostgresServer
    monitor: Login

    def check(self, server: PostgresServer, *measures: str) -> dict[str, Any]:
        """A check of the lag, as an inventory has it."""
        return {"kind": "postgresql", "name": "monitor", "login": login_of(replace(self.monitor, port=server.port)),
                "measures": list(measures or ["replication_lag_seconds"]), "thresholds": [LAG]}


def run(server: PostgresServer, statement: str) -> None:
    with connect(server.login, "tests") as connection:
        connection.execute(statement.encode())


@pytest.fixture(scope="module")
def pair(server_folder: Path) -> Iterator[Pair]:
    """A standby made by pg_basebackup -R, which replays."""
    settings = {"fsync": "off", "shared_buffers": "16MB", "wal_receiver_status_interval": "1s",
                "wal_retrieve_retry_interval": "200ms"}
    with PostgresServer(server_folder / "primary-postgresql", settings=settings) as primary:
        run(primary, "create role watcher login password 'watcher'; grant pg_monitor to watcher;"
                     " create table loaves (n int)")
        user = machine.unprivileged_user()
        standby = PostgresServer(server_folder / "standby-postgresql", settings=settings)
        machine.make_folder(standby.folder, None, 0o711 if user else 0o700)
        machine.make_folder(standby.data_directory, user)
        machine.write_private(standby.folder / "password", primary.login.password)
        subprocess.run(
            [str(primary.bin_directory / "pg_basebackup"), "--pgdata", str(standby.data_directory),
             "--write-recovery-conf", "--checkpoint=fast", "--no-sync", "--dbname",
             f"host=127.0.0.1 port={primary.port} user=postgres application_name=kitchen"],
            check=True, capture_output=True, cwd="/", timeout=60, env={"PGPASSWORD": primary.login.password},
            **machine.popen_as(user),
        )
        with standby:
            yield Pair(primary, standby, replace(primary.login, user="watcher", password="watcher"))


@pytest.fixture
def lag_until(probe: Callable[..., Any], pair: Pair) -> Callable[..., dict[str, Any]]:
    """Looks at a server until its lag is as wanted; the last look."""

    def look(server: PostgresServer, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        seen: dict[str, Any] = {}

        def is_there() -> bool:
            seen.update(probe(pair.check(server))["monitor.replication_lag_seconds"])
            return wanted(seen)

        assert machine.wait_for(is_there, WAIT_S), seen
        return seen

    return look


def is_ok(check: dict[str, Any]) -> bool:
    return check["status"] == "ok"


def is_warning(check: dict[str, Any]) -> bool:
    return check["status"] == "warning"


def test_a_standby_that_keeps_up_is_well_seen_from_both_sides(pair: Pair, lag_until):
    """B5: replication lag, where it applies."""
    run(pair.primary, "insert into loaves select generate_series(1, 1000)")
    check = lag_until(pair.primary, is_ok)
    assert (check["unit"], check["warning"]) == ("s", 0.5)
    assert 0 <= check["value"] <= 0.5
    assert [(one["name"], one["state"]) for one in check["evidence"]["standbys"]] == [("kitchen", "streaming")]
    check = lag_until(pair.standby, is_ok)
    assert check["evidence"]["streaming"] is True
    assert "receives from its primary" in check["message"]


def test_a_standby_that_does_not_replay_is_behind_by_a_value(pair: Pair, lag_until):
    """B5: what was written and not replayed counts from when it was written, on both sides."""
    run(pair.standby, "select pg_wal_replay_pause()")
    try:
        run(pair.primary, "insert into loaves select generate_series(1, 50000)")
        check = lag_until(pair.primary, is_warning)
        assert check["value"] > 0.5
        assert check["evidence"]["standbys"][0]["bytes_behind"] > 1_000_000
        assert "kitchen" in check["message"]
        assert lag_until(pair.standby, is_warning)["value"] > 0.5
    finally:
        run(pair.standby, "select pg_wal_replay_resume()")
    assert lag_until(pair.primary, is_ok)["evidence"]["standbys"][0]["bytes_behind"] == 0
    lag_until(pair.standby, is_ok)


def test_a_standby_that_is_gone_is_found_where_the_inventory_names_the_measure(pair: Pair, probe, lag_until):
    """B5: `all` takes a server without standbys for one that has none; a named measure is never left out."""
    pair.standby.stop()
    try:
        gone = lag_until(pair.primary, lambda check: check["status"] == "unknown")
        assert gone["message"] == "no standby is connected."
        named = probe(pair.check(pair.primary, "all", "replication_lag_seconds"))
        assert named["monitor.replication_lag_seconds"]["status"] == "unknown"
        silent = probe(pair.check(pair.primary, "all"))
        assert "monitor.replication_lag_seconds" not in silent
        assert any("no standby is connected" in line for line in silent.not_measured)
    finally:
        pair.standby.start()
    lag_until(pair.primary, is_ok)


def test_a_standby_that_lost_its_primary_falls_behind_and_says_so(pair: Pair, lag_until):
    """B5: the lag counts from the last transaction that came, and the connection is named."""
    run(pair.primary, "insert into loaves values (1)")
    lag_until(pair.standby, is_ok)
    pair.primary.stop()
    try:
        check = lag_until(pair.standby, is_warning)
        assert "has no connection to its primary" in check["message"]
        assert check["evidence"]["streaming"] is False
    finally:
        pair.primary.start()
    lag_until(pair.standby, is_ok)
