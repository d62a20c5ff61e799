# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Draws the calendar of backups on the controller; the documentation is in plugins/modules/backup_calendar.py."""

from __future__ import annotations

from typing import Any, ClassVar

from ansible_collections.sre.runbooks.plugins.module_utils.backup.calendar import page
from ansible_collections.sre.runbooks.plugins.module_utils.run.files import write_whole
from ansible_collections.sre.runbooks.plugins.module_utils.run.records import read_records, record
from ansible_collections.sre.runbooks.plugins.plugin_utils.report import rendered
from ansible_collections.sre.runbooks.plugins.plugin_utils.run_action import RunAction

FILE = "calendar.html"


class ActionModule(RunAction):
    """The page of all databases of a run."""

    ARGUMENTS: ClassVar[dict[str, Any]] = {"hosts": {"type": "list", "elements": "str", "required": True}}

    def act(self, arguments: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Draw it from the run's records."""
        folder = self.folder(variables)
        catalogs = {entry["host"]: entry["data"] for entry in read_records(folder) if entry.get("kind") == "catalog"}
        system = str(self.value(variables, "system") or "")
        write_whole(folder / FILE, rendered("calendar.html.j2", page(system, arguments["hosts"], catalogs)))
        record(folder, str(variables["inventory_hostname"]), "page", {"title": "Calendar", "file": FILE})
        return {"changed": False, "path": str(folder / FILE)}
