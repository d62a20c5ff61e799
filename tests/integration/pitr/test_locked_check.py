# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The owner's own check, while a transaction whose end is not replayed holds the lock on what it reads."""

from __future__ import annotations

import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.pitr import application
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import Login, connect
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError

CHECK = "SELECT count(*) > 0, 'rows' FROM sales"


def ask(login: Login, check: str | None = CHECK) -> str:
    return application.ask(login, check, "at the target", "Choose another target.")


def test_a_check_is_passed_only_when_it_was_asked_and_said_so(
    database: Login, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A86 ⚠: just before the commit of a DROP TABLE the replay holds its lock, and a check would wait for ever."""
    monkeypatch.setattr(application, "LOCK_WAIT", "SET lock_timeout = '50ms'")
    assert ask(database, None) == "none"
    with connect(database, "tests", autocommit=False) as dropping:
        dropping.execute("CREATE TABLE sales (id int)")
        dropping.commit()
        with pytest.raises(RunbookError, match="did not pass at the target: rows"):
            ask(database)
        dropping.execute("INSERT INTO sales VALUES (1)")
        dropping.commit()
        assert ask(database) == "passed"
        dropping.execute("DROP TABLE sales")
        assert ask(database) == "not asked"
        dropping.rollback()
    assert ask(database) == "passed"
