# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Stores in templates; the documentation of each filter is in the file of its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.sre.runbooks.plugins.module_utils.backup.arguments import STORE_OPTIONS


def store_arguments(variables: Any, system: str = "", target: str = "") -> dict[str, Any]:
    """The module options that say where a target's backups are; without system and target only the store's own."""
    if not isinstance(variables, Mapping):
        raise AnsibleFilterError(f"store_arguments wants hostvars[backup_store], not {type(variables).__name__}.")
    store = {name: variables[name] for name in STORE_OPTIONS if name in variables}
    named = {"system": system, "target": target}
    return {**{name: value for name, value in named.items() if value}, **store}


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """By name."""
        return {"store_arguments": store_arguments}
