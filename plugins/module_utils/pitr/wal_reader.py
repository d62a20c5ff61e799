# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Archived WAL from a folder or from pgBackRest, read by pg_waldump line by line, with bounded memory and disk."""

from __future__ import annotations

import contextlib
import os
import re
import struct
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ansible_collections.sre.runbooks.plugins.module_utils.pitr.repository import Repository
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.segments import (
    SEGMENT,
    Segment,
    lsn_text,
    parse_lsn,
    read_history,
)
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.wal import (
    MANAGERS,
    NO_DELETION,
    ROWS,
    Hole,
    Record,
    Stretch,
    parse_line,
)
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.wal_catalog import PAGE_BYTES, UnreadableError
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.client_tools import ClientTools
from ansible_collections.sre.runbooks.plugins.module_utils.run import process
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.progress import Progress

# The first two bytes of a segment, by PostgreSQL's major version (access/xlog_internal.h).
MAGIC = {0xD110: 15, 0xD113: 16, 0xD116: 17, 0xD118: 18}
SHORT_HEADER, LONG_HEADER = 24, 40
# A record longer than this is none: it would not fit into memory, and PostgreSQL's own limit is at 1020 MB.
RECORD_BYTES = 1020 * 1024 * 1024
READ_S = 6 * 3600.0
FETCH_S = 600.0
# So many segments are fetched at once, and lie in the work folder with the one that the last record began in.
FETCHED_AT_ONCE = 8
WHERE = re.compile(r"(?:at|after|record at) ([0-9A-F]+/[0-9A-F]+)")
# pg_waldump says so when it is told to begin inside of a segment.
FIRST_RECORD = re.compile(r"first record is after .*|")
WRITTEN_SO_FAR = re.compile(r"invalid record length at .*got 0")
HISTORY = re.compile(r"([0-9A-F]{8})\.history")


@dataclass(frozen=True)
class Header:
    """What a segment says about itself."""

    major: int
    system_identifier: int
    segment_bytes: int
    start: int


def read_header(segment: Path) -> Header | None:
    """The long header at the beginning of a segment; None for a file that has none (compressed, encrypted, empty)."""
    with segment.open("rb") as stream:
        head = stream.read(LONG_HEADER)
    if len(head) < LONG_HEADER:
        return None
    magic, _info, _timeline, start = struct.unpack_from("<HHIQ", head)
    system_identifier, segment_bytes, page_bytes = struct.unpack_from("<QII", head, SHORT_HEADER)
    if magic not in MAGIC or page_bytes != PAGE_BYTES or segment_bytes < 1 << 20 or segment_bytes & segment_bytes - 1:
        return None
    return Header(MAGIC[magic], system_identifier, segment_bytes, start)


class WalArchive(Protocol):
    """Where WAL is kept."""

    def names(self) -> list[str]:
        """The names of all segments that are there."""

    def histories(self) -> list[int]:
        """The timelines whose history file is there."""

    def history(self, timeline: int) -> str:
        """The text of a timeline's history file."""

    def windows(self, names: list[str], needed: Callable[[], str]) -> Iterator[tuple[Path, str]]:
        """Folders with segments, one after the other, each with the name of the last segment in it.

        Args:
            names: the segments to read, in order.
            needed: the first segment that the next folder must still have.
        """


class WalFolder:
    """A plain folder with segments as PostgreSQL writes them, such as `archive_command` fills by copying.

    Raises:
        RunbookError: the folder cannot be listed.
    """

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        try:
            self._listing = sorted(one.name for one in self._folder.iterdir() if one.is_file())
        except OSError as error:
            raise RunbookError(
                f"The folder {folder} with the archived WAL cannot be read: {error.strerror}.",
                "Check the path, and that the user who runs this may read it.",
            ) from error

    def names(self) -> list[str]:
        """The names of all segments that are there."""
        return [name for name in self._listing if SEGMENT.fullmatch(name)]

    def histories(self) -> list[int]:
        """The timelines whose history file is there."""
        return [int(found[1], 16) for name in self._listing if (found := HISTORY.fullmatch(name))]

    def history(self, timeline: int) -> str:
        """The text of a timeline's history file."""
        return (self._folder / f"{timeline:08X}.history").read_text(encoding="utf-8", errors="replace")

    def windows(self, names: list[str], needed: Callable[[], str]) -> Iterator[tuple[Path, str]]:  # noqa: ARG002
        """The folder itself."""
        yield self._folder, names[-1]


class PgBackRest:
    """The archive of a stanza, through pgBackRest's own commands: it knows about compression, encryption and stores.

    As root they run as whom the configuration belongs to: what root leaves behind is in the server's way.

    Args:
        config: its configuration file, with the stanza's `pg1-path`.
        stanza: the stanza's name.

    Raises:
        RunbookError: there is no such file.
    """

    def __init__(self, config: str, stanza: str) -> None:
        try:
            status = Path(config).stat()
        except OSError as error:
            raise RunbookError(
                f"pgBackRest's configuration {config} cannot be read: {error.strerror}.",
                "Check the path, and that the user who runs this may read it.",
            ) from error
        self._owner = (status.st_uid, status.st_gid) if os.geteuid() == 0 else None
        self._repository = Repository(Path(config), stanza, self._owner, 1, FETCH_S)
        self._found: list[str] | None = None

    def _files(self) -> list[str]:
        if self._found is None:
            files = self._repository.archived_files()
            # An archive of an earlier cluster, such as before pg_upgrade, lies beside the present one.
            numbers = [int(found[1]) for name in files if (found := re.match(r"\d+-(\d+)/", name))]
            newest = max(numbers, default=0)
            self._found = [name.rsplit("/", 1)[-1] for name in files if re.match(rf"\d+-{newest}/", name)]
        return self._found

    def names(self) -> list[str]:
        """The names of all segments that are there."""
        found = {name[:24] for name in self._files() if name[24:25] in ("-", "")}
        return sorted(name for name in found if SEGMENT.fullmatch(name))

    def histories(self) -> list[int]:
        """The timelines whose history file is there."""
        return [int(found[1], 16) for name in self._files() if (found := HISTORY.fullmatch(name))]

    def history(self, timeline: int) -> str:
        """The text of a timeline's history file."""
        with self._folder() as folder:
            target = folder / "history"
            self._repository.fetch(f"{timeline:08X}.history", target)
            return target.read_text(encoding="utf-8", errors="replace")

    @contextlib.contextmanager
    def _folder(self) -> Iterator[Path]:
        """A private one, into which pgBackRest can write."""
        with tempfile.TemporaryDirectory(prefix="sre-wal-") as folder:
            if self._owner:
                os.chown(folder, *self._owner)
            yield Path(folder)

    def windows(self, names: list[str], needed: Callable[[], str]) -> Iterator[tuple[Path, str]]:
        """A work folder in which segments come and go."""
        with self._folder() as folder:
            for first in range(0, len(names), FETCHED_AT_ONCE):
                for lying in folder.iterdir():
                    if lying.name < needed():
                        lying.unlink()
                batch = names[first : first + FETCHED_AT_ONCE]
                for name in batch:
                    self._repository.fetch(name, folder / name)
                yield folder, batch[-1]


@dataclass(frozen=True)
class ArchivedCluster:
    """Whose WAL it is."""

    major: int
    system_identifier: int
    segment_bytes: int


def look_at(archive: WalArchive) -> ArchivedCluster:
    """Read the newest segment's header.

    Raises:
        RunbookError: there is no segment, or none that can be read.
    """
    names = archive.names()
    if not names:
        raise RunbookError(
            "There is no segment of WAL in the archive.", "Check the folder or the stanza, and archive_command."
        )
    for folder, _last in archive.windows(names[-1:], lambda: ""):
        header = read_header(folder / names[-1])
        if header:
            return ArchivedCluster(header.major, header.system_identifier, header.segment_bytes)
    raise RunbookError(
        f"{names[-1]} is not a segment of WAL of PostgreSQL 15 to 18.",
        "Segments must lie there as PostgreSQL writes them, neither compressed nor encrypted.",
    )


class Listener(Protocol):
    """Who is told what the WAL says.

    Attributes:
        catalogs: the files, as text, of whose rows every record is wanted; of others only how many were deleted.
    """

    catalogs: set[str]

    def feed(self, record: Record) -> bool:
        """Take a record; False ends the reading."""

    def deleted(self, xid: int, file: str) -> None:
        """A row of a file was deleted."""

    def cannot_read(self, line: str) -> None:
        """A line is not understood."""

    def interrupted(self) -> None:
        """The next record does not follow the last one."""


class WalReader:
    """Reads stretches of WAL.

    Args:
        archive: where it is.
        cluster: whose it is.
        tools: the programs of the same version.
        listener: who is told.
        progress: where to report.
    """

    def __init__(
        self, archive: WalArchive, cluster: ArchivedCluster, tools: ClientTools, listener: Listener, progress: Progress
    ) -> None:
        self._archive = archive
        self._cluster = cluster
        self._tools = tools
        self._listener = listener
        self._progress = progress
        self._folder = Path()
        self._stretch = Stretch(1, 0, 0)
        self._handed_on = -1
        self.last = 0

    def read(self, stretch: Stretch) -> tuple[bool, list[Hole]]:
        """Hand on every record of a stretch.

        Returns:
            False when the listener has ended the reading, and what in the stretch could not be read. `last` is then
            the place of the last record.
        """
        self._stretch, self.last = stretch, stretch.start
        holes: list[Hole] = []
        with self._progress.during(self._where):
            further = self._read_all(stretch, holes)
        if holes and holes[-1].end >= stretch.end and WRITTEN_SO_FAR.search(holes[-1].reason):
            holes.pop()  # the archive's end, and not yet a whole segment
        return further, holes

    def _where(self) -> str:
        done = (self.last - self._stretch.start) / max(1, self._stretch.end - self._stretch.start)
        return f"read up to {lsn_text(self.last)}, {done:.0%} of this part of timeline {self._stretch.timeline}"

    def _read_all(self, stretch: Stretch, holes: list[Hole]) -> bool:
        begin = stretch.start
        try:
            while begin < stretch.end:
                hole = self._read_from(begin, Stretch(stretch.timeline, begin, stretch.end))
                if hole is None:
                    break
                holes.append(hole)
                # Behind a damaged place the next segment begins with a place that can be found again.
                begin = self.last = hole.end
                self._listener.interrupted()
        except _EnoughError:
            return False
        return True

    def raw(self, lsn: int) -> bytes:
        """The bytes of the record that begins at `lsn`, in the folder that is being read.

        Raises:
            UnreadableError: it is not there whole.
        """
        head, at = self._gather(lsn, 4)
        (size,) = struct.unpack("<I", head)
        if not SHORT_HEADER <= size <= RECORD_BYTES:
            raise UnreadableError(f"a record of {size} bytes")
        rest, _at = self._gather(at, size - 4)
        return head + rest

    def _gather(self, at: int, count: int) -> tuple[bytes, int]:
        """`count` bytes from a place on, without the headers of the pages that they cross."""
        parts = []
        while count:
            in_segment = at % self._cluster.segment_bytes
            if in_segment % PAGE_BYTES == 0:
                at += SHORT_HEADER if in_segment else LONG_HEADER
                continue
            piece = min(count, PAGE_BYTES - in_segment % PAGE_BYTES)
            parts.append(self._bytes_at(at, piece))
            at += piece
            count -= piece
        return b"".join(parts), at

    def _bytes_at(self, at: int, count: int) -> bytes:
        size = self._cluster.segment_bytes
        name = Segment(self._stretch.timeline, at // size).name(size)
        try:
            with (self._folder / name).open("rb") as stream:
                stream.seek(at % size)
                found = stream.read(count)
        except OSError as error:
            raise UnreadableError(f"{name}: {error.strerror}") from error
        if len(found) != count:
            raise UnreadableError(f"{name} ends in the middle of a record")
        return found

    def _read_from(self, begin: int, stretch: Stretch) -> Hole | None:
        size = self._cluster.segment_bytes
        names = [
            Segment(stretch.timeline, number).name(size) for number in range(begin // size, -(-stretch.end // size))
        ]

        def needed() -> str:
            return Segment(stretch.timeline, self.last // size).name(size)

        with contextlib.closing(self._archive.windows(names, needed)) as windows:  # type: ignore[type-var]
            for folder, last in windows:
                self._folder = folder
                end = min((Segment.parse(last, size).number + 1) * size, stretch.end)
                hole = self._foreign(folder, stretch, end) or self._dump(folder, stretch, end)
                if hole:
                    return hole
        return None

    def _foreign(self, folder: Path, stretch: Stretch, end: int) -> Hole | None:
        """The first segment that is not what its name says."""
        size = self._cluster.segment_bytes
        for number in range(self.last // size, -(-end // size)):
            name = Segment(stretch.timeline, number).name(size)
            header = read_header(folder / name)
            expected = Header(self._cluster.major, self._cluster.system_identifier, size, number * size)
            if header != expected or (folder / name).stat().st_size != size:
                earlier = self._dump(folder, stretch, number * size) if number * size > self.last else None
                if earlier:
                    return earlier
                why = "of another cluster" if header and header.system_identifier != expected.system_identifier else (
                    "not a whole segment of this place"
                )
                start = max(number * size, stretch.start)
                return Hole(stretch.timeline, start, (number + 1) * size, f"{name} is {why}.")
        return None

    def _dump(self, folder: Path, stretch: Stretch, end: int) -> Hole | None:
        size = self._cluster.segment_bytes
        start = self.last

        def line_read(line: str) -> None:
            rows = ROWS.fullmatch(line)
            if rows and rows["node"] not in self._listener.catalogs:
                lsn = parse_lsn(rows["lsn"])
                if lsn > self._handed_on:
                    self.last = self._handed_on = lsn
                    if rows["what"] == "DELETE" and not NO_DELETION.search(line):
                        self._listener.deleted(int(rows["xid"]), rows["file"])
                return
            record = parse_line(line)
            if record is None:
                if not FIRST_RECORD.fullmatch(line):
                    self._listener.cannot_read(line)
                return
            if record.lsn > self._handed_on:  # what follows a fetched batch begins with the last record of that
                self.last = self._handed_on = record.lsn
                if not self._listener.feed(record):
                    raise _EnoughError

        done = process.stream(
            [
                self._tools.path("pg_waldump"), f"--path={folder}", f"--timeline={stretch.timeline}",
                f"--start={lsn_text(start)}", f"--end={lsn_text(end)}", *(f"--rmgr={name}" for name in MANAGERS),
            ],
            line_read, timeout_s=READ_S, variables={"TZ": "UTC"},
        )
        if done.returncode == 0:
            return None
        places = [parse_lsn(one) for one in WHERE.findall(done.stderr_tail)]
        stopped = max([self.last, *(one for one in places if one < end)])
        return Hole(
            stretch.timeline, stopped, min((stopped // size + 1) * size, stretch.end),
            f"{Segment(stretch.timeline, stopped // size).name(size)} cannot be read further than {lsn_text(stopped)}"
            f" ({done.stderr_tail.replace('pg_waldump: ', '').strip()}).",
        )


class _EnoughError(Exception):
    """The record that was asked for has been passed."""


def ancestors(archive: WalArchive, timeline: int) -> list[tuple[int, int]]:
    """The timelines that lead to this one, with the places where they were left.

    Raises:
        RunbookError: its history file is not in the archive, or not readable.
    """
    if timeline == 1:
        return []
    if timeline not in archive.histories():
        raise RunbookError(
            f"The archive lacks {timeline:08X}.history, which says where timeline {timeline} began.",
            "Bring the file back into the archive, or search an earlier timeline.",
        )
    return read_history(archive.history(timeline))
