# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Load a backup into a new database: created as the manifest says, filled by pg_restore."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible_collections.sre.runbooks.plugins.module_utils.backup.properties import Properties
from ansible_collections.sre.runbooks.plugins.module_utils.backup.store import DATA
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.client_tools import ClientTools
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import (
    Login,
    connection_string,
    identifier,
)
from ansible_collections.sre.runbooks.plugins.module_utils.run import process
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError

if TYPE_CHECKING:
    import psycopg

with contextlib.suppress(ImportError):  # connect() tells the operator
    from psycopg import errors, sql

# LOCALE_PROVIDER came with version 15.
PROVIDER_MAJOR = 15


def create_statement(name: str, properties: Properties, major: int, tablespace: str | None = None) -> sql.Composed:
    """CREATE DATABASE with the encoding and locale of `properties`, from template0, closed to all but superusers.

    Args:
        name: the new database.
        properties: of the database that was backed up.
        major: the server's major version.
        tablespace: None is the server's default.
    """
    parts = [
        sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(identifier(name)),
        sql.SQL("ENCODING {}").format(sql.Literal(properties.encoding)),
        sql.SQL("LC_COLLATE {}").format(sql.Literal(properties.collate)),
        sql.SQL("LC_CTYPE {}").format(sql.Literal(properties.ctype)),
    ]
    if major >= PROVIDER_MAJOR:
        parts.append(sql.SQL("LOCALE_PROVIDER {}").format(identifier(properties.locale_provider)))
    if properties.locale_provider == "icu":
        parts.append(sql.SQL("ICU_LOCALE {}").format(sql.Literal(properties.locale)))
        if properties.icu_rules:
            parts.append(sql.SQL("ICU_RULES {}").format(sql.Literal(properties.icu_rules)))
    elif properties.locale_provider == "builtin":
        parts.append(sql.SQL("BUILTIN_LOCALE {}").format(sql.Literal(properties.locale)))
    if tablespace:
        parts.append(sql.SQL("TABLESPACE {}").format(identifier(tablespace)))
    parts.append(sql.SQL("CONNECTION LIMIT 0"))
    return sql.SQL(" ").join(parts)


def create_database(
    connection: psycopg.Connection[dict[str, Any]], name: str, properties: Properties, tablespace: str | None = None
) -> None:
    """Create the database.

    Raises:
        RunbookError: the server refuses, with its reason.
    """
    statement = create_statement(name, properties, connection.info.server_version // 10000, tablespace)
    try:
        connection.execute(statement)
    except errors.Error as error:
        raise RunbookError(
            f"The database {name!r} cannot be created: {' '.join(str(error).split())}.",
            "Look at the server's log and its disk, then run the same command again.",
        ) from error


def fill(
    login: Login, name: str, folder: Path, tools: ClientTools, *, jobs: int, timeout_s: float,
    while_waiting: Callable[[], None] | None = None, tablespaces: bool = True,
    options: str = "", arguments: Sequence[str] = (),
) -> None:
    """Restore the backup's data into the new database, and stop at the first error.

    Args:
        login: who restores.
        name: the empty database.
        folder: the backup's folder.
        tools: the client programs of the server's major version.
        jobs: parallel workers.
        timeout_s: seconds until pg_restore is ended.
        while_waiting: see process.run.
        tablespaces: False puts everything into the database's own, where the server lacks those of the backup.
        options: settings for the restoring sessions, as in PGOPTIONS.
        arguments: further ones of pg_restore, which say what part of the backup.

    Raises:
        RunbookError: pg_restore failed, with its last lines.
    """
    environment = login.environment()
    environment["PGOPTIONS"] += f" {options}"
    done = process.run(
        [
            # A subscription would follow its publisher's slot a second time, and its database could not be dropped.
            tools.path("pg_restore"), "--exit-on-error", f"--jobs={jobs}", "--no-password", "--no-subscriptions",
            *([] if tablespaces else ["--no-tablespaces"]), *arguments, f"--dbname={connection_string(name)}",
            str(folder / DATA),
        ],
        timeout_s=timeout_s, secrets=environment, while_waiting=while_waiting, check=False,
        hint="Raise the role's time-out (database_restore_timeout_seconds, backup_verify_timeout_seconds) or its jobs,"
        " then run the same command again.",
    )
    if done.returncode == 0:
        return
    full = "No space left on device" in done.stderr_tail
    raise RunbookError(
        f"pg_restore into {name!r} on {login.host}:{login.port} {done.ending}: "
        f"{' '.join(done.stderr_tail.split()) or 'it printed no error'}.",
        "Make room on the server's disk, then run the same command again." if full
        else "The live database was not touched; mend what pg_restore names, or choose another backup.",
        returncode=done.returncode, disk_full=full,
    )
