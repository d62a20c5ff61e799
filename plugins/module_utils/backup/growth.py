# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How fast a database's backups grow: one size says nothing, the sizes of a month tell when a disk will be full."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from datetime import datetime, timedelta

from ansible_collections.sre.runbooks.plugins.module_utils.backup.catalog import Backup

OVER = timedelta(days=30)
# Sizes of one day say how busy its hours were, and nothing of a trend.
LEAST = timedelta(days=2)


def growth_per_day(backups: Sequence[Backup], moment: datetime) -> float | None:
    """By how many bytes a day a target's backups have grown over the last 30 days; below 0 where they became smaller.

    The slope of the line with the least squares, so that one odd backup does not make a trend.

    Returns:
        None where the backups of the last 30 days are less than two days apart.
    """
    sizes = [
        (one.taken_at.timestamp() / 86400, one.total_bytes) for one in backups
        if one.taken_at and one.total_bytes is not None and not one.problem and moment - OVER <= one.taken_at <= moment
    ]
    days, bytes_ = [day for day, _bytes in sizes], [size for _day, size in sizes]
    if not days or max(days) - min(days) < LEAST.days:
        return None
    return statistics.linear_regression(days, bytes_).slope
