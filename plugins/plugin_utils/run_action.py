# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The base of the action plugins that keep a run's records: they work on the controller, without a module."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar

from ansible import context
from ansible.plugins.action import ActionBase
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.folder import find_begun, run_directory
from ansible_collections.sre.runbooks.plugins.module_utils.run.records import read_records
from ansible_collections.sre.runbooks.plugins.plugin_utils.command import rebuild, with_variables


class RunAction(ActionBase):
    """Validates the arguments, carries out `act`, and turns a RunbookError into a failed task."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True
    _supports_async = False
    ARGUMENTS: ClassVar[dict[str, Any]] = {}

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Do the work; a failure is a result, never an exception."""
        result = super().run(tmp, task_vars)
        variables = task_vars or {}
        _checked, arguments = self.validate_argument_spec(argument_spec=self.ARGUMENTS)
        try:
            result.update(self.act(arguments, variables))
        except RunbookError as error:
            result.update(failed=True, msg=str(error), error=error.context)
            if "folder" in error.context:
                result["folder"] = error.context["folder"]
        return result

    def act(self, arguments: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """What the plugin does; returns the task's result."""
        raise NotImplementedError

    @property
    def play(self) -> str:
        """The uuid of the play, the same for each of its hosts and batches."""
        return str(self._task.get_play()._uuid)

    def value(self, variables: dict[str, Any], name: str, default: Any = None) -> Any:
        """A variable as the operator or the inventory gave it, with its templates resolved."""
        return self._templar.template(variables[name]) if name in variables else default

    def directory(self, variables: dict[str, Any]) -> Path:
        """The folder of all runs."""
        return run_directory(self.value(variables, "run_directory"), os.environ)

    def folder(self, variables: dict[str, Any]) -> Path:
        """The folder of this play's run; RunbookError when it has not begun."""
        return find_begun(self.directory(variables), self.play)

    def command(self, playbook: str = "", **extra: str) -> str:
        """The command line that starts this playbook, or another one on the same platform, with these variables."""
        if playbook:
            return rebuild({**context.CLIARGS, "args": (playbook,)}, extra, words=())
        return rebuild(context.CLIARGS, extra)

    def again(self, variables: dict[str, Any], **extra: str) -> str:
        """The command with which this host's run began, with further variables."""
        host = str(variables["inventory_hostname"])
        for entry in read_records(self.folder(variables)):
            if entry["kind"] == "begin" and entry["host"] == host:
                return with_variables(entry["data"]["command"], extra)
        return self.command(target=host, **extra)
