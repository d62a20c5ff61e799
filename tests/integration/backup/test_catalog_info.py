"""backup_catalog_info beside real backups."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible_collections.sre.runbooks.plugins.module_utils.backup.bucket import TargetBucket
from ansible_collections.sre.runbooks.plugins.module_utils.backup.s3 import Bucket
from ansible_collections.sre.runbooks.plugins.module_utils.backup.verdict import Verdict
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import Login

from tests.unit.backup.conftest import manifest_of

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
    assert [day["state"] for day in seen["calendar"]["days"]][-2:] == ["before", "restored"]
    assert len(seen["calendar"]["days"]) == 35
    assert f'target="orders-db"}} {made["total_bytes"]}' in seen["metrics"]
    odd = call_module("backup_catalog_info", {**where, "days": 0})
    assert "A calendar of 0 days cannot be drawn" in odd["msg"]


def test_a_store_that_is_not_there_is_an_error_and_no_empty_catalog(call_module: Call, tmp_path: Path):
    result = call_module(
        "backup_catalog_info", {"store_path": str(tmp_path / "gone"), "system": "bakery_ia", "target": "orders-db"}
    )
    assert result["failed"]
    assert "does not exist" in result["msg"]


def test_metrics_are_put_in_place_once_and_whole(call_module: Call, tmp_path: Path):
    """What node_exporter's text-file collector reads."""
    where = {"directory": str(tmp_path), "system": "bakery_ia", "target": "orders-db"}
    first, path = {**where, "metrics": "a 1\n"}, tmp_path / "sre_runbooks_backup_bakery_ia_orders-db.prom"
    assert call_module("backup_metrics", first, check_mode=True)["changed"]
    assert not path.exists()
    assert call_module("backup_metrics", first)["path"] == str(path)
    assert not call_module("backup_metrics", first)["changed"]
    assert call_module("backup_metrics", {**where, "metrics": "a 2\n"})["diff"] == {"before": "a 1\n", "after": "a 2\n"}
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("a 2\n", 0o644)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    gone = call_module("backup_metrics", {**first, "directory": str(tmp_path / "gone")})
    assert "cannot be written" in gone["msg"]
    assert "--collector.textfile.directory" in gone["msg"]


def test_a_long_catalog_of_a_bucket_takes_one_request_for_each_page(bucket: Bucket):
    """Names say what a catalog shows: no manifest and no verdict is opened. A page has 1000 names; here it has 5."""
    place = TargetBucket(bucket, "bakery_ia", "orders-db")
    ids = [f"202611{day:02}T021500Z-0001" for day in range(1, 13)]
    for backup_id in ids:
        moment = f"2026-11-{backup_id[6:8]}T02:15:00.000Z"
        place.publish(manifest_of(backup_id, moment))
        place.add_verdict(Verdict("good", "restore", moment, backup_id))
    requests: list[str] = []
    events = place._s3._client.meta.events
    events.register("before-parameter-build.s3.ListObjectsV2", lambda params, **_more: params.update(MaxKeys=5))
    events.register("before-send.s3", lambda request, **_more: requests.append(request.url))
    backups = place.backups()
    assert [(backup.backup_id, backup.proven_rung) for backup in backups] == [(one, "restore") for one in ids]
    assert len(requests) == 1 + 1 + 3 + 3, "folders of files, claims, verdicts, manifests"
    assert all("list-type=2" in url for url in requests)
