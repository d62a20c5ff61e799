# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What can be measured of each kind, with its unit and the thresholds that the documents give.

Where the documents name no number, the common practice of the field stands here and an inventory replaces it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.sre.runbooks.plugins.module_utils.health.check import Threshold
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError

NO_THRESHOLD = Threshold()


@dataclass(frozen=True)
class Measure:
    """A measurable thing.

    Args:
        unit: what its value counts.
        threshold: the collection's own; inventories replace its parts.
        rate: it needs two samples of a counter.
    """

    unit: str
    threshold: Threshold = NO_THRESHOLD
    rate: bool = False


MEASURES: dict[str, dict[str, Measure]] = {
    "http": {"response_seconds": Measure("s")},
    "tcp": {},
    # B12: less than 30 days is a warning.
    "tls": {"certificate_days": Measure("days", Threshold(30, 7, "below"))},
    "postgresql": {
        # B5 B11: more than 80 %; K2: critical at 90 %.
        "connections_percent": Measure("percent", Threshold(80, 90)),
        # A30: a statement older than 10 minutes is looked at.
        "longest_transaction_seconds": Measure("s", Threshold(600, 3600)),
        "idle_in_transaction_seconds": Measure("s", Threshold(300, 1800)),
        # B5: locks rising.
        "blocked_sessions": Measure("sessions", Threshold(0, 10)),
        # B5: aim at more than 90 %. Its red, below 80 %, is a cause of slow queries, which B8 calls a warning.
        "cache_hit_percent": Measure("percent", Threshold(90, None, "below"), rate=True),
        "replication_lag_seconds": Measure("s", Threshold(30, 300)),
        # PostgreSQL's failsafe vacuum starts at 75 % of the way to a stop (vacuum_failsafe_age).
        "wraparound_percent": Measure("percent", Threshold(50, 75)),
        # A66: CREATE INDEX CONCURRENTLY leaves an invalid index when it fails.
        "invalid_indexes": Measure("indexes", Threshold(0)),
        # Autovacuum comes at 20 % by default (autovacuum_vacuum_scale_factor).
        "dead_tuples_percent": Measure("percent", Threshold(20, 50)),
        "size_bytes": Measure("bytes"),
        # B5: slower than 1 s, frequently.
        "slow_statements": Measure("statements", Threshold(0), rate=True),
    },
    "redis": {
        "hit_percent": Measure("percent", Threshold(80, None, "below"), rate=True),
        "memory_percent": Measure("percent", Threshold(80, 95)),
        "evictions_per_second": Measure("keys/s", Threshold(0), rate=True),
        "persistence_errors": Measure("errors", Threshold(None, 0)),
    },
}


def wanted_measures(kind: str, names: Sequence[str]) -> list[str]:
    """The measures that a check asks for, `all` spelled out.

    Raises:
        RunbookError: a name that this kind does not have.
    """
    known = MEASURES[kind]
    unknown = [name for name in names if name != "all" and name not in known]
    if unknown:
        raise RunbookError(
            f"A check of kind {kind} cannot measure {', '.join(unknown)}.",
            f"It measures {', '.join(known) or 'nothing of this sort'}; correct health_checks in the inventory.",
        )
    return list(known) if "all" in names else list(dict.fromkeys(names))


def threshold_for(kind: str, measure: str, given: Sequence[Mapping[str, Any]]) -> Threshold:
    """The threshold of a measure: what the check gives, otherwise the collection's own.

    Raises:
        RunbookError: the two limits stand on the wrong sides of each other.
    """
    own = MEASURES[kind][measure].threshold if measure in MEASURES[kind] else Threshold()
    for entry in given:
        if entry["measure"] == measure:
            return threshold_from(entry, own.worse)
    return own


def threshold_from(entry: Mapping[str, Any], worse: str = "above") -> Threshold:
    """The threshold that one entry of a check gives.

    Raises:
        RunbookError: the two limits stand on the wrong sides of each other.
    """
    threshold = Threshold(entry.get("warning"), entry.get("critical"), entry.get("worse") or worse)
    _require_order(entry["measure"], threshold)
    return threshold


def _require_order(measure: str, threshold: Threshold) -> None:
    if threshold.warning is None or threshold.critical is None:
        return
    above = threshold.worse == "above"
    if (threshold.critical < threshold.warning) if above else (threshold.critical > threshold.warning):
        raise RunbookError(
            f"The thresholds of {measure} stand on the wrong sides: warning {threshold.warning:g}, critical "
            f"{threshold.critical:g}, and worse is {threshold.worse}.",
            "Exchange them, or set worse to the other side.",
        )
