# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Durations, sizes and other amounts as an operator would say them: everywhere the same."""

from __future__ import annotations

from typing import Any

BYTE_UNITS = ("B", "kB", "MB", "GB", "TB")


def duration(value: Any) -> str:
    """Seconds as an operator would say them."""
    if not isinstance(value, (int, float)):
        return "not known"
    if value == 0:
        return "0 s"
    if abs(value) < 1:
        return f"{value * 1000:.0f} ms"
    if round(value, 1) < 60:
        return f"{round(value, 1):g} s"
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    units = [(days, "d"), (hours, "h"), (minutes, "min"), (seconds, "s")]
    first = next(index for index, (count, _unit) in enumerate(units) if count)
    return " ".join(f"{count} {unit}" for count, unit in units[first : first + 2] if count)


def about(seconds: float) -> str:
    """About how long, in one unit, for a sentence: `45 s`, `12 minutes`, `2 hours`, `3 days`."""
    for limit, divisor, word in ((120, 1, "s"), (7200, 60, "minutes"), (172800, 3600, "hours")):
        if seconds < limit:
            return f"{seconds / divisor:.0f} {word}"
    return f"{seconds / 86400:.0f} days"


def size(value: Any) -> str:
    """Bytes with a decimal unit."""
    if not isinstance(value, (int, float)):
        return "not known"
    for unit in BYTE_UNITS:
        if abs(value) < 1000 or unit == BYTE_UNITS[-1]:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return "not known"


def counted(count: int, word: str) -> str:
    """How many of a thing: `1 table`, `4,120 rows`."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def amount(value: Any, unit: Any) -> str:
    """A value with its unit."""
    if unit == "s":
        return duration(value)
    if unit == "bytes":
        return size(value)
    if value is None:
        return "not known"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        value = int(value) if value.is_integer() else round(value, 1 if abs(value) >= 10 else 3)
    text = f"{value:,}" if isinstance(value, (int, float)) else str(value)
    return f"{text} {'%' if unit == 'percent' else unit or ''}".strip()
