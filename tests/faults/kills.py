# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""kill -9 at random moments, 50 times in all: the application sees the old or the new database, whole, and the same
command at once ends well."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

from ansible_collections.sre.runbooks.plugins.module_utils.run.words import counted

from lab import machine
from tests.faults.fault import Fault, Seen
from tests.faults.scene import STATES, Scene
from tests.integration.backup.conftest import as_arguments

WHERE = "kill -9 at random moments"
EVERYTHING = os.environ.get("FAULTS") == "all"
SAME = "the same command at once ends well"
SCRATCH_ROOM = 1 << 40


def killed(scene: Scene, start: Callable[[], subprocess.Popen[str]], within_s: float) -> bool:
    """Start a module, and kill it at a random moment; whether it was still at work."""
    child = start()
    try:
        child.wait(scene.random.uniform(0.05, within_s))
        return False
    except subprocess.TimeoutExpired:
        return True
    finally:
        machine.send(child.pid, signal.SIGKILL)
        child.communicate()


def how_long(work: Callable[[], Any]) -> float:
    """Seconds that it takes when nobody disturbs it."""
    started = time.monotonic()
    work()
    return time.monotonic() - started


def repeated(times: int, once: Callable[[], bool]) -> int:
    """Until so many kills met something at work."""
    count = 0
    for _attempt in range(times * 4):
        count += once()
        if count == times:
            return count
    raise AssertionError(f"only {count} of {times} kills met anything at work: FAULTS_SEED repeats it")


def of_backup(times: int) -> Callable[[Scene], Seen]:
    def inject(scene: Scene) -> Seen:
        arguments = scene.module(database=scene.shop.name, fingerprints=True)
        call, start = scene.fixture("call_module"), scene.fixture("start_module")
        place, whole = scene.place(), []

        def again() -> None:
            whole.append(call("pg_backup", arguments)["backup"]["backup_id"])

        within_s = how_long(again)

        def once() -> bool:
            hit = killed(scene, lambda: start("pg_backup", arguments), within_s)
            before = place.ids()
            assert all(not backup.problem for backup in place.backups()), "what is listed is whole"
            again()
            assert place.ids() == [*before, whole[-1]]
            assert not place.leftovers()
            return hit

        count = repeated(times, once)
        seen = scene.prove(place, backup_id=whole[-1])
        return Seen(seen.outcome, seen.message, seen.rung, count)

    return inject


def of_proof(times: int) -> Callable[[Scene], Seen]:
    def inject(scene: Scene) -> Seen:
        scene.back_up()
        call, start = scene.fixture("call_module"), scene.fixture("start_module")
        arguments = {**scene.module(rung="content"), "login": as_arguments(scene.scratch.login)}

        def again() -> dict[str, Any]:
            result = call("pg_backup_verify", arguments)
            assert result["verdict"]["verdict"] == "good", result
            assert not scene.left()
            return result

        within_s = how_long(again)

        def once() -> bool:
            hit = killed(scene, lambda: start("pg_backup_verify", arguments), within_s)
            again()
            return hit

        count = repeated(times, once)
        result = again()
        return Seen(result["verdict"]["verdict"], result["message"], result["verdict"]["rung"], count)

    return inject


def of_exchange(times: int) -> Callable[[Scene], Seen]:
    """The module that restores and exchanges, in any of its states."""

    def inject(scene: Scene) -> Seen:
        scene.back_up()
        call, start = scene.fixture("call_module"), scene.fixture("start_module")
        common = scene.module(
            database=scene.shop.name, run="killed", least_rung="none", application_check="SELECT true",
            lock_wait_seconds=30,
        )

        def reach(state: str) -> None:
            result = call("pg_restore_swap", {**common, "state": state})
            assert not result.get("failed"), result

        took = {state: how_long(lambda state=state: reach(state)) for state in STATES}

        def once() -> bool:
            scene.shop.run("DELETE FROM orders WHERE id % 3 = 0")
            scene.live = scene.content()
            state = scene.random.choice(STATES)
            for before in STATES[: STATES.index(state)]:
                reach(before)
            hit = killed(scene, lambda: start("pg_restore_swap", {**common, "state": state}), took[state])
            # Between closing and opening nobody gets in, who could see half of anything.
            if scene.shop.is_reachable():
                assert scene.content() in (scene.live, scene.restored), state
            for one in STATES:
                reach(one)
            assert scene.content() == scene.restored, state
            for name in scene.shop.databases():
                if "__retired_" in name:
                    scene.shop.run(f'DROP DATABASE "{name}" WITH (FORCE)', "postgres")
            return hit

        count = repeated(times, once)
        return Seen("done", f"{scene.shop.name} is restored", times=count)

    return inject


def family(pid: int) -> list[int]:
    """A process and everything that it started, as far as it is still theirs."""
    found = [pid]
    for one in found:
        found += machine.children_of(one)
    return found


def kill_play(scene: Scene, child: subprocess.Popen[Any]) -> None:
    """With its modules, or alone: then they live on by themselves."""
    for pid in family(child.pid) if scene.random.random() < 0.5 else [child.pid]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def of_play(times: int) -> Callable[[Scene], Seen]:
    """The play itself, while the application works."""

    def inject(scene: Scene) -> Seen:
        platform = scene.fixture("made_scene")
        platform.destroy()
        within_s = how_long(platform.restore)

        def once() -> bool:
            platform.destroy()
            child = platform.platform.begin("database_restore", *platform.arguments())
            try:
                child.communicate(timeout=scene.random.uniform(1.0, within_s))
                hit = False
            except subprocess.TimeoutExpired:
                hit = True
            kill_play(scene, child)
            child.stdout.close()
            child.stderr.close()
            child.wait()
            if hit:
                played = platform.restore()
                assert played.returncode == 0, played.output
            platform.assert_restored()
            scene.measured = f"{counted(platform.wanted_rows, 'row')} as backed up, by their number"
            for name, state in platform.states().items():
                if state in ("retired", "abandoned"):
                    platform.run(f'DROP DATABASE "{name}" WITH (FORCE)', "postgres")
            return hit

        count = repeated(times, once)
        return Seen("done", "dbis-db: DONE.", times=count)

    return inject


# 50 in all, 5 of them in `make test`.
FAULTS = (
    Fault("kill -9 of the module that makes backups", WHERE, of_backup(12 if EVERYTHING else 1), "good",
          ("is good up to the rung application",), SAME, rung="application", ci=True),
    Fault("kill -9 of the module that proves", WHERE, of_proof(10 if EVERYTHING else 1), "good",
          ("is good up to the rung content",), SAME, rung="content", ci=True),
    Fault("kill -9 of the module that restores and exchanges", WHERE, of_exchange(22 if EVERYTHING else 3), "done",
          ("is restored",), SAME, ci=True),
    Fault("kill -9 of the play that restores", WHERE, of_play(6), "done", ("DONE",), SAME),
)
