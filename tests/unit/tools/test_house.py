# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The sets of requirements, the make targets, and the benchmark harness."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks import harness
from tools import heartbeat
from tools.repository import ROOT

MAKE = shutil.which("make") or "make is not installed"
SLEEP = [sys.executable, "-c", "import time; time.sleep(0.3)"]


def pinned(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text(encoding="utf-8").split()
    return dict(line.split("==") for line in lines)


def test_the_sets_of_requirements_are_pinned_and_contain_each_other() -> None:
    """One virtual environment serves both: the demo has nothing to install after the tests, and the other way round."""
    runtime, demo, tests = (pinned(f"requirements{name}.txt") for name in ("", "-demo", "-test"))
    assert runtime.items() <= demo.items() <= tests.items()


def test_make_alone_explains_itself() -> None:
    done = subprocess.run([MAKE], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in (
        "demo", "demo-recovery", "test", "lint", "bench", "lab-up", "lab-down", "build", "lock", "docs", "clean",
    ):
        assert f"make {target} " in done.stdout


def test_a_python_that_is_too_old_is_refused_with_one_sentence(tmp_path: Path) -> None:
    for name in ("python3", "python3.13", "python3.12", "python3.11"):
        (tmp_path / name).write_text("#!/bin/sh\nexit 127\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        [MAKE, f"VENV={tmp_path}/venv", "dev"], cwd=ROOT, capture_output=True, text=True, check=False,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
    )
    assert done.returncode != 0
    assert "No Python 3.11 or newer" in done.stderr


def test_a_silent_command_is_said_to_be_running(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(heartbeat, "SILENCE_S", 0.05)
    assert heartbeat.run("Waiting", SLEEP) == 0
    said = capsys.readouterr().out
    assert said.startswith("Waiting …\n  … 0 s\n")


def test_a_command_that_fails_is_named_with_its_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert heartbeat.run("Trying", [sys.executable, "-c", "raise SystemExit(3)"]) == 3
    assert "ended with exit code 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "at_most", "at_least", "expected"),
    [(1.2, 1.3, None, True), (1.4, 1.3, None, False), (6, None, 6, True), (5.9, None, 6, False), (9, None, None, None)],
)
def test_a_bound_is_kept_or_missed(
    value: float, at_most: float | None, at_least: float | None, expected: bool | None
) -> None:
    assert harness.judge(value, at_most, at_least) is expected


def test_a_benchmark_runs_both_in_turn_and_takes_what_they_return(tmp_path: Path) -> None:
    calls: list[str] = []

    def run(name: str, figure: float) -> float:
        calls.append(name)
        return figure

    bench = harness.Bench("example", tmp_path)
    ratio = bench.compare("x", ours=lambda: run("ours", 2.0), raw=lambda: run("raw", 8.0), at_least=3, runs=3)
    assert ratio == 4
    assert calls == ["ours", "raw", "raw", "ours", "ours", "raw"]
    assert bench.rows[0]["passed"] is True
    assert "| x | 4.00 × | at least 3 | holds | 2.00 | 8.00 |" in harness.render({"machine": {}, "rows": bench.rows})
