# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The check of `hosts:`, before anything runs."""

from __future__ import annotations

DOCUMENTATION = r"""
name: target
short_description: What a runbook acts on, checked before it starts
version_added: 0.1.0
author:
  - sre.runbooks contributors (@sre-runbooks)
description:
  - Stands in C(hosts:) of a play and returns the host pattern in the variable O(target).
  - It raises one sentence with the right command where a plain pattern would end with exit code 0 and nothing done.
    That is without a target, with a mistyped one, and with a C(--limit) that leaves none of it.
  - An acting runbook on more than one host wants the expected number of hosts beside it (C(-e expect=<count>)).
options:
  default:
    description: The pattern when there is no variable O(target). Without it a target must be given.
    type: str
  among:
    description: The group that the target's hosts must be in.
    type: str
    default: all
  acting:
    description: Whether the runbook changes something.
    type: bool
    default: true
  target:
    description: The pattern itself; by default the variable C(target).
    type: str
  expect:
    description: The number of hosts that the operator expects; by default the variable C(expect).
    type: str
"""

EXAMPLES = r"""
- name: Restore a database from a proven backup
  hosts: "{{ lookup('sre.runbooks.target', among='databases') }}"
  tasks: []

- name: Measure the platform
  hosts: "{{ lookup('sre.runbooks.target', default='all', acting=false) }}"
  tasks: []
"""

RETURN = r"""
_raw:
  description: The host pattern.
  type: list
  elements: str
  sample: [orders-db]
"""

import difflib
from typing import Any

from ansible import context
from ansible.errors import AnsibleError
from ansible.inventory.manager import InventoryManager, split_host_pattern
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.lookup import LookupBase
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.plugin_utils.command import rebuild

LISTINGS = ("syntax", "listtasks", "listtags", "listhosts")
SHOWN = 8


def inventory_of(groups: dict[str, list[str]]) -> InventoryManager:
    """An inventory with these groups, so that a pattern means exactly what Ansible takes it for."""
    manager = InventoryManager(loader=DataLoader(), sources=None, parse=False)
    data = manager._inventory
    for group, hosts in groups.items():
        data.add_group(group)
        for host in hosts:
            data.add_host(host, group=group if group not in ("all", "ungrouped") else None)
    data.reconcile_inventory()
    return manager


def names(hosts: list[str]) -> str:
    """The first hosts, and how many more there are."""
    more = f" and {len(hosts) - SHOWN} more" if len(hosts) > SHOWN else ""
    return ", ".join(hosts[:SHOWN]) + more


class LookupModule(LookupBase):
    """`lookup('sre.runbooks.target', …)`."""

    def run(self, _terms: list[Any], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[str]:
        """The pattern to act on."""
        self.set_options(var_options=variables, direct=kwargs)
        try:
            return [self._check(variables or {})]
        except RunbookError as error:
            raise AnsibleError(f"refused: {error}") from error

    def _variable(self, variables: dict[str, Any], name: str) -> str:
        value = self.get_option(name)
        if value is None and name in variables:
            value = self._templar.template(variables[name])
        if isinstance(value, (list, tuple)):
            value = ",".join(str(item) for item in value)
        return "" if value is None else str(value).strip()

    def _check(self, variables: dict[str, Any]) -> str:
        among, acting = self.get_option("among"), boolean(self.get_option("acting"))
        groups = {str(name): [str(host) for host in hosts] for name, hosts in variables.get("groups", {}).items()}
        pattern = self._variable(variables, "target") or self.get_option("default")
        if not (pattern and groups.get("all")) and any(context.CLIARGS.get(name) for name in LISTINGS):
            return str(among)
        candidates = groups.get(among, [])
        if not groups.get("all"):
            raise RunbookError(
                "The inventory has no hosts.",
                f"Name one: {self._command(i='<inventory>', target=pattern or '<target>')}",
            )
        if not pattern:
            raise RunbookError(
                f"No target was given; there are: {names(candidates) or 'none in the group ' + among}.",
                f"Run: {self._command(target='<target>')}",
            )
        return self._hosts(pattern, groups, among, acting, variables)

    def _hosts(
        self, pattern: str, groups: dict[str, list[str]], among: str, acting: bool, variables: dict[str, Any]
    ) -> str:
        manager, candidates = inventory_of(groups), groups.get(among, [])
        known = set(groups) | set(groups["all"])
        fitting = [*candidates, *(name for name, hosts in groups.items() if set(hosts) & set(candidates))]
        for part in split_host_pattern(pattern):
            plain = part.lstrip("!&")
            if not any(mark in plain for mark in "*?[~:") and plain not in known:
                near = difflib.get_close_matches(plain, fitting, n=3, cutoff=0.6)
                meant = " or ".join(dict.fromkeys(near))
                raise RunbookError(
                    f"There is no target {plain}; " + (
                        f"did you mean {meant}?" if near else f"there are: {names(candidates)}."
                    ),
                    f"Run: {self._command(target=near[0] if near else '<target>')}",
                )
        hosts = [host.name for host in manager.get_hosts(pattern)]
        outside = [host for host in hosts if host not in candidates]
        if hosts and outside and among != "all":
            raise RunbookError(
                f"{names(outside)} is not in the group {among}; there are: {names(candidates)}.",
                f"Run: {self._command(target='<target>')}",
            )
        if not hosts:
            raise RunbookError(
                f"The target {pattern} is no host; there are: {names(candidates)}.",
                f"Run: {self._command(target='<target>')}",
            )
        limit = variables.get("ansible_limit")
        if limit:
            manager.subset(str(limit))
            hosts = [host.name for host in manager.get_hosts(pattern)]
            if not hosts:
                raise RunbookError(
                    f"The limit {limit} leaves nothing of the target {pattern}.",
                    f"Run without --limit: {self._command(target=pattern)}",
                )
        self._expected(pattern, hosts, self._variable(variables, "expect"), acting)
        return pattern

    def _expected(self, pattern: str, hosts: list[str], expect: str, acting: bool) -> None:
        count = "1 host" if len(hosts) == 1 else f"{len(hosts)} hosts"
        if expect and expect != str(len(hosts)):
            raise RunbookError(
                f"The target {pattern} is {count} and {expect} were expected: {names(hosts)}.",
                f"If you mean that: {self._command(target=pattern, expect=str(len(hosts)))}",
            )
        if acting and len(hosts) > 1 and not expect:
            raise RunbookError(
                f"The target {pattern} is {count}: {names(hosts)}.",
                f"Say how many you expect: {self._command(target=pattern, expect='<count>')}",
            )

    def _command(self, i: str = "", **extra: str) -> str:
        options = dict(context.CLIARGS)
        if i:
            options["inventory"] = (i,)
        return rebuild(options, extra)
