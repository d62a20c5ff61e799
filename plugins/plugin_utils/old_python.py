# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A host whose Python is too old ends a module in its first import, before the module can say anything itself."""

from __future__ import annotations

import re
from typing import Any

LOWEST = "3.11"
# Came with LOWEST, and each module needs it.
MISSING = re.compile(r"cannot import name 'UTC' from 'datetime' \((\S+?)\)")


def explained(result: dict[str, Any], host: str) -> dict[str, Any]:
    """A module's result; a failed import of MISSING becomes a sentence with the next step."""
    found = MISSING.search(f"{result.get('msg')} {result.get('exception')}") if result.get("failed") else None
    if not found:
        return result
    return {
        "failed": True,
        "msg": f"The Python of {host} is older than {LOWEST}, which this collection's modules need ({found[1]})."
        " Install a newer one beside it, and name it in the inventory as the host's ansible_python_interpreter.",
    }
