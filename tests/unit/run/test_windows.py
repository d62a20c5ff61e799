"""When a runbook may change something (D30 ⚠: change rules were never enforced; B53: windows of the document)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.windows import check, occurrences, permission
from hypothesis import given
from hypothesis import strategies as st

SUNDAY_NIGHT = {"name": "Sunday night", "days": ["sun"], "start": "02:00", "end": "04:00", "timezone": "Europe/Madrid"}
OVER_MIDNIGHT = {"name": "late", "days": ["fri"], "start": "23:00", "end": "01:00", "timezone": "UTC"}
FIRST_SUNDAY = {**SUNDAY_NIGHT, "name": "first Sunday", "week_of_month": 1}
LAST_SUNDAY = {**SUNDAY_NIGHT, "name": "last Sunday", "week_of_month": -1}
GAP = {"name": "gap", "days": ["sun"], "start": "02:30", "end": "03:30", "timezone": "Europe/Madrid"}
FREEZE = {"name": "Christmas", "from": "2026-12-24", "until": "2026-12-26", "timezone": "Europe/Madrid"}


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("windows", "freezes", "moment", "allowed"),
    [
        ([], [], "2026-11-21T12:00", True),
        ([SUNDAY_NIGHT], [], "2026-11-22T01:00", True),
        ([SUNDAY_NIGHT], [], "2026-11-22T00:59", False),
        ([SUNDAY_NIGHT], [], "2026-11-22T03:00", False),
        ([SUNDAY_NIGHT], [], "2026-07-05T00:30", True),  # summer time: two hours before UTC
        ([OVER_MIDNIGHT], [], "2026-11-20T23:30", True),
        ([OVER_MIDNIGHT], [], "2026-11-21T00:59", True),
        ([OVER_MIDNIGHT], [], "2026-11-21T23:30", False),
        ([FIRST_SUNDAY], [], "2026-12-06T01:30", True),
        ([FIRST_SUNDAY], [], "2026-12-13T01:30", False),
        ([LAST_SUNDAY], [], "2026-11-29T01:30", True),
        ([LAST_SUNDAY], [], "2026-11-22T01:30", False),
        ([{**SUNDAY_NIGHT, "runbooks": ["other"]}], [], "2026-11-21T12:00", True),
        ([{**SUNDAY_NIGHT, "runbooks": ["sre.runbooks.restore"]}], [], "2026-11-21T12:00", False),
        ([], [FREEZE], "2026-12-23T22:59", True),
        ([], [FREEZE], "2026-12-23T23:00", False),
        ([], [FREEZE], "2026-12-26T22:59", False),  # a date alone is the whole day
        ([], [FREEZE], "2026-12-26T23:00", True),
        ([], [{**FREEZE, "runbooks": ["other"]}], "2026-12-25T12:00", True),
        # The night when the clocks jump from 02:00 to 03:00: half past two comes an hour later.
        ([GAP], [], "2026-03-29T01:29", False),
        # The night when 02:00 to 03:00 comes twice: the first one is meant.
        ([SUNDAY_NIGHT], [], "2026-10-25T00:30", True),
        ([SUNDAY_NIGHT], [], "2026-10-25T02:59", True),
    ],
)
def test_a_runbook_changes_something_only_in_its_windows_and_outside_freezes(
    windows: list[dict[str, Any]], freezes: list[dict[str, Any]], moment: str, allowed: bool
) -> None:
    assert permission("restore", windows, freezes, utc(moment)).allowed is allowed


def test_a_refusal_names_the_next_window_in_utc_and_in_its_own_zone() -> None:
    reason = permission("restore", [SUNDAY_NIGHT], [], utc("2026-11-21T12:00")).reason
    assert reason == (
        "restore is outside its windows. The next window is Sunday night: Sun 2026-11-22 01:00 to Sun 03:00 UTC "
        "(Sun 2026-11-22 02:00 to Sun 04:00 Europe/Madrid)."
    )


def test_a_freeze_without_windows_names_its_end() -> None:
    reason = permission("restore", [], [FREEZE], utc("2026-12-25T12:00")).reason
    assert reason == (
        "restore is frozen by Christmas: Wed 2026-12-23 23:00 to Sat 2026-12-26 23:00 UTC (Thu 2026-12-24 00:00 to "
        "Sun 2026-12-27 00:00 Europe/Madrid). The next time is Sat 2026-12-26 23:00 UTC."
    )


def test_the_next_window_is_one_that_no_freeze_forbids() -> None:
    freeze = {"name": "audit", "from": "2026-11-22", "until": "2026-11-22 03:00", "timezone": "Europe/Madrid"}
    assert "Sun 2026-11-22 02:00 to Sun 03:00 UTC" in permission(
        "restore", [SUNDAY_NIGHT], [freeze], utc("2026-11-22T01:30")
    ).reason


@pytest.mark.parametrize(
    ("window", "said"),
    [
        ({**SUNDAY_NIGHT, "timezone": "Europe/Nowhere"}, "Europe/Nowhere"),
        ({**SUNDAY_NIGHT, "start": "25:00"}, "25:00"),
        ({**SUNDAY_NIGHT, "days": ["someday"]}, "som"),
        ({**SUNDAY_NIGHT, "days": "sun"}, "days of the window Sunday night is 'sun'"),
        ({**SUNDAY_NIGHT, "day": ["sun"]}, "unknown key day"),
        ({**SUNDAY_NIGHT, "timzone": "UTC"}, "unknown key timzone"),
        ({**SUNDAY_NIGHT, "runbooks": "restore"}, "runbooks of the window Sunday night is 'restore'"),
        ({**SUNDAY_NIGHT, "runbooks": []}, "runbooks of the window"),
        ({**SUNDAY_NIGHT, "week_of_month": 6}, "week_of_month"),
        # About another runbook, and wrong all the same.
        ({**SUNDAY_NIGHT, "runbooks": ["other"], "timezone": "Europe/Madird"}, "Europe/Madird"),
        ("Sunday", "which is no window"),
    ],
)
def test_a_window_that_cannot_be_read_is_an_error_and_never_open(window: dict[str, Any], said: str) -> None:
    with pytest.raises(RunbookError, match=said):
        permission("restore", [window], [], utc("2026-11-22T01:30"))


@pytest.mark.parametrize(
    ("windows", "freezes", "said"),
    [
        ({"name": "w"}, [], "no list"),
        ([], "never", "no list"),
        ([], [{**FREEZE, "untill": "2026-12-27"}], "unknown key untill"),
        ([], [{**FREEZE, "runbooks": ["acme.own.move"], "from": "Christmas"}], "from Christmas"),
        ([], [{**FREEZE, "runbooks": ["database_restor"]}], "names the runbook database_restor"),
        ([{**SUNDAY_NIGHT, "runbooks": ["sre.runbooks.database_restor"]}], [], "names the runbook"),
    ],
)
def test_a_calendar_that_is_mistyped_is_an_error(windows: Any, freezes: Any, said: str) -> None:
    with pytest.raises(RunbookError, match=said):
        check(windows, freezes, {"database_restore"})


def test_a_calendar_may_name_what_is_planned_and_what_others_have() -> None:
    check([{**SUNDAY_NIGHT, "runbooks": ["server_resize", "sre.runbooks.database_restore", "acme.own.move"]}], [],
          {"database_restore"})


def test_an_unquoted_time_of_day_means_what_was_written() -> None:
    """YAML 1.1 reads 12:30 as 750."""
    assert permission("x", [{"name": "noon", "start": 750, "end": 780}], [], utc("2026-11-21T12:45")).allowed


@given(
    start=st.times(), end=st.times(),
    zone=st.sampled_from(["UTC", "Europe/Madrid", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"]),
    moment=st.datetimes(datetime(2024, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC)),
)
def test_each_span_begins_on_an_allowed_day_by_the_clock_of_its_zone(
    start: Any, end: Any, zone: str, moment: Any
) -> None:
    window = {
        "name": "w", "days": ["tue"], "start": start.isoformat("minutes"), "end": end.isoformat("minutes"),
        "timezone": zone,
    }
    spans = occurrences(window, moment)
    for _index in range(3):
        span = next(spans)
        assert span.start < span.end
        assert span.end > moment
        assert span.end - span.start <= timedelta(hours=25)
        assert span.start.astimezone(ZoneInfo(zone)).weekday() == 1
