# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The backups of a target: what is there, what is proven, and which one to take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ansible_collections.sre.runbooks.plugins.module_utils.backup.verdict import (
    KNOWN,
    LEAST,
    RESTORABLE,
    UNVERIFIABLE,
    Verdict,
    disproof,
    height,
    proof,
)
from ansible_collections.sre.runbooks.plugins.module_utils.health.check import Check, Threshold, judged
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.moments import utc_text
from ansible_collections.sre.runbooks.plugins.module_utils.run.words import about, duration
from ansible_collections.sre.runbooks.plugins.module_utils.run.words import size as size_words


@dataclass(frozen=True)
class Backup:
    """One backup of a catalog.

    Args:
        backup_id: its id.
        place: where it is, for people.
        problem: why its manifest cannot be read; empty when it can.
        verdicts: all of them, oldest first.
        taken_at: the moment that it shows; None when that is not known, as the following.
        newest_row_at: time of the newest row in it, ISO 8601.
        total_bytes: size of its files.
    """

    backup_id: str
    place: str
    problem: str
    verdicts: tuple[Verdict, ...]
    taken_at: datetime | None = None
    newest_row_at: str | None = None
    total_bytes: int | None = None

    @classmethod
    def of(cls, data: dict[str, Any], place: str, verdicts: Sequence[Verdict]) -> Backup:
        """A backup whose manifest is proven whole; `data` is the manifest's."""
        return cls(
            data["backup_id"], place, "", tuple(verdicts), parse_time(data["snapshot"]["taken_at"]),
            data["newest_row_at"], data["total_bytes"],
        )

    @property
    def proof(self) -> Verdict | None:
        """The verdict that proves it as high as it is proven; None for a backup whose manifest cannot be read."""
        return None if self.problem else proof(self.verdicts)

    @property
    def proven_rung(self) -> str | None:
        """The highest rung proven and not disproved since."""
        return self.proof.rung if self.proof else None

    @property
    def proven_on(self) -> str:
        """The day of UTC on which it was; empty where it is not proven."""
        return self.proof.proven_at[:10] if self.proof else ""

    @property
    def damage(self) -> str:
        """The last verdict about the backup itself where it is a bad one, else empty; `unverifiable` is about none."""
        found = disproof(self.verdicts)
        return found.verdict if found else ""

    @property
    def last_verdict(self) -> str | None:
        """The last one; one that cannot be read says as little as `unverifiable`, and takes no damage back."""
        last = self.verdicts[-1].verdict if self.verdicts else None
        return last if last in (*KNOWN, None) else self.damage or UNVERIFIABLE

    def as_dict(self, moment: datetime) -> dict[str, Any]:
        """One line of a catalog, seen at `moment`."""
        return {
            "backup_id": self.backup_id,
            "place": self.place,
            "problem": self.problem,
            "taken_at": utc_text(self.taken_at) if self.taken_at else None,
            "newest_row_at": self.newest_row_at,
            "age_s": round((moment - self.taken_at).total_seconds()) if self.taken_at else None,
            "total_bytes": self.total_bytes,
            "verdict": self.last_verdict,
            "rung": self.proven_rung,
            "proven_at": self.proof.proven_at if self.proof else None,
        }


def parse_time(text: str) -> datetime:
    """An ISO 8601 time; without a zone it is UTC.

    Raises:
        RunbookError: it is no such time.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise RunbookError(
            f"{text!r} is no time of the form 2026-11-21T02:15:00Z.", "Give the time in ISO 8601, with its zone."
        ) from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def parse_before(text: str) -> datetime:
    """A moment that an operator gives.

    Raises:
        RunbookError: it is no time, or has no zone: an hour more or less is another backup.
    """
    moment = parse_time(text)
    try:
        zoned = datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        zoned = False
    if not zoned:
        raise RunbookError(
            f"The time {text} has no zone.", f"Give it with one, as in {moment:%Y-%m-%dT%H:%M}Z or +01:00."
        )
    return moment


def pick(
    backups: Sequence[Backup], *, backup_id: str | None = None, before: datetime | None = None,
    least_rung: str | None = RESTORABLE,
) -> Backup:
    """Choose a backup: the one with `backup_id`, else the newest.

    Args:
        backups: of one target, oldest first.
        backup_id: the only one to take.
        before: only backups whose snapshot was taken at or before this moment.
        least_rung: only backups proven at least this high; None takes unproven ones too.

    Raises:
        RunbookError: none fits; the message says what is there.
    """
    wanted, hint = "", "List what is there with the playbook sre.runbooks.backup_catalog."
    if backup_id:
        _require_usable([one for one in backups if one.backup_id == backup_id], backup_id, _summary(backups), hint)
        wanted = f" with the id {backup_id}"
    if before:
        wanted += f" from {before.isoformat()} or earlier"
    if least_rung:
        wanted += f" proven to the rung {least_rung}"
        hint = "Prove one with the playbook sre.runbooks.backup_verify, or choose another one of the catalog."
    if all(backup.problem or backup.damage for backup in backups):
        hint = "Copy one from another store with the playbook sre.runbooks.backup_copy, and look at this store's disk."
    if not backups:
        hint = "Make one with the playbook sre.runbooks.database_backup, then prove it with sre.runbooks.backup_verify."
    for backup in reversed(backups):
        if backup_id and backup.backup_id != backup_id:
            continue
        taken_at = backup.taken_at
        if taken_at is None or (before and taken_at > before):
            continue
        if least_rung and height(backup.proven_rung) < height(least_rung):
            continue
        return backup
    raise RunbookError(f"There is no backup{wanted}: {_summary(backups)}", hint)


def _require_usable(found: Sequence[Backup], backup_id: str, summary: str, hint: str) -> None:
    if not found:
        raise RunbookError(f"There is no backup with the id {backup_id}: {summary}", hint)
    if found[-1].damage:
        raise RunbookError(f"The backup {backup_id} is {found[-1].damage}, as its last proof says: {summary}", hint)


KIND = "catalog"
# Clocks of two machines differ by seconds; more is a wrong clock.
CLOCK_TOLERANCE_S = 300
HEADING = (
    f"{'target':<24} {'newest backup':<22} {'age':>10} {'size':>10} {'a day':>10}  {'proven':<22} {'backups':>7}"
    "  a restore takes"
)


def takes(backups: Sequence[Backup], least_rung: str | None) -> Backup | None:
    """The backup that a restore takes when nobody names one; None where it would refuse."""
    try:
        return pick(backups, least_rung=least_rung)
    except RunbookError:
        return None


def line_of(
    target: str, backups: Sequence[Backup], moment: datetime, least_rung: str | None, growth: float | None
) -> str:
    """A line of the terminal's table under HEADING; `growth` is that of a day in bytes, as in `growth_per_day`."""
    if not backups:
        return f"{target:<24} {'none':<22} {'':>10} {'':>10} {'':>10}  {'':<22} {0:>7}  none"
    newest, taken = backups[-1].as_dict(moment), takes(backups, least_rung)
    age = "unknown" if newest["age_s"] is None else about(newest["age_s"])
    size = "unknown" if newest["total_bytes"] is None else size_words(newest["total_bytes"])
    proven = backups[-1].damage or f"{newest['rung'] or 'not proven'} {backups[-1].proven_on}"
    told = "none: it refuses"
    if taken:
        old = (moment - taken.taken_at).total_seconds()
        told = "the newest" if taken == backups[-1] else f"{taken.backup_id}, {about(old)} old"
    trend = "" if growth is None else f"{'-' if growth < 0 else '+'}{size_words(abs(round(growth)))}"
    return (
        f"{target:<24} {newest['backup_id']:<22} {age:>10} {size:>10} {trend:>10}  {proven:<22} {len(backups):>7}"
        f"  {told}"
    )


def listing(backups: Sequence[Backup], moment: datetime) -> list[str]:
    """A line for each backup, the newest first, with what -e backup takes."""
    lines = []
    for one in reversed(backups):
        seen = one.as_dict(moment)
        age = "of an unknown age" if seen["age_s"] is None else f"{about(seen['age_s'])} old"
        size = "" if seen["total_bytes"] is None else f", {size_words(seen['total_bytes'])}"
        proven = f"proven to {seen['rung']} on {one.proven_on}" if seen["rung"] else "not proven"
        lines.append(f"{one.backup_id}  {age}{size}, {one.problem or one.damage or proven}")
    return lines


@dataclass(frozen=True)
class Limits:
    """What a catalog is held against.

    Args:
        age_s: how old the newest backup may be that is proven at least to the rung LEAST (B42).
        drilled_age_s: how old the newest one may be that a restore takes by default (B40: monthly).
        least_rung: how high that one must be proven; None takes any.
        objective_s: RPO, how much may be lost with what the newest one proven to LEAST brings back; None without one.
    """

    age_s: float
    drilled_age_s: float
    least_rung: str | None = RESTORABLE
    objective_s: float | None = None


def assess(target: str, backups: Sequence[Backup], moment: datetime, limits: Limits) -> list[Check]:
    """The health of a catalog; the message of a check that is not ok says what mends it.

    Args:
        target: the inventory host.
        backups: oldest first.
        moment: now.
        limits: what it is held against.
    """
    back_up, prove = (
        f"Run: ansible-playbook sre.runbooks.{playbook} -e target={target}"
        for playbook in ("database_backup", "backup_verify")
    )
    if not backups:
        message = f"{target} has no backup. {back_up}"
        return [Check("backup_age_seconds", target, KIND, "critical", message, unit="s", critical=limits.age_s)]

    def age(name: str, rung: str | None, threshold: Threshold, mend: str) -> Check:
        try:
            proven = pick(backups, least_rung=rung)
        except RunbookError as error:
            return Check(
                name, target, KIND, "critical", f"{target}: {error.message} {prove}", unit="s",
                warning=threshold.warning, critical=threshold.critical,
            )
        seconds = (moment - proven.taken_at).total_seconds()
        if seconds < -CLOCK_TOLERANCE_S:
            # A wrong clock, here or there, would let it pass as fresh for as long as it is ahead.
            message = (
                f"{proven.backup_id} of {target} was taken {duration(-seconds)} after the time of this clock, so its"
                " age is unknown. Set the clocks of the database's server and of the store's host (timedatectl)."
            )
            return Check(
                name, target, KIND, "unknown", message, unit="s", warning=threshold.warning,
                critical=threshold.critical,
            )
        message = f"The newest backup of {target}{_proven(rung)}, {proven.backup_id}, is {duration(seconds)} old"
        if threshold.judge(seconds) == "ok":
            message += "."
        else:
            message += f", and at most {duration(threshold.critical or threshold.warning or 0)} are allowed. {mend}"
        return judged(name, target, KIND, seconds, "s", threshold, message)

    damaged = [
        f"{backup.backup_id} of {target} is {backup.damage}." for backup in backups if backup.damage
    ]
    return [
        age("backup_age_seconds", LEAST, Threshold(critical=limits.age_s), back_up),
        age("drilled_backup_age_seconds", limits.least_rung, Threshold(warning=limits.drilled_age_s), prove),
        *(
            [] if limits.objective_s is None
            else [age("recovery_point_seconds", LEAST, Threshold(critical=limits.objective_s), back_up)]
        ),
        judged(
            "damaged_backups", target, KIND, len(damaged), "backups", Threshold(warning=0),
            f"{' '.join(damaged)} Look at the store's disk, and remove them when another one is proven."
            if damaged else f"No backup of {target} is known to be damaged.",
        ),
    ]


def _proven(rung: str | None) -> str:
    return f" that is proven to the rung {rung}" if rung else ""


def _summary(backups: Sequence[Backup]) -> str:
    if not backups:
        return "the catalog is empty."
    newest = backups[-1]
    state = newest.problem or newest.damage or f"proven to {newest.proven_rung or 'no rung'}"
    return f"the catalog holds {len(backups)}, the newest is {newest.backup_id} ({state.rstrip('.')})."
