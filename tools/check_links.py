# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Links between the pages of this repository: each leads to a file that is there, and to a heading that it has."""

from __future__ import annotations

import re
from pathlib import Path

from tools.repository import ROOT

PAGES = ("*.md", "docs/**/*.md", "lab/**/*.md")
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def anchors(text: str) -> set[str]:
    """What GitHub calls a page's headings: small letters, no punctuation, dashes for spaces."""
    headings = re.findall(r"^#+ +(.+)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def findings(root: Path = ROOT) -> list[str]:
    """Each link that leads nowhere, as a sentence with its page."""
    found = []
    for page in sorted({path for pattern in PAGES for path in root.glob(pattern)}):
        for target in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
            if "://" in target or target.startswith("mailto:"):
                continue
            name, _hash, anchor = target.partition("#")
            place = page.parent / name if name else page
            if not place.exists():
                found.append(f"{page.relative_to(root)}: the link to {target} leads to no file.")
            elif anchor and anchor not in anchors(place.read_text(encoding="utf-8")):
                found.append(f"{page.relative_to(root)}: the link to {target} leads to no heading of that name.")
    return found
