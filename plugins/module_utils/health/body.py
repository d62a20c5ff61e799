# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Turns what a health address answered into checks. Pure: the answer and the time come as arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ansible_collections.sre.runbooks.plugins.module_utils.health.check import Check, Threshold, judged
from ansible_collections.sre.runbooks.plugins.module_utils.health.measures import MEASURES, threshold_for
from ansible_collections.sre.runbooks.plugins.module_utils.health.shapes import (
    WITHOUT_WORD,
    Body,
    parts_that_are_not_up,
    quoted,
    read_body,
    status_of_word,
)
from ansible_collections.sre.runbooks.plugins.module_utils.health.timestamps import parse_timestamp
from ansible_collections.sre.runbooks.plugins.module_utils.run.checks import worst
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.words import about

# JSON allows numbers, and Python NaN and Infinity, that no threshold can be held against.
HIGHEST = 1e300


@dataclass(frozen=True)
class HttpAnswer:
    """What came over HTTP.

    Args:
        status: the HTTP status code.
        content: the bytes of the body.
        content_type: the header of that name.
        seconds: from the request to the last byte.
    """

    status: int
    content: bytes
    content_type: str = ""
    seconds: float = 0.0


def judge_answer(answer: HttpAnswer, check: Mapping[str, Any], target: str, now: datetime) -> list[Check]:
    """All checks of one answer: the answer itself, its parts, its time stamp, version and measured fields.

    Args:
        answer: what came.
        check: the check's options, as in health_probe.
        target: the target's name.
        now: the time at which the answer came.
    """
    try:
        body = read_body(answer.content, check["shape"], answer.content_type)
    except RunbookError as error:
        return unreadable(error, answer, check, target)
    checks = [whole(answer, body, check, target)]
    if body.members is not None or check["services"]:
        checks.append(_parts(body, check, target))
    if body.timestamp is not None or check["timestamp_required"]:
        checks.append(_age(body, check, target, now))
    if check["version"]:
        checks.append(_version(body, check, target))
    return checks + response_check(answer, check, target) + _fields(body, check, target)


def unreadable(error: RunbookError, answer: HttpAnswer, check: Mapping[str, Any], target: str) -> list[Check]:
    """The checks of an answer whose body proves nothing."""
    expected = answer.status in check["expected_status"]
    status, wrong = ("unknown", "") if expected else ("critical", _wrong_status(answer, check))
    return [Check(check["name"], target, "http", status, f"{wrong}{error.message} ({_took(answer)})",
                  evidence={"http_status": answer.status}), *response_check(answer, check, target)]


def _took(answer: HttpAnswer) -> str:
    return f"HTTP {answer.status} in {answer.seconds * 1000:.0f} ms"


def _wrong_status(answer: HttpAnswer, check: Mapping[str, Any]) -> str:
    wanted = " or ".join(map(str, check["expected_status"]))
    return f"It answered HTTP {answer.status} instead of {wanted}. "


def whole(answer: HttpAnswer, body: Body, check: Mapping[str, Any], target: str) -> Check:
    """The check of the answer itself: its HTTP status and the word of its body."""
    statuses, says = [], []
    if answer.status not in check["expected_status"]:
        statuses.append("critical")
        says.append(_wrong_status(answer, check).strip())
    if body.shape in WITHOUT_WORD:
        statuses.append("ok")
    elif body.word is None:
        statuses.append("unknown")
        says.append("The body has no status.")
    else:
        statuses.append(status_of_word(body.word))
        known = "" if statuses[-1] != "unknown" else ", which is no known status word"
        says.append(f'It says "{quoted(body.word)}"{known}.')
    return Check(
        check["name"], target, "http", worst(statuses), f"{' '.join(says)} ({_took(answer)})".strip(),
        value=quoted(body.word) if body.word is not None else answer.status,
        evidence={"http_status": answer.status, "shape": body.shape, "version": body.version},
    )


def _parts(body: Body, check: Mapping[str, Any], target: str) -> Check:
    members = body.members or {}
    failing = parts_that_are_not_up(members, check["services"])
    total = len(set(members) | set(check["services"]))
    says = [
        f"{quoted(part)} is {quoted(members[part])}" if part in members else f"{quoted(part)} is not named"
        for part in failing
    ]
    return Check(
        f"{check['name']}.services", target, "http", worst(failing.values()) if failing else "ok",
        f"{'; '.join(says[:5])}{' and others' if len(says) > 5 else ''}." if says else f"All {total} are up.",
        value=total - len(failing), unit=f"of {total} up",
        evidence={quoted(name): quoted(word) for name, word in list(members.items())[:100]},
    )


def _age(body: Body, check: Mapping[str, Any], target: str, now: datetime) -> Check:
    name, limit = f"{check['name']}.timestamp", check["timestamp_maximum_age_seconds"]
    if body.timestamp is None:
        return Check(name, target, "http", "unknown", "The body has no time stamp, so its age is not known.")
    made = parse_timestamp(body.timestamp)
    if made is None:
        return Check(name, target, "http", "unknown", f'The time stamp "{quoted(body.timestamp)}" cannot be read.')
    age = (now.astimezone(UTC) - made).total_seconds()
    if age < -limit:
        return Check(
            name, target, "http", "unknown", f'The time stamp "{quoted(body.timestamp)}" lies {about(-age)} in the '
            "future, so one of the clocks is wrong.", value=round(age, 1), unit="s",
        )
    stale = f', so the body is stale (at most {about(limit)})' if age > limit else ""
    return judged(
        name, target, "http", max(0.0, age), "s", Threshold(None, limit),
        f'The time stamp "{quoted(body.timestamp)}" is {about(max(0.0, age))} old{stale}.',
    )


def _version(body: Body, check: Mapping[str, Any], target: str) -> Check:
    name, wanted = f"{check['name']}.version", check["version"]
    if body.version is None:
        return Check(name, target, "http", "unknown", f"The body names no version; {wanted} should answer.")
    same = body.version == wanted
    message = f"{quoted(body.version)} answers{'' if same else f', not {wanted}'}."
    return Check(name, target, "http", "ok" if same else "warning", message, value=quoted(body.version))


def response_check(answer: HttpAnswer, check: Mapping[str, Any], target: str) -> list[Check]:
    """How long the answer took, where the check has a threshold for it."""
    measure = "response_seconds"
    if not any(entry["measure"] == measure for entry in check["thresholds"]):
        return []
    threshold = threshold_for("http", measure, check["thresholds"])
    return [judged(f"{check['name']}.{measure}", target, "http", answer.seconds, "s", threshold,
                   f"The answer took {answer.seconds:.2f} s.")]


def _fields(body: Body, check: Mapping[str, Any], target: str) -> list[Check]:
    entries = [entry for entry in check["thresholds"] if entry["measure"] not in MEASURES["http"]]
    return [_field(body, entry, check, target) for entry in entries]


def _field(body: Body, entry: Mapping[str, Any], check: Mapping[str, Any], target: str) -> Check:
    import jmespath

    field, name = entry["measure"], f"{check['name']}.{entry['measure']}"
    try:
        value = jmespath.search(field, body.data)
    except jmespath.exceptions.JMESPathError as error:
        return Check(name, target, "http", "unknown", f"The expression {field!r} cannot be evaluated: {quoted(error)}.")
    if value is None:
        return Check(name, target, "http", "unknown", f"The body has no field {field!r}.")
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < HIGHEST:
        return Check(name, target, "http", "unknown", f'The field {field!r} is "{quoted(value)}", which is no number.')
    threshold = threshold_for("http", field, check["thresholds"])
    unit = entry.get("unit") or ""
    return judged(name, target, "http", float(value), unit, threshold, f"{field} is {f'{value:g} {unit}'.strip()}.")
