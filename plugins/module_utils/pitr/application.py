# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The owner's own check of a recovered database: what could not be asked is never called passed."""

from __future__ import annotations

import contextlib

from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import Login, connect, server_errors
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError

with contextlib.suppress(ImportError):  # connect() tells the operator
    from psycopg.errors import LockNotAvailable
    from psycopg.rows import tuple_row

PASSED, NOT_ASKED, NO_CHECK = "passed", "not asked", "none"
LOCK_WAIT = "SET lock_timeout = '5s'"


def ask(login: Login, check: str | None, where: str, hint: str) -> str:
    """Ask the owner's own check.

    A replay that stands just before the commit of a DROP TABLE holds that transaction's lock on the table until it is
    promoted, and so nobody can read it before.

    Args:
        login: into the database that it is asked in.
        check: one row, first a boolean, then (optional) a text; without one nothing is asked.
        where: what it is asked of, for the error.
        hint: what to do when it does not pass.

    Returns:
        PASSED, NO_CHECK, or NOT_ASKED where a lock keeps what it reads.

    Raises:
        RunbookError: it did not pass.
    """
    if not check:
        return NO_CHECK
    # By place: an owner's columns need no names of their own.
    with (
        connect(login, "pitr") as connection, server_errors(login, hint),
        connection.cursor(row_factory=tuple_row) as cursor,
    ):
        cursor.execute(LOCK_WAIT)
        try:
            answer = cursor.execute(check.encode()).fetchone()
        except LockNotAvailable:
            return NOT_ASKED
    if not answer or answer[0] is not True:
        raise RunbookError(
            f"The owner's own check of {login.database!r} did not pass {where}: "
            f"{answer[1] if answer and len(answer) > 1 else 'it said no more'}.", hint,
        )
    return PASSED
