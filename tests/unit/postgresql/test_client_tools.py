"""The client programs are the server's own major version, or the operator is told what is there."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.client_tools import find_client_tools
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError


def pg_dump_of(folder: Path, version: str) -> Path:
    program = folder / "pg_dump"
    program.write_text(f"#!/bin/sh\necho 'pg_dump (PostgreSQL) {version}'\n")
    program.chmod(0o755)
    return folder


@pytest.mark.parametrize(
    ("version", "major"), [("18.1", 18), ("15.20 (Debian 15.20-0+deb12u1)", 15), ("19devel", 19), ("18beta2", 18)]
)
def test_the_version_is_asked_for(tmp_path: Path, version: str, major: int):
    assert find_client_tools(major, str(pg_dump_of(tmp_path, version))).major == major


def test_an_older_program_is_named_and_refused(tmp_path: Path):
    with pytest.raises(RunbookError) as caught:
        find_client_tools(18, str(pg_dump_of(tmp_path, "15.20")))
    assert "No pg_dump of version 18" in caught.value.message
    assert "is version 15" in caught.value.message
    assert "postgresql_bin_directory" in caught.value.hint


def test_an_empty_folder_is_named(tmp_path: Path):
    with pytest.raises(RunbookError, match=str(tmp_path)):
        find_client_tools(18, str(tmp_path))
