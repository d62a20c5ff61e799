# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Clusters with an archive, for tests that recover them.

| fixture | scope | what |
|---|---|---|
| `archived` | function | a started `lab.pgbackrest.PgBackRestServer`: one base backup, rows before and after a moment |
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import connect

from lab.pgbackrest import STANZA, PgBackRestServer, has_pgbackrest
from tests.integration.backup.conftest import as_arguments, call_module, start_module

__all__ = ["call_module", "start_module"]


@dataclass(frozen=True)
class Archived:
    """A cluster whose orders 1 to 100 were there at `moment`, and of which 90 were dropped after it."""

    server: PgBackRestServer
    moment: str
    call_module: Callable[..., dict[str, Any]]
    start_module: Callable[..., subprocess.Popen[str]]

    def arguments(self, state: str, **more: Any) -> dict[str, Any]:
        """For pg_pitr."""
        found = {
            "login": as_arguments(self.server.login), "data_directory": str(self.server.data_directory),
            "config": str(self.server.config), "stanza": STANZA, "run": "r1", "state": state, "target": self.moment,
            "control": self.server.control, "postgresql_bin_directory": str(self.server.bin_directory),
        }
        return {**found, **more}

    def reach(self, state: str, check_mode: bool = False, **more: Any) -> dict[str, Any]:
        """pg_pitr, to its end."""
        return self.call_module("pg_pitr", self.arguments(state, **more), check_mode)

    def done(self, state: str, **more: Any) -> dict[str, Any]:
        """The same, which must not fail."""
        result = self.reach(state, **more)
        assert not result.get("failed"), result["msg"]
        return result

    def info(self) -> dict[str, Any]:
        """pg_pitr_info."""
        arguments = self.arguments("restored")
        for name in ("run", "state", "target", "control"):
            del arguments[name]
        return self.call_module("pg_pitr_info", arguments)

    def run(self, statement: str) -> Any:
        """The first value of one statement in the live cluster."""
        with connect(self.server.login, "tests") as connection:
            cursor = connection.execute(statement.encode())
            row = cursor.fetchone() if cursor.description else None
        return next(iter(row.values())) if row else None

    def orders(self) -> int:
        """How many there are live."""
        return self.run("SELECT count(*) FROM orders")

    @property
    def beside(self) -> list[str]:
        """What stands beside the data directory, but the position's folder."""
        names = (path.name for path in self.server.folder.glob("data.*"))
        return sorted(name.split("-")[0] for name in names if name != "data.pitr")


def make_archived(folder: Path, call: Callable[..., Any], start: Callable[..., Any], **more: Any) -> Archived:
    """A new one, up."""
    server = PgBackRestServer(folder, **more).start()
    server.backup()
    found = Archived(server, "", call, start)
    found.run("CREATE TABLE orders (id int PRIMARY KEY, at timestamptz DEFAULT clock_timestamp())")
    found.run("INSERT INTO orders SELECT generate_series(1, 100)")
    # The time of a backup is known to the second.
    found.run("SELECT pg_sleep(1.1)")
    moment = found.run("SELECT clock_timestamp()").isoformat()
    found.run("DELETE FROM orders WHERE id > 10")
    return Archived(server, moment, call, start)


@pytest.fixture
def archived(
    server_folder: Path, request: pytest.FixtureRequest, call_module: Callable[..., Any],
    start_module: Callable[..., Any],
) -> Iterator[Archived]:
    """One for this test alone; each takes about five seconds to make."""
    assert has_pgbackrest(), "pgBackRest is missing; run: make older-server, or apt-get install pgbackrest postgresql"
    folder = server_folder / f"pitr-{abs(hash(request.node.name)) % 10**8}"
    try:
        yield make_archived(folder, call_module, start_module)
    finally:
        PgBackRestServer(folder).end_all()
        shutil.rmtree(folder, ignore_errors=True)
