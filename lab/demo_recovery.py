# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""`make demo-recovery`: data lost in three ways, brought back by the runbooks, and timed beside the targets.

Times come from the records of the runs, targets from the inventory, and what was lost from clients who remember each
write that a database acknowledged.
"""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import yaml
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import Login, connect, identifier
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from psycopg import sql

from lab import machine, objectives, s3
from lab.keys import Key, make_key
from lab.objectives import Recovery, Targets
from lab.overlay import LOCAL
from lab.pgbackrest import has_pgbackrest
from lab.postgresql import PostgresServer
from lab.stage import SYSTEM, DemoError, Stage, paint, show
from lab.system import INVENTORIES

# Each loss has a database of its own, so that none hides another.
TABLE_LOST, MOMENT_UNKNOWN, ALL_LOST = "orders-db", "pos-db", "sales-db"
APPLICATION = "sales-service"
BYTES = "200MB"
STORE, COPIES, EMPTY_SERVER = "offsite-store", "copy-store", "new-server"
WRITE_EVERY_S = 0.2
# Half an hour of writing: whoever leaves the demo stopped somewhere does not fill a disk.
MOST_WRITES = 9000
WRITES_BEFORE = 10
WAIT_S = 30.0
RECEIPTS = "CREATE TABLE receipts (number bigint PRIMARY KEY, written_at timestamptz NOT NULL)"
DROPPED = re.compile(r"(\S+) was dropped at (\S+) by transaction (\d+)")
NO_PLAYBOOK = "no playbook carries this out yet"
INSTALL = "pgBackRest is not installed; as root: make older-server, else: sudo apt-get install postgresql pgbackrest"

HOW = """\
   RTO: from the start of the first playbook until the application was served again, by their records.
   RPO: what a client was told is written, and is not there. A backup loses what came after it: this one was fresh, a
   daily one may be 24 h old. A recovery to a point in time loses what came between the mistake and the exchange.
   Times grow with the data, and people are slower than a demo: drill with your own (backup_verify,
   database_pitr_drill)."""


class Writer:
    """A client that writes receipts all the time, and remembers each that the database acknowledged.

    Args:
        login: of the database's application.
    """

    def __init__(self, login: Login) -> None:
        self.login = login
        self.acknowledged: dict[int, datetime] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._write, daemon=True)

    def start(self) -> None:
        """Make the table, and begin."""
        with connect(self.login, "demo") as connection:
            connection.execute(RECEIPTS)
        self._thread.start()

    def stop(self) -> None:
        """Write no more."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def wait_for_more(self, beyond: int | None = None) -> None:
        """Until some more are written than these, or than there are.

        Raises:
            DemoError: the database takes none.
        """
        wanted = (len(self.acknowledged) if beyond is None else beyond) + WRITES_BEFORE
        if not machine.wait_for(lambda: len(self.acknowledged) >= wanted, WAIT_S):
            raise DemoError(f"{self.login.database} takes no more writes.")

    def missing_from(self, login: Login) -> objectives.Lost | None:
        """What is not there of everything that was acknowledged."""
        with connect(login, "demo") as connection:
            present = {row["number"] for row in connection.execute("SELECT number FROM receipts").fetchall()}
        return objectives.lost_writes(dict(self.acknowledged), present)

    def _write(self) -> None:
        number = 0
        while number < MOST_WRITES and not self._over.wait(WRITE_EVERY_S):
            with contextlib.suppress(RunbookError, psycopg.Error, OSError), connect(self.login, "demo") as connection:
                while number < MOST_WRITES and not self._over.wait(WRITE_EVERY_S):
                    number += 1  # one that was not acknowledged may be there all the same: its number is not used again
                    connection.execute("INSERT INTO receipts VALUES (%s, clock_timestamp())", [number])
                    self.acknowledged[number] = datetime.now(UTC)


def left_out() -> dict[str, str]:
    """Which losses this machine has no programs for, and what to do about it; by the database that is lost."""
    found = {}
    if not has_pgbackrest():
        found[MOMENT_UNKNOWN] = INSTALL
    try:
        s3.program()
    except RunbookError as error:
        found[ALL_LOST] = str(error).rstrip(".")
    if shutil.which("gpg") is None:
        found[ALL_LOST] = "GnuPG is not installed; sudo apt-get install gnupg"
    return found


class RecoveryDemo(Stage):
    """The acts, in their order."""

    NAME = "demo-recovery"
    OVERLAYS = ("overlay.yml", "recovery.yml")

    def __init__(self) -> None:
        super().__init__()
        self.writers: dict[str, Writer] = {}
        self.key: Key | None = None
        self.pages: list[Path] = []
        self.left_out = left_out()

    # -- what stands beside the platform ------------------------------------------------------------------------------

    @property
    def empty_server(self) -> PostgresServer:
        """Where a database whose server is gone is brought back."""
        return PostgresServer(self.lab.folder / "servers" / EMPTY_SERVER, settings={"fsync": "off"})

    def beside(self) -> None:
        """Start the second store and the empty server, and write their hosts into an inventory file."""
        folder = self.lab.folder
        store = s3.S3Server(folder / "servers" / COPIES).start()
        server = self.empty_server.start()
        self.key = make_key(folder / "keys", "recovery")
        secrets = {COPIES: ("secret", store.secret_key), EMPTY_SERVER: ("admin", server.login.password)}
        found = {}
        for host, (role, secret) in secrets.items():
            file = self.lab.secret_file(host, role)
            file.parent.mkdir(mode=0o700, exist_ok=True)
            machine.write_private(file, secret)
            found[host] = f"{{{{ lookup('ansible.builtin.file', '{file}') }}}}"
        common = yaml.safe_load((folder / "overlay.yml").read_text(encoding="utf-8"))
        everywhere = common["all"]["children"]["stores"]["hosts"][STORE]
        everywhere = {name: value for name, value in everywhere.items() if name != "store_path"}
        hosts: dict[str, dict[str, Any]] = {
            "stores": {COPIES: {
                **everywhere, "store_recipients": [str(self.key.public)], "store_keyring": {"home": str(self.key.home)},
                "store_work_directory": str(folder / "work"),
                "store_s3": {"endpoint_url": store.endpoint_url, "bucket": store.buckets[0], "prefix": SYSTEM,
                             "region": "us-east-1", "access_key": store.access_key, "secret_key": found[COPIES]},
            }},
            "servers": {EMPTY_SERVER: {
                **everywhere, **LOCAL, "postgresql_host": "127.0.0.1", "postgresql_port": server.port,
                "postgresql_admin": {"user": "postgres", "password": found[EMPTY_SERVER]},
                "postgresql_sslmode": "disable", "postgresql_bin_directory": str(server.bin_directory),
            }},
        }
        groups = {group: {"hosts": members} for group, members in hosts.items()}
        (folder / self.OVERLAYS[-1]).write_text(yaml.safe_dump({"all": {"children": groups}}), encoding="utf-8")

    # -- the play -----------------------------------------------------------------------------------------------------

    def run(self) -> tuple[int, str]:
        """Three losses, and the table."""
        targets = Targets.load(INVENTORIES / SYSTEM)
        print("This machine now plays a bakery platform that loses data in three ways, for real, and brings it back\n"
              "with its runbooks. Their records say how long that took; clients, who remember what they were told is\n"
              "written, say what is gone. It takes about three minutes.", flush=True)
        for database, why in self.left_out.items():
            print(f"The loss of {database} is left out: {why}.", flush=True)
        self.up(*([] if MOMENT_UNKNOWN in self.left_out else ["--archive", MOMENT_UNKNOWN]))
        (self.lab.folder / self.OVERLAYS[-1]).write_text(yaml.safe_dump({"all": {}}), encoding="utf-8")
        self.prepare()
        recoveries = [
            self.lose(f"a table, found at once ({TABLE_LOST}, {BYTES[:-2]} MB)", TABLE_LOST, self.table_lost),
            self.lose(f"a table, nobody knows when ({MOMENT_UNKNOWN})", MOMENT_UNKNOWN, self.moment_unknown),
            self.lose(f"a server with its disk, and the backup store ({ALL_LOST})", ALL_LOST, self.all_lost),
            Recovery("the cache", why=NO_PLAYBOOK),
            Recovery("the whole platform: server, cluster, DNS (B44)", why=NO_PLAYBOOK),
        ]
        return self.tell(recoveries, targets)

    def prepare(self) -> None:
        """Everything that has to be there before something is lost."""
        copies = ALL_LOST not in self.left_out
        if copies:
            self.act("A bucket somewhere else, for encrypted copies, and an empty PostgreSQL server stand ready")
            self.patiently(self.beside)
            print("     S3 with a key of its own, GPG keys, and a server without any database", flush=True)
        self.act(f"{TABLE_LOST} gets {BYTES} of data, and clients begin to write receipts, five a second")
        self.command("python", "-m", "lab", "fill", "--name", self.NAME, "--bytes", BYTES, "--database", TABLE_LOST)
        for database in (TABLE_LOST, MOMENT_UNKNOWN, ALL_LOST):
            if database not in self.left_out:
                self.writers[database] = Writer(self.lab.login(database, "application"))
                self.writers[database].start()
        for writer in self.writers.values():
            writer.wait_for_more(beyond=0)

        dumped = [TABLE_LOST, *([ALL_LOST] if copies else [])]
        these = ("-e", f"target={','.join(dumped)}", "-e", f"expect={len(dumped)}")
        self.act("Databases are backed up, and the backups proven by restoring them")
        self.playbook("database_backup", *these)
        self.playbook("backup_verify", *these)
        if copies:
            self.act("One backup is copied into the bucket, encrypted on the way, and the copy proven there")
            self.playbook("backup_copy", "-e", f"target={ALL_LOST}", "-e", f"to={COPIES}")
            self.playbook("backup_verify", "-e", f"target={ALL_LOST}", "-e", f"backup_store={COPIES}")

    def lose(self, what: str, database: str, recover: Callable[[Writer], tuple[list[str], Login]]) -> Recovery:
        """One loss: how long the runs took by their own records, and what the client misses afterwards."""
        if database in self.left_out:
            return Recovery(what, why="left out, as the first lines say")
        writer = self.writers[database]
        try:
            runbooks, login = recover(writer)
            reports = []
            for page, data in map(self.report, runbooks):
                reports.append(data)
                if data["changes"]:
                    self.pages.append(page)
            if login == writer.login:
                writer.wait_for_more()
            writer.stop()
            time_s, lost = objectives.recovery_time(reports), writer.missing_from(login)
            if time_s is None:
                raise DemoError(f"Not every run of it ended as done: {', '.join(one['outcome'] for one in reports)}.")
            if lost is None:
                raise DemoError("Nothing of what the client wrote before is there.")
            return Recovery(what, time_s, lost)
        except (DemoError, RunbookError, psycopg.Error) as error:
            reason = " ".join(str(error).split())
            print(paint(f"   This loss was not recovered: {reason}", "31"), flush=True)
            return Recovery(what, why="the recovery failed, see above", failed=True)
        finally:
            writer.stop()

    def table_lost(self, writer: Writer) -> tuple[list[str], Login]:
        """A dump brings it back: what was written since is gone."""
        self.act(f"Loss 1: a migration drops the main table of {TABLE_LOST}, and somebody sees it at once")
        self.command("python", "-m", "lab", "break", "drop-table", TABLE_LOST, "--name", self.NAME)
        self.act("The newest proven backup is restored beside the live database, and exchanged for it")
        self.playbook("database_restore", "-e", f"target={TABLE_LOST}", "-e", f"approve={TABLE_LOST}")
        return ["database_restore"], writer.login

    def moment_unknown(self, writer: Writer) -> tuple[list[str], Login]:
        """The archived WAL knows the moment: only what was written after it is gone."""
        table = self.lab.system.lab["tables"][MOMENT_UNKNOWN]["table"]
        self.act(f"Loss 2: somebody drops {table} in {MOMENT_UNKNOWN}, and nobody knows when")
        self.command("python", "-m", "lab", "break", "drop-table", MOMENT_UNKNOWN, "--name", self.NAME)
        writer.wait_for_more()
        print("     The newest WAL is sent to the archive, as a time-out would: SELECT pg_switch_wal()", flush=True)
        self.patiently(self.archive_newest)
        self.act("The archived WAL knows by which transaction it was lost")
        self.playbook("wal_search", "-e", f"target={MOMENT_UNKNOWN}", "-e", f"wal_search_table={table}")
        _page, data = self.report("wal_search")
        found = DROPPED.search(data["targets"][0]["message"])
        if not found:
            raise DemoError(f"wal_search did not find the loss: {data['targets'][0]['message']}")
        self.act("The cluster is recovered to just before it, beside the live one, and exchanged for it")
        self.playbook(
            "database_pitr", "-e", f"target={MOMENT_UNKNOWN}", "-e", f"to={found[2]}", "-e", "exclusive=true",
            "-e", f"approve={MOMENT_UNKNOWN}",
        )
        return ["wal_search", "database_pitr"], writer.login

    def archive_newest(self) -> None:
        """Have everything in the archive that was written until now.

        Raises:
            DemoError: it does not get there.
        """
        with connect(self.lab.server(MOMENT_UNKNOWN).login, "demo") as connection:
            name = connection.execute("SELECT pg_walfile_name(pg_switch_wal()) AS name").fetchone()["name"]
            there = "SELECT last_archived_wal >= %s AS there FROM pg_stat_archiver"
            if not machine.wait_for(lambda: connection.execute(there, [name]).fetchone()["there"], WAIT_S):
                raise DemoError(f"The WAL {name} does not get into the archive.")

    def all_lost(self, writer: Writer) -> tuple[list[str], Login]:
        """The copy in the bucket is all that is left."""
        self.act(f"Loss 3: the server of {ALL_LOST} is gone with its disk, and so is the store of its backups")
        server, store = self.lab.server(ALL_LOST), self.lab.folder / "stores" / STORE
        server.kill()
        for folder in (server.folder, store):
            print(f"     rm -r {shlex.quote(str(folder))}", flush=True)
            shutil.rmtree(folder)
        self.act("The copy in the bucket is decrypted, and restored into the empty server")
        self.playbook(
            "database_restore_copy", "-e", f"target={ALL_LOST}", "-e", f"backup_store={COPIES}",
            "-e", f"to_server={EMPTY_SERVER}", "-e", f"approve={ALL_LOST}",
        )
        self.act("What its last lines leave to people: the application's password, and its new address")
        self.patiently(lambda: self.serve_from_empty_server(writer.login))
        self.playbook("health", "-e", f"target={APPLICATION}")
        return ["database_restore_copy", "health"], self.empty_server.login.at(writer.login.database)

    def serve_from_empty_server(self, before: Login) -> None:
        """Let the application in with the password that it has, and start it with the new server's port."""
        server = self.empty_server
        print(f"     psql -p {server.port} -c \"ALTER ROLE {before.user} LOGIN PASSWORD '…'\"", flush=True)
        with connect(server.login, "demo") as connection:
            secret = connection.pgconn.encrypt_password(
                before.password.encode(), before.user.encode(), b"scram-sha-256"
            )
            connection.execute(sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}").format(
                identifier(before.user), sql.Literal(secret.decode())
            ))
        file = self.lab.service_folder(APPLICATION) / "config.json"
        config = json.loads(file.read_text(encoding="utf-8"))
        config["database"]["port"] = server.port
        file.write_text(json.dumps(config, indent=2), encoding="utf-8")
        print(f"     {APPLICATION} is started again, with port {server.port}", flush=True)
        pid = self.lab.service_pid(APPLICATION)
        if pid:
            machine.send(pid, signal.SIGTERM)
            machine.wait_for(lambda: machine.has_ended(pid), WAIT_S)
        self.lab.await_service(APPLICATION, self.lab.start_service(APPLICATION))

    # -- the end ------------------------------------------------------------------------------------------------------

    def tell(self, recoveries: list[Recovery], targets: Targets) -> tuple[int, str]:
        """Print the table; returns the exit code and the closing words."""
        code = objectives.exit_code(recoveries, targets)
        colours = {objectives.MET: "32", objectives.MISSED: "31", objectives.UNMEASURED: "33"}
        heading, *lines = objectives.table(recoveries, targets)
        print(f"\n{paint('Measured beside the targets of the operations guide (B45)', '1;36')}")
        print(f"   {paint(heading, '1')}")
        for one, line in zip(recoveries, lines, strict=True):
            print(f"   {paint(line, colours[one.verdict(targets)])}")
        print(f"\n{HOW}", flush=True)
        reports = "\n".join(f"  {page}" for page in self.pages)
        return code, f"{'A target was missed.' if code else 'Every measured target was met.'} The reports:\n{reports}"

    def take_down(self) -> None:
        """End the clients and the keys' agent, then the lab."""
        for writer in self.writers.values():
            writer.stop()
        if self.key:
            with contextlib.suppress(OSError, subprocess.SubprocessError):  # the lab's end is the agent's too
                self.key.close()
        super().take_down()


if __name__ == "__main__":
    sys.exit(show(RecoveryDemo))
