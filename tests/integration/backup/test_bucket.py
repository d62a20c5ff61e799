# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A bucket that several machines write into, over a network that fails: nobody removes what another one wrote."""

from __future__ import annotations

import hashlib
import http.client
import io
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.backup import bucket as bucket_module
from ansible_collections.sre.runbooks.plugins.module_utils.backup.bucket import TargetBucket
from ansible_collections.sre.runbooks.plugins.module_utils.backup.encryption import Keyring
from ansible_collections.sre.runbooks.plugins.module_utils.backup.folder import TargetFolder
from ansible_collections.sre.runbooks.plugins.module_utils.backup.manifest import (
    File,
    Manifest,
    ManifestCorruptError,
    write_manifest,
)
from ansible_collections.sre.runbooks.plugins.module_utils.backup.s3 import MIB, AlreadyThereError, Bucket
from ansible_collections.sre.runbooks.plugins.module_utils.backup.store import Privacy
from ansible_collections.sre.runbooks.plugins.module_utils.backup.transfer import BrokenFileError, Meter, fetch
from ansible_collections.sre.runbooks.plugins.module_utils.backup.verdict import Verdict
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.progress import Progress

from lab import machine
from tests.unit.backup.conftest import manifest_of

ID, OTHER = "20261121T021500Z-3fa9", "20261122T021500Z-0001"
FILE = "data/toc.dat"
Machine = Callable[..., TargetBucket]


@pytest.fixture
def on(bucket: Bucket, tmp_path: Path) -> Machine:
    """The same store, as a machine of some name has it."""
    def place(name: str, where: Bucket = bucket) -> TargetBucket:
        return TargetBucket(where, "bakery_ia", "orders-db", Privacy(work_directory=tmp_path / name))

    return place


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything in a bucket was begun too long ago."""
    monkeypatch.setattr(bucket_module, "GIVEN_UP", timedelta(hours=-1))


def send(place: TargetBucket, backup_id: str = ID, data: bytes = b"rows") -> Manifest:
    """Put the file of a backup; its manifest."""
    stored = place.put(backup_id, FILE, io.BytesIO(data), len(data))
    file = File(FILE, len(data), hashlib.sha256(data).hexdigest(), stored)
    return replace(manifest_of(backup_id), target="orders-db", files=[file], total_bytes=len(data))


def make(place: TargetBucket, backup_id: str = ID, data: bytes = b"rows") -> Manifest:
    with place.making(backup_id):
        manifest = send(place, backup_id, data)
        place.publish(manifest)
    return manifest


def error_of(place: TargetBucket | TargetFolder, work: Callable[[Path], object]) -> Exception:
    """What is raised when a backup is begun and then this is done."""
    def begin() -> None:
        with place.making(ID) as folder:
            work(folder)

    with pytest.raises(Exception) as caught:  # noqa: PT011 - the tests look at it
        begin()
    return caught.value


def is_whole(place: TargetBucket, manifest: Manifest) -> bool:
    place.prove(place.manifest(manifest.backup_id), 1, Progress())
    return place.manifest(manifest.backup_id) == manifest


def killed_while_sending(place: TargetBucket, backup_id: str = ID, publish: bool = False) -> None:
    """What a process leaves that is gone in the middle, an unfinished upload among it."""
    pid = os.fork()
    if not pid:
        try:
            held = place.making(backup_id)
            held.__enter__()
            manifest = send(place, backup_id)
            place._s3._client.create_multipart_upload(
                Bucket=place._s3.bucket.bucket, Key=place._s3._key(f"{place._data(backup_id)}data/1.dat")
            )
            if publish:
                place.publish(manifest)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


def uploads(place: TargetBucket) -> list[str]:
    client, prefix = place._s3._client, place._s3._key(place._root)
    listed = client.list_multipart_uploads(Bucket=place._s3.bucket.bucket, Prefix=prefix)
    return [one["Key"] for one in listed.get("Uploads", [])]


@pytest.mark.usefixtures("impatient")
def test_a_copy_that_another_machine_is_making_is_left_alone_by_one_that_fails(on: Machine) -> None:
    """X15 ⚠: locks are a machine's own, and the second copy, when it fails, takes away the first one's files."""
    first, second = on("first"), on("second")
    with first.making(ID):
        manifest = send(first)
        with pytest.raises(RunbookError, match="another machine is copying this backup"):
            make(second)
        assert second.remove_leftovers() == []
        first.publish(manifest)
    with pytest.raises(RunbookError):
        make(second)
    assert second.remove_leftovers() == first.remove_leftovers() == []
    assert is_whole(second, manifest)


def test_one_that_lost_its_claim_removes_only_what_it_wrote(on: Machine) -> None:
    """Somebody took a claim away by hand while its machine was only slow."""
    first, second = on("first"), on("second")
    made: list[Manifest] = []

    def be_overtaken(_folder: Path) -> None:
        first._s3.delete([first._claims.key(ID)])
        made.append(make(second))
        send(first)

    assert isinstance(error_of(first, be_overtaken), AlreadyThereError)
    assert is_whole(second, made[0])
    assert second._claims.writer(ID) == second._s3.writer


def test_files_that_have_no_claim_are_not_written_over(on: Machine) -> None:
    place = on("first")
    place._s3.put_bytes(f"{place._data(ID)}{FILE}", b"somebody's")
    with pytest.raises(RunbookError, match="holds files already"):
        make(place)
    assert place.names(ID) == [FILE]
    assert place._claims.all() == {}


@pytest.mark.usefixtures("impatient")
def test_a_backup_whose_manifest_is_gone_is_shown_and_not_removed(on: Machine) -> None:
    """X15 ⚠: the next backup of any machine takes away what is not listed, and nobody hears of it."""
    place = on("first")
    make(place)
    make(place, OTHER)
    place._s3.delete(place._manifest_keys(ID))
    for name in ("first", "second"):
        assert on(name).remove_leftovers() == []
        broken, whole = on(name).backups()
        assert (broken.backup_id, "no manifest" in broken.problem, whole.problem) == (ID, True, "")
    assert place.names(ID) == [FILE]


def test_what_a_killed_machine_left_is_taken_away_by_itself_and_shown_to_others(
    on: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A81 ⚠: half a backup taken for one, and unfinished uploads that cost room unseen."""
    killed_while_sending(on("first"))
    other = on("second")
    assert (other.leftovers(), other.remove_leftovers(), other.backups()) == ([], [], [])
    monkeypatch.setattr(bucket_module, "GIVEN_UP", timedelta(hours=-1))
    (shown,) = other.backups()
    assert "was begun at" in shown.problem
    assert other.remove_leftovers() == []
    assert (len(uploads(other)), other.names(ID)) == (1, [FILE])
    assert other.at(ID) in on("first").remove_leftovers()
    assert (uploads(other), other.names(ID), other.backups(), on("first").leftovers()) == ([], [], [], [])
    assert is_whole(other, make(other))


def test_a_backup_whose_maker_was_killed_after_its_manifest_stays(on: Machine) -> None:
    killed_while_sending(on("first"), publish=True)
    on("first").remove_leftovers()
    assert [one.problem for one in on("first").backups()] == [""]
    assert on("first").names(ID) == [FILE]
    assert on("first")._claims.abandoned() == []


def test_a_removal_that_was_killed_is_ended_by_the_next_run(on: Machine) -> None:
    place = on("first")
    make(place)
    place._s3.put_bytes(place._removal(ID), b"{}")
    place._s3.delete(place._manifest_keys(ID))
    assert on("second").remove_leftovers() == [place.at(ID)]
    assert list(place._s3.list("")) == []
    make(place)
    place.remove(ID)
    assert list(place._s3.list("")) == []


class Proxy(ThreadingHTTPServer):
    """The way to a store: it can be down, or lose the answers to what was carried out.

    Args:
        address: of the store.
    """

    def __init__(self, address: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.address, self.down, self.loses, self.lost = address, False, "", 0


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_unused: object) -> None:
        """Be quiet."""

    def forward(self) -> None:
        proxy: Proxy = self.server
        self.close_connection = True
        if proxy.down:
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        connection = http.client.HTTPConnection(proxy.address, timeout=30)
        sent = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
        connection.request(self.command, self.path, body, sent)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        if proxy.loses and self.command == "PUT" and proxy.loses in self.path:
            proxy.lost += 1
            return
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "date", "server"):
                self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = forward  # noqa: N815 - the base class calls them so


@pytest.fixture
def proxy(bucket: Bucket) -> Iterator[Proxy]:
    with Proxy(bucket.endpoint_url.removeprefix("http://")) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def unsure(proxy: Proxy, bucket: Bucket, on: Machine) -> TargetBucket:
    """The store at the end of that way."""
    return on("first", replace(bucket, endpoint_url=f"http://127.0.0.1:{proxy.server_port}"))


def test_a_manifest_never_stays_without_its_files(unsure: TargetBucket, proxy: Proxy, on: Machine) -> None:
    """A81 ⚠: the answer to the manifest was lost, and only the files were taken away."""
    def lose_the_answer(_folder: Path) -> None:
        manifest = send(unsure)
        proxy.loses = "/manifests/"
        unsure.publish(manifest)

    assert "hung up in the middle" in str(error_of(unsure, lose_the_answer))
    assert proxy.lost > 0
    assert (on("second").ids(), on("second").names(ID)) == ([], [])
    assert is_whole(on("second"), make(on("second")))


def test_when_nobody_knows_whether_the_manifest_is_there_nothing_is_removed(
    unsure: TargetBucket, proxy: Proxy, on: Machine
) -> None:
    made: list[Manifest] = []

    def lose_the_network(_folder: Path) -> None:
        made.append(send(unsure))
        unsure.publish(made[0])
        proxy.down = True
        unsure.publish(made[0])

    error = error_of(unsure, lose_the_network)
    assert "hung up in the middle" in error.message
    assert "is still there" in error.hint
    assert is_whole(on("second"), made[0])
    proxy.down = False
    unsure.remove_leftovers()
    assert is_whole(on("second"), made[0])


def test_an_answer_that_was_lost_once_is_no_other_machine(unsure: TargetBucket, proxy: Proxy) -> None:
    """The client asks again by itself, and then its own object is there already."""
    events, seen = unsure._s3._client.meta.events, []

    def heal(**_unused: object) -> None:
        seen.append(proxy.lost)
        proxy.loses = "" if proxy.lost else "/orders-db/"

    events.register("before-send.s3", heal)
    assert is_whole(unsure, make(unsure))
    assert max(seen) == 1


def test_a_server_that_overwrites_is_refused(on: Machine) -> None:
    """Nothing would keep two machines apart; some servers pass over the header that they do not know."""
    place = on("first")

    def pass_over(params: dict[str, Any], **_unused: object) -> None:
        params["headers"].pop("If-None-Match")

    place._s3._client.meta.events.register("before-call.s3.PutObject", pass_over)
    error = error_of(place, lambda _folder: None)
    assert "though it was asked not to" in str(error), error


def test_the_first_error_is_the_one_that_is_told(unsure: TargetBucket, proxy: Proxy, tmp_path: Path) -> None:
    """What fails while it is cleaned up comes after it, and the next run cleans up."""
    def fail_without_network(_folder: Path) -> None:
        send(unsure)
        proxy.down = True
        raise RunbookError("The dump failed.", "Look at it.")

    error = error_of(unsure, fail_without_network)
    assert error.message == "The dump failed."
    assert error.hint.startswith(f"Look at it. What was sent to {unsure.at(ID)} is still there")
    proxy.down = False
    assert unsure.remove_leftovers() == [unsure.at(ID)]
    assert unsure.names(ID) == []

    folder = TargetFolder(tmp_path, "bakery_ia", "orders-db")
    folder.path.mkdir(parents=True)

    def fail_and_stay(made: Path) -> None:
        made.rmdir()
        made.symlink_to(tmp_path)
        raise ValueError("The dump failed")

    plain = error_of(folder, fail_and_stay)
    assert str(plain) == "The dump failed"
    assert "is still there" in plain.__notes__[0]


@pytest.mark.parametrize("change", [{"backup_id": OTHER}, {"system": "other"}, {"target": "other-db"}])
def test_a_manifest_of_something_else_is_refused_by_every_kind_of_store(
    change: dict[str, str], on: Machine, tmp_path: Path
) -> None:
    """X14 ⚠: a restore that brings back another backup, or another database's, than the one it names."""
    place, folder = on("first"), TargetFolder(tmp_path / "store", "bakery_ia", "orders-db")
    wrong = replace(make(place), **change)
    (key,) = place._manifest_keys(ID)
    place._s3.delete([key])
    place.publish(wrong)
    if "target" not in change and "system" not in change:
        (published,) = [one.key for one in place._s3.list(f"{place._root}/manifests/")]
        place._s3.put_bytes(key, place._s3.read(published))
    folder.backup(ID).mkdir(parents=True)
    write_manifest(folder.backup(ID), wrong)
    for store in (place, folder):
        with pytest.raises(ManifestCorruptError, match="has the manifest of"):
            store.manifest(ID)
    assert "is that of" in folder.backups()[0].problem


def test_the_last_verdict_is_the_last_by_the_servers_clock(on: Machine) -> None:
    """X14 ⚠: a good verdict of a machine whose clock is ahead hides every bad one after it."""
    place = on("first")
    make(place)
    place.add_verdict(Verdict("good", "restore", "2099-01-01T00:00:00.000Z", ID))
    place.add_verdict(Verdict("corrupt", None, "2026-11-21T03:00:00.000Z", ID))
    assert (place.backups()[0].proven_rung, place.verdicts(ID)[-1].verdict) == (None, "corrupt")
    (bad,) = [one for one in place._s3.list(f"{place._root}/verdicts/") if "corrupt" in one.key]
    assert machine.wait_for(lambda: datetime.now(UTC) > bad.modified_at + timedelta(seconds=2), 10)
    place.add_verdict(Verdict("good", "restore", "2020-01-01T00:00:00.000Z", ID))
    assert (place.backups()[0].proven_rung, place.verdicts(ID)[-1].verdict) == ("restore", "good")


def test_an_object_that_is_not_the_one_that_was_sent_is_no_proof(on: Machine, tmp_path: Path) -> None:
    """A82 ⚠: the checksum that the server computed was written down, and never looked at again."""
    place, data = on("first"), os.urandom(9 * MIB)
    manifest = make(place, data=data)
    assert is_whole(place, manifest)
    key = f"{place._data(ID)}{FILE}"
    place._s3.delete([key])
    place._s3.put(key, io.BytesIO(data), 16 * MIB)
    with pytest.raises(BrokenFileError, match="has the checksum"):
        place.prove(manifest, 1, Progress())
    with pytest.raises(BrokenFileError, match="has the checksum"):
        fetch(manifest, tmp_path / "fetched", place.stored(manifest), Keyring(), Meter("", 1), 1)


STRAYS = (f"~{'9' * 150}~none~3.json", "~1~none~x.json", "~99999999999999999~none~3.json", "~none~none~3.json", ".json")
FOREIGN = ("20269999T999999Z-0000~1~none~3.json", "readme.txt", "..~1~none~3.json")


def test_a_stray_object_does_not_end_a_catalog(on: Machine) -> None:
    """What is called like a backup is shown with its problem; the rest is as little a backup as it is in a folder."""
    place, wrong = on("first"), [f"20261101T00000{number}Z-0000" for number in range(len(STRAYS))]
    make(place, OTHER)
    for name in (*(f"{one}{stray}" for one, stray in zip(wrong, STRAYS, strict=True)), *FOREIGN):
        place._s3.put_bytes(f"{place._root}/manifests/{name}", b"{}")
    for stray in ("1~wonderful~restore", "1~good~sky", f"{'9' * 99}~good~none"):
        place._s3.put_bytes(f"{place._root}/verdicts/{OTHER}~{stray}.json", b"{}")
    *strays, whole = place.backups()
    assert (whole.backup_id, whole.problem, whole.proven_rung) == (OTHER, "", None)
    assert [one.verdict for one in whole.verdicts] == ["unreadable"] * 2
    assert [one.backup_id for one in strays] == wrong
    assert all("is none of a manifest" in one.problem for one in strays)


@pytest.fixture
def locked(bucket: Bucket, tmp_path: Path) -> tuple[TargetBucket, dict]:
    """A store in a bucket with Object Lock, as object and as options of a module; nothing in it can be removed."""
    where = replace(bucket, bucket=f"locked-{os.urandom(4).hex()}", object_lock_mode="governance", object_lock_days=1)
    place = TargetBucket(where, "bakery_ia", "orders-db", Privacy(work_directory=tmp_path / "work"))
    place._s3._client.create_bucket(Bucket=where.bucket, ObjectLockEnabledForBucket=True)
    options = {name: value for name, value in asdict(where).items() if value is not None}
    return place, {"store_s3": options, "store_work_directory": str(tmp_path / "work")}


def test_retention_keeps_what_object_lock_keeps(
    locked: tuple[TargetBucket, dict], call_module: Callable[..., dict[str, Any]]
) -> None:
    """X15 ⚠: a delete marker hides a locked backup, and is told as a removal that made room."""
    place, options = locked
    day = datetime.now(UTC) - timedelta(hours=1)
    ids = [f"{day:%Y%m%dT%H%M%SZ}-000{number}" for number in range(2)]
    for number, backup_id in enumerate(ids):
        moment = (day + timedelta(minutes=number)).isoformat()
        with place.making(backup_id):
            manifest = send(place, backup_id)
            place.publish(replace(manifest, snapshot=replace(manifest.snapshot, taken_at=moment)))
        place.add_verdict(Verdict("good", "restore", moment, backup_id))
    result = call_module("backup_retention", {
        **options, "system": "bakery_ia", "target": "orders-db", "keep": {"yearly": 1}, "minimum_age_seconds": 0,
    })
    assert (result["changed"], len(result["kept"])) == (False, 2), result
    assert "Object Lock keeps it until" in result["kept"][0]["reason"]
    assert place.ids() == ids


def test_a_locked_backup_that_was_removed_comes_back_without_its_delete_markers(
    locked: tuple[TargetBucket, dict]
) -> None:
    """The way back that docs/stores.md tells."""
    place, _options = locked
    manifest = make(place)
    assert place.locked_until(ID) > datetime.now(UTC) + timedelta(hours=23)
    place.remove(ID)
    assert place.backups() == []
    client, name = place._s3._client, place._s3.bucket.bucket
    for kind in ("manifests", "data"):
        listed = client.list_object_versions(Bucket=name, Prefix=place._s3._key(f"{place._root}/{kind}/"))
        for marker in listed["DeleteMarkers"]:
            client.delete_object(Bucket=name, Key=marker["Key"], VersionId=marker["VersionId"])
    assert [one.backup_id for one in place.backups()] == [ID]
    assert is_whole(place, manifest)


def test_what_the_server_encrypts_comes_back_and_is_proven(on: Machine, bucket: Bucket) -> None:
    place = on("first", replace(bucket, server_side_encryption="AES256"))
    assert is_whole(place, make(place, data=os.urandom(9 * MIB)))
    for one in place._s3.list(""):
        head = place._s3._client.head_object(Bucket=bucket.bucket, Key=place._s3._key(one.key))
        assert head["ServerSideEncryption"] == "AES256"


def test_two_stores_of_one_database_have_locks_of_their_own(on: Machine, bucket: Bucket) -> None:
    first, second = on("same"), on("same", replace(bucket, prefix=f"{bucket.prefix}/other"))
    with first.locked(), second.locked():
        assert first.work_directory != second.work_directory
        with pytest.raises(RunbookError, match="Another backup of orders-db"), on("same").locked():
            pass


SAME = [
    ("https://s3.example.org", "HTTPS://S3.example.org:443/", True),
    ("http://s3.example.org:80", "http://s3.example.org.", True),
    ("https://s3.example.org", "https://s3.example.org:8333", False),
    ("https://s3.example.org", "http://s3.example.org", False),
    (None, "https://s3.eu-central-1.amazonaws.com", True),
    (None, "https://s3.example.org", False),
]


@pytest.mark.parametrize(("one", "other", "same"), SAME)
def test_an_endpoint_is_one_however_it_is_spelled(
    one: str | None, other: str | None, same: bool, bucket: Bucket
) -> None:
    """B38 ⚠: a copy beside the backup."""
    assert (replace(bucket, endpoint_url=one).endpoint == replace(bucket, endpoint_url=other).endpoint) is same


def test_a_bucket_under_two_spellings_is_one_store(bucket: Bucket, on: Machine) -> None:
    """B38 ⚠."""
    other = replace(bucket, endpoint_url=f"{bucket.endpoint_url}/", prefix=f"/{bucket.prefix}/")
    assert on("first").identity == on("first", other).identity
    assert on("first").identity != on("first", replace(bucket, prefix="another")).identity


def test_a_dump_that_begins_anew_sends_its_files_anew(on: Machine) -> None:
    """A80: nothing is overwritten, so what the first attempt sent is taken away, and nothing else."""
    place = on("first")
    make(place, OTHER)
    with place.locked(), place.making(ID):
        place.put(ID, "data/1.dat.gz", io.BytesIO(b"first"), 5)
        place.unsend(ID)
        assert place.names(ID) == []
        place.put(ID, "data/1.dat.gz", io.BytesIO(b"second"), 6)
        assert place.names(ID) == ["data/1.dat.gz"]
    assert place.names(OTHER)
