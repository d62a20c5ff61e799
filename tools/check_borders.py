# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Imports of plugins/module_utils go one way: a domain, `run` below it, and of another domain only its public face."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tools.repository import ROOT

PLUGINS = "ansible_collections.sre.runbooks.plugins."
# Below every domain.
SHARED = "run"
# docs/architecture.md names them as well.
PUBLIC = {"postgresql": {"connection", "client_tools", "arguments", "marker"}, "health": {"check"}}


def findings(root: Path = ROOT) -> list[str]:
    """All that is wrong, as sentences."""
    return [
        f"{path.relative_to(root)}: imports {name}, which is no public face of another domain."
        for path in sorted((root / "plugins" / "module_utils").glob("*/**/*.py"))
        for name in across(path.relative_to(root / "plugins" / "module_utils").parts[0], path.read_text("utf-8"))
    ]


def across(domain: str, source: str) -> Iterator[str]:
    """The modules that a file of a domain may not import, from below `plugins`."""
    yield from (name for name in _imported(ast.parse(source)) if not _is_open(domain, name))


def _is_open(domain: str, name: str) -> bool:
    match name.split("."):
        case ["module_utils", other, *_] if other in (domain, SHARED):
            return True
        case ["module_utils", other, module, *_]:
            return module in PUBLIC.get(other, ())
    return False


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name.removeprefix(PLUGINS) for name in names if name.startswith(PLUGINS))
