# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What no playbook and no role may contain: a shell, a swallowed error, a secret in a task's environment."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools.repository import ROOT, task_files

SECRET = re.compile(r"pass(word|wd|phrase|file)?|token|secret|credential|api_?key", re.IGNORECASE)


def findings(root: Path = ROOT) -> list[str]:
    """All that is wrong, as sentences."""
    return [
        f"{path.relative_to(root)}: {task.get('name', 'a task without a name')!r} {problem}"
        for path, tasks in task_files(root)
        for task in tasks
        for problem in task_problems(task)
    ]


def task_problems(task: dict[str, Any]) -> Iterator[str]:
    """What is wrong with one task, block or play."""
    for keyword, value in task.items():
        if keyword.rpartition(".")[2] in ("shell", "raw"):
            yield f"uses {keyword}: processes are started by argument lists."
        if keyword in ("action", "local_action") and "shell" in str(value).split():
            yield f"uses a shell through {keyword}."
    if "ignore_errors" in task:
        yield "ignores errors: say which state is expected instead."
    if "ignore_unreachable" in task:
        yield "ignores unreachable hosts."
    if task.get("failed_when") is False or str(task.get("failed_when")).strip().lower() in ("false", "no", "[false]"):
        yield "never fails (failed_when: false)."
    environment = task.get("environment") or {}
    for part in environment if isinstance(environment, list) else [environment]:
        if not isinstance(part, dict):
            yield f"takes its environment from {part}, which may hold a secret."
            continue
        for name, value in part.items():
            if SECRET.search(name) or SECRET.search(str(value)):
                yield f"has the secret {name} in its environment, which stands in -vvv and in argv."
    if "loop" in task and SECRET.search(str(task["loop"])):
        yield "loops over something secret, which is printed with each item."
