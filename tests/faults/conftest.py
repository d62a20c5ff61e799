# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the fault matrix needs: servers that may crash, a scene for each row, and a record of what was seen.

| fixture | scope | what |
|---|---|---|
| `seed` | session | of all random choices: FAULTS_SEED, or a new one; it is printed |
| `crashing` | session | a server that rows end at once |
| `archived` | session | a cluster with an archive and a base backup, for root on a small disk |
| `archived_server` | session | its server |
| `scene` | function | a `Scene` on the server that the row asks for |
| `record` | function | writes what was seen into build/faults/ |
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.run.files import write_whole

from lab.pgbackrest import PgBackRestServer
from lab.postgresql import PostgresServer
from tests.conftest import REPOSITORY
from tests.faults.fault import Fault, Seen
from tests.faults.scene import Scene
from tests.integration.backup.conftest import call_module, start_module
from tests.integration.conftest import keys, older_server, postgresql_server, s3, server_folder
from tests.integration.pitr.conftest import Archived, archive_disk, make_archived
from tests.integration.restore.conftest import shops
from tests.scenarios.backup_platform import server_place
from tests.scenarios.conftest import dbis
from tests.scenarios.pitr_scene import shop
from tests.scenarios.restore_scene import made_scene

__all__ = [
    "call_module", "dbis", "keys", "made_scene", "older_server", "postgresql_server", "s3", "server_folder",
    "server_place", "shop", "start_module",
]

RECORDS = REPOSITORY / "build" / "faults"
SETTINGS = {"fsync": "off", "shared_buffers": "32MB", "max_connections": "40"}


@pytest.fixture(scope="session")
def seed() -> str:
    """Give FAULTS_SEED to repeat what a run has found."""
    return os.environ.get("FAULTS_SEED") or str(secrets.randbelow(10**6))


@pytest.fixture(scope="session")
def scratch_server(server_folder: Path) -> Iterator[PostgresServer]:
    """A server that drills may load."""
    with PostgresServer(server_folder / "drills", settings=SETTINGS) as server:
        yield server


@pytest.fixture(scope="session")
def crashing(server_folder: Path) -> Iterator[PostgresServer]:
    """A server that only rows use which end it."""
    with PostgresServer(server_folder / "crashing-faults", settings=SETTINGS) as server:
        yield server


@pytest.fixture(scope="session")
def archived(
    server_folder: Path, call_module: Callable[..., Any], start_module: Callable[..., Any]
) -> Iterator[Archived]:
    """A cluster that rows recover; each leaves it as it was."""
    with archive_disk(server_folder / "pitr") as folder:
        try:
            yield make_archived(folder, call_module, start_module)
        finally:
            PgBackRestServer(folder).end_all()


@pytest.fixture(scope="session")
def archived_server(archived: Archived) -> PostgresServer:
    """The server with an archive."""
    return archived.server


@pytest.fixture
def scene(request: pytest.FixtureRequest, fault: Fault, seed: str, tmp_path: Path) -> Iterator[Scene]:
    """A shop of the row's own."""
    server = request.getfixturevalue(fault.server)
    print(f"FAULTS_SEED={seed}")
    with shops(server, tmp_path) as make:
        shop = make(f"shop_{secrets.token_hex(4)}")
        yield Scene(shop, Random(f"{seed} {fault.name}"), tmp_path, request.getfixturevalue)


def _same_every_time(message: str, scene: Scene) -> str:
    """A message without the names that a run makes up."""
    shown = message.replace(str(scene.folder), "…").replace(scene.shop.name, "shop").replace(
        scene.shop.application.user, "shop_role"
    )
    shown = re.sub(r"/\S*/sre-runbooks-lab-\d+/\S*?(?=/(bin|cluster|data|small)\b)", "…", shown)
    shown = re.sub(r"\b\d{8}T\d{6}Z-[0-9a-f]{4}\b", "<backup>", shown)
    shown = re.sub(r"\b\d{8}-\d{6}F\b", "<backup>", shown)
    shown = re.sub(r"sre_scratch_\w+", "<scratch>", shown)
    shown = re.sub(r"127\.0\.0\.1:\d+", "<server>", shown)
    shown = re.sub(r"port \d{4,5}", "port <port>", shown)
    return re.sub(r"\b[0-9A-F]{40}\b", "<key>", " ".join(shown.split()))


@pytest.fixture
def record(scene: Scene, fault: Fault, seed: str) -> Callable[[Seen, str, bool], None]:
    """Writes what was seen of a row, and whether it is what was expected."""

    def write(seen: Seen, data: str, passed: bool) -> None:
        RECORDS.mkdir(parents=True, exist_ok=True)
        name = hashlib.sha256(fault.name.encode()).hexdigest()[:16]
        write_whole(RECORDS / f"{name}.json", json.dumps({
            "name": fault.name, "outcome": seen.outcome, "rung": seen.rung, "times": seen.times, "seed": seed,
            "commit": os.environ.get("FAULTS_COMMIT"), "message": _same_every_time(seen.message, scene),
            "data": data, "passed": passed,
        }, ensure_ascii=False, indent=1))

    return write
