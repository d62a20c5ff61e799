# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""pg_backup and pg_backup_verify against the client programs alone, on 1.5 GB of mixed data in eight tables."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ansible_collections.sre.runbooks.plugins.module_utils.backup.folder import TargetFolder
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import connect

from lab.data import fill
from lab.postgresql import PostgresServer
from tests.benchmarks.harness import REPOSITORY, Bench

DATABASE = "mixed"
BYTES = 1500 * 1000 * 1000
JOBS = 2
PEAK_POLL_S = 0.02


class Platform:
    """A filled server, a store (`place` is what the modules are told of it), and the ways to dump and restore."""

    def __init__(self, server: PostgresServer, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.store = folder / "store"
        self.store.mkdir()
        self.place: dict[str, Any] = {"store_path": str(self.store)}
        self.environment = {**os.environ, **server.login.at(DATABASE).environment()}

    def arguments(self, **more: Any) -> dict[str, Any]:
        login = self.server.login
        return {
            "login": {"host": login.host, "port": login.port, "user": login.user, "password": login.password,
                      "sslmode": "disable"},
            "system": "bench", "target": "mixed-db", "jobs": JOBS,
            "postgresql_bin_directory": str(self.server.bin_directory), **self.place, **more,
        }

    def module(self, name: str, **arguments: Any) -> float:
        """Run a module as Ansible does with pipelining; returns its peak memory in MiB."""
        child = subprocess.Popen(
            [sys.executable, "-m", f"ansible_collections.sre.runbooks.plugins.modules.{name}"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY / ".ansible" / "collections")},
        )
        child.stdin.write(json.dumps({"ANSIBLE_MODULE_ARGS": self.arguments(**arguments)}))
        child.stdin.close()
        peak = 0.0
        while child.poll() is None:
            peak = max(peak, peak_mib(child.pid))
            time.sleep(PEAK_POLL_S)
        result = json.loads(child.stdout.read())
        if result.get("failed") or result.get("verdict", {}).get("verdict", "good") != "good":
            raise SystemExit(json.dumps(result, indent=1))
        return peak

    def backup(self) -> None:
        self.module("pg_backup", database=DATABASE)

    def verify(self) -> None:
        self.verify_for_peak()

    def verify_for_peak(self) -> float:
        """Up to content, on the database's own server; peak memory in MiB."""
        return self.module("pg_backup_verify", rung="content", free_bytes=shutil.disk_usage(self.store).free)

    def tool(self, program: str, *arguments: str) -> list[str]:
        return [str(self.server.bin_directory / program), *arguments]

    def dump_directory(self) -> None:
        target = f"--file={self.folder / 'raw'}"
        argv = self.tool("pg_dump", "-Fd", f"-j{JOBS}", "--compress=gzip:1", target)
        subprocess.run(argv, env=self.environment, check=True)

    def dump_gzip(self) -> None:
        """The way of D14 and D23: one stream through gzip."""
        with (self.folder / "raw.sql.gz").open("wb") as stream:
            dump = subprocess.Popen(self.tool("pg_dump"), env=self.environment, stdout=subprocess.PIPE)
            subprocess.run([shutil.which("gzip") or "gzip"], stdin=dump.stdout, stdout=stream, check=True)
            dump.stdout.close()
            if dump.wait():
                raise SystemExit("pg_dump failed")

    def restore(self) -> float:
        """pg_restore alone, without the making and dropping of its database; seconds."""
        newest = TargetFolder(self.store, "bench", "mixed-db").backups()[-1]
        with connect(self.server.login, "bench") as connection:
            connection.execute("CREATE DATABASE raw_restored TEMPLATE template0")
            started = time.perf_counter()
            argv = self.tool("pg_restore", f"-j{JOBS}", "--exit-on-error", "--dbname=raw_restored",
                             f"{newest.place}/data")
            subprocess.run(argv, env=self.environment, check=True)
            taken = time.perf_counter() - started
            connection.execute("DROP DATABASE raw_restored")
        return taken

    def clean(self, keep: int = 0) -> None:
        """Take away what was dumped before, and let the server write out what it has to."""
        shutil.rmtree(self.folder / "raw", ignore_errors=True)
        (self.folder / "raw.sql.gz").unlink(missing_ok=True)
        backups = TargetFolder(self.store, "bench", "mixed-db").backups()
        for backup in backups[: len(backups) - keep]:
            shutil.rmtree(backup.place)
        with connect(self.server.login, "bench") as connection:
            connection.execute("CHECKPOINT")


def peak_mib(pid: int) -> float:
    """The most memory that a process has had so far."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return 0.0


@contextlib.contextmanager
def platform(bench: Bench) -> Iterator[Platform]:
    settings = {"max_wal_size": "4GB", "shared_buffers": "256MB"}
    with PostgresServer(bench.folder / "source", settings=settings) as server:
        with connect(server.login, "bench") as connection:
            connection.execute(f"CREATE DATABASE {DATABASE}")
        fill(server.login.at(DATABASE), BYTES)
        yield Platform(server, bench.folder)


def bench_backup(bench: Bench) -> None:
    """A backup with counts and manifest, against a dump without; then the proof against a bare restore."""
    with platform(bench) as its:
        its.backup()
        bench.measure("peak memory of pg_backup_verify", its.verify_for_peak, unit="MiB", at_most=150, runs=1)
        bench.compare("pg_backup_verify up to content, against pg_restore -j2", its.verify, its.restore, at_most=1.5,
                      each=lambda: its.clean(keep=1))
        bench.compare("pg_backup, against pg_dump -Fd -j2 with the same compression", its.backup, its.dump_directory,
                      at_most=1.25, each=its.clean)
        bench.compare("pg_backup, against pg_dump | gzip", its.backup, its.dump_gzip, at_least=2, each=its.clean)
        its.clean()
        bench.measure("peak memory of pg_backup", lambda: its.module("pg_backup", database=DATABASE), unit="MiB",
                      at_most=150, runs=1)
