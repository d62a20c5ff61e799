# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The words of the inventories (docs/architecture.md) as data, and what is wrong with an inventory that breaks them.

An inventory is read as it is written, templates and all: what a template stands for is not judged.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.repository import ROOT, load, public_variables, roles

importlib.import_module("lab")  # which makes the collection importable


@dataclass(frozen=True)
class Word:
    """One variable of an inventory.

    Args:
        type: what its value is; a template passes for anything.
        required: whether each host of the group has it, itself or from its group.
        keys: for a dictionary the keys that it must have; it may have no others unless `open`.
        open: whether a dictionary may have further keys.
        relation: the group whose hosts it names.
    """

    type: type | tuple[type, ...]
    required: bool = False
    keys: tuple[str, ...] = ()
    open: bool = False
    relation: str = ""


LOGIN = Word(dict, True, ("user", "password"))
CHECKS = Word(list, True)
SECONDS = Word(int, True)

# What every host has, from group_vars/all.
ALL = {
    "system": Word(str, True), "secrets_directory": Word(str, True), "run_windows": Word(list, True),
    "run_freezes": Word(list, True), "severities": Word(dict, True), "contacts": Word(list, True),
    "baseline": Word(dict, True), "thresholds": Word(dict, True), "data_retention_days": Word(dict),
    "change_rules": Word(list), "run_lock_host": Word(str, relation="servers"), "rotation_days": Word(dict),
    "schedules": Word(dict), "responsibilities": Word(dict), "growth_path": Word(list), "alert_levels": Word(dict),
    "scaling_triggers": Word(dict),
}
# For the dictionaries of dictionaries: the keys that the innermost ones may have.
LIMIT = {"warning", "critical", "worse", "over_seconds"}
INNER_KEYS = {
    "severities": {"description", "acknowledge_seconds", "example"},
    "alert_levels": {"respond_seconds", "escalation", "example"},
    "scaling_triggers": LIMIT,
}
GROUPS: dict[str, dict[str, Word]] = {
    "services": {
        "service_url": Word(str, True), "service_version": Word(str),
        "service_database": Word(str, relation="databases"), "service_caches": Word(list, relation="caches"),
        "service_replicas": Word(dict, True, ("minimum", "maximum")),
        "service_pool": Word(dict, True, ("size", "overflow", "timeout_seconds", "recycle_seconds")),
        "service_control": Word(dict, True, ("driver",), open=True), "health_checks": CHECKS,
        "server": Word(str, relation="servers"),
    },
    "databases": {
        "database_host": Word(str, True), "database_port": Word(int, True), "database_name": Word(str, True),
        "database_owner": Word(str, True), "database_extensions": Word(list, True), "database_sslmode": Word(str, True),
        "database_sslrootcert": Word(str),
        "database_application": LOGIN, "database_monitor": LOGIN, "database_admin": LOGIN,
        "server": Word(str, True, relation="servers"), "consumers": Word(list, True, relation="services"),
        "backup_store": Word(str, True, relation="stores"), "backup_store_on_own_server": Word(bool),
        "scratch_server": Word(str, relation="servers"),
        "backup_policy": Word(dict, True, (
            "schedule", "retention_days", "encryption", "maximum_age_seconds", "maximum_drilled_age_seconds",
        )),
        "recovery_point_objective_seconds": SECONDS, "recovery_time_objective_seconds": SECONDS,
        "database_newest_row_query": Word(str, True), "database_application_check": Word(str, True),
        "postgresql_bin_directory": Word(str), "health_checks": CHECKS,
    },
    "caches": {
        "cache_host": Word(str, True), "cache_port": Word(int, True), "cache_password": Word(str, True),
        "cache_tls": Word(bool), "server": Word(str, True, relation="servers"),
        "consumers": Word(list, True, relation="services"), "health_checks": CHECKS,
    },
    "endpoints": {
        "endpoint_url": Word(str), "endpoint_host": Word(str), "endpoint_port": Word(int), "health_checks": CHECKS,
    },
    "servers": {
        "postgresql_host": Word(str), "postgresql_port": Word(int), "postgresql_admin": Word(dict, keys=LOGIN.keys),
        "postgresql_sslmode": Word(str), "postgresql_sslrootcert": Word(str),
        "postgresql_bin_directory": Word(str), "postgresql_data_directory": Word(str),
        "postgresql_control": Word(dict, keys=("start", "stop")), "pgbackrest": Word(dict, keys=("config", "stanza")),
    },
    "stores": {
        "store_path": Word(str), "store_s3": Word(dict, open=True), "store_recipients": Word(list),
        "store_keyring": Word(dict), "store_work_directory": Word(str), "store_maximum_bytes_per_second": Word(int),
        "server": Word(str, relation="servers"),
    },
}
CONTACT = ("role", "address")
# D29: what somebody was to fill in and nobody did.
PLACEHOLDER = re.compile(
    r"^\W*$|\[.*\]|<.*>|\byour[-_]?\w*\.|\bexample\.|\.(invalid|test)\b|placeholder|todo|fixme|changeme|x{3,}|0{6,}|n/?a$",
    re.IGNORECASE,
)
PASSWORDS = re.compile(r"password|token|secret$", re.IGNORECASE)


def findings(root: Path = ROOT) -> list[str]:
    """All that is wrong with the inventories below this root, as sentences that name inventory, host and variable."""
    known = {name for role in roles(root) for name in public_variables(role)}
    return [
        f"inventories/{folder.name}: {finding}"
        for folder in sorted((root / "inventories").glob("*")) if folder.is_dir()
        for finding in Inventory(folder).problems(known)
    ]


class Inventory:
    """One inventory as it is written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        tree = load(folder / "hosts.yml")["all"]
        self.groups: dict[str, dict[str, dict[str, Any]]] = {
            group: {host: own or {} for host, own in ((content or {}).get("hosts") or {}).items()}
            for group, content in (tree.get("children") or {}).items()
        }
        self.shared = {group: self._group_vars(group) for group in ("all", *self.groups)}

    def _group_vars(self, group: str) -> dict[str, Any]:
        place = self.folder / "group_vars"
        files = [place / f"{group}.yml", *sorted((place / group).glob("*.yml"))]
        merged: dict[str, Any] = {}
        for file in files:
            if file.exists():
                merged.update(load(file) or {})
        return merged

    def problems(self, role_options: set[str]) -> Iterator[str]:
        """What is wrong, in the order of the groups.

        Args:
            role_options: the public variables of the roles, which an inventory may set as well.
        """
        if (self.folder / "host_vars").exists():
            yield "host_vars would win over an overlay such as the lab's: put host variables into hosts.yml."
        for group in sorted(set(self.groups) - set(GROUPS)):
            yield f"the group {group} is unknown; there are {', '.join(GROUPS)}."
        for name, value in self.shared["all"].items():
            if name not in ALL and not _is_free(name, role_options):
                yield f"all: the variable {name} is unknown."
            elif name in ALL:
                yield from self._value_problems("all", name, value, ALL[name])
        for name, word in ALL.items():
            if word.required and name not in self.shared["all"]:
                yield f"all: {name} is missing."
        yield from self._contact_problems()
        yield from self._calendar_problems()
        yield from self._limit_problems()
        for group, words in GROUPS.items():
            for host, own in self.groups.get(group, {}).items():
                yield from self._host_problems(group, host, {**self.shared[group], **own}, words, role_options)
        yield from self._consumer_problems()
        yield from self._store_problems()

    def _host_problems(
        self, group: str, host: str, variables: dict[str, Any], words: dict[str, Word], role_options: set[str]
    ) -> Iterator[str]:
        for name, value in variables.items():
            if name in words:
                yield from self._value_problems(host, name, value, words[name])
            elif name not in ALL and not _is_free(name, role_options):
                yield f"{host}: the variable {name} is unknown in the group {group}."
        for name, word in words.items():
            if word.required and (name not in variables or variables[name] in (None, "", {})):
                yield f"{host}: {name} is missing."
        if "health_checks" in words and variables.get("health_checks") == []:
            yield f"{host}: health_checks is empty, so nothing would ever be measured."
        address = {"endpoint_host", "endpoint_port"}
        if group == "endpoints" and "endpoint_url" not in variables and not address <= variables.keys():
            yield f"{host}: neither endpoint_url nor endpoint_host and endpoint_port say what is measured."
        scratch = variables.get("scratch_server")
        if scratch in self.groups.get("servers", {}) and "postgresql_port" not in self.groups["servers"][scratch]:
            yield f"{host}: scratch_server is {scratch}, which has no postgresql_port and so no PostgreSQL for drills."

    def _value_problems(self, host: str, name: str, value: Any, word: Word) -> Iterator[str]:
        if _is_template(value):
            return
        is_bool = isinstance(value, bool) and word.type is not bool
        if value is not None and (is_bool or not isinstance(value, word.type)):
            kind = word.type.__name__ if isinstance(word.type, type) else " or ".join(one.__name__ for one in word.type)
            yield f"{host}: {name} is {value!r} and should be of type {kind}."
            return
        if word.relation:
            for one in value if isinstance(value, list) else [value]:
                if not _is_template(one) and one not in self.groups.get(word.relation, {}):
                    yield f"{host}: {name} names {one}, which is no host in the group {word.relation}."
        if word.keys and isinstance(value, dict):
            for key in word.keys:
                if key not in value:
                    yield f"{host}: {name} lacks {key}."
            for key in () if word.open else value:
                if key not in word.keys:
                    yield f"{host}: {name} has the unknown key {key}."
        yield from _literal_secrets(host, name, value)
        if name == "health_checks":
            yield from _check_problems(host, value or [])

    def _calendar_problems(self) -> Iterator[str]:
        from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
        from ansible_collections.sre.runbooks.plugins.module_utils.run.windows import check

        known = {path.stem for path in (ROOT / "playbooks").glob("*.yml")}
        calendar = (self.shared["all"].get("run_windows") or [], self.shared["all"].get("run_freezes") or [])
        if any(isinstance(entry, str) and _is_template(entry) for entry in calendar):
            return
        try:
            check(*calendar, known)
        except RunbookError as error:
            yield f"all: {error}"

    def _contact_problems(self) -> Iterator[str]:
        for contact in self.shared["all"].get("contacts") or []:
            if not isinstance(contact, dict) or any(key not in contact for key in CONTACT):
                yield f"all: contacts has {contact!r}, which lacks {' or '.join(CONTACT)}."
            elif PLACEHOLDER.search(str(contact["address"])) and contact.get("placeholder") is not True:
                yield (
                    f"all: contacts has {contact['address']} for {contact['role']}, a placeholder that is not marked "
                    "with placeholder: true."
                )

    def _consumer_problems(self) -> Iterator[str]:
        for service, own in self.groups.get("services", {}).items():
            database = own.get("service_database")
            about = self.groups.get("databases", {}).get(database)
            if about is not None and service not in (about.get("consumers") or []):
                yield f"{database}: consumers lacks {service}, which a restore then would not stop."
        caches = self.groups.get("caches", {})
        for service, own in self.groups.get("services", {}).items():
            named = own.get("service_caches") or []
            for cache, about in caches.items():
                if (cache in named) != (service in (about.get("consumers") or [])):
                    here, there = (service, cache) if cache in named else (cache, service)
                    yield f"{there}: says nothing of {here}, which names it (service_caches and consumers)."

    def _store_problems(self) -> Iterator[str]:
        for name, store in self.groups.get("stores", {}).items():
            if ("store_path" in store) == ("store_s3" in store):
                yield f"{name}: a store has either store_path or store_s3."
        for database, own in self.groups.get("databases", {}).items():
            variables = {**self.shared["databases"], **own}
            store = self.groups.get("stores", {}).get(variables.get("backup_store"), {})
            if "server" in store and store["server"] == variables.get("server") and (
                variables.get("backup_store_on_own_server") is not True
            ):
                yield (
                    f"{database}: backup_store is {variables['backup_store']} on {store['server']}, the database's own "
                    "server: a backup there dies with it. Say backup_store_on_own_server: true if that is meant."
                )

    def _limit_problems(self) -> Iterator[str]:
        shared = self.shared["all"]
        nested = [(f"thresholds.{area}", limits, LIMIT) for area, limits in (shared.get("thresholds") or {}).items()]
        nested += [(name, shared.get(name) or {}, keys) for name, keys in INNER_KEYS.items()]
        for name, entries, keys in nested:
            for entry, content in entries.items():
                unknown = set(content) - keys if isinstance(content, dict) else {content}
                for key in sorted(map(str, unknown)):
                    yield f"all: {name}.{entry} has the unknown key {key}; there are {', '.join(sorted(keys))}."


def _is_template(value: Any) -> bool:
    return isinstance(value, str) and "{{" in value


def _is_free(name: str, role_options: set[str]) -> bool:
    return name.startswith("ansible_") or name in role_options


def _literal_secrets(host: str, name: str, value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _literal_secrets(host, f"{name}.{key}" if PASSWORDS.search(str(key)) else name, inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _literal_secrets(host, name, inner)
    elif isinstance(value, str) and PASSWORDS.search(name) and not _is_template(value):
        yield f"{host}: {name} holds a secret in plain text: read it with a lookup."


def _check_problems(host: str, checks: list[Any]) -> Iterator[str]:
    from ansible_collections.sre.runbooks.plugins.module_utils.health.arguments import CHECK, KINDS

    for check in checks:
        if not isinstance(check, dict) or check.get("kind") not in KINDS:
            yield f"{host}: health_checks has {check!r}, whose kind is none of {', '.join(KINDS)}."
            continue
        for option in check:
            if option not in CHECK:
                yield f"{host}: health_checks has the unknown option {option}."
