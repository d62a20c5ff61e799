# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""pg_dump's directory format: its table of contents as pg_restore lists it, and its files, hashed and inflated."""

from __future__ import annotations

import hashlib
import os
import re
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.sre.runbooks.plugins.module_utils.backup.manifest import File
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.client_tools import ClientTools
from ansible_collections.sre.runbooks.plugins.module_utils.run import process

CHUNK = 1 << 20
LIST_TIMEOUT_S = 600
ENTRY = re.compile(r"(\d+); (\d+) (\d+) (TABLE DATA|MATERIALIZED VIEW|FOREIGN TABLE|TABLE|SEQUENCE SET|BLOBS) (.*)")


@dataclass(frozen=True)
class Entry:
    """A line of the table of contents; `rest` is schema, name and owner with blanks between."""

    dump_id: int
    oid: int
    kind: str
    rest: str


def parse_contents(listing: str) -> list[Entry]:
    """The entries of `pg_restore --list` that matter to a proof."""
    found = (ENTRY.fullmatch(line) for line in listing.splitlines())
    return [Entry(int(match[1]), int(match[3]), match[4], match[5]) for match in found if match]


def read_contents(tools: ClientTools, data: Path) -> list[Entry]:
    """Read the table of contents of a dump.

    Raises:
        RunbookError: pg_restore cannot read it.
    """
    listing = process.run([tools.path("pg_restore"), "--list", str(data)], timeout_s=LIST_TIMEOUT_S)
    return parse_contents(listing.stdout)


def hash_file(path: Path) -> tuple[int, str]:
    """Size and SHA-256 of a file."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb", buffering=0) as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return size, digest.hexdigest()


def hash_and_inflate(path: Path) -> tuple[int, str, str]:
    """Size, SHA-256 and what is wrong with the gzip stream (empty when nothing is), in one pass over the file."""
    digest, size, problem = hashlib.sha256(), 0, ""
    inflater = zlib.decompressobj(wbits=31)
    with path.open("rb", buffering=0) as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
            size += len(chunk)
            problem = problem or _inflate(inflater, chunk)
    if not problem and not inflater.eof:
        problem = "the compressed data ends too early"
    return size, digest.hexdigest(), problem


def _inflate(inflater: zlib._Decompress, chunk: bytes) -> str:
    try:
        while chunk and not inflater.eof:
            inflater.decompress(chunk, CHUNK)
            chunk = inflater.unconsumed_tail
    except zlib.error as error:
        return f"the compressed data is broken ({error})"
    return "bytes follow the compressed data" if inflater.unused_data or chunk else ""


def files_below(folder: Path) -> list[str]:
    """Relative paths of all files below a folder, sorted."""
    found = []
    for parent, _unused, names in os.walk(folder):
        found += [os.path.relpath(os.path.join(parent, name), folder) for name in names]
    return sorted(found)


def describe_files(folder: Path, paths: Iterable[str], jobs: int) -> list[File]:
    """Hash files, several at once (hashing runs without the interpreter's lock)."""

    def describe(path: str) -> File:
        size, sha256 = hash_file(folder / path)
        return File(path, size, sha256)

    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(describe, paths))
