# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Each row of the fault matrix: injected for real, called by its name, undone, and nothing is lost.

`make test` takes the rows of `ci`; `make test-faults` (FAULTS=all) takes all of them, and writes docs/faults.md.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from tests.faults.fault import Fault, Seen
from tests.faults.scene import Scene
from tests.faults.table import TABLE

ROWS = [fault for fault in TABLE if fault.ci or os.environ.get("FAULTS") == "all"]


@pytest.mark.parametrize("fault", ROWS, ids=[f"{fault.where}: {fault.name}" for fault in ROWS])
def test_a_fault_is_called_by_its_name_and_costs_nothing(
    fault: Fault, scene: Scene, record: Callable[[Seen, str, bool], None]
) -> None:
    """A80 A81 ⚠ A82 ⚠ A85 ⚠ B38 ⚠ B40 ⚠ X14 ⚠: a false pass is the worst that a proof can do."""
    seen = fault.inject(scene)
    said = " ".join(seen.message.split())
    found = [word for word in fault.words if word not in said]
    wanted = (seen.outcome, seen.rung) == (fault.expected, fault.rung) and not found
    data = scene.measured or scene.look(seen.outcome)
    left = scene.left()
    record(seen, data, wanted and not left)
    assert (seen.outcome, seen.rung) == (fault.expected, fault.rung), said
    assert not found, said
    assert not left
