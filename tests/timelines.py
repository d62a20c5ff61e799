# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Histories that a cluster has left."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator

from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import connect

from lab import machine
from lab.postgresql import PostgresServer


@contextlib.contextmanager
def abandoned_timeline(server: PostgresServer) -> Iterator[None]:
    """Whatever happens in the block is on a new timeline; afterwards the server runs on the one before again."""
    kept = server.folder / "kept"
    server.stop()
    shutil.copytree(server.data_directory, kept, copy_function=shutil.copy2)
    (server.data_directory / "standby.signal").touch()
    server.start()
    with connect(server.login, "tests") as connection:
        connection.execute("SELECT pg_promote()")
    yield
    server.stop()
    shutil.rmtree(server.data_directory)
    kept.rename(server.data_directory)
    if user := machine.unprivileged_user():
        for one in (server.data_directory, *server.data_directory.rglob("*")):
            shutil.chown(one, user.pw_uid, user.pw_gid)
    server.start()
