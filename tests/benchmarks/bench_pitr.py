# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A cluster recovered beside the live one by the module's code, against pgBackRest and PostgreSQL alone."""

from __future__ import annotations

import shlex
import subprocess
import time
from pathlib import Path

from ansible_collections.sre.runbooks.plugins.module_utils.pitr.recovery import RESTORED, UNDONE, Recovery
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.workplace import Request
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import connect
from ansible_collections.sre.runbooks.plugins.module_utils.run.files import remove_folder
from ansible_collections.sre.runbooks.plugins.module_utils.run.progress import Progress

from lab import machine
from lab.data import fill
from lab.pgbackrest import STANZA, PgBackRestServer
from lab.postgresql import ENVIRONMENT
from tests.benchmarks.harness import Bench

SIZE = 1500 * 1000**2
AT_MOST = 1.15
PROCESSES = 2
WAIT_S = 300.0


def bench_recovery_beside(bench: Bench) -> None:
    """From the base backup to the pause at the target, of a cluster of 1.5 GB with some WAL to replay."""
    server = PgBackRestServer(bench.folder / "pitr").start()
    try:
        fill(server.login, SIZE)
        server.backup()
        with connect(server.login, "bench") as connection:
            connection.execute("CREATE TABLE replayed AS SELECT n, md5(n::text) FROM generate_series(1, 500000) AS n")
            connection.execute("SELECT pg_sleep(1.1)")
            moment = connection.execute("SELECT clock_timestamp() AS at").fetchone()["at"].isoformat(sep=" ")
            connection.execute("DROP TABLE replayed")
        bench.compare(
            "recovery beside the live cluster, 1.5 GB", lambda: _ours(server, moment), lambda: _raw(server, moment),
            at_most=AT_MOST, runs=3,
        )
    finally:
        server.end_all()


def _ours(server: PgBackRestServer, moment: str) -> float:
    request = Request(
        server.login, server.data_directory, server.config, STANZA, "bench", target=moment, processes=PROCESSES,
        bin_directory=str(server.bin_directory),
    )
    started = time.perf_counter()
    Recovery(request, Progress(), check=False).reach(RESTORED)
    taken = time.perf_counter() - started
    Recovery(request, Progress(), check=False).reach(UNDONE)
    return taken


def _raw(server: PgBackRestServer, moment: str) -> float:
    # By this name it is ended with the others, should this fail.
    data, log = server.folder / "data.raw", server.folder / "own" / "raw.log"
    machine.make_folder(data, machine.unprivileged_user())
    log.unlink(missing_ok=True)
    options = shlex.join([
        "-c", f"port={machine.free_port()}", "-c", "listen_addresses=", "-c", "archive_mode=off",
        "-c", f"unix_socket_directories={server.folder / 'own'}",
    ])
    started = time.perf_counter()
    server.pgbackrest(
        "restore", f"--pg1-path={data}", "--type=time", f"--target={moment}", "--target-timeline=1",
        "--archive-mode=off", f"--process-max={PROCESSES}",
    )
    subprocess.run(
        [str(server.bin_directory / "pg_ctl"), "-D", str(data), "-l", str(log), "-W", "-s", "-o", options, "start"],
        check=True, cwd="/", env=ENVIRONMENT, **machine.popen_as(machine.unprivileged_user()),
    )
    if not machine.wait_for(lambda: _paused(log), WAIT_S):
        raise SystemExit(f"PostgreSQL alone did not reach the target: {log}")
    taken = time.perf_counter() - started
    server.end_all(data.name)
    remove_folder(data)
    return taken


def _paused(log: Path) -> bool:
    return log.exists() and "pausing at the end of recovery" in log.read_text(encoding="utf-8", errors="replace")
