# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The marker: the last line of a database's comment, from which a swap knows where it stands.

It lies under the owner's own text and changes in the same transaction as the thing it describes.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError

PREFIX = "sre.runbooks: "
RESTORING, PREPARED, CLOSED, EXCHANGED, OPENED, RETIRED, ABANDONED = (
    "restoring", "prepared", "closed", "exchanged", "opened", "retired", "abandoned",
)
# A drill's database: filled, compared and dropped; see scratch.py.
SCRATCH = "scratch"
# A copy to look into, kept until its hour; see copying.py. No swap takes it for its own.
COPY = "copy"
STATES = (RESTORING, PREPARED, CLOSED, EXCHANGED, OPENED, RETIRED, ABANDONED, SCRATCH, COPY)


@dataclass(frozen=True)
class Marker:
    """What stands on a database; see the table in docs/architecture.md.

    Args:
        state: one of STATES.
        run: the run that wrote it.
        database: the live name that the swap is about.
        backup: the backup that the swap restores; empty where there is none.
        until: ISO 8601 in UTC; until when a retired or abandoned database, or a copy, is kept. Empty elsewhere.
        xid: on a retired or abandoned database the transaction of the exchange that put it aside: what has a later one
            was written since. On the live one, while going back to it is not ended, that of the exchange before: since
            then the other one was live. 0 elsewhere.
    """

    state: str
    run: str
    database: str
    backup: str = ""
    until: str = ""
    xid: int = 0

    def expired(self, moment: datetime) -> bool:
        """Whether the hour in `until` has passed. Without one it never has."""
        if not self.until:
            return False
        until = datetime.fromisoformat(self.until)
        return (until if until.tzinfo else until.replace(tzinfo=UTC)) <= moment


def split(comment: str | None) -> tuple[str | None, Marker | None]:
    """Take a comment apart into the owner's own text and our marker.

    A last line that only looks like a marker (no JSON object) belongs to the owner.

    Raises:
        RunbookError: the marker is whole, and of a state or shape that this version does not know.
    """
    own, _unused, last = (comment or "").rpartition("\n")
    if not last.startswith(PREFIX):
        return comment or None, None
    try:
        data = json.loads(last.removeprefix(PREFIX))
    except ValueError:
        data = None
    if not isinstance(data, dict):
        return comment or None, None
    try:
        marker = Marker(**data)
        if marker.until:
            datetime.fromisoformat(marker.until)
    except (TypeError, ValueError):
        marker = None
    if marker is None or marker.state not in STATES:
        raise RunbookError(
            f"The marker {last!r} on a database is none that this version knows.",
            "Use the version of sre.runbooks that wrote it, or take that line out of the database's comment.",
        )
    return own or None, marker


def join(own: str | None, marker: Marker | None) -> str | None:
    """The comment for the owner's text with a marker under it; None means no comment at all."""
    if marker is None:
        return own
    data = {name: value for name, value in asdict(marker).items() if value or name != "xid"}
    line = PREFIX + json.dumps(data, ensure_ascii=False)
    return line if own is None else f"{own}\n{line}"
