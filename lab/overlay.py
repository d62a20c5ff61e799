# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The inventory file that points a production-shaped inventory at a lab.

Everything in it is a host variable: those of a later inventory file override every group variable, and the host
variables of the files before it. A host_vars folder in the inventory would win over it, so there is none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from lab import REPOSITORY
from lab.pgbackrest import STANZA, PgBackRestServer
from lab.postgresql import bin_directory, has_extension

if TYPE_CHECKING:
    from lab.state import Lab

LOCAL = {"ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}",
         "ansible_host": "127.0.0.1"}
HEADER = """\
---
# Made by `lab up`: host variables that point inventories/{system} at the lab {name}.
# A lab has no TLS, no ingress (endpoints are the {ingress}), and no extension that its PostgreSQL lacks (pgcrypto).
"""


def _everywhere(lab: Lab) -> dict[str, str]:
    """What every host of a lab has.

    Runs and their reports outlive the lab, so they are in the repository; its locks go with it. Both are set, since in
    a container a runbook that acts is refused without a folder of which somebody says that it lasts.
    """
    return {
        "secrets_directory": str(lab.folder / "secrets"), "run_directory": str(lab.runs),
        "run_lock_host": "localhost", "run_lock_directory": str(lab.folder / "locks"),
        # Counters of a lab are no samples of the platform that it stands in for.
        "health_samples_file": str(lab.folder / "samples.json"),
    }


def _host(lab: Lab, group: str, host: str, variables: dict[str, Any]) -> dict[str, Any]:
    system = lab.system
    if group == "services":
        folder = lab.service_folder(host)
        return {
            "service_url": lab.url(host), "service_version": system.version,
            "service_control": {
                "driver": "process", "pid_file": str(folder / "pid"), "command": lab.service_command(host),
                "directory": str(REPOSITORY), "log_file": str(folder / "service.log"), "stop_timeout_seconds": 30,
            },
        }
    if group == "databases":
        return {
            "database_host": "127.0.0.1", "database_port": lab.port(host), "database_sslmode": "disable",
            "postgresql_bin_directory": str(lab.server(host).bin_directory),
            "scratch_server": system.scratch_servers[0],
            "database_extensions": list(filter(has_extension, variables["database_extensions"])),
            "database_restore_export_directory": str(lab.folder / "exports"),
            **({"server": archive_host(host)} if host in lab.archived else {}),
        }
    if group == "caches":
        return {"cache_host": "127.0.0.1", "cache_port": lab.port(host), "cache_tls": False}
    if group == "endpoints":
        url = f"{lab.url(system.lab['ingress'])}/version"
        return {"endpoint_url": url, "health_checks": [{"kind": "http", "name": "page", "url": url, "shape": "any"}]}
    if group == "stores":
        return {**LOCAL, "store_path": str(lab.folder / "stores" / host)}
    if "postgresql_port" in variables:
        return {**LOCAL, "postgresql_host": "127.0.0.1", "postgresql_port": lab.port(host),
                "postgresql_bin_directory": str(bin_directory())}
    return dict(LOCAL)


def archive_host(database: str) -> str:
    """The inventory host of an archived database's own server: whatever is recovered there is recovered alone."""
    return f"{database}-server"


def _archived(server: PgBackRestServer) -> dict[str, Any]:
    return {
        **LOCAL, "postgresql_data_directory": str(server.data_directory), "postgresql_control": server.control,
        "postgresql_bin_directory": str(server.bin_directory),
        "pgbackrest": {"config": str(server.config), "stanza": STANZA},
    }


def write(lab: Lab) -> None:
    """Write overlay.yml into the lab's folder."""
    system = lab.system
    groups = {
        group: {"hosts": {
            host: {**_everywhere(lab), **_host(lab, group, host, variables)} for host, variables in hosts.items()
        }}
        for group, hosts in system.hosts.items()
    }
    for host in lab.archived:
        groups["servers"]["hosts"][archive_host(host)] = {**_everywhere(lab), **_archived(lab.archived_server(host))}
    text = HEADER.format(system=system.name, name=lab.name, ingress=system.lab["ingress"]) + yaml.safe_dump(
        {"all": {"children": groups}}, sort_keys=False, width=118
    )
    making = lab.folder / "overlay.partial"
    making.write_text(text, encoding="utf-8")
    making.replace(lab.folder / "overlay.yml")
