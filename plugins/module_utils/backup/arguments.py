# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The argument spec behind the store documentation fragment, and what it stands for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.sre.runbooks.plugins.module_utils.backup.store import TargetFolder


def store_spec() -> dict[str, Any]:
    """Which backups, in which store."""
    return {
        "store_path": {"type": "path", "required": True},
        "system": {"type": "str", "required": True},
        "target": {"type": "str", "required": True},
    }


def place_of(arguments: Mapping[str, Any]) -> TargetFolder:
    """The folder of one target's backups."""
    return TargetFolder(Path(arguments["store_path"]), arguments["system"], arguments["target"])
