# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Everything that would stop a restore, found before it begins and told at once."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible_collections.sre.runbooks.plugins.module_utils.backup.manifest import Manifest
from ansible_collections.sre.runbooks.plugins.module_utils.backup.properties import PROVIDERS, Properties
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import NAME_BYTES

if TYPE_CHECKING:
    import psycopg

    Connection = psycopg.Connection[dict[str, Any]]

# A backup's compressed bytes grow about so much when the size of the database is not known.
INFLATION = 5
# Indexes are built by sorting on disk, and the write-ahead log keeps what is written for a while.
ROOM = 1.3
BUILTIN_LOCALES = ("C", "C.UTF-8", "PG_UNICODE_FAST")

SERVER = """
SELECT current_setting('server_version_num')::int / 10000 AS major, pg_is_in_recovery() AS standby,
       (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS superuser,
       (SELECT system_identifier::text FROM pg_control_system()) AS system_identifier,
       array(SELECT rolname::text FROM pg_roles) AS roles,
       array(SELECT spcname::text FROM pg_tablespace) AS tablespaces,
       array(SELECT name || ' ' || version FROM pg_available_extension_versions) AS extensions,
       array(SELECT gid FROM pg_prepared_xacts WHERE database = %(database)s) AS prepared_transactions,
       array(SELECT slot_name::text FROM pg_replication_slots WHERE database = %(database)s) AS slots,
       array(SELECT subname::text FROM pg_subscription AS s JOIN pg_database AS d ON d.oid = s.subdbid
             WHERE d.datname = %(database)s) AS subscriptions,
       array(SELECT collcollate FROM pg_collation WHERE collprovider = 'c' AND collcollate IS NOT NULL) AS libc_locales,
       EXISTS (SELECT FROM pg_collation WHERE collprovider = 'i') AS icu
"""
LOCALES = "SELECT to_jsonb(d) AS row FROM pg_database AS d"
# Who may not read the settings does not see the row; the tablespaces of the data directory have no place of their own.
DISK = """
SELECT pg_backend_pid() AS pid, inet_client_port() AS port,
       coalesce(nullif((SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = %s), ''),
                (SELECT setting FROM pg_settings WHERE name = 'data_directory')) AS directory
"""


@dataclass(frozen=True)
class Server:
    """What the server says of itself, as far as a restore asks."""

    major: int
    standby: bool
    superuser: bool
    system_identifier: str
    roles: frozenset[str]
    tablespaces: frozenset[str]
    extensions: frozenset[str]
    prepared_transactions: tuple[str, ...]
    slots: tuple[str, ...]
    subscriptions: tuple[str, ...]
    libc_locales: frozenset[str]
    icu: bool
    locales: frozenset[tuple[str, str, str, str | None]]


@dataclass(frozen=True)
class Findings:
    """`problems` stop the restore; `notes` are worth knowing. `free_bytes` is None when it cannot be read."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    needed_bytes: int = 0
    free_bytes: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """For a module's result."""
        return asdict(self)


def read_server(connection: Connection, database: str) -> Server:
    """Ask the server; `connection` is to any other of its databases."""
    row = connection.execute(SERVER, {"database": database}).fetchone()
    locales = frozenset(
        (PROVIDERS.get(one.get("datlocprovider", "c"), ""), one["datcollate"], one["datctype"],
         one.get("datlocale") or one.get("daticulocale"))
        for one in (found["row"] for found in connection.execute(LOCALES))
    )
    sets = {name: frozenset(row.pop(name)) for name in ("roles", "tablespaces", "extensions", "libc_locales")}
    lists = {name: tuple(row.pop(name)) for name in ("prepared_transactions", "slots", "subscriptions")}
    return Server(**row, **sets, **lists, locales=locales)


def needed_bytes(manifest: Manifest, live_bytes: int | None) -> int:
    """An estimate of the disk that the copy takes beside the live database."""
    return round(ROOM * (manifest.database.size_bytes or max(manifest.total_bytes * INFLATION, live_bytes or 0)))


def free_bytes(connection: Connection, tablespace: str) -> int | None:
    """Free disk where the server keeps that tablespace; None when that disk cannot be read from here.

    Free disk cannot be read over libpq. It is read only where the server is proven to run on this very machine: the
    process that serves this connection is seen here, with our own port in its title.
    """
    row = connection.execute(DISK, [tablespace]).fetchone()
    if row["directory"] is None:
        return None
    try:
        title = Path(f"/proc/{row['pid']}/cmdline").read_bytes().decode("utf-8", "replace")
        if not title.startswith("postgres") or (row["port"] and f"({row['port']})" not in title):
            return None
        found = os.statvfs(row["directory"])
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


def judge(
    server: Server, manifest: Manifest, properties: Properties, database: str, user: str, live_bytes: int | None,
    free: int | None, *, share: float = 1.0, exchanges: bool = True, creates_roles: bool = False,
) -> Findings:
    """Compare what the backup needs with what the server has.

    Args:
        server: what the server says.
        manifest: of the backup.
        properties: those that the new database gets.
        database: the live name.
        user: as whom the restore connects.
        live_bytes: size of the live database; None when there is none.
        free: see free_bytes.
        share: which part of the backup is restored.
        exchanges: False where no live database is exchanged.
        creates_roles: True where roles that are missing are created.
    """
    problems, notes = [], []
    needed = round(needed_bytes(manifest, live_bytes) * share)
    backup = manifest.database
    if server.standby:
        problems.append("The server is a standby that follows another one: restore on its primary.")
    if exchanges and not server.superuser:
        problems.append(
            f"The role {user} is no superuser, and only one can end all sessions and keep others out (without that,"
            " sre.runbooks.database_restore_copy restores beside the live database)."
        )
    if len(database.encode()) > NAME_BYTES:
        problems.append(f"The name {database!r} is longer than {NAME_BYTES} bytes.")
    major = int(manifest.server_version.split(".")[0].split()[0])
    if major > server.major:
        problems.append(f"The backup is of PostgreSQL {major}, and the server is {server.major}, which is older.")
    offered = {known.rpartition(" ")[0] for known in server.extensions}
    for one in backup.extensions:
        if one.name not in offered:
            problems.append(f"The extension {one.name} {one.version} is not available on the server: install it there.")
        elif f"{one.name} {one.version}" not in server.extensions:
            there = sorted(known.rpartition(" ")[2] for known in server.extensions if known.startswith(f"{one.name} "))
            # A dump names no version: the server installs its own, and its scripts say what changed.
            notes.append(
                f"The extension {one.name} is in the backup as {one.version}, and the server offers {', '.join(there)}:"
                " the restored database gets the server's own."
            )
    wanted = {*manifest.roles, properties.owner, *(setting.role for setting in properties.settings if setting.role)}
    missing = sorted(wanted - server.roles)
    if missing and not creates_roles:
        problems.append(f"The server lacks the roles {', '.join(missing)}: create them first (globals.sql has them).")
    if properties.tablespace not in server.tablespaces:
        problems.append(f"The server lacks the tablespace {properties.tablespace}.")
    problem = _locale_problem(server, backup)
    if problem:
        problems.append(problem)
    for names, words in (
        (server.prepared_transactions, "The prepared transaction {} is open in it: commit or roll it back."),
        (server.slots, "The logical slot {} reads from it, and would go on reading the old database: drop it first."),
        (server.subscriptions, "The subscription {} writes into it: drop it first, and create it anew afterwards."),
    ):
        problems += [words.format(name) for name in names]
    if free is None:
        notes.append(f"Free disk of the server is unknown from here; about {_size(needed)} are needed.")
    elif free < needed:
        problems.append(f"About {_size(needed)} of disk are needed for the copy, and {_size(free)} are free.")
    if manifest.system_identifier != server.system_identifier:
        notes.append("The backup was made on another server than this one.")
    return Findings(problems, notes, needed, free)


def _locale_problem(server: Server, backup: Properties) -> str:
    here = (backup.locale_provider, backup.collate, backup.ctype, backup.locale)
    if here in server.locales:
        return ""
    libc = {_plain(name) for name in server.libc_locales} | {"c", "posix"}
    lacking = sorted({name for name in (backup.collate, backup.ctype) if _plain(name) not in libc})
    if lacking:
        return f"The server's system lacks the locale {', '.join(lacking)}: install it there."
    if backup.locale_provider == "icu" and not server.icu:
        return f"The backup's locale {backup.locale} is one of ICU, which the server was built without."
    if backup.locale_provider == "builtin" and backup.locale not in BUILTIN_LOCALES:
        return f"The server does not know the builtin locale {backup.locale}."
    return ""


def _plain(locale: str) -> str:
    return locale.lower().replace("-", "")


def _size(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
