# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The session that exchanges two databases is lost in the middle: the old database is live and open again."""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.backup.swap import CatchUp, Swap
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import connect
from ansible_collections.sre.runbooks.plugins.module_utils.run.progress import Progress

from lab.postgresql import PostgresServer
from tests.integration.restore.conftest import Shop


@pytest.fixture(scope="module")
def crashing(server_folder: Path) -> Iterator[PostgresServer]:
    """A server that nobody else uses, since one backend's crash ends all of its sessions."""
    with PostgresServer(server_folder / "crashing", settings={"fsync": "off"}) as server:
        yield server


def terminate(shop: Shop, pid: int) -> None:
    """End one session in order, as an administrator or a time-out does."""
    with connect(shop.admin, "tests") as connection:
        assert connection.execute("SELECT pg_terminate_backend(%s, 5000) AS ended", [pid]).fetchone()["ended"]


def crash(_shop: Shop, pid: int) -> None:
    """End one backend as the kernel does that is out of memory: the server ends all sessions and recovers."""
    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("lose", [terminate, crash], ids=["its session ended", "the server crashed"])
@pytest.mark.parametrize("moment", ["closed", "exchanged"])
def test_the_old_database_opens_again_and_the_same_call_goes_through(
    make_shop: Callable[..., Shop], crashing: PostgresServer, lose: Callable[[Shop, int], None], moment: str
) -> None:
    """A85 ⚠: between forbidding connections and allowing them nobody but this run can bring the database back."""
    shop = make_shop(f"shop_{secrets.token_hex(4)}", crashing)
    shop.back_up()
    shop.run("INSERT INTO orders (what) VALUES ('since then')")
    shop.reach("prepared")
    swap = Swap(shop.admin, shop.name, "lost", Progress())
    pid = swap.connection.info.backend_pid

    def now(reached: str) -> None:
        if reached == moment:
            assert not shop.is_reachable()
            lose(shop, pid)

    with swap.alone(1), pytest.raises(psycopg.OperationalError):
        swap.swap_in("2126-01-01T00:00:00Z", -1, lambda: now("exchanged"), CatchUp((), lambda: now("closed")))
    assert shop.is_reachable()
    assert shop.orders() == 1001
    assert len(shop.databases()) == 2, "the copy is there, and nothing else"
    shop.reach("swapped")
    shop.reach("done")
    assert shop.orders() == 1000
