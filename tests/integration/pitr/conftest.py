# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Clusters with an archive, for tests that recover them.

| fixture | scope | what |
|---|---|---|
| `cluster` | module | an `Archived`: a server with an archive and one base backup; for root, on a small disk |
| `archived` | function | the same, with an accident of this test's own; afterwards it is as it was before |
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import Login, connect

from lab.pgbackrest import STANZA, PgBackRestServer, has_pgbackrest
from tests.disks import mounted
from tests.integration.backup.conftest import as_arguments, call_module, start_module

__all__ = ["call_module", "start_module"]

# Enough for a few clusters, little enough to be filled.
DISK = "768m"
LABEL = re.compile(r"new backup label = (\S+)")


class SmallSegments(PgBackRestServer):
    """A server whose WAL needs little room and little time; the scenarios have the usual segments."""

    LOCALE: ClassVar[tuple[str, ...]] = (*PgBackRestServer.LOCALE, "--wal-segsize", "1")

    def __init__(self, folder: Path, repository: dict[str, str] | None = None) -> None:
        # As few backups as a repository can keep: none that a recovery needs may go.
        repository = {"repo1-path": str(folder / "repository"), "repo1-retention-full": "1", **(repository or {})}
        super().__init__(folder, repository=repository)
        self.settings |= {"max_wal_size": "64MB", "min_wal_size": "16MB"}


class Archived:
    """A cluster whose orders 1 to 100 were there at `moment`, and of which 90 were dropped after it."""

    def __init__(self, server: PgBackRestServer, call: Callable[..., Any], start: Callable[..., Any]) -> None:
        self.server, self.call_module, self.start_module = server, call, start
        self.base = self.moment = ""
        # The moment, by each kind of target.
        self.targets: dict[str, dict[str, Any]] = {}

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.server.data_directory

    def lose(self) -> str:
        """All orders are there; then most of them are dropped, by an accident. The moment between the two."""
        self.run("INSERT INTO orders SELECT generate_series(1, 100) ON CONFLICT DO NOTHING")
        self.moment = self.now()
        name = f"before {self.moment}"
        place = self.run(f"SELECT pg_create_restore_point('{name}')::text")
        accident = self.run(
            "WITH gone AS (DELETE FROM orders WHERE id > 10 RETURNING 1) SELECT pg_current_xact_id()::text FROM gone"
        )
        self.targets = {
            "time": {"target": self.moment}, "lsn": {"target": place, "backup": self.base},
            "name": {"target": name, "backup": self.base},
            "transaction": {"target": accident, "backup": self.base, "exclusive": True},
        }
        return self.moment

    def arguments(self, state: str, **more: Any) -> dict[str, Any]:
        """For pg_pitr."""
        found = {
            "login": as_arguments(self.server.login), "data_directory": str(self.data),
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

    def info(self, **more: Any) -> dict[str, Any]:
        """pg_pitr_info."""
        arguments = self.arguments("restored", **more)
        for name in ("run", "state", "target", "control"):
            del arguments[name]
        return self.call_module("pg_pitr_info", arguments)

    def run(self, statement: str) -> Any:
        """The first value of one statement in the live cluster."""
        with connect(self.server.login, "tests") as connection:
            cursor = connection.execute(statement.encode())
            row = cursor.fetchone() if cursor.description else None
        return next(iter(row.values())) if row else None

    def now(self) -> str:
        """The server's time."""
        return self.run("SELECT clock_timestamp()").isoformat()

    def orders(self) -> int:
        """How many there are live."""
        return self.run("SELECT count(*) FROM orders")

    @property
    def beside(self) -> list[str]:
        """What stands beside the data directory, but the position's folder."""
        names = (path.name for path in self.server.folder.glob("data.*"))
        return sorted(name.split("-")[0] for name in names if name != "data.pitr")

    def beside_orders(self, restored: dict[str, Any]) -> int:
        """How many there are in the restored cluster that stands beside."""
        with connect(self.login_beside(restored), "tests") as connection:
            return connection.execute("SELECT count(*) AS n FROM orders").fetchone()["n"]

    @staticmethod
    def login_beside(restored: dict[str, Any]) -> Login:
        """Into the restored cluster that stands beside."""
        return Login(restored["reached"]["socket"], restored["reached"]["port"], "postgres", "", "postgres", "disable")

    def archive(self) -> str:
        """Have everything that was written until now in the archive; the segment that holds its end."""
        name = self.run("SELECT pg_walfile_name(pg_current_wal_lsn())")
        self.server.pgbackrest("check")
        return name

    @contextlib.contextmanager
    def without(self, name: str) -> Iterator[str]:
        """A segment of the archive is not there."""
        [path] = (self.server.folder / "repository" / "archive" / STANZA).rglob(f"{name}-*")
        away = self.server.folder / path.name
        path.rename(away)
        try:
            yield name
        finally:
            away.rename(path)

    def settle(self) -> None:
        """The first cluster is live, and nothing stands beside it."""
        self.done("undone", losses_agreed=True)
        for path in self.server.folder.glob("data.*-*"):
            shutil.rmtree(path)
        if self.server.pid is None:
            # A killed one that nobody has reaped yet is taken for a living one by the next.
            for left in (self.data / "postmaster.pid", *self.server.socket_directory.glob(".s.*.lock")):
                left.unlink(missing_ok=True)
            self.server.start()
        assert self.beside == []


def make_archived(folder: Path, call: Callable[..., Any], start: Callable[..., Any], **more: Any) -> Archived:
    """A new one, up."""
    assert has_pgbackrest(), "pgBackRest is missing; run: make older-server, or apt-get install pgbackrest postgresql"
    found = Archived(SmallSegments(folder, **more).start(), call, start)
    found.base = LABEL.search(found.server.backup())[1]
    found.run("CREATE TABLE orders (id int PRIMARY KEY, at timestamptz DEFAULT clock_timestamp())")
    # The time of a backup is known to the second.
    found.run("SELECT pg_sleep(1.1)")
    return found


@contextlib.contextmanager
def archive_disk(folder: Path) -> Iterator[Path]:
    """A folder for a cluster, for root on a disk of its own. The path of a socket has to be short."""
    folder.mkdir(mode=0o711)
    try:
        with mounted(folder, DISK, "0711") if os.geteuid() == 0 else contextlib.nullcontext():
            yield folder / "cluster"
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def cluster(
    server_folder: Path, call_module: Callable[..., Any], start_module: Callable[..., Any]
) -> Iterator[Archived]:
    """One for all tests of a file, each of which leaves it as it was."""
    with archive_disk(server_folder / "pitr") as folder:
        try:
            yield make_archived(folder, call_module, start_module)
        finally:
            PgBackRestServer(folder).end_all()


@pytest.fixture
def archived(cluster: Archived) -> Iterator[Archived]:
    """With an accident of its own."""
    cluster.lose()
    yield cluster
    cluster.settle()
