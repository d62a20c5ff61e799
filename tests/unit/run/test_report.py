"""What the report says, before it is a page."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.run.checks import difference, status_of
from ansible_collections.sre.runbooks.plugins.module_utils.run.report import build, unhealthy
from ansible_collections.sre.runbooks.plugins.module_utils.run.report_page import label, page, timeline
from ansible_collections.sre.runbooks.plugins.module_utils.run.words import about, amount, duration, size

from tests.integration.run.sample import at, check, restore, run


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (0.052, "s", "52 ms"), (13.5, "s", "13.5 s"), (60, "s", "1 min"), (3600, "s", "1 h"),
        (2830, "s", "47 min 10 s"),
        (86400, "s", "1 d"), (0, "s", "0 s"), (5, "s", "5 s"), (0, "bytes", "0 B"), (108_387, "bytes", "108.4 kB"),
        (512_400_000, "bytes", "512.4 MB"), (4120, "rows", "4,120 rows"), (10.309, "percent", "10.3 %"),
        (0.0, "sessions", "0 sessions"), (True, "", "yes"), (None, "s", "not known"), (None, "rows", "not known"),
        ("<b>", None, "<b>"), (59.99, "s", "1 min"),
    ],
)
def test_amounts_are_written_as_people_say_them(value: Any, unit: Any, shown: str) -> None:
    assert amount(value, unit) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0 s"), (45.4, "45 s"), (119, "119 s"), (600, "10 minutes"), (7200, "2 hours"), (86400 * 3, "3 days")],
)
def test_ages_are_said_in_one_unit(seconds: float, shown: str) -> None:
    assert about(seconds) == shown


def test_what_was_not_measured_is_never_shown_as_a_figure() -> None:
    assert (duration(None), size("x")) == ("not known", "not known")


@pytest.mark.parametrize(
    ("statuses", "worst"),
    [
        (["ok", "ok"], "ok"), (["ok", "warning"], "warning"), (["warning", "unknown"], "unknown"),
        (["unknown", "critical"], "critical"), ([], "unknown"), (["ok", "fine"], "unknown"),
        (["fine", "critical"], "critical"),
    ],
)
def test_only_ok_checks_make_a_healthy_target(statuses: list[str], worst: str) -> None:
    assert status_of([{"status": status} for status in statuses]) == worst


def test_a_check_that_is_gone_is_not_known_to_be_well() -> None:
    was = {"target": "orders-db", "name": "health", "status": "ok", "message": ""}
    found = difference([was], [{**was, "name": "another"}])
    assert (found["status"], found["gone"][0]["after"], found["gone"][0]["message"]) == (
        "unknown", None, "It was not measured again.",
    )


@pytest.mark.parametrize(
    ("name", "shown"),
    [("exchange", "Exchange"), ("rows_lost", "Rows lost"), ("outage", "Outage (stop to healthy)"),
     ("recovery_point", "Data lost (time)"), ("take_back", "Take back"), ("apply", "Apply")],
)
def test_names_on_the_page_are_words(name: str, shown: str) -> None:
    assert label(name) == shown


def test_the_report_measures_against_the_targets_and_before_against_after() -> None:
    (target,) = build([run(), *restore()], [])["targets"]
    assert {measure["name"]: measure["met"] for measure in target["measures"]} == {
        "outage": True, "recovery_time": True, "recovery_point": False, "rows_lost": None, "size": None,
    }
    assert [(change["name"], change["before"], change["after"]) for change in target["health"]["changes"]] == [
        ("health", "critical", "ok"), ("newest row", "critical", "warning"),
    ]
    assert [(phase["name"], phase["duration_s"]) for phase in target["phases"]] == [
        ("preflight", 4.0), ("apply", 36.9), ("verify", 5.4),
    ]


def test_a_host_that_was_lost_in_the_middle_has_an_unknown_outcome() -> None:
    report = build([run(), *restore("a"), *[entry for entry in restore("b") if entry["kind"] != "end"]], [])
    assert {target["name"]: target["outcome"] for target in report["targets"]} == {"a": "done", "b": "unknown"}
    assert report["outcome"] == "unknown"


def test_the_page_shows_what_is_not_well_beside_an_outcome_that_is() -> None:
    records = [run("health"), *restore()]
    for record in records:
        if record["kind"] == "checks":
            record["data"]["checks"] += [check("b", "health", "unknown"), check("b", "query", "critical")]
            record["data"]["not_measured"] = [f"{name} lag: no standby is connected." for name in ("a", "b")]
    assert unhealthy(records) == "1 critical, 1 unknown, 1 warning after"
    shown = page(build(records, []))
    assert shown["tone"] == "warn"
    after = shown["targets"][0]["health"]["shown"][-1]
    assert [found["status"] for found in after["offenders"]] == ["critical", "unknown", "warning"]
    assert after["not_measured"] == ["2 targets lag: no standby is connected."]


def test_losing_within_the_target_is_no_good_news_and_health_that_nobody_measured_is_left_out() -> None:
    records = [record for record in restore() if record["kind"] != "checks"]
    for record in records:
        if record["data"].get("name") == "recovery_point":
            record["data"]["value"] = 10
    shown = page(build([run(), *records], []))
    assert (shown["targets"][0]["lost"]["tone"], shown["measured"]) == ("quiet", False)
    assert unhealthy(records) == ""


@pytest.mark.parametrize("outcome", ["done", "failed and undone"])
def test_a_drill_says_what_would_be_lost_and_never_that_it_is(outcome: str) -> None:
    """B45 ⚠: the age of the backup is held against the RPO; nothing was lost by a drill."""
    records = [record for record in restore() if record["data"].get("name") not in ("recovery_point", "rows_lost")]
    drill = {"name": "would_be_lost", "value": 20 * 86400, "unit": "s", "objective": 86400}
    records.append({"at": at(59), "host": "orders-db", "kind": "measure", "data": drill})
    for record in records:
        if "outcome" in record["data"]:
            record["data"]["outcome"] = outcome
    (target,) = page(build([run(), *records], []))["targets"]
    assert (target["outcome"], target["lost"]) == (outcome, None)
    (shown,) = [measure for measure in target["measures"] if measure["name"] == "would_be_lost"]
    assert (shown["label"], shown["value"], shown["met"]) == (
        "Data that a restore would lose now (time)", "20 d", False
    )


def test_every_bar_and_mark_of_the_timeline_is_inside_it() -> None:
    records = [run(), *restore()]
    records.append({"at": at(60), "host": "orders-db", "kind": "measure",
                    "data": {"name": "outage", "value": 9000, "unit": "s"}})
    records.append({"at": at(60), "host": "orders-db", "kind": "phase", "data": {"name": "undo", "state": "begin"}})
    (target,) = build(records, [])["targets"]
    rows = timeline(target)["rows"]
    assert [row["label"] for row in rows] == ["Preflight", "Apply", "Verify", "Undo", "Outage", "Outage"]
    for row in rows:
        assert 0 <= row["left"] < 100
        assert 0 < row["width"] <= 100 - row["left"] + 0.01
        assert all(0 <= mark["left"] <= 100 for mark in row["marks"])
    assert next(row for row in rows if row["label"] == "Undo")["time"] == "not finished"


@pytest.mark.parametrize(
    ("outcome", "lost"),
    [
        ("refused", "Nothing"), ("nothing to do", "Nothing"), ("failed and undone", "Not known"),
        ("unknown", "Not known"),
    ],
)
def test_nothing_was_lost_only_where_nothing_was_touched(outcome: str, lost: str) -> None:
    records = [entry for entry in restore(outcome=outcome) if entry["kind"] != "measure"]
    assert page(build([run(), *records], []))["targets"][0]["lost"]["value"] == lost
