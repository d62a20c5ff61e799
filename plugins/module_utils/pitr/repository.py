# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""pgBackRest as a program: argument lists, its own configuration, time-outs. Its exit codes are not believed."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.sre.runbooks.plugins.module_utils.pitr.segments import read_history
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.target import Target
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.window import (
    REPOSITORY,
    Archive,
    Base,
    history_timeline,
    read_info,
    read_listing,
)
from ansible_collections.sre.runbooks.plugins.module_utils.run import process
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.words import size

QUIET = ("--log-level-console=off", "--log-level-stderr=error")
LOOK_S = 120.0
# pgBackRest's codes for a file that has another checksum, another form, cannot be read, is missing.
UNREADABLE = (26, 29, 39, 41, 55)
NOT_WRITTEN = 64
ARCHIVE_LINE = re.compile(r"\s*archiveId: (\S+), total WAL checked: (\d+), total valid WAL: (\d+)")
BACKUP_LINE = re.compile(r"\s*backup: (\S+), status: ([^,]+), total files checked: (\d+), total valid files: (\d+)")


@dataclass(frozen=True)
class Verified:
    """What `pgbackrest verify` said.

    Args:
        status: of the stanza; empty when it said none.
        wal: `(checked, valid)` of all archives.
        backups: of each backup `(status, files, valid files)`.
    """

    status: str
    wal: tuple[int, int]
    backups: dict[str, tuple[str, int, int]]

    def proves(self, label: str) -> bool:
        """Whether it read every file of this backup and found it valid; what it did not say is no proof."""
        status, files, valid = self.backups.get(label, ("", 0, 0))
        return status == "valid" and files == valid > 0


def read_verify(text: str) -> Verified:
    """From the output of `pgbackrest verify --output=text --verbose`, whose exit code is 0 whatever it found."""
    status, checked, valid, backups = "", 0, 0, {}
    for line in text.splitlines():
        if line.startswith("status: "):
            status = line.removeprefix("status: ").strip()
        elif match := ARCHIVE_LINE.match(line):
            checked, valid = checked + int(match[2]), valid + int(match[3])
        elif match := BACKUP_LINE.match(line):
            backups[match[1]] = (match[2].strip(), int(match[3]), int(match[4]))
    return Verified(status, (checked, valid), backups)


class Repository:
    """The backups and the archive of one cluster.

    Args:
        config: pgBackRest's configuration; it may hold keys, and is never read here.
        stanza: the cluster's name in it.
        owner: user and group that the cluster belongs to, when we are root.
        processes: how many pgBackRest copies with.
        timeout_s: for a backup, a restore, a verification.
    """

    def __init__(
        self, config: Path, stanza: str, owner: tuple[int, int] | None, processes: int, timeout_s: float
    ) -> None:
        self.config = config
        self.stanza = stanza
        self.owner = owner
        self.processes = processes
        self.timeout_s = timeout_s

    def argv(self, command: str, *options: str) -> list[str]:
        """A command of pgBackRest."""
        return ["pgbackrest", f"--config={self.config}", f"--stanza={self.stanza}", *options, command]

    @property
    def listing(self) -> str:
        """The command that shows a person the backups."""
        return shlex.join(self.argv("info"))

    def bases(self, size: int) -> list[Base]:
        """The base backups, oldest first; `size` is that of a WAL segment in bytes."""
        return read_info(self._json("info", "--output=json"), self.stanza, size)

    def archive(self, identifier: str, size: int) -> Archive:
        """What is archived below an archive's id, such as `15-1`."""
        place = f"archive/{self.stanza}/{identifier}"
        listing = self._json("repo-ls", "--recurse", "--output=json", f"--repo={REPOSITORY}", operand=place)
        segments, histories = read_listing(listing, size)
        parents = {
            history_timeline(path): read_history(
                self._run("repo-get", f"--repo={REPOSITORY}", operand=f"{place}/{path}")
            )
            for path in histories
        }
        return Archive(segments, parents)

    def archived_files(self) -> list[str]:
        """The paths of all files below the archive of the stanza, such as `15-1/00000002.history`.

        Raises:
            RunbookError: the listing is of another form.
        """
        listing = self._json(
            "repo-ls", "--recurse", "--output=json", f"--repo={REPOSITORY}", operand=f"archive/{self.stanza}"
        )
        try:
            return [name for name, about in listing.items() if about["type"] == "file"]
        except (AttributeError, KeyError, TypeError) as error:
            raise RunbookError(
                f"What pgbackrest repo-ls says is of another form than this collection knows: {error!r}.",
                "See which version of pgBackRest runs; 2.45 is tested.",
            ) from error

    def fetch(self, name: str, target: Path) -> None:
        """Bring a segment or a history file out of the archive, never asynchronously (see `fetch_command`).

        Raises:
            RunbookError: it is not there, or cannot be read.
        """
        options = (f"--repo={REPOSITORY}", "--no-archive-async", "--log-level-file=off", *QUIET)
        done = process.run(
            [*self.argv("archive-get", *options), name, str(target)], timeout_s=self.timeout_s, owner=self.owner,
            check=False,
        )
        # Exit code 1 without a word says that the archive has none.
        if not target.exists():
            raise RunbookError(
                f"pgBackRest did not bring {name} out of the archive of {self.stanza}: "
                f"{done.stderr_tail or f'it {done.ending}'}.",
                "Try it by hand, as the server's user: pgbackrest archive-get.",
            )

    def restore(
        self, into: Path, spool: Path, base: Base, target: Target, timeline: int, while_waiting: Callable[[], None], *,
        delta: bool,
    ) -> None:
        """Restore beside, with archiving off: a new timeline must not get into the archive from there.

        Args:
            into: the folder.
            spool: a folder for pgBackRest's own use. It empties it, so it must not be the live cluster's.
            base: the backup.
            target: where recovery is to end.
            timeline: the live cluster's. The latest one may be that of a recovery that was abandoned.
            while_waiting: called about 20 times a second.
            delta: keep what an earlier call has restored.
        """
        options = [
            f"--pg1-path={into}", f"--spool-path={spool}", f"--set={base.label}", f"--repo={REPOSITORY}",
            *target.options(), f"--target-timeline={timeline}", "--target-action=pause", "--archive-mode=off",
            f"--process-max={self.processes}", *QUIET, *(["--delta"] if delta else []),
        ]
        done = process.run(
            self.argv("restore", *options), timeout_s=self.timeout_s, owner=self.owner, while_waiting=while_waiting,
            check=False, hint="Run the same command again; nothing of the live cluster was touched.",
        )
        if done.returncode != 0:
            raise RunbookError(
                f"The base backup {base.label} was not restored: pgbackrest {done.ending}: "
                f"{done.stderr_tail or 'it printed no error'}.",
                _next_step(done.returncode, base.label, into), backup=base.label,
            )

    def fetch_command(self, data: Path) -> str:
        """PostgreSQL's restore_command for the cluster in `data`: a line for a shell, in which `%` is PostgreSQL's own.

        Never asynchronous: that would share the live cluster's spool.
        """
        words = self.argv("archive-get", f"--pg1-path={data}", f"--repo={REPOSITORY}", "--no-archive-async")
        return f'{shlex.join(word.replace("%", "%%") for word in words)} %f "%p"'

    def backup(self, while_waiting: Callable[[], None]) -> None:
        """Make a full base backup of the cluster that runs in the live one's place.

        Nothing expires: it is not proven yet, and who goes back needs the older ones, whatever the retention is.
        """
        process.run(
            self.argv("backup", "--type=full", "--no-expire-auto", f"--process-max={self.processes}",
                      f"--repo={REPOSITORY}", *QUIET),
            timeout_s=self.timeout_s, owner=self.owner, while_waiting=while_waiting,
            hint="The cluster runs; without a base backup on its new timeline it is not done. Mend that, then run the "
                 "same command again.",
        )

    def verify(self, while_waiting: Callable[[], None]) -> Verified:
        """Have pgBackRest read the whole repository, and read what it says."""
        done = process.run(
            self.argv("verify", "--output=text", "--verbose", f"--repo={REPOSITORY}",
                      f"--process-max={self.processes}", *QUIET),
            timeout_s=self.timeout_s, owner=self.owner, while_waiting=while_waiting,
            hint="The cluster runs, and its base backup is not proven yet. Mend that, then run the same command again.",
        )
        return read_verify(done.stdout)

    def _run(self, command: str, *options: str, operand: str = "") -> str:
        argv = [*self.argv(command, *options, *QUIET), *([operand] if operand else [])]
        return process.run(
            argv, timeout_s=LOOK_S, owner=self.owner,
            hint="Check the configuration, the stanza and who may read the repository.",
        ).stdout

    def _json(self, command: str, *options: str, operand: str = "") -> Any:
        text = self._run(command, *options, operand=operand)
        try:
            return json.loads(text)
        except ValueError as error:
            raise RunbookError(
                f"pgbackrest {command} printed no JSON: {text[:80]!r}.", "Run it by hand as the server's user."
            ) from error


def _next_step(code: int, label: str, into: Path) -> str:
    """What to do when a restore failed, from pgBackRest's own words."""
    free = shutil.disk_usage(into.parent).free
    if code == NOT_WRITTEN:
        return (
            f"Make room in {into.parent}, where {size(free)} are free, then run the same command again. The live "
            "cluster was not touched."
        )
    if code in UNREADABLE:
        return (
            f"{label} cannot be read whole: begin with an older one (backup), and see what else is damaged with "
            "pgbackrest verify --output=text --verbose. The live cluster was not touched."
        )
    return "Mend that, then run the same command again. The live cluster was not touched."
