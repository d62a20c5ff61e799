# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The owner's own check, while a transaction whose end is not replayed holds the lock on what it reads."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.pitr import beside
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import Login, connect
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError


def cluster(login: Login, monkeypatch: pytest.MonkeyPatch) -> beside.Beside:
    """A server that stands in for the restored one: only its locks count here."""
    request = SimpleNamespace(database=login.database, application_check="SELECT count(*) > 0, 'rows' FROM sales")
    found = beside.Beside(SimpleNamespace(request=request, progress=None, places=SimpleNamespace(log="its log")))
    monkeypatch.setattr(found, "_login", login.at)
    return found


def test_a_check_that_the_lost_table_locks_is_said_and_one_that_fails_is_refused(
    database: Login, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A86 ⚠: just before the commit of a DROP TABLE the replay holds its lock, and a check would wait for ever."""
    monkeypatch.setattr(beside, "LOCK_WAIT", "SET lock_timeout = '50ms'")
    restored = cluster(database, monkeypatch)
    with connect(database, "tests", autocommit=False) as dropping:
        dropping.execute("CREATE TABLE sales (id int)")
        dropping.commit()
        with pytest.raises(RunbookError, match="did not pass at the target: rows"):
            restored.application_notes()
        dropping.execute("INSERT INTO sales VALUES (1)")
        dropping.commit()
        assert restored.application_notes() == []
        dropping.execute("DROP TABLE sales")
        (note,) = restored.application_notes()
        assert "could not be asked" in note
        dropping.rollback()
    assert restored.application_notes() == []
