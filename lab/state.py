# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One lab on this machine: its folder, its ports, its processes; up, down and status."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import Login, connect, identifier
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from psycopg import sql

from lab import COMMAND, REPOSITORY, machine, overlay
from lab.pgbackrest import PgBackRestServer, has_pgbackrest
from lab.postgresql import PostgresServer, bin_directory, has_extension
from lab.redis import RedisServer
from lab.system import System, known_systems

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
LINKS = REPOSITORY / ".lab"
RUNS = REPOSITORY / "build" / "runs"
# Starting costs processor time: more at once than this makes nothing faster on a small machine.
WORKERS = max(2, min(4, os.cpu_count() or 2))
SILENCE_S = 3.0
SERVICE_START_S = 60.0
SERVICE_STOP_S = 8.0
SETTINGS = {
    "shared_preload_libraries": "pg_stat_statements", "max_connections": "100", "shared_buffers": "32MB",
    "fsync": "off", "max_wal_size": "2GB", "track_io_timing": "on", "log_min_messages": "warning",
}
Report = Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """One line of `status`."""

    host: str
    kind: str
    port: int
    pid: int | None
    state: str
    detail: str = ""


def labs_folder() -> Path:
    """Where the labs of this user are."""
    folder = machine.state_root() / "labs"
    folder.mkdir(mode=0o711, exist_ok=True)
    return folder


def lab_names() -> list[str]:
    """The labs that are up, or half up."""
    return sorted(folder.name for folder in labs_folder().iterdir())


class Lab:
    """One lab.

    Args:
        name: of the lab, by default the system's own name.

    Raises:
        RunbookError: the name is none for a folder.
    """

    def __init__(self, name: str) -> None:
        if not NAME.fullmatch(name):
            raise RunbookError(
                f"{name!r} is no name for a lab.", "Use up to 40 small letters, digits, dashes and underscores."
            )
        self.name = name
        self.folder = labs_folder() / name
        self.link = LINKS / name
        self.runs = RUNS / name
        self._record = self.folder / "lab.json"

    @property
    def exists(self) -> bool:
        """Whether something of this lab is there, if only half of it."""
        return self.folder.exists()

    @property
    def record(self) -> dict[str, Any]:
        """System and ports.

        Raises:
            RunbookError: there is no such lab.
        """
        try:
            return json.loads(self._record.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise RunbookError(
                f"There is no lab {self.name}.", f"Start it: {COMMAND} up {self._up_words()}."
            ) from error

    def _up_words(self) -> str:
        return self.name if self.name in known_systems() else f"<system> --name {self.name}"

    @property
    def system(self) -> System:
        """The system that it stands in for."""
        return System.load(self.record["system"])

    @property
    def inventory_arguments(self) -> list[str]:
        """What a playbook is started with to work on this lab, seen from the repository."""
        return ["-i", f"inventories/{self.record['system']}/hosts.yml", "-i", f".lab/{self.name}/overlay.yml"]

    def port(self, host: str) -> int:
        """The port of a database, cache, scratch server or service."""
        return int(self.record["ports"][host])

    @property
    def archived(self) -> list[str]:
        """The databases whose clusters archive their WAL, so that they can be recovered to a point in time."""
        return self.record.get("archived", [])

    def server(self, host: str) -> PostgresServer:
        """The PostgreSQL server of a database or for drills."""
        if host in self.archived:
            return self.archived_server(host)
        return PostgresServer(self.folder / "servers" / host, self.port(host), SETTINGS)

    def archived_server(self, host: str) -> PgBackRestServer:
        """The server of a database whose WAL is archived."""
        return PgBackRestServer(self.folder / "servers" / host, self.port(host), settings=SETTINGS)

    def cache(self, host: str) -> RedisServer:
        """A Redis server."""
        return RedisServer(self.folder / "servers" / host, self.port(host))

    def service_folder(self, host: str) -> Path:
        """Configuration, faults, process id and log of a service."""
        return self.folder / "services" / host

    def secret_file(self, host: str, role: str) -> Path:
        """The file of one password."""
        return self.folder / "secrets" / host / role

    def login(self, database: str, role: str = "admin") -> Login:
        """The login of a database's application, monitor or admin, on that database."""
        variables = self.system.hosts["databases"][database]
        user = {"application": variables["database_owner"], "monitor": "monitor", "admin": "postgres"}[role]
        password = self.secret_file(database, role).read_text(encoding="utf-8")
        return Login("127.0.0.1", self.port(database), user, password, variables["database_name"], "disable")

    def url(self, service: str) -> str:
        """Where a service answers."""
        return f"http://127.0.0.1:{self.port(service)}"

    # -- up -----------------------------------------------------------------------------------------------------------

    def up(self, system_name: str, report: Report, archived: Sequence[str] = ()) -> None:
        """Start what does not run yet, and write the overlay.

        Args:
            system_name: what the lab stands in for.
            report: takes a line for each thing that is ready.
            archived: databases whose clusters pgBackRest archives, each with a base backup; Debian's PostgreSQL. A lab
                that is there keeps those that it was made with.

        Raises:
            RunbookError: a part did not start; what did start goes on, `down` ends it.
        """
        system = System.load(system_name)
        _require_archivable(system, archived)
        self._claim(system, archived)
        self._make_link()
        servers = [*system.hosts["databases"], *system.scratch_servers]
        caches = list(system.hosts.get("caches", {}))
        for store in system.hosts["stores"]:
            (self.folder / "stores" / store).mkdir(parents=True, mode=0o700, exist_ok=True)
        bin_directory()  # once, before several threads want it
        launched: dict[str, subprocess.Popen[bytes] | None] = {}
        with ThreadPoolExecutor(WORKERS) as pool:
            for host in caches:
                self._start_cache(host)
            waiting = {pool.submit(self._start_server, system, host): host for host in servers}
            for number, host in enumerate(_each_done(waiting, report, "PostgreSQL servers"), 1):
                drills = ", for drills," if host in system.scratch_servers else ""
                report(f"{host}{drills} is ready ({number} of {len(servers)} PostgreSQL servers)")
                for service, variables in system.hosts["services"].items():
                    if variables.get("service_database") == host:
                        launched[service] = self._launch_service(system, service)
            for service in system.hosts["services"]:
                if service not in launched:
                    launched[service] = self._launch_service(system, service)
            overlay.write(self)
            waiting = {pool.submit(self.await_service, host, child): host for host, child in launched.items()}
            for number, host in enumerate(_each_done(waiting, report, "services"), 1):
                if number % 6 == 0 or number == len(launched):
                    report(f"{host} answers ({number} of {len(launched)} services)")

    def _claim(self, system: System, archived: Sequence[str]) -> None:
        """Make the folder and give every listener a port that no other lab has."""
        if self.exists and self._record.exists():
            if self.record["system"] != system.name:
                raise RunbookError(
                    f"The lab {self.name} stands in for {self.record['system']}, not for {system.name}.",
                    f"Take it down first, or choose another name: {COMMAND} up {system.name} --name …",
                )
            if set(archived) - set(self.archived):
                raise RunbookError(
                    f"The lab {self.name} was made without an archive for {', '.join(archived)}.",
                    f"Take it down first, or choose another name: {COMMAND} up {system.name} --name …",
                )
            return
        with open(machine.state_root() / "labs.lock", "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            taken = {port for name in lab_names() if name != self.name for port in Lab(name)._ports()}
            ports: dict[str, int] = {}
            for host in system.listeners:
                while (port := machine.free_port()) in taken:
                    pass
                ports[host] = port
            self.folder.mkdir(mode=0o711, exist_ok=True)
            for private in ("secrets", "services", "stores", "locks"):
                (self.folder / private).mkdir(mode=0o700, exist_ok=True)
            (self.folder / "servers").mkdir(mode=0o711, exist_ok=True)
            making = self._record.with_suffix(".partial")
            record = {"system": system.name, "ports": ports, "archived": list(archived)}
            making.write_text(json.dumps(record, indent=2), encoding="utf-8")
            making.replace(self._record)

    def _make_link(self) -> None:
        """Show the lab in this clone: another one may have started it, or `git clean` taken the link away."""
        LINKS.mkdir(exist_ok=True)
        self.link.unlink(missing_ok=True)
        self.link.symlink_to(self.folder)

    def _ports(self) -> Iterable[int]:
        return self.record["ports"].values() if self._record.exists() else []

    def _secret(self, host: str, role: str, value: str | None = None) -> str:
        file = self.secret_file(host, role)
        if not file.exists():
            file.parent.mkdir(mode=0o700, exist_ok=True)
            machine.write_private(file, value or machine.random_password())
        return file.read_text(encoding="utf-8")

    def _start_cache(self, host: str) -> None:
        self._secret(host, "application", self.cache(host).start().password)

    def _start_server(self, system: System, host: str) -> None:
        server = self.server(host).start()
        self._secret(host, "admin", server.login.password)
        if host in system.hosts["databases"]:
            self._make_database(system, host, server)
        if isinstance(server, PgBackRestServer) and not server.has_backup:
            server.backup()

    def _make_database(self, system: System, host: str, server: PostgresServer) -> None:
        variables = system.hosts["databases"][host]
        name, owner = variables["database_name"], variables["database_owner"]
        with connect(server.login, "lab") as connection:
            there = connection.execute("SELECT FROM pg_database WHERE datname = %s", [name]).fetchone()
            if there is not None:
                return
            for role, file in ((owner, "application"), ("monitor", "monitor")):
                secret = connection.pgconn.encrypt_password(
                    self._secret(host, file).encode(), role.encode(), b"scram-sha-256"
                )
                if connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [role]).fetchone() is None:
                    connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(
                        identifier(role), sql.Literal(secret.decode())
                    ))
            connection.execute("GRANT pg_monitor TO monitor")
            making = identifier(f"{name}__new")
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(making))
            connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(making, identifier(owner)))
            with connect(server.login.at(f"{name}__new"), "lab", autocommit=False) as inside:
                for extension in filter(has_extension, variables["database_extensions"]):
                    inside.execute(sql.SQL("CREATE EXTENSION {}").format(identifier(extension)))
                inside.execute(sql.SQL("SET LOCAL ROLE {}").format(identifier(owner)))
                inside.execute(system.schema(host))
            connection.execute(sql.SQL("COMMENT ON DATABASE {} IS {}").format(
                making, sql.Literal(f"{host} of {system.name}; its owner is {owner}")
            ))
            connection.execute(sql.SQL("REVOKE CONNECT ON DATABASE {} FROM PUBLIC").format(making))
            connection.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO monitor").format(making))
            connection.execute(sql.SQL("ALTER DATABASE {} SET lock_timeout = '30s'").format(making))
            connection.execute(sql.SQL("ALTER ROLE {} IN DATABASE {} SET search_path = public").format(
                identifier(owner), making
            ))
            # The name comes last: a start that was killed half-way begins again at this server.
            connection.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(making, identifier(name)))

    def service_command(self, host: str) -> list[str]:
        """The program and arguments of a service; never a secret among them."""
        return [sys.executable, str(REPOSITORY / "lab" / "service.py"), str(self.service_folder(host) / "config.json")]

    def _launch_service(self, system: System, host: str) -> subprocess.Popen[bytes] | None:
        folder = self.service_folder(host)
        folder.mkdir(mode=0o700, exist_ok=True)
        if self.service_pid(host):
            return None
        (folder / "config.json").write_text(json.dumps(self._service_config(system, host), indent=2), encoding="utf-8")
        if not (folder / "control.json").exists():
            (folder / "control.json").write_text("{}", encoding="utf-8")
        return self.start_service(host)

    def start_service(self, host: str) -> subprocess.Popen[bytes]:
        """Start the program of a service."""
        with open(self.service_folder(host) / "service.log", "ab") as log:
            return subprocess.Popen(
                self.service_command(host), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=REPOSITORY,
                start_new_session=True,
            )

    def _service_config(self, system: System, host: str) -> dict[str, Any]:
        folder = self.service_folder(host)
        variables = system.hosts["services"][host]
        config: dict[str, Any] = {
            "service": host, "version": system.version, "shape": system.lab["shape"], "host": "127.0.0.1",
            "port": self.port(host), "path": system.path_of(host), "pid_file": str(folder / "pid"),
            "control_file": str(folder / "control.json"), "pool": system.pool,
        }
        database = variables.get("service_database")
        if database:
            about = system.hosts["databases"][database]
            table = system.lab["tables"][database]["table"]
            config["database"] = {
                "host": "127.0.0.1", "port": self.port(database), "name": about["database_name"],
                "user": about["database_owner"], "password_file": str(self.secret_file(database, "application")),
                "write": system.write_statement(database), "newest": about["database_newest_row_query"],
                "recent": f"SELECT count(*) FROM {table} "  # noqa: S608 - names are our own
                          "WHERE created_at > now() - interval '1 minute'",
            }
        for cache in variables.get("service_caches", [])[:1]:
            config["cache"] = {
                "host": "127.0.0.1", "port": self.port(cache),
                "password_file": str(self.secret_file(cache, "application")),
            }
        return config

    def service_pid(self, host: str) -> int | None:
        """The process id of a service; None when it does not run."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            pid = int((self.service_folder(host) / "pid").read_text(encoding="utf-8"))
            if machine.is_running(pid, str(self.service_folder(host))):
                return pid
        return None

    def await_service(self, host: str, child: subprocess.Popen[bytes] | None) -> None:
        """Wait until a service answers, healthy or not.

        Raises:
            RunbookError: it ended, or did not answer in time.
        """
        deadline = time.monotonic() + SERVICE_START_S
        answer = "nothing"
        while time.monotonic() < deadline:
            if child is not None and child.poll() is not None:
                break
            status, answer = self.ask(host)
            if status is not None:
                return
            time.sleep(0.1)
        log = (self.service_folder(host) / "service.log").read_text(encoding="utf-8", errors="replace").splitlines()
        raise RunbookError(f"The service {host} did not start: {' '.join(log[-2:]) or answer}")

    def ask(self, host: str, path: str = "/health", timeout_s: float = 2.0) -> tuple[int | None, str]:
        """HTTP status and body of what a service answers; None and the reason when there is no answer."""
        try:
            with urllib.request.urlopen(f"{self.url(host)}{path}", timeout=timeout_s) as answer:  # noqa: S310
                return answer.status, answer.read(65536).decode("utf-8", "replace")
        except urllib.error.HTTPError as error:
            return error.code, error.read(65536).decode("utf-8", "replace")
        except OSError as error:
            return None, str(getattr(error, "reason", error))

    # -- down ---------------------------------------------------------------------------------------------------------

    def down(self, report: Report) -> None:
        """End every process of this lab and take its folder away; works after half a start as well."""
        if not self.exists:
            self.link.unlink(missing_ok=True)
            raise RunbookError(f"There is no lab {self.name}.")
        services = self._processes("service.py")
        for pid in services:
            machine.send(pid, signal.SIGTERM)
        machine.wait_for(lambda: not self._processes("service.py"), SERVICE_STOP_S)
        report(f"{len(services)} services ended")
        servers = [path.parent.parent for path in self.folder.glob("servers/*/data/postmaster.pid")]
        # First a server that a recovery was still replaying beside a live one.
        for folder in {path.parent.parent for path in self.folder.glob("servers/*/data.*/postmaster.pid")}:
            PgBackRestServer(folder).end_all("data.*")
        with ThreadPoolExecutor(WORKERS) as pool:
            list(pool.map(lambda folder: PostgresServer(folder).stop(immediate=True), servers))
        for pid in self._processes():
            machine.send(pid, signal.SIGKILL)
        machine.wait_for(lambda: not self._processes(), SERVICE_STOP_S)
        report(f"{len(servers)} PostgreSQL servers ended")
        if not machine.wait_for(self._remove, SERVICE_STOP_S):
            raise RunbookError(f"{self.folder} could not be removed.", "Somebody writes there; run down again.")
        self.link.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            LINKS.rmdir()

    def _remove(self) -> bool:
        """Take the folder away; False when a child of an ended process still wrote into it."""
        with contextlib.suppress(OSError):
            shutil.rmtree(self.folder)
        return not self.folder.exists()

    def _processes(self, program: str = "") -> list[int]:
        """Every process that has this lab's folder among its arguments."""
        inside = f"{self.folder}/"
        return [
            int(entry.name) for entry in Path("/proc").iterdir()
            if entry.name.isdigit() and int(entry.name) != os.getpid()
            and machine.is_running(int(entry.name), inside) and machine.is_running(int(entry.name), program)
        ]

    # -- status -------------------------------------------------------------------------------------------------------

    def status(self) -> list[Row]:
        """One row for each host that runs something, in the inventory's order."""
        system = self.system
        with ThreadPoolExecutor(16) as pool:
            return [
                *pool.map(self._service_row, system.hosts["services"]),
                *pool.map(self._database_row, system.hosts["databases"]),
                *pool.map(self._server_row, system.scratch_servers),
                *map(self._cache_row, system.hosts.get("caches", {})),
            ]

    def _service_row(self, host: str) -> Row:
        pid = self.service_pid(host)
        faults = ", ".join(self.faults(host))
        if pid is None:
            return Row(host, "service", self.port(host), None, "down")
        status, answer = self.ask(host)
        if status == 200 and not faults:
            return Row(host, "service", self.port(host), pid, "up")
        reason = f"HTTP {status}" if status else answer
        return Row(host, "service", self.port(host), pid, "faulty", f"{reason}; {faults or 'no fault was asked for'}")

    def _database_row(self, host: str) -> Row:
        row = self._server_row(host)
        if row.state != "up":
            return Row(host, "database", row.port, row.pid, row.state, row.detail)
        variables = self.system.hosts["databases"][host]
        try:
            with connect(self.server(host).login, "lab", timeout_s=2) as connection:
                found = connection.execute(
                    "SELECT pg_size_pretty(pg_database_size(%s)) AS size, (SELECT count(*) FROM pg_stat_activity "
                    "WHERE datname = %s) AS sessions", [variables["database_name"]] * 2,
                ).fetchone()
        except (RunbookError, psycopg.Error) as error:
            return Row(host, "database", row.port, row.pid, "faulty", " ".join(str(error).split())[:80])
        return Row(host, "database", row.port, row.pid, "up", f"{found['size']}, {found['sessions']} sessions")

    def _server_row(self, host: str) -> Row:
        pid = self.server(host).pid
        return Row(host, "server", self.port(host), pid, "up" if pid else "down", "for drills" if pid else "")

    def _cache_row(self, host: str) -> Row:
        pid = self.cache(host).pid
        return Row(host, "cache", self.port(host), pid, "up" if pid else "down")

    def faults(self, host: str) -> dict[str, str]:
        """The faults that a service was asked for."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            return json.loads((self.service_folder(host) / "control.json").read_text(encoding="utf-8"))
        return {}


def _require_archivable(system: System, archived: Sequence[str]) -> None:
    """Refuse archives that this machine or this system cannot have."""
    unknown = [host for host in archived if host not in system.hosts["databases"]]
    if unknown:
        raise RunbookError(
            f"{system.name} has no database {', '.join(unknown)}.", f"It has {', '.join(system.hosts['databases'])}."
        )
    if archived and not has_pgbackrest():
        raise RunbookError(
            "pgBackRest, or a PostgreSQL of Debian's that it knows, is not installed.",
            "As root: make older-server. Else: sudo apt-get install postgresql pgbackrest.",
        )


def _each_done(waiting: dict[Future[None], str], report: Report, what: str) -> Iterable[str]:
    """The hosts as they get ready, with a word in between when that takes long; the first failure is raised."""
    pending = set(waiting)
    while pending:
        done, pending = wait(pending, timeout=SILENCE_S, return_when=FIRST_COMPLETED)
        if not done:
            report(f"still waiting for {len(pending)} {what}")
        for future in done:
            try:
                future.result()
            except BaseException:
                for other in pending:
                    other.cancel()
                raise
            yield waiting[future]
