# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The base of the action plugins that show a module's progress while it works."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.sre.runbooks.plugins.plugin_utils.job import Job
from ansible_collections.sre.runbooks.plugins.plugin_utils.job_keeper import PREFIX, messages
from ansible_collections.sre.runbooks.plugins.plugin_utils.old_python import explained

FOLLOW_S = 0.2
LOCAL_CONNECTIONS = ("local", "ansible.builtin.local", "ansible.legacy.local")


class ProgressAction(ActionBase):
    """Runs the module of the same name and prints the lines it appends to its `progress_file`, as they come.

    On this machine the file is followed beside the module. On another one the module works in the background, and the
    file is followed over connections that come and go; in check mode too, which may count the rows of a large table.
    """

    _supports_check_mode = True
    _supports_async = False
    _job: Job | None = None

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Execute the module and return its result unchanged.

        Raises:
            AnsibleActionFail: the task has a number of seconds as its `async`, or the background does not work.
        """
        task_vars = task_vars or {}
        if self._task.async_val:
            raise AnsibleActionFail(
                f"The task has async: {self._task.async_val}, and {self._task.action} takes none."
                " Take async and poll away: it shows its own progress, also of a module on another machine."
            )
        result = super().run(tmp, task_vars)
        arguments = self._arguments(task_vars)
        if self._connection.transport in LOCAL_CONNECTIONS:
            work = _followed(self._say(task_vars))
        else:
            work = self._in_background(task_vars)
        with work as path:
            arguments["progress_file"] = path
            found = self._execute_module(module_args=arguments, task_vars=task_vars)
        result.update(explained(found, self._host(task_vars)))
        return result

    def _arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002 - a subclass needs them
        """What the module is called with; a subclass may work something out first. The task's own stay as they are."""
        return dict(self._task.args)

    def _host(self, task_vars: dict[str, Any]) -> str:
        """Where the module works."""
        return str(self._task.delegate_to or task_vars.get("inventory_hostname", ""))

    def _say(self, task_vars: dict[str, Any]) -> Callable[[str], None]:
        """Shows a line under the name of the host that the play is about, as long as somebody is there to read it.

        What runs once for all hosts is about none of them.
        """
        display, controller = Display(), os.getppid()
        whose = "" if self._task.run_once else f"{task_vars.get('inventory_hostname', '')}: "

        def say(message: str) -> None:
            if os.getppid() == controller:
                display.display(f"  {whose}{message}")

        return say

    @contextlib.contextmanager
    def _in_background(self, task_vars: dict[str, Any]) -> Iterator[str]:
        """Let the module called inside be a job on its host; gives its progress file."""
        place = self._remote_expand_user(self.get_shell_option("async_dir", default="~/.ansible_async"))
        folder = self._connection._shell.join_path(place, f"{PREFIX}{secrets.token_hex(8)}")
        self._job = Job(super()._low_level_execute_command, folder, self._host(task_vars), self._say(task_vars))
        try:
            yield f"{folder}/progress.jsonl"
        finally:
            self._job = None

    def _low_level_execute_command(self, cmd: str, sudoable: bool = True, **options: Any) -> dict[str, Any]:
        """Run a command line on the host; the module's own, the only one as its user and with `in_data`, as a job.

        Ansible's own way, wrap_async, would let the module with its secret arguments lie on the host's disk.
        """
        if self._job and sudoable and "in_data" in options:
            python = str(self._used_interpreter).removeprefix("#!").strip()
            return self._job.run(python, cmd, options["in_data"] or b"")
        return super()._low_level_execute_command(cmd, sudoable=sudoable, **options)


@contextlib.contextmanager
def _followed(say: Callable[[str], None]) -> Iterator[str]:
    """A progress file on this machine, each line of which is shown."""
    with tempfile.TemporaryDirectory(prefix=PREFIX) as folder:
        path = Path(folder) / "progress.jsonl"
        done = threading.Event()
        follower = threading.Thread(target=_follow, args=(path, done, say), daemon=True)
        follower.start()
        try:
            yield str(path)
        finally:
            done.set()
            follower.join()


def _follow(path: Path, done: threading.Event, say: Callable[[str], None]) -> None:
    """Say each whole line of `path` once, until `done` is set and the file is read to its end."""
    shown = 0
    while True:
        last = done.is_set()
        for message in messages(path, shown):
            say(message)
            shown += 1
        if last:
            return
        done.wait(FOLLOW_S)
