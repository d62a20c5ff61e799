# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A cluster with an archive, its consumer and its inventory, for playbooks that recover it.

| fixture | scope | what |
|---|---|---|
| `shop` | module | a `Shop`, up |
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import Login, connect

from lab import REPOSITORY, machine
from lab.pgbackrest import STANZA, PgBackRestServer, has_pgbackrest
from tests.scenarios.conftest import Played

TARGET, SERVICE, SERVER = "shop-db", "shop", "shop-server"
LOCAL = {"ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}",
         "ansible_host": "127.0.0.1"}
SECRET = "{{ lookup('ansible.builtin.file', '%s') }}"


@dataclass(frozen=True)
class Shop:
    """A cluster with an archive, one base backup, and a service that writes into it twice a second."""

    folder: Path
    server: PgBackRestServer
    port: int

    @property
    def service_folder(self) -> Path:
        return self.folder / "service"

    def password_file(self, user: str) -> Path:
        return self.folder / "secrets" / user

    def run(self, statement: str) -> Any:
        """The first value of one statement in the live database, as the superuser."""
        with connect(self.server.login.at("shop"), "tests") as connection:
            cursor = connection.execute(statement.encode())
            row = cursor.fetchone() if cursor.description else None
        return next(iter(row.values())) if row else None

    def service_command(self) -> list[str]:
        return [sys.executable, str(REPOSITORY / "lab" / "service.py"), str(self.service_folder / "config.json")]

    def service_pid(self) -> int | None:
        try:
            pid = int((self.service_folder / "pid").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        return pid if machine.is_running(pid, str(self.service_folder)) else None

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    def argv(self, playbook: str, *arguments: str) -> list[str]:
        return [
            str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(self.folder / "inventory.yml"),
            f"playbooks/{playbook}.yml", "-e", f"target={TARGET}", *arguments,
        ]

    def environment(self) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "PG"))}
        return {**own, "ANSIBLE_NOCOLOR": "1"}

    def begin(self, playbook: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a playbook in a session of its own, whose words nobody reads."""
        return subprocess.Popen(
            self.argv(playbook, *arguments), cwd=REPOSITORY, env=self.environment(), stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )

    def play(self, playbook: str, *arguments: str) -> Played:
        """Run a playbook to its end."""
        argv = self.argv(playbook, *arguments)
        done = subprocess.run(
            argv, cwd=REPOSITORY, env=self.environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True,
            check=False, timeout=150,
        )
        return Played(tuple(argv), done.returncode, done.stdout, done.stderr)

    def play_at_terminal(self, answers: list[str], playbook: str, *arguments: str) -> tuple[int, str]:
        """The same at a terminal, with an answer to each question; the exit code and what it showed."""
        pid, terminal = pty.fork()
        if pid == 0:
            os.chdir(REPOSITORY)
            argv = self.argv(playbook, *arguments)
            os.execve(argv[0], argv, self.environment())  # noqa: S606
        shown, asked = "", 0
        # The last process that has the terminal open ends the reading with an error.
        with contextlib.suppress(OSError):
            while read := os.read(terminal, 65536):
                shown += read.decode("utf-8", "replace")
                if shown.count("to go on (no answer") > asked < len(answers):
                    # The prompt throws away what was typed before it began to listen.
                    time.sleep(0.5)
                    os.write(terminal, f"{answers[asked]}\r".encode())
                    asked += 1
        _pid, status = os.waitpid(pid, 0)
        os.close(terminal)
        return os.waitstatus_to_exitcode(status), shown

    def first_base(self) -> str:
        """The label of the base backup that was made at the start."""
        return json.loads(self.server.pgbackrest("info", "--output=json"))[0]["backup"][0]["label"]

    def position(self) -> str:
        """The state in the file beside the data directory."""
        with contextlib.suppress(FileNotFoundError):
            text = (self.server.folder / "data.pitr" / "position.json").read_text(encoding="utf-8")
            return json.loads(text)["state"]
        return "untouched"

    def locks(self) -> list[Path]:
        """Of runs that have not ended."""
        return list((self.folder / "locks").glob("*.json"))

    def records(self, kind: str) -> list[dict[str, Any]]:
        """The data of the newest run's records of one kind."""
        newest = max(path for path in (self.folder / "runs").iterdir() if path.is_dir())
        lines = (newest / "run.jsonl").read_text(encoding="utf-8").splitlines()
        return [entry["data"] for entry in map(json.loads, lines) if entry["kind"] == kind]

    def write_inventory(self) -> None:
        """What an operator would have."""
        login = {"host": "127.0.0.1", "port": self.server.port, "user": "shop", "database": "shop",
                 "password": SECRET % self.password_file("shop"), "sslmode": "disable"}
        inventory = {"all": {
            "vars": {
                **LOCAL, "system": "shop", "run_directory": str(self.folder / "runs"), "run_lock_host": "localhost",
                "run_lock_directory": str(self.folder / "locks"),
            },
            "children": {
                "databases": {"hosts": {TARGET: {
                    "server": SERVER, "consumers": [SERVICE], "database_host": "127.0.0.1",
                    "database_port": self.server.port, "database_name": "shop", "database_owner": "shop",
                    "database_sslmode": "disable", "database_extensions": [],
                    "database_admin": {"user": "postgres", "password": SECRET % (self.server.folder / "password")},
                    "database_application_check": "SELECT count(*) > 0, count(*) || ' orders' FROM orders",
                    "recovery_time_objective_seconds": 3600, "recovery_point_objective_seconds": 3600,
                    "health_checks": [{"kind": "postgresql", "name": "application", "login": login,
                                       "query": "SELECT count(*) > 0 FROM orders"}],
                }}},
                "services": {"hosts": {SERVICE: {
                    "service_database": TARGET, "service_url": f"http://127.0.0.1:{self.port}",
                    "service_control": {
                        "driver": "process", "pid_file": str(self.service_folder / "pid"),
                        "command": self.service_command(), "directory": str(REPOSITORY),
                        "log_file": str(self.service_folder / "service.log"),
                    },
                    "health_checks": [{"kind": "http", "name": "health", "shape": "any",
                                       "url": f"http://127.0.0.1:{self.port}/health"}],
                }}},
                "servers": {"hosts": {SERVER: {
                    "postgresql_data_directory": str(self.server.data_directory),
                    "postgresql_control": self.server.control,
                    "pgbackrest": {"config": str(self.server.config), "stanza": STANZA},
                }}},
            },
        }}
        (self.folder / "inventory.yml").write_text(yaml.safe_dump(inventory), encoding="utf-8")

    def start_service(self) -> None:
        """The consumer, until it answers."""
        self.service_folder.mkdir()
        config = {
            "service": SERVICE, "version": "1.0", "shape": "express", "host": "127.0.0.1", "port": self.port,
            "path": "", "pid_file": str(self.service_folder / "pid"),
            "control_file": str(self.service_folder / "control.json"),
            "pool": {"size": 2, "overflow": 0, "timeout_seconds": 5, "recycle_seconds": 3600},
            "database": {
                "host": "127.0.0.1", "port": self.server.port, "name": "shop", "user": "shop",
                "password_file": str(self.password_file("shop")), "write": "INSERT INTO orders DEFAULT VALUES",
                "newest": "SELECT max(at) FROM orders", "recent": "SELECT count(*) FROM orders",
            },
        }
        (self.service_folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        (self.service_folder / "control.json").write_text("{}", encoding="utf-8")
        with open(self.service_folder / "service.log", "ab") as log:
            subprocess.Popen(
                self.service_command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=REPOSITORY,
                start_new_session=True,
            )
        assert machine.wait_for(self.answers, 20), (self.service_folder / "service.log").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, server_place: Path) -> Iterator[Shop]:
    """Up, with everything that it takes."""
    assert has_pgbackrest(), "pgBackRest is missing; run: make older-server, or apt-get install pgbackrest postgresql"
    server = PgBackRestServer(server_place / "pitr")
    found = Shop(tmp_path_factory.mktemp("shop"), server, machine.free_port())
    try:
        server.start()
        (found.folder / "secrets").mkdir()
        machine.write_private(found.password_file("shop"), password := machine.random_password())
        with connect(server.login, "tests") as connection:
            connection.execute(f"CREATE ROLE shop LOGIN PASSWORD '{password}'".encode())
            connection.execute("CREATE DATABASE shop OWNER shop")
        with connect(Login("127.0.0.1", server.port, "shop", password, "shop", "disable"), "tests") as connection:
            connection.execute(
                "CREATE TABLE orders (id bigserial PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp());"
                "CREATE TABLE customers (id int); INSERT INTO customers SELECT generate_series(1, 500)"
            )
        server.backup()
        found.start_service()
        found.write_inventory()
        yield found
    finally:
        pid = found.service_pid()
        if pid:
            machine.send(pid, signal.SIGKILL)
        server.end_all()
