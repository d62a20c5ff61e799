# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Data for the lab and the benchmarks, made by the server itself: much, mixed, and quick."""

from __future__ import annotations

from collections.abc import Callable

from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import Login, connect, identifier
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from psycopg import sql

CHUNK_BYTES = 16 * 1024 * 1024
DEFAULT_BYTES = 500 * 1024 * 1024

# Table, its columns, the expression of a row, about how many bytes a row takes, and its part of the whole.
# `n` counts the rows. Half compresses well (words, JSON), a third badly (numbers, identifiers), the rest not at all:
# pieces of a megabyte of hashes, at distances that no compressor's window spans.
WORDS = "(ARRAY['flour','butter','sugar','yeast','salt','rye','spelt','cocoa','almond','vanilla'])[1 + n % 10]"
TABLES: tuple[tuple[str, str, str, int, int], ...] = (
    ("customers", "id bigint PRIMARY KEY, name text, email text, since date",
     "n, 'Bakery ' || n, 'customer' || n || '@example.org', date '2020-01-01' + (n % 2000)::int", 100, 8),
    ("products", "id bigint PRIMARY KEY, name text, description text, price numeric(10,2)",
     f"n, {WORDS} || ' ' || n, repeat({WORDS} || ', ', 20), (n % 1000) / 10.0", 260, 10),
    ("order_events", "id bigint PRIMARY KEY, at timestamptz, event jsonb",
     f"n, now() - n * interval '1 second', jsonb_build_object('order', n % 100000, 'kind', {WORDS}, "
     "'by', md5(n::text), 'note', repeat('baked and delivered ', 4))", 260, 16),
    ("invoices", "id bigint PRIMARY KEY, number text, total numeric(12,2), lines text",
     f"n, 'INV-' || lpad(n::text, 10, '0'), random() * 10000, repeat({WORDS} || ' 2 x 3.50; ', 12)", 300, 14),
    ("sensor_readings", "id bigint PRIMARY KEY, oven uuid, at timestamptz, temperature double precision, humidity real",
     "n, md5((n % 40)::text)::uuid, now() - n * interval '1 minute', 180 + random() * 60, random()", 105, 14),
    ("price_history", "id bigint PRIMARY KEY, product bigint, valid tstzrange, price numeric(10,4)",
     "n, n % 5000, tstzrange(now() - n * interval '1 hour', NULL), random() * 100", 95, 8),
    ("attachments", "id bigint PRIMARY KEY, name text, content bytea",
     "n, 'scan-' || n || '.jpg', substr(noise, (n * 7919 % 1000000)::int, 6000)", 6500, 20),
    ("sessions_archive", "id uuid PRIMARY KEY, customer bigint, token text, agent text",
     "md5(n::text || 'session')::uuid, n, encode(sha256(n::text::bytea), 'hex'), "
     "'Mozilla/5.0 (X11; Linux x86_64) bakery/' || n % 9", 190, 10),
)

NOISE = """
    CREATE TEMPORARY TABLE noise AS
    SELECT string_agg(sha512(n::text::bytea), ''::bytea) AS noise FROM generate_series(1, 16384) AS n
"""


def fill(
    login: Login, total_bytes: int = DEFAULT_BYTES, report: Callable[[int, int], None] | None = None
) -> int:
    """Fill a database with eight tables of mixed data until they take `total_bytes` on disk.

    Tables that are there are filled further, so a fill that was stopped goes on, and a second one adds nothing.

    Args:
        login: of a role that may create tables in the database; the tables belong to it.
        total_bytes: of the tables with their indexes and TOAST.
        report: called after each chunk (about 16 MB) with the bytes that are there and `total_bytes`.

    Returns:
        The bytes that the tables take.

    Raises:
        RunbookError: the size is not positive.
    """
    if total_bytes <= 0:
        raise RunbookError(f"A database cannot be filled with {total_bytes} bytes.", "Give a positive size.")
    parts = sum(part for *_unused, part in TABLES)
    done = 0
    with connect(login, "fill") as connection:
        connection.execute("SET synchronous_commit = off")
        connection.execute(NOISE)
        for name, columns, row, row_bytes, part in TABLES:
            table = identifier(name)
            connection.execute(
                sql.SQL("CREATE TABLE IF NOT EXISTS {} (" + columns + ")").format(table)
            )
            if name == "attachments":
                connection.execute(sql.SQL("ALTER TABLE {} ALTER content SET STORAGE EXTERNAL").format(table))
            wanted = total_bytes * part // parts
            size_of = sql.SQL("SELECT pg_total_relation_size({}::regclass) AS bytes").format(sql.Literal(name))
            size = connection.execute(size_of).fetchone()["bytes"]
            first = connection.execute(sql.SQL("SELECT count(*) AS rows FROM {}").format(table)).fetchone()["rows"]
            while size < wanted:
                count = max(1, min(CHUNK_BYTES, wanted - size) // row_bytes)
                insert = "INSERT INTO {} SELECT " + row + " FROM generate_series({}, {}) AS n, noise"  # noqa: S608
                connection.execute(
                    sql.SQL(insert).format(table, sql.Literal(first + 1), sql.Literal(first + count))
                )
                first += count
                size = connection.execute(size_of).fetchone()["bytes"]
                if report:
                    report(done + size, total_bytes)
            done += size
        connection.execute("ANALYZE")
    return done
