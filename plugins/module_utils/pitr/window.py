# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What can be reached from a repository: which backup leads to a target, over which WAL, and where that ends."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from ansible_collections.sre.runbooks.plugins.module_utils.pitr.segments import Segment, lsn_text, parse_lsn
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.target import Target
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.moments import utc_text
from ansible_collections.sre.runbooks.plugins.module_utils.run.words import about

ARCHIVED = re.compile(r"(?:.*/)?([0-9A-F]{24})-[0-9a-f]{40}(?:\.\w+)?")
HISTORY = re.compile(r"(?:.*/)?([0-9A-F]{8})\.history(?:-[0-9a-f]{40})?(?:\.\w+)?")
# pgBackRest keeps whole seconds: the second in which a backup ended is not all after its end.
SECOND = timedelta(seconds=1)
# In the name of the folder of a cluster that was put aside: when.
STAMP = "%Y%m%dT%H%M%SZ"
# Of several repositories the first is used.
REPOSITORY = 1


@dataclass(frozen=True)
class Base:
    """A base backup, as pgBackRest's `info` has it. Times are in UTC."""

    label: str
    kind: str
    started_at: datetime
    ended_at: datetime
    first: Segment
    last: Segment
    end_lsn: int
    bytes: int
    version: str
    system_identifier: str
    archive: str
    flawed: bool

    def as_dict(self) -> dict[str, Any]:
        """For the module."""
        return {
            "backup": self.label, "kind": self.kind, "ended_at": utc_text(self.ended_at), "bytes": self.bytes,
            "timeline": self.first.timeline, "flawed": self.flawed,
        }


@dataclass(frozen=True)
class Archive:
    """What is in the archive: each segment with the time when it came, and the parents of each timeline."""

    segments: Mapping[Segment, datetime] = field(default_factory=dict)
    # Of each timeline: its parents, oldest first, each with the LSN at which the next one leaves it.
    parents: Mapping[int, Sequence[tuple[int, int]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Reach:
    """How far one backup leads along a timeline.

    Args:
        base: where it begins.
        newest: the last segment without a gap before it; None when not even the backup's own are all there.
        newest_at: when that came into the archive: nothing later is in it.
        gaps: names of missing segments with others after them, at most ten.
        problem: one sentence when the backup leads nowhere; empty when it does.
        end_lsn: where the newest segment ends.
    """

    base: Base
    newest: Segment | None
    newest_at: datetime | None
    gaps: tuple[str, ...]
    problem: str = ""
    end_lsn: int = 0


def read_info(info: Any, stanza: str, size: int) -> list[Base]:
    """The base backups of a stanza's first repository, oldest first, from `pgbackrest info --output=json`.

    Args:
        info: the JSON, read.
        stanza: whose.
        size: bytes of a WAL segment.

    Raises:
        RunbookError: there is no such stanza, it says itself that it is not well, or it is of another form.
    """
    try:
        found = next((one for one in info if one["name"] == stanza), None)
        if found is None or found["status"]["code"] != 0:
            message = found["status"]["message"] if found else "it does not exist"
            raise RunbookError(
                f"The stanza {stanza!r} is of no use: {message}.",
                "Look at it with pgbackrest info; a base backup must be made first.", stanza=stanza,
            )
        clusters = {(one["id"], one["repo-key"]): one for one in found["db"]}
        archives = {(one["database"]["id"], one["database"]["repo-key"]): one["id"] for one in found["archive"]}
        bases = []
        for one in found["backup"]:
            key = (one["database"]["id"], one["database"]["repo-key"])
            if key[1] != REPOSITORY:
                continue
            bases.append(Base(
                one["label"], one["type"], _moment(one["timestamp"]["start"]), _moment(one["timestamp"]["stop"]),
                Segment.parse(one["archive"]["start"], size), Segment.parse(one["archive"]["stop"], size),
                parse_lsn(one["lsn"]["stop"]), int(one["info"]["size"]), str(clusters[key]["version"]),
                str(clusters[key]["system-id"]), archives.get(key, ""), bool(one["error"]),
            ))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, OSError) as error:
        raise RunbookError(
            f"What pgbackrest info says of {stanza!r} is of another form than this collection knows: {error!r}.",
            "See which version of pgBackRest runs; 2.45 is tested.", stanza=stanza,
        ) from error
    return sorted(bases, key=lambda base: base.ended_at)


def read_listing(listing: Any, size: int) -> tuple[dict[Segment, datetime], list[str]]:
    """The segments of an archive and when each came, and the paths of its history files.

    Args:
        listing: the JSON of `pgbackrest repo-ls --recurse --output=json`, read.
        size: bytes of a WAL segment.

    Raises:
        RunbookError: it is of another form.
    """
    segments: dict[Segment, datetime] = {}
    histories = []
    try:
        for path, entry in listing.items():
            if entry["type"] != "file":
                continue
            if match := ARCHIVED.fullmatch(path):
                # An empty file is what a full disk leaves.
                if entry["size"] > 0:
                    segments[Segment.parse(match[1], size)] = _moment(entry["time"])
            elif HISTORY.fullmatch(path):
                histories.append(path)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, OSError) as error:
        raise RunbookError(
            f"What pgbackrest repo-ls says is of another form than this collection knows: {error!r}.",
            "See which version of pgBackRest runs; 2.45 is tested.",
        ) from error
    return segments, sorted(histories)


def history_timeline(path: str) -> int:
    """The timeline that a history file is of."""
    match = HISTORY.fullmatch(path)
    return int(match[1], 16) if match else 0


def reach(base: Base, archive: Archive, timeline: int, size: int) -> Reach:
    """How far a backup leads along a timeline (A86 ⚠: the chain of WAL was never looked at).

    Args:
        base: the backup.
        archive: what is archived.
        timeline: the one that the live cluster is on. A later one belongs to a recovery that was abandoned.
        size: bytes of a WAL segment.
    """
    parents = dict(archive.parents.get(timeline, ()))
    if base.first.timeline != timeline:
        left = parents.get(base.first.timeline)
        if left is None:
            problem = f"it is of timeline {base.first.timeline}, from which no history leads to timeline {timeline}"
            return Reach(base, None, None, (), problem)
        if left <= base.end_lsn:
            return Reach(base, None, None, (), f"timeline {base.first.timeline} was left before the backup ended")
    present = archive.segments
    number, gap_at, newest, newest_at, gaps = base.first.number, None, None, None, []
    # What a timeline wrote after it was left is no part of the way.
    last = max((
        one.number for one in present
        if one.timeline == _timeline_at(one.number, base.first.timeline, parents, timeline, size)
    ), default=-1)
    while number <= max(last, base.last.number):
        current = _timeline_at(number, base.first.timeline, parents, timeline, size)
        # At the place where a timeline was left the segment exists under the new one's name.
        here = Segment(current, number)
        if here in present:
            if gap_at is None:
                newest, newest_at = here, max(present[here], newest_at or present[here])
        else:
            gap_at = number if gap_at is None else gap_at
            if len(gaps) < 10:
                gaps.append(here.name(size))
        number += 1
    if newest is None or newest.number < base.last.number:
        return Reach(base, None, None, tuple(gaps), f"its own WAL segment {gaps[0]} is not in the archive")
    return Reach(base, newest, newest_at, tuple(gaps), end_lsn=(newest.number + 1) * size)


def choose(reaches: Sequence[Reach], target: Target, label: str | None, listing: str = "pgbackrest info") -> Reach:
    """The backup to begin with: the one that was named, else the newest that ended before the target.

    Args:
        reaches: how far each leads, oldest first.
        target: where to.
        label: the one that was named.
        listing: the command that lists the backups.

    Raises:
        RunbookError: none leads there; each that was looked at is told with its reason.
    """
    if label:
        found = next((one for one in reaches if one.base.label == label), None)
        if found is None:
            known = ", ".join(one.base.label for one in reaches) or "none"
            raise RunbookError(f"There is no backup {label!r}.", f"There are: {known}.", backup=label)
        candidates = [found]
    else:
        candidates = [one for one in reversed(reaches) if not _before_end(one.base, target)]
        if not candidates:
            oldest = reaches[0].base.ended_at if reaches else None
            raise RunbookError(
                f"No backup ended before {target}: the oldest one ended at {utc_text(oldest)}." if oldest
                else "There is no base backup.",
                "Nothing before that can be reached; choose a later target." if oldest else "Make one first.",
            )
    reasons = []
    for one in candidates:
        problem = one.problem or _unfit(one, target)
        if not problem:
            return one
        reasons.append(f"{one.base.label}: {problem}")
    raise RunbookError(
        f"No backup leads to {target}. {'; '.join(reasons[:5])}.",
        f"Choose another target or backup; {listing}, as the server's user, lists them.", reasons=reasons,
    )


def require_in_history(target: Target, recovered: Mapping[str, Any] | None) -> None:
    """Refuse a time that an earlier recovery has cut out of the live cluster's history: a replay would pass over it.

    Args:
        target: where to.
        recovered: the position of the finished recovery that the live cluster comes from, with those `before` it.

    Raises:
        RunbookError: what was done at that time is in a cluster that was put aside, or nobody can tell.
    """
    moment = target.moment
    while moment is not None and recovered:
        cut = Target(**recovered["target"])
        exchanged = datetime.strptime(recovered["kept"].rsplit("-", 1)[-1], STAMP).replace(tzinfo=UTC)
        after = cut.moment is None or (moment, not target.exclusive) > (cut.moment, not cut.exclusive)
        if moment < exchanged and after:
            raise RunbookError(
                f"What was done at {utc_text(moment)} is not in the live cluster: that was recovered to {cut}, and "
                f"exchanged at {utc_text(exchanged)}. It would stand at the earlier one of the two.",
                "Go back first, with the playbook sre.runbooks.database_pitr_undo; then recover to that time.",
                recovered=cut.as_dict(), kept=recovered["kept"],
            )
        recovered = recovered["before"]


def losses(target: Target, until: datetime) -> str:
    """What a recovery gives and takes of what was written until a moment, as a sentence for the operator."""
    moment = target.moment
    if moment is None:
        return f"you will get data up to {target}; everything written after it is lost, for how long is unknown"
    given = f"you will get data up to {utc_text(moment)}{' (exclusive)' if target.exclusive else ''}"
    return f"{given}, losing {about(max(0.0, (until - moment).total_seconds()))} of writes"


def require_reached(one: Reach, target: Target, *, live_goes_on: bool, now: datetime, lsn: str | None = None) -> None:
    """Refuse a time or an LSN that the archive does not reach; of other targets nobody knows where they are.

    Args:
        one: the backup that was chosen.
        target: where to.
        live_goes_on: the live server runs and archives: what it has written until now comes in time.
        now: this moment.
        lsn: where the live server writes, when it runs.

    Raises:
        RunbookError: it is in the future, or after the newest WAL.
    """
    if target.lsn is not None:
        _require_lsn(one, target, live_goes_on=live_goes_on, lsn=lsn)
    moment = target.moment
    if moment is None:
        return
    if moment > now:
        raise RunbookError(f"{utc_text(moment)} is in the future: now is {utc_text(now)}.", "Choose an earlier time.")
    if one.gaps and one.newest_at and moment > one.newest_at + SECOND:
        raise RunbookError(
            f"The WAL segment {one.gaps[0]} is missing in the archive: from {one.base.label} on, nothing after "
            f"{utc_text(one.newest_at)} can be reached.",
            "Choose a time before that, or an explicit backup that was made after the gap.", gaps=list(one.gaps),
        )
    if not live_goes_on and one.newest_at and moment > one.newest_at + SECOND:
        raise RunbookError(
            f"{utc_text(moment)} is after the newest WAL in the archive: you would get data up to "
            f"{utc_text(one.newest_at)} at most, losing "
            f"{about((moment - one.newest_at).total_seconds())} more than you asked for.",
            "The live server does not archive what it has. Start it or mend its archiving, or choose an earlier time.",
        )


def _require_lsn(one: Reach, target: Target, *, live_goes_on: bool, lsn: str | None) -> None:
    if lsn and target.lsn > parse_lsn(lsn):
        raise RunbookError(
            f"{target.value} has not been written yet: the live server is at {lsn}.", "Choose an earlier LSN.", lsn=lsn,
        )
    if target.lsn <= one.end_lsn or (live_goes_on and not one.gaps):
        return
    why = f"the WAL segment {one.gaps[0]} is missing" if one.gaps else "the newest WAL ends there"
    raise RunbookError(
        f"The archive leads from {one.base.label} to {lsn_text(one.end_lsn)} and not to "
        f"{target.value}: {why}.",
        "Choose an earlier LSN" + (", or a backup that was made after the gap." if one.gaps else
                                   ", or start the live server, so that it archives what it has."),
        gaps=list(one.gaps),
    )


def _before_end(base: Base, target: Target) -> bool:
    """Whether a target is before the end of a backup, which then cannot lead there (peers: unwarned since 2019)."""
    if target.moment is not None:
        return target.moment < base.ended_at + SECOND
    return target.lsn is not None and target.lsn < base.end_lsn


def _unfit(one: Reach, target: Target) -> str:
    if one.base.flawed:
        return "pgBackRest found damaged pages in it"
    if _before_end(one.base, target):
        return f"it ended at {utc_text(one.base.ended_at)}, after the target"
    return ""


def _timeline_at(number: int, first: int, parents: Mapping[int, int], timeline: int, size: int) -> int:
    """On which timeline the segment of this number is read: the newest one that has begun by its end."""
    current = first
    chain = [*parents, timeline]
    while current != timeline and current in parents and number >= parents[current] // size:
        current = chain[chain.index(current) + 1]
    return current


def _moment(seconds: Any) -> datetime:
    return datetime.fromtimestamp(int(seconds), UTC)
