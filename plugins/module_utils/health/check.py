# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One health observation, and the threshold that decides between its statuses."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from ansible_collections.sre.runbooks.plugins.module_utils.run.moments import now


@dataclass(frozen=True)
class Threshold:
    """Where a value turns bad. A value equal to the threshold still passes.

    Args:
        warning: beyond this it is a warning; None for never.
        critical: beyond this it is critical; None for never.
        worse: the side on which the trouble is, `above` or `below`.
    """

    warning: float | None = None
    critical: float | None = None
    worse: str = "above"

    def judge(self, value: float) -> str:
        """The status of a value; what is not a number (NaN) is unknown."""
        if math.isnan(value):
            return "unknown"
        for status, limit in (("critical", self.critical), ("warning", self.warning)):
            if limit is not None and (value > limit if self.worse == "above" else value < limit):
                return status
        return "ok"


@dataclass
class Check:
    """One health observation.

    Args:
        name: what was observed, unique within the target.
        target: of whom, an inventory host.
        kind: http, tcp, tls, postgresql or redis; catalog for those of a store's backups.
        status: one of STATUSES.
        message: one sentence with the values.
        value: the value; None when nothing could be read.
        unit: what the value counts.
        warning: the threshold that was applied.
        critical: the threshold that was applied.
        checked_at: ISO 8601 in UTC.
        duration_ms: milliseconds until the answer was there.
        evidence: what else was seen; never a secret, never the text of a session's statement.
    """

    name: str
    target: str
    kind: str
    status: str
    message: str
    value: Any = None
    unit: str = ""
    warning: float | None = None
    critical: float | None = None
    checked_at: str = field(default_factory=now)
    duration_ms: float = 0.0
    evidence: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The check as a plain dictionary, for results and records."""
        return asdict(self)


def judged(
    name: str, target: str, kind: str, value: float, unit: str, threshold: Threshold, message: str, **evidence: Any
) -> Check:
    """A check whose status comes from a threshold."""
    return Check(
        name, target, kind, threshold.judge(value), message, value=round(value, 3), unit=unit,
        warning=threshold.warning, critical=threshold.critical, evidence=evidence,
    )
