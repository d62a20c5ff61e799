# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The runbooks of recovery with an encrypted bucket as their store: a real S3 server, and real keys."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from lab import machine
from lab.keys import Key, make_key
from lab.s3 import S3Server
from tests.scenarios.backup_platform import Backups

BUCKET = "bucket-store"
ORDERS = ("-e", "target=orders-db", "-e", f"backup_store={BUCKET}")


class Store:
    """The platform's further store."""

    def __init__(self, backups: Backups, s3: S3Server, key: Key) -> None:
        self.backups, self.s3, self.key = backups, s3, key
        self.work = backups.folder / "work"
        self._inventory = backups.folder / "bucket.yml"
        machine.write_private(backups.folder / "s3", s3.secret_key)
        self.write(str(key.home))

    def write(self, home: str) -> None:
        """Write the store's host into an inventory of its own; `home` holds the secret keys."""
        secret = f"{{{{ lookup('ansible.builtin.file', '{self.backups.folder}/s3') }}}}"
        host = {
            "store_s3": {"endpoint_url": self.s3.endpoint_url, "bucket": "backups", "prefix": "shop",
                         "region": "eu-central-1", "access_key": self.s3.access_key, "secret_key": secret},
            "store_recipients": [str(self.key.public)], "store_keyring": {"home": home},
            "store_work_directory": str(self.work),
        }
        self._inventory.write_text(yaml.safe_dump({"stores": {"hosts": {BUCKET: host}}}), encoding="utf-8")

    def play(self, playbook: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.backups.play(playbook, "-i", str(self._inventory), *ORDERS, *arguments)


@pytest.fixture
def store(backups: Backups, server_place: Path) -> Iterator[Store]:
    with tempfile.TemporaryDirectory(prefix="sre-keys-") as folder, S3Server(server_place / "store-s3") as s3:
        key = make_key(Path(folder), "recovery")
        yield Store(backups, s3, key)
        key.close()


def test_an_encrypted_bucket_is_backed_up_into_proven_restored_from_thinned_and_copied(store: Store) -> None:
    """A82 ⚠ B38 ⚠ B41 ⚠ X15: what leaves the site is checked, encrypted, brought back, and copied without a mirror."""
    backups = store.backups
    shown = []
    for playbook in ("database_backup", "backup_verify", "backup_catalog", "database_backup", "backup_verify"):
        played = store.play(playbook, "-vvv")
        assert played.returncode == 0, (playbook, played.stdout[-4000:])
        shown.append(played.stdout)
    backups.sql("DELETE FROM orders WHERE id % 2 = 0")
    played = store.play("database_restore", "-e", "approve=orders-db", "-vvv")
    assert played.returncode == 0, played.stdout[-4000:]
    assert backups.orders() == 5000
    shown.append(played.stdout)

    more = ("-e", '{"backup_retention_keep": {"daily": 1}, "backup_retention_minimum_age_seconds": 0}')
    planned = store.play("backup_retention", *more)
    assert planned.returncode == 0, planned.stdout
    assert planned.stdout.count(" goes: no rule keeps it") == 1
    removed = store.play("backup_retention", *more, "-e", "remove=true")
    assert removed.returncode == 0, removed.stdout
    assert "1 backups stay and 1 go" in removed.stdout
    again = store.play("backup_retention", *more, "-e", "remove=true")
    assert again.returncode == 0, again.stdout
    assert "1 backups stay and 0 go" in again.stdout

    store.write(str(backups.folder))  # a folder without keys: a copy needs none
    copied = store.play("backup_copy", "-e", "to=local-store", "--diff", "-vvv")
    said = " ".join(copied.stdout.split())
    assert copied.returncode == 0, copied.stdout[-4000:]
    assert f"still encrypted to {store.key.fingerprint}, proven to the rung bytes." in said
    assert "WARNING: the store local-store is on db-server" in said
    (copy,) = backups.folders("orders-db")
    assert list(copy.glob("data/*.gz.gpg"))
    again = store.play("backup_copy", "-e", "to=local-store")
    assert again.returncode == 0, again.stdout
    assert f"{copy.name} is at {copy} already, proven to the rung bytes." in " ".join(again.stdout.split())
    ends = [record["data"]["outcome"] for record in backups.records() if record["kind"] == "outcome"]
    assert ends[-2:] == ["done", "nothing to do"]
    shown.append(copied.stdout)

    assert not [path for path in store.work.rglob("*") if path.is_file() and path.suffix != ".lock"]
    secret = store.s3.secret_key
    assert not [text for text in shown if secret in text]
    assert not [path for path in backups.written() if secret.encode() in path.read_bytes()]


def test_a_drill_whose_key_is_lost_names_the_key(store: Store, tmp_path: Path) -> None:
    """B40 ⚠: GPG ignored."""
    assert store.play("database_backup").returncode == 0
    (tmp_path / "no-keys").mkdir(mode=0o700)
    store.write(str(tmp_path / "no-keys"))
    for playbook, more in (("backup_verify", ()), ("database_restore", (
        "-e", "approve=orders-db", "-e", "database_restore_least_rung=archive",
    ))):
        played = store.play(playbook, *more)
        said = " ".join(played.stdout.split())
        assert played.returncode == 2, said
        assert "No secret key of this host opens it" in said
        assert store.key.fingerprint in said
    assert store.backups.orders() == 5000
    assert store.backups.left() == []


def test_a_destination_that_is_none_or_out_of_reach_is_one_sentence(backups: Backups) -> None:
    elsewhere = backups.folder / "elsewhere.yml"
    host = {"store_path": "/srv/backups", "ansible_connection": "ssh", "ansible_host": "offsite.example.org"}
    elsewhere.write_text(yaml.safe_dump({"stores": {"hosts": {"offsite": host}}}), encoding="utf-8")
    for arguments, said in (
        ((), "can be copied into local-store or offsite, and not into nothing. Say which: -e to=<store>."),
        (("-e", "to=offsite"), "remote-store is a folder on the controller, and offsite works on offsite.example.org"),
    ):
        refused = backups.play("backup_copy", "-i", str(elsewhere), "-e", "target=orders-db", *arguments)
        assert refused.returncode == 2, refused.stdout
        assert said in " ".join(refused.stdout.split()), refused.stdout
