# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Faults while a backup is proven. What goes wrong with the place of the proof says nothing about the backup."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ansible_collections.sre.runbooks.plugins.module_utils.backup.scratch import drop_all
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import Login, connect
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from psycopg import sql

from lab import machine
from lab.postgresql import PostgresServer
from tests.disks import fill, mounted
from tests.faults.backup import clerk, programs
from tests.faults.fault import UNDONE, Fault, Seen
from tests.faults.network import Proxy
from tests.faults.scene import Scene, Staged, when

WHERE = "verification"
DROPPED = "the scratch database is dropped; earlier proofs stay"
NEXT = "nothing is said about the backup itself"
UNKNOWN = "cannot be known"
LOADING = "SELECT count(*) AS n FROM pg_stat_progress_copy WHERE datname LIKE 'sre%scratch%'"
NOTHING_RESTORED = 'case " $* " in *" --list "*) exec {real}/pg_restore "$@";; esac; exit 0'
NO_OWNERS = 'exec {real}/pg_restore --no-owner "$@"'
NO_INDEXES = """
case " $* " in *" --list "*) exec {real}/pg_restore "$@";; esac
{real}/pg_restore --section=pre-data "$@" && {real}/pg_restore --section=data "$@"
"""


def loading(login: Login) -> Callable[[], bool]:
    """Whether a drill on that server reads rows."""

    def look() -> bool:
        with connect(login, "tests") as connection:
            return connection.execute(LOADING).fetchone()["n"] > 0

    return look


def looked_after(scene: Scene, seen: Seen, login: Login) -> Seen:
    """What the playbook does after a drill that failed: it looks for the scratch database, and says what it learned."""
    try:
        drop_all(login, scene.place().ids()[-1])
    except RunbookError as error:
        return replace(seen, message=f"{seen.message} {error}")
    return seen


def no_server(scene: Scene) -> Seen:
    scene.back_up()
    return scene.prove(login=replace(scene.scratch.login, port=machine.free_port()))


def network_cut(scene: Scene) -> Seen:
    scene.enlarge()
    scene.back_up()
    with Proxy(scene.scratch.port, cut_after=scene.random.randint(2_000_000, 20_000_000)) as proxy:
        login = replace(scene.scratch.login, port=proxy.port)
        seen = looked_after(scene, scene.prove(login=login), login)
        assert proxy.was_cut.is_set()
    assert scene.prove().outcome == "good", "the next drill drops what that one could not"
    return seen


def server_killed(scene: Scene) -> Seen:
    scene.enlarge()
    scene.back_up()
    server: PostgresServer = scene.fixture("crashing")
    with when(loading(server.login), server.kill):
        seen = scene.prove(login=server.login)
    seen = looked_after(scene, seen, server.login)
    server.start()
    assert scene.prove(login=server.login).outcome == "good", "the next drill drops what that one could not"
    return seen


def disk_full(scene: Scene) -> Seen:
    """The drill's own server has a small disk, and something else fills it meanwhile."""
    scene.enlarge()
    scene.back_up()
    settings = {"fsync": "off", "wal_level": "minimal", "max_wal_senders": "0", "min_wal_size": "32MB"}
    with mounted(scene.fixture("server_folder") / "small", "160m") as folder, \
            PostgresServer(folder / "server", settings=settings) as server:
        ballast = Staged("restoring", lambda: fill(folder, 40 << 20))
        seen = scene.prove(login=server.login, progress=ballast)
        (folder / "ballast").unlink()
        assert ballast.acted
    return seen


def nothing_restored(scene: Scene) -> Seen:
    scene.back_up()
    return scene.prove(bin_directory=programs(scene, pg_restore=NOTHING_RESTORED))


def no_indexes(scene: Scene) -> Seen:
    scene.back_up()
    return scene.prove(bin_directory=programs(scene, pg_restore=NO_INDEXES))


def no_owners(scene: Scene) -> Seen:
    with clerk(scene):
        scene.back_up()
        return scene.prove(bin_directory=programs(scene, pg_restore=NO_OWNERS))


def no_program(scene: Scene) -> Seen:
    scene.back_up()
    folder = programs(scene)
    (scene.folder / "programs" / "pg_restore").unlink()
    return scene.prove(bin_directory=folder)


def application(query: str | None) -> Callable[[Scene], Seen]:
    """The owner's own query."""

    def inject(scene: Scene) -> Seen:
        scene.back_up()
        return scene.prove(application_check=query)

    return inject


def own_server(scene: Scene) -> Seen:
    """What the inventory calls a scratch server is a second name of production."""
    scene.back_up()
    return scene.prove(login=scene.shop.admin)


def role_lacks_rights(scene: Scene) -> Seen:
    scene.back_up()
    with connect(scene.scratch.login, "tests") as connection:
        connection.execute("CREATE ROLE nobody_much LOGIN PASSWORD 'nobody'")
        try:
            return scene.prove(login=replace(scene.scratch.login, user="nobody_much", password="nobody"))
        finally:
            connection.execute("DROP OWNED BY nobody_much; DROP ROLE nobody_much")


def verdict_not_written(scene: Scene) -> Seen:
    """A proof that nobody can read later is none."""
    with mounted(scene.folder / "disk", "64m") as disk:
        place = scene.place(store=disk)
        scene.back_up(place)
        ballast = []
        seen = scene.prove(place, progress=Staged("content:", lambda: ballast.append(fill(disk, 0))))
        (found,) = place.backups()
        assert found.proven_rung is None
        ballast[0].unlink()
        assert scene.prove(place).outcome == "good"
    return seen


def other_role(scene: Scene) -> Seen:
    """A control: a role that the scratch server lacks is made there, without the right to log in."""
    with connect(scene.shop.admin.at(scene.shop.name), "tests") as connection:
        connection.execute('CREATE ROLE "the owner ñ" LOGIN; ALTER TABLE orders OWNER TO "the owner ñ"')
        try:
            scene.back_up()
            return scene.prove()
        finally:
            connection.execute(sql.SQL('ALTER TABLE orders OWNER TO postgres; DROP ROLE "the owner ñ"'))


FAULTS = (
    Fault("nothing at all: roles that the server of the drill lacks", WHERE, other_role, "good",
          ("is good up to the rung application",), "", rung="application"),
    Fault("the server of the drill does not answer", WHERE, no_server, "unverifiable",
          ("No connection to PostgreSQL", NEXT), "earlier proofs stay", rung="archive"),
    Fault("the network is cut in the middle of a drill", WHERE, network_cut, "unverifiable", (NEXT, UNKNOWN),
          "the next drill drops the scratch database; earlier proofs stay", rung="archive", ci=True),
    Fault("the server of the drill is killed in the middle of it", WHERE, server_killed, "unverifiable",
          (NEXT, UNKNOWN),
          "the next drill drops the scratch database; earlier proofs stay", rung="archive"),
    Fault("the disk of the drill's server fills in the middle of it", WHERE, disk_full, "unverifiable",
          ("No space left on device", NEXT), DROPPED, rung="archive"),
    Fault("a pg_restore that exits 0 having restored nothing", WHERE, nothing_restored, "corrupt",
          ("is missing",), DROPPED, rung="restore", ci=True),
    Fault("a pg_restore that exits 0 having left out indexes and keys", WHERE, no_indexes, "corrupt",
          ("indexes instead of",), DROPPED, rung="restore", ci=True),
    Fault("a pg_restore that exits 0 having left out who owns what", WHERE, no_owners, "corrupt",
          ("relations of the role clerk instead of 1",), DROPPED, rung="restore"),
    Fault("pg_restore is not installed", WHERE, no_program, "unverifiable", ("pg_restore does not exist", NEXT),
          "earlier proofs stay", rung="bytes"),
    Fault("the owner's query says no", WHERE, application("SELECT false, 'no payments since Monday'"), "corrupt",
          ("no payments since Monday", "Make a new backup now"), DROPPED, rung="content", ci=True),
    Fault("the owner's query is broken", WHERE, application("SELECT nothing_like_it FROM orders"), "unverifiable",
          ("nothing_like_it", NEXT), DROPPED, rung="content"),
    Fault("there is no owner's query", WHERE, application(None), "unverifiable", ("database_application_check",),
          DROPPED, rung="content"),
    Fault("the server of the drill is the database's own", WHERE, own_server, "unverifiable",
          ("on the database's own server", "Name another server as scratch_server"), "nothing was begun there",
          rung="archive"),
    Fault("the role of the drill may not make a database", WHERE, role_lacks_rights, "unverifiable", (NEXT,), DROPPED,
          rung="archive"),
    Fault("the store's disk is full when the verdict is written", WHERE, verdict_not_written, UNDONE,
          ("cannot be written down", "prove it again"), "the backup counts as not proven"),
)
