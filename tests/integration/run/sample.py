"""Records of runs as roles write them, for the report's tests."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

BEGAN = datetime.fromisoformat("2026-11-21T03:02:10+00:00")


def at(seconds: float) -> str:
    """A record's time, this long after the begin."""
    return (BEGAN + timedelta(seconds=seconds)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def check(
    target: str, name: str, status: str = "ok", value: Any = 12, message: str = "as it should be"
) -> dict[str, Any]:
    """One health observation."""
    return {
        "name": name,
        "target": target,
        "kind": "postgresql",
        "status": status,
        "value": value,
        "unit": "ms",
        "warning": 200,
        "critical": 1000,
        "message": message,
        "checked_at": at(1),
        "duration_ms": 9,
        "evidence": {},
    }


def run(runbook: str = "database_restore", **data: Any) -> dict[str, Any]:
    """A run's first record."""
    return {
        "at": at(0),
        "host": "",
        "kind": "run",
        "data": {
            "run": f"20261121T030210Z-{runbook}-3fa9c1",
            "play": "p",
            "runbook": runbook,
            "changes": True,
            "check": False,
            "summary": "Restore a database from a proven backup",
            "user": "amira",
            "machine": "ops-laptop",
            "playbook": f"sre.runbooks.{runbook}",
            "system": "bakery_ia",
            **data,
        },
    }


def restore(host: str = "orders-db", outcome: str = "done") -> list[dict[str, Any]]:
    """A restore from its begin to its end."""
    command = f"ansible-playbook sre.runbooks.database_restore -i inventories/bakery_ia/hosts.yml -e target={host}"
    records: list[tuple[float, str, dict[str, Any]]] = [
        (0.1, "begin", {"command": command}),
        (
            0.3,
            "message",
            {
                "text": "Approved by terminal: Restore orders from the backup of 02:00?",
                "facts": {"lost": "about 4120 rows", "outage": "about 3 s"},
            },
        ),
        (0.5, "phase", {"name": "preflight", "state": "begin"}),
        (
            1.0,
            "checks",
            {
                "label": "before",
                "not_measured": ["cache hit ratio: needs a second sample"],
                "checks": [
                    check(host, "connect"),
                    check(host, "newest row", "critical", 5400, "The newest row is 90 minutes old."),
                    check("orders", "health", "critical", None, "orders answers 503: table orders is empty"),
                ],
            },
        ),
        (
            4.2,
            "plan",
            {
                "steps": [
                    {"step": "restore beside", "target": "orders__restoring", "before": "absent", "after": "compared"},
                    {"step": "exchange names", "target": "orders", "before": "live", "after": "restored"},
                ]
            },
        ),
        (4.5, "phase", {"name": "preflight", "state": "end"}),
        (4.6, "phase", {"name": "apply", "state": "begin"}),
        (
            38,
            "step",
            {
                "step": "restore beside the live database",
                "target": "orders__restoring_20261121T021500Z-3fa9",
                "before": "absent",
                "after": "prepared",
                "reversible": True,
                "duration_s": 33.1,
            },
        ),
        (
            40,
            "step",
            {
                "step": "quiesce",
                "target": "orders",
                "before": "running",
                "after": "stopped",
                "reversible": True,
                "duration_s": 0.9,
            },
        ),
        (
            40.6,
            "step",
            {
                "step": "exchange names",
                "target": "orders",
                "before": "orders",
                "after": "orders__retired_1",
                "reversible": True,
                "duration_s": 0.2,
            },
        ),
        (
            41.3,
            "step",
            {
                "step": "release",
                "target": "orders",
                "before": "stopped",
                "after": "running",
                "reversible": True,
                "duration_s": 0.8,
            },
        ),
        (41.4, "measure", {"name": "outage", "value": 2.1, "unit": "s", "objective": 60}),
        (41.5, "phase", {"name": "apply", "state": "end"}),
        (41.6, "phase", {"name": "verify", "state": "begin"}),
        (
            44,
            "verdict",
            {
                "verdict": "good",
                "rung": "content",
                "backup_id": "20261121T021500Z-3fa9",
                "proven_at": at(44),
                "rungs": [
                    {"name": "bytes", "passed": True, "detail": "14 files, 512 MB", "duration_s": 1.1},
                    {"name": "archive", "passed": True, "detail": "9 tables", "duration_s": 2.4},
                    {"name": "restore", "passed": True, "detail": "no error", "duration_s": 30.2},
                    {"name": "content", "passed": True, "detail": "1,204,411 rows", "duration_s": 3.9},
                ],
            },
        ),
        (
            46,
            "checks",
            {
                "label": "after",
                "checks": [
                    check(host, "connect"),
                    check(host, "newest row", "warning", 640, "The newest row is 11 minutes old."),
                    check("orders", "health"),
                ],
                "not_measured": ["cache hit ratio: needs a second sample"],
            },
        ),
        (46.5, "measure", {"name": "recovery_time", "value": 46.4, "unit": "s", "objective": 3600}),
        (46.6, "measure", {"name": "recovery_point", "value": 2830, "unit": "s", "objective": 900}),
        (46.7, "measure", {"name": "rows_lost", "value": 4120, "unit": "rows"}),
        (46.8, "measure", {"name": "size", "value": 512_400_000, "unit": "bytes"}),
        (47, "phase", {"name": "verify", "state": "end"}),
    ]
    if outcome == "done":
        ending = {
            "outcome": "done",
            "message": "Restored orders from the backup of 02:15; 4,120 rows were lost.",
            "undo": f"ansible-playbook sre.runbooks.database_restore_undo -e target={host}",
        }
    else:
        records.append(
            (46.9, "failure", {"task": "Wait for the consumers", "message": "orders answers 503 after 60 s."})
        )
        ending = {"outcome": outcome, "message": "orders answers 503 after 60 s.", "resume": command, "undo": ""}
    records += [(47.2, "outcome", ending), (47.5, "end", ending)]
    return [{"at": at(second), "host": host, "kind": kind, "data": data} for second, kind, data in records]


def tasks(host: str = "orders-db") -> list[dict[str, Any]]:
    """The journal's lines."""
    return [
        {
            "at": at(second),
            "host": host,
            "task": f"sre.runbooks.database_restore : {name}",
            "role": "database_restore",
            "phase": "apply",
            "action": "sre.runbooks.pg_restore_swap",
            "status": "changed",
            "duration_s": took,
        }
        for second, name, took in [(5, "Restore beside the live database", 33.1), (40, "Exchange the names", 0.4)]
    ]
