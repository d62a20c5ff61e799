"""backup_catalog_info beside real backups."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import Login

Call = Callable[..., dict[str, Any]]


def test_a_catalog_lists_what_is_there_and_what_is_wrong(
    database: Login, call_module: Call, backup_arguments: Call, store: Path
):
    """B42 ⚠ X14 ⚠: `ls` proves nothing."""
    where = {"store_path": str(store), "system": "bakery_ia", "target": "orders-db"}
    assert "orders-db has no backup" in call_module("backup_catalog_info", where)["problems"][0]
    made = call_module("pg_backup", backup_arguments(database))["backup"]
    seen = call_module("backup_catalog_info", where)
    assert [backup["backup_id"] for backup in seen["backups"]] == [made["backup_id"]]
    assert seen["backups"][0]["total_bytes"] == made["total_bytes"]
    assert "no backup proven to the rung archive" in seen["problems"][0]
    verify = {**where, "login": backup_arguments(database)["login"], "rung": "archive",
              "postgresql_bin_directory": backup_arguments(database)["postgresql_bin_directory"]}
    assert call_module("pg_backup_verify", verify)["verdict"]["verdict"] == "good"
    seen = call_module("backup_catalog_info", where)
    assert [check["status"] for check in seen["checks"]] == ["ok", "critical", "ok"]
    assert seen["takes"] is None
    assert "sre.runbooks.backup_verify -e target=orders-db" in seen["problems"][0]
    drill = {**verify, "rung": "restore", "free_bytes": 10**9}
    assert call_module("pg_backup_verify", drill)["verdict"]["verdict"] == "good"
    seen = call_module("backup_catalog_info", where, check_mode=True)
    assert (seen["problems"], seen["takes"], seen["changed"]) == ([], made["backup_id"], False)
    assert seen["line"].endswith("the newest")


def test_a_store_that_is_not_there_is_an_error_and_no_empty_catalog(call_module: Call, tmp_path: Path):
    result = call_module(
        "backup_catalog_info", {"store_path": str(tmp_path / "gone"), "system": "bakery_ia", "target": "orders-db"}
    )
    assert result["failed"]
    assert "does not exist" in result["msg"]
