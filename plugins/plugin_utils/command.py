# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The command that an operator would type: built from what is public, never copied from the process's own."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any


def rebuild(options: Mapping[str, Any], extra: Mapping[str, str]) -> str:
    """The ansible-playbook command for the playbook and inventories in use, with these variables.

    Args:
        options: Ansible's command line options (`context.CLIARGS`).
        extra: variables to give with -e. What the operator gave with -e is not repeated: it may hold secrets.
    """
    playbook = next(iter(options.get("args") or ()), "<playbook>")
    words = ["ansible-playbook", str(playbook)]
    for inventory in options.get("inventory") or ():
        words += ["-i", str(inventory)]
    text = shlex.join(words)
    for name, value in extra.items():
        # A place to fill in, as in <count>, stays readable without quotes.
        text += f" -e {name}={value}" if value.startswith("<") else f" -e {shlex.quote(f'{name}={value}')}"
    return text
