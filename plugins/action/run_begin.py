# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Begins a run on the controller; the documentation is in plugins/modules/run_begin.py."""

from __future__ import annotations

import os
from typing import Any, ClassVar

from ansible import context
from ansible.release import __version__ as ansible_version

from ansible_collections.sre.runbooks.plugins.module_utils.run.folder import open_run, throwaway_place
from ansible_collections.sre.runbooks.plugins.module_utils.run.lock import identify
from ansible_collections.sre.runbooks.plugins.module_utils.run.records import record
from ansible_collections.sre.runbooks.plugins.plugin_utils.run_action import RunAction


class ActionModule(RunAction):
    """Opens the run's folder for this host and says who runs what."""

    ARGUMENTS: ClassVar[dict[str, Any]] = {
        "runbook": {"type": "str", "required": True},
        "changes": {"type": "bool", "default": True},
        "summary": {"type": "str", "default": ""},
    }

    def act(self, arguments: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Open the run, record the begin, and return its id, its folder and who holds it."""
        host = str(variables["inventory_hostname"])
        check = bool(self._task.check_mode)
        holder = identify(os.getppid(), str(self.value(variables, "awx_user_name") or ""))
        folder = open_run(
            self.directory(variables), self.play, arguments["runbook"],
            {
                **arguments, "check": check, "holder": holder,
                "playbook": next(iter(context.CLIARGS.get("args") or ()), ""),
                "system": str(self.value(variables, "system") or ""),
                "targets": [str(name) for name in variables.get("ansible_play_hosts_all", [host])],
                "ansible_version": ansible_version,
            },
        )
        again = self.command(variables, host)
        record(folder, host, "begin", {"command": again})
        self._place(arguments, variables, check, folder, host)
        return {"changed": False, "run": folder.name, "folder": str(folder), "holder": {"run": folder.name, **holder}}

    def _place(self, arguments: dict[str, Any], variables: dict[str, Any], check: bool, folder: Any, host: str) -> None:
        reason = throwaway_place(os.environ) if not self.value(variables, "run_directory") else ""
        if reason:
            record(folder, host, "message", {"text": f"This run's records may be gone after the job: {reason}."})
