# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Times as records, manifests, locks and checks have them: ISO 8601 in UTC, which datetime.fromisoformat reads."""

from __future__ import annotations

from datetime import UTC, datetime


def utc_text(moment: datetime, precision: str = "milliseconds") -> str:
    """A moment as text.

    Args:
        moment: with a time zone.
        precision: `milliseconds` or `seconds`.
    """
    return moment.astimezone(UTC).isoformat(timespec=precision).replace("+00:00", "Z")


def now() -> str:
    """This moment as text, with milliseconds."""
    return utc_text(datetime.now(UTC))
