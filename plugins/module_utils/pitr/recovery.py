# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A cluster brought back to a point in time: each state of the way, reached from wherever the position says it is."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible_collections.sre.runbooks.plugins.module_utils.pitr import application, window
from ansible_collections.sre.runbooks.plugins.module_utils.pitr import position as at
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.beside import Beside
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.exchange import Exchange
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.position import Places, Position
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.situation import Situation, segment_size_of, timeline_of
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.survey import (
    Live,
    archive_now,
    disk_problem,
    problems_of,
    read_live,
    swaps_under_way,
)
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.target import Target, parse_target
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.workplace import Request, Workplace
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.files import remove_folder
from ansible_collections.sre.runbooks.plugins.module_utils.run.moments import utc_text
from ansible_collections.sre.runbooks.plugins.module_utils.run.plan import Plan
from ansible_collections.sre.runbooks.plugins.module_utils.run.progress import Progress
from ansible_collections.sre.runbooks.plugins.module_utils.run.words import size

RESTORED, EXCHANGED, DONE, UNDONE = "restored", "exchanged", "done", "undone"
STATES = (RESTORED, EXCHANGED, DONE, UNDONE)
# From here on the live cluster is touched.
UNDER_WAY = (at.EXCHANGING, at.OPENING, at.OPENED, at.UNDOING)
# Of a position what nobody outside needs.
INTERNAL = ("before", "added")
UNDO = "sre.runbooks.database_pitr_undo"
MEND_AND_REPEAT = "Nothing was changed. Mend that, then run the same command again."
NOT_ASKED_YET = (
    "The owner's own check could not be asked: the transaction before whose end the cluster stands locks what it "
    "reads, until the exchange. Nor can you look at that before. It is asked then, before the recovery is done."
)


@dataclass
class Result:
    """What a call found and did."""

    plan: Plan = field(default_factory=Plan)
    values: dict[str, Any] = field(default_factory=dict)


class Recovery:
    """Brings one cluster to one of STATES, or says in a plan what it would do.

    Args:
        request: what and how.
        progress: where to report.
        check: change nothing, and take no lock.
    """

    def __init__(self, request: Request, progress: Progress, *, check: bool) -> None:
        self.request = request
        self.progress = progress
        self.check = check
        self.work = Workplace(request, progress)
        self.places, self.repository = self.work.places, self.work.repository
        self.live, self.beside = self.work.live, self.work.beside
        self.copy = Beside(self.work)
        self.exchange = Exchange(self.work, self.copy)
        self.result = Result()

    def reach(self, state: str) -> Result:
        """Reach the state; each step is taken from what the position says now.

        Raises:
            RunbookError: it cannot be reached; the message says what is left.
        """
        reach = {RESTORED: self._restore, EXCHANGED: self._exchange, DONE: self._finish, UNDONE: self._undo}[state]
        if self.check:
            reach(self.places.read())
        else:
            self.places.prepare(self.work.owner or (os.getuid(), os.getgid()))
            with self.places.alone(self.progress, self.request.lock_wait_s):
                reach(self.places.read())
        self.result.values["position"] = describe(self.places)
        return self.result

    def survey(self) -> dict[str, Any]:
        """Everything that is known before a target is chosen; changes nothing."""
        situation = Situation(self.work)
        live, reaches = situation.live, situation.reaches()
        return {
            "position": describe(self.places), "timeline": situation.timeline,
            "sessions": live.facts["sessions"] if live else None,
            "problems": problems_of(self.live, self.places, live) + swaps_under_way(live),
            "notes": live.notes() if live else [],
            "backups": [_told(one, situation.segment_size) for one in reaches],
            "window": _window(reaches, live, self.places.data.parent),
        }

    # -- restored ----------------------------------------------------------------------------------------------------

    def _restore(self, position: Position) -> None:
        """A recovered cluster stands beside the live one, opened read-only at the target; nobody notices."""
        if position.state == at.UNDOING:
            raise RunbookError(
                "Going back from the last recovery was begun and has not ended.", f"Run the playbook {UNDO} first.",
            )
        if position.state in UNDER_WAY:
            return
        if not self.request.target:
            raise RunbookError(
                "No target was given.", "Say up to when, by a time with its zone: -e to=2026-11-21T14:30:00+01:00."
            )
        target = parse_target(
            self.request.target_kind, self.request.target, exclusive=self.request.exclusive, backup=self.request.backup,
            listing=self.repository.listing,
        )
        if _is_done(position, target, self.request.backup):
            # To do it once more would lose what was written since; whoever was cut off at its end starts it again.
            self.result.values.update(target=target.as_dict(), notes=[
                f"The cluster was recovered to {target} by the run {position.run}, so nothing is left to do. To "
                f"recover it anew, go back from that first ({UNDO}), or choose another target."
            ])
            return
        window.require_in_history(target, asdict(position) if position.state == at.DONE else position.before)
        if self.request.drill and position.state not in (at.UNTOUCHED, at.DONE) and not position.drill:
            raise RunbookError(
                f"A recovery of {self.places.data} stands at {position.state}, and no drill takes it away.",
                f"Finish it with sre.runbooks.database_pitr, or go back with {UNDO}.",
            )
        situation = Situation(self.work)
        live = situation.live
        problems = problems_of(self.live, self.places, live)
        if not self.request.drill:
            problems += swaps_under_way(live)
        if problems:
            raise RunbookError(" ".join(problems), MEND_AND_REPEAT, problems=problems)
        now = datetime.now(UTC)
        chosen = situation.choose(target, self.request.backup or None, now=now, live_goes_on=True)
        needed, free, problem = disk_problem(chosen, situation.segment_size, self.places.data.parent)
        same = position.state in (at.RESTORING, at.RESTORED) and (
            (position.target, position.backup, position.drill)
            == (target.as_dict(), chosen.base.label, self.request.drill)
        )
        if problem and not (same and self.places.restoring.exists()):
            raise RunbookError(problem, "Make room there, then run the same command again.", needed=needed, free=free)
        self.result.values.update(
            target=target.as_dict(), backup=chosen.base.as_dict(), needed_bytes=needed, free_bytes=free,
            **_losses(target, now if live else self.live.last_written_at()),
            sessions=live.facts["sessions"] if live else None, notes=(live.notes() if live else [
                "The live server does not run: what it had not archived cannot be recovered."
            ]) + ([
                f"The WAL segment {chosen.gaps[0]} is missing in the archive: a {target.kind} after it is not reached."
            ] if chosen.gaps else []),
        )
        if same and position.state == at.RESTORED and self.beside.status() == "ready":
            self._look(position, target, live)
            return
        if live:
            self.result.plan.add(
                "archive what was written until now", self.request.stanza, before=None, after="archived"
            )
        where = str(self.places.restoring)
        self.result.plan.add(
            "restore the backup beside the live cluster", where, before=None, after=f"{chosen.base.label}, {target}"
        )
        self.result.plan.add(
            "open it read-only", where, before="stopped", after=f"port {self.request.port}, own socket"
        )
        if not self.check:
            position = self._fill(position, target, chosen, situation, same=same)
            self._look(position, target, live)
            # The live cluster was written to all the while.
            self.result.values.update(_losses(target, datetime.now(UTC) if live else self.live.last_written_at()))

    def _fill(
        self, position: Position, target: Target, chosen: window.Reach, situation: Situation, *, same: bool
    ) -> Position:
        """Restore, and replay to the target."""
        live, timeline = situation.live, situation.timeline
        if live:
            self.progress.say("archiving what was written until now")
            archive_now(self.request.login, self.progress, self.request.archive_timeout_s)
            chosen = situation.choose(target, chosen.base.label, now=datetime.now(UTC))
        self.beside.stop(self.request.stop_timeout_s)
        before = asdict(position) if position.state == at.DONE else position.before
        if not same:
            remove_folder(self.places.restoring)
            position = Position(
                at.RESTORING, self.request.run, chosen.base.label, target.as_dict(), timeline,
                chosen.base.system_identifier, self.request.port, before=before, drill=self.request.drill,
            )
        if position.state != at.RESTORED:
            self.places.write(position)
            # Only what pgBackRest itself began to fill can be gone on with.
            delta = any((self.places.restoring / name).exists() for name in ("backup.manifest", "PG_VERSION"))
            if not delta:
                remove_folder(self.places.restoring)
            os.close(at.open_private(self.places.restoring, self.work.owner or (os.getuid(), os.getgid())))
            self.progress.say(f"restoring {chosen.base.label}, {size(chosen.base.bytes)}, beside the live cluster")
            self.repository.restore(
                self.places.restoring, self.places.spool, chosen.base, target, timeline,
                self._ticks(chosen.base.bytes), delta=delta,
            )
        self.copy.open(live)
        self.copy.wait_reached(target)
        return position

    def _look(self, position: Position, target: Target, live: Live | None) -> None:
        """Prove what stands beside; whoever looks once more sees the same."""
        values = self.result.values
        values["reached"] = self.copy.reached(target)
        values["databases"] = self.copy.prove(position.system_identifier)
        values["application_check"] = asked = self.copy.ask_owner()
        values["notes"] += ([NOT_ASKED_YET] if asked == application.NOT_ASKED else []) + self.copy.password_notes(live)
        if not self.check:
            self.places.write(position, state=at.RESTORED, port=self.request.port, application_check=asked)

    # -- exchanged ---------------------------------------------------------------------------------------------------

    def _exchange(self, position: Position) -> None:
        """The restored cluster is live: the only time in which nobody can connect."""
        position = self._ahead(position, at.RESTORED)
        if position.state in (at.OPENED, at.DONE):
            self._count_losses(position)
            return
        if position.state not in (at.RESTORED, at.EXCHANGING, at.OPENING):
            raise RunbookError(
                f"No restored cluster stands beside {self.places.data}: it is {position.state}.", "Restore it first.",
            )
        self._require_control()
        if position.state == at.RESTORED and not self.check:
            self._require_agreed(position)
        data, kept = str(self.places.data), position.kept or str(self.places.aside("retired", "<time>"))
        for step, target, before, after in (
            ("stop the live server", data, "running", "stopped"),
            ("put the live data directory aside", data, "live", kept),
            ("put the restored cluster in its place", str(self.places.restoring), "beside", data),
            ("start it, and open a new timeline", data, f"timeline {position.timeline or 'n'}", "a new timeline"),
        ):
            self.result.plan.add(step, target, before=before, after=after)
        if self.check:
            return
        started = time.monotonic()
        # Whoever fails from here on is who must go back.
        position = self.places.write(position, run=self.request.run)
        try:
            position = self.exchange.rename(position)
            if position.state != at.OPENING:
                position = self.places.write(position, state=at.OPENING)
            self.exchange.bring_up("starting the restored cluster")
        except BaseException as error:
            try:
                self.exchange.give_way()
            except (RunbookError, OSError) as second:
                raise RunbookError(
                    f"{error} The old cluster could not be made live again: {second}",
                    "Mend that, then run the same command again: it goes on from there.",
                ) from error
            raise
        position = self.exchange.configure_as_before(self.places.write(position, state=at.OPENED))
        self._count_losses(position)
        self.result.values.update(
            exchange_seconds=round(time.monotonic() - started, 3), retired=position.kept, until=position.until,
            timeline=self._timeline(),
        )

    def _count_losses(self, position: Position) -> None:
        """Nobody could write to the old cluster after it was stopped: what is lost is known now."""
        kept = Path(position.kept)
        if position.kept and kept.is_dir() and (stopped_at := self.work.at(kept).stopped_at()):
            self.result.values.update(_losses(Target(**(position.target or {})), stopped_at))

    # -- done --------------------------------------------------------------------------------------------------------

    def _finish(self, position: Position) -> None:
        """The new timeline has a base backup of its own, which pgBackRest has read back."""
        position = self._ahead(position, at.OPENED)
        if position.state == at.DONE:
            self.result.values["application_check"] = position.application_check
            return
        if position.state != at.OPENED:
            raise RunbookError(
                f"No restored cluster is live in {self.places.data}: it is {position.state}.",
                "Run the playbook again: it goes on from there.",
            )
        self.result.plan.add("make a base backup of the new timeline", self.request.stanza, before=None, after="made")
        self.result.plan.add("read the repository", self.request.stanza, before="unknown", after="verified")
        if self.check:
            return
        # A call that was killed may have left this to do.
        position = self._ask_owner(self.exchange.configure_as_before(position))
        timeline, segment_size = self._timeline(), segment_size_of(self.live.control_data())
        base = self._newest_base(timeline, segment_size)
        if base is None:
            self.progress.say("making a base backup of the new timeline")
            self.repository.backup(self._quiet_ticks("making a base backup of the new timeline"))
            base = self._newest_base(timeline, segment_size)
        if base is None:
            raise RunbookError(
                f"pgBackRest made no whole base backup of timeline {timeline}.",
                "See pgbackrest info and its log, then run the same command again.", timeline=timeline,
            )
        found = window.reach(base, self.repository.archive(base.archive, segment_size), timeline, segment_size)
        self.progress.say("reading the repository")
        verified = self.repository.verify(self._quiet_ticks("reading the repository"))
        if found.problem or not verified.proves(base.label):
            raise RunbookError(
                f"The base backup {base.label} of timeline {timeline} is not proven: "
                + (found.problem or f"verify says {verified.backups.get(base.label, ('nothing of it',))[0]}") + ".",
                "The cluster is live and works; see pgbackrest verify --output=text --verbose, make another base "
                "backup, then run the same command again.", backup=base.label,
            )
        notes = [] if verified.status == "ok" else [
            f"pgBackRest's verify calls the repository {verified.status or 'nothing'}: older backups or WAL are "
            "damaged."
        ]
        self.places.write(position, state=at.DONE, new_backup=base.label)
        self.result.values.update(
            new_backup=base.as_dict(), timeline=timeline, notes=notes, retired=position.kept, until=position.until,
            application_check=position.application_check,
        )

    def _ask_owner(self, position: Position) -> Position:
        """Ask the owner's own check where it could not be asked beside; first, while little was written since.

        Raises:
            RunbookError: it did not pass, or cannot be asked even now.
        """
        if position.application_check == application.PASSED:
            return position
        request = self.request
        login = request.login.at(request.database)
        hint = f"The recovered cluster is live. Mend that and run the same command again, or go back with {UNDO}."
        asked = application.ask(login, request.application_check, "in the recovered cluster, which is live", hint)
        if asked == application.NOT_ASKED:
            raise RunbookError(
                f"The owner's own check of {request.database!r} could not be asked: somebody locks what it reads.",
                hint,
            )
        return self.places.write(position, application_check=asked)

    def _newest_base(self, timeline: int, segment_size: int) -> window.Base | None:
        bases = self.repository.bases(segment_size)
        fitting = [one for one in bases if one.first.timeline == timeline and not one.flawed]
        return fitting[-1] if fitting else None

    # -- undone ------------------------------------------------------------------------------------------------------

    def _undo(self, position: Position) -> None:
        """The old cluster is live. What was written to the restored one is lost, which somebody must have agreed to."""
        if position.state == at.UNTOUCHED or (self.request.drill and not position.drill):
            return
        if position.state in (at.RESTORING, at.RESTORED):
            self._remove_copy(position)
            return
        if self._is_before_this_run(position):
            return
        self._require_control()
        if position.state in (at.EXCHANGING, at.OPENING) and not self.exchange.promoted(position):
            if not self.check:
                self.exchange.give_way()
                position = self.places.read()
            if self.check or position.state == at.RESTORED:
                self.result.plan.add(
                    "start the old cluster again", str(self.places.data), before="stopped", after="live"
                )
                self._remove_copy(position)
                return
        if position.state != at.UNDOING and not self.request.losses_agreed and not self.check:
            raise RunbookError(
                f"The restored cluster in {self.places.data} accepts writes, which going back would lose.",
                f"A person must decide that: run the playbook {UNDO}.", state=position.state,
            )
        kept = Path(position.kept)
        if position.state != at.UNDOING and not kept.exists():
            raise RunbookError(
                f"The old cluster {kept} is not there any more.",
                "Nothing was changed. Recover to a time before the exchange instead, with sre.runbooks.database_pitr.",
            )
        abandoned = position.abandoned or str(
            self.places.aside("abandoned", datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ"))
        )
        for step, target, before, after in (
            ("stop the restored cluster", str(self.places.data), "running", "stopped"),
            ("put the restored cluster aside", str(self.places.data), "live", abandoned),
            ("put the old cluster in its place", str(kept), "kept", str(self.places.data)),
            ("start it", str(self.places.data), "stopped", "live"),
        ):
            self.result.plan.add(step, target, before=before, after=after)
        if self.check:
            return
        started = time.monotonic()
        position = self.places.write(position, state=at.UNDOING, abandoned=abandoned)
        try:
            self.exchange.go_back(position)
        except BaseException as error:
            try:
                self.exchange.stay(position)
            except (RunbookError, OSError) as second:
                raise RunbookError(
                    f"{error} The restored cluster could not be made live again: {second}",
                    "Mend that, then run the same command again: it goes on from there.",
                ) from error
            raise
        self.places.clear(position)
        timeline = self._timeline()
        self.result.values.update(
            abandoned=abandoned, exchange_seconds=round(time.monotonic() - started, 3), timeline=timeline, notes=[
                f"The archive holds a later timeline, which was abandoned: a restore by hand needs "
                f"--target-timeline={timeline}. This collection gives it always."
            ],
        )

    def _remove_copy(self, position: Position) -> None:
        self.result.plan.add(
            "remove the restored cluster", str(self.places.restoring), before="beside", after=None, reversible=False
        )
        if not self.check:
            self.beside.stop(self.request.stop_timeout_s)
            remove_folder(self.places.restoring)
            self.places.clear(position)

    def _is_before_this_run(self, position: Position) -> bool:
        """Whether what is live was made by another run: one that fails takes back its own, and a person the rest."""
        return (
            position.state in (at.OPENED, at.DONE) and position.run != self.request.run
            and not self.request.losses_agreed and not self.check
        )

    # -- shared ------------------------------------------------------------------------------------------------------

    def _require_control(self) -> None:
        if not self.request.start or not self.request.stop:
            raise RunbookError(
                "Nothing says how the live server is started and stopped.", "Set postgresql_control in the inventory."
            )

    def _require_agreed(self, position: Position) -> None:
        """The copy beside is the one that this request is about: somebody else's run may have restored another.

        Raises:
            RunbookError: it is another one, or the live cluster may not be thrown back now.
        """
        request = self.request
        wanted = request.target and parse_target(
            request.target_kind, request.target, exclusive=request.exclusive, backup=request.backup or position.backup
        )
        stands = Target(**(position.target or {}))
        if position.drill or (wanted and wanted != stands) or request.backup not in (None, "", position.backup):
            raise RunbookError(
                f"Beside {self.places.data} stands {'the copy of a drill' if position.drill else 'another cluster'}, "
                f"recovered to {stands} from {position.backup} by the run {position.run}"
                + (f", and not to {wanted}." if wanted and wanted != stands else "."),
                "Nothing was changed. See who works on another database of this cluster, then run the same command "
                "again.",
            )
        problems = swaps_under_way(read_live(request.login, self.live))
        if problems:
            raise RunbookError(" ".join(problems), MEND_AND_REPEAT, problems=problems)

    def _ahead(self, position: Position, state: str) -> Position:
        """In check mode the state that the calls before this one would have reached; else what it is."""
        if not self.check:
            return position
        if position.state in UNDER_WAY:
            return replace(position, state=state) if state == at.OPENED else position
        request = self.request
        if request.target and not _is_done(position, parse_target(
            request.target_kind, request.target, exclusive=request.exclusive, backup=request.backup or position.backup
        ), request.backup):
            return Position(state)
        return position if position.state == at.DONE else Position(state)

    def _timeline(self) -> int:
        return timeline_of(self.live.control_data(), self.places.data)

    def _ticks(self, total: int) -> Callable[[], None]:
        def describe() -> str:
            done = sum(
                entry.stat().st_blocks * 512 for entry in self.places.restoring.rglob("*") if entry.is_file()
            )
            return f"restoring: {size(done)} of {size(total)}"

        return lambda: self.progress.tick(lambda: _patient(describe))

    def _quiet_ticks(self, what: str) -> Callable[[], None]:
        return lambda: self.progress.tick(lambda: what)


def describe(places: Places) -> dict[str, Any]:
    """Where a recovery stands, and what is kept beside, for the module."""
    position = places.read()
    beside, name = places.data.parent, places.data.name
    aside = [path for word in ("retired", "abandoned") for path in beside.glob(f"{name}.{word}-*")]
    return {
        **{name: value for name, value in asdict(position).items() if name not in INTERNAL},
        "kept_folders": sorted(str(path) for path in aside),
    }


def _is_done(position: Position, target: Target, backup: str | None) -> bool:
    """Whether this very recovery has ended, and the cluster is the one that it made."""
    return position.state == at.DONE and position.target == target.as_dict() and backup in (None, "", position.backup)


def _patient(describe: Callable[[], str]) -> str:
    """A line of progress, also while files come and go."""
    with contextlib.suppress(OSError):
        return describe()
    return "restoring"


def _losses(target: Target, until: datetime | None) -> dict[str, Any]:
    """What is lost of what was written until a moment, as a sentence and as a figure."""
    seconds = None
    if target.moment is not None and until is not None:
        seconds = round(max(0.0, (until - target.moment).total_seconds()), 3)
    return {"losses": window.losses(target, until or datetime.now(UTC)), "lost_seconds": seconds}


def _told(one: window.Reach, segment_size: int) -> dict[str, Any]:
    return {
        **one.base.as_dict(), "problem": one.problem, "gaps": list(one.gaps),
        "newest_wal": one.newest.name(segment_size) if one.newest else None,
        "newest_wal_at": utc_text(one.newest_at) if one.newest_at else None,
    }


def _window(reaches: list[window.Reach], live: Live | None, beside: Path) -> dict[str, Any]:
    usable = [one for one in reaches if not one.problem and not one.base.flawed]
    ends = [one.newest_at for one in usable if one.newest_at]
    return {
        "from": utc_text(usable[0].base.ended_at + window.SECOND) if usable else None,
        "until": utc_text(max(ends)) if ends else None,
        "archives": live.archives if live else False,
        "free_bytes": shutil.disk_usage(beside).free,
    }
