# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Every kind of store, plain and encrypted, against real ones: what leaves comes back, and what is wrong is said."""

from __future__ import annotations

import functools
import json
import os
import random
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.backup.arguments import place_of, store_spec
from ansible_collections.sre.runbooks.plugins.module_utils.backup.dump import BackupMaker, Request, observe
from ansible_collections.sre.runbooks.plugins.module_utils.backup.manifest import Manifest
from ansible_collections.sre.runbooks.plugins.module_utils.backup.restore import Request as RestoreRequest
from ansible_collections.sre.runbooks.plugins.module_utils.backup.restore import Restore
from ansible_collections.sre.runbooks.plugins.module_utils.backup.s3 import Bucket
from ansible_collections.sre.runbooks.plugins.module_utils.backup.store import TargetStore
from ansible_collections.sre.runbooks.plugins.module_utils.backup.verdict import Verdict
from ansible_collections.sre.runbooks.plugins.module_utils.backup.verify import Drill, Verification
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import Login, connect
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.progress import Progress

from lab import machine
from lab.keys import Key
from lab.postgresql import bin_directory
from lab.s3 import S3Server
from tests.disks import fill, mounted
from tests.integration.backup.conftest import as_arguments, read_only

Call = Callable[..., dict[str, Any]]
KINDS = ("encrypted folder", "bucket", "encrypted bucket")
PLAIN = b"customer 1999"


class Kept:
    """A database, a kind of store, and the modules that work on both.

    Args:
        options: those of the `store_` options that name the store.
    """

    def __init__(self, login: Login, options: dict[str, Any], work: Path, call: Call) -> None:
        self.login, self.options, self.work, self.call = login, options, work, call

    def arguments(self, **more: Any) -> dict[str, Any]:
        return {
            "login": as_arguments(self.login.at("postgres")), "postgresql_bin_directory": str(bin_directory()),
            "system": "bakery_ia", "target": "orders-db", "store_work_directory": str(self.work), **self.options,
            **more,
        }

    def backup(self, **more: Any) -> dict[str, Any]:
        return self.call("pg_backup", self.arguments(database=self.login.database, **more))

    def verify(self, rung: str = "content", **more: Any) -> dict[str, Any]:
        return self.call("pg_backup_verify", self.arguments(rung=rung, free_bytes=1 << 40, **more))

    def proof(self, rung: str) -> Verdict:
        """The newest backup's verdict, as the module has it, without a process of its own."""
        place = self.place
        drill = Drill(rung, self.login, False, None, 2, None, str(bin_directory()), 60)
        return Verification(place, place.backups()[-1].backup_id, drill, Progress()).run()

    @functools.cached_property
    def place(self) -> TargetStore:
        nothing = dict.fromkeys(store_spec()) | {"store_recipients": []}
        s3 = self.options.get("store_s3")
        whole = {**nothing, **self.arguments()}
        if s3:
            whole["store_s3"] = {**asdict(Bucket(None, "", "", None, None, None)), **s3}
        return place_of(whole)

    @property
    def manifest(self) -> Manifest:
        place = self.place
        return place.manifest(place.backups()[-1].backup_id)

    def work_is_empty(self) -> bool:
        return not [path for path in self.work.rglob("*") if path.is_file() and path.suffix != ".lock"]

    def stored(self) -> dict[str, bytes]:
        """All files of the newest backup, as the store has them."""
        place, manifest = self.place, self.manifest
        if "store_s3" in self.options:
            return {name: place._s3.read(f"{place._data(manifest.backup_id)}{name}")
                    for name in place.names(manifest.backup_id)}
        folder = place.backup(manifest.backup_id)
        return {name: (folder / name).read_bytes() for name in place.names(manifest.backup_id)}

    def replace(self, name: str, data: bytes | None) -> None:
        """Put other bytes into the store, or take a file away."""
        place, manifest = self.place, self.manifest
        if "store_s3" in self.options:
            key = f"{place._data(manifest.backup_id)}{name}"
            place._s3.delete([key])
            if data is not None:
                place._s3.put_bytes(key, data)
            return
        path = place.backup(manifest.backup_id) / name
        path.unlink() if data is None else path.write_bytes(data)


@pytest.fixture(params=KINDS)
def kept(
    request: pytest.FixtureRequest, filled: Login, bucket: Bucket, keys: dict[str, Key], tmp_path: Path,
    call_module: Call,
) -> Kept:
    """The odd database, and one kind of store."""
    options: dict[str, Any] = {}
    if "bucket" in request.param:
        options["store_s3"] = {name: value for name, value in asdict(bucket).items() if value is not None}
    else:
        options["store_path"] = str(tmp_path / "store")
        (tmp_path / "store").mkdir()
    if "encrypted" in request.param:
        options["store_recipients"] = [str(key.public) for key in keys.values()]
        options["store_keyring"] = {"home": str(keys["first"].home)}
    return Kept(filled, options, tmp_path / "work", call_module)


def test_what_leaves_for_a_store_comes_back_whole_and_nothing_plain_is_left(kept: Kept) -> None:
    """A82 ⚠ B38 ⚠: neither checksum nor encryption; a copy that was never read."""
    made = kept.backup(fingerprints=True)
    assert made.get("backup"), made
    assert kept.work_is_empty()
    verdict = kept.verify()["verdict"]
    assert (verdict["verdict"], verdict["rung"]) == ("good", "content"), verdict
    assert kept.work_is_empty()
    (listed,) = kept.call("backup_catalog_info", {
        name: value for name, value in kept.arguments(maximum_drilled_age_seconds=1e6).items()
        if name not in ("login", "postgresql_bin_directory")
    })["backups"]
    assert listed["rung"] == "content"
    assert listed["total_bytes"] == made["backup"]["total_bytes"]
    assert listed["taken_at"] == made["backup"]["taken_at"]


def test_a_recovery_is_as_long_as_its_fetching_and_its_restore(kept: Kept) -> None:
    """B45 ⚠: three hours of fetching are hours in which nobody works; a restore is told what its drill took."""
    kept.backup()
    proof = kept.verify()
    fetch_s = proof["verdict"]["fetch_s"]
    rungs = {rung["name"]: rung["duration_s"] for rung in proof["verdict"]["rungs"]}
    assert 0 < fetch_s < rungs["bytes"]
    assert proof["recovery_seconds"] == pytest.approx(fetch_s + rungs["restore"] + rungs["content"], abs=0.002)
    assert "of it to fetch the files" in proof["message"]
    login, database = kept.login.at("postgres"), kept.login.database
    request = RestoreRequest(
        login, database, "a run", kept.place, free_bytes=1 << 40, bin_directory=str(bin_directory())
    )
    found = Restore(request, Progress(), check=True).reach("prepared").values["backup"]
    assert found["drill_seconds"] == pytest.approx(proof["recovery_seconds"], abs=0.1)


def test_a_work_folder_without_room_is_named_and_not_the_store(kept: Kept, tmp_path: Path) -> None:
    """A80: who reads of the store removes backups to make room on another disk."""
    with mounted(tmp_path / "disk", "32m", "0700") as disk:
        fill(disk, 8 << 20)
        kept.work = disk / "work"
        failed = kept.backup()
    assert f"There are 8.4 MB free for {kept.place.work_directory}, and a backup of " in failed["msg"], failed
    assert "name a folder on a larger disk: store_work_directory" in failed["msg"]
    assert "backup_catalog" not in failed["msg"]


def test_a_work_folder_that_becomes_full_is_named_and_not_the_store(kept: Kept, tmp_path: Path) -> None:
    """A80: with how much had been dumped by then."""
    with mounted(tmp_path / "disk", "64m", "0700") as disk:
        kept.work = disk / "work"
        request = Request(
            kept.login.at("postgres"), kept.login.database, kept.place, 1, 0, False, False, None,
            str(bin_directory()), 60,
        )
        observed = observe(request)

        class FullWhenDumped(Progress):
            def say(self, message: str) -> None:
                if message.startswith("dumping"):
                    fill(disk, 4096)

        with request.place.locked(), pytest.raises(RunbookError) as caught:
            BackupMaker(request, observed, FullWhenDumped()).make()
    assert f"The disk for {kept.place.work_directory} became full while" in str(caught.value)
    assert ": 0 B were dumped" not in str(caught.value)
    assert "store_work_directory" in str(caught.value)
    assert kept.place.backups() == []


def test_the_store_has_nothing_that_can_be_read_without_a_key(kept: Kept) -> None:
    """B38 ⚠: whoever reads the store reads the customers."""
    kept.backup(compression_level=0)
    readable = any(PLAIN in data for data in kept.stored().values())
    assert readable is not bool(kept.options.get("store_recipients"))


@pytest.mark.parametrize("kept", [kind for kind in KINDS if "encrypted" in kind], indirect=True)
def test_the_bytes_are_proven_without_a_key_and_the_rungs_above_name_what_they_lack(
    kept: Kept, keys: dict[str, Key], tmp_path: Path
) -> None:
    """A drill with the key lost."""
    kept.backup()
    (tmp_path / "no-keys").mkdir(mode=0o700)
    lost = {"store_keyring": {"home": str(tmp_path / "no-keys")}}
    assert kept.verify("bytes", **lost)["verdict"]["verdict"] == "good"
    result = kept.verify(**lost)
    assert (result["verdict"]["verdict"], result["verdict"]["rung"]) == ("unverifiable", "bytes"), result
    assert "No secret key of this host opens it" in result["message"]
    assert all(key.fingerprint in result["message"] for key in keys.values())
    assert kept.place.backups()[-1].proven_rung == "bytes"


def test_a_flipped_byte_in_any_file_of_a_store_is_corrupt(kept: Kept) -> None:
    """X14: exists is not whole."""
    kept.backup()
    for name, data in kept.stored().items():
        broken = bytearray(data)
        broken[random.Random(name).randrange(len(data))] ^= 0x10
        kept.replace(name, bytes(broken))
        for rung in ("bytes", "archive"):
            verdict = kept.proof(rung)
            assert verdict.verdict == "corrupt", (name, rung, verdict)
        kept.replace(name, data)
    assert kept.proof("archive").verdict == "good"


def test_a_file_that_is_gone_from_a_store_is_incomplete(kept: Kept) -> None:
    kept.backup()
    name = next(name for name in kept.stored() if "globals" in name)
    kept.replace(name, None)
    result = kept.verify("bytes")
    assert result["verdict"]["verdict"] == "incomplete"
    assert name in result["message"]


def test_a_backup_that_is_killed_is_none_and_the_next_one_takes_its_remains_away(
    kept: Kept, start_module: Callable[..., subprocess.Popen[str]], database: Login
) -> None:
    """A81 ⚠: half a file in the store taken for a backup."""
    with connect(database, "tests") as connection:
        connection.execute("CREATE TABLE big AS SELECT i, md5(i::text) FROM generate_series(1, 400000) AS i")
    kept.login = database
    child = start_module("pg_backup", kept.arguments(database=database.database))
    assert machine.wait_for(lambda: bool(list(kept.work.rglob("*.dat*"))) or child.poll() is not None, 30)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert kept.place.backups() == []
    again = kept.backup()
    assert again.get("backup"), again
    assert again["plan"][0]["step"] == "remove what a killed backup left", again["plan"]
    assert [backup.backup_id for backup in kept.place.backups()] == [again["backup"]["backup_id"]]
    assert kept.work_is_empty()


def test_secrets_stay_out_of_what_a_module_returns(kept: Kept, bucket: Bucket) -> None:
    """X18."""
    more: dict[str, Any] = {}
    if "store_keyring" in kept.options:
        more["store_keyring"] = {**kept.options["store_keyring"], "passphrase": "never-told"}
    refused = kept.call("pg_backup", kept.arguments(database="absent", **more))
    assert refused["failed"]
    for result in (kept.backup(**more), kept.verify("bytes", **more), refused):
        text = json.dumps(result)
        assert bucket.secret_key not in text
        assert "never-told" not in text


@pytest.mark.parametrize("kept", ["bucket"], indirect=True)
def test_what_a_proof_found_is_said_although_it_cannot_be_written_down(kept: Kept) -> None:
    """X14 ⚠: a corrupt backup, of which one would read only that access was denied."""
    kept.backup()
    assert kept.proof("archive").verdict == "good"
    name = max(kept.stored(), key=lambda name: len(kept.stored()[name]))
    kept.replace(name, b"something else")
    with read_only(kept.place, "verdicts/"), pytest.raises(RunbookError) as caught:
        kept.proof("bytes")
    found, _unused, why = caught.value.message.partition(" That cannot be written down")
    assert "is corrupt (highest rung passed: none): " in found
    assert Path(name).name in found
    assert "so the catalog still shows what was known before" in why
    assert "AccessDenied" in why
    assert kept.place.backups()[-1].proven_rung == "archive"


@pytest.fixture
def doomed(server_folder: Path) -> Iterator[S3Server]:
    """A store that does not survive the test."""
    folder = server_folder / f"doomed-{os.urandom(3).hex()}-s3"
    with S3Server(folder) as server:
        yield server


def test_a_store_that_dies_while_it_is_written_leaves_no_backup(
    doomed: S3Server, filled: Login, tmp_path: Path, call_module: Call,
    start_module: Callable[..., subprocess.Popen[str]],
) -> None:
    s3 = {"endpoint_url": doomed.endpoint_url, "bucket": "backups", "access_key": doomed.access_key,
          "secret_key": doomed.secret_key, "region": "eu-central-1"}
    kept = Kept(filled, {"store_s3": s3, "store_maximum_bytes_per_second": 20000}, tmp_path / "work", call_module)
    progress = tmp_path / "progress"
    child = start_module("pg_backup", kept.arguments(database=filled.database, progress_file=str(progress)))
    assert machine.wait_for(lambda: progress.exists() and "sending" in progress.read_text(), 60)
    doomed.kill()
    out, _err = child.communicate(timeout=180)
    result = json.loads(out)
    assert result["failed"]
    assert "does not answer" in result["msg"], result
    assert "start it again" in result["msg"], result
    assert "is still there, since it could not be removed" in result["msg"], result
    doomed.start()
    assert kept.place.backups() == []
    (left,) = kept.place.remove_leftovers()
    assert left.startswith(str(kept.place))
    assert kept.place.leftovers() == []
    assert list(kept.place._s3.list("")) == []
    assert kept.work_is_empty()
