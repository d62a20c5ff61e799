"""Time stamps in every form that services write them in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.health.timestamps import parse_timestamp
from hypothesis import given
from hypothesis import strategies as st

MOMENT = datetime(2026, 4, 16, 10, 0, tzinfo=UTC)
EPOCH = int(MOMENT.timestamp())


@pytest.mark.parametrize("value", [
    "2026-04-16T10:00:00Z", "2026-04-16T10:00:00.000Z", "2026-04-16T12:00:00+02:00", "2026-04-16T12:00:00+0200",
    "2026-04-16 10:00:00", "2026-04-16T10:00:00", "2026-04-16 10:00:00 UTC", "2026-04-16T05:30:00-04:30",
    "2026-04-16T10:00:00.000000000Z", "Thu, 16 Apr 2026 10:00:00 GMT", "20260416T100000Z",
    EPOCH, float(EPOCH), str(EPOCH), EPOCH * 10**3, str(EPOCH * 10**3), EPOCH * 10**6, EPOCH * 10**9, f"{EPOCH}.0",
])
def test_same_moment_in_every_form(value):
    assert parse_timestamp(value) == MOMENT


@pytest.mark.parametrize("value", [
    None, True, "", "noon", "yesterday", "2026-13-01T00:00:00Z", [], {}, "Thu, 99 Foo 2026", float("nan"), float("inf"),
    10**400, "9" * 60, "0001-01-01T00:00:00+14:00", "x" * 1000,
])
def test_what_is_no_moment_is_none(value):
    assert parse_timestamp(value) is None


def test_thirteen_digits_are_milliseconds_and_not_the_year_1710():
    assert parse_timestamp("1710123012345") == datetime(2024, 3, 11, 2, 10, 12, 345000, UTC)


@given(st.integers(315532800, 7258118400),
       st.integers(-14 * 60, 14 * 60))
def test_offset_never_changes_the_moment(seconds, minutes):
    moment = datetime.fromtimestamp(seconds, UTC)
    written = moment.astimezone(timezone(timedelta(minutes=minutes))).isoformat()
    assert parse_timestamp(written) == moment


@given(st.text(max_size=80) | st.floats() | st.integers() | st.text("0123456789.-+:TZ ", max_size=40))
def test_anything_is_a_moment_with_a_time_zone_or_none(value):
    found = parse_timestamp(value)
    assert found is None or found.tzinfo is UTC
