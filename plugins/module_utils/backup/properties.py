# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The properties of a database that no dump of a single database carries whole, read to be replayed by a restore."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError

if TYPE_CHECKING:
    import psycopg

PROVIDERS = {"c": "libc", "i": "icu", "b": "builtin"}


@dataclass(frozen=True)
class Setting:
    """`ALTER DATABASE … SET` (role None) or `ALTER ROLE … IN DATABASE … SET`; `value` as pg_db_role_setting has it."""

    role: str | None
    name: str
    value: str


@dataclass(frozen=True)
class Extension:
    """An extension of the database."""

    name: str
    version: str
    schema: str


@dataclass(frozen=True)
class Grant:
    """One privilege on the database; `grantee` None is PUBLIC."""

    grantor: str
    grantee: str | None
    privilege: str
    grantable: bool


@dataclass(frozen=True)
class Properties:
    """A database's own properties.

    Args:
        name: the database.
        owner: its owner.
        encoding: name of the encoding (UTF8 …).
        locale_provider: `libc`, `icu` or `builtin`.
        collate: LC_COLLATE.
        ctype: LC_CTYPE.
        locale: the provider's locale; None for libc.
        icu_rules: tailoring rules; None without.
        collation_version: recorded version of the collation; None when the provider has none.
        acl: privileges on the database; None means the built-in default, which an empty list does not.
        comment: the comment as it stands, a marker of ours included; None without.
        connection_limit: -1 for none.
        tablespace: its default tablespace.
        settings: of the database, and of roles in it.
        extensions: with version and schema.
        size_bytes: pg_database_size.
    """

    name: str
    owner: str
    encoding: str
    locale_provider: str
    collate: str
    ctype: str
    locale: str | None
    icu_rules: str | None
    collation_version: str | None
    acl: list[Grant] | None
    comment: str | None
    connection_limit: int
    tablespace: str
    settings: list[Setting]
    extensions: list[Extension]
    size_bytes: int

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Properties:
        """Build properties from what `as_dict` gave."""
        acl = data["acl"]
        return cls(
            **{
                **data,
                "acl": None if acl is None else [Grant(**grant) for grant in acl],
                "settings": [Setting(**setting) for setting in data["settings"]],
                "extensions": [Extension(**extension) for extension in data["extensions"]],
            }
        )


# Columns were renamed and added between versions 15 and 18 (daticulocale, daticurules), so the row is read as JSON.
DATABASE = """
SELECT to_jsonb(d) AS row, d.oid::bigint AS oid, pg_get_userbyid(d.datdba) AS owner,
       pg_encoding_to_char(d.encoding) AS encoding, t.spcname AS tablespace,
       shobj_description(d.oid, 'pg_database') AS comment, pg_database_size(d.oid) AS size_bytes
FROM pg_database AS d JOIN pg_tablespace AS t ON t.oid = d.dattablespace WHERE d.datname = %s
"""
GRANTS = """
SELECT pg_get_userbyid(g.grantor) AS grantor,
       CASE WHEN g.grantee = 0 THEN NULL ELSE pg_get_userbyid(g.grantee) END AS grantee,
       g.privilege_type AS privilege, g.is_grantable AS grantable
FROM pg_database AS d, aclexplode(d.datacl) AS g WHERE d.datname = %s ORDER BY 1, 2 NULLS FIRST, 3
"""
SETTINGS = """
SELECT CASE WHEN s.setrole = 0 THEN NULL ELSE pg_get_userbyid(s.setrole) END AS role,
       split_part(c, '=', 1) AS name, substr(c, strpos(c, '=') + 1) AS value
FROM pg_db_role_setting AS s JOIN pg_database AS d ON d.oid = s.setdatabase, unnest(s.setconfig) AS c
WHERE d.datname = %s ORDER BY 1 NULLS FIRST, 2
"""
EXTENSIONS = """
SELECT e.extname AS name, e.extversion AS version, n.nspname AS schema
FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace ORDER BY 1
"""


def read_properties(connection: psycopg.Connection[dict[str, Any]], database: str | None = None) -> Properties:
    """Read all properties of a database.

    Args:
        connection: a connection with dictionary rows. Extensions are those of the database it is connected to.
        database: its name; None is the one that the connection is in.

    Raises:
        RunbookError: there is no such database.
    """
    name = database or connection.info.dbname
    found = connection.execute(DATABASE, [name]).fetchone()
    if found is None:
        raise RunbookError(f"There is no database {name!r} on this server.", "Check database_name in the inventory.")
    row = found["row"]
    grants = [Grant(**grant) for grant in connection.execute(GRANTS, [name])]
    return Properties(
        name=name, owner=found["owner"], encoding=found["encoding"],
        locale_provider=PROVIDERS.get(row.get("datlocprovider", "c"), row.get("datlocprovider", "c")),
        collate=row["datcollate"], ctype=row["datctype"],
        locale=row.get("datlocale") or row.get("daticulocale"), icu_rules=row.get("daticurules"),
        collation_version=row.get("datcollversion"),
        acl=None if row["datacl"] is None else grants, comment=found["comment"],
        connection_limit=row["datconnlimit"], tablespace=found["tablespace"],
        settings=[Setting(**setting) for setting in connection.execute(SETTINGS, [name])],
        extensions=[Extension(**extension) for extension in connection.execute(EXTENSIONS)],
        size_bytes=found["size_bytes"],
    )
