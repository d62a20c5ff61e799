# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One holder per target: who it is, whether it still lives, and what it had stopped."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.moments import utc_text


def started_at_tick(pid: int, proc: Path = Path("/proc")) -> int | None:
    """When a process started, in clock ticks since boot; None when there is no such process (or it is a zombie)."""
    try:
        fields = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def machine(proc: Path = Path("/proc")) -> dict[str, str]:
    """What tells this machine, since its last start, and this set of process ids from others; empty where unknown."""
    try:
        boot, namespace = (proc / "sys/kernel/random/boot_id").read_text().strip(), os.readlink(proc / "self/ns/pid")
    except OSError:
        # No Linux: a holder cannot be looked at, and is believed until its expiry.
        boot, namespace = "", ""
    return {"host": socket.gethostname(), "boot_id": boot, "namespace": namespace}


def identify(pid: int, user: str = "") -> dict[str, Any]:
    """The identity of a holder: a process of this machine, and the person behind it."""
    try:
        who = user or os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):
        # A container may run under a number that has no name.
        who = f"uid {os.getuid()}"
    return {"user": who, **machine(), "pid": pid, "process_started": started_at_tick(pid)}


def alive(holder: Mapping[str, Any], here: Mapping[str, str], proc: Path = Path("/proc")) -> bool | None:
    """Whether a holder's process lives; None when that cannot be seen from this machine."""
    if any(not here[key] or holder.get(key) != here[key] for key in ("host", "boot_id", "namespace")):
        return None
    tick = started_at_tick(int(holder["pid"]), proc)
    return tick is not None and tick == holder.get("process_started")


def same_place(holder: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two holders are processes of one controller since its last start."""
    return all(other.get(key) and holder.get(key) == other.get(key) for key in ("host", "boot_id", "namespace"))


@dataclass(frozen=True)
class Lock:
    """What a lock's file says. `holder` is None when nobody holds it and only `quiesced` is left to remember."""

    target: str
    holder: dict[str, Any] | None
    since: str = ""
    until: str = ""
    quiesced: list[dict[str, Any]] = field(default_factory=list)

    @property
    def run(self) -> str:
        """The id of the run that holds it."""
        return str((self.holder or {}).get("run", ""))

    def as_dict(self) -> dict[str, Any]:
        """The file's content, and what the module returns."""
        holder = self.holder or {}
        process = {name: holder.get(name) for name in ("pid", "process_started", "boot_id", "namespace")}
        return {
            "format": 1, "target": self.target, "run": self.run, "user": holder.get("user", ""),
            "host": holder.get("host", ""), "process": process if self.holder else None, "since": self.since,
            "until": self.until, "quiesced": self.quiesced,
        }


def from_dict(data: Mapping[str, Any]) -> Lock:
    """A lock as its file says; the opposite of Lock.as_dict."""
    process = data.get("process")
    holder = {"run": data["run"], "user": data["user"], "host": data["host"], **process} if process else None
    return Lock(data["target"], holder, data.get("since", ""), data.get("until", ""), list(data.get("quiesced", [])))


def acquire(
    current: Lock | None,
    target: str,
    holder: Mapping[str, Any],
    *,
    moment: datetime,
    seconds: int,
    here: Mapping[str, str],
    take_over: str = "",
    gone: str = "",
    proc: Path = Path("/proc"),
) -> tuple[Lock, str]:
    """The lock for this holder, and how the earlier one lost it (empty when there was none).

    What the earlier holder had quiesced goes over to the new one: it alone says how things were before the first stop.

    Args:
        current: the lock as it stands, None when there is none.
        target: what is locked.
        holder: who wants it (`identify`, with the `run`).
        moment: now, in UTC.
        seconds: how long a holder that cannot be looked at is believed to live.
        here: this machine (`machine`).
        take_over: the id of the run whose lock is taken on purpose.
        gone: the id of the run whose process the new holder's controller, which it shares, no longer has.
        proc: where the processes of this machine are described.

    Raises:
        RunbookError: somebody else holds it: who, since when, until when, and how to take it over on purpose.
    """
    until = utc_text(moment + timedelta(seconds=seconds), "seconds")
    new = Lock(target, dict(holder), utc_text(moment, "seconds"), until, current.quiesced if current else [])
    if current is None or current.holder is None:
        return new, ""
    if current.run == holder["run"]:
        return replace(new, since=current.since), ""
    lives = alive(current.holder, here, proc)
    if lives is None and same_place(current.holder, holder):
        # Both are processes of one controller that is not this machine: it has looked, or is going to.
        lives = gone != current.run
    if lives is False:
        return new, f"its process {current.holder['pid']} is gone"
    if take_over and take_over == current.run:
        return new, "it was taken over on purpose"
    if lives is None and datetime.fromisoformat(current.until) <= moment:
        return new, f"it expired at {current.until}"
    who = f"{current.holder.get('user')}@{current.holder.get('host')}, process {current.holder.get('pid')}"
    raise RunbookError(
        f"{target} is locked by the run {current.run} ({who}) since {current.since} until {current.until}.",
        f"Wait for it, or when you know that it is dead take it over with -e run_lock_take_over={current.run}",
        holder=current.as_dict(),
    )


def remember(lock: Lock, stopped: Sequence[Mapping[str, Any]], released: Sequence[str]) -> Lock:
    """The lock with what is about to be stopped, and without what runs again.

    An entry that is there already stays as it is: it says how things were before the first stop, by whichever run.
    """
    known = {str(entry["target"]) for entry in lock.quiesced}
    entries = [*lock.quiesced, *(dict(entry) for entry in stopped if str(entry["target"]) not in known)]
    return replace(lock, quiesced=[entry for entry in entries if str(entry["target"]) not in released])
