# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How many there are of what is no table: a restore that left out the keys has every row, and is not whole."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psycopg

with contextlib.suppress(ImportError):  # connect() tells the operator
    from psycopg import sql

# What belongs to an extension is made by CREATE EXTENSION; what is internal, by the server for something else.
NOT_MADE_FOR = (
    " AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.classid = '{catalog}'::regclass AND d.objid = {oid}"
    " AND d.deptype IN ('e', 'i'))"
)
IN_OURS = (
    " IN (SELECT oid FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema')"
)


# Below this number are PostgreSQL's own.
FIRST_OID = 16384

# How a count of what one role owns is called.
OWNED_BY = "relations of the role "
OF_COLUMNS = """
SELECT count(DISTINCT (a.attrelid, a.attnum, g.grantee)) FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
CROSS JOIN aclexplode(a.attacl) AS g WHERE c.relnamespace"""


def _of(source: str, condition: str, catalog: str, oid: str) -> str:
    return f"SELECT count(*) FROM {source} WHERE {condition}{NOT_MADE_FOR.format(catalog=catalog, oid=oid)}"  # noqa: S608


def _granted(catalog: str, name: str, prefix: str, condition: str, default: str) -> str:
    """How many pairs of an object and a role that it does not belong to there are, where the role may do something."""
    namespace = f"{name}.oid" if catalog == "pg_namespace" else f"{name}.{prefix}namespace"
    acl, owner = f"{name}.{prefix}acl", f"{name}.{prefix}owner"
    return (
        f"SELECT count(DISTINCT ({name}.oid, g.grantee)) FROM {catalog} AS {name}"  # noqa: S608
        f" CROSS JOIN aclexplode(coalesce({acl}, acldefault('{default}', {owner}))) AS g"
        f" WHERE {condition} AND {namespace}{IN_OURS} AND g.grantee <> {owner}"
        + NOT_MADE_FOR.format(catalog=catalog, oid=f"{name}.oid")
    )


_OF_TABLE = "JOIN pg_class AS c ON c.oid = {}".format
# As pg_dump chooses them: it leaves out an index that a failed CREATE INDEX CONCURRENTLY left.
QUERIES = {
    "indexes": _of(
        f"pg_index AS i {_OF_TABLE('i.indrelid')}",
        f"c.relnamespace{IN_OURS} AND (i.indisvalid OR c.relkind = 'p') AND c.relkind <> 't'", "pg_class", "c.oid",
    ),
    # Those for NOT NULL are only listed since PostgreSQL 18, and those of a partition are its parent's.
    "constraints": _of(
        "pg_constraint AS o",
        f"o.connamespace{IN_OURS} AND o.conrelid <> 0 AND o.conparentid = 0 AND o.contype IN ('c', 'f', 'p', 'u', 'x')",
        "pg_class", "o.conrelid",
    ),
    "views": _of("pg_class AS c", f"c.relnamespace{IN_OURS} AND c.relkind = 'v'", "pg_class", "c.oid"),
    "functions": _of("pg_proc AS p", f"p.pronamespace{IN_OURS}", "pg_proc", "p.oid"),
    "triggers": _of(
        f"pg_trigger AS t {_OF_TABLE('t.tgrelid')}", f"c.relnamespace{IN_OURS} AND NOT t.tgisinternal", "pg_class",
        "c.oid",
    ),
    "rules": _of(
        f"pg_rewrite AS r {_OF_TABLE('r.ev_class')}", f"c.relnamespace{IN_OURS} AND r.rulename <> '_RETURN'",
        "pg_class", "c.oid",
    ),
    "policies": _of(
        f"pg_policy AS p {_OF_TABLE('p.polrelid')}", f"c.relnamespace{IN_OURS}", "pg_class", "c.oid",
    ),
    "types": _of("pg_type AS t", f"t.typnamespace{IN_OURS} AND t.typtype IN ('d', 'e', 'r')", "pg_type", "t.oid"),
    "event triggers": _of("pg_event_trigger AS e", "true", "pg_event_trigger", "e.oid"),
    "publications": "SELECT count(*) FROM pg_publication",
    "statistics objects": _of("pg_statistic_ext AS s", f"s.stxnamespace{IN_OURS}", "pg_statistic_ext", "s.oid"),
    "operators": _of("pg_operator AS o", f"o.oprnamespace{IN_OURS} AND o.oprcode <> 0", "pg_operator", "o.oid"),
    "casts": _of("pg_cast AS a", f"a.oid >= {FIRST_OID}", "pg_cast", "a.oid"),
    "foreign servers": _of("pg_foreign_server AS f", "true", "pg_foreign_server", "f.oid"),
    # Who may do anything with what; what exactly differs between versions, which know other privileges.
    "privileges": " + ".join(f"({query})" for query in (
        _granted("pg_class", "c", "rel", "c.relkind IN ('r', 'p', 'v', 'm', 'f')", "r"),
        _granted("pg_class", "c", "rel", "c.relkind = 'S'", "s"),
        _granted("pg_proc", "p", "pro", "true", "f"),
        # Those of tables and arrays have none.
        _granted("pg_type", "t", "typ", "t.typtype IN ('d', 'e', 'r')", "T"),
        _granted("pg_namespace", "n", "nsp", "true", "n"),
        OF_COLUMNS + IN_OURS + NOT_MADE_FOR.format(catalog="pg_class", oid="c.oid"),
        "SELECT count(DISTINCT (d.oid, g.grantee)) FROM pg_default_acl AS d CROSS JOIN aclexplode(d.defaclacl) AS g",
        "SELECT count(DISTINCT (l.oid, g.grantee)) FROM pg_largeobject_metadata AS l"
        " CROSS JOIN aclexplode(l.lomacl) AS g WHERE g.grantee <> l.lomowner",
    )),
}


OWNERS = (
    "SELECT pg_get_userbyid(c.relowner) AS owner, count(*) AS n FROM pg_class AS c"  # noqa: S608
    " WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND c.relnamespace" + IN_OURS
    + NOT_MADE_FOR.format(catalog="pg_class", oid="c.oid") + " GROUP BY 1"
)


def missing(wanted: Mapping[str, int], there: Mapping[str, int]) -> list[str]:
    """Of which kind there are not as many as wanted, each a phrase; a kind that nobody counts any more says nothing."""
    found = []
    for kind, count in wanted.items():
        # A role that owns nothing is not listed.
        have = there.get(kind, 0 if kind.startswith(OWNED_BY) else count)
        if have != count:
            found.append(f"there are {have} {kind} instead of {count}")
    return found


def count_objects(connection: psycopg.Connection[dict[str, Any]]) -> dict[str, int]:
    """How many of each kind in QUERIES, and relations of each owner, are in this session's database and snapshot."""
    columns = sql.SQL(", ").join(
        sql.SQL("({}) AS {}").format(sql.SQL(query), sql.Identifier(name)) for name, query in QUERIES.items()
    )
    counts = connection.execute(sql.SQL("SELECT {}").format(columns)).fetchone()
    return {**counts, **{f"{OWNED_BY}{row['owner']}": row["n"] for row in connection.execute(OWNERS)}}
