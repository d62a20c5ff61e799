"""The module as Ansible runs it: check, run, check again, run again."""

from __future__ import annotations

import json
import time

from tests.integration.health.conftest import login_of


def targets_of(redis_server, login) -> list[dict]:
    return [
        {"name": "redis", "checks": [{"kind": "redis", "name": "cache", "host": redis_server.host,
                                      "port": redis_server.port, "password": redis_server.password,
                                      "measures": ["all"]}]},
        {"name": "orders-db", "checks": [{"kind": "postgresql", "name": "monitor", "login": login_of(login),
                                          "measures": ["all"]}]},
    ]


def test_check_mode_probes_and_writes_nothing_and_a_run_changes_nothing(redis_server, database, module, tmp_path):
    file, targets = tmp_path / "state" / "samples.json", targets_of(redis_server, database)
    results = []
    for check_mode in (True, False, True, False):
        results.append(module(check_mode, targets=targets, samples_file=str(file), wait_for_second_sample=False))
        assert file.exists() is (len(results) > 1)
    assert [result["changed"] for result in results] == [False] * 4
    names = [[(check["target"], check["name"], check["status"]) for check in result["checks"]] for result in results]
    assert names[0] == names[1] == names[2] == names[3]
    assert file.stat().st_mode & 0o077 == 0


def test_young_sample_is_kept_until_a_second_one_is_old_enough(redis_server, database, module, tmp_path):
    file, targets = tmp_path / "samples.json", targets_of(redis_server, database)
    module(targets=targets, samples_file=str(file), wait_for_second_sample=False)
    first = json.loads(file.read_text())
    result = module(targets=targets, samples_file=str(file), wait_for_second_sample=False)
    assert json.loads(file.read_text()) == first
    assert any("and two must be 10 s apart" in line for line in result["not_measured"])
    older = {label: {**sample, "at": sample["at"] - 60} for label, sample in first.items()}
    file.write_text(json.dumps(older))
    result = module(targets=targets, samples_file=str(file), wait_for_second_sample=False)
    assert {"redis", "orders-db"} >= {check["target"] for check in result["checks"] if "window_seconds" in
                                      check["evidence"]} != set()
    assert json.loads(file.read_text())["redis cache"]["at"] > first["redis cache"]["at"]


def test_samples_file_that_is_not_ours_is_replaced_and_one_that_cannot_be_written_is_said(
    redis_server, database, module, tmp_path
):
    file, targets = tmp_path / "samples.json", targets_of(redis_server, database)
    file.write_text("{ torn")
    assert "failed" not in module(targets=targets, samples_file=str(file), wait_for_second_sample=False)
    assert set(json.loads(file.read_text())) == {"redis cache", "orders-db monitor"}
    result = module(targets=targets, samples_file="/proc/nowhere/samples.json", wait_for_second_sample=False)
    assert result["failed"]
    assert "The samples file /proc/nowhere/samples.json cannot be used" in result["msg"]


def test_without_a_place_that_lasts_the_second_sample_is_waited_for(redis_server, database, module):
    """The only test that waits: 10 seconds, with the ratio at the end of them."""
    started = time.monotonic()
    result = module(targets=targets_of(redis_server, database))
    assert time.monotonic() - started >= 10
    assert any(check["name"] == "monitor.cache_hit_percent" for check in result["checks"])


def test_target_without_a_check_is_unknown(module):
    result = module(targets=[{"name": "forgotten", "checks": []}])
    assert result["status"] == "unknown"
    assert result["checks"][0]["message"] == "The inventory has no health check for it."


def test_wrong_measure_fails_with_the_ones_there_are(redis_server, module):
    check = {"kind": "redis", "host": redis_server.host, "port": redis_server.port, "measures": ["hits"]}
    result = module(targets=[{"name": "redis", "checks": [check]}])
    assert result["failed"]
    assert "cannot measure hits" in result["msg"]
    assert "hit_percent" in result["msg"]


def test_secrets_are_in_no_result(redis_server, database, module):
    result = module(targets=targets_of(redis_server, database), wait_for_second_sample=False)
    text = json.dumps({name: value for name, value in result.items() if name != "invocation"})
    assert redis_server.password not in json.dumps(result)
    assert database.password not in json.dumps(result)
    assert '"status"' in text
