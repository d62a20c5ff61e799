# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""When a runbook may change something: windows that recur, and freezes that forbid, each in its own time zone.

A window with an end at or before its start goes over midnight and belongs to the day it starts on. Times mean the wall
clock: one that a change of the clocks skips is taken as late as the clock jumped, one that comes twice is its first.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
LAST = -1
# A window of a fifth week comes at the latest after a few months; beyond this there is none.
HORIZON_DAYS = 400
WINDOW = ("name", "runbooks", "days", "week_of_month", "start", "end", "timezone")
FREEZE = ("name", "runbooks", "from", "until", "timezone")
WEEKS = (1, 2, 3, 4, 5, LAST)
OWN = "sre.runbooks."
# Runbooks that a calendar may name before they exist.
PLANNED = frozenset({"server_resize"})


@dataclass(frozen=True)
class Span:
    """From start (within) until end (no longer within), both in UTC."""

    name: str
    start: datetime
    end: datetime
    zone: str

    def __contains__(self, moment: datetime) -> bool:
        return self.start <= moment < self.end

    def describe(self) -> str:
        """Start and end in UTC and in the zone of the window."""
        local = [moment.astimezone(ZoneInfo(self.zone)) for moment in (self.start, self.end)]
        ending = "%a %H:%M" if self.end - self.start < timedelta(days=1) else "%a %Y-%m-%d %H:%M"
        text = f"{self.name}: {self.start:%a %Y-%m-%d %H:%M} to {self.end:{ending}} UTC"
        if self.zone != "UTC":
            text += f" ({local[0]:%a %Y-%m-%d %H:%M} to {local[1]:{ending}} {self.zone})"
        return text


@dataclass(frozen=True)
class Permission:
    """Whether a runbook may change something now, and why not."""

    allowed: bool
    reason: str = ""


def _zone(entry: Mapping[str, Any]) -> ZoneInfo:
    name = str(entry.get("timezone", "UTC"))
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise RunbookError(
            f"The time zone {name} of {entry.get('name')} is not known here.",
            "Use a name as in Europe/Madrid, and install tzdata where the controller has none.",
        ) from error


def _time(entry: Mapping[str, Any], key: str) -> time:
    value = entry.get(key)
    try:
        # YAML 1.1 reads an unquoted 02:30 as the number of minutes, 150.
        return time(*divmod(value, 60)) if isinstance(value, int) else time.fromisoformat(str(value))
    except ValueError as error:
        raise RunbookError(
            f"The {key} of the window {entry.get('name')} is {value}, which is no time of day.", 'Write it as "02:30".'
        ) from error


def _days(entry: Mapping[str, Any]) -> set[str]:
    days = {str(day).lower()[:3] for day in entry.get("days") or DAYS}
    if days - set(DAYS):
        raise RunbookError(
            f"The window {entry.get('name')} has the day {', '.join(sorted(days - set(DAYS)))}.",
            f"Use: {', '.join(DAYS)}.",
        )
    return days


def _utc(day: date, clock: time, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, clock, zone).astimezone(UTC)


def _in_week(day: date, week: int | None) -> bool:
    if week is None:
        return True
    if week == LAST:
        return (day + timedelta(days=7)).month != day.month
    return (day.day - 1) // 7 + 1 == week


def check(windows: Any, freezes: Any, known: Collection[str] = ()) -> None:
    """Refuse a calendar that cannot be read as it was meant, also where it is not about the runbook at hand.

    Args:
        windows: the variable run_windows.
        freezes: the variable run_freezes.
        known: the playbooks that there are, without a collection's name; with none the names are not looked at.
            A name of another collection is believed.

    Raises:
        RunbookError: an unknown key, a wrong type, no such day, time, time zone or runbook.
    """
    for kind, entries, keys in (("window", windows, WINDOW), ("freeze", freezes, FREEZE)):
        if not isinstance(entries, list):
            raise RunbookError(f"run_{kind}s is {entries!r} and no list.", "Write it as docs/run.md says.")
        for entry in entries:
            _check_entry(kind, entry, keys, known)
            if kind == "freeze":
                freeze_span(entry)
                continue
            _zone(entry), _time(entry, "start"), _time(entry, "end"), _days(entry)
            week = entry.get("week_of_month")
            if week is not None and (isinstance(week, bool) or str(week) not in map(str, WEEKS)):
                raise RunbookError(
                    f"The week_of_month of the window {entry.get('name')} is {week!r}.",
                    f"Use: {', '.join(map(str, WEEKS))}.",
                )


def _check_entry(kind: str, entry: Any, keys: Collection[str], known: Collection[str]) -> None:
    if not isinstance(entry, dict):
        raise RunbookError(f"run_{kind}s has {entry!r}, which is no {kind}.", f"A {kind} has: {', '.join(keys)}.")
    name = entry.get("name")
    unknown = sorted(str(key) for key in entry if key not in keys)
    if unknown:
        raise RunbookError(
            f"The {kind} {name} has the unknown key {', '.join(unknown)}.", f"A {kind} has: {', '.join(keys)}."
        )
    for key in ("runbooks", "days"):
        value = entry.get(key)
        if value is not None and not (isinstance(value, list) and value and all(isinstance(one, str) for one in value)):
            raise RunbookError(f"The {key} of the {kind} {name} is {value!r}.", f"Write a list: {key}: [one, two].")
    for runbook in unknown_runbooks(entry.get("runbooks") or [], known):
        raise RunbookError(
            f"The {kind} {name} names the runbook {runbook}, which does not exist.",
            f"There are: {', '.join(sorted({*known, *PLANNED}))}.",
        )


def unknown_runbooks(names: Sequence[str], known: Collection[str]) -> list[str]:
    """The names that are neither `known`, nor planned, nor of another collection; none where nothing is known."""
    if not known:
        return []
    return [name for name in names if (own := name.removeprefix(OWN)) not in {*known, *PLANNED} and "." not in own]


def applies(entry: Mapping[str, Any], runbook: str) -> bool:
    """Whether a window or a freeze is about this runbook; one that names none is about all that change something."""
    named = entry.get("runbooks")
    return named is None or runbook.rsplit(".", 1)[-1] in [str(name).rsplit(".", 1)[-1] for name in named]


def occurrences(window: Mapping[str, Any], moment: datetime) -> Iterator[Span]:
    """The spans of a window that end after `moment`, earliest first, over HORIZON_DAYS.

    Raises:
        RunbookError: a day, a time or the time zone of the window is none.
    """
    zone, start, end, days = _zone(window), _time(window, "start"), _time(window, "end"), _days(window)
    week = window.get("week_of_month")
    today = moment.astimezone(zone).date()
    for offset in range(-2, HORIZON_DAYS):
        day = today + timedelta(days=offset)
        if DAYS[day.weekday()] in days and _in_week(day, None if week is None else int(week)):
            closes = _utc(day + timedelta(days=1) if end <= start else day, end, zone)
            span = Span(str(window.get("name", "window")), _utc(day, start, zone), closes, zone.key)
            if span.start < span.end and span.end > moment:
                yield span


def _moment(value: Any, zone: ZoneInfo, is_end: bool) -> datetime:
    """A point in time as YAML may give it; a date alone means from its beginning, or until its end."""
    if isinstance(value, str):
        text = value.strip()
        value = date.fromisoformat(text) if len(text) == len("2026-12-24") else datetime.fromisoformat(text)
    if not isinstance(value, datetime):
        value = datetime.combine(value + timedelta(days=1 if is_end else 0), time())
    return (value if value.tzinfo else value.replace(tzinfo=zone)).astimezone(UTC)


def freeze_span(freeze: Mapping[str, Any]) -> Span:
    """When a freeze holds.

    Raises:
        RunbookError: `from` or `until` is no time.
    """
    zone = _zone(freeze)
    try:
        start, end = _moment(freeze["from"], zone, False), _moment(freeze["until"], zone, True)
    except (KeyError, TypeError, ValueError) as error:
        raise RunbookError(
            f"The freeze {freeze.get('name')} goes from {freeze.get('from')} until {freeze.get('until')}.",
            "Give both, as in 2026-12-24 or 2026-12-24 18:00.",
        ) from error
    return Span(str(freeze.get("name", "freeze")), start, end, zone.key)


def next_opening(
    windows: Sequence[Mapping[str, Any]], freezes: Sequence[Span], moment: datetime
) -> Span | None:
    """The earliest span with a moment that no freeze forbids, beginning at that moment; None within HORIZON_DAYS."""
    best: Span | None = None
    for window in windows:
        for span in occurrences(window, moment):
            start = max(span.start, moment)
            for freeze in sorted(freezes, key=lambda held: held.start):
                if start in freeze:
                    start = freeze.end
            if start < span.end:
                if best is None or start < best.start:
                    best = Span(span.name, start, span.end, span.zone)
                break
    return best


def permission(
    runbook: str,
    windows: Sequence[Mapping[str, Any]],
    freezes: Sequence[Mapping[str, Any]],
    moment: datetime,
    known: Collection[str] = (),
) -> Permission:
    """Whether `runbook` may change something at `moment`; where no window is about it, any time but a freeze is right.

    Raises:
        RunbookError: a window or a freeze cannot be read (`check`, which has `known` as well).
    """
    check(windows, freezes, known)
    own = [window for window in windows if applies(window, runbook)]
    held = [freeze_span(freeze) for freeze in freezes if applies(freeze, runbook)]
    stopped = next((span for span in held if moment in span), None)
    opened = not own or any(moment in next(occurrences(window, moment), ()) for window in own)
    if opened and not stopped:
        return Permission(True)
    why = f"{runbook} is frozen by {stopped.describe()}." if stopped else f"{runbook} is outside its windows."
    if not own and stopped:
        return Permission(False, f"{why} The next time is {stopped.end:%a %Y-%m-%d %H:%M} UTC.")
    opening = next_opening(own, held, moment)
    then = f"The next window is {opening.describe()}." if opening else f"None comes in {HORIZON_DAYS} days."
    return Permission(False, f"{why} {then}")
