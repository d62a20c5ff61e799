# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""docs/runbooks/<playbook>.md against the playbooks and their roles' argument_specs, so that no page goes stale."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tools.repository import (
    NAMESPACE,
    ROOT,
    play_variables,
    playbooks,
    public_variables,
    roles,
    short_variables,
    task_files,
    used_roles,
)

# What each page says: as a section, or as a row of the table at its top.
SECTIONS = {
    "When to use it": "When",
    "The command": "Command",
    "What it asks": "Asks",
    "What it changes": "Changes",
    "The outage to expect": "Outage",
    "How to undo it": "Undo",
    "Exit codes": "Exit codes",
}
# These explain once what all playbooks share: for operators, and for those who write playbooks.
COMMON_PAGES = ("docs/run.md", "docs/architecture.md")
COMMON_ROLE = "run"
COMMON_VARIABLES = {"target", "expect", "approve"}


def findings(root: Path = ROOT) -> list[str]:
    """All that is wrong, as sentences."""
    folder = root / "docs" / "runbooks"
    variables = {role.name: public_variables(role) for role in roles(root)}
    names = {path.stem for path in playbooks(root)}
    known = {name for options in variables.values() for name in options} | COMMON_VARIABLES
    mentionable = known | inventory_variables(root) | facts(root)
    words = names | plugin_names(root) | set(variables)
    found = [
        f"docs/runbooks/{path.name}: there is no playbook of this name."
        for path in sorted(folder.glob("*.md"))
        if path.stem not in names
    ]
    texts: dict[str, str] = {}
    for playbook in playbooks(root):
        where = f"docs/runbooks/{playbook.stem}.md"
        page = root / where
        if not page.exists():
            found.append(f"{where} is missing.")
            texts[playbook.stem] = ""
            continue
        text = page.read_text(encoding="utf-8")
        texts[playbook.stem] = text
        short = short_variables(playbook)
        problems = page_problems(text, SECTIONS, short, mentionable | short, words, set(variables))
        found += [f"{where}: {problem}" for problem in problems]
    found += unmentioned(root, texts)
    common = "\n".join((root / where).read_text(encoding="utf-8") for where in COMMON_PAGES)
    problems = page_problems(common, {}, set(variables.get(COMMON_ROLE, {})), mentionable, words, set(variables))
    return found + [f"{' and '.join(COMMON_PAGES)}: {problem}" for problem in problems]


def unmentioned(root: Path, texts: dict[str, str]) -> Iterator[str]:
    """The public variables of roles that are on no page of a playbook that imports the role, and that none sets."""
    for role in roles(root):
        users = {path.stem: used_roles(path)[role.name] for path in playbooks(root) if role.name in used_roles(path)}
        own = {role.name: users[role.name]} if role.name in users else users
        if role.name == COMMON_ROLE or not users:
            continue
        mentioned = set(re.findall(r"[a-z_][a-z0-9_]+", "\n".join(texts[name] for name in users)))
        given = set().union(*own.values(), *(play_variables(root / "playbooks" / f"{name}.yml") for name in users))
        for name in sorted(set(public_variables(role)) - mentioned - given):
            yield f"docs/runbooks/{sorted(own)[0]}.md: the variable {name} is not mentioned."


def page_problems(
    text: str, sections: dict[str, str], wanted: set[str], known: set[str], words: set[str], role_names: set[str]
) -> list[str]:
    """What is wrong with one page.

    Args:
        sections: headings of the second level that it must have, or the table's row that stands for one.
        wanted: variables that it must mention.
        known: all variables that an operator may meet; what looks like one must be among them.
        role_names: what begins with one of them and stands in backticks is taken for a variable.
        words: names of playbooks, roles and plugins; what stands behind `sre.runbooks.` must be among them.
    """
    headings = re.findall(r"^## (.+?)\s*$", text, re.MULTILINE)
    rows = re.findall(r"^\| ([A-Z][^|]*?) \|", text, re.MULTILINE)
    found = [
        f"the section '## {section}' (or the row '| {row} |') is missing."
        for section, row in sections.items()
        if section not in headings and row not in rows
    ]
    mentioned = set(re.findall(r"[a-z_][a-z0-9_]+", text))
    found += [f"the variable {name} is not mentioned." for name in sorted(wanted - mentioned)]
    given = set(re.findall(r"(?:-e|--extra-vars)[ =]['\"]?([a-z_][a-z0-9_]*)=", text))
    # Only what begins with a role's name is a role's variable; other words in backticks may be the inventory's.
    quoted = set(re.findall(r"`([a-z][a-z0-9]*_[a-z0-9_]+)`", text)) - words
    of_a_role = {name for name in quoted if any(name.startswith(f"{word}_") for word in role_names)}
    found += [f"there is no variable {name}." for name in sorted((given | of_a_role) - known)]
    found += [
        f"there is no {NAMESPACE}{name}."
        for name in sorted(set(re.findall(r"\bsre\.runbooks\.([a-z_]+)", text)) - words)
    ]
    return found


def inventory_variables(root: Path) -> set[str]:
    """The variables that inventories give to hosts and groups."""
    found: set[str] = set()
    for path in (root / "inventories").rglob("*.yml"):
        found |= set(re.findall(r"^\s*([a-z][a-z0-9_]*):", path.read_text(encoding="utf-8"), re.MULTILINE))
    return found


def facts(root: Path) -> set[str]:
    """What roles set for those that run after them."""
    return {
        name
        for _path, tasks in task_files(root)
        for task in tasks
        for name in task.get("ansible.builtin.set_fact") or {}
    }


def plugin_names(root: Path) -> set[str]:
    """What can stand behind `sre.runbooks.` besides playbooks: modules and other plugins."""
    folders = ("modules", "action", "lookup", "callback")
    names = {path.stem for folder in folders for path in (root / "plugins" / folder).glob("*.py")}
    for path in (root / "plugins" / "filter").glob("*.py"):
        names |= set(re.findall(r"[\"'](\w+)[\"']\s*:", path.read_text(encoding="utf-8"))) | {path.stem}
    return names
