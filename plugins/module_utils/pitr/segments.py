# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Places in the WAL, the names of its segments, and the history of a timeline, as text becomes values."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError

SEGMENT = re.compile(r"([0-9A-F]{8})([0-9A-F]{8})([0-9A-F]{8})")
LSN = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")
HISTORY_LINE = re.compile(r"\s*(\d+)\s+([0-9A-Fa-f]+/[0-9A-Fa-f]+)(?:\s.*)?")


def parse_lsn(text: str) -> int:
    """A place in the WAL, such as `0/3000050`, as a number of bytes.

    Raises:
        RunbookError: it is none.
    """
    match = LSN.fullmatch(text)
    if not match:
        raise RunbookError(f"{text!r} is no LSN.", "Give one as PostgreSQL writes it, such as 0/3000050.")
    return (int(match[1], 16) << 32) | int(match[2], 16)


def lsn_text(number: int) -> str:
    """A place in the WAL as PostgreSQL writes it."""
    return f"{number >> 32:X}/{number & 0xFFFFFFFF:X}"


@dataclass(frozen=True, order=True)
class Segment:
    """A piece of the WAL: its timeline, and its number, counted from the beginning of all WAL."""

    timeline: int
    number: int

    @classmethod
    def parse(cls, name: str, size: int) -> Segment:
        """From a name such as `000000010000000000000003`.

        Raises:
            RunbookError: it is no such name.
        """
        match = SEGMENT.fullmatch(name)
        if not match or size <= 0:
            raise RunbookError(f"{name!r} is no name of a WAL segment of {size} bytes.", "Look at the repository.")
        timeline, log, low = (int(part, 16) for part in match.groups())
        return cls(timeline, log * ((1 << 32) // size) + low)

    def name(self, size: int) -> str:
        """As PostgreSQL writes it."""
        log, low = divmod(self.number, (1 << 32) // size)
        return f"{self.timeline:08X}{log:08X}{low:08X}"


def read_history(text: str) -> list[tuple[int, int]]:
    """A timeline's parents, oldest first, each with the LSN at which it was left, from its history file.

    Raises:
        RunbookError: a line is of another form.
    """
    found = []
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = HISTORY_LINE.fullmatch(line)
        if not match:
            raise RunbookError(
                f"The line {line[:80]!r} of a timeline's history cannot be read.",
                "Compare the file with its copy in another archive, or in the server's pg_wal.",
            )
        found.append((int(match[1]), parse_lsn(match[2])))
    return found
