# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What pg_waldump's lines mean, with lines that PostgreSQL 15 and 18 wrote; and what is missing between segments."""

from __future__ import annotations

import contextlib
import struct
from datetime import UTC, datetime

import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.segments import (
    Segment,
    lsn_text,
    parse_lsn,
    read_history,
)
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.wal import (
    ROWS,
    Commit,
    File,
    Stretch,
    parse_commit,
    parse_line,
    path,
)
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.wal_catalog import (
    CatalogRows,
    Relation,
    UnreadableError,
    expand,
    relation_map,
    take_apart,
)
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.wal_search import (
    LiveCatalog,
    WalSearch,
    Wanted,
    verdict,
)
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from hypothesis import given
from hypothesis import strategies as st

HEAD = "rmgr: {:<11} len (rec/tot):    361/   361, tx:        729, lsn: 0/0195E158, prev 0/0195E0C8, desc: "
TRANSACTION = HEAD.format("Transaction")
HEAP = HEAD.format("Heap")
DELETES = [
    f"{HEAP}DELETE off 3 flags 0x00 KEYS_UPDATED , blkref #0: rel 1663/16384/16401 blk 0 FPW",
    f"{HEAP}DELETE xmax: 756, off: 3, infobits: [KEYS_UPDATED], flags: 0x00, blkref #0: rel 1663/16384/16401 blk 0",
]
DROP = (
    f"{TRANSACTION}COMMIT 2026-11-21 18:45:17.785466 UTC; rels: base/16384/16429"
    " pg_tblspc/16500/PG_15_202209061/16384/9;"
    " dropped stats: 2/16384/16433 2/16384/16429 3/16384/77; relcache init file inval dbid 16384 tsid 1663;"
    " inval msgs: catcache 80 relcache 16433 snapshot 2608 relcache 16429"
)
OTHERS = [
    HEAD.format("Standby") + "RUNNING_XACTS nextXid 728 latestCompletedXid 727 oldestRunningXid 728",
    HEAD.format("Storage") + "CREATE base/16384/16410",
    HEAD.format("XLOG") + "SWITCH ",
    HEAD.format("XLOG") + "FPI , blkref #0: rel 1663/16384/16412 blk 0 FPW",
    HEAD.format("RelMap") + "UPDATE database 16384 tablespace 1663 size 512",
    HEAD.format("Database") + "DROP dir 1663/16386",
]
MB = 1 << 20


def ended(xid: int, at: str, what: str = "COMMIT", rest: str = "") -> str:
    line = HEAD.format("Transaction").replace("tx:        729", f"tx: {xid}")
    return f"{line}{what} 2026-11-21 {at}.000000 UTC{rest}"


def followed(wanted: Wanted, live: LiveCatalog | None, *lines: str) -> tuple[str, str]:
    """The answer after these lines, or those of them that were read."""
    search = WalSearch(wanted, 15, live, nothing)
    for line in lines:
        record = parse_line(line)
        assert record is not None
        if not search.feed(record):
            break
    return verdict(search, wanted, [], "from a to b", search.unread(0x5000000))


def nothing(_lsn: int) -> bytes:
    return b""


def commit(line: str) -> Commit | None:
    record = parse_line(line)
    assert record is not None
    return parse_commit(record)


@pytest.mark.parametrize("line", [*DELETES, DROP, *OTHERS])
def test_a_line_that_pg_waldump_wrote_is_understood(line: str) -> None:
    record = parse_line(line)
    assert record is not None
    assert (record.xid, lsn_text(record.lsn)) == (729, "0/195E158")


@pytest.mark.parametrize("line", DELETES)
def test_a_deleted_row_is_seen_on_the_short_way_and_on_the_long_one(line: str) -> None:
    rows, record = ROWS.fullmatch(line), parse_line(line)
    assert rows is not None
    assert (rows["what"], rows["file"]) == ("DELETE", "1663/16384/16401")
    assert record is not None
    assert (record.what, record.blocks[0].file) == ("DELETE", File(1663, 16384, 16401))


def test_a_commit_says_what_it_took_away() -> None:
    assert commit(DROP) == Commit(
        729, datetime(2026, 11, 21, 18, 45, 17, 785466, UTC), (),
        frozenset({File(1663, 16384, 16429), File(16500, 16384, 9)}), frozenset({(16384, 16433), (16384, 16429)}),
        frozenset({16433, 16429}),
    )


def test_a_prepared_commit_is_of_the_transaction_that_it_names_and_subtransactions_belong_to_theirs() -> None:
    found = commit(f"{TRANSACTION}COMMIT_PREPARED 700: 2026-11-21 18:45:17.791453 UTC; subxacts: 738 739")
    assert found is not None
    assert (found.xid, found.children) == (700, (738, 739))


@pytest.mark.parametrize("rest", [
    "", "yesterday", "2026-11-21 18:45:17.791453 CET", "2026-02-31 18:45:17.791453 UTC",
    "2026-11-21 18:45:17.791453 UTC; rels: somewhere/1", "2026-11-21 18:45:17.791453 UTC; dropped stats: x",
    "2026-11-21 18:45:17.791453 UTC; subxacts: 1 two",
])
def test_a_commit_that_is_not_understood_is_none_and_is_counted(rest: str) -> None:
    assert commit(f"{TRANSACTION}COMMIT {rest}") is None
    search = WalSearch(Wanted("t"), 15, None, nothing)
    search.feed(parse_line(f"{TRANSACTION}COMMIT {rest}"))
    word, message = verdict(search, Wanted("t"), [], "from a to b")
    assert (word, search.not_understood) == ("unknown", 1)
    assert "1 line of pg_waldump could not be understood" in message


ORDERS = Relation(16433, "orders", 2200, 16433, "r", "p")
DROPPED = "; dropped stats: 2/16384/16433"
SHUT_DOWN = HEAD.format("XLOG") + (
    "CHECKPOINT_SHUTDOWN redo 0/1529E98; tli 1; prev tli 1; fpw true; xid 0:700; oid 13000; multi 1; offset 0;"
    " oldest xid 716 in DB 1; oldest multi 1 in DB 1; oldest/newest commit timestamp xid: 0/0;"
    " oldest running xid 0; shutdown"
)
RUNNING = HEAD.format("Standby") + "RUNNING_XACTS nextXid 703 latestCompletedXid 702 oldestRunningXid 701; 1 xacts: 701"
ENDED = [ended(700, "10:00:00"), ended(702, "10:00:01"), ended(701, "10:00:02", "ABORT")]


def moment(at: str) -> datetime:
    return datetime.fromisoformat(f"2026-11-21T{at}+00:00")


def live(next_xid: int, *running: int, relations: tuple[Relation, ...] = (ORDERS,)) -> LiveCatalog:
    return LiveCatalog(
        16384, "shop", relations={one.oid: one for one in relations}, next_xid=next_xid, running=frozenset(running)
    )


@pytest.mark.parametrize(("server", "lines", "answer"), [
    (live(703), [SHUT_DOWN, *ENDED], "not found"),
    (live(703), [SHUT_DOWN, *ENDED[:2], RUNNING, ENDED[2]], "not found"),
    (live(703, 701), [SHUT_DOWN, *ENDED[:2]], "not found"),
    (live(703), [SHUT_DOWN, *ENDED[:2]], "unknown"),
    (live(703), [SHUT_DOWN, *ENDED[:2], RUNNING], "unknown"),
    (live(704), [SHUT_DOWN, *ENDED], "unknown"),
    (live(704, 703), [SHUT_DOWN, *ENDED], "not found"),
    (live(2**31), [SHUT_DOWN, *ENDED], "unknown"),
    (live(703), ENDED, "unknown"),
])
def test_nothing_found_is_no_proof_while_the_live_server_has_done_more(
    server: LiveCatalog, lines: list[str], answer: str
) -> None:
    """A86 ⚠: a table that was lost minutes ago stands in WAL that is not archived yet."""
    word, message = followed(Wanted("orders"), server, *lines)
    assert (word, "is not archived yet" in message) == (answer, answer == "unknown"), message


@pytest.mark.parametrize(("since", "until", "answer"), [
    ("09:00:00", None, "not found"), ("10:00:02", None, "not found"), ("12:00:00", None, "unknown"),
    (None, "12:00:00", "unknown"), ("09:00:00", "10:30:00", "unknown"), ("09:00:00", "10:00:01", "not found"),
])
def test_nothing_found_is_no_proof_where_the_archive_ends_before_the_time_that_is_asked_for(
    since: str | None, until: str | None, answer: str
) -> None:
    """A86 ⚠"""
    wanted = Wanted("orders", None, moment(since) if since else None, moment(until) if until else None)
    known = LiveCatalog(16384, "shop", relations={ORDERS.oid: ORDERS})
    lines = [ended(700, "10:00:00"), ended(701, "10:00:02")]
    word, message = followed(wanted, known, *lines)
    assert (word, "what was done after it is unknown" in message) == (answer, answer == "unknown"), message


def test_what_was_found_is_said_with_what_was_not_read() -> None:
    word, message = followed(Wanted("orders"), live(704), SHUT_DOWN, *ENDED[:2], ended(701, "10:00:02", rest=DROPPED))
    assert (word, "was dropped at" in message, "is not archived yet" in message) == ("found", True, True), message


def test_a_table_that_the_wal_knew_and_the_live_database_does_not_was_dropped_after_it() -> None:
    search = WalSearch(Wanted("orders"), 15, live(703, relations=()), nothing)
    search._learn(16384, ORDERS)
    assert search.lost_unseen() == ["orders"]
    assert "The table orders is not in the live database any more" in " ".join(search.unread(0))
    search.feed(parse_line(ended(702, "10:00:00", rest=DROPPED)))
    assert search.lost_unseen() == [], "it was seen"


def test_a_clock_that_was_ahead_for_a_moment_hides_nothing() -> None:
    lines = [
        SHUT_DOWN, ended(700, "10:05:00"), ended(701, "09:59:00", rest=DROPPED), ended(702, "10:06:00", rest=DROPPED)
    ]
    word, message = followed(Wanted("orders", until=moment("10:00:00")), live(900), *lines)
    assert (word, "2026-11-21T09:59" in message) == ("found", True), message


def rows_deleted(xid: int, rows: int, at: str = "10:00:00", flags: str = "flags: 0x00", file: int = 16433) -> list[str]:
    """The lines of a transaction that deletes so many rows."""
    heap = HEAP.replace("tx:        729", f"tx: {xid}")
    line = f"{heap}DELETE xmax: {xid}, off: 3, infobits: [], {flags}, blkref #0: rel 1663/16384/{file} blk 0"
    return [*[line] * rows, ended(xid, at)]


@pytest.mark.parametrize("rows", [1, 900])
def test_a_small_table_that_was_emptied_is_found_by_its_name(rows: int) -> None:
    """A86 ⚠: it has fewer rows than a large deletion."""
    word, message = followed(Wanted("orders"), live(701), SHUT_DOWN, *rows_deleted(700, rows))
    assert word == "found", message
    assert message.startswith(f"At least {rows} row"), message


def test_deletions_that_are_too_small_to_be_reported_are_counted_and_the_threshold_is_said() -> None:
    """A86 ⚠: many small transactions empty a table as well."""
    lines = [line for xid in range(700, 712) for line in rows_deleted(xid, 900)]
    word, message = followed(Wanted(), live(712), SHUT_DOWN, *lines)
    assert (word, message) == (
        "not found", "No drop or truncation of any table, and no transaction that deleted 1,000 rows or more of it, was"
        " found from a to b. 12 smaller deletions of 10,800 rows in all are not reported: each is of fewer than"
        " 1,000 rows (wal_search_minimum_deleted_rows)."
    )
    word, message = followed(Wanted("orders", minimum_rows=901), live(712), SHUT_DOWN, *lines)
    assert (word, "12 smaller deletions of 10,800 rows in all" in message) == ("not found", True), message
    word, message = followed(Wanted(), live(701), SHUT_DOWN, *rows_deleted(700, 1000))
    assert (word, "smaller" in message) == ("found", False), message


def test_a_routine_deletion_does_not_hide_the_larger_loss_before_it() -> None:
    """A86 ⚠: from many tables single rows are deleted all day."""
    lines = [line for xid in range(701, 1802) for line in rows_deleted(xid, 1, "10:00:05")]
    word, message = followed(Wanted("orders"), live(1802), SHUT_DOWN, *rows_deleted(700, 50, "10:00:01"), *lines)
    assert (word, "1 row of " in message) == ("found", True), message
    assert "A larger loss came before it" in message
    assert "50 rows of orders were deleted at 2026-11-21T10:00:01" in message.replace("public.", "")


@pytest.mark.parametrize("flags", ["flags: 0x10", "flags: 0x18", "flags 0x08"])
def test_a_row_that_moves_to_another_partition_is_no_deletion(flags: str) -> None:
    word, message = followed(Wanted("orders"), live(701), SHUT_DOWN, *rows_deleted(700, 3, flags=flags))
    assert word == "not found", message


@given(st.text())
def test_any_text_is_a_line_or_none(text: str) -> None:
    for line in (text, TRANSACTION + text, HEAP + text, f"{TRANSACTION}COMMIT 2026-11-21 18:45:17.785466 UTC; {text}"):
        record = parse_line(line)
        if record is not None:
            parse_commit(record)
            assert all(isinstance(block.file, File) for block in record.blocks)


@given(st.sampled_from([*DELETES, DROP, *OTHERS]), st.data())
def test_a_line_that_was_cut_or_changed_never_stops_the_search(line: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(line)))
    changed = line[:place] + data.draw(st.text(max_size=3)) + line[place + data.draw(st.integers(0, 4)) :]
    record = parse_line(changed)
    search = WalSearch(Wanted(), 15, LiveCatalog(16384, "shop"), nothing)
    if record is not None:
        search.feed(record)


@given(st.integers(0, 2**64 - 1))
def test_a_place_in_the_wal_survives_being_written(number: int) -> None:
    assert parse_lsn(lsn_text(number)) == number


@pytest.mark.parametrize("text", ["", "0", "0/", "0/G", "1/2/3", "123456789/0"])
def test_what_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(RunbookError, match="is no LSN"):
        parse_lsn(text)


def test_segments_in_a_row_are_one_stretch_and_what_is_missing_between_is_named() -> None:
    """A86 ⚠: a gap in the chain is said."""
    stretches, holes = path([Segment(1, number) for number in (4, 5, 8)], 1, [], 16 * MB)
    assert stretches == [Stretch(1, 64 * MB, 96 * MB), Stretch(1, 128 * MB, 144 * MB)]
    assert [(one.start, one.end) for one in holes] == [(96 * MB, 128 * MB)]
    assert holes[0].reason == "The archive lacks 000000010000000000000006 to 000000010000000000000007."


@pytest.mark.parametrize("partial", [False, True])
def test_a_timeline_is_read_from_where_it_left_the_one_before(partial: bool) -> None:
    """What the old timeline wrote after that is another history; its last segment may lie in the new one's alone."""
    fork = 5 * MB + 1000
    segments = [Segment(1, 4), *([] if partial else [Segment(1, 5), Segment(1, 6)]), Segment(2, 5), Segment(2, 6)]
    stretches, holes = path(segments, 2, [(1, fork)], MB)
    assert not holes
    assert [one.timeline for one in stretches] == [1, 2]
    assert (stretches[0].start, stretches[-1].end) == (4 * MB, 7 * MB)
    assert stretches[0].end == stretches[1].start == (5 * MB if partial else fork)


def test_a_history_file_says_where_each_timeline_was_left() -> None:
    assert read_history("1\t0/5000098\tno recovery target specified\n\n2\t0/60000A0\tbefore 2026\n") == [
        (1, 0x5000098), (2, 0x60000A0)
    ]
    with pytest.raises(RunbookError, match="cannot be read"):
        read_history("one 0/5000098")


@given(st.binary(max_size=200))
def test_bytes_that_are_no_record_are_unreadable_and_nothing_worse(content: bytes) -> None:
    for record in (content, struct.pack("<I", len(content) + 4) + content):
        try:
            raw = take_apart(record)
            CatalogRows().apply(raw, (1663, 5, 1259))
            relation_map(raw)
        except UnreadableError:
            pass


@given(st.binary(max_size=300), st.integers(0, 400))
def test_a_compressed_page_has_the_size_that_was_said_or_is_unreadable(content: bytes, size: int) -> None:
    with contextlib.suppress(UnreadableError):
        assert len(expand(content, size)) == size


def test_a_repetition_is_expanded() -> None:
    # Three letters as they are, then nine more that repeat what stands three back.
    assert expand(bytes([0b1000]) + b"abc" + bytes([6, 3]), 12) == b"abc" * 4
