"""How a run ended, decided from its records."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.run.outcome import decide, worst

FAILURE = ("failure", {"task": "t", "message": "It broke."})
STEP = ("step", {"step": "rename", "target": "orders"})


def phase(name: str, state: str) -> tuple[str, dict[str, Any]]:
    return "phase", {"name": name, "state": state}


def outcome(word: str, message: str = "") -> tuple[str, dict[str, Any]]:
    return "outcome", {"outcome": word, "message": message}


APPLY = phase("apply", "begin")


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([], "refused"),
        ([phase("preflight", "begin"), FAILURE], "refused"),
        ([outcome("done")], "done"),
        ([APPLY, STEP, outcome("done")], "done"),
        ([outcome("nothing to do")], "nothing to do"),
        ([APPLY], "unknown"),
        ([APPLY, FAILURE], "unknown"),
        ([STEP, FAILURE], "unknown"),
        ([APPLY, phase("undo", "begin"), FAILURE], "failed and undo failed"),
        ([APPLY, phase("undo", "begin"), phase("undo", "end"), FAILURE], "failed and undone"),
        ([outcome("done"), FAILURE], "unknown"),
        ([FAILURE, outcome("failed and undone")], "failed and undone"),
        ([outcome("failed and undone"), FAILURE], "failed and undone"),
        ([outcome("excellent")], "unknown"),
        ([outcome("refused", "No."), FAILURE], "refused"),
        # A no in the middle of a change is no harmless refusal.
        ([APPLY, STEP, outcome("refused", "No.")], "unknown"),
        # One at its end, of a role that says what it leaves, is.
        ([APPLY, STEP, phase("apply", "end"), outcome("refused", "No."), FAILURE], "refused"),
        ([outcome("nothing to do"), APPLY, outcome("done")], "done"),
    ],
)
def test_a_success_is_only_what_was_recorded_as_one(records: list[tuple[str, Any]], expected: str) -> None:
    decided = decide([{"kind": kind, "data": data} for kind, data in records], resume="again")
    assert decided.outcome == expected
    assert decided.success is (expected in ("done", "nothing to do"))


def test_a_failure_says_why_and_how_to_go_on() -> None:
    decided = decide([{"kind": kind, "data": data} for kind, data in (APPLY, FAILURE)], resume="again")
    assert (decided.message, decided.resume) == ("It broke.", "again")


def test_of_several_failures_the_first_is_the_cause() -> None:
    later = ("failure", {"task": "Release the target's lock", "message": "The lock cannot be read."})
    assert decide([{"kind": kind, "data": data} for kind, data in (APPLY, FAILURE, later)]).message == "It broke."


@pytest.mark.parametrize(
    ("several", "expected"),
    [
        (["done", "nothing to do"], "done"),
        (["done", "refused"], "refused"),
        (["failed and undone", "unknown", "done"], "unknown"),
        (["unknown", "failed and undo failed"], "failed and undo failed"),
        ([], "unknown"),
    ],
)
def test_a_run_is_as_bad_as_its_worst_target(several: list[str], expected: str) -> None:
    assert worst(several) == expected


def test_whatever_failure_a_role_records_the_command_that_goes_on_is_said() -> None:
    records = [{"kind": kind, "data": data} for kind, data in (APPLY, outcome("failed and undo failed", "Half."))]
    assert decide(records, resume="again").resume == "again"
    named = {"kind": "outcome", "data": {"outcome": "failed and undo failed", "resume": "another"}}
    assert decide([named], resume="again").resume == "another"
    assert not decide([{"kind": "outcome", "data": {"outcome": "done"}}], resume="again").resume
