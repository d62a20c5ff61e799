# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Makes a backup: one snapshot, a parallel dump in it, exact counts beside it, and a manifest at the end."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible_collections.sre.runbooks.plugins.module_utils.backup.archive import files_below, read_contents
from ansible_collections.sre.runbooks.plugins.module_utils.backup.cluster_roles import read_globals
from ansible_collections.sre.runbooks.plugins.module_utils.backup.counts import TableCounter, open_connections
from ansible_collections.sre.runbooks.plugins.module_utils.backup.losses import read_written
from ansible_collections.sre.runbooks.plugins.module_utils.backup.manifest import Manifest
from ansible_collections.sre.runbooks.plugins.module_utils.backup.objects import count_objects
from ansible_collections.sre.runbooks.plugins.module_utils.backup.properties import Properties, read_properties
from ansible_collections.sre.runbooks.plugins.module_utils.backup.snapshot import (
    COUNTED,
    QUEUE_TIMEOUT_S,
    HeldSnapshot,
    Relation,
    RetryError,
    count_large_objects,
    hold_snapshot,
    list_relations,
    read_newest_row,
    read_roles,
    read_sequences,
)
from ansible_collections.sre.runbooks.plugins.module_utils.backup.store import (
    DATA,
    GLOBALS,
    RESERVE_BYTES,
    Room,
    TargetStore,
    new_backup_id,
)
from ansible_collections.sre.runbooks.plugins.module_utils.backup.transfer import Sending
from ansible_collections.sre.runbooks.plugins.module_utils.backup.work import LARGER
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.client_tools import ClientTools, find_client_tools
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import (
    Login,
    connect,
    connection_string,
    server_errors,
    tool_options,
)
from ansible_collections.sre.runbooks.plugins.module_utils.run import process
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.files import remove_folder
from ansible_collections.sre.runbooks.plugins.module_utils.run.moments import now
from ansible_collections.sre.runbooks.plugins.module_utils.run.plan import Plan
from ansible_collections.sre.runbooks.plugins.module_utils.run.progress import Progress
from ansible_collections.sre.runbooks.plugins.module_utils.run.words import counted
from ansible_collections.sre.runbooks.plugins.module_utils.run.words import size as size_words

ATTEMPTS = 5
# pg_dump's workers lock their tables again later, and fail when somebody waits for one; a single worker does not.
ATTEMPTS_IN_PARALLEL = 2
# A backup that grows beyond the last one by this is still expected.
GROWTH = 1.25
GLOBALS_TIMEOUT_S = 600
LOOK = "Look at the server and its log, then start it again; nothing is left that looks like a backup."
# What libpq and pg_dump say when a lock is not to be had; pg_dump waits for its locks under a statement timeout.
LOCK_WORDS = ("could not obtain lock", "lock timeout", "statement timeout", "deadlock detected")


@dataclass(frozen=True)
class Request:
    """What is backed up, and how.

    Args:
        login: the role that dumps, on the server's maintenance database.
        database: the database's name.
        place: where its backups are.
        jobs: parallel workers of pg_dump, and as many connections that count.
        compression_level: gzip level, 0 to 9; 0 does not compress.
        fingerprints: take fingerprints of the tables' contents.
        credentials: let globals.sql carry the roles' password hashes.
        newest_row_query: the inventory's query; None when it has none.
        bin_directory: where the client programs are; None looks in the usual places.
        timeout_s: seconds until pg_dump is ended.
    """

    login: Login
    database: str
    place: TargetStore
    jobs: int
    compression_level: int
    fingerprints: bool
    credentials: bool
    newest_row_query: str | None
    bin_directory: str | None
    timeout_s: float


@dataclass(frozen=True)
class Observed:
    """What was found before anything is changed."""

    properties: Properties
    server_version: str
    client_version: str
    system_identifier: str
    tools: ClientTools
    tables: int
    estimated_bytes: int
    rooms: tuple[Room, ...]
    leftovers: tuple[str, ...]
    options: str
    notes: tuple[str, ...]

    @property
    def room(self) -> Room:
        """Where a backup becomes too large first."""
        return min(self.rooms, key=lambda room: room.free_bytes)


def estimate_bytes(size_bytes: int, last: Manifest | None) -> int:
    """How large a backup may become: as dense as the last one and a quarter more, at first as large as the database."""
    if last is None or not last.database.size_bytes:
        return size_bytes
    return round(size_bytes * last.total_bytes / last.database.size_bytes * GROWTH)


def observe(request: Request) -> Observed:
    """Look at the database, the client programs and the store; change nothing.

    Raises:
        RunbookError: the server, the database, the programs or the store is not there.
    """
    request.place.require()
    request.place.recipients()
    login = request.login.at(request.database)
    with server_errors(login, LOOK), connect(login, "backup") as connection:
        # The query for the newest row would wait silently behind a migration, and does without an answer here.
        connection.execute(f"SET lock_timeout = '{QUEUE_TIMEOUT_S}s'")
        properties = read_properties(connection)
        version = connection.info.server_version
        identifier = connection.execute("SELECT system_identifier::text AS id FROM pg_control_system()").fetchone()
        server_version = connection.execute("SHOW server_version").fetchone()["server_version"]
        tables, options = len(list_relations(connection)), tool_options(connection)
        _unused, notes = newest_row(connection, request.newest_row_query)
    tools = find_client_tools(version // 10000, request.bin_directory)
    printed = process.run([tools.path("pg_dump"), "--version"], timeout_s=10).stdout.split()
    return Observed(
        properties, server_version, printed[2], identifier["id"], tools, tables,
        estimate_bytes(properties.size_bytes, request.place.newest_manifest()), request.place.rooms(),
        tuple(request.place.leftovers()), options, tuple(notes),
    )


def newest_row(connection: Any, query: str | None) -> tuple[str | None, list[str]]:
    """When the newest row was made, and what an operator must know when the query does not say it.

    A query that is broken must not cost the backup, which is worth the same without it.
    """
    if not query:
        return None, []
    try:
        return read_newest_row(connection, query), []
    except RunbookError as error:
        return None, [f"The time of the newest row is not known: {error}"]


def plan_of(request: Request, observed: Observed) -> Plan:
    """The steps of a backup.

    Raises:
        RunbookError: the store or the work folder has too little room.
    """
    room = observed.room
    if room.free_bytes < observed.estimated_bytes + RESERVE_BYTES:
        raise RunbookError(
            f"There are {size_words(room.free_bytes)} free for {room.folder}, and a backup of"
            f" {request.database} may need {size_words(observed.estimated_bytes)} besides the"
            f" {size_words(RESERVE_BYTES)} that stay free.",
            LARGER if room.is_work else
            "Make room there (playbook sre.runbooks.backup_catalog shows what is old), or name another backup_store.",
            free_bytes=room.free_bytes, estimated_bytes=observed.estimated_bytes,
        )
    plan = Plan()
    for name in observed.leftovers:
        plan.add("remove what a killed backup left", name, "partial", "absent", False)
    plan.add(
        "back up database", request.place.at("<backup_id>"), "absent",
        f"{counted(observed.tables, 'table')}, up to {size_words(observed.estimated_bytes)}"
        f" of {size_words(room.free_bytes)} free, with {request.jobs} jobs, {compression(request)}",
    )
    return plan


def compression(request: Request) -> str:
    """The compression as pg_dump and the manifest name it."""
    return f"gzip:{request.compression_level}" if request.compression_level else "none"


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder that others may be writing to."""
    total = 0
    for parent, _unused, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(parent, name)).st_size
            except FileNotFoundError:
                continue
    return total


class BackupMaker:
    """Carries out one backup under the target's lock, which the caller holds."""

    def __init__(self, request: Request, observed: Observed, progress: Progress) -> None:
        self._request, self._observed, self._progress = request, observed, progress
        self._login = request.login.at(request.database)
        self._activity: Callable[[], str] = lambda: f"locking the tables of {request.database}"
        self.notes: list[str] = []

    def _doing(self) -> str:
        return self._activity()

    def make(self) -> Manifest:
        """Make the backup and give it its name.

        Raises:
            RunbookError: it could not be made; nothing is left that looks like a backup.
        """
        for name in self._request.place.remove_leftovers():
            self._progress.say(f"removed {name}, which a killed backup left")
        backup_id = new_backup_id(datetime.now(UTC))
        place = self._request.place
        try:
            with place.making(backup_id) as folder, self._full_disk_named(folder):
                with self._progress.during(self._doing), server_errors(self._login, LOOK):
                    manifest = self._attempts(backup_id, folder)
                place.publish(manifest)
        except OSError as error:
            raise RunbookError(f"{place} cannot be written: {error}.", "Look at its disk.") from error
        return manifest

    @contextlib.contextmanager
    def _full_disk_named(self, folder: Path) -> Iterator[None]:
        """While what fills it still lies there."""
        try:
            yield
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise self._full(folder) from error

    def _attempts(self, backup_id: str, folder: Path) -> Manifest:
        place = self._request.place
        for attempt in range(1, ATTEMPTS + 1):
            try:
                jobs = self._request.jobs if attempt <= ATTEMPTS_IN_PARALLEL else 1
                with place.sending(backup_id, folder, self._request.jobs, self._observed.estimated_bytes) as sending:
                    return self._dump(backup_id, folder, jobs, sending)
            except RetryError as error:
                reason = str(error)
                self._progress.say(f"attempt {attempt} of {ATTEMPTS}: {reason}; beginning again")
            place.unsend(backup_id)
            remove_folder(folder / DATA)
        raise RunbookError(
            f"No snapshot of {self._request.database} could be dumped in {ATTEMPTS} attempts: {reason}.",
            "Start it again when no migration, TRUNCATE or DDL is running on this database.",
        )

    def _dump(self, backup_id: str, folder: Path, jobs: int, sending: Sending) -> Manifest:
        started_at, request = now(), self._request
        with hold_snapshot(self._login) as held:
            connection = held.connection
            written = read_written(connection)
            properties = read_properties(connection)
            sequences, large_objects = read_sequences(connection), count_large_objects(connection)
            newest_row_at, self.notes = newest_row(connection, request.newest_row_query)
            roles, objects = read_roles(connection, properties), count_objects(connection)
            # The session that holds the locks need not queue for them.
            connections = open_connections(self._login, held.snapshot.id, jobs) if jobs > 1 else [connection]
            counter = TableCounter(connections, held.relations, fingerprints=request.fingerprints)
            try:
                counter.start()
                self._run_pg_dump(folder, held, counter, jobs, sending)
                tables = counter.result()
            finally:
                counter.close()
        self._globals(folder, roles)
        self._require_every_table(folder, held.relations)
        files = sending.finish(files_below(folder), self._progress)
        return request.place.sealed(Manifest(
            backup_id=backup_id, system=request.place.system, target=request.place.target, started_at=started_at,
            ended_at=now(), server_version=self._observed.server_version,
            client_version=self._observed.client_version, system_identifier=self._observed.system_identifier,
            database=properties, snapshot=held.snapshot, newest_row_at=newest_row_at, tables=tables,
            sequences=sequences, large_objects=large_objects, roles=roles, files=files,
            total_bytes=sum(file.bytes for file in files), compression=compression(request), jobs=jobs,
            written=written, objects=objects,
        ))

    def _run_pg_dump(
        self, folder: Path, held: HeldSnapshot, counter: TableCounter, jobs: int, sending: Sending
    ) -> None:
        expected = sum(relation.kind in COUNTED for relation in held.relations)
        self._activity = lambda: (
            f"{size_words(size_of(folder / DATA))} written of up to {size_words(self._observed.estimated_bytes)},"
            f" {counter.done()} of {counted(len(held.relations), 'table')} counted"
        )
        self._progress.say(f"dumping {counted(expected, 'table')} in snapshot {held.snapshot.id}")

        def meanwhile() -> None:
            counter.check()
            sending.look()

        argv = [
            self._observed.tools.path("pg_dump"), "--format=directory", f"--file={folder / DATA}",
            f"--jobs={jobs}", f"--snapshot={held.snapshot.id}",
            # Only a number is known to pg_dump of every version; words such as gzip:1 came with 16.
            f"--compress={self._request.compression_level}", f"--lock-wait-timeout={QUEUE_TIMEOUT_S}s", "--no-password",
            f"--dbname={connection_string(self._request.database)}",
            # What is only sent from here need not outlive a power cut.
            *([] if self._request.place.is_in_place else ["--no-sync"]),
        ]
        environment = self._login.environment()
        environment["PGOPTIONS"] += f" {self._observed.options}"
        done = process.run(
            argv, timeout_s=self._request.timeout_s, secrets=environment, while_waiting=meanwhile, check=False,
            hint="Raise database_backup_timeout_seconds, or database_backup_jobs, then start it again.",
        )
        if done.returncode == 0:
            return
        if "No space left on device" in done.stderr_tail:
            raise self._full(folder)
        if any(words in done.stderr_tail for words in LOCK_WORDS):
            raise RetryError("another session wanted a table for itself")
        raise RunbookError(
            f"pg_dump of {self._request.database} {done.ending}:"
            f" {done.stderr_tail or 'it printed no error'}.",
            "Nothing is left that looks like a backup; mend the cause and start it again.", returncode=done.returncode,
        )

    def _globals(self, folder: Path, roles: list[str]) -> None:
        argv = [
            self._observed.tools.path("pg_dumpall"), "--globals-only", "--no-password", f"--file={folder / GLOBALS}",
            f"--dbname={connection_string(self._request.login.database)}",
        ]
        if not self._request.credentials:
            argv.append("--no-role-passwords")
        process.run(
            argv, timeout_s=GLOBALS_TIMEOUT_S, secrets=self._request.login.environment(),
            hint=f"database_admin must be allowed to read the roles, and the disk of {folder} must have room.",
        )
        (folder / GLOBALS).chmod(0o600)
        with (folder / GLOBALS).open("rb") as stream:
            os.fsync(stream.fileno())
        there = read_globals((folder / GLOBALS).read_text("utf-8", errors="replace")).roles
        # What is not ASCII may stand there in another encoding.
        missing = [role for role in roles if role.isascii() and role not in there]
        if missing:
            raise RunbookError(
                f"pg_dumpall ended without an error, but its {GLOBALS} lacks {len(missing)} roles:"
                f" {', '.join(missing[:5])}.",
                "Nothing is left that looks like a backup; start it again, and look at the version of pg_dumpall.",
                roles=missing,
            )

    def _require_every_table(self, folder: Path, relations: tuple[Relation, ...]) -> None:
        """pg_dump can end with exit code 0 without a table that it took for somebody else's."""
        entries = read_contents(self._observed.tools, folder / DATA)
        with_data = {entry.oid for entry in entries if entry.kind == "TABLE DATA"}
        defined = {entry.oid for entry in entries if entry.kind != "TABLE DATA"}
        missing = [
            f"{relation.schema}.{relation.name}"
            for relation in relations
            if relation.oid not in defined or (relation.kind in COUNTED and relation.oid not in with_data)
        ]
        if missing:
            raise RunbookError(
                f"pg_dump ended without an error, but its archive lacks {len(missing)} tables:"
                f" {', '.join(missing[:5])}.",
                "Nothing is left that looks like a backup; look at the version and the extensions of this server.",
                tables=missing,
            )

    def _full(self, folder: Path) -> RunbookError:
        pairs = zip(self._observed.rooms, self._request.place.rooms(), strict=True)
        before, after = min(pairs, key=lambda pair: pair[1].free_bytes)
        dumped = size_of(folder)
        return RunbookError(
            f"The disk for {after.folder} became full while {self._request.database} was backed up:"
            f" {size_words(dumped)} were dumped, up to {size_words(self._observed.estimated_bytes)} were expected,"
            f" {size_words(before.free_bytes)} were free there at the start and {size_words(after.free_bytes)} then.",
            f"{LARGER if after.is_work else 'Make room there.'} Then start it again; nothing is left of this backup.",
            dumped_bytes=dumped, estimated_bytes=self._observed.estimated_bytes,
        )
