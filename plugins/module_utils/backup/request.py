# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What every way to restore a backup is asked for, and the argument spec behind the restore documentation fragment."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from ansible_collections.sre.runbooks.plugins.module_utils.backup.arguments import place_of, store_spec
from ansible_collections.sre.runbooks.plugins.module_utils.backup.catalog import parse_before
from ansible_collections.sre.runbooks.plugins.module_utils.backup.store import TargetStore
from ansible_collections.sre.runbooks.plugins.module_utils.backup.swap import DROP_TIMEOUT_S
from ansible_collections.sre.runbooks.plugins.module_utils.backup.verdict import RESTORABLE, RUNGS
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.arguments import login_spec
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import Login


@dataclass(frozen=True)
class RestoreRequest:
    """Which backup is restored where, and how long each part may take; see the documentation fragment."""

    login: Login
    database: str
    run: str
    place: TargetStore
    backup_id: str | None = None
    before: datetime | None = None
    least_rung: str | None = RESTORABLE
    application_check: str | None = None
    bin_directory: str | None = None
    jobs: int = 2
    free_bytes: int | None = None
    retained_s: float = 72 * 3600
    check_timeout_s: float = 60.0
    drop_timeout_s: float = DROP_TIMEOUT_S
    timeout_s: float = 86400.0
    lock_wait_s: float = 600.0

    @classmethod
    def of(cls, arguments: dict[str, Any], **more: Any) -> Self:
        """A request from a module's arguments.

        Args:
            arguments: of `restore_spec`.
            more: what this way to restore is asked for besides.

        Raises:
            RunbookError: they name no store, or no time.
        """
        rung = arguments["least_rung"]
        return cls(
            login=Login.from_arguments(arguments["login"]), database=arguments["database"], run=arguments["run"],
            place=place_of(arguments), backup_id=arguments["backup_id"] or None,
            before=parse_before(arguments["before"]) if arguments["before"] else None,
            least_rung=None if rung == "none" else rung, application_check=arguments["application_check"],
            bin_directory=arguments["postgresql_bin_directory"], jobs=arguments["jobs"],
            free_bytes=arguments["free_bytes"], retained_s=arguments["retained_seconds"],
            check_timeout_s=arguments["check_timeout_seconds"], drop_timeout_s=arguments["drop_timeout_seconds"],
            timeout_s=arguments["timeout_seconds"], lock_wait_s=arguments["lock_wait_seconds"], **more,
        )


def restore_spec() -> dict[str, Any]:
    """The options of every module that restores."""
    return {
        **login_spec(),
        **store_spec(),
        "database": {"type": "str", "required": True},
        "run": {"type": "str", "required": True},
        "backup_id": {"type": "str"},
        "before": {"type": "str"},
        "least_rung": {"type": "str", "choices": ["none", *RUNGS], "default": RESTORABLE},
        "application_check": {"type": "str"},
        "jobs": {"type": "int", "default": 2},
        "free_bytes": {"type": "int"},
        "retained_seconds": {"type": "int", "default": 259200},
        "check_timeout_seconds": {"type": "int", "default": 60},
        "drop_timeout_seconds": {"type": "int", "default": 300},
        "timeout_seconds": {"type": "int", "default": 86400},
        "lock_wait_seconds": {"type": "int", "default": 600},
        "postgresql_bin_directory": {"type": "path"},
        "progress_file": {"type": "path"},
    }
