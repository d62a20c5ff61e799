# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The list of 10,000 backups of one database, each proven once, as the catalog's module makes it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter as Counts
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ansible_collections.sre.runbooks.plugins.module_utils.backup.bucket import TargetBucket
from ansible_collections.sre.runbooks.plugins.module_utils.backup.folder import TargetFolder
from ansible_collections.sre.runbooks.plugins.module_utils.backup.manifest import (
    Counter,
    File,
    Manifest,
    Sequence,
    Snapshot,
    Table,
    Written,
)
from ansible_collections.sre.runbooks.plugins.module_utils.backup.properties import Properties
from ansible_collections.sre.runbooks.plugins.module_utils.backup.s3 import Bucket
from ansible_collections.sre.runbooks.plugins.module_utils.backup.store import DATA, GLOBALS, TargetStore
from ansible_collections.sre.runbooks.plugins.module_utils.backup.verdict import RUNGS, Rung, Verdict
from ansible_collections.sre.runbooks.plugins.module_utils.run.moments import utc_text

from lab.s3 import S3Server
from tests.benchmarks.bench_backup import PEAK_POLL_S, peak_mib
from tests.benchmarks.harness import REPOSITORY, Bench

BACKUPS = 10_000
# A manifest of this many tables has 20 kB.
TABLES = 42
WRITERS = 8
SYSTEM, TARGET = "bench", "orders-db"


def manifest(number: int) -> Manifest:
    """A backup of its own hour, of a database with some tables."""
    moment = datetime(2026, 11, 21, 2, tzinfo=UTC) - timedelta(hours=BACKUPS - number)
    taken_at = utc_text(moment)
    names = [f"a_table_of_the_shop_{index:03}" for index in range(TABLES)]
    return Manifest(
        backup_id=f"{moment:%Y%m%dT%H%M%SZ}-{number:04x}", system=SYSTEM, target=TARGET, started_at=taken_at,
        ended_at=taken_at, server_version="18.1", client_version="18.1", system_identifier="7443",
        database=Properties(
            name="orders", owner="shop", encoding="UTF8", locale_provider="libc", collate="C.UTF-8", ctype="C.UTF-8",
            locale=None, icu_rules=None, collation_version=None, acl=None, comment=None, connection_limit=-1,
            tablespace="pg_default", settings=[], extensions=[], size_bytes=10_000_000,
        ),
        snapshot=Snapshot("00000003-0000001B-1", "0/1A2B3C", taken_at, 771), newest_row_at=taken_at,
        tables=[Table("public", name, "table", 1000) for name in names],
        sequences=[Sequence("public", f"{name}_id_seq", 1000, True) for name in names], large_objects=0,
        roles=["shop"], files=[File(f"data/{index}.dat.gz", 12345, "0" * 64) for index in range(TABLES)],
        total_bytes=TABLES * 12345, compression="gzip:1", jobs=2,
        written=Written(5, taken_at, [Counter(index, "public", name) for index, name in enumerate(names)]),
    )


def verdict(backup_id: str, at: str) -> Verdict:
    """A good one up to a restore."""
    rungs = [Rung(name, True, "It is as the manifest says.", 1.5) for name in RUNGS[:3]]
    return Verdict("good", RUNGS[2], at, backup_id, rungs)


def fill(place: TargetStore, make: Callable[[Manifest], None]) -> None:
    """Put all backups into a store, with one verdict each."""
    def put(number: int) -> None:
        one = manifest(number)
        make(one)
        place.add_verdict(verdict(one.backup_id, one.ended_at))

    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(put, range(BACKUPS)))


def list_backups(bench: Bench, store: dict[str, Any]) -> tuple[float, float]:
    """Run the module as Ansible does; seconds until its result is there, and its peak memory in MiB."""
    arguments = {**store, "system": SYSTEM, "target": TARGET, "_ansible_remote_tmp": str(bench.folder)}
    started, peak = time.perf_counter(), 0.0
    with (bench.folder / "result").open("w+", encoding="utf-8") as answer:
        child = subprocess.Popen(
            [sys.executable, "-m", "ansible_collections.sre.runbooks.plugins.modules.backup_catalog_info"],
            stdin=subprocess.PIPE, stdout=answer, text=True,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY / ".ansible" / "collections")},
        )
        child.stdin.write(json.dumps({"ANSIBLE_MODULE_ARGS": arguments}))
        child.stdin.close()
        while child.poll() is None:
            peak = max(peak, peak_mib(child.pid))
            time.sleep(PEAK_POLL_S)
        seconds = time.perf_counter() - started
        answer.seek(0)
        result = json.load(answer)
    if len(result.get("backups", [])) != BACKUPS or not all(one["rung"] == RUNGS[2] for one in result["backups"]):
        raise SystemExit(json.dumps(result)[:2000])
    return seconds, peak


def measure(bench: Bench, where: str, store: dict[str, Any]) -> None:
    """Time and memory of the list."""
    name = f"{BACKUPS:,} backups in a {where}, listed"
    bench.measure(name, lambda: list_backups(bench, store)[0], at_most=5)
    bench.measure(f"peak memory: {name}", lambda: list_backups(bench, store)[1], unit="MiB", at_most=200, runs=1)


def bench_folder(bench: Bench) -> None:
    """Each manifest is read and proven."""
    place = TargetFolder(bench.folder / "store", SYSTEM, TARGET)

    def make(one: Manifest) -> None:
        (place.partial(one.backup_id) / DATA).mkdir(parents=True)
        place.publish(one)

    fill(place, make)
    measure(bench, "folder", {"store_path": str(place.store_path)})


@contextmanager
def filled_bucket(folder: Path) -> Iterator[Bucket]:
    """A store of S3 with all backups in it."""
    with S3Server(folder) as server:
        bucket = Bucket(server.endpoint_url, "backups", "bench", "eu-central-1", server.access_key, server.secret_key)
        place = TargetBucket(bucket, SYSTEM, TARGET)

        def make(one: Manifest) -> None:
            place.put(one.backup_id, GLOBALS, BytesIO(b"-- none"), 7)
            place.publish(one)

        fill(place, make)
        yield bucket


def bench_bucket(bench: Bench) -> None:
    """Names say what a catalog shows."""
    with filled_bucket(bench.folder / "bench-s3") as bucket:
        requests: Counts[str] = Counts()
        place = TargetBucket(bucket, SYSTEM, TARGET)

        def count(request: Any, **_more: Any) -> None:
            (prefix,) = parse_qs(urlsplit(request.url).query)["prefix"]
            requests[prefix.rstrip("/").rpartition("/")[2]] += 1

        place._s3._client.meta.events.register("before-send.s3", count)
        place.backups()
        for what, kind in (("", "manifests"), ("the verdicts of ", "verdicts"), ("the folders of ", "data")):
            bench.measure(f"requests that list {what}{BACKUPS:,} backups in a bucket", lambda kind=kind: requests[kind],
                          unit="requests", at_most=10, runs=1)
        bench.note(f"requests of the whole list of {BACKUPS:,} backups", requests.total(), "requests")
        names = ("bucket", "prefix", "endpoint_url", "region", "access_key", "secret_key")
        measure(bench, "bucket", {"store_s3": {name: getattr(bucket, name) for name in names}})
