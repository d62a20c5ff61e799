# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Verdicts of a backup: appended to a file beside it, never changed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.sre.runbooks.plugins.module_utils.run.records import append_line

# From the cheapest to the strongest; each includes those before it.
RUNGS = ("bytes", "archive", "restore", "content", "application")
VERDICTS = "verdicts.jsonl"
# How high a backup must be proven to count as one at all, and for a restore to take it without being told to.
LEAST, RESTORABLE = "archive", "restore"
GOOD, CORRUPT, INCOMPLETE, UNVERIFIABLE = "good", "corrupt", "incomplete", "unverifiable"
# What is about the backup itself.
BAD = (CORRUPT, INCOMPLETE)


@dataclass(frozen=True)
class Rung:
    """One rung that was tried."""

    name: str
    passed: bool
    detail: str
    duration_s: float


@dataclass(frozen=True)
class Verdict:
    """What a verification found. `rung` is the highest passed, None when not even the first was."""

    verdict: str
    rung: str | None
    proven_at: str
    backup_id: str
    rungs: list[Rung] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Verdict:
        """Build a verdict from what `as_dict` gave."""
        return cls(**{**data, "rungs": [Rung(**rung) for rung in data["rungs"]]})


def height(rung: str | None) -> int:
    """How high a rung is: 1 for the first, 0 for none."""
    return RUNGS.index(rung) + 1 if rung else 0


def proven_rung(verdicts: Sequence[Verdict]) -> str | None:
    """The highest rung that was proven and not disproved since.

    A verdict `unverifiable` says nothing about the backup; `corrupt` and `incomplete` undo every proof before them.
    """
    best: str | None = None
    for verdict in verdicts:
        if verdict.verdict in BAD:
            best = None
        elif verdict.verdict == GOOD and height(verdict.rung) > height(best):
            best = verdict.rung
    return best


def append_verdict(folder: Path, verdict: Verdict) -> None:
    """Append one line, durable when this returns."""
    append_line(folder / VERDICTS, verdict.as_dict(), durable=True)


def read_verdicts(folder: Path) -> list[Verdict]:
    """All verdicts, oldest first. A line that cannot be read proves nothing and is left out."""
    path = folder / VERDICTS
    if not path.exists():
        return []
    verdicts = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            verdicts.append(Verdict.from_dict(json.loads(line)))
        except (ValueError, KeyError, TypeError):
            continue
    return verdicts
