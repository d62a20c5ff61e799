# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Faults of what a store keeps, and of the way into it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ansible_collections.sre.runbooks.plugins.module_utils.backup.bucket import TargetBucket
from ansible_collections.sre.runbooks.plugins.module_utils.backup.manifest import MANIFEST, Manifest, write_manifest
from ansible_collections.sre.runbooks.plugins.module_utils.backup.store import TargetStore
from ansible_collections.sre.runbooks.plugins.module_utils.backup.verdict import VERDICTS

from lab.s3 import S3Server
from tests.faults.fault import DONE, REFUSED, UNDONE, Fault, Seen
from tests.faults.machinery import call_ahead
from tests.faults.network import Proxy, part_loser
from tests.faults.scene import SYSTEM, TARGET, Scene, Staged

WHERE = "store"
AGAIN = "the verdict undoes every proof before it; no restore takes the backup"
NO_BACKUP = "nothing is left that looks like a backup"
KINDS = ("encrypted folder", "bucket", "encrypted bucket")
NEW = "Make a new backup now"
# What each kind of file is called in a backup.
FILES: dict[str, Callable[[str], bool]] = {
    "the table of contents": lambda name: "toc.dat" in name,
    "a data file": lambda name: Path(name).name[0].isdigit(),
    "a large object": lambda name: Path(name).name.startswith("blob_"),
    "the list of large objects": lambda name: Path(name).name.startswith("blobs"),
    "the globals": lambda name: "globals" in name,
}


class Kept:
    """What a store has of the newest backup, byte by byte."""

    def __init__(self, place: TargetStore, manifest: Manifest) -> None:
        self.place, self.manifest = place, manifest

    def __getitem__(self, name: str) -> bytes:
        if isinstance(self.place, TargetBucket):
            return self.place._s3.read(self._key(name))
        return (self.place.backup(self.manifest.backup_id) / name).read_bytes()

    def __setitem__(self, name: str, data: bytes | None) -> None:
        if isinstance(self.place, TargetBucket):
            key = self._key(name)
            # Nothing is overwritten in a bucket.
            self.place._s3.delete([key])
            if data is not None:
                self.place._s3.put_bytes(key, data)
            return
        path = self.place.backup(self.manifest.backup_id) / name
        path.unlink() if data is None else path.write_bytes(data)

    def _key(self, name: str) -> str:
        if name == MANIFEST:
            (one,) = self.place._s3.list(f"{SYSTEM}/{TARGET}/manifests/{self.manifest.backup_id}")
            return one.key
        return f"{self.place._data(self.manifest.backup_id)}{name}"

    def names(self, what: str) -> list[str]:
        """The files of one kind."""
        if what == "the manifest":
            return [MANIFEST]
        return [name for name in self.place.names(self.manifest.backup_id) if FILES[what](name)]


def flipped(data: bytes, scene: Scene) -> bytes:
    """One bit of one byte at random is another one."""
    broken = bytearray(data)
    broken[scene.random.randrange(len(data))] ^= 1 << scene.random.randrange(8)
    return bytes(broken)


def cut(data: bytes, scene: Scene) -> bytes:
    return data[: scene.random.randrange(len(data))]


def gone(_data: bytes, _scene: Scene) -> None:
    return None


def damaged(kind: str, what: str, damage: Callable[[bytes, Scene], bytes | None]) -> Callable[[Scene], Seen]:
    """A whole, proven backup of which one file is damaged: proven again, and then refused by a restore."""

    def inject(scene: Scene) -> Seen:
        place = scene.place(kind)
        kept = Kept(place, scene.back_up(place))
        assert scene.prove(place, "archive").outcome == "good"
        scene.write()
        name = scene.random.choice(kept.names(what))
        kept[name] = damage(kept[name], scene)
        seen = scene.prove(place)
        assert scene.restore(place, least_rung="archive").outcome == REFUSED, "it is never taken again"
        return seen

    return inject


def verdict_flipped(scene: Scene) -> Seen:
    """In the line that says corrupt: a bit of it must not bring back the proof before."""
    place = scene.place()
    kept = Kept(place, scene.back_up(place))
    assert scene.prove(place).outcome == "good"
    name = kept.names("a data file")[0]
    whole = kept[name]
    kept[name] = flipped(whole, scene)
    assert scene.prove(place).outcome == "corrupt"
    good, corrupt, _end = kept[VERDICTS].split(b"\n")
    for _unused in range(200):
        kept[VERDICTS] = b"\n".join([good, flipped(corrupt, scene), b""])
        (found,) = place.backups()
        assert found.proven_rung is None, kept[VERDICTS]
    scene.write()
    seen = scene.restore(place, least_rung="restore")
    kept[name] = whole
    return replace(seen, times=200)


def proof_flipped(scene: Scene) -> Seen:
    """In the line that says good: it proves nothing any more, and hides no backup of the catalog."""
    place = scene.place()
    kept = Kept(place, scene.back_up(place))
    assert scene.prove(place, "archive").outcome == "good"
    line = kept[VERDICTS]
    for _unused in range(200):
        kept[VERDICTS] = flipped(line[:-1], scene) + b"\n"
        (found,) = place.backups()
        assert found.proven_rung is None, kept[VERDICTS]
    return replace(scene.restore(place, least_rung="archive"), times=200)


def verdicts_exchanged(scene: Scene) -> Seen:
    """Of a proven backup and one that nobody has proven."""
    place = scene.place()
    first, second = scene.back_up(place), scene.back_up(place)
    assert scene.prove(place, backup_id=first.backup_id).outcome == "good"
    shutil.move(scene.folder_of(first) / VERDICTS, scene.folder_of(second) / VERDICTS)
    return scene.restore(place, backup_id=second.backup_id, least_rung="restore")


def exchange(one: Path, other: Path) -> None:
    """Each gets the other's name."""
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def data_exchanged(scene: Scene) -> Seen:
    first = scene.back_up()
    scene.write()
    second = scene.back_up()
    name = next(name for name in Kept(scene.place(), second).names("a data file"))
    exchange(scene.folder_of(first) / name, scene.folder_of(second) / name)
    return scene.prove(backup_id=second.backup_id)


def backups_exchanged(scene: Scene) -> Seen:
    """An operator who asks for one must not get the other."""
    first = scene.back_up()
    scene.write()
    second = scene.back_up()
    exchange(scene.folder_of(first), scene.folder_of(second))
    return scene.prove()


def old_manifest(scene: Scene) -> Seen:
    first = scene.back_up()
    scene.write()
    second = scene.back_up()
    shutil.copy(scene.folder_of(first) / MANIFEST, scene.folder_of(second) / MANIFEST)
    return scene.prove(backup_id=second.backup_id)


def old_manifest_adopted(scene: Scene) -> Seen:
    """Old rows and tables under the new backup's id and files, its hash mended: what only a restore can find."""
    first = scene.back_up()
    scene.write()
    second = scene.back_up()
    write_manifest(scene.folder_of(second), replace(second, tables=first.tables))
    return scene.prove(backup_id=second.backup_id)


def manifests_exchanged(scene: Scene) -> Seen:
    """In a bucket, where a manifest's time and size stand in its name."""
    place = scene.place("bucket")
    first = Kept(place, scene.back_up(place))
    scene.write()
    second = Kept(place, scene.back_up(place))
    first[MANIFEST], second[MANIFEST] = second[MANIFEST], first[MANIFEST]
    seen = scene.restore(place, least_rung=None, backup_id=second.manifest.backup_id)
    assert seen.outcome == REFUSED, seen
    return scene.prove(place)


def other_target(scene: Scene) -> Seen:
    """A whole backup of another database in this one's folder: restored, it would overwrite the wrong data."""
    made = scene.back_up()
    data = json.loads((scene.folder_of(made) / MANIFEST).read_text())
    assert data["target"] == TARGET
    scene.folder_of(made).parent.rename(scene.store / SYSTEM / "other")
    place = scene.place()
    place.target = "other"
    seen = scene.restore(place, least_rung=None)
    assert seen.outcome == REFUSED, seen
    return scene.prove(place)


def stranger(scene: Scene) -> Seen:
    made = scene.back_up()
    (scene.folder_of(made) / "data" / "9999.dat.gz").write_bytes(b"x")
    return scene.prove()


def key_lost(scene: Scene) -> Seen:
    place = scene.place("encrypted folder")
    scene.back_up(place)
    (scene.folder / "no-keys").mkdir(mode=0o700)
    lost = scene.place("encrypted folder", home=scene.folder / "no-keys")
    assert scene.prove(lost, "bytes").outcome == "good"
    scene.write()
    assert "Bring one of these secret keys" in scene.restore(lost, least_rung="bytes").message
    return scene.prove(lost)


def wrong_passphrase(scene: Scene) -> Seen:
    place = scene.place("encrypted folder", recipients=("second",))
    scene.back_up(place)
    scene.keys["second"].close()
    return scene.prove(scene.place(
        "encrypted folder", recipients=("second",), home=scene.keys["second"].home, passphrase="battery staple"
    ))


def whole(kind: str) -> Callable[[Scene], Seen]:
    """A control: nothing is wrong with this kind of store."""

    def inject(scene: Scene) -> Seen:
        place = scene.place(kind)
        scene.back_up(place)
        return scene.prove(place)

    return inject


def refused(**changes: str) -> Callable[[Scene], Seen]:
    """A bucket that cannot be used."""
    return lambda scene: scene.try_backup(scene.place("bucket", **changes))


def may_not_write(scene: Scene) -> Seen:
    """A key that may list and read, and not write: nobody notices before the first byte is sent."""
    place = scene.place("bucket")
    client = place._s3._client
    prefix = f"{scene.bucket().prefix}/"
    client.put_bucket_policy(Bucket="backups", Policy=json.dumps({"Version": "2012-10-17", "Statement": [
        {"Effect": "Deny", "Principal": "*", "Action": "s3:PutObject", "Resource": f"arn:aws:s3:::backups/{prefix}*"},
    ]}))
    try:
        return scene.try_backup(place)
    finally:
        client.delete_bucket_policy(Bucket="backups")


def skewed(scene: Scene) -> Seen:
    arguments = scene.module(database=scene.shop.name, store_work_directory=str(scene.work))
    del arguments["store_path"]
    bucket = scene.bucket()
    arguments["store_s3"] = {
        "bucket": bucket.bucket, "prefix": bucket.prefix, "endpoint_url": bucket.endpoint_url, "region": bucket.region,
        "access_key": bucket.access_key, "secret_key": bucket.secret_key,
    }
    result = call_ahead("pg_backup", arguments, 3600, check=True)
    return Seen(REFUSED if result.get("failed") else DONE, str(result.get("msg", result)))


def upload_cut(scene: Scene) -> Seen:
    scene.enlarge(100_000)
    with Proxy(scene.s3.port, cut_after=scene.random.randint(100_000, 2_000_000)) as proxy:
        place = scene.place("bucket", endpoint_url=f"http://127.0.0.1:{proxy.port}")
        seen = scene.try_backup(place)
        assert proxy.was_cut.is_set()
    assert scene.place("bucket").backups() == []
    return seen


def download_cut(scene: Scene) -> Seen:
    scene.enlarge(100_000)
    scene.back_up(scene.place("bucket"))
    with Proxy(scene.s3.port, cut_after=scene.random.randint(100_000, 2_000_000)) as proxy:
        place = scene.place("bucket", endpoint_url=f"http://127.0.0.1:{proxy.port}")
        seen = scene.prove(place, "archive", backup_id=scene.place("bucket").ids()[-1])
        assert proxy.was_cut.is_set()
    assert scene.prove(scene.place("bucket"), "archive").outcome == "good", "the backup is as good as it was"
    return seen


def part_lost(scene: Scene) -> Seen:
    scene.shop.run(
        "CREATE TABLE pictures AS SELECT n, string_agg(sha512((n * 5000 + i)::text::bytea), ''::bytea) AS picture"
        " FROM generate_series(1, 60) AS n, generate_series(1, 5000) AS i GROUP BY n"
    )
    with part_loser(scene.s3.port) as (port, swallowed):
        place = scene.place("bucket", endpoint_url=f"http://127.0.0.1:{port}")
        seen = scene.try_backup(place, compression_level=0)
        assert swallowed, "no upload had a second part"
    assert scene.place("bucket").backups() == []
    return seen


def store_dies(scene: Scene) -> Seen:
    """While files are sent to it."""
    with S3Server(scene.fixture("server_folder") / f"doomed-{scene.random.randrange(10**6)}-s3") as doomed:
        place = scene.place("bucket", endpoint_url=doomed.endpoint_url, secret_key=doomed.secret_key)
        seen = scene.try_backup(place, Staged("sending", doomed.kill))
        doomed.start()
        assert place.backups() == []
    return seen


FAULTS = (
    *(
        Fault(f"nothing at all: a backup in an {kind}" if kind[0] == "e" else f"nothing at all: a backup in a {kind}",
              WHERE, whole(kind), "good", ("is good up to the rung application",), "", rung="application",
              ci=kind == "encrypted bucket")
        for kind in KINDS
    ),
    *(
        Fault(f"a bit is flipped in {what}", WHERE, damaged("folder", what, flipped), "corrupt", (NEW,), AGAIN,
              ci=what in ("a data file", "the manifest"))
        for what in (*FILES, "the manifest")
    ),
    *(
        Fault(f"a bit is flipped in {what} of an {kind}", WHERE, damaged(kind, what, flipped), "corrupt", (NEW,), AGAIN)
        for kind, what in (
            ("encrypted folder", "a data file"), ("encrypted bucket", "a data file"),
            ("encrypted bucket", "the manifest"),
        )
    ),
    Fault("a bit is flipped in an object of a bucket", WHERE, damaged("bucket", "a data file", flipped), "corrupt",
          (NEW,), AGAIN, ci=True),
    Fault("a bit is flipped in a verdict that says corrupt", WHERE, verdict_flipped, REFUSED,
          ("There is no backup proven to the rung restore",), "nothing was begun", ci=True),
    Fault("a bit is flipped in a verdict that says good", WHERE, proof_flipped, REFUSED,
          ("There is no backup proven to the rung archive",), "nothing was begun; the backup has to be proven again"),
    Fault("two backups' verdicts are exchanged", WHERE, verdicts_exchanged, REFUSED,
          ("There is no backup", "Prove one with the playbook"), "nothing was begun"),
    *(
        Fault(f"the end of {what} is cut off", WHERE, damaged(kind, what, cut), "corrupt", (NEW,), AGAIN, ci=ci)
        for kind, what, ci in (
            ("folder", "a data file", True), ("folder", "the table of contents", False),
            ("folder", "the manifest", False),
        )
    ),
    Fault("the end of an object is cut off", WHERE, damaged("encrypted bucket", "a data file", cut), "corrupt", (NEW,),
          AGAIN),
    *(
        Fault(f"{what} is gone", WHERE, damaged(kind, what, gone), "incomplete", (NEW, words), AGAIN, ci=ci)
        for kind, what, words, ci in (
            ("folder", "a data file", "files are missing", True),
            ("folder", "the table of contents", "data/toc.dat", False),
            ("folder", "a large object", "data/blob_", False), ("folder", "the globals", "globals.sql", False),
            ("folder", "the manifest", "is no backup", False),
        )
    ),
    Fault("an object is gone from a bucket", WHERE, damaged("bucket", "a data file", gone), "incomplete",
          (NEW, "files are missing"), AGAIN),
    Fault("two backups' data files are exchanged", WHERE, data_exchanged, "corrupt", ("data/", NEW), AGAIN, ci=True),
    Fault("two backups are exchanged", WHERE, backups_exchanged, "corrupt", ("has the manifest of", NEW), AGAIN),
    Fault("two backups' manifests are exchanged in a bucket", WHERE, manifests_exchanged, "corrupt",
          ("has the manifest of", NEW), AGAIN, ci=True),
    Fault("an old manifest with new data", WHERE, old_manifest, "corrupt",
          ("has the manifest of", NEW), AGAIN, ci=True),
    Fault("an old manifest with new data, made to fit by hand", WHERE, old_manifest_adopted, "corrupt",
          ("is not what the manifest", NEW), AGAIN, rung="restore"),
    Fault("the backup of another database lies in its place", WHERE, other_target, "corrupt",
          ("has the manifest of shops/shop/", "instead of shops/other/", NEW), AGAIN, ci=True),
    Fault("a file is there that no backup wrote", WHERE, stranger, "corrupt", ("not in the manifest",), AGAIN),
    Fault("the secret key is lost", WHERE, key_lost, "unverifiable", ("No secret key of this host opens it",),
          "the bytes stay proven; nothing was begun", rung="bytes", ci=True),
    Fault("the passphrase is wrong", WHERE, wrong_passphrase, "unverifiable", ("assphrase",),
          "the bytes stay proven", rung="bytes"),
    Fault("the bucket is missing", WHERE, refused(bucket="absent-bucket"), REFUSED, ("NoSuchBucket", "mend s3.bucket"),
          "nothing was begun"),
    Fault("the secret of the access key is wrong", WHERE, refused(secret_key="wrong"), REFUSED,
          ("SignatureDoesNotMatch", "does not fit the access key"), "nothing was begun"),
    Fault("the access key is unknown", WHERE, refused(access_key="nobody"), REFUSED, ("InvalidAccessKeyId",),
          "nothing was begun"),
    Fault("the bucket's policy denies writing", WHERE, may_not_write, UNDONE, ("AccessDenied",), NO_BACKUP),
    Fault("the store does not answer", WHERE, refused(endpoint_url="http://127.0.0.1:9"), REFUSED,
          ("does not answer", "network between"), "nothing was begun"),
    Fault("the clock of the host differs from the bucket's by an hour", WHERE, skewed, REFUSED,
          ("RequestTimeTooSkewed", "clock"), "nothing was begun"),
    Fault("an upload is cut in the middle", WHERE, upload_cut, UNDONE,
          ("does not answer", "nothing incomplete counts as a backup"), NO_BACKUP, ci=True),
    Fault("a part of an upload is dropped on the way, and acknowledged", WHERE, part_lost, UNDONE,
          ("answered InvalidPart", "Look at the store and the way to it"), NO_BACKUP),
    Fault("a download is cut in the middle of a proof", WHERE, download_cut, UNDONE,
          ("does not answer, or hung up in the middle",), "nothing is said about the backup: its proofs stay"),
    Fault("the store dies while files are sent to it", WHERE, store_dies, UNDONE, ("does not answer", "start it again"),
          NO_BACKUP),
)
