# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The exchange of a live database for another one, and back: where it stands, and each step from there.

Every position is read from the markers, and a marker changes in the same transaction as the thing that it describes,
so that a swap which was killed anywhere is continued by the next call.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from ansible_collections.sre.runbooks.plugins.module_utils.postgresql import marker as markers
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import (
    APPLICATION_NAME,
    Login,
    connect,
    identifier,
    shorten,
)
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.marker import Marker
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.progress import Progress

with contextlib.suppress(ImportError):  # connect() tells the operator
    import psycopg
    from psycopg import sql

UNTOUCHED = "untouched"
RESTORING_SUFFIX = re.compile(r"__restoring_(\d{8}T\d{6}Z-[0-9a-f]{4})$")
POLL_S = 0.005
# A rename waits for locks on the database itself (an open ALTER ROLE … IN DATABASE); applications are away meanwhile.
LOCK_TIMEOUT_S = 5.0
# DROP DATABASE waits for a checkpoint, and until every process of the server has let go of its files.
DROP_TIMEOUT_S = 300.0
# How long a server that went away may take to be back, before going back is left to the next call.
RECOVERY_S = 60.0
# The server's own mark on a database whose dropping was begun: it can only be dropped.
INVALID = -2

# Other people's names and comments are left alone: they may be in the encoding of another database.
DATABASES = """
SELECT d.datname AS name, d.oid::bigint AS oid, shobj_description(d.oid, 'pg_database') AS comment,
       d.datallowconn AS allows, d.datconnlimit AS connection_limit
FROM pg_database AS d
WHERE d.datname = %(database)s OR d.datname LIKE '%%\\_\\_restoring\\_%%'
   OR shobj_description(d.oid, 'pg_database') LIKE '%%sre.runbooks: %%'
ORDER BY d.datname
"""
END_SESSIONS = """
SELECT pid, usename AS user, application_name AS application, backend_type AS type, pg_terminate_backend(pid) AS asked
FROM pg_stat_activity WHERE datid = ANY(%s::oid[]) AND pid <> pg_backend_pid() AND pid <> ALL(%s::int[])
"""
LOCK_KEY = "hashtextextended('sre.runbooks swap ' || %s, 0)"
LOCK_HOLDER = f"""
SELECT a.pid, a.application_name AS application, a.backend_start AS since
FROM pg_locks AS l JOIN pg_stat_activity AS a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.granted AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (l.classid::bigint << 32 | l.objid::bigint) = {LOCK_KEY}
"""  # noqa: E501, S608 - no value is formatted into it
LOCKERS = """
SELECT a.pid, a.usename AS user, a.application_name AS application, a.backend_type AS type
FROM pg_locks AS l JOIN pg_stat_activity AS a ON a.pid = l.pid
WHERE l.locktype = 'object' AND l.classid = 'pg_database'::regclass AND l.objid = ANY(%s::oid[])
  AND l.pid <> pg_backend_pid()
"""


@dataclass(frozen=True)
class Database:
    """A database as a swap sees it. `comment` is the owner's own text, without the marker."""

    name: str
    oid: int
    comment: str | None
    marker: Marker | None
    allows: bool
    connection_limit: int


@dataclass(frozen=True)
class Position:
    """Where the swap of one database stands.

    Args:
        database: the live name.
        live: the database of that name; None when there is none.
        copies: restored ones beside it, whole or not.
        kept: retired and abandoned ones, the latest last.
    """

    database: str
    live: Database | None
    copies: tuple[Database, ...]
    kept: tuple[Database, ...]

    @property
    def state(self) -> str:
        """`untouched`, `restoring`, `prepared`, `closed`, `exchanged` or `opened`."""
        if self.live and self.live.marker:
            return self.live.marker.state
        states = {copy.marker.state for copy in self.copies if copy.marker}
        if markers.PREPARED in states:
            return markers.PREPARED
        return markers.RESTORING if self.copies else UNTOUCHED

    @property
    def backup(self) -> str:
        """The backup that an unfinished swap restores; empty when there is none."""
        if self.live and self.live.marker:
            return self.live.marker.backup
        prepared = self.prepared()
        return prepared.marker.backup if prepared and prepared.marker else ""

    @property
    def undoing(self) -> bool:
        """Whether the unfinished swap is one back to a retired database."""
        if self.live and self.live.marker and self.state == markers.CLOSED:
            return not self.live.marker.backup
        partner = self.partner
        return partner is not None and partner.marker is not None and partner.marker.state == markers.ABANDONED

    @property
    def partner(self) -> Database | None:
        """The kept database that the unfinished swap put aside."""
        if self.live is None or self.live.marker is None or self.state == markers.CLOSED:
            return None
        run = self.live.marker.run
        return next((kept for kept in reversed(self.kept) if kept.marker and kept.marker.run == run), None)

    def prepared(self, backup: str | None = None) -> Database | None:
        """The prepared copy, of this backup when one is given."""
        return next(
            (
                copy for copy in self.copies
                if copy.marker and copy.marker.state == markers.PREPARED and backup in (None, copy.marker.backup)
            ),
            None,
        )

    def as_dict(self) -> dict[str, Any]:
        """For a module's result."""
        return {
            "state": self.state, "backup": self.backup, "undoing": self.undoing, "exists": self.live is not None,
            "copies": [copy.name for copy in self.copies], "kept": [kept.name for kept in self.kept],
        }


def read_position(databases: list[dict[str, Any]], database: str) -> Position:
    """Find out where the swap of `database` stands.

    Args:
        databases: the rows of DATABASES.
        database: the live name.
    """
    live, copies, kept = None, [], []
    for row in databases:
        comment, marker = markers.split(row["comment"])
        if marker and marker.state == markers.PREPARED and row["connection_limit"] == INVALID:
            marker = replace(marker, state=markers.RESTORING)
        found = Database(row["name"], row["oid"], comment, marker, row["allows"], row["connection_limit"])
        if found.name == database:
            live = found
        elif marker and marker.state == markers.COPY:
            continue
        elif marker and marker.database == database:
            (kept if marker.state in (markers.RETIRED, markers.ABANDONED) else copies).append(found)
        elif marker is None:
            # Killed between CREATE DATABASE and the marker: a transaction cannot hold both.
            suffix = RESTORING_SUFFIX.search(found.name)
            if suffix and found.name == copy_name(database, suffix.group(1)):
                copies.append(found)
    kept.sort(key=lambda one: one.name[-20:])
    return Position(database, live, tuple(copies), tuple(kept))


def copy_name(database: str, backup: str) -> str:
    """The name of the copy while it stands beside the live database."""
    return shorten(database, f"__restoring_{backup}")


def retired_name(database: str, moment: datetime) -> str:
    """The name of a database that was put aside at this moment; they sort by it."""
    return shorten(database, f"__retired_{moment.astimezone(UTC):%Y%m%dT%H%M%S}_{moment.microsecond // 1000:03d}Z")


@dataclass(frozen=True)
class CatchUp:
    """What is done while nobody else is in the live database, before the names are exchanged.

    Args:
        pids: its own sessions, opened before the database was closed to everybody.
        act: does it, and ends them.
    """

    pids: tuple[int, ...]
    act: Callable[[], None]


class Swap:
    """One database's swap on one server; the caller is the only one while `alone`.

    Args:
        login: a superuser, on a database of the server that is not the one to swap.
        database: the live name.
        run: the run's id, for markers.
        progress: where to report.
        session_timeout_s: how long sessions that were ended may take to be gone.
        drop_timeout_s: how long dropping a database may take.
    """

    def __init__(
        self, login: Login, database: str, run: str, progress: Progress, session_timeout_s: float = 5.0,
        drop_timeout_s: float = DROP_TIMEOUT_S,
    ) -> None:
        if login.database == database:
            raise RunbookError(
                f"The database {database!r} cannot be swapped by a session that is connected to it.",
                "Give login.database another database of the same server, such as postgres.",
            )
        self.login = login
        self.database = database
        self.run = run
        self.progress = progress
        self.session_timeout_s = session_timeout_s
        self.drop_timeout_s = drop_timeout_s
        self.connection = connect(login, "swap")

    def position(self) -> Position:
        """Where it stands now.

        Raises:
            RunbookError: the comment of the database cannot be read, and so could not be kept.
        """
        try:
            rows = self.connection.execute(DATABASES, {"database": self.database}).fetchall()
        except UnicodeDecodeError as error:
            raise RunbookError(
                f"The comment on the database {self.database!r} was written in another encoding than that of "
                f"{self.login.database}, and cannot be read from there.",
                f"Write it anew in a session in {self.login.database} (COMMENT ON DATABASE … IS …), then run the same "
                "command again.",
            ) from error
        return read_position(rows, self.database)

    @contextlib.contextmanager
    def alone(self, wait_s: float) -> Iterator[None]:
        """Hold the advisory lock for this database's name; the server lets go of it when the session ends.

        Raises:
            RunbookError: somebody else still held it after `wait_s` seconds.
        """
        self._lock(wait_s)
        try:
            yield
        finally:
            self.connection.close()

    def _lock(self, wait_s: float) -> None:
        deadline = time.monotonic() + wait_s
        query = f"SELECT pg_try_advisory_lock({LOCK_KEY}) AS got"
        while not self.connection.execute(query, [self.database]).fetchone()["got"]:
            holder = self.connection.execute(LOCK_HOLDER, [self.database]).fetchone()
            who = f"session {holder['pid']}, since {holder['since']:%H:%M:%S}" if holder else "a session"
            if time.monotonic() > deadline:
                raise RunbookError(
                    f"Another run still works on the database {self.database!r} ({who}); waited {wait_s:.0f} s for it.",
                    "Wait until it has ended, then start the same command again: it goes on from where that one ended.",
                    busy=True,
                )
            self.progress.tick(lambda who=who: f"waiting for the run that still works on {self.database!r} ({who})")
            time.sleep(0.1)

    def mark(self, database: Database, marker: Marker | None) -> None:
        """Set the comment of a database: the owner's text with this marker. `name` must be its current name."""
        text = markers.join(database.comment, marker)
        self.connection.execute(
            sql.SQL("COMMENT ON DATABASE {} IS {}").format(identifier(database.name), sql.Literal(text))
        )

    def alter(self, name: str, *, allows: bool | None = None, connection_limit: int | None = None) -> None:
        """Allow or forbid connections, or set their limit."""
        parts = []
        if allows is not None:
            parts.append(sql.SQL("ALLOW_CONNECTIONS {}").format(sql.SQL("true" if allows else "false")))
        if connection_limit is not None:
            parts.append(sql.SQL("CONNECTION LIMIT {}").format(sql.SQL(str(int(connection_limit)))))
        self.connection.execute(
            sql.SQL("ALTER DATABASE {} WITH {}").format(identifier(name), sql.SQL(" ").join(parts))
        )

    def rename(self, name: str, new: str) -> None:
        """Rename a database."""
        self.connection.execute(
            sql.SQL("ALTER DATABASE {} RENAME TO {}").format(identifier(name), identifier(new))
        )

    def drop(self, name: str) -> None:
        """Drop a database, with the sessions in it.

        Raises:
            RunbookError: it took too long; what is left can only be dropped.
        """
        try:
            with self.progress.during(lambda: f"dropping {name}"):
                self.connection.execute(f"SET statement_timeout = {int(self.drop_timeout_s * 1000)}")
                self.connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(identifier(name)))
        except psycopg.errors.QueryCanceled as error:
            raise RunbookError(
                f"The database {name!r} could not be dropped within {self.drop_timeout_s:.0f} s: dropping waits for a "
                "checkpoint, and for every process of the server to answer.",
                "The next restore drops it; see on the server that no process is stopped (state T).", left=name,
            ) from error
        finally:
            if not self.connection.closed:
                self.connection.execute("SET statement_timeout = 0")

    def close(self, backup: str, copy: Database | None) -> None:
        """Forbid new connections to the live database, and to the copy, with the marker, in one transaction.

        On the way back to a retired database `backup` is empty: that tells the two ways apart.
        """
        live = self._live()
        with self.connection.transaction():
            self.alter(live.name, allows=False)
            self.mark(live, Marker(markers.CLOSED, self.run, self.database, backup))
            if copy:
                self.alter(copy.name, allows=False)

    def reopen(self, marker: Marker | None = None) -> None:
        """Take `close` back, with the marker that the live database had before."""
        position = self.position()
        live = self._live()
        with self.connection.transaction():
            self.alter(live.name, allows=True)
            self.mark(live, marker)
            for copy in position.copies:
                self.alter(copy.name, allows=True)

    def end_sessions(self, databases: list[Database], spared: tuple[int, ...] = ()) -> int:
        """End all sessions in these databases but those with the `spared` pids, and wait until they are gone.

        Returns:
            How many there were.

        Raises:
            RunbookError: some are still there after `session_timeout_s`; they are named.
        """
        oids = [database.oid for database in databases]
        deadline = time.monotonic() + self.session_timeout_s
        seen: set[int] = set()
        while left := self.connection.execute(END_SESSIONS, [oids, list(spared)]).fetchall():
            seen.update(row["pid"] for row in left)
            if time.monotonic() > deadline:
                raise RunbookError(
                    f"{_sessions(left)} of the database {self.database!r} did not end within "
                    f"{self.session_timeout_s:.0f} s, so nothing was exchanged.",
                    f"See on the server with `ps -o pid,stat,args -p {left[0]['pid']}` whether it is stopped (state T; "
                    f"`kill -CONT {left[0]['pid']}` lets it end), then run the same command again.",
                    sessions=[{name: row[name] for name in ("pid", "user", "application", "type")} for row in left],
                )
            self.progress.tick(lambda left=left: _waiting(left))
            time.sleep(POLL_S)
        return len(seen)

    def exchange(self, incoming: Database, until: str, *, back: bool, last: Marker | None = None) -> None:
        """Exchange the names of the live database and `incoming`, with the markers, in one transaction.

        Forward, applications are still kept out of the new live database (CONNECTION LIMIT 0). Back, the old one has
        been live before, and is open at once; `last` is the marker of the one that was put aside last, by the exchange
        that made live what goes now.

        Raises:
            RunbookError: a lock on one of the databases stands in the way; its holders are named.
        """
        live = self.position().live
        aside = retired_name(self.database, datetime.now(UTC))
        old = live.marker if live and live.marker else Marker(markers.CLOSED, self.run, self.database)
        backup = incoming.marker.backup if incoming.marker else old.backup
        oids = [database.oid for database in (live, incoming) if database]
        try:
            with self.connection.transaction():
                self.connection.execute(f"SET LOCAL lock_timeout = {int(LOCK_TIMEOUT_S * 1000)}")
                if live:
                    self.rename(live.name, aside)
                self.rename(incoming.name, self.database)
                if live:
                    state = markers.ABANDONED if back else markers.RETIRED
                    xid = self.connection.execute("SELECT txid_current() AS xid").fetchone()["xid"]
                    of = last.backup if last else backup
                    self.mark(replace(live, name=aside), Marker(state, old.run, self.database, of, until, xid))
                new, state = replace(incoming, name=self.database), markers.OPENED if back else markers.EXCHANGED
                self.mark(new, Marker(state, old.run, self.database, backup, xid=last.xid if last else 0))
                if back:
                    self.alter(self.database, allows=True)
                else:
                    self.alter(self.database, allows=True, connection_limit=0)
        except psycopg.errors.LockNotAvailable as error:
            lockers = self.connection.execute(LOCKERS, [oids]).fetchall()
            raise RunbookError(
                f"The database {self.database!r} could not be renamed within {LOCK_TIMEOUT_S:.0f} s: a lock on it is "
                f"held by {_sessions(lockers) if lockers else 'a session that has just ended'}.",
                "End that transaction, then run the same command again.",
            ) from error

    def open(self, connection_limit: int) -> None:
        """Let applications into the new live database."""
        live = self._live()
        with self.connection.transaction():
            self.alter(live.name, connection_limit=connection_limit)
            self.mark(live, replace(self._marker(live), state=markers.OPENED))

    def finish(self) -> None:
        """Take the marker away from the live database."""
        self.mark(self._live(), None)

    def swap_in(
        self, until: str, connection_limit: int, smoke: Callable[[], None], catch_up: CatchUp | None = None
    ) -> dict[str, Any]:
        """From `prepared`, `closed` or `exchanged` to `opened`: the only seconds in which nobody can connect.

        Args:
            until: the hour until which the old database is kept.
            connection_limit: of the new live database when no old one tells it.
            smoke: raises when the new live database, under its name, is not fit to be opened.
            catch_up: what the copy still has to get from the live database once nobody writes to that any more.

        Returns:
            `seconds` from forbidding connections to allowing them, and `sessions`, the number that were ended.

        Raises:
            RunbookError: it did not succeed; the old database is live and open again.
        """
        started = time.monotonic()
        sessions = 0
        try:
            position = self.position()
            if position.state in (markers.PREPARED, markers.CLOSED):
                copy = self._prepared(position)
                if position.live:
                    if position.state == markers.PREPARED:
                        self.close(self._marker(copy).backup, copy)
                    sessions = self.end_sessions([position.live, copy], catch_up.pids if catch_up else ())
                    if catch_up:
                        catch_up.act()
                        self.end_sessions([position.live, copy])
                self.exchange(copy, until, back=False)
            else:
                self.alter(self.database, allows=True, connection_limit=0)
            smoke()
            partner = self.position().partner
            self.open(partner.connection_limit if partner else connection_limit)
        except BaseException:
            self.give_way()
            raise
        return {"seconds": round(time.monotonic() - started, 3), "sessions": sessions}

    def swap_back(self, kept: str, until: str, catch_up: CatchUp) -> dict[str, Any]:
        """Exchange the live database for one that was retired: from `untouched` or `opened` to `opened`.

        Args:
            kept: the retired one's name; the caller has seen that it answers.
            until: the hour until which the one that is live now is kept.
            catch_up: what the retired one still has to get from the live one.

        Raises:
            RunbookError: it did not succeed; what was live before is live and open again.
        """
        position = self.position()
        old = next((one for one in position.kept if one.name == kept), None)
        if old is None or position.live is None:
            raise RunbookError(
                f"There is no retired database {kept!r} of {self.database!r} to bring back.",
                "List them with the playbook sre.runbooks.database_retired.",
            )
        started = time.monotonic()
        try:
            self.close("", None)
            sessions = self.end_sessions([position.live, old], catch_up.pids)
            catch_up.act()
            self.end_sessions([position.live, old])
            self.exchange(old, until, back=True, last=position.kept[-1].marker)
        except BaseException:
            # One that was opened and not ended is so again.
            self.give_way(position.live.marker if position.state == markers.OPENED else None)
            raise
        return {"seconds": round(time.monotonic() - started, 3), "sessions": sessions}

    @contextlib.contextmanager
    def entered(self, kept: Database) -> Iterator[None]:
        """Let a kept database be connected to while the block runs; sessions from there may go on afterwards."""
        self.alter(kept.name, allows=True)
        try:
            yield
        finally:
            self.alter(kept.name, allows=False)

    def give_way(self, marker: Marker | None = None) -> None:
        """Whatever was reached of an exchange that nobody was let into: make the old database live and open again.

        Args:
            marker: the one that it had before.
        """
        if not self._is_connected():
            self._reconnect()
        position = self.position()
        if position.state == markers.CLOSED:
            self.reopen(marker)
        elif position.state == markers.EXCHANGED:
            self._take_back(position)

    def _is_connected(self) -> bool:
        """Whether the session is still there, which another one may have lost first."""
        try:
            self.connection.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def _reconnect(self) -> None:
        """Connect again, and alone: the lock went with the session. The server may still be recovering."""
        self.connection.close()
        deadline = time.monotonic() + RECOVERY_S
        while True:
            try:
                self.connection = connect(self.login, "swap")
                break
            except RunbookError:
                if time.monotonic() > deadline:
                    raise
            self.progress.tick(lambda: f"waiting for {self.login.host}:{self.login.port} to answer again")
            time.sleep(0.2)
        self._lock(RECOVERY_S)

    def _take_back(self, position: Position) -> None:
        new, old = self._live(), position.partner
        backup = self._marker(new).backup
        self.alter(new.name, allows=False)
        self.end_sessions([new])
        name = copy_name(self.database, backup)
        with self.connection.transaction():
            self.rename(new.name, name)
            self.mark(replace(new, name=name), Marker(markers.PREPARED, self.run, self.database, backup))
            self.alter(name, allows=True)
            if old:
                self.rename(old.name, self.database)
                self.mark(replace(old, name=self.database), None)
                self.alter(self.database, allows=True)

    def _live(self) -> Database:
        live = self.position().live
        if live is None:
            raise RunbookError(
                f"There is no database {self.database!r} on {self.login.host}:{self.login.port}.",
                "Look in the server's log for who dropped or renamed it; the playbook sre.runbooks.database_restore"
                " brings it back from a backup.",
            )
        return live

    def _prepared(self, position: Position) -> Database:
        copy = position.prepared()
        if copy is None:
            raise RunbookError(
                f"There is no prepared copy of {self.database!r} to exchange it for.",
                "Run the playbook sre.runbooks.database_restore, which prepares one first.",
            )
        return copy

    @staticmethod
    def _marker(database: Database) -> Marker:
        if database.marker is None:
            raise RunbookError(
                f"The database {database.name!r} carries no marker of a swap.",
                "Somebody changed its comment meanwhile: see which databases that server has, and what their comments"
                " say, before you rename one.",
            )
        return database.marker


def _waiting(rows: list[dict[str, Any]]) -> str:
    """For whom we wait; our own sessions end by themselves, and are nobody whom an operator must look for."""
    others = [row for row in rows if not (row["application"] or "").startswith(APPLICATION_NAME)]
    return f"waiting for {_sessions(others)} to end" if others else "waiting until our own sessions are closed"


def _sessions(rows: list[dict[str, Any]]) -> str:
    """Sessions in words, at most three of them; those of the server itself (an autovacuum worker) have no user."""
    named = [
        f"pid {row['pid']} (user {row['user']}, application {row['application']!r})" if row["user"]
        else f"pid {row['pid']} ({row['type']} of the server)"
        for row in rows[:3]
    ]
    more = f" and {len(rows) - 3} more" if len(rows) > 3 else ""
    return f"session{'s' if len(rows) > 1 else ''} {', '.join(named)}{more}"
