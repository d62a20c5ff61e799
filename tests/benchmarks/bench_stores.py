# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The same backup into a bucket and encrypted, against the plain one in a folder, on 1.5 GB of mixed data."""

from __future__ import annotations

from typing import Any

from lab.keys import make_key
from lab.s3 import S3Server
from tests.benchmarks.bench_backup import Platform, platform
from tests.benchmarks.harness import Bench

BUCKET = "backups"


def compare(bench: Bench, its: Platform, what: str, place: dict[str, Any], at_most: float) -> None:
    """Backups into another kind of place, against those into a plain folder."""
    plain = its.place

    def elsewhere() -> None:
        its.place = place
        try:
            its.backup()
        finally:
            its.place = plain

    bench.compare(what, elsewhere, its.backup, at_most=at_most, each=its.clean)


def bench_bucket(bench: Bench) -> None:
    """Every backup stays in the bucket, beside the others."""
    with S3Server(bench.folder / "bench-s3", buckets=(BUCKET,)) as server, platform(bench) as its:
        bucket = {"bucket": BUCKET, "endpoint_url": server.endpoint_url, "region": "eu-central-1",
                  "access_key": server.access_key, "secret_key": server.secret_key}
        compare(bench, its, "pg_backup into a bucket of S3, against one into a folder", {"store_s3": bucket}, 1.3)


def bench_encryption(bench: Bench) -> None:
    """To one recipient."""
    with platform(bench) as its:
        key = make_key(bench.folder / "keys", "bench")
        place = {**its.place, "store_recipients": [str(key.public)]}
        try:
            compare(bench, its, "pg_backup encrypted, against a plain one", place, 1.5)
        finally:
            key.close()
