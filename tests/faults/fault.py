# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a row of the fault matrix is, and what was seen of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.faults.scene import Scene

# What is expected of a row. A verdict is good, corrupt, incomplete or unverifiable. As a playbook decides it by its
# phases, `refused` is what the check before the work said, and `failed and undone` what failed after that.
REFUSED, UNDONE, DONE, UNKNOWN = "refused", "failed and undone", "done", "unknown"
UNDO_FAILED = "failed and undo failed"
# Servers: for all rows, for those that end it, one of an older version, and one with an archive.
SHARED, CRASHING, OLDER, ARCHIVED = "postgresql_server", "crashing", "older_server", "archived_server"


@dataclass(frozen=True)
class Seen:
    """What came of it.

    Args:
        outcome: the verdict, or one of the words above.
        message: what the operator reads.
        rung: the highest that was passed, where a backup was proven.
        times: how often the fault was injected.
    """

    outcome: str
    message: str
    rung: str | None = None
    times: int = 1


@dataclass(frozen=True)
class Fault:
    """One row.

    Args:
        name: what goes wrong; no other row has it.
        where: the part of the work that it happens in.
        inject: makes it happen, for real.
        expected: the outcome.
        words: what the operator reads of it, at least.
        undone: what is to become of what was begun; empty where nothing is wrong.
        rung: the highest that is passed nevertheless, where a backup is proven.
        ci: whether `make test` has it as well.
        server: the fixture with the database's server.
    """

    name: str
    where: str
    inject: Callable[[Scene], Seen]
    expected: str
    words: tuple[str, ...]
    undone: str
    rung: str | None = None
    ci: bool = False
    server: str = SHARED

    @property
    def control(self) -> bool:
        """Whether nothing is wrong, so that one who rejects everything is found out."""
        return not self.undone
