# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The command shown to the operator does the same again."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any

import pytest
from ansible.cli.playbook import PlaybookCLI
from ansible.parsing.splitter import parse_kv
from ansible_collections.sre.runbooks.plugins.plugin_utils.command import WORDS, mistaken, rebuild

from tests.conftest import REPOSITORY


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


def test_the_playbooks_own_words_are_said_again_but_not_to_another_playbook() -> None:
    options = parsed(["ansible-playbook", "play.yml", "-e", "target=order-db backup=x drop=true approve=order-db"])
    assert rebuild(options, {"target": "orders-db"}) == (
        "ansible-playbook play.yml -e backup=x -e drop=true -e target=orders-db"
    )
    assert rebuild(options, {"backup": "y"}) == "ansible-playbook play.yml -e drop=true -e backup=y"
    assert rebuild(options, {}, words=()) == "ansible-playbook play.yml"


def test_every_word_of_a_playbook_is_known() -> None:
    plays = [path.read_text(encoding="utf-8") for path in (REPOSITORY / "playbooks").glob("*.yml")]
    read = {word for play in plays for word in re.findall(r'^    \w+: "{{ (\w+) \| default', play, re.MULTILINE)}
    assert read == set(WORDS)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("backup_id=x", {"backup_id": "backup"}), ('{"approved": "x", "backup": "y"}', {"approved": "approve"}),
        ("backup_verify_backup_id=x backup_store=y server=z", {}), ("@backup_id.yml", {}), ("retired=x", {}),
        ("targets=a", {"targets": "target"}),
    ],
)
def test_a_name_that_nobody_reads_is_told_from_those_of_the_inventory(given: str, found: dict[str, str]) -> None:
    options = parsed(["ansible-playbook", "play.yml", "-e", given])
    assert mistaken(options, ["backup"], ["backup_verify", "run"]) == found
