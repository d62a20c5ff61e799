# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The inventories keep to the words of the architecture, and what breaks them is found before a runbook meets it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools import inventory_schema
from tools.repository import ROOT, load

Tree = dict[str, Any]


def test_the_inventories_keep_to_their_words() -> None:
    assert inventory_schema.findings(ROOT) == []


def test_the_platforms_are_as_large_as_their_documents_say() -> None:
    """B1, D1."""
    bakery = inventory_schema.Inventory(ROOT / "inventories" / "bakery_ia")
    dbis = inventory_schema.Inventory(ROOT / "inventories" / "dbis_core")
    baseline = bakery.shared["all"]["baseline"]
    assert {group: len(bakery.groups[group]) for group in ("services", "databases", "caches")} == {
        group: baseline[group] for group in ("services", "databases", "caches")
    } == {"services": 18, "databases": 14, "caches": 1}
    assert (list(dbis.groups["services"]), list(dbis.groups["databases"])) == (["app"], ["dbis-db"])


def test_what_the_documents_state_is_there() -> None:
    """B2, B8, B19, B45, B51, B56, B57, B70, D26."""
    bakery = inventory_schema.Inventory(ROOT / "inventories" / "bakery_ia").shared
    dbis = inventory_schema.Inventory(ROOT / "inventories" / "dbis_core").shared
    day, hour, minute = 86400, 3600, 60
    everywhere = bakery["all"]
    assert {level: one["acknowledge_seconds"] for level, one in everywhere["severities"].items()} == {
        "P0": 0, "P1": 15 * minute, "P2": hour, "P3": 4 * hour
    }
    assert everywhere["responsibilities"]["Database administrator"] == "backups, optimization, migrations"
    assert len(everywhere["responsibilities"]) == 5
    assert [one["respond_seconds"] for one in everywhere["alert_levels"].values()] == [0, 30 * minute, None]
    assert everywhere["scaling_triggers"]["cpu_percent"] == {"warning": 75, "over_seconds": hour}
    assert [step["tenants"] for step in everywhere["growth_path"]] == [10, 20, 30, 50, 75, 100, 200]
    assert everywhere["rotation_days"]["passwords"] == 90
    assert everywhere["data_retention_days"] == {
        "application_logs": {"highest": 30}, "database_audit_logs": {"lowest": 90}, "security_logs": {"lowest": 365},
        "backups": {"lowest": bakery["databases"]["backup_policy"]["retention_days"]},
    }
    assert bakery["databases"]["recovery_point_objective_seconds"] == day
    assert bakery["databases"]["recovery_time_objective_seconds"] == 4 * hour
    assert dbis["all"]["data_retention_days"]["audit_logs"] == {"lowest": 7 * 365, "highest": 10 * 365}


# Each red flag of the documents, where the inventories have it: B4, B5, B6; D3, D4.
RED_FLAGS = {
    ("bakery_ia", "services"): {
        "error_percent": {"critical": 5}, "p95_seconds": {"critical": 3}, "requests": {"critical": 1, "worse": "below"},
        "restarts_per_hour": {"critical": 3},
    },
    ("bakery_ia", "databases"): {"connections_percent": {"warning": 80}, "slow_statement_seconds": {"warning": 1}},
    ("bakery_ia", "servers"): {
        "cpu_percent": {"critical": 85}, "memory_percent": {"critical": 90}, "swap_bytes": {"warning": 0},
        "disk_free_percent": {"critical": 20, "worse": "below"}, "disk_latency_seconds": {"critical": 0.1},
    },
    ("dbis_core", "payments"): {
        "failure_percent": {"critical": 5, "over_seconds": 300}, "latency_p95_seconds": {"warning": 30},
        "unmatched_items": {"warning": 10},
    },
    ("dbis_core", "tls"): {
        "connection_errors": {"critical": 10, "over_seconds": 60}, "circuit_breaker": {"warning": 0},
    },
}


@pytest.mark.parametrize(("inventory", "part"), RED_FLAGS)
def test_a_red_flag_is_where_the_document_puts_it(inventory: str, part: str) -> None:
    found = inventory_schema.Inventory(ROOT / "inventories" / inventory).shared["all"]["thresholds"][part]
    for measure, flag in RED_FLAGS[inventory, part].items():
        assert flag.items() <= found[measure].items(), measure


def test_pools_are_as_large_as_the_guide_says() -> None:
    # The inventory's share of B48: 15 connections at most for each replica.
    shared = inventory_schema.Inventory(ROOT / "inventories" / "bakery_ia").shared
    assert shared["services"]["service_pool"] == {
        "size": 5, "overflow": 10, "timeout_seconds": 30, "recycle_seconds": 3600
    }


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A root with a copy of one inventory and of what the roles declare."""
    shutil.copytree(ROOT / "inventories" / "bakery_ia", tmp_path / "inventories" / "bakery_ia")
    for role in (ROOT / "roles").iterdir():
        if (role / "meta" / "argument_specs.yml").exists():
            shutil.copytree(role / "meta", tmp_path / "roles" / role.name / "meta")
    return tmp_path


def _change(root: Path, file: str, change: Callable[[Tree], None]) -> None:
    path = root / "inventories" / "bakery_ia" / file
    tree = load(path)
    change(tree)
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")


def _host(group: str, host: str, **variables: Any) -> Callable[[Tree], None]:
    def change(tree: Tree) -> None:
        tree["all"]["children"][group]["hosts"][host].update(variables)

    return change


def _without(name: str) -> Callable[[Tree], None]:
    return lambda tree: tree.pop(name)


def _with(**variables: Any) -> Callable[[Tree], None]:
    return lambda tree: tree.update(variables)


def _unmarked(tree: Tree) -> None:
    del tree["contacts"][1]["placeholder"]


def _typed(tree: Tree) -> None:
    tree["health_checks"][0]["time_out"] = 3


HOSTS, DATABASES, SERVICES = "hosts.yml", "group_vars/databases.yml", "group_vars/services.yml"
CONTACTS = "group_vars/all/contacts.yml"
FAULTS = {
    "an unknown variable of a host": (
        HOSTS, _host("databases", "orders-db", databse_port=5432),
        "orders-db: the variable databse_port is unknown in the group databases.",
    ),
    "an unknown variable of a group": (
        SERVICES, _with(service_colour="blue"), "gateway: the variable service_colour is unknown in the group",
    ),
    "a word of another group": (
        HOSTS, _host("services", "gateway", database_port=1), "gateway: the variable database_port is unknown",
    ),
    "an unknown variable of all": (
        "group_vars/all/main.yml", _with(tresholds={}), "all: the variable tresholds is unknown.",
    ),
    "a window for a runbook that does not exist": (
        "group_vars/all/main.yml",
        _with(run_windows=[{"name": "w", "runbooks": ["database_restor"], "start": "02:00", "end": "04:00"}]),
        "all: The window w names the runbook database_restor, which does not exist.",
    ),
    "a misspelt word of a freeze": (
        "group_vars/all/main.yml", _with(run_freezes=[{"name": "f", "from": "2026-12-24", "untill": "2026-12-26"}]),
        "all: The freeze f has the unknown key untill.",
    ),
    "services without a health check": (SERVICES, _without("health_checks"), "pos-service: health_checks is missing."),
    "a service with an empty list of checks": (
        HOSTS, _host("services", "pos-service", health_checks=[]), "pos-service: health_checks is empty",
    ),
    "a check of an unknown kind": (
        HOSTS, _host("services", "pos-service", health_checks=[{"kind": "smoke"}]), "pos-service: health_checks has",
    ),
    "a misspelt option of a check": (SERVICES, _typed, "gateway: health_checks has the unknown option time_out."),
    "a database without a backup policy": (
        DATABASES, _without("backup_policy"), "orders-db: backup_policy is missing.",
    ),
    "a backup policy that is empty": (
        HOSTS, _host("databases", "auth-db", backup_policy={}), "auth-db: backup_policy is missing.",
    ),
    "a backup policy without retention": (
        HOSTS, _host("databases", "auth-db", backup_policy={"schedule": "daily"}),
        "auth-db: backup_policy lacks retention_days.",
    ),
    "a service on a database that does not exist": (
        HOSTS, _host("services", "sales-service", service_database="sale-db"),
        "sales-service: service_database names sale-db, which is no host in the group databases.",
    ),
    "a consumer that does not exist": (
        HOSTS, _host("databases", "sales-db", consumers=["sales-service", "till"]),
        "sales-db: consumers names till, which is no host in the group services.",
    ),
    "a consumer that is not named": (
        HOSTS, _host("databases", "sales-db", consumers=[]), "sales-db: consumers lacks sales-service",
    ),
    "a store that does not exist": (
        DATABASES, _with(backup_store="tape"), "auth-db: backup_store names tape, which is no host in the group",
    ),
    "a scratch server without PostgreSQL": (
        DATABASES, _with(scratch_server="bakery-vps"), "auth-db: scratch_server is bakery-vps, which has no",
    ),
    "a backup on the database's own server (B38 ⚠)": (
        DATABASES, _with(backup_store="local-store"),
        "auth-db: backup_store is local-store on bakery-vps, the database's own server",
    ),
    "an endpoint that says nothing": (
        HOSTS, lambda tree: tree["all"]["children"]["endpoints"]["hosts"]["grafana"].clear(),
        "grafana: neither endpoint_url nor endpoint_host and endpoint_port",
    ),
    "an endpoint with half an address": (
        HOSTS, lambda tree: tree["all"]["children"]["endpoints"]["hosts"].update(mail={"endpoint_host": "mail"}),
        "mail: neither endpoint_url nor endpoint_host and endpoint_port",
    ),
    "a cache that does not name its consumer": (
        HOSTS, lambda tree: tree["all"]["children"]["caches"]["hosts"]["redis"]["consumers"].remove("gateway"),
        "redis: says nothing of gateway",
    ),
    "a service that does not name its cache": (
        HOSTS, _host("services", "gateway", service_caches=[]), "gateway: says nothing of redis",
    ),
    "a misspelt threshold": (
        "group_vars/all/thresholds.yml", lambda tree: tree["thresholds"]["servers"]["cpu_percent"].update(waring=1),
        "all: thresholds.servers.cpu_percent has the unknown key waring",
    ),
    "a misspelt severity": (
        "group_vars/all/thresholds.yml", lambda tree: tree["severities"]["P1"].update(acknowledge_minutes=15),
        "all: severities.P1 has the unknown key acknowledge_minutes",
    ),
    "a lock host that does not exist": (
        "group_vars/all/main.yml", _with(run_lock_host="bastion"),
        "all: run_lock_host names bastion, which is no host in the group servers.",
    ),
    "a store on a server that does not exist": (
        HOSTS, _host("stores", "local-store", server="attic"),
        "local-store: server names attic, which is no host in the group servers.",
    ),
    "a placeholder contact that is not marked (D29)": (
        CONTACTS, _unmarked,
        "all: contacts has oncall@yourdomain.com for On-call, a placeholder that is not marked with placeholder: true.",
    ),
    "a contact without an address": (
        CONTACTS, _with(contacts=[{"role": "On-call"}]), "all: contacts has {'role': 'On-call'}, which lacks",
    ),
    "a secret in plain text": (
        HOSTS, _host("databases", "auth-db", database_admin={"user": "postgres", "password": "hunter2"}),
        "auth-db: database_admin.password holds a secret in plain text",
    ),
    "a port that is a word": (
        HOSTS, _host("databases", "auth-db", database_port="5432"),
        "auth-db: database_port is '5432' and should be of type int.",
    ),
    "a group that nobody knows": (
        HOSTS, lambda tree: tree["all"]["children"].update(queues={"hosts": {"kafka": {}}}),
        "the group queues is unknown",
    ),
}


@pytest.mark.parametrize(("file", "change", "sentence"), FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_is_found_with_host_and_variable(
    copy: Path, file: str, change: Callable[[Tree], None], sentence: str
) -> None:
    _change(copy, file, change)
    found = inventory_schema.findings(copy)
    assert any(one.startswith(f"inventories/bakery_ia: {sentence}") for one in found), found


def test_the_copy_is_found_right_before_it_is_changed(copy: Path) -> None:
    assert inventory_schema.findings(copy) == []


def test_a_folder_that_would_win_over_the_lab_is_found(copy: Path) -> None:
    (copy / "inventories" / "bakery_ia" / "host_vars").mkdir()
    assert [one for one in inventory_schema.findings(copy) if "host_vars would win over an overlay" in one]


def test_a_backup_on_its_own_server_can_be_meant(copy: Path) -> None:
    """B38 ⚠."""
    _change(copy, DATABASES, _with(backup_store="local-store", backup_store_on_own_server=True))
    assert inventory_schema.findings(copy) == []


@pytest.mark.parametrize("address", [
    "[Contact]", "", "?", "oncall@yourdomain.com", "ops@example.org", "TBD-todo", "pager.placeholder.invalid",
    "<phone>", "+1 000000 0000", "xxx", "CHANGEME",
])
def test_what_nobody_filled_in_counts_as_a_placeholder(address: str) -> None:
    """D29: placeholders in the runbook's contacts."""
    assert inventory_schema.PLACEHOLDER.search(address)


@pytest.mark.parametrize("address", ["oncall@bakery-ia.eu", "+34 931 220 415", "https://chat.bakery-ia.eu/#ops"])
def test_a_real_contact_is_no_placeholder(address: str) -> None:
    assert not inventory_schema.PLACEHOLDER.search(address)


def test_no_inventory_reads_a_secret_in_another_way_than_by_lookup() -> None:
    """X18: passwords in the sources' command lines and files."""
    for path in (ROOT / "inventories").rglob("*.yml"):
        for line in path.read_text(encoding="utf-8").splitlines():
            if re.match(r"\s*(\w*password|token):", line):
                assert "lookup('ansible.builtin.file'" in line or "password }}" in line, f"{path}: {line}"
