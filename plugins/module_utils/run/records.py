# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a run writes down as it goes: one JSON object per line, appended whole by any number of processes."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.moments import now

RECORDS_FILE = "run.jsonl"
PRIVATE_FILE = 0o600
# What a record can be about; docs/architecture.md has the shape of each one's data.
KINDS = (
    "run", "begin", "phase", "step", "checks", "verdict", "catalog", "plan", "measure", "message", "page", "failure",
    "outcome", "end",
)

Record = dict[str, Any]


def append_line(path: Path, data: Mapping[str, Any], *, durable: bool = False) -> None:
    """Append one JSON line; no other process's line can come into the middle of it.

    Args:
        path: the file; made when missing.
        data: the line.
        durable: it is on the disk when this returns.
    """
    line = (json.dumps(data, ensure_ascii=False, default=str) + "\n").encode()
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            # A killed writer left half a line; ours must not become a part of it.
            line = b"\n" + line
        while line:
            line = line[os.write(descriptor, line) :]
        if durable:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_lines(path: Path) -> list[Record]:
    """The JSON lines of a file, oldest first; a last line that a killed writer left half done is passed over."""
    if not path.exists():
        return []
    whole = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    lines = []
    for line in whole:
        try:
            lines.append(json.loads(line))
        except ValueError:
            lines.append({"kind": "message", "data": {"text": "A line of this record could not be read."}})
    return [line for line in lines if isinstance(line, dict)]


def record(folder: Path, host: str, kind: str, data: Mapping[str, Any]) -> Record:
    """Append a record of one host to the run in `folder` and return it.

    Raises:
        RunbookError: the kind is none of KINDS.
    """
    if kind not in KINDS:
        raise RunbookError(f"There is no record of the kind {kind}.", f"Use one of: {', '.join(KINDS)}.")
    entry = {"at": now(), "host": host, "kind": kind, "data": dict(data)}
    append_line(folder / RECORDS_FILE, entry)
    return entry


def read_records(folder: Path) -> list[Record]:
    """All records of the run in `folder`, oldest first."""
    return read_lines(folder / RECORDS_FILE)
