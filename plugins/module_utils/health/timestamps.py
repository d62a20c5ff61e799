# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reads the time stamps that services write into their health bodies."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

# Digits of a point in time since 1970 tell its unit: 10 are seconds, 13 milliseconds, 16 microseconds, 19 nanoseconds.
UNITS = ((1e17, 1e9), (1e14, 1e6), (1e11, 1e3))
# Fewer digits than this is a calendar date (20261121), not a count of seconds.
EPOCH_DIGITS = 9


def parse_timestamp(value: Any) -> datetime | None:
    """The moment that `value` names, in UTC, or None when it names none.

    Understands ISO 8601 with any offset, with a blank for the T, without a time zone (then UTC), RFC 1123 as in HTTP
    headers, and counts since 1970 in seconds, milliseconds, microseconds or nanoseconds, as number or as text.
    """
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float):
        return _from_epoch(float(value)) if abs(value) < 1e30 else None
    if not isinstance(value, str) or len(value) > 64:
        return None
    text = value.strip()
    whole = text.split(".")[0]
    if whole.isascii() and whole.isdigit() and len(whole) >= EPOCH_DIGITS and len(text) < 40:
        try:
            return _from_epoch(float(text))
        except ValueError:
            return None
    for zone in (" UTC", " GMT", " Z"):
        if text.endswith(zone) and "," not in text:
            text = text.removesuffix(zone) + "Z"
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = _from_http(text)
    if moment is None:
        return None
    try:
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (OverflowError, ValueError):
        return None


def _from_epoch(count: float) -> datetime | None:
    for least, divisor in UNITS:
        if count >= least:
            count /= divisor
            break
    try:
        return datetime.fromtimestamp(count, UTC)
    except (OverflowError, OSError, ValueError):
        return None


def _from_http(text: str) -> datetime | None:
    from email.utils import parsedate_to_datetime

    try:
        return parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
