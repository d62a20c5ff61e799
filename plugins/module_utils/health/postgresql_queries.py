# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The statements of the postgresql probe. They need PostgreSQL 14 or later."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import identifier

# Without pg_read_all_stats (part of pg_monitor) the interesting columns of pg_stat_activity are NULL.
PRIVILEGED = """
select pg_has_role(current_user, 'pg_read_all_stats', 'usage') as privileged"""

# A25 ⚠: clients only, no background processes; the slots that ordinary roles can have, not max_connections.
CONNECTIONS = """
select current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
       - coalesce(current_setting('reserved_connections', true)::int, 0) as usable,
       current_setting('max_connections')::int as maximum,
       a.state, a.application_name, count(a.pid)::int as sessions
from (select 1) as one
left join pg_stat_activity a on a.backend_type = 'client backend' and a.pid <> pg_backend_pid()
group by a.state, a.application_name"""

# Not ours: a backup holds its snapshot, idle in a transaction, for as long as it dumps, and nobody is woken for that.
TRANSACTIONS = """
select pid, usename, application_name, state, datname,
       extract(epoch from clock_timestamp() - xact_start)::float8 as seconds
from pg_stat_activity
where backend_type = 'client backend' and xact_start is not null
      and application_name not like 'sre.runbooks%'
order by xact_start limit 5"""

# A14 ⚠: an aborted transaction that nobody ends holds its locks and its snapshot just the same.
IDLE_IN_TRANSACTION = """
select pid, usename, application_name, state, datname,
       extract(epoch from clock_timestamp() - state_change)::float8 as seconds
from pg_stat_activity
where backend_type = 'client backend' and application_name not like 'sre.runbooks%'
      and state in ('idle in transaction', 'idle in transaction (aborted)')
order by state_change"""

# B34 ⚠: a join of pg_locks on relation misses waits for a row, whose relation is NULL.
BLOCKED = """
with waiting as materialized (
    select pid, pg_blocking_pids(pid) as blockers from pg_stat_activity where wait_event_type = 'Lock'
)
select w.pid, a.usename, a.application_name, a.datname,
       extract(epoch from clock_timestamp() - coalesce(
           (select min(l.waitstart) from pg_locks l where l.pid = w.pid and not l.granted), a.query_start
       ))::float8 as seconds,
       split_part(ltrim(a.query), ' ', 1) as command,
       b.blocker, o.usename as blocker_user, o.application_name as blocker_application, o.state as blocker_state,
       extract(epoch from clock_timestamp() - o.xact_start)::float8 as blocker_seconds,
       b.blocker in (select pid from waiting where cardinality(blockers) > 0) as blocker_waits
from waiting w
join pg_stat_activity a on a.pid = w.pid
cross join lateral (select distinct unnest(w.blockers) as blocker) b
left join pg_stat_activity o on o.pid = b.blocker
order by seconds desc, w.pid, b.blocker"""

# Changes when the counters start anew; those of pg_stat_io alone can be reset too, and then they shrink.
IDENTITY = """
select concat_ws(' ', datid, stats_reset, pg_postmaster_start_time()) as identity
from pg_stat_database where datname = current_database()"""

CACHE = """
select blks_hit as hits, blks_read as reads from pg_stat_database where datname = current_database()"""

# From PostgreSQL 16 on the server tells what clients read block by block from their scans of large tables, which pass
# through a ring of their own and throw nothing out of the cache. So most of a backup, which reads everything once, is
# not taken for a cache that is too small. Since 18 `reads` counts operations of several blocks; `read_bytes` is new.
CACHE_BY_CONTEXT = """
select coalesce(sum(hits), 0)::bigint as hits,
       coalesce(sum(coalesce((to_jsonb(io) ->> 'read_bytes')::numeric / current_setting('block_size')::int,
                             reads)), 0)::bigint as reads
from pg_stat_io io
where backend_type in ('client backend', 'background worker') and object = 'relation' and context = 'normal'"""

REPLICATION = """
select true as in_recovery, null::text as standby, null::text as state, null::bigint as bytes_behind,
       exists (select from pg_stat_wal_receiver where status = 'streaming') as streaming,
       case when pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn()
                 and exists (select from pg_stat_wal_receiver where status = 'streaming') then 0
            else extract(epoch from clock_timestamp() - pg_last_xact_replay_timestamp()) end::float8 as seconds
where pg_is_in_recovery()
union all
select false, application_name, state,
       pg_wal_lsn_diff(case when pg_is_in_recovery() then null else pg_current_wal_lsn() end, replay_lsn)::bigint,
       state = 'streaming', extract(epoch from replay_lag)::float8
from pg_stat_replication
where not pg_is_in_recovery() and state in ('startup', 'catchup', 'streaming')"""

# Transaction and multixact ages run out in the same way; the older of the two counts.
WRAPAROUND = """
select datname, age(datfrozenxid) as transactions, mxid_age(datminmxid) as multixacts
from pg_database order by greatest(age(datfrozenxid), mxid_age(datminmxid)) desc limit 1"""

INVALID_INDEXES = """
select n.nspname as schema, c.relname as name, t.relname as table
from pg_index i
join pg_class c on c.oid = i.indexrelid
join pg_class t on t.oid = i.indrelid
join pg_namespace n on n.oid = c.relnamespace
where not (i.indisvalid and i.indisready)
  and not exists (select from pg_stat_progress_create_index p where p.index_relid = i.indexrelid)
order by 1, 2"""

DEAD_TUPLES = """
select schemaname as schema, relname as name, n_dead_tup as dead, n_live_tup as live, last_autovacuum::text
from pg_stat_user_tables where n_dead_tup >= 10000
order by n_dead_tup::float8 / (n_dead_tup + n_live_tup) desc limit 5"""

SIZE = "select current_database() as name, pg_database_size(current_database())::bigint as bytes"

DATABASES = """
select datname as name from pg_database
where datallowconn and datconnlimit <> -2 and has_database_privilege(datname, 'connect')
order by datname = 'postgres' desc, datname"""

STATEMENTS_EXTENSION = """
select n.nspname as schema,
       exists (select from pg_attribute where attrelid = to_regclass(format('%I.pg_stat_statements', n.nspname))
               and attname = 'total_exec_time' and not attisdropped) as exec_time
from pg_extension e join pg_namespace n on n.oid = e.extnamespace where e.extname = 'pg_stat_statements'"""


def statements(extension: Mapping[str, Any], database: str) -> Any:
    """Calls and time of the statements of one database, in the column names that this server has (X11, B33 ⚠).

    Only what reads and writes rows: the text of other commands is not normalised and can hold a password.

    Args:
        extension: schema of pg_stat_statements, whether its columns are called `*_exec_time` (since 1.8).
        database: whose statements; the view has those of all databases.
    """
    from psycopg import sql

    return sql.SQL("""
        select concat_ws(':', s.queryid, s.userid) as number, left(min(s.query), 200) as query,
               sum(s.calls)::float8 as calls, sum({total})::float8 as total_ms
        from {view} s join pg_database d on d.oid = s.dbid
        where d.datname = {database} and s.query ~* '^\\s*(select|insert|update|delete|merge|with)\\M'
        group by 1 order by total_ms desc limit 1000""").format(
        total=sql.SQL("total_exec_time" if extension["exec_time"] else "total_time"),
        view=identifier(extension["schema"], "pg_stat_statements"),
        database=sql.Literal(database),
    )
