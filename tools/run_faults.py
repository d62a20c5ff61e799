# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""`make test-faults`: runs every row of the fault matrix, and writes docs/faults.md from what was seen.

With arguments for pytest it runs the rows that they choose, and writes no page.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools import fault_page, run_tests
from tools.repository import ROOT


def commit() -> str:
    """The commit that is run; it says so where something was changed since."""
    argv = ["git", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty= with changes"]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def main(arguments: list[str]) -> int:
    """Run all rows in two workers, then write the page; or those that pytest's arguments choose."""
    seed = os.environ.get("FAULTS_SEED") or str(secrets.randbelow(10**6))
    print(f"FAULTS_SEED={seed}", flush=True)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "FAULTS": "all", "FAULTS_SEED": seed}
    if not arguments:
        shutil.rmtree(fault_page.RECORDS, ignore_errors=True)
        environment["FAULTS_COMMIT"] = commit()
    in_memory = run_tests.memory_available() >= run_tests.MEMORY_BYTES
    if in_memory:
        environment.setdefault("SRE_RUNBOOKS_LAB_DIRECTORY", str(run_tests.MEMORY))
    argv = [sys.executable, "-m", "pytest", "-v", "--numprocesses=2", "--durations=10", "tests/faults", *arguments]
    code = run_tests.run(argv, environment)
    if in_memory:
        run_tests.free_memory()
    return code if arguments else fault_page.write() or code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
