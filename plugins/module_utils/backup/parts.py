# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A part of a backup: named tables, or those of one schema.

The copy gets the structure of the whole database, so that types, functions and sequences are there, and the rows of
the chosen tables only, with indexes and keys. What would need the other rows, or act on these (foreign keys, triggers,
rules, policies, publications), is left out. Without policies each row would be open to whoever may read the table, so
nobody gets any privilege: only the owners see what is theirs, and only the database's owner may connect.
"""

from __future__ import annotations

import contextlib
import difflib
import re
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ansible_collections.sre.runbooks.plugins.module_utils.backup.archive import LIST_TIMEOUT_S
from ansible_collections.sre.runbooks.plugins.module_utils.backup.manifest import Manifest, Table
from ansible_collections.sre.runbooks.plugins.module_utils.backup.properties import Grant, Properties
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.client_tools import ClientTools
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import Login, connect
from ansible_collections.sre.runbooks.plugins.module_utils.run import process
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError

# What the owner of a database may do there.
OWNERS = ("CREATE", "CONNECT", "TEMPORARY")
Names = Collection[tuple[str, str]]

# A large object belongs to no table.
LARGE_OBJECTS = re.compile(r"\d+; \d+ \d+ (BLOB|(ACL|COMMENT|SECURITY LABEL) - LARGE OBJECT)")
AFTER = re.compile(r"\d+; \d+ \d+ (INDEX|INDEX ATTACH|CONSTRAINT|SEQUENCE SET) ")
ROWS = re.compile(r"\d+; \d+ \d+ TABLE DATA (?P<rest>.*)")
# A partitioned table stands for the partitions that hold its rows.
HOLDERS = """
SELECT DISTINCT n.nspname AS schema, c.relname AS name, pg_get_userbyid(c.relowner) AS owner
FROM pg_class AS asked JOIN pg_namespace AS a ON a.oid = asked.relnamespace
JOIN unnest(%s::text[], %s::text[]) AS wanted(schema, name) ON wanted.schema = a.nspname AND wanted.name = asked.relname
CROSS JOIN LATERAL (
    SELECT asked.oid AS oid UNION SELECT relid FROM pg_partition_tree(asked.oid) WHERE isleaf
) AS holder
JOIN pg_class AS c ON c.oid = holder.oid AND c.relkind = 'r' JOIN pg_namespace AS n ON n.oid = c.relnamespace
"""


def choose(manifest: Manifest, tables: Sequence[str], schema: str | None) -> list[tuple[str, str]] | None:
    """Schema and name of each table that is asked for; None for all of the backup.

    Args:
        manifest: of the backup.
        tables: names, with their schema (`public.orders`) or without where only one schema has such a table.
        schema: all tables of this one.

    Raises:
        RunbookError: there is no such table, or several, or one whose rows no backup holds.
    """
    if not tables and not schema:
        return None
    if tables and schema:
        raise RunbookError("Both tables and a schema were asked for.", "Give one of them: -e tables=…, or -e schema=….")
    if schema:
        found = [one for one in manifest.tables if one.schema == schema and one.rows is not None]
        if not found:
            there = ", ".join(sorted({one.schema for one in manifest.tables})) or "none"
            raise RunbookError(f"The backup has no tables in a schema {schema!r}.", f"There are: {there}.")
    else:
        found = [_named(manifest, name) for name in tables]
    return sorted({(one.schema, one.name) for one in found})


def _named(manifest: Manifest, name: str) -> Table:
    known = {f"{one.schema}.{one.name}": one for one in manifest.tables}
    fitting = [known[name]] if name in known else [one for one in manifest.tables if one.name == name]
    if len(fitting) > 1:
        several = ", ".join(f"{one.schema}.{one.name}" for one in fitting)
        raise RunbookError(f"Several schemas have a table {name!r}.", f"Say which: {several}.")
    if not fitting:
        near = difflib.get_close_matches(name, [*known, *(one.name for one in manifest.tables)], n=3)
        raise RunbookError(
            f"The backup {manifest.backup_id} has no table {name!r}.",
            f"Did you mean {' or '.join(near)}?" if near else f"It has {len(known)} tables, such as"
            f" {', '.join(sorted(known)[:5])}.",
        )
    if fitting[0].rows is None and fitting[0].kind != "partitioned table":
        raise RunbookError(
            f"{name} is a {fitting[0].kind}, whose rows no backup holds.", "Ask for the tables that it reads."
        )
    return fitting[0]


def share(manifest: Manifest, wanted: Names | None) -> float:
    """Which part of all rows the wanted tables have; all of them where that is not known (a partitioned table)."""
    if wanted is None:
        return 1.0
    rows = {(one.schema, one.name): one.rows for one in manifest.tables}
    total = sum(count or 0 for count in rows.values())
    counted = [rows[one] for one in wanted]
    return 1.0 if None in counted or not total else sum(counted) / total


def part_of(manifest: Manifest, chosen: Names) -> Manifest:
    """The manifest of a copy in which only the chosen tables have rows, and no large object is."""
    tables = [
        one if one.rows is None or (one.schema, one.name) in chosen else replace(one, rows=0, fingerprint=None)
        for one in manifest.tables
    ]
    return replace(manifest, tables=tables, large_objects=0, objects=None)


def closed(properties: Properties) -> Properties:
    """The properties of a copy that nobody but its owner connects to."""
    acl = [Grant(properties.owner, properties.owner, privilege, False) for privilege in OWNERS]
    return replace(properties, acl=acl)


def differences(
    manifest: Manifest, chosen: Names, live: dict[tuple[str, str], int | None]
) -> list[dict[str, Any]]:
    """For each chosen table `table, live, backup, difference`; live and difference are None where that is not known."""
    found = []
    for one in manifest.tables:
        key = (one.schema, one.name)
        if key in chosen and one.rows is not None:
            now = live.get(key)
            found.append({
                "table": ".".join(key), "live": now, "backup": one.rows,
                "difference": None if now is None else now - one.rows,
            })
    return found


def line(difference: dict[str, Any]) -> str:
    """One of the differences as an operator reads it."""
    backup, live = f"{difference['backup']:,} rows in the backup", difference["live"]
    if live is None:
        return f"{difference['table']}: {backup}, live unknown or not there"
    return f"{difference['table']}: {backup}, {live:,} live ({difference['difference']:+,})"


def contents(tools: ClientTools, data: Path, *arguments: str) -> str:
    """The table of contents as `pg_restore --list` has it."""
    argv = [tools.path("pg_restore"), "--list", *arguments, str(data)]
    return process.run(argv, timeout_s=LIST_TIMEOUT_S).stdout


def select(listing: str, holders: Iterable[tuple[str, str, str]]) -> list[str]:
    """The lines of a table of contents that fill tables, and what goes onto them afterwards.

    Args:
        listing: of the whole backup.
        holders: schema, name and owner of each table to fill.
    """
    # pg_dump writes a line break in a name as a blank.
    rests = {" ".join(" ".join(one).splitlines()) for one in holders}
    chosen = []
    for line in listing.splitlines():
        rows = ROWS.fullmatch(line)
        if AFTER.match(line) or (rows and rows["rest"] in rests):
            chosen.append(line)
    return chosen


@contextlib.contextmanager
def arguments(
    tools: ClientTools, data: Path, login: Login, wanted: Names, chosen: set[tuple[str, str]]
) -> Iterator[Iterable[Sequence[str]]]:
    """What pg_restore is told in its two calls: the structure, then the rows of the wanted tables.

    Args:
        tools: the client programs.
        data: the folder of the dump.
        login: on the copy, which tells after the first call which partitions a table has.
        wanted: schema and name of each table.
        chosen: gets the tables that are filled.
    """
    with tempfile.TemporaryDirectory(prefix="sre-runbooks-") as folder:

        def write(name: str, lines: Iterable[str]) -> list[str]:
            path = Path(folder) / name
            path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            return ["--no-acl", f"--use-list={path}"]

        def calls() -> Iterator[Sequence[str]]:
            before = contents(tools, data, "--section=pre-data").splitlines()
            yield write("structure", (line for line in before if not LARGE_OBJECTS.match(line)))
            with connect(login, "restore") as copy:
                rows = copy.execute(HOLDERS, [[one[0] for one in wanted], [one[1] for one in wanted]]).fetchall()
            chosen.update((row["schema"], row["name"]) for row in rows)
            holders = [(row["schema"], row["name"], row["owner"]) for row in rows]
            yield write("rows", select(contents(tools, data), holders))

        yield calls()
