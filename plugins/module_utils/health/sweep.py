# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Many probes at once: bounded in number, each within its time-out, all within the deadline."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from ansible_collections.sre.runbooks.plugins.module_utils.health.check import Check
from ansible_collections.sre.runbooks.plugins.module_utils.health.measures import (
    MEASURES,
    threshold_for,
    wanted_measures,
)
from ansible_collections.sre.runbooks.plugins.module_utils.health.probe import Answer, Deadline, ProbeError, Request
from ansible_collections.sre.runbooks.plugins.module_utils.health.rates import longest_window, rate_check
from ansible_collections.sre.runbooks.plugins.module_utils.health.samples import (
    APART_S,
    Sample,
    SampleFile,
)
from ansible_collections.sre.runbooks.plugins.module_utils.health.shapes import quoted
from ansible_collections.sre.runbooks.plugins.module_utils.run.checks import rank
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.progress import Progress
from ansible_collections.sre.runbooks.plugins.module_utils.run.words import about, counted

# A probe ends by itself at its time-out and says at which point; only one that cannot is given up this much later.
GRACE_S = 0.5
POLL_S = 0.25

Probe = Callable[[Request], Answer]
Done = queue.SimpleQueue[tuple[Request, Answer]]


@dataclass(frozen=True)
class Limits:
    """What a sweep may take; the options of health_probe of the same names."""

    timeout_seconds: float = 5.0
    deadline_seconds: float = 60.0
    concurrency: int = 32
    body_limit_bytes: int = 1048576
    wait_for_second_sample: bool = False
    samples: int = 3
    samples_needed: int = 2
    samples_interval_seconds: float = 0.5


@dataclass
class Outcome:
    """All checks of a sweep, and what could not be measured yet."""

    checks: list[Check] = field(default_factory=list)
    not_measured: list[str] = field(default_factory=list)


def requests_from(targets: Sequence[Mapping[str, Any]], limits: Limits) -> list[Request]:
    """One request for each check.

    Raises:
        RunbookError: a check that cannot work whatever the target does: two of the same name, a measure or a threshold
            that the kind does not have, limits that make no sense.
    """
    _require(limits)
    requests, labels = [], set()
    for target in targets:
        for given in target["checks"]:
            check = {**given, "name": given["name"] or given["kind"]}
            request = Request(
                target["name"], check, given["timeout_seconds"] or limits.timeout_seconds, limits.body_limit_bytes
            )
            if request.label in labels:
                raise RunbookError(f"{target['name']} has two checks that are called {check['name']}.",
                                   "Give one of them another name in health_checks.")
            _require_measures(request)
            labels.add(request.label)
            requests.append(request)
    return requests


def unchecked(targets: Sequence[Mapping[str, Any]]) -> list[Check]:
    """A check that is unknown for each target that has none: what nobody looks at is not known to be well."""
    return [
        Check("health_checks", target["name"], "none", "unknown",
              f"Its health checks cannot be read: {quoted(target['error'], 300)}" if target.get("error") else
              "The inventory has no health check for it.")
        for target in targets if not target["checks"]
    ]


def _require(limits: Limits) -> None:
    for option, least in (("timeout_seconds", 0.01), ("deadline_seconds", 0.01), ("concurrency", 1),
                          ("body_limit_bytes", 1), ("samples", 1), ("samples_needed", 1)):
        if getattr(limits, option) < least:
            raise RunbookError(f"{option} is {getattr(limits, option)}, and must be at least {least}.")
    if limits.samples_needed > limits.samples:
        raise RunbookError(f"samples_needed is {limits.samples_needed}, more than samples, which is {limits.samples}.",
                           "Of M samples at most M can be needed.")


def _require_measures(request: Request) -> None:
    check = request.check
    if request.kind in ("postgresql", "redis"):
        wanted_measures(request.kind, check["measures"])
    for entry in check["thresholds"]:
        if request.kind != "http":
            wanted_measures(request.kind, [entry["measure"]])
        threshold_for(request.kind, entry["measure"], check["thresholds"])
        _require_window(request, entry)


def _require_window(request: Request, entry: Mapping[str, Any]) -> None:
    window, share = entry.get("per_seconds"), entry.get("quantile")
    if window is not None and request.check["shape"] != "metrics":
        raise RunbookError(f"The threshold of {entry['measure']} at {request.label} has per_seconds.",
                           "Only metrics have a window: set shape to metrics, or leave per_seconds out.")
    if window is not None and window < APART_S:
        raise RunbookError(f"The threshold of {entry['measure']} at {request.label} is about {window:g} s.",
                           f"Two samples are at least {APART_S:.0f} s apart, so per_seconds must be that long.")
    if share is not None and not 0 < share < 1:
        raise RunbookError(f"The quantile of {entry['measure']} at {request.label} is {share:g}.",
                           "It lies between 0 and 1, such as 0.95.")


class Sweep:
    """Carries out requests.

    Args:
        probes: for each kind, who carries it out.
        limits: what it may take; its deadline begins now.
        progress: told what is still awaited.
    """

    def __init__(self, probes: Mapping[str, Probe], limits: Limits, progress: Progress) -> None:
        self._probes, self._limits, self._progress = probes, limits, progress
        self._deadline = Deadline(limits.deadline_seconds)

    def measure(self, requests: Sequence[Request], kept: SampleFile, keep: bool) -> Outcome:
        """Probe everything, ask again what is not well, make rates of two samples.

        Args:
            requests: what to probe.
            kept: the samples of earlier sweeps.
            keep: whether to write this sweep's samples there.
        """
        before = kept.load()
        answers = self._ask_again(self._probe(requests))
        samples = {request: _sample(answer)
                   for request, answer in answers.items() if answer.counters}
        if self._limits.wait_for_second_sample:
            self._take_second_samples(samples, before)
        outcome = Outcome()
        for request, answer in answers.items():
            outcome.checks += answer.checks
            outcome.not_measured += answer.not_measured
            if request in samples:
                _add_rates(outcome, request, before.get(request.label), samples[request])
        if keep:
            kept.keep({request.label: sample for request, sample in samples.items()
                       if sample.replaces(before.get(request.label))})
        return outcome

    def _ask_again(self, first: dict[Request, Answer]) -> dict[Request, Answer]:
        """N of M: what is beyond a threshold is asked up to M times, and a status counts that was seen N times.

        A closed port, a refusal, a silence count at once: they are no value that swings about a threshold.
        """
        history = {request: [answer] for request, answer in first.items()}
        for _unused in range(1, self._limits.samples):
            doubtful = [request for request, answers in history.items()
                        if is_doubtful(answers, self._limits.samples_needed)]
            if not doubtful or not self._pause(self._limits.samples_interval_seconds, doubtful):
                break
            for request, answer in self._probe(doubtful).items():
                history[request].append(answer)
        return {request: merged(answers, self._limits.samples_needed) for request, answers in history.items()}

    def _take_second_samples(self, samples: dict[Request, Sample], before: dict[str, Sample]) -> None:
        waiting = [request for request, sample in samples.items()
                   if not _is_usable(before.get(request.label), sample, request)]
        if not waiting:
            return
        youngest = max(samples[request].at for request in waiting)
        if not self._pause(max(0.0, youngest + APART_S - time.time()), waiting):
            return
        again = {_rates_only(request): request for request in waiting}
        for asked, answer in self._probe(list(again)).items():
            request = again[asked]
            if answer.counters:
                before[request.label] = samples[request]
                samples[request] = _sample(answer)

    def _pause(self, seconds: float, requests: Sequence[Request]) -> bool:
        """Wait, unless the deadline would pass meanwhile; False says that there was no time."""
        if seconds >= self._deadline.left():
            return False
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._progress.tick(
                lambda left=left: f"{about(left)} until the next sample of {counted(len(requests), 'probe')}"
            )
            time.sleep(min(POLL_S, left))
        return True

    def _probe(self, requests: Sequence[Request]) -> dict[Request, Answer]:
        """The answers in the order of the requests; what did not answer has one check that says so."""
        waiting, running = deque(requests), dict[Request, float]()
        answers: dict[Request, Answer] = {}
        done: Done = queue.SimpleQueue()
        while waiting or running:
            while waiting and len(running) < self._limits.concurrency and not self._deadline.over:
                request = waiting.popleft()
                running[request] = time.monotonic()
                limited = replace(request, timeout_s=min(request.timeout_s, self._deadline.left()))
                threading.Thread(target=self._carry_out, args=(request, limited, done), daemon=True).start()
            for request, answer in self._answered(done):
                if running.pop(request, None) is not None:
                    answers[request] = answer
            for request, since in list(running.items()):
                if self._deadline.over or time.monotonic() - since > request.timeout_s + GRACE_S:
                    answers[request] = Answer([request.unanswered(_overdue(time.monotonic() - since))])
                    del running[request]
            if self._deadline.over:
                answers |= {request: Answer([request.unanswered(_not_asked(self._deadline))]) for request in waiting}
                waiting.clear()
            if running or waiting:
                self._progress.tick(partial(_awaited, answers, requests, running))
        return {request: answers[request] for request in requests}

    def _answered(self, done: Done) -> list[tuple[Request, Answer]]:
        """What has come in, after a short wait for the first."""
        found = []
        try:
            found.append(done.get(timeout=min(POLL_S, self._deadline.left())))
            while True:
                found.append(done.get_nowait())
        except queue.Empty:
            return found

    def _carry_out(self, request: Request, limited: Request, done: Done) -> None:
        started, taken_at = time.monotonic(), time.time()
        try:
            answer = self._probes[request.kind](limited)
        except ProbeError as error:
            answer = Answer([request.unanswered(error.message, error.status)])
        except RunbookError as error:
            answer = Answer([request.unanswered(str(error))])
        except Exception as error:
            # One probe's own defect must not hide what the others found; it is no proof of health either.
            answer = Answer([request.unanswered(f"The probe itself failed: {type(error).__name__}: {error}")])
        answer.taken_at = taken_at
        for check in answer.checks:
            check.duration_ms = round((time.monotonic() - started) * 1000, 1)
        done.put((request, answer))


def merged(answers: Sequence[Answer], needed: int) -> Answer:
    """The answer that several samples give together.

    Args:
        answers: of one request, in the order in which they came.
        needed: how many must be that bad, or worse, before a status counts.
    """
    if len(answers) == 1:
        return answers[0]
    last = next((answer for answer in reversed(answers) if answer.counters), answers[-1])
    return replace(last, checks=[_counted(seen, needed) for seen in _by_name(answers).values()])


def _by_name(answers: Sequence[Answer]) -> dict[str, list[Check]]:
    """For each check its samples; unknown where a sample lacks what the others have, since it did not measure that."""
    found = {check.name: check for answer in answers for check in answer.checks}
    samples = [{check.name: check for check in answer.checks} for answer in answers]
    return {
        name: [sample.get(name) or Check(name, check.target, check.kind, "unknown",
                                         "One of the samples had no answer for it.") for sample in samples]
        for name, check in found.items()
    }


def _counted(seen: Sequence[Check], needed: int) -> Check:
    ordered = sorted((check.status for check in seen), key=rank, reverse=True)
    status = ordered[min(needed, len(ordered)) - 1]
    chosen = next(check for check in reversed(seen) if check.status == status)
    message, worst_seen = chosen.message, max(seen, key=lambda check: rank(check.status))
    if rank(worst_seen.status) > rank(status):
        times = ordered.count(worst_seen.status)
        value = f" ({worst_seen.value} {worst_seen.unit}".rstrip() + ")" if worst_seen.value is not None else ""
        message = (f"{message} {times} of {len(seen)} samples {'was' if times == 1 else 'were'} {worst_seen.status}"
                   f"{value}, which counts from {needed}.")
    return replace(chosen, message=message, evidence={**chosen.evidence, "samples": [check.status for check in seen]})


def is_doubtful(answers: Sequence[Answer], needed: int) -> bool:
    """Whether something is beyond a threshold and was not seen so often enough to count."""
    for seen in _by_name(answers).values():
        if any(_is_breach(check) for check in seen):
            highest = max(rank(check.status) for check in seen)
            if sum(rank(check.status) == highest for check in seen) < needed:
                return True
    return False


def _is_breach(check: Check) -> bool:
    return check.status in ("warning", "critical") and (check.warning is not None or check.critical is not None)


def _sample(answer: Answer) -> Sample:
    return Sample(answer.taken_at, answer.identity, answer.counters, answer.words)


def _is_usable(before: Sample | None, now: Sample, request: Request) -> bool:
    return before is not None and now.follows(before) and now.at - before.at <= longest_window(request)


def _rates_only(request: Request) -> Request:
    if request.kind == "http":
        return request
    measures = [name for name in wanted_measures(request.kind, request.check["measures"])
                if MEASURES[request.kind][name].rate]
    return replace(request, check={**request.check, "measures": measures, "query": None})


def _add_rates(outcome: Outcome, request: Request, before: Sample | None, now: Sample) -> None:
    for measure in now.counters:
        found = rate_check(measure, before, now, request)
        if isinstance(found, Check):
            outcome.checks.append(found)
        else:
            outcome.not_measured.append(f"{request.label}.{measure}: {found}")


def _overdue(seconds: float) -> str:
    return f"No answer within {seconds:.1f} s; it was given up."


def _not_asked(deadline: Deadline) -> str:
    return f"Not asked: the whole sweep may take {about(deadline.seconds)}, and they were over."


def _awaited(answers: Mapping[Request, Answer], requests: Sequence[Request], running: Mapping[Request, float]) -> str:
    names = ", ".join(request.label for request in list(running)[:5])
    return f"{len(answers)} of {counted(len(requests), 'probe')} answered; waiting for {names or 'the next'}"
