# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a system consists of: read from its inventory, and from the little that the lab knows beyond it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError

from lab import REPOSITORY

INVENTORIES = REPOSITORY / "inventories"
SYSTEMS = Path(__file__).parent / "systems"
LAB_VERSION = "1.0.0"


def known_systems() -> list[str]:
    """The systems that the lab can stand in for."""
    return sorted(folder.parent.name for folder in SYSTEMS.glob("*/system.yml"))


def _read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}


@dataclass(frozen=True)
class System:
    """One system.

    Args:
        name: its inventory's name.
        hosts: for each group the hosts with their own variables, as in hosts.yml; templates are not evaluated.
        pool: `service_pool` of the inventory.
        version: `service_version` of the inventory, or what a lab's services say where it names none.
        lab: the content of lab/systems/<name>/system.yml.
    """

    name: str
    hosts: dict[str, dict[str, dict[str, Any]]]
    pool: dict[str, int]
    version: str
    lab: dict[str, Any]

    @classmethod
    def load(cls, name: str) -> System:
        """Read a system.

        Raises:
            RunbookError: the lab does not know it.
        """
        if name not in known_systems():
            raise RunbookError(f"The lab does not know a system {name}.", f"It knows {', '.join(known_systems())}.")
        inventory = INVENTORIES / name
        groups = _read(inventory / "hosts.yml")["all"]["children"]
        hosts = {
            group: {host: variables or {} for host, variables in content["hosts"].items()}
            for group, content in groups.items()
        }
        services = _read(inventory / "group_vars" / "services.yml")
        return cls(
            name, hosts, services["service_pool"], services.get("service_version", LAB_VERSION),
            _read(SYSTEMS / name / "system.yml"),
        )

    @property
    def scratch_servers(self) -> list[str]:
        """The servers that drills may load."""
        return [host for host, variables in self.hosts["servers"].items() if "postgresql_port" in variables]

    @property
    def listeners(self) -> list[str]:
        """Every host that needs a port of its own."""
        return [
            *self.hosts["databases"], *self.scratch_servers, *self.hosts.get("caches", {}), *self.hosts["services"]
        ]

    def write_statement(self, database: str) -> str:
        """The statement with which a service writes one row."""
        table = self.lab["tables"][database]
        return table.get("write") or f"INSERT INTO {table['table']} DEFAULT VALUES"

    def schema(self, database: str) -> str:
        """The statements that make a database's tables and first rows."""
        own = SYSTEMS / self.name / f"{database}.sql"
        table = self.lab["tables"][database]
        text = (own if own.exists() else SYSTEMS / "table.sql").read_text(encoding="utf-8")
        return text.replace(":table", table["table"]).replace(":rows", str(table["rows"]))

    def path_of(self, service: str) -> str:
        """Under which word a service answers with its newest rows."""
        database = self.hosts["services"][service].get("service_database")
        return f"/{self.lab['tables'][database]['table'].replace('_', '-')}" if database else "/rows"
