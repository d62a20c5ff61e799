# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the files of a backup prove by themselves: their names, their bytes, their blocks, the table of contents."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from pathlib import Path

from ansible_collections.sre.runbooks.plugins.module_utils.backup.archive import (
    Entry,
    hash_and_inflate,
    hash_file,
)
from ansible_collections.sre.runbooks.plugins.module_utils.backup.manifest import File, Manifest
from ansible_collections.sre.runbooks.plugins.module_utils.backup.store import DATA
from ansible_collections.sre.runbooks.plugins.module_utils.backup.transfer import stored_name
from ansible_collections.sre.runbooks.plugins.module_utils.backup.verdict import (
    CORRUPT,
    INCOMPLETE,
    UNVERIFIABLE,
)

SHOWN = 5


class FindingError(Exception):
    """A rung that was not passed: what the backup is, and why."""

    def __init__(self, verdict: str, detail: str) -> None:
        super().__init__(detail)
        self.verdict = verdict


def compare_names(manifest: Manifest, found: Iterable[str]) -> None:
    """Every file of the manifest is there, and nothing else.

    Raises:
        FindingError: incomplete when one is missing, corrupt when there is one too many.
    """
    wanted, there = {stored_name(manifest, file.path) for file in manifest.files}, set(found)
    if missing := sorted(wanted - there):
        raise FindingError(INCOMPLETE, f"{len(missing)} of {len(wanted)} files are missing: {some(missing)}")
    if extra := sorted(there - wanted):
        raise FindingError(CORRUPT, f"{len(extra)} files are not in the manifest: {some(extra)}")


def compare_entries(manifest: Manifest, entries: Iterable[Entry], found: Iterable[str]) -> None:
    """Every table of the manifest is in the table of contents, and its data in a file.

    Raises:
        FindingError: a table or a file is missing.
    """
    entries, there = list(entries), set(found)
    data = [entry for entry in entries if entry.kind == "TABLE DATA"]
    counted = [table for table in manifest.tables if table.rows is not None]
    # A line is schema, name and owner with blanks between, and each of them may have blanks in it.
    words = [entry.rest.split(" ") for entry in data]
    starts = {" ".join(line[:end]) for line in words for end in range(2, len(line))}
    # pg_dump writes a line break in a name as a blank.
    missing = [
        f"{table.schema}.{table.name}" for table in counted
        if " ".join(f"{table.schema} {table.name}".splitlines()) not in starts
    ]
    if not missing and len(data) < len(counted):
        raise FindingError(INCOMPLETE, f"the archive has the data of {len(data)} tables instead of {len(counted)}")
    if missing:
        raise FindingError(INCOMPLETE, f"the archive lacks the data of {len(missing)} tables: {some(missing)}")
    files = [
        str(entry.dump_id) for entry in data
        if not {f"{DATA}/{entry.dump_id}.dat.gz", f"{DATA}/{entry.dump_id}.dat"} & there
    ]
    if files:
        raise FindingError(INCOMPLETE, f"the data files of {len(files)} entries are missing: {some(files)}")


def some(names: list[str]) -> str:
    """The first of them, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


class Scanner:
    """Hashes and inflates all files in one pass, in threads (both run without the interpreter's lock)."""

    def __init__(self, folder: Path, files: Iterable[File], inflate: bool, jobs: int) -> None:
        self._folder, self._inflate = folder, inflate
        # Taken from the end: the largest first, so that the threads end together.
        self._todo = sorted(files, key=lambda file: file.bytes)
        self._unread = {file.path for file in self._todo}
        self.total_bytes = sum(file.bytes for file in self._todo)
        self.done_bytes = 0
        self.duration_s = 0.0
        self._started = time.monotonic()
        self.bytes_problems: list[str] = []
        self.archive_problems: list[str] = []
        self._error: OSError | None = None
        self._stop = False
        self._threads = [threading.Thread(target=self._work, daemon=True) for _unused in range(jobs)]
        for thread in self._threads:
            thread.start()

    def check(self) -> None:
        """Raise what was found so far.

        Raises:
            FindingError: a file is not what was written, or cannot be read.
        """
        if self._error:
            what = f"{self._error.filename} cannot be read: {self._error.strerror}"
            raise FindingError(UNVERIFIABLE, what)
        if self.bytes_problems:
            raise FindingError(CORRUPT, some(sorted(self.bytes_problems)))

    def wait(self) -> None:
        """Wait until all files are read, then `check`; a file that nobody read to its end is no proof.

        Raises:
            FindingError: as `check`, and where a file was not read.
        """
        for thread in self._threads:
            thread.join()
        self.check()
        if self._unread:
            raise FindingError(
                UNVERIFIABLE, f"{len(self._unread)} files were not read to their end: {some(sorted(self._unread))}"
            )

    def close(self) -> None:
        """Begin no further file, and wait for those that are being read."""
        self._stop = True
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while self._todo and not self._error and not self._stop:
            try:
                file = self._todo.pop()
            except IndexError:
                return
            try:
                self._scan(file)
            except OSError as error:
                self._error = error
                return

    def _scan(self, file: File) -> None:
        path, problem = self._folder / file.path, ""
        if self._inflate and path.name.endswith(".gz"):
            size, sha256, problem = hash_and_inflate(path)
        else:
            size, sha256 = hash_file(path)
        self.done_bytes += size
        self.duration_s = round(time.monotonic() - self._started, 3)
        if size != file.bytes:
            self.bytes_problems.append(f"{file.path} has {size} bytes instead of {file.bytes}")
        elif sha256 != file.sha256:
            self.bytes_problems.append(f"{file.path} has another SHA-256 than in the manifest")
        elif problem:
            self.archive_problems.append(f"{file.path}: {problem}")
        self._unread.discard(file.path)
