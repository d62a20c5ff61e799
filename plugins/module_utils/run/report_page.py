# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the report's page shows: words, tones and positions. The template beside it only places them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from ansible_collections.sre.runbooks.plugins.module_utils.run import outcome as outcomes
from ansible_collections.sre.runbooks.plugins.module_utils.run.checks import grouped, rank
from ansible_collections.sre.runbooks.plugins.module_utils.run.words import amount, duration

TONES = {
    outcomes.DONE: "good",
    outcomes.NOTHING_TO_DO: "good",
    outcomes.REFUSED: "warn",
    outcomes.FAILED_AND_UNDONE: "warn",
    outcomes.UNKNOWN: "bad",
    outcomes.FAILED_AND_UNDO_FAILED: "bad",
    "ok": "good",
    "warning": "warn",
    "unknown": "bad",
    "critical": "bad",
    None: "quiet",
    "good": "good",
    "unverifiable": "warn",
    "corrupt": "bad",
    "incomplete": "bad",
}
EXPLAINED = {
    outcomes.DONE: "It did what it was started for, and proved it.",
    outcomes.NOTHING_TO_DO: "Everything was as it should be already.",
    outcomes.FAILED_AND_UNDONE: "It failed, went back, and the start was reached again.",
    outcomes.FAILED_AND_UNDO_FAILED: "It failed and could not go back: somebody must look now.",
    outcomes.REFUSED: "It stopped before it changed anything.",
    outcomes.UNKNOWN: "Nobody can say how far it came: somebody must look now.",
}
MEASURES = {
    "recovery_time": "Recovery time",
    "recovery_point": "Data lost (time)",
    "would_be_lost": "Data that a restore would lose now (time)",
    "newest_row_age": "Newest row when the backup was made (age)",
    "outage": "Outage (stop to healthy)",
    "exchange": "Exchange",
    "size": "Size",
    "rows_lost": "Rows lost",
}
# Bars narrower than this cannot be seen on a phone.
NARROWEST_PERCENT = 0.8
PARTS = re.compile(r"(?:-\S+ (?=[^-\s]))?\S+|\s+")


def title(name: str, hosts: Sequence[str]) -> str:
    """The target's name; for a sweep, which is one run over many hosts, how many they are."""
    return f"{len(hosts)} hosts" if len(hosts) > 1 else name


def label(name: Any) -> str:
    """What a measure or a phase is called on the page."""
    text = str(name).replace("_", " ")
    return MEASURES.get(str(name)) or text[:1].upper() + text[1:]


def clock(text: str) -> str:
    """The time of day of a record."""
    try:
        return datetime.fromisoformat(str(text)).strftime("%H:%M:%S")
    except ValueError:
        return ""


def day(text: str) -> str:
    """Date and time of a record."""
    try:
        return datetime.fromisoformat(str(text)).strftime("%A %d %B %Y, %H:%M:%S UTC")
    except ValueError:
        return "at an unknown time"


def _epoch(text: Any) -> float | None:
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return None


def timeline(target: Mapping[str, Any]) -> dict[str, Any]:
    """Rows of bars in percent of the run's length: phases with their steps, then outages.

    A bar's kind is a phase's name or `outage`; a mark is the moment at which a step was done.
    """
    start, end = _epoch(target["started_at"]) or 0.0, _epoch(target["ended_at"]) or 0.0
    length = max(end - start, 0.001)

    def place(begin: float, finish: float) -> dict[str, float]:
        left = min(max((begin - start) / length * 100, 0.0), 100 - NARROWEST_PERCENT)
        return {
            "left": round(left, 2),
            "width": round(min(max((finish - begin) / length * 100, NARROWEST_PERCENT), 100 - left), 2),
        }

    rows = []
    for phase in target["phases"]:
        begin = _epoch(phase["started_at"]) or start
        finish = _epoch(phase["ended_at"]) or end
        marks = [
            {"left": place(at, at)["left"], "text": f"{clock(step['at'])} {step.get('step')} {step.get('target')}"}
            for step in target["steps"]
            if (at := _epoch(step["at"])) is not None and begin <= at <= finish
        ]
        rows.append(
            {
                "label": label(phase["name"]),
                "kind": phase["name"] if phase["ended_at"] else "broken",
                **place(begin, finish),
                "time": duration(phase["duration_s"]) if phase["ended_at"] else "not finished",
                "marks": marks,
            }
        )
    for measure in target["measures"]:
        if measure["name"] == "outage" and isinstance(measure["value"], (int, float)):
            finish = _epoch(measure.get("ended_at")) or _epoch(measure["at"]) or end
            begin = _epoch(measure.get("started_at")) or finish - measure["value"]
            rows.append(
                {
                    "label": "Outage",
                    "kind": "outage",
                    **place(begin, finish),
                    "marks": [],
                    "time": duration(measure["value"]),
                }
            )
    return {"rows": rows, "start": clock(target["started_at"]), "end": clock(target["ended_at"])}


def _health(target: Mapping[str, Any]) -> dict[str, Any]:
    measured = target["health"]["measured"]
    shown = []
    for label, found in measured.items():
        counts = {
            status: sum(1 for check in found["checks"] if check.get("status") == status)
            for status in ("critical", "unknown", "warning", "ok")
        }
        shown.append(
            {
                "label": label,
                "status": found["status"],
                "tone": TONES[found["status"]],
                "at": clock(found["at"]),
                "counts": [
                    {"status": key, "count": count, "tone": TONES[key]} for key, count in counts.items() if count
                ],
                "offenders": [
                    _check(check) for check in sorted(found["checks"], key=lambda check: -rank(check["status"]))
                    if check["status"] != "ok"
                ],
                "all": [_check(check) for check in found["checks"]],
                "not_measured": grouped(found["not_measured"]),
            }
        )
    changes = [
        {
            **change,
            "before_tone": TONES.get(change["before"], "bad"),
            "after_tone": TONES.get(change["after"], "bad"),
            "before": change["before"] or "not measured",
            "after": change["after"] or "not measured",
        }
        for change in target["health"]["changes"]
    ]
    last = measured.get("after") or (list(measured.values())[-1] if measured else None)
    return {
        "shown": shown,
        "changes": changes,
        "now": last["status"] if last else None,
        "tone": TONES[last["status"]] if last else "quiet",
        "words": {"ok": "Healthy", "warning": "With warnings", "critical": "Not healthy", "unknown": "Not known"}[
            last["status"]
        ]
        if last
        else "Not measured",
    }


def _check(check: Mapping[str, Any]) -> dict[str, Any]:
    limits = [
        f"{name} {amount(check[name], check.get('unit'))}"
        for name in ("warning", "critical")
        if check.get(name) is not None
    ]
    return {
        "target": check.get("target", ""),
        "name": check.get("name", ""),
        "status": check.get("status", "unknown"),
        "tone": TONES.get(check.get("status"), "bad"),
        "message": check.get("message", ""),
        "value": "" if check.get("value") is None else amount(check["value"], check.get("unit")),
        "limits": ", ".join(limits),
    }


def _measures(measures: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "name": measure["name"],
            "label": label(measure["name"]),
            "value": amount(measure["value"], measure["unit"]),
            "objective": "" if measure["objective"] is None else amount(measure["objective"], measure["unit"]),
            "tone": {True: "good", False: "bad", None: "quiet"}[measure["met"]],
            "met": measure["met"],
            "share": _share(measure),
        }
        for measure in measures
    ]


def _share(measure: Mapping[str, Any]) -> float | None:
    """How much of its objective a measure took, in percent and at most 100; None without two numbers."""
    if measure["met"] is None:
        return None
    return round(min(100.0, 100.0 * measure["value"] / measure["objective"]), 1) if measure["objective"] else 100.0


def _lost(first: Mapping[str, dict[str, Any]], outcome: str) -> dict[str, Any] | None:
    """What was lost: rows where they were counted, else the time without data; None where a success names neither."""
    rows, point = first.get("rows_lost"), first.get("recovery_point")
    if "would_be_lost" in first:  # measured by a drill, which loses nothing
        return None
    if not rows and not point:
        untouched = outcome in (outcomes.REFUSED, outcomes.NOTHING_TO_DO)
        nothing = {"value": "Nothing", "words": "nothing was changed", "tone": "quiet"}
        unproven = {"value": "Not known", "words": "nobody measured it", "tone": "warn"}
        return nothing if untouched else None if outcome == outcomes.DONE else unproven
    target = f", target {point['objective']}" if point and point["objective"] else ""
    words = f"{point['value']} of data{target}" if point and rows else f"of data{target}" if point else ""
    # Within its target is still lost: no colour says that this is good.
    tone = "bad" if point and point["tone"] == "bad" else "quiet"
    return {"value": (rows or point or {})["value"], "words": words, "tone": tone}


def _healthy(targets: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The worst health of all targets, in one word."""
    for tone in ("bad", "quiet", "warn", "good"):
        for target in targets:
            if target["health"]["tone"] == tone:
                return {"words": target["health"]["words"], "tone": tone}
    return {"words": "Not measured", "tone": "quiet"}


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _target(target: Mapping[str, Any]) -> dict[str, Any]:
    measures = _measures(target["measures"])
    first = {measure["name"]: measure for measure in reversed(measures)}
    return {
        **target,
        "name": title(target["name"], target["hosts"]),
        "tone": TONES[target["outcome"]],
        "explained": EXPLAINED[target["outcome"]],
        "took": duration(target["duration_s"]),
        "timeline": timeline(target),
        "health": _health(target),
        "measures": measures,
        "lost": _lost(first, target["outcome"]),
        "steps": [
            {
                **step,
                "clock": clock(step["at"]),
                "before": _text(step.get("before")),
                "after": _text(step.get("after")),
                "took": duration(step["duration_s"]) if step.get("duration_s") is not None else "",
                "reversible": step.get("reversible", True),
            }
            for step in target["steps"]
        ],
        "plan": [
            {**step, "before": _text(step.get("before")), "after": _text(step.get("after"))}
            for step in target["plan"]
            if isinstance(step, dict)
        ],
        "messages": [
            {
                **message,
                "clock": clock(message["at"]),
                "facts": message["facts"] if isinstance(message.get("facts"), Mapping) else {},
            }
            for message in target["messages"]
        ],
        "verdicts": [
            {
                **verdict,
                "tone": TONES.get(verdict.get("verdict"), "bad"),
                "rungs": [
                    {**rung, "took": duration(rung["duration_s"]) if rung.get("duration_s") is not None else ""}
                    for rung in verdict.get("rungs") or []
                ],
            }
            for verdict in target["verdicts"]
        ],
        "proof": target["verdicts"][-1] if target["verdicts"] else None,
        "next": _next(target),
    }


def _next(target: Mapping[str, Any]) -> list[dict[str, Any]]:
    commands = []
    if target["outcome"] not in outcomes.SUCCESSES and (target["resume"] or target["command"]):
        word = "Then" if target["outcome"] == outcomes.REFUSED else "To go on"
        commands.append(_command(word, target["resume"] or target["command"]))
    if target["undo"]:
        commands.append(_command("To undo", target["undo"]))
    return commands


def _command(name: str, command: str) -> dict[str, Any]:
    """A command and the parts that a narrow screen keeps whole: an option with its value, a word, or blanks."""
    return {"label": name, "parts": PARTS.findall(command)}


def page(report: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that the template places."""
    targets = [_target(target) for target in report["targets"]]
    trouble = [target for target in targets if target["tone"] == "bad"] + [t for t in targets if t["tone"] == "warn"]
    slowest = sorted(report["tasks"], key=lambda task: -float(task.get("duration_s") or 0))
    ends = [target["outcome"] for target in targets]
    tone = TONES[report["outcome"]]
    if tone == "good" and any(target["health"]["tone"] == "bad" for target in targets):
        tone = "warn"
    return {
        "counted": ", ".join(f"{ends.count(word)} {word}" for word in outcomes.SEVERITY if word in ends) + ".",
        "healthy": _healthy(targets),
        "measured": any(target["health"]["shown"] for target in targets),
        "report": report,
        "targets": targets,
        "trouble": trouble,
        "tone": tone,
        "explained": EXPLAINED[report["outcome"]],
        "day": day(report["started_at"]),
        "took": duration(report["duration_s"]),
        "name": str(report["runbook"]).rsplit(".", 1)[-1].replace("_", " "),
        "tasks": [
            {**task, "took": duration(task.get("duration_s")), "clock": clock(task.get("at", ""))}
            for task in report["tasks"]
        ],
        "slowest": [{**task, "took": duration(task.get("duration_s"))} for task in slowest[:5]],
    }
