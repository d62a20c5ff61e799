# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The one error that crosses the border between the logic and the modules."""

from __future__ import annotations

from typing import Any


class RunbookError(Exception):
    """Something an operator must know: what happened, with the values, and what to do next.

    Args:
        message: one sentence, with the values in it.
        hint: one sentence with the next step; empty when there is none.
        context: machine-readable values, returned by the module beside the message. Never a secret.
    """

    def __init__(self, message: str, hint: str = "", **context: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.context = context

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


def reason(error: Exception) -> str:
    """Why something failed, as a part of another sentence: without its full stop, and without a next step."""
    return (error.message if isinstance(error, RunbookError) else str(error)).rstrip(".")
