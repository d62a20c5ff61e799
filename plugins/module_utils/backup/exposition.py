# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A catalog as metrics, in Prometheus' text format 0.0.4, for the text-file collector of node_exporter."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from ansible_collections.sre.runbooks.plugins.module_utils.backup.catalog import Backup, Limits, takes
from ansible_collections.sre.runbooks.plugins.module_utils.backup.growth import growth_per_day
from ansible_collections.sre.runbooks.plugins.module_utils.backup.verdict import LEAST, RUNGS

NONE = "none"


def exposition(system: str, target: str, backups: Sequence[Backup], moment: datetime, limits: Limits) -> str:
    """The metrics of one target.

    A moment that does not exist is 0, the beginning of 1970: `time() - …` then alerts, which no missing series does.

    Args:
        system: the inventory's own name.
        target: the inventory host.
        backups: oldest first.
        moment: when they were listed.
        limits: what they are held against.
    """
    own = {"system": system, "target": target}
    growth = growth_per_day(backups, moment)
    newest = {rung or NONE: takes(backups, rung) for rung in (None, *RUNGS)}
    damaged = sum(bool(one.problem or one.damage) for one in backups)
    metrics = [
        (
            "sre_runbooks_backup_newest_timestamp_seconds",
            "Moment that the newest backup proven at least to the rung shows; 0 without one.",
            [({**own, "rung": rung}, one.taken_at.timestamp() if one else 0) for rung, one in newest.items()],
        ),
        (
            "sre_runbooks_backup_maximum_age_seconds",
            "How old the newest backup proven at least to the rung may be.",
            [
                ({**own, "rung": LEAST}, limits.age_s),
                ({**own, "rung": limits.least_rung or NONE}, limits.drilled_age_s),
            ],
        ),
        (
            "sre_runbooks_backup_recovery_point_objective_seconds",
            "How old the newest backup proven at least to the rung may be, for how much may be lost (RPO).",
            [] if limits.objective_s is None else [({**own, "rung": LEAST}, limits.objective_s)],
        ),
        (
            "sre_runbooks_backup_newest_size_bytes", "Size of the newest backup; 0 without one.",
            [(own, newest[NONE].total_bytes or 0 if newest[NONE] else 0)],
        ),
        (
            "sre_runbooks_backup_size_bytes", "Size of all backups.",
            [(own, sum(one.total_bytes or 0 for one in backups))],
        ),
        (
            "sre_runbooks_backup_growth_bytes_per_day", "By how much a backup grows in a day, over the last 30 days.",
            [] if growth is None else [(own, growth)],
        ),
        ("sre_runbooks_backups", "How many backups there are, damaged ones as well.", [(own, len(backups))]),
        (
            "sre_runbooks_backups_damaged", "How many of them are damaged, or have a manifest that cannot be read.",
            [(own, damaged)],
        ),
        ("sre_runbooks_backup_catalog_timestamp_seconds", "When the catalog was read.", [(own, moment.timestamp())]),
    ]
    lines = []
    for name, meaning, series in (metric for metric in metrics if metric[2]):
        lines += [f"# HELP {name} {meaning}", f"# TYPE {name} gauge"]
        lines += [f"{name}{{{_labels(labels)}}} {value!r}" for labels, value in _distinct(series)]
    return "\n".join(lines) + "\n"


def _distinct(series: list[tuple[dict[str, str], float]]) -> list[tuple[dict[str, str], float]]:
    """One value for each set of labels, the smallest: what is stricter counts."""
    kept: dict[str, tuple[dict[str, str], float]] = {}
    for labels, value in series:
        key = _labels(labels)
        kept[key] = (labels, min(value, kept[key][1])) if key in kept else (labels, value)
    return list(kept.values())


def _labels(labels: dict[str, str]) -> str:
    return ",".join(f'{name}="{_escape(value)}"' for name, value in labels.items())


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
