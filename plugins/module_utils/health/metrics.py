# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Turns an address with metrics into checks, and into the counters of which a second sample makes rates (D2 D3 D4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.sre.runbooks.plugins.module_utils.health.body import (
    HIGHEST,
    HttpAnswer,
    response_check,
    unreadable,
    whole,
)
from ansible_collections.sre.runbooks.plugins.module_utils.health.check import Check, judged
from ansible_collections.sre.runbooks.plugins.module_utils.health.exposition import Metrics
from ansible_collections.sre.runbooks.plugins.module_utils.health.measures import MEASURES, threshold_from
from ansible_collections.sre.runbooks.plugins.module_utils.health.probe import Answer
from ansible_collections.sre.runbooks.plugins.module_utils.health.shapes import read_body
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError

COUNTED, ALL, LIMIT = "counted", "all", "at most "


def measure_name(entry: Mapping[str, Any]) -> str:
    """What a threshold on a metric is called: the metric, and what is made of it."""
    name = entry["measure"]
    if entry.get("quantile") is not None:
        return f"{name}.p{100 * entry['quantile']:g}"
    if entry.get("of"):
        return f"{name}.percent"
    return f"{name}.increase" if entry.get("per_seconds") else name


def judge_metrics(answer: HttpAnswer, check: Mapping[str, Any], target: str) -> Answer:
    """The answer itself, the metrics that must be there, and each metric that has a threshold.

    Args:
        answer: what came.
        check: the check's options, as in health_probe.
        target: the target's name.
    """
    try:
        body = read_body(answer.content, "metrics", answer.content_type)
    except RunbookError as error:
        return Answer(unreadable(error, answer, check, target))
    metrics: Metrics = body.data
    found = Answer([whole(answer, body, check, target)])
    if check["metrics"]:
        found.checks.append(_present(metrics, check, target))
    for entry in check["thresholds"]:
        if entry["measure"] in MEASURES["http"]:
            continue
        missing = _missing(metrics, entry)
        if missing:
            found.checks.append(Check(f"{check['name']}.{measure_name(entry)}", target, "http", "unknown", missing))
        elif entry.get("per_seconds"):
            found.counters[measure_name(entry)] = _counters(metrics, entry)
        else:
            found.checks.append(_gauge(metrics.totals[entry["measure"]], entry, check, target))
    found.checks += response_check(answer, check, target)
    return found


def _present(metrics: Metrics, check: Mapping[str, Any], target: str) -> Check:
    missing = [name for name in check["metrics"] if not metrics.has(name)]
    total = len(check["metrics"])
    says = f"Missing: {', '.join(missing)}." if missing else f"All {total} are there."
    return Check(f"{check['name']}.metrics", target, "http", "unknown" if missing else "ok", says,
                 value=total - len(missing), unit=f"of {total}")


def _missing(metrics: Metrics, entry: Mapping[str, Any]) -> str:
    distribution = entry.get("quantile") is not None
    if not metrics.offers(entry["measure"], distribution):
        return f"There is no {'histogram' if distribution else 'metric'} {entry['measure']}."
    if entry.get("of") and not metrics.offers(entry["of"]):
        return f"There is no metric {entry['of']}."
    return ""


def _counters(metrics: Metrics, entry: Mapping[str, Any]) -> dict[str, float]:
    if entry.get("quantile") is not None:
        return {f"{LIMIT}{limit!r}": count for limit, count in metrics.buckets[entry["measure"]].items()}
    counters = {COUNTED: metrics.totals[entry["measure"]]}
    return counters | ({ALL: metrics.totals[entry["of"]]} if entry.get("of") else {})


def _gauge(value: float, entry: Mapping[str, Any], check: Mapping[str, Any], target: str) -> Check:
    name, metric, unit = f"{check['name']}.{measure_name(entry)}", entry["measure"], entry.get("unit") or ""
    if not abs(value) < HIGHEST:
        return Check(name, target, "http", "unknown", f"The metric {metric} is {value}, which no threshold can judge.")
    return judged(name, target, "http", value, unit, threshold_from(entry),
                  f"{metric} is {f'{value:g} {unit}'.strip()}.")
