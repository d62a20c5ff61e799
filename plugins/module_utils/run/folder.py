# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The folder of a run: one for each play, found again by every host and every serial batch of that play."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.records import PRIVATE_FILE, read_records, record

PRIVATE_FOLDER = 0o700
CONTAINER_FILES = ("/run/.containerenv", "/.dockerenv")
CONTAINER_VARIABLES = ("AWX_PRIVATE_DATA_DIR", "KUBERNETES_SERVICE_HOST")


def state_directory(environment: Mapping[str, str]) -> Path:
    """Where this user's state is kept, after the XDG base directory specification."""
    base = environment.get("XDG_STATE_HOME") or ""
    return (Path(base) if base.startswith("/") else Path.home() / ".local" / "state") / "sre.runbooks"


def run_directory(configured: str | None, environment: Mapping[str, str] | None = None) -> Path:
    """The folder of all runs: the one that was configured, or the user's own."""
    if configured:
        return Path(configured).expanduser().absolute()
    return state_directory(os.environ if environment is None else environment) / "runs"


def throwaway_place(environment: Mapping[str, str], root: Path = Path("/")) -> str:
    """Why the default place may be gone after this job; empty when it lasts, or was chosen with XDG_STATE_HOME."""
    if environment.get("XDG_STATE_HOME"):
        return ""
    for name in CONTAINER_FILES:
        if (root / name.lstrip("/")).exists():
            return f"{name} says that this is a container"
    for name in CONTAINER_VARIABLES:
        if environment.get(name):
            return f"the variable {name} says that this is a container"
    return ""


def digest(play: str) -> str:
    """Six characters for a play's uuid, whose own last ones are only a counter."""
    return hashlib.sha256(play.encode()).hexdigest()[:6]


def find(directory: Path, play: str) -> Path | None:
    """The folder of this play's run, or None when it has not begun."""
    if not directory.is_dir():
        return None
    ending = f"-{digest(play)}"
    for name in sorted((entry.name for entry in os.scandir(directory) if entry.name.endswith(ending)), reverse=True):
        first = next(iter(read_records(directory / name)), {})
        if first.get("kind") == "run" and first.get("data", {}).get("play") == play:
            return directory / name
    return None


def find_begun(directory: Path, play: str) -> Path:
    """The folder of this play's run.

    Raises:
        RunbookError: no host of this play has begun the run.
    """
    folder = find(directory, play)
    if folder is None:
        raise RunbookError(
            f"This play has not begun a run below {directory}.",
            "Put the role sre.runbooks.run with tasks_from: begin before it.",
        )
    return folder


def open_run(directory: Path, play: str, runbook: str, data: Mapping[str, Any]) -> Path:
    """The folder of this play's run, made by whichever host comes first.

    Args:
        directory: the folder of all runs; made when it is missing.
        play: the play's uuid.
        runbook: the runbook's name, a part of the folder's.
        data: what else the run's first record says.

    Raises:
        RunbookError: the folder cannot be made.
    """
    try:
        directory.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        guard = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
    except OSError as error:
        raise RunbookError(
            f"The folder of the runs {directory} cannot be written: {error.strerror}.",
            "Give a folder that lasts and that you own with -e run_directory=<folder>.",
        ) from error
    try:
        fcntl.flock(guard, fcntl.LOCK_EX)
        folder = find(directory, play)
        if folder is None:
            time = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
            name = re.sub(r"[^a-z0-9_]+", "_", runbook.rsplit(".", 1)[-1].lower())
            folder = directory / f"{time}-{name}-{digest(play)}"
            folder.mkdir(mode=PRIVATE_FOLDER)
            record(folder, "", "run", {"run": folder.name, "play": play, "runbook": runbook, **data})
    finally:
        os.close(guard)
    return folder
