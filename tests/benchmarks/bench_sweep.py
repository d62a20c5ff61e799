# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The sweep of a platform against the same checks as single tasks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from lab.postgresql import PostgresServer
from tests.benchmarks.harness import REPOSITORY, Bench

SERVICES = 18
DATABASES = 14
PLAYBOOK = REPOSITORY / "playbooks" / "health.yml"
HEALTH_SERVICE = '''
import http.server, json, datetime
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"status": "healthy", "timestamp": datetime.datetime.now(datetime.UTC).isoformat(),
                           "checks": {"database": {"status": "up"}}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *arguments):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
'''


def _targets(server: PostgresServer, port: int) -> dict[str, list[dict[str, Any]]]:
    login = {"host": "127.0.0.1", "port": server.port, "user": "postgres", "password": server.login.password,
             "database": "postgres", "sslmode": "disable"}
    services = {f"service-{number:02}": [{"kind": "http", "url": f"http://127.0.0.1:{port}/health"}]
                for number in range(SERVICES)}
    databases = {
        f"database-{number:02}": [
            {"kind": "postgresql", "name": "application", "login": login, "query": "select true"},
            {"kind": "postgresql", "name": "monitor", "login": login, "measures": ["all"]},
        ] for number in range(DATABASES)
    }
    return services | databases


def _inventory(folder: Path, targets: dict[str, list[dict[str, Any]]]) -> Path:
    local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "ansible_pipelining": True}
    groups = {
        group: {"hosts": {name: {"health_checks": checks} for name, checks in targets.items()
                          if name.startswith(group[:-1])}}
        for group in ("services", "databases")
    }
    path = folder / "inventory.json"
    path.write_text(json.dumps({"all": {"vars": local, "children": groups}}), encoding="utf-8")
    path.chmod(0o600)
    return path


def _single_tasks(folder: Path, targets: dict[str, list[dict[str, Any]]]) -> Path:
    """The same checks as an operator would write them down without a sweep: one task for each target."""
    tasks = [
        {"name": f"Ask {name}", "ansible.builtin.uri": {"url": checks[0]["url"]}} if checks[0]["kind"] == "http" else
        {"name": f"Ask {name}", "sre.runbooks.health_probe": {
            "targets": [{"name": name, "checks": checks}], "wait_for_second_sample": False}}
        for name, checks in targets.items()
    ]
    path = folder / "single.json"
    path.write_text(json.dumps([{"hosts": "service-00", "gather_facts": False, "tasks": tasks}]), encoding="utf-8")
    path.chmod(0o600)
    return path


def bench_sweep(bench: Bench) -> None:
    """18 services and 14 databases: the module alone, and the playbook against 32 single tasks."""
    # The default configuration; the playbook's own run keeps its samples and its records below the bench's folder.
    environment = {
        **os.environ, "ANSIBLE_COLLECTIONS_PATH": str(REPOSITORY / ".ansible" / "collections"),
        "XDG_STATE_HOME": str(bench.folder / "state"), "PYTHONPATH": str(REPOSITORY / ".ansible" / "collections"),
    }
    ansible = str(Path(sys.executable).with_name("ansible-playbook"))

    def play(path: Path) -> None:
        subprocess.run([ansible, "-i", str(inventory), str(path)], check=True, capture_output=True, env=environment,
                       cwd=bench.folder)

    def module() -> None:
        arguments = {
            "targets": [{"name": name, "checks": checks} for name, checks in targets.items()],
            "wait_for_second_sample": False, "_ansible_remote_tmp": str(bench.folder),
        }
        done = subprocess.run(
            [sys.executable, "-m", "ansible_collections.sre.runbooks.plugins.modules.health_probe"],
            input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}), text=True, capture_output=True, env=environment,
            check=True,
        )
        if json.loads(done.stdout)["status"] != "ok":
            raise RuntimeError(json.loads(done.stdout)["summary"])

    settings = {"max_connections": "120", "fsync": "off"}
    with (
        PostgresServer(bench.folder / "server", settings=settings) as server,
        subprocess.Popen([sys.executable, "-c", HEALTH_SERVICE], stdout=subprocess.PIPE, text=True) as service,
    ):
        try:
            targets = _targets(server, int(service.stdout.readline()))
            inventory = _inventory(bench.folder, targets)
            single = _single_tasks(bench.folder, targets)
            bench.measure(f"The module, {SERVICES} services and {DATABASES} databases", module, at_most=1.5)
            bench.compare("health.yml against the same 32 checks as single tasks",
                          ours=lambda: play(PLAYBOOK), raw=lambda: play(single), at_least=6)
        finally:
            service.terminate()
