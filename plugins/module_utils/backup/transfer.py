# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Files on their way to a store and back: hashed, encrypted or decrypted, and compared, all in one pass."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self, TypeVar

from ansible_collections.sre.runbooks.plugins.module_utils.backup.encryption import (
    SUFFIX,
    Keyring,
    Recipient,
    decrypted,
    encrypted,
)
from ansible_collections.sre.runbooks.plugins.module_utils.backup.manifest import File, Manifest, Stored
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.progress import Progress
from ansible_collections.sre.runbooks.plugins.module_utils.run.words import duration, size

CHUNK = 1 << 20
# Below this, a rate says nothing.
RATE_FROM_S = 2.0
LOOK_EVERY_S = 0.5
# How often a file that is written to is asked for more.
FOLLOW_EVERY_S = 0.05
# As pg_dump calls the files of its directory format that hold the rows of one table each.
TABLE_FILES = "[0-9]*.dat*"
Item = TypeVar("Item")
Result = TypeVar("Result")
# Puts a stream of about so many bytes under a name; says what it stored.
Put = Callable[[str, BinaryIO, int], Stored]
# The bytes that a store has under a name.
Open = Callable[[str], AbstractContextManager[Iterable[bytes]]]


class BrokenFileError(RunbookError):
    """A file is not what was written: size or SHA-256 differ, or its encryption is broken."""


class Meter:
    """How far a transfer has come, in words: bytes, speed, and the time that is left.

    Args:
        doing: what is done, in words.
        total_bytes: of all files.
        maximum_bytes_per_second: all files together are held to this; None has no cap.
    """

    def __init__(self, doing: str, total_bytes: int = 0, maximum_bytes_per_second: int | None = None) -> None:
        self._doing, self._total, self._done = doing, total_bytes, 0
        self._started = self._due = time.monotonic()
        self._maximum, self._lock, self._stopped = maximum_bytes_per_second, threading.Lock(), threading.Event()

    def expect(self, total_bytes: int) -> None:
        """How many it will be, known by now."""
        self._total = total_bytes

    def stop(self) -> None:
        """Let nothing more through."""
        self._stopped.set()

    def seen(self, count: int) -> None:
        """So many bytes more; waits where that was too fast.

        Raises:
            RunbookError: the transfer was stopped.
        """
        with self._lock:
            moment = time.monotonic()
            if not self._done:
                self._started = moment
            self._done += count
            # What was not used of the cap while nothing was sent is not made up for.
            self._due = max(self._due, moment) + (count / self._maximum if self._maximum else 0.0)
            wait_s = self._due - moment
        self.pause(wait_s)

    def pause(self, seconds: float) -> None:
        """Wait.

        Raises:
            RunbookError: the transfer was stopped.
        """
        if self._stopped.wait(seconds):
            raise RunbookError("The transfer was stopped.", "What stopped it is said elsewhere.")

    def words(self) -> str:
        """For a line of progress."""
        took = time.monotonic() - self._started
        text = f"{self._doing}: {size(self._done)} of {size(self._total)}"
        if took < RATE_FROM_S or not self._done:
            return text
        rate = self._done / took
        left = max(0.0, self._total - self._done) / rate
        return f"{text}, {size(round(rate))}/s, about {duration(left)} left"


def stored_name(manifest: Manifest, path: str) -> str:
    """The name of a file of the backup in a store."""
    return f"{path}{SUFFIX}" if manifest.encryption else path


def expected(file: File) -> tuple[int, str]:
    """Size and SHA-256 of what the store has of a file."""
    return (file.stored.bytes, file.stored.sha256) if file.stored else (file.bytes, file.sha256)


def in_parallel(work: Callable[[Item], Result], items: Sequence[Item], jobs: int) -> list[Result]:
    """Do all, several at once, in the order given; after the first failure nothing more is begun."""
    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


class Sending:
    """Sends the files of a dump to a store: those of tables while it goes on, the rest when it has ended.

    A table's file is opened for writing once, and only ever grows. When nobody has it open for writing any more it is
    whole, which a read lease tells (fcntl(2), F_SETLEASE); where a file system has none, the dump's end does.

    Args:
        folder: the plain files.
        recipients: whom to encrypt to; empty does not encrypt.
        put: stores one.
        meter: told of each byte read.
        jobs: files at once.
        most_bytes: what a file that is written to may grow to, for `put`; None sends it when it is whole.
    """

    def __init__(
        self, folder: Path, recipients: Sequence[Recipient], put: Put, meter: Meter, jobs: int, most_bytes: int | None
    ) -> None:
        self._folder, self._recipients, self._put, self._meter = folder, recipients, put, meter
        self._most, self._dumped = most_bytes, threading.Event()
        self._pool = ThreadPoolExecutor(jobs)
        self._begun: dict[str, Future[File]] = {}
        self._looked = time.monotonic()

    def look(self) -> None:
        """Begin to send what is there by now; call it often.

        Raises:
            RunbookError: one could not be stored.
        """
        if time.monotonic() - self._looked < LOOK_EVERY_S:
            return
        self._looked = time.monotonic()
        for future in self._begun.values():
            if future.done():
                future.result()
        for path in self._folder.rglob(TABLE_FILES):
            name = str(path.relative_to(self._folder))
            if name not in self._begun and (self._most is not None or is_whole(path)):
                self._begun[name] = self._pool.submit(self._one, name, self._most)

    def finish(self, paths: Iterable[str], progress: Progress) -> list[File]:
        """Send the rest, the largest first.

        Args:
            paths: all files of the dump, relative to the folder.
            progress: where to report.

        Returns:
            What a manifest says of them, by path.

        Raises:
            RunbookError: one could not be stored, or was written to after it had been sent.
        """
        self._dumped.set()
        sizes = {path: (self._folder / path).stat().st_size for path in paths}
        self._meter.expect(sum(sizes.values()))
        progress.say(self._meter.words())
        for path in sorted(sizes.keys() - self._begun.keys(), key=sizes.__getitem__, reverse=True):
            self._begun[path] = self._pool.submit(self._one, path)
        with progress.during(self._meter.words):
            files = [self._begun[path].result() for path in sorted(sizes)]
        if changed := [file.path for file in files if file.bytes != sizes[file.path]]:
            raise RunbookError(
                f"{changed[0]} was written to after it had been sent.", "Start the backup again, and report this."
            )
        return files

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Begin nothing more, and end what is under way."""
        self._meter.stop()
        self._pool.shutdown(cancel_futures=True)

    def _one(self, path: str, most_bytes: int | None = None) -> File:
        source = PlainSource(self._folder / path, self._meter, self._dumped.is_set, hashed=bool(self._recipients))
        about = (self._folder / path).stat().st_size if most_bytes is None else most_bytes
        with contextlib.closing(source):
            if not self._recipients:
                stored = self._put(path, source, about)
                # What is stored is the plain file, which was hashed on its way.
                return File(path, stored.bytes, stored.sha256, stored)
            with encrypted(iter(lambda: source.read(CHUNK), b""), self._recipients) as pipe:
                stored = self._put(f"{path}{SUFFIX}", EndingStream(pipe.output, pipe.finish), about)
        return File(path, source.bytes, source.sha256, stored)


def is_whole(path: Path) -> bool:
    """Whether nobody has a file open for writing; False where that cannot be told."""
    try:
        with path.open("rb") as stream:
            # Who opens it for writing in this very moment has a signal sent, which would end this process by default.
            fcntl.fcntl(stream, fcntl.F_SETSIG, signal.SIGURG)
            fcntl.fcntl(stream, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            fcntl.fcntl(stream, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return False
    return True


def copy(
    manifest: Manifest, open_stored: Open, recipients: Sequence[Recipient], put: Put, meter: Meter, jobs: int
) -> list[File]:
    """Bring the files of a backup from one store into another, compared with the manifest on their way.

    What is encrypted stays so, and needs no key. What is plain is encrypted where there are recipients.

    Args:
        manifest: of the backup where it is.
        open_stored: reads one there.
        recipients: whom to encrypt plain files to; empty leaves them plain.
        put: stores one in the other store.
        meter: told of each byte read.
        jobs: files at once.

    Returns:
        What the manifest of the copy says of them.

    Raises:
        BrokenFileError: a file is not what was written.
        RunbookError: one could not be read or stored.
    """

    def one(file: File) -> File:
        name, about = stored_name(manifest, file.path), expected(file)[0]
        with open_stored(name) as chunks:
            source = Compared(name, chunks, *expected(file), meter.seen)
            if recipients and not manifest.encryption:
                with encrypted(source, recipients) as pipe:
                    return replace(file, stored=put(f"{name}{SUFFIX}", EndingStream(pipe.output, pipe.finish), about))
            stored = put(name, ChunkStream(source), about)
        if (stored.bytes, stored.sha256) != expected(file):
            raise RunbookError(
                f"{name} was stored with other bytes than were read.",
                "Do not trust that store: look at its disk and its log, then start it again.", name=name,
            )
        return replace(file, stored=stored if manifest.encryption or stored.checksum else None)

    return sorted(in_parallel(one, _largest_first(manifest), jobs), key=lambda file: file.path)


def prove(manifest: Manifest, open_stored: Open, meter: Meter, jobs: int) -> None:
    """Read every byte that a store has of a backup, and compare it with the manifest. No key is needed.

    Raises:
        BrokenFileError: a file is not what was written.
        RunbookError: the store cannot be read.
    """

    def one(file: File) -> None:
        name = stored_name(manifest, file.path)
        with open_stored(name) as chunks:
            for _unused in Compared(name, chunks, *expected(file), meter.seen):
                pass

    in_parallel(one, _largest_first(manifest), jobs)


def fetch(manifest: Manifest, folder: Path, open_stored: Open, keyring: Keyring, meter: Meter, jobs: int) -> None:
    """Bring the files of a backup back as plain files; every byte is compared with the manifest on its way.

    Raises:
        BrokenFileError: a file is not what was written.
        KeyMissingError: no secret key of this host opens it.
        RunbookError: the store cannot be read, or the folder not be written.
    """
    for parent in {(folder / file.path).parent for file in manifest.files}:
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)

    def one(file: File) -> None:
        name = stored_name(manifest, file.path)
        with open_stored(name) as chunks, (folder / file.path).open("wb") as target:
            source = Compared(name, chunks, *expected(file), meter.seen)
            if not manifest.encryption:
                target.writelines(source)
                return
            with decrypted(source, keyring) as pipe:
                output = EndingStream(pipe.output, pipe.finish)
                plain = iter(lambda: output.read(CHUNK), b"")
                target.writelines(Compared(file.path, plain, file.bytes, file.sha256, _nothing))

    # The smallest first: a key that is missing shows at once.
    in_parallel(one, _largest_first(manifest)[::-1] if manifest.encryption else _largest_first(manifest), jobs)


def _largest_first(manifest: Manifest) -> list[File]:
    return sorted(manifest.files, key=lambda file: file.bytes, reverse=True)


def _nothing(_count: int) -> None:
    """Nobody is told."""


class PlainSource:
    """A file that is read once while it grows, and hashed where nobody else does.

    Args:
        path: where it is.
        meter: told of each byte read.
        dumped: whether nothing grows any more.
        hashed: compute its SHA-256.
    """

    def __init__(self, path: Path, meter: Meter, dumped: Callable[[], bool], *, hashed: bool) -> None:
        self._path, self._stream, self._hashed = path, path.open("rb", buffering=0), hashed
        self._digest, self._meter, self.bytes = hashlib.sha256(), meter, 0
        self._dumped, self._whole = dumped, False

    def read(self, count: int = -1) -> bytes:
        """The next bytes; fewer than asked for only at the end, since writers take it for that; empty there."""
        pieces: list[bytes] = []
        left = count
        while left:
            piece = self._next(left)
            if not piece:
                break
            pieces.append(piece)
            left -= len(piece) if count > 0 else 0
        return b"".join(pieces)

    def _next(self, count: int) -> bytes:
        while not (piece := self._stream.read(count)):
            # What was written before it was found whole is still to be read.
            if self._whole:
                return b""
            self._whole = self._dumped() or is_whole(self._path)
            if not self._whole:
                self._meter.pause(FOLLOW_EVERY_S)
        if self._hashed:
            self._digest.update(piece)
        self.bytes += len(piece)
        self._meter.seen(len(piece))
        return piece

    @property
    def sha256(self) -> str:
        """Of what was read."""
        return self._digest.hexdigest()

    def close(self) -> None:
        """Let go of the file."""
        self._stream.close()


class EndingStream:
    """A stream whose end is only believed after `finish` agreed: a program that fails closes its output as well."""

    def __init__(self, stream: BinaryIO, finish: Callable[[], None]) -> None:
        self._stream, self._finish = stream, finish

    def read(self, count: int = -1) -> bytes:
        """The next bytes; empty at the end.

        Raises:
            RunbookError: the program behind the stream failed.
        """
        chunk = self._stream.read(count)
        if not chunk:
            self._finish()
        return chunk


class ChunkStream:
    """Chunks as a stream; a read is only shorter than asked for at the end, since writers take it for that."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks, self._rest = iter(chunks), b""

    def read(self, count: int = -1) -> bytes:
        """The next bytes; empty at the end."""
        pieces, have = [self._rest], len(self._rest)
        while count < 0 or have < count:
            chunk = next(self._chunks, None)
            if chunk is None:
                break
            pieces.append(chunk)
            have += len(chunk)
        whole = b"".join(pieces)
        cut = have if count < 0 else count
        self._rest = whole[cut:]
        return whole[:cut]


class Compared:
    """Passes chunks on, and at the end compares size and SHA-256 with what was written.

    Raises (while iterating):
        BrokenFileError: they differ.
    """

    def __init__(
        self, name: str, chunks: Iterable[bytes], size_bytes: int, sha256: str, seen: Callable[[int], None]
    ) -> None:
        self._name, self._chunks, self._bytes, self._sha256, self._seen = name, chunks, size_bytes, sha256, seen

    def __iter__(self) -> Iterator[bytes]:
        digest, count = hashlib.sha256(), 0
        for chunk in self._chunks:
            digest.update(chunk)
            count += len(chunk)
            self._seen(len(chunk))
            yield chunk
        if count != self._bytes:
            raise BrokenFileError(f"{self._name} has {count} bytes instead of {self._bytes}", name=self._name)
        if digest.hexdigest() != self._sha256:
            raise BrokenFileError(f"{self._name} has another SHA-256 than in the manifest", name=self._name)
