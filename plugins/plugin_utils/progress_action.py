# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The base of the action plugins that show a module's progress while it works."""

from __future__ import annotations

import json
import tempfile
import threading
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

FOLLOW_S = 0.2
LOCAL_CONNECTIONS = ("local", "ansible.builtin.local", "ansible.legacy.local")


class ProgressAction(ActionBase):
    """Runs the module of the same name and prints the lines it appends to its `progress_file`, as they come.

    Where the module works on another machine its file cannot be followed from here: it then runs without.
    """

    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Execute the module and return its result unchanged."""
        result = super().run(tmp, task_vars)
        arguments = self._arguments(task_vars or {})
        if self._connection.transport not in LOCAL_CONNECTIONS:
            result.update(self._execute_module(module_args=arguments, task_vars=task_vars))
            return result
        with tempfile.TemporaryDirectory(prefix="sre-runbooks-") as folder:
            path = Path(folder) / "progress.jsonl"
            arguments["progress_file"] = str(path)
            done = threading.Event()
            follower = threading.Thread(
                target=_follow, args=(path, done, (task_vars or {}).get("inventory_hostname", "")), daemon=True
            )
            follower.start()
            try:
                result.update(self._execute_module(module_args=arguments, task_vars=task_vars))
            finally:
                done.set()
                follower.join()
        return result

    def _arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002 - a subclass needs them
        """What the module is called with; a subclass may work something out first. The task's own stay as they are."""
        return dict(self._task.args)


def _follow(path: Path, done: threading.Event, host: str) -> None:
    """Print each whole line of `path` once, until `done` is set and the file is read to its end."""
    display, shown = Display(), 0
    while True:
        last = done.is_set()
        if path.exists():
            lines = path.read_text(encoding="utf-8").split("\n")[:-1]
            for line in lines[shown:]:
                display.display(f"  {host}: {json.loads(line)['message']}")
            shown = len(lines)
        if last:
            return
        done.wait(FOLLOW_S)
