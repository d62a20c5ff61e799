# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""When a table was dropped, truncated or emptied, and by which transaction: decided record by record.

A drop stands in the commit (the statistics of the relation are dropped with it), a TRUNCATE in the table's file, which
the commit takes away for a new one, and deleted rows are counted up to the commit. VACUUM FULL, CLUSTER, a refreshed
view and an ALTER TABLE that rewrites change files as well: they fill a table of their own, pg_temp_<oid>, first.
"""

from __future__ import annotations

import math
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from ansible_collections.sre.runbooks.plugins.module_utils.pitr.segments import lsn_text
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.target import LSN, TIME, TRANSACTION, Target
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.wal import (
    NO_DELETION,
    Commit,
    File,
    Hole,
    Record,
    file_of,
    parse_commit,
    parse_file,
)
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.wal_catalog import (
    PG_CLASS,
    PG_DATABASE,
    PG_NAMESPACE,
    CatalogRows,
    Relation,
    UnreadableError,
    named,
    relation_map,
    relation_of,
    take_apart,
)
from ansible_collections.sre.runbooks.plugins.module_utils.run.moments import utc_text
from ansible_collections.sre.runbooks.plugins.module_utils.run.words import counted

# Below this number are PostgreSQL's own relations.
FIRST_OID = 16384
OWN_SCHEMAS = {11: "pg_catalog", 99: "pg_toast", 2200: "public"}
# Tables, partitioned tables, materialized views.
TABLES = ("r", "p", "m")
TRANSIENT = re.compile(r"pg_temp_(\d+)")
DATABASE = re.compile(r"dir \d+/(\d+)\b.*")
EMPTIED = re.compile(r"(\S+) to 0 blocks\b.*")
RUNNING = re.compile(r"nextXid (\d+) .*oldestRunningXid (\d+)")
SHUT_DOWN = re.compile(r".*; xid \d+:(\d+); .*")
# A server's clock may have been ahead for a moment: what was committed after that looks older. So far is read on.
CLOCK = timedelta(minutes=10)
# The newest events are shown; a table from which rows are deleted all day has more.
EVENTS_KEPT = 1000
# A deletion that is reported where no table is named.
LARGE_ROWS = 1000


@dataclass(frozen=True)
class Wanted:
    """What is asked for; None stands for any.

    Attributes:
        minimum_rows: a transaction that deletes fewer rows of a table is only counted; None is 1 where a table is
            named, else 1000.
    """

    table: str | None = None
    schema: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    minimum_rows: int | None = None

    @property
    def reported_rows(self) -> int:
        """How many rows a deletion must have to be reported."""
        return self.minimum_rows or (1 if self.table else LARGE_ROWS)


@dataclass(frozen=True)
class LiveCatalog:
    """The catalog of the database as it is now.

    Attributes:
        database: its oid.
        name: its name.
        timeline: the one that the server writes.
        class_node: the file of its pg_class.
        schemas: their names by oid.
        relations: by oid.
        parents: of partitions and inheriting tables, by oid.
        next_xid: transactions that have ended have numbers before this one; None where the WAL that is searched is not
            the server's own history.
        running: the numbers of those that have not, among them.
    """

    database: int
    name: str
    timeline: int = 1
    class_node: int = PG_CLASS
    schemas: dict[int, str] = field(default_factory=dict)
    relations: dict[int, Relation] = field(default_factory=dict)
    parents: dict[int, int] = field(default_factory=dict)
    next_xid: int | None = None
    running: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Event:
    """Data that went, and the transaction that took them.

    Attributes:
        kind: `drop`, `truncate`, `delete` or `drop database`.
        database: its oid.
        oid: of the table; None where only its file is known, and for a database.
        earlier: names that the table had before, in the WAL that was read.
        lsn: where its commit begins, in bytes.
        rows: deleted ones; None for the other kinds.
        rows_complete: False where the transaction may have begun before the WAL that was read.
    """

    kind: str
    database: int
    oid: int | None
    schema: str | None
    table: str | None
    at: datetime
    lsn: int
    xid: int
    timeline: int
    rows: int | None = None
    rows_complete: bool = True
    earlier: tuple[str, ...] = ()
    database_name: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """For a module's result: with the recovery targets, each of which gives the state just before it."""
        at = utc_text(self.at, "microseconds")
        return {
            "kind": self.kind, "schema": self.schema, "table": self.table, "earlier_names": list(self.earlier),
            "database": self.database_name, "database_oid": self.database, "oid": self.oid, "rows": self.rows,
            "rows_complete": self.rows_complete, "at": at, "lsn": lsn_text(self.lsn), "xid": self.xid,
            "timeline": self.timeline,
            "targets": {
                kind: Target(kind, value, exclusive=True).as_dict()
                for kind, value in (
                    (TIME, self.at.isoformat(sep=" ", timespec="microseconds").replace("+00:00", "+00")),
                    (LSN, lsn_text(self.lsn)), (TRANSACTION, str(self.xid)),
                )
            },
            "sentence": self.sentence,
        }

    @property
    def size(self) -> float:
        """In rows; what takes a whole table is larger than any number of them."""
        return math.inf if self.rows is None else self.rows

    @property
    def sentence(self) -> str:
        """What happened, for a person."""
        name = f"{self.schema}.{self.table}" if self.schema and self.table else self.table or f"the table {self.oid}"
        if self.earlier:
            name += f" (before: {', '.join(self.earlier)})"
        whole = f"The database {self.database_name or f'with the oid {self.database}'} was dropped"
        did = {
            "drop": f"{name} was dropped", "truncate": f"{name} was truncated", "drop database": whole,
        }.get(
            self.kind, f"{'' if self.rows_complete else 'At least '}{counted(self.rows or 0, 'row')} of {name}"
            f" {'was' if self.rows == 1 else 'were'} deleted"
        )
        return f"{did} at {utc_text(self.at, 'microseconds')} by transaction {self.xid} (commit {lsn_text(self.lsn)})."


@dataclass
class _Transaction:
    deleted: Counter[str] = field(default_factory=Counter)
    created: set[File] = field(default_factory=set)
    emptied: set[File] = field(default_factory=set)
    databases: set[int] = field(default_factory=set)
    relations: list[tuple[int, Relation]] = field(default_factory=list)

    def take(self, other: _Transaction) -> None:
        self.deleted.update(other.deleted)
        self.created |= other.created
        self.emptied |= other.emptied
        self.databases |= other.databases
        self.relations += other.relations


def _older(one: int, other: int) -> bool:
    """Whether transaction `one` has its number from before `other`: they come round after four thousand millions."""
    return (other - one) % 2**32 in range(1, 2**31)


class _Ended:
    """Which transactions have ended in the WAL that was read: numbers are given in a row, and each end is a record."""

    def __init__(self) -> None:
        self._first: int | None = None
        self._ended: set[int] = set()

    def add(self, xids: Iterable[int]) -> None:
        """These have ended."""
        self._ended.update(xids)

    def all_before(self, xid: int) -> None:
        """Whatever has a number before this one has ended."""
        self._first = xid
        self._ended = {one for one in self._ended if not _older(one, xid)}

    def holds_all(self, next_xid: int, running: frozenset[int]) -> bool:
        """Whether each with a number before `next_xid` has ended in the WAL that was read, or still runs."""
        if self._first is None:
            return False
        count = (next_xid - self._first) % 2**32 if _older(self._first, next_xid) else 0
        known = self._ended | running
        return count <= len(known) and all((self._first + one) % 2**32 in known for one in range(count))


def _emptied(database: int, relation: Relation, done: _Transaction, own: set[tuple[int, int]]) -> bool:
    """Whether a table that a transaction rewrote was truncated by it as well, before that or after it."""
    return (database, relation.node) in own or any(
        (one.database, one.node) == (database, relation.node) for one in done.emptied
    )


class WalSearch:
    """Follows the WAL, record by record.

    Args:
        wanted: what to report.
        major: PostgreSQL's version.
        live: the database's catalog as it is now; None searches all databases and knows only what the WAL tells.
        raw: gives a record's bytes for its place.
    """

    def __init__(self, wanted: Wanted, major: int, live: LiveCatalog | None, raw: Callable[[int], bytes]) -> None:
        self.events: deque[Event] = deque(maxlen=EVENTS_KEPT)
        self.event_count = 0
        # What is routine, such as single rows that are deleted all day, must not push it out.
        self.largest: Event | None = None
        self.smaller_deletions = 0
        self.smaller_rows = 0
        self.unnamed: deque[Event] = deque(maxlen=EVENTS_KEPT)
        self.unnamed_count = 0
        self.databases: deque[Event] = deque(maxlen=EVENTS_KEPT)
        self.not_understood = 0
        self.example = ""
        self.rows_not_read = 0
        self.first_commit: datetime | None = None
        self.last_commit: datetime | None = None
        self.passed = False
        self.timeline = 1
        self._wanted = wanted
        self._major = major
        self._live = live
        self._raw = raw
        self._open: dict[int, _Transaction] = {}
        self._ended = _Ended()
        self._alive: set[tuple[int, int]] = set()
        self._complete_from: int | None = None
        self._catalogs = {PG_CLASS: CatalogRows(), PG_NAMESPACE: CatalogRows(), PG_DATABASE: CatalogRows()}
        # VACUUM FULL gives a catalog another file; those that it ever had, as (database, file).
        self._moved: dict[tuple[int, int], int] = {}
        self.catalogs = {str(oid) for oid in self._catalogs}
        if live:
            self._has_moved(live.database, live.class_node, PG_CLASS)
        self._relations: dict[tuple[int, int], Relation] = {}
        self._nodes: dict[tuple[int, int], int] = {}
        # Schemas and, in the database 0, databases.
        self._names: dict[tuple[int, int], str] = {}
        self._earlier: dict[tuple[int, int], tuple[str, ...]] = {}
        if live:
            self._nodes = {(live.database, one.node): one.oid for one in live.relations.values() if one.node}

    def interrupted(self) -> None:
        """What comes next does not follow what came before: a transaction may have done more than was seen of it."""
        self._complete_from = None

    def cannot_read(self, line: str) -> None:
        """Count a line that is not understood."""
        self.not_understood += 1
        self.example = self.example or line[:200]

    @property
    def table_known(self) -> bool:
        """Whether a table of the wanted name exists, or existed in the WAL that was read."""
        seen = [(database, one) for (database, _oid), one in self._relations.items()]
        live = [(self._live.database, one) for one in self._live.relations.values()] if self._live else []
        return any(one.kind in TABLES and self._matches(database, one) for database, one in [*seen, *live])

    def feed(self, record: Record) -> bool:
        """Follow one record; False when it was committed so long after the time that is asked for that all is read."""
        if record.manager == "Transaction":
            return self._transaction(record)
        if record.manager == "Storage":
            self._storage(record)
        elif record.manager == "Database" and record.what == "DROP":
            found = DATABASE.fullmatch(record.rest)
            if found:
                self._of(record.xid).databases.add(int(found[1]))
            else:
                self.cannot_read(f"{record.what} {record.rest}")
        elif record.manager == "Standby" and record.what == "RUNNING_XACTS":
            self._running(record)
        elif record.manager == "RelMap":
            self._catalog_moved(record)
        elif record.what == "CHECKPOINT_SHUTDOWN":
            # A transaction that was prepared is none that has ended.
            if (found := SHUT_DOWN.fullmatch(record.rest)) and not self._open:
                self._ended.all_before(int(found[1]))
        elif record.manager in ("Heap", "Heap2", "XLOG"):
            self._pages(record)
        return True

    def deleted(self, xid: int, file: str) -> None:
        """Count a row that a transaction deletes; the file as pg_waldump's block references name it."""
        self._of(xid).deleted[file] += 1

    def _of(self, xid: int) -> _Transaction:
        return self._open.setdefault(xid, _Transaction())

    def _storage(self, record: Record) -> None:
        emptied = EMPTIED.fullmatch(record.rest) if record.what == "TRUNCATE" else None
        file = parse_file(emptied[1] if emptied else record.rest.strip())
        if file and emptied:
            self._of(record.xid).emptied.add(file)
        elif file and record.what == "CREATE":
            self._of(record.xid).created.add(file)

    def _running(self, record: Record) -> None:
        found = RUNNING.match(record.rest)
        if not found:
            self.cannot_read(f"{record.what} {record.rest}")
            return
        if self._complete_from is None:
            self._complete_from = int(found[1])
        self._ended.all_before(int(found[2]))
        # What a crash left without an end does not stay in memory.
        for xid in [one for one in self._open if _older(one, int(found[2]))]:
            del self._open[xid]

    def _catalog_moved(self, record: Record) -> None:
        try:
            _tablespace, database, node = relation_map(take_apart(self._raw(record.lsn)))
        except UnreadableError:
            self.rows_not_read += 1
            return
        if database and node:
            self._has_moved(database, node, PG_CLASS)

    def _pages(self, record: Record) -> None:
        writes = record.manager == "Heap" and record.what.startswith(("INSERT", "UPDATE", "HOT_UPDATE"))
        if record.manager == "Heap" and record.what == "DELETE" and not NO_DELETION.search(record.rest):
            self._of(record.xid).deleted.update(
                f"{one.file.tablespace}/{one.file.database}/{one.file.node}" for one in record.blocks[:1]
            )
        elif not writes and " FPW" not in record.rest:
            return
        files = {
            one.file: catalog for one in record.blocks
            if one.fork == "main" and (one.image or writes) and (catalog := self._catalog(one.file))
        }
        for file, catalog in files.items():
            self._catalog_rows(record, catalog, file)

    def _has_moved(self, database: int, node: int, catalog: int) -> None:
        self._moved[database, node] = catalog
        self.catalogs.add(str(node))

    def _catalog(self, file: File) -> int | None:
        """Which catalog's file it is, by the catalog's oid."""
        return file.node if file.node in self._catalogs else self._moved.get((file.database, file.node))

    def _catalog_rows(self, record: Record, catalog: int, file: File) -> None:
        try:
            raw = take_apart(self._raw(record.lsn))
            shown, brought = self._catalogs[catalog].apply(raw, (file.tablespace, file.database, file.node))
            if catalog != PG_CLASS:
                for columns in [*(row for _newest, row in shown), *([brought] if brought else [])]:
                    oid, name = named(columns)
                    self._names[file.database, oid] = name
                return
            for newest, columns in shown:
                self._learn(file.database, relation_of(columns, self._major), alive=newest)
            if brought:
                relation = relation_of(brought, self._major)
                # It counts when its transaction has taken effect; but the new file of a catalog is filled before that.
                self._of(record.xid).relations.append((file.database, relation))
                transient = TRANSIENT.fullmatch(relation.name)
                if transient and int(transient[1]) in self._catalogs:
                    self._has_moved(file.database, relation.node, int(transient[1]))
        except UnreadableError:
            self.rows_not_read += 1

    def _learn(self, database: int, relation: Relation, *, alive: bool = True) -> None:
        if alive:
            self._alive.add((database, relation.oid))
        before = self._relations.get((database, relation.oid))
        if before and before.name != relation.name:
            self._earlier[database, relation.oid] = (*self._earlier.get((database, relation.oid), ()), before.name)
        self._relations[database, relation.oid] = relation
        if relation.node:
            self._nodes[database, relation.node] = relation.oid
        if relation.oid in self._catalogs and relation.node:
            self._has_moved(database, relation.node, relation.oid)

    def _transaction(self, record: Record) -> bool:
        if record.what not in ("COMMIT", "COMMIT_PREPARED", "ABORT", "ABORT_PREPARED"):
            return True
        end = parse_commit(record)
        if end is None:
            self.cannot_read(f"{record.what} {record.rest}")
            return True
        done = _Transaction()
        for xid in (end.xid, *end.children):
            done.take(self._open.pop(xid, _Transaction()))
        self._ended.add((end.xid, *end.children))
        if record.what.startswith("ABORT"):
            return True
        self.first_commit = self.first_commit or end.at
        if self._wanted.until and end.at > self._wanted.until:
            self.passed = True
            if end.at > self._wanted.until + CLOCK:
                return False
        else:
            self.last_commit = end.at
        self._judge(record, end, done)
        return True

    def _judge(self, record: Record, end: Commit, done: _Transaction) -> None:
        rewritten, transient = set(), set()
        for database, relation in done.relations:
            found = TRANSIENT.fullmatch(relation.name)
            if found:
                rewritten.add((database, int(found[1])))
                transient.add((database, relation.oid))
        created = {(one.database, one.node) for one in done.created}
        deleted = {file_of(text): rows for text, rows in done.deleted.items()}
        before = {file: self._owner(file, end.changed) for file in {*end.files, *deleted}}
        for database, relation in done.relations:
            self._learn(database, relation)
        for database in sorted(done.databases):
            self._database_dropped(record, end, database)
        for database, oid in sorted(end.dropped):
            self._alive.discard((database, oid))
            if oid >= FIRST_OID and (database, oid) not in created and (database, oid) not in transient:
                self._event("drop", record, end, database, oid)
        truncated = self._truncated(end, done, before, created, rewritten | transient)
        truncated |= {
            (database, one.oid) for database, one in done.relations
            if (database, one.oid) in rewritten and _emptied(database, one, done, created - transient)
        }
        for database, oid in sorted(truncated, key=str):
            self._event("truncate", record, end, database, oid)
        for file, rows in deleted.items():
            if file.node >= FIRST_OID and self._catalog(file) is None:
                complete = self._complete_from is not None and not _older(end.xid, self._complete_from)
                self._event("delete", record, end, file.database, before[file], rows, complete)

    def _truncated(
        self, end: Commit, done: _Transaction, owners: dict[File, int | None], created: set[tuple[int, int]],
        rewrites: set[tuple[int, int]],
    ) -> set[tuple[int, int | None]]:
        """The tables whose file a transaction took away for a new one in the same place, and no rewrite explains it."""
        places = {(one.tablespace, one.database) for one in done.created}
        return {
            (file.database, owners[file]) for file in end.files
            if (file.tablespace, file.database) in places and (file.database, file.node) not in created
            and (file.database, owners[file]) not in end.dropped | rewrites
            # The files of a rewritten table's indexes, which nobody has named.
            and (owners[file] is not None or not rewrites)
        }

    def _database_dropped(self, record: Record, end: Commit, database: int) -> None:
        """Whatever is asked for may have been in it, also in the one that has its name today."""
        name = self._names.get((0, database))
        if not self._asked(end.at) or (self._live and name not in (None, self._live.name)):
            return
        self.databases.append(Event(
            "drop database", database, None, None, None, end.at, record.lsn, end.xid, self.timeline, database_name=name,
        ))

    def _asked(self, at: datetime) -> bool:
        """Whether a time is one of those that are asked for."""
        since, until = self._wanted.since, self._wanted.until
        return not (since and at < since) and not (until and at > until)

    def _owner(self, file: File, changed: Iterable[int]) -> int | None:
        """Whose file it is: a table that was never truncated nor rewritten has its own number as the file's."""
        oid = self._nodes.get((file.database, file.node))
        if oid is None and (file.node in changed or self._relation(file.database, file.node)):
            oid = file.node
        return oid

    def _relation(self, database: int, oid: int | None) -> Relation | None:
        if oid is None:
            return None
        live = self._live.relations.get(oid) if self._live and self._live.database == database else None
        return self._relations.get((database, oid)) or live

    def _schema(self, database: int, oid: int) -> str | None:
        live = self._live.schemas.get(oid) if self._live and self._live.database == database else None
        return self._names.get((database, oid)) or live or OWN_SCHEMAS.get(oid)

    def _matches(self, database: int, relation: Relation) -> bool:
        schema = self._schema(database, relation.schema_oid)
        names = (None, relation.name, *self._earlier.get((database, relation.oid), ()))
        if self._wanted.table not in names or (
            self._wanted.schema and schema and schema != self._wanted.schema
        ):
            parent = self._live.parents.get(relation.oid) if self._live and self._live.database == database else None
            above = self._relation(database, parent)
            return above is not None and self._matches(database, above)
        return True

    def _event(
        self, kind: str, record: Record, end: Commit, database: int, oid: int | None,
        rows: int | None = None, complete: bool = True,
    ) -> None:
        if self._live and self._live.database != database:
            return
        if not self._asked(end.at) or (oid is not None and oid < FIRST_OID):
            return
        relation = self._relation(database, oid)
        if relation and (relation.kind not in TABLES or relation.persistence == "t"):
            return
        event = Event(
            kind, database, oid, self._schema(database, relation.schema_oid) if relation else None,
            relation.name if relation else None, end.at, record.lsn, end.xid, self.timeline, rows, complete,
            self._earlier.get((database, oid or 0), ()),
        )
        if rows is not None and rows < self._wanted.reported_rows:
            if relation is None or self._matches(database, relation):
                self.smaller_deletions += 1
                self.smaller_rows += rows
        elif relation is None:
            self.unnamed.append(event)
            self.unnamed_count += 1
        elif self._matches(database, relation):
            self.events.append(event)
            self.event_count += 1
            if self.largest is None or event.size >= self.largest.size:
                self.largest = event

    def lost_unseen(self) -> list[str]:
        """The wanted tables that existed where the WAL ends, and are no longer in the live database."""
        if self._live is None or self._live.next_xid is None:
            return []
        known = (self._relations[one] for one in self._alive if one[0] == self._live.database)
        return sorted(
            relation.name for relation in known
            if relation.oid >= FIRST_OID and relation.oid not in self._live.relations and relation.kind in TABLES
            and relation.persistence != "t" and not TRANSIENT.fullmatch(relation.name)
            and self._matches(self._live.database, relation)
        )

    def unread(self, end: int) -> list[str]:
        """Why the WAL that was read does not reach as far as the question, in sentences.

        Args:
            end: where it ends, in bytes.
        """
        if self.passed:
            return []
        found = [
            f"The table {name} is not in the live database any more: it was dropped after the WAL that was read."
            for name in self.lost_unseen()[:10]
        ]
        if self._live and self._live.next_xid is not None:
            if not self._ended.holds_all(self._live.next_xid, self._live.running):
                found.append(
                    f"The live server has ended transactions that the WAL up to {lsn_text(end)} does not hold: the "
                    "newest is not archived yet. SELECT pg_switch_wal() on it, wait until that is archived, and search "
                    "again."
                )
            return found
        asked = self._wanted.until or self._wanted.since
        if asked and (self.last_commit is None or self.last_commit < asked):
            found.append(
                f"The WAL that was read ends at {lsn_text(end)}, before {utc_text(asked)}: what was done after it is "
                "unknown."
            )
        return found


def verdict(
    search: WalSearch, wanted: Wanted, holes: list[Hole], searched: str, unread: Sequence[str] = ()
) -> tuple[str, str]:
    """The answer in one word and in sentences: `found`, `not found`, or `unknown` where that would be no proof.

    Args:
        search: at its end.
        wanted: what was asked for.
        holes: WAL that was not read.
        searched: what was read, in words: `from … to …`.
        unread: why that does not reach as far as the question, in sentences.
    """
    name = f"{wanted.schema}.{wanted.table}" if wanted.schema and wanted.table else wanted.table or "any table"
    doubts = [
        f"{hole.reason} What happened between {lsn_text(hole.start)} and {lsn_text(hole.end)} is unknown."
        for hole in holes
    ]
    doubts += unread
    if search.not_understood:
        doubts.append(f"{counted(search.not_understood, 'line')} of pg_waldump could not be understood, such as: "
                      f"{search.example!r}.")
    doubts += [f"{one.sentence} What it held is gone as well." for one in search.databases]
    if search.unnamed_count:
        doubts.append(f"{counted(search.unnamed_count, 'change')} of tables whose names the WAL that was read does not"
                      " tell: they are listed as unnamed; a search from an earlier time may name them.")
    smaller = []
    if search.smaller_deletions:
        smaller.append(
            f"{counted(search.smaller_deletions, 'smaller deletion')} of {counted(search.smaller_rows, 'row')} in all"
            f" {'is' if search.smaller_deletions == 1 else 'are'} not reported: each is of fewer than"
            f" {counted(wanted.reported_rows, 'row')} (wal_search_minimum_deleted_rows)."
        )
    if search.events:
        last, largest = search.events[-1], search.largest
        before = [
            f"A larger loss came before it, and is not undone by going back to just before the newest one:"
            f" {largest.sentence}"
        ] if largest and largest.size > last.size else []
        return "found", " ".join([last.sentence, *before, *smaller, *doubts])
    if wanted.table and not search.table_known:
        doubts.append(f"No table {name} exists or is named in the WAL that was read: check the name, or search from an"
                      " earlier time.")
    if search.rows_not_read:
        doubts.append(f"{counted(search.rows_not_read, 'row')} or page of the catalog could not be read.")
    nothing = (
        f"No drop or truncation of {name}, and no transaction that deleted {counted(wanted.reported_rows, 'row')} or"
        f" more of it, was found {searched}."
    )
    return "unknown" if doubts else "not found", " ".join([nothing, *smaller, *doubts])
