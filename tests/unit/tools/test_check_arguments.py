# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Defaults against argument_specs, and secrets against no_log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tools import check_arguments

GOOD = {"type": "int", "default": 3, "description": "How many."}


def role(folder: Path, options: dict[str, Any], defaults: dict[str, Any]) -> list[str]:
    path = folder / "roles" / "drill"
    for part, content in (
        ("meta/argument_specs.yml", {"argument_specs": {"main": {"options": options}}}),
        ("defaults/main.yml", defaults),
    ):
        (path / part).parent.mkdir(parents=True, exist_ok=True)
        (path / part).write_text(yaml.safe_dump(content), encoding="utf-8")
    return check_arguments.role_findings(path)


def test_a_role_whose_defaults_are_declared_is_fine(tmp_path: Path) -> None:
    assert role(tmp_path, {"drill_count": GOOD}, {"drill_count": 3, "__drill_inner": 1}) == []


@pytest.mark.parametrize(
    ("options", "defaults", "words"),
    [
        ({"drill_count": GOOD}, {"drill_count": 4}, "argument_specs say 3, defaults/main.yml 4"),
        ({"drill_count": GOOD}, {}, "none in defaults/main.yml"),
        ({}, {"drill_count": 3}, "not in argument_specs"),
        ({"drill_count": {"type": "int", "description": "x"}}, {"drill_count": 3}, "none in argument_specs"),
        ({"count": GOOD}, {"count": 3}, "must begin with drill_"),
        ({"drill_count": {**GOOD, "type": "number"}}, {"drill_count": 3}, "no type that Ansible knows"),
        ({"drill_count": {**GOOD, "type": "str"}}, {"drill_count": 3}, "is no str"),
        ({"drill_count": {"type": "int", "default": 3}}, {"drill_count": 3}, "has no description"),
        ({"drill_count": {**GOOD, "required": True}}, {"drill_count": 3}, "is required and has a default"),
        ({"drill_password": {"type": "str", "description": "x"}}, {}, "must have no_log"),
    ],
)
def test_what_an_operator_would_be_misled_by_is_found(
    tmp_path: Path, options: dict[str, Any], defaults: dict[str, Any], words: str
) -> None:
    assert any(words in finding for finding in role(tmp_path, options, defaults))


def test_a_secret_without_no_log_is_found_however_deep() -> None:
    """X18: the value would stand in `-vvv`."""
    specification = {
        "password": {"no_log": True},
        "token": {},
        "token_file": {},
        "login": {"options": {"user": {}, "admin_password": {}, "inner": {"suboptions": {"secret": {}}}}},
    }
    found = list(check_arguments.secrets_without_no_log(specification))
    assert found == ["token", "login.admin_password", "login.inner.secret"]


def test_every_module_gives_its_parameters_to_the_check() -> None:
    specifications = check_arguments.argument_specifications()
    modules = {path.stem for path in (check_arguments.ROOT / "plugins" / "modules").glob("*.py")}
    assert set(specifications) == modules
    assert specifications["pg_backup"]["login"]["options"]["password"]["no_log"] is True
