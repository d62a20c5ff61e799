# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Task timings into the run's folder."""

from __future__ import annotations

DOCUMENTATION = r"""
name: journal
type: notification
short_description: Write each task's time into the run's folder
version_added: 0.1.0
author:
  - sre.runbooks contributors (@sre-runbooks)
description:
  - Appends one line per finished task to C(tasks.jsonl) in the folder of the run that the play has begun with
    M(sre.runbooks.run_begin), and says the reports' places once more after the recap.
  - After Ctrl-C, where Ansible ends without a recap, it says what an interrupted run is and how to go on.
  - It writes names and times, and neither arguments nor results, so that no secret can be among them.
requirements:
  - enabled in the configuration with C(callbacks_enabled = sre.runbooks.journal)
"""

import atexit
import os
import time
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase
from ansible_collections.sre.runbooks.plugins.module_utils.run.moments import now
from ansible_collections.sre.runbooks.plugins.module_utils.run.records import append_line

TASKS_FILE = "tasks.jsonl"
OWN = "sre.runbooks."


class CallbackModule(CallbackBase):
    """Listens to tasks; knows the run's folder from the task that begins the run."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "sre.runbooks.journal"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._begun: dict[tuple[str, str], tuple[float, str]] = {}
        self._waiting: list[dict[str, Any]] = []
        self._play = ""
        self._folder: Path | None = None
        self._reports: dict[str, list[str]] = {}
        self._open = False
        # Ansible tells no callback of an interrupt. A worker is a copy of this process, and is not meant.
        atexit.register(self._say_interrupted, os.getpid())

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """A play is a run of its own, and a serial batch is the same play."""
        if play._uuid != self._play:
            self._play, self._folder, self._waiting = play._uuid, None, []

    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        """Start the clock."""
        self._begun[host.get_name(), task._uuid] = (time.monotonic(), now())

    def v2_runner_on_ok(self, result: Any) -> None:
        """A task that went well."""
        self._write(result, "changed" if result.result.get("changed") else "ok")

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """A task that failed, also where a rescue follows."""
        self._write(result, "ignored" if ignore_errors else "failed")

    def v2_runner_on_skipped(self, result: Any) -> None:
        """Forget the clock: a skipped task has no time worth a line."""
        self._begun.pop((result.host.get_name(), result.task._uuid), None)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """A host that was lost."""
        self._write(result, "unreachable")

    def v2_playbook_on_stats(self, _stats: Any) -> None:
        """The last lines of all: where the reports are."""
        self._open = False
        for report, outcomes in self._reports.items():
            words = ", ".join(f"{outcomes.count(word)} {word}" for word in dict.fromkeys(outcomes))
            self._display.display(f"{words if len(outcomes) > 1 else outcomes[0]}. Report: {report}")

    def _say_interrupted(self, process: int) -> None:
        if self._open and self._folder and os.getpid() == process:
            self._display.display(
                "Interrupted: the run did not end, and what it had stopped stays stopped. The same command goes on from"
                f" there. What it did: {self._folder}/run.jsonl"
            )

    def _write(self, result: Any, status: str) -> None:
        host, task = result.host.get_name(), result.task
        started, at = self._begun.pop((host, task._uuid), (None, ""))
        if started is None:
            return
        action = str(task.resolved_action or task.action)
        self._waiting.append(
            {
                "at": at, "host": host, "task": task.get_name(), "role": task._role.get_name() if task._role else "",
                "phase": Path(task.get_path().rpartition(":")[0]).stem, "action": action, "status": status,
                "duration_s": round(time.monotonic() - started, 3),
            }
        )
        if action == f"{OWN}run_begin" and result.result.get("folder"):
            self._folder, self._open = Path(result.result["folder"]), True
        if action == f"{OWN}run_end" and result.result.get("report"):
            self._open = False
            ails = result.result.get("unhealthy")
            word = f"{result.result['outcome']} (health: {ails})" if ails else result.result["outcome"]
            self._reports.setdefault(result.result["report"], []).append(word)
        if self._folder is not None:
            for line in self._waiting:
                append_line(self._folder / TASKS_FILE, line)
            self._waiting = []
