# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How fast backups grow, over catalogs of some days."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.backup.catalog import Backup
from ansible_collections.sre.runbooks.plugins.module_utils.backup.growth import growth_per_day

NOW = datetime(2026, 11, 22, tzinfo=UTC)


def backup(days_ago: float, size: int | None, problem: str = "") -> Backup:
    return Backup("", "", problem, (), NOW - timedelta(days=days_ago), None, size)


@pytest.mark.parametrize(("backups", "expected"), [
    ([], None),
    ([backup(1, 500)], None),
    ([backup(1.5, 100), backup(0, 900)], None),
    ([backup(3, 100), backup(2, 110), backup(1, 120), backup(0, 130)], 10.0),
    ([backup(2, 900), backup(1, 600), backup(0, 300)], -300.0),
    ([backup(40, 10**9), backup(4, 100), backup(0, 140)], 10.0),
    ([backup(4, 100), backup(2, 10**9, "Its manifest cannot be read."), backup(1, None), backup(0, 140)], 10.0),
])
def test_growth_is_the_trend_of_a_month_and_unknown_within_two_days(
    backups: list[Backup], expected: float | None
) -> None:
    """A62b ⚠: the size of a database on one day is no trend."""
    assert growth_per_day(backups, NOW) == (None if expected is None else pytest.approx(expected))
