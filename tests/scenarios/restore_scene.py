# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A database with one backup, its consumer, and data that was destroyed: where restores are started.

| fixture | scope | what |
|---|---|---|
| `made_scene` | module | the `Scene` itself, with a backup that `scene` destroys data after |
| `scene` | function | a `Scene` of dbis_core whose payments are half gone; what a restore left goes afterwards |
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.backup.folder import TargetFolder
from ansible_collections.sre.runbooks.plugins.module_utils.backup.manifest import Manifest
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import Login, connect
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.marker import split

from tests.scenarios.conftest import Platform, Played

TARGET, SERVICE, TABLE = "dbis-db", "app", "payments"


@dataclass(frozen=True)
class Scene:
    """The platform with one backup that every test restores."""

    platform: Platform
    manifest: Manifest
    # Kept, since the states are asked for many times a second, and each new session costs a handshake.
    watcher: psycopg.Connection

    @property
    def admin(self) -> Login:
        """The superuser, on the database postgres."""
        return self.platform.lab.login(TARGET, "admin").at("postgres")

    @property
    def database(self) -> str:
        """The live name."""
        return self.manifest.database.name

    def run(self, statement: str, database: str | None = None) -> list[dict]:
        """One statement as the superuser, in the live database."""
        with connect(self.admin.at(database or self.database), "tests") as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def old_rows(self) -> int:
        """How many of the backup's payments are there."""
        # The manifest's time is cut to milliseconds, and a service writes twice a second.
        newest = f"'{self.manifest.newest_row_at}'::timestamptz + interval '1 millisecond'"
        return self.run(f"SELECT count(*) AS n FROM {TABLE} WHERE created_at <= {newest}")[0]["n"]

    @property
    def wanted_rows(self) -> int:
        """How many there were in the backup."""
        return next(table.rows for table in self.manifest.tables if table.name == TABLE)

    def destroy(self) -> None:
        """Half of the payments are gone."""
        self.run(f"DELETE FROM {TABLE} WHERE id % 2 = 0")
        assert self.old_rows() < self.wanted_rows

    def states(self) -> dict[str, str]:
        """The state in each database's marker, `open` without one."""
        rows = self.watcher.execute("SELECT datname, shobj_description(oid, 'pg_database') AS c FROM pg_database")
        found = {row["datname"]: split(row["c"])[1] for row in rows if row["datname"].startswith(self.database)}
        return {name: marker.state if marker else "open" for name, marker in found.items()}

    def arguments(self, *more: str) -> tuple[str, ...]:
        """What an operator gives."""
        return (
            "-e", f"target={TARGET}", "-e", f"approve={TARGET}", "-e", f"backup={self.manifest.backup_id}",
            "-e", "database_restore_least_rung=archive", *more,
        )

    def restore(self, *more: str) -> Played:
        """The playbook, to its end."""
        return self.platform.play("database_restore", *self.arguments(*more))

    def service_pid(self) -> int | None:
        """The process of the consumer."""
        return self.platform.lab.service_pid(SERVICE)

    def assert_restored(self) -> None:
        """The live database is the backup, nothing is left but the old one, no lock, and the consumer works."""
        assert self.old_rows() == self.wanted_rows
        assert not list((self.platform.lab.folder / "locks").glob("*.json"))
        states = self.states()
        assert states.pop(self.database) == "open"
        assert set(states.values()) <= {"retired", "abandoned"}
        assert self.platform.get(SERVICE)[0] == 200

    def records(self, kind: str) -> list[dict]:
        """The data of the newest run's records of one kind."""
        lines = (self.platform.newest_run() / "run.jsonl").read_text(encoding="utf-8").splitlines()
        return [entry["data"] for entry in map(json.loads, lines) if entry["kind"] == kind]


@pytest.fixture(scope="module")
def made_scene(dbis: Platform) -> Iterator[Scene]:
    played = dbis.play("database_backup", "-e", f"target={TARGET}")
    assert played.returncode == 0, played.output
    store = dbis.lab.folder / "stores" / "backup-store"
    place = TargetFolder(store, "dbis_core", TARGET)
    with connect(dbis.lab.login(TARGET, "admin").at("postgres"), "tests") as watcher:
        yield Scene(dbis, place.manifest(place.backups()[-1].backup_id), watcher)


@pytest.fixture
def scene(made_scene: Scene) -> Iterator[Scene]:
    """Data was destroyed. Afterwards the old databases are dropped, and the consumer works."""
    made_scene.destroy()
    yield made_scene
    for name, state in made_scene.states().items():
        if state in ("retired", "abandoned"):
            made_scene.run(f'DROP DATABASE "{name}" WITH (FORCE)', "postgres")
    if made_scene.service_pid() is None:
        made_scene.platform.lab.start_service(SERVICE)
    made_scene.platform.wait_until_up(SERVICE)
