"""What an operator learns about a real PostgreSQL server."""

from __future__ import annotations

import contextlib
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.health import samples
from ansible_collections.sre.runbooks.plugins.module_utils.health.measures import MEASURES
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql import connection as connection_module
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import Login, connect, identifier
from psycopg import sql

from tests.integration.health.conftest import login_of

ODD = 'Bäcker"ei \'s  Daten'


@pytest.fixture
def monitor(database: Login) -> Iterator[Login]:
    """A role with pg_monitor and nothing else."""
    yield from _role(database, "pg_monitor")


@pytest.fixture
def stranger(database: Login) -> Iterator[Login]:
    """A role that may connect and nothing else."""
    yield from _role(database, None)


def _role(database: Login, group: str | None) -> Iterator[Login]:
    name, password = f"role_{secrets.token_hex(4)}", secrets.token_hex(8)
    with connect(database, "tests") as connection:
        connection.execute(sql.SQL("create role {} login password {}").format(identifier(name), sql.Literal(password)))
        if group:
            connection.execute(sql.SQL("grant {} to {}").format(identifier(group), identifier(name)))
        yield Login(database.host, database.port, name, password, database.database, "disable")
        connection.execute(sql.SQL("drop owned by {0}; drop role {0}").format(identifier(name)).as_string())


@pytest.fixture
def session(database: Login) -> Iterator[Callable[..., psycopg.Connection[Any]]]:
    """Opens sessions as an application named orders; closed at the end."""
    opened: list[psycopg.Connection[Any]] = []

    def open_one() -> psycopg.Connection[Any]:
        opened.append(psycopg.connect(
            host=database.host, port=database.port, user=database.user, password=database.password,
            dbname=database.database, application_name="orders", sslmode="disable",
        ))
        return opened[-1]

    yield open_one
    for connection in opened:
        connection.close()


def measured(monitor: Login, *measures: str, **thresholds: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "postgresql", "name": "monitor", "login": login_of(monitor), "measures": list(measures),
            "thresholds": [{"measure": name, **limits} for name, limits in thresholds.items()]}


def test_application_connects_with_its_own_login_and_passes_its_own_query(database, probe):
    """A8 D7: the application's own login, in its own database (X2), and a query that means something to its owner."""
    found = probe({"kind": "postgresql", "name": "application", "login": login_of(database),
                   "query": f"select current_database() = '{database.database}', 'four orders today'"})
    assert found["application"]["status"] == "ok"
    assert found["application.query"]["status"] == "ok"
    assert "four orders today" in found["application.query"]["message"]


@pytest.mark.parametrize(("query", "status", "words"), [
    ("select false, 'no order since 14:31'", "critical", "did not pass: no order since 14:31"),
    ("select null::boolean", "unknown", "not a boolean"),
    ("select 1", "unknown", "not a boolean"),
    ("select true where false", "unknown", "no row"),
    ("select * from missing_table", "critical", "missing_table"),
    ("select missing_column from pg_class", "critical", "missing_column"),
    ("select * from missing_schema.orders", "critical", "missing_schema"),
    ("create table sneaky (id int)", "unknown", "read-only"),
    ("select true from pg_sleep(30)", "unknown", "statement timeout"),
])
def test_own_query_that_proves_nothing_does_not_pass(database, probe, query, status, words):
    found = probe({"kind": "postgresql", "name": "application", "login": login_of(database), "query": query,
                   "timeout_seconds": 1})
    assert found["application.query"]["status"] == status
    assert words in found["application.query"]["message"]


def test_wrong_password_of_the_application_is_critical_and_never_shown(database, probe):
    found = probe({"kind": "postgresql", "name": "application", "login": login_of(database, password="gu3ss-w0rd")})
    assert found["application"]["status"] == "critical"
    assert "password authentication failed" in found["application"]["message"]
    assert "gu3ss-w0rd" not in str(found)


def test_wrong_password_of_the_monitor_says_nothing_about_the_database(monitor, probe):
    mistaken = Login(monitor.host, monitor.port, monitor.user, "wrong", monitor.database, "disable")
    found = probe(measured(mistaken, "all"))
    assert found["monitor"]["status"] == "unknown"
    assert list(found) == ["monitor"]


def test_missing_client_library_says_nothing_about_the_database(database, probe, monkeypatch):
    monkeypatch.setattr(connection_module, "PSYCOPG_ERROR", ImportError("No module named 'psycopg'"))
    found = probe({"kind": "postgresql", "name": "application", "login": login_of(database)})
    assert found["application"]["status"] == "unknown"
    assert "pip install" in found["application"]["message"]


def test_server_that_takes_the_connection_and_never_answers_is_unknown(database, probe):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        login = login_of(database, port=silent.getsockname()[1])
        found = probe({"kind": "postgresql", "name": "application", "login": login, "timeout_seconds": 2.4})
    assert found["application"]["status"] == "unknown"
    assert "No answer within" in found["application"]["message"] or "gave no answer" in found["application"]["message"]


def test_server_that_is_gone_is_critical_for_both(monitor, probe, unused_port):
    login = Login("127.0.0.1", unused_port, monitor.user, "x", sslmode="disable")
    found = probe({"kind": "postgresql", "name": "application", "login": login_of(login)}, measured(login, "all"))
    assert {check["status"] for check in found.values()} == {"critical"}


def test_every_measure_is_taken_from_a_healthy_server(monitor, probe):
    """B5 B11 B31 B32 B34 D4: whatever cannot apply is a sentence, never a pass."""
    found = probe(measured(monitor, "all"))
    names = {name.removeprefix("monitor.") for name in found} - {"monitor"}
    rest = {"cache_hit_percent", "replication_lag_seconds", "slow_statements"}
    assert names | rest == set(MEASURES["postgresql"])
    assert {name: found[name]["status"] for name in found if name != "monitor.connections_percent"} == dict.fromkeys(
        [name for name in found if name != "monitor.connections_percent"], "ok")
    assert any("monitor.cache_hit_percent: not measured yet" in line for line in found.not_measured)
    assert any("no standby is connected" in line for line in found.not_measured)


def test_measure_that_was_asked_for_by_name_and_does_not_apply_is_unknown(monitor, probe):
    found = probe(measured(monitor, "replication_lag_seconds"))
    assert found["monitor.replication_lag_seconds"]["status"] == "unknown"


def test_monitor_without_pg_monitor_knows_nothing_and_says_which_grant_to_run(stranger, probe):
    """Without pg_monitor the interesting columns are NULL, which must never read as "nothing there"."""
    found = probe(measured(stranger, "all"))
    hidden = ("connections_percent", "longest_transaction_seconds", "idle_in_transaction_seconds", "blocked_sessions",
              "slow_statements", "replication_lag_seconds")
    for name in hidden:
        assert found[f"monitor.{name}"]["status"] == "unknown"
        assert f'GRANT pg_monitor TO "{stranger.user}";' in found[f"monitor.{name}"]["message"]
    assert found["monitor.size_bytes"]["status"] == "ok"


def test_leaked_connections_are_counted_against_what_applications_can_have(monitor, session, probe):
    """A25 ⚠ B5 B11 B59 D20: no background processes, less the reserved slots, by state and by application."""
    before = probe(measured(monitor, "connections_percent"))["monitor.connections_percent"]
    for _unused in range(10):
        session()
    usable = before["evidence"]["usable"]
    found = probe(measured(monitor, "connections_percent", connections_percent={"warning": 100 * 9.5 / usable}))
    check = found["monitor.connections_percent"]
    assert usable == 57  # max_connections 60 less superuser_reserved_connections 3
    assert check["evidence"]["by_application"]["orders"] == 10
    assert check["evidence"]["by_state"]["idle"] >= 10
    assert check["status"] == "warning"
    assert f"of {usable} connections are in use; orders has 10 of them" in check["message"]


@pytest.mark.parametrize("aborted", [False, True])
def test_session_that_idles_in_a_transaction_is_named_also_when_it_is_aborted(monitor, session, probe, aborted):
    """A14 ⚠: `idle in transaction (aborted)` was missed."""
    lazy = session()
    lazy.execute("select 1")
    if aborted:
        with pytest.raises(psycopg.Error):
            lazy.execute("select 1 / 0")
    found = probe(measured(monitor, "idle_in_transaction_seconds", "longest_transaction_seconds",
                           idle_in_transaction_seconds={"critical": 0}, longest_transaction_seconds={"critical": 0}))
    check = found["monitor.idle_in_transaction_seconds"]
    assert check["status"] == "critical"
    assert check["evidence"]["aborted"] == int(aborted)
    assert f"pid {lazy.info.backend_pid}, orders of {lazy.info.user}" in check["message"]
    # PostgreSQL forgets when an aborted transaction began, so only the first of the two measures sees it.
    assert found["monitor.longest_transaction_seconds"]["status"] == ("ok" if aborted else "critical")


def test_a_backup_at_work_is_no_transaction_that_somebody_forgot(monitor, database, probe):
    """B34: a dump holds its snapshot, idle in a transaction, for as long as it takes."""
    at_once = {"critical": 0}
    with connect(database, "backup", autocommit=False) as ours:
        ours.execute("select 1")
        found = probe(measured(monitor, "idle_in_transaction_seconds", "longest_transaction_seconds",
                               idle_in_transaction_seconds=at_once, longest_transaction_seconds=at_once))
    assert found["monitor.idle_in_transaction_seconds"]["status"] == "ok"
    assert found["monitor.longest_transaction_seconds"]["status"] == "ok"


def test_blocked_session_is_shown_with_the_one_that_blocks_it(monitor, session, probe):
    """B34 ⚠: a wait for a row has no relation in pg_locks, so the guide's join never saw it."""
    holder, waiter = session(), session()
    holder.execute("create table loaves (id int primary key, n int); insert into loaves values (1, 1)")
    holder.commit()
    holder.execute("update loaves set n = 2")
    ended = threading.Event()

    def wait() -> None:
        try:
            waiter.execute("update loaves set n = 3")
        finally:
            ended.set()

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        check = _until_blocked(probe, monitor)
    finally:
        holder.rollback()
        thread.join(10)
    assert ended.is_set()
    assert check["status"] == "warning"
    assert check["value"] == 1
    wait_of = check["evidence"]["waits"][0]
    assert (wait_of["pid"], wait_of["blocked_by"]["pid"]) == (waiter.info.backend_pid, holder.info.backend_pid)
    assert wait_of["command"] == "update"
    assert wait_of["blocked_by"]["state"] == "idle in transaction"
    assert "loaves" not in str(check)  # a statement's text can hold somebody's data
    assert probe(measured(monitor, "blocked_sessions"))["monitor.blocked_sessions"]["status"] == "ok"


def _until_blocked(probe, monitor: Login) -> dict[str, Any]:
    for _unused in range(100):
        check = probe(measured(monitor, "blocked_sessions"))["monitor.blocked_sessions"]
        if check["value"]:
            return check
    raise AssertionError("nobody was blocked")


def test_prepared_transaction_that_blocks_is_called_one(probe, server_with_prepared):
    login = server_with_prepared
    with psycopg.connect(host=login.host, port=login.port, user=login.user, password=login.password,
                         dbname="postgres", sslmode="disable") as holder:
        holder.execute("create table loaves (id int); insert into loaves values (1)")
        holder.commit()
        holder.execute("lock table loaves; prepare transaction 'forgotten'")
    waiter = psycopg.connect(host=login.host, port=login.port, user=login.user, password=login.password,
                             dbname="postgres", sslmode="disable")
    thread = threading.Thread(target=lambda: waiter.execute("select * from loaves"))
    thread.start()
    try:
        check = _until_blocked(probe, login)
    finally:
        with connect(login, "tests") as mender:
            mender.execute("rollback prepared 'forgotten'")
        thread.join(10)
        waiter.close()
        with connect(login, "tests") as mender:
            mender.execute("drop table loaves")
    assert "a prepared transaction (see pg_prepared_xacts)" in check["message"]


def test_invalid_index_is_named(monitor, database, probe):
    """A66: CREATE INDEX CONCURRENTLY that fails leaves an index that costs and serves nobody."""
    with connect(database, "tests") as connection:
        connection.execute("create table loaves (id int); insert into loaves values (1), (1)")
        with pytest.raises(psycopg.Error):
            connection.execute("create unique index concurrently loaves_id on loaves (id)")
    check = probe(measured(monitor, "invalid_indexes"))["monitor.invalid_indexes"]
    assert (check["status"], check["value"]) == ("warning", 1)
    assert "public.loaves_id" in check["message"]


def test_dead_rows_are_named_with_their_table(monitor, database, probe):
    with connect(database, "tests") as connection:
        connection.execute("create table loaves with (autovacuum_enabled = off) as select generate_series(1, 30000) n")
        connection.execute("delete from loaves where n <= 20000")
        connection.execute("select pg_stat_force_next_flush()")
        connection.execute("select 1")
    check = probe(measured(monitor, "dead_tuples_percent"))["monitor.dead_tuples_percent"]
    assert check["status"] == "critical"
    assert check["value"] == pytest.approx(66.7, abs=0.1)
    assert "public.loaves has 20,000 dead rows beside 10,000 live" in check["message"]


def test_size_and_wraparound_are_measured(monitor, probe):
    """B32 B75."""
    found = probe(measured(monitor, "size_bytes", "wraparound_percent"))
    assert found["monitor.size_bytes"]["value"] > 5_000_000
    assert found["monitor.size_bytes"]["unit"] == "bytes"
    assert found["monitor.wraparound_percent"]["status"] == "ok"


@pytest.mark.parametrize("place", ["its own database", "another database"])
def test_slow_statements_are_found_wherever_the_extension_lives(
    monitor, database, probe, place, tmp_path, monkeypatch
):
    """B33 ⚠ X11: the extension belongs to a database; columns in the server's own names; only this database's rows.

    Only what was slow since the last sample counts: the statistics reach back to their last reset.
    """
    monkeypatch.setattr(samples, "APART_S", 0.0)
    check = {**measured(monitor, "slow_statements"), "slow_statement_seconds": 0.5}

    def look() -> Any:
        return probe(check, samples_file=tmp_path / "samples.json")

    with connect(database, "tests") as connection:
        home = database.at(f"{database.database}_statements") if place == "another database" else database
        if home is not database:
            connection.execute(sql.SQL("create database {}").format(identifier(home.database)))
        with connect(home, "tests") as there:
            there.execute("create schema stats; create extension pg_stat_statements schema stats")
            there.execute(sql.SQL("grant usage on schema stats to {}").format(identifier(monitor.user)))
        first = look()
        for _unused in range(2):
            connection.execute("select pg_sleep(0.55) as loaves_baked_slowly")
        after, later = (look()["monitor.slow_statements"] for _unused in range(2))
        with connect(home, "tests") as there:
            there.execute(sql.SQL("drop owned by {}").format(identifier(monitor.user)))
        if home is not database:
            connection.execute(sql.SQL("drop database {} with (force)").format(identifier(home.database)))
    assert "it needs a second sample" in str(first.not_measured)
    assert (later["status"], later["value"]) == ("ok", 0)
    assert (after["status"], after["value"]) == ("warning", 1)
    assert "loaves_baked_slowly" in after["message"]
    assert "in 2 calls" in after["message"]
    assert after["evidence"]["extension_in"] == home.database


def test_slow_statements_without_the_extension_are_unknown_when_asked_for(monitor, probe):
    check = probe(measured(monitor, "slow_statements"))["monitor.slow_statements"]
    assert check["status"] == "unknown"
    assert "pg_stat_statements is in none of the databases" in check["message"]


def test_cache_hit_ratio_comes_from_two_samples(monitor, database, probe, tmp_path, monkeypatch):
    """A27 B5: a ratio of what was read meanwhile, not since the server was made; A19 ⚠."""
    monkeypatch.setattr(samples, "APART_S", 0.0)
    file = tmp_path / "samples.json"
    first = probe(measured(monitor, "cache_hit_percent"), samples_file=file)
    with connect(database, "tests") as connection:
        connection.execute("create table loaves as select generate_series(1, 20000) n")
        for _unused in range(3):
            connection.execute("select count(*) from loaves")
        connection.execute("select pg_stat_force_next_flush()")
        connection.execute("select 1")
    second = probe(measured(monitor, "cache_hit_percent"), samples_file=file)
    assert "monitor.cache_hit_percent" not in first
    check = second["monitor.cache_hit_percent"]
    assert check["value"] > 50
    assert check["evidence"]["hits"] + check["evidence"]["reads"] > 100


def test_dump_that_reads_everything_from_disk_is_not_a_cache_that_is_too_small(
    monitor, database, probe, tmp_path, monkeypatch
):
    """B5 B8: nobody is woken by the backup; a table beyond a quarter of shared_buffers passes through a ring."""
    monkeypatch.setattr(samples, "APART_S", 0.0)
    file, block = tmp_path / "samples.json", "x" * 1000

    def blocks_read(connection: Any) -> int:
        connection.execute("select pg_stat_force_next_flush()")
        return connection.execute(
            "select blks_read as n from pg_stat_database where datname = current_database()").fetchone()["n"]

    with connect(database, "tests") as connection:
        connection.execute(f"create table loaves as select n, '{block}' as v from generate_series(1, 40000) n")
        connection.execute("create table crumbs as select generate_series(1, 2000) n")
        connection.execute("vacuum loaves, crumbs")
        before = blocks_read(connection)
        probe(measured(monitor, "cache_hit_percent"), samples_file=file)
        with connection.cursor().copy("copy loaves to stdout") as copy:
            for _unused in copy:
                pass
        for _unused in range(500):
            connection.execute("select count(*) from crumbs")
        read = blocks_read(connection) - before
    check = probe(measured(monitor, "cache_hit_percent"), samples_file=file)["monitor.cache_hit_percent"]
    assert read > 3000
    assert check["status"] == "ok"
    assert check["evidence"]["reads"] < read / 10


def test_server_before_16_tells_its_cache_hits_by_database(older_server, probe, tmp_path, monkeypatch):
    """B5: a server that does not tell scans of large tables apart is measured all the same."""
    monkeypatch.setattr(samples, "APART_S", 0.0)
    login, file = older_server.login, tmp_path / "samples.json"
    with connect(login, "tests") as connection:
        if connection.info.server_version >= 160000:
            pytest.skip("The older server that is installed tells them apart as well.")
        probe(measured(login, "cache_hit_percent"), samples_file=file)
        for _unused in range(3):
            connection.execute("select count(*) from pg_class, pg_namespace")
    check = probe(measured(login, "cache_hit_percent"), samples_file=file)["monitor.cache_hit_percent"]
    assert check["evidence"]["hits"] > 20
    assert 0 < check["value"] <= 100


def test_database_whose_name_needs_quoting_is_measured_like_any_other(postgresql_server, probe):
    admin = postgresql_server.login
    with connect(admin, "tests") as connection:
        connection.execute(sql.SQL("create database {}").format(identifier(ODD)))
        try:
            found = probe(measured(admin.at(ODD), "all"))
        finally:
            connection.execute(sql.SQL("drop database {} with (force)").format(identifier(ODD)))
    assert found["monitor"]["status"] == "ok"
    assert found["monitor.size_bytes"]["status"] == "ok"
    assert ODD.split()[0] in found["monitor"]["message"]


def test_server_without_a_free_connection_is_critical(server_with_prepared, probe):
    """B59 D21: the pool of the whole server is gone; the monitor is refused as well, and that is a proof."""
    login = server_with_prepared
    with connect(login, "tests") as admin:
        admin.execute("create role clerk login password 'clerk'; grant pg_monitor to clerk")
    clerk = Login(login.host, login.port, "clerk", "clerk", "postgres", "disable")
    held = []
    try:
        with contextlib.suppress(psycopg.OperationalError):
            while len(held) < 100:
                held.append(psycopg.connect(host=clerk.host, port=clerk.port, user="clerk", password="clerk",
                                            dbname="postgres", sslmode="disable"))
        found = probe({"kind": "postgresql", "name": "application", "login": login_of(clerk)}, measured(clerk, "all"))
    finally:
        for connection in held:
            connection.close()
    assert found["application"]["status"] == "critical"
    assert found["monitor"]["status"] == "critical"
    assert "slots" in found["monitor"]["message"] or "too many" in found["monitor"]["message"]
