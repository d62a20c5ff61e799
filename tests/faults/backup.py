# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Faults while a backup is made."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from ansible_collections.sre.runbooks.plugins.module_utils.backup.catalog import Limits, assess
from ansible_collections.sre.runbooks.plugins.module_utils.backup.store import RESERVE_BYTES
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import connect

from lab import machine
from tests.disks import fill, mounted
from tests.faults.fault import CRASHING, DONE, REFUSED, UNDONE, UNKNOWN, Fault, Seen
from tests.faults.machinery import call_ahead
from tests.faults.network import Proxy
from tests.faults.scene import TARGET, Scene, Staged, when

WHERE = "backup"
NO_BACKUP = "nothing is left that looks like a backup"
UNTOUCHED = "nothing was begun"


def programs(scene: Scene, **wrappers: str) -> str:
    """A folder of client programs in which some are scripts of ours; `{real}` is the folder of the real ones."""
    folder = scene.folder / "programs"
    folder.mkdir()
    for name in ("pg_dump", "pg_dumpall", "pg_restore", "psql"):
        (folder / name).symlink_to(scene.bin_directory / name)
    for name, text in wrappers.items():
        (folder / name).unlink()
        real = str(scene.bin_directory)
        version = f'case "$1" in --version) exec {real}/{name} "$@";; esac'
        (folder / name).write_text(f"#!/bin/bash\n{version}\n{text.replace('{real}', real)}\n")
        (folder / name).chmod(0o755)
    return str(folder)


def dumping(scene: Scene, folder: Path | None = None) -> bool:
    """Whether a dump writes rows."""
    return any(path.stat().st_size for path in (folder or scene.store).rglob("*.dat.gz"))


def dump_process() -> int:
    """The pg_dump that this process has started."""
    return next(
        pid for pid in machine.children_of(os.getpid()) if b"pg_dump" in Path(f"/proc/{pid}/cmdline").read_bytes()
    )


# What a pg_dump does that lies: it gives the real one's exit code, or 0.
SKIPPED_TABLE = 'exec {real}/pg_dump --exclude-table=orders "$@"'
SKIPPED_ROWS = """
{real}/pg_dump "$@" || exit
for argument in "$@"; do case "$argument" in --file=*) folder="${argument#--file=}";; esac; done
largest=$(ls -S "$folder"/[0-9]*.dat.gz | head -1)
{ zcat "$largest" | head -n 100; printf '\\\\.\\n\\n\\n'; } | gzip > "$largest.cut"
mv "$largest.cut" "$largest"
"""
SKIPPED_OBJECTS = 'exec {real}/pg_dump --no-large-objects "$@"'
SKIPPED_INDEXES = 'exec {real}/pg_dump "$@" --section=pre-data --section=data'
SKIPPED_PRIVILEGES = 'exec {real}/pg_dump --no-privileges "$@"'
NO_ROLES = 'for argument in "$@"; do case "$argument" in --file=*) : > "${argument#--file=}";; esac; done'
FAILS_LATE = '{real}/pg_dump "$@" || exit; echo "pg_dump: error: no" >&2; exit 1'


@contextlib.contextmanager
def clerk(scene: Scene) -> Iterator[None]:
    """A role that may read the orders, and owns a table; every row is there without its rights."""
    with connect(scene.shop.admin.at(scene.shop.name), "tests") as admin:
        admin.execute("CREATE ROLE clerk; GRANT SELECT ON orders TO clerk")
        admin.execute("CREATE TABLE desk (id int); ALTER TABLE desk OWNER TO clerk")
        try:
            yield
        finally:
            admin.execute("DROP OWNED BY clerk; DROP ROLE clerk")


def skipped_table(scene: Scene) -> Seen:
    return scene.try_backup(bin_directory=programs(scene, pg_dump=SKIPPED_TABLE))


def skipped_rows(scene: Scene) -> Seen:
    made = scene.try_backup(bin_directory=programs(scene, pg_dump=SKIPPED_ROWS))
    assert made.outcome == DONE, made.message
    return scene.prove()


def skipped_objects(scene: Scene) -> Seen:
    made = scene.try_backup(bin_directory=programs(scene, pg_dump=SKIPPED_OBJECTS))
    assert made.outcome == DONE, made.message
    return scene.prove()


def skipped_indexes(scene: Scene) -> Seen:
    made = scene.try_backup(bin_directory=programs(scene, pg_dump=SKIPPED_INDEXES))
    assert made.outcome == DONE, made.message
    return scene.prove()


def skipped_privileges(scene: Scene) -> Seen:
    with clerk(scene):
        made = scene.try_backup(bin_directory=programs(scene, pg_dump=SKIPPED_PRIVILEGES))
        assert made.outcome == DONE, made.message
        return scene.prove()


def no_roles(scene: Scene) -> Seen:
    return scene.try_backup(bin_directory=programs(scene, pg_dumpall=NO_ROLES))


def fails_late(scene: Scene) -> Seen:
    return scene.try_backup(bin_directory=programs(scene, pg_dump=FAILS_LATE))


def killed_dump(scene: Scene) -> Seen:
    scene.enlarge()
    with when(lambda: dumping(scene), lambda: machine.send(dump_process(), signal.SIGKILL)):
        return scene.try_backup()


def network_cut(scene: Scene) -> Seen:
    scene.enlarge()
    with Proxy(scene.shop.admin.port, cut_after=scene.random.randint(2_000_000, 20_000_000)) as proxy:
        seen = scene.try_backup(login=replace(scene.shop.admin, port=proxy.port))
        assert proxy.was_cut.is_set()
    return seen


def server_killed(scene: Scene) -> Seen:
    scene.enlarge()
    with when(lambda: dumping(scene), scene.shop.server.kill):
        seen = scene.try_backup()
    scene.shop.server.start()
    return seen


def session_ended(scene: Scene) -> Seen:
    """The session that holds the snapshot, as an administrator or a time-out ends it."""
    scene.enlarge()

    def end() -> None:
        scene.shop.run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'sre.runbooks%'"
            " AND pid <> pg_backend_pid() AND datname = current_database()"
        )

    with when(lambda: dumping(scene), end):
        return scene.try_backup()


def disk_full_while(words: str, leave: int) -> Callable[[Scene], Seen]:
    """The store's disk, at the stage that says these words."""

    def inject(scene: Scene) -> Seen:
        scene.enlarge(200_000)
        with mounted(scene.folder / "disk", "256m") as disk:
            place = scene.place(store=disk)
            seen = scene.try_backup(place, Staged(words, lambda: fill(disk, leave)))
            assert place.backups() == []
            assert not place.leftovers()
        assert ": 0 B were dumped" not in seen.message
        return seen

    return inject


def work_full(scene: Scene) -> Seen:
    """The disk where plain data lie on their way into an encrypted store."""
    scene.enlarge(200_000)
    with mounted(scene.folder / "disk", "256m", "0700") as disk:
        (disk / "work").mkdir(mode=0o700)
        place = scene.place("encrypted folder", work=disk / "work")
        seen = scene.try_backup(place, Staged("dumping", lambda: fill(disk, 1 << 20)))
        assert place.backups() == []
        assert not list(disk.rglob("*.dat.gz"))
    return seen


def encrypted_full(scene: Scene) -> Seen:
    """The disk of the store itself, while files are encrypted into it."""
    scene.enlarge(200_000)
    with mounted(scene.folder / "disk", "256m") as disk:
        place = scene.place("encrypted folder", store=disk)
        seen = scene.try_backup(place, Staged("dumping", lambda: fill(disk, 1 << 20)))
        assert place.backups() == []
        assert not place.leftovers()
    return seen


def no_room(scene: Scene) -> Seen:
    with mounted(scene.folder / "disk", "32m") as disk:
        fill(disk, RESERVE_BYTES // 2)
        return scene.try_backup(scene.place(store=disk))


def not_mounted(scene: Scene) -> Seen:
    return scene.try_backup(scene.place(store=scene.folder / "forgotten"))


def wrong_password(scene: Scene) -> Seen:
    return scene.try_backup(login=replace(scene.shop.admin, password="an-old-one"))


def hidden_rows(scene: Scene) -> Seen:
    """A role that a policy binds sees a part of the rows, and so would its dump."""
    scene.shop.run("ALTER TABLE orders ENABLE ROW LEVEL SECURITY")
    try:
        return scene.try_backup(login=scene.shop.application.at(scene.shop.name))
    finally:
        scene.shop.run("ALTER TABLE orders DISABLE ROW LEVEL SECURITY")


def at_once(scene: Scene) -> Seen:
    place = scene.place()
    with place.locked():
        return scene.try_backup(place)


def old_programs(scene: Scene) -> Seen:
    return scene.try_backup(bin_directory=str(scene.fixture("older_server").bin_directory))


def key_file_gone(scene: Scene) -> Seen:
    place = scene.place("encrypted folder")
    place.privacy = replace(place.privacy, recipients=(str(scene.folder / "gone.asc"),))
    return scene.try_backup(place)


def clock(scene: Scene) -> Seen:
    """The backup is whole, and of the future: it would pass as fresh for an hour longer than it is."""
    made = call_ahead("pg_backup", scene.module(database=scene.shop.name), 3600)
    assert "backup" in made, made
    place = scene.place()
    seen = scene.prove(place)
    assert seen.outcome == "good", seen.message
    checks = assess(TARGET, place.backups(), datetime.now(UTC), Limits(86400, 86400))
    age = next(check for check in checks if check.name == "backup_age_seconds")
    return Seen(age.status, age.message)


def changes_meanwhile(scene: Scene) -> Seen:
    """TRUNCATE and DDL while the dump runs: it begins again until it has one moment of everything."""
    scene.enlarge(100_000)
    scene.shop.run("CREATE TABLE emptied AS SELECT i FROM generate_series(1, 1000) AS i")
    stop = threading.Event()

    def churn() -> None:
        with connect(scene.shop.admin.at(scene.shop.name), "tests") as connection:
            number = 0
            while not stop.wait(0.1):
                number += 1
                connection.execute(f"CREATE TABLE made_{number} (i int)".encode())
                if number % 8 == 0:
                    connection.execute(f"TRUNCATE emptied; ALTER TABLE emptied ADD c{number} int".encode())

    churning = threading.Thread(target=churn)
    churning.start()
    try:
        made = scene.try_backup()
    finally:
        stop.set()
        churning.join()
    assert made.outcome == DONE, made.message
    return scene.prove()


def whole(scene: Scene) -> Seen:
    scene.back_up()
    return scene.prove()


FAULTS = (
    Fault("nothing at all: a backup in a folder", WHERE, whole, "good", ("is good up to the rung application",),
          "", rung="application", ci=True),
    Fault("a pg_dump that exits 0 having skipped a table", WHERE, skipped_table, UNDONE,
          ("its archive lacks 1 tables: public.orders",), NO_BACKUP, ci=True),
    Fault("a pg_dump that exits 0 having written a part of a table's rows", WHERE, skipped_rows, "corrupt",
          ("orders has 100 rows instead of 1000", "Make a new backup now"), "the scratch database is dropped",
          rung="restore", ci=True),
    Fault("a pg_dump that exits 0 having left out the large objects", WHERE, skipped_objects, "corrupt",
          ("there are 0 large objects instead of 1",), "the scratch database is dropped", rung="restore"),
    Fault("a pg_dump that exits 0 having left out indexes, keys and triggers", WHERE, skipped_indexes, "corrupt",
          ("indexes instead of",), "the scratch database is dropped", rung="restore"),
    Fault("a pg_dump that exits 0 having left out the privileges", WHERE, skipped_privileges, "corrupt",
          ("privileges instead of",), "the scratch database is dropped", rung="restore", ci=True),
    Fault("a pg_dumpall that exits 0 having written nothing", WHERE, no_roles, UNDONE,
          ("its globals.sql lacks", "roles: postgres"), NO_BACKUP),
    Fault("a pg_dump that fails when all is written", WHERE, fails_late, UNDONE,
          ("ended with exit code 1", "Nothing is left that looks like a backup"), NO_BACKUP),
    Fault("pg_dump alone is killed", WHERE, killed_dump, UNDONE, ("was killed by signal 9", "start it again"),
          NO_BACKUP, ci=True),
    Fault("the network is cut in the middle of a dump", WHERE, network_cut, UNDONE,
          ("start it again",), NO_BACKUP, ci=True),
    Fault("the database's server is killed in the middle of a dump", WHERE, server_killed, UNDONE,
          ("start it again",), NO_BACKUP, server=CRASHING),
    Fault("the session that holds the snapshot is ended", WHERE, session_ended, UNDONE,
          ("start it again",), NO_BACKUP),
    Fault("the store's disk is full while the rows are dumped", WHERE, disk_full_while("dumping", 1 << 20), UNDONE,
          ("/disk/shops/shop became full", "Make room there. Then start it again"), NO_BACKUP, ci=True),
    Fault("the store's disk is full when the manifest is written", WHERE, disk_full_while("hashing", 0), UNDONE,
          ("/disk/shops/shop became full", "Make room there. Then start it again"), NO_BACKUP),
    Fault("the work folder's disk is full while the rows are dumped", WHERE, work_full, UNDONE,
          ("/disk/work/shops.shop.", "became full", "store_work_directory. Then start it again"), NO_BACKUP),
    Fault("the store's disk is full while files are encrypted into it", WHERE, encrypted_full, UNDONE,
          ("/disk/shops/shop became full", "Make room there. Then start it again"), NO_BACKUP),
    Fault("the store's disk has too little room from the start", WHERE, no_room, REFUSED,
          ("free for", "that stay free", "Make room there"), UNTOUCHED),
    Fault("the store is not mounted", WHERE, not_mounted, REFUSED, ("does not exist", "mount what belongs there"),
          UNTOUCHED),
    Fault("the password of the role that dumps was rotated", WHERE, wrong_password, REFUSED,
          ("No connection to PostgreSQL as postgres@", "password in the inventory"), UNTOUCHED),
    Fault("a policy hides rows from the role that dumps", WHERE, hidden_rows, UNDONE, ("row-level security",),
          NO_BACKUP),
    Fault("another backup of the same database is being made", WHERE, at_once, UNDONE,
          ("Another backup of shop is being made", "Wait until it has ended"), "the other one goes on"),
    Fault("the client programs are older than the server", WHERE, old_programs, REFUSED, ("No pg_dump of version",),
          UNTOUCHED),
    Fault("the file with a public key is gone", WHERE, key_file_gone, REFUSED, ("does not exist",), UNTOUCHED),
    Fault("TRUNCATE and DDL while the dump runs", WHERE, changes_meanwhile, "good",
          ("is good up to the rung application",), "it begins again until it has one moment", rung="application"),
    Fault("the clock of the host that makes backups is an hour ahead", WHERE, clock, UNKNOWN,
          ("after the time of this clock", "Set the clocks"), "the backup is good, and its age is called unknown"),
)
