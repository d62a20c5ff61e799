# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The command that an operator would type: built from what is public, never copied from the process's own."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from typing import Any

from ansible import constants as C  # noqa: N812


def rebuild(options: Mapping[str, Any], extra: Mapping[str, str]) -> str:
    """The ansible-playbook command for the playbook and inventories in use, with these variables.

    Args:
        options: Ansible's command line options (`context.CLIARGS`).
        extra: variables to give with -e. What the operator gave with -e is not repeated: it may hold secrets.
    """
    playbook = next(iter(options.get("args") or ()), "<playbook>")
    words = ["ansible-playbook", str(playbook)]
    for inventory in options.get("inventory") or ():
        if inventory not in C.DEFAULT_HOST_LIST:
            words += ["-i", _short(str(inventory))]
    return with_variables(shlex.join(words), extra)


def _short(path: str) -> str:
    """A path below the current folder, relative to it."""
    here = os.path.join(os.getcwd(), "")
    return path.removeprefix(here)


def with_variables(command: str, extra: Mapping[str, str]) -> str:
    """A command with further variables; a place to fill in, as in <count>, is quoted like a value."""
    for name, value in extra.items():
        quoted = shlex.quote(f"{name}={value}")
        plain = value.startswith("<") and " " not in value
        command += f" -e {name}={value}" if plain else f" -e {quoted}"
    return command
