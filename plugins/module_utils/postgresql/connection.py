# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Connections to PostgreSQL: one Login, one way to connect, one way to quote, one way to say what went wrong."""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError

try:
    import psycopg
    from psycopg import sql
    from psycopg.conninfo import make_conninfo
    from psycopg.rows import dict_row

    PSYCOPG_ERROR: ImportError | None = None
    DATABASE_ERROR: tuple[type[Exception], ...] = (psycopg.Error,)
except ImportError as error:
    PSYCOPG_ERROR = error
    DATABASE_ERROR = ()

# Every session of ours carries this prefix, so that our own reaper and the operator know it.
APPLICATION_NAME = "sre.runbooks"
# A database's name in PostgreSQL is at most 63 bytes (NAMEDATALEN - 1), not 63 characters.
NAME_BYTES = 63
# A server that vanished without a word (a lost route, a lost machine) is noticed after about a minute, not two hours.
KEEPALIVES = {"keepalives": 1, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
# Settings of a role or a database that would kill a long session of ours, or keep it from writing.
LIFTED = " ".join((
    "-c statement_timeout=0", "-c idle_in_transaction_session_timeout=0", "-c lock_timeout=0",
    "-c default_transaction_read_only=off",
))
# More of them, each with the version that brought it; an older server refuses a session that names it.
LIFTED_SINCE = {"idle_session_timeout": 140000, "transaction_timeout": 170000}


@dataclass(frozen=True)
class Login:
    """Where and as whom to connect. The password never appears in `repr`, in an error, or in argv."""

    host: str
    port: int
    user: str
    password: str = field(default="", repr=False)
    database: str = "postgres"
    sslmode: str = "prefer"
    sslrootcert: str | None = None

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> Login:
        """Build a login from a module's `login` option (see the postgresql documentation fragment)."""
        known = {name: value for name, value in arguments.items() if value is not None}
        return cls(**known)

    def at(self, database: str) -> Login:
        """The same login, for another database of the server."""
        return replace(self, database=database)

    @property
    def place(self) -> str:
        """Where this login goes, for messages: never a password."""
        return f"{self.user}@{self.host}:{self.port}/{self.database}"

    def environment(self) -> dict[str, str]:
        """The libpq variables for a client tool's environment; argv carries none of them."""
        variables = {
            "PGHOST": self.host, "PGPORT": str(self.port), "PGUSER": self.user, "PGPASSWORD": self.password,
            "PGDATABASE": self.database, "PGSSLMODE": self.sslmode, "PGAPPNAME": APPLICATION_NAME,
            "PGCONNECT_TIMEOUT": "10", "PGOPTIONS": LIFTED, "PGHOSTADDR": "",
        }
        if self.sslrootcert:
            variables["PGSSLROOTCERT"] = self.sslrootcert
        return variables


def connect(
    login: Login, purpose: str = "", *, timeout_s: float = 10.0, autocommit: bool = True
) -> psycopg.Connection[dict[str, Any]]:
    """Open a connection whose rows are dictionaries.

    Args:
        login: where and as whom.
        purpose: what the session is for; stands behind the prefix in application_name.
        timeout_s: seconds for the connection to come up (libpq knows whole seconds from 2 on, so it is rounded up).
        autocommit: False opens a transaction with the first statement.

    Raises:
        RunbookError: the client library is missing, or the server cannot be reached or refuses the login.
    """
    if PSYCOPG_ERROR is not None:
        raise RunbookError(
            "The Python library psycopg (version 3) is missing where this module runs.",
            "Install it there: pip install 'psycopg[binary]'.",
        ) from PSYCOPG_ERROR
    try:
        connection = psycopg.connect(
            # An address in the caller's environment would lead elsewhere. In a database without an encoding of its own
            # names would be bytes.
            host=login.host, hostaddr="", port=login.port, user=login.user, password=login.password,
            dbname=login.database, client_encoding="UTF8", sslmode=login.sslmode, sslrootcert=login.sslrootcert,
            connect_timeout=max(2, math.ceil(timeout_s)),
            application_name=f"{APPLICATION_NAME} {purpose}".strip(), options=LIFTED, autocommit=True,
            row_factory=dict_row, prepare_threshold=None, **KEEPALIVES,
        )
        connection.execute("; ".join(f"SET {name} = 0" for name in _lifted_later(connection)).encode())
        connection.autocommit = autocommit
        return connection
    except psycopg.OperationalError as error:
        # libpq asks in lines of their own whether the server runs, which is what the hint says.
        told = [line for line in str(error).splitlines() if not line.startswith("\t")]
        reason = " ".join(" ".join(told).split()).rstrip(".")
        raise RunbookError(
            f"No connection to PostgreSQL as {login.place}: {reason}.",
            "Check that the server runs and that host, port, user and password in the inventory are right.",
            host=login.host, port=login.port, user=login.user, database=login.database,
        ) from error


def first_line(error: Exception) -> str:
    """The first line of a server's message; those below it can quote rows."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


@contextlib.contextmanager
def server_errors(login: Login, hint: str) -> Iterator[None]:
    """Turn what a server answers, or a connection that it drops, into an error for the operator.

    Raises:
        RunbookError: the server refused a statement or was lost; `hint` is the next step.
    """
    try:
        yield
    except DATABASE_ERROR as error:
        raise RunbookError(
            f"PostgreSQL as {login.place}: {first_line(error).rstrip('.')}.", hint, host=login.host, port=login.port
        ) from error


def _lifted_later(connection: psycopg.Connection[dict[str, Any]]) -> list[str]:
    return [name for name, version in LIFTED_SINCE.items() if connection.info.server_version >= version]


def tool_options(connection: psycopg.Connection[dict[str, Any]]) -> str:
    """What a client tool needs in PGOPTIONS beside `Login.environment` on the server that `connection` is to.

    The limits that this server knows are lifted, and it speaks English to a tool whose words are read; that only
    superusers may ask for.
    """
    row = connection.execute("SELECT current_setting('is_superuser') AS superuser").fetchone()
    options = [f"-c {name}=0" for name in _lifted_later(connection)]
    return " ".join([*options, "-c lc_messages=C"] if row["superuser"] == "on" else options)


def identifier(*names: str) -> sql.Identifier:
    """A name, or a schema and a name, quoted for SQL."""
    return sql.Identifier(*names)


def connection_string(database: str) -> str:
    """A database's name, and keepalives, which no variable sets, for a client tool's `--dbname`.

    Plain, a name such as `a=b` would be taken for options.
    """
    return make_conninfo(dbname=database, **KEEPALIVES)


def shorten(name: str, suffix: str) -> str:
    """`name` + `suffix` within 63 bytes, cut inside `name` and never inside a UTF-8 character.

    What is cut ends with a hash of the whole name, so that two names with the same beginning stay two.
    """
    room, whole = NAME_BYTES - len(suffix.encode()), name.encode()
    if len(whole) <= room:
        return name + suffix
    mark = f"~{hashlib.sha256(whole).hexdigest()[:8]}"
    return whole[: room - len(mark)].decode("utf-8", "ignore") + mark + suffix
