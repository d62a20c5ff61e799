# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Roles: defaults against argument_specs. Modules: what is secret has no_log."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from tools.repository import ROOT, entry_points, load, roles

SECRET = re.compile(r"(^|_)(password|passwd|passphrase|token|secret)$")
KINDS = {"str": str, "int": int, "float": (int, float), "bool": bool, "list": list, "dict": dict}


def findings(root: Path = ROOT) -> list[str]:
    """All that is wrong, as sentences."""
    found: list[str] = []
    for role in roles(root):
        found += role_findings(role)
    return found + [
        f"plugins/modules/{module}.py: the parameter {name} must have no_log: true."
        for module, specification in argument_specifications(root).items()
        for name in secrets_without_no_log(specification)
    ]


def role_findings(role: Path) -> list[str]:
    """Each variable of defaults/main.yml is declared with the same default, and each declared default is there."""
    where = f"roles/{role.name}"
    defaults_file = role / "defaults" / "main.yml"
    defaults = (load(defaults_file) if defaults_file.exists() else None) or {}
    found = []
    if not (role / "meta" / "argument_specs.yml").exists():
        return [f"{where}: meta/argument_specs.yml is missing."]
    declared: set[str] = set()
    for point, specification in entry_points(role).items():
        for name, option in (specification.get("options") or {}).items():
            declared.add(name)
            here = f"{where}: {name} (entry point {point})"
            if not name.startswith(f"{role.name}_"):
                found.append(f"{here} must begin with {role.name}_.")
            if not option.get("description"):
                found.append(f"{here} has no description.")
            if option.get("type") not in (*KINDS, "path", "raw"):
                found.append(f"{here} has no type that Ansible knows.")
            if SECRET.search(name) and not option.get("no_log"):
                found.append(f"{here} must have no_log: true.")
            if "default" in option and name not in defaults:
                found.append(f"{here} has a default in argument_specs and none in defaults/main.yml.")
            elif "default" not in option and name in defaults and defaults[name] is not None:
                found.append(f"{here} has a default in defaults/main.yml and none in argument_specs.")
            elif "default" in option and option["default"] != defaults[name]:
                found.append(f"{here}: argument_specs say {option['default']!r}, defaults/main.yml {defaults[name]!r}.")
            if option.get("required") and "default" in option:
                found.append(f"{here} is required and has a default.")
            kind = KINDS.get(option.get("type"))
            default = option.get("default")
            templated = isinstance(default, str) and "{{" in default
            if kind and default is not None and not templated and not isinstance(default, kind):
                found.append(f"{here}: the default {default!r} is no {option['type']}.")
    found += [
        f"{where}: {name} is in defaults/main.yml and not in argument_specs."
        for name in defaults
        if name not in declared and not name.startswith("__")
    ]
    return found


class _Captured(Exception):  # noqa: N818 - it carries a value, nothing went wrong
    def __init__(self, specification: dict[str, Any]) -> None:
        super().__init__("captured")
        self.specification = specification


def argument_specifications(root: Path = ROOT) -> dict[str, dict[str, Any]]:
    """The argument_spec of each module, as the module itself gives it to AnsibleModule.

    A module without main() is the documentation of an action plugin; its documented options stand in.
    """
    import yaml
    from ansible.utils.collection_loader._collection_finder import _AnsibleCollectionFinder

    if not any(isinstance(finder, _AnsibleCollectionFinder) for finder in sys.meta_path):
        _AnsibleCollectionFinder(paths=[str(root / ".ansible" / "collections")])._install()

    def capture(*_arguments: object, argument_spec: dict[str, Any], **_rest: object) -> None:
        raise _Captured(argument_spec)

    specifications = {}
    for path in sorted((root / "plugins" / "modules").glob("*.py")):
        module = importlib.import_module(f"ansible_collections.sre.runbooks.plugins.modules.{path.stem}")
        if not hasattr(module, "main"):
            specifications[path.stem] = yaml.safe_load(module.DOCUMENTATION).get("options") or {}
            continue
        with mock.patch.object(module, "AnsibleModule", capture):
            try:
                module.main()
            except _Captured as captured:
                specifications[path.stem] = captured.specification
    return specifications


def secrets_without_no_log(specification: dict[str, Any], above: str = "") -> Iterator[str]:
    """Dotted names of parameters, nested ones too, that are called like a secret and would be logged."""
    for name, option in specification.items():
        if SECRET.search(name) and option.get("no_log") is not True:
            yield above + name
        yield from secrets_without_no_log(option.get("options") or option.get("suboptions") or {}, f"{above}{name}.")
