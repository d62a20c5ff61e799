# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a recovery decides before anything is touched: targets, windows, the chain of WAL, and what verify says."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.pitr import position as at
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.exchange import without_added
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.position import Places, Position
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.repository import read_verify
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.segments import Segment, read_history
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.survey import Live, swaps_under_way
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.target import Target, parse_target
from ansible_collections.sre.runbooks.plugins.module_utils.pitr.window import (
    Archive,
    Base,
    choose,
    losses,
    reach,
    read_info,
    read_listing,
    require_in_history,
    require_reached,
)
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql import marker
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from ansible_collections.sre.runbooks.plugins.module_utils.run.progress import Progress
from hypothesis import given
from hypothesis import strategies as st

SIZE = 16 * 1024 * 1024
BEGIN = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)


def minute(number: float) -> datetime:
    return BEGIN + timedelta(minutes=number)


def at_time(moment: datetime) -> Target:
    return parse_target("time", moment.isoformat(), exclusive=False, backup=None)


def base(label: str, ended: float, first: int = 2, timeline: int = 1, **more: object) -> Base:
    values = {
        "label": label, "kind": "full", "started_at": minute(ended - 1), "ended_at": minute(ended),
        "first": Segment(timeline, first), "last": Segment(timeline, first + 1), "end_lsn": (first + 1) * SIZE + 80,
        "bytes": 1000, "version": "15", "system_identifier": "7", "archive": "15-1", "flawed": False,
    }
    return Base(**{**values, **more})


def archive(*numbers: int, timeline: int = 1, parents: dict | None = None) -> Archive:
    return Archive({Segment(timeline, one): minute(one) for one in numbers}, parents or {})


@pytest.mark.parametrize(("kind", "text", "backup", "value"), [
    ("time", "2026-11-21T11:00:00+01:00", None, "2026-11-21 10:00:00.000000+00"),
    ("time", "2026-11-21 10:00:00.5Z", None, "2026-11-21 10:00:00.500000+00"),
    ("lsn", "0/3a000050", "b", "0/3A000050"),
    ("transaction", "0745", "b", "745"),
    ("name", "before the release", "b", "before the release"),
])
def test_a_target_is_given_to_postgresql_in_one_form(kind: str, text: str, backup: str | None, value: str) -> None:
    """A86 ⚠"""
    assert parse_target(kind, text, exclusive=False, backup=backup).value == value


@pytest.mark.parametrize(("kind", "text", "exclusive", "backup", "told"), [
    ("time", "2026-11-21T10:00:00", False, None, "has no zone"),
    ("time", "yesterday", False, None, "is no time"),
    ("time", "0001-01-01T00:00:00+14:00", False, None, "a calendar has"),
    ("lsn", "0/3000050", False, None, "explicit backup"),
    ("name", "x", False, None, "explicit backup"),
    ("transaction", "745", False, None, "explicit backup"),
    ("lsn", "3000050", False, "b", "is no LSN"),
    ("transaction", "2", False, "b", "is no transaction"),
    ("name", "", False, "b", "restore point"),
    ("name", "x" * 64, False, "b", "restore point"),
    ("name", "x", True, "b", "always includes"),
])
def test_a_target_that_does_not_say_enough_is_refused(
    kind: str, text: str, exclusive: bool, backup: str | None, told: str
) -> None:
    """A86 ⚠: no time zone."""
    with pytest.raises(RunbookError, match=told):
        parse_target(kind, text, exclusive=exclusive, backup=backup)


@given(st.sampled_from(["time", "lsn", "name", "transaction"]), st.text())
def test_any_text_is_a_target_or_one_sentence(kind: str, text: str) -> None:
    told, found = "", None
    try:
        found = parse_target(kind, text, exclusive=False, backup="b")
    except RunbookError as error:
        told = error.hint
    assert told or (found and found.options()[0].startswith("--type="))
    assert found is None or found.kind != "time" or found.moment.tzinfo is not None


@given(st.integers(1, 2**31), st.integers(0, 2**40), st.sampled_from([2**20, SIZE, 2**30]))
def test_a_segment_is_read_as_it_is_written(timeline: int, number: int, size: int) -> None:
    one = Segment(timeline, number % ((1 << 64) // size))
    assert Segment.parse(one.name(size), size) == one


def test_the_newest_backup_that_ended_before_the_target_is_chosen() -> None:
    """A86 ⚠: a target before the backup's end, which pgBackRest answers with another backup."""
    everything = archive(*range(1, 40))
    reaches = [reach(one, everything, 1, SIZE) for one in (base("a", 5), base("b", 10, 8), base("c", 20, 18))]
    assert choose(reaches, at_time(minute(15)), None).base.label == "b"
    with pytest.raises(RunbookError, match="after the target"):
        choose(reaches, at_time(minute(15)), "c")
    with pytest.raises(RunbookError, match="No backup ended before"):
        choose(reaches, at_time(minute(5)), None)
    with pytest.raises(RunbookError, match="There are: a, b, c"):
        choose(reaches, at_time(minute(15)), "d")


def test_a_gap_in_the_wal_ends_what_can_be_reached() -> None:
    """A86 ⚠: the WAL chain was never looked at; verify calls a repository with a missing segment ok."""
    found = reach(base("a", 4), archive(2, 3, 4, 6, 7), 1, SIZE)
    assert found.gaps == (Segment(1, 5).name(SIZE),)
    assert found.newest == Segment(1, 4)
    require_reached(found, at_time(minute(4)), live_goes_on=True, now=minute(60))
    with pytest.raises(RunbookError, match=f"{Segment(1, 5).name(SIZE)} is missing"):
        require_reached(found, at_time(minute(6)), live_goes_on=True, now=minute(60))


def test_a_backup_without_its_own_wal_leads_nowhere() -> None:
    """A86 ⚠"""
    found = reach(base("a", 4), archive(2, 4, 5), 1, SIZE)
    assert "is not in the archive" in found.problem
    with pytest.raises(RunbookError, match="No backup leads to"):
        choose([found], at_time(minute(5)), None)


def test_a_timeline_is_followed_from_where_its_parent_was_left() -> None:
    """A86 ⚠: a recovery that was undone leaves a later timeline in the archive, which nobody may follow."""
    left = 6 * SIZE + 100
    parents = {2: [(1, left)]}
    both = Archive(
        {Segment(1, one): minute(one) for one in range(1, 12)} | {Segment(2, one): minute(one) for one in range(6, 9)},
        parents,
    )
    assert reach(base("a", 4), both, 1, SIZE).newest == Segment(1, 11)
    recovered = reach(base("a", 4), both, 2, SIZE)
    assert (recovered.newest, recovered.gaps) == (Segment(2, 8), ()), "the parent went on to 11 and was abandoned"
    without = Archive({one: at for one, at in both.segments.items() if one != Segment(2, 7)}, parents)
    assert reach(base("a", 4), without, 2, SIZE).gaps == (Segment(2, 7).name(SIZE),)
    assert "was left before" in reach(base("b", 9, 8), both, 2, SIZE).problem
    assert "no history leads" in reach(base("c", 9, 7, timeline=2), both, 1, SIZE).problem
    assert read_history("1\t0/6000064\tno recovery target specified\n\n") == [(1, left)]


def recovered(to: float | str, exchanged: float, *, exclusive: bool = False, before: dict | None = None) -> dict:
    target = Target("transaction", to, exclusive) if isinstance(to, str) else parse_target(
        "time", minute(to).isoformat(), exclusive=exclusive, backup=None
    )
    return Position(at.DONE, target=target.as_dict(), kept=f"/x/main.retired-{minute(exchanged):%Y%m%dT%H%M%SZ}",
                    before=before).__dict__


@pytest.mark.parametrize(("position", "moments", "refused"), [
    (None, [10], []),
    (recovered(0, 30), [-5, 0, 30, 40], [0.1, 10, 29]),
    (recovered(0, 30, exclusive=True), [-1, 31], [0, 10]),
    (recovered("7291", 30), [31], [-5, 10]),
    # A second recovery keeps what the first cut out, and one to a time before it cuts more.
    (recovered(50, 60, before=recovered(0, 30)), [-1, 31, 45, 61], [10, 55]),
    (recovered(-20, 60, before=recovered(0, 30)), [-21, 61], [-10, 10, 45]),
])
def test_a_time_that_an_earlier_recovery_cut_out_is_refused(
    position: dict | None, moments: list[float], refused: list[float]
) -> None:
    """A86 ⚠: a replay stops before the new timeline's first commit, and the earlier state would pass for that time."""
    for number in moments:
        require_in_history(at_time(minute(number)), position)
    for number in refused:
        with pytest.raises(RunbookError, match="Go back first, with the playbook"):
            require_in_history(at_time(minute(number)), position)
    require_in_history(Target("transaction", "745"), position)


def test_time_after_the_newest_wal_says_how_much_less_would_come() -> None:
    """A86 ⚠: you will get data up to …, losing … of writes."""
    found = reach(base("a", 4), archive(2, 3, 4), 1, SIZE)
    with pytest.raises(RunbookError, match=r"up to 2026-11-21T10:04:00\.000Z at most, losing 6 minutes"):
        require_reached(found, at_time(minute(10)), live_goes_on=False, now=minute(60))
    require_reached(found, at_time(minute(10)), live_goes_on=True, now=minute(60))
    with pytest.raises(RunbookError, match="in the future"):
        require_reached(found, at_time(minute(61)), live_goes_on=True, now=minute(60))
    assert losses(at_time(minute(10)), minute(40)).endswith("losing 30 minutes of writes")


@pytest.mark.parametrize(("place", "present", "live", "told"), [
    ("0/4000050", (2, 3, 4), None, ""),
    ("0/5000050", (2, 3, 4), "0/6000000", ""),
    ("0/7000050", (2, 3, 4), "0/6000000", "has not been written yet: the live server is at 0/6000000"),
    ("0/5000050", (2, 3, 4), None, "leads from a to 0/5000000 and not to 0/5000050: the newest WAL ends there"),
    ("0/6000050", (2, 3, 4, 6), "0/7000000",
     "not to 0/6000050: the WAL segment 000000010000000000000005 is missing"),
])
def test_an_lsn_is_in_the_archive_or_will_be(place: str, present: tuple[int, ...], live: str | None, told: str) -> None:
    """A86 ⚠: a replay that ends before its target is noticed after hours."""
    found = reach(base("a", 4), archive(*present), 1, SIZE)
    target = parse_target("lsn", place, exclusive=False, backup="a")
    said = ""
    try:
        require_reached(found, target, live_goes_on=live is not None, now=minute(60), lsn=live)
    except RunbookError as error:
        said = str(error)
    assert told in said
    assert bool(told) is bool(said)


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["name", "status", "code", "backup", "db", "archive", "type", "size", "time"]), inner,
        max_size=4,
    ), max_leaves=12,
))
def test_json_of_another_form_is_one_sentence(content: object) -> None:
    for reader in (lambda: read_info(content, "s", SIZE), lambda: read_listing(content, SIZE)):
        told, found = "", None
        try:
            found = reader()
        except RunbookError as error:
            told = error.hint
        assert told or found is not None


def test_info_and_listing_are_read_as_pgbackrest_writes_them() -> None:
    info = json.loads("""[{"archive":[{"database":{"id":1,"repo-key":1},"id":"15-1","max":"000000010000000000000003",
     "min":"000000010000000000000001"}],"backup":[{"archive":{"start":"000000010000000000000002",
     "stop":"000000010000000000000003"},"database":{"id":1,"repo-key":1},"error":false,
     "info":{"delta":23209563,"size":23209563},"label":"20261121-184618F","lsn":{"start":"0/2000028","stop":"0/3000050"},
     "timestamp":{"start":1795286778,"stop":1795286780},"type":"full"}],
     "db":[{"id":1,"repo-key":1,"system-id":7710697988691996410,"version":"15"}],"name":"lab",
     "status":{"code":0,"message":"ok"}}]""")
    found = read_info(info, "lab", SIZE)[0]
    assert (found.label, found.first, found.last.number, found.system_identifier) == (
        "20261121-184618F", Segment(1, 2), 3, "7710697988691996410"
    )
    name = "0000000100000000/000000010000000000000002-3b0ddb784984ac29b8de9cad40db5492fd53fdfe.gz"
    listing = {".": {"type": "path"}, name: {"type": "file", "size": 7, "time": 1795286778},
               name.replace("02-", "03-"): {"type": "file", "size": 0, "time": 1795286778},
               "0000000100000000/000000010000000000000002.00000028.backup": {"type": "file", "size": 3, "time": 1},
               "00000002.history": {"type": "file", "size": 30, "time": 1795286778}}
    segments, histories = read_listing(listing, SIZE)
    assert list(segments) == [Segment(1, 2)], "an empty file is no segment"
    assert histories == ["00000002.history"]


@pytest.mark.parametrize(("text", "proven"), [
    ("stanza: lab\nstatus: ok\n  archiveId: 15-1, total WAL checked: 3, total valid WAL: 3\n"
     "  backup: B, status: valid, total files checked: 965, total valid files: 965\n", True),
    ("stanza: lab\nstatus: error\n"
     "  backup: B, status: invalid, total files checked: 965, total valid files: 964\n    checksum invalid: 1\n",
     False),
    ("  backup: B, status: valid, total files checked: 965, total valid files: 964\n", False),
    ("  backup: B, status: valid, total files checked: 0, total valid files: 0\n", False),
    ("stanza: lab\nstatus: ok\n", False),
    ("", False),
])
def test_only_what_verify_says_of_a_backup_proves_it(text: str, proven: bool) -> None:
    """A86 ⚠: pgBackRest's verify ends with exit code 0 whatever it found."""
    assert read_verify(text).proves("B") is proven


def test_a_position_is_kept_whole_private_and_read_back(tmp_path: Path) -> None:
    """A86 ⚠: killed anywhere, the next run knows where it stands."""
    data = tmp_path / "main"
    data.mkdir()
    places = Places(data)
    places.prepare((data.stat().st_uid, data.stat().st_gid))
    assert places.read() == Position()
    first = places.write(Position(at.DONE, "r1", kept=f"{data}.retired-20261121T100000Z"))
    assert places.read() == first
    assert places.file.stat().st_mode & 0o777 == 0o600
    assert places.control.stat().st_mode & 0o777 == 0o700
    second = places.write(Position(at.RESTORING, "r2", before=first.__dict__))
    assert places.clear(second) == first
    assert places.clear(first) == Position()
    for text in ("{", "[]", '{"format": 2, "state": "done"}', '{"format": 1, "state": "done", "more": 1}',
                 '{"format": 1, "state": "done", "kept": "/etc"}',
                 f'{{"format": 1, "state": "undoing", "abandoned": "{data}.abandoned-../etc"}}'):
        places.file.write_text(text, encoding="utf-8")
        with pytest.raises(RunbookError, match="of no form"):
            places.read()


@pytest.mark.parametrize("name", ["", "lock", "socket", "spool"])
def test_a_link_where_the_position_is_kept_is_not_followed(tmp_path: Path, name: str) -> None:
    """A86 ⚠: the folder belongs to the server's user, and root works in it."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o755)
    (elsewhere / "file").touch(mode=0o644)
    places = Places(tmp_path / "main")
    if name:
        places.control.mkdir()
    (places.control / name).symlink_to(elsewhere / "file" if name == "lock" else elsewhere)

    def begin() -> None:
        places.prepare((1, 1))
        with places.alone(Progress(), 1):
            pass

    with pytest.raises((RunbookError, OSError), match=r"is a link|Too many levels"):
        begin()
    assert elsewhere.stat().st_mode & 0o777 == 0o755
    assert (elsewhere / "file").stat().st_uid == elsewhere.stat().st_uid == os.getuid()


def test_what_people_set_since_the_exchange_stays_when_its_own_lines_go() -> None:
    """A86 ⚠: ALTER SYSTEM writes the file anew, with the exchange's lines among people's own."""
    added = ("restore_command = 'x'\n", "max_connections = '60'\n")
    own = "# Do not edit\nwork_mem = '8MB'\nmax_connections = '60'\n"
    assert without_added(own + "".join(added), added) == own
    since = own + "".join(added) + "archive_timeout = '60'\n"
    assert without_added(since, added) == own + "archive_timeout = '60'\n"
    changed = "work_mem = '8MB'\nrestore_command = 'x'\nmax_connections = '70'\n"
    assert without_added(changed, added) == "work_mem = '8MB'\nmax_connections = '70'\n"


@pytest.mark.parametrize(("state", "refused"), [
    (marker.RESTORING, True), (marker.PREPARED, True), (marker.CLOSED, True), (marker.EXCHANGED, True),
    (marker.OPENED, True), (marker.RETIRED, False), (marker.ABANDONED, False), (marker.COPY, False),
    (marker.SCRATCH, False), ("of a later version", True),
])
def test_a_database_that_is_being_restored_is_not_thrown_back_with_its_cluster(state: str, refused: bool) -> None:
    """A86 ⚠: each database has its own lock, and a cluster has one WAL."""
    comment = marker.join("the owner's", marker.Marker(state, "r7", "pos"))
    assert bool(swaps_under_way(Live({"markers": [comment, comment]}))) is refused
    assert not swaps_under_way(Live({"markers": None}))
    assert not swaps_under_way(None)
