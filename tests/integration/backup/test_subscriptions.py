# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A database that subscribes to another: a copy of it must not follow the publisher as well, and must go away again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.backup import scratch
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import Login, connect, identifier
from psycopg import sql

SUBSCRIBE = (
    "CREATE SUBSCRIPTION follows CONNECTION 'host=127.0.0.1 port=1' PUBLICATION p"
    " WITH (connect = false, slot_name = NONE)"
)


@pytest.fixture
def subscriber(database: Login) -> Iterator[Login]:
    """A database with a subscription, without which alone it can be dropped."""
    with connect(database, "tests") as connection:
        connection.execute(SUBSCRIBE)
        yield database
        connection.execute("DROP SUBSCRIPTION follows")


def test_a_drill_of_a_subscriber_leaves_nothing(
    subscriber: Login, call_module: Callable[..., dict[str, Any]], backup_arguments: Callable[..., dict[str, Any]]
) -> None:
    """B40 ⚠: a database with a subscription cannot be dropped, not even by force."""
    arguments = backup_arguments(subscriber)
    assert "backup" in call_module("pg_backup", arguments)
    drill = {name: value for name, value in arguments.items() if name != "database"}
    proof = call_module("pg_backup_verify", {**drill, "own_server": True, "free_bytes": 10**12})
    assert proof["verdict"]["verdict"] == "good", proof
    assert proof["notes"] == []
    with connect(subscriber, "tests") as connection:
        assert connection.execute(scratch.DATABASES).fetchall() == []


def test_a_left_database_that_cannot_be_dropped_is_named_and_stops_no_drill(database: Login) -> None:
    name, said = scratch.scratch_name("20261121T021500Z-3fa9"), []
    with connect(database.at("postgres"), "tests") as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(identifier(name)))
        with connect(database.at(name), "tests") as inside:
            inside.execute(SUBSCRIBE)
            scratch.drop_leftovers(connection, said.append)
            inside.execute("DROP SUBSCRIPTION follows")
        scratch.drop_leftovers(connection, said.append)
        assert connection.execute(scratch.DATABASES).fetchall() == []
    assert [name in line for line in said] == [True, True]
    assert "could not be dropped" in said[0]
