# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The drill of all databases of a platform at once, against each of them alone."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from lab.data import fill
from lab.state import Lab
from tests.benchmarks.harness import REPOSITORY, Bench

BYTES = 40 * 1000**2
RUNS = 3


def play(lab: Lab, playbook: str, *arguments: str) -> float:
    """Run a playbook to its good end; seconds."""
    argv = [str(Path(sys.executable).with_name("ansible-playbook")), *lab.inventory_arguments,
            f"playbooks/{playbook}.yml", *arguments]
    started = time.perf_counter()
    done = subprocess.run(argv, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout[-3000:] + done.stderr)
    return time.perf_counter() - started


def bench_drill(bench: Bench) -> None:
    """The bound is that of the longest drill, or of all of them spread over the cores."""
    lab = Lab(f"bench-{os.getpid()}")
    try:
        lab.up("bakery_ia", print)
        names = sorted(lab.system.hosts["databases"])
        for name in names:
            fill(lab.login(name, "application"), BYTES)
        everything = ("-e", "target=databases", "-e", f"expect={len(names)}")
        play(lab, "database_backup", *everything)

        def alone() -> float:
            taken = [play(lab, "backup_verify", "-e", f"target={name}") for name in names]
            return max(*taken, sum(taken) / (os.cpu_count() or 1))

        bench.compare(
            f"drill of {len(names)} databases of {BYTES // 1000**2} MB in one run, against a run for each: the longest,"
            " or all ÷ cores",
            lambda: play(lab, "backup_verify", *everything), alone, at_most=1.4, runs=RUNS,
        )
    finally:
        lab.down(print)
