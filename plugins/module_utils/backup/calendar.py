# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The backups of a target by days, and the page that shows them: a day without one is drawn, and never left out.

Days are those of UTC. A backup belongs to the day of the moment that it shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from ansible_collections.sre.runbooks.plugins.module_utils.backup.catalog import CLOCK_TOLERANCE_S, Backup, takes
from ansible_collections.sre.runbooks.plugins.module_utils.backup.verdict import LEAST, RESTORABLE, height
from ansible_collections.sre.runbooks.plugins.module_utils.run.moments import utc_text
from ansible_collections.sre.runbooks.plugins.module_utils.run.words import about, counted, duration
from ansible_collections.sre.runbooks.plugins.module_utils.run.words import size as size_words

RESTORED, ARCHIVED, UNPROVEN, MISSING, PENDING, BEFORE = (
    "restored", "archived", "unproven", "missing", "pending", "before"
)
# Each state's mark, for those who cannot see its colour, and what it means.
STATES = {
    RESTORED: ("✓", "a backup proven by a restore"),
    ARCHIVED: ("○", "a backup whose archive is proven, and no restore"),
    UNPROVEN: ("!", "a backup that is not proven, or damaged"),
    MISSING: ("✕", "no backup"),
    PENDING: ("…", "today is not over, and the newest proven backup is young enough"),
    BEFORE: ("", "before the oldest backup: nothing is known of it"),
}
GAPS = {MISSING: "without a backup", UNPROVEN: "not proven", BEFORE: "before the oldest backup"}
# What a database's card looks like, the worst first.
TONES = BAD_TONE, WARNING, GOOD = "bad", "warn", "good"


@dataclass(frozen=True)
class Day:
    """A day: one of STATES, how many backups it has, and a sentence about them."""

    date: str
    state: str
    backups: int
    text: str


def calendar(
    backups: Sequence[Backup], moment: datetime, days: int, maximum_age_s: float, least_rung: str | None, place: str
) -> dict[str, Any]:
    """What a page needs of one catalog.

    Args:
        backups: of one target, oldest first.
        moment: now; its day is the last one.
        days: how many.
        maximum_age_s: how old the newest proven backup may be for a day that is not over to be no gap yet.
        least_rung: how high a backup must be proven for a restore to take it; None takes any.
        place: where they are.
    """
    by_day: dict[date, list[Backup]] = {}
    for backup in backups:
        by_day.setdefault(_day_of(backup), []).append(backup)
    today, taken, newest = moment.astimezone(UTC).date(), takes(backups, least_rung), takes(backups, LEAST)
    # One of the future is of a wrong clock: no day is before it, and its age is unknown.
    first = min((day for day in by_day if day <= today), default=None)
    age_s = (moment - newest.taken_at).total_seconds() if newest else None
    if age_s is not None and age_s < -CLOCK_TOLERANCE_S:
        age_s = None
    is_fresh = age_s is not None and age_s <= maximum_age_s
    return {
        "moment": utc_text(moment), "place": place, "backups": len(backups),
        "total_bytes": sum(backup.total_bytes or 0 for backup in backups),
        "takes": taken.backup_id if taken else None,
        "exposed_s": (moment - taken.taken_at).total_seconds() if taken else None, "newest_age_s": age_s,
        "days": [
            asdict(_day(one, by_day.get(one, []), first, can_wait=is_fresh and one == today))
            for one in (today - timedelta(days=days - 1 - index) for index in range(days))
        ],
    }


def _day_of(backup: Backup) -> date:
    if backup.taken_at:
        return backup.taken_at.astimezone(UTC).date()
    # A backup whose manifest cannot be read still has its begin in its name.
    return datetime.strptime(backup.backup_id[:8], "%Y%m%d").replace(tzinfo=UTC).date()


def _day(one: date, backups: Sequence[Backup], first: date | None, *, can_wait: bool) -> Day:
    if not backups:
        # Without any backup there is no day before the first one: each of them is a gap.
        state = PENDING if can_wait else BEFORE if first and one < first else MISSING
        return Day(one.isoformat(), state, 0, f"{STATES[state][1][:1].upper()}{STATES[state][1][1:]}.")
    best = max(backups, key=lambda backup: (height(backup.proven_rung), backup.backup_id))
    rung = best.proven_rung
    state = RESTORED if height(rung) >= height(RESTORABLE) else ARCHIVED if height(rung) >= height(LEAST) else UNPROVEN
    if state == UNPROVEN and can_wait and not _is_bad(best):
        state = PENDING
    others = "" if len(backups) == 1 else f", the best of {len(backups)},"
    texts = [f"{best.backup_id}{others} {f'is proven to the rung {rung}' if rung else _fault(best)}."]
    texts += [f"{bad.backup_id} {_fault(bad)}." for bad in backups if bad is not best and _is_bad(bad)]
    return Day(one.isoformat(), state, len(backups), " ".join(texts))


def _is_bad(backup: Backup) -> bool:
    return bool(backup.problem or backup.damage)


def _fault(backup: Backup) -> str:
    if backup.problem:
        return f"cannot be used: {backup.problem.rstrip('.')}"
    return f"is {backup.damage or 'not proven'}"


def page(system: str, hosts: Sequence[str], catalogs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What the template places.

    Args:
        system: the inventory's own name.
        hosts: all databases; those that need a look come first.
        catalogs: by host what `calendar` gave, with `objective_seconds` (RPO; None without one) and `problems`; a host
            that is not in it could not be read, which is shown as well.
    """
    shown = sorted((_shown(host, catalogs.get(host)) for host in hosts), key=lambda one: TONES.index(one["tone"]))
    states = [day["state"] for one in shown for day in one["days"]]
    return {
        "system": system,
        "drawn": max((one["moment"] for one in catalogs.values()), default="")[:16].replace("T", " "),
        "title": _title(shown),
        "tone": shown[0]["tone"] if shown else GOOD,
        "legend": [
            {"state": state, "mark": mark, "meaning": meaning, "count": states.count(state)}
            for state, (mark, meaning) in STATES.items()
        ],
        "databases": shown,
    }


def _title(shown: Sequence[Mapping[str, Any]]) -> str:
    wrong = [one for one in shown if one["tone"] != GOOD]
    covered = _covered([day["state"] for one in shown for day in one["days"]])
    if not wrong:
        return covered
    who = wrong[0]["name"] if len(shown) == 1 else f"{len(wrong)} of {len(shown)} databases"
    return f"{who} {'needs' if len(wrong) == 1 else 'need'} a look: {covered}"


def _covered(states: Sequence[str]) -> str:
    """How many days have a proven backup, of those that are over or have one."""
    proven, before = (sum(state in some for state in states) for some in ((RESTORED, ARCHIVED), (BEFORE,)))
    days = counted(len(states) - states.count(PENDING), "day")
    text = f"{proven} of {days} {'has' if proven == 1 else 'have'} a proven backup"
    return text + (f", nothing is known of the {counted(before, 'day')} before the oldest one" if before else "")


def _shown(host: str, catalog: Mapping[str, Any] | None) -> dict[str, Any]:
    if catalog is None:
        unread = "Its catalog could not be read in this run; the report says why."
        return {"name": host, "tone": BAD_TONE, "words": "unknown", "problems": [unread], "days": []}
    days = [
        {**day, "number": int(day["date"][8:]), "mark": STATES[day["state"]][0], "meaning": STATES[day["state"]][1]}
        for day in catalog["days"]
    ]
    states = [day["state"] for day in days]
    objective, exposed, newest_age = catalog.get("objective_seconds"), catalog["exposed_s"], catalog["newest_age_s"]
    met = None if objective is None else newest_age is not None and newest_age <= float(objective)
    is_bad = MISSING in states or UNPROVEN in states or exposed is None or met is False
    tone = BAD_TONE if is_bad else WARNING if catalog["problems"] or BEFORE in states else GOOD
    return {
        **catalog, "name": host, "tone": tone, "days": days,
        "words": ", ".join(
            f"{counted(states.count(state), 'day')} {word}" for state, word in GAPS.items() if state in states
        ) or "no gap",
        # Monday is the first column.
        "column": date.fromisoformat(days[0]["date"]).isoweekday(), "begin": days[0]["date"], "end": days[-1]["date"],
        "size": size_words(catalog["total_bytes"]),
        "objective": duration(float(objective)) if objective is not None else "",
        "exposed": about(exposed) if exposed is not None else "",
        "met": met, "newest_age": about(newest_age) if newest_age is not None else "",
    }
