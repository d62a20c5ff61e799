"""Rates from two samples: a counter alone is none (A19 ⚠)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.health.check import Check
from ansible_collections.sre.runbooks.plugins.module_utils.health.probe import Answer, Request
from ansible_collections.sre.runbooks.plugins.module_utils.health.rates import rate_check
from ansible_collections.sre.runbooks.plugins.module_utils.health.samples import Sample, SampleFile
from ansible_collections.sre.runbooks.plugins.module_utils.health.sweep import is_doubtful, merged
from hypothesis import given
from hypothesis import strategies as st

REQUEST = Request("redis", {"kind": "redis", "name": "cache", "measures": ["all"], "thresholds": []})


def sample(at: float, hits: float, reads: float, identity: str = "run 1") -> Sample:
    return Sample(at, identity, {"hit_percent": {"hits": hits, "reads": reads}})


def test_ratio_is_that_of_the_window():
    check = rate_check("hit_percent", sample(0, 10**9, 0), sample(60, 10**9 + 25, 75), REQUEST)
    assert isinstance(check, Check)
    assert (check.value, check.status, check.evidence["window_seconds"]) == (25.0, "warning", 60.0)


@pytest.mark.parametrize(("before", "words"), [
    (None, "it needs a second sample at least 10 s after the first"),
    (sample(95, 0, 0), "the last sample is 5 s old, and two must be 10 s apart"),
    (sample(100 - 27 * 3600, 0, 0), "the last sample is 27 hours old"),
    (sample(0, 0, 0, "run 0"), "its counters started anew"),
    (sample(0, 900, 0), "its counters started anew"),
    (sample(0, 490, 10), "too few for a ratio"),
    (sample(200, 0, 0), "two must be 10 s apart"),
    (Sample(0, "run 1", {}), "it needs a second sample"),
])
def test_without_two_usable_samples_there_is_a_sentence_and_no_check(before, words):
    found = rate_check("hit_percent", before, sample(100, 500, 10), REQUEST)
    assert isinstance(found, str)
    assert words in found
    assert found.startswith("not measured")


@given(st.integers(0, 10**12), st.integers(0, 10**12), st.integers(0, 10**6), st.integers(0, 10**6),
       st.floats(10, 90000))
def test_ratio_lies_between_0_and_100(hits, reads, more_hits, more_reads, seconds):
    found = rate_check("hit_percent", sample(0, hits, reads), sample(seconds, hits + more_hits, reads + more_reads),
                       REQUEST)
    assert isinstance(found, str) or 0 <= found.value <= 100


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"redis cache": 3}', '{"a": {"at": "x"}}', "[" * 100000])
def test_file_that_is_not_ours_is_no_sample(tmp_path, content):
    (tmp_path / "s.json").write_text(content)
    assert SampleFile(str(tmp_path / "s.json")).load() == {}


def _keep(path: str, number: int) -> None:
    SampleFile(path).keep({f"target {number}": sample(number, 0, 0)})


def test_sweeps_at_once_lose_none_of_each_others_samples(tmp_path):
    path = str(tmp_path / "s.json")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: _keep(path, number), range(20)))
    assert len(SampleFile(path).load()) == 20


def _answer(**statuses: str) -> Answer:
    return Answer([Check(name, "it", "http", status, f"{name} is {status}.", warning=1.0)
                   for name, status in statuses.items()])


@pytest.mark.parametrize(("answers", "counted"), [
    ([_answer(http="ok", services="critical"), _answer(http="unknown"), _answer(http="ok", services="ok")],
     {"http": "ok", "services": "unknown"}),
    ([_answer(http="unknown"), _answer(http="ok", services="ok"), _answer(http="unknown")],
     {"http": "unknown", "services": "unknown"}),
    ([_answer(http="ok", services="warning"), _answer(http="ok", services="ok"), _answer(http="ok", services="ok")],
     {"http": "ok", "services": "ok"}),
    ([_answer(http="ok", services="critical"), _answer(http="unknown"), _answer(http="ok", services="critical")],
     {"http": "ok", "services": "critical"}),
])
def test_sample_without_an_answer_is_unknown_for_everything_that_the_others_measured(answers, counted):
    """Only a proof passes: silence must not make two good samples of one."""
    assert {check.name: check.status for check in merged(answers, 2).checks} == counted


@pytest.mark.parametrize(("statuses", "doubtful"), [
    (["ok"], False), (["warning"], True), (["critical", "critical"], False), (["critical", "warning"], True),
    (["critical", "ok"], True), (["unknown"], False),
])
def test_only_a_breach_that_was_not_seen_often_enough_is_asked_for_again(statuses, doubtful):
    assert is_doubtful([_answer(load=status) for status in statuses], 2) is doubtful


@pytest.mark.parametrize(("statuses", "needed", "counted"), [
    (["critical", "ok", "ok"], 2, "ok"), (["critical", "ok", "critical"], 2, "critical"),
    (["critical", "warning", "ok"], 2, "warning"), (["unknown", "unknown", "ok"], 2, "unknown"),
    (["critical", "ok", "ok"], 1, "critical"), (["critical", "warning", "unknown"], 3, "warning"),
])
def test_n_of_m_counts_a_status_that_was_that_bad_often_enough(statuses, needed, counted):
    answers = [Answer([Check("http", "it", "http", status, f"sample {index}")])
               for index, status in enumerate(statuses)]
    (check,) = merged(answers, needed).checks
    assert check.status == counted
    assert check.evidence["samples"] == statuses
