# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The file of a secret that is not there, in an operator's words."""

from __future__ import annotations

import re
from pathlib import PurePath

# How the lookup `file`, by which inventories read each secret, says it, inside of what templating adds.
MISSING = re.compile(r"Unable to access the file '([^']+)': File not found")


def plainly(message: str) -> str:
    """What a failed template said; where a secret's file is missing, one sentence about that and the next step."""
    found = MISSING.search(message)
    if not found:
        return message
    file = PurePath(found[1])
    return (
        f"There is no file {file}. Put the password of the role {file.name} of {file.parent.name} into it, "
        "so that only you can read it."
    )
