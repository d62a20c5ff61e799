# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Asks the calendar once more, before the first thing that others notice."""

from __future__ import annotations

from typing import Any, ClassVar

from ansible_collections.sre.runbooks.plugins.module_utils.run.records import read_records
from ansible_collections.sre.runbooks.plugins.plugin_utils.window_action import WindowAction


class ActionModule(WindowAction):
    """Fails when the window closed, or a freeze began, since the run did."""

    ARGUMENTS: ClassVar[dict[str, Any]] = {}

    def act(self, _arguments: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Look at the calendar for the runbook that was begun; check mode looks at any time."""
        run = next(entry["data"] for entry in read_records(self.folder(variables)) if entry.get("kind") == "run")
        if run.get("changes") and not self._task.check_mode:
            self.refuse_outside_windows(str(run["runbook"]), variables)
        return {"changed": False}
