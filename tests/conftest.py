"""Makes the working tree importable as ansible_collections.sre.runbooks, for every test.

| fixture | scope | what |
|---|---|---|
| `ssh_server` | session | a started `tests.ssh_server.SshServer`, reached as the user who runs the tests |
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from ansible.utils.collection_loader._collection_finder import _AnsibleCollectionFinder

if TYPE_CHECKING:
    from tests.ssh_server import SshServer

REPOSITORY = Path(__file__).resolve().parent.parent
COLLECTIONS = REPOSITORY / ".ansible" / "collections"
LINK = COLLECTIONS / "ansible_collections" / "sre" / "runbooks"

if not LINK.exists():
    LINK.parent.mkdir(parents=True, exist_ok=True)
    LINK.symlink_to("../../../..")
sys.path.insert(0, str(REPOSITORY))
_AnsibleCollectionFinder(paths=[str(COLLECTIONS)])._install()


@pytest.fixture(scope="session")
def ssh_server() -> Iterator[SshServer]:
    """One for all tests; the sockets of ssh need a short path."""
    # They need the collection, which the lines above make importable.
    from lab import machine
    from tests.ssh_server import SshServer

    folder = Path(tempfile.mkdtemp(prefix="ssh-"))
    server = SshServer(folder)
    server.start()
    yield server
    server.stop()
    # Clients whose connection was cut take their sockets away, each in its own time.
    machine.wait_for(lambda: not list((folder / "control").glob("*")), 10)
    shutil.rmtree(folder)
