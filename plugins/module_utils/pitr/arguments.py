# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The options of the modules that recover clusters, and the request that they make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible_collections.sre.runbooks.plugins.module_utils.pitr.workplace import Request
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.arguments import login_spec
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import Login


def cluster_spec() -> dict[str, Any]:
    """What both modules are told of a cluster."""
    return {
        **login_spec(),
        "data_directory": {"type": "path", "required": True},
        "config": {"type": "path", "required": True},
        "stanza": {"type": "str", "required": True},
        "postgresql_bin_directory": {"type": "path"},
    }


def request_of(arguments: dict[str, Any], **more: Any) -> Request:
    """A request from a module's arguments."""
    return Request(
        login=Login.from_arguments(arguments["login"]), data_directory=Path(arguments["data_directory"]),
        config=Path(arguments["config"]), stanza=arguments["stanza"],
        bin_directory=arguments["postgresql_bin_directory"], **more,
    )
