# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Probes of kind postgresql: as the application, and as the monitor.

One connection for each check; every statement is read-only and has a time-out on the server as well.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.sre.runbooks.plugins.module_utils.health import postgresql_queries as queries
from ansible_collections.sre.runbooks.plugins.module_utils.health.check import Check, judged
from ansible_collections.sre.runbooks.plugins.module_utils.health.measures import (
    MEASURES,
    threshold_for,
    wanted_measures,
)
from ansible_collections.sre.runbooks.plugins.module_utils.health.postgresql_findings import (
    Finding,
    read_blocked,
    read_connections,
    read_dead_tuples,
    read_idle_in_transaction,
    read_invalid_indexes,
    read_replication,
    read_size,
    read_transactions,
    read_wraparound,
)
from ansible_collections.sre.runbooks.plugins.module_utils.health.probe import (
    Answer,
    Deadline,
    ProbeError,
    Request,
    open_socket,
)
from ansible_collections.sre.runbooks.plugins.module_utils.health.shapes import quoted
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import Login, connect
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.words import about

Rows = list[dict[str, Any]]
# The server says these in English unless its lc_messages says otherwise; then the check is unknown instead of critical.
EXHAUSTED = ("too many clients", "remaining connection slots", "too many connections")
# What a server says to a login that it does not take: no such role or database, a wrong password, no right to enter.
REFUSED = ("FATAL:",)
# The server is there and says that it cannot serve yet, or any more.
NOT_SERVING = ("is starting up", "is shutting down", "in recovery mode", "not yet accepting connections")


@dataclass(frozen=True)
class Reading:
    """How a measure is taken: the statement, who turns its rows into a finding, and whether pg_monitor is needed."""

    statement: str
    read: Callable[[Rows], Finding]
    privileged: bool = False


READINGS = {
    "connections_percent": Reading(queries.CONNECTIONS, read_connections, privileged=True),
    "longest_transaction_seconds": Reading(queries.TRANSACTIONS, read_transactions, privileged=True),
    "idle_in_transaction_seconds": Reading(queries.IDLE_IN_TRANSACTION, read_idle_in_transaction, privileged=True),
    "blocked_sessions": Reading(queries.BLOCKED, read_blocked, privileged=True),
    "replication_lag_seconds": Reading(queries.REPLICATION, read_replication, privileged=True),
    "wraparound_percent": Reading(queries.WRAPAROUND, read_wraparound),
    "invalid_indexes": Reading(queries.INVALID_INDEXES, read_invalid_indexes),
    "dead_tuples_percent": Reading(queries.DEAD_TUPLES, read_dead_tuples),
    "size_bytes": Reading(queries.SIZE, read_size),
}


def probe_postgresql(request: Request) -> Answer:
    """Connect, run the owner's own query, take the measures.

    Raises:
        ProbeError: no connection. Critical when the application is refused or nothing listens; the monitor's own
            login being refused says nothing about the database, so that is unknown.
    """
    deadline = Deadline(request.timeout_s)
    login = Login.from_arguments(request.check["login"])
    started = time.monotonic()
    answer = Answer()
    with _open(login, request, deadline) as connection:
        took = (time.monotonic() - started) * 1000
        version = connection.info.parameter_status("server_version")
        answer.checks.append(Check(
            request.check["name"], request.target, "postgresql", "ok",
            f"PostgreSQL {version} takes {login.user} into {quoted(login.database)} ({took:.0f} ms).",
            value=round(took, 1), unit="ms",
        ))
        session = Session(connection, deadline)
        if request.check["query"]:
            answer.checks.append(_own_query(session, request))
        _take_measures(session, request, login, answer)
    return answer


class Session:
    """An open connection whose statements cannot write and cannot outlast the probe."""

    def __init__(self, connection: Any, deadline: Deadline) -> None:
        self._connection = connection
        self._deadline = deadline
        connection.execute("set default_transaction_read_only = on")

    def rows(self, statement: str) -> Rows:
        """The rows of one statement."""
        self._limit()
        return self._connection.execute(statement).fetchall()

    def first_row(self, statement: str) -> tuple[Any, ...] | None:
        """The first row by position, since columns without a name of their own all have the same one."""
        from psycopg.rows import tuple_row

        self._limit()
        with self._connection.cursor(row_factory=tuple_row) as cursor:
            return cursor.execute(statement).fetchone()

    def _limit(self) -> None:
        self._connection.execute(f"set statement_timeout = {max(1, int(self._deadline.left() * 1000))}")

    @property
    def major(self) -> int:
        """The server's major version."""
        return self._connection.info.server_version // 10000


def _open(login: Login, request: Request, deadline: Deadline) -> Any:
    # libpq looks names up without a time-out and holds Python still meanwhile, so the name is looked up here first.
    try:
        if not login.host.startswith("/"):
            socket.getaddrinfo(login.host, login.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ProbeError(f"The name {login.host} has no address ({error}).") from error
    try:
        return connect(login, "health", timeout_s=deadline.left())
    except RunbookError as error:
        if deadline.over:
            raise ProbeError(
                f"{login.host}:{login.port} gave no answer to {login.user} within {about(deadline.seconds)}."
            ) from error
        message = str(error) if isinstance(error.__cause__, ImportError) else error.message
        raise ProbeError(message, _status_of_refusal(error, login, request, deadline)) from error


def _status_of_refusal(error: RunbookError, login: Login, request: Request, deadline: Deadline) -> str:
    """Critical only where a closed port, a full server, or a refusal of the application's own login is the proof."""
    if any(words in error.message for words in EXHAUSTED + NOT_SERVING):
        return "critical"
    if not request.check["measures"] and any(words in error.message for words in REFUSED):
        return "critical"
    if isinstance(error.__cause__, ImportError) or login.host.startswith("/"):
        return "unknown"
    try:
        open_socket(login.host, login.port, deadline).close()
    except ProbeError as closed:
        return closed.status
    return "unknown"


def _own_query(session: Session, request: Request) -> Check:
    import psycopg

    name = f"{request.check['name']}.query"
    try:
        row = session.first_row(request.check["query"])
    except psycopg.Error as error:
        # The server's proof that what the application reads is gone, or closed to it.
        gone = (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn, psycopg.errors.InvalidSchemaName,
                psycopg.errors.InsufficientPrivilege)
        return Check(name, request.target, "postgresql", "critical" if isinstance(error, gone) else "unknown",
                     f"The application's own query failed: {quoted(_first_line(error))}.")
    if not row:
        return Check(name, request.target, "postgresql", "unknown", "The application's own query returned no row.")
    passed = row[0]
    says = f": {quoted(row[1])}" if len(row) > 1 and row[1] is not None else ""
    if not isinstance(passed, bool):
        return Check(name, request.target, "postgresql", "unknown",
                     f"The first column of the application's own query is {quoted(passed)}, not a boolean{says}.")
    word = "passed" if passed else "did not pass"
    return Check(name, request.target, "postgresql", "ok" if passed else "critical",
                 f"The application's own query {word}{says}.", value=passed)


def _take_measures(session: Session, request: Request, login: Login, answer: Answer) -> None:
    wanted = wanted_measures("postgresql", request.check["measures"])
    if not wanted:
        return
    import psycopg

    explicit = set(request.check["measures"])
    privileged = session.rows(queries.PRIVILEGED)[0]["privileged"]
    for measure in wanted:
        name = f"{request.check['name']}.{measure}"
        try:
            if measure == "cache_hit_percent":
                _count(session, measure, answer)
                continue
            if measure == "slow_statements":
                if _count_statements(session, login, privileged, answer):
                    continue
                finding = Finding(None, "pg_stat_statements is in none of the databases that the monitor may enter.")
            elif READINGS[measure].privileged and not privileged:
                raise ProbeError(_missing_privilege(login))
            else:
                finding = READINGS[measure].read(session.rows(READINGS[measure].statement))
        except (psycopg.Error, ProbeError) as error:
            message = error.message if isinstance(error, ProbeError) else f"It failed: {quoted(_first_line(error))}."
            answer.checks.append(Check(name, request.target, "postgresql", "unknown", message))
            continue
        if finding.value is None:
            _not_applicable(finding, measure, measure in explicit, request, answer)
            continue
        answer.checks.append(judged(
            name, request.target, "postgresql", finding.value, MEASURES["postgresql"][measure].unit,
            threshold_for("postgresql", measure, request.check["thresholds"]), finding.message, **finding.evidence,
        ))


def _not_applicable(finding: Finding, measure: str, explicit: bool, request: Request, answer: Answer) -> None:
    if explicit:
        name = f"{request.check['name']}.{measure}"
        answer.checks.append(Check(name, request.target, "postgresql", "unknown", finding.message))
    else:
        answer.not_measured.append(f"{request.label}.{measure}: {finding.message}")


def _count(session: Session, measure: str, answer: Answer) -> None:
    row = session.rows(queries.CACHE_BY_CONTEXT if session.major >= 16 else queries.CACHE)[0]
    answer.counters[measure] = {"hits": int(row["hits"]), "reads": int(row["reads"])}
    answer.identity = _identity(session)


def _identity(session: Session) -> str:
    return session.rows(queries.IDENTITY)[0]["identity"]


def _missing_privilege(login: Login) -> str:
    return (f"{login.user} is no member of pg_monitor, so what other sessions do is hidden from it. "
            f'Run there: GRANT pg_monitor TO "{login.user}";')


def _count_statements(session: Session, login: Login, privileged: bool, answer: Answer) -> bool:
    """Take the counters of all statements; False where the extension is nowhere to be found."""
    if not privileged:
        raise ProbeError(_missing_privilege(login))
    for database in [login.database, *_other_databases(session, login)]:
        if database == login.database:
            found = _statements_in(session, login.database)
        else:
            with connect(login.at(database), "health", timeout_s=session._deadline.left()) as connection:
                found = _statements_in(Session(connection, session._deadline), login.database)
        if found is not None:
            answer.counters["slow_statements"] = {
                key: float(value) for row in found
                for key, value in ((f"calls {row['number']}", row["calls"]), (f"ms {row['number']}", row["total_ms"]))
            }
            answer.words = {"extension_in": database, **{row["number"]: row["query"] for row in found}}
            answer.identity = _identity(session)
            return True
    return False


def _other_databases(session: Session, login: Login) -> list[str]:
    return [row["name"] for row in session.rows(queries.DATABASES) if row["name"] != login.database]


def _statements_in(session: Session, database: str) -> Rows | None:
    extension: Mapping[str, Any] | None = next(iter(session.rows(queries.STATEMENTS_EXTENSION)), None)
    if extension is None:
        return None
    return session.rows(queries.statements(extension, database))


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", maxsplit=1)[0] or type(error).__name__
