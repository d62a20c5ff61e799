# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the actions share that look at the calendar."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.windows import permission
from ansible_collections.sre.runbooks.plugins.plugin_utils.run_action import RunAction

PLAYBOOKS = Path(__file__).resolve().parents[2] / "playbooks"


class WindowAction(RunAction):
    """An action that may refuse because of the time."""

    def refuse_outside_windows(self, runbook: str, variables: dict[str, Any]) -> str:
        """Raise RunbookError outside the windows and in a freeze; returns what was overridden, empty for nothing."""
        windows, freezes = (self.value(variables, name) or [] for name in ("run_windows", "run_freezes"))
        known = {runbook.rsplit(".", 1)[-1], *(path.stem for path in PLAYBOOKS.glob("*.yml"))}
        permitted = permission(runbook, windows, freezes, datetime.now(UTC), known)
        if permitted.allowed:
            return ""
        override = str(self.value(variables, "run_window_override") or "").strip()
        if override:
            return f"{permitted.reason} It goes on all the same: {override}"
        resume = self.again(variables, run_window_override="<why it cannot wait>")
        raise RunbookError(permitted.reason, f"If it cannot wait: {resume}", resume=resume)
