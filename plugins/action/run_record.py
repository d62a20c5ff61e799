# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Appends a record to the run; the documentation is in plugins/modules/run_record.py."""

from __future__ import annotations

from typing import Any, ClassVar

from ansible_collections.sre.runbooks.plugins.module_utils.run.records import record
from ansible_collections.sre.runbooks.plugins.plugin_utils.missing_secret import plainly
from ansible_collections.sre.runbooks.plugins.plugin_utils.run_action import RunAction


class ActionModule(RunAction):
    """One line in run.jsonl for this host."""

    ARGUMENTS: ClassVar[dict[str, Any]] = {
        "kind": {
            "type": "str", "required": True,
            "choices": [
                "phase", "step", "checks", "verdict", "catalog", "plan", "measure", "message", "failure", "outcome",
            ],
        },
        "data": {"type": "dict", "default": {}},
    }

    def act(self, arguments: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Append the record."""
        host, data = str(variables["inventory_hostname"]), arguments["data"]
        if arguments["kind"] == "failure":
            data = self._failure(variables)
        elif arguments["kind"] == "outcome" and data.get("undo"):
            more = {name: str(value) for name, value in (data.get("undo_with") or {}).items()}
            data = {name: value for name, value in data.items() if name != "undo_with"}
            data["undo"] = self.command(str(data["undo"]), target=host, **more)
        entry = record(self.folder(variables), host, arguments["kind"], data)
        return {"changed": False, "record": entry}

    def _failure(self, variables: dict[str, Any]) -> dict[str, str]:
        """What a rescue knows of the task that failed: its name and its message, never its arguments.

        Nothing is templated: the arguments would be too, and they may be what failed.
        """
        task, result = (variables.get(f"ansible_failed_{name}") or {} for name in ("task", "result"))
        items = [item for item in result.get("results", []) if isinstance(item, dict) and item.get("failed")]
        message = items[0].get("msg", "") if items else result.get("msg", "")
        return {"task": str(task.get("name", "")), "message": plainly(str(message or "It failed without a message."))}
