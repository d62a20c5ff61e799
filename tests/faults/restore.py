# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Faults while a copy is restored beside the live database, which nobody notices."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import connect, identifier
from psycopg import sql

from lab import machine
from lab.postgresql import PostgresServer
from tests.disks import fill, mounted
from tests.faults.backup import SKIPPED_ROWS, programs
from tests.faults.fault import CRASHING, DONE, OLDER, REFUSED, UNDONE, Fault, Seen
from tests.faults.network import Proxy
from tests.faults.scene import Scene, Staged, when
from tests.faults.store import KINDS, Kept, flipped
from tests.faults.verification import NO_INDEXES
from tests.integration.restore.conftest import Shop, shops

WHERE = "restore"
DROPPED = "the copy is dropped; the live database was not touched"
NEXT_RUN = "the next run drops the copy; the live database was not touched"
UNTOUCHED = "nothing was begun"
LOADING = "SELECT count(*) AS n FROM pg_stat_progress_copy WHERE datname LIKE '%\\_\\_restoring\\_%'"


def loading(scene: Scene) -> bool:
    """Whether rows are read into a copy."""
    with connect(scene.shop.admin, "tests") as connection:
        return connection.execute(LOADING).fetchone()["n"] > 0


def restore_process() -> int:
    """The pg_restore that this process has started."""
    return next(
        pid for pid in machine.children_of(os.getpid()) if b"pg_restore" in Path(f"/proc/{pid}/cmdline").read_bytes()
    )


def whole(kind: str) -> Callable[[Scene], Seen]:
    """A control: what an accident destroyed comes back."""

    def inject(scene: Scene) -> Seen:
        place = scene.place(kind)
        scene.back_up(place)
        assert scene.prove(place).outcome == "good"
        scene.write()
        seen = scene.restore(place, least_rung="content")
        assert scene.content() == scene.restored
        return seen

    return inject


def not_proven(scene: Scene) -> Seen:
    scene.back_up()
    scene.write()
    return scene.restore(least_rung="restore")


def damaged_since(scene: Scene) -> Seen:
    """After its last proof: what is restored is compared while it is read."""
    place = scene.place()
    kept = Kept(place, scene.back_up(place))
    assert scene.prove(place).outcome == "good"
    scene.write()
    name = scene.random.choice(kept.names("a data file"))
    kept[name] = flipped(kept[name], scene)
    return scene.restore(place, least_rung="restore")


def rows_missing(scene: Scene) -> Seen:
    """The pg_dump of that night lied: nobody is let into that copy."""
    scene.back_up(bin_directory=programs(scene, pg_dump=SKIPPED_ROWS))
    scene.write()
    return scene.restore()


def no_indexes(scene: Scene) -> Seen:
    scene.back_up()
    scene.write()
    return scene.restore(bin_directory=programs(scene, pg_restore=NO_INDEXES))


def network_cut(scene: Scene) -> Seen:
    scene.enlarge()
    scene.back_up()
    scene.write()
    with Proxy(scene.shop.admin.port, cut_after=scene.random.randint(2_000_000, 20_000_000)) as proxy:
        seen = scene.restore(login=replace(scene.shop.admin, port=proxy.port))
        assert proxy.was_cut.is_set()
    assert scene.content() == scene.live
    scene.again()
    return seen


def program_killed(scene: Scene) -> Seen:
    scene.enlarge()
    scene.back_up()
    scene.write()
    with when(lambda: loading(scene), lambda: machine.send(restore_process(), signal.SIGKILL)):
        seen = scene.restore()
    assert scene.shop.databases() == [scene.shop.name]
    scene.again()
    return seen


def server_killed(scene: Scene) -> Seen:
    scene.enlarge()
    scene.back_up()
    scene.write()
    with when(lambda: loading(scene), scene.shop.server.kill):
        seen = scene.restore()
    scene.shop.server.start()
    assert scene.content() == scene.live
    scene.again()
    return seen


@contextlib.contextmanager
def small_disk(scene: Scene) -> Iterator[Path]:
    """The database is in a tablespace on a disk of its own."""
    folder = machine.make_folder(scene.shop.server.folder / "small", None, 0o711)
    with mounted(folder, "128m", "0777"):
        space = machine.make_folder(folder / "space", machine.unprivileged_user())
        name = identifier(scene.shop.name)
        with connect(scene.shop.admin, "tests") as admin:
            admin.execute(sql.SQL("CREATE TABLESPACE small LOCATION {}").format(str(space)))
            admin.execute(sql.SQL("ALTER DATABASE {} SET TABLESPACE small").format(name))
            try:
                yield folder
            finally:
                (folder / "ballast").unlink(missing_ok=True)
                admin.execute(sql.SQL("ALTER DATABASE {} SET TABLESPACE pg_default").format(name))
                admin.execute("DROP TABLESPACE small")


def disk_full(scene: Scene) -> Seen:
    """It is filled meanwhile by somebody else."""
    with small_disk(scene) as disk:
        scene.enlarge(200_000)
        scene.back_up()
        scene.write()
        seen = scene.restore(stages={"prepared": Staged("restoring", lambda: fill(disk, 12 << 20))})
        (disk / "ballast").unlink()
        assert scene.shop.databases() == [scene.shop.name]
    return seen


def too_small(scene: Scene) -> Seen:
    """The server's own, which is read, or what an operator measured of a disk that cannot be read from here."""
    with small_disk(scene) as disk:
        scene.back_up()
        scene.write()
        fill(disk, 4 << 20)
        return scene.restore(free_bytes=4 << 20)


@contextlib.contextmanager
def elsewhere(scene: Scene, server: PostgresServer) -> Iterator[Shop]:
    """A shop of the same name, with the same role of its application, on another server."""
    folder = scene.folder / "elsewhere"
    folder.mkdir()
    with shops(server, folder) as make:
        yield make(scene.shop.name, role=scene.shop.application.user)


def back_up(scene: Scene, other: Shop) -> None:
    """A backup of the other server's database, in this one's store."""
    scene.back_up(login=other.admin, bin_directory=str(other.server.bin_directory))
    scene.restored = scene.content(other)


def extension_missing(scene: Scene) -> Seen:
    """The backup is of a server that has one more."""
    with elsewhere(scene, scene.fixture(OLDER)) as other:
        other.run("CREATE EXTENSION pgcrypto")
        back_up(scene, other)
    scene.write()
    return scene.restore()


def newer_server(scene: Scene) -> Seen:
    """The server of the restore is an older one, with its own programs."""
    scene.back_up()
    scene.write()
    older = scene.fixture(OLDER)
    with elsewhere(scene, older) as other:
        before = scene.content(other)
        seen = scene.restore(login=other.admin, bin_directory=str(older.bin_directory))
        assert scene.content(other) == before
        scene.measured = f"{before} as before"
    return seen


def role_missing(scene: Scene) -> Seen:
    """Dropped between backup and restore."""
    with connect(scene.shop.admin.at(scene.shop.name), "tests") as admin:
        admin.execute("CREATE ROLE clerk; ALTER TABLE orders OWNER TO clerk")
        scene.back_up()
        admin.execute("ALTER TABLE orders OWNER TO postgres; DROP OWNED BY clerk; DROP ROLE clerk")
    scene.write()
    return scene.restore()


def wrong_password(scene: Scene) -> Seen:
    scene.back_up()
    return scene.restore(login=replace(scene.shop.admin, password="rotated-since"))


def rotated(scene: Scene) -> Seen:
    """A control: the application's password is the server's, not the backup's, and stays the new one."""
    place = scene.place()
    scene.back_up(place)
    scene.write()
    new = "rotated-word"
    with connect(scene.shop.admin, "tests") as admin:
        admin.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(identifier(scene.shop.application.user), new))
    scene.shop = replace(scene.shop, application=replace(scene.shop.application, password=new))
    seen = scene.restore(place)
    assert scene.content() == scene.restored
    return seen


def application(query: str) -> Callable[[Scene], Seen]:
    """The owner's own query on the copy."""

    def inject(scene: Scene) -> Seen:
        scene.back_up()
        scene.write()
        return scene.restore(application_check=query)

    return inject


def no_key(scene: Scene) -> Seen:
    place = scene.place("encrypted bucket")
    scene.back_up(place)
    (scene.folder / "no-keys").mkdir(mode=0o700)
    scene.write()
    return scene.restore(scene.place("encrypted bucket", home=scene.folder / "no-keys"))


def other_server(scene: Scene) -> Seen:
    """A control: a backup of another server may be restored, and the operator reads that it is one."""
    with elsewhere(scene, scene.scratch) as other:
        other.run("DELETE FROM orders WHERE id > 900")
        back_up(scene, other)
    scene.write()
    notes = scene.shop.reach("prepared", check=True, place=scene.place()).values["notes"]
    seen = scene.restore()
    return replace(seen, message=f"{' '.join(notes)} {seen.message}")


def dropping_begun(scene: Scene) -> Seen:
    """A DROP DATABASE that was interrupted leaves the server's own mark, and nobody can enter it again."""
    scene.back_up()
    limit = scene.shop.run(f"SELECT datconnlimit AS n FROM pg_database WHERE datname = '{scene.shop.name}'")[0]["n"]
    mark = f"UPDATE pg_database SET datconnlimit = {{}} WHERE datname = '{scene.shop.name}'"
    scene.shop.run(mark.format(-2), "postgres")
    seen = scene.restore()
    scene.shop.run(mark.format(limit), "postgres")
    return seen


def dropped(scene: Scene) -> Seen:
    """A control: the whole database is gone."""
    place = scene.place()
    scene.back_up(place)
    scene.shop.run(f"DROP DATABASE {scene.shop.name} WITH (FORCE)", "postgres")
    seen = scene.restore(place)
    assert scene.content() == scene.restored
    return seen


FAULTS = (
    *(
        Fault(f"nothing at all: rows are lost, and come back from {'an' if kind[0] == 'e' else 'a'} {kind}", WHERE,
              whole(kind), DONE, ("is restored",), "", ci=kind == "folder")
        for kind in ("folder", *KINDS)
    ),
    Fault("nothing at all: the whole database was dropped", WHERE, dropped, DONE, ("is restored",), ""),
    Fault("the application's password was rotated since the backup", WHERE, rotated, DONE, ("is restored",),
          "the new password stays", ci=True),
    Fault("the backup is of another server", WHERE, other_server, DONE,
          ("The backup was made on another server than this one", "is restored"), "it is told, and may be meant"),
    Fault("the backup was never proven", WHERE, not_proven, REFUSED,
          ("There is no backup proven to the rung restore", "Prove one with the playbook"), UNTOUCHED, ci=True),
    Fault("the backup was damaged after its last proof", WHERE, damaged_since, UNDONE,
          ("is not what was written", "the same command without -e backup"), DROPPED, ci=True),
    Fault("a row that was counted is not in the backup", WHERE, rows_missing, UNDONE,
          ("orders has 100 rows instead of 1000", "Do not use this backup"), DROPPED, ci=True),
    Fault("a pg_restore that leaves out indexes and keys while restoring", WHERE, no_indexes, UNDONE,
          ("indexes instead of", "Do not use this backup"), DROPPED, ci=True),
    Fault("the network is cut in the middle of a restore", WHERE, network_cut, UNDONE,
          ("ended with exit code 1", "The live database was not touched"), NEXT_RUN, ci=True),
    Fault("pg_restore alone is killed", WHERE, program_killed, UNDONE,
          ("was killed by signal 9", "The live database was not touched"), DROPPED),
    Fault("the database's server is killed in the middle of a restore", WHERE, server_killed, UNDONE,
          ("ended with exit code 1", "The live database was not touched"), NEXT_RUN, server=CRASHING),
    Fault("the disk of the server fills in the middle of a restore", WHERE, disk_full, UNDONE,
          ("No space left on device", "Make room on the server's disk"), DROPPED),
    Fault("the disk of the server is too small from the start", WHERE, too_small, REFUSED,
          ("of disk are needed for the copy", "Nothing was changed"), UNTOUCHED),
    Fault("a role of the backup is missing", WHERE, role_missing, REFUSED,
          ("The server lacks the roles clerk", "globals.sql has them"), UNTOUCHED, ci=True),
    Fault("an extension of the backup is missing", WHERE, extension_missing, REFUSED,
          ("The extension pgcrypto", "install it there"), UNTOUCHED),
    Fault("the backup is of a newer server", WHERE, newer_server, REFUSED,
          ("The backup is of PostgreSQL 18", "which is older"), UNTOUCHED),
    Fault("the password of the role that restores was rotated since the backup", WHERE, wrong_password, REFUSED,
          ("No connection to PostgreSQL as postgres@", "password in the inventory"), UNTOUCHED),
    Fault("the owner's query says no to the copy", WHERE, application("SELECT false, 'no payments since Monday'"),
          UNDONE, ("no payments since Monday",), DROPPED),
    Fault("no secret key opens the backup that is restored", WHERE, no_key, UNDONE,
          ("Bring one of these secret keys to this host",), DROPPED),
    Fault("dropping the live database was begun and not ended", WHERE, dropping_begun, REFUSED, ("DROP DATABASE",),
          UNTOUCHED),
)
