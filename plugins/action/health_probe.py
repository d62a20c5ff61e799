# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Shows what a sweep still waits for, and when asked what it found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleError
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.utils.color import ANSIBLE_COLOR
from ansible.utils.display import Display
from ansible_collections.sre.runbooks.plugins.module_utils.health.summary import counts, table
from ansible_collections.sre.runbooks.plugins.module_utils.run.checks import grouped
from ansible_collections.sre.runbooks.plugins.module_utils.run.words import counted
from ansible_collections.sre.runbooks.plugins.plugin_utils.missing_secret import plainly
from ansible_collections.sre.runbooks.plugins.plugin_utils.progress_action import ProgressAction


class ActionModule(ProgressAction):
    """Runs health_probe, with the checks of inventory hosts; prints its progress, and with `show` the table."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Execute the module and return its result unchanged."""
        result = super().run(tmp, task_vars)
        if boolean(self._task.args.get("show", False), strict=False) and "checks" in result:
            display = Display()
            width = display.columns if ANSIBLE_COLOR else 0
            checks = result["checks"]
            lines = [*table(checks, width, bool(ANSIBLE_COLOR)).splitlines(), *grouped(result["not_measured"]),
                     f"{counted(len(checks), 'check')}: {counts(checks)}"]
            for line in lines:
                display.display(f"  {line}")
        return result

    def _arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        arguments = super()._arguments(task_vars)
        hosts = arguments.pop("hosts", None)
        if hosts is not None:
            arguments["targets"] = [_target(str(host), task_vars["hostvars"]) for host in hosts]
        return arguments


def _target(host: str, hostvars: Any) -> dict[str, Any]:
    """One host's checks; a host whose checks cannot be worked out must not keep the others from being measured."""
    try:
        # Templates are lazy: going through all of it here is what makes a broken one fail here.
        return {"name": host, "checks": _plain(hostvars[host].get("health_checks", []))}
    except AnsibleError as error:
        return {"name": host, "checks": [], "error": plainly(" ".join(str(error).split()))}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value
