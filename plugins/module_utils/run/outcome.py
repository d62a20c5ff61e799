# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How a run ended for one target: decided from its records, and a success only where one was recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ansible_collections.sre.runbooks.plugins.module_utils.run.records import Record

DONE = "done"
NOTHING_TO_DO = "nothing to do"
FAILED_AND_UNDONE = "failed and undone"
FAILED_AND_UNDO_FAILED = "failed and undo failed"
REFUSED = "refused"
UNKNOWN = "unknown"
OUTCOMES = (DONE, NOTHING_TO_DO, FAILED_AND_UNDONE, FAILED_AND_UNDO_FAILED, REFUSED, UNKNOWN)
SUCCESSES = (DONE, NOTHING_TO_DO)
# The worst first: the whole run is as bad as its worst target.
SEVERITY = (FAILED_AND_UNDO_FAILED, UNKNOWN, FAILED_AND_UNDONE, REFUSED, DONE, NOTHING_TO_DO)


@dataclass(frozen=True)
class Outcome:
    """One of OUTCOMES, a sentence about it, and the commands that go on or go back."""

    outcome: str
    message: str = ""
    resume: str = ""
    undo: str = ""

    @property
    def success(self) -> bool:
        """Whether the exit code is 0."""
        return self.outcome in SUCCESSES

    def as_dict(self) -> dict[str, str]:
        """The fields, for a record or a report."""
        return asdict(self)


def from_data(data: dict[str, Any]) -> Outcome:
    """An outcome as a role recorded it; a word that is none of OUTCOMES is `unknown`."""
    word = str(data.get("outcome", ""))
    texts = {name: str(data.get(name) or "") for name in ("message", "resume", "undo")}
    if word not in OUTCOMES:
        return Outcome(UNKNOWN, f"The outcome {word} was recorded, which is none. {texts['message']}".strip())
    return Outcome(word, **texts)


def decide(records: Sequence[Record], resume: str = "") -> Outcome:
    """How the run ended for one host.

    Args:
        records: the host's own records, oldest first.
        resume: the command that starts the same run again, for an outcome that names none itself.
    """
    recorded: Outcome | None = None
    failure = ""
    phases: dict[str, str] = {}
    steps = 0
    for entry in records:
        data = entry.get("data", {})
        match entry.get("kind"):
            case "outcome":
                recorded, failure = from_data(data), ""
            case "failure":
                # The first is the cause; a lock that then cannot be released is not.
                failure = failure or str(data.get("message") or "A task failed.")
            case "phase":
                phases[str(data.get("name"))] = str(data.get("state"))
            case "step":
                steps += 1
    acted = bool(steps) or "apply" in phases
    # A role that had ended what it does says itself what a no then leaves.
    if recorded is not None and recorded.outcome == REFUSED and acted and phases.get("apply") != "end":
        recorded, failure = None, recorded.message
    if recorded is not None:
        if recorded.success and failure:
            message = f"{recorded.outcome} was reached, then this failed: {failure}"
            return Outcome(UNKNOWN, message, resume, recorded.undo)
        # Whatever a role recorded, the same command is the way to go on, unless it named another.
        return recorded if recorded.success or recorded.resume else replace(recorded, resume=resume)
    if phases.get("undo") == "end":
        return Outcome(FAILED_AND_UNDONE, failure or "The first failing task above says why.", resume)
    if phases.get("undo") == "begin":
        return Outcome(FAILED_AND_UNDO_FAILED, failure or "The failing tasks above say why.", resume)
    if acted:
        return Outcome(UNKNOWN, failure or "It stopped in the middle; the failing task above says why.", resume)
    return Outcome(REFUSED, failure or "It changed nothing yet; the failing task above says why.", resume)


def worst(outcomes: Sequence[str]) -> str:
    """The worst of several outcomes; of none it is `unknown`."""
    return next((word for word in SEVERITY if word in outcomes), UNKNOWN)
