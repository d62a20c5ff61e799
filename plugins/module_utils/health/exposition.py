# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reads metrics in Prometheus' text format, version 0.0.4. Bounded: each line is looked at once."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from dataclasses import dataclass, field

from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
VALUE = r"[+-]?(?:\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?|Inf|NaN)"
# Each alternative begins with a sign of its own, so there is only one way to match and nothing to try again.
SERIES = re.compile(
    rf'({NAME})[ \t]*(?:\{{((?:[^"}}\\]|"(?:[^"\\]|\\.)*")*)\}})?[ \t]+({VALUE})(?:[ \t]+-?\d+)?[ \t]*', re.ASCII
)
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)[ \t]*=[ \t]*"((?:[^"\\]|\\.)*)"', re.ASCII)
MOST_SERIES = 50000
HISTOGRAM = ("_bucket", "_count", "_sum")


@dataclass
class Metrics:
    """What a service counts.

    Args:
        totals: for each name the sum of its series.
        buckets: for each histogram, how many observations were at most that high, summed over the other labels.
    """

    totals: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    buckets: dict[str, dict[float, float]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(float)))

    def offers(self, name: str, distribution: bool = False) -> bool:
        """Whether there is a number, or a histogram, of exactly this name."""
        return name in (self.buckets if distribution else self.totals)

    def has(self, name: str) -> bool:
        """Whether there is a metric of this name; a histogram or a summary counts under its own."""
        return name in self.totals or any(f"{name}{suffix}" in self.totals for suffix in HISTOGRAM)


def parse_metrics(text: str) -> Metrics:
    """Read a body of metrics.

    Raises:
        RunbookError: a line is of another format, there is no metric at all, or there are more than 50,000 series.
    """
    metrics, series = Metrics(), 0
    for number, line in enumerate(text.split("\n"), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        found = SERIES.fullmatch(stripped)
        series += 1
        if found is None or series > MOST_SERIES:
            raise RunbookError(
                f"Line {number} of the body is no metric in Prometheus' text format." if found is None else
                f"The body has more than {MOST_SERIES} series.", "Check the address and the option shape.",
            )
        name, labels, value = found.group(1), found.group(2) or "", float(found.group(3))
        metrics.totals[name] += value
        if name.endswith("_bucket"):
            limit = dict(LABEL.findall(labels)).get("le", "")
            if re.fullmatch(VALUE, limit, re.ASCII):
                metrics.buckets[name.removesuffix("_bucket")][float(limit)] += value
    if not series:
        raise RunbookError("The body has no metric.", "Check the address and the option shape.")
    return metrics


def quantile_of(buckets: dict[float, float], share: float) -> float:
    """The value below which that share of the observations lies, taken as even within a bucket, as Prometheus does.

    Args:
        buckets: how many observations were at most that high.
        share: between 0 and 1.

    Returns:
        NaN without an observation; the highest limit below infinity when the value lies above it.
    """
    limits = sorted(buckets)
    if not limits or not math.isinf(limits[-1]) or buckets[limits[-1]] <= 0:
        return math.nan
    wanted, below, lower = share * buckets[limits[-1]], 0.0, 0.0
    for limit in limits:
        count = buckets[limit]
        if count >= wanted and count > below:
            return lower if math.isinf(limit) else lower + (limit - lower) * (wanted - below) / (count - below)
        below, lower = max(below, count), lower if math.isinf(limit) else limit
    return lower
