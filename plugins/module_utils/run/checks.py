# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The order of a check's statuses, and what differs between two measurements. Pure, on plain dictionaries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Checks = Sequence[Mapping[str, Any]]
# From best to worst. `unknown` is worse than `warning`: a warning was at least measured.
STATUSES = ("ok", "warning", "unknown", "critical")


def rank(status: str) -> int:
    """How bad a status is: 0 for ok, 3 for critical. A word that is no status counts as unknown."""
    return STATUSES.index(status) if status in STATUSES else STATUSES.index("unknown")


def worst(statuses: Iterable[str]) -> str:
    """The worst of the statuses; `unknown` when there is none, since nothing was proven."""
    return STATUSES[max(map(rank, statuses), default=rank("unknown"))]


def status_of(checks: Checks) -> str:
    """The worst status of the checks; unknown when there is none."""
    return worst(check["status"] for check in checks)


def ailing(checks: Checks) -> str:
    """How many are not ok, the worst first, as in `1 critical, 2 warning`; empty where all are ok."""
    found = Counter(STATUSES[rank(check["status"])] for check in checks)
    return ", ".join(f"{found[status]} {status}" for status in reversed(STATUSES[1:]) if found[status])


def grouped(not_measured: Iterable[str]) -> list[str]:
    """The sentences, with one that is the same for several targets said once."""
    targets: dict[str, list[str]] = {}
    for line in not_measured:
        target, _unused, rest = str(line).partition(" ")
        targets.setdefault(rest, []).append(target)
    return [
        f"{names[0] if len(names) == 1 else f'{len(names)} targets'} {rest}" for rest, names in targets.items()
    ]


def difference(before: Checks, after: Checks) -> dict[str, Any]:
    """What changed between two sweeps.

    Returns:
        `worse`, `better`, `gone`, `new` (lists of `{target, name, before, after, message}`), `unchanged` (a number),
        and `status`, the worst status of what is worse, new and not ok, or gone; `ok` when nothing is.
        A check that is gone is not known to be well any more, so it counts as unknown.
    """
    old = {(check["target"], check["name"]): check for check in before}
    new = {(check["target"], check["name"]): check for check in after}
    changes: dict[str, list[dict[str, Any]]] = {"worse": [], "better": [], "gone": [], "new": []}
    unchanged = 0
    for key in sorted(old.keys() | new.keys()):
        was, now = old.get(key), new.get(key)
        if was and now and was["status"] == now["status"]:
            unchanged += 1
        elif was and now:
            kind = "worse" if rank(now["status"]) > rank(was["status"]) else "better"
            changes[kind].append(_change(key, was, now))
        else:
            changes["gone" if was else "new"].append(_change(key, was, now))
    bad = [change["after"] or "unknown" for kind in ("worse", "gone", "new") for change in changes[kind]]
    return {**changes, "unchanged": unchanged, "status": worst(bad) if bad else "ok"}


def _change(
    key: tuple[str, str], was: Mapping[str, Any] | None, now: Mapping[str, Any] | None
) -> dict[str, Any]:
    return {
        "target": key[0], "name": key[1], "before": was["status"] if was else None,
        "after": now["status"] if now else None, "message": now["message"] if now else "It was not measured again.",
    }
