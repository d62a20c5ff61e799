# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the closing table of the recovery demo says, and from where it has it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.run.moments import utc_text
from ansible_collections.sre.runbooks.plugins.module_utils.run.report import build

from lab.demo_recovery import RecoveryDemo, Writer
from lab.objectives import (
    MET,
    MISSED,
    UNMEASURED,
    Lost,
    Recovery,
    Targets,
    exit_code,
    lost_writes,
    recovery_time,
    table,
)
from lab.system import INVENTORIES

BEGIN = datetime(2026, 11, 21, 14, 30, tzinfo=UTC)
HOUR, DAY = 3600, 86400
TARGETS = Targets(4 * HOUR, DAY)


def at(second: float) -> str:
    return utc_text(BEGIN + timedelta(seconds=second))


def records(runbook: str, begin: float, end: float, outage: tuple[float, float] | None, outcome: str) -> list[Any]:
    """What a run writes down."""

    def record(second: float, kind: str, data: dict[str, Any], host: str = "orders-db") -> dict[str, Any]:
        return {"at": at(second), "host": host, "kind": kind, "data": data}

    away = [] if outage is None else [record(end - 1, "measure", {
        "name": "outage", "value": outage[1] - outage[0], "unit": "s",
        "started_at": at(outage[0]), "ended_at": at(outage[1]),
    })]
    return [
        record(begin, "run", {"runbook": runbook, "changes": True}, ""), *away,
        record(end, "end", {"outcome": outcome, "message": "", "resume": "", "undo": ""}),
    ]


def report(
    begin: float, end: float, outage: tuple[float, float] | None = None, outcome: str = "done"
) -> dict[str, Any]:
    return build(records("database_restore", begin, end, outage, outcome), [])


@pytest.mark.parametrize(("time_s", "lost_s", "verdict"), [
    (0.0, 0.0, MET),
    (4 * HOUR, DAY, MET),
    (4 * HOUR + 0.001, 1.0, MISSED),
    (1.0, DAY + 0.001, MISSED),
    (None, None, UNMEASURED),
    (1.0, None, UNMEASURED),
    (None, 1.0, UNMEASURED),
    (None, 2 * DAY, MISSED),
    (2 * DAY, None, MISSED),
    (-1.0, 0.0, UNMEASURED),
    (float("nan"), 0.0, UNMEASURED),
])
def test_a_target_is_met_only_where_both_figures_were_measured_and_within(
    time_s: float | None, lost_s: float | None, verdict: str
) -> None:
    """B45: measure."""
    lost = None if lost_s is None else Lost(1, lost_s)
    recovery = Recovery("orders", time_s, lost)
    assert recovery.verdict(TARGETS) == verdict
    assert exit_code([recovery], TARGETS) == (0 if verdict == MET else 1)


def test_a_recovery_that_failed_misses_its_target_and_one_that_nobody_tried_does_not() -> None:
    met, failed = Recovery("orders", 1.0, Lost(0, 0.0)), Recovery("sales", why="it failed", failed=True)
    untried = Recovery("cache", why="no playbook")
    assert failed.verdict(TARGETS) == MISSED
    assert exit_code([met, untried], TARGETS) == 0
    assert exit_code([met, failed], TARGETS) == 1
    assert exit_code([untried], TARGETS) == 1
    assert exit_code([], TARGETS) == 1


def test_the_table_shows_each_figure_beside_its_target_and_nothing_where_nothing_was_measured() -> None:
    """B45: RTO 2 to 4 h, RPO 24 h, as the inventory has them."""
    shown = table([Recovery("orders", 17.3, Lost(225, 45.3)), Recovery("cache", why="no playbook")],
                  Targets.load(INVENTORIES / "bakery_ia"))
    assert [" ".join(line.split()) for line in shown] == [
        "what was lost RTO measured RPO measured",
        "orders 4 h 17.3 s 1 d 45.3 s, 225 writes met",
        "cache 4 h - 1 d - not measured: no playbook",
    ]


@pytest.mark.parametrize(("reports", "seconds"), [
    ([report(0, 30, (20, 25))], 25),
    # The search for the moment, and what passes between two playbooks, are part of it.
    ([report(0, 8), report(100, 160, (130, 140.5))], 140.5),
    # Without an outage nobody was served until everything was proven.
    ([report(0, 30)], 30),
    # The outage of an earlier run is not the end.
    ([report(0, 30, (20, 25)), report(40, 50)], 50),
    ([report(0, 30, (20, 25), outcome="failed and undone")], None),
    ([report(0, 8, outcome="unknown"), report(10, 60, (20, 25))], None),
    ([], None),
])
def test_the_recovery_time_is_what_the_runs_recorded(reports: list[dict[str, Any]], seconds: float | None) -> None:
    assert recovery_time(reports) == seconds


@pytest.mark.parametrize(("present", "lost"), [
    ({1, 2, 3, 4, 5}, Lost(0, 0.0)),
    ({1, 2, 3}, Lost(2, 2.0)),
    # Written after the recovery, and there.
    ({1, 2, 5}, Lost(2, 2.0)),
    # One that was not acknowledged, and is there all the same.
    ({1, 2, 3, 4, 5, 6}, Lost(0, 0.0)),
    # A hole of one write is a loss like any other.
    ({1, 2, 4, 5}, Lost(1, 1.0)),
    # Nothing from before: since when it is missing is not known.
    ({5}, None),
    (set(), None),
])
def test_what_is_lost_is_what_was_acknowledged_and_is_not_there(present: set[int], lost: Lost | None) -> None:
    acknowledged = {number: BEGIN + timedelta(seconds=number) for number in range(1, 6)}
    assert lost_writes(acknowledged, present) == lost
    assert lost_writes({}, present) is None


def test_the_demo_reads_the_time_from_the_runs_folder_and_a_failure_is_not_hidden(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the table shows changes with the records, and with nothing else."""
    demo = RecoveryDemo()
    demo.lab.runs, demo.first_run = tmp_path, ""
    writer = Writer(None)
    writer.acknowledged = {1: BEGIN, 2: BEGIN + timedelta(seconds=3)}
    demo.writers["orders-db"] = writer
    demo.left_out = {}
    monkeypatch.setattr(writer, "missing_from", lambda _login: lost_writes(writer.acknowledged, {1}))
    monkeypatch.setattr(writer, "wait_for_more", lambda: None)

    def shown() -> str:
        found = demo.lose("orders", "orders-db", lambda _writer: (["database_restore"], writer.login))
        return " ".join(table([found], TARGETS)[1].split())

    file = tmp_path / "20261121T143000Z-database_restore-abcdef" / "report.json"
    file.parent.mkdir()
    for second, figure, verdict in ((25, "25 s", MET), (5 * HOUR, "5 h", MISSED)):
        file.write_text(json.dumps(report(0, second + 5, (20, second))), encoding="utf-8")
        assert shown() == f"orders 4 h {figure} 1 d 3 s, 1 write {verdict}"
    file.write_text(json.dumps(report(0, 30, (20, 25), outcome="nothing to do")), encoding="utf-8")
    assert shown() == "orders 4 h - 1 d - NOT met: the recovery failed, see above"
    assert "Not every run of it ended as done: nothing to do." in capsys.readouterr().out
    file.unlink()
    assert shown() == "orders 4 h - 1 d - NOT met: the recovery failed, see above"
    assert "database_restore left no report" in capsys.readouterr().out
