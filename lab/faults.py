# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What can go wrong in a lab, on request."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime

from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import connect, identifier
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from psycopg import sql

from lab import REPOSITORY, machine
from lab.state import Lab

SERVICE_FAULTS = (
    "slow", "errors", "stale", "old", "leak", "refusing", "empty", "html", "down", "hang", "version",
)
DATABASE_FAULTS = ("drop-table", "delete-rows", "blocked", "database-stop")
FAULTS = (*SERVICE_FAULTS, "stop", *DATABASE_FAULTS)
STOP_S = 5.0
# Another fault may hold the locks that this one needs.
LOCK_TIMEOUT = "SET lock_timeout = '4s'"


def start(lab: Lab, fault: str, host: str | None) -> str:
    """Let something go wrong; the answer is one sentence on what did.

    Raises:
        RunbookError: there is no such fault, or no such host for it.
    """
    if fault not in FAULTS:
        raise RunbookError(f"There is no fault {fault}.", f"There are {', '.join(FAULTS)}.")
    system = lab.system
    of_database = fault in DATABASE_FAULTS
    group = "databases" if of_database else "services"
    host = host or system.lab["main_database" if of_database else "main_service"]
    if of_database and host in system.hosts["services"]:
        host = system.hosts["services"][host].get("service_database", host)
    if host not in system.hosts[group]:
        raise RunbookError(
            f"The fault {fault} is one of {group}, and {host} is none.", f"Hosts: {', '.join(system.hosts[group])}."
        )
    if fault in SERVICE_FAULTS:
        faults = {**lab.faults(host), fault: datetime.now(UTC).isoformat()}
        _ask_for(lab, host, faults)
        return f"{host}: {', '.join(faults)}"
    if fault == "stop":
        return _stop_service(lab, host)
    return {"drop-table": _drop, "delete-rows": _delete, "blocked": _block, "database-stop": _stop_database}[fault](
        lab, host
    )


def end(lab: Lab, host: str | None = None) -> str:
    """End all faults, or those of one host; destroyed data stays destroyed.

    Raises:
        RunbookError: there is no such host.
    """
    system = lab.system
    services, databases = system.hosts["services"], system.hosts["databases"]
    if host is not None and host not in services and host not in databases:
        raise RunbookError(f"The lab {lab.name} has no service and no database {host}.")
    mended = []
    for database in databases if host is None else [host] if host in databases else []:
        if lab.server(database).pid is None:
            lab.server(database).start()
            mended.append(database)
        if _end_blockers(lab, database):
            mended.append(database)
    for service in services if host is None else [host] if host in services else []:
        if lab.faults(service):
            _ask_for(lab, service, {})
            mended.append(service)
        if lab.service_pid(service) is None:
            lab.await_service(service, lab.start_service(service))
            mended.append(service)
    return f"mended: {', '.join(dict.fromkeys(mended))}" if mended else "there was nothing to mend"


def _ask_for(lab: Lab, host: str, faults: dict[str, str]) -> None:
    control = lab.service_folder(host) / "control.json"
    making = control.with_suffix(".partial")
    making.write_text(json.dumps(faults), encoding="utf-8")
    making.replace(control)


def _stop_service(lab: Lab, host: str) -> str:
    pid = lab.service_pid(host)
    if pid is None:
        return f"{host} does not run"
    machine.send(pid, signal.SIGKILL)
    machine.wait_for(lambda: lab.service_pid(host) is None, STOP_S)
    return f"{host}: killed (process {pid})"


def _stop_database(lab: Lab, host: str) -> str:
    lab.server(host).kill()
    return f"{host}: its PostgreSQL server was killed"


def _table(lab: Lab, host: str) -> str:
    return str(lab.system.lab["tables"][host]["table"])


def _drop(lab: Lab, host: str) -> str:
    table = _table(lab, host)
    with connect(lab.login(host, "application"), "somebody's migration") as connection:
        connection.execute(LOCK_TIMEOUT)
        connection.execute(sql.SQL("DROP TABLE {} CASCADE").format(identifier(table)))
    return f"{host}: somebody dropped the table {table}"


def _delete(lab: Lab, host: str) -> str:
    table = _table(lab, host)
    with connect(lab.login(host, "application"), "somebody's clean-up") as connection:
        connection.execute(LOCK_TIMEOUT)
        rows = connection.execute(sql.SQL("DELETE FROM {}").format(identifier(table))).rowcount
    return f"{host}: somebody deleted {rows} rows from {table}, without a WHERE"


def _block(lab: Lab, host: str) -> str:
    folder = lab.folder / "faults"
    folder.mkdir(mode=0o700, exist_ok=True)
    with open(folder / f"{host}.log", "wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "lab.blocker", str(lab.folder / "overlay.yml"), lab.name, host],
            cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )
    ready = folder / f"{host}.ready"
    ready.unlink(missing_ok=True)
    if not machine.wait_for(lambda: ready.exists() or child.poll() is not None, 20) or child.poll() is not None:
        child.kill()
        raise RunbookError(f"No session could be blocked in {host}: {(folder / f'{host}.log').read_text().strip()}")
    return f"{host}: a forgotten transaction holds the newest row of {_table(lab, host)}, and another session waits"


def _end_blockers(lab: Lab, host: str) -> bool:
    ready = lab.folder / "faults" / f"{host}.ready"
    if not ready.exists():
        return False
    pid = int(ready.read_text(encoding="utf-8"))
    ready.unlink()
    if not machine.is_running(pid, "lab.blocker"):
        return False
    os.kill(pid, signal.SIGTERM)
    machine.wait_for(lambda: not machine.is_running(pid, "lab.blocker"), STOP_S)
    return True
