# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Give a restored database the properties that no dump carries: owner, privileges, comment, limit, settings."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Any

from ansible_collections.sre.runbooks.plugins.module_utils.backup.properties import Grant, Properties
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import identifier

if TYPE_CHECKING:
    import psycopg

with contextlib.suppress(ImportError):  # connect() tells the operator
    from psycopg import sql

# Settings that are lists of names: the server keeps them quoted, and one literal would make one name of all
# (the same list as pg_dump's variable_is_guc_list_quote).
NAME_LISTS = (
    "local_preload_libraries", "search_path", "session_preload_libraries", "shared_preload_libraries",
    "temp_tablespaces", "unix_socket_directories",
)
NAME = re.compile(r'\s*(?:"((?:[^"]|"")*)"|([^",\s]+))\s*(?:,|$)')


def split_names(value: str) -> list[str]:
    """The names in a setting such as search_path, unquoted."""
    return [
        quoted.replace('""', '"') if whole.lstrip().startswith('"') else bare
        for whole, quoted, bare in ((found.group(0), found.group(1) or "", found.group(2)) for found in
                                    NAME.finditer(value))
    ]


def setting_value(name: str, value: str) -> sql.Composable:
    """What stands behind `SET name TO`."""
    if name.lower() not in NAME_LISTS:
        return sql.Literal(value)
    return sql.SQL(", ").join([sql.Literal(one) for one in split_names(value)] or [sql.Literal("")])


def grants_in_order(owner: str, acl: list[Grant]) -> list[Grant]:
    """The grants such that whoever grants has been given the right to; what nobody can give comes last."""
    able, ordered, left = {owner}, [], list(acl)
    while left:
        ready = [grant for grant in left if grant.grantor in able] or left
        ordered += ready
        able |= {grant.grantee for grant in ready if grant.grantable and grant.grantee}
        left = [grant for grant in left if grant not in ready]
    return ordered


def statements(name: str, properties: Properties) -> list[sql.Composable]:
    """The statements that give the database `name` these properties, in order, for a superuser in one transaction.

    Comment and connection limit are not among them: a swap sets both with its marker.
    """
    database = identifier(name)
    made: list[sql.Composable] = [
        sql.SQL("ALTER DATABASE {} OWNER TO {}").format(database, identifier(properties.owner))
    ]
    if properties.acl is not None:
        for role in (sql.SQL("PUBLIC"), identifier(properties.owner)):
            made.append(sql.SQL("REVOKE ALL ON DATABASE {} FROM {}").format(database, role))
        for grant in grants_in_order(properties.owner, properties.acl):
            grantee = identifier(grant.grantee) if grant.grantee else sql.SQL("PUBLIC")
            # What a superuser grants counts as granted by the owner.
            if grant.grantor != properties.owner:
                made.append(sql.SQL("SET LOCAL ROLE {}").format(identifier(grant.grantor)))
            made.append(
                sql.SQL("GRANT {} ON DATABASE {} TO {}{}").format(
                    sql.SQL(grant.privilege), database, grantee,
                    sql.SQL(" WITH GRANT OPTION" if grant.grantable else ""),
                )
            )
            if grant.grantor != properties.owner:
                made.append(sql.SQL("RESET ROLE"))
    for setting in properties.settings:
        place = sql.SQL("ALTER DATABASE {}").format(database)
        if setting.role is not None:
            place = sql.SQL("ALTER ROLE {} IN DATABASE {}").format(identifier(setting.role), database)
        made.append(
            sql.SQL("{} SET {} TO {}").format(
                place, identifier(*setting.name.split(".")), setting_value(setting.name, setting.value)
            )
        )
    return made


def reset_statements(name: str, properties: Properties) -> list[sql.Composable]:
    """The statements that take privileges and settings of the database `name`, which has `properties`, away again.

    What is left is what the server gives a new database.
    """
    database = identifier(name)
    made: list[sql.Composable] = []
    if properties.acl is not None:
        owner = identifier(properties.owner)
        names = sorted({grant.grantee for grant in properties.acl if grant.grantee})
        for grantee in (sql.SQL("PUBLIC"), owner, *(identifier(one) for one in names)):
            made.append(sql.SQL("REVOKE ALL ON DATABASE {} FROM {} CASCADE").format(database, grantee))
        made.append(sql.SQL("GRANT ALL ON DATABASE {} TO {}").format(database, owner))
        made.append(sql.SQL("GRANT CONNECT, TEMPORARY ON DATABASE {} TO PUBLIC").format(database))
    made.append(sql.SQL("ALTER DATABASE {} RESET ALL").format(database))
    for role in sorted({setting.role for setting in properties.settings if setting.role}):
        made.append(sql.SQL("ALTER ROLE {} IN DATABASE {} RESET ALL").format(identifier(role), database))
    return made


def replay_changes(
    connection: psycopg.Connection[dict[str, Any]], name: str, there: Properties, wanted: Properties
) -> bool:
    """Give the database `name`, which has the properties `there`, those `wanted`; in the caller's transaction.

    Returns:
        Whether anything had to be done. Comment and connection limit are left to the caller.
    """
    same = all(
        one == other for one, other in (
            (there.owner, wanted.owner), (_as_set(there.acl), _as_set(wanted.acl)),
            (set(there.settings), set(wanted.settings)),
        )
    )
    if not same:
        for statement in [*reset_statements(name, there), *statements(name, wanted)]:
            connection.execute(statement)
    return not same


def replay(connection: psycopg.Connection[dict[str, Any]], name: str, properties: Properties) -> None:
    """Give the database `name` these properties. The connection belongs to a superuser, in a transaction."""
    for statement in statements(name, properties):
        connection.execute(statement)


def changed_properties(live: Properties, backup: Properties) -> list[str]:
    """What was changed on the live database since the backup, each a sentence. The live one's is kept.

    A restore brings data back. What people set on the database since (a limit, a grant, a comment) is no part of the
    accident, and would be lost without a word.
    """
    found = []
    for attribute, words in (
        ("owner", "owner"), ("comment", "comment"), ("connection_limit", "connection limit"),
        ("tablespace", "tablespace"),
    ):
        now, then = getattr(live, attribute), getattr(backup, attribute)
        if now != then:
            found.append(f"The {words} is {now!r} now and was {then!r} in the backup: it stays as it is now.")
    if _as_set(live.acl) != _as_set(backup.acl):
        found.append("The privileges on the database were changed since the backup: they stay as they are now.")
    # Only the names: the value of a setting can be a secret.
    here = {(one.role or "", one.name): one.value for one in live.settings}
    there = {(one.role or "", one.name): one.value for one in backup.settings}
    for role, name in sorted(key for key in here | there if here.get(key) != there.get(key)):
        where = f" of the role {role}" if role else ""
        if (role, name) not in there:
            which = "was made since the backup: it stays"
        elif (role, name) not in here:
            which = "of the backup is no longer there: it stays away"
        else:
            which = "was changed since the backup: it stays as it is now"
        found.append(f"The setting {name}{where} {which}.")
    return found


def _as_set(acl: list[Grant] | None) -> set[Grant] | None:
    return None if acl is None else set(acl)
