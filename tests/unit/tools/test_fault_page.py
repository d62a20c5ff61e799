# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The page of faults shows what was seen, and lint says when it and the matrix differ."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.fault import Fault, Seen
from tests.faults.table import TABLE
from tools import fault_page


def nothing(_scene: object) -> Seen:
    """Never called."""
    raise AssertionError


ROWS = (
    Fault("a file is gone", "store", nothing, "incomplete", ("gone",), "the verdict undoes every proof", rung="bytes"),
    Fault("nothing at all", "store", nothing, "good", (), ""),
)
SEEN = {
    "a file is gone": {"message": "a | b is <gone>", "times": 3, "seed": "7"},
    "nothing at all": {"message": "It is good.", "times": 1, "seed": "7"},
}


def test_a_row_says_what_was_seen_and_how_often() -> None:
    text = fault_page.page(ROWS, SEEN)
    assert "1 faults, injected 3 times, and 1 controls; seed 7." in text
    assert (
        "| 1 | a file is gone | incomplete above the rung bytes, 3 times | a \\| b is &lt;gone> |"
        " the verdict undoes every proof | none |"
    ) in text


def test_a_row_that_the_page_lacks_and_one_that_nobody_runs_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fault_page, "PAGE", tmp_path / "faults.md")
    monkeypatch.setattr(fault_page, "table", lambda: ROWS)
    assert "is missing" in fault_page.findings()[0]
    fault_page.PAGE.write_text(fault_page.page(ROWS, SEEN), encoding="utf-8")
    assert fault_page.findings() == []
    monkeypatch.setattr(fault_page, "table", lambda: ROWS[1:])
    assert fault_page.findings() == ["docs/faults.md has the fault 'a file is gone', which no test injects."]


def test_no_two_rows_have_one_name_and_no_fault_passes() -> None:
    """A81 ⚠: at least 40 faults, and controls, so that one who rejects everything is found out."""
    names = [row.name for row in TABLE]
    assert len(set(names)) == len(names)
    assert sum(not row.control for row in TABLE) >= 40
    assert any(row.control for row in TABLE)
    assert all(row.words and (row.undone or row.control) for row in TABLE)
