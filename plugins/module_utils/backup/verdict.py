# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Verdicts of a backup: appended to a file beside it, never changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.sre.runbooks.plugins.module_utils.run.records import append_line

# From the cheapest to the strongest; each includes those before it.
RUNGS = ("bytes", "archive", "restore", "content", "application")
# The rungs that a recovery has to do as well.
RECOVERY = ("restore", "content", "application")
VERDICTS = "verdicts.jsonl"
# How high a backup must be proven to count as one at all, and for a restore to take it without being told to.
LEAST, RESTORABLE = "archive", "restore"
GOOD, CORRUPT, INCOMPLETE, UNVERIFIABLE = "good", "corrupt", "incomplete", "unverifiable"
# A line that is not what was written: nobody knows whether it was the one that undid the proofs before it.
UNREADABLE = "unreadable"
# What is about the backup itself.
BAD = (CORRUPT, INCOMPLETE)
KNOWN = (GOOD, *BAD, UNVERIFIABLE)


@dataclass(frozen=True)
class Rung:
    """One rung that was tried."""

    name: str
    passed: bool
    detail: str
    duration_s: float


@dataclass(frozen=True)
class Verdict:
    """What a verification found.

    Args:
        verdict: one of KNOWN.
        rung: the highest passed, None when not even the first was.
        proven_at: ISO 8601 in UTC.
        backup_id: of which backup.
        rungs: those that were tried.
        fetch_s: seconds of the first rung that fetching and decrypting took; 0 where a backup is read in place.
    """

    verdict: str
    rung: str | None
    proven_at: str
    backup_id: str
    rungs: list[Rung] = field(default_factory=list)
    fetch_s: float = 0.0

    def __post_init__(self) -> None:
        """Take only what can be judged.

        Raises:
            ValueError: verdict or rung is unknown.
        """
        if self.verdict not in (*KNOWN, UNREADABLE) or self.rung not in (*RUNGS, None):
            raise ValueError(f"{self.verdict!r} at {self.rung!r} is no verdict")

    @property
    def recovery_s(self) -> float | None:
        """Seconds until the data were back: fetched, decrypted, restored, proven; None when it came to no restore."""
        took = [rung.duration_s for rung in self.rungs if rung.name in RECOVERY and rung.passed]
        return round(self.fetch_s + sum(took), 3) if took else None

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


def proof(verdicts: Sequence[Verdict]) -> Verdict | None:
    """The last of those that prove the highest rung, and were not disproved since; None without a proof.

    A verdict `unverifiable` says nothing about the backup; `corrupt` and `incomplete` undo every proof before them, and
    so does one that cannot be read, since it may have been one of these.
    """
    best: Verdict | None = None
    for verdict in verdicts:
        if verdict.verdict in (*BAD, UNREADABLE):
            best = None
        elif verdict.verdict == GOOD and height(verdict.rung) >= (height(best.rung) if best else 1):
            best = verdict
    return best


def proven_rung(verdicts: Sequence[Verdict]) -> str | None:
    """The highest rung that was proven and not disproved since; None for none."""
    best = proof(verdicts)
    return best.rung if best else None


def disproof(verdicts: Sequence[Verdict]) -> Verdict | None:
    """The last verdict about the backup itself where it is one of BAD, else None.

    `unverifiable` is about none, and one that cannot be read takes none back.
    """
    last = next((one for one in reversed(verdicts) if one.verdict in (GOOD, *BAD)), None)
    return last if last and last.verdict in BAD else None


def append_verdict(folder: Path, verdict: Verdict) -> None:
    """Append one line with its own hash, durable when this returns."""
    append_line(folder / VERDICTS, hashed(verdict), durable=True)


def hashed(verdict: Verdict) -> dict[str, Any]:
    """A verdict as it is written: with its own hash."""
    data = verdict.as_dict()
    return {**data, "sha256": _hash_of(data)}


def read_verdicts(folder: Path) -> list[Verdict]:
    """All verdicts, oldest first; in place of a line that is not what was written stands one of UNREADABLE."""
    path = folder / VERDICTS
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    return [parse_verdict(line, folder.name) for line in lines if line]


def parse_verdict(text: str, backup_id: str, proven_at: str = "") -> Verdict:
    """The verdict in a text.

    Args:
        text: the JSON of what `hashed` gave.
        backup_id: the backup that it has to be of.
        proven_at: when it was written, where the text does not tell.
    """
    try:
        data = json.loads(text)
        written = data.pop("sha256")
        found = Verdict.from_dict(data)
        whole = written == _hash_of(data) and found.backup_id == backup_id
        if whole and found.verdict != UNREADABLE:
            return found
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    return Verdict(UNREADABLE, None, proven_at, backup_id)


def _hash_of(data: dict[str, Any]) -> str:
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
