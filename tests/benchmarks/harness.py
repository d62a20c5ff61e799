# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Figures against the raw tool, measured in the same run: `make bench`, or `make bench ONLY="sweep backup"`.

A benchmark is a function `bench_*(bench: Bench) -> None` in a file `tests/benchmarks/bench_*.py`:

    def bench_backup(bench: Bench) -> None:
        with PostgresServer(bench.folder / "source") as server:
            fill(server)
            bench.compare("pg_backup against pg_dump -Fd -j2", ours=lambda: backup(server), raw=lambda: dump(server),
                          at_most=1.25)                       # ours takes at most 1.25 × raw
            bench.compare("… against pg_dump | gzip", ours=…, raw=…, at_least=2)  # raw takes at least 2 × ours
            bench.measure("Peak memory of pg_backup", lambda: peak_mib(server), unit="MiB", at_most=150)
            bench.note("Service outage through its consumer", 2.1, unit="s")      # stated, not judged

`compare` and `measure` run everything `runs` times (5), interleaved (ours, raw, ours, raw, …, the order turned each
round), and take medians. What a function returns, if it is a number, counts instead of its wall clock time in seconds,
so that preparation stays out of a figure. `each=` is called before every single run, untimed.

Rows are kept in build/benchmarks.json (a function that runs again replaces its rows), and docs/benchmarks.md is made
from all of them. The exit code is 1 when a bound does not hold; timings are judged here and in no test.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import inspect
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from lab.machine import state_root
from lab.postgresql import bin_directory

REPOSITORY = Path(__file__).resolve().parents[2]
RESULTS = REPOSITORY / "build" / "benchmarks.json"
PAGE = REPOSITORY / "docs" / "benchmarks.md"
RUNS = 5
# A bar within a cell of a table.
BAR = "\\|"

Timed = Callable[[], object]


def seconds_of(function: Timed) -> float:
    """One run: the number that the function returns, else its wall clock time in seconds."""
    started = time.perf_counter()
    returned = function()
    taken = time.perf_counter() - started
    return float(returned) if isinstance(returned, int | float) and not isinstance(returned, bool) else taken


def interleaved(functions: list[Timed], runs: int, each: Timed | None = None) -> list[list[float]]:
    """Run all functions `runs` times in turn, so that the machine's moods hit all alike; each one's figures."""
    figures: list[list[float]] = [[] for _unused in functions]
    for round_ in range(runs):
        order = range(len(functions)) if round_ % 2 == 0 else reversed(range(len(functions)))
        for index in order:
            if each:
                each()
            figures[index].append(seconds_of(functions[index]))
        print("    " + "  ".join(f"{row[-1]:.3f}" for row in figures), flush=True)
    return figures


def judge(value: float, at_most: float | None, at_least: float | None) -> bool | None:
    """Whether the bounds hold; None when there is none."""
    if at_most is None and at_least is None:
        return None
    return (at_most is None or value <= at_most) and (at_least is None or value >= at_least)


class Bench:
    """What a benchmark function is given.

    Attributes:
        folder: empty, below the lab's state folder, where servers of the lab can run; removed afterwards.
        rows: what was measured so far.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.rows: list[dict[str, object]] = []

    def compare(
        self,
        name: str,
        ours: Timed,
        raw: Timed,
        *,
        at_most: float | None = None,
        at_least: float | None = None,
        runs: int = RUNS,
        each: Timed | None = None,
    ) -> float:
        """Measure ours against raw. `at_most` bounds ours / raw (overhead), `at_least` bounds raw / ours (gain).

        Returns:
            The ratio of the medians that the bound is about.
        """
        print(f"  {name}: ours, raw (s), {runs} rounds", flush=True)
        figures = interleaved([ours, raw], runs, each)
        ours_s, raw_s = (statistics.median(row) for row in figures)
        ratio = raw_s / ours_s if at_least is not None else ours_s / raw_s
        form = "raw ÷ ours" if at_least is not None else "ours ÷ raw"
        self._keep(name, value=ratio, unit=form, at_most=at_most, at_least=at_least, ours=ours_s, raw=raw_s, runs=runs)
        return ratio

    def measure(
        self,
        name: str,
        ours: Timed,
        *,
        unit: str = "s",
        at_most: float | None = None,
        at_least: float | None = None,
        runs: int = RUNS,
        each: Timed | None = None,
    ) -> float:
        """Measure one thing that has no raw tool to compare with; returns the median."""
        print(f"  {name}: {unit}, {runs} rounds", flush=True)
        value = statistics.median(interleaved([ours], runs, each)[0])
        self._keep(name, value=value, unit=unit, at_most=at_most, at_least=at_least, runs=runs)
        return value

    def note(self, name: str, value: float, unit: str) -> None:
        """State a figure that nothing bounds."""
        self._keep(name, value=value, unit=unit, at_most=None, at_least=None, runs=1)

    def _keep(self, name: str, *, value: float, at_most: float | None, at_least: float | None, **rest: object) -> None:
        passed = judge(value, at_most, at_least)
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        row = {"bench": self.name, "name": name, "value": value, "at_most": at_most, "at_least": at_least,
               "passed": passed, "measured_at": now, **rest}
        self.rows.append(row)
        print(f"    {figure(row)} {bound(row)} {verdict(row)}", flush=True)


def figure(row: dict[str, object]) -> str:
    """The value with its unit, as a person reads it."""
    value = row["value"]
    digits = 0 if value >= 100 else 2 if value >= 0.1 else 4
    unit = "×" if "÷" in str(row["unit"]) else row["unit"]
    return f"{value:.{digits}f} {unit}"


def bound(row: dict[str, object]) -> str:
    """The bound in words; empty without one."""
    return ", ".join(f"{key.replace('_', ' ')} {row[key]:g}" for key in ("at_most", "at_least") if row[key] is not None)


def verdict(row: dict[str, object]) -> str:
    """Whether the bound holds."""
    return {None: "stated", True: "holds", False: "MISSED"}[row["passed"]]


def machine() -> dict[str, str]:
    """Where the figures come from."""
    cpu = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    model = re.search(r"^model name\s*: (.+)$", cpu, re.MULTILINE)
    memory_kib = int(Path("/proc/meminfo").read_text(encoding="utf-8").split("MemTotal:")[1].split()[0])
    server = subprocess.run([bin_directory() / "postgres", "--version"], capture_output=True, text=True, check=True)
    libraries = [f"{name} {version(name)}" for name in ("ansible-core", "psycopg")]
    return {
        "Machine": f"{os.cpu_count()} × {model[1] if model else platform.machine()}, {memory_kib / 2**20:.0f} GiB",
        "System": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "Versions": ", ".join([*libraries, server.stdout.strip()]),
    }


def render(results: dict[str, object]) -> str:
    """docs/benchmarks.md."""
    lines = [
        "<!-- Made by `make bench`; edit tests/benchmarks instead. -->",
        "# Benchmarks",
        "",
        "Medians of interleaved runs, ours and the raw tool in turn on the same machine and the same data. The",
        "ratios are what is promised; the seconds belong to this machine.",
        "",
        *(f"- **{key}**: {value}" for key, value in results["machine"].items()),
        "",
        "| what | figure | bound | | ours, s | raw, s | runs | measured |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(results["rows"], key=lambda row: row["bench"]):
        times = " | ".join(f"{row[key]:.2f}" if key in row else "" for key in ("ours", "raw"))
        name = str(row["name"]).replace("|", BAR)
        lines.append(
            f"| {name} | {figure(row)} | {bound(row)} | {verdict(row)} | {times} | {row['runs']} |"
            f" {row['measured_at'][:10]} |"
        )
    return "\n".join([*lines, ""])


def find(only: list[str]) -> list[tuple[str, Callable[[Bench], None]]]:
    """All benchmark functions, or those of the named files (`sweep` for bench_sweep.py)."""
    found = []
    for path in sorted(Path(__file__).parent.glob("bench_*.py")):
        name = path.stem.removeprefix("bench_")
        if only and name not in only:
            continue
        module = importlib.import_module(f"tests.benchmarks.{path.stem}")
        for attribute, function in inspect.getmembers(module, inspect.isfunction):
            if attribute.startswith("bench_") and function.__module__ == module.__name__:
                found.append((name, function))
    return found


def main() -> int:
    """Run, keep, render; 1 when a bound does not hold."""
    parser = argparse.ArgumentParser(description="Measure against the raw tools.")
    parser.add_argument("only", nargs="*", help="files to run: sweep for bench_sweep.py")
    parser.add_argument("--render", action="store_true", help="only write the page from build/benchmarks.json")
    arguments = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": []}
    for name, function in [] if arguments.render else find(arguments.only):
        print(f"{name}: {function.__name__}", flush=True)
        folder = state_root() / f"bench-{os.getpid()}-{name}"
        folder.mkdir(mode=0o711)
        bench = Bench(f"{name}.{function.__name__}", folder)
        try:
            function(bench)
        finally:
            shutil.rmtree(folder)
        results["rows"] = [row for row in results["rows"] if row["bench"] != bench.name] + bench.rows
        results["machine"] = machine()
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(results, indent=2))
    if not results["rows"]:
        print("Nothing was measured: there is no such benchmark below tests/benchmarks.", file=sys.stderr)
        return 1
    PAGE.write_text(render(results), encoding="utf-8")
    print()
    for row in results["rows"]:
        print(f"{figure(row):>14}  {bound(row):<14} {verdict(row):<7} {row['name']}")
    print(f"\n{PAGE.relative_to(REPOSITORY)}")
    return 1 if any(row["passed"] is False for row in results["rows"]) else 0


if __name__ == "__main__":
    sys.exit(main())
