# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A reader of the pages never follows a link into nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.check_links import findings


@pytest.mark.parametrize(("link", "sentence"), [
    ("docs/run.md", ""),
    ("docs/run.md#the-lock-and-its-host", ""),
    ("#start", ""),
    ("https://example.org/nowhere", ""),
    ("docs/gone.md", "README.md: the link to docs/gone.md leads to no file."),
    ("docs/run.md#the-key", "README.md: the link to docs/run.md#the-key leads to no heading of that name."),
    ("docs/run.md#not-a-heading", "README.md: the link to docs/run.md#not-a-heading leads to no heading of that name."),
])
def test_a_link_leads_to_a_file_and_a_heading(tmp_path: Path, link: str, sentence: str) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "run.md").write_text("# Run\n\n## The lock, and its host\n\n```\n# not a heading\n```\n")
    (tmp_path / "README.md").write_text(f"# Start\n\nSee [this]({link}).\n\n```\n[an example](nowhere.md)\n```\n")
    assert findings(tmp_path) == ([sentence] if sentence else [])
