# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Health checks in templates; the documentation of each filter is in the file of its name."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.sre.runbooks.plugins.module_utils.health.body import HttpAnswer, judge_answer
from ansible_collections.sre.runbooks.plugins.module_utils.health.summary import summary, table
from ansible_collections.sre.runbooks.plugins.module_utils.run.checks import STATUSES, difference, status_of


def _checks(value: Any, filter_name: str) -> Sequence[Mapping[str, Any]]:
    """The list of checks in `value`: itself, or the result of health_probe."""
    found = value.get("checks") if isinstance(value, Mapping) else value
    if isinstance(found, Sequence) and not isinstance(found, str) and all(
        isinstance(check, Mapping) and {"target", "name", "status", "message"} <= set(check) for check in found
    ):
        return found
    raise AnsibleFilterError(f"{filter_name} wants a list of checks, as health_probe returns it, not {value!r:.80}.")


def health_parse(
    body: Any, target: str = "", name: str = "http", shape: str = "auto", services: Sequence[str] = (),
    version: str | None = None, timestamp_required: bool = False, timestamp_maximum_age_seconds: float = 300,
    http_status: int = 200, now: str | None = None,
) -> list[dict[str, Any]]:
    """The checks that a health body stands for."""
    text = body if isinstance(body, str | bytes) else json.dumps(body)
    content = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    check = {
        "name": name, "shape": shape, "services": services, "version": version, "expected_status": [200],
        "timestamp_required": timestamp_required, "timestamp_maximum_age_seconds": timestamp_maximum_age_seconds,
        "thresholds": [],
    }
    moment = datetime.fromisoformat(now) if now else datetime.now(UTC)
    return [found.as_dict() for found in judge_answer(HttpAnswer(http_status, content), check, target, moment)]


def health_summary(checks: Any, not_measured: Sequence[str] = (), at_least: str = "warning") -> list[str]:
    """One line on the whole and one for each problem."""
    if at_least not in (*STATUSES, "never"):
        raise AnsibleFilterError(f"health_summary has no status {at_least}; there are {', '.join(STATUSES)}.")
    return summary(_checks(checks, "health_summary"), not_measured, "warning" if at_least == "never" else at_least)


def health_worst(checks: Any) -> str:
    """The worst status."""
    return status_of(_checks(checks, "health_worst"))


def health_diff(before: Any, after: Any) -> dict[str, Any]:
    """What changed between two sweeps."""
    return difference(_checks(before, "health_diff"), _checks(after, "health_diff"))


def health_table(checks: Any, width: int = 0, colour: bool = False, everything: bool = False) -> str:
    """A table for a terminal."""
    return table(_checks(checks, "health_table"), int(width), bool(colour), bool(everything))


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name to function."""
        return {
            "health_parse": health_parse, "health_summary": health_summary, "health_worst": health_worst,
            "health_diff": health_diff, "health_table": health_table,
        }
