# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Up to where a recovery goes: a time with its zone, or a place in the WAL that only an explicit backup can lead to."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ansible_collections.sre.runbooks.plugins.module_utils.pitr.segments import parse_lsn
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError

TIME, LSN, NAME, TRANSACTION = "time", "lsn", "name", "transaction"
KINDS = (TIME, LSN, NAME, TRANSACTION)
# PostgreSQL compares no more bytes of a restore point's name (MAXFNAMELEN - 1).
NAME_BYTES = 63
# pgBackRest's words for the kinds.
TYPES = {TIME: "time", LSN: "lsn", NAME: "name", TRANSACTION: "xid"}


@dataclass(frozen=True)
class Target:
    """Where recovery ends.

    Args:
        kind: one of KINDS.
        value: a time in UTC as `2026-11-21 14:31:00.000000+00`, an LSN, a restore point's name, a transaction's number.
        exclusive: end just before it; else it is the last thing that comes back. A restore point is always included.
    """

    kind: str
    value: str
    exclusive: bool = False

    @property
    def moment(self) -> datetime | None:
        """The time; None for the other kinds."""
        return datetime.fromisoformat(self.value).astimezone(UTC) if self.kind == TIME else None

    @property
    def lsn(self) -> int | None:
        """The place as a number; None for the other kinds."""
        return parse_lsn(self.value) if self.kind == LSN else None

    def options(self) -> list[str]:
        """For `pgbackrest restore`."""
        found = [f"--type={TYPES[self.kind]}", f"--target={self.value}"]
        return [*found, "--target-exclusive"] if self.exclusive else found

    def __str__(self) -> str:
        return f"{'just before ' if self.exclusive else ''}{self.kind} {self.value}"

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {"kind": self.kind, "value": self.value, "exclusive": self.exclusive}


def parse_moment(text: str) -> datetime:
    """A time with its zone, in UTC (A86 ⚠: without one, the server's own zone would be taken, whatever it is).

    Raises:
        RunbookError: it is no ISO 8601, or has no zone.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise RunbookError(
            f"{text!r} is no time.", "Give ISO 8601 with a zone, such as 2026-11-21T14:31:00+01:00.", time=text,
        ) from error
    if moment.tzinfo is None:
        raise RunbookError(
            f"The time {text!r} has no zone, and the hours around it would be different ones elsewhere.",
            f"Give it with one: {text}Z in UTC, or {text}+01:00.", time=text,
        )
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        raise RunbookError(f"{text!r} is no time that a calendar has.", "Give another one.", time=text) from error


def parse_target(
    kind: str, text: str, *, exclusive: bool, backup: str | None, listing: str = "pgbackrest info"
) -> Target:
    """What the operator gave, checked.

    Args:
        kind: one of KINDS.
        text: as given.
        exclusive: end just before it.
        backup: the backup set that was chosen explicitly, if any.
        listing: the command that lists the backups.

    Raises:
        RunbookError: it says nothing, or not clearly enough.
    """
    text = text.strip()
    if kind == TIME:
        value = parse_moment(text).isoformat(sep=" ", timespec="microseconds").replace("+00:00", "+00")
        return Target(kind, value, exclusive)
    if not backup:
        raise RunbookError(
            f"A recovery to a {kind} needs an explicit backup: nobody can tell from {text!r} which are old enough.",
            f"Name one that was made before it, by its label: {listing}, as the server's user, lists them.", kind=kind,
        )
    if kind == LSN:
        parse_lsn(text)
        return Target(kind, text.upper(), exclusive)
    if kind == TRANSACTION:
        # PostgreSQL itself takes any number, and goes past it when it never comes.
        if not re.fullmatch(r"[0-9]{1,20}", text) or int(text) < 3:
            raise RunbookError(
                f"{text!r} is no transaction.", "Give its number, as txid_current() or pg_current_xact_id() said.",
            )
        return Target(kind, str(int(text)), exclusive)
    if exclusive:
        raise RunbookError(
            "A recovery to a restore point always includes it.", "Leave out that it is to end just before.",
        )
    if not text or len(text.encode()) > NAME_BYTES or not text.isprintable():
        raise RunbookError(
            f"{text!r} is no restore point's name.", f"Give 1 to {NAME_BYTES} bytes, as pg_create_restore_point() had.",
        )
    return Target(kind, text)
