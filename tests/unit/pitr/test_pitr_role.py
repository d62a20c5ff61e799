# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the role says and asks, where a play for each would take minutes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

from lab import REPOSITORY

ROLE = REPOSITORY / "roles" / "database_pitr"
FILES = sorted((ROLE / "tasks").glob("*.yml"))


def tasks_of(content: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Each task, those in blocks too."""
    for task in content:
        yield task
        for part in ("block", "rescue", "always"):
            yield from tasks_of(task.get(part, []))


def read(path: Path) -> list[dict[str, Any]]:
    return list(tasks_of(yaml.safe_load(path.read_text(encoding="utf-8"))))


def test_a_plan_that_was_only_shown_is_done_in_check_mode_as_with_every_runbook() -> None:
    """docs/run.md: what `--check` calls done."""
    found = [
        task["sre.runbooks.run_record"]["data"]["outcome"] for path in FILES for task in read(path)
        if "ansible_check_mode" in str(task.get("when", "")).split("not ", maxsplit=1)[0].split()
        and task.get("sre.runbooks.run_record", {}).get("kind") == "outcome"
    ]
    assert len(found) == 3
    for outcome in found:
        assert outcome.startswith("{{ 'done' if "), outcome


@pytest.mark.parametrize("name", ["apply.yml", "take_back_apply.yml"])
def test_the_window_is_asked_again_before_consumers_are_stopped(name: str) -> None:
    """An approval may come hours after the question."""
    imported = [
        (task["ansible.builtin.import_role"]["name"], task["ansible.builtin.import_role"]["tasks_from"])
        for task in read(ROLE / "tasks" / name) if "ansible.builtin.import_role" in task
    ]
    assert imported.index(("sre.runbooks.run", "window")) < imported.index(("sre.runbooks.quiesce", "stop"))


@pytest.mark.parametrize(("steps", "loses"), [
    (["stop the restored cluster", "put the restored cluster aside"], True),
    (["start the old cluster again", "remove the restored cluster"], False),
    ([], False),
])
def test_what_going_back_loses_is_read_from_what_it_would_do(steps: list[str], loses: bool) -> None:
    """A86 ⚠: an exchange that was killed after it let applications in calls itself `opening`."""
    variables = yaml.safe_load((ROLE / "vars" / "main.yml").read_text(encoding="utf-8"))
    found = {"plan": [{"step": step} for step in steps], "position": {"state": "opening"}}
    template = jinja2.Environment(autoescape=True).from_string(variables["__database_pitr_loses"])
    assert template.render(__database_pitr_found=found) == str(loses)
    asked, taken = (
        (ROLE / "tasks" / name).read_text(encoding="utf-8")
        for name in ("take_back_preflight.yml", "take_back_apply.yml")
    )
    assert "if __database_pitr_loses else 'nothing'" in asked
    assert 'losses_agreed: "{{ __database_pitr_loses | bool }}"' in taken
