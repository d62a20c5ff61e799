# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Plain data on their way: private, with room, and never left behind (B38 ⚠: dumps in /tmp)."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.backup.work import (
    abandoned,
    require_private,
    room_for,
    work_folder,
)
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError

from tests.conftest import COLLECTIONS

HOLD = """
import sys, time
from pathlib import Path
from ansible_collections.sre.runbooks.plugins.module_utils.backup.work import work_folder
with work_folder(Path(sys.argv[1]), "killed") as work:
    (work / "dump").write_text("plain")
    print("ready", flush=True)
    time.sleep(600)
"""


def test_what_a_killed_process_left_is_gone_once_the_next_one_works_and_what_is_held_stays(tmp_path: Path) -> None:
    """A restore or a drill that is killed leaves a plain dump, and no backup may come for a day."""
    children = [
        subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / "work"], stdout=subprocess.PIPE, text=True,
                         env={**os.environ, "PYTHONPATH": str(COLLECTIONS)})
        for _unused in range(2)
    ]
    try:
        for child in children:
            assert child.stdout.readline() == "ready\n"
        children[0].send_signal(signal.SIGKILL)
        children[0].wait()
        assert len(list((tmp_path / "work").rglob("dump"))) == 2
        with work_folder(tmp_path / "work", "next") as work:
            assert work.is_dir()
            assert len(list((tmp_path / "work").rglob("dump"))) == 1
    finally:
        for child in children:
            child.kill()
            child.communicate()
    assert len(abandoned(tmp_path / "work")) == 1


def test_those_that_begin_at_once_do_not_take_each_others_folder_for_a_leftover(tmp_path: Path) -> None:
    problems, begin = [], threading.Barrier(8)

    def work_once() -> None:
        begin.wait()
        for _unused in range(25):
            try:
                with work_folder(tmp_path, "same") as work:
                    (work / "dump").touch()
            except (OSError, RunbookError) as error:
                problems.append(error)

    threads = [threading.Thread(target=work_once) for _unused in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert list(tmp_path.iterdir()) == []


def owned_by_another(folder: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("Only root gives a folder to somebody else.")
    os.chown(folder, 65534, 65534)


@pytest.mark.parametrize(
    ("prepare", "is_refused"),
    [
        (lambda folder: folder.chmod(0o777), True),
        (lambda folder: folder.chmod(0o757), True),
        (owned_by_another, True),
        (lambda folder: folder.chmod(0o1777), False),
        (lambda folder: folder.chmod(0o755), False),
    ],
    ids=["writable for everybody", "writable for others", "somebody else's", "sticky", "readable"],
)
def test_a_work_folder_below_a_folder_in_which_others_exchange_it_is_refused(
    tmp_path: Path, prepare: Callable[[Path], None], is_refused: bool
) -> None:
    above = tmp_path / "above"
    (above / "own").mkdir(parents=True, mode=0o755)
    prepare(above)
    link = tmp_path / "link"
    link.symlink_to(above / "own")
    for folder in (above / "own" / "work", link / "work"):
        if not is_refused:
            require_private(folder)
            continue
        with pytest.raises(RunbookError) as caught:
            require_private(folder)
        assert f": {above} has the owner" in caught.value.message
        assert "store_work_directory" in caught.value.hint


def test_less_room_than_the_plain_files_take_is_refused_before_one_is_written(tmp_path: Path) -> None:
    with pytest.raises(RunbookError, match=r"The plain files take 5.0 TB, and .* free") as caught, \
            room_for(tmp_path, 5_000_000_000_000):
        pytest.fail("It began to write.")
    assert caught.value.context["needed_bytes"] > caught.value.context["free_bytes"]


def test_a_disk_that_fills_up_all_the_same_is_one_sentence(tmp_path: Path) -> None:
    """/dev/full is what the system has for it."""
    with pytest.raises(RunbookError, match=f"cannot be written to {tmp_path}: {os.strerror(errno.ENOSPC)}"), \
            room_for(tmp_path, 1), Path("/dev/full").open("wb", buffering=0) as full:
        full.write(b"x")
