# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The command shown to the operator does the same again."""

from __future__ import annotations

import json
import shlex
from typing import Any

import pytest
from ansible.cli.playbook import PlaybookCLI
from ansible.parsing.splitter import parse_kv
from ansible_collections.sre.runbooks.plugins.plugin_utils.command import rebuild


def parsed(command: list[str]) -> dict[str, Any]:
    """Ansible's options as its own parser reads this command."""
    cli = PlaybookCLI(command)
    cli.init_parser()
    return vars(cli.parser.parse_args(command[1:]))


def variables(command: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for given in parsed(command)["extra_vars"]:
        found.update(json.loads(given) if given.startswith("{") else parse_kv(given))
    return found


@pytest.mark.parametrize(
    "value",
    ["orders-db", "2026-11-21 02:00", "it's", 'say "no"', "C:\\new", "a=b", "", "#5", "$HOME; rm x", "ü\n2", "{{ x }}"],
)
def test_a_value_arrives_as_it_was(value: str) -> None:
    shown = rebuild({"args": ["play.yml"]}, {"before": value, "target": "orders-db"})
    assert variables(shlex.split(shown)) == {"before": value, "target": "orders-db"}


@pytest.mark.parametrize(
    "given",
    [
        ["-i", "one.yml", "-i", "two hosts.yml"],
        ["--vault-password-file", "/etc/word", "--vault-id", "prod@prompt"],
        ["--ask-vault-pass"],
        ["-u", "ops", "-b", "--become-user", "postgres", "-K", "--check"],
        ["--private-key", "/etc/key", "-k"],
    ],
)
def test_how_the_operator_reaches_the_hosts_is_said_again(given: list[str]) -> None:
    options = parsed(["ansible-playbook", "play.yml", *given])
    again = parsed(shlex.split(rebuild(options, {})))
    assert again == options


def test_a_default_is_not_said_again() -> None:
    assert rebuild(parsed(["ansible-playbook", "play.yml"]), {}) == "ansible-playbook play.yml"


def test_of_the_operators_variables_only_files_and_places_are_said_again() -> None:
    options = parsed([
        "ansible-playbook", "play.yml", "-e", "password=s3cr3t run_directory=/srv/runs", "-e", "@more.yml",
        "-e", '{"run_lock_directory": "/srv/the locks", "token": "s3cr3t"}', "-e", "{not yaml",
    ])
    shown = rebuild(options, {"target": "orders-db"})
    assert "s3cr3t" not in shown
    assert shlex.split(shown)[2:] == [
        "-e", "run_directory=/srv/runs", "-e", "@more.yml", "-e", '{"run_lock_directory": "/srv/the locks"}',
        "-e", "target=orders-db",
    ]


@pytest.mark.parametrize(("value", "end"), [("<count>", "-e expect=<count>"), ("3", "-e expect=3")])
def test_what_is_to_be_filled_in_stands_out(value: str, end: str) -> None:
    assert rebuild({"args": ["play.yml"]}, {"expect": value}).endswith(end)
