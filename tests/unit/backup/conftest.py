"""A whole manifest to play with."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.backup.manifest import (
    Counter,
    File,
    Manifest,
    Sequence,
    Snapshot,
    Table,
    Written,
)
from ansible_collections.sre.runbooks.plugins.module_utils.backup.properties import (
    Extension,
    Grant,
    Properties,
    Setting,
)


def manifest_of(backup_id: str = "20261121T021500Z-3fa9", taken_at: str = "2026-11-21T02:15:00.000Z") -> Manifest:
    return Manifest(
        backup_id=backup_id, system="bakery_ia", target="auth_db", started_at=taken_at, ended_at=taken_at,
        server_version="18.1", client_version="18.1", system_identifier="7443",
        database=Properties(
            name='we"ird ñ', owner="owner", encoding="UTF8", locale_provider="libc", collate="C.UTF-8",
            ctype="C.UTF-8", locale=None, icu_rules=None, collation_version=None,
            acl=[Grant("owner", None, "CONNECT", False)], comment="ours", connection_limit=-1,
            tablespace="pg_default", settings=[Setting(None, "work_mem", "8MB")],
            extensions=[Extension("pgcrypto", "1.4", "public")], size_bytes=10_000_000,
        ),
        snapshot=Snapshot("00000003-0000001B-1", "0/1A2B3C", taken_at, 771), newest_row_at=None,
        tables=[Table("public", "straße", "table", 3, None)], sequences=[Sequence("public", "s", 7, True)],
        large_objects=0, roles=["owner"], files=[File("data/toc.dat", 3, "00")], total_bytes=3,
        compression="gzip:1", jobs=2,
        written=Written(5, taken_at, [Counter(16385, "public", "straße", 4, 1, 1)]),
    )


@pytest.fixture(name="manifest_of")
def manifest_factory():
    """Makes a manifest for an id and a moment."""
    return manifest_of


@pytest.fixture
def manifest() -> Manifest:
    return manifest_of()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "20261121T021500Z-3fa9"
    folder.mkdir()
    return folder
