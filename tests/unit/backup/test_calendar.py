# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a day of the calendar shows, and what Prometheus is told."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.backup.calendar import (
    BAD_TONE,
    GOOD,
    WARNING,
    calendar,
    page,
)
from ansible_collections.sre.runbooks.plugins.module_utils.backup.catalog import Backup, Limits
from ansible_collections.sre.runbooks.plugins.module_utils.backup.exposition import exposition
from ansible_collections.sre.runbooks.plugins.module_utils.backup.verdict import RUNGS, Verdict
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime(2026, 11, 21, 1, 20, tzinfo=UTC)
HOUR = 3600
A_DAY_AND_AN_HOUR = 25 * HOUR


def backup(hours: float, *verdicts: tuple[str, str | None], problem: str = "", size: int = 1000) -> Backup:
    """One that shows the moment this many hours ago."""
    moment = NOW - timedelta(hours=hours)
    backup_id = f"{moment:%Y%m%dT%H%M%SZ}-0001"
    proofs = tuple(Verdict(name, rung, moment.isoformat(), backup_id) for name, rung in verdicts)
    known = {} if problem else {"taken_at": moment, "total_bytes": size}
    return Backup(backup_id, f"/srv/{backup_id}", problem, proofs, **known)


ARCHIVED, RESTORED, DAMAGED = (("good", "archive"),), (("good", "archive"), ("good", "content")), (
    ("good", "content"), ("corrupt", None),
)


def drawn(backups: list[Backup], days: int = 4, moment: datetime = NOW) -> dict:
    return calendar(backups, moment, days, A_DAY_AND_AN_HOUR, "restore", "/srv")


def states(backups: list[Backup], days: int = 4) -> list[str]:
    return [day["state"] for day in drawn(sorted(backups, key=lambda one: one.backup_id), days)["days"]]


@pytest.mark.parametrize(
    ("backups", "expected"),
    [
        ([], ["missing"] * 4),
        ([backup(1, *RESTORED)], ["before", "before", "before", "restored"]),
        ([backup(23, *ARCHIVED)], ["before", "before", "archived", "pending"]),
        ([backup(26, *ARCHIVED)], ["before", "archived", "missing", "missing"]),
        ([backup(71, *RESTORED), backup(1, *ARCHIVED)], ["restored", "missing", "missing", "archived"]),
        ([backup(48, *DAMAGED), backup(23, *RESTORED)], ["before", "unproven", "restored", "pending"]),
        ([backup(48, ("good", "bytes")), backup(23)], ["before", "unproven", "unproven", "missing"]),
        ([backup(23, ("unverifiable", "restore"))], ["before", "before", "unproven", "missing"]),
        ([backup(48, *RESTORED), backup(47, *ARCHIVED)], ["before", "restored", "missing", "missing"]),
        ([backup(48, *RESTORED), backup(47, *DAMAGED), backup(23, *RESTORED)],
         ["before", "restored", "restored", "pending"]),
        ([backup(48, *RESTORED, problem="It is not what was written."), backup(23, *RESTORED)],
         ["before", "unproven", "restored", "pending"]),
        ([backup(24 * 40, *ARCHIVED), backup(1, *RESTORED)], ["missing", "missing", "missing", "restored"]),
        ([backup(23, *RESTORED), backup(1)], ["before", "before", "restored", "pending"]),
        ([backup(23, *RESTORED), backup(1, *DAMAGED)], ["before", "before", "restored", "unproven"]),
        ([backup(26), backup(1)], ["before", "unproven", "missing", "unproven"]),
        ([backup(-48, *RESTORED)], ["missing"] * 4),
    ],
    ids=["no backup at all is a gap on each day", "the first one", "today is not over", "today is overdue",
         "days between", "damaged", "not proven", "unverifiable", "the best of each day", "one of two is damaged",
         "its manifest cannot be read", "the first one is older than the calendar",
         "today's is not proven yet", "today's is damaged", "today's is not proven, and none is young enough",
         "one of the future is of a wrong clock"],
)
def test_each_day_is_drawn_as_what_is_proven_of_it(backups: list[Backup], expected: list[str]):
    """B42 ⚠: what is not there is shown as a gap, and nothing unproven is green."""
    assert states(backups) == expected


def test_a_day_says_what_it_has_and_names_what_is_damaged():
    two = [backup(48, *RESTORED), backup(47, *DAMAGED)]
    day = drawn(two)["days"][1]
    assert (day["date"], day["backups"]) == ("2026-11-19", 2)
    assert day["text"] == (
        f"{two[0].backup_id}, the best of 2, is proven to the rung content. {two[1].backup_id} is corrupt."
    )


@given(
    hours=st.lists(st.floats(0, 24 * 60), max_size=12), days=st.integers(1, 60),
    proof=st.sampled_from([(), ARCHIVED, RESTORED, DAMAGED]),
)
def test_every_day_is_there_once_and_only_a_proof_makes_it_green(hours: list[float], days: int, proof: tuple):
    backups = sorted((backup(one, *proof) for one in hours), key=lambda one: one.backup_id)
    shown = drawn(backups, days)["days"]
    assert [day["date"] for day in shown] == [
        (NOW.date() - timedelta(days=days - 1 - index)).isoformat() for index in range(days)
    ]
    for day in shown:
        on_it = [one for one in backups if one.taken_at.date().isoformat() == day["date"]]
        assert day["backups"] == len(on_it)
        assert (day["state"] == "restored") == (bool(on_it) and proof == RESTORED)
        assert (day["state"] == "archived") == (bool(on_it) and proof == ARCHIVED)


def test_the_page_tells_rpo_and_who_could_not_be_read_and_shows_trouble_first():
    good = {**drawn([backup(73, *RESTORED), backup(49, *RESTORED), backup(25, *RESTORED), backup(1, *RESTORED)]),
            "objective_seconds": 86400, "problems": []}
    gap = {**drawn([backup(71, *RESTORED), backup(1, *ARCHIVED)]), "objective_seconds": 1800, "problems": ["Too old."]}
    shown = page("bakery_ia", ["good-db", "gap-db", "silent-db"], {"good-db": good, "gap-db": gap})
    by_name = {one["name"]: one for one in shown["databases"]}
    assert [one["name"] for one in shown["databases"]][-1] == "good-db"
    assert (by_name["good-db"]["tone"], by_name["good-db"]["met"]) == (GOOD, True)
    assert by_name["gap-db"]["words"] == "2 days without a backup"
    assert (by_name["gap-db"]["met"], by_name["gap-db"]["exposed"]) == (False, "3 days")
    assert by_name["silent-db"]["tone"] == BAD_TONE
    assert "could not be read" in by_name["silent-db"]["problems"][0]
    assert shown["title"] == "2 of 3 databases need a look: 6 of 8 days have a proven backup"
    assert shown["tone"] == BAD_TONE


@pytest.mark.parametrize(
    ("backups", "objective", "tone"),
    [
        ([backup(25, *RESTORED), backup(1, *RESTORED)], None, GOOD),
        ([backup(25, *RESTORED), backup(1, *RESTORED)], 2 * HOUR, GOOD),
        ([backup(25, *RESTORED), backup(1, *RESTORED)], HOUR / 2, BAD_TONE),
        ([backup(25, *RESTORED), backup(1, *ARCHIVED)], 2 * HOUR, GOOD),
        ([backup(25, *RESTORED), backup(1)], 2 * HOUR, BAD_TONE),
        ([backup(49, *RESTORED), backup(25, *DAMAGED), backup(1, *RESTORED)], None, BAD_TONE),
        ([backup(49, *RESTORED), backup(25), backup(1, *RESTORED)], None, BAD_TONE),
        ([backup(73, *RESTORED), backup(-2, *RESTORED)], 2 * HOUR, BAD_TONE),
    ],
    ids=["no RPO", "within", "missed", "an archive is within", "what is not proven is none", "a damaged day",
         "a day that is not proven", "a wrong clock meets no RPO"],
)
def test_a_day_without_proof_and_a_missed_rpo_are_never_good(backups: list[Backup], objective: float | None, tone: str):
    """B42 ⚠: nothing unproven is called good, and 25 hours are too old where an hour may be lost."""
    catalog = {**drawn(backups, 2), "objective_seconds": objective, "problems": []}
    assert page("s", ["t"], {"t": catalog})["tone"] == tone


@pytest.mark.parametrize(
    ("ages", "title", "tone"),
    [
        ([1], "t needs a look: 1 of 7 days has a proven backup, nothing is known of the 6 days before the oldest one",
         WARNING),
        ([121, 97, 73, 49, 25, 1],
         "t needs a look: 6 of 7 days have a proven backup, nothing is known of the 1 day before the oldest one",
         WARNING),
        ([145, 121, 97, 73, 49, 25, 1], "7 of 7 days have a proven backup", GOOD),
        ([24 * 30, 121, 97, 73, 49, 25, 1], "t needs a look: 6 of 7 days have a proven backup", BAD_TONE),
        ([143, 119, 95, 71, 47, 23], "6 of 6 days have a proven backup", GOOD),
    ],
    ids=["all but today's are lost", "the oldest is lost", "every day", "a day of the middle is lost",
         "today is not over"],
)
def test_days_of_which_nothing_is_left_are_never_covered(ages: list[float], title: str, tone: str):
    """B42 ⚠: a store that lost all but today's backup was told as one that has a backup of every day."""
    catalog = {**drawn([backup(age, *RESTORED) for age in ages], 7), "objective_seconds": None, "problems": []}
    shown = page("s", ["t"], {"t": catalog})
    assert (shown["title"], shown["tone"]) == (title, tone)


# The grammar of https://prometheus.io/docs/instrumenting/exposition_formats/, version 0.0.4, and its rules on order.
SAMPLE = re.compile(
    r'([a-zA-Z_:][a-zA-Z0-9_:]*)\{((?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\\\|\\"|\\n)*",?)*)\} '
    r"(-?(?:\d+\.?\d*(?:e[+-]?\d+)?|Inf)|NaN)"
)
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\\\|\\"|\\n)*)"')
ESCAPES = {r"\\": "\\", r"\"": '"', r"\n": "\n"}


def parse(text: str) -> dict[tuple[str, frozenset], float]:
    """All series; each metric has HELP, then TYPE, then its series and no other's, and no series comes twice."""
    assert text.endswith("\n")
    series: dict[tuple[str, frozenset], float] = {}
    known: list[str] = []
    lines = iter(text[:-1].split("\n"))
    for line in lines:
        if line.startswith("# HELP "):
            name = line.split(" ")[2]
            assert name not in known
            assert next(lines) == f"# TYPE {name} gauge"
            known.append(name)
            continue
        found = SAMPLE.fullmatch(line)
        assert found, line
        assert found[1] == known[-1]
        labels = [(name, re.sub(r'\\[\\"n]', lambda one: ESCAPES[one[0]], value))
                  for name, value in LABEL.findall(found[2])]
        assert len(dict(labels)) == len(labels)
        key = (found[1], frozenset(labels))
        assert key not in series
        series[key] = float(found[3])
    return series


def metrics(backups: list[Backup], system: str = "s", target: str = "t", least: str | None = "restore") -> dict:
    return parse(exposition(system, target, backups, NOW, Limits(90000, 2764800, least)))


@given(system=st.text(), target=st.text())
def test_whatever_a_target_is_called_prometheus_reads_its_name(system: str, target: str):
    names = {tuple(sorted(labels)) for _name, labels in metrics([], system, target)}
    assert {dict(one)["target"] for one in names} == {target}
    assert {dict(one)["system"] for one in names} == {system}


def test_prometheus_is_told_the_newest_backup_of_each_rung_and_0_where_there_is_none():
    """B42 ⚠ A57 A62b: a missing series would alert nobody."""
    backups = [
        backup(50, *DAMAGED), backup(30, *RESTORED, size=5000), backup(3, *ARCHIVED, size=7000), backup(1, size=9000),
    ]
    told = metrics(backups)

    def value(name: str, **labels: str) -> float:
        return told[(f"sre_runbooks_{name}", frozenset({"system": "s", "target": "t", **labels}.items()))]

    newest = {rung: value("backup_newest_timestamp_seconds", rung=rung) for rung in ("none", *RUNGS)}
    ages = {rung: round((NOW.timestamp() - moment) / HOUR, 6) for rung, moment in newest.items() if moment}
    assert ages == {"none": 1, "bytes": 3, "archive": 3, "restore": 30, "content": 30}
    assert newest["application"] == 0
    assert value("backup_maximum_age_seconds", rung="archive") == 90000
    assert value("backup_maximum_age_seconds", rung="restore") == 2764800
    assert value("backup_newest_size_bytes") == 9000
    assert value("backups") == 4
    assert value("backups_damaged") == 1
    assert value("backup_catalog_timestamp_seconds") == NOW.timestamp()
    assert value("backup_growth_bytes_per_day") > 0
    # What nobody alerts on is left out while it is unknown.
    assert {one for one in told if one[0] != "sre_runbooks_backup_growth_bytes_per_day"} == set(metrics([]))


def test_prometheus_is_told_how_much_a_database_may_lose_where_that_is_set():
    """B42 ⚠: the alert compares it with the newest backup of the same labels."""
    name = "sre_runbooks_backup_recovery_point_objective_seconds"
    told = parse(exposition("s", "t", [], NOW, Limits(90000, 2764800, objective_s=3600)))
    assert {dict(labels)["rung"]: value for (one, labels), value in told.items() if one == name} == {"archive": 3600}
    assert not [one for one, _labels in metrics([]) if one == name]


def test_the_stricter_of_two_limits_counts_where_both_are_of_one_rung():
    told = metrics([], least="archive")
    assert [value for (name, _labels), value in told.items() if "maximum_age" in name] == [90000]
