# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a restore takes away from the live database, and what going back from one takes away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ansible_collections.sre.runbooks.plugins.module_utils.backup.manifest import Counter, Manifest, Table, Written
from ansible_collections.sre.runbooks.plugins.module_utils.backup.snapshot import OURS, read_newest_row
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.moments import utc_text
from ansible_collections.sre.runbooks.plugins.module_utils.run.words import counted, duration

if TYPE_CHECKING:
    import psycopg

    Connection = psycopg.Connection[dict[str, Any]]

# The statistics know of every change, but are empty after a crash; then the planner's number has to do.
ESTIMATES = f"""
SELECT n.nspname AS schema, c.relname AS name,
       CASE WHEN s.n_tup_ins > 0 OR s.last_analyze IS NOT NULL OR s.last_autoanalyze IS NOT NULL THEN s.n_live_tup
            ELSE greatest(c.reltuples, 0)::bigint END AS rows
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_stat_all_tables AS s ON s.relid = c.oid WHERE c.relkind = 'r' AND {OURS} ORDER BY 1, 2
"""  # noqa: S608
COUNTERS = f"""
SELECT c.oid::bigint AS oid, n.nspname AS schema, c.relname AS name,
       pg_stat_get_tuples_inserted(c.oid) AS inserted, pg_stat_get_tuples_updated(c.oid) AS updated,
       pg_stat_get_tuples_deleted(c.oid) AS deleted
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.relkind = 'r' AND {OURS} ORDER BY 2, 3
"""  # noqa: S608
# A crash empties the tables' counters without a trace of its own, and sets those of the background writer anew.
SINCE = """
SELECT d.datid::bigint AS database, coalesce(greatest(d.stats_reset, w.stats_reset), 'epoch') AS since
FROM pg_stat_database AS d, pg_stat_bgwriter AS w WHERE d.datname = current_database()
"""
# This file of a database is written when the database is made, and never again.
MADE_AT = """
SELECT (pg_stat_file(regexp_replace(pg_relation_filepath('pg_class'), '[^/]+$', 'PG_VERSION'))).modification AS made_at
"""
# As much of a time stamp as tells one second from another.
SECOND = len("2026-11-21T02:15:00")


@dataclass(frozen=True)
class Changes:
    """Rows that were written in some time; about, since a transaction that was rolled back counts as well."""

    inserted: int
    updated: int
    deleted: int

    def lost_since(self, since: str) -> str:
        """What going back costs, in words: what was deleted since is not lost, it comes back."""
        back = f"; {self.deleted:,} deleted since then come back" if self.deleted else ""
        return f"about {counted(self.inserted, 'row')} inserted and {self.updated:,} updated since {since}{back}"


def read_written(connection: Connection) -> Written:
    """The server's counters of rows written, of the database that the connection is in."""
    row = connection.execute(SINCE).fetchone()
    return Written(
        row["database"], utc_text(row["since"]), [Counter(**one) for one in connection.execute(COUNTERS)]
    )


def changes(then: Written, now: Written) -> Changes | str:
    """What was written between two readings; else the reason why nobody can tell, for a sentence.

    A table that is gone has nothing to lose any more, and one that is new counts from its beginning. What TRUNCATE took
    away is in no counter.
    """
    if then.database != now.database:
        return "the live database is not the one that was backed up"
    earlier = {counter.oid: counter for counter in then.tables}
    pairs = [(earlier.get(last.oid) or Counter(last.oid, last.schema, last.name), last) for last in now.tables]
    names = ("inserted", "updated", "deleted")
    grown = {name: [getattr(last, name) - getattr(first, name) for first, last in pairs] for name in names}
    if then.since != now.since or any(one < 0 for deltas in grown.values() for one in deltas):
        return f"the server's counters of rows written began anew at {now.since} (a crash, or somebody's reset)"
    return Changes(**{name: sum(deltas) for name, deltas in grown.items()})


def written_when_made(manifest: Manifest, now: Written, made_at: str) -> Written:
    """The counters that a database had which was just restored from a backup: every row was inserted once.

    Args:
        manifest: of that backup.
        now: the database's counters now.
        made_at: when the database was made; counters that began later do not reach back to it.
    """
    rows = {(table.schema, table.name): table.rows or 0 for table in manifest.tables}
    loaded = [
        Counter(one.oid, one.schema, one.name, rows[one.schema, one.name])
        for one in now.tables if (one.schema, one.name) in rows
    ]
    # The server knows a file's time to the second only.
    return Written(now.database, now.since if now.since[:SECOND] <= made_at[:SECOND] else made_at, loaded)


def differing(then: Mapping[str, int | None], now: Mapping[str, int | None]) -> list[dict[str, Any]]:
    """The tables with another number of rows: `table, backup, live`, by name."""
    return [
        {"table": name, "backup": then.get(name), "live": now.get(name)}
        for name in sorted({*then, *now}) if then.get(name) != now.get(name)
    ]


def told(found: Changes | str, tables: Sequence[Mapping[str, Any]], since: str = "the backup") -> dict[str, Any]:
    """Rows written, as far as they can be told.

    Args:
        found: what `changes` gave.
        tables: what `differing` gave; without the counters, the growth of the tables is the least that was inserted.
        since: since what, in words.

    Returns:
        `inserted`, `updated` and `deleted` (about; None where nobody can tell), `rows_lost` (those inserted, else the
        growth), `uncounted` (tables that have fewer rows now: `rows_lost` is the least), `lost` (all this in words).
    """
    if isinstance(found, Changes):
        return {
            "inserted": found.inserted, "updated": found.updated, "deleted": found.deleted,
            "rows_lost": found.inserted, "uncounted": [], "lost": found.lost_since(since),
        }
    more = sum(max(0, (one["live"] or 0) - (one["backup"] or 0)) for one in tables)
    fewer = [one["table"] for one in tables if (one["live"] or 0) < (one["backup"] or 0)]
    lost = f"about {counted(more, 'row')} more than in the backup"
    if fewer:
        lost = (
            f"at least {counted(more, 'row')}, and an unknown number in {', '.join(fewer)}, which have fewer rows now "
            "than in the backup"
        )
    return {
        "inserted": None, "updated": None, "deleted": None, "rows_lost": more, "uncounted": fewer,
        "lost": f"{lost}; how many were updated or deleted is unknown, since {found}",
    }


def losses(connection: Connection, manifest: Manifest, newest_row_query: str | None) -> dict[str, Any]:
    """What a restore would take away from the live database that `connection` is in.

    Returns:
        What `told` returns, `tables` (see `differing`; about), `newest_live_row_at` and `newest_backup_row_at` (None
        when unknown), `lost_seconds` between them, `problem` (why the newest row is unknown).
    """
    newest, problem = None, ""
    if newest_row_query:
        try:
            newest = read_newest_row(connection, newest_row_query)
        except RunbookError as error:
            problem = error.message
    estimates = {f"{row['schema']}.{row['name']}": row["rows"] for row in connection.execute(ESTIMATES)}
    tables = differing(_rows_of(manifest.tables), estimates)
    found = told(changes(manifest.written, read_written(connection)), tables)
    seconds = lost_seconds(newest, manifest.newest_row_at)
    if seconds is not None:
        found["lost"] += f"; the backup's newest row is {duration(seconds)} {'older' if newest else 'old'}"
    return {
        **found, "tables": tables, "newest_live_row_at": newest, "newest_backup_row_at": manifest.newest_row_at,
        "problem": problem, "lost_seconds": seconds,
    }


def losses_of_going_back(connection: Connection, manifest: Manifest | None, tables: Sequence[Table]) -> dict[str, Any]:
    """What was written to a restored database since it was made: what going back would lose.

    Args:
        connection: to the database that is live now.
        manifest: of the backup that it was restored from; None when the store no longer has it.
        tables: its exact counts now.

    Returns:
        What `told` returns, and `tables` (see `differing`).
    """
    if manifest is None:
        lost = "an unknown number of rows, since the store no longer has the backup that they would be compared with"
        nothing = dict.fromkeys(("inserted", "updated", "deleted", "rows_lost"))
        return {**nothing, "uncounted": [], "lost": lost, "tables": []}
    differ = differing(_rows_of(manifest.tables), _rows_of(tables))
    now, made_at = read_written(connection), utc_text(connection.execute(MADE_AT).fetchone()["made_at"])
    found = changes(written_when_made(manifest, now, made_at), now)
    return {**told(found, differ, "the exchange"), "tables": differ}


def lost_seconds(newest_live: str | None, newest_backup: str | None) -> float | None:
    """Seconds between two newest rows; until now when the live one cannot be told, None when the backup's cannot."""
    if newest_backup is None:
        return None
    end = datetime.fromisoformat(newest_live) if newest_live else datetime.now(UTC)
    return max(0.0, round((end - datetime.fromisoformat(newest_backup)).total_seconds(), 3))


def _rows_of(tables: Sequence[Table]) -> dict[str, int | None]:
    return {f"{table.schema}.{table.name}": table.rows for table in tables if table.rows is not None}
