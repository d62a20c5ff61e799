# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How health bodies look, as data, and what a body of such a shape says.

A new JSON shape is a new line in SHAPES and in the module's documentation, a new status word a new word in WORDS;
neither needs other code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.sre.runbooks.plugins.module_utils.health.exposition import parse_metrics
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError


@dataclass(frozen=True)
class Shape:
    """Where a JSON body keeps what.

    Args:
        name: as the option `shape` calls it.
        members: the key of an object with one entry for each part; empty when the shape has none.
        member_word: the key of the status word where an entry is an object itself.
        status: the key of the status word of the whole.
        timestamp: the key of the time when the body was made.
        version: the key of the version that answers.
        source: whose shape it is.
    """

    name: str
    members: str = ""
    member_word: str = "status"
    status: str = "status"
    timestamp: str = "timestamp"
    version: str = "version"
    source: str = ""


SHAPES = (
    Shape("services", members="services", source="K5: Kredete's API"),
    Shape("checks", members="checks", source="D7: DBIS Core; Bakery-IA's services"),
    Shape("actuator", members="components", source="Spring Boot's /actuator/health"),
    Shape("plain", source="A94: Central Config, and whoever says no more than a status"),
)

# Bodies that are no object with a status word. The last three have none, so the HTTP status alone is the word.
WITHOUT_WORD = ("json", "metrics", "any")
CHOICES = ("auto", *(shape.name for shape in SHAPES), "text", *WITHOUT_WORD)

WORDS: dict[str, tuple[str, ...]] = {
    "ok": ("ok", "up", "healthy", "pass", "passing", "alive", "ready", "running", "available", "connected", "green",
           "operational", "true"),
    "warning": ("degraded", "warning", "warn", "partial", "slow", "starting", "yellow", "maintenance"),
    "critical": ("down", "unhealthy", "error", "fail", "failed", "failing", "critical", "dead", "stopped", "red",
                 "unavailable", "out_of_service", "disconnected", "fatal", "false"),
}
STATUS_OF_WORD = {word: status for status, words in WORDS.items() for word in words}

# A message quotes at most this much of what a stranger wrote.
QUOTED = 80


@dataclass(frozen=True)
class Body:
    """What a health body says.

    Args:
        shape: the shape it was read as.
        word: the status word of the whole, None when it has none.
        members: the status word of each named part, None when the shape has no parts.
        timestamp: as it stands there, None when there is none.
        version: the version that answers, None when it says none.
        data: the JSON document, or the metrics; None when it is neither.
    """

    shape: str
    word: Any = None
    members: Mapping[str, Any] | None = None
    timestamp: Any = None
    version: str | None = None
    data: Any = None


def quoted(text: Any, most: int = QUOTED) -> str:
    """Somebody else's text, short and without control characters, so that it cannot disturb a terminal."""
    plain = " ".join("".join(sign if sign.isprintable() else " " for sign in str(text)[: 4 * most]).split())
    return plain if len(plain) <= most else plain[: most - 1] + "…"


def status_of_word(word: Any) -> str:
    """What a status word means; `unknown` for a word that no table knows, and for what is no word."""
    if not isinstance(word, str | bool):
        return "unknown"
    return STATUS_OF_WORD.get(str(word).strip().lower().replace("-", "_").replace(" ", "_"), "unknown")


def read_body(content: bytes, shape: str = "auto", content_type: str = "") -> Body:
    """Read a health body.

    Args:
        content: the bytes of the body.
        shape: one of CHOICES.
        content_type: the HTTP header of that name, which makes a message clearer.

    Raises:
        RunbookError: it is empty, HTML, not JSON, no JSON object, or of another shape. None of these proves health.
    """
    if shape == "any":
        return Body(shape)
    text = content.strip()
    if not text:
        raise RunbookError("The body is empty.", "Ask the service's owner what its health address answers.")
    if shape == "metrics" and text[:1] != b"<":
        return Body(shape, data=parse_metrics(text.decode("utf-8", "replace")))
    if text[:1] == b"<" or "html" in content_type.lower():
        raise RunbookError(
            f"The body is HTML instead of JSON: {quoted(text.decode('utf-8', 'replace'))}",
            "Something in front of the service answered (a proxy, a login page), or the address is wrong.",
        )
    if shape == "text":
        return Body(shape, word=quoted(text.decode("utf-8", "replace")))
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RunbookError(
            f"The body is not JSON ({quoted(error)}): {quoted(text.decode('utf-8', 'replace'))}",
            "Check the address and the option shape.",
        ) from error
    if shape == "json":
        return Body(shape, data=data)
    return _read_object(data, shape)


def _read_object(data: Any, shape: str) -> Body:
    if not isinstance(data, dict):
        raise RunbookError(f"The body is JSON, but no object: {quoted(json.dumps(data))}", "Check the address.")
    form = _form_of(data, shape)
    members = None
    if form.members:
        parts = data.get(form.members)
        if not isinstance(parts, dict) or not parts:
            raise RunbookError(
                f"The body names no parts under {form.members!r}, so none of them is known to be up.",
                "Set shape to what the service answers.",
            )
        members = {
            str(name): part.get(form.member_word) if isinstance(part, dict) else part for name, part in parts.items()
        }
    version = data.get(form.version)
    return Body(
        form.name, data.get(form.status), members, data.get(form.timestamp),
        str(version) if isinstance(version, str | int | float) else None, data,
    )


def _form_of(data: Mapping[str, Any], shape: str) -> Shape:
    for form in SHAPES:
        if form.name == shape or (shape == "auto" and (form.members or form.status) in data):
            return form
    raise RunbookError(
        f"The body has none of the known shapes; its keys are {quoted(', '.join(map(str, data)) or 'none')}.",
        "Set shape to json and thresholds on its fields, or add the shape to SHAPES.",
    )


def parts_that_are_not_up(members: Mapping[str, Any], expected: Sequence[str]) -> dict[str, str]:
    """Each part that is not ok, or that should be named and is not, with its status."""
    statuses = {name: status_of_word(word) for name, word in members.items()}
    statuses |= {name: "unknown" for name in expected if name not in members}
    return {name: status for name, status in statuses.items() if status != "ok"}
