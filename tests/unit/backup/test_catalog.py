"""Which backup is taken, and what counts as proven."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.backup.catalog import (
    Backup,
    line_of,
    listing,
    parse_time,
    pick,
)
from ansible_collections.sre.runbooks.plugins.module_utils.backup.folder import TargetFolder
from ansible_collections.sre.runbooks.plugins.module_utils.backup.manifest import (
    MANIFEST,
    Manifest,
    is_backup_id,
    write_manifest,
)
from ansible_collections.sre.runbooks.plugins.module_utils.backup.store import new_backup_id
from ansible_collections.sre.runbooks.plugins.module_utils.backup.verdict import (
    VERDICTS,
    Verdict,
    append_verdict,
    proven_rung,
    read_verdicts,
)
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError

NOW = datetime(2026, 11, 22, tzinfo=UTC)
IDS = ["20261119T020000Z-0001", "20261120T020000Z-0002", "20261121T020000Z-0003"]


def verdict(backup_id: str, name: str, rung: str | None) -> Verdict:
    return Verdict(name, rung, "2026-11-21T03:00:00.000Z", backup_id, [])


@pytest.fixture
def place(tmp_path: Path, manifest_of: Callable[..., Manifest]) -> TargetFolder:
    place = TargetFolder(tmp_path, "bakery_ia", "auth_db")
    for backup_id in IDS:
        folder = place.backup(backup_id)
        folder.mkdir(parents=True)
        write_manifest(folder, manifest_of(backup_id, f"2026-11-{backup_id[6:8]}T02:00:00.000Z"))
    append_verdict(place.backup(IDS[0]), verdict(IDS[0], "good", "application"))
    append_verdict(place.backup(IDS[1]), verdict(IDS[1], "good", "content"))
    append_verdict(place.backup(IDS[2]), verdict(IDS[2], "good", "archive"))
    return place


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({}, IDS[1]),
        ({"least_rung": "application"}, IDS[0]),
        ({"least_rung": "bytes"}, IDS[2]),
        ({"least_rung": None}, IDS[2]),
        ({"before": parse_time("2026-11-20T01:59:00Z")}, IDS[0]),
        ({"before": parse_time("2026-11-20T02:00:00")}, IDS[1]),
        ({"before": parse_time("2026-11-21T05:00:00+02:00"), "least_rung": None}, IDS[2]),
        ({"backup_id": IDS[2], "least_rung": None}, IDS[2]),
    ],
)
def test_the_newest_that_fits_is_taken(place: TargetFolder, choice: dict, expected: str):
    assert pick(place.backups(), **choice).backup_id == expected


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"backup_id": IDS[2]}, "proven to the rung restore"),
        ({"before": parse_time("2026-11-18T00:00:00Z")}, "2026-11-18"),
        ({"backup_id": "20200101T000000Z-0000", "least_rung": None}, "with the id 20200101T000000Z-0000"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_is_there(place: TargetFolder, choice: dict, words: str):
    with pytest.raises(RunbookError) as caught:
        pick(place.backups(), **choice)
    assert words in caught.value.message
    assert "the catalog holds 3" in caught.value.message


def test_an_empty_catalog_says_so(tmp_path: Path):
    with pytest.raises(RunbookError, match="the catalog is empty") as caught:
        pick(TargetFolder(tmp_path, "bakery_ia", "nothing").backups())
    assert caught.value.hint.startswith("Make one with the playbook sre.runbooks.database_backup")


def test_a_broken_manifest_is_listed_and_never_taken(place: TargetFolder):
    with (place.backup(IDS[1]) / MANIFEST).open("ab") as stream:
        stream.write(b" ")
    backups = place.backups()
    assert "is not what was written" in backups[1].problem
    assert backups[1].proven_rung is None
    assert pick(backups, least_rung="content").backup_id == IDS[0]


def test_partial_folders_and_strangers_are_no_backups(place: TargetFolder):
    (place.path / ".partial-20261122T020000Z-0004").mkdir()
    (place.path / "notes").mkdir()
    (place.path / f"{IDS[0]}.old").mkdir()
    assert [backup.backup_id for backup in place.backups()] == IDS


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        ([], None),
        ([("good", "content")], "content"),
        ([("good", "content"), ("good", "bytes")], "content"),
        ([("good", "content"), ("unverifiable", "archive")], "content"),
        ([("unverifiable", "application")], None),
        ([("good", "content"), ("corrupt", None)], None),
        ([("good", "content"), ("incomplete", None), ("good", "bytes")], "bytes"),
    ],
)
def test_only_good_proves_and_damage_undoes_it(history: list, expected: str | None):
    assert proven_rung([verdict(IDS[0], name, rung) for name, rung in history]) == expected


def history_of(*verdicts: tuple[str, str | None, str]) -> Backup:
    return Backup(IDS[0], "/srv", "", tuple(Verdict(name, rung, f"{day}T03:00:00.000Z", IDS[0])
                                            for name, rung, day in verdicts), NOW - timedelta(days=60))


def test_a_proof_is_as_old_as_the_drill_that_gave_it():
    """B40 ⚠: what was proven in October, and could not be looked at today, was proven in October."""
    backup = history_of(("good", "restore", "2026-10-01"), ("unverifiable", "archive", "2026-11-21"))
    seen = backup.as_dict(NOW)
    assert (seen["rung"], seen["proven_at"], seen["verdict"]) == ("restore", "2026-10-01T03:00:00.000Z", "unverifiable")
    assert "proven to restore on 2026-10-01" in listing([backup], NOW)[0]
    assert " restore 2026-10-01 " in line_of("auth-db", [backup], NOW, "restore", None)
    assert history_of(("unverifiable", None, "2026-11-21")).as_dict(NOW)["proven_at"] is None
    again = history_of(("good", "restore", "2026-10-01"), ("good", "restore", "2026-11-01"))
    assert again.proven_on == "2026-11-01"


@pytest.mark.parametrize("later", ["unverifiable", "unreadable"])
def test_damage_that_was_found_stays_found(later: str):
    backup = history_of(("corrupt", None, "2026-10-01"), (later, None, "2026-11-21"))
    assert "corrupt" in listing([backup], NOW)[0]
    with pytest.raises(RunbookError, match=f"The backup {IDS[0]} is corrupt, as its last proof says"):
        pick([backup], backup_id=IDS[0])


@pytest.mark.parametrize(("before", "shown"), [("good", "unverifiable"), ("corrupt", "corrupt")])
def test_a_line_that_cannot_be_read_is_shown_as_one_of_the_four_verdicts(before: str, shown: str):
    backup = history_of((before, None, "2026-10-01"), ("unreadable", None, ""))
    assert (backup.as_dict(NOW)["verdict"], backup.proven_rung) == (shown, None)


def test_a_torn_line_of_verdicts_undoes_what_was_proven_before(place: TargetFolder):
    """X14 ⚠: nobody knows whether it was going to say corrupt."""
    folder = place.backup(IDS[0])
    with (folder / VERDICTS).open("ab") as stream:
        stream.write(b'{"verdict": "good", "rung": "appl')
    assert [(line.verdict, line.rung) for line in read_verdicts(folder)] == [
        ("good", "application"), ("unreadable", None)
    ]
    assert place.backups()[0].proven_rung is None


def test_a_text_that_is_no_time_is_refused():
    with pytest.raises(RunbookError, match="'yesterday'"):
        parse_time("yesterday")


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden"])
def test_a_name_that_would_leave_the_store_is_refused(tmp_path: Path, name: str):
    with pytest.raises(RunbookError, match="cannot be the name of a folder"):
        TargetFolder(tmp_path, "bakery_ia", name)


def test_two_at_once_on_one_target_are_refused(place: TargetFolder):
    with place.locked(), pytest.raises(RunbookError, match="Another backup of auth_db is being made: process"), \
            place.locked():
        pass


def test_a_verdict_after_a_torn_line_is_not_lost(place: TargetFolder):
    """What a killed verification left half written must not swallow the next one's `corrupt`."""
    folder = place.backup(IDS[0])
    with (folder / VERDICTS).open("ab") as stream:
        stream.write(b'{"verdict": "good", "rung": "appl')
    append_verdict(folder, verdict(IDS[0], "corrupt", None))
    assert [line.verdict for line in read_verdicts(folder)] == ["good", "unreadable", "corrupt"]
    assert place.backups()[0].proven_rung is None


def test_a_backup_that_cannot_be_read_is_listed_and_does_not_hide_the_others(place: TargetFolder):
    (place.backup(IDS[2]) / MANIFEST).unlink()
    (place.backup(IDS[2]) / MANIFEST).mkdir()
    backups = place.backups()
    assert [backup.backup_id for backup in backups] == IDS
    assert "cannot be read" in backups[2].problem
    assert pick(backups, least_rung=None).backup_id == IDS[1]


def test_a_new_backup_is_measured_against_the_newest_whole_one(place: TargetFolder, tmp_path: Path):
    (place.backup(IDS[2]) / MANIFEST).write_text("{}")
    assert place.newest_manifest().backup_id == IDS[1]
    assert TargetFolder(tmp_path, "bakery_ia", "another_db").newest_manifest() is None


def test_ids_sort_by_age_within_a_second_as_well() -> None:
    moments = [datetime(2026, 11, 21, 2, 15, 0, microsecond, tzinfo=UTC) for microsecond in (0, 16, 400_000, 999_999)]
    ids = [new_backup_id(moment) for moment in moments]
    assert ids == sorted(set(ids))
    assert all(map(is_backup_id, ids))


def test_where_all_are_damaged_nobody_is_sent_to_prove_one(place: TargetFolder) -> None:
    """X14: another drill of a corrupt backup brings nothing back."""
    for backup_id in IDS:
        append_verdict(place.backup(backup_id), verdict(backup_id, "corrupt", None))
    with pytest.raises(RunbookError, match="Copy one from another store with the playbook") as caught:
        pick(place.backups())
    assert "Prove one" not in str(caught.value)
