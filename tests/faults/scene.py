# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Where a fault is injected: a shop with its database, its stores, and the work that is done on them."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from ansible_collections.sre.runbooks.plugins.module_utils.backup import dump
from ansible_collections.sre.runbooks.plugins.module_utils.backup.bucket import TargetBucket
from ansible_collections.sre.runbooks.plugins.module_utils.backup.encryption import Keyring
from ansible_collections.sre.runbooks.plugins.module_utils.backup.folder import TargetFolder
from ansible_collections.sre.runbooks.plugins.module_utils.backup.manifest import Manifest
from ansible_collections.sre.runbooks.plugins.module_utils.backup.restore import Restore
from ansible_collections.sre.runbooks.plugins.module_utils.backup.s3 import Bucket
from ansible_collections.sre.runbooks.plugins.module_utils.backup.store import Privacy, TargetStore
from ansible_collections.sre.runbooks.plugins.module_utils.backup.verify import Drill, Verification
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import Login, connect
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.progress import Progress
from ansible_collections.sre.runbooks.plugins.module_utils.run.words import counted
from ansible_collections.sre.runbooks.plugins.modules.pg_backup_verify import sentence_of

from lab import machine
from lab.keys import Key
from lab.postgresql import PostgresServer
from lab.s3 import S3Server
from tests.faults.fault import DONE, REFUSED, UNDONE, UNKNOWN, Seen
from tests.integration.backup.conftest import as_arguments
from tests.integration.restore.conftest import CHECK, NEWEST, Shop

SYSTEM, TARGET = "shops", "shop"
CONTENT = """
SELECT o.rows + t.rows AS rows, concat_ws(' ', o.md5, t.md5) AS md5
FROM (SELECT count(*) AS rows, md5(string_agg(o::text, ',' ORDER BY id)) AS md5 FROM orders AS o) AS o,
    (SELECT count(*) AS rows, md5(string_agg(t::text, ',' ORDER BY id)) AS md5 FROM "Odd ""table"" ñ" AS t) AS t
"""
SCRATCH = r"SELECT datname FROM pg_database WHERE datname LIKE 'sre\_scratch\_%'"
STATES = ("prepared", "swapped", "done")
PATIENCE_S = 60.0


@dataclass(frozen=True)
class Content:
    """What the application reads: how many rows, and the MD5 of all their values."""

    rows: int
    md5: str

    def __str__(self) -> str:
        return counted(self.rows, "row")


class Staged(Progress):
    """Does something when the work says that it has come to a stage.

    Args:
        words: which are in what it says then.
        act: done once.
    """

    def __init__(self, words: str, act: Callable[[], None]) -> None:
        super().__init__()
        self._words, self._act, self.acted = words, act, False

    def say(self, message: str) -> None:
        super().say(message)
        if self._words in message and not self.acted:
            self.acted = True
            self._act()


@contextlib.contextmanager
def when(condition: Callable[[], bool], act: Callable[[], None]) -> Iterator[None]:
    """Do something in the middle of the block, as soon as the condition holds; it has to."""
    acted, ended = threading.Event(), threading.Event()

    def watch() -> None:
        if machine.wait_for(lambda: ended.is_set() or condition(), PATIENCE_S) and not ended.is_set():
            act()
            acted.set()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    assert acted.is_set(), "the work ended before the fault was injected"


class Scene:
    """One shop, and what is done on it.

    `live` is what the application read before the fault, `restored` what it read when the backup was made, and
    `measured` says what became of it, where a row has looked itself.

    Args:
        shop: with a database of this row's own.
        random: of the row's own seed.
        folder: for stores and work.
        fixture: starts further real things, by the names of their fixtures.
    """

    def __init__(self, shop: Shop, random: Random, folder: Path, fixture: Callable[[str], Any]) -> None:
        self.shop, self.random, self.folder, self.fixture = shop, random, folder, fixture
        self.store = folder / "store"
        self.store.mkdir()
        self.work = folder / "work"
        self.live = self.restored = self.content()
        self.measured: str | None = None
        self._places: list[TargetStore] = []

    # what is there

    @property
    def scratch(self) -> PostgresServer:
        """The server for drills."""
        return self.fixture("scratch_server")

    @property
    def s3(self) -> S3Server:
        """The store that speaks S3."""
        return self.fixture("s3")

    @property
    def keys(self) -> dict[str, Key]:
        """Two GPG key pairs."""
        return self.fixture("keys")

    @property
    def bin_directory(self) -> Path:
        """The client programs."""
        return self.shop.server.bin_directory

    def bucket(self, **changes: Any) -> Bucket:
        """The bucket, below a prefix of this row's own."""
        prefix = hashlib.sha256(str(self.folder).encode()).hexdigest()[:16]
        found = Bucket(self.s3.endpoint_url, "backups", prefix, "eu-central-1", self.s3.access_key, self.s3.secret_key)
        return replace(found, **changes)

    def place(
        self, kind: str = "folder", *, home: Path | None = None, passphrase: str | None = None,
        work: Path | None = None, recipients: tuple[str, ...] = ("first", "second"), store: Path | None = None,
        **bucket: Any,
    ) -> TargetStore:
        """A store: `folder`, `encrypted folder`, `bucket` or `encrypted bucket`."""
        privacy = Privacy(work_directory=work or self.work)
        if "encrypted" in kind:
            privacy = replace(
                privacy, recipients=tuple(str(self.keys[name].public) for name in recipients),
                keyring=Keyring(str(home or self.keys["first"].home), passphrase),
            )
        if "bucket" in kind:
            made: TargetStore = TargetBucket(self.bucket(**bucket), SYSTEM, TARGET, privacy)
        else:
            made = TargetFolder(store or self.store, SYSTEM, TARGET, privacy)
        self._places.append(made)
        return made

    def content(self, shop: Shop | None = None) -> Content:
        """What the application sees: it has to get in, and to read everything."""
        with connect((shop or self.shop).application, "shop") as connection:
            return Content(**connection.execute(CONTENT.encode()).fetchone())

    def look(self, outcome: str) -> str:
        """Read the data anew, and say in words what became of them.

        Raises:
            AssertionError: the restored ones are not there after `done`, or those that were live after anything else.
        """
        found = self.content()
        wanted = {DONE: (self.restored,), UNKNOWN: (self.live, self.restored)}.get(outcome, (self.live,))
        assert found in wanted, f"{outcome}, and the application sees {found}, which are other ones"
        return f"{found} as {'before' if found == self.live else 'backed up'}"

    def folder_of(self, manifest: Manifest) -> Path:
        """Where a backup is, in a folder."""
        return self.store / SYSTEM / TARGET / manifest.backup_id

    # what is done

    def write(self) -> None:
        """The shop goes on: orders come in, and half of the old ones are lost by an accident."""
        self.shop.run("INSERT INTO orders (what) SELECT 'since then ' || n FROM generate_series(1, 25) AS n")
        self.shop.run("DELETE FROM orders WHERE id % 2 = 0")
        self.live = self.content()

    def enlarge(self, rows: int = 600_000) -> None:
        """So many rows that a dump takes a while."""
        self.shop.run(
            "CREATE TABLE big AS SELECT i, md5(i::text) || md5((i * 7)::text) AS v"
            f" FROM generate_series(1, {rows}) AS i"
        )

    def request(self, place: TargetStore | None = None, **changes: Any) -> dump.Request:
        """What a backup is asked for."""
        usual = dump.Request(
            login=self.shop.admin, database=self.shop.name, place=place or self.place(), jobs=2, compression_level=1,
            fingerprints=True, credentials=False, newest_row_query=NEWEST, bin_directory=str(self.bin_directory),
            timeout_s=120,
        )
        return replace(usual, **changes)

    def back_up(self, place: TargetStore | None = None, progress: Progress | None = None, **changes: Any) -> Manifest:
        """A backup."""
        request = self.request(place, **changes)
        observed = dump.observe(request)
        dump.plan_of(request, observed)
        self.restored = self.content()
        with request.place.locked():
            return dump.BackupMaker(request, observed, progress or Progress()).make()

    def try_backup(
        self, place: TargetStore | None = None, progress: Progress | None = None, **changes: Any
    ) -> Seen:
        """A backup as an operator sees it: checked, then made; one that fails leaves nothing that looks like one."""
        request = self.request(place, **changes)
        before = list(self.store.glob(f"{SYSTEM}/{TARGET}/2*"))
        self.restored = self.content()
        try:
            observed = dump.observe(request)
            dump.plan_of(request, observed)
        except RunbookError as error:
            return Seen(REFUSED, str(error))
        try:
            with request.place.locked():
                made = dump.BackupMaker(request, observed, progress or Progress()).make()
        except RunbookError as error:
            assert list(self.store.glob(f"{SYSTEM}/{TARGET}/2*")) == before
            return Seen(UNDONE, str(error))
        return Seen(DONE, f"{made.backup_id}: {sum(table.rows or 0 for table in made.tables)} rows")

    def prove(
        self, place: TargetStore | None = None, rung: str = "application", *, progress: Progress | None = None,
        backup_id: str | None = None, login: Login | None = None, **changes: Any,
    ) -> Seen:
        """A proof of the newest backup as an operator sees it."""
        place = place or self.place()
        drill = replace(
            Drill(rung, login or self.scratch.login, False, None, 2, CHECK, str(self.bin_directory), 60), **changes
        )
        chosen = backup_id or place.ids()[-1]
        try:
            verdict = Verification(place, chosen, drill, progress or Progress()).run()
        except RunbookError as error:
            return Seen(UNDONE, str(error))
        return Seen(verdict.verdict, sentence_of(TARGET, verdict), verdict.rung)

    def restore(
        self, place: TargetStore | None = None, *, stages: dict[str, Progress] | None = None, **changes: Any
    ) -> Seen:
        """A restore with its exchange as an operator sees it: checked, then carried out."""
        place = place or self.place()
        shop = replace(self.shop, place=place)
        usual = {"bin_directory": str(self.bin_directory), "lock_wait_s": 20.0, **changes}
        try:
            shop.reach("prepared", check=True, **usual)
        except RunbookError as error:
            return Seen(REFUSED, str(error))
        for state in STATES:
            try:
                _reach(shop, state, (stages or {}).get(state), usual)
            except RunbookError as error:
                return Seen(UNDONE, str(error))
        return Seen(DONE, f"{shop.name} is restored")

    def again(self, place: TargetStore | None = None) -> None:
        """The data are whole, and the same command once more, with nothing in its way, goes through."""
        self.measured = self.look(UNDONE)
        seen = self.restore(place)
        assert seen.outcome == DONE, seen.message
        self.look(DONE)

    def module(self, **more: Any) -> dict[str, Any]:
        """The arguments of a module on this shop and its store in a folder."""
        return {
            "login": as_arguments(self.shop.admin), "store_path": str(self.store), "system": SYSTEM, "target": TARGET,
            "postgresql_bin_directory": str(self.bin_directory), **more,
        }

    # what is left

    def left(self) -> list[str]:
        """What a row may not leave: databases of drills and swaps, half a backup, plain data."""
        found = [
            name for name in self.shop.databases() if name != self.shop.name and "__retired_" not in name
        ]
        with connect(self.scratch.login, "tests") as connection:
            found += [row["datname"] for row in connection.execute(SCRATCH)]
        found += [row["datname"] for row in self.shop.run(SCRATCH, "postgres")]
        found += [str(path) for path in self.store.rglob(".partial-*")]
        # Where a dead network kept it from taking away what it sent, a run leaves a note for the next one.
        kept = [path for path in self.work.rglob("*") if path.is_file() and path.parent.name != "claims"]
        return found + [str(path) for path in kept if path.suffix != ".lock"]


def _reach(shop: Shop, state: str, progress: Progress | None, usual: dict[str, Any]) -> None:
    Restore(shop.request(**usual), progress or Progress(), check=False).reach(state)
