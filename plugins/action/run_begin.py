# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Begins a run on the controller; the documentation is in plugins/modules/run_begin.py."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import Any, ClassVar

from ansible import context
from ansible.release import __version__ as ansible_version
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.folder import open_run, throwaway_place
from ansible_collections.sre.runbooks.plugins.module_utils.run.lock import identify
from ansible_collections.sre.runbooks.plugins.module_utils.run.outcome import REFUSED
from ansible_collections.sre.runbooks.plugins.module_utils.run.records import read_records, record
from ansible_collections.sre.runbooks.plugins.plugin_utils.command import mistaken
from ansible_collections.sre.runbooks.plugins.plugin_utils.window_action import WindowAction

ROLES = Path(__file__).resolve().parents[2] / "roles"
# A playbook's own words stand in its variables: "{{ backup | default('') }}".
WORD = re.compile(r"{{ (\w+) \| default")
# Where a lock is kept in the home of this very job.
CONTROLLER = ("localhost", "127.0.0.1", "::1")


class ActionModule(WindowAction):
    """Opens the run's folder for this host, says who runs what, and refuses at the wrong time or place."""

    ARGUMENTS: ClassVar[dict[str, Any]] = {
        "runbook": {"type": "str", "required": True},
        "changes": {"type": "bool", "default": True},
        "summary": {"type": "str", "default": ""},
        "repeats": {"type": "list", "elements": "str", "default": []},
    }

    def act(self, arguments: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Open the run, record the begin, and return its id, its folder and who holds it."""
        host, check = str(variables["inventory_hostname"]), bool(self._task.check_mode)
        holder = identify(os.getppid(), str(self.value(variables, "awx_user_name") or ""))
        folder = open_run(
            self.directory(variables), self.play, arguments["runbook"],
            {
                "summary": arguments["summary"], "changes": arguments["changes"], "check": check,
                "user": holder["user"], "machine": holder["host"], "pid": holder["pid"],
                "playbook": str(next(iter(context.CLIARGS.get("args") or ()), "")),
                "system": str(self.value(variables, "system") or ""),
                "ansible_version": ansible_version,
            },
        )
        values = {name: str(self.value(variables, name)) for name in arguments["repeats"] if name in variables}
        # An empty one is as good as none.
        again = {name: value for name, value in values.items() if value}
        hosts = [str(name) for name in variables.get("ansible_play_hosts", [])] if self._task.run_once else [host]
        record(folder, host, "begin", {"command": self._begun(variables, host, again), "hosts": hosts})
        self._understand(variables, folder)
        # Check mode may look at any time and from anywhere: it is told what would be refused.
        acting = arguments["changes"] and not check
        for refuse in (self._place, self._time) if arguments["changes"] or check else (self._place,):
            self._judge(refuse, arguments["runbook"], variables, folder, acting)
        return {"changed": False, "run": folder.name, "folder": str(folder), "holder": {"run": folder.name, **holder}}

    def _begun(self, variables: dict[str, Any], host: str, again: dict[str, str]) -> str:
        """The command for this host; that of a sweep, which runs once for all of them, is the one that was given."""
        if not self._task.run_once:
            return self.command(target=host, **again)
        given = {"target": str(self.value(variables, "target"))} if variables.get("target") else {}
        limit = variables.get("ansible_limit")
        return self.command(**given, **again) + (f" --limit {shlex.quote(str(limit))}" if limit else "")

    def _understand(self, variables: dict[str, Any], folder: Path) -> None:
        """Refuse a variable that was meant for one of the playbook's own: nobody would read it."""
        values = (self._task.get_play().vars or {}).values()
        words = [word for value in values if isinstance(value, str) for word in WORD.findall(value)]
        for name, meant in mistaken(context.CLIARGS, words, [path.name for path in ROLES.iterdir()]).items():
            resume = self.again(variables, **{meant: "<value>"})
            message = f"This playbook has no variable {name}; did you mean {meant}?"
            data = {"outcome": REFUSED, "message": message, "resume": resume}
            record(folder, str(variables["inventory_hostname"]), "outcome", data)
            raise RunbookError(
                f"refused: {message}", f"Run: {resume}", folder=str(folder), resume=resume
            )

    def _judge(self, rule: Any, runbook: str, variables: dict[str, Any], folder: Path, acting: bool) -> None:
        host = str(variables["inventory_hostname"])
        try:
            rule(runbook, variables, folder)
        except RunbookError as error:
            error.context["folder"] = str(folder)
            if acting:
                data = {"outcome": REFUSED, "message": error.message, "resume": error.context.get("resume", "")}
                record(folder, host, "outcome", data)
                raise
            record(folder, host, "message", {"text": error.message})

    def _place(self, _runbook: str, variables: dict[str, Any], folder: Path) -> None:
        reason = throwaway_place(os.environ)
        if not reason:
            return
        missing = [] if self.value(variables, "run_directory") else ["run_directory"]
        elsewhere = str(self.value(variables, "run_lock_host") or "localhost") not in CONTROLLER
        run = next(entry["data"] for entry in read_records(folder) if entry.get("kind") == "run")
        if run.get("changes") and not elsewhere and not self.value(variables, "run_lock_directory"):
            missing.append("run_lock_directory")
        if missing:
            what = "records and its target's lock" if len(missing) > 1 else "records"
            what = "target's lock" if missing == ["run_lock_directory"] else what
            resume = self.again(variables, **dict.fromkeys(missing, "<folder>"))
            raise RunbookError(
                f"The run's {what} may be gone after this job: {reason}.",
                f"Give a folder that lasts: {resume}", resume=resume,
            )

    def _time(self, runbook: str, variables: dict[str, Any], folder: Path) -> None:
        overridden = self.refuse_outside_windows(runbook, variables)
        if overridden:
            record(folder, str(variables["inventory_hostname"]), "message", {"text": overridden})
