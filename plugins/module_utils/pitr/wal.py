# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""pg_waldump's lines as values, and what of a timeline is in an archive: nothing is read here."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from ansible_collections.sre.runbooks.plugins.module_utils.pitr.segments import Segment, lsn_text, parse_lsn

LINE = re.compile(
    r"rmgr: (?P<manager>\w+) +len \(rec/tot\): *\d+/ *\d+, tx: *(?P<xid>\d+),"
    r" lsn: (?P<lsn>[0-9A-F]{1,8}/[0-9A-F]{1,8}), prev (?P<previous>[0-9A-F]+/[0-9A-F]+), desc: (?P<what>\S+) ?"
    r"(?P<rest>.*)"
)
# The most frequent lines by far: rows of one relation. All pages of such a record are that relation's.
ROWS = re.compile(
    r"rmgr: Heap2? +len \(rec/tot\): *\d+/ *\d+, tx: *(?P<xid>\d+), lsn: (?P<lsn>[0-9A-F]{1,8}/[0-9A-F]{1,8}),"
    r" prev [0-9A-F]+/[0-9A-F]+, desc: (?P<what>[A-Z_+]+)[ ,][^#]*, blkref #0: rel (?P<file>\d+/\d+/(?P<node>\d+))"
    r" blk \d+(?: FPW)?(?:, blkref #1: .*)?"
)
# A deletion with these flags takes no row away: it moves to another partition, or was never there (ON CONFLICT).
NO_DELETION = re.compile(r"\bflags:? 0x(?:[1-9A-F].|.[89A-F])")
BLOCK = re.compile(r"blkref #\d+: rel (\d+)/(\d+)/(\d+)(?: fork (\w+))? blk (\d+)( FPW)?")
COMMIT = re.compile(r"(?:(?P<prepared>\d+): )?(?P<at>\d{4,}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}) UTC(?:; (?P<details>.*))?")
# A relation's file: `base/<database>/<file>`, or below a tablespace of its own; `_init` and the like are forks.
FILE = re.compile(r"(?:base/|pg_tblspc/(?P<tablespace>\d+)/[^/]+/)(?P<database>\d+)/(?P<node>\d+)(?:_\w+)?")
SHARED_FILE = re.compile(r"global/\d+(?:_\w+)?")
DROPPED = re.compile(r"(\d+)/(\d+)/(\d+)")
DEFAULT_TABLESPACE = 1663
# The kind of statistics that belongs to a relation (PgStat_Kind).
RELATION_STATISTICS = 2

# What the search follows; pg_waldump leaves out the others.
MANAGERS = ("XLOG", "Transaction", "Storage", "Standby", "RelMap", "Database", "Heap", "Heap2")


@dataclass(frozen=True)
class Stretch:
    """Segments without a hole between them, of one timeline.

    Attributes:
        start: place where reading begins, in bytes.
        end: place behind the last segment, in bytes.
    """

    timeline: int
    start: int
    end: int


@dataclass(frozen=True)
class Hole:
    """WAL that is not there, or cannot be read.

    Attributes:
        start: where it begins, in bytes.
        end: where the WAL goes on, in bytes.
        reason: a sentence.
    """

    timeline: int
    start: int
    end: int
    reason: str

    def as_dict(self) -> dict[str, object]:
        """For a module's result."""
        return {"timeline": self.timeline, "from_lsn": lsn_text(self.start), "to_lsn": lsn_text(self.end),
                "reason": self.reason}


def path(
    segments: Iterable[Segment], timeline: int, ancestors: Iterable[tuple[int, int]], size: int
) -> tuple[list[Stretch], list[Hole]]:
    """What there is of the WAL that leads along the ancestors into a timeline, and what is missing between it."""
    numbers: dict[int, set[int]] = {}
    for segment in segments:
        numbers.setdefault(segment.timeline, set()).add(segment.number)
    stretches: list[Stretch] = []
    holes: list[Hole] = []
    for current, until in [*ancestors, (timeline, None)]:
        for number in sorted(numbers.get(current, ())):
            # A new timeline begins with a copy of the segment in which it left the old one, which may lack it.
            start, end = max(number * size, stretches[-1].end if stretches else 0), (number + 1) * size
            if until is not None:
                end = min(end, until)
            if start >= end:
                continue
            last = stretches[-1] if stretches else None
            if last and last.end == start and last.timeline == current:
                stretches[-1] = Stretch(current, last.start, end)
                continue
            if last and last.end != start:
                holes.append(_missing(last, start, size))
            stretches.append(Stretch(current, start, end))
    return stretches, holes


def _missing(last: Stretch, start: int, size: int) -> Hole:
    names = [Segment(last.timeline, number).name(size) for number in range(last.end // size, -(-start // size))]
    which = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
    return Hole(last.timeline, last.end, start, f"The archive lacks {which}.")


@dataclass(frozen=True)
class File:
    """Where a relation's rows are: after TRUNCATE and after a rewrite in another file than before."""

    tablespace: int
    database: int
    node: int


@dataclass(frozen=True)
class Block:
    """A page that a record changes; `image` says that the record holds the whole page."""

    file: File
    fork: str
    number: int
    image: bool


@dataclass(frozen=True)
class Record:
    """One line of pg_waldump. `lsn` is where the record begins, in bytes; `rest` is the description behind `what`."""

    manager: str
    xid: int
    lsn: int
    what: str
    rest: str

    @property
    def blocks(self) -> list[Block]:
        """The pages it changes."""
        return [
            Block(File(int(space), int(database), int(node)), fork or "main", int(number), bool(image))
            for space, database, node, fork, number, image in BLOCK.findall(self.rest)
        ]


@dataclass(frozen=True)
class Commit:
    """The end of a transaction that took effect.

    Attributes:
        xid: its own number.
        at: with a time zone.
        children: the numbers of its subtransactions.
        files: what it took away from the disk, at its end.
        dropped: relations that no longer exist, as (database, oid).
        changed: relations whose definition or file it changed, by oid; in which database is not said.
    """

    xid: int
    at: datetime
    children: tuple[int, ...]
    files: frozenset[File]
    dropped: frozenset[tuple[int, int]]
    changed: frozenset[int]


def parse_line(line: str) -> Record | None:
    """A line of pg_waldump (versions 15 to 18); None for one that is not as those write it."""
    found = LINE.fullmatch(line)
    if not found:
        return None
    return Record(
        found["manager"], int(found["xid"]), parse_lsn(found["lsn"]), found["what"].rstrip(","), found["rest"]
    )


def file_of(text: str) -> File:
    """A file as pg_waldump names it in a block reference: `<tablespace>/<database>/<file>`."""
    tablespace, database, node = text.split("/")
    return File(int(tablespace), int(database), int(node))


def parse_file(text: str) -> File | None:
    """A relation's file as pg_waldump names it; None for one that is not as it writes them."""
    found = FILE.fullmatch(text)
    if not found:
        return None
    return File(int(found["tablespace"] or DEFAULT_TABLESPACE), int(found["database"]), int(found["node"]))


def parse_commit(record: Record) -> Commit | None:
    """The commit in a record `COMMIT` or `COMMIT_PREPARED`; None when its description is not understood."""
    found = COMMIT.fullmatch(record.rest.strip())
    if not found:
        return None
    try:
        at = datetime.fromisoformat(found["at"]).replace(tzinfo=UTC)
    except ValueError:
        return None
    children: tuple[int, ...] = ()
    files: set[File] = set()
    dropped: set[tuple[int, int]] = set()
    changed: set[int] = set()
    for part in (found["details"] or "").split("; "):
        name, _colon, rest = part.partition(": ")
        words = rest.split()
        if name == "subxacts":
            if not all(word.isdigit() for word in words):
                return None
            children = tuple(int(word) for word in words)
        elif name == "rels":
            named = [parse_file(word) for word in words if not SHARED_FILE.fullmatch(word)]
            if None in named:
                return None
            files.update(one for one in named if one)
        elif name == "dropped stats":
            for word in words:
                numbers = DROPPED.fullmatch(word)
                if not numbers:
                    return None
                if int(numbers[1]) == RELATION_STATISTICS:
                    dropped.add((int(numbers[2]), int(numbers[3])))
        elif name == "inval msgs":
            changed.update(int(oid) for oid in re.findall(r"\brelcache (\d+)", rest))
    return Commit(
        int(found["prepared"] or record.xid), at, children, frozenset(files), frozenset(dropped), frozenset(changed)
    )
