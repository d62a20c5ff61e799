"""What a person reads, and how statuses are compared."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.sre.runbooks.plugins.filter.health import FilterModule
from ansible_collections.sre.runbooks.plugins.module_utils.health.check import Check, Threshold, judged
from ansible_collections.sre.runbooks.plugins.module_utils.health.measures import MEASURES, threshold_for
from ansible_collections.sre.runbooks.plugins.module_utils.health.summary import grouped
from ansible_collections.sre.runbooks.plugins.module_utils.run.checks import STATUSES, worst
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from hypothesis import given
from hypothesis import strategies as st

FILTERS = FilterModule().filters()


def check(target: str, name: str, status: str, message: str = "It is so.") -> dict:
    return Check(name, target, "http", status, message).as_dict()


FULL = judged("monitor.connections_percent", "orders-db", "postgresql", 91.0, "percent", Threshold(80, 90),
              "88 of 97 connections are in use.").as_dict()
CHECKS = [check("a", "http", "ok"), check("b", "http", "warning"), check("c", "http", "unknown"), FULL]


def test_unknown_is_worse_than_warning_and_nothing_at_all_is_unknown():
    """Only a proof passes."""
    assert STATUSES == ("ok", "warning", "unknown", "critical")
    assert worst([]) == "unknown"
    assert worst(["ok", "unknown", "warning"]) == "unknown"
    assert worst(["ok", "never heard of"]) == "unknown"


@given(st.lists(st.sampled_from(STATUSES), min_size=1))
def test_worst_is_one_of_them_and_none_is_worse(statuses):
    assert worst(statuses) == max(statuses, key=STATUSES.index)


@pytest.mark.parametrize(("value", "worse", "status"), [
    (80, "above", "ok"), (80.01, "above", "warning"), (90, "above", "warning"), (91, "above", "critical"),
    (90, "below", "ok"), (89, "below", "warning"), (79, "below", "critical"), (float("nan"), "above", "unknown"),
])
def test_value_equal_to_the_threshold_still_passes(value, worse, status):
    limits = (80, 90) if worse == "above" else (90, 80)
    assert Threshold(*limits, worse).judge(value) == status


def test_thresholds_of_the_documents_stand_in_the_table():
    """B5 B8 B11 B12: a cold cache is at most a warning."""
    assert MEASURES["postgresql"]["connections_percent"].threshold == Threshold(80, 90)
    assert MEASURES["postgresql"]["cache_hit_percent"].threshold == Threshold(90, None, "below")
    assert MEASURES["tls"]["certificate_days"].threshold.warning == 30


def test_threshold_of_the_inventory_replaces_the_collections_and_keeps_its_side():
    given_ = [{"measure": "cache_hit_percent", "warning": 95.0, "critical": 70.0, "worse": None}]
    assert threshold_for("postgresql", "cache_hit_percent", given_) == Threshold(95, 70, "below")


def test_thresholds_on_the_wrong_sides_are_refused():
    with pytest.raises(RunbookError, match="wrong sides"):
        threshold_for("postgresql", "cache_hit_percent", [{"measure": "cache_hit_percent", "warning": 70.0,
                                                           "critical": 95.0, "worse": None}])


def test_summary_names_each_offender_with_value_and_threshold_the_worst_first():
    lines = FILTERS["health_summary"]({"checks": CHECKS}, ["redis cache.hit_percent: not measured yet."])
    assert lines[0] == "4 checks of 4 targets: 1 critical, 1 unknown, 1 warning, 1 ok."
    assert lines[1] == ("critical  orders-db monitor.connections_percent: 91.0 %, more than 90.0 %. "
                        "88 of 97 connections are in use.")
    assert [line.split()[0] for line in lines[1:4]] == ["critical", "unknown", "warning"]
    assert lines[-1] == "redis cache.hit_percent: not measured yet."


def test_summary_of_nothing_claims_nothing():
    assert FILTERS["health_summary"]([]) == ["Nothing was checked, so nothing is known to be well."]
    assert FILTERS["health_worst"]([]) == "unknown"


def test_summary_leaves_out_what_is_better_than_asked():
    assert len(FILTERS["health_summary"](CHECKS, at_least="critical")) == 2


def test_same_sentence_for_many_targets_is_said_once():
    assert grouped(["a x: no.", "b x: no.", "c y: no."]) == ["2 targets x: no.", "c y: no."]


def test_table_has_problems_first_fits_the_terminal_and_is_plain_unless_asked():
    lines = FILTERS["health_table"](CHECKS, width=100).splitlines()
    assert [line.split()[0] for line in lines] == ["status", "critical", "unknown", "warning", "ok"]
    assert max(map(len, lines)) <= 100
    assert "\x1b" not in "".join(lines)
    assert FILTERS["health_table"](CHECKS, colour=True).count("\x1b[0m") == 4


def test_difference_knows_worse_better_gone_and_new():
    before = [check("a", "http", "ok"), check("b", "http", "critical"), check("c", "http", "ok"), check("e", "x", "ok")]
    after = [check("a", "http", "warning"), check("b", "http", "ok"), check("d", "http", "ok"), check("e", "x", "ok")]
    found = FILTERS["health_diff"](before, {"checks": after})
    assert {kind: [change["target"] for change in found[kind]] for kind in ("worse", "better", "gone", "new")} == {
        "worse": ["a"], "better": ["b"], "gone": ["c"], "new": ["d"]}
    assert found["unchanged"] == 1
    assert found["status"] == "unknown"  # what is gone is no longer known to be well


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xy"), st.sampled_from(STATUSES)),
                unique_by=lambda entry: entry[:2]))
def test_difference_of_a_measurement_with_itself_is_nothing(entries):
    checks = [check(*entry) for entry in entries]
    found = FILTERS["health_diff"](checks, checks)
    assert found["status"] == "ok"
    assert found["unchanged"] == len(checks)


@pytest.mark.parametrize("wrong", [None, "ok", 3, [{"status": "ok"}], {"msg": "no checks"}])
def test_filters_refuse_what_is_no_list_of_checks(wrong):
    with pytest.raises(AnsibleFilterError, match="wants a list of checks"):
        FILTERS["health_worst"](wrong)


def test_body_can_be_judged_in_a_template():
    found = FILTERS["health_parse"]({"status": "ok", "services": {"ledger": "down"}}, "loan")
    assert FILTERS["health_worst"](found) == "critical"
    assert FILTERS["health_worst"](FILTERS["health_parse"]("", "loan")) == "unknown"
