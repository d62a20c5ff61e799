# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The sweep as an operator starts it: what is seen, the exit code, and what the last message says."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from lab.machine import wait_for

pytestmark = pytest.mark.usefixtures("mended")
# Rates wait for a second sample where nothing lasts; these tests are about everything else.
QUICK = ("-e", "health_wait_for_second_sample=false")


def checks_of(platform) -> list[dict[str, Any]]:
    records = (platform.newest_run() / "run.jsonl").read_text(encoding="utf-8").splitlines()
    return next(json.loads(line)["data"]["checks"] for line in records if json.loads(line)["kind"] == "checks")


def test_platform_that_is_well_ends_with_0_and_a_report(bakery):
    """B13 ⚠ B62: all 18 services and all 14 databases, and an exit code that means something."""
    done = bakery.play("health", *QUICK)
    assert done.returncode == 0, done.stdout
    targets = {check["target"] for check in checks_of(bakery)}
    assert sum(target.endswith("-db") for target in targets) == 14
    assert {"gateway", "orders-service", "redis"} <= targets
    report = json.loads((bakery.newest_run() / "report.json").read_text(encoding="utf-8"))
    assert report["outcome"] == "done"
    assert (bakery.newest_run() / "report.html").exists()
    assert "\x1b[" not in done.stdout  # coloured only on a terminal


def test_limit_leaves_the_rest_unasked(bakery):
    done = bakery.play("health", *QUICK, "--limit", "orders-db,redis")
    assert done.returncode == 0, done.stdout
    assert {check["target"] for check in checks_of(bakery)} == {"orders-db", "redis"}


@pytest.mark.parametrize(("arguments", "words"), [
    (("-e", "target=oders-db"), "did you mean orders-db"),
    (("-e", "target=orders-db", "--limit", "redis"), "leaves nothing of the target orders-db"),
])
def test_target_that_is_none_is_a_failure_and_not_an_empty_success(bakery, arguments, words):
    done = bakery.play("health", *QUICK, *arguments)
    assert done.returncode != 0
    assert words in done.stdout + done.stderr


def test_secret_that_is_missing_leaves_one_target_unknown_and_the_others_measured(bakery):
    """X10: one database without its secret must not blind the sweep for all the others."""
    secret = bakery.lab.folder / "secrets" / "orders-db" / "monitor"
    hidden = secret.rename(secret.with_name("monitor-is-away"))
    try:
        done = bakery.play("health", *QUICK, "-e", "target=databases")
    finally:
        hidden.rename(secret)
    assert done.returncode == 2, done.stdout
    statuses = {(check["target"], check["name"]): check["status"] for check in checks_of(bakery)}
    assert [name for target, name in statuses if target == "orders-db"] == ["health_checks"]
    assert statuses["orders-db", "health_checks"] == "unknown"
    assert sum(name == "application" and status == "ok" for (_unused, name), status in statuses.items()) == 13
    assert "Its health checks cannot be read" in done.stdout


FAULTS = {
    "refusing": ("orders-service", "critical", "Nothing listens on"),
    "stop": ("auth-service", "critical", "Nothing listens on"),
    "empty": ("tenant-service", "unknown", "The body is empty."),
    "html": ("training-service", "unknown", "The body is HTML instead of JSON"),
    "down": ("forecasting-service", "critical", "It says"),
    "old": ("sales-service", "critical", "2 hours old, so the body is stale"),
    "hang": ("external-service", "unknown", "took the connection and sent no whole answer within"),
    "stale": ("suppliers-service", "critical", "3 minutes old, so the body is stale"),
    "errors": ("recipes-service", "critical", "instead of 200"),
    "leak": ("production-service", "critical", "pool.in_use_percent"),
}


def test_failing_services_are_named_in_the_failing_task_each_with_a_sentence_of_its_own(bakery):
    """B9 B34 B59 D3 X5: each fault of the lab ends in one sentence with the values, and the play with 2."""
    for fault, (service, _unused, _unused) in FAULTS.items():
        bakery.fault(fault, service)
    bakery.fault("blocked", "orders-db")
    bakery.fault("version", "notification-service")
    stopped = (datetime.now(UTC) - timedelta(minutes=3)).isoformat()
    control = bakery.lab.service_folder("suppliers-service") / "control.json"
    control.write_text(json.dumps({"stale": stopped}), encoding="utf-8")
    leaking = FAULTS["leak"][0]
    assert wait_for(lambda: json.loads(bakery.get(leaking)[1])["pool"]["in_use_percent"] == 100, 30)
    # Every other request ends with 500: the next one after a good one.
    assert wait_for(lambda: bakery.get(FAULTS["errors"][0])[0] == 200, 5)
    done = bakery.play("health", *QUICK, "-e", "target=services:orders-db", "-e", "health_timeout_seconds=2",
                       "-e", "health_show=false")
    assert done.returncode == 2, done.stdout
    assert " critical, " in done.stdout[done.stdout.rindex("done (health: "):]
    failed = done.stdout[done.stdout.rindex("fatal:"):]
    for service, status, words in FAULTS.values():
        lines = [line for line in failed.split("\\n") if line.startswith(f"{status:8}  {service} health")]
        assert any(words in line for line in lines), (service, failed)
    assert "inventory-service" not in failed
    assert "orders-db" not in failed
    found = {(check["target"], check["name"]): check for check in checks_of(bakery)}
    assert found["notification-service", "health.version"]["status"] == "warning"
    blocked = found["orders-db", "monitor.blocked_sessions"]
    assert (blocked["status"], blocked["evidence"]["samples"]) == ("warning", ["warning", "warning"])


def test_slow_service_fails_only_when_warnings_or_critical_are_to_fail(bakery):
    """B4: slower than 3 s is red; the lab's slow service takes 3.5 s."""
    bakery.fault("slow", "orders-service")
    arguments = (*QUICK, "-e", "target=orders-service")
    assert bakery.play("health", *arguments).returncode == 2
    assert bakery.play("health", *arguments, "-e", "health_fail_on=never").returncode == 0


def test_database_that_is_gone_is_seen_at_the_database_and_at_its_service(bakery):
    bakery.fault("database-stop", "orders-db")
    done = bakery.play("health", *QUICK, "-e", "target=orders-service,orders-db")
    assert done.returncode == 2
    bad = {(check["target"], check["name"]): check["status"] for check in checks_of(bakery) if check["status"] != "ok"}
    assert bad["orders-db", "application"] == bad["orders-db", "monitor"] == "critical"
    assert bad["orders-service", "health.services"] == "critical"


def test_no_secret_is_shown_or_kept(bakery):
    done = bakery.play("health", *QUICK, "-vvv", "-e", "target=orders-db,redis")
    kept = "".join(path.read_text(encoding="utf-8", errors="replace") for path in bakery.newest_run().iterdir())
    for path in (bakery.lab.folder / "secrets").rglob("*"):
        if path.is_file():
            assert path.read_text(encoding="utf-8").strip() not in done.stdout + done.stderr + kept


def test_payments_platform_is_measured_by_its_own_metrics(dbis, tmp_path):
    """D2 D3 D4: the metrics are there, and failing payments are seen between two sweeps."""
    kept = tmp_path / "samples.json"
    arguments = (*QUICK, "-e", f"health_samples_file={kept}", "-e", "target=services:databases")
    done = dbis.play("health", *arguments)
    assert done.returncode == 0, done.stdout
    first = {check["name"]: check["status"] for check in checks_of(dbis) if check["target"] == "app"}
    assert first["metrics.metrics"] == first["metrics.reconciliation_unmatched_items"] == "ok"
    assert first["health.pool.in_use_percent"] == first["metrics.circuit_breaker_state"] == "ok"
    assert "app metrics.payments_failed_total.percent: not measured yet" in done.stdout
    dbis.fault("errors", "app")
    try:
        for _unused in range(120):
            try:
                urlopen(Request(dbis.lab.url("app") + "/payments", method="POST"), timeout=5).close()
            except HTTPError as error:
                error.close()
        samples = json.loads(kept.read_text(encoding="utf-8"))
        samples["app metrics"]["at"] -= 30
        kept.write_text(json.dumps(samples), encoding="utf-8")
        done = dbis.play("health", *arguments)
    finally:
        dbis.mend("app")
    assert done.returncode == 2, done.stdout
    found = {check["name"]: check for check in checks_of(dbis) if check["target"] == "app"}
    assert found["metrics.payments_failed_total.percent"]["status"] == "critical"
    assert found["metrics.payments_failed_total.percent"]["value"] > 5
    assert found["metrics.tls_connection_errors_total.increase"]["status"] == "ok"
    assert found["metrics.payment_processing_duration_seconds.p95"]["status"] == "ok"
    assert found["metrics.circuit_breaker_state"]["status"] == "warning"
