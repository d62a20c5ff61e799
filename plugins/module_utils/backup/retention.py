# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which backups may go: decided from the catalog and the clock alone, before anything is removed.

What is kept is never decided by age alone (X15). A backup may only go when a newer one is proven by a restore.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from ansible_collections.sre.runbooks.plugins.module_utils.backup.catalog import CLOCK_TOLERANCE_S, Backup
from ansible_collections.sre.runbooks.plugins.module_utils.backup.scanner import FindingError, compare_names
from ansible_collections.sre.runbooks.plugins.module_utils.backup.store import TargetStore
from ansible_collections.sre.runbooks.plugins.module_utils.backup.verdict import RESTORABLE, height
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.moments import utc_text
from ansible_collections.sre.runbooks.plugins.module_utils.run.progress import Progress
from ansible_collections.sre.runbooks.plugins.module_utils.run.words import duration

# What a period is called, and what a moment's period is.
PERIODS: dict[str, Callable[[datetime], tuple[int, ...]]] = {
    "hourly": lambda moment: (moment.year, moment.month, moment.day, moment.hour),
    "daily": lambda moment: (moment.year, moment.month, moment.day),
    "weekly": lambda moment: tuple(moment.isocalendar())[:2],
    "monthly": lambda moment: (moment.year, moment.month),
    "yearly": lambda moment: (moment.year,),
}


@dataclass(frozen=True)
class Policy:
    """What is kept.

    Args:
        periods: by the names in PERIODS: of how many of the last such periods with a backup one is kept, of those that
            are proven highest the newest. A damaged one stands for no period. In UTC.
        minimum_age_s: what is younger always stays.
        maximum_age_s: a newest backup older than this says that backups or the clock stopped, so nothing goes.
        holds: ids that stay whatever happens.
    """

    periods: dict[str, int]
    minimum_age_s: float
    maximum_age_s: float
    holds: frozenset[str] = field(default_factory=frozenset)


@dataclass(frozen=True)
class Decision:
    """What becomes of one backup, and why."""

    backup: Backup
    kept: bool
    reason: str


def present_backups(place: TargetStore) -> list[Backup]:
    """The catalog of a target, in which the newest backup that is proven by a restore is there.

    A proof is a file beside the backup, and in a bucket the catalog is made of names: neither tells that the data are
    gone. One whose manifest or files are gone proves nothing, and then the next one is looked at.

    Raises:
        RunbookError: the store cannot be read.
    """
    backups = place.backups()
    while newest := _newest_proven(backups):
        try:
            compare_names(place.manifest(newest.backup_id), place.names(newest.backup_id))
        except (RunbookError, FindingError, OSError) as error:
            problem = f"it is not what was proven: {error.message if isinstance(error, RunbookError) else error}"
            backups[backups.index(newest)] = replace(newest, problem=problem.rstrip("."))
        else:
            break
    return backups


def decide(backups: Sequence[Backup], policy: Policy, moment: datetime) -> list[Decision]:
    """What becomes of each backup of a target, oldest first. A target's catalog comes from `present_backups`.

    Raises:
        RunbookError: the policy keeps nothing, a hold is on no backup, or the listing or the clock looks wrong.
    """
    _require_sense(backups, policy, moment)
    newest_proven = _newest_proven(backups)
    periods = _kept_for_periods(backups, policy)
    decisions = []
    for backup in backups:
        reason = _reason_to_stay(backup, policy, moment, newest_proven, periods)
        decisions.append(Decision(backup, bool(reason), reason or "no rule keeps it"))
    return decisions


def spare_locked(place: TargetStore, decisions: Sequence[Decision]) -> list[Decision]:
    """The same decisions, but that a backup stays which the store itself keeps longer.

    Raises:
        RunbookError: nobody can know whether it does.
    """
    return [
        replace(one, kept=True, reason=f"Object Lock keeps it until {utc_text(until, 'seconds')}")
        if not one.kept and (until := place.locked_until(one.backup.backup_id)) else one
        for one in decisions
    ]


def remove(place: TargetStore, backups: Sequence[Backup], progress: Progress) -> None:
    """Remove backups; only under the lock of the store.

    Raises:
        RunbookError: one cannot be removed; `removed` in the context are the ids of those that are gone.
    """
    for number, backup in enumerate(backups):
        progress.say(f"removing {backup.backup_id}")
        try:
            place.remove(backup.backup_id)
        except (RunbookError, OSError) as error:
            gone = [one.backup_id for one in backups[:number]]
            reason = error.message if isinstance(error, RunbookError) else f"{error.strerror}."
            raise RunbookError(
                f"{backup.backup_id} could not be removed, or not all of it: {reason} Removed before it were:"
                f" {', '.join(gone) or 'none'}.",
                getattr(error, "hint", "") or "Look at the disk of the store and at its owner, then run it again.",
                removed=gone,
            ) from error


def _reason_to_stay(
    backup: Backup, policy: Policy, moment: datetime, newest_proven: Backup | None, periods: dict[str, str]
) -> str:
    if backup.backup_id in policy.holds:
        return "held"
    if backup.taken_at is None:
        return "its manifest cannot be read, so nobody knows what it is: look at it, and remove it by hand"
    if newest_proven is None:
        return "no backup is proven by a restore, so none may go"
    if backup.backup_id == newest_proven.backup_id:
        return "the newest that is proven by a restore"
    if backup.taken_at > newest_proven.taken_at:
        problem = f", and {backup.problem}" if backup.problem else ""
        return f"no newer one is proven by a restore{problem}"
    if (moment - backup.taken_at).total_seconds() < policy.minimum_age_s:
        return f"younger than {duration(policy.minimum_age_s)}"
    return periods.get(backup.backup_id, "")


def _is_proven(backup: Backup) -> bool:
    return backup.taken_at is not None and height(backup.proven_rung) >= height(RESTORABLE)


def _newest_proven(backups: Sequence[Backup]) -> Backup | None:
    proven = [backup for backup in backups if _is_proven(backup)]
    return max(proven, key=lambda backup: (backup.taken_at, backup.backup_id), default=None)


def _kept_for_periods(backups: Sequence[Backup], policy: Policy) -> dict[str, str]:
    kept: dict[str, list[str]] = {}
    known = sorted(
        (backup for backup in backups if backup.taken_at and not (backup.damage or backup.problem)),
        key=lambda backup: (height(backup.proven_rung), backup.taken_at, backup.backup_id),
    )
    for name, period_of in PERIODS.items():
        by_period = {period_of(backup.taken_at.astimezone(UTC)): backup for backup in known}
        for period in sorted(by_period)[::-1][: policy.periods.get(name, 0)]:
            kept.setdefault(by_period[period].backup_id, []).append(name)
    return {backup_id: " and ".join(names) for backup_id, names in kept.items()}


def _require_sense(backups: Sequence[Backup], policy: Policy, moment: datetime) -> None:
    if unknown := sorted(set(policy.periods) - set(PERIODS)):
        raise RunbookError(f"There is no period {unknown[0]!r}.", f"Use: {', '.join(PERIODS)}.")
    if any(count < 0 for count in policy.periods.values()) or not any(policy.periods.values()):
        raise RunbookError(
            f"The retention {policy.periods} keeps nothing.", "Give at least one period with a count above 0."
        )
    if missing := sorted(policy.holds - {backup.backup_id for backup in backups}):
        raise RunbookError(
            f"The held backup {missing[0]} is not in the catalog, so the listing may not be whole.",
            "Look at the store; when the backup is gone on purpose, take it from backup_retention_holds.",
        )
    if not backups:
        return
    moments = [backup.taken_at for backup in backups if backup.taken_at]
    if not moments:
        raise RunbookError(
            f"None of {len(backups)} manifests can be read, so the store is not what it was.", "Look at its disk."
        )
    newest = max(moments)
    if (newest - moment).total_seconds() > CLOCK_TOLERANCE_S:
        raise RunbookError(
            f"The newest backup is of {utc_text(newest, 'seconds')}, and the clock here says"
            f" {utc_text(moment, 'seconds')}.", "Set the clock of this host, then start it again; nothing was removed.",
        )
    if (moment - newest).total_seconds() > policy.maximum_age_s:
        raise RunbookError(
            f"The newest backup is {duration((moment - newest).total_seconds())} old, and at most"
            f" {duration(policy.maximum_age_s)} are allowed: backups have stopped, or the clock here is wrong.",
            "Make a new backup with the playbook sre.runbooks.database_backup first; nothing was removed.",
        )
