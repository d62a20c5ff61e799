# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What test runs that were killed have left: taken away by the next one, whose workers do so one at a time."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator

from lab import machine

LOCK = "tests.lock"


@contextlib.contextmanager
def one_worker_at_a_time() -> Iterator[None]:
    """Keep the other workers from what this one takes away."""
    with open(machine.state_root() / LOCK, "a", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def is_left(name: str) -> bool:
    """Whether the test run that a name like `tests-4711` or `tests-4711-dbis` belongs to has ended."""
    return not machine.is_running(int(name.rsplit("tests-", 1)[1].split("-")[0]), "python")
