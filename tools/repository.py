# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the checks and generators read: playbooks, roles and their tasks, as data."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
NAMESPACE = "sre.runbooks."


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """Plain YAML; the tags that only Ansible knows (!unsafe, !vault) keep their text."""


_Loader.add_multi_constructor("!", lambda loader, _suffix, node: loader.construct_scalar(node))


def load(path: Path) -> Any:
    """A YAML file as data."""
    return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - a safe loader of our own


def playbooks(root: Path = ROOT) -> list[Path]:
    """All playbooks, by name."""
    return sorted((root / "playbooks").glob("*.yml"))


def roles(root: Path = ROOT) -> list[Path]:
    """The folders of all roles, by name."""
    return sorted(path for path in (root / "roles").glob("*") if path.is_dir())


def entry_points(role: Path) -> dict[str, dict[str, Any]]:
    """A role's argument_specs: entry point → its spec; empty without a file."""
    path = role / "meta" / "argument_specs.yml"
    return load(path)["argument_specs"] if path.exists() else {}


def public_variables(role: Path) -> dict[str, dict[str, Any]]:
    """The options of all entry points of a role."""
    found: dict[str, dict[str, Any]] = {}
    for entry_point in entry_points(role).values():
        found.update(entry_point.get("options") or {})
    return found


def walk_tasks(tasks: list[dict[str, Any]] | None) -> Iterator[dict[str, Any]]:
    """All tasks of a list, those in blocks too."""
    for task in tasks or []:
        yield task
        for part in ("block", "rescue", "always"):
            yield from walk_tasks(task.get(part))


def task_files(root: Path = ROOT) -> Iterator[tuple[Path, list[dict[str, Any]]]]:
    """Each file with tasks (of playbooks and of roles), with everything in it that can hold a keyword of a task."""
    for path in playbooks(root):
        found: list[dict[str, Any]] = []
        for play in load(path):
            found.append(play)
            for part in ("pre_tasks", "tasks", "post_tasks", "handlers"):
                found.extend(walk_tasks(play.get(part)))
        yield path, found
    for role in roles(root):
        for path in sorted([*role.glob("tasks/**/*.yml"), *role.glob("handlers/*.yml")]):
            yield path, list(walk_tasks(load(path)))


def used_roles(playbook: Path) -> dict[str, set[str]]:
    """The roles of this collection that a playbook imports, each with the variables that the playbook gives to it."""
    found: dict[str, set[str]] = {}
    for play in load(playbook):
        of_play = set(play.get("vars") or {})
        for part in ("pre_tasks", "tasks", "post_tasks"):
            for task in walk_tasks(play.get(part)):
                for keyword, value in task.items():
                    name = value["name"] if keyword.rpartition(".")[2] in ("import_role", "include_role") else ""
                    if name.startswith(NAMESPACE):
                        given = found.setdefault(name.removeprefix(NAMESPACE), set())
                        given |= of_play | set(task.get("vars") or {})
    return found


def play_variables(playbook: Path) -> dict[str, Any]:
    """What a playbook's plays set for all their tasks."""
    return {name: value for play in load(playbook) for name, value in (play.get("vars") or {}).items()}


def short_variables(playbook: Path) -> set[str]:
    """The playbook's own variables, which its play hands to a role's longer ones (`{{ backup | default('') }}`)."""
    templates = map(str, play_variables(playbook).values())
    return {name for text in templates for name in re.findall(r"\{\{ *([a-z_]+) *\| *default", text)}
