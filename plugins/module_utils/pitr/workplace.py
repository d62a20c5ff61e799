# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is recovered and how, and the things that it is done with."""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.sre.runbooks.plugins.module_utils.pitr.cluster import Cluster, find_programs
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.position import Places
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.repository import Repository
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import Login
from ansible_collections.sre.runbooks.plugins.module_utils.run.progress import Progress


@dataclass(frozen=True)
class Request:
    """What is recovered, and how; see the module's documentation for each."""

    login: Login
    data_directory: Path
    config: Path
    stanza: str
    run: str = ""
    target_kind: str = "time"
    target: str | None = None
    exclusive: bool = False
    backup: str | None = None
    start: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()
    port: int = 5433
    bin_directory: str | None = None
    database: str = "postgres"
    application_check: str | None = None
    processes: int = 2
    losses_agreed: bool = False
    drill: bool = False
    retained_s: float = 72 * 3600
    archive_timeout_s: float = 120.0
    replay_timeout_s: float = 86400.0
    stop_timeout_s: float = 120.0
    start_timeout_s: float = 300.0
    timeout_s: float = 86400.0
    lock_wait_s: float = 600.0


class Workplace:
    """The folders, the servers in them and the repository.

    Args:
        request: what and how.
        progress: where to report.
    """

    def __init__(self, request: Request, progress: Progress) -> None:
        self.request = request
        self.progress = progress
        self.places = Places(request.data_directory)
        # Between two renames there is no folder of the live name.
        kept = sorted(self.places.data.parent.glob(f"{self.places.data.name}.retired-*"), reverse=True)
        candidates = (self.places.data, self.places.restoring, *kept)
        there = next((one for one in candidates if one.exists()), self.places.data)
        programs, self.major = find_programs(there, request.bin_directory)
        status = there.stat()
        self.owner = (status.st_uid, status.st_gid) if os.geteuid() == 0 else None
        self.repository = Repository(request.config, request.stanza, self.owner, request.processes, request.timeout_s)
        self._programs = programs
        self.live, self.beside = self.at(self.places.data), self.at(self.places.restoring)

    def at(self, folder: Path) -> Cluster:
        """The cluster in one of the folders."""
        return Cluster(folder, self._programs, self.owner, self.progress)

    @contextlib.contextmanager
    def as_owner(self) -> Iterator[None]:
        """Work in the data directories with the rights of whom they belong to, who could have put links there."""
        if not self.owner:
            yield
            return
        user, group = self.owner
        groups, own = [group], (os.getgroups(), os.getegid(), os.geteuid())
        with contextlib.suppress(KeyError):
            groups = os.getgrouplist(pwd.getpwuid(user).pw_name, group)
        os.setgroups(groups)
        os.setegid(group)
        os.seteuid(user)
        try:
            yield
        finally:
            os.seteuid(own[2])
            os.setegid(own[1])
            os.setgroups(own[0])
