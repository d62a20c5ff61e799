# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the demos have in common: how an act looks, a lab that is taken down whatever happens, one at a time.

A lab of the demo's own is started, and every command is shown as a person would type it; what stays is the folder of
the runs with their reports. Each user has one demo at a time: two would measure each other.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar, TypeVar

import psycopg
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError

from lab import COMMAND, REPOSITORY, machine
from lab.state import Lab

SYSTEM = "bakery_ia"
Result = TypeVar("Result")
HEARTBEAT_S = 4.0
END_S = 10.0
PLAYBOOK = "ansible-playbook"
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


class Stage:
    """The acts of a demo, in their order: a subclass has them in `run`."""

    NAME: ClassVar[str]
    # Further files of the inventory, in the lab's folder.
    OVERLAYS: ClassVar[tuple[str, ...]] = ("overlay.yml",)

    def __init__(self) -> None:
        self.lab = Lab(self.NAME)
        files = [f"inventories/{SYSTEM}/hosts.yml", *[f".lab/{self.NAME}/{name}" for name in self.OVERLAYS]]
        self.inventory = [word for file in files for word in ("-i", file)]
        self.started = time.monotonic()
        self.act_number = 0
        self.child: subprocess.Popen[str] | None = None
        # The name with which the first run's folder can begin.
        self.first_run = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")

    def run(self) -> tuple[int, str]:
        """All acts; returns the exit code, and what is to be said when the lab is gone.

        Raises:
            DemoError: an act did not end as it should.
        """
        raise NotImplementedError

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
        shown = ".venv/bin/" + shlex.join(argv).replace(shlex.join(self.inventory), "$LAB")
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
        return self.command(PLAYBOOK, *self.inventory, f"sre.runbooks.{name}", *arguments, expect=expect)

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

    def patiently(self, work: Callable[[], Result]) -> Result:
        """Do what says nothing itself, and show that it still goes on."""
        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(work)
            while not wait([done], timeout=HEARTBEAT_S).done:
                with contextlib.suppress(OSError):  # the terminal may be gone, the work must end all the same
                    print(paint("     …", "2"), flush=True)
            return done.result()

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

    # -- begin and end ------------------------------------------------------------------------------------------------

    def up(self, *arguments: str) -> None:
        """Start the lab, after what an earlier demo that was cut off left of one."""
        if self.lab.exists:
            self.act("An earlier demo was cut off: its lab is taken away first")
            self.patiently(self.end_playbooks)
            self.command("python", "-m", "lab", "down", "--name", self.NAME)
        self.act("The platform is started")
        self.command("python", "-m", "lab", "up", SYSTEM, "--name", self.NAME, *arguments)
        print(f"\n   In the commands below, LAB=\"{shlex.join(self.inventory)}\"", flush=True)

    def end_playbooks(self) -> None:
        """End what a demo that was killed left running: it would go on in a lab of the same name."""
        place = f".lab/{self.NAME}/"
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(FileNotFoundError):
                if entry.name.isdigit() and entry.stat().st_uid == os.geteuid() and all(
                    machine.is_running(int(entry.name), word) for word in (PLAYBOOK, place)
                ):
                    end_family(int(entry.name))

    def afterwards(self) -> str:
        """What is left on the disk, and what somebody who saw the demo can do next."""
        return "\n".join([
            "  The commands in a report, such as the one to undo, name the demo's lab, which is gone.",
            f"On disk stay {self.lab.runs.relative_to(REPOSITORY)} and the servers' programs in "
            f"{machine.state_root()}.",
            f"Next, practise: make lab-up SYSTEM={SYSTEM} (lab/README.md). For a platform of your own: "
            "docs/starting.md",
        ])

    def down(self) -> None:
        """End what runs and take the lab away; the runs and their reports stay."""
        with contextlib.suppress(OSError):
            print(f"\n{paint('The lab is taken down.', '2')}", flush=True)
        self.patiently(self.take_down)

    def take_down(self) -> None:
        """What `down` does, in silence."""
        if self.child and self.child.poll() is None:
            end_family(self.child.pid)
        if self.lab.exists:
            self.lab.down(lambda _text: None)


def descendants(pid: int) -> list[int]:
    """All processes that this one started, and those that they did."""
    children = machine.children_of(pid)
    return [*children, *[one for child in children for one in descendants(child)]]


def end_family(pid: int) -> None:
    """End a process, and what it started: a module outlives its playbook, while its servers are taken away."""
    family = [pid, *descendants(pid)]
    machine.send(pid, signal.SIGTERM)
    machine.wait_for(lambda: machine.has_ended(pid), END_S)
    for one in family:
        if not machine.has_ended(one):
            machine.send(one, signal.SIGKILL)


@contextlib.contextmanager
def only_demo() -> Iterator[None]:
    """Keep a second demo of this user away while one runs: it would disturb or measure the first one.

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


def show(stage: type[Stage]) -> int:
    """Show a demo: 0 when every act ended as it should; 130 after Ctrl-C."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    for number in INTERRUPTS:
        signal.signal(number, interrupt)
    try:
        with only_demo():
            return play(stage())
    except (DemoError, RunbookError) as error:
        print(error, file=sys.stderr)
        return 1


def play(stage: Stage) -> int:
    """All acts, and the lab down again whatever happened; returns the exit code."""
    code, last = 1, "The demo stopped: something in it is broken, see above."
    try:
        code, last = stage.run()
        last = f"{last}\n{stage.afterwards()}"
    except KeyboardInterrupt:
        code, last = 130, "The demo was interrupted."
    except (DemoError, RunbookError, psycopg.Error, OSError) as error:
        last = f"The demo stopped: {' '.join(str(error).split())}\nThe records of its runs: {stage.lab.runs}"
    finally:
        for number in INTERRUPTS:  # a second Ctrl-C would leave servers behind
            signal.signal(number, signal.SIG_IGN)
        try:
            stage.down()
        except (RunbookError, OSError) as error:
            code = code or 1
            last = f"{last}\nThe lab could not be taken down: {error} Try: {COMMAND} down --name {stage.NAME}"
    print(f"\n{last}", file=sys.stdout if code == 0 else sys.stderr, flush=True)
    return code
