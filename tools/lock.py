# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""requirements*.txt from pyproject.toml, with every transitive version: unpinned, pip backtracks for minutes.

Without --upgrade, versions that are there stay, and only what pyproject.toml changed moves.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOWEST_PYTHON = "3.11"
SETS: dict[str, tuple[str, ...]] = {
    "requirements.txt": (),
    "requirements-demo.txt": ("demo",),
    "requirements-test.txt": ("demo", "test"),
}


def main(options: list[str]) -> int:
    """Write all files; the exit code is uv's."""
    for name, extras in SETS.items():
        argv = [
            str(Path(sys.executable).parent / "uv"), "pip", "compile", "pyproject.toml", "--output-file", name,
            "--python-version", LOWEST_PYTHON, "--no-header", "--no-annotate", "--no-emit-index-url", "--quiet",
            *(f"--extra={extra}" for extra in extras), *options,
        ]
        done = subprocess.run(argv, cwd=ROOT, stdin=subprocess.DEVNULL, check=False)
        if done.returncode:
            return done.returncode
        print(name)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
