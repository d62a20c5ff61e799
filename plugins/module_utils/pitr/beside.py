# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The restored cluster while it stands beside the live one: shut in, read-only, proven at its target."""

from __future__ import annotations

import contextlib
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible_collections.sre.runbooks.plugins.module_utils.pitr import application
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.cluster import read_log
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.survey import REPLAYED_WAL_BYTES, Live, read_passwords
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.target import Target
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.workplace import Workplace
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import Login, connect, server_errors
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.files import write_whole
from ansible_collections.sre.runbooks.plugins.module_utils.run.moments import utc_text
from ansible_collections.sre.runbooks.plugins.module_utils.run.words import size

if TYPE_CHECKING:
    import psycopg

POLL_S = 0.05
STARTS_S = 2.0
# With less free than a segment of the WAL a server cannot go on.
FULL_BYTES = 16 << 20
HBA = "# Nobody but the server's user can enter the folder of the socket.\nlocal all all trust\n"
# Libraries that do scheduled work.
SCHEDULERS = ("pg_cron", "pg_partman_bgw", "pg_timetable")
PAUSED = "pausing at the end of recovery"
TOO_SMALL = re.compile(r"(max_\w+) = \d+ is a lower setting than on the primary server, where its value was (\d+)")
STOPPING = re.compile(r"recovery stopping (.+)$")
# Of pgBackRest, which fetches the WAL.
TROUBLE = re.compile(r"(?:ERROR: \[\d+\]: |^\s+(?=repo\d+: ))(.+?):?$")
FATAL = re.compile(r"(?:FATAL|PANIC):\s+(.+)$")
STANDING = """
SELECT pg_is_in_recovery() AS recovering, pg_get_wal_replay_pause_state() AS pause,
  pg_last_wal_replay_lsn()::text AS lsn, pg_last_xact_replay_timestamp() AS last_commit_at
"""
DATABASES = """
SELECT datname AS name, pg_database_size(oid) AS bytes FROM pg_database
WHERE datallowconn AND NOT datistemplate ORDER BY 1
"""


class Beside:
    """The restored cluster's server.

    Args:
        work: where it is, and with what.
    """

    def __init__(self, work: Workplace) -> None:
        self.work = work
        self.request, self.progress, self.places = work.request, work.progress, work.places
        self._settings: dict[str, str] = {}

    def open(self, live: Live | None) -> None:
        """Start the restored cluster so that nothing of it can get out, and nobody but the server's user in."""
        write_whole(self.places.hba, HBA, owner=self.work.owner)
        libraries = [name.strip() for name in (live.facts["libraries"] if live else "").split(",")]
        self._settings = {
            **self._configuration(live), "data_directory": str(self.places.restoring),
            "hba_file": str(self.places.hba),
            "external_pid_file": str(self.places.control / "server.pid"), "port": str(self.request.port),
            "listen_addresses": "",
            "unix_socket_directories": str(self.places.socket), "unix_socket_permissions": "0700",
            "archive_mode": "off", "hot_standby": "on", "primary_conninfo": "", "recovery_target_action": "pause",
            "restore_command": self.work.repository.fetch_command(self.places.restoring), "recovery_end_command": "",
            "archive_cleanup_command": "", "max_logical_replication_workers": "0",
            # Beside a live one, in its memory.
            "shared_buffers": "64MB", "max_wal_size": f"{REPLAYED_WAL_BYTES >> 20}MB",
            "huge_pages": "off", "ssl": "off", "lc_messages": "C", "logging_collector": "off",
            "log_destination": "stderr", "log_min_messages": "warning", "cluster_name": "pitr",
            **self._limits(),
        }
        if live:
            self._settings["shared_preload_libraries"] = ",".join(
                name for name in libraries if name and name.strip('"') not in SCHEDULERS
            )
        self.progress.say("replaying the WAL up to the target")
        self._start()

    def _start(self) -> None:
        self.work.beside.start_beside(self._settings, self.places.log)

    def _limits(self) -> dict[str, str]:
        """Somebody may have raised them since the backup: a replay with less waits at that place for ever."""
        now, then = self.work.live.limits(), self.work.beside.limits()
        return {name: str(max(then[name], now.get(name, 0))) for name in then}

    def _configuration(self, live: Live | None) -> dict[str, str]:
        """Where the server's configuration is, when a distribution has it outside the data directory."""
        if (self.places.restoring / "postgresql.conf").exists():
            return {}
        debian = Path(f"/etc/postgresql/{self.work.major}/{self.places.data.name}/postgresql.conf")
        found = Path(live.facts["config_file"]) if live else debian
        if not found.is_file():
            raise RunbookError(
                f"No postgresql.conf is in the backup, and none is {found}.", "Put one there, then run this again."
            )
        return {"config_file": str(found)}

    def wait_reached(self, target: Target) -> None:
        """Until the replay stands at the target.

        Raises:
            RunbookError: it ended before, or took too long.
        """
        started = time.monotonic()
        deadline = started + self.request.replay_timeout_s
        while True:
            lines = read_log(self.places.log)
            if any(PAUSED in line for line in lines) and self.work.beside.status() == "ready":
                return
            if larger := {match[1]: match[2] for line in lines if (match := TOO_SMALL.search(line))}:
                # Larger for a while between the backup and the target: the replay would wait here for ever.
                self.work.beside.stop(self.request.stop_timeout_s)
                self._settings |= larger
                self._start()
                started = time.monotonic()
                continue
            # It writes its pid before anything else, but not at once.
            if self.work.beside.pid() is None and time.monotonic() > started + STARTS_S:
                told, beside = _told(lines), self.places.restoring.parent
                free = shutil.disk_usage(beside).free
                if "No space left" in told or free < FULL_BYTES:
                    raise RunbookError(
                        f"The disk of {beside} became full before {target}, with {size(free)} free now.",
                        "Make room there, then run the same command again. The live cluster was not touched.",
                    )
                if told:
                    raise RunbookError(
                        f"The recovery ended before {target}: {told}.",
                        f"Choose another target or backup. The live cluster was not touched; the log is "
                        f"{self.places.log}.",
                    )
                raise RunbookError(
                    f"The server beside ended before {target} without a word, as when it is killed.",
                    f"See the system's log for a lack of memory, and {self.places.log}; then run the same command "
                    "again. The live cluster was not touched.",
                )
            if time.monotonic() > deadline:
                raise RunbookError(
                    f"{target} was not reached in {self.request.replay_timeout_s:.0f} s of replay.",
                    f"See {self.places.log}; give it longer (replay_timeout_seconds), or begin with a newer backup. "
                    "The live cluster was not touched.",
                )
            self.progress.tick(lambda lines=lines: f"replaying: {lines[-1].split('LOG:')[-1].strip() if lines else ''}")
            time.sleep(POLL_S)

    def reached(self, target: Target) -> dict[str, Any]:
        with self.ask("postgres") as connection:
            row = connection.execute(STANDING).fetchone()
        last, moment = row["last_commit_at"], target.moment
        if not row["recovering"] or row["pause"] != "paused" or (moment and last and last > moment):
            raise RunbookError(
                f"The restored cluster does not stand at {target}: replay is {row['pause']}, its last commit of "
                f"{last}.", f"See {self.places.log}; the live cluster was not touched.",
            )
        stops = [match[1] for line in read_log(self.places.log) if (match := STOPPING.search(line))]
        return {
            "lsn": row["lsn"], "last_commit_at": utc_text(last) if last else None,
            "stopped": stops[-1] if stops else "",
            "socket": str(self.places.socket), "port": self.request.port,
        }

    def prove(self, system_identifier: str) -> list[dict[str, Any]]:
        """Look into the restored cluster: it is the same one, and every database can be entered.

        Returns:
            Its databases: name, bytes, tables.

        Raises:
            RunbookError: it is another one.
        """
        with self.ask("postgres") as connection:
            found = connection.execute("SELECT system_identifier::text AS id FROM pg_control_system()").fetchone()["id"]
            databases = connection.execute(DATABASES).fetchall()
        if found != system_identifier:
            raise RunbookError(
                f"The restored cluster is another one: {found}, not {system_identifier}.",
                "Mend the stanza in the inventory. The live cluster was not touched.",
            )
        for database in databases:
            with self.ask(database["name"]) as connection:
                row = connection.execute("SELECT count(*) AS n FROM pg_class WHERE relkind IN ('r', 'p')").fetchone()
                database["tables"] = row["n"]
        return databases

    def ask_owner(self) -> str:
        """Ask the owner's own check at the target; see application.ask.

        Raises:
            RunbookError: it did not pass, or a drill could not ask it.
        """
        request = self.request
        asked = application.ask(
            self._login(request.database), request.application_check, "at the target",
            "The copy is taken away again. Where the live database fails the same check (sre.runbooks.health asks it),"
            " the data are what is wrong, and not the archive; else choose another target." if request.drill else
            "Look into the restored cluster, and choose another target. The live one was not touched.",
        )
        if asked == application.NOT_ASKED and request.drill:
            raise RunbookError(
                f"The owner's own check of {request.database!r} could not be asked at the target, so it is not proven: "
                "the transaction before whose end the cluster stands locks what it reads.",
                "Give the drill a target a moment earlier or later.",
            )
        return asked

    def password_notes(self, live: Live | None) -> list[str]:
        """Passwords are as at the target: who has got a new one since will be refused with it."""
        now, then = read_passwords(self.request.login) if live else None, read_passwords(self._login("postgres"))
        if now is None or then is None:
            return ["Whether a password was changed since the target is unknown."]
        lost = sorted(name for name in now if now[name] != then.get(name))
        return [f"These have another password, or none, at the target: {', '.join(lost)}."] if lost else []

    def _login(self, database: str) -> Login:
        """The restored cluster's socket, which asks for no password."""
        return Login(str(self.places.socket), self.request.port, self.request.login.user, "", database, "disable")

    @contextlib.contextmanager
    def ask(self, database: str) -> Iterator[psycopg.Connection[dict[str, Any]]]:
        """A session in the restored cluster."""
        login = self._login(database)
        with connect(login, "pitr") as connection, server_errors(login, f"See {self.places.log}."):
            yield connection


def _told(lines: list[str]) -> str:
    """What the server, and pgBackRest below it, said of a failure; empty when they said nothing."""
    found = [match[1].strip() for line in lines for pattern in (TROUBLE, FATAL) if (match := pattern.search(line))]
    return "; ".join(list(dict.fromkeys(found))[:3])
