# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The command line of the lab."""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import sys
import time
from collections.abc import Sequence

import psycopg
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError

from lab import COMMAND, REPOSITORY, data, faults
from lab.state import Lab, Row, lab_names
from lab.system import known_systems

BAD_INPUT = 2
# A lab's data are dumped and restored beside themselves.
FILLED = 0.25
REPORT_EVERY_S = 2.0
SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMGT]?)i?B?", re.IGNORECASE)
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
COLOURS = {"up": "32", "down": "31", "faulty": "33"}


class Parser(argparse.ArgumentParser):
    """One sentence for bad input, not a page of usage."""

    def error(self, message: str) -> None:  # type: ignore[override]
        """Say what is wrong and end with exit code 2."""
        print(f"lab: {message}. See: {COMMAND} --help", file=sys.stderr)
        sys.exit(BAD_INPUT)


def size(text: str) -> int:
    """Bytes from a text such as 500MB or 1.5GB."""
    found = SIZE.fullmatch(text.strip())
    if not found or float(found.group(1)) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 500MB or 1.5GB")
    return int(float(found.group(1)) * UNITS[found.group(2).upper()])


def parser() -> argparse.ArgumentParser:
    """All commands."""
    whole = Parser(prog=COMMAND, description="Real services on this machine that stand in for a system.")
    commands = whole.add_subparsers(dest="command", required=True, parser_class=Parser)

    def add(name: str, text: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=text, description=text)
        one.add_argument("--name", help="which lab; without it the only one, or the one named like the system")
        return one

    up = add("up", "start a lab, or what is missing of it")
    up.add_argument("system", help=f"one of {', '.join(known_systems())}")
    up.add_argument(
        "--archive", metavar="DATABASE", action="append", default=[],
        help="archive the WAL of this database's cluster, so that it can be recovered to a point in time",
    )
    down = add("down", "end a lab and take it away; its runs and their reports stay")
    down.add_argument("system", nargs="?", help="the lab named like this system")
    status = add("status", "what runs, and how it is")
    status.add_argument("system", nargs="?", help="the lab named like this system")
    broken = add("break", "let something go wrong")
    broken.add_argument("fault", metavar="FAULT", help=f"one of {', '.join(faults.FAULTS)}")
    broken.add_argument("host", nargs="?", help="an inventory host; without it the one of the orders or payments")
    mend = add("mend", "end all faults, or those of one host")
    mend.add_argument("host", nargs="?")
    fill = add("fill", "make the main database big")
    fill.add_argument("--bytes", type=size, default=data.DEFAULT_BYTES, help="such as 500MB (the default) or 1.5GB")
    fill.add_argument("--database", help="another database's inventory host")
    return whole


def _lab(arguments: argparse.Namespace) -> Lab:
    wanted = arguments.name or getattr(arguments, "system", None)
    if wanted:
        return Lab(wanted)
    names = lab_names()
    if len(names) != 1:
        raise RunbookError(
            f"There {'are the labs ' + ', '.join(names) if names else 'is no lab'}.",
            "Say which one with --name." if names else f"Start one: {COMMAND} up bakery_ia.",
        )
    return Lab(names[0])


def _say(text: str) -> None:
    print(text, flush=True)


def _table(rows: Sequence[Row]) -> str:
    cells = [("host", "kind", "state", "port", "pid", "")]
    cells += [(row.host, row.kind, row.state, str(row.port), str(row.pid or "-"), row.detail) for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = []
    for line in cells:
        padded = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        if sys.stdout.isatty() and line[2] in COLOURS:
            padded[2] = f"\033[{COLOURS[line[2]]}m{padded[2]}\033[0m"
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def _up(arguments: argparse.Namespace) -> int:
    lab = Lab(arguments.name or arguments.system)
    started = time.monotonic()
    lab.up(arguments.system, _say, arguments.archive)
    _say(f"The lab {lab.name} is up after {time.monotonic() - started:.1f} s. Work on it with:")
    _say(f"  .venv/bin/ansible-playbook {shlex.join(lab.inventory_arguments)} sre.runbooks.health")
    _say(f"Runs and their reports: {lab.runs.relative_to(REPOSITORY)}. Something to practise: {COMMAND} break --help")
    return 0


def _down(arguments: argparse.Namespace) -> int:
    lab = _lab(arguments)
    lab.down(_say)
    stays = f" Its runs and their reports stay: {lab.runs.relative_to(REPOSITORY)}" if lab.runs.exists() else ""
    _say(f"The lab {lab.name} is down, and its folder is gone.{stays}")
    return 0


def _status(arguments: argparse.Namespace) -> int:
    lab = _lab(arguments)
    rows = lab.status()
    good = sum(row.state == "up" for row in rows)
    _say(f"{lab.name}: {good} of {len(rows)} up. Inventory: {shlex.join(lab.inventory_arguments)}")
    _say(_table(rows))
    return 0 if good == len(rows) else 1


def _break(arguments: argparse.Namespace) -> int:
    _say(faults.start(_lab(arguments), arguments.fault, arguments.host))
    return 0


def _mend(arguments: argparse.Namespace) -> int:
    _say(faults.end(_lab(arguments), arguments.host))
    return 0


def _fill(arguments: argparse.Namespace) -> int:
    lab = _lab(arguments)
    database = arguments.database or lab.system.lab["main_database"]
    if database not in lab.system.hosts["databases"]:
        raise RunbookError(f"The lab {lab.name} has no database {database}.")
    free = shutil.disk_usage(lab.folder).free
    if arguments.bytes > free * FILLED:
        raise RunbookError(
            f"{arguments.bytes / 1e6:,.0f} MB are too much: {free / 1e6:,.0f} MB are free on the disk of {lab.folder}.",
            "Its backups and copies need room too: ask for at most a quarter of it.",
        )
    last = 0.0

    def report(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > REPORT_EVERY_S:
            last = time.monotonic()
            _say(f"{database}: {done / 1e6:.0f} of {total / 1e6:.0f} MB")

    started = time.monotonic()
    done = data.fill(lab.login(database, "application"), arguments.bytes, report)
    _say(f"{database} has {done / 1e6:.0f} MB of data after {time.monotonic() - started:.1f} s")
    return 0


COMMANDS = {"up": _up, "down": _down, "status": _status, "break": _break, "mend": _mend, "fill": _fill}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command: exit code 0, 1 when it failed, 2 for bad input."""
    arguments = parser().parse_args(argv)
    try:
        return COMMANDS[arguments.command](arguments)
    except RunbookError as error:
        print(f"lab: {error}", file=sys.stderr)
        return BAD_INPUT
    except (OSError, psycopg.Error) as error:
        print(f"lab: {arguments.command} failed: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"lab: interrupted; go on with the same command, or take it away: {COMMAND} down", file=sys.stderr)
        return 130
