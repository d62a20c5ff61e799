# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A backup of one store in another one: never a mirror, and nothing at the destination is removed or overwritten (X15).

A copy is proven before its manifest is written, so that it is there whole, or not at all.
"""

from __future__ import annotations

import errno
import time
from dataclasses import dataclass, replace
from functools import partial

from ansible_collections.sre.runbooks.plugins.module_utils.backup import transfer
from ansible_collections.sre.runbooks.plugins.module_utils.backup.catalog import Backup, pick
from ansible_collections.sre.runbooks.plugins.module_utils.backup.manifest import Manifest
from ansible_collections.sre.runbooks.plugins.module_utils.backup.scanner import FindingError, compare_names
from ansible_collections.sre.runbooks.plugins.module_utils.backup.store import RESERVE_BYTES, TargetStore, left_after
from ansible_collections.sre.runbooks.plugins.module_utils.backup.verdict import (
    GOOD,
    Rung,
    Verdict,
    disproof,
    proven_rung,
)
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError, reason
from ansible_collections.sre.runbooks.plugins.module_utils.run.moments import now
from ansible_collections.sre.runbooks.plugins.module_utils.run.plan import Plan
from ansible_collections.sre.runbooks.plugins.module_utils.run.progress import Progress
from ansible_collections.sre.runbooks.plugins.module_utils.run.words import size as size_words

PROVEN = "bytes"
NOTHING_LEFT = "Nothing is left of this copy."
# Files at once; each that goes into a bucket does so in parallel parts, and holds them in memory.
JOBS = 2


@dataclass(frozen=True)
class Request:
    """What is copied.

    Args:
        source: is only read.
        destination: where the copy goes.
        backup_id: the one to take; None takes the newest.
        least_rung: how high it must be proven in the source.
        maximum_bytes_per_second: of all files together; None has no cap.
    """

    source: TargetStore
    destination: TargetStore
    backup_id: str | None
    least_rung: str
    maximum_bytes_per_second: int | None


@dataclass(frozen=True)
class Observed:
    """What was found before anything is changed.

    Args:
        manifest: of the backup to copy.
        newest: the newest backup of the source.
        copy: the manifest of the copy that is there already.
        rung: how high that copy is proven.
        readers: fingerprints of the keys that open the copy; empty for a plain one.
        free_bytes: room at the destination, where it is known.
        leftovers: what killed writers left there.
    """

    manifest: Manifest
    newest: Backup
    copy: Manifest | None
    rung: str | None
    readers: tuple[str, ...]
    free_bytes: int | None
    leftovers: tuple[str, ...]

    @property
    def is_done(self) -> bool:
        """Whether there is nothing to do."""
        return self.copy is not None and self.rung is not None


def content_of(manifest: Manifest) -> Manifest:
    """What all copies of a backup have in common: everything but how a store keeps its files."""
    return replace(manifest, encryption=None, files=[replace(file, stored=None) for file in manifest.files])


def observe(request: Request) -> Observed:
    """Choose the backup, and look at both stores; change nothing.

    Raises:
        RunbookError: a store is not there, no backup fits, or what is there already is not the same or is damaged.
    """
    source, destination = request.source, request.destination
    if source.identity == destination.identity:
        raise RunbookError(
            f"Both stores are {destination}, and a copy beside the backup protects from nothing.",
            "Name another store: -e to=<store>.",
        )
    source.require()
    destination.require()
    backups = source.backups()
    chosen = pick(backups, backup_id=request.backup_id or None, least_rung=request.least_rung)
    manifest = source.manifest(chosen.backup_id)
    copy, rung = _look_for_copy(destination, manifest)
    kept = copy or (manifest if manifest.encryption else destination.sealed(manifest))
    return Observed(
        manifest, backups[-1], copy, rung, tuple(kept.encryption.recipients if kept.encryption else ()),
        destination.stored_free_bytes(), tuple(destination.leftovers()),
    )


def _look_for_copy(destination: TargetStore, manifest: Manifest) -> tuple[Manifest | None, str | None]:
    backup_id = manifest.backup_id
    if backup_id not in destination.ids():
        return None, None
    there, verdicts = destination.manifest(backup_id), destination.verdicts(backup_id)
    if content_of(there) != content_of(manifest):
        raise RunbookError(
            f"{destination.at(backup_id)} is another backup under the same id: its snapshot is {there.snapshot.id} of"
            f" {there.snapshot.taken_at}, and that of the source is {manifest.snapshot.id} of"
            f" {manifest.snapshot.taken_at}.",
            "Nothing there is overwritten: find out who wrote it before you remove one of the two.",
        )
    if found := disproof(verdicts):
        raise RunbookError(
            f"{destination.at(backup_id)} is there already and was found {found.verdict} at {found.proven_at}.",
            "Nothing there is overwritten: look at that store, remove the damaged copy by hand, then copy it again.",
        )
    return there, proven_rung(verdicts)


def plan_of(request: Request, observed: Observed) -> Plan:
    """The steps; none where a proven copy is there.

    Raises:
        RunbookError: the destination has too little room.
    """
    plan, manifest = Plan(), observed.manifest
    if observed.is_done:
        return plan
    place, needed = request.destination.at(manifest.backup_id), manifest.stored_bytes + RESERVE_BYTES
    if observed.copy is None:
        if observed.free_bytes is not None and observed.free_bytes < needed:
            raise RunbookError(
                f"There are {size_words(observed.free_bytes)} free for {request.destination}, and the copy of"
                f" {manifest.backup_id} needs {size_words(needed)}.", "Make room there, or name another store.",
                free_bytes=observed.free_bytes, needed_bytes=needed,
            )
        for name in observed.leftovers:
            plan.add("remove what a killed run left", name, "partial", "absent", False)
        plan.add(
            "copy backup", place, "absent",
            f"{size_words(manifest.stored_bytes)} in {len(manifest.files)} files from"
            f" {request.source.at(manifest.backup_id)}, {_secrecy(observed)}",
        )
    plan.add("prove copy", place, "no rung", PROVEN)
    return plan


def _secrecy(observed: Observed) -> str:
    """Who can read the copy, in words."""
    if not observed.readers:
        return "plain"
    return f"{'still ' if observed.manifest.encryption else ''}encrypted to {' and '.join(observed.readers)}"


def message_of(request: Request, observed: Observed, done: bool) -> str:
    """The result in one sentence, and another one where a newer backup was passed over."""
    manifest, place = observed.manifest, request.destination.at(observed.manifest.backup_id)
    if observed.is_done:
        text = f"{manifest.backup_id} is at {place} already, proven to the rung {observed.rung}."
    elif not done:
        what = "prove the copy at" if observed.copy else f"copy {manifest.backup_id} to"
        text = f"Checked only: would {what} {place}."
    else:
        text = (
            f"{manifest.backup_id}, {size_words(manifest.stored_bytes)} in {len(manifest.files)} files, is at {place},"
            f" {_secrecy(observed)}, proven to the rung {PROVEN}."
        )
    if not request.backup_id and observed.newest.backup_id != manifest.backup_id:
        text += (
            f" The newest backup, {observed.newest.backup_id}, was passed over: it is not proven to the rung"
            f" {request.least_rung}."
        )
    return text


def carry_out(request: Request, observed: Observed, progress: Progress) -> Verdict:
    """Copy and prove, under the destination's lock, which the caller holds.

    Raises:
        RunbookError: it could not be done; nothing is at the destination that looks like a backup.
    """
    destination, copy = request.destination, observed.copy
    if copy is None:
        for name in destination.remove_leftovers():
            progress.say(f"removed {name}, which a killed run left")
        verdict = _copy(request, observed.manifest, progress)
    else:
        verdict = _prove(destination, copy, progress)
    try:
        destination.add_verdict(verdict)
    except (OSError, RunbookError) as error:
        raise RunbookError(
            f"{destination.at(verdict.backup_id)} is copied and proven to the rung {verdict.rung}, and that cannot be"
            f" written down, so its catalog calls it not proven: {reason(error)}.",
            "Look at the room and the rights of that store, then start it again: it proves the copy that is there.",
        ) from error
    return verdict


def _copy(request: Request, manifest: Manifest, progress: Progress) -> Verdict:
    destination, backup_id = request.destination, manifest.backup_id
    meter = transfer.Meter(f"copying {backup_id}", manifest.stored_bytes, request.maximum_bytes_per_second)
    recipients = [] if manifest.encryption else destination.recipients()
    try:
        with destination.making(backup_id):
            progress.say(meter.words())
            with progress.during(meter.words):
                files = transfer.copy(
                    manifest, request.source.stored(manifest), recipients, partial(destination.put, backup_id), meter,
                    JOBS,
                )
            made = replace(manifest if manifest.encryption else destination.sealed(manifest), files=files)
            verdict = _prove(destination, made, progress)
            destination.publish(made)
    except transfer.BrokenFileError as error:
        raise RunbookError(
            f"{request.source.at(backup_id)} is damaged: {error.message}."
            f" {left_after(error, f'Nothing was left at {destination}.')}",
            "Prove it with the playbook sre.runbooks.backup_verify, and copy another backup of the catalog.",
        ) from error
    except OSError as error:
        full = error.errno == errno.ENOSPC
        raise RunbookError(
            f"{destination} {'became full' if full else f'cannot be written ({error.strerror})'} while {backup_id} was"
            f" copied, {size_words(manifest.stored_bytes)}.",
            f"Make room there, or look at its disk, and start it again. {left_after(error, NOTHING_LEFT)}",
        ) from error
    return verdict


def _prove(destination: TargetStore, manifest: Manifest, progress: Progress) -> Verdict:
    """Read back every byte that the destination has."""
    started = time.monotonic()
    try:
        compare_names(manifest, destination.names(manifest.backup_id))
        destination.prove(manifest, JOBS, progress)
    except (FindingError, transfer.BrokenFileError) as error:
        raise RunbookError(
            f"{destination.at(manifest.backup_id)} is not what was sent there: {error}.",
            "Do not trust that store: look at its disk and its log, then start it again.",
        ) from error
    detail = f"{len(manifest.files)} files, {size_words(manifest.stored_bytes)}, as they were copied"
    rung = Rung(PROVEN, True, detail, round(time.monotonic() - started, 3))
    progress.say(f"{PROVEN}: passed, {detail}")
    return Verdict(GOOD, PROVEN, now(), manifest.backup_id, [rung])
