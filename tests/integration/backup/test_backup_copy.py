# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Copies of a backup from one real store into another one: whole and proven, or nothing."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.backup import store_copy
from ansible_collections.sre.runbooks.plugins.module_utils.backup.bucket import TargetBucket
from ansible_collections.sre.runbooks.plugins.module_utils.backup.encryption import Keyring
from ansible_collections.sre.runbooks.plugins.module_utils.backup.folder import TargetFolder
from ansible_collections.sre.runbooks.plugins.module_utils.backup.manifest import write_manifest
from ansible_collections.sre.runbooks.plugins.module_utils.backup.s3 import Bucket
from ansible_collections.sre.runbooks.plugins.module_utils.backup.store import Privacy, TargetStore
from ansible_collections.sre.runbooks.plugins.module_utils.backup.verdict import VERDICTS
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import Login
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.progress import Progress

from lab import machine
from lab.keys import Key
from lab.postgresql import bin_directory
from lab.s3 import S3Server
from tests.disks import mounted
from tests.integration.backup.conftest import arguments_for, as_arguments, read_only

Call = Callable[..., dict[str, Any]]
Start = Callable[..., subprocess.Popen[str]]
TARGET = {"system": "bakery_ia", "target": "orders-db"}
KINDS = ("folder", "encrypted folder", "bucket", "encrypted bucket")
# Slow enough that a test sees the middle of a copy.
SLOW = 30_000


@pytest.fixture(scope="module")
def proven_store(filled: Login, call_module: Call, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one backup that is proven to the rung archive; to be copied, not touched."""
    store = tmp_path_factory.mktemp("proven")
    assert call_module("pg_backup", arguments_for(filled, store, fingerprints=True))["backup"]
    verdict = verify(call_module, filled, {"store_path": str(store)}, "archive")
    assert verdict["verdict"] == "good", verdict
    return store


def verify(call: Call, login: Login, options: dict[str, Any], rung: str) -> dict[str, Any]:
    return call("pg_backup_verify", {
        "login": as_arguments(login.at("postgres")), "postgresql_bin_directory": str(bin_directory()), **TARGET,
        "free_bytes": 1 << 40, "rung": rung, **options,
    })["verdict"]


class Stores:
    """Makes stores of every kind, as options of a module and as objects."""

    def __init__(self, folder: Path, bucket: Bucket, keys: dict[str, Key]) -> None:
        self.folder, self.bucket, self.keys = folder, bucket, keys

    def options(self, kind: str, name: str = "copies", **more: Any) -> dict[str, Any]:
        options: dict[str, Any] = {"store_work_directory": str(self.folder / "work"), **more}
        if "bucket" in kind:
            whole = {**asdict(self.bucket), "prefix": f"{self.bucket.prefix}/{name}"}
            options["store_s3"] = {name: value for name, value in whole.items() if value is not None}
        else:
            options["store_path"] = str(self.folder / name)
            (self.folder / name).mkdir(exist_ok=True)
        if "encrypted" in kind:
            options["store_recipients"] = [str(key.public) for key in self.keys.values()]
        return options

    def place(self, options: dict[str, Any]) -> TargetStore:
        privacy = Privacy(
            tuple(options.get("store_recipients", ())), Keyring(str(self.keys["first"].home)),
            Path(options["store_work_directory"]) if "store_work_directory" in options else None,
        )
        if "store_path" in options:
            return TargetFolder(Path(options["store_path"]), "bakery_ia", "orders-db", privacy)
        return TargetBucket(replace(self.bucket, **options["store_s3"]), "bakery_ia", "orders-db", privacy)

    def make(self, kind: str, name: str = "copies") -> TargetStore:
        return self.place(self.options(kind, name))

    def work_is_empty(self) -> bool:
        return not [path for path in (self.folder / "work").rglob("*") if path.is_file() and path.suffix != ".lock"]


@pytest.fixture
def stores(tmp_path: Path, bucket: Bucket, keys: dict[str, Key]) -> Stores:
    return Stores(tmp_path, bucket, keys)


@pytest.fixture
def source(proven_store: Path, tmp_path: Path) -> TargetFolder:
    """The proven backup in a folder of this test's own."""
    shutil.copytree(proven_store, tmp_path / "source")
    return TargetFolder(tmp_path / "source", "bakery_ia", "orders-db")


def copy(source: TargetStore, destination: TargetStore, backup_id: str | None = None, least_rung: str = "archive",
         cap: int | None = None) -> str:
    """Copy as the module does; the message, or the error's text."""
    request = store_copy.Request(source, destination, backup_id, least_rung, cap)
    with destination.locked():
        observed = store_copy.observe(request)
        if store_copy.plan_of(request, observed):
            store_copy.carry_out(request, observed, Progress())
    return store_copy.message_of(request, observed, done=True)


def is_empty(destination: TargetStore, backup_id: str) -> bool:
    """No backup, and nothing of one."""
    left = destination.leftovers() if isinstance(destination, TargetBucket) else [
        path for path in destination.path.iterdir() if path.name != ".lock"
    ]
    return destination.backups() == [] and destination.names(backup_id) == [] and not left


WAYS = [("bucket", "encrypted folder"), ("encrypted bucket", "folder")]


@pytest.mark.parametrize("way", WAYS, ids=" then ".join)
def test_a_backup_goes_from_store_to_store_and_can_be_restored_at_its_end(
    way: tuple[str, str], source: TargetFolder, stores: Stores, filled: Login, call_module: Call, tmp_path: Path,
) -> None:
    """B41 ⚠ X15 X18: an off-site copy that is never read, and a mirror that deletes what it should protect."""
    options: dict[str, Any] = {"store_path": str(source.store_path)}
    manifest, no_keys, shown = source.manifest(source.ids()[0]), tmp_path / "no-keys", []
    no_keys.mkdir(mode=0o700)
    for hop, (kind, rung) in enumerate(zip(way, ("archive", "bytes"), strict=True)):
        before = {**options, "store_keyring": {"home": str(no_keys)}}
        options = stores.options(kind, f"copies-{hop}", store_keyring={"home": str(no_keys)})
        arguments = {**options, **TARGET, "source": before, "least_rung": rung}
        copied = call_module("backup_copy", arguments)
        assert copied.get("verdict", {}).get("rung") == "bytes", copied
        shown.append(copied)
        (listed,) = stores.place(options).backups()
        assert (listed.backup_id, listed.proven_rung) == (manifest.backup_id, "bytes")
        kept = stores.place(options).manifest(manifest.backup_id)
        assert store_copy.content_of(kept) == store_copy.content_of(manifest)
        assert bool(kept.encryption) is any("encrypted" in kind for kind in way[: hop + 1])
    options["store_keyring"] = {"home": str(stores.keys["first"].home)}
    verdict = verify(call_module, filled, options, "content")
    assert (verdict["verdict"], verdict["rung"]) == ("good", "content"), verdict
    assert stores.work_is_empty()
    assert stores.bucket.secret_key not in json.dumps(shown)


def test_the_same_plan_is_shown_and_carried_out_and_the_second_time_there_is_none(
    source: TargetFolder, stores: Stores, call_module: Call
) -> None:
    options = stores.options("encrypted folder")
    arguments = {**options, **TARGET, "source": {"store_path": str(source.store_path)}}
    planned = call_module("backup_copy", arguments, check_mode=True)
    assert [step["step"] for step in planned["plan"]] == ["copy backup", "prove copy"], planned
    assert not list(Path(options["store_path"]).rglob("*"))
    copied = call_module("backup_copy", arguments)
    assert (copied["changed"], copied["plan"]) == (True, planned["plan"]), copied
    again = call_module("backup_copy", arguments)
    assert (again["changed"], again["plan"], again["backup"]) == (False, [], copied["backup"]), again


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[random.Random(path.name).randrange(len(data))] ^= 0x04
    path.write_bytes(data)


BREAKS: dict[str, Callable[[Path], Any]] = {
    "a byte flipped": _flip, "cut": lambda path: os.truncate(path, path.stat().st_size - 1), "gone": Path.unlink,
}


@pytest.mark.parametrize(
    ("broken", "kind"), [*(("a byte flipped", kind) for kind in KINDS), ("cut", "bucket"), ("gone", "encrypted folder")]
)
def test_what_is_damaged_in_the_source_never_becomes_a_copy(
    broken: str, kind: str, source: TargetFolder, stores: Stores
) -> None:
    """B41 ⚠ X14: a copy of a damaged backup, over the last good one."""
    (backup_id,), destination = source.ids(), stores.make(kind)
    path = max(source.backup(backup_id).rglob("*.dat.gz"), key=lambda one: one.stat().st_size)
    BREAKS[broken](path)
    with pytest.raises(RunbookError, match="cannot be read" if broken == "gone" else "is damaged") as caught:
        copy(source, destination)
    assert path.name in caught.value.message
    assert is_empty(destination, backup_id)
    assert stores.work_is_empty()


def test_what_is_encrypted_stays_as_it_is_and_is_compared_without_a_key(source: TargetFolder, stores: Stores) -> None:
    encrypted, destination, (backup_id,) = stores.make("encrypted folder"), stores.make("bucket"), source.ids()
    copy(source, encrypted)
    other = stores.make("encrypted bucket", "other")
    copy(encrypted, other, least_rung="bytes")
    assert [(file.stored.bytes, file.stored.sha256) for file in other.manifest(backup_id).files] == [
        (file.stored.bytes, file.stored.sha256) for file in encrypted.manifest(backup_id).files
    ]
    _flip(next(encrypted.backup(backup_id).rglob("toc.dat.gpg")))
    with pytest.raises(RunbookError, match=r"is damaged: data/toc\.dat\.gpg"):
        copy(encrypted, destination, least_rung="bytes")
    assert is_empty(destination, backup_id)


@pytest.mark.parametrize("kind", ["folder", "encrypted bucket"])
def test_a_copy_that_is_killed_is_none_and_the_next_one_takes_its_remains_away(
    kind: str, source: TargetFolder, stores: Stores, start_module: Start, call_module: Call
) -> None:
    """B41 ⚠: half a copy taken for one."""
    options, (backup_id,) = stores.options(kind), source.ids()
    destination = stores.place(options)
    slow = {**options, **TARGET, "source": {
        "store_path": str(source.store_path), "store_maximum_bytes_per_second": SLOW
    }}
    child = start_module("backup_copy", slow)
    assert machine.wait_for(lambda: bool(destination.names(backup_id)) or child.poll() is not None, 30)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert destination.backups() == []
    again = call_module("backup_copy", {**options, **TARGET, "source": {"store_path": str(source.store_path)}})
    assert again["plan"][0]["step"] == "remove what a killed run left", again
    assert again["verdict"]["verdict"] == "good", again
    assert destination.ids() == [backup_id]
    assert destination.leftovers() == []
    assert stores.work_is_empty()


def test_a_store_that_dies_in_the_middle_is_named_and_leaves_no_copy(
    server_folder: Path, source: TargetFolder, stores: Stores, start_module: Start, tmp_path: Path
) -> None:
    with S3Server(server_folder / f"doomed-{os.urandom(3).hex()}-s3") as doomed:
        stores.bucket = replace(
            stores.bucket, endpoint_url=doomed.endpoint_url, access_key=doomed.access_key, secret_key=doomed.secret_key
        )
        here = {"store_path": str(source.store_path)}
        bucket, folder = stores.options("bucket"), stores.options("folder")
        for origin, destination in ((here, bucket), (bucket, folder)):
            progress = tmp_path / f"progress-{destination is bucket}"
            child = start_module("backup_copy", {
                **destination, **TARGET, "source": {**origin, "store_maximum_bytes_per_second": SLOW},
                "least_rung": "bytes", "progress_file": str(progress),
            })
            assert machine.wait_for(lambda path=progress: path.exists() and "copying" in path.read_text(), 60)
            doomed.kill()
            result = json.loads(child.communicate(timeout=180)[0])
            assert result["failed"], result
            assert doomed.endpoint_url in result["msg"], result
            doomed.start()
            assert stores.place(destination).backups() == []
            assert "proven to the rung bytes" in copy(stores.place(origin), stores.place(destination), None, "bytes")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 20 MB."""
    with mounted(tmp_path / "small", "20m") as folder:
        yield folder


def test_a_destination_that_becomes_full_or_is_full_leaves_no_copy(
    small_disk: Path, source: TargetFolder, start_module: Start
) -> None:
    destination = TargetFolder(small_disk, "bakery_ia", "orders-db")
    child = start_module("backup_copy", {**TARGET, "store_path": str(small_disk), "source": {
        "store_path": str(source.store_path), "store_maximum_bytes_per_second": SLOW
    }})
    assert machine.wait_for(lambda: bool(list(destination.path.glob(".partial-*"))), 30)
    with (small_disk / "other").open("wb", buffering=0) as other, contextlib.suppress(OSError):
        while other.write(bytes(1 << 12)):
            pass
    result = json.loads(child.communicate(timeout=60)[0])
    assert "became full while" in result["msg"], result
    assert is_empty(destination, source.ids()[0])
    with pytest.raises(RunbookError, match=r"There are .* free for .* needs"):
        copy(source, destination)
    (small_disk / "other").unlink()
    assert copy(source, destination).endswith("plain, proven to the rung bytes.")


def test_nothing_at_the_destination_is_overwritten_or_removed(source: TargetFolder, stores: Stores) -> None:
    """B41 X15 ⚠: a mirror brings a deletion, or an overwritten file, to the last good copy."""
    destination, (backup_id,) = stores.make("folder"), source.ids()
    copy(source, destination)
    older = destination.path / "20200101T000000Z-0000"
    shutil.copytree(destination.backup(backup_id), older)

    def files() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in destination.path.rglob("*") if path.is_file()
                and path.name != ".lock"}

    before = files()
    copy(source, destination)
    assert files() == before
    manifest = source.manifest(backup_id)
    write_manifest(source.backup(backup_id), replace(
        manifest, snapshot=replace(manifest.snapshot, taken_at="2020-01-01T00:00:00.000Z")
    ))
    with pytest.raises(RunbookError, match="is another backup under the same id"):
        copy(source, destination)
    assert files() == before


def test_a_copy_without_a_verdict_is_proven_and_a_damaged_one_is_an_error(
    source: TargetFolder, stores: Stores, filled: Login, call_module: Call
) -> None:
    """A run that was killed between manifest and verdict; a disk that turned bad since."""
    options = stores.options("folder")
    destination, (backup_id,) = stores.place(options), source.ids()
    copy(source, destination)
    (destination.backup(backup_id) / VERDICTS).unlink()
    request = store_copy.Request(source, destination, None, "archive", None)
    plan = store_copy.plan_of(request, store_copy.observe(request))
    assert [step.step for step in plan.steps] == ["prove copy"]
    copy(source, destination)
    assert destination.backups()[0].proven_rung == "bytes"

    (destination.backup(backup_id) / VERDICTS).unlink()
    _flip(next(destination.backup(backup_id).rglob("toc.dat")))
    with pytest.raises(RunbookError, match=r"is not what was sent there: data/toc\.dat"):
        copy(source, destination)
    assert verify(call_module, filled, options, "bytes")["verdict"] == "corrupt"
    with pytest.raises(RunbookError, match="was found corrupt"):
        copy(source, destination)


def test_a_copy_whose_verdict_cannot_be_written_is_said_to_be_there(source: TargetFolder, stores: Stores) -> None:
    destination, (backup_id,) = stores.make("bucket"), source.ids()
    with read_only(destination, "verdicts/"), pytest.raises(RunbookError) as caught:
        copy(source, destination)
    assert f"{destination.at(backup_id)} is copied and proven to the rung bytes, and that cannot be written" in str(
        caught.value
    )
    assert "AccessDenied" in caught.value.message
    copy(source, destination)
    assert destination.backups()[0].proven_rung == "bytes"


def test_only_what_is_proven_is_copied_and_what_was_passed_over_is_said(
    source: TargetFolder, stores: Stores
) -> None:
    """X14: exists is not whole."""
    destination, (backup_id,) = stores.make("folder"), source.ids()
    newer = "20991231T000000Z-ffff"
    shutil.copytree(source.backup(backup_id), source.backup(newer))
    (source.backup(newer) / VERDICTS).unlink()
    write_manifest(source.backup(newer), replace(source.manifest(backup_id), backup_id=newer))
    with pytest.raises(RunbookError, match=rf"no backup with the id {newer} proven to the rung archive"):
        copy(source, destination, newer)
    assert f"The newest backup, {newer}, was passed over" in copy(source, destination)
    assert destination.ids() == [backup_id]


def test_a_backup_under_the_manifest_of_another_one_is_not_copied(source: TargetFolder, stores: Stores) -> None:
    """X14."""
    (backup_id,), bucket, newer = source.ids(), stores.make("bucket"), "20991231T000000Z-ffff"
    copy(source, bucket)
    listed = [one.key for kind in ("manifests", "verdicts") for one in bucket._s3.list(f"{bucket._root}/{kind}/")]
    for key in listed:
        bucket._s3.put_bytes(key.replace(backup_id, newer), bucket._s3.read(key))
    shutil.copytree(source.backup(backup_id), source.backup(newer))
    for place in (source, bucket):
        with pytest.raises(RunbookError, match=f"has the manifest of|no backup with the id {newer}"):
            copy(place, stores.make("folder"), newer, least_rung="bytes")
    assert stores.make("folder").ids() == []


def test_a_store_under_another_name_is_no_other_store(source: TargetFolder, tmp_path: Path) -> None:
    """B38 ⚠: a copy beside the backup."""
    (tmp_path / "alias").symlink_to(source.store_path)
    with pytest.raises(RunbookError, match="protects from nothing"):
        copy(source, TargetFolder(tmp_path / "alias", "bakery_ia", "orders-db"))
