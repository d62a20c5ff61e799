# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Takes the lock on the lock host, and tells it there what only the controller can see."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.sre.runbooks.plugins.module_utils.run.lock import alive, machine
from ansible_collections.sre.runbooks.plugins.plugin_utils.dead_run import end_dead_run
from ansible_collections.sre.runbooks.plugins.plugin_utils.old_python import explained
from ansible_collections.sre.runbooks.plugins.plugin_utils.run_action import RunAction


class ActionModule(RunAction):
    """Runs the module; when a dead process of this controller holds the lock, runs it again and says so."""

    _requires_connection = True

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """The module's result."""
        ActionBase.run(self, tmp, task_vars)
        variables, arguments = task_vars or {}, dict(self._task.args)
        where = str(self._task.delegate_to or variables["inventory_hostname"])
        result = explained(self._execute_module(module_args=arguments, task_vars=variables), where)
        refused = (result.get("error") or {}).get("holder") if result.get("failed") else None
        if refused and alive({**refused, **(refused.get("process") or {})}, machine()) is False:
            result = self._execute_module(module_args={**arguments, "gone": refused["run"]}, task_vars=variables)
        lost = result.get("taken_over")
        if lost and not self._task.check_mode:
            host, by = str(variables["inventory_hostname"]), str(arguments["holder"]["run"])
            Display().display(f"  {host}: the lock was taken over from the run {lost['run']}: {lost['reason']}.")
            end_dead_run(self.directory(variables) / lost["run"], host, f"{by} took over: {lost['reason']}")
        return result
