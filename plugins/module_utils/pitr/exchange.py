# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The exchange of two data directories: each half of it found again in the folders, and taken back while it can be."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ansible_collections.sre.runbooks.plugins.module_utils.pitr import position as at
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.beside import Beside
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.position import Position
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.survey import require_seen
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.target import Target
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.workplace import Workplace
from ansible_collections.sre.runbooks.plugins.module_utils.run.files import remove_folder, sync_folder, write_whole
from ansible_collections.sre.runbooks.plugins.module_utils.run.moments import utc_text

# At the top of a data directory these are the server's own; all other files were put there by somebody.
SERVER_FILES = re.compile(
    r"PG_VERSION|postmaster\.(pid|opts)|backup_label.*|tablespace_map.*|backup_manifest|backup\.manifest|current_logfiles"
    r"|.*\.signal|recovery\.(conf|done)|postgresql\.auto\.conf.*|logfile.*|.*\.log|\..*"
)
OWN_SETTINGS = "postgresql.auto.conf"
CONFIGURATION_FOLDER = re.compile(r".+\.d")


class Exchange:
    """What is live, and how that is changed.

    Args:
        work: the folders and servers.
        copy: the restored cluster.
    """

    def __init__(self, work: Workplace, copy: Beside) -> None:
        self.work = work
        self.request, self.places, self.copy = work.request, work.places, copy

    def rename(self, position: Position) -> Position:
        """Stop the live server, put it aside, put the restored one in its place; goes on where it was left."""
        if position.state == at.OPENING and self.places.data.exists() and not self.places.restoring.exists():
            return position
        if position.state == at.RESTORED:
            if self.work.beside.pid() is not None:
                # What is on the disk now need not be replayed while everybody waits.
                with self.copy.ask("postgres") as connection, self.work.progress.during(lambda: "a checkpoint"):
                    connection.execute("CHECKPOINT")
            self.work.beside.stop(self.request.stop_timeout_s)
            added = self._take_configuration(position)
            now = datetime.now(UTC)
            position = self.places.write(
                position, state=at.EXCHANGING, kept=str(self.places.aside("retired", now.strftime("%Y%m%dT%H%M%SZ"))),
                until=utc_text(now + timedelta(seconds=self.request.retained_s), "seconds"), added=added,
            )
        kept = Path(position.kept)
        if self.places.data.exists() and not kept.exists():
            self.stop_live()
            self.move(self.places.data, kept)
        if self.places.restoring.exists():
            self.move(self.places.restoring, self.places.data)
        return position

    def stop_live(self) -> None:
        """Stop the server in the live place, as the inventory says.

        Raises:
            RunbookError: it still runs after its time.
        """
        require_seen(self.request.login, self.work.live)
        if self.work.live.pid() is not None:
            self.command(self.request.stop, "stopping the live server", self.request.stop_timeout_s)
        # Whatever starts it again by itself must not get the renamed folder.
        self.work.live.wait_stopped(self.request.stop_timeout_s)

    def _take_configuration(self, position: Position) -> tuple[str, ...]:
        """Give the restored cluster what people set on the live one since: that is no part of the accident.

        Beside it stands where recovery ends, until the restored cluster is promoted.

        Returns:
            The lines for that, which go then.
        """
        target = Target(**(position.target or {}))
        words = {"time": "recovery_target_time", "lsn": "recovery_target_lsn", "name": "recovery_target_name",
                 "transaction": "recovery_target_xid"}
        settings = {
            "restore_command": self.work.repository.fetch_command(self.places.data), words[target.kind]: target.value,
            "recovery_target_inclusive": "off" if target.exclusive else "on", "recovery_target_action": "promote",
            "recovery_target_timeline": str(position.timeline),
            # Until the next start they may be larger than what people set.
            **self._limits(),
        }
        # ALTER SYSTEM writes the file anew in this very form.
        added = tuple(f"{name} = '{_escaped(value)}'\n" for name, value in settings.items())
        with self.work.as_owner():
            self._copy_configuration()
            own = _own_settings(self.places.data)
            write_whole(self.places.restoring / OWN_SETTINGS, own + "".join(added))
        return added

    def _copy_configuration(self) -> None:
        for path in self.places.data.iterdir():
            copy = self.places.restoring / path.name
            if CONFIGURATION_FOLDER.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
                remove_folder(copy)
                shutil.copytree(path, copy, symlinks=True)
            elif path.is_file() and not SERVER_FILES.fullmatch(path.name):
                copy.unlink(missing_ok=True)
                shutil.copy2(path, copy, follow_symlinks=False)

    def _limits(self) -> dict[str, str]:
        """What was larger at the target than it is live: a replay with less ends the server."""
        now, then = self.work.live.limits(), self.work.beside.limits()
        return {name: str(value) for name, value in then.items() if value > now.get(name, 0)}

    def configure_as_before(self, position: Position) -> Position:
        """Recovery is over: its settings must not meet the next one. What people have set since stays."""
        if not position.added:
            return position
        with self.work.as_owner():
            text = without_added(_own_settings(self.places.data), position.added)
            write_whole(self.places.data / OWN_SETTINGS, text)
        self.work.live.reload()
        return self.places.write(position, added=())

    def give_way(self) -> None:
        """Whatever was reached of an exchange in which nobody can have written: the old cluster is live again.

        A restored cluster that leaves recovery while it is told to stop has the last word: it stays live, and the
        position is `opening`, as if it had been killed there.
        """
        position = self.places.read()
        if position.state not in (at.EXCHANGING, at.OPENING) or self.promoted(position):
            return
        kept = Path(position.kept)
        if kept.exists():
            if self.places.data.exists():
                self.stop_live()
                if self.promoted(position):
                    self.bring_up("starting the restored cluster")
                    self.places.write(position, state=at.OPENING)
                    return
                self.move(self.places.data, self.places.restoring)
            self.move(kept, self.places.data)
        self.bring_up("starting the old cluster")
        self.places.write(position, state=at.RESTORED, kept="", until="", added=())

    def go_back(self, position: Position) -> None:
        """Put the restored cluster aside and the kept one in its place; goes on where it was left."""
        kept, abandoned = Path(position.kept), Path(position.abandoned)
        if self.places.data.exists() and not abandoned.exists():
            self.stop_live()
            self.move(self.places.data, abandoned)
        if kept.exists():
            self.move(kept, self.places.data)
        self.bring_up("starting the old cluster")

    def stay(self, position: Position) -> None:
        """Whatever was reached of going back: the restored cluster is live again, unless the old one is by now."""
        kept, abandoned = Path(position.kept), Path(position.abandoned)
        if abandoned.exists():
            if self.places.data.exists():
                if self.work.live.accepts_writes():
                    return
                self.stop_live()
                self.move(self.places.data, kept)
            self.move(abandoned, self.places.data)
        self.bring_up("starting the restored cluster")
        self.places.write(position, state=at.DONE if position.new_backup else at.OPENED, abandoned="")

    def bring_up(self, what: str) -> None:
        """Have the server in the live place accept writes; one that was told to stop too late ends first."""
        if self.work.live.status() == "stopping":
            self.work.live.wait_stopped(self.request.stop_timeout_s)
        if self.work.live.pid() is None:
            self.command(self.request.start, what, self.request.start_timeout_s)
        self.work.live.wait_promoted(self.request.start_timeout_s)

    def promoted(self, position: Position) -> bool:
        """Whether the restored cluster is in the live one's place and has left recovery: somebody may have written."""
        return (
            Path(position.kept).exists() and self.places.data.exists() and not self.places.restoring.exists()
            and not self.work.live.in_recovery()
        )

    def move(self, source: Path, target: Path) -> None:
        """Rename a folder, and have that on the disk."""
        os.rename(source, target)
        sync_folder(source.parent)

    def command(self, argv: Sequence[str], what: str, timeout_s: float) -> None:
        """Start or stop the server in the live place, as the inventory says."""
        self.work.live.command(argv, what, timeout_s)


def without_added(text: str, added: Sequence[str]) -> str:
    """A postgresql.auto.conf without the lines that an exchange added, each of which stands below people's own."""
    lines = text.splitlines(keepends=True)[::-1]
    for line in added:
        if line in lines:
            lines.remove(line)
    return "".join(lines[::-1])


def _own_settings(folder: Path) -> str:
    """What ALTER SYSTEM has set in a cluster."""
    try:
        return (folder / OWN_SETTINGS).read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def _escaped(value: str) -> str:
    """For single quotes in a configuration file."""
    return value.replace("\\", "\\\\").replace("'", "''")
