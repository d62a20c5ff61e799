# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What tables were called, from the WAL itself: the rows of the catalog that its records bring.

pg_waldump knows files, not names, and of a dropped table the live catalog knows nothing any more. The base backup's
catalog would: but it lacks every table that is younger, and opening it means to restore it first. The WAL has both.
After each checkpoint the first change of a page writes the whole page, and a table that is dropped is a page of
pg_class that changes. So these pages, and the rows inserted or changed after them, are read here, byte by byte as
PostgreSQL lays them out (access/xlogrecord.h, access/heapam_xlog.h, storage/bufpage.h, catalog/pg_class.h).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

PAGE_BYTES = 8192
RECORD_HEADER = 24
TUPLE_HEADER = 23
HEAP = 10  # the resource manager's number
INSERT, UPDATE, HOT_UPDATE = 0x00, 0x20, 0x40
PREFIX_FROM_OLD, SUFFIX_FROM_OLD = 0x20, 0x40
HAS_IMAGE, HAS_DATA, SAME_RELATION = 0x10, 0x20, 0x80
HAS_HOLE, PGLZ, COMPRESSED = 0x01, 0x04, 0x1C
DATA_SHORT, DATA_LONG, ORIGIN, TOP_XID = 255, 254, 253, 252
XMIN_COMMITTED, XMIN_INVALID, XMAX_INVALID = 0x0100, 0x0200, 0x0800
NORMAL_ROW = 1

PG_CLASS, PG_NAMESPACE, PG_DATABASE = 1259, 2615, 1262
# Before these columns only fixed ones stand: since PostgreSQL 12, and one more of four bytes since 18.
KIND_AT, KIND_AT_SINCE_18 = 115, 119


class UnreadableError(ValueError):
    """A record or a page is not laid out as expected."""


@dataclass(frozen=True)
class Relation:
    """A row of pg_class."""

    oid: int
    name: str
    schema_oid: int
    node: int
    kind: str
    persistence: str


@dataclass(frozen=True)
class Part:
    """A page that a record changes, with what the record holds of it."""

    file: tuple[int, int, int]
    fork: int
    number: int
    image: bytes | None
    data: bytes


@dataclass(frozen=True)
class Raw:
    """A record of the WAL, taken apart."""

    manager: int
    info: int
    parts: tuple[Part, ...]
    main: bytes


def take_apart(record: bytes) -> Raw:
    """A record's bytes as its header, pages and main data.

    Raises:
        UnreadableError: the layout is another one, or a page is compressed by a method that Python lacks.
    """
    try:
        return _take_apart(record)
    except (struct.error, IndexError) as error:
        raise UnreadableError(str(error)) from error


def _take_apart(record: bytes) -> Raw:
    total, _xid, _previous, info, manager = struct.unpack_from("<IIQBB", record)
    if total != len(record):
        raise UnreadableError(f"the record says {total} bytes and has {len(record)}")
    at, main_bytes, waiting = RECORD_HEADER, 0, 0
    heads: list[tuple[tuple[int, int, int], int, int, tuple[int, int, int] | None, int]] = []
    relation = (0, 0, 0)
    while total - at > waiting + main_bytes:
        number = record[at]
        at += 1
        if number == DATA_SHORT:
            main_bytes = record[at]
            at += 1
        elif number == DATA_LONG:
            (main_bytes,) = struct.unpack_from("<I", record, at)
            at += 4
        elif number == ORIGIN:
            at += 2
        elif number == TOP_XID:
            at += 4
        elif number <= 32:
            flags, data_bytes = struct.unpack_from("<BH", record, at)
            at += 3
            image = None
            if flags & HAS_IMAGE:
                image_bytes, hole_at, image_info = struct.unpack_from("<HHB", record, at)
                at += 5
                hole = 0
                if image_info & COMPRESSED and image_info & HAS_HOLE:
                    (hole,) = struct.unpack_from("<H", record, at)
                    at += 2
                elif image_info & HAS_HOLE:
                    hole = PAGE_BYTES - image_bytes
                image = (image_bytes, hole_at, hole | image_info << 16)
                waiting += image_bytes
            if not flags & SAME_RELATION:
                relation = struct.unpack_from("<III", record, at)
                at += 12
            (page,) = struct.unpack_from("<I", record, at)
            at += 4
            heads.append((relation, flags, page, image, data_bytes))
            waiting += data_bytes
        else:
            raise UnreadableError(f"a part of the unknown kind {number}")
    parts = []
    for file, flags, page, image, data_bytes in heads:
        content = None
        if image:
            content = _page(record[at : at + image[0]], image[1], image[2] & 0xFFFF, image[2] >> 16)
            at += image[0]
        parts.append(Part(file, flags & 0x0F, page, content, record[at : at + data_bytes]))
        at += data_bytes
    return Raw(manager, info, tuple(parts), record[at:])


def _page(image: bytes, hole_at: int, hole: int, info: int) -> bytes:
    if info & COMPRESSED:
        if not info & PGLZ:
            raise UnreadableError("a page is compressed by lz4 or zstd")
        image = expand(image, PAGE_BYTES - hole)
    page = image[:hole_at] + bytes(hole) + image[hole_at:]
    if len(page) != PAGE_BYTES:
        raise UnreadableError(f"a page of {len(page)} bytes")
    return page


def expand(packed: bytes, size: int) -> bytes:
    """Undo PostgreSQL's own compression (common/pg_lzcompress.c).

    Raises:
        UnreadableError: what comes out is not `size` bytes.
    """
    out = bytearray()
    at = 0
    while at < len(packed) and len(out) < size:
        control = packed[at]
        at += 1
        for bit in range(8):
            if at >= len(packed) or len(out) >= size:
                break
            if not control >> bit & 1:
                out.append(packed[at])
                at += 1
                continue
            if at + 1 >= len(packed):
                raise UnreadableError("a compressed page ends in the middle")
            length = (packed[at] & 0x0F) + 3
            back = (packed[at] & 0xF0) << 4 | packed[at + 1]
            at += 2
            if length == 18:
                if at >= len(packed):
                    raise UnreadableError("a compressed page ends in the middle")
                length += packed[at]
                at += 1
            if not 0 < back <= len(out):
                raise UnreadableError("a compressed page points before its beginning")
            for _byte in range(min(length, size - len(out))):
                out.append(out[-back])
    if len(out) != size:
        raise UnreadableError(f"a compressed page has {len(out)} bytes and not {size}")
    return bytes(out)


def rows_of(page: bytes) -> Iterator[tuple[int, bytes, bool]]:
    """The rows on a page as (place, columns, whether it is the newest version); those rolled back are left out."""
    (lower,) = struct.unpack_from("<H", page, 12)
    for place in range(1, (min(lower, PAGE_BYTES) - 24) // 4 + 1):
        (pointer,) = struct.unpack_from("<I", page, 20 + 4 * place)
        start, state, size = pointer & 0x7FFF, pointer >> 15 & 3, pointer >> 17
        if state != NORMAL_ROW or size <= TUPLE_HEADER or start + size > PAGE_BYTES:
            continue
        (deleted_by,) = struct.unpack_from("<I", page, start + 4)
        (mask,) = struct.unpack_from("<H", page, start + 20)
        if mask & XMIN_INVALID and not mask & XMIN_COMMITTED:
            continue
        begin = page[start + 22]
        yield place, page[start + begin : start + size], bool(deleted_by == 0 or mask & XMAX_INVALID)


def named(columns: bytes) -> tuple[int, str]:
    """The first two columns, oid and name, of a row of any of these catalogs."""
    if len(columns) < 68:
        raise UnreadableError("a row of the catalog is too short")
    return struct.unpack_from("<I", columns)[0], columns[4:68].split(b"\0")[0].decode("utf-8", "replace")


def relation_of(columns: bytes, major: int) -> Relation:
    """A row of pg_class.

    Raises:
        UnreadableError: it is too short to be one.
    """
    kind_at = KIND_AT_SINCE_18 if major >= 18 else KIND_AT
    if len(columns) <= kind_at:
        raise UnreadableError("a row of pg_class is too short")
    oid, name = named(columns)
    (schema,) = struct.unpack_from("<I", columns, 68)
    (node,) = struct.unpack_from("<I", columns, 88)
    return Relation(oid, name, schema, node, chr(columns[kind_at]), chr(columns[kind_at - 1]))


class CatalogRows:
    """The rows of one catalog's pages, as far as the WAL has brought them.

    An update may write only what differs from the version before it, so the versions are kept by their places.
    """

    def __init__(self) -> None:
        self._rows: dict[tuple[tuple[int, int, int], int, int], bytes] = {}

    def apply(self, raw: Raw, file: tuple[int, int, int]) -> tuple[list[tuple[bool, bytes]], bytes | None]:
        """Follow a record.

        Args:
            raw: the record.
            file: the catalog's file; pages of others are passed over.

        Returns:
            The rows that whole pages show, newest version last, each with whether it is that; and the row that the
            record itself brings.

        Raises:
            UnreadableError: the row that it brings cannot be known.
        """
        try:
            return self._apply(raw, file)
        except (struct.error, IndexError) as error:
            raise UnreadableError(str(error)) from error

    def _apply(self, raw: Raw, file: tuple[int, int, int]) -> tuple[list[tuple[bool, bytes]], bytes | None]:
        shown: list[tuple[bool, bytes]] = []
        pages = [part for part in raw.parts if part.file == file and part.fork == 0]
        for part in pages:
            if part.image:
                for place, columns, newest in rows_of(part.image):
                    self._rows[file, part.number, place] = columns
                    shown.append((newest, columns))
        rows = sorted(shown, key=lambda one: one[0])
        if raw.manager != HEAP or not pages or pages[0] is not raw.parts[0]:
            return rows, None
        operation, target = raw.info & 0x70, pages[0]
        if operation == INSERT:
            (place,) = struct.unpack_from("<H", raw.main)
        elif operation in (UPDATE, HOT_UPDATE):
            (place,) = struct.unpack_from("<H", raw.main, 12)
        else:
            return rows, None
        key = (file, target.number, place)
        if target.image:
            return rows, self._rows.get(key)
        if operation == INSERT:
            self._rows[key] = _columns(target.data, b"", 0, 0)
        else:
            flags = raw.main[7]
            data, prefix, suffix = target.data, 0, 0
            if flags & PREFIX_FROM_OLD:
                (prefix,), data = struct.unpack_from("<H", data), data[2:]
            if flags & SUFFIX_FROM_OLD:
                (suffix,), data = struct.unpack_from("<H", data), data[2:]
            page = raw.parts[1].number if len(raw.parts) > 1 else target.number
            old = self._rows.get((file, page, struct.unpack_from("<H", raw.main, 4)[0]), b"")
            if len(old) < max(prefix, suffix):
                self._rows.pop(key, None)
                raise UnreadableError("a row of the catalog was changed whose earlier version is not known")
            self._rows[key] = _columns(data, old, prefix, suffix)
        return rows, self._rows[key]


def _columns(data: bytes, old: bytes, prefix: int, suffix: int) -> bytes:
    rest = data[5 + data[4] - TUPLE_HEADER :]
    return old[:prefix] + rest + (old[len(old) - suffix :] if suffix else b"")


def relation_map(raw: Raw) -> tuple[int, int, int | None]:
    """From a record of RelMap: tablespace, database, and the file that pg_class has from there on.

    Raises:
        UnreadableError: the layout is another one.
    """
    try:
        database, tablespace, size = struct.unpack_from("<III", raw.main)
        count = struct.unpack_from("<i", raw.main, 16)[0]
        if not 0 <= count <= size // 8:
            raise UnreadableError(f"a map of {count} relations")
        pairs = [struct.unpack_from("<II", raw.main, 20 + 8 * index) for index in range(count)]
    except struct.error as error:
        raise UnreadableError(str(error)) from error
    return tablespace, database, next((node for oid, node in pairs if oid == PG_CLASS), None)
