# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What must be known of a live server before its cluster is recovered, and what its users must be told."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible_collections.sre.runbooks.plugins.module_utils.pitr.cluster import FIRST_PROCESS, Cluster
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.position import Places
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.window import Reach
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql import marker
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import (
    Login,
    connect,
    server_errors,
)
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.progress import Progress
from ansible_collections.sre.runbooks.plugins.module_utils.run.words import counted, size

if TYPE_CHECKING:
    import psycopg

# sun_path of Linux, with its final zero.
SOCKET_PATH_BYTES = 107
# What is replayed makes tables grow.
HEADROOM = 1.1
# So much of the WAL stays on the disk while it is replayed, whatever the cluster's own max_wal_size is.
REPLAYED_WAL_BYTES = 1 << 30
POLL_S = 0.05
# Of a database's restore, by its marker: from its first row to the consumers' return.
SWAPPING = (marker.RESTORING, marker.PREPARED, marker.CLOSED, marker.EXCHANGED, marker.OPENED)
IDENTIFIER = "SELECT system_identifier::text AS id FROM pg_control_system()"
ANSWERS_S = 10.0
WITHOUT_TABLESPACES = (
    "Restore the database from its backup (sre.runbooks.database_restore), or move what is in them to pg_default and "
    "drop them."
)
SEGMENT_NAME = re.compile(r"[0-9A-F]{24}")
FACTS = """
SELECT system_identifier::text AS system_identifier, pg_is_in_recovery() AS standby,
  current_setting('data_directory') AS data_directory, current_setting('config_file') AS config_file,
  current_setting('archive_mode') AS archive_mode,
  CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_insert_lsn()::text END AS lsn,
  current_setting('shared_preload_libraries') AS libraries,
  (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()) AS sessions,
  (SELECT count(*) FROM pg_prepared_xacts) AS prepared,
  (SELECT array_agg(slot_name::text ORDER BY 1) FROM pg_replication_slots) AS slots,
  (SELECT count(*) FROM pg_stat_replication) AS standbys,
  (SELECT array_agg(shobj_description(oid, 'pg_database')) FROM pg_database
   WHERE shobj_description(oid, 'pg_database') LIKE '%sre.runbooks: %') AS markers,
  (SELECT array_agg(subname::text ORDER BY 1) FROM pg_subscription WHERE subenabled) AS subscriptions,
  (SELECT array_agg(spcname::text ORDER BY 1) FROM pg_tablespace WHERE pg_tablespace_location(oid) <> '') AS tablespaces
FROM pg_control_system()
"""
ARCHIVER = "SELECT last_archived_wal, last_failed_wal, failed_count FROM pg_stat_archiver"
PASSWORDS = "SELECT rolname, rolpassword FROM pg_authid WHERE rolcanlogin AND rolpassword IS NOT NULL"


@dataclass(frozen=True)
class Live:
    """What a live server says of itself; see FACTS."""

    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def archives(self) -> bool:
        """Whether what it writes comes into the archive."""
        return self.facts.get("archive_mode") in ("on", "always")

    def notes(self) -> list[str]:
        """What an operator must know and do afterwards."""
        found = []
        if self.facts["prepared"]:
            found.append(f"{counted(self.facts['prepared'], 'prepared transaction')} will be as at the target.")
        if self.facts["slots"]:
            found.append(f"Replication slots do not come back: {', '.join(self.facts['slots'])}. Make them anew.")
        if self.facts["standbys"]:
            found.append(
                f"{counted(self.facts['standbys'], 'receiver')} of the WAL cannot follow: standbys must be made anew."
            )
        if self.facts["subscriptions"]:
            found.append(
                f"What the subscriptions {', '.join(self.facts['subscriptions'])} delivered after the target is not "
                "sent again: refresh them from their publishers afterwards."
            )
        return found


def read_live(login: Login, cluster: Cluster) -> Live | None:
    """The live server's own words; None when none runs in the data directory.

    Raises:
        RunbookError: one runs there and cannot be asked or is not seen, or the login leads to another one.
    """
    require_seen(login, cluster)
    if cluster.pid() is None:
        return None
    hint = "The user must be a superuser; check the inventory."
    try:
        with connect(login, "pitr") as connection, server_errors(login, hint):
            facts = connection.execute(FACTS).fetchone()
    except RunbookError as error:
        raise RunbookError(
            error.message, f"{error.hint} A server that cannot be mended is stopped first: then it is recovered from "
            "what it has archived.", **error.context,
        ) from error
    if not os.path.samefile(facts["data_directory"], cluster.data):
        raise RunbookError(
            f"The server as {login.place} has its data in {facts['data_directory']}, not in {cluster.data}.",
            "Mend data_directory or the login in the inventory.", data_directory=facts["data_directory"],
        )
    return Live(facts)


def require_seen(login: Login, cluster: Cluster) -> None:
    """A server of this cluster that answers is seen: in another container its folder would be renamed under it.

    Raises:
        RunbookError: one answers whose process is not seen from here, or what answers cannot be asked which it is.
    """
    if not cluster.left_pid_file() or _nobody_listens(login):
        return
    try:
        with connect(login, "pitr") as connection, server_errors(login, ""):
            found = connection.execute(IDENTIFIER).fetchone()["id"]
    except RunbookError as error:
        raise RunbookError(
            f"Whether a server runs in {cluster.data} is unknown: {error.message}",
            "Mend the login in the inventory, or stop what answers there.",
        ) from error
    if found == cluster.control_data()["Database system identifier"]:
        raise RunbookError(
            f"The server as {login.place} is of the cluster in {cluster.data}, and no process of it is seen from here.",
            "Nothing was changed. Run this where it runs, such as in its container, or as root.",
        )


def _nobody_listens(login: Login) -> bool:
    """Whether a login leads where nothing answers: by the system's error, and not by a text in some language."""
    local = login.host.startswith("/")
    with socket.socket(socket.AF_UNIX) if local else contextlib.nullcontext() as unix:
        try:
            if unix:
                unix.settimeout(ANSWERS_S)
                unix.connect(f"{login.host}/.s.PGSQL.{login.port}")
            else:
                socket.create_connection((login.host, login.port), ANSWERS_S).close()
        except (ConnectionRefusedError, FileNotFoundError):
            return True
        except OSError:
            return False
    return False


def swaps_under_way(live: Live | None) -> list[str]:
    """Databases of the cluster that are being restored by a run, which the exchange of clusters would throw back."""
    found = []
    for comment in (live.facts["markers"] or []) if live else []:
        try:
            _own, mark = marker.split(comment)
        except RunbookError as error:
            found.append(str(error))
            continue
        if mark and mark.state in SWAPPING:
            found.append(
                f"The run {mark.run} restores the database {mark.database!r} of this cluster, or was stopped while it "
                f"did (it stands at {mark.state}): let it end, run it again, or go back with "
                "sre.runbooks.database_restore_undo."
            )
    return sorted(set(found))


def problems_of(cluster: Cluster, places: Places, live: Live | None) -> list[str]:
    """Everything for which a recovery is refused before anything is touched, each a sentence."""
    found = []
    data = cluster.data
    if data.is_symlink():
        found.append(f"{data} is a link; give the folder that it leads to.")
    if _is_mount_point(data):
        found.append(f"{data} is a mount point, which cannot be renamed: have the data one folder below it.")
    if cluster.pid() == FIRST_PROCESS:
        found.append(
            "The server is its container's first process: stopping it ends the container, and this with it. Run it "
            "below an init."
        )
    if (data / "pg_wal").is_symlink():
        found.append(
            f"{data / 'pg_wal'} is a link, and two clusters must not share what it leads to: have a folder there."
        )
    owner = data.stat().st_uid
    if os.geteuid() not in (0, owner):
        found.append(f"{data} belongs to user {owner}, and this runs as {os.geteuid()}: become that user, or root.")
    elif owner == 0:
        found.append(f"{data} belongs to root, as whom PostgreSQL refuses to run: give it to the server's user.")
    elif not os.access(data.parent, os.W_OK):
        found.append(
            f"{data.parent} cannot be written, and the restored cluster must stand beside the live one: run this as "
            "root, or let the server's user write there."
        )
    if len(os.fsencode(places.socket / ".s.PGSQL.65535")) > SOCKET_PATH_BYTES:
        found.append(f"The path {places.socket} is too long for a socket: have the data in a shorter one.")
    if live:
        if live.facts["standby"]:
            found.append("The server is a standby: recover its primary.")
        if live.facts["tablespaces"]:
            found.append(
                f"Tablespaces are not served yet, and there are {', '.join(live.facts['tablespaces'])}: two clusters "
                f"must not share their folders. {WITHOUT_TABLESPACES}"
            )
        if not live.archives:
            found.append("The server does not archive: archive_mode is off. Set it to on, and restart the server.")
    elif any((data / "pg_tblspc").iterdir()):
        found.append(f"Tablespaces are not served yet, and pg_tblspc is not empty. {WITHOUT_TABLESPACES}")
    return found


def _is_mount_point(folder: Path) -> bool:
    """Also where a folder of the same disk is bound, which os.path.ismount does not see."""
    name = str(folder.parent.resolve() / folder.name)
    for character in "\\ \t\n":
        name = name.replace(character, f"\\{ord(character):03o}")
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    return os.path.ismount(folder) or name in (line.split(" ")[4] for line in mounts)


def disk_problem(chosen: Reach, segment_size: int, beside: Path) -> tuple[int, int, str]:
    """Needed and free bytes where the restored cluster will stand, and a sentence when they do not suffice."""
    segments = chosen.newest.number - chosen.base.first.number + 1 if chosen.newest else 0
    needed = int(chosen.base.bytes * HEADROOM) + min(segments * segment_size, REPLAYED_WAL_BYTES)
    free = shutil.disk_usage(beside).free
    if free >= needed:
        return needed, free, ""
    return needed, free, f"{beside} has {size(free)} free, and the restored cluster needs {size(needed)}."


def archive_now(login: Login, progress: Progress, timeout_s: float) -> str:
    """Have everything that was written until now in the archive, and return the segment that holds its end.

    A commit stands at its end: PostgreSQL stops at a time only when it sees a commit after it.

    Raises:
        RunbookError: it does not come into the archive in time.
    """
    with connect(login, "pitr") as connection, server_errors(login, "Mend that, then run the same command again."):
        failed = connection.execute(ARCHIVER).fetchone()["failed_count"]
        connection.execute("SELECT pg_current_xact_id()")
        segment = connection.execute("SELECT pg_walfile_name(pg_switch_wal()) AS name").fetchone()["name"]
        deadline = time.monotonic() + timeout_s
        while not _has_archived(connection, segment):
            row = connection.execute(ARCHIVER).fetchone()
            # PostgreSQL itself tries three times in a row, a second apart.
            if time.monotonic() > deadline or row["failed_count"] > failed + 2:
                raise RunbookError(
                    f"The WAL segment {segment} does not come into the archive"
                    + (f": {row['last_failed_wal']} fails." if row["failed_count"] > failed
                       else f" in {timeout_s:.0f} s."),
                    "What the live server wrote last cannot be recovered without it. See the server's log on "
                    "archive_command, mend it, then run the same command again.", segment=segment,
                )
            progress.tick(lambda: f"waiting for {segment} to be archived")
            time.sleep(POLL_S)
    return segment


def _has_archived(connection: psycopg.Connection[dict[str, Any]], segment: str) -> bool:
    last = connection.execute(ARCHIVER).fetchone()["last_archived_wal"] or ""
    return bool(SEGMENT_NAME.fullmatch(last)) and last >= segment


def read_passwords(login: Login) -> dict[str, str] | None:
    """The verifiers of all roles that log in; None when we may not see them. They never leave this process."""
    with contextlib.suppress(RunbookError), connect(login, "pitr") as connection, server_errors(login, ""):
        return {row["rolname"]: row["rolpassword"] for row in connection.execute(PASSWORDS)}
    return None
