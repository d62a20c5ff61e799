"""Which backups may go (X15, A62 ⚠: age alone destroys the last good copy): tables, and properties of any catalog."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.backup.catalog import Backup
from ansible_collections.sre.runbooks.plugins.module_utils.backup.retention import PERIODS, Policy, decide
from ansible_collections.sre.runbooks.plugins.module_utils.backup.verdict import RUNGS, Verdict, height
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.moments import utc_text
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)


def backup(age: timedelta, rung: str | None = "restore", verdict: str = "good", number: int = 0) -> Backup:
    taken_at = NOW - age
    backup_id = f"{taken_at:%Y%m%dT%H%M%SZ}-{number:04x}"
    verdicts = (Verdict(verdict, rung, utc_text(taken_at), backup_id),) if rung or verdict != "good" else ()
    return Backup(backup_id, "/store", "", verdicts, taken_at, None, 1000)


def daily(count: int, rung: str | None = "restore") -> list[Backup]:
    return [backup(number * DAY, rung) for number in reversed(range(count))]


def policy(minimum: timedelta = timedelta(0), holds: Sequence[str] = (), **periods: int) -> Policy:
    return Policy(periods, minimum.total_seconds(), 90000, frozenset(holds))


def kept_days(backups: list[Backup], rules: Policy) -> list[int]:
    return sorted((NOW - one.backup.taken_at).days for one in decide(backups, rules, NOW) if one.kept)


@pytest.mark.parametrize(
    ("rules", "days"),
    [
        (policy(daily=3), [0, 1, 2]),
        (policy(weekly=2), [0, 6]),
        (policy(monthly=2), [0, 21]),
        (policy(daily=2, monthly=2), [0, 1, 21]),
        (policy(daily=1, minimum=4 * DAY), [0, 1, 2, 3]),
        (policy(yearly=1), [0]),
        (policy(hourly=2), [0, 1]),
    ],
)
def test_of_each_period_the_newest_proven_one_stays(rules: Policy, days: list[int]) -> None:
    """A62 ⚠ B38 B70 D26: thirty backups, one a day; 21 November 2026 is a Saturday."""
    assert kept_days(daily(30), rules) == days


def test_within_a_period_the_proven_one_is_kept_over_a_newer_one_that_is_not() -> None:
    backups = [backup(4 * DAY + HOUR), backup(4 * DAY, "archive"), backup(3 * DAY), backup(timedelta(0))]
    assert [one.backup for one in decide(backups, policy(daily=3), NOW) if not one.kept] == [backups[1]]


def test_a_damaged_backup_never_takes_the_place_of_a_good_one() -> None:
    """X15: on a day with a good archive and a newer corrupt one, the good one stays, whatever was proven of either."""
    good, bad = backup(4 * DAY + HOUR, "archive"), backup(4 * DAY, "archive", "corrupt")
    unsure = replace(bad, verdicts=(*bad.verdicts, Verdict("unverifiable", None, utc_text(NOW), bad.backup_id)))
    for damaged in (bad, unsure):
        decisions = decide([good, damaged, backup(timedelta(0))], policy(daily=3), NOW)
        assert [(one.backup, one.kept) for one in decisions[:2]] == [(good, True), (damaged, False)]


def test_nothing_goes_while_nothing_newer_is_proven_by_a_restore() -> None:
    """B38 ⚠ X14: thirty backups that were only listed, never restored."""
    assert kept_days(daily(30, "archive"), policy(daily=1)) == list(range(30))
    old_proof = [backup(40 * DAY), *daily(30, "archive")]
    assert kept_days(old_proof, policy(daily=1)) == [*range(30), 40]


def test_a_proof_that_was_undone_keeps_nothing_behind_it() -> None:
    damaged = backup(timedelta(0), "bytes", "corrupt")
    assert kept_days([*daily(5, "archive")[:-1], damaged], policy(daily=1)) == [0, 1, 2, 3, 4]


def test_what_is_held_stays_and_says_so() -> None:
    backups = daily(10)
    decisions = decide(backups, policy(daily=1, holds=[backups[0].backup_id]), NOW)
    assert (decisions[0].kept, decisions[0].reason) == (True, "held")


def test_a_backup_that_cannot_be_read_is_left_to_a_person() -> None:
    unreadable = Backup("20200101T000000Z-0000", "/store", "broken", ())
    decision = decide([unreadable, *daily(2)], policy(daily=1), NOW)[0]
    assert decision.kept
    assert "remove it by hand" in decision.reason


REFUSED = [
    ([backup(-2 * HOUR)], policy(daily=1), "the clock here says"),
    ([backup(3 * DAY)], policy(daily=1), "backups have stopped, or the clock here is wrong"),
    (daily(3), policy(), "keeps nothing"),
    (daily(3), policy(daily=0), "keeps nothing"),
    (daily(3), policy(daily=-1, weekly=1), "keeps nothing"),
    (daily(3), policy(fortnightly=1), "no period 'fortnightly'"),
    (daily(3), policy(daily=1, holds=["20200101T000000Z-0000"]), "the listing may not be whole"),
    ([Backup("20200101T000000Z-0000", "/store", "broken", ())], policy(daily=1), "None of 1 manifests can be read"),
]


@pytest.mark.parametrize(("backups", "rules", "words"), REFUSED)
def test_a_listing_or_a_clock_that_looks_wrong_removes_nothing(
    backups: list[Backup], rules: Policy, words: str
) -> None:
    with pytest.raises(RunbookError, match=words):
        decide(backups, rules, NOW)


def test_an_empty_catalog_has_nothing_to_remove() -> None:
    assert decide([], policy(daily=1), NOW) == []


CATALOGS = st.lists(
    st.builds(
        backup, st.timedeltas(timedelta(0), timedelta(days=900)), st.sampled_from([None, *RUNGS]),
        st.sampled_from(["good", "good", "good", "corrupt", "unverifiable"]), st.integers(0, 0xFFFF),
    ),
    max_size=40, unique_by=lambda one: one.backup_id,
).map(lambda backups: sorted([*backups, backup(HOUR, "archive")], key=lambda one: one.backup_id))
COUNTS = st.integers(0, 8)
POLICIES = st.builds(
    lambda minimum, **periods: Policy(periods, minimum.total_seconds(), 90000),
    st.timedeltas(timedelta(0), timedelta(days=60)), hourly=COUNTS, daily=st.integers(1, 8), weekly=COUNTS,
    monthly=COUNTS, yearly=COUNTS,
)


@given(CATALOGS, POLICIES)
def test_whatever_the_catalog_a_newer_backup_proven_by_a_restore_stays_behind_each_that_goes(
    backups: list[Backup], rules: Policy
) -> None:
    """X15: a prune that destroys the last good copy."""
    decisions = decide(backups, rules, NOW)
    stays = [one.backup for one in decisions if one.kept]
    proven = [one for one in stays if one.proven_rung in RUNGS[2:]]
    for one in decisions:
        if not one.kept:
            assert any(good.taken_at > one.backup.taken_at for good in proven)
            assert (NOW - one.backup.taken_at).total_seconds() >= rules.minimum_age_s
    for one in decisions:
        stands_for = [name for name in PERIODS if name in one.reason.split(" and ")]
        assert not (stands_for and one.backup.damage)
        # Nothing that goes was of more worth than what its period keeps.
        for name in stands_for:
            of = PERIODS[name]
            rivals = [other.backup for other in decisions if of(other.backup.taken_at) == of(one.backup.taken_at)]
            assert max(height(rival.proven_rung) for rival in rivals) == height(one.backup.proven_rung)
    was_proven = [one for one in backups if one.proven_rung in RUNGS[2:]]
    if was_proven:
        assert max(was_proven, key=lambda one: (one.taken_at, one.backup_id)) in stays


@given(CATALOGS, POLICIES)
def test_a_second_look_at_once_removes_nothing_more(backups: list[Backup], rules: Policy) -> None:
    stays = [one.backup for one in decide(backups, rules, NOW) if one.kept]
    assert [one.backup for one in decide(stays, rules, NOW) if one.kept] == stays
