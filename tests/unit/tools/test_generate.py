# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The page that says which procedures are covered counts only what a test proves."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import generate
from tools.repository import ROOT, load

KNOWN = [*(f"A{number}" for number in range(1, 30)), "A62a", "B34", "B9", "D3", "X1", "X2", "X3"]
PROCEDURES = """
systems: {A: One system, X: Defects}
procedures: {A1: the first, A2: the second, A3: the third, X1: a defect}
"""
PLAYBOOK = """
- name: Do it
  hosts: all
"""
PAGE = """# work

| | |
|---|---|
| Replaces | A1, with X1 corrected |
"""
TEST = '''
def test_it_works():
    """A1 \\u26a0: it does."""

def helper():
    """A2"""

class TestMore:
    """X1"""
    def test_more(self):
        pass
'''


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A8–A10 A25", ["A8", "A9", "A10", "A25"]),
        ("A8-A10", ["A8", "A9", "A10"]),
        ("A8–10", ["A8", "A9", "A10"]),
        ("A8 to A10", ["A8", "A9", "A10"]),
        ("B34 ⚠: blocked sessions", ["B34"]),
        ("X1–X3, A62a.", ["X1", "X2", "X3", "A62a"]),
        ("A10–A8", ["A10", "A8"]),
        ("A9–B9", ["A9", "B9"]),
        ("A3 A3", ["A3"]),
        ("SHA256, IPA4, A400, version D3x, UTF8", []),
        ("", []),
    ],
)
def test_ids_are_found_and_ranges_stand_for_all_between(text: str, expected: list[str]) -> None:
    assert generate.identifiers(text, KNOWN) == expected


def test_only_a_test_makes_a_procedure_covered(tmp_path: Path) -> None:
    for name, text in (
        ("docs/procedures.yml", PROCEDURES), ("playbooks/work.yml", PLAYBOOK), ("docs/runbooks/work.md", PAGE),
        ("tests/unit/test_work.py", TEST),
        ("inventories/shop/hosts.yml", "# A3: as data\n"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    page = generate.coverage(tmp_path)
    assert "| A1 | the first | [work](runbooks/work.md) | `tests/unit/test_work.py::test_it_works` |" in page
    assert "| A2 | the second | not covered yet |  |" in page
    assert "| A3 | the third | data of shop | no test yet |" in page
    assert "| X1 | a defect | [work](runbooks/work.md) | `tests/unit/test_work.py::TestMore` |" in page
    assert "1 of 3 covered." in page


def test_every_system_has_its_procedures_without_a_gap() -> None:
    """293 procedures: the ids are consecutive, so none was forgotten."""
    procedures = load(ROOT / "docs" / "procedures.yml")["procedures"]
    for prefix, last in (("K", 23), ("A", 95), ("B", 76), ("W", 46), ("D", 30), ("X", 20)):
        numbers = [int(one[1:]) for one in procedures if one[0] == prefix and one[1:].isdigit()]
        assert numbers == list(range(1, last + 1))
