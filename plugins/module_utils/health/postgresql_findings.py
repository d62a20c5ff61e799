# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Turns rows of the postgresql probe into a value and a sentence. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.sre.runbooks.plugins.module_utils.health.probe import ProbeError
from ansible_collections.sre.runbooks.plugins.module_utils.health.shapes import quoted
from ansible_collections.sre.runbooks.plugins.module_utils.run.words import about

Rows = list[dict[str, Any]]
ABORTED = "idle in transaction (aborted)"
# Transaction ids run out at 2^31.
WRAPAROUND = 2**31
LISTED = 10


@dataclass(frozen=True)
class Finding:
    """What one measure says.

    Args:
        value: the value; None where the measure does not apply to this server.
        message: one sentence with the values.
        evidence: what else was seen; no statement's text of a session.
    """

    value: float | None
    message: str
    evidence: dict[str, Any] = field(default_factory=dict)


def _who(row: dict[str, Any], prefix: str = "") -> str:
    user, application = row.get(f"{prefix}usename") or row.get(f"{prefix}user"), row.get(f"{prefix}application_name")
    application = application or row.get(f"{prefix}application")
    return f"{quoted(application)} of {quoted(user)}" if application else quoted(user)


def _session(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "pid": row["pid"], "user": row["usename"], "application": quoted(row["application_name"]),
        "database": row["datname"], "state": row["state"], "seconds": round(row["seconds"], 1),
    }


def read_connections(rows: Rows) -> Finding:
    """Client sessions against the slots that ordinary roles can have (A25 ⚠, B5, B11)."""
    usable, maximum = rows[0]["usable"], rows[0]["maximum"]
    by_state, by_application = Counter[str](), Counter[str]()
    for row in rows:
        by_state[row["state"] or "unknown"] += row["sessions"]
        by_application[quoted(row["application_name"] or "(no name)")] += row["sessions"]
    used = by_state.total()
    most = by_application.most_common(1)[0] if used else ("", 0)
    idle = sum(count for state, count in by_state.items() if state.startswith("idle"))
    detail = f"; {most[0]} has {most[1]} of them, and {idle} of all are idle" if used else ""
    return Finding(
        100 * used / usable if usable > 0 else 100.0,
        f"{used} of {usable} connections are in use{detail}.",
        {"used": used, "usable": usable, "max_connections": maximum, "by_state": dict(+by_state),
         "by_application": dict((+by_application).most_common(20))},
    )


def read_transactions(rows: Rows) -> Finding:
    """The longest open transaction."""
    if not rows:
        return Finding(0.0, "No transaction is open.")
    first = rows[0]
    return Finding(
        max(0.0, first["seconds"]),
        f"The longest transaction is {about(max(0.0, first['seconds']))} old: pid {first['pid']}, {_who(first)}, "
        f"{first['state']}.",
        {"sessions": [_session(row) for row in rows]},
    )


def read_idle_in_transaction(rows: Rows) -> Finding:
    """The longest session that holds a transaction open and does nothing, aborted ones too (A14 ⚠)."""
    if not rows:
        return Finding(0.0, "No session idles in a transaction.")
    first, aborted = rows[0], sum(row["state"] == ABORTED for row in rows)
    return Finding(
        max(0.0, first["seconds"]),
        f"{len(rows)} idle in a transaction, {aborted} of them in an aborted one, the longest for "
        f"{about(max(0.0, first['seconds']))}: pid {first['pid']}, {_who(first)}.",
        {"idle_in_transaction": len(rows) - aborted, "aborted": aborted,
         "sessions": [_session(row) for row in rows[:LISTED]]},
    )


def read_blocked(rows: Rows) -> Finding:
    """Sessions that wait for a lock, and those they wait for (B34 ⚠)."""
    if not rows:
        return Finding(0.0, "No session is blocked.")
    pids = list(dict.fromkeys(row["pid"] for row in rows))
    # Who holds up the queue without waiting itself is the one to talk to.
    row = next((row for row in rows if not row["blocker_waits"]), rows[0])
    return Finding(
        float(len(pids)),
        f"{len(pids)} blocked; pid {row['pid']}, {_who(row)}, waits {about(max(0.0, row['seconds'] or 0.0))} for "
        f"{_blocker(row)}.",
        {"waits": [
            {"pid": row["pid"], "user": row["usename"], "application": quoted(row["application_name"]),
             "database": row["datname"], "seconds": round(row["seconds"] or 0.0, 1), "command": quoted(row["command"]),
             "blocked_by": {"pid": row["blocker"], "user": row["blocker_user"],
                            "application": quoted(row["blocker_application"] or ""), "state": row["blocker_state"]}}
            for row in rows[:LISTED]
        ]},
    )


def _blocker(row: dict[str, Any]) -> str:
    if row["blocker"] == 0:
        return "a prepared transaction (see pg_prepared_xacts)"
    if row["blocker_user"] is None:
        return f"pid {row['blocker']}, which has ended meanwhile"
    age = f", its transaction {about(row['blocker_seconds'])} old" if row["blocker_seconds"] is not None else ""
    return f"pid {row['blocker']}, {_who(row, 'blocker_')}, {row['blocker_state']}{age}"


def read_replication(rows: Rows) -> Finding:
    """How far the slowest standby is behind, or this server if it is one."""
    if not rows:
        return Finding(None, "no standby is connected.")
    if rows[0]["in_recovery"]:
        seconds = rows[0]["seconds"]
        if seconds is None:
            raise ProbeError("This standby has replayed nothing yet, so its lag is not known.")
        link = "receives from its primary" if rows[0]["streaming"] else "has no connection to its primary"
        return Finding(max(0.0, seconds), f"This standby is {about(max(0.0, seconds))} behind and {link}.",
                       {"streaming": rows[0]["streaming"]})
    lags = [(row["seconds"] if row["seconds"] is not None else 0.0 if row["bytes_behind"] == 0 else None, row)
            for row in rows]
    unknown = [row for seconds, row in lags if seconds is None]
    if unknown:
        row = unknown[0]
        raise ProbeError(f"The lag of standby {quoted(row['standby'])} is not known; it is {row['state']} and "
                         f"{row['bytes_behind']} bytes behind.")
    seconds, slowest = max(lags, key=lambda lag: lag[0] or 0.0)
    return Finding(
        float(seconds or 0.0),
        f"Of {len(rows)} standbys {quoted(slowest['standby'])} is the last, {about(float(seconds or 0.0))} and "
        f"{slowest['bytes_behind']} bytes behind.",
        {"standbys": [{"name": quoted(row["standby"]), "state": row["state"], "bytes_behind": row["bytes_behind"]}
                      for row in rows]},
    )


def read_wraparound(rows: Rows) -> Finding:
    """How much of the way to the stop for lack of transaction ids is gone."""
    row = rows[0]
    age = max(row["transactions"], row["multixacts"])
    return Finding(
        100 * age / WRAPAROUND, f"{quoted(row['datname'])} is the oldest, {age:,} transactions of {WRAPAROUND:,}.",
        {"database": row["datname"], "transactions": row["transactions"], "multixacts": row["multixacts"]},
    )


def read_invalid_indexes(rows: Rows) -> Finding:
    """Indexes that cost writes and serve no query."""
    names = [quoted(f"{row['schema']}.{row['name']}") for row in rows]
    says = f"Invalid: {', '.join(names[:5])}{' and others' if len(names) > 5 else ''}." if names else "All are valid."
    return Finding(float(len(rows)), says, {"indexes": names[:LISTED]})


def read_dead_tuples(rows: Rows) -> Finding:
    """The table with the largest share of dead rows, among those with at least 10,000."""
    if not rows:
        return Finding(0.0, "No table has 10,000 dead rows.")
    row = rows[0]
    return Finding(
        100 * row["dead"] / (row["dead"] + row["live"]),
        f"{quoted(row['schema'])}.{quoted(row['name'])} has {row['dead']:,} dead rows beside {row['live']:,} live, "
        f"and autovacuum came last {row['last_autovacuum'] or 'never'}.",
        {"tables": [{"table": quoted(f"{row['schema']}.{row['name']}"), "dead": row["dead"], "live": row["live"]}
                    for row in rows]},
    )


def read_size(rows: Rows) -> Finding:
    """The size of the database on disk."""
    return Finding(float(rows[0]["bytes"]), f"{quoted(rows[0]['name'])} takes {rows[0]['bytes'] / 1e6:,.1f} MB.")
