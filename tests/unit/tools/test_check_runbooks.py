# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A page of a runbook that went stale is found."""

from __future__ import annotations

import pytest

from tools import check_runbooks

PAGE = "# Drill\n\n" + "\n\n".join(f"## {section}\n\ntext" for section in check_runbooks.SECTIONS)
KNOWN = {"drill_count", "drill_name", "target"}
WORDS = {"drill", "drill_info"}


def problems(text: str, wanted: frozenset[str] = frozenset()) -> list[str]:
    return check_runbooks.page_problems(text, check_runbooks.SECTIONS, set(wanted), KNOWN, WORDS, {"drill"})


def test_a_true_page_is_left_alone() -> None:
    command = "ansible-playbook sre.runbooks.drill -e target=orders-db -e drill_count=3"
    assert problems(f"{PAGE}\n    {command}\n`drill_info` `database_name`", frozenset({"drill_count"})) == []


def test_a_table_may_stand_for_sections() -> None:
    rows = "".join(f"| {row} | text |\n" for row in check_runbooks.SECTIONS.values())
    assert problems(f"# Drill\n\n| | |\n|---|---|\n{rows}") == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (PAGE.replace("## The command", "## Run"), "the section '## The command' (or the row '| Command |')"),
        (PAGE + "\n    ansible-playbook sre.runbooks.dril\n", "there is no sre.runbooks.dril."),
        (PAGE + "\n    -e drill_cuont=3", "there is no variable drill_cuont."),
        (PAGE + "\nSet `drill_old`.", "there is no variable drill_old."),
        (PAGE, "the variable drill_name is not mentioned."),
    ],
)
def test_what_went_stale_is_said(text: str, expected: str) -> None:
    assert any(found.startswith(expected) for found in problems(text, frozenset({"drill_name"})))
