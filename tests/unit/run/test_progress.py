"""Progress of long work is written at once, and never floods."""

from __future__ import annotations

import json
from pathlib import Path

from ansible_collections.sre.runbooks.plugins.module_utils.run.progress import Progress


def test_lines_are_whole_json_objects(tmp_path: Path):
    path = tmp_path / "progress.jsonl"
    progress = Progress(str(path))
    progress.say("1 of 2 tables\nwith a line break")
    assert [json.loads(line)["message"] for line in path.read_text().splitlines()] == [
        "1 of 2 tables\nwith a line break"
    ]


def test_a_tick_right_after_a_line_is_silent(tmp_path: Path):
    path = tmp_path / "progress.jsonl"
    progress = Progress(str(path))
    progress.say("first")
    for _unused in range(100):
        progress.tick(lambda: "again")
    assert len(path.read_text().splitlines()) == 1


def test_without_a_file_nothing_is_written(tmp_path: Path):
    Progress().say("nobody listens")
    assert list(tmp_path.iterdir()) == []


def test_work_goes_on_when_its_progress_cannot_be_written(tmp_path: Path):
    Progress(str(tmp_path / "gone" / "progress.jsonl")).say("half done")
    assert not (tmp_path / "gone").exists()
