# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What stands in a restore's way is one sentence with the next step, and somebody else's things do not."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.backup import preflight
from ansible_collections.sre.runbooks.plugins.module_utils.backup.restore import list_kept
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import connect, identifier
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from psycopg import sql

from lab import machine
from tests.integration.restore.conftest import Shop


@pytest.fixture
def latin(shop: Shop) -> Iterator[str]:
    """A database in another encoding beside the shop's, with a comment that only its own sessions can read."""
    name = f"latin_{secrets.token_hex(4)}"
    with connect(shop.admin, "tests") as admin:
        admin.execute(sql.SQL(
            "CREATE DATABASE {} TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C' LOCALE_PROVIDER libc"
        ).format(identifier(name)))
        shop.run(f"COMMENT ON DATABASE {name} IS 'données'", name)
        yield name
        admin.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(identifier(name)))


def test_a_comment_in_another_encoding_on_somebody_elses_database_is_left_alone(shop: Shop, latin: str) -> None:
    shop.back_up()
    assert shop.reach("prepared").position["state"] == "prepared"
    assert latin not in [kept["name"] for kept in list_kept(shop.admin, datetime.now(UTC))]


def test_a_comment_that_could_not_be_kept_is_refused(shop: Shop, latin: str) -> None:
    """Its sessions write LATIN1, and those of postgres, where a marker is written, read UTF8."""
    with pytest.raises(RunbookError) as caught:
        Shop(shop.server, latin, shop.application, shop.place).reach("prepared")
    assert latin in caught.value.message
    assert "COMMENT ON DATABASE" in caught.value.hint


def test_a_database_that_somebody_closed_is_refused_with_the_statement_that_opens_it(shop: Shop) -> None:
    """Closing a database is what people do first when its data is being destroyed."""
    shop.back_up()
    shop.run(f"ALTER DATABASE {shop.name} ALLOW_CONNECTIONS false", "postgres")
    with pytest.raises(RunbookError) as caught:
        shop.reach("prepared", check=True)
    assert f'ALTER DATABASE "{shop.name}" ALLOW_CONNECTIONS true' in caught.value.hint


def test_a_database_whose_dropping_was_begun_is_restored_once_it_is_gone(shop: Shop) -> None:
    """A85 ⚠: a DROP DATABASE that was interrupted leaves the server's own mark, and nobody can enter it again."""
    backup = shop.back_up()
    shop.run(f"UPDATE pg_database SET datconnlimit = -2 WHERE datname = '{shop.name}'", "postgres")
    with pytest.raises(RunbookError) as caught:
        shop.reach("prepared", check=True)
    assert f'DROP DATABASE "{shop.name}"' in caught.value.hint
    shop.run(f"DROP DATABASE {shop.name}", "postgres")
    for state in ("prepared", "swapped", "done"):
        shop.reach(state)
    assert shop.orders() == next(table.rows for table in backup.tables if table.name == "orders")


def test_a_role_that_is_no_superuser_is_told_so(shop: Shop) -> None:
    """It may not read where the server keeps its data either; that must not be what it is told."""
    shop.back_up()
    shop.run(f"ALTER ROLE {shop.application.user} CREATEDB", "postgres")
    with pytest.raises(RunbookError, match="is no superuser"):
        shop.reach("prepared", check=True, login=shop.application.at("postgres"))


def test_free_disk_is_that_of_the_databases_own_tablespace(
    shop: Shop, server_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = machine.make_folder(server_folder / f"space-{secrets.token_hex(4)}", machine.unprivileged_user())
    asked: list[str] = []
    monkeypatch.setattr(preflight.os, "statvfs", lambda path, real=os.statvfs: (asked.append(path), real(path))[1])
    with connect(shop.admin, "tests") as admin:
        admin.execute(sql.SQL("CREATE TABLESPACE shop_space LOCATION {}").format(str(place)))
        try:
            assert preflight.free_bytes(admin, "shop_space") is not None
            assert preflight.free_bytes(admin, "pg_default") is not None
        finally:
            admin.execute("DROP TABLESPACE shop_space")
    assert asked == [str(place), str(shop.server.data_directory)]
