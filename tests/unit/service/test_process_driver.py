# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What tells a service's process from another one."""

from __future__ import annotations

import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.progress import Progress
from ansible_collections.sre.runbooks.plugins.module_utils.service.control import service_of
from ansible_collections.sre.runbooks.plugins.module_utils.service.process import is_same_command


@pytest.mark.parametrize(
    ("running", "wanted", "same"),
    [
        (["/srv/orders", "--port", "80"], ["/srv/orders", "--port", "80"], True),
        (["/usr/bin/python3", "/srv/orders", "-v"], ["/srv/orders", "-v"], True),
        (["/bin/sh", "./run.sh"], ["/srv/run.sh"], True),
        (["/srv/orders", "--port", "81"], ["/srv/orders", "--port", "80"], False),
        (["/srv/orders", "--port", "80", "-v"], ["/srv/orders", "--port", "80"], False),
        (["vim", "/srv/orders.py"], ["python", "/srv/orders.py"], False),
        ([], ["/srv/orders"], False),
    ],
)
def test_a_process_is_the_service_when_it_runs_its_command(running: list[str], wanted: list[str], same: bool) -> None:
    assert is_same_command(running, wanted) is same


@pytest.mark.parametrize(
    ("control", "message"),
    [
        ({}, "The service orders has no driver"),
        ({"driver": "magic"}, "The service orders has no driver 'magic'"),
        ({"driver": "process", "pid_file": "/run/orders.pid"}, "its service_control lacks command"),
        ({"driver": "process"}, "its service_control lacks pid_file, command"),
        ({"driver": "compose"}, "is driven by compose, which is not served yet"),
    ],
)
def test_an_inventory_that_does_not_say_how_is_refused(control: dict[str, str], message: str) -> None:
    with pytest.raises(RunbookError, match=message):
        service_of("orders", control, Progress())
