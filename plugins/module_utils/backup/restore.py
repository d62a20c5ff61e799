# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A database brought back from a backup: each state of the way, reached from wherever the markers say it stands."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ansible_collections.sre.runbooks.plugins.module_utils.backup import content, export, load, preflight
from ansible_collections.sre.runbooks.plugins.module_utils.backup.catalog import Backup, pick
from ansible_collections.sre.runbooks.plugins.module_utils.backup.filling import Filling
from ansible_collections.sre.runbooks.plugins.module_utils.backup.losses import losses, losses_of_going_back
from ansible_collections.sre.runbooks.plugins.module_utils.backup.manifest import Manifest
from ansible_collections.sre.runbooks.plugins.module_utils.backup.properties import Properties, read_properties
from ansible_collections.sre.runbooks.plugins.module_utils.backup.replay import (
    changed_properties,
    replay,
    replay_changes,
)
from ansible_collections.sre.runbooks.plugins.module_utils.backup.request import RestoreRequest
from ansible_collections.sre.runbooks.plugins.module_utils.backup.store import TargetStore
from ansible_collections.sre.runbooks.plugins.module_utils.backup.swap import (
    INVALID,
    UNTOUCHED,
    CatchUp,
    Database,
    Position,
    Swap,
    copy_name,
)
from ansible_collections.sre.runbooks.plugins.module_utils.backup.verdict import height
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql import marker as markers
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.client_tools import find_client_tools
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import (
    Login,
    connect,
    identifier,
)
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.moments import utc_text
from ansible_collections.sre.runbooks.plugins.module_utils.run.plan import Plan
from ansible_collections.sre.runbooks.plugins.module_utils.run.progress import Progress
from ansible_collections.sre.runbooks.plugins.module_utils.run.words import about

with contextlib.suppress(ImportError):  # connect() tells the operator
    from psycopg import errors, sql

PREPARED, SWAPPED, DONE, UNDONE, EXPORTED = "prepared", "swapped", "done", "undone", "exported"
STATES = (PREPARED, SWAPPED, DONE, UNDONE, EXPORTED)
RESTORE = "sre.runbooks.database_restore"
UNDO = "sre.runbooks.database_restore_undo"
# From here on the live database has been touched.
UNDER_WAY = (markers.CLOSED, markers.EXCHANGED, markers.OPENED)


@dataclass(frozen=True)
class Request(RestoreRequest):
    """What is restored in the live database's place; see the module's documentation for each."""

    newest_row_query: str | None = None
    retired: str | None = None
    losses_agreed: bool = False
    drop_copy: bool = True
    session_timeout_s: float = 5.0
    smoke_timeout_s: float = 10.0
    export_directory: Path = field(default_factory=export.default_directory)
    export_s: float = 600.0


@dataclass
class Result:
    """What a call found and did."""

    plan: Plan = field(default_factory=Plan)
    position: dict[str, Any] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For the module."""
        return {"plan": self.plan.as_list(), "position": self.position, **self.values}


class Restore:
    """Brings one database to one of STATES, or says in a plan what it would do.

    Args:
        request: what and how.
        progress: where to report.
        check: change nothing, and take no lock.
    """

    def __init__(self, request: Request, progress: Progress, *, check: bool) -> None:
        self.request = request
        self.progress = progress
        self.check = check
        self.swap = Swap(
            request.login, request.database, request.run, progress, request.session_timeout_s,
            request.drop_timeout_s,
        )
        self.result = Result()

    def reach(self, state: str) -> Result:
        """Reach the state; each step is taken from what the markers say now.

        Raises:
            RunbookError: it cannot be reached; see each state's function for what is left.
        """
        reach = {
            PREPARED: self._prepare, SWAPPED: self._swap_in, DONE: self._finish, UNDONE: self._undo,
            EXPORTED: self._export,
        }[state]
        try:
            with contextlib.nullcontext() if self.check else self.swap.alone(self.request.lock_wait_s):
                reach(self.swap.position())
                self.result.position = self.swap.position().as_dict()
        except errors.Error as error:
            raise RunbookError(
                f"PostgreSQL refused while {self.request.database!r} was brought to {state!r}: "
                f"{' '.join(str(error).split()).rstrip('.')}.",
                "Make room on the server's disk, then run the same command again." if isinstance(error, errors.DiskFull)
                else "Mend that, then run the same command again: it goes on from where this one ended.",
            ) from error
        return self.result

    # prepared

    def _prepare(self, position: Position) -> None:
        """Restore a copy beside the live database and prove it; whatever fails, the copy is dropped again."""
        request = self.request
        if position.state in UNDER_WAY:
            self._go_on(position)
            return
        backups = request.place.backups()
        backup = pick(
            backups, backup_id=request.backup_id, before=request.before,
            least_rung=request.least_rung,
        )
        manifest = request.place.manifest(backup.backup_id)
        self.result.values["backup"] = {
            "backup_id": backup.backup_id, "taken_at": manifest.snapshot.taken_at, "proven_rung": backup.proven_rung,
            "newest_row_at": manifest.newest_row_at, "size_bytes": manifest.database.size_bytes,
            "drill_seconds": _drill_seconds(request.place, backup.backup_id), "newer": _newer(backups, backup),
            "rows": _rows(manifest), "rows_before": _rows_before(request.place, backups, backup),
        }
        properties = manifest.database
        if position.live:
            _require_open(position.live)
            properties = read_properties(self.swap.connection, request.database)
            with connect(request.login.at(request.database), "preflight") as live:
                self.result.values["losses"] = losses(live, manifest, request.newest_row_query)
        ready = position.prepared(backup.backup_id)
        findings = self._preflight(manifest, properties, position)
        name = copy_name(request.database, backup.backup_id)
        plan = self.result.plan
        for copy in position.copies:
            if copy != ready:
                plan.add("drop what a run that ended left", copy.name, "unfinished copy", "absent", reversible=False)
        if ready is None:
            plan.add("restore the backup beside the live database", name, "absent", f"backup {backup.backup_id}")
        if findings.problems:
            raise RunbookError(
                f"{request.database!r} cannot be restored from {backup.backup_id}: {' '.join(findings.problems)}",
                "Nothing was changed; mend these and run the same command again.", problems=findings.problems,
            )
        self.result.values["notes"] = findings.notes + (
            changed_properties(_own(properties), _own(manifest.database)) if position.live else []
        )
        if self.check:
            return
        for copy in position.copies:
            if copy != ready:
                self.swap.drop(copy.name)
        if ready is None:
            filling = Filling(
                request.login, request.place, manifest, self.progress, bin_directory=request.bin_directory,
                jobs=request.jobs, timeout_s=request.timeout_s,
            )
            with filling.plain() as folder:
                # Outside: when there is a database of that name, it is none of this call's.
                load.create_database(self.swap.connection, name, manifest.database, properties.tablespace)
                try:
                    self._fill(name, filling, folder, _own(properties), position)
                except BaseException:
                    self._drop_copy(name)
                    raise

    def _size_of(self, databases: tuple[Database, ...]) -> int:
        query = "SELECT coalesce(sum(pg_database_size(oid)), 0)::bigint AS size FROM unnest(%s::oid[]) AS oid"
        return self.swap.connection.execute(query, [[one.oid for one in databases]]).fetchone()["size"]

    def _preflight(self, manifest: Manifest, properties: Properties, position: Position) -> preflight.Findings:
        request = self.request
        server = preflight.read_server(self.swap.connection, request.database)
        free = preflight.free_bytes(self.swap.connection, properties.tablespace)
        if free is None:
            free = request.free_bytes
        if free is not None:  # a copy that is there takes its room already, or gives it back
            free += self._size_of(position.copies)
        live_bytes = properties.size_bytes if position.live else None
        findings = preflight.judge(
            server, manifest, properties, request.database, request.login.user, live_bytes, free
        )
        try:
            find_client_tools(server.major, request.bin_directory)
        except RunbookError as error:
            findings.problems.append(str(error))
        self.result.values["needed_bytes"] = findings.needed_bytes
        self.result.values["free_bytes"] = findings.free_bytes
        return findings

    def _fill(
        self, name: str, filling: Filling, folder: Path, properties: Properties, position: Position
    ) -> None:
        request, say, manifest = self.request, self.progress.say, filling.manifest
        login, connection = request.login.at(name), self.swap.connection
        marker = markers.Marker(markers.RESTORING, request.run, request.database, manifest.backup_id)
        copy = Database(name, 0, None, marker, True, 0)
        self.swap.mark(copy, marker)
        say(f"restoring {manifest.backup_id} into {name}")
        filling.load(connection, name, folder, [()])
        say("comparing every table with the manifest")
        notes = content.compare(login, manifest, request.jobs, self.progress)
        self.result.values["notes"] += notes
        with connection.transaction():
            replay(connection, name, properties)
        with connect(login, "restore") as new:
            if position.live:
                with connect(request.login.at(request.database), "sequences") as live:
                    self.result.values["sequences"] = content.advance_sequences(live, new)
            # Without VACUUM, autovacuum would read the whole copy while the applications come back to it.
            say("collecting statistics (VACUUM ANALYZE)")
            with self.progress.during(lambda: "collecting statistics (VACUUM ANALYZE)"):
                new.execute("VACUUM (ANALYZE)")
        if request.application_check:
            say("asking the application's own check")
            with self.progress.during(lambda: "asking the application's own check"):
                text = content.ask_application(login, request.application_check, request.check_timeout_s)
            self.result.values["application_check"] = text
        prepared = replace(copy, comment=properties.comment)
        self.swap.mark(prepared, replace(marker, state=markers.PREPARED))

    def _drop_copy(self, name: str) -> None:
        """Drop the copy after a failure; when that fails too, the first error matters, and the next run drops it."""
        try:
            self.swap.drop(name)
        except (errors.Error, RunbookError) as error:
            self.progress.say(f"{name} could not be dropped ({' '.join(str(error).split())}); the next run does it")

    def _go_on(self, position: Position) -> None:
        """An earlier run was stopped in the middle of the exchange: its backup is the one."""
        if position.undoing:
            raise RunbookError(
                f"Going back to a retired database of {self.request.database!r} was begun and not ended.",
                f"End that first: ansible-playbook {UNDO} with the same target.", position=position.as_dict(),
            )
        if self.request.backup_id and self.request.backup_id != position.backup:
            raise RunbookError(
                f"A restore of {self.request.database!r} from {position.backup} was begun and not ended "
                f"(it stands at {position.state!r}).",
                f"End it with -e backup={position.backup}, or go back with the playbook {UNDO}.",
                position=position.as_dict(),
            )
        self.result.values["backup"] = {"backup_id": position.backup}
        self.result.values["notes"] = [
            f"An earlier run was stopped when it stood at {position.state!r}: this one goes on from there."
        ]

    # swapped

    def _swap_in(self, position: Position) -> None:
        """Exchange the prepared copy for the live database; whatever fails, the old one is live and open again."""
        if position.state == markers.OPENED and not position.undoing:
            self.result.values["retired"] = position.partner.name if position.partner else None
            return
        if self.check and position.state in (UNTOUCHED, markers.RESTORING):
            position = replace(position, copies=())
        elif position.state not in (markers.PREPARED, markers.CLOSED, markers.EXCHANGED) or position.undoing:
            raise RunbookError(
                f"{self.request.database!r} stands at {position.state!r}, and there is nothing prepared to exchange.",
                f"Run the playbook {RESTORE}, which prepares a copy first.", position=position.as_dict(),
            )
        plan, name = self.result.plan, self.request.database
        if position.state != markers.EXCHANGED:
            plan.add("forbid new connections and end all sessions", name, "open", "closed")
            plan.add("exchange the names", name, "live", "retired; the restored one is live")
        plan.add("let applications in", name, "kept out", "open")
        if self.check:
            return
        if position.state == markers.CLOSED:
            # Killed before the exchange. Whatever was read then is read again, and for that it has to be open.
            self.swap.reopen()
            position = self.swap.position()
        with contextlib.ExitStack() as stack:
            catch_up = self._catch_up(position, stack)
            done = self.swap.swap_in(self._until(), self._limit(position), self._smoke, catch_up)
        self.result.values["exchange_seconds"] = done["seconds"]
        self.result.values["sessions_ended"] = done["sessions"]
        partner = self.swap.position().partner
        self.result.values["retired"] = partner.name if partner else None

    def _catch_up(self, position: Position, stack: contextlib.ExitStack) -> CatchUp | None:
        """The live database went on while the copy was made, perhaps by a run before this one.

        What takes time is done at once. The sequences come last, when nobody is left who could advance them.
        """
        copy = position.prepared()
        if position.state != markers.PREPARED or position.live is None or copy is None:
            return None
        request, connection = self.request, self.swap.connection
        live = connect(request.login.at(request.database), "sequences")
        stack.callback(live.close)
        new = connect(request.login.at(copy.name), "sequences")
        stack.callback(new.close)
        manifest = self._manifest_of(position.backup)
        if manifest:
            self.result.values["losses"] = losses(live, manifest, request.newest_row_query)
        wanted = _own(read_properties(connection, request.database))
        with connection.transaction():
            replay_changes(connection, copy.name, _own(read_properties(connection, copy.name)), wanted)
            if copy.comment != wanted.comment:
                self.swap.mark(replace(copy, comment=wanted.comment), copy.marker)

        def act() -> None:
            self.result.values["sequences"] = content.advance_sequences(live, new)
            live.close()
            new.close()

        return CatchUp((live.info.backend_pid, new.info.backend_pid), act)

    def _limit(self, position: Position) -> int:
        """The connection limit where no old database tells it: that of the manifest, when it can be read."""
        if position.live and position.state != markers.EXCHANGED:
            return position.live.connection_limit
        backup = position.backup
        manifest = self._manifest_of(backup)
        return manifest.database.connection_limit if manifest else -1

    def _smoke(self) -> None:
        """The new live database answers under its name, is the restored one, and the application's check passes."""
        self._answers(self.request.database)
        if self.request.application_check:
            login = self.request.login.at(self.request.database)
            content.ask_application(login, self.request.application_check, self.request.smoke_timeout_s)

    def _answers(self, name: str) -> None:
        with connect(self.request.login.at(name), "smoke check") as connection:
            connection.execute("SELECT count(*) FROM pg_class")

    # done

    def _finish(self, position: Position) -> None:
        """Take the marker away from the live database."""
        if position.state == UNTOUCHED:
            return
        if position.state != markers.OPENED:
            raise RunbookError(
                f"{self.request.database!r} stands at {position.state!r}, so nothing can be called done.",
                f"Run the playbook {RESTORE} again: it goes on from there.", position=position.as_dict(),
            )
        self.result.plan.add("take the marker away", self.request.database, markers.OPENED, "no marker")
        if not self.check:
            self.swap.finish()

    # undone

    def _undo(self, position: Position) -> None:
        """Reach the start again. Where applications have been let in since, only with `losses_agreed`."""
        name, plan = self.request.database, self.result.plan
        if position.state == markers.OPENED and position.undoing:
            self.result.values["abandoned"] = position.partner.name if position.partner else None
            if self.check:
                self._plan_export()
            return
        unopened = position.state not in (UNTOUCHED, markers.OPENED) and not (
            position.state == markers.CLOSED and position.undoing
        )
        if unopened:
            if position.state == markers.EXCHANGED:
                plan.add("exchange the names back", name, "restored", "as before")
            if position.state in (markers.CLOSED, markers.EXCHANGED):
                plan.add("let applications in", name, "closed", "open")
            if self.request.drop_copy:
                copy = copy_name(name, position.backup)
                plan.add("drop the copy", copy, "unfinished copy", "absent", reversible=False)
            if not self.check:
                self.swap.give_way()
                self.result.values["left"] = self._drop_copies() if self.request.drop_copy else []
            return
        if position.state == markers.OPENED and not self.request.losses_agreed and not self.check:
            raise RunbookError(
                f"Applications have been let into {name!r} since the exchange; going back loses what they wrote.",
                f"Decide that with the playbook {UNDO}, which says how much it is.",
            )
        if position.state == UNTOUCHED and not self.request.losses_agreed and not self.check:
            return
        kept = self._kept(position)
        self.result.values["retired"] = kept.name
        if position.live is None or kept.marker is None:
            raise RunbookError(
                f"There is no live database {name!r} to exchange {kept.name!r} for.",
                f"Look at who dropped or renamed it. To let {kept.name!r} be {name!r} again, rename it by hand"
                " (ALTER DATABASE … RENAME TO …) and allow connections.",
            )
        plan.add("exchange the names back", name, "restored", f"the one kept as {kept.name}")
        if self.check:
            self._plan_export()
            if position.state != markers.CLOSED:
                login = self.request.login.at(name)
                tables = content.count_tables(login, self.request.jobs, self.progress)
                with connect(login, "preflight") as live:
                    manifest = self._manifest_of(kept.marker.backup)
                    self.result.values["losses"] = losses_of_going_back(live, manifest, tables)
            return
        if position.state == markers.CLOSED:
            # Killed before the exchange: the sequences have to be read, and for that it has to be open.
            self.swap.reopen()
        with contextlib.ExitStack() as stack:
            done = self.swap.swap_back(kept.name, self._until(), self._catch_up_back(kept, stack))
        self.result.values["exchange_seconds"] = done["seconds"]
        self.result.values["sessions_ended"] = done["sessions"]
        partner = self.swap.position().partner
        self.result.values["abandoned"] = partner.name if partner else None

    def _catch_up_back(self, kept: Database, stack: contextlib.ExitStack) -> CatchUp:
        """A number that was given out since the exchange is not given out again: the rows with it may yet be loaded.

        Raises:
            RunbookError: the kept database does not answer; nothing has been touched.
        """
        live = connect(self.request.login.at(self.request.database), "sequences")
        stack.callback(live.close)
        with self.swap.entered(kept):
            self._answers(kept.name)
            old = connect(self.request.login.at(kept.name), "sequences")
            stack.callback(old.close)

        def act() -> None:
            self.result.values["sequences"] = content.advance_sequences(live, old)
            live.close()
            old.close()

        return CatchUp((live.info.backend_pid, old.info.backend_pid), act)

    # exported

    def _plan_export(self) -> None:
        request = self.request
        if request.export_s:
            export.require_writable(request.export_directory)
            self.result.plan.add(
                "export what was written since, once the consumers are back", request.database,
                "only in the one that is put aside",
                f"also in files below {request.export_directory}, within {about(request.export_s)}",
            )

    def _export(self, position: Position) -> None:
        """Write into files what only the database has that an undo put aside; it is kept there whatever fails."""
        live, aside, request = position.live, position.partner, self.request
        if live is None or aside is None or position.state != markers.OPENED or not position.undoing:
            return
        if self.check or not request.export_s:
            return
        backup = None
        if live.marker and aside.marker and live.marker.backup == aside.marker.backup:
            backup = self._manifest_of(aside.marker.backup)
        with contextlib.ExitStack() as stack:
            back = stack.enter_context(connect(request.login.at(request.database), "export"))
            with self.swap.entered(aside):
                put_aside = stack.enter_context(connect(request.login.at(aside.name), "export"))
            boundaries = export.read_boundaries(
                self.swap.connection, since=live.marker.xid if live.marker else 0,
                until=aside.marker.xid if aside.marker else 0, back_oid=live.oid, backup=backup,
            )
            exporter = export.Exporter(
                put_aside, back, boundaries, request.export_directory, self.progress, request.export_s
            )
            found = exporter.write(request.database, aside.name)
        self.result.values["export"] = found
        if found["folder"]:
            self.result.plan.add(
                "export what was written since", aside.name, "only there", f"also in {found['folder']}"
            )

    def _drop_copies(self) -> list[str]:
        """Drop all copies; returns those that cannot be dropped now, which costs disk and nothing else."""
        left = []
        for copy in self.swap.position().copies:
            try:
                self.swap.drop(copy.name)
            except RunbookError as error:
                left.append(error.message)
            except errors.Error as error:
                left.append(f"The database {copy.name!r} could not be dropped: {' '.join(str(error).split())}.")
        return left

    def _kept(self, position: Position) -> Database:
        """The retired database to bring back: the one named, else the latest."""
        hint = "List what is kept with the playbook sre.runbooks.database_retired."
        if self.request.retired:
            for one in position.kept:
                if one.name == self.request.retired:
                    return one
            raise RunbookError(f"There is no database {self.request.retired!r} kept for {position.database!r}.", hint)
        if not position.kept:
            raise RunbookError(f"No database is kept for {position.database!r}, so nothing can be undone.", hint)
        latest = position.kept[-1]
        if latest.marker and latest.marker.state == markers.ABANDONED:
            raise RunbookError(
                f"The last restore of {position.database!r} is undone already.",
                f"To bring back another one that is kept, name it: -e retired={latest.name}",
                undone_already=True,
            )
        return latest

    def _manifest_of(self, backup_id: str) -> Manifest | None:
        """The manifest of a backup; None where it is gone or broken, which must not stop a way back."""
        with contextlib.suppress(RunbookError):
            return self.request.place.manifest(backup_id)
        return None

    def _until(self) -> str:
        return utc_text(datetime.now(UTC) + timedelta(seconds=self.request.retained_s), "seconds")


def _require_open(live: Database) -> None:
    """Refuse a live database that nobody can enter: what it has and what would be lost must be read there."""
    name = identifier(live.name).as_string()
    if live.connection_limit == INVALID:
        raise RunbookError(
            f"Dropping the database {live.name!r} was begun and not ended, so nothing in it can be read any more.",
            f"End that (DROP DATABASE {name};), then run the same command again: it restores without a live one.",
        )
    if not live.allows:
        raise RunbookError(
            f"The database {live.name!r} allows no connections, and its sequences must be read.",
            f"Run there: ALTER DATABASE {name} ALLOW_CONNECTIONS true; (its consumers are stopped before the "
            "exchange), then run the same command again.",
        )


def _newer(backups: list[Backup], chosen: Backup) -> dict[str, Any]:
    """How many backups are newer than the chosen one and proven less or damaged, and when the newest was taken."""
    newer = [
        one for one in backups
        if one.taken_at and chosen.taken_at and one.taken_at > chosen.taken_at
        and height(one.proven_rung) < height(chosen.proven_rung)
    ]
    damaged = [one for one in newer if one.damage]
    return {
        "count": len(newer) - len(damaged), "damaged": len(damaged),
        "newest_taken_at": utc_text(newer[-1].taken_at) if newer else None,
    }


def _rows(manifest: Manifest) -> int:
    return sum(table.rows or 0 for table in manifest.tables)


def _rows_before(place: TargetStore, backups: list[Backup], chosen: Backup) -> int | None:
    """Rows of the backup before the chosen one: a backup taken after the accident is whole, and holds the accident."""
    earlier = [one for one in backups if one.taken_at and chosen.taken_at and one.taken_at < chosen.taken_at]
    try:
        return _rows(place.manifest(earlier[-1].backup_id)) if earlier else None
    except RunbookError:  # the catalog says so
        return None


def _drill_seconds(place: TargetStore, backup_id: str) -> float | None:
    """How long a recovery took in the last drill; None when there was none."""
    try:
        # Not those of the catalog: a bucket's are made from names, which tell no durations.
        took = [verdict.recovery_s for verdict in place.verdicts(backup_id) if verdict.recovery_s is not None]
    except RunbookError:  # a length that is not known stops no restore
        return None
    return round(took[-1], 1) if took else None


def _own(properties: Properties) -> Properties:
    """The properties with the owner's own comment, without a marker of ours."""
    return replace(properties, comment=markers.split(properties.comment)[0])


def list_kept(login: Login, moment: datetime) -> list[dict[str, Any]]:
    """All retired and abandoned databases and copies of a server, with their disk cost.

    Returns:
        `name, database, state, backup, run, until, expired, size_bytes`, by name.
    """
    kept = []
    with connect(login, "retired") as connection:
        rows = connection.execute(
            "SELECT datname AS name, shobj_description(oid, 'pg_database') AS comment,"
            " pg_database_size(oid) AS size_bytes FROM pg_database"
            " WHERE shobj_description(oid, 'pg_database') LIKE '%sre.runbooks: %' ORDER BY datname"
        ).fetchall()
    for row in rows:
        _unused, marker = markers.split(row["comment"])
        if marker and marker.state in (markers.RETIRED, markers.ABANDONED, markers.COPY):
            kept.append({
                "name": row["name"], "database": marker.database, "state": marker.state, "backup": marker.backup,
                "run": marker.run, "until": marker.until, "expired": marker.expired(moment),
                "size_bytes": row["size_bytes"],
            })
    return kept


def drop_kept(login: Login, names: list[str]) -> None:
    """Drop databases by name; the caller has made sure that each is kept and expired.

    Raises:
        RunbookError: one cannot be dropped; `dropped` in the context are those before it.
    """
    with connect(login, "retired") as connection:
        for number, name in enumerate(names):
            try:
                connection.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(identifier(name)))
            except errors.Error as error:
                raise RunbookError(
                    f"{name!r} could not be dropped ({' '.join(str(error).split())}); dropped before it were: "
                    f"{', '.join(names[:number]) or 'none'}.",
                    "End who is in it, then run the same command again.", dropped=names[:number],
                ) from error
