# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Checks that are made of two samples of a counter. Pure: both samples come as arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.sre.runbooks.plugins.module_utils.health import samples
from ansible_collections.sre.runbooks.plugins.module_utils.health.check import Check, judged
from ansible_collections.sre.runbooks.plugins.module_utils.health.exposition import quantile_of
from ansible_collections.sre.runbooks.plugins.module_utils.health.measures import (
    MEASURES,
    threshold_for,
    threshold_from,
)
from ansible_collections.sre.runbooks.plugins.module_utils.health.metrics import ALL, COUNTED, LIMIT, measure_name
from ansible_collections.sre.runbooks.plugins.module_utils.health.probe import Request
from ansible_collections.sre.runbooks.plugins.module_utils.health.samples import Sample
from ansible_collections.sre.runbooks.plugins.module_utils.health.shapes import quoted
from ansible_collections.sre.runbooks.plugins.module_utils.run.words import about

# A ratio of fewer events than this is chance.
LEAST_EVENTS = 20
# A window may be this much longer than the one that a threshold is about.
SLACK = 2.0
SHOWN = 20


def longest_window(request: Request) -> float:
    """How old an earlier sample may be, in seconds, so that all rates of a check can be made of it."""
    windows = [entry["per_seconds"] for entry in request.check["thresholds"] if entry.get("per_seconds")]
    return min([samples.LASTING_S, *(SLACK * window for window in windows)])


def rate_check(measure: str, before: Sample | None, now: Sample, request: Request) -> Check | str:
    """The check of one rate, or the reason why there is none.

    Args:
        measure: a measure whose `rate` is true, or a threshold on a metric with a window.
        before: the earlier sample.
        now: the later sample.
        request: the check that took them.
    """
    if before is None or not now.follows(before):
        return _why_no_rate(before, now)
    first, last = before.counters.get(measure), now.counters[measure]
    if first is None:
        return _why_no_rate(None, now)
    seconds = now.at - before.at
    if request.kind == "http":
        entry = next(entry for entry in request.check["thresholds"] if measure_name(entry) == measure)
        return _metric(entry, first, last, seconds, request)
    if measure == "slow_statements":
        return _slow_statements(first, now, seconds, request)
    if any(last[key] < first.get(key, 0) for key in last):
        return "not measured yet, its counters started anew since the last sample."
    delta = {key: last[key] - first.get(key, 0) for key in last}
    window = f"in the last {about(seconds)}"
    if "count" in delta:
        value = delta["count"] / seconds
        message = f"{delta['count']:,.0f} {window}."
    else:
        events = delta["hits"] + delta["reads"]
        if events < LEAST_EVENTS:
            return f"not measured, {events:.0f} reads {window} are too few for a ratio."
        value = 100 * delta["hits"] / events
        message = f"{delta['hits']:,.0f} of {events:,.0f} reads {window} came from memory."
    return _judged(measure, value, message, seconds, request, **delta)


def _judged(measure: str, value: float, message: str, seconds: float, request: Request, **evidence: Any) -> Check:
    return judged(
        f"{request.check['name']}.{measure}", request.target, request.kind, value,
        MEASURES[request.kind][measure].unit, threshold_for(request.kind, measure, request.check["thresholds"]),
        message, window_seconds=round(seconds, 1), **evidence,
    )


def _why_no_rate(before: Sample | None, now: Sample) -> str:
    apart = samples.APART_S
    if before is None:
        return f"not measured yet, it needs a second sample at least {apart:.0f} s after the first."
    if now.identity != before.identity:
        return "not measured yet, its counters started anew since the last sample (a restart or a reset)."
    if now.at - before.at > samples.LASTING_S:
        return f"not measured yet, the last sample is {about(now.at - before.at)} old."
    return (f"not measured yet, the last sample is {max(0.0, now.at - before.at):.0f} s old, "
            f"and two must be {apart:.0f} s apart.")


def increase(first: Mapping[str, float], last: Mapping[str, float]) -> dict[str, float]:
    """How much counters grew. When one shrank the process is another, and all of them grew from zero."""
    anew = any(last[key] < first.get(key, 0) for key in last)
    return {key: last[key] if anew else last[key] - first.get(key, 0) for key in last}


def _metric(
    entry: Mapping[str, Any], first: Mapping[str, float], last: Mapping[str, float], seconds: float, request: Request
) -> Check | str:
    asked, metric = entry["per_seconds"], entry["measure"]
    if seconds > SLACK * asked:
        return f"not measured, the last sample is {about(seconds)} old and this is about {about(asked)}."
    grown, window = increase(first, last), f"in the last {about(seconds)}"
    unit = entry.get("unit") or ""
    if entry.get("quantile") is not None:
        buckets = {float(key.removeprefix(LIMIT)): count for key, count in grown.items()}
        events = max(buckets.values(), default=0)
        if events < LEAST_EVENTS:
            return f"not measured, {events:.0f} observations {window} are too few for a quantile."
        value = quantile_of(buckets, entry["quantile"])
        most = f"{value:.3g} {unit}".strip()
        message = f"{100 * entry['quantile']:g} % of {events:,.0f} {window} were at most {most}."
    elif entry.get("of"):
        if grown[ALL] < LEAST_EVENTS:
            return f"not measured, {grown[ALL]:.0f} {entry['of']} {window} are too few for a ratio."
        value, unit = 100 * grown[COUNTED] / grown[ALL], unit or "percent"
        message = f"{grown[COUNTED]:,.0f} {metric} of {grown[ALL]:,.0f} {entry['of']} {window}."
    else:
        value = grown[COUNTED] * asked / seconds
        message = f"{grown[COUNTED]:,.0f} {metric} {window}, which is {value:,.1f} in {about(asked)}."
    return judged(f"{request.check['name']}.{measure_name(entry)}", request.target, "http", value, unit,
                  threshold_from(entry), message, window_seconds=round(seconds, 1))


def _slow_statements(first: Mapping[str, float], now: Sample, seconds: float, request: Request) -> Check:
    """Statements that were called more than once since the last sample, and were slow on average (B5, B33 ⚠)."""
    limit, last, slow = request.check["slow_statement_seconds"], now.counters["slow_statements"], []
    for key in (key for key in last if key.startswith("calls ")):
        number = key.removeprefix("calls ")
        pair = {name: last[f"{name} {number}"] for name in ("calls", "ms")}
        grown = increase({name: first.get(f"{name} {number}", 0) for name in pair}, pair)
        if grown["calls"] > 1 and grown["ms"] / grown["calls"] > 1000 * limit:
            slow.append({"query": quoted(now.words.get(number, "")), "calls": int(grown["calls"]),
                         "mean_ms": round(grown["ms"] / grown["calls"], 1), "total_ms": round(grown["ms"], 1)})
    slow.sort(key=lambda one: one["mean_ms"], reverse=True)
    window = f"in the last {about(seconds)}"
    message = f"No statement took more than {limit:g} s on average {window}."
    if slow:
        message = (f"{len(slow)} took more than {limit:g} s on average {window}; the slowest "
                   f"{slow[0]['mean_ms'] / 1000:.1f} s in {slow[0]['calls']} calls: {slow[0]['query']}")
    return _judged("slow_statements", float(len(slow)), message, seconds, request, statements=slow[:SHOWN],
                   extension_in=now.words.get("extension_in", ""))
