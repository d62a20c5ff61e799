# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The roles in a backup's globals.sql: read, chosen for one database, and created where a server lacks them.

Roles come without password, without the right to log in unless that is asked for, and without the attributes that
reach beyond a database; what each one still lacks is said with the statement that gives it. A role that is there
stays as it is, and nobody becomes a member of it: a backup made elsewhere must not say who is a superuser here, or who
may start programs on the server.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import identifier

if TYPE_CHECKING:
    from typing import Any

    import psycopg

with contextlib.suppress(ImportError):  # connect() tells the operator
    from psycopg import sql

# A quote may stand in a name or a literal, and a semicolon in both; pg_dumpall doubles quotes and backslashes.
TOKEN = re.compile(
    r"""(?P<blank>\s+|--[^\n]*)|(?P<meta>\\[^\n]*)|"(?P<quoted>(?:[^"]|"")*)"|(?P<literal>'(?:[^']|'')*')"""
    r"""|(?P<word>[^\W\d][\w$]*)|(?P<other>.)""",
    re.DOTALL,
)
# Attributes that reach beyond one database: a restore gives them to nobody.
POWERS = ("SUPERUSER", "CREATEROLE", "CREATEDB", "REPLICATION", "BYPASSRLS")
OPTIONS_MAJOR = 16


@dataclass(frozen=True)
class Role:
    """A role as globals.sql has it; `settings` are the names of its own settings in all databases."""

    name: str
    inherit: bool = True
    login: bool = False
    powers: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Membership:
    """`GRANT role TO member`; `inherit` and `set` came with version 16, None is the server's own default."""

    role: str
    member: str
    admin: bool = False
    inherit: bool | None = None
    set: bool | None = None


@dataclass(frozen=True)
class Globals:
    """What globals.sql says of roles."""

    roles: dict[str, Role]
    memberships: tuple[Membership, ...]


@dataclass(frozen=True)
class Missing:
    """What a server lacks for one database.

    Args:
        roles: to be created.
        memberships: between roles that are created.
        left: memberships in roles that are there, or of such; nobody gets them.
        there: roles that could log in and that the server has.
    """

    roles: tuple[Role, ...] = ()
    memberships: tuple[Membership, ...] = ()
    left: tuple[Membership, ...] = ()
    there: tuple[Role, ...] = ()


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str


def _statements(script: str) -> Iterator[list[_Token]]:
    """The statements of a script, each as its tokens; commands of psql (`\\restrict`) are passed over."""
    statement: list[_Token] = []
    for found in TOKEN.finditer(script):
        kind, text = found.lastgroup or "", found.group()
        if kind == "blank" or (kind == "meta" and not statement):
            continue
        if kind == "other" and text == ";":
            yield statement
            statement = []
            continue
        if kind == "quoted":
            text = found.group("quoted").replace('""', '"')
        statement.append(_Token(kind, text))


def read_globals(script: str) -> Globals:
    """Read what pg_dumpall wrote of roles; statements about anything else are passed over."""
    roles: dict[str, Role] = {}
    memberships: list[Membership] = []
    for tokens in _statements(script):
        words = [token.text.upper() if token.kind == "word" else "" for token in tokens]
        if words[:2] == ["CREATE", "ROLE"] and len(tokens) > 2:
            roles[tokens[2].text] = Role(tokens[2].text)
        elif words[:2] == ["ALTER", "ROLE"] and len(tokens) > 3 and tokens[2].text in roles:
            roles[tokens[2].text] = _altered(roles[tokens[2].text], tokens, words[3:])
        elif words[:1] == ["GRANT"] and len(tokens) > 3 and words[2] == "TO":
            memberships.append(_membership(tokens[1].text, tokens[3].text, words[4:]))
    return Globals(roles, tuple(memberships))


def _altered(role: Role, tokens: list[_Token], words: list[str]) -> Role:
    if words[:1] == ["WITH"]:
        return replace(
            role, inherit="NOINHERIT" not in words, login="LOGIN" in words,
            powers=tuple(power for power in POWERS if power in words),
        )
    if words[:1] == ["SET"] and len(tokens) > 4:
        return replace(role, settings=(*role.settings, tokens[4].text))
    return role


def _membership(role: str, member: str, words: list[str]) -> Membership:
    def option(name: str) -> bool | None:
        pairs = dict(itertools.pairwise(words))
        return None if name not in pairs else pairs[name] in ("TRUE", "OPTION")

    return Membership(role, member, bool(option("ADMIN")), option("INHERIT"), option("SET"))


def missing_roles(
    found: Globals, wanted: Collection[str], there: Collection[str], members: Collection[tuple[str, str]] = ()
) -> Missing:
    """What a server lacks.

    A database names roles that own something or were given something; others have their rights as members of those.
    So members of the wanted ones come too, and the groups that all of them are in.

    Args:
        found: what globals.sql says.
        wanted: roles that the database names.
        there: roles that the server has.
        members: role and member of each membership that the server has.
    """
    chosen = set(wanted)
    while more := {one.member for one in found.memberships if one.role in chosen} - chosen:
        chosen |= more
    while more := {one.role for one in found.memberships if one.member in chosen} - chosen:
        chosen |= more
    create = {name for name in chosen if name not in there and not name.startswith("pg_")}
    known = create | set(there)
    among = [one for one in found.memberships if {one.role, one.member} <= chosen & known]
    return Missing(
        tuple(found.roles.get(name, Role(name)) for name in sorted(create)),
        tuple(one for one in among if {one.role, one.member} <= create),
        tuple(
            one for one in among if not {one.role, one.member} <= create and (one.role, one.member) not in members
        ),
        tuple(found.roles[name] for name in sorted(chosen - create) if name in found.roles and found.roles[name].login),
    )


def create_statements(missing: Missing, major: int, *, login: bool) -> list[sql.Composed]:
    """The statements that create the roles and their memberships, in order.

    Args:
        missing: what the server lacks.
        major: the server's major version.
        login: let those log in that could; they still need a password.
    """
    made = [
        sql.SQL("CREATE ROLE {} {} {}").format(
            identifier(role.name), sql.SQL("LOGIN" if login and role.login else "NOLOGIN"),
            sql.SQL("INHERIT" if role.inherit else "NOINHERIT"),
        )
        for role in missing.roles
    ]
    return made + [_grant(one, major) for one in missing.memberships]


def _grant(one: Membership, major: int) -> sql.Composed:
    options = ["ADMIN OPTION"] if one.admin else []
    if major >= OPTIONS_MAJOR:
        options += [
            f"{name} {'TRUE' if value else 'FALSE'}"
            for name, value in (("INHERIT", one.inherit), ("SET", one.set)) if value is not None
        ]
    return sql.SQL("GRANT {} TO {}{}").format(
        identifier(one.role), identifier(one.member), sql.SQL(f" WITH {', '.join(options)}" if options else "")
    )


def drop_roles(connection: psycopg.Connection[dict[str, Any]], names: Collection[str]) -> None:
    """Drop roles that this run created and that own nothing."""
    with connection.transaction():
        for name in names:
            connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(identifier(name)))


def to_do(missing: Missing, major: int, *, login: bool) -> list[str]:
    """What a person still has to do for the roles, each a sentence with its statement.

    Args:
        missing: what the server lacked.
        major: the server's major version.
        login: as create_statements was told.
    """
    said = []
    for role in missing.roles:
        name = identifier(role.name).as_string()
        if role.login:
            lacks, gives = ("a password", "") if login else ("a password and without the right to log in", "LOGIN ")
            said.append(
                f"The role {role.name} was created without {lacks}: ALTER ROLE {name} {gives}PASSWORD '…'; (in psql"
                " \\password asks for it)."
            )
        if role.powers:
            said.append(
                f"The role {role.name} was created without what it had in the backup: ALTER ROLE {name}"
                f" {' '.join(role.powers)}; if it still needs that."
            )
        if role.settings:
            said.append(
                f"The role {role.name} was created without its settings {', '.join(role.settings)}, which are in"
                " globals.sql of the backup."
            )
    return said + [
        f"The role {one.member} is no member of {one.role} here, and was in the backup:"
        f" {_grant(one, major).as_string()}; if it should be."
        for one in missing.left
    ]


def left_as_they_are(missing: Missing, shut: Collection[str]) -> list[str]:
    """Which roles that the server has could log in in the backup and cannot here, each a sentence.

    Args:
        missing: as missing_roles found it.
        shut: roles that may not log in, such as those of a run that was killed before it could say so.
    """
    return [
        f"The role {role.name} cannot log in here, and could in the backup; if it should: ALTER ROLE"
        f" {identifier(role.name).as_string()} LOGIN PASSWORD '…';"
        for role in missing.there if role.name in shut
    ]
