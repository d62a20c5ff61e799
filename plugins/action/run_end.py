# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Ends a run on the controller; the documentation is in plugins/modules/run_end.py."""

from __future__ import annotations

from typing import Any, ClassVar

from ansible.utils.display import Display
from ansible_collections.sre.runbooks.plugins.module_utils.run.outcome import REFUSED, decide
from ansible_collections.sre.runbooks.plugins.module_utils.run.records import read_records, record
from ansible_collections.sre.runbooks.plugins.module_utils.run.report import pages, unhealthy
from ansible_collections.sre.runbooks.plugins.module_utils.run.report_page import title
from ansible_collections.sre.runbooks.plugins.plugin_utils.report import write_report
from ansible_collections.sre.runbooks.plugins.plugin_utils.run_action import RunAction


class ActionModule(RunAction):
    """Decides the outcome, writes the report, prints the last line, and fails unless it was a success."""

    ARGUMENTS: ClassVar[dict[str, Any]] = {}

    def act(self, _arguments: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """End the run for this host."""
        host = str(variables["inventory_hostname"])
        folder = self.folder(variables)
        records = read_records(folder)
        own = [entry for entry in records if entry.get("host") == host]
        outcome = decide(own, resume=self.again(variables))
        record(folder, host, "end", outcome.as_dict())
        report = write_report(folder)
        begun = next((entry["data"] for entry in own if entry["kind"] == "begin"), {})
        how = f"{outcome.outcome.upper()}{' (check mode)' if self._task.check_mode else ''}"
        lines = [f"{title(host, begun.get('hosts', []))}: {how}. {outcome.message}".rstrip()]
        ails = unhealthy(own)
        if ails:
            lines.append(f"Health:   {ails}; the report names each")
        if outcome.resume and not outcome.success:
            # What was refused is refused again, until what the message says is mended.
            lines.append(f"{'Then:    ' if outcome.outcome == REFUSED else 'To go on:'} {outcome.resume}")
        if outcome.undo:
            lines.append(f"To undo:  {outcome.undo}")
        lines.append(f"Report:   {report}")
        lines += [f"{page['title'] + ':':<9} {folder / page['file']}" for page in pages(records)]
        display = Display()
        for line in lines:
            display.display(f"  {line}")
        result = {"changed": False, "report": str(report), "unhealthy": ails, **outcome.as_dict()}
        if not outcome.success:
            result.update(failed=True, msg=f"{outcome.outcome}: {outcome.message} Report: {report}")
        return result
