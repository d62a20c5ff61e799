# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Everything that can be said about the tree without running it: `make lint`, `python tools/lint.py ruff tasks`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from yaml import YAMLError

from tools import (
    check_arguments,
    check_borders,
    check_links,
    check_runbooks,
    check_tasks,
    fault_page,
    generate,
    inventory_schema,
)
from tools.repository import ROOT

SILENCE_S = 4.0
BIN = Path(sys.executable).parent
HOME = ROOT / "build" / "home"
LINK = ROOT / ".ansible" / "collections" / "ansible_collections" / "sre" / "runbooks"
# ansible-test makes virtual environments with a get-pip from a site of its own; Python brings pip along.
GET_PIP = """\
import subprocess
import sys

arguments = [one for one in sys.argv[1:] if one not in ("--no-setuptools", "--no-wheel")]
subprocess.check_call([sys.executable, "-m", "ensurepip", "--default-pip"])
subprocess.check_call([sys.executable, "-m", "pip", "install", *arguments])
"""

Check = Callable[[], tuple[bool, str]]


def command(*argv: str, **environment: str) -> Check:
    """A check that is a program: passed when it ends with 0."""

    def check() -> tuple[bool, str]:
        path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            [str(BIN / argv[0]), *argv[1:]], cwd=ROOT, env={**os.environ, "PATH": path, **environment},
            stdin=subprocess.DEVNULL, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )
        return done.returncode == 0, done.stdout

    return check


def own(findings: Callable[[], list[str]]) -> Check:
    """A check of our own: passed when it finds nothing."""

    def check() -> tuple[bool, str]:
        try:
            found = findings()
        except YAMLError as error:
            found = [f"A file is no YAML: {error}"]
        return not found, "\n".join(found)

    return check


def sanity() -> tuple[bool, str]:
    """All tests of ansible-test sanity, with a home of its own so that nothing of it lands in the user's."""
    from ansible_test._internal import python_requirements

    source = Path(python_requirements.__file__).read_text(encoding="utf-8")
    for version in re.findall(r"\bpip='([\d.]+)'", source):
        cached = HOME / ".ansible" / "test" / "cache" / f"get_pip_{version.replace('.', '_')}.py"
        cached.parent.mkdir(parents=True, exist_ok=True)
        cached.write_text(GET_PIP, encoding="utf-8")
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    passed, output = command(
        "ansible-test", "sanity", "--python", python, "--color", "no", HOME=str(HOME),
        ANSIBLE_TEST_CONTENT_ROOT=str(LINK), LC_ALL="C.UTF-8",
    )()
    wanted = [line for line in output.splitlines() if line.startswith(("ERROR", "FATAL", "See"))]
    return passed, "\n".join(wanted) if wanted and not passed else output


CHECKS: dict[str, Check] = {
    "sanity": sanity,
    "ansible-lint": command("ansible-lint", "--offline", "--nocolor", "-q"),
    "ruff": command("ruff", "check", "--quiet", "."),
    "yamllint": command("yamllint", "--strict", "."),
    "changelog": command("antsibull-changelog", "lint"),
    "arguments": own(check_arguments.findings),
    "borders": own(check_borders.findings),
    "tasks": own(check_tasks.findings),
    "inventories": own(inventory_schema.findings),
    "runbooks": own(check_runbooks.findings),
    "links": own(check_links.findings),
    "generated": own(generate.findings),
    "faults": own(fault_page.findings),
}


def main(names: list[str]) -> int:
    """Run the checks, the slow one beside the others; the exit code is 1 when one found something."""
    unknown = set(names) - set(CHECKS)
    if unknown:
        print(f"There is no check {', '.join(sorted(unknown))}; there are {', '.join(CHECKS)}.", file=sys.stderr)
        return 2
    wanted = [name for name in CHECKS if not names or name in names]
    started = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        waiting = {pool.submit(CHECKS[name]): name for name in wanted}
        failed = []
        while waiting:
            done, _pending = wait(waiting, timeout=SILENCE_S, return_when=FIRST_COMPLETED)
            seconds = time.monotonic() - started
            for future in done:
                name = waiting.pop(future)
                passed, output = future.result()
                print(f"{'ok    ' if passed else 'FAILED'} {name} (at {seconds:.0f} s)", flush=True)
                if not passed:
                    failed.append(name)
                    print(textwrap.indent(output.strip(), "    "), flush=True)
            if not done:
                print(f"  … {', '.join(waiting.values())} ({seconds:.0f} s)", flush=True)
    if failed:
        print(f"make lint: {', '.join(failed)} found something; see above.", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
