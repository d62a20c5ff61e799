# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The page of faults shows what was seen, and lint says when it and the matrix differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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
    "a file is gone": {"message": "a | b is <gone>", "times": 3, "seed": "7", "commit": "abc1", "passed": True,
                       "data": "5,000 rows as before"},
    "nothing at all": {"message": "It is good.", "times": 1, "seed": "7", "commit": "abc1", "passed": True,
                       "data": "5,000 rows as backed up"},
}


def test_a_row_says_what_was_seen_and_how_often() -> None:
    text = fault_page.page(ROWS, SEEN)
    assert "1 faults, injected 3 times, and 1 controls, of the commit abc1 with the seed 7." in text
    assert (
        "| 1 | a file is gone | incomplete above the rung bytes, 3 times | a \\| b is &lt;gone> |"
        " the verdict undoes every proof | nothing left; 5,000 rows as before |"
    ) in text


@pytest.mark.parametrize(("change", "written"), [
    ({}, True), ({"seed": "8"}, False), ({"commit": "abc2"}, False), ({"commit": None}, False),
    ({"passed": False}, False),
])
def test_the_page_is_only_written_from_one_whole_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], written: bool
) -> None:
    """A81 ⚠: a row that was run again, of another commit or by itself, does not pass for one of that run."""
    for name, value in (("ROOT", tmp_path), ("PAGE", tmp_path / "docs" / "faults.md"),
                        ("RECORDS", tmp_path / "build" / "faults"), ("table", lambda: ROWS)):
        monkeypatch.setattr(fault_page, name, value)
    (tmp_path / "docs").mkdir()
    fault_page.RECORDS.mkdir(parents=True)
    for number, (name, seen) in enumerate(SEEN.items()):
        record = {"name": name, **seen, **(change if number else {})}
        (fault_page.RECORDS / f"{number}.json").write_text(json.dumps(record), encoding="utf-8")
    assert fault_page.write() == (0 if written else 1)
    assert fault_page.PAGE.exists() == written


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
