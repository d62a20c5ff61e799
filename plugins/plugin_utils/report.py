# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Writes a run's report.json and report.html, and makes the text of every page."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.sre.runbooks.plugins.module_utils.run.files import write_whole
from ansible_collections.sre.runbooks.plugins.module_utils.run.records import (
    RECORDS_FILE,
    read_lines,
    read_records,
)
from ansible_collections.sre.runbooks.plugins.module_utils.run.report import build
from ansible_collections.sre.runbooks.plugins.module_utils.run.report_page import page
from jinja2 import ChainableUndefined, Environment, FileSystemLoader

ROLES = Path(__file__).resolve().parents[2] / "roles"
# Where pages are, and what all of them look like (page.css in the first).
TEMPLATES = [ROLES / "run" / "templates", ROLES / "backup_catalog" / "templates"]


def rendered(template: str, data: Mapping[str, Any]) -> str:
    """The text of a page; whatever stands in `data` is shown as text."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=ChainableUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(data)


def write_report(folder: Path) -> Path:
    """Make both reports from the records of all hosts so far; returns the page's place."""
    with (folder / RECORDS_FILE).open("rb") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        report = build(read_records(folder), read_lines(folder / "tasks.jsonl"))
        write_whole(folder / "report.json", json.dumps(report, indent=2, ensure_ascii=False, default=str) + "\n")
        write_whole(folder / "report.html", rendered("report.html.j2", page(report)))
    return folder / "report.html"
