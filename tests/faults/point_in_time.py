# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Faults of a recovery to a point in time."""

from __future__ import annotations

import contextlib
import gzip
import os
import shutil
import subprocess
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.recovery import Recovery
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.workplace import Request
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.progress import Progress

from lab import machine
from lab.pgbackrest import STANZA
from lab.postgresql import ENVIRONMENT
from tests.disks import fill, require_root
from tests.faults.fault import ARCHIVED, DONE, REFUSED, UNDO_FAILED, UNDONE, UNKNOWN, Fault, Seen
from tests.faults.kills import EVERYTHING, how_long, kill_play, killed, repeated
from tests.faults.scene import Scene, Staged
from tests.integration.pitr.conftest import Archived
from tests.scenarios.conftest import Played
from tests.scenarios.pitr_scene import TARGET, Shop

WHERE = "point in time"
STATES = ("restored", "exchanged", "done")
STAGE_S = 60.0
UNTOUCHED = "nothing was begun"
DAMAGED = ("was not restored: pgbackrest ended with exit code", "cannot be read whole: begin with an older one")
REMOVED = "the copy beside is removed; the live cluster was not touched"
BACK = "the old cluster is live again"


class Accident:
    """A shop on a cluster with an archive, after an accident in it.

    Args:
        scene: with the shop.
        cluster: that it is on.
        moment: before the accident.
    """

    def __init__(self, scene: Scene, cluster: Archived, moment: str) -> None:
        self.scene, self.cluster, self.moment = scene, cluster, moment
        self.repository = cluster.server.folder / "repository"
        self.beside = cluster.data.with_name("data.restoring")

    def reach(self, state: str, *, check: bool = False, progress: Progress | None = None, **changes: Any) -> Any:
        """A state of the recovery."""
        server = self.cluster.server
        usual = {
            "login": server.login, "data_directory": server.data_directory, "config": server.config, "stanza": STANZA,
            "run": "faults", "target": self.moment, "bin_directory": str(server.bin_directory),
            "start": tuple(server.control["start"]), "stop": tuple(server.control["stop"]), "archive_timeout_s": 30.0,
        }
        return Recovery(Request(**{**usual, **changes}), progress or Progress(), check=check).reach(state).values

    def recover(self, stages: dict[str, Progress] | None = None, **changes: Any) -> Seen:
        """A recovery as an operator sees it: looked at, then carried out, gone back from where it fails."""
        try:
            notes = self.reach("restored", check=True, **changes)["notes"]
        except RunbookError as error:
            return Seen(REFUSED, str(error))
        for state in STATES:
            try:
                self.reach(state, progress=(stages or {}).get(state), **changes)
            except RunbookError as error:
                if state == "done":
                    assert self.scene.content() == self.scene.restored
                    return Seen(UNKNOWN, str(error))
                self.reach("undone")
                assert not self.beside.exists()
                assert self.scene.content() == self.scene.live
                return Seen(UNDONE, str(error))
        assert self.scene.content() == self.scene.restored
        return Seen(DONE, " ".join([f"{self.scene.shop.name} is restored.", *notes]))

    def again(self) -> None:
        """The data are whole, and the same command once more, with nothing in its way, goes through."""
        self.scene.measured = self.scene.look(UNDONE)
        seen = self.recover()
        assert seen.outcome == DONE, seen.message

    @contextlib.contextmanager
    def hurt(self, path: Path) -> Iterator[Path]:
        """One bit of one byte at random is another one."""
        whole = path.read_bytes()
        path.write_bytes(self.flipped(whole))
        yield path
        path.write_bytes(whole)

    def flipped(self, whole: bytes) -> bytes:
        """A compressed file that is damaged: some bits only fill up its last byte."""
        while True:
            content = bytearray(whole)
            content[self.scene.random.randrange(len(content))] ^= 1 << self.scene.random.randrange(8)
            with contextlib.suppress(OSError, EOFError, zlib.error):
                if gzip.decompress(content) == gzip.decompress(whole):
                    continue
            return bytes(content)

    def segment(self, name: str) -> Path:
        """A segment in the archive."""
        return next((self.repository / "archive" / STANZA).rglob(f"{name}-*"))

    def file_of(self, label: str) -> Path:
        """One of a base backup's files at random."""
        files = (self.repository / "backup" / STANZA / label / "pg_data").rglob("*.gz")
        return self.scene.random.choice(sorted(path for path in files if gzip.decompress(path.read_bytes())))


def after_accident(work: Callable[[Accident], Seen]) -> Callable[[Scene], Seen]:
    """On the cluster that all these rows share, which is as before when it is over."""

    def inject(scene: Scene) -> Seen:
        cluster: Archived = scene.fixture("archived")
        scene.restored = scene.content()
        moment = cluster.now()
        scene.write()
        try:
            seen = work(Accident(scene, cluster, moment))
            scene.measured = scene.measured or scene.look(seen.outcome)
            return seen
        finally:
            cluster.settle()
            assert scene.content() == scene.live

    return inject


def nothing(accident: Accident) -> Seen:
    return accident.recover()


def server_down(accident: Accident) -> Seen:
    accident.cluster.archive()
    accident.cluster.server.kill()
    return accident.recover()


def limits(*values: str) -> Callable[[Accident], Seen]:
    """A replay that answers waits for ever where its own settings are smaller than those of the WAL."""

    def work(accident: Accident) -> Seen:
        server = accident.cluster.server
        usual = dict(server.settings)
        for value in values:
            server.stop()
            server.settings["max_connections"] = value
            server.start()
        accident.moment = accident.cluster.now()
        accident.scene.restored = accident.scene.content()
        accident.scene.write()
        try:
            return accident.recover()
        finally:
            server.settings = usual

    return work


def segment_missing(accident: Accident) -> Seen:
    segment = accident.cluster.archive()
    accident.cluster.archive()
    accident.moment = accident.cluster.now()
    with accident.cluster.without(segment):
        return accident.recover(backup=accident.cluster.base)


def segment_hurt(accident: Accident) -> Seen:
    segment = accident.cluster.archive()
    with accident.hurt(accident.segment(segment)):
        seen = accident.recover()
    accident.again()
    return seen


def base_hurt(accident: Accident) -> Seen:
    with accident.hurt(accident.file_of(accident.cluster.base)):
        return accident.recover()


def base_file_gone(accident: Accident) -> Seen:
    path = accident.file_of(accident.cluster.base)
    away = path.rename(accident.cluster.server.folder / path.name)
    seen = accident.recover()
    away.rename(path)
    return seen


def new_base_hurt(accident: Accident) -> Seen:
    """Between its making and its proof; what was made is made anew."""
    def hurt() -> None:
        newest = max(path.name for path in (accident.repository / "backup" / STANZA).glob("2*F"))
        path = accident.file_of(newest)
        path.write_bytes(accident.flipped(path.read_bytes()))

    return accident.recover({"done": Staged("reading the repository", hurt)})


def other_target(target: str, kind: str = "time") -> Callable[[Accident], Seen]:
    def work(accident: Accident) -> Seen:
        return accident.recover(
            target=target, target_kind=kind, **({} if kind == "time" else {"backup": accident.cluster.base})
        )

    return work


def point_never_was(accident: Accident) -> Seen:
    seen = accident.recover(target="never made", target_kind="name", backup=accident.cluster.base)
    accident.again()
    return seen


def other_cluster(accident: Accident) -> Seen:
    """The inventory names the stanza of another server."""
    folder = machine.make_folder(accident.cluster.server.folder.with_name("other"), machine.unprivileged_user())
    subprocess.run(
        [str(accident.cluster.server.bin_directory / "initdb"), "-D", str(folder / "data"), "--no-sync",
         "--no-instructions"],
        cwd="/", env=ENVIRONMENT, umask=0o077, check=True, capture_output=True,
        **machine.popen_as(machine.unprivileged_user()),
    )
    try:
        return accident.recover(data_directory=folder / "data")
    finally:
        shutil.rmtree(folder)


def archive_broken(accident: Accident) -> Seen:
    accident.cluster.run("ALTER SYSTEM SET archive_command = 'false'")
    accident.cluster.run("SELECT pg_reload_conf()")
    seen = accident.recover()
    accident.cluster.run("ALTER SYSTEM RESET archive_command")
    accident.cluster.run("SELECT pg_reload_conf()")
    accident.again()
    return seen


def disk_too_small(accident: Accident) -> Seen:
    require_root()
    ballast = fill(accident.cluster.server.folder, 8 << 20)
    try:
        return accident.recover()
    finally:
        ballast.unlink()


def disk_full(accident: Accident) -> Seen:
    """Somebody else fills it meanwhile."""
    require_root()
    folder = accident.cluster.server.folder
    try:
        seen = accident.recover({"restored": Staged("restoring", lambda: fill(folder, 8 << 20))})
    finally:
        (folder / "ballast").unlink()
    accident.again()
    return seen


def cannot_start(accident: Accident) -> Seen:
    """What was restored is no configuration that the server takes."""
    def spoil() -> None:
        with (accident.beside / "postgresql.conf").open("a", encoding="utf-8") as stream:
            stream.write("work_mem = 'a lot'\n")

    seen = accident.recover({"restored": Staged("replaying", spoil)})
    accident.again()
    return seen


def beside_killed(accident: Accident) -> Seen:
    def kill() -> None:
        child = subprocess.Popen([
            "sh", "-c", f"while ! test -s {accident.beside}/postmaster.pid; do sleep 0.02; done; "
            f"kill -9 $(head -1 {accident.beside}/postmaster.pid)",
        ])
        killers.append(child)

    killers: list[subprocess.Popen[bytes]] = []
    seen = accident.recover({"restored": Staged("replaying", kill)})
    assert killers[0].wait(10) == 0
    accident.again()
    return seen


def start_fails(accident: Accident) -> Seen:
    """It starts the old cluster, and not the one that stands in its place in recovery."""
    only_old = ("sh", "-c", f'test ! -e {accident.cluster.data}/recovery.signal && exec "$@"', "start")
    seen = accident.recover(start=(*only_old, *accident.cluster.server.control["start"]))
    accident.again()
    return seen


def stop_fails(accident: Accident) -> Seen:
    """Whatever it said, the server still runs: its folder must not be renamed under it."""
    seen = accident.recover(stop=("true",), stop_timeout_s=1.0)
    accident.again()
    return seen


def undo_refused(accident: Accident) -> Seen:
    """From the moment on that applications write, only a person decides to lose what they wrote.

    Another run that fails does not even ask: it has nothing of its own to take back.
    """
    for state in STATES[:2]:
        accident.reach(state)
    accident.scene.shop.run("INSERT INTO orders (what) VALUES ('written since')")
    written = accident.scene.content()
    accident.reach("undone", run="another")
    assert accident.scene.content() == written
    try:
        accident.reach("undone")
    except RunbookError as error:
        assert accident.scene.content() == written
        accident.scene.measured = f"{written} as before"
        return Seen(REFUSED, str(error))
    return Seen("not noticed", "")


def at_once(accident: Accident) -> Seen:
    """Two runs on one cluster: this one leaves everything to the other."""
    work = Recovery(
        Request(accident.cluster.server.login, accident.cluster.data, accident.cluster.server.config, STANZA),
        Progress(), check=True,
    )
    work.places.prepare(work.work.owner or (os.getuid(), os.getgid()))
    with work.places.alone(Progress(), 1):
        try:
            accident.reach("restored", lock_wait_s=1.0)
        except RunbookError as error:
            # Where it says so, the playbook does not go back.
            return Seen(UNDONE if error.context.get("busy") else UNDO_FAILED, str(error))
    return Seen("not noticed", "")


def of_module(times: int) -> Callable[[Accident], Seen]:
    """kill -9 of the module at random moments, in any of its states."""

    def work(accident: Accident) -> Seen:
        scene, cluster = accident.scene, accident.cluster
        cluster.moment = accident.moment

        def reach(state: str) -> None:
            result = cluster.reach(state, losses_agreed=True)
            assert not result.get("failed"), result

        took = {state: how_long(lambda state=state: reach(state)) for state in (*STATES, "undone")}

        def once() -> bool:
            cluster.settle()
            assert scene.content() == scene.live
            state = scene.random.choice([*took])
            for before in [*took][: [*took].index(state)]:
                reach(before)
            arguments = cluster.arguments(state, losses_agreed=True)
            hit = killed(scene, lambda: cluster.start_module("pg_pitr", arguments), took[state])
            # While the folders are exchanged nobody gets in, who could see half of anything.
            if scene.shop.is_reachable():
                assert scene.content() in (scene.live, scene.restored), state
            for one in STATES if state != "undone" else (state,):
                reach(one)
            assert scene.content() == (scene.restored if state != "undone" else scene.live), state
            return hit

        count = repeated(times, once)
        scene.measured = f"{scene.live} as before, or {scene.restored} as at the target, after each"
        return Seen(DONE, f"{scene.shop.name} is restored.", times=count)

    return work


def of_play(scene: Scene) -> Seen:
    """kill -9 of the play at a random moment of each stage in which the consumer is stopped, and of the one before."""
    shop: Shop = scene.fixture("shop")
    shop.run("SELECT pg_sleep(1.5)")

    def once(stage: str) -> Played:
        moment = shop.run("SELECT clock_timestamp()").isoformat()
        before = shop.run(f"SELECT count(*) FROM orders WHERE at <= '{moment}'")
        shop.run("DELETE FROM customers")
        command = ("database_pitr", "-e", f"to={moment}", "-e", f"approve={TARGET}")
        child = shop.begin(*command)
        assert machine.wait_for(lambda: shop.position() == stage, STAGE_S), stage
        time.sleep(scene.random.uniform(0.0, 0.5))
        kill_play(scene, child)
        child.wait()
        # While the folders are exchanged nobody gets in, who could see half of anything.
        with contextlib.suppress(RunbookError, psycopg.OperationalError):
            assert shop.run("SELECT count(*) FROM customers") in (0, 500), stage
        played = shop.play(*command)
        assert played.returncode == 0, played.output
        assert shop.position() == "done"
        assert shop.run("SELECT count(*) FROM customers") == 500
        assert shop.run(f"SELECT count(*) FROM orders WHERE at <= '{moment}'") == before
        assert shop.answers(), "the consumer works again, and nobody keeps its lock"
        assert not shop.locks()
        return played

    played = [once(stage) for stage in ("restoring", "exchanging", "opening", "opened")]
    assert all(f"{TARGET}: DONE." in one.output for one in played)
    return Seen(DONE, f"{TARGET}: DONE.", times=len(played))


def row(
    name: str, work: Callable[[Accident], Seen], expected: str, words: tuple[str, ...], undone: str, *, ci: bool = False
) -> Fault:
    return Fault(name, WHERE, after_accident(work), expected, words, undone, ci=ci, server=ARCHIVED)


FAULTS: tuple[Fault, ...] = (
    row("nothing at all: a cluster goes back to the moment before an accident", nothing, DONE, ("is restored",), "",
        ci=True),
    row("the server of the cluster is killed and does not come back", server_down, DONE,
        ("is restored", "had not archived cannot be recovered"), "what was archived comes back; the old cluster stays"),
    row("a segment of the archived WAL is missing", segment_missing, REFUSED,
        ("is missing in the archive", "Choose a time before that"), UNTOUCHED, ci=True),
    row("a bit is flipped in a segment of the archived WAL", segment_hurt, UNDONE,
        ("The recovery ended before", "unable to get", "Choose another target or backup"), REMOVED),
    row("a bit is flipped in a file of the base backup", base_hurt, UNDONE, DAMAGED, REMOVED),
    row("a file of the base backup is gone", base_file_gone, UNDONE, DAMAGED, REMOVED),
    row("a bit is flipped in the new base backup before it is proven", new_base_hurt, UNKNOWN,
        ("is not proven: verify says invalid", "make another base backup"),
        "the restored cluster stays live, and the run is not called done"),
    row("the target is before the end of every base backup", other_target("2016-11-21T14:30:00Z"), REFUSED,
        ("No backup ended before", "the oldest one ended at", "choose a later target"), UNTOUCHED),
    row("the target is in the future", other_target("2126-11-21T14:30:00Z"), REFUSED,
        ("is in the future: now is", "Choose an earlier time"), UNTOUCHED),
    row("the time has no zone", other_target("2026-11-21T14:30:00"), REFUSED, ("has no zone", "Give it with one"),
        UNTOUCHED),
    row("the target is an LSN that nobody has written yet", other_target("FFF/0", "lsn"), REFUSED,
        ("has not been written yet: the live server is at",), UNTOUCHED),
    row("the target is a restore point that was never made", point_never_was, UNDONE,
        ("The recovery ended before name never made", "Choose another target"), REMOVED),
    row("the repository is that of another cluster", other_cluster, REFUSED,
        ("holds the cluster", "Mend the stanza or the data directory"), UNTOUCHED),
    row("the live server's archiving is broken", archive_broken, UNDONE,
        ("does not come into the archive", "See the server's log on archive_command"),
        "nothing stands beside; the live cluster was not touched"),
    row("the disk has too little room from the start", disk_too_small, REFUSED,
        ("free, and the restored cluster needs", "Make room there"), UNTOUCHED),
    row("the disk is full in the middle of the restore", disk_full, UNDONE,
        ("unable to write", "Make room in"), REMOVED),
    row("the server beside cannot start", cannot_start, UNDONE, ("contains errors", "The live cluster was not touched"),
        REMOVED, ci=True),
    row("the server beside is killed while it replays", beside_killed, UNDONE,
        ("without a word, as when it is killed", "lack of memory"), REMOVED),
    row("the live server does not stop", stop_fails, UNDONE, ("still runs after 1 s",), BACK),
    row("the restored cluster does not start in the live one's place", start_fails, UNDONE,
        ("Starting the restored cluster failed: sh ended with exit code 1", "postgresql_control in the inventory"),
        BACK),
    row("another run works on the same cluster", at_once, UNDONE,
        ("Another run still works on", "Wait until it has ended"), "the other one goes on; this one had begun nothing"),
    row("an undo after applications have written to the recovered cluster", undo_refused, REFUSED,
        ("accepts writes, which going back would lose", "A person must decide that"), "the restored cluster stays"),
    row("kill -9 of the module that recovers", of_module(8 if EVERYTHING else 1), DONE, ("is restored",),
        "the same command at once ends well"),
    Fault("kill -9 of the play that recovers", WHERE, of_play, DONE, ("DONE",), "the same command at once ends well"),
    # Last: the WAL has these values from then on.
    row("max_connections was raised since the base backup", limits("45"), DONE, ("is restored",),
        "the replay gets as much as the live server has"),
    row("max_connections was raised and lowered again since the base backup", limits("60", "30"), DONE,
        ("is restored",), "the replay is begun again with as much as it had been"),
)
