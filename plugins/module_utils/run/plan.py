# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A plan is the one list that check mode prints, diff mode shows and apply carries out."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Step:
    """One change of one thing.

    Args:
        step: what is done, as an operator would say it ("rename database").
        target: the thing that changes.
        before: its state now.
        after: its state when the step is done.
        reversible: False when no later step can bring `before` back.
    """

    step: str
    target: str
    before: Any = None
    after: Any = None
    reversible: bool = True


@dataclass
class Plan:
    """An ordered list of steps; empty when there is nothing to do."""

    steps: list[Step] = field(default_factory=list)

    def add(self, step: str, target: str, before: Any = None, after: Any = None, reversible: bool = True) -> Step:
        """Append a step and return it."""
        self.steps.append(Step(step, target, before, after, reversible))
        return self.steps[-1]

    def __bool__(self) -> bool:
        return bool(self.steps)

    def as_list(self, done_at: str = "") -> list[dict[str, Any]]:
        """The steps as plain dictionaries, for a module's result.

        Args:
            done_at: when they were carried out, as text; empty for steps that are only planned. It stands in each as
                `at`, because their records are often written later, when nobody waits any more.
        """
        return [{**asdict(step), **({"at": done_at} if done_at else {})} for step in self.steps]

    def diff(self) -> dict[str, str]:
        """The plan in the shape that Ansible's diff mode prints."""
        return {
            "before": "".join(f"{step.target}: {step.before}\n" for step in self.steps),
            "after": "".join(f"{step.target}: {step.after}  ({step.step})\n" for step in self.steps),
        }
