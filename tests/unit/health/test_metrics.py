"""Metrics in Prometheus' text format: read without trust, judged as they are and by what two samples say (D2 D3 D4)."""

from __future__ import annotations

import math
from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.sre.runbooks.plugins.module_utils.health.arguments import argument_spec
from ansible_collections.sre.runbooks.plugins.module_utils.health.body import HttpAnswer
from ansible_collections.sre.runbooks.plugins.module_utils.health.check import Check
from ansible_collections.sre.runbooks.plugins.module_utils.health.exposition import parse_metrics, quantile_of
from ansible_collections.sre.runbooks.plugins.module_utils.health.metrics import judge_metrics
from ansible_collections.sre.runbooks.plugins.module_utils.health.probe import Answer, Request
from ansible_collections.sre.runbooks.plugins.module_utils.health.rates import longest_window, rate_check
from ansible_collections.sre.runbooks.plugins.module_utils.health.samples import Sample
from ansible_collections.sre.runbooks.plugins.module_utils.health.sweep import Limits, requests_from
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from hypothesis import given
from hypothesis import strategies as st

BODY = """\
# HELP payments_failed_total Payments that failed.
# TYPE payments_failed_total counter
payments_failed_total{reason="bank \\"closed\\" }",to="a\\\\b"} 3
payments_failed_total{reason="time,out"} 4 1700000000000
payments_initiated_total 100
breaker_open{peer="x"} 1
latency_seconds_bucket{le="1"} 50
latency_seconds_bucket{le="2.5"} 90
latency_seconds_bucket{le="+Inf"} 100
latency_seconds_count 100
odd NaN
"""


def check_of(**options: Any) -> dict[str, Any]:
    given_ = {"kind": "http", "url": "http://h/metrics", "name": "metrics", "shape": "metrics", **options}
    validated = ArgumentSpecValidator(argument_spec()).validate({"targets": [{"name": "app", "checks": [given_]}]})
    assert not validated.error_messages, validated.error_messages
    return validated.validated_parameters["targets"][0]["checks"][0]


def judged(body: str, status: int = 200, **options: Any) -> Answer:
    return judge_metrics(HttpAnswer(status, body.encode()), check_of(**options), "app")


def statuses(answer: Answer) -> dict[str, str]:
    return {check.name: check.status for check in answer.checks}


def test_series_of_one_name_are_added_up_whatever_stands_in_their_labels():
    metrics = parse_metrics(BODY)
    assert metrics.totals["payments_failed_total"] == 7
    assert metrics.buckets["latency_seconds"] == {1.0: 50, 2.5: 90, math.inf: 100}


@pytest.mark.parametrize("line", [
    "no value", "a{ 1", 'a{x="} 1', "a 1_000", "a 0x1f", "a 1 2 3", "a infinity", "{} 1", '{"a": 1}', 'a{x="1"', "ä 1",
])
def test_line_of_another_format_makes_the_whole_unknown(line):
    """Only a proof passes: a metric behind such a line might have been missed."""
    with pytest.raises(RunbookError, match="Line 2 of the body is no metric"):
        parse_metrics(f"up 1\n{line}\n")


@pytest.mark.parametrize("body", [
    'a{x="' + "\\" * 500000, "a{" + '"x"' * 100000, "a{" * 200000, "a " + "1" * 500000 + "x", '"' * 500000,
])
def test_hostile_body_is_refused_in_time_that_grows_with_its_length_only(body):
    """A pattern that tried again would take years here."""
    with pytest.raises(RunbookError):
        parse_metrics(body)


def test_number_of_series_is_bounded():
    with pytest.raises(RunbookError, match="more than 50000 series"):
        parse_metrics("a 1\n" * 50001)


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text):
    try:
        found = parse_metrics(text).totals
    except RunbookError:
        return
    assert found


@pytest.mark.parametrize(("body", "status", "whole"), [
    (BODY, 200, "ok"), (BODY, 500, "critical"), ("", 200, "unknown"), ("<html>", 200, "unknown"),
    ("# nothing\n", 200, "unknown"), ('{"status": "ok"}', 200, "unknown"),
])
def test_address_is_well_only_when_it_answers_with_metrics(body, status, whole):
    assert statuses(judged(body, status))["metrics"] == whole


def test_metrics_that_must_be_there_are_named_when_they_are_not():
    """D2: the metrics of payments, TLS and the system are there."""
    there = judged(BODY, metrics=["payments_failed_total", "latency_seconds"])
    gone = judged(BODY, metrics=["payments_failed_total", "tls_acks_received_total"])
    assert statuses(there)["metrics.metrics"] == "ok"
    assert statuses(gone)["metrics.metrics"] == "unknown"
    assert "Missing: tls_acks_received_total." in gone.checks[1].message


@pytest.mark.parametrize(("threshold", "name", "status"), [
    ({"measure": "breaker_open", "warning": 0}, "metrics.breaker_open", "warning"),
    ({"measure": "payments_failed_total", "warning": 7}, "metrics.payments_failed_total", "ok"),
    ({"measure": "unmatched", "warning": 10}, "metrics.unmatched", "unknown"),
    ({"measure": "odd", "warning": 10}, "metrics.odd", "unknown"),
    ({"measure": "latency_seconds", "warning": 10}, "metrics.latency_seconds", "unknown"),
    ({"measure": "odd", "quantile": 0.5, "per_seconds": 60}, "metrics.odd.p50", "unknown"),
    ({"measure": "odd", "of": "gone", "per_seconds": 60}, "metrics.odd.percent", "unknown"),
])
def test_gauge_is_held_against_its_threshold_and_one_that_is_missing_is_unknown(threshold, name, status):
    """D4: unmatched items above 10, a breaker that is open."""
    assert statuses(judged(BODY, thresholds=[threshold]))[name] == status


FAILED = {"measure": "failed_total", "of": "initiated_total", "per_seconds": 300, "critical": 5}
ERRORS = {"measure": "errors_total", "per_seconds": 60, "critical": 10}
LATENCY = {"measure": "took", "quantile": 0.95, "per_seconds": 300, "warning": 30}


def payments(failed: int, initiated: int) -> str:
    return f"failed_total {failed}\ninitiated_total {initiated}\n"


def histogram(quick: int, slow: int, slowest: int) -> str:
    return (f'took_bucket{{le="1"}} {quick}\ntook_bucket{{le="60"}} {quick + slow}\n'
            f'took_bucket{{le="+Inf"}} {quick + slow + slowest}\n')


def rate(threshold: dict[str, Any], before: str, after: str, seconds: float) -> Check | str:
    first, last = (judged(body, thresholds=[threshold]).counters for body in (before, after))
    request = Request("app", check_of(thresholds=[threshold]))
    (measure,) = last
    return rate_check(measure, Sample(0, "", first), Sample(seconds, "", last), request)


@pytest.mark.parametrize(("threshold", "before", "after", "seconds", "status", "value"), [
    # D3: more than 5 % of the payments fail in 5 minutes. What failed before does not count.
    (FAILED, payments(900, 1000), payments(905, 1100), 300, "ok", 5),
    (FAILED, payments(0, 1000), payments(6, 1100), 300, "critical", 6),
    (FAILED, payments(900, 1000), payments(10, 100), 300, "critical", 10),  # a restart in between
    # D3: more than 10 TLS errors in a minute, whatever the distance of the samples.
    (ERRORS, "errors_total 5", "errors_total 15", 60, "ok", 10),
    (ERRORS, "errors_total 5", "errors_total 11", 30, "critical", 12),
    (ERRORS, "errors_total 5", "errors_total 25", 120, "ok", 10),
    (ERRORS, "errors_total 500", "errors_total 11", 60, "critical", 11),
    # D4: the p95 above 30 s; even within a bucket.
    (LATENCY, histogram(0, 500, 0), histogram(100, 500, 0), 300, "ok", 0.95),
    (LATENCY, histogram(0, 0, 0), histogram(90, 10, 0), 300, "warning", 30.5),
    (LATENCY, histogram(0, 0, 0), histogram(0, 0, 100), 300, "warning", 60),
])
def test_growth_between_two_samples_is_held_against_its_threshold(threshold, before, after, seconds, status, value):
    found = rate(threshold, before, after, seconds)
    assert isinstance(found, Check), found
    assert (found.status, found.value) == (status, pytest.approx(value))


@pytest.mark.parametrize(("threshold", "before", "after", "seconds", "words"), [
    (FAILED, payments(0, 1000), payments(2, 1010), 300, "too few for a ratio"),
    (FAILED, payments(0, 1000), payments(2, 1100), 700, "is 12 minutes old and this is about 5 minutes"),
    (LATENCY, histogram(5, 0, 0), histogram(10, 0, 0), 60, "too few for a quantile"),
    (ERRORS, "errors_total 5", "errors_total 5", 5, "two must be 10 s apart"),
])
def test_growth_that_proves_nothing_is_no_check(threshold, before, after, seconds, words):
    found = rate(threshold, before, after, seconds)
    assert isinstance(found, str)
    assert words in found


def test_sample_may_be_twice_as_old_as_the_shortest_window():
    assert longest_window(Request("app", check_of(thresholds=[FAILED, ERRORS]))) == 120


@pytest.mark.parametrize(("options", "words"), [
    ({"thresholds": [{**ERRORS, "per_seconds": 5}]}, "is about 5 s"),
    ({"thresholds": [{**LATENCY, "quantile": 95}]}, "The quantile of took"),
    ({"thresholds": [ERRORS], "shape": "json"}, "Only metrics have a window"),
])
def test_window_that_makes_no_sense_is_said_before_anything_is_asked(options, words):
    check = {**check_of(**options)}
    with pytest.raises(RunbookError, match=words):
        requests_from([{"name": "app", "checks": [check]}], Limits())


@given(st.lists(st.integers(0, 1000), min_size=3, max_size=3), st.floats(0.01, 0.99))
def test_quantile_lies_within_the_limits_and_is_none_without_observations(counts, share):
    buckets = {1.0: counts[0], 5.0: counts[0] + counts[1], math.inf: sum(counts)}
    value = quantile_of(buckets, share)
    assert math.isnan(value) if not sum(counts) else 0 <= value <= 5
