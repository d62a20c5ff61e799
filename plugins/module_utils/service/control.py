# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How a service is stopped and started again: one interface, and a driver for each way that services run."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.progress import Progress
from ansible_collections.sre.runbooks.plugins.module_utils.service.process import ProcessService

# Known words of the inventory that nothing serves yet.
NOT_SERVED = ("kubernetes", "compose", "systemd")

Record = dict[str, Any]


class Service(Protocol):
    """What a driver can do with one service. A record is plain data without secrets, and has at least `running`."""

    def alone(self) -> AbstractContextManager[None]:
        """Keep every other run from this service meanwhile: between `observe` and what follows it nothing may come.

        Raises:
            RunbookError: another run works on it for too long.
        """

    def observe(self) -> Record:
        """How the service is now: everything that `release` needs to bring exactly this back."""

    def notes(self) -> list[str]:
        """What an operator should know of how the service was found, such as that nothing says where it runs."""

    def quiesce(self, record: Record) -> None:
        """Stop what the record describes, and return when it is gone.

        Raises:
            RunbookError: it is still there after its time.
        """

    def release(self, record: Record) -> Record:
        """Start again what the record describes, and return how it is now, when it is alive.

        Raises:
            RunbookError: it did not come back; its last lines are in the message.
        """


def service_of(name: str, control: Mapping[str, Any], progress: Progress) -> Service:
    """The driver for a service, as `service_control` in the inventory says.

    Raises:
        RunbookError: the driver is not served, or the inventory lacks what it needs.
    """
    driver = str(control.get("driver") or "")
    if driver == "process":
        return ProcessService(name, control, progress)
    if driver in NOT_SERVED:
        raise RunbookError(
            f"The service {name} is driven by {driver}, which is not served yet.",
            """Stop it by hand, start the same command with -e '{"consumers": []}', and start the service by hand """
            "when that has ended.", driver=driver,
        )
    raise RunbookError(
        f"The service {name} has no driver {driver!r}.",
        "Give it service_control in the inventory, with a driver: process is served.", driver=driver,
    )
