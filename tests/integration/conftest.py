# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Real servers for the integration tests, started once for all of them.

| fixture | scope | what |
|---|---|---|
| `server_folder` | session | a folder for servers of a test's own: `PostgresServer(server_folder / "mine")` |
| `postgresql_server` | session | a started `lab.postgresql.PostgresServer`; leave it as you found it |
| `older_server` | session | a started server of an older major version |
| `redis_server` | session | a started `lab.redis.RedisServer` |
| `s3` | session | a started `lab.s3.S3Server` with the bucket `backups` |
| `bucket` | function | that bucket, below a prefix of the test's own |
| `keys` | session | two GPG key pairs, `first` and `second`; the passphrase of the second is `PASSPHRASE` |
| `database` | function | a `Login` of the superuser on an empty database of its own, dropped afterwards |
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.backup.s3 import Bucket
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import Login, connect, identifier
from psycopg import sql

from lab import machine
from lab.keys import Key, make_key
from lab.pgbackrest import PgBackRestServer
from lab.postgresql import PostgresServer
from lab.redis import RedisServer
from lab.s3 import S3Server
from tests.leftovers import is_left, one_worker_at_a_time

PASSPHRASE = "correct horse"

OLDER = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))


class OlderServer(PostgresServer):
    """Debian's oldest server that is installed."""

    LOCALE: ClassVar[tuple[str, ...]] = ("--locale", "C.UTF-8")

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, settings={"fsync": "off", "shared_buffers": "16MB", "max_connections": "30"})
        self.bin_directory = OLDER[0].parent


def _end(folder: Path) -> None:
    for configuration in folder.rglob("pgbackrest.conf"):
        PgBackRestServer(configuration.parent).end_all()
    for data in folder.rglob("data/PG_VERSION"):
        PostgresServer(data.parent.parent).stop(immediate=True)
    for configuration in folder.rglob("redis.conf"):
        RedisServer(configuration.parent).kill()
    for store in folder.glob("*-s3"):
        S3Server(store).kill()
    for disk in folder.iterdir():
        if disk.is_mount():
            subprocess.run([shutil.which("umount") or "umount", "--lazy", str(disk)], check=True)
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def server_folder() -> Iterator[Path]:
    """A folder that servers can reach, also when root starts them; what still runs below it at the end is killed."""
    root = machine.state_root()
    with one_worker_at_a_time():
        for left in root.glob("tests-[0-9]*"):
            if is_left(left.name):
                _end(left)
    # A conftest that imports this fixture gets one of its own.
    folder = Path(tempfile.mkdtemp(prefix=f"tests-{os.getpid()}-", dir=root))
    folder.chmod(0o711)
    yield folder
    _end(folder)


@pytest.fixture(scope="session")
def postgresql_server(server_folder: Path) -> Iterator[PostgresServer]:
    """One server for all tests, small and without fsync, with pg_stat_statements preloaded."""
    settings = {
        "shared_preload_libraries": "pg_stat_statements", "max_connections": "60", "shared_buffers": "32MB",
        "fsync": "off", "track_io_timing": "on",
    }
    with PostgresServer(server_folder / "shared-postgresql", settings=settings) as server:
        yield server


@pytest.fixture(scope="session")
def older_server(server_folder: Path) -> Iterator[PostgresServer]:
    """A server of an older major version, with its own client programs."""
    assert OLDER, "The older server is missing; run: make older-server, or apt-get install postgresql"
    with OlderServer(server_folder / "older-postgresql") as server:
        yield server


@pytest.fixture(scope="session")
def redis_server(server_folder: Path) -> Iterator[RedisServer]:
    """One Redis with a password for all tests."""
    with RedisServer(server_folder / "shared-redis") as server:
        yield server


@pytest.fixture(scope="session")
def s3(server_folder: Path) -> Iterator[S3Server]:
    """One S3 store for all tests."""
    with S3Server(server_folder / "shared-s3", buckets=("backups",)) as server:
        yield server


@pytest.fixture
def bucket(s3: S3Server, request: pytest.FixtureRequest) -> Bucket:
    """The bucket, below a prefix of this test's own."""
    prefix = hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:16]
    return Bucket(s3.endpoint_url, "backups", prefix, "eu-central-1", s3.access_key, s3.secret_key)


@pytest.fixture(scope="session")
def keys() -> Iterator[dict[str, Key]]:
    """Two key pairs, in a place whose path is short."""
    with tempfile.TemporaryDirectory(prefix="sre-keys-") as folder:
        made = {"first": make_key(Path(folder), "first"), "second": make_key(Path(folder), "second", PASSPHRASE)}
        yield made
        for key in made.values():
            key.close()


@pytest.fixture
def database(postgresql_server: PostgresServer) -> Iterator[Login]:
    """The superuser's login on an empty database of this test's own."""
    name = f"test_{secrets.token_hex(4)}"
    with connect(postgresql_server.login, "tests") as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(identifier(name)))
        yield postgresql_server.login.at(name)
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(identifier(name)))
