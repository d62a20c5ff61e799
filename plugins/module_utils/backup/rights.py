# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a role that is no superuser needs to restore a backup, and which of it is missing."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ansible_collections.sre.runbooks.plugins.module_utils.backup.properties import Properties
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import identifier

if TYPE_CHECKING:
    from typing import Any

    import psycopg

# Since version 16 a member may be kept from SET ROLE, which giving something to another owner takes, and CREATEROLE
# alone is no right over every role.
SET_MAJOR = 16
# Before version 15 only superusers could set such a parameter.
PARAMETER_MAJOR = 15
# What only superusers create, as `pg_restore --list` names it.
OF_SUPERUSERS = (
    "ACCESS METHOD", "EVENT TRIGGER", "FOREIGN DATA WRAPPER", "OPERATOR CLASS", "OPERATOR FAMILY",
    "PROCEDURAL LANGUAGE", "TEXT SEARCH PARSER", "TEXT SEARCH TEMPLATE",
)
LINE = re.compile(rf"\d+; \d+ \d+ (?P<kind>{'|'.join(OF_SUPERUSERS)}) (?P<rest>.*)")
SCHEMA = re.compile(r"\d+; \d+ \d+ SCHEMA - (?P<rest>.*)")
OWNED = re.compile(
    r"\d+; \d+ \d+ (?:TABLE|VIEW|MATERIALIZED VIEW|FOREIGN TABLE|SEQUENCE|FUNCTION|PROCEDURE|AGGREGATE|TYPE|DOMAIN"
    r"|OPERATOR|COLLATION|CONVERSION|STATISTICS|TEXT SEARCH CONFIGURATION|TEXT SEARCH DICTIONARY) (?P<rest>.*)"
)
# The server's own stand-in for the database's owner: who creates a database is one of its members.
STAND_IN = "pg_database_owner"

ROLE = """
SELECT rolname AS name, rolsuper AS superuser, rolcreatedb AS createdb FROM pg_roles WHERE rolname = current_user
"""
OTHERS = """
SELECT rolname AS name, pg_has_role(oid, 'USAGE') AS inherits, pg_has_role(oid, %s) AS becomes,
       (%s OR pg_has_role(oid, 'MEMBER WITH ADMIN OPTION'))
       AND (SELECT rolcreaterole FROM pg_roles WHERE rolname = current_user) AS administers
FROM pg_roles
"""
PARAMETERS = "SELECT name FROM pg_settings WHERE context = 'superuser'"
MAY_SET = " AND NOT has_parameter_privilege(name, 'SET')"
TABLESPACES = """
SELECT spcname AS name FROM pg_tablespace WHERE spcname <> 'pg_default' AND NOT has_tablespace_privilege(oid, 'CREATE')
"""
UNTRUSTED = """
SELECT name FROM pg_available_extension_versions GROUP BY name HAVING bool_and(superuser AND NOT trusted)
"""


@dataclass(frozen=True)
class Rights:
    """What the role that is connected may do.

    Args:
        name: the role.
        superuser: it may do everything, and the rest does not matter.
        createdb: it may create databases.
        becomes: roles that it can SET ROLE to.
        inherits: roles whose privileges it has.
        administers: roles whose settings it may change.
        parameters: settings that it may not change.
        untrusted: extensions of the server that it cannot create.
        tablespaces: those that it may put nothing into.
    """

    name: str
    superuser: bool
    createdb: bool
    becomes: frozenset[str]
    inherits: frozenset[str]
    administers: frozenset[str]
    parameters: frozenset[str]
    untrusted: frozenset[str]
    tablespaces: frozenset[str]


def read_rights(connection: psycopg.Connection[dict[str, Any]]) -> Rights:
    """Ask the server."""
    major = connection.info.server_version // 10000
    role = connection.execute(ROLE).fetchone()
    narrow = major >= SET_MAJOR
    others = connection.execute(OTHERS, ["SET" if narrow else "MEMBER", not narrow]).fetchall()
    parameters = connection.execute((PARAMETERS + (MAY_SET if major >= PARAMETER_MAJOR else "")).encode())
    return Rights(
        **role, parameters=frozenset(row["name"].lower() for row in parameters),
        untrusted=frozenset(row["name"] for row in connection.execute(UNTRUSTED)),
        tablespaces=frozenset(row["name"] for row in connection.execute(TABLESPACES)),
        **{
            name: frozenset(row["name"] for row in others if row[name])
            for name in ("becomes", "inherits", "administers")
        },
    )


@dataclass(frozen=True)
class Foreign:
    """Somebody who owns something in a schema of somebody else."""

    owner: str
    schema: str
    schema_owner: str


def _owner_of(line: str, known: Iterable[str]) -> str:
    """The owner ends a line, after names with blanks of their own; of two that fit, the longer one is meant."""
    return max((name for name in known if line.endswith(f" {name}")), key=len, default="")


def owners(listing: str, known: Collection[str]) -> set[str]:
    """The roles that own something in a dump.

    Args:
        listing: of `pg_restore --list`.
        known: names of roles.
    """
    lines = [line for line in listing.splitlines() if line and not line.startswith(";")]
    return {_owner_of(line, known) for line in lines} - {STAND_IN, ""}


def in_schemas_of_others(listing: str, known: Collection[str], database_owner: str) -> list[Foreign]:
    """Who owns something in a schema of somebody else, once each.

    To give it to such an owner takes that owner's right to create in the schema, which the dump grants only at its
    end; a superuser does without.

    Args:
        listing: of `pg_restore --list`.
        known: names of roles.
        database_owner: to whom the schema public belongs, where the dump does not say.
    """
    schemas, found = {"public": database_owner}, set()
    lines = listing.splitlines()
    for line in lines:
        if match := SCHEMA.fullmatch(line):
            owner = _owner_of(line, known)
            name = match["rest"].removesuffix(f" {owner}")
            schemas[name] = database_owner if owner == STAND_IN else owner
    for line in lines:
        match = OWNED.fullmatch(line)
        schema = max((name for name in schemas if match["rest"].startswith(f"{name} ")), key=len, default="") if match \
            else ""
        owner = _owner_of(line, known)
        if schema and owner and owner != schemas[schema]:
            found.add(Foreign(owner, schema, schemas[schema]))
    return sorted(found, key=lambda one: (one.schema, one.owner))


def only_superusers_create(listing: str) -> list[str]:
    """What a dump has that only superusers create, each as `pg_restore --list` names it."""
    matches = (LINE.fullmatch(line) for line in listing.splitlines())
    return [f"{found['kind'].lower()} {found['rest'].split(' ')[1]}" for found in matches if found]


def missing_rights(rights: Rights, properties: Properties, owning: Iterable[str]) -> list[str]:
    """Each right that a restore of the backup's properties needs and the role lacks: a sentence with its statement.

    Args:
        rights: what it may do.
        properties: of the database that is backed up.
        owning: other roles that own something in it.
    """
    if rights.superuser:
        return []
    user, quoted = rights.name, identifier(rights.name).as_string()
    found = []
    if not rights.createdb:
        found.append(f"The role {user} may not create databases: ALTER ROLE {quoted} CREATEDB;")
    administered = sorted({one.role for one in properties.settings if one.role} - {user} - rights.administers)
    for role in administered:  # which makes it a member as well
        found.append(
            f"The role {user} may not change settings of {role} in a database: ALTER ROLE {quoted} CREATEROLE;"
            f" GRANT {identifier(role).as_string()} TO {quoted} WITH ADMIN OPTION;"
        )
    granting = {grant.grantor for grant in properties.acl or []}
    for role in sorted({properties.owner, *owning, *granting} - {user, *administered}):
        if role not in rights.becomes or role not in rights.inherits:
            found.append(
                f"The role {user} cannot act as {role}, which owns something in the backup or gave rights on it:"
                f" GRANT {identifier(role).as_string()} TO {quoted};"
            )
    for name in sorted({setting.name.lower() for setting in properties.settings} & rights.parameters):
        found.append(
            f"The role {user} may not change the setting {name}: GRANT SET ON PARAMETER"
            f" {identifier(*name.split('.')).as_string()} TO {quoted};"
        )
    if properties.tablespace in rights.tablespaces:
        name = identifier(properties.tablespace).as_string()
        found.append(
            f"The role {user} may put nothing into the tablespace {properties.tablespace}: GRANT CREATE ON TABLESPACE"
            f" {name} TO {quoted};"
        )
    untrusted = sorted({one.name for one in properties.extensions} & rights.untrusted)
    if untrusted:
        found.append(f"Only a superuser can create the extensions {', '.join(untrusted)}, and {user} is none.")
    return found
