# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""`make demo`: the whole path on this machine, with the commands that a person would type.

A lab of its own is started, measured, backed up, proven, damaged, brought back and taken down again; what stays is the
folder of the runs with their reports. Each user has one demo at a time.
"""

from __future__ import annotations

import contextlib
import http.client
import sys
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlsplit

from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import connect
from ansible_collections.sre.runbooks.plugins.module_utils.run.words import amount

from lab.stage import Stage, paint, show

DATABASE = "orders-db"
SERVICE = "orders-service"
BYTES = "500MB"
# How often the client asks the service whether it is there: the resolution of the outage.
ASK_EVERY_S = 0.02


class Client:
    """Somebody who uses the service all the time: asks every 20 ms, and knows for how long it got no answer."""

    def __init__(self, url: str) -> None:
        self.address = urlsplit(url).netloc
        self.outage_s = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def __enter__(self) -> Client:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        self._thread.join()

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection(self.address, timeout=5)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/version")
            return connection.getresponse().status == http.client.OK
        return False

    def _ask(self) -> None:
        failed_at = None
        while not self._over.is_set():
            asked_at = time.monotonic()
            if self._answers():
                if failed_at is not None:
                    self.outage_s = max(self.outage_s, time.monotonic() - failed_at)
                failed_at = None
            elif failed_at is None:
                failed_at = asked_at
            self._over.wait(ASK_EVERY_S)
        if failed_at is not None:
            self.outage_s = max(self.outage_s, time.monotonic() - failed_at)


@dataclass(frozen=True)
class Rows:
    """What the orders database holds."""

    count: int
    newest: datetime | None


class Demo(Stage):
    """The acts, in their order."""

    NAME = "demo"

    # -- what is measured ---------------------------------------------------------------------------------------------

    def rows(self, until: datetime | None = None) -> Rows:
        """How many orders there are (written until then), and when the newest was written."""
        with connect(self.lab.login(DATABASE, "application"), "demo") as connection:
            found = connection.execute(
                "SELECT count(*) AS count, max(created_at) AS newest FROM orders"
                " WHERE created_at <= coalesce(%s, now())",
                [until],
            ).fetchone()
        return Rows(found["count"], found["newest"])

    # -- the play -----------------------------------------------------------------------------------------------------

    def run(self) -> tuple[int, str]:
        """All acts; the last one measures."""
        print("This machine now plays a bakery platform: 18 services, 14 PostgreSQL servers, and one more for drills,\n"
              "and a Redis, all real.")
        self.up()

        self.act(f"The orders get {BYTES} of data, so that a restore is worth measuring")
        self.command("python", "-m", "lab", "fill", "--name", self.NAME, "--bytes", BYTES)

        self.act("How is the platform? Every service, database and cache is measured at once")
        self.playbook("health")

        self.act("All 14 databases are backed up, each in one snapshot, with a manifest of every row count")
        self.playbook("database_backup", "-e", "target=databases", "-e", "expect=14")

        self.act("A backup is only believed after a restore: the one of the orders is restored into a scratch database")
        self.playbook("backup_verify", "-e", f"target={DATABASE}")

        before = self.rows()
        self.act("Somebody makes a mistake: a migration drops the orders")
        destroyed_at = datetime.now(UTC)
        self.command("python", "-m", "lab", "break", "drop-table", "--name", self.NAME)
        destroyed = time.monotonic()

        self.act("The health sweep says so, and its exit code does")
        self.playbook("health", expect=(2,))

        self.act("One playbook brings the orders back; the service is away for seconds, not for the whole restore")
        with Client(self.lab.url(SERVICE)) as client:
            self.playbook("database_restore", "-e", f"target={DATABASE}", "-e", f"approve={DATABASE}")
        recovered_s = time.monotonic() - destroyed
        after = self.rows(until=destroyed_at)

        self.act("How is the platform now?")
        self.playbook("health")

        page, data = self.report("database_restore")
        self.tell(client.outage_s, recovered_s, destroyed_at, before, after, data)
        return 0, f"The report: {page}"

    def tell(
        self, outage_s: float, recovered_s: float, destroyed_at: datetime, before: Rows, after: Rows,
        data: dict[str, object],
    ) -> None:
        """The table of what was measured."""
        lost = max(0, before.count - after.count)
        lost_s = (destroyed_at - after.newest).total_seconds() if after.newest else 0.0
        lines = [
            ("outage: the service gave its client no answer", f"{outage_s:.1f} s"),
            ("orders lost: written between backup and mistake", f"{lost:,} of {before.count:,}"),
            ("the newest order that came back is older than the mistake by", f"{lost_s:.0f} s"),
            ("from the mistake to orders that are back", f"{recovered_s:.0f} s"),
        ]
        for one in measures_of(data):
            objective = f", objective {amount(one['objective'], one['unit'])}" if one.get("objective") else ""
            name = str(one["name"]).replace("_", " ")
            lines.append((f"as the report counts: {name}{objective}", amount(one["value"], one["unit"])))
        width = max(len(name) for name, _value in lines)
        print(f"\n{paint('What was measured', '1;36')}")
        for name, value in lines:
            print(f"   {name.ljust(width)}  {paint(value, '1')}")


def measures_of(data: object) -> list[dict[str, object]]:
    """All records of the kind measure in a report, wherever its form keeps them."""
    if isinstance(data, dict):
        if {"name", "value", "unit"} <= set(data):
            return [data]
        return [one for key, value in data.items() if key != "checks" for one in measures_of(value)]
    if isinstance(data, list):
        return [one for value in data for one in measures_of(value)]
    return []


if __name__ == "__main__":
    sys.exit(show(Demo))
