# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What no recovery begins on: servers and data directories as they are found, each refused with a next step."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import connect

from lab import machine
from lab.postgresql import ENVIRONMENT
from tests.conftest import COLLECTIONS
from tests.disks import mounted, require_root
from tests.integration.pitr.conftest import Archived

REPEAT = "Nothing was changed. Mend that, then run the same command again."
UP_S = 20.0


def tablespace(archived: Archived) -> None:
    folder = machine.make_folder(archived.server.folder / "fast", machine.unprivileged_user())
    archived.run(f"CREATE TABLESPACE fast LOCATION '{folder}'")


def no_archive(archived: Archived) -> None:
    archived.run("ALTER SYSTEM SET archive_mode = off")
    restart(archived)


def standby(archived: Archived) -> None:
    (archived.data / "standby.signal").touch()
    restart(archived)


def restart(archived: Archived) -> None:
    archived.server.stop()
    archived.server.start()


@contextlib.contextmanager
def as_before(archived: Archived) -> Iterator[None]:
    """What a test has made of the server goes."""
    try:
        yield
    finally:
        (archived.data / "standby.signal").unlink(missing_ok=True)
        restart(archived)
        with connect(archived.server.login, "tests") as connection:
            connection.execute("ALTER SYSTEM RESET ALL")
            connection.execute("DROP TABLESPACE IF EXISTS fast")
        restart(archived)


@pytest.mark.parametrize(("make", "words"), [
    (tablespace, ("Tablespaces are not served yet, and there are fast", "sre.runbooks.database_restore", "pg_default")),
    (no_archive, ("archive_mode is off. Set it to on, and restart the server.",)),
    (standby, ("The server is a standby: recover its primary.",)),
])
def test_a_server_that_cannot_be_recovered_is_refused_with_what_to_do(
    cluster: Archived, make: Callable[[Archived], None], words: tuple[str, ...]
) -> None:
    """A86 ⚠: before anything is made."""
    moment = cluster.now()
    with as_before(cluster):
        make(cluster)
        refuses(cluster, {"target": moment}, words)


def refuses(archived: Archived, given: dict[str, Any], words: tuple[str, ...]) -> None:
    """Also when it is only looked at."""
    for check_mode in (True, False):
        refused = archived.reach("restored", check_mode=check_mode, **given)
        for word in (*words, REPEAT):
            assert word in refused["msg"], refused
    assert archived.beside == []


@pytest.fixture
def stopped(cluster: Archived) -> Iterator[Path]:
    """The folder of a data directory `data` whose server is down."""
    folder = machine.make_folder(cluster.server.folder.with_name("down"), machine.unprivileged_user(), 0o711)
    cluster.server.stop()
    shutil.copytree(cluster.data, folder / "data", symlinks=True)
    own(folder / "data")
    cluster.server.start()
    yield folder
    shutil.rmtree(folder)


def own(data: Path) -> None:
    """Everything in it belongs to the server's user."""
    if user := machine.unprivileged_user():
        for path in (data, *data.rglob("*")):
            os.chown(path, user.pw_uid, user.pw_gid, follow_symlinks=False)


@contextlib.contextmanager
def linked(folder: Path) -> Iterator[Path]:
    link = folder / "link"
    link.symlink_to(folder / "data")
    yield link


@contextlib.contextmanager
def on_a_disk(folder: Path) -> Iterator[Path]:
    with mounted(folder / "disk", "256m", "0700") as disk:
        shutil.copytree(folder / "data", disk, symlinks=True, dirs_exist_ok=True)
        own(disk)
        yield disk


@contextlib.contextmanager
def bound(folder: Path) -> Iterator[Path]:
    """A folder of the same disk, below a name that the system's own table of mounts escapes."""
    require_root()
    place = machine.make_folder(folder / "bound here", machine.unprivileged_user())
    subprocess.run(["mount", "--bind", str(folder / "data"), str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@contextlib.contextmanager
def linked_wal(folder: Path) -> Iterator[Path]:
    wal = folder / "data" / "pg_wal"
    wal.rename(folder / "wal")
    wal.symlink_to(folder / "wal")
    yield folder / "data"


@contextlib.contextmanager
def of_root(folder: Path) -> Iterator[Path]:
    require_root()
    os.chown(folder / "data", 0, 0)
    yield folder / "data"


@contextlib.contextmanager
def far_below(folder: Path) -> Iterator[Path]:
    deep = machine.make_folder(folder / ("d" * 100), machine.unprivileged_user())
    yield (folder / "data").rename(deep / "data")


@contextlib.contextmanager
def with_tablespace(folder: Path) -> Iterator[Path]:
    (folder / "data" / "pg_tblspc" / "16400").symlink_to(folder)
    yield folder / "data"


@pytest.mark.parametrize(("place", "words"), [
    (linked, "is a link; give the folder that it leads to."),
    (on_a_disk, "is a mount point, which cannot be renamed: have the data one folder below it."),
    (bound, "is a mount point, which cannot be renamed: have the data one folder below it."),
    (linked_wal, "is a link, and two clusters must not share what it leads to: have a folder there."),
    (of_root, "belongs to root, as whom PostgreSQL refuses to run: give it to the server's user."),
    (far_below, "is too long for a socket: have the data in a shorter one."),
    (with_tablespace, "pg_tblspc is not empty. Restore the database from its backup (sre.runbooks.database_restore)"),
])
def test_a_data_directory_that_cannot_be_exchanged_is_refused_with_what_to_do(
    cluster: Archived, stopped: Path, place: Callable[[Path], contextlib.AbstractContextManager[Path]], words: str
) -> None:
    """A86 ⚠: two folders are renamed, and two servers are up beside each other."""
    with place(stopped) as data:
        refuses(cluster, {"target": cluster.now(), "data_directory": str(data)}, (words,))
        assert not list(data.parent.glob("*.restoring"))


def test_a_server_that_is_its_containers_first_process_is_refused(cluster: Archived) -> None:
    """A86 ⚠: to stop it ends the container, and the recovery in it."""
    user, moment = machine.unprivileged_user(), cluster.now()
    namespace = ["unshare", "--fork", "--pid", "--mount-proc"]
    if user is None or subprocess.run([*namespace, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("only root can make a namespace of processes")
    cluster.server.stop()
    container = subprocess.Popen(
        [*namespace, f"--setuid={user.pw_uid}", f"--setgid={user.pw_gid}",
         str(cluster.server.bin_directory / "postgres"), "-D", str(cluster.data)],
        cwd="/", env=ENVIRONMENT, umask=0o077, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    try:
        assert machine.wait_for(lambda: answers(cluster), UP_S)
        [first] = machine.children_of(container.pid)
        done = subprocess.run(
            ["nsenter", f"--target={first}", "--pid", "--mount", sys.executable, "-m",
             "ansible_collections.sre.runbooks.plugins.modules.pg_pitr"],
            input=json.dumps({"ANSIBLE_MODULE_ARGS": cluster.arguments("restored", target=moment)}), text=True,
            capture_output=True, check=False, timeout=60, env={**os.environ, "PYTHONPATH": str(COLLECTIONS)},
        )
        said = json.loads(done.stdout)["msg"]
        assert "its container's first process: stopping it ends the container" in said
        assert "Run it below an init." in said
        assert REPEAT in said
    finally:
        for postmaster in machine.children_of(container.pid):
            machine.send(postmaster, signal.SIGINT)
        container.wait(UP_S)
        cluster.server.start()
    assert cluster.beside == []


def answers(archived: Archived) -> bool:
    """Whether somebody gets in."""
    with contextlib.suppress(Exception):
        archived.now()
        return True
    return False


def test_scheduled_jobs_do_not_run_in_the_cluster_beside(cluster: Archived) -> None:
    """A86 ⚠: what pg_cron has to do would be done twice, and outside."""
    folder = machine.make_folder(cluster.server.folder / "libraries", machine.unprivileged_user())
    # It does nothing by itself; what counts is its name.
    shutil.copy(cluster.server.bin_directory.with_name("lib") / "auth_delay.so", folder / "pg_cron.so")
    (folder / "pg_cron.so").chmod(0o755)
    with as_before(cluster):
        cluster.run(f"ALTER SYSTEM SET dynamic_library_path = '{folder}:$libdir'")
        cluster.run("ALTER SYSTEM SET shared_preload_libraries = pg_cron, auto_explain")
        restart(cluster)
        assert cluster.run("SHOW shared_preload_libraries") == "pg_cron, auto_explain"
        restored = cluster.done("restored", target=cluster.lose())
        with connect(cluster.login_beside(restored), "tests") as connection:
            row = connection.execute("SHOW shared_preload_libraries").fetchone()
        assert row == {"shared_preload_libraries": "auto_explain"}
        cluster.done("undone")
