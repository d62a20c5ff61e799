# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Child processes: argument lists, secrets through the environment, a time-out always, killed with the run."""

from __future__ import annotations

import contextlib
import ctypes
import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError

PR_SET_PDEATHSIG = 1
POLL_S = 0.05
# A child that was asked to end has this long before it is killed.
GRACE_S = 5.0
TAIL_LINES = 12
# Error messages quote the end of a stream, never the whole of it.
TAIL_BYTES = 16384
# What is read from a stream at once.
PIECE_BYTES = 1 << 18
# libpq takes a service of the caller's before the host and port that it is given beside it.
NOT_INHERITED = ("PGSERVICE",)
# What PostgreSQL's client programs pass on from the server. DETAIL, CONTEXT and "Command was" are not among it: they
# quote rows.
SERVER_WORDS = ("ERROR:", "FATAL:", "PANIC:", "HINT:")


@dataclass(frozen=True)
class Completed:
    """How a child ended."""

    argv: tuple[str, ...]
    returncode: int
    stdout: str
    stderr_tail: str
    duration_s: float

    @property
    def ending(self) -> str:
        """How it ended, in words that follow the program's name."""
        if self.returncode >= 0:
            return f"ended with exit code {self.returncode}"
        return f"was killed by signal {-self.returncode}"


def _die_with_parent() -> None:
    """Ask Linux to kill this child when its parent dies, so that a killed module leaves no orphan at work."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def own_words(program: str, lines: Sequence[str]) -> list[str]:
    """What a program says itself: where lines begin with its name, the others quote what it works on, such as rows."""
    own = [line for line in lines if line.startswith((f"{program}: ", *SERVER_WORDS))]
    return own if any(line.startswith(f"{program}: ") for line in own) else list(lines)


def _tail(stream: object, program: str) -> str:
    size = stream.seek(0, os.SEEK_END)  # type: ignore[attr-defined]
    stream.seek(max(0, size - TAIL_BYTES))  # type: ignore[attr-defined]
    lines = stream.read().decode("utf-8", "replace").strip().splitlines()  # type: ignore[attr-defined]
    return "\n".join(own_words(program, lines)[-TAIL_LINES:])


def _end(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def run(
    argv: Sequence[str],
    *,
    timeout_s: float,
    secrets: Mapping[str, str] | None = None,
    while_waiting: Callable[[], None] | None = None,
    check: bool = True,
    hint: str = "",
    owner: tuple[int, int] | None = None,
) -> Completed:
    """Run a program to its end.

    Args:
        argv: program and arguments; never a secret among them, since every user of the machine can read them.
        timeout_s: seconds until the child is ended.
        secrets: variables for the child's environment alone (PGPASSWORD and the like).
        while_waiting: called about 20 times a second (progress, watching a disk); what it raises ends the child.
        check: raise when the exit code is not 0.
        hint: the next step for the operator, put into the error.
        owner: user and group, by number, that the child is run as; only root may say so. It works in `/` then.

    Raises:
        RunbookError: the program is missing, ran out of time, or (with `check`) ended with another code than 0.
    """
    inherited = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
    environment = {**inherited, "LC_ALL": "C.UTF-8", **(secrets or {})}
    started = time.monotonic()
    name = os.path.basename(argv[0])
    drop = {"user": owner[0], "group": owner[1], "extra_groups": [], "cwd": "/"} if owner else {}
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            child = subprocess.Popen(
                list(argv), stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment,
                preexec_fn=_die_with_parent, **drop,
            )
        except FileNotFoundError as error:
            raise RunbookError(f"The program {argv[0]} does not exist.", hint, program=argv[0]) from error
        try:
            while child.poll() is None:
                if time.monotonic() - started > timeout_s:
                    raise RunbookError(
                        f"{name} was still running after {timeout_s:.0f} s and was ended.", hint, program=name,
                        stderr=_tail(err, name),
                    )
                if while_waiting:
                    while_waiting()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(POLL_S)
        finally:
            if child.poll() is None:
                _end(child)
        out.seek(0)
        completed = Completed(
            tuple(argv), child.returncode, out.read().decode("utf-8", "replace"), _tail(err, name),
            time.monotonic() - started,
        )
    if check and completed.returncode != 0:
        raise RunbookError(
            f"{name} {completed.ending}: {completed.stderr_tail or 'it printed no error'}",
            hint, program=name, returncode=completed.returncode,
        )
    return completed


def stream(
    argv: Sequence[str],
    each: Callable[[str], None],
    *,
    timeout_s: float,
    variables: Mapping[str, str] | None = None,
) -> Completed:
    """Run a program to its end, for output that is too long to be kept: each line is handed on as it comes.

    Args:
        argv: program and arguments; never a secret among them.
        each: called with every line; what it raises ends the child.
        timeout_s: seconds until the child is ended.
        variables: further variables for the child's environment.

    Raises:
        RunbookError: the program is missing, or ran out of time. How it ended is for the caller to judge.
    """
    inherited = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
    environment = {**inherited, "LC_ALL": "C.UTF-8", **(variables or {})}
    started = time.monotonic()
    name = os.path.basename(argv[0])
    with tempfile.TemporaryFile() as err, selectors.DefaultSelector() as selector:
        try:
            child = subprocess.Popen(
                list(argv), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=err, env=environment, bufsize=0,
                preexec_fn=_die_with_parent,
            )
        except FileNotFoundError as error:
            raise RunbookError(f"The program {argv[0]} does not exist.", program=argv[0]) from error
        try:
            selector.register(child.stdout, selectors.EVENT_READ)  # type: ignore[arg-type]
            rest, piece = b"", b"begin"
            while piece:
                if time.monotonic() - started > timeout_s:
                    raise RunbookError(
                        f"{name} was still running after {timeout_s:.0f} s and was ended.", program=name,
                        stderr=_tail(err, name),
                    )
                if not selector.select(POLL_S):
                    continue
                piece = os.read(child.stdout.fileno(), PIECE_BYTES)  # type: ignore[union-attr]
                whole, _end_of_line, rest = (rest + piece).rpartition(b"\n")
                for line in whole.decode("utf-8", "replace").split("\n") if whole else ():
                    each(line)
            if rest:
                each(rest.decode("utf-8", "replace"))
            child.wait(GRACE_S)
        finally:
            child.stdout.close()  # type: ignore[union-attr]
            if child.poll() is None:
                _end(child)
        return Completed(tuple(argv), child.returncode, "", _tail(err, name), time.monotonic() - started)
