# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""From an archive and a question to an answer: where to begin, what to read, and how sure the answer is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, ClassVar

from ansible_collections.sre.runbooks.plugins.module_utils.pitr.segments import Segment, lsn_text, parse_lsn
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.wal import (
    Hole,
    Record,
    Stretch,
    parse_commit,
    path,
)
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.wal_catalog import Relation
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.wal_reader import (
    WalArchive,
    WalReader,
    ancestors,
    look_at,
)
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.wal_search import (
    LiveCatalog,
    WalSearch,
    Wanted,
    verdict,
)
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.client_tools import find_client_tools
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import Login, connect, server_errors
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.moments import utc_text
from ansible_collections.sre.runbooks.plugins.module_utils.run.progress import Progress
from ansible_collections.sre.runbooks.plugins.module_utils.run.words import counted

CHECKPOINTS = ("CHECKPOINT_ONLINE", "CHECKPOINT_SHUTDOWN")


@dataclass(frozen=True)
class Question:
    """What to look for, and where.

    Attributes:
        archive: where the WAL is.
        wanted: the table and the time.
        timeline: the one to search with its ancestors; None is the live server's, without one the newest.
        login: the live database, whose catalog names what is still there; None does without.
        bin_directory: where pg_waldump is; None looks in the usual places.
    """

    archive: WalArchive
    wanted: Wanted
    timeline: int | None = None
    login: Login | None = None
    bin_directory: str | None = None
    progress: Progress = field(default_factory=Progress)


def read_catalog(login: Login) -> tuple[LiveCatalog, int]:
    """A database's catalog as it is now, and its cluster's identifier.

    Raises:
        RunbookError: the server cannot be reached, or refuses.
    """
    hint = "Check the login, or search without it: names then come from the WAL alone."
    with connect(login, "pg_wal_search") as connection, server_errors(login, hint):
        about = connection.execute(
            "SELECT (SELECT oid::bigint FROM pg_database WHERE datname = current_database()) AS database,"
            " pg_relation_filenode('pg_class'::regclass)::bigint AS class_node,"
            " (SELECT system_identifier FROM pg_control_system()) AS system_identifier,"
            # The control file learns of a promotion only by the next checkpoint.
            " CASE WHEN pg_is_in_recovery() THEN (SELECT timeline_id FROM pg_control_checkpoint()) ELSE"
            " ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int END AS timeline,"
            " pg_current_snapshot()::text AS snapshot"
        ).fetchone()
        relations = connection.execute(
            "SELECT oid::bigint, relname, relnamespace::bigint, coalesce(pg_relation_filenode(oid), 0)::bigint AS node,"
            " relkind::text, relpersistence::text FROM pg_class"
        ).fetchall()
        schemas = connection.execute("SELECT oid::bigint, nspname FROM pg_namespace").fetchall()
        parents = connection.execute("SELECT inhrelid::bigint AS child, inhparent::bigint AS parent FROM pg_inherits")
        _oldest, next_xid, running = about["snapshot"].split(":")
        live = LiveCatalog(
            about["database"], login.database, about["timeline"], about["class_node"],
            {one["oid"]: one["nspname"] for one in schemas},
            {one["oid"]: Relation(one["oid"], one["relname"], one["relnamespace"], one["node"], one["relkind"],
                                  one["relpersistence"]) for one in relations},
            {one["child"]: one["parent"] for one in parents},
            # The WAL has the last 32 bits of each number.
            int(next_xid) % 2**32, frozenset(int(one) % 2**32 for one in running.split(",") if one),
        )
        # The control file's number is unsigned, SQL's is not.
        return live, about["system_identifier"] % 2**64


class _First:
    """Listens for the first record of some kinds."""

    catalogs: ClassVar[set[str]] = set()

    def __init__(self, what: tuple[str, ...]) -> None:
        self._what = what
        self.found: Record | None = None

    def feed(self, record: Record) -> bool:
        """Take a record; False when it is the one."""
        if record.manager in ("Transaction", "XLOG") and record.what in self._what:
            self.found = record
        return self.found is None

    def deleted(self, xid: int, file: str) -> None:
        """Rows do not matter."""

    def cannot_read(self, line: str) -> None:
        """The search itself will count it."""

    def interrupted(self) -> None:
        """The search itself will say so."""


class _Look:
    """Short looks into single segments, to find where to begin."""

    def __init__(self, **reader: Any) -> None:
        self._reader = reader

    def first(self, stretch: Stretch, what: tuple[str, ...]) -> Record | None:
        """The first record of these kinds."""
        listener = _First(what)
        WalReader(listener=listener, **self._reader).read(stretch)
        return listener.found


def _segments(stretches: list[Stretch], size: int) -> Iterator[Stretch]:
    for stretch in stretches:
        for number in range(stretch.start // size, -(-stretch.end // size)):
            yield Stretch(stretch.timeline, max(number * size, stretch.start), min((number + 1) * size, stretch.end))


def begin_before(since: datetime, stretches: list[Stretch], size: int, look: _Look) -> list[Stretch]:
    """What of the stretches must be read to see everything since a time, with the names of what is dropped.

    Commits stand in the WAL in the order of their times but for moments, so the first of each segment is halved. From
    there it goes back to a checkpoint: after each one the catalog's pages come whole.
    """
    single = list(_segments(stretches, size))
    low, high = 0, len(single)
    while high - low > 1:
        middle = (low + high) // 2
        at = None
        for index in range(middle, high):
            record = look.first(single[index], ("COMMIT",))
            commit = parse_commit(record) if record else None
            if commit:
                at = commit.at
                break
        if at is not None and at < since:
            low = middle
        else:
            high = middle
    begin = single[0].start if single else 0
    for one in reversed(single[: low]):
        record = look.first(one, CHECKPOINTS)
        redo = record.rest.split("redo ", 1)[-1].split(";")[0] if record else ""
        if redo:
            begin = max(single[0].start, parse_lsn(redo) // size * size)
            break
    return [
        Stretch(one.timeline, max(one.start, begin), one.end) for one in stretches if one.end > begin
    ]


def answer(question: Question) -> dict[str, Any]:
    """Search the archive.

    Returns:
        `answer` (found, not found, unknown), `message`, `events`, `unnamed`, `holes`, `searched` and counts.

    Raises:
        RunbookError: there is no archive, no pg_waldump of its version, or the database is another cluster's.
    """
    archive, wanted, progress = question.archive, question.wanted, question.progress
    progress.say("looking at the archive")
    cluster = look_at(archive)
    size = cluster.segment_bytes
    live = None
    if question.login:
        live, system_identifier = read_catalog(question.login)
        if system_identifier != cluster.system_identifier:
            raise RunbookError(
                f"The archive is of the cluster {cluster.system_identifier}, and the server {question.login.place} is"
                f" {system_identifier}.", "Name the archive of this server.",
            )
    tools = find_client_tools(cluster.major, question.bin_directory)
    segments = [Segment.parse(name, size) for name in archive.names()]
    # After an undone recovery the newest timeline of the archive is one that was abandoned.
    timeline = question.timeline or (live.timeline if live else max(one.timeline for one in segments))
    if live and timeline != live.timeline:
        live = replace(live, next_xid=None)
    before = ancestors(archive, timeline)
    stretches, holes = path(segments, timeline, before, size)
    # An older timeline may have gone on after it was left.
    ends = {**{one: end // size for one, end in before}, timeline: max(one.number for one in segments) + 1}
    others = sorted({one.timeline for one in segments if one.number >= ends.get(one.timeline, 0)})
    if not stretches:
        raise RunbookError(
            f"The archive has no segment of timeline {timeline}.", "Name another timeline, or none for the newest."
        )
    known: dict[str, Any] = {"archive": archive, "cluster": cluster, "tools": tools, "progress": progress}
    if wanted.since:
        progress.say(f"looking for where {utc_text(wanted.since)} is in {counted(len(segments), 'segment')}")
        stretches = begin_before(wanted.since, stretches, size, _Look(**known))
        holes = [hole for hole in holes if hole.end > stretches[0].start]
    count = sum(1 for _segment in _segments(stretches, size))
    progress.say(f"reading {counted(count, 'segment')} from {lsn_text(stretches[0].start)}")

    def raw(lsn: int) -> bytes:
        return reader.raw(lsn)

    search = WalSearch(wanted, cluster.major, live, raw)
    reader = WalReader(listener=search, **known)
    behind = 0
    for stretch in stretches:
        if stretch.start != behind:
            search.interrupted()
        behind, search.timeline = stretch.end, stretch.timeline
        further, unread = reader.read(stretch)
        holes += unread
        if not further:
            break
    holes = sorted((hole for hole in holes if hole.start <= reader.last), key=lambda hole: hole.start)
    found = _result(search, wanted, holes, stretches[0].start, reader.last, timeline)
    found["searched"]["other_timelines"] = others
    if others and not question.timeline and not live:
        names = ", ".join(str(one) for one in others)
        found["message"] += f" Timeline {timeline}, the newest, was searched; the archive has more of {names}."
        found["answer"] = "unknown" if found["answer"] == "not found" else found["answer"]
    lives = _live_history(archive, live, timeline, before, others)
    for event in found["events"]:
        event["in_live_history"] = lives and any(
            one == event["timeline"] and (left is None or parse_lsn(event["lsn"]) < left) for one, left in lives
        )
    return found


def _live_history(
    archive: WalArchive, live: LiveCatalog | None, timeline: int, before: list[tuple[int, int]], others: list[int]
) -> list[tuple[int, int | None]] | None:
    """The live server's timeline and those that led to it, each with where it was left; None when that is unknown."""
    if live and live.timeline != timeline:
        if live.timeline > 1 and live.timeline not in archive.histories():
            return None
        timeline, before = live.timeline, ancestors(archive, live.timeline)
    elif not live and others:
        return None
    return [*before, (timeline, None)]


def _result(
    search: WalSearch, wanted: Wanted, holes: list[Hole], begin: int, end: int, timeline: int
) -> dict[str, Any]:
    times = [utc_text(one, "microseconds") if one else None for one in (search.first_commit, search.last_commit)]
    searched = f"from {times[0] or lsn_text(begin)} to {times[1] or lsn_text(end)}"
    too_late = wanted.since and search.first_commit and search.first_commit > wanted.since
    word, message = verdict(search, wanted, holes, searched, search.unread(end))
    if too_late:
        message += f" The WAL that is there begins at {times[0]}, after the time that was asked for."
        word = "unknown" if word == "not found" else word
    return {
        "answer": word, "message": message,
        "events": [event.as_dict() for event in search.events],
        "events_left_out": search.event_count - len(search.events),
        "databases": [event.as_dict() for event in search.databases],
        "unnamed": [event.as_dict() for event in search.unnamed],
        "holes": [hole.as_dict() for hole in holes],
        "searched": {"timeline": timeline, "from_lsn": lsn_text(begin), "to_lsn": lsn_text(end),
                     "from_time": times[0], "to_time": times[1]},
        "lines_not_understood": search.not_understood,
    }
