# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The fault `blocked`: one session that forgot to commit, and one that waits for its row (B34 ⚠).

    python -m lab.blocker <the lab's overlay.yml, so that `down` finds this process> <lab> <database's inventory host>
"""

from __future__ import annotations

import os
import sys
import threading
import time

import psycopg
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import Login, identifier
from psycopg import sql

from lab.state import Lab


def _session(login: Login, name: str) -> psycopg.Connection:
    return psycopg.connect(
        host=login.host, port=login.port, user=login.user, password=login.password, dbname=login.database,
        sslmode="disable", application_name=name, options="-c lock_timeout=0",
    )


def main(name: str, host: str) -> None:
    """Hold the lock and wait, until a signal ends this process."""
    lab = Lab(name)
    table = identifier(lab.system.lab["tables"][host]["table"])
    login = lab.login(host, "application")
    update = sql.SQL("UPDATE {0} SET amount = amount WHERE id = (SELECT max(id) FROM {0} WHERE id <= %s)").format(table)
    with _session(login, "forgotten report") as holder, _session(login, "impatient clerk") as waiter:
        newest = holder.execute(sql.SQL("SELECT max(id) FROM {}").format(table)).fetchone()[0]
        holder.execute(update, [newest])
        threading.Thread(target=waiter.execute, args=(update, [newest]), daemon=True).start()
        with _session(login, "lab") as watcher:
            watcher.autocommit = True
            while not watcher.execute("SELECT pg_blocking_pids(%s)", [waiter.info.backend_pid]).fetchone()[0]:
                time.sleep(0.02)
        (lab.folder / "faults" / f"{host}.ready").write_text(str(os.getpid()), encoding="utf-8")
        while True:
            time.sleep(3600)


if __name__ == "__main__":
    try:
        main(*sys.argv[2:4])
    except psycopg.Error as trouble:
        sys.exit(" ".join(str(trouble).split()))
