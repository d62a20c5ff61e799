# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is live after an exchange, or a way back, that fails at the worst moment.

The folders, the position and the commands are real. The server is a process in its data directory that does nothing, so
that it leaves recovery, or refuses to start, exactly when a test wants it to.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.pitr import position as at
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.cluster import Cluster
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.position import Position
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.recovery import (
    EXCHANGED,
    RESTORED,
    UNDONE,
    Recovery,
)
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.survey import read_live
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.target import parse_target
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.workplace import Request
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import Login
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.progress import Progress

MOMENT, LATER = "2026-11-21T10:00:00Z", "2026-11-21T11:00:00Z"
TARGET = parse_target("time", MOMENT, exclusive=False, backup=None).as_dict()
PROGRAM = """#!/bin/sh
echo "Database cluster state: in production"
echo "Database system identifier: 7"
echo "Latest checkpoint's TimeLineID: 1"
echo "Bytes per WAL segment: 16777216"
"""
# Leaves recovery at once, as PostgreSQL does at the end of the WAL.
START = """cd {data} || exit 1
if test -e {broken} && grep -q "$(cat {broken})" name; then exit 1; fi
rm -f recovery.signal
sleep 600 > /dev/null 2>&1 &
printf '%s\\n' $! {data} 0 5432 {data} '' '' ready > postmaster.pid
"""
STOP = "cd {data} && kill $(head -1 postmaster.pid); rm -f postmaster.pid"


class Stage:
    """Data directories with a server that does nothing."""

    def __init__(self, folder: Path) -> None:
        self.data, self.programs = folder / "data", folder / "programs"
        self.kept = folder / "data.retired-20261121T120000Z"
        self.abandoned = folder / "data.abandoned-20261121T130000Z"
        self.restoring = folder / "data.restoring"
        # The name in it is that of the cluster that does not start.
        self.broken = folder / "broken"
        self.programs.mkdir()
        for name in ("pg_ctl", "pg_controldata"):
            (self.programs / name).write_text(PROGRAM, encoding="utf-8")
            (self.programs / name).chmod(0o755)
        self.request = Request(
            Login("127.0.0.1", 1, "nobody"), self.data, folder / "none.conf", "none", run="mine", target=MOMENT,
            bin_directory=str(self.programs), start=self.shell(START), stop=self.shell(STOP), stop_timeout_s=2.0,
            start_timeout_s=2.0,
        )

    def shell(self, text: str) -> tuple[str, ...]:
        """A command of the inventory."""
        return ("sh", "-c", text.format(data=shlex.quote(str(self.data)), broken=shlex.quote(str(self.broken))))

    def make(self, folder: Path, name: str, *, recovering: bool = False) -> None:
        """A data directory."""
        folder.mkdir(mode=0o700)
        (folder / "PG_VERSION").write_text("15\n", encoding="utf-8")
        (folder / "name").write_text(name, encoding="utf-8")
        if recovering:
            (folder / "recovery.signal").touch()

    def recovery(self, **changes: object) -> Recovery:
        """A call of the module."""
        return Recovery(replace(self.request, **changes), Progress(), check=False)

    def stands(self, state: str, **more: object) -> Position:
        """Write where the recovery stands."""
        work = self.recovery()
        work.places.prepare(work.work.owner or (os.getuid(), os.getgid()))
        return work.places.write(Position(state, **{
            "run": "mine", "backup": "B", "target": TARGET, "timeline": 1, "kept": "", **more
        }))

    def start(self) -> None:
        """The server in the live place, up."""
        self.recovery().live.command(self.request.start, "starting", 5.0)

    def position(self) -> Position:
        """Where it stands now."""
        return self.recovery().places.read()

    @property
    def live(self) -> str:
        """Which cluster has a server that accepts writes; empty when none does."""
        return (self.data / "name").read_text(encoding="utf-8") if self.recovery().live.accepts_writes() else ""

    def end(self) -> None:
        """No process is left."""
        for path in self.data.parent.glob("data*/postmaster.pid"):
            if pid := Cluster(path.parent, self.programs, None, Progress()).pid():
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """With no data directory yet."""
    found = Stage(tmp_path)
    yield found
    found.end()


@pytest.mark.parametrize(("changes", "told"), [
    ({"target": LATER}, "recovered to time 2026-11-21 10:00:00.000000\\+00 from B by the run another, and not to"),
    ({"backup": "C"}, "from B by the run another"),
    ({"target_kind": "lsn", "target": "0/3000050"}, "and not to lsn 0/3000050"),
])
def test_the_copy_of_somebody_elses_run_is_not_exchanged(stage: Stage, changes: dict[str, str], told: str) -> None:
    """A86 ⚠: two databases of a cluster have two locks, and one recovery beside it."""
    stage.make(stage.data, "old")
    stage.make(stage.restoring, "restored", recovering=True)
    stage.start()
    before = stage.stands(at.RESTORED, run="another")
    with pytest.raises(RunbookError, match=told):
        stage.recovery(**changes).reach(EXCHANGED)
    assert (stage.live, stage.position()) == ("old", before)


def test_a_drills_copy_is_not_exchanged_and_a_drill_takes_away_its_own_alone(stage: Stage) -> None:
    """A86 ⚠: a killed drill blocked every later one."""
    stage.make(stage.data, "old")
    stage.make(stage.restoring, "restored", recovering=True)
    before = stage.stands(at.RESTORED)
    stage.recovery(drill=True).reach(UNDONE)
    assert stage.position() == before
    with pytest.raises(RunbookError, match="no drill takes it away"):
        stage.recovery(drill=True).reach(RESTORED)
    stage.stands(at.RESTORED, drill=True, run="killed")
    with pytest.raises(RunbookError, match="the copy of a drill"):
        stage.recovery().reach(EXCHANGED)
    stage.recovery(drill=True).reach(UNDONE)
    assert not stage.restoring.exists()
    assert stage.position().state == at.UNTOUCHED


@pytest.mark.parametrize("state", [at.OPENED, at.DONE])
def test_who_fails_before_anything_takes_nothing_of_an_earlier_recovery_back(stage: Stage, state: str) -> None:
    """A86 ⚠: the operator was told to throw away what is live, and nothing had been touched."""
    stage.make(stage.data, "restored")
    stage.make(stage.kept, "old")
    stage.start()
    before = stage.stands(state, run="last month", kept=str(stage.kept))
    result = stage.recovery().reach(UNDONE)
    assert not result.plan.as_list("")
    assert (stage.live, stage.position()) == ("restored", before)
    stage.stands(state, kept=str(stage.kept))
    with pytest.raises(RunbookError, match="accepts writes, which going back would lose"):
        stage.recovery().reach(UNDONE)
    assert stage.live == "restored"


@pytest.mark.parametrize("new_backup", ["", "N"])
def test_where_the_old_cluster_does_not_start_the_restored_one_is_live_again(stage: Stage, new_backup: str) -> None:
    """A86 ⚠: going back fails when it is needed most."""
    stage.make(stage.data, "restored")
    stage.make(stage.kept, "old")
    stage.start()
    before = stage.stands(at.DONE if new_backup else at.OPENED, kept=str(stage.kept), new_backup=new_backup)
    stage.broken.write_text("old", encoding="utf-8")
    with pytest.raises(RunbookError, match="Starting the old cluster failed"):
        stage.recovery(losses_agreed=True).reach(UNDONE)
    assert (stage.live, stage.position()) == ("restored", before)
    stage.broken.unlink()
    stage.recovery(losses_agreed=True).reach(UNDONE)
    assert stage.live == "old"


def test_a_server_that_stops_too_late_is_started_again(stage: Stage) -> None:
    """A86 ⚠: going back that could not begin must not end with nothing live."""
    stage.make(stage.data, "restored")
    stage.make(stage.kept, "old")
    stage.start()
    before = stage.stands(at.OPENED, kept=str(stage.kept))
    late = "cd {data} && sed -i s/ready/stopping/ postmaster.pid; (sleep 2.2; " + STOP + ") > /dev/null 2>&1 &"
    with pytest.raises(RunbookError, match="It is about to stop: see its log"):
        stage.recovery(losses_agreed=True, stop=stage.shell(late), stop_timeout_s=1.5).reach(UNDONE)
    assert (stage.live, stage.position()) == ("restored", before)


def test_a_restored_cluster_that_leaves_recovery_while_it_is_told_to_stop_stays_live(stage: Stage) -> None:
    """A86 ⚠: what was written to it in that moment was deleted with it."""
    stage.make(stage.data, "restored", recovering=True)
    stage.make(stage.kept, "old")
    stage.start()
    (stage.data / "recovery.signal").touch()
    stage.stands(at.OPENING, kept=str(stage.kept))
    promoting = stage.shell("rm {data}/recovery.signal; " + STOP)
    with pytest.raises(RunbookError, match="A person must decide that"):
        stage.recovery(stop=promoting).reach(UNDONE)
    assert stage.live == "restored"
    assert stage.position().state == at.OPENING
    stage.recovery().reach(EXCHANGED)
    assert stage.position().state == at.OPENED


@pytest.mark.parametrize("old_is_back", [False, True])
def test_an_exchange_killed_while_it_was_taken_back_is_gone_on_with_by_its_folders(
    stage: Stage, old_is_back: bool
) -> None:
    """A86 ⚠: between two renames it started a server on no folder, or called the old cluster the restored one."""
    stage.make(stage.data if old_is_back else stage.kept, "old")
    stage.make(stage.restoring, "restored", recovering=True)
    stage.stands(at.OPENING, kept=str(stage.kept))
    stage.recovery().reach(EXCHANGED)
    assert (stage.live, stage.position().state) == ("restored", at.OPENED)
    assert (stage.kept / "name").read_text(encoding="utf-8") == "old"


@pytest.mark.parametrize("state", [at.OPENED, at.EXCHANGING])
def test_without_a_word_on_how_the_server_is_started_nothing_is_begun(stage: Stage, state: str) -> None:
    """A86 ⚠: a way back that was written down, and then ended with a traceback."""
    stage.make(stage.data, "restored")
    stage.make(stage.kept, "old")
    before = stage.stands(state, kept=str(stage.kept))
    with pytest.raises(RunbookError, match="Set postgresql_control in the inventory"):
        stage.recovery(start=(), stop=(), losses_agreed=True).reach(UNDONE)
    assert stage.position() == before


@pytest.mark.parametrize("answers", [False, True])
def test_what_listens_where_a_server_left_its_pid_file_is_not_taken_for_nothing(stage: Stage, answers: bool) -> None:
    """A86 ⚠: a server in a container is not seen, and its folder would be renamed under it."""
    stage.make(stage.data, "old")
    (stage.data / "postmaster.pid").write_text("1999999999\n", encoding="utf-8")
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        login = Login("127.0.0.1", listening.getsockname()[1], "nobody", sslmode="disable")
        live = stage.recovery().live
        if not answers:
            assert read_live(login, live) is None
            return
        listening.listen()
        Thread(target=lambda: [listening.accept()[0].close() for _both in range(2)], daemon=True).start()
        with pytest.raises(RunbookError, match=r"Whether a server runs in .* is unknown"):
            read_live(login, live)


def test_no_target_is_refused_with_an_example(stage: Stage) -> None:
    stage.make(stage.data, "old")
    with pytest.raises(RunbookError, match="-e to=2026-11-21T14:30:00"):
        stage.recovery(target=None).reach(RESTORED)
