# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The fault matrix: every row that `make test-faults` runs, in the order of docs/faults.md."""

from __future__ import annotations

from tests.faults import backup, kills, point_in_time, restore, round_trips, store, swap, verification
from tests.faults.fault import Fault

TABLE: tuple[Fault, ...] = (
    *backup.FAULTS, *store.FAULTS, *verification.FAULTS, *restore.FAULTS, *swap.FAULTS, *point_in_time.FAULTS,
    *kills.FAULTS, *round_trips.FAULTS,
)
