# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Prove a backup, rung by rung: its bytes, its archive, a restore, its content, the application's own word."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.sre.runbooks.plugins.module_utils.backup.archive import read_contents
from ansible_collections.sre.runbooks.plugins.module_utils.backup.content import ask_application, compare
from ansible_collections.sre.runbooks.plugins.module_utils.backup.encryption import KeyMissingError
from ansible_collections.sre.runbooks.plugins.module_utils.backup.load import fill
from ansible_collections.sre.runbooks.plugins.module_utils.backup.manifest import (
    Manifest,
    ManifestCorruptError,
    ManifestMissingError,
)
from ansible_collections.sre.runbooks.plugins.module_utils.backup.replay import replay
from ansible_collections.sre.runbooks.plugins.module_utils.backup.scanner import (
    FindingError,
    Scanner,
    compare_entries,
    compare_names,
    some,
)
from ansible_collections.sre.runbooks.plugins.module_utils.backup.scratch import Scratch, scratch_database, scratch_name
from ansible_collections.sre.runbooks.plugins.module_utils.backup.store import DATA, TargetStore
from ansible_collections.sre.runbooks.plugins.module_utils.backup.transfer import BrokenFileError
from ansible_collections.sre.runbooks.plugins.module_utils.backup.verdict import (
    CORRUPT,
    GOOD,
    INCOMPLETE,
    UNVERIFIABLE,
    Rung,
    Verdict,
    height,
)
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.client_tools import find_client_tools
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import (
    DATABASE_ERROR,
    Login,
    connect,
    first_line,
    tool_options,
)
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError, reason
from ansible_collections.sre.runbooks.plugins.module_utils.run.moments import now
from ansible_collections.sre.runbooks.plugins.module_utils.run.progress import Progress
from ansible_collections.sre.runbooks.plugins.module_utils.run.words import counted
from ansible_collections.sre.runbooks.plugins.module_utils.run.words import size as size_words

# connect() tells the operator when it is missing.
with contextlib.suppress(ImportError):
    from psycopg import errors

# A scratch database need not survive a crash, and its indexes are built once.
SCRATCH_OPTIONS = "-c synchronous_commit=off -c maintenance_work_mem=256MB"
CONTENTS = f"{DATA}/toc.dat"
# What the server says about the data itself; anything else that ends a restore is about where it is restored.
# Of these two the end is known only when every data file was read, which goes on beside the rungs above them.
READ_BESIDE = ("bytes", "archive")
DATA_IS_WRONG = (
    "duplicate key", "could not create unique index", "violates", "invalid input syntax", "invalid byte sequence",
    "could not uncompress", "unexpected end of file", "could not read from input file", "extra data after last",
    "missing data for column",
)


@dataclass(frozen=True)
class Drill:
    """Where and how a backup is proven.

    Args:
        rung: how far.
        login: who restores, on the maintenance database of the server where the scratch database is made.
        own_server: True where that server serves production.
        free_bytes: free space of its disk, where it is known.
        jobs: parallel workers.
        application_check: the owner's own query.
        bin_directory: where the client programs are.
        timeout_s: seconds until pg_restore is ended.
        application_timeout_s: seconds until the owner's query is ended.
    """

    rung: str
    login: Login
    own_server: bool
    free_bytes: int | None
    jobs: int
    application_check: str | None
    bin_directory: str | None
    timeout_s: float
    application_timeout_s: float = 300.0


def verdict_of_restore_error(error: RunbookError) -> str:
    """Whether a restore failed because of the backup or because of the place."""
    return CORRUPT if any(words in error.message for words in DATA_IS_WRONG) else UNVERIFIABLE


def replay_properties(login: Login, name: str, manifest: Manifest) -> None:
    """Give the scratch database the owner, privileges and settings of the backup: the owner's query may need them.

    Raises:
        RunbookError: the server refuses.
    """
    with connect(login, "drill") as connection:
        try:
            with connection.transaction():
                replay(connection, name, manifest.database)
        except errors.Error as error:
            raise RunbookError(
                f"The properties of {manifest.database.name!r} cannot be replayed: {first_line(error).rstrip('.')}.",
                "Mend what the server names, then start the drill again.",
            ) from error


class Verification:
    """Climbs the rungs of one backup and stops at the first that does not hold."""

    def __init__(self, store: TargetStore, backup_id: str, drill: Drill, progress: Progress) -> None:
        self._store, self._backup_id, self._drill, self._progress = store, backup_id, drill, progress
        self._rungs: list[Rung] = []
        self._activity: Callable[[], str] = lambda: "reading the manifest"
        self._scanner = Scanner(Path(), [], False, 0)
        self._missing_key = ""
        self._read = False
        self._fetch_s = 0.0
        self.notes: list[str] = []
        self.scratch = Scratch(scratch_name(backup_id))
        self.manifest: Manifest | None = None

    def _doing(self) -> str:
        return self._activity()

    def run(self) -> Verdict:
        """Climb, write the verdict beside the backup, and return it."""
        verdict, backup_id = GOOD, self._backup_id
        with contextlib.ExitStack() as self._stack, self._progress.during(self._doing):
            try:
                self._climb()
            except FindingError as finding:
                verdict = finding.verdict
        passed = [rung.name for rung in self._rungs if rung.passed]
        result = Verdict(verdict, passed[-1] if passed else None, now(), backup_id, self._rungs, self._fetch_s)
        try:
            self._store.add_verdict(result)
        except (OSError, RunbookError) as error:
            found = f": {self._rungs[-1].detail.rstrip('.')}" if verdict != GOOD else ""
            raise RunbookError(
                f"The backup {backup_id} is {verdict} (highest rung passed: {result.rung or 'none'}){found}. That"
                f" cannot be written down, so the catalog still shows what was known before: {reason(error)}.",
                "Look at the rights and the room of the store, then prove it again before anybody restores from it.",
                verdict=result.as_dict(),
            ) from error
        return result

    def _reaches(self, rung: str) -> bool:
        return height(self._drill.rung) >= height(rung)

    def _rung(self, name: str, work: Callable[[], str]) -> None:
        """Try one rung; what ends it early is a finding, whatever its kind."""
        started = time.monotonic()
        try:
            detail, finding = work(), None
        except FindingError as error:
            detail, finding = str(error), error
        except RunbookError as error:
            detail, finding = str(error), FindingError(UNVERIFIABLE, str(error))
        except OSError as error:
            detail, finding = f"The store cannot be read: {error}.", FindingError(UNVERIFIABLE, str(error))
        except DATABASE_ERROR as error:
            detail = f"The server of the drill: {first_line(error)}."
            finding = FindingError(UNVERIFIABLE, detail)
        self._rungs.append(Rung(name, finding is None, detail, round(time.monotonic() - started, 3)))
        if finding or self._read or name not in READ_BESIDE:
            self._say(self._rungs[-1])
        if finding:
            raise finding

    def _say(self, rung: Rung) -> None:
        self._progress.say(f"{rung.name}: {'passed' if rung.passed else 'not passed'}, {rung.detail}")

    def _climb(self) -> None:
        self._rung("bytes", self._begin_bytes)
        started = time.monotonic()
        try:
            if self._reaches("restore"):
                # What a data file holds is proven while it is restored; only the end of both is a proof.
                try:
                    self._rung("archive", self._archive)
                    self._drill_database()
                finally:
                    self._finish_bytes(started)
            else:
                self._finish_bytes(started)
                if self._reaches("archive"):
                    self._rung("archive", self._archive)
        finally:
            self._scanner.close()

    def _begin_bytes(self) -> str:
        """Prove manifest, names and small files, and begin to read the data files."""
        manifest = self._read_manifest()
        compare_names(manifest, self._store.names(self._backup_id))
        whole = size_words(manifest.total_bytes)
        if not self._have_plain(manifest):
            return f"{len(manifest.files)} files, {whole}, as they were stored"
        data, small = [], []
        for file in manifest.files:
            (data if file.path.endswith((".gz", ".dat")) and file.path != CONTENTS else small).append(file)
        Scanner(self._folder, small, False, 1).wait()
        self._scanner = Scanner(self._folder, data, self._reaches("archive"), self._drill.jobs)
        self._activity = lambda: f"reading files: {size_words(self._scanner.done_bytes)} of {whole}"
        return f"{len(manifest.files)} files, {whole}"

    def _finish_bytes(self, started: float) -> None:
        """Wait for the data files. What is wrong with one of them is the finding, whatever else was seen meanwhile."""
        first, problem = self._rungs[0], None
        try:
            self._scanner.wait()
        except FindingError as finding:
            problem = finding
        duration = round(time.monotonic() - started, 3)
        if problem:
            self._rungs[:] = [Rung("bytes", False, str(problem), duration)]
        elif self._scanner.archive_problems:
            problem = FindingError(CORRUPT, some(sorted(self._scanner.archive_problems)))
            self._rungs[:] = [first, Rung("archive", False, str(problem), duration)]
        else:
            self._rungs[0] = Rung("bytes", True, first.detail, max(first.duration_s, self._scanner.duration_s))
        if problem:
            self._say(self._rungs[-1])
            raise problem
        self._read = True
        for rung in self._rungs:
            if rung.name in READ_BESIDE:
                self._say(rung)

    def _have_plain(self, manifest: Manifest) -> bool:
        """Have the plain files in a folder; False when only the stored ones can be, and need be, proven."""
        store, jobs = self._store, self._drill.jobs
        is_in_place = store.is_in_place and not manifest.encryption
        try:
            if self._reaches("archive") or is_in_place:
                started = time.monotonic()
                self._folder = self._stack.enter_context(store.plain(manifest, jobs, self._progress))
                self._fetch_s = 0.0 if is_in_place else round(time.monotonic() - started, 3)
                return True
        except KeyMissingError as error:
            self._missing_key = (
                f"{error.message} The backup is encrypted to {' and '.join(manifest.encryption.recipients)}."
            )
        except BrokenFileError as error:
            raise FindingError(CORRUPT, error.message) from error
        try:
            store.prove(manifest, jobs, self._progress)
        except BrokenFileError as error:
            raise FindingError(CORRUPT, error.message) from error
        return False

    def _read_manifest(self) -> Manifest:
        try:
            self.manifest = self._store.manifest(self._backup_id)
        except ManifestMissingError as error:
            raise FindingError(INCOMPLETE, str(error)) from error
        except ManifestCorruptError as error:
            raise FindingError(CORRUPT, str(error)) from error
        return self.manifest

    def _archive(self) -> str:
        if self._missing_key:
            raise FindingError(UNVERIFIABLE, self._missing_key)
        self._activity = lambda: "reading the table of contents"
        self._tools = find_client_tools(int(self.manifest.server_version.split(".")[0]), self._drill.bin_directory)
        try:
            entries = read_contents(self._tools, self._folder / DATA)
        except RunbookError as error:
            # A program that is missing, was killed or took too long says nothing about what it read.
            verdict = CORRUPT if error.context.get("returncode", 0) > 0 else UNVERIFIABLE
            raise FindingError(verdict, f"the table of contents cannot be read: {error.message}") from error
        compare_entries(self.manifest, entries, (file.path for file in self.manifest.files))
        with_data = sum(entry.kind == "TABLE DATA" for entry in entries)
        return f"{counted(with_data, 'table')} with data, every block inflated"

    def _drill_database(self) -> None:
        with contextlib.ExitStack() as stack:
            def restore() -> str:
                self._restore(stack)
                return f"into {self.scratch.name} on {self._drill.login.host}:{self._drill.login.port}"

            self._rung("restore", restore)
            login = self._drill.login.at(self.scratch.name)
            if self._reaches("content"):
                self._rung("content", lambda: self._content(login))
            if self._reaches("application"):
                self._rung("application", lambda: self._application(login))
            self._activity = lambda: "dropping the scratch database"

    def _restore(self, stack: contextlib.ExitStack) -> None:
        drill, manifest = self._drill, self.manifest
        self._activity = lambda: f"restoring {size_words(manifest.database.size_bytes)} on {drill.login.host}"
        self._progress.say(self._activity())
        name = self.scratch.name
        stack.enter_context(scratch_database(
            self.scratch, drill.login, manifest, own_server=drill.own_server, free_bytes=drill.free_bytes,
            say=self.notes.append,
        ))
        with connect(drill.login, "drill") as connection:
            options = f"{SCRATCH_OPTIONS} {tool_options(connection)}"
        try:
            fill(
                drill.login, name, self._folder, self._tools, jobs=drill.jobs, timeout_s=drill.timeout_s,
                tablespaces=False, options=options, while_waiting=self._scanner.check,
            )
            replay_properties(drill.login, name, manifest)
        except RunbookError as error:
            raise FindingError(verdict_of_restore_error(error), str(error)) from error

    def _content(self, login: Login) -> str:
        try:
            self.notes += compare(login, self.manifest, self._drill.jobs, self._progress)
        except RunbookError as error:
            raise FindingError(CORRUPT if "differences" in error.context else UNVERIFIABLE, str(error)) from error
        rows = [table.rows for table in self.manifest.tables if table.rows is not None]
        return f"{counted(sum(rows), 'row')} in {counted(len(rows), 'table')}, as in the manifest"

    def _application(self, login: Login) -> str:
        if not self._drill.application_check:
            raise FindingError(UNVERIFIABLE, "the inventory has no database_application_check for this database")
        self._activity = lambda: "asking the application's own check"
        try:
            return ask_application(login, self._drill.application_check, self._drill.application_timeout_s)
        except RunbookError as error:
            raise FindingError(CORRUPT if "answer" in error.context else UNVERIFIABLE, str(error)) from error
