# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a person reads: the summary and the table. Pure, on plain dictionaries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.sre.runbooks.plugins.module_utils.run.checks import STATUSES, Checks, grouped, rank
from ansible_collections.sre.runbooks.plugins.module_utils.run.words import counted, duration, size

COLOURS = {"ok": "32", "warning": "33", "unknown": "35", "critical": "31"}
HEADINGS = ("status", "target", "check", "value", "message")


def in_order(checks: Checks) -> list[Mapping[str, Any]]:
    """Problems first, the worst at the top; within a status by target."""
    return sorted(checks, key=lambda check: (-rank(check["status"]), check["target"], check["name"]))


def counts(checks: Checks) -> str:
    """How many of each status, the worst first: `2 critical, 1 warning, 40 ok`."""
    found = Counter(check["status"] for check in checks)
    return ", ".join(f"{found[status]} {status}" for status in reversed(STATUSES) if found[status])


def value_text(check: Mapping[str, Any]) -> str:
    """A check's value with its unit, as short as a table wants it."""
    value, unit = check.get("value"), check.get("unit") or ""
    if value is None:
        return "-"
    if unit == "bytes":
        return size(value)
    if unit == "percent":
        return f"{value:.1f} %"
    if unit == "s" and isinstance(value, int | float) and value >= 120:
        return duration(value)
    if isinstance(value, float):
        value = f"{value:.3f}".rstrip("0").rstrip(".") if value < 10 else f"{value:,.0f}"
    return f"{value} {unit}".strip()


def threshold_text(check: Mapping[str, Any]) -> str:
    """The threshold that a value crossed, as in `more than 80 %`; empty when none was."""
    limit = check.get(check["status"]) if check["status"] in ("warning", "critical") else None
    value = check.get("value")
    if limit is None or isinstance(value, str | bool) or value is None:
        return ""
    return f"{'more' if value > limit else 'less'} than {value_text({**check, 'value': limit})}"


def offender_text(check: Mapping[str, Any]) -> str:
    """One line on a check that is not ok: status, target, name, value, threshold, message."""
    crossed = threshold_text(check)
    value = f"{value_text(check)}, {crossed}. " if crossed else ""
    return f"{check['status']:8}  {check['target']} {check['name']}: {value}{check['message']}"


def summary(checks: Checks, not_measured: Iterable[str] = (), at_least: str = "warning") -> list[str]:
    """One line on the whole, one for each check that is not ok, one for each thing not measured yet.

    Args:
        checks: of all targets.
        not_measured: sentences.
        at_least: leave out what is better than this status.
    """
    if not checks:
        return ["Nothing was checked, so nothing is known to be well.", *not_measured]
    problems = [check for check in in_order(checks) if rank(check["status"]) >= max(1, rank(at_least))]
    targets = len({check["target"] for check in checks})
    whole = f"{counted(len(checks), 'check')} of {counted(targets, 'target')}: {counts(checks)}."
    return [whole, *map(offender_text, problems), *grouped(not_measured)]


def table(checks: Checks, width: int = 0, colour: bool = False, everything: bool = False) -> str:
    """The checks as a table for a terminal, problems first; what is well takes one line for each target.

    Args:
        checks: what to show.
        width: columns of the terminal; the message is cut to it. 0 cuts nothing.
        colour: whether the terminal shows colours.
        everything: one line for each check that is well, too.
    """
    shown = [check for check in in_order(checks) if everything or check["status"] != "ok"]
    rows = [
        (check["status"], check["target"], check["name"], value_text(check),
         ": ".join(filter(None, [threshold_text(check), check["message"]])))
        for check in shown
    ]
    if not everything:
        ailing = {check["target"] for check in shown}
        well = Counter(check["target"] for check in checks if check["target"] not in ailing)
        rows += [("ok", target, "all", str(count), "") for target, count in sorted(well.items())]
    widths = [max(len(row[column]) for row in [HEADINGS, *rows]) for column in range(4)]
    room = max(20, width - sum(widths) - 10) if width else 0
    lines = [_line(HEADINGS, widths, room)]
    for row in rows:
        line = _line(row, widths, room)
        lines.append(f"\x1b[{COLOURS.get(row[0], '0')}m{line}\x1b[0m" if colour else line)
    return "\n".join(lines)


def _line(row: Sequence[str], widths: Sequence[int], room: int) -> str:
    message = row[4] if not room or len(row[4]) <= room else row[4][: room - 1] + "…"
    return "  ".join([*(text.ljust(wide) for text, wide in zip(row[:4], widths, strict=True)), message]).rstrip()
