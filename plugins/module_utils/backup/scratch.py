# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A scratch database: created for a drill, marked, always dropped, also when the one that made it was killed."""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ansible_collections.sre.runbooks.plugins.module_utils.backup.load import create_database
from ansible_collections.sre.runbooks.plugins.module_utils.backup.manifest import Manifest
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql import marker
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import (
    DATABASE_ERROR,
    Login,
    connect,
    first_line,
    identifier,
)
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError, reason
from ansible_collections.sre.runbooks.plugins.module_utils.run.words import size

if TYPE_CHECKING:
    import psycopg

# connect() tells the operator when it is missing.
with contextlib.suppress(ImportError):
    from psycopg import errors, sql

NAME = re.compile(r"sre_scratch_\d{8}t\d{6}z_[0-9a-f]{4}_[0-9a-f]{8}")
DATABASES = r"""
SELECT datname AS name, shobj_description(oid, 'pg_database') AS comment FROM pg_database
WHERE datname LIKE 'sre\_scratch\_%'
"""
# The lock is the life sign of a drill; advisory locks belong to the database that the session is in, here the
# maintenance database, and end with the session.
LOCK = "SELECT pg_try_advisory_lock(hashtextextended(%s, 0)) AS held"
UNLOCK = "SELECT pg_advisory_unlock(hashtextextended(%s, 0))"
MISSING_ROLES = """
SELECT name FROM unnest(%s::text[]) AS name WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name)
"""
# A server that is this busy is not loaded with a drill as well.
BUSY_PERCENT = 50
OWN_SERVER = "The drill would be on the database's own server, or a physical copy of it"
LOAD = """
SELECT count(*) FILTER (WHERE state = 'active' AND pid <> pg_backend_pid()) AS active,
       current_setting('max_connections')::int AS most FROM pg_stat_activity WHERE backend_type = 'client backend'
"""


@dataclass
class Scratch:
    """A drill's database. `stays` is why it could not be dropped; empty where nothing of it stays."""

    name: str
    stays: str = ""


def _prefix(backup_id: str) -> str:
    return f"sre_scratch_{backup_id.lower().replace('-', '_')}_"


def scratch_name(backup_id: str) -> str:
    """A new name for a drill's database."""
    return f"{_prefix(backup_id)}{secrets.token_hex(4)}"


def is_leftover(name: str, comment: str | None) -> bool:
    """Whether this is a drill's database: by its name, and by a marker or, when the drill died at once, no comment."""
    if not NAME.fullmatch(name):
        return False
    own, found = marker.split(comment)
    return own is None and (found is None or found.state == marker.SCRATCH)


def drop_leftovers(connection: psycopg.Connection[dict[str, Any]], say: Callable[[str], None]) -> None:
    """Drop the databases of drills that are dead, and say which; one that cannot be dropped stops no drill."""
    for name in _there(connection):
        if connection.execute(LOCK, [name]).fetchone()["held"]:
            try:
                _drop(connection, name)
                say(f"dropped {name}, which a killed drill left")
            except errors.Error as error:
                say(f"{name}, which a killed drill left, could not be dropped ({first_line(error)})")
            connection.execute(UNLOCK, [name])


def _there(connection: psycopg.Connection[dict[str, Any]]) -> list[str]:
    """The databases of all drills, dead or not."""
    return [row["name"] for row in connection.execute(DATABASES) if is_leftover(row["name"], row["comment"])]


def drop_all(login: Login, backup_id: str) -> list[str]:
    """Drop what drills that are dead left on a server, and see that nothing of a backup stays there.

    Args:
        login: on the maintenance database of that server.
        backup_id: which backup was drilled.

    Returns:
        The names of what was dropped.

    Raises:
        RunbookError: a database of its drills stays, or nobody can know.
    """
    server, said = f"{login.host}:{login.port}", []
    try:
        with connect(login, "drill") as connection:
            before = _there(connection)
            drop_leftovers(connection, said.append)
            after = _there(connection)
    except (RunbookError, *DATABASE_ERROR) as error:
        raise RunbookError(
            f"Whether a scratch database with the data of {backup_id} stays on {server} cannot be known:"
            f" {_why(error)}.",
            "When that server answers, start the drill again: it drops what is left there.",
        ) from error
    if left := [name for name in after if name.startswith(_prefix(backup_id))]:
        why = "; ".join(one for one in said if left[0] in one) or "its drill still has a session there"
        raise RunbookError(
            f"The scratch database {' and '.join(left)} with the data of {backup_id} stays on {server}: {why}.",
            "Mend that, or wait for it, then start the drill again, which drops it, or run there: DROP DATABASE"
            f" {left[0]} WITH (FORCE);", left=left,
        )
    return sorted(set(before) - set(after))


def _why(error: Exception) -> str:
    return reason(error) if isinstance(error, RunbookError) else first_line(error).rstrip(".")


def _drop(connection: psycopg.Connection[dict[str, Any]], name: str) -> None:
    connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(identifier(name)))


def require_room(connection: psycopg.Connection[dict[str, Any]], manifest: Manifest, free_bytes: int | None) -> None:
    """Refuse to load a server that has other work, unless it has room and is idle enough.

    Raises:
        RunbookError: its free space is not known or too small, or it is busy.
    """
    need = manifest.database.size_bytes * 2
    hint = (
        "Name another server as scratch_server for this database in the inventory, or give"
        " backup_verify_free_bytes, the free space of this one's disk as you measured it."
    )
    if free_bytes is None:
        raise RunbookError(
            f"{OWN_SERVER}, and how much room that has is not known.", hint
        )
    if free_bytes < need:
        raise RunbookError(
            f"{OWN_SERVER}, which has {size(free_bytes)} free where a drill may take {size(need)}.", hint,
            free_bytes=free_bytes, needed_bytes=need,
        )
    load = connection.execute(LOAD).fetchone()
    if load["active"] * 100 > load["most"] * BUSY_PERCENT:
        raise RunbookError(
            f"{OWN_SERVER}, which is busy: {load['active']} active sessions of at most {load['most']}.", hint,
        )


def create_missing_roles(connection: psycopg.Connection[dict[str, Any]], manifest: Manifest) -> list[str]:
    """Create the roles that the backup names and a scratch server lacks, without the right to log in."""
    missing = [row["name"] for row in connection.execute(MISSING_ROLES, [manifest.roles])]
    for role in missing:
        with contextlib.suppress(errors.DuplicateObject):  # another drill was faster
            connection.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(identifier(role)))
    return missing


def is_own_server(connection: psycopg.Connection[dict[str, Any]], manifest: Manifest) -> bool:
    """Whether this server is the one that the backup is of, whatever the inventory calls it.

    A physical copy of it has the same identifier and cannot be told from it: it is treated with the same care.
    """
    row = connection.execute("SELECT system_identifier::text AS id FROM pg_control_system()").fetchone()
    return row["id"] == manifest.system_identifier


@contextlib.contextmanager
def scratch_database(
    scratch: Scratch, login: Login, manifest: Manifest, *, own_server: bool, free_bytes: int | None,
    say: Callable[[str], None],
) -> Iterator[None]:
    """A new, empty database as the manifest describes it; dropped at the end, or its `stays` says why not.

    Args:
        scratch: what it is called.
        login: on the scratch server's maintenance database.
        manifest: of the backup.
        own_server: True where the server serves production: nothing but the database is made there.
        free_bytes: free space of that server's disk, where it is known.
        say: takes sentences worth knowing.

    Raises:
        RunbookError: it cannot be created.
    """
    with connect(login, "drill") as connection:
        if not own_server and is_own_server(connection, manifest):
            own_server = True
        drop_leftovers(connection, say)
        if own_server:
            require_room(connection, manifest, free_bytes)
        else:
            roles = create_missing_roles(connection, manifest)
            if roles:
                say(f"created roles without login on the scratch server: {', '.join(roles)}")
        name = scratch.name
        connection.execute(LOCK, [name])
        try:
            create_database(connection, name, manifest.database)
            comment = marker.join(None, marker.Marker(marker.SCRATCH, "", name, manifest.backup_id))
            connection.execute(sql.SQL("COMMENT ON DATABASE {} IS {}").format(identifier(name), comment))
            # It is created closed to all but superusers; whoever drills need not be one.
            connection.execute(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT -1").format(identifier(name)))
            yield
        finally:
            _drop_for_sure(login, connection, scratch)


def _drop_for_sure(login: Login, connection: psycopg.Connection[dict[str, Any]], scratch: Scratch) -> None:
    """Drop it, over a new session when the first one is lost; what cannot be dropped is left to the next drill."""
    try:
        _drop(connection, scratch.name)
    except DATABASE_ERROR:
        try:
            with connect(login, "drill") as another:
                _drop(another, scratch.name)
        except (RunbookError, *DATABASE_ERROR) as error:
            scratch.stays = _why(error)
