"""A manifest is read as it was written, or refused with the reason."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.backup.manifest import (
    MANIFEST,
    Manifest,
    ManifestCorruptError,
    ManifestMissingError,
    ManifestUnknownError,
    read_manifest,
    render,
    write_manifest,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


def test_what_is_written_is_read_again(folder: Path, manifest: Manifest):
    write_manifest(folder, manifest)
    assert read_manifest(folder) == manifest


def test_writing_leaves_nothing_but_the_manifest(folder: Path, manifest: Manifest):
    write_manifest(folder, manifest)
    assert [entry.name for entry in folder.iterdir()] == [MANIFEST]


def test_a_folder_without_a_manifest_is_no_backup(folder: Path):
    with pytest.raises(ManifestMissingError, match="is no backup"):
        read_manifest(folder)


def test_the_hash_is_of_the_text_before_its_line(manifest: Manifest):
    head, _comma, tail = render(manifest.as_dict()).rpartition(b",\n")
    assert tail == f' "sha256": "{hashlib.sha256(head).hexdigest()}"\n}}\n'.encode()


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_flipped_bit_goes_unseen(folder: Path, manifest: Manifest, data: st.DataObject):
    """X14 ⚠: a file that is there proves nothing; white space and key order count as well."""
    whole = bytearray(render(manifest.as_dict()))
    position = data.draw(st.integers(0, len(whole) - 1))
    whole[position] ^= 1 << data.draw(st.integers(0, 7))
    (folder / MANIFEST).write_bytes(bytes(whole))
    with pytest.raises(ManifestCorruptError):
        read_manifest(folder)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", '"manifest"', "[" * 100_000])
def test_what_is_no_manifest_is_corrupt(folder: Path, text: str):
    (folder / MANIFEST).write_text(text)
    with pytest.raises(ManifestCorruptError):
        read_manifest(folder)


def test_a_truncated_manifest_is_corrupt(folder: Path, manifest: Manifest):
    (folder / MANIFEST).write_bytes(render(manifest.as_dict())[:-1])
    with pytest.raises(ManifestCorruptError):
        read_manifest(folder)


def test_a_format_of_the_future_is_whole_but_unknown(folder: Path, manifest: Manifest):
    (folder / MANIFEST).write_bytes(render({**manifest.as_dict(), "format": 2, "new": "thing"}))
    with pytest.raises(ManifestUnknownError, match="format 2"):
        read_manifest(folder)


def test_a_manifest_is_readable_by_people(manifest: Manifest):
    data = json.loads(render(manifest.as_dict()))
    assert data["database"]["name"] == 'we"ird ñ'
    assert len(data["sha256"]) == 64


@pytest.mark.parametrize(
    "path",
    ["../../etc/cron.d/x", "/etc/passwd", "data/../../x", "data/sub/1.dat", "data/..", "data/", "data/.held", "data",
     "", "manifest.json", "globals.sql/x", "globals.sql\n", "data/1\x00.dat", "data\\x", 5, None],
)
def test_a_manifest_cannot_name_a_file_outside_of_its_backup(folder: Path, manifest: Manifest, path: object):
    """X14 ⚠: who fetches the backup would write that file, wherever it is, as root."""
    data = manifest.as_dict()
    (folder / MANIFEST).write_bytes(render({**data, "files": [{**data["files"][0], "path": path}]}))
    with pytest.raises(ManifestCorruptError):
        read_manifest(folder)


@pytest.mark.parametrize(
    "change", [{"backup_id": "../x"}, {"backup_id": "20261399T021500Z-3fa9"}, {"backup_id": None}, {"files": 5},
               {"files": [{}]}, {"surprise": 1}, {"snapshot": {}}, {"database": None}],
)
def test_a_manifest_of_another_form_is_corrupt_and_no_traceback(folder: Path, manifest: Manifest, change: dict):
    (folder / MANIFEST).write_bytes(render({**manifest.as_dict(), **change}))
    with pytest.raises(ManifestCorruptError):
        read_manifest(folder)


@pytest.mark.parametrize("path", ["globals.sql", "data/toc.dat", "data/3412.dat.gz", "data/blobs_12.toc", "data/1.dat"])
def test_what_a_dump_is_made_of_can_be_named(folder: Path, manifest: Manifest, path: str):
    whole = replace(manifest, files=[replace(manifest.files[0], path=path)])
    write_manifest(folder, whole)
    assert read_manifest(folder) == whole
