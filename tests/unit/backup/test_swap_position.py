# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The marker under the owner's comment, and the position that is read from all of them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.backup import swap
from ansible_collections.sre.runbooks.plugins.module_utils.backup.swap import copy_name, read_position, retired_name
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql import marker as markers
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.marker import Marker, join, split
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from hypothesis import given
from hypothesis import strategies as st

BACKUP = "20261121T021500Z-3fa9"
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
made = st.builds(Marker, st.sampled_from(markers.STATES), texts, texts, texts, xid=st.integers(0))


@given(texts.filter(lambda text: text != ""), made)
def test_the_owners_comment_and_the_marker_come_apart_as_they_were_put_together(own: str, marker: Marker) -> None:
    """A85 ⚠: the owner's own comment survives, whatever it is."""
    assert split(join(own, marker)) == (own, marker)
    assert split(join(None, marker)) == (None, marker)
    assert join(own, None) == own


@pytest.mark.parametrize("comment", [None, "plain", "sre.runbooks: see the wiki", "a\nsre.runbooks: [1]", "a\n\nb\n"])
def test_a_comment_without_a_marker_is_the_owners(comment: str | None) -> None:
    assert split(comment) == (comment, None)


@pytest.mark.parametrize("line", ['{"state": "melting", "run": "r", "database": "d"}', '{"hello": 1}',
                                  '{"state": "retired", "run": "r", "database": "d", "until": "soon"}'])
def test_a_marker_of_another_version_is_an_error_and_never_ignored(line: str) -> None:
    with pytest.raises(RunbookError, match="none that this version knows"):
        split(f"mine\nsre.runbooks: {line}")


def test_who_meets_a_database_without_a_marker_is_told_what_to_look_at() -> None:
    with pytest.raises(RunbookError, match="carries no marker of a swap") as caught:
        swap.Swap._marker(swap.Database("shop", 1, None, None, True, 0))
    assert "see which databases that server has" in caught.value.hint


@pytest.mark.parametrize(
    ("until", "expired"), [("", False), ("2026-11-21T12:00:00Z", True), ("2026-11-21T12:00:01Z", False)]
)
def test_a_database_without_an_hour_never_expires(until: str, expired: bool) -> None:
    moment = datetime(2026, 11, 21, 12, tzinfo=UTC)
    assert Marker(markers.RETIRED, "run", "orders", until=until).expired(moment) is expired


def row(name: str, marker: Marker | None = None, limit: int = -1) -> dict:
    return {"name": name, "oid": 1, "comment": join("own", marker), "allows": True, "connection_limit": limit}


def mark(state: str, run: str = "r1", database: str = "orders", backup: str = BACKUP) -> Marker:
    return Marker(state, run, database, backup)


COPY = copy_name("orders", BACKUP)
OLD = "orders__retired_20261121T120000_001Z"


@pytest.mark.parametrize(
    ("rows", "state", "undoing"),
    [
        ([row("orders")], "untouched", False),
        ([row("orders"), row(COPY)], "restoring", False),
        ([row("orders"), row(COPY, mark("restoring"))], "restoring", False),
        ([row("orders"), row(COPY, mark("prepared"))], "prepared", False),
        ([row("orders"), row(COPY, mark("prepared"), limit=-2)], "restoring", False),
        ([row("orders", mark("closed")), row(COPY, mark("prepared"))], "closed", False),
        ([row("orders", mark("closed", backup="")), row(OLD, mark("retired"))], "closed", True),
        ([row("orders", mark("exchanged")), row(OLD, mark("retired"))], "exchanged", False),
        ([row("orders", mark("opened")), row(OLD, mark("retired"))], "opened", False),
        ([row("orders", mark("opened", run="r2")), row(OLD, mark("abandoned", run="r2"))], "opened", True),
        ([row("orders"), row(OLD, mark("retired"))], "untouched", False),
        ([row("orders"), row("other__restoring_" + BACKUP, mark("prepared", database="other"))], "untouched", False),
        ([row("orders"), row("orders__restoring_last_year")], "untouched", False),
        ([row(COPY, mark("prepared"))], "prepared", False),
    ],
)
def test_the_position_is_read_from_what_stands_on_the_databases(rows: list[dict], state: str, undoing: bool) -> None:
    position = read_position(rows, "orders")
    assert (position.state, position.undoing) == (state, undoing)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
def test_names_fit_into_63_bytes_and_are_found_again(database: str) -> None:
    while len(database.encode()) > 63:
        database = database[:-1]
    copy, old = copy_name(database, BACKUP), retired_name(database, datetime(2026, 11, 21, 12, tzinfo=UTC))
    assert max(len(copy.encode()), len(old.encode())) <= 63
    if copy != database:
        assert [one.name for one in read_position([row(database), row(copy)], database).copies] == [copy]


def test_a_worker_of_the_server_is_named_by_what_it_is() -> None:
    """It has no user: an autovacuum worker, or one that applies a subscription."""
    rows = [
        {"pid": 7, "user": None, "application": "", "type": "autovacuum worker"},
        {"pid": 8, "user": "shop", "application": "report", "type": "client backend"},
    ]
    assert swap._waiting(rows) == (
        "waiting for sessions pid 7 (autovacuum worker of the server), pid 8 (user shop, application 'report') to end"
    )
