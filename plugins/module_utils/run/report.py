# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A run's records as one report: the content of report.json. docs/run.md describes it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from ansible_collections.sre.runbooks.plugins.module_utils.run.checks import ailing, difference, status_of
from ansible_collections.sre.runbooks.plugins.module_utils.run.outcome import UNKNOWN, Outcome, from_data, worst
from ansible_collections.sre.runbooks.plugins.module_utils.run.records import Record

FORMAT = 1


def seconds_between(start: str, end: str) -> float | None:
    """Seconds between two times of records; None when one of them is missing or no time."""
    try:
        return round((_time(end) - _time(start)).total_seconds(), 3)
    except ValueError:
        return None


def _time(text: str) -> datetime:
    return datetime.fromisoformat(str(text))


def _health(entries: Sequence[Record]) -> dict[str, Any]:
    """The last measurement under each label, and what differs between before and after."""
    labels: dict[str, Any] = {}
    for entry in entries:
        data = entry["data"]
        checks = _whole(data)
        labels[str(data.get("label", ""))] = {
            "at": entry["at"], "status": status_of(checks), "checks": checks,
            "not_measured": list(data.get("not_measured") or []),
        }
    before, after = (labels.get(label, {}).get("checks", []) for label in ("before", "after"))
    found = difference(before, after) if before and after else {}
    changes = [change for kind in ("worse", "gone", "new", "better") for change in found.get(kind, [])]
    return {"measured": labels, "changes": changes}


def unhealthy(records: Sequence[Record]) -> str:
    """What was not ok when health was measured last, as in `1 critical after`; empty where nothing was."""
    found = [entry["data"] for entry in records if entry.get("kind") == "checks"]
    if not found:
        return ""
    words = ailing(_whole(found[-1]))
    return f"{words} {found[-1].get('label', '')}".strip() if words else ""


def _whole(data: dict[str, Any]) -> list[dict[str, Any]]:
    """The checks of one record, each with what everybody reads."""
    return [
        {"target": "", "name": "", "status": "unknown", "message": "", **check}
        for check in data.get("checks") or [] if isinstance(check, dict)
    ]


def _phases(entries: Sequence[Record]) -> list[dict[str, Any]]:
    """Each phase with its begin and end; one without an end was left in the middle."""
    phases: list[dict[str, Any]] = []
    for entry in entries:
        name, state = str(entry["data"].get("name", "")), entry["data"].get("state")
        if state == "begin":
            phases.append({"name": name, "started_at": entry["at"], "ended_at": "", "duration_s": None})
            continue
        for phase in reversed(phases):
            if phase["name"] == name and not phase["ended_at"]:
                phase["ended_at"] = entry["at"]
                phase["duration_s"] = seconds_between(phase["started_at"], entry["at"])
                break
    return phases


def _measure(entry: Record) -> dict[str, Any]:
    data = {"name": "", "value": None, "unit": "", "objective": None, **entry["data"], "at": entry["at"]}
    numbers = all(isinstance(data[key], (int, float)) for key in ("value", "objective"))
    # Without a number on both sides nothing was proven.
    data["met"] = data["value"] <= data["objective"] if numbers else None
    return data


def target_report(name: str, records: Sequence[Record]) -> dict[str, Any]:
    """What the records of one host say."""
    kinds: dict[str, list[Record]] = {}
    for entry in records:
        if isinstance(entry.get("data"), dict):
            kinds.setdefault(str(entry.get("kind")), []).append(entry)

    def data(kind: str) -> list[dict[str, Any]]:
        # A step that knows when it was done says so itself; the record may be written later.
        return [{"at": entry["at"], **entry["data"]} for entry in kinds.get(kind, [])]

    begin, end = kinds.get("begin", [{}])[0], (kinds.get("end") or [None])[-1]
    command = begin.get("data", {}).get("command", "")
    hosts = list(begin.get("data", {}).get("hosts") or [name])
    outcome = from_data(end["data"]) if end else Outcome(UNKNOWN, "It has not ended.", command)
    started, ended = records[0]["at"], records[-1]["at"]
    plans = data("plan")
    return {
        "name": name, "hosts": hosts, **outcome.as_dict(), "ended": end is not None, "command": command,
        "started_at": started, "ended_at": ended, "duration_s": seconds_between(started, ended),
        "phases": _phases(kinds.get("phase", [])),
        "steps": data("step"), "health": _health(kinds.get("checks", [])), "verdicts": data("verdict"),
        "plan": list(plans[-1].get("steps") or []) if plans else [],
        "measures": [_measure(entry) for entry in kinds.get("measure", [])], "messages": data("message"),
        "failure": next(iter(data("failure")), None),
    }


def build(records: Sequence[Record], tasks: Sequence[Record]) -> dict[str, Any]:
    """The report of a run.

    Args:
        records: the run's records, oldest first.
        tasks: the journal's timings; none where the callback is not enabled.
    """
    whole = [entry for entry in records if entry.get("at") and isinstance(entry.get("host"), str)]
    run = next((entry["data"] for entry in whole if entry.get("kind") == "run"), {})
    hosts = list(dict.fromkeys(entry["host"] for entry in whole if entry["host"]))
    targets = [target_report(host, [entry for entry in whole if entry["host"] == host]) for host in hosts]
    started, ended = (whole[0]["at"], whole[-1]["at"]) if whole else ("", "")
    return {
        "format": FORMAT, "run": run.get("run", ""), "runbook": run.get("runbook", ""),
        "summary": run.get("summary", ""), "playbook": run.get("playbook", ""), "system": run.get("system", ""),
        "check": bool(run.get("check")), "changes": bool(run.get("changes")),
        "operator": {"user": run.get("user", ""), "machine": run.get("machine", "")},
        "started_at": started, "ended_at": ended, "duration_s": seconds_between(started, ended),
        "outcome": worst([target["outcome"] for target in targets]) if targets else UNKNOWN,
        "targets": targets, "tasks": list(tasks), "pages": pages(whole),
    }


def pages(records: Sequence[Record]) -> list[dict[str, str]]:
    """The pages that a run has beside its report, each `title` and `file` in the run's folder."""
    named = [entry["data"] for entry in records if entry.get("kind") == "page" and isinstance(entry.get("data"), dict)]
    found = {str(data.get("file", "")): str(data.get("title", "")) for data in named}
    return [{"title": title, "file": file} for file, title in found.items()]
