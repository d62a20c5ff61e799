# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The exchange of a live database, seen by a client that tries every millisecond, and the outage of a consumer."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg
from ansible_collections.sre.runbooks.plugins.module_utils.backup.swap import Swap, copy_name
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql import marker as markers
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import Login, connect
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.marker import Marker
from ansible_collections.sre.runbooks.plugins.module_utils.run.progress import Progress

from lab.data import fill
from lab.postgresql import PostgresServer
from lab.state import Lab
from tests.benchmarks.harness import REPOSITORY, Bench

LIVE, BACKUP = "orders", "20261121T021500Z-3fa9"
SESSIONS = 40
AT_MOST_S = 0.5
UNTIL = "2126-01-01T00:00:00Z"
SIZES = {"100 MB": 100 * 1000**2, "3 GB": 3 * 1000**3}
SETTINGS = {"max_connections": "100", "shared_buffers": "256MB", "max_wal_size": "8GB", "fsync": "on"}


@dataclass
class Client:
    """Connects as the application again and again from two threads, and knows the longest time without success."""

    login: Login

    def __post_init__(self) -> None:
        self.good: list[float] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._try) for _unused in range(2)]

    def __enter__(self) -> Client:
        for thread in self._threads:
            thread.start()
        while not self.good:
            time.sleep(0.01)
        return self

    def __exit__(self, *_unused: object) -> None:
        seen = len(self.good)
        while len(self.good) < seen + 4:
            time.sleep(0.01)
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _try(self) -> None:
        login = self.login
        while not self._stop.wait(0.001):
            with contextlib.suppress(psycopg.Error), psycopg.connect(
                host=login.host, port=login.port, user=login.user, password=login.password, dbname=login.database,
            ) as connection:
                connection.execute("SELECT 1")
                self.good.append(time.perf_counter())

    @property
    def away_s(self) -> float:
        """The longest time between two good answers."""
        good = sorted(self.good)
        return max(after - before for before, after in itertools.pairwise(good))


class Stage:
    """A server with a live database of one size, and a prepared copy of it."""

    def __init__(self, server: PostgresServer, size: int) -> None:
        self.admin = server.login
        self.application = replace(self.admin, user="application", password="for-the-bench", database=LIVE)
        self.run("CREATE ROLE application LOGIN PASSWORD 'for-the-bench'")
        self.run(f"CREATE DATABASE {LIVE}")
        fill(self.admin.at(LIVE), size)
        self.copy = copy_name(LIVE, BACKUP)
        self.run(f'CREATE DATABASE "{self.copy}" TEMPLATE {LIVE} STRATEGY file_copy CONNECTION LIMIT 0')
        self.prepare()

    def run(self, statement: str) -> None:
        with connect(self.admin, "bench") as connection:
            connection.execute(statement.encode())

    def prepare(self) -> None:
        """Make what the last exchange put aside the prepared copy of the next one."""
        swap = Swap(self.admin, LIVE, "bench", Progress())
        position = swap.position()
        if position.state == markers.OPENED:
            swap.finish()
        for kept in position.kept:
            swap.rename(kept.name, self.copy)
            swap.alter(self.copy, allows=True)
        found = next(iter((*position.kept, *position.copies)))
        swap.mark(replace(found, name=self.copy), Marker(markers.PREPARED, "bench", LIVE, BACKUP))
        swap.connection.execute("CHECKPOINT")
        swap.connection.close()

    def _smoke(self) -> None:
        connect(self.admin.at(LIVE), "smoke check").close()

    def exchange(self) -> float:
        """Seconds that the client could not get in, with sessions held."""
        login = self.application
        with contextlib.ExitStack() as stack:
            for _unused in range(SESSIONS):
                held = psycopg.connect(
                    host=login.host, port=login.port, user=login.user, password=login.password, dbname=LIVE
                )
                stack.callback(held.close)
            swap = Swap(self.admin, LIVE, "bench", Progress())
            with swap.alone(10), Client(login) as client:
                swap.swap_in(UNTIL, -1, self._smoke)
        return client.away_s


def bench_swap(bench: Bench) -> None:
    """Connections forbidden to allowed, at two sizes: the same, since only names change."""
    for words, size in SIZES.items():
        with PostgresServer(bench.folder / words.replace(" ", ""), settings=SETTINGS) as server:
            stage = Stage(server, size)
            bench.measure(
                f"exchange of {words}, {SESSIONS} sessions held, seen by a client that tries every millisecond",
                stage.exchange, at_most=AT_MOST_S, each=stage.prepare,
            )


def bench_service_outage(bench: Bench) -> None:
    """First failed to first good request of a service, while its database is restored by the playbook."""
    lab = Lab(f"bench-{os.getpid()}")
    try:
        lab.up("dbis_core", print)
        state = {**os.environ, "XDG_STATE_HOME": str(bench.folder / "state")}

        def play(name: str, *more: str) -> list[str]:
            program = str(Path(sys.executable).with_name("ansible-playbook"))
            return [program, *lab.inventory_arguments, f"playbooks/{name}.yml", "-e", "target=dbis-db", *more]

        subprocess.run(play("database_backup"), cwd=REPOSITORY, env=state, check=True, stdout=subprocess.DEVNULL)
        restore = subprocess.Popen(
            play("database_restore", "-e", "approve=dbis-db", "-e", "database_restore_least_rung=archive"),
            cwd=REPOSITORY, env=state, stdout=subprocess.DEVNULL,
        )
        failed: list[float] = []
        while restore.poll() is None:
            asked = time.perf_counter()
            if lab.ask("app")[0] != 200:
                failed.append(asked)
            time.sleep(0.01)
        if restore.returncode or not failed:
            raise SystemExit("The restore failed, or its consumer was never seen away.")
        bench.note("outage of the consumer during database_restore", failed[-1] - failed[0], unit="s")
    finally:
        lab.down(print)
