# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The command that an operator would type: built from what is public, never copied from the process's own."""

from __future__ import annotations

import difflib
import json
import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible import constants as C  # noqa: N812
from ansible.parsing.splitter import parse_kv
from yaml import YAMLError, safe_load

# What the next command needs as well: each option's name among Ansible's, and the setting that it has without it.
VALUES = {
    "remote_user": ("-u", "DEFAULT_REMOTE_USER"),
    "private_key_file": ("--private-key", "DEFAULT_PRIVATE_KEY_FILE"),
    "connection_password_file": ("--connection-password-file", "CONNECTION_PASSWORD_FILE"),
    "become_user": ("--become-user", ""),
    "become_method": ("--become-method", "DEFAULT_BECOME_METHOD"),
    "become_password_file": ("--become-password-file", "BECOME_PASSWORD_FILE"),
}
LISTS = {"vault_ids": "--vault-id", "vault_password_files": "--vault-password-file"}
SWITCHES = {
    "ask_vault_pass": ("--ask-vault-pass", ""),
    "ask_pass": ("-k", "DEFAULT_ASK_PASS"),
    "become": ("-b", "DEFAULT_BECOME"),
    "become_ask_pass": ("-K", "DEFAULT_BECOME_ASK_PASS"),
    "check": ("--check", ""),
}
# Where a run looks for what an earlier one left, and whom it stops: without them the next command is another one.
KEPT = ("run_directory", "run_lock_directory", "run_lock_host", "consumers")
# The playbooks' own words beside target, expect and approve: what somebody gave for this target, and never a secret.
WORDS = (
    "backup", "before", "retired", "drop", "remove", "to", "kind", "exclusive", "to_name", "to_server", "tables",
    "schema",
)
# What every playbook understands; an answer and a number are given anew each time.
COMMON = ("target", "expect", "approve")
# How like one of these another name is that was meant for it: backup_id is, backup_store is not.
LIKENESS = 0.8
# What ends a value, opens a quotation or an escape in Ansible's name=value.
UNSAFE = re.compile(r"[\s'\"\\]|\{[{%#]")


def rebuild(options: Mapping[str, Any], extra: Mapping[str, Any], words: Sequence[str] = WORDS) -> str:
    """The ansible-playbook command for the playbook and inventories in use, with these variables.

    Args:
        options: Ansible's command line options (`context.CLIARGS`).
        extra: variables to give with -e. Of what the operator gave with -e only files, KEPT and `words` are repeated:
            the rest may hold secrets.
        words: of the playbook.
    """
    playbook = next(iter(options.get("args") or ()), "<playbook>")
    line = ["ansible-playbook", str(playbook)]
    inventories = [str(inventory) for inventory in options.get("inventory") or ()]
    if inventories != list(C.DEFAULT_HOST_LIST):
        line += [part for inventory in inventories for part in ("-i", _short(inventory))]
    command = shlex.join([*line, *_connection(options)])
    names = [name for name in (*KEPT, *words) if name not in extra]
    for given in options.get("extra_vars") or ():
        text = str(given)
        if text.startswith("@"):
            command += f" -e {shlex.quote('@' + _short(text[1:]))}"
        else:
            command = with_variables(command, _kept(text, names))
    return with_variables(command, extra)


def _connection(options: Mapping[str, Any]) -> list[str]:
    """The options that say as whom, with which files of secrets, and whether only to look."""
    words = []
    for name, option in LISTS.items():
        words += [word for value in options.get(name) or () for word in (option, str(value))]
    for name, (option, default) in VALUES.items():
        value = options.get(name)
        if value and value != (getattr(C, default) if default else None):
            words += [option, str(value)]
    for name, (option, default) in SWITCHES.items():
        if options.get(name) and not (default and getattr(C, default)):
            words.append(option)
    return words


def _given(given: str) -> dict[str, Any]:
    """The variables in one value of -e that is no file."""
    try:
        variables = safe_load(given) if given[:1] in "{[" else parse_kv(given)
    except YAMLError:
        return {}
    return variables if isinstance(variables, dict) else {}


def _kept(given: str, names: Iterable[str]) -> dict[str, Any]:
    found = _given(given)
    return {name: found[name] for name in names if found.get(name) not in ("", None)}


def mistaken(options: Mapping[str, Any], words: Iterable[str], roles: Iterable[str]) -> dict[str, str]:
    """Names that the operator gave with -e and that nobody reads, but are much like one that is read.

    Args:
        options: Ansible's command line options.
        words: those of the playbook.
        roles: whose variables, `<role>_…`, are none of these.

    Returns:
        Each with the word that was meant. Names that are like none may be the inventory's.
    """
    known, prefixes = [*COMMON, *words], tuple(f"{role}_" for role in roles)
    texts = [str(text) for text in options.get("extra_vars") or ()]
    given = [name for text in texts if not text.startswith("@") for name in _given(text)]
    near = {
        name: difflib.get_close_matches(name, known, n=1, cutoff=LIKENESS)
        for name in map(str, given) if name not in known and not name.startswith(prefixes)
    }
    return {name: found[0] for name, found in near.items() if found}


def _short(path: str) -> str:
    """A path below the current folder, relative to it."""
    here = os.path.join(os.getcwd(), "")
    return path.removeprefix(here)


def with_variables(command: str, extra: Mapping[str, Any]) -> str:
    """A command with further variables; a place to fill in, as in <count>, is not quoted, as it is not run."""
    for name, value in extra.items():
        if not isinstance(value, str) or UNSAFE.search(value):
            # In name=value Ansible would cut it at the first space, and take everything for a text.
            command += f" -e {shlex.quote(json.dumps({name: value}, ensure_ascii=False))}"
        else:
            command += f" -e {name}={value}" if value.startswith("<") else f" -e {shlex.quote(f'{name}={value}')}"
    return command
