# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Fills a new database from a backup whose every file is proven meanwhile: its proof may be weeks old."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible_collections.sre.runbooks.plugins.module_utils.backup import load
from ansible_collections.sre.runbooks.plugins.module_utils.backup.archive import hash_file
from ansible_collections.sre.runbooks.plugins.module_utils.backup.encryption import KeyMissingError
from ansible_collections.sre.runbooks.plugins.module_utils.backup.manifest import File, Manifest
from ansible_collections.sre.runbooks.plugins.module_utils.backup.scanner import FindingError, Scanner
from ansible_collections.sre.runbooks.plugins.module_utils.backup.store import DATA, TargetStore
from ansible_collections.sre.runbooks.plugins.module_utils.backup.transfer import BrokenFileError
from ansible_collections.sre.runbooks.plugins.module_utils.backup.verdict import (
    CORRUPT,
    UNVERIFIABLE,
    Rung,
    Verdict,
)
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.client_tools import find_client_tools
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import Login, tool_options
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.moments import utc_text
from ansible_collections.sre.runbooks.plugins.module_utils.run.progress import Progress

if TYPE_CHECKING:
    import psycopg

CONTENTS = f"{DATA}/toc.dat"


class Filling:
    """Brings the data of one backup into a database.

    Args:
        login: who restores, on any database of the server.
        place: where the backup is.
        manifest: of the backup.
        progress: where to report.
        bin_directory: where the client programs are; None looks in the usual places.
        jobs: parallel workers.
        timeout_s: seconds until pg_restore is ended.
        tablespaces: see load.fill.
    """

    def __init__(
        self, login: Login, place: TargetStore, manifest: Manifest, progress: Progress, *, bin_directory: str | None,
        jobs: int, timeout_s: float, tablespaces: bool = True,
    ) -> None:
        self.login, self.place, self.manifest, self.progress = login, place, manifest, progress
        self.bin_directory, self.jobs, self.timeout_s = bin_directory, jobs, timeout_s
        self.tablespaces = tablespaces

    @contextlib.contextmanager
    def plain(self) -> Iterator[Path]:
        """A folder with the plain files; the table of contents is proven, since pg_restore obeys it.

        Raises:
            RunbookError: a file is not what was written, or no key of this host opens it.
        """
        manifest = self.manifest
        try:
            with self.place.plain(manifest, self.jobs, self.progress) as folder:
                self.prove_bytes(folder, [CONTENTS])
                yield folder
        except BrokenFileError as error:
            raise self._broken(FindingError(CORRUPT, error.message)) from error
        except KeyMissingError as error:
            raise RunbookError(
                f"{manifest.backup_id} cannot be read: {error.message} It is encrypted to"
                f" {' and '.join(manifest.encryption.recipients)}.",
                "Bring one of these secret keys to this host (store_keyring names its home), then run it again.",
            ) from error

    def prove_bytes(self, folder: Path, paths: Iterable[str]) -> None:
        """Prove files before they are used.

        Raises:
            RunbookError: one is not what was written.
        """
        files: dict[str, File] = {file.path: file for file in self.manifest.files}
        for path in paths:
            try:
                found = hash_file(folder / path)
            except OSError as error:
                finding = FindingError(UNVERIFIABLE, f"{path} cannot be read ({error.strerror})")
                raise self._broken(finding) from error
            if path not in files or found != (files[path].bytes, files[path].sha256):
                raise self._broken(FindingError(CORRUPT, f"{path} has another SHA-256 than in the manifest"))

    def load(
        self, connection: psycopg.Connection[dict[str, Any]], name: str, folder: Path, parts: Iterable[Sequence[str]],
    ) -> None:
        """Fill the database, and see meanwhile that each file is still what was written.

        Args:
            connection: to another database of the server.
            name: the database.
            folder: with the plain files.
            parts: arguments of each call of pg_restore, asked for when the one before it has ended; `[()]` is all of
                the backup in one call.

        Raises:
            RunbookError: pg_restore failed, or a file is not what was written.
        """
        tools = find_client_tools(connection.info.server_version // 10000, self.bin_directory)
        scanner = Scanner(folder, self.manifest.files, inflate=False, jobs=1)

        def wait() -> None:
            scanner.check()
            self.progress.tick(lambda: self._filled(connection, name))

        try:
            for arguments in parts:
                load.fill(
                    self.login.at(name), name, folder, tools, jobs=self.jobs, timeout_s=self.timeout_s,
                    while_waiting=wait, options=tool_options(connection), arguments=arguments,
                    tablespaces=self.tablespaces,
                )
            self.progress.say("reading what is left of the files")
            with self.progress.during(lambda: f"{scanner.done_bytes / 1e6:.0f} MB of the files are what was written"):
                scanner.wait()
        except FindingError as error:
            raise self._broken(error) from error
        finally:
            scanner.close()

    def _filled(self, connection: psycopg.Connection[dict[str, Any]], name: str) -> str:
        row = connection.execute("SELECT pg_database_size(%s) AS size", [name]).fetchone()
        return f"{row['size'] / 1e6:.0f} MB of about {self.manifest.database.size_bytes / 1e6:.0f} MB restored"

    def _broken(self, finding: FindingError) -> RunbookError:
        """The finding is written down as a verdict first: the catalog must not call this backup good any more."""
        backup_id, noted = self.manifest.backup_id, ""
        rungs = [Rung("bytes", False, str(finding), 0.0)]
        try:
            self.place.add_verdict(Verdict(finding.verdict, None, utc_text(datetime.now(UTC)), backup_id, rungs))
        except (RunbookError, OSError) as error:
            noted = f" That could not be written into its verdicts: {error}."
        return RunbookError(
            f"The backup {backup_id} is not what was written: {str(finding).rstrip('.')}.{noted}",
            "Do not use it: the same command without -e backup takes the newest one that is proven and whole. Look at"
            " the store's disk.",
            corrupt=True,
        )
