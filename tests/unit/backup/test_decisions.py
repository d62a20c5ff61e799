"""What the backup modules decide without a server."""

from __future__ import annotations

import gzip
import hashlib
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.backup import scanner
from ansible_collections.sre.runbooks.plugins.module_utils.backup.archive import (
    Entry,
    hash_and_inflate,
    parse_contents,
)
from ansible_collections.sre.runbooks.plugins.module_utils.backup.catalog import (
    HEADING,
    Limits,
    assess,
    line_of,
    listing,
    parse_before,
    pick,
)
from ansible_collections.sre.runbooks.plugins.module_utils.backup.dump import estimate_bytes
from ansible_collections.sre.runbooks.plugins.module_utils.backup.folder import TargetFolder
from ansible_collections.sre.runbooks.plugins.module_utils.backup.manifest import (
    File,
    Manifest,
    Table,
    write_manifest,
)
from ansible_collections.sre.runbooks.plugins.module_utils.backup.objects import missing
from ansible_collections.sre.runbooks.plugins.module_utils.backup.s3 import moment_of
from ansible_collections.sre.runbooks.plugins.module_utils.backup.scanner import (
    FindingError,
    Scanner,
    compare_entries,
    compare_names,
)
from ansible_collections.sre.runbooks.plugins.module_utils.backup.scratch import is_leftover, scratch_name
from ansible_collections.sre.runbooks.plugins.module_utils.backup.verdict import Verdict, append_verdict
from ansible_collections.sre.runbooks.plugins.module_utils.backup.verify import verdict_of_restore_error
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql import marker
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.words import size as size_words
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("size", "bytes_then", "size_then", "expected"),
    [(1000, None, None, 1000), (1000, 100, 1000, 125), (4000, 100, 1000, 500), (1000, 100, 0, 1000)],
)
def test_the_expected_size_follows_the_last_backup(
    manifest: Manifest, size: int, bytes_then: int | None, size_then: int | None, expected: int
):
    last = None
    if bytes_then is not None:
        last = replace(manifest, total_bytes=bytes_then, database=replace(manifest.database, size_bytes=size_then))
    assert estimate_bytes(size, last) == expected


@pytest.mark.parametrize(
    ("size", "words"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (402118233, "402.1 MB"), (5e12, "5.0 TB")]
)
def test_sizes_are_readable(size: float, words: str):
    assert size_words(size) == words


LISTING = """;
; Archive created at 2026-11-21 02:15:00 UTC
217; 1259 16386 TABLE public straße owner
218; 1259 16400 FOREIGN TABLE public outside owner
3456; 0 16386 TABLE DATA public straße owner
3460; 0 16390 TABLE DATA Odd Schema with "quotes" owner
3470; 0 0 SEQUENCE SET public s owner
3480; 0 0 BLOBS - BLOBS
3490; 1262 16385 DATABASE - we"ird owner
"""


def test_a_table_of_contents_is_read():
    entries = parse_contents(LISTING)
    assert Entry(3456, 16386, "TABLE DATA", "public straße owner") in entries
    assert [entry.kind for entry in entries].count("TABLE DATA") == 2
    assert {entry.oid for entry in entries if entry.kind == "FOREIGN TABLE"} == {16400}


@given(st.text())
def test_any_text_is_a_listing_without_tables_or_one_with(listing: str):
    assert all(entry.dump_id >= 0 for entry in parse_contents(listing))


def with_files(manifest: Manifest, *paths: str) -> Manifest:
    return replace(manifest, files=[File(path, 1, "00") for path in paths])


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (["data/1.dat.gz"], "incomplete"), ([], "incomplete"),
        (["data/1.dat.gz", "data/toc.dat", "data/9.dat.gz"], "corrupt"),
    ],
)
def test_a_missing_file_is_incomplete_and_a_strange_one_corrupt(manifest: Manifest, found: list[str], verdict: str):
    with pytest.raises(FindingError) as caught:
        compare_names(with_files(manifest, "data/1.dat.gz", "data/toc.dat"), found)
    assert caught.value.verdict == verdict


def test_each_counted_table_needs_its_data(manifest: Manifest):
    whole = replace(manifest, tables=[
        Table("public", "straße", "table", 3), Table("Odd Schema", 'with "quotes"', "table", 0),
        Table("public", "outside", "foreign table"),
    ])
    entries = parse_contents(LISTING)
    compare_entries(whole, entries, ["data/3456.dat.gz", "data/3460.dat"])
    with pytest.raises(FindingError, match=r"public\.lost"):
        compare_entries(replace(whole, tables=[Table("public", "lost", "table", 1)]), entries, [])
    with pytest.raises(FindingError, match="3460"):
        compare_entries(whole, entries, ["data/3456.dat.gz"])


def test_a_table_does_not_pass_for_another_with_a_longer_name(manifest: Manifest):
    entries = [Entry(1, 2, "TABLE DATA", "public orders_archive owner")]
    with pytest.raises(FindingError, match=r"public\.orders"):
        compare_entries(replace(manifest, tables=[Table("public", "orders", "table", 1)]), entries, ["data/1.dat.gz"])


@pytest.mark.parametrize(
    ("message", "verdict"),
    [
        ('could not create unique index "x"', "corrupt"), ("could not uncompress data: (null)", "corrupt"),
        ('extension "isn" is not available', "unverifiable"), ("No space left on device", "unverifiable"),
        ("server closed the connection unexpectedly", "unverifiable"), ('role "x" does not exist', "unverifiable"),
    ],
)
def test_only_what_the_server_says_about_data_is_the_backups_fault(message: str, verdict: str):
    assert verdict_of_restore_error(RunbookError(message)) == verdict


GOOD = gzip.compress(b"rows\n" * 100_000)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (GOOD, ""), (gzip.compress(b""), ""), (GOOD[:-1], "ends too early"), (b"", "ends too early"),
        (GOOD[:-8] + b"\0" * 8, "broken"), (GOOD + b"x", "bytes follow"), (b"no gzip at all", "broken"),
    ],
    # What gzip writes holds the time.
    ids=["rows", "no rows", "cut by a byte", "empty", "wrong sum", "a byte too many", "no gzip"],
)
def test_every_block_is_inflated_to_its_end(tmp_path: Path, data: bytes, words: str):
    """A81 ⚠."""
    path = tmp_path / "1.dat.gz"
    path.write_bytes(data)
    size, sha256, problem = hash_and_inflate(path)
    assert (size, sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert words in problem
    assert bool(words) == bool(problem)


OURS = marker.join(None, marker.Marker(marker.SCRATCH, "", "x"))
LIVE = marker.join(None, marker.Marker(marker.RETIRED, "", "x"))


def test_a_file_that_nobody_read_to_its_end_is_no_proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A thread that dies (memory, a defect) takes its file with it."""
    (tmp_path / "a.dat").write_bytes(b"a")
    wanted = [File("a.dat", 1, hashlib.sha256(b"a").hexdigest())]
    monkeypatch.setattr(threading, "excepthook", lambda _unused: None)
    Scanner(tmp_path, wanted, False, 1).wait()
    monkeypatch.setattr(scanner, "hash_file", lambda _unused: memoryview(b"")[1])
    with pytest.raises(FindingError, match=r"a\.dat") as caught:
        Scanner(tmp_path, wanted, False, 1).wait()
    assert caught.value.verdict == "unverifiable"


@pytest.mark.parametrize(
    ("name", "comment", "expected"),
    [
        (scratch_name("20261121T021500Z-3fa9"), OURS, True), (scratch_name("20261121T021500Z-3fa9"), None, True),
        (scratch_name("20261121T021500Z-3fa9"), "mine, please keep", False),
        (scratch_name("20261121T021500Z-3fa9"), LIVE, False),
        ("sre_scratch_of_somebody", OURS, False), ("orders", OURS, False),
    ],
    # The name is a new one at each call, and two workers must find the same tests.
    ids=["marked", "not yet marked", "somebody's comment", "another marker", "a name like ours", "another name"],
)
def test_only_databases_of_drills_are_leftovers(name: str, comment: str | None, expected: bool):
    assert is_leftover(name, comment) is expected


@pytest.fixture
def place(tmp_path: Path, manifest_of: Callable[..., Manifest]) -> TargetFolder:
    place = TargetFolder(tmp_path, "bakery_ia", "auth_db")
    folder = place.backup("20261121T100000Z-0001")
    folder.mkdir(parents=True)
    write_manifest(folder, manifest_of(folder.name, "2026-11-21T10:00:00.000Z"))
    return place


def test_manifest_and_verdicts_are_no_files_of_a_backup(place: TargetFolder):
    place.add_verdict(Verdict("good", "bytes", "2026-11-21T10:01:00.000Z", "20261121T100000Z-0001"))
    (place.backup("20261121T100000Z-0001") / "globals.sql").touch()
    assert place.names("20261121T100000Z-0001") == ["globals.sql"]


@pytest.mark.parametrize(
    ("verdicts", "limits", "statuses", "words"),
    [
        ([("good", "restore")], Limits(7200, 7200), "ok ok ok", ""),
        ([("good", "archive")], Limits(7200, 7200), "ok critical ok", "no backup proven to the rung restore"),
        ([("good", "archive")], Limits(7200, 7200, "archive"), "ok ok ok", ""),
        ([], Limits(7200, 7200, None), "critical ok ok", "no backup proven to the rung archive"),
        ([("good", "restore")], Limits(7199, 7200), "critical ok ok", "is 2 h old, and at most 1 h 59 min are allowed"),
        ([("good", "restore")], Limits(7200, 7199), "ok warning ok", "sre.runbooks.backup_verify -e target=auth-db"),
        ([("good", "bytes")], Limits(7200, 7200), "critical critical ok", "no backup proven to the rung archive"),
        ([], Limits(7200, 7200), "critical critical ok", "no backup proven"),
        ([("good", "content"), ("corrupt", None)], Limits(7200, 7200), "critical critical warning",
         "of auth-db is corrupt"),
        ([("good", "content"), ("unverifiable", "bytes")], Limits(7200, 7200), "ok ok ok", ""),
    ],
)
def test_a_catalog_is_well_with_a_fresh_proof_and_a_drilled_backup(
    place: TargetFolder, verdicts: list, limits: Limits, statuses: str, words: str
):
    """B42 ⚠ B40: a fresh backup, one that a restore takes by default, and none that is damaged."""
    folder = place.backup("20261121T100000Z-0001")
    for verdict, rung in verdicts:
        append_verdict(folder, Verdict(verdict, rung, "2026-11-21T11:00:00.000Z", folder.name))
    checks = assess("auth-db", place.backups(), NOW, limits)
    assert [check.name for check in checks] == ["backup_age_seconds", "drilled_backup_age_seconds", "damaged_backups"]
    assert [check.status for check in checks] == statuses.split()
    assert words in " ".join(check.message for check in checks if check.status != "ok")


@pytest.mark.parametrize(
    ("rung", "objective", "status", "words"),
    [
        ("archive", 7200, "ok", ""),
        ("archive", 7199, "critical", "sre.runbooks.database_backup -e target=auth-db"),
        ("bytes", 7200, "critical", "no backup proven to the rung archive"),
    ],
)
def test_a_catalog_is_held_against_how_much_this_database_may_lose(
    place: TargetFolder, rung: str, objective: float, status: str, words: str
):
    """B42 ⚠: the same 25 hours for all say nothing of a database that may lose one."""
    folder = place.backup("20261121T100000Z-0001")
    append_verdict(folder, Verdict("good", rung, "2026-11-21T11:00:00.000Z", folder.name))
    checks = assess("auth-db", place.backups(), NOW, Limits(90000, 90000, objective_s=objective))
    (check,) = [check for check in checks if check.name == "recovery_point_seconds"]
    assert (check.status, words in check.message) == (status, True)


def test_no_backup_is_a_problem_with_the_command():
    (check,) = assess("auth-db", [], NOW, Limits(90000, 90000))
    assert check.status == "critical"
    assert check.message == (
        "auth-db has no backup. Run: ansible-playbook sre.runbooks.database_backup -e target=auth-db"
    )


def test_a_backup_of_the_future_is_no_fresh_one(place: TargetFolder):
    """B42 ⚠: a clock that is ahead would hide for hours that no backup is made any more."""
    folder = place.backup("20261121T100000Z-0001")
    append_verdict(folder, Verdict("good", "restore", "2026-11-21T11:00:00.000Z", folder.name))
    earlier = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
    checks = assess("auth-db", place.backups(), earlier, Limits(7200, 7200))
    assert [check.status for check in checks] == ["unknown", "unknown", "ok"]
    assert "was taken 1 h after the time of this clock" in checks[0].message


@pytest.mark.parametrize("text", ["2026-11-21T18:43", "2026-11-21"])
def test_a_moment_without_a_zone_is_refused(text: str):
    """A85 ⚠: an hour more or less is another backup."""
    with pytest.raises(RunbookError, match=f"The time {text} has no zone. Give it with one, as in 2026-11-21T"):
        parse_before(text)
    assert parse_before("2026-11-21T18:43+01:00") == datetime(2026, 11, 21, 17, 43, tzinfo=UTC)


def test_one_backup_that_was_named_is_missing_or_damaged_and_not_merely_unproven(place: TargetFolder):
    with pytest.raises(RunbookError, match="There is no backup with the id nosuch: the catalog holds 1"):
        pick(place.backups(), backup_id="nosuch")
    name = "20261121T100000Z-0001"
    append_verdict(place.backup(name), Verdict("corrupt", None, "2026-11-21T11:00:00.000Z", name))
    with pytest.raises(RunbookError, match=f"The backup {name} is corrupt, as its last proof says"):
        pick(place.backups(), backup_id=name)
    assert listing(place.backups(), NOW)[0].startswith(f"{name}  2 hours old, ")
    assert listing(place.backups(), NOW)[0].endswith(", corrupt")


def test_the_table_is_aligned_and_says_what_a_restore_would_take(place: TargetFolder):
    column = HEADING.index("a restore takes")
    line = line_of("auth-db", place.backups(), NOW, "restore", -2.5e6)
    assert line.index("not proven") == HEADING.index("proven")
    assert line.index("-2.5 MB") + len("-2.5 MB") == HEADING.index("a day") + len("a day")
    assert "2 hours" in line
    assert line[column:] == "none: it refuses"
    assert line_of("auth-db", place.backups(), NOW, None, None)[column:] == "the newest"
    assert line_of("auth-db", [], NOW, "restore", None)[column:] == "none"


@pytest.mark.parametrize(
    "text", ["2026-11-21T02:15:00.000Z", "2026-11-21T02:15:00Z", "Sat, 21 Nov 2026 02:15:00 GMT", "1795227300"]
)
def test_each_way_in_which_s3_writes_a_time_is_read(text: str):
    assert moment_of(text) == datetime(2026, 11, 21, 2, 15, tzinfo=UTC)


@pytest.mark.parametrize(("wanted", "there", "phrases"), [
    ({"indexes": 3, "relations of the role clerk": 1}, {"indexes": 3, "relations of the role clerk": 1}, []),
    ({"indexes": 3}, {"indexes": 2}, ["there are 2 indexes instead of 3"]),
    ({"relations of the role clerk": 1}, {"indexes": 3}, ["there are 0 relations of the role clerk instead of 1"]),
    ({"what an older version counted": 4}, {"indexes": 3}, []),
    ({}, {"relations of the role postgres": 5}, []),
])
def test_what_belongs_to_another_owner_is_missing_and_what_is_no_longer_counted_is_not(
    wanted: dict[str, int], there: dict[str, int], phrases: list[str]
) -> None:
    assert missing(wanted, there) == phrases
