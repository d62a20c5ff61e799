# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""`make demo`: the whole path on this machine, with the commands that a person would type.

A lab of its own is started, measured, backed up, proven, damaged, brought back and taken down again; what stays is the
folder of the runs with their reports. Each user has one demo at a time.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import connect
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.words import amount

from lab import COMMAND, REPOSITORY, machine
from lab.state import Lab

SYSTEM = "bakery_ia"
NAME = "demo"
INVENTORY = ("-i", f"inventories/{SYSTEM}/hosts.yml", "-i", f".lab/{NAME}/overlay.yml")
DATABASE = "orders-db"
SERVICE = "orders-service"
BYTES = "500MB"
# How often the client asks the service whether it is there: the resolution of the outage.
ASK_EVERY_S = 0.02
HEARTBEAT_S = 4.0
INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
BIN = Path(sys.executable).parent
# What Ansible prints around our own lines.
CHATTER = re.compile(
    r"(ok|changed|skipping): \[|included: |PLAY (RECAP|\[)|\S+ +: ok=\d|\s*$"
    # Where in which file a task failed, and its result as JSON: the error above them has said it in words.
    r"|Origin: |\d+ (---|- name: |  )| +\^ column \d|fatal: \["
)
HEADING = re.compile(r"(?:TASK|RUNNING HANDLER) \[(?:\S+ : )?(.*)\] \**$")


class DemoError(Exception):
    """An act did not end as it should; the text is one sentence."""


def paint(text: str, colour: str) -> str:
    """The text in a terminal's colour; plain where nobody sees colours."""
    return f"\033[{colour}m{text}\033[0m" if sys.stdout.isatty() and "NO_COLOR" not in os.environ else text


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


class Demo:
    """The acts, in their order."""

    def __init__(self) -> None:
        self.lab = Lab(NAME)
        self.started = time.monotonic()
        self.act_number = 0
        self.child: subprocess.Popen[str] | None = None
        self.summary: list[tuple[str, str]] = []
        # The name with which the first run's folder can begin.
        self.first_run = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")

    # -- how an act looks ---------------------------------------------------------------------------------------------

    def act(self, text: str) -> None:
        """Say what happens next."""
        self.act_number += 1
        elapsed = time.monotonic() - self.started
        print(f"\n{paint(f'{self.act_number}. {text}', '1;36')}  {paint(f'(after {elapsed:.0f} s)', '2')}", flush=True)

    def command(self, *argv: str, expect: tuple[int, ...] = (0,)) -> int:
        """Show a command as a person would type it, run it, and show what it says.

        Raises:
            DemoError: it ended with another exit code than expected.
        """
        shown = ".venv/bin/" + shlex.join(argv).replace(shlex.join(INVENTORY), "$LAB")
        print(f"   {paint('$ ' + shown, '1')}", flush=True)
        program = [sys.executable, *argv[1:]] if argv[0] == "python" else [str(BIN / argv[0]), *argv[1:]]
        environment = {**os.environ, "ANSIBLE_FORCE_COLOR": "false", "ANSIBLE_NOCOLOR": "true", "PYTHONUNBUFFERED": "1",
                       "ANSIBLE_CONFIG": str(REPOSITORY / "ansible.cfg"), "PATH": f"{BIN}:{os.environ.get('PATH', '')}"}
        self.child = subprocess.Popen(
            program, cwd=REPOSITORY, env=environment, text=True, encoding="utf-8", errors="replace",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        tail = self._show(self.child)
        code = self.child.wait()
        self.child = None
        if code not in expect:
            raise DemoError(f"The command `{shown}` ended with exit code {code}: {tail}")
        if code:
            print(f"   {paint(f'Exit code {code}: as it should be, something is wrong.', '33')}", flush=True)
        return code

    def playbook(self, name: str, *arguments: str, expect: tuple[int, ...] = (0,)) -> int:
        """Run a playbook of the collection against the lab."""
        return self.command("ansible-playbook", *INVENTORY, f"sre.runbooks.{name}", *arguments, expect=expect)

    def _show(self, child: subprocess.Popen[str]) -> str:
        """Print what the child says, without the chatter; returns its last line.

        A task's name is printed when something is said under it, or when it takes long.
        """
        spoken = time.monotonic()
        over = threading.Event()
        task = ""

        def heartbeat() -> None:
            nonlocal spoken, task
            while not over.wait(0.5):
                if time.monotonic() - spoken > HEARTBEAT_S:
                    spoken = time.monotonic()
                    print(paint(f"   · {task}" if task else "     …", "2"), flush=True)
                    task = ""

        thread = threading.Thread(target=heartbeat, daemon=True)
        thread.start()
        last = "it said nothing"
        reports: set[str] = set()  # each of fourteen targets names the one report of their run
        try:
            for line in child.stdout or ():
                heading = HEADING.match(line)
                if heading:
                    task = "" if heading[1].startswith("Validating arguments") else heading[1]
                elif not CHATTER.match(line) and line not in reports:
                    last = line.strip()
                    if last.startswith("Report:"):
                        reports.add(line)
                    above = paint(f"   · {task}\n", "2") if task else ""
                    task = ""
                    print(f"{above}     {line.rstrip()}", flush=True)
                    spoken = time.monotonic()
        finally:
            over.set()
            thread.join()
        return last

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

    def report(self, runbook: str) -> tuple[Path, dict[str, object]]:
        """The newest report of a runbook in this demo: its page, and its data.

        Raises:
            DemoError: there is none.
        """
        reports = sorted(self.lab.runs.glob(f"*-{runbook}-*/report.json"))
        found = [path for path in reports if path.parent.name >= self.first_run]
        if not found:
            raise DemoError(f"{runbook} left no report below {self.lab.runs}.")
        return found[-1].with_name("report.html"), json.loads(found[-1].read_text(encoding="utf-8"))

    # -- the play -----------------------------------------------------------------------------------------------------

    def run(self) -> Path:
        """All acts; returns the place of the restore's report."""
        print("This machine now plays a bakery platform: 18 services, 14 PostgreSQL servers, and one more for drills,\n"
              "and a Redis, all real.")
        if self.lab.exists:
            self.act("An earlier demo was cut off: its lab is taken away first")
            self.command("python", "-m", "lab", "down", "--name", NAME)
        self.act("The platform is started")
        self.command("python", "-m", "lab", "up", SYSTEM, "--name", NAME)
        print(f"\n   In the commands below, LAB=\"{shlex.join(INVENTORY)}\"", flush=True)

        self.act(f"The orders get {BYTES} of data, so that a restore is worth measuring")
        self.command("python", "-m", "lab", "fill", "--name", NAME, "--bytes", BYTES)

        self.act("How is the platform? Every service, database and cache is measured at once")
        self.playbook("health")

        self.act("All 14 databases are backed up, each in one snapshot, with a manifest of every row count")
        self.playbook("database_backup", "-e", "target=databases", "-e", "expect=14")

        self.act("A backup is only believed after a restore: the one of the orders is restored into a scratch database")
        self.playbook("backup_verify", "-e", f"target={DATABASE}")

        before = self.rows()
        self.act("Somebody makes a mistake: a migration drops the orders")
        destroyed_at = datetime.now(UTC)
        self.command("python", "-m", "lab", "break", "drop-table", "--name", NAME)
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
        return page

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
        for one in _measures(data):
            objective = f", objective {amount(one['objective'], one['unit'])}" if one.get("objective") else ""
            name = str(one["name"]).replace("_", " ")
            lines.append((f"as the report counts: {name}{objective}", amount(one["value"], one["unit"])))
        width = max(len(name) for name, _value in lines)
        print(f"\n{paint('What was measured', '1;36')}")
        for name, value in lines:
            print(f"   {name.ljust(width)}  {paint(value, '1')}")

    def down(self) -> None:
        """End what runs and take the lab away; the runs and their reports stay."""
        for number in INTERRUPTS:  # a second Ctrl-C would leave servers behind
            signal.signal(number, signal.SIG_IGN)
        if self.child and self.child.poll() is None:
            self.child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.child.wait(10)
        if self.lab.exists:
            with contextlib.suppress(OSError):  # the terminal may be gone, the lab must go all the same
                print(f"\n{paint('The lab is taken down.', '2')}", flush=True)
            self.lab.down(lambda _text: None)


def _measures(data: object) -> list[dict[str, object]]:
    """All records of the kind measure in a report, wherever its form keeps them."""
    if isinstance(data, dict):
        if {"name", "value", "unit"} <= set(data):
            return [data]
        return [one for key, value in data.items() if key != "checks" for one in _measures(value)]
    if isinstance(data, list):
        return [one for value in data for one in _measures(value)]
    return []


@contextlib.contextmanager
def only_demo() -> Iterator[None]:
    """Keep a second demo of this user away while one runs: it would take the first one's lab for a leftover.

    Raises:
        DemoError: another demo runs.
    """
    place = machine.state_root() / "demo.lock"
    with open(place, "a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise DemoError(f"A demo of yours is running already ({lock.read()}). Wait for it, or end it.") from error
        lock.truncate(0)
        lock.write(f"process {os.getpid()} in {REPOSITORY}")
        lock.flush()
        yield


def main() -> int:
    """0 when every act ended as it should; 130 after Ctrl-C."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    for number in INTERRUPTS:
        signal.signal(number, interrupt)
    try:
        with only_demo():
            return play(Demo())
    except (DemoError, RunbookError) as error:
        print(error, file=sys.stderr)
        return 1


def afterwards(lab: Lab) -> str:
    """What is left on the disk, and what somebody who saw the demo can do next."""
    return "\n".join([
        "  The commands in it, such as the one to undo, name the demo's lab, which is gone.",
        f"On disk stay {lab.runs.relative_to(REPOSITORY)} and the servers' programs in {machine.state_root()}.",
        f"Next, practise: make lab-up SYSTEM={SYSTEM} (lab/README.md). For a platform of your own: docs/starting.md",
    ])


def play(demo: Demo) -> int:
    """All acts, and the lab down again whatever happened; returns the exit code."""
    code, last = 1, "The demo stopped: something in it is broken, see above."
    try:
        last = f"The report: {demo.run()}\n{afterwards(demo.lab)}"
        code = 0
    except KeyboardInterrupt:
        code, last = 130, "The demo was interrupted."
    except (DemoError, RunbookError, psycopg.Error, OSError) as error:
        last = f"The demo stopped: {' '.join(str(error).split())}\nThe records of its runs: {demo.lab.runs}"
    finally:
        try:
            demo.down()
        except (RunbookError, OSError) as error:
            code = code or 1
            last = f"{last}\nThe lab could not be taken down: {error} Try: {COMMAND} down --name {NAME}"
    print(f"\n{last}", file=sys.stdout if code == 0 else sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
