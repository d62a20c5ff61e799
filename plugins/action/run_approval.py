# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Asks for an approval on the controller; the documentation is in plugins/modules/run_approval.py."""

from __future__ import annotations

import textwrap
import time
from typing import Any, ClassVar

from ansible.errors import AnsiblePromptInterrupt, AnsiblePromptNoninteractive
from ansible.utils.display import Display
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.outcome import REFUSED
from ansible_collections.sre.runbooks.plugins.module_utils.run.records import record
from ansible_collections.sre.runbooks.plugins.plugin_utils.run_action import RunAction

WIDTH = 76


def box(question: str, facts: dict[str, Any]) -> str:
    """The question and what it is about, in a frame."""
    widest = max((len(str(name)) for name in facts), default=0)
    lines = textwrap.wrap(question, WIDTH)
    if facts:
        lines.append("")
    for name, value in facts.items():
        head = f"{name!s:<{widest}}  "
        lines += textwrap.wrap(head + str(value), WIDTH, subsequent_indent=" " * len(head)) or [head]
    framed = [f"│ {line:<{WIDTH}} │" for line in lines]
    return "\n".join(["", f"┌{'─' * (WIDTH + 2)}┐", *framed, f"└{'─' * (WIDTH + 2)}┘"])


class ActionModule(RunAction):
    """Yes is the target's name, typed or in the variable `approve`; everything else is no."""

    ARGUMENTS: ClassVar[dict[str, Any]] = {
        "question": {"type": "str", "required": True},
        "facts": {"type": "dict", "default": {}},
        "timeout_seconds": {"type": "int", "default": 300},
    }

    def act(self, arguments: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Show, ask, record the answer; a no is an error."""
        host = str(variables["inventory_hostname"])
        accepted = {host, str(self.value(variables, "target") or host)}
        Display().display(box(arguments["question"], arguments["facts"]))
        if self._task.check_mode:
            return {"changed": False, "approved": False, "by": "not asked in check mode"}
        given = str(self.value(variables, "approve") or "").strip()
        try:
            answer, by = (given, "variable") if given else (self._ask(host, arguments["timeout_seconds"]), "terminal")
            if answer not in accepted:
                said = f"the answer was {answer}" if answer else "there was no answer"
                raise RunbookError(f"It was not approved: {said} and not {host}.")
        except RunbookError as error:
            # Who sits at a terminal is asked again; only where nobody can be asked the answer is a variable.
            asks = not given and error.context.get("terminal", True)
            resume = self.again(variables, **({} if asks else {"approve": host}))
            message = f"{error.message} Nothing more was done."
            record(self.folder(variables), host, "outcome", {"outcome": REFUSED, "message": message, "resume": resume})
            way = "To be asked again" if asks else "To approve it without a question"
            raise RunbookError(f"refused: {message}", f"{way}: {resume}") from error
        text = f"Approved by {by}: {arguments['question']}"
        record(self.folder(variables), host, "message", {"text": text, "facts": arguments["facts"]})
        return {"changed": False, "approved": True, "by": by}

    def _ask(self, host: str, seconds: int) -> str:
        asked = time.monotonic()
        try:
            answer = Display().prompt_until(
                f"Type {host} to go on (no answer within {seconds} s is no): ", seconds=seconds
            )
        except AnsiblePromptNoninteractive as error:
            raise RunbookError("It was not approved: there is no terminal to ask on.", terminal=False) from error
        except AnsiblePromptInterrupt as error:
            raise RunbookError("It was not approved: the question was interrupted.") from error
        # The prompt returns at its time-out with whatever had been typed so far.
        return "" if time.monotonic() - asked >= seconds else answer.decode("utf-8", "replace").strip()
