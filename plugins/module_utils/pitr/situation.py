# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is known before anything is touched: the live server, its WAL, and what each base backup leads to."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from pathlib import Path

from ansible_collections.sre.runbooks.plugins.module_utils.pitr import window
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.survey import Live, read_live
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.target import Target
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.workplace import Workplace
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError


class Situation:
    """Read once, but for the archive, which grows.

    Args:
        work: of which cluster.

    Attributes:
        live: the live server; None when none runs.
        segment_size: of its WAL, in bytes.
        timeline: the live cluster's.

    Raises:
        RunbookError: the server cannot be asked.
    """

    def __init__(self, work: Workplace) -> None:
        control = work.live.control_data()
        self.live: Live | None = read_live(work.request.login, work.live)
        self.segment_size = segment_size_of(control)
        self.timeline = timeline_of(control, work.places.data)
        self._work, self._repository = work, work.repository
        self._identifier = control["Database system identifier"]

    def reaches(self) -> list[window.Reach]:
        """What each backup of this very cluster leads to, over what is archived now.

        Raises:
            RunbookError: the repository cannot be read, or is another cluster's.
        """
        size = self.segment_size
        archives = {name: self._repository.archive(name, size) for name in {one.archive for one in self._bases}}
        return [window.reach(one, archives[one.archive], self.timeline, size) for one in self._bases]

    def choose(
        self, target: Target, label: str | None, *, now: datetime, live_goes_on: bool = False
    ) -> window.Reach:
        """A backup that leads to the target.

        Args:
            target: where recovery is to end.
            label: the only backup to take; None takes the best.
            now: the present time.
            live_goes_on: what the live server will have archived counts as well, not only what is.

        Raises:
            RunbookError: none leads there.
        """
        live = self.live if live_goes_on else None
        chosen = window.choose(self.reaches(), target, label, self._repository.listing)
        window.require_reached(
            chosen, target, live_goes_on=live is not None, now=now, lsn=live.facts["lsn"] if live else None
        )
        return chosen

    @cached_property
    def _bases(self) -> list[window.Base]:
        work, own = self._work, self._identifier
        bases = self._repository.bases(self.segment_size)
        fitting = [one for one in bases if one.system_identifier == own and one.version == work.major]
        if bases and not fitting:
            other = bases[-1]
            raise RunbookError(
                f"The stanza {work.request.stanza!r} holds the cluster {other.system_identifier} of version "
                f"{other.version}, and {work.places.data} is {own} of version {work.major}.",
                "Mend the stanza or the data directory in the inventory.",
            )
        return fitting


def segment_size_of(control: Mapping[str, str]) -> int:
    """The size of a WAL segment in bytes, from what pg_controldata says."""
    return int(control["Bytes per WAL segment"])


def timeline_of(control: Mapping[str, str], data: Path) -> int:
    """The cluster's timeline; after a promotion the first checkpoint has not always come, so the WAL is asked too."""
    names = (path.name for path in (data / "pg_wal").glob("*.history"))
    return max([int(control["Latest checkpoint's TimeLineID"]), *(int(name[:8], 16) for name in names)])
