# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Writes a run's report.json and report.html."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path

from ansible_collections.sre.runbooks.plugins.module_utils.run.files import write_whole
from ansible_collections.sre.runbooks.plugins.module_utils.run.records import (
    RECORDS_FILE,
    read_lines,
    read_records,
)
from ansible_collections.sre.runbooks.plugins.module_utils.run.report import build
from ansible_collections.sre.runbooks.plugins.module_utils.run.report_page import page
from jinja2 import ChainableUndefined, Environment, FileSystemLoader

TEMPLATES = Path(__file__).resolve().parents[2] / "roles" / "run" / "templates"


def write_report(folder: Path) -> Path:
    """Make both reports from the records of all hosts so far; returns the page's place."""
    with (folder / RECORDS_FILE).open("rb") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        report = build(read_records(folder), read_lines(folder / "tasks.jsonl"))
        write_whole(folder / "report.json", json.dumps(report, indent=2, ensure_ascii=False, default=str) + "\n")
        environment = Environment(
            loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=ChainableUndefined, trim_blocks=True,
            lstrip_blocks=True,
        )
        write_whole(folder / "report.html", environment.get_template("report.html.j2").render(page(report)))
    return folder / "report.html"
