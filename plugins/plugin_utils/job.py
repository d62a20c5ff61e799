# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A module at work on another machine, followed over connections that come and go."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible_collections.sre.runbooks.plugins.module_utils.run.words import duration
from ansible_collections.sre.runbooks.plugins.plugin_utils import job_keeper

# How long the host waits for a line before it answers that there is none.
PATIENCE_S = 10.0
# A host that does not answer is asked again: so often that nobody is left without a line, and for this long.
RETRY_S = 4.0
TOLERATED_S = 300.0

Execute = Callable[..., dict[str, Any]]


class Interrupted(BaseException):
    """Somebody wants the run to end."""


class Job:
    """One call of a module in the background of its host.

    Args:
        execute: runs a command line there, with `in_data` as its stdin, and returns its rc, stdout and stderr.
        folder: the job's own, absolute, on the host; it is not there yet. Its `progress.jsonl` is followed.
        host: what the machine is called in messages.
        say: shows a line to the operator.
    """

    def __init__(self, execute: Execute, folder: str, host: str, say: Callable[[str], None]) -> None:
        self._execute, self._folder, self._host, self._say = execute, folder, host, say
        self._python = ""

    def run(self, python: str, command: str, payload: bytes) -> dict[str, Any]:
        """Run a command line to its end, with `payload` as its stdin; an interrupted run interrupts it as well.

        Args:
            python: the command line of the host's Python.
            command: what a shell runs there.
            payload: its stdin, which is never written down.

        Raises:
            AnsibleActionFail: it could not be started, or has ended without a result.
            AnsibleConnectionFailure: the host cannot be reached any more; then it works on there.
        """
        self._python = python
        with _interruptible(self._stop):
            self._start(command, payload)
            result = self._follow()
        self._remove()
        return {**result, "stdout_lines": result["stdout"].splitlines(), "stderr_lines": result["stderr"].splitlines()}

    def _start(self, command: str, payload: bytes) -> None:
        keeper = Path(job_keeper.__file__).read_text(encoding="utf-8")
        words = [keeper, "start", self._folder, str(len(payload)), command]
        done = self._execute(f"{self._python} -c {shlex.join(words)}", in_data=payload or None)
        if done["rc"]:
            raise AnsibleActionFail(
                f"The folder of a background job, {self._folder}, could not be made on {self._host}: {_reason(done)}."
                " Where the user there has no home of its own, name a folder with ansible_async_dir."
            )

    def _follow(self) -> dict[str, Any]:
        shown, answered = 0, time.monotonic()
        while True:
            try:
                answer = self._ask("look", shown, PATIENCE_S)
            except (AnsibleConnectionFailure, AnsibleActionFail) as error:
                silent, reason = time.monotonic() - answered, " ".join(str(error).split())
                if silent > TOLERATED_S:
                    raise type(error)(
                        f"{self._host} has not answered for {duration(silent)}: {reason}. What was begun there works"
                        " on: start the same command again as soon as the host answers."
                    ) from error
                self._say(f"{self._host} does not answer, what was begun there works on; it is asked again: {reason}")
                time.sleep(RETRY_S)
                continue
            answered = time.monotonic()
            for message in answer["messages"]:
                self._say(message)
            shown += len(answer["messages"])
            if answer["result"]:
                return dict(answer["result"])
            if not answer["alive"]:
                raise AnsibleActionFail(
                    f"What was begun on {self._host} has ended without a result: it was killed there."
                    " Start the same command again."
                )

    def _stop(self) -> None:
        # Ansible shows nothing any more by now. Where the host does not answer either, the module works on, and its own
        # lock says so to whoever starts the same command again.
        with contextlib.suppress(AnsibleConnectionFailure, AnsibleActionFail):
            self._ask("stop")

    def _remove(self) -> None:
        try:
            self._ask("remove")
        except (AnsibleConnectionFailure, AnsibleActionFail) as error:
            self._say(f"the folder {self._folder} is left on {self._host}; a later job there removes it: {error}")

    def _ask(self, action: str, *words: Any) -> dict[str, Any]:
        line = shlex.join([f"{self._folder}/keeper.py", action, self._folder, *map(str, words)])
        done = self._execute(f"{self._python} {line}")
        if done["rc"]:
            raise AnsibleActionFail(_reason(done))
        # Login shells may say something first.
        said = [text for text in done["stdout"].splitlines() if text.startswith("{")]
        if not said:
            raise AnsibleActionFail(f"{done['stdout']!r} is no answer")
        return dict(json.loads(said[-1]))


def _reason(done: dict[str, Any]) -> str:
    """The last line of what a command said; over a terminal its errors come by stdout, and ssh adds one of its own."""
    lines = [line for line in f"{done['stdout']}\n{done['stderr']}".splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith("Shared connection to")]
    return said[-1].strip().rstrip(".") if said else f"exit code {done['rc']}"


@contextlib.contextmanager
def _interruptible(stop: Callable[[], None]) -> Iterator[None]:
    """Let SIGINT and SIGTERM call `stop` inside, undisturbed by further ones, before they do what they did before."""

    def interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - as signal wants it
        for one in before:
            signal.signal(one, signal.SIG_IGN)
        raise Interrupted(number)

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, interrupt)
    try:
        yield
    except Interrupted as interrupted:
        stop()
        restore()
        os.kill(os.getpid(), interrupted.args[0])
        raise
    finally:
        restore()
