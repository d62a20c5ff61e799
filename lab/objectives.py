# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a recovery took and lost, beside what the inventory allows: decided from the runs' own records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from ansible_collections.sre.runbooks.plugins.module_utils.run.words import counted, duration

MET, MISSED, UNMEASURED = "met", "NOT met", "not measured"
HEADINGS = ("what was lost", "RTO", "measured", "RPO", "measured", "")


@dataclass(frozen=True)
class Targets:
    """How long a recovery may take, and how much of the newest data it may lose, in seconds."""

    recovery_time_s: float
    recovery_point_s: float

    @classmethod
    def load(cls, inventory: Path) -> Targets:
        """Read them from an inventory's folder, where each stands once for all databases."""
        variables = yaml.safe_load((inventory / "group_vars" / "databases.yml").read_text(encoding="utf-8"))
        return cls(variables["recovery_time_objective_seconds"], variables["recovery_point_objective_seconds"])


@dataclass(frozen=True)
class Lost:
    """Writes that the database had acknowledged, and that are not there any more.

    Args:
        writes: how many.
        seconds: from the newest write that is there to the last of them; 0 when none is lost.
    """

    writes: int
    seconds: float


@dataclass(frozen=True)
class Recovery:
    """One way to lose data, and how it came back.

    Args:
        what: was lost.
        time_s: RTO as it was measured; None when it was not.
        lost: RPO as it was measured; None when it was not.
        why: it was not measured, or failed.
        failed: it was tried, and the data did not come back.
    """

    what: str
    time_s: float | None = None
    lost: Lost | None = None
    why: str = ""
    failed: bool = False

    def verdict(self, targets: Targets) -> str:
        """`met` only where both were measured; `NOT met` where one is beyond its target, or the recovery failed."""
        measured = (
            (self.time_s, targets.recovery_time_s), (self.lost.seconds if self.lost else None, targets.recovery_point_s)
        )
        if self.failed or any(value is not None and value > target for value, target in measured):
            return MISSED
        # A clock that went backwards measured nothing.
        return MET if all(value is not None and value >= 0 for value, _target in measured) else UNMEASURED


def recovery_time(reports: Sequence[Mapping[str, Any]]) -> float | None:
    """From the start of the first run to when the application was served again, in seconds.

    That is the end of the outage that the last run recorded; one without an outage ends when it has proven its data.

    Args:
        reports: the content of report.json of each run that the recovery took, in their order.

    Returns:
        None when one of them did not end well.
    """
    if not reports or any(one["outcome"] != "done" for one in reports):
        return None
    measures = [measure for target in reports[-1]["targets"] for measure in target["measures"]]
    back = [one["ended_at"] for one in measures if one["name"] == "outage" and one.get("ended_at")]
    ended = max(map(datetime.fromisoformat, back or [reports[-1]["ended_at"]]))
    return (ended - datetime.fromisoformat(reports[0]["started_at"])).total_seconds()


def lost_writes(acknowledged: Mapping[int, datetime], present: set[int]) -> Lost | None:
    """What is missing of the acknowledged writes, whose numbers rise with their time.

    Returns:
        None where nothing was written, or nothing of it is there: then nobody knows since when.
    """
    missing = [number for number in acknowledged if number not in present]
    there = [number for number in acknowledged if number in present]
    if not there:
        return None
    if not missing:
        return Lost(0, 0.0)
    before = [number for number in there if number < min(missing)]
    if not before:
        return None
    return Lost(len(missing), (acknowledged[max(missing)] - acknowledged[max(before)]).total_seconds())


def table(recoveries: Sequence[Recovery], targets: Targets) -> list[str]:
    """The lines of the closing table; the last column is the verdict, with the reason where nothing was measured."""
    allowed = duration(targets.recovery_time_s), duration(targets.recovery_point_s)
    cells = [HEADINGS]
    for one in recoveries:
        took = "-" if one.time_s is None else duration(one.time_s)
        lost = "-" if one.lost is None else f"{duration(one.lost.seconds)}, {counted(one.lost.writes, 'write')}"
        verdict = one.verdict(targets)
        cells.append((one.what, allowed[0], took, allowed[1], lost, f"{verdict}: {one.why}" if one.why else verdict))
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEADINGS))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]


def exit_code(recoveries: Sequence[Recovery], targets: Targets) -> int:
    """0 when something was measured and nothing was missed."""
    verdicts = [one.verdict(targets) for one in recoveries]
    return 0 if MET in verdicts and MISSED not in verdicts else 1
