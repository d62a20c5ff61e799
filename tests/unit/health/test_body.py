"""Health bodies: every shape of the documents, and whatever else a stranger may send."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.health.body import HttpAnswer, judge_answer
from ansible_collections.sre.runbooks.plugins.module_utils.health.shapes import (
    SHAPES,
    STATUS_OF_WORD,
    WORDS,
    quoted,
    status_of_word,
)
from ansible_collections.sre.runbooks.plugins.module_utils.run.checks import STATUSES
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime(2026, 4, 16, 10, 0, 30, tzinfo=UTC)
CHECK = {"name": "http", "shape": "auto", "services": [], "version": None, "expected_status": [200],
         "timestamp_required": False, "timestamp_maximum_age_seconds": 300.0, "thresholds": []}

KREDETE = {"status": "healthy", "timestamp": "2026-04-16T10:00:00Z", "services": {
    "customer": "up", "loan": "up", "scoring": "up", "ledger": "up", "payment": "up"}}
BAKERY = {"status": "healthy", "service": "orders-service", "version": "1.0.0", "uptime_seconds": 12.3,
          "timestamp": "2026-04-16T10:00:00.123456+00:00",
          "checks": {"database": {"status": "up", "latency_ms": 0.8}, "cache": {"status": "up"}}}
DBIS = {"status": "ok", "timestamp": "2026-04-16T10:00:00.123Z", "version": "1.0.0", "checks": {"database": "ok"}}
SPRING = {"status": "UP", "components": {"db": {"status": "UP"}, "diskSpace": {"status": "UP", "details": {}}}}
PLAIN = {"status": "ok"}


def judge(content: object, status: int = 200, **options: object) -> dict[str, str]:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    checks = judge_answer(HttpAnswer(status, body), {**CHECK, **options}, "it", NOW)
    return {check.name: check.status for check in checks}


@pytest.mark.parametrize(("body", "shape"), [
    (KREDETE, "services"), (BAKERY, "checks"), (DBIS, "checks"), (SPRING, "actuator"), (PLAIN, "plain"),
])
@pytest.mark.parametrize("explicit", [True, False])
def test_body_of_each_document_is_well_read_by_name_and_found_by_its_keys(body, shape, explicit):
    """K5 D7 A94: the shapes are a table."""
    found = judge(body, shape=shape if explicit else "auto")
    assert set(found.values()) == {"ok"}
    assert ("http.services" in found) == (shape != "plain")
    assert ("http.timestamp" in found) == ("timestamp" in body)


@pytest.mark.parametrize("body", [KREDETE, BAKERY, DBIS, SPRING])
def test_one_part_that_is_down_makes_each_shape_critical(body):
    members = next(form.members for form in SHAPES if form.members and form.members in body)
    parts = {**body[members], next(iter(body[members])): "down"}
    assert judge({**body, members: parts})["http.services"] == "critical"


def test_no_parts_where_there_should_be_some_is_unknown():
    assert judge({**KREDETE, "services": {}}) == {"http": "unknown"}
    assert judge({**KREDETE, "services": ["ledger"]}) == {"http": "unknown"}
    assert judge(PLAIN, services=["ledger"])["http.services"] == "unknown"


def test_shape_that_was_asked_for_is_not_replaced_by_another():
    assert judge(PLAIN, shape="services") == {"http": "unknown"}
    assert judge(b"OK", shape="text") == {"http": "ok"}
    assert judge(b"broken", shape="text") == {"http": "unknown"}
    assert judge(b"", shape="any") == {"http": "ok"}
    assert judge(b"<html>", status=502, shape="any") == {"http": "critical"}
    assert judge([1, 2], shape="json") == {"http": "ok"}


def test_word_has_one_meaning_only():
    assert sum(map(len, WORDS.values())) == len(STATUS_OF_WORD)
    assert set(WORDS) <= set(STATUSES)


@pytest.mark.parametrize(("word", "status"), [
    ("UP", "ok"), (" healthy ", "ok"), (True, "ok"), ("OUT-OF-SERVICE", "critical"), (False, "critical"),
    ("degraded", "warning"), ("", "unknown"), (None, "unknown"), (1, "unknown"), ({"status": "up"}, "unknown"),
])
def test_status_words(word, status):
    assert status_of_word(word) == status


@pytest.mark.parametrize(("age", "status"), [
    (timedelta(seconds=300), "ok"), (timedelta(seconds=301), "critical"), (timedelta(hours=2), "critical"),
    (timedelta(seconds=-299), "ok"), (timedelta(seconds=-301), "unknown"),
])
def test_time_stamp_may_be_this_old_and_no_older(age, status):
    """X5: two hours old is stale, whatever the status says."""
    assert judge({"status": "ok", "timestamp": (NOW - age).isoformat()})["http.timestamp"] == status


def test_missing_time_stamp_or_version_is_unknown_where_it_is_wanted():
    found = judge(PLAIN, timestamp_required=True, version="1.0.0")
    assert (found["http.timestamp"], found["http.version"]) == ("unknown", "unknown")


def test_strangers_text_cannot_reach_the_terminal():
    hostile = "\x1b[2J\x00 up\nTASK [all is well] " + "x" * 10000
    (check,) = judge_answer(HttpAnswer(200, json.dumps({"status": hostile}).encode()), CHECK, "it", NOW)
    assert check.status == "unknown"
    assert "\x1b" not in check.message
    assert "\n" not in check.message
    assert len(check.message) < 300
    assert len(quoted(hostile)) <= 80


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8) | st.sampled_from(
        ["status", "timestamp", "services", "checks", "components", "version"]), inner, max_size=6), max_leaves=12)
fields = [{"measure": "pool.in_use", "warning": 1.0, "critical": 2.0, "worse": None, "unit": None}]


@given(json_values, st.sampled_from([200, 204, 301, 500]))
def test_any_json_gives_checks_that_json_can_carry_and_ok_only_with_a_known_good_word(value, status):
    body = json.dumps(value).encode()
    checks = judge_answer(HttpAnswer(status, body), {**CHECK, "thresholds": fields, "timestamp_required": True},
                          "it", NOW)
    assert {check.status for check in checks} <= set(STATUSES)
    json.dumps([check.as_dict() for check in checks], allow_nan=False)
    if checks[0].status == "ok":
        assert status == 200
        assert status_of_word(value["status"]) == "ok"


@given(st.binary(max_size=200), st.sampled_from(["auto", "services", "checks", "actuator", "plain", "text", "json"]))
def test_any_bytes_give_checks_and_are_hardly_ever_ok(content, shape):
    checks = judge_answer(HttpAnswer(200, content), {**CHECK, "shape": shape}, "it", NOW)
    assert checks
    if not content.strip():
        assert checks[0].status == "unknown"


def test_body_that_is_nested_beyond_reason_is_unknown():
    assert judge(b"[" * 100000) == {"http": "unknown"}
    assert judge(b'{"status": ' + b"9" * 10000 + b"}") == {"http": "unknown"}
