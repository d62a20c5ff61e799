# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A run's records as one report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ansible_collections.sre.runbooks.plugins.module_utils.run.records import Record


def build(records: Sequence[Record], tasks: Sequence[Record]) -> dict[str, Any]:
    """The report as data."""
    return {"format": 1, "records": list(records), "tasks": list(tasks)}


def page(report: dict[str, Any]) -> dict[str, Any]:
    """What the page shows."""
    return {"report": report}
