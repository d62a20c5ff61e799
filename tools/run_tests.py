# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""All tests with one call of pytest, in three workers; then the roles' molecule scenarios.

A test that takes long is silent; the seconds that it has taken are printed behind its name. Where there is memory
enough, the tests' servers have their data in it: they make and drop hundreds of databases, each of a thousand files.
"""

from __future__ import annotations

import os
import selectors
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# The longest files first: each worker takes whole files, which share their servers, and ends on short ones.
LAYERS = ("scenarios", "integration", "unit")
# One more than the cores of a small machine: tests wait for servers, for time-outs, for one another.
WORKERS = ("--numprocesses=3", "--dist=loadfile", "--no-loadscope-reorder")
SILENCE_S = 4.0
MEMORY = Path("/dev/shm")  # noqa: S108 - lab.machine.state_root makes a private folder there
MEMORY_BYTES = 8 << 30
# What stays in a lab's folder when nothing runs any more.
LEFT = ("demo.lock", "embedded-postgres-", "labs")


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


def main(arguments: list[str]) -> int:
    """The exit code is that of the first part that failed."""
    started = time.monotonic()
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    in_memory = memory_available() >= MEMORY_BYTES
    if in_memory:
        environment.setdefault("SRE_RUNBOOKS_LAB_DIRECTORY", str(MEMORY))
    layers = [f"tests/{layer}" for layer in LAYERS if (ROOT / "tests" / layer).is_dir()]
    colour = ["--color=yes"] if sys.stdout.isatty() else []
    pytest = [sys.executable, "-m", "pytest", "-v", "--durations=10", *colour]
    code = run([*pytest, *(arguments or [*WORKERS, *layers])], environment)
    if not code and not arguments and (ROOT / "extensions" / "molecule").is_dir():
        # Molecule starts ansible-playbook by its name alone.
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment["MOLECULE_GLOB"] = "extensions/molecule/*/molecule.yml"
        code = run([str(Path(sys.executable).parent / "molecule"), "test", "--all"], environment)
    if in_memory:
        free_memory()
    print(f"make test: {'passed' if code == 0 else 'FAILED'} after {time.monotonic() - started:.0f} s")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
