# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Faults in the seconds in which two databases are exchanged."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from dataclasses import replace

import psycopg
from ansible_collections.sre.runbooks.plugins.module_utils.backup.restore import Request, Restore
from ansible_collections.sre.runbooks.plugins.module_utils.backup.swap import CatchUp, Position, Swap
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import connect, identifier
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.progress import Progress
from psycopg import sql

from tests.faults.fault import CRASHING, REFUSED, SHARED, UNDONE, Fault, Seen
from tests.faults.scene import Scene

WHERE = "swap"
SUBSCRIBE = (
    "CREATE SUBSCRIPTION follows CONNECTION 'host=127.0.0.1 port=1' PUBLICATION p"
    " WITH (connect = false, slot_name = NONE)"
)
CLOSE, OPEN = "ALTER DATABASE {name} ALLOW_CONNECTIONS false", "ALTER DATABASE {name} ALLOW_CONNECTIONS true"
BACK = "the old database is live and open again; the same command goes through"
UNTOUCHED = "nothing was begun"
CLOSED, EXCHANGED = "closed", "exchanged"


def application(scene: Scene) -> psycopg.Connection:
    """A session of the application."""
    login = scene.shop.application
    return psycopg.connect(
        host=login.host, port=login.port, user=login.user, password=login.password, dbname=scene.shop.name,
        application_name="till",
    )


def stuck_session(scene: Scene) -> Seen:
    """Its process is stopped, so it cannot end."""
    scene.back_up()
    scene.write()
    with application(scene) as session:
        pid = session.info.backend_pid
        os.kill(pid, signal.SIGSTOP)
        try:
            seen = scene.restore(session_timeout_s=1.0)
        finally:
            os.kill(pid, signal.SIGCONT)
    assert scene.content() == scene.live
    scene.again()
    return seen


def lock_held(scene: Scene) -> Seen:
    """An ALTER ROLE … IN DATABASE that nobody committed: a rename has to wait for it."""
    scene.back_up()
    scene.write()
    with connect(scene.shop.admin, "half an alter", autocommit=False) as other:
        other.execute(sql.SQL("ALTER ROLE {} IN DATABASE {} SET work_mem = '5MB'").format(
            identifier(scene.shop.application.user), identifier(scene.shop.name)
        ))
        seen = scene.restore()
        other.rollback()
    assert scene.content() == scene.live
    scene.again()
    return seen


def not_fit(scene: Scene) -> Seen:
    """The owner's query is content with the copy, and not with the same database under its live name."""
    scene.back_up()
    scene.write()
    query = "SELECT current_database() LIKE '%\\_\\_restoring\\_%', 'it has the wrong name'"
    scene.shop.reach("prepared", place=scene.place(), application_check=query)
    seen = scene.restore(application_check=query)
    assert scene.content() == scene.live
    scene.again()
    return seen


class Interrupted(Restore):
    """A restore that is interrupted when its exchange has come to a moment: `closed` or `exchanged`.

    Args:
        moment: which.
        act: is given the process id of the session that exchanges.
    """

    def __init__(self, request: Request, moment: str, act: Callable[[int], None]) -> None:
        super().__init__(request, Progress(), check=False)
        self._moment, self._act, self.acted = moment, act, False

    def _come_to(self, moment: str) -> None:
        if moment == self._moment:
            self.acted = True
            self._act(self.swap.connection.info.backend_pid)

    def _catch_up(self, position: Position, stack: contextlib.ExitStack) -> CatchUp | None:
        usual = super()._catch_up(position, stack)
        assert usual

        def act() -> None:
            self._come_to(CLOSED)
            usual.act()

        return replace(usual, act=act)

    def _smoke(self) -> None:
        super()._smoke()
        self._come_to(EXCHANGED)


def lost(moment: str, lose: Callable[[Scene, int], None]) -> Callable[[Scene], Seen]:
    """The session that exchanges the names is lost when it has come so far; applications are kept out then."""

    def inject(scene: Scene) -> Seen:
        scene.back_up()
        scene.write()
        scene.shop.reach("prepared", place=scene.place())

        def act(pid: int) -> None:
            assert not scene.shop.is_reachable()
            lose(scene, pid)

        restore = Interrupted(scene.shop.request(place=scene.place()), moment, act)
        seen = Seen("not noticed", "")
        try:
            restore.reach("swapped")
        except RunbookError as error:
            seen = Seen(UNDONE, str(error))
        assert restore.acted, "it never came so far"
        assert scene.content() == scene.live
        scene.again()
        return seen

    return inject


def terminate(scene: Scene, pid: int) -> None:
    """End one session in order, as an administrator or a time-out does."""
    with connect(scene.shop.admin, "tests") as connection:
        assert connection.execute("SELECT pg_terminate_backend(%s, 5000) AS ended", [pid]).fetchone()["ended"]


def crash(_scene: Scene, pid: int) -> None:
    """End one backend as the kernel does that is out of memory: the server ends all sessions and recovers."""
    os.kill(pid, signal.SIGKILL)


def power_cut(moment: str) -> Callable[[Scene], Seen]:
    """The whole server is gone, and comes back after the run has ended: closed, until the same command runs again."""

    def inject(scene: Scene) -> Seen:
        scene.back_up()
        scene.write()
        scene.shop.reach("prepared", place=scene.place())
        swap = Swap(scene.shop.admin, scene.shop.name, "lost", Progress())
        position = swap.position()
        swap.close(position.prepared().marker.backup, position.prepared())
        if moment == EXCHANGED:
            swap.end_sessions([position.live, position.prepared()])
            swap.exchange(position.prepared(), "2126-01-01T00:00:00Z", back=False)
        scene.shop.server.kill()
        swap.connection.close()
        scene.shop.server.start()
        assert not scene.shop.is_reachable(), "nobody writes into a database that is about to be exchanged"
        seen = scene.restore()
        assert scene.content() == scene.restored
        return seen

    return inject


def in_its_way(make: str, take: str, database: bool = True) -> Callable[[Scene], Seen]:
    """Something reads from the live database or writes into it that an exchange would leave behind."""

    def inject(scene: Scene) -> Seen:
        scene.back_up()
        where = scene.shop.name if database else "postgres"
        with connect(scene.shop.admin.at(where), "tests") as connection:
            connection.execute(make.format(name=scene.shop.name).encode())
            try:
                return scene.restore()
            finally:
                connection.execute(take.format(name=scene.shop.name).encode())

    return inject


def undo_refused(scene: Scene) -> Seen:
    """From the moment on that applications write, only a person decides to lose what they wrote."""
    place = scene.place()
    scene.back_up(place)
    scene.write()
    for state in ("prepared", "swapped"):
        scene.shop.reach(state, place=place)
    scene.shop.run("INSERT INTO orders (what) VALUES ('written since')")
    scene.live = scene.content()
    seen = Seen("not noticed", "")
    try:
        scene.shop.reach("undone", place=place)
    except RunbookError as error:
        seen = Seen(REFUSED, str(error))
    scene.shop.reach("done", place=place)
    return seen


def at_once(scene: Scene) -> Seen:
    """Two runs on one database."""
    scene.back_up()
    scene.write()
    other = Swap(scene.shop.admin, scene.shop.name, "other", Progress())
    with other.alone(1):
        seen = scene.restore(lock_wait_s=1.0)
    scene.again()
    return seen


FAULTS = (
    Fault("a session's process is stopped and cannot end", WHERE, stuck_session, UNDONE,
          ("did not end within 1 s", "kill -CONT"), BACK, ci=True),
    Fault("a transaction on the database is not committed", WHERE, lock_held, UNDONE,
          ("could not be renamed within", "End that transaction"), BACK),
    Fault("the owner's query says no to the restored database under its live name", WHERE, not_fit, UNDONE,
          ("it has the wrong name",), BACK, ci=True),
    *(
        Fault(f"{what} when the database is {moment}", WHERE, lost(moment, lose), UNDONE,
              (words, "was brought to 'swapped': ", "Mend that, then run the same command again"), BACK,
              server=CRASHING if lose is crash else SHARED, ci=lose is terminate and moment == EXCHANGED)
        for what, lose, words in (
            ("the session that exchanges is ended", terminate, "terminating connection"),
            ("the server runs out of memory and recovers", crash, "server closed the connection"),
        )
        for moment in (CLOSED, EXCHANGED)
    ),
    *(
        Fault(f"the server is killed when the database is {moment}, and started after the run has ended", WHERE,
              power_cut(moment), "done", ("is restored",), "the same command goes on and ends", server=CRASHING)
        for moment in (CLOSED, EXCHANGED)
    ),
    Fault("a subscription writes into the database", WHERE, in_its_way(SUBSCRIBE, "DROP SUBSCRIPTION follows"), REFUSED,
          ("The subscription follows writes into it",), UNTOUCHED),
    Fault("the database is closed by somebody", WHERE, in_its_way(CLOSE, OPEN, False),
          REFUSED, ("ALLOW_CONNECTIONS true",), UNTOUCHED),
    Fault("another run works on the same database", WHERE, at_once, UNDONE,
          ("Another run still works on the database", "Wait until it has ended"),
          "the other one goes on; the same command goes through after it", ci=True),
    Fault("an undo after applications have written", WHERE, undo_refused, REFUSED,
          ("going back loses what they wrote", "Decide that with the playbook"),
          "the restored database stays"),
)
