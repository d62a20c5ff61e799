# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""`make test-faults`: runs every row of the fault matrix, and writes docs/faults.md from what was seen."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools import fault_page, run_tests


def main(arguments: list[str]) -> int:
    """Run all rows in two workers, or those that pytest's arguments choose, then write the page."""
    if not arguments:
        shutil.rmtree(fault_page.RECORDS, ignore_errors=True)
    seed = os.environ.get("FAULTS_SEED") or str(secrets.randbelow(10**6))
    print(f"FAULTS_SEED={seed}", flush=True)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "FAULTS": "all", "FAULTS_SEED": seed}
    in_memory = run_tests.memory_available() >= run_tests.MEMORY_BYTES
    if in_memory:
        environment.setdefault("SRE_RUNBOOKS_LAB_DIRECTORY", str(run_tests.MEMORY))
    argv = [sys.executable, "-m", "pytest", "-v", "--numprocesses=2", "--durations=10", "tests/faults", *arguments]
    code = run_tests.run(argv, environment)
    if in_memory:
        run_tests.free_memory()
    return fault_page.write() or code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
