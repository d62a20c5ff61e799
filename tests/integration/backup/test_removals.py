# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What retention removes from real stores, and what it must not believe."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.backup.bucket import TargetBucket
from ansible_collections.sre.runbooks.plugins.module_utils.backup.folder import PARTIAL, REMOVING, TargetFolder
from ansible_collections.sre.runbooks.plugins.module_utils.backup.manifest import Encryption
from ansible_collections.sre.runbooks.plugins.module_utils.backup.s3 import Bucket
from ansible_collections.sre.runbooks.plugins.module_utils.backup.store import Privacy, TargetStore
from ansible_collections.sre.runbooks.plugins.module_utils.backup.verdict import Verdict
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.moments import utc_text
from ansible_collections.sre.runbooks.plugins.module_utils.run.progress import Progress

from tests.unit.backup.conftest import manifest_of

Call = Callable[..., dict[str, Any]]
NOW = datetime.now(UTC)
IDS = [f"{NOW - timedelta(days=days):%Y%m%dT%H%M%SZ}-0001" for days in (5, 4, 3, 2)]


class Kept:
    """Four backups, a day apart, each proven by a restore, and retention, which keeps the newest."""

    def __init__(self, place: TargetStore, store: dict[str, Any], call: Call) -> None:
        self.place, self._store, self._call = place, store, call
        for days, backup_id in zip((5, 4, 3, 2), IDS, strict=True):
            moment = utc_text(NOW - timedelta(days=days))
            if isinstance(place, TargetFolder):
                place.partial(backup_id).mkdir(parents=True)
            place.put(backup_id, "data/toc.dat", io.BytesIO(b"toc"), 3)
            place.publish(replace(manifest_of(backup_id, moment), system="bakery_ia", target="orders-db"))
            place.add_verdict(Verdict("good", "restore", moment, backup_id))

    def lose(self, backup_id: str) -> None:
        """Take the data of a backup away, and leave its manifest and verdicts."""
        if isinstance(self.place, TargetFolder):
            (self.place.backup(backup_id) / "data/toc.dat").unlink()
        else:
            self.place._s3.delete([f"{self.place._data(backup_id)}data/toc.dat"])

    def thin(self, **more: Any) -> dict[str, Any]:
        return self._call("backup_retention", {
            **self._store, "system": "bakery_ia", "target": "orders-db", "keep": {"daily": 1},
            "minimum_age_seconds": 0, "maximum_age_seconds": 10 * 86400, **more,
        })


@pytest.fixture(params=["folder", "bucket"])
def kept(request: pytest.FixtureRequest, tmp_path: Path, call_module: Call) -> Kept:
    if request.param == "folder":
        return Kept(TargetFolder(tmp_path, "bakery_ia", "orders-db"), {"store_path": str(tmp_path)}, call_module)
    bucket: Bucket = request.getfixturevalue("bucket")
    store = {name: value for name, value in asdict(bucket).items() if value is not None}
    return Kept(TargetBucket(bucket, "bakery_ia", "orders-db"), {"store_s3": store}, call_module)


def test_a_proven_backup_whose_data_are_gone_lets_nothing_go(kept: Kept) -> None:
    """X15: proofs and names stay when the data are lost, and would let the last good copy go."""
    kept.lose(IDS[3])
    thinned = kept.thin()
    assert [one["target"] for one in thinned["plan"]] == IDS[:2], thinned
    assert kept.place.ids() == IDS[2:]
    assert thinned["kept"][0]["reason"] == "the newest that is proven by a restore"
    assert "1 of 1 files are missing" in thinned["kept"][1]["reason"]
    kept.lose(IDS[2])
    assert kept.thin()["plan"] == []
    assert kept.place.ids() == IDS[2:]


def test_plain_files_for_which_there_is_no_room_are_not_fetched(kept: Kept, tmp_path: Path) -> None:
    """A restore and a drill bring an encrypted backup, or one of a bucket, onto this host's disk first."""
    manifest = kept.place.manifest(IDS[3])
    large = replace(manifest, total_bytes=5_000_000_000_000, encryption=Encryption("gpg", ["A" * 40]))
    place = kept.place
    place.privacy = Privacy(work_directory=tmp_path / "work")
    with pytest.raises(RunbookError, match=r"The plain files take 5.0 TB, and .* free"), \
            place.plain(large, 1, Progress()):
        pytest.fail("It fetched them.")
    assert not [path for path in (tmp_path / "work").rglob("*") if path.is_file()]


def test_a_retention_that_fails_in_the_middle_says_what_is_gone(tmp_path: Path, call_module: Call) -> None:
    """D30: what was removed is in the record, also when a later one could not be."""
    kept = Kept(TargetFolder(tmp_path, "bakery_ia", "orders-db"), {"store_path": str(tmp_path)}, call_module)
    in_the_way = kept.place.path / f"{REMOVING}{IDS[1]}"
    (in_the_way / "something").mkdir(parents=True)
    failed = kept.thin()
    assert failed["failed"]
    assert (failed["error"]["removed"], [one["target"] for one in failed["plan"]]) == ([IDS[0]], [IDS[0]])
    assert f"Removed before it were: {IDS[0]}." in failed["msg"]
    assert (failed["changed"], failed["freed_bytes"]) == (True, 3)
    assert kept.place.ids() == IDS[1:]
    assert not list(kept.place.path.glob(f"{PARTIAL}*"))
