# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The end that a killed run could not write itself."""

from __future__ import annotations

from pathlib import Path

from ansible_collections.sre.runbooks.plugins.module_utils.run.outcome import UNKNOWN, Outcome
from ansible_collections.sre.runbooks.plugins.module_utils.run.records import read_records, record
from ansible_collections.sre.runbooks.plugins.plugin_utils.report import write_report


def end_dead_run(folder: Path, host: str, why: str) -> Path | None:
    """Write the outcome `unknown` for a host of a run that has none, and make the run's report.

    Args:
        folder: the run's folder.
        host: whose lock was taken over.
        why: who took over, and why it could.

    Returns:
        The page's place; None when the folder is not reachable from here, or the run had ended for this host.
    """
    try:
        own = [entry for entry in read_records(folder) if entry.get("host") == host]
        begun = next((entry["data"] for entry in own if entry["kind"] == "begin"), None)
        if begun is None or any(entry["kind"] == "end" for entry in own):
            return None
        message = f"Nobody can say how far it came, and it wrote no end itself. The run {why}."
        record(folder, host, "end", Outcome(UNKNOWN, message, begun.get("command", "")).as_dict())
        return write_report(folder)
    except PermissionError:
        # Another user's own folder, where the locks are shared and the runs are not.
        return None
