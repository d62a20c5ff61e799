# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Shows what a sweep still waits for, and when asked what it found."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.parsing.convert_bool import boolean
from ansible.utils.color import ANSIBLE_COLOR
from ansible.utils.display import Display
from ansible_collections.sre.runbooks.plugins.module_utils.health.summary import counts, grouped, table
from ansible_collections.sre.runbooks.plugins.plugin_utils.progress_action import ProgressAction


class ActionModule(ProgressAction):
    """Runs health_probe, prints its progress, and with `show` the table."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Execute the module and return its result unchanged."""
        result = super().run(tmp, task_vars)
        if boolean(self._task.args.get("show", False), strict=False) and "checks" in result:
            display = Display()
            width = display.columns if ANSIBLE_COLOR else 0
            lines = [*table(result["checks"], width, bool(ANSIBLE_COLOR)).splitlines(),
                     *grouped(result["not_measured"]), f"{len(result['checks'])} checks: {counts(result['checks'])}"]
            for line in lines:
                display.display(f"  {line}")
        return result
