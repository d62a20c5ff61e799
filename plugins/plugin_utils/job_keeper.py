# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Keeps a module at work on its host while nobody is connected.

This text is sent to the host and runs there, so it needs nothing but Python's standard library. A job is a folder:

| file | what |
|---|---|
| `keeper.py` | this text |
| `lock` | its flock is held as long as the keeper or the module is alive |
| `module` | the module's process id, which is its process group's as well |
| `progress.jsonl` | what the module says, one line each |
| `result.json` | `rc`, `stdout`, `stderr`; there whole or not at all |

The module itself, which has secrets among its arguments, comes through stdin and is never written down.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

PREFIX = "sre-runbooks-"
POLL_S = 0.2
# A module that is asked to end has this long to tidy up.
GRACE_S = 10.0
# Nobody comes back for the result of a job that ended this long ago.
LEFTOVER_S = 3600.0


def _put(path: Path, text: str) -> None:
    written = path.with_suffix(".part")
    written.write_text(text, encoding="utf-8")
    written.replace(path)


def _alive(folder: Path) -> bool:
    with (folder / "lock").open(encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _remove_leftovers(place: Path) -> None:
    for left in place.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # another job may be removing it, too
            if time.time() - left.stat().st_mtime > LEFTOVER_S and not _alive(left):
                shutil.rmtree(left)


def start(folder: Path, size: int, command: str) -> None:
    """Let `command` work in the background, with `size` bytes of stdin as its own; asked twice, it starts once."""
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _remove_leftovers(folder.parent)
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        return
    text = folder / "keeper.py"
    text.write_text(sys.orig_argv[sys.orig_argv.index("-c") + 1], encoding="utf-8")
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    payload = sys.stdin.buffer.read(size)
    keeper = subprocess.Popen(
        [sys.executable, str(text), "watch", str(folder), str(lock), command], stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, pass_fds=[lock],
    )
    keeper.stdin.write(payload)
    keeper.stdin.close()


def watch(folder: Path, lock: int, command: str) -> None:
    """Wait for the module, which has the lock as well, and write down how it ended."""
    payload = sys.stdin.buffer.read()
    module = subprocess.Popen(
        ["/bin/sh", "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True, pass_fds=[lock],
    )
    _put(folder / "module", str(module.pid))
    stdout, stderr = (stream.decode("utf-8", "surrogateescape") for stream in module.communicate(payload))
    _put(folder / "result.json", json.dumps({"rc": module.returncode, "stdout": stdout, "stderr": stderr}))


def messages(progress: Path, shown: int) -> list[str]:
    """What the whole lines after the first `shown` say; one that a full disk has cut is an ellipsis."""
    lines = progress.read_text(encoding="utf-8").split("\n")[shown:-1] if progress.exists() else []
    said = []
    for line in lines:
        try:
            said.append(json.loads(line)["message"])
        except ValueError:
            said.append("…")
    return said


def look(folder: Path, shown: int, patience_s: float) -> None:
    """Print what was said after `shown` lines, and the result; wait up to `patience_s` until there is any of it."""
    result = folder / "result.json"
    until = time.monotonic() + patience_s
    while True:
        # In this order: a module that is dead writes no more, and one with a result has said all that it had to say.
        alive = _alive(folder)
        done = json.loads(result.read_text(encoding="utf-8")) if result.exists() else None
        said = messages(folder / "progress.jsonl", shown)
        if said or done or not alive or time.monotonic() > until:
            print(json.dumps({"alive": alive, "messages": said, "result": done}))
            return
        time.sleep(POLL_S)


def stop(folder: Path) -> None:
    """Interrupt the module, and print whether it is still alive after its time to tidy up; what is dead is removed."""
    module = folder / "module"
    until, sent = time.monotonic() + GRACE_S, False
    while (alive := _alive(folder)) and time.monotonic() < until:
        if module.exists() and not sent:
            with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
                os.killpg(int(module.read_text(encoding="utf-8")), signal.SIGINT)
            sent = True
        time.sleep(POLL_S)
    if not alive:
        shutil.rmtree(folder)
    print(json.dumps({"alive": alive}))


def main(action: str, folder: Path, *words: str) -> None:
    """Do what the controller, or `start`, asks for; answers are one line of JSON."""
    if action == "start":
        start(folder, int(words[0]), words[1])
    elif action == "watch":
        watch(folder, int(words[0]), words[1])
    elif action == "look":
        look(folder, int(words[0]), float(words[1]))
    elif action == "stop":
        stop(folder)
    else:
        shutil.rmtree(folder)
        print("{}")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
