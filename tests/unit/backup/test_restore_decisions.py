# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a restore replays, compares and refuses, decided without a server."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.backup.content import differences, further
from ansible_collections.sre.runbooks.plugins.module_utils.backup.losses import (
    Changes,
    changes,
    lost_seconds,
    told,
    written_when_made,
)
from ansible_collections.sre.runbooks.plugins.module_utils.backup.manifest import (
    Counter,
    Manifest,
    Sequence,
    Table,
    Written,
)
from ansible_collections.sre.runbooks.plugins.module_utils.backup.preflight import Server, judge
from ansible_collections.sre.runbooks.plugins.module_utils.backup.properties import Extension, Grant, Setting
from ansible_collections.sre.runbooks.plugins.module_utils.backup.replay import (
    changed_properties,
    grants_in_order,
    split_names,
    statements,
)


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ('"$user", public', ["$user", "public"]), ("", []), ('""', [""]), ('"odd, one", b', ["odd, one", "b"]),
        ('"with ""quotes"""', ['with "quotes"']), ("a,b", ["a", "b"]),
    ],
)
def test_a_list_of_names_is_taken_apart_as_the_server_wrote_it(value: str, names: list[str]) -> None:
    """A85 ⚠: a search path that is replayed as one name hides every table."""
    assert split_names(value) == names


def test_a_grant_comes_after_the_grant_that_allows_it() -> None:
    first = Grant("owner", "a", "CONNECT", True)
    second, third = Grant("a", "b", "CONNECT", True), Grant("b", "c", "CONNECT", False)
    assert grants_in_order("owner", [third, second, first]) == [first, second, third]


def test_replay_quotes_every_name_and_value(manifest: Manifest) -> None:
    properties = replace(
        manifest.database, owner='o"wner', settings=[Setting("r'ole", "app.secret name", "it's")],
        acl=[Grant('o"wner', None, "CONNECT", False)],
    )
    text = "\n".join(statement.as_string(None) for statement in statements('d"b', properties))
    assert 'ALTER DATABASE "d""b" OWNER TO "o""wner"' in text
    assert 'REVOKE ALL ON DATABASE "d""b" FROM PUBLIC' in text
    assert 'GRANT CONNECT ON DATABASE "d""b" TO PUBLIC' in text
    assert """ALTER ROLE "r'ole" IN DATABASE "d""b" SET "app"."secret name" TO 'it''s'""" in text
    assert "REVOKE" not in "".join(
        statement.as_string(None) for statement in statements("d", replace(properties, acl=None))
    ), "no ACL is the built-in default, which an empty one is not"


def test_what_was_changed_since_the_backup_is_told(manifest: Manifest) -> None:
    settings = [Setting(None, "work_mem", "1GB"), Setting("shop", "app.api_key", "s3cret")]
    live = replace(manifest.database, connection_limit=9, settings=settings, acl=None)
    told = " ".join(changed_properties(live, manifest.database))
    for words in ("limit is 9 now and was -1", "privileges", "work_mem was changed since",
                  "app.api_key of the role shop was made since"):
        assert words in told
    assert "s3cret" not in told, "the value of a setting can be a secret"
    assert changed_properties(manifest.database, manifest.database) == []


@pytest.mark.parametrize(
    ("one", "other", "increment", "expected"),
    [
        ((5, True), (4, True), 1, True), ((4, True), (5, True), 1, False), ((-5, True), (-4, True), -1, True),
        ((5, True), (5, False), 1, True), ((5, False), (5, True), 1, False), ((5, True), (5, True), 1, False),
    ],
)
def test_a_sequence_is_further_in_its_own_direction(one, other, increment: int, expected: bool) -> None:
    assert further(Sequence("s", "n", *one), Sequence("s", "n", *other), increment) is expected


CASES = {
    "one row too few": ({"tables": [Table("public", "straße", "table", 2)]}, "has 2 rows instead of 3"),
    "one row too many": ({"tables": [Table("public", "straße", "table", 4)]}, "has 4 rows instead of 3"),
    "no table": ({"tables": []}, "the table public.straße is missing"),
    "a table too many": (
        {"tables": [Table("public", "straße", "table", 3), Table("a", "b", "table", 0)]}, "too many, a.b"
    ),
    "no sequence": ({"sequences": []}, "the sequence public.s is missing"),
    "a sequence behind": ({"sequences": [Sequence("public", "s", 6, True)]}, "stands at 6 before 7"),
    "no extension": ({"extensions": []}, "the extension pgcrypto is missing"),
    "a large object": ({"large_objects": 1}, "1 large objects instead of 0"),
}


@pytest.mark.parametrize(("change", "words"), CASES.values(), ids=CASES.keys())
def test_every_difference_from_the_manifest_is_found(manifest: Manifest, change: dict, words: str) -> None:
    whole = {
        "tables": manifest.tables, "sequences": manifest.sequences, "extensions": manifest.database.extensions,
        "large_objects": 0, "increments": {},
    }
    assert differences(manifest, **whole) == []
    found = differences(manifest, **{**whole, **change})
    assert len(found) == 1
    assert words in found[0]


GOOD = Server(
    major=18, standby=False, superuser=True, system_identifier="7443", roles=frozenset({"owner", "postgres"}),
    tablespaces=frozenset({"pg_default"}), extensions=frozenset({"pgcrypto 1.3", "pgcrypto 1.4"}),
    prepared_transactions=(), slots=(), subscriptions=(), libc_locales=frozenset({"C.utf8", "de_DE.utf8"}), icu=False,
    locales=frozenset(),
)
REFUSALS = {
    "a standby": ({"standby": True}, "is a standby"),
    "no superuser": ({"superuser": False}, "The role admin is no superuser"),
    "an older server": ({"major": 17}, "is of PostgreSQL 18, and the server is 17"),
    "no extension": ({"extensions": frozenset({"hstore 1.8"})}, "extension pgcrypto 1.4 is not available"),
    "no role": ({"roles": frozenset({"postgres"})}, "lacks the roles owner"),
    "no tablespace": ({"tablespaces": frozenset({"fast"})}, "lacks the tablespace pg_default"),
    "no locale": ({"libc_locales": frozenset({"de_DE.utf8"})}, "lacks the locale C.UTF-8"),
    "a prepared transaction": ({"prepared_transactions": ("gid 1",)}, "prepared transaction gid 1"),
    "a logical slot": ({"slots": ("warehouse",)}, "logical slot warehouse"),
    "a subscription": ({"subscriptions": ("news",)}, "subscription news"),
}


@pytest.mark.parametrize(("change", "words"), REFUSALS.values(), ids=REFUSALS.keys())
def test_what_would_stop_a_restore_is_found_before_it_begins(manifest: Manifest, change: dict, words: str) -> None:
    """A85 ⚠ B43 ⚠: extensions, owner, encoding, sessions."""
    arguments = (manifest, manifest.database, "orders", "admin", 1000, 10**12)
    assert judge(GOOD, *arguments).problems == []
    found = judge(replace(GOOD, **change), *arguments).problems
    assert len(found) == 1
    assert words in found[0]


def test_another_version_of_an_extension_is_a_note_and_no_refusal(manifest: Manifest) -> None:
    server = replace(GOOD, extensions=frozenset({"pgcrypto 1.3"}))
    found = judge(server, manifest, manifest.database, "orders", "admin", 1000, 10**12)
    assert not found.problems
    assert any("as 1.4, and the server offers 1.3" in note for note in found.notes)


def test_disk_is_enough_or_not_or_unknown_and_never_assumed(manifest: Manifest) -> None:
    """A85 ⚠: no disk check."""

    def found(free: int | None):
        return judge(GOOD, manifest, manifest.database, "orders", "admin", 1000, free)

    assert "About 13 MB of disk are needed" in found(12_000_000).problems[0]
    assert not found(14_000_000).problems
    assert not found(None).problems
    assert "unknown" in found(None).notes[0]


def test_all_that_is_wrong_is_told_at_once(manifest: Manifest) -> None:
    extensions = [Extension("a", "1", "public"), Extension("b", "1", "public")]
    changed = replace(manifest, database=replace(manifest.database, extensions=extensions), roles=["x", "y"])
    found = judge(replace(GOOD, standby=True), changed, changed.database, "n" * 64, "admin", None, 0)
    assert len(found.problems) == 6


@pytest.mark.parametrize(
    ("live", "backup", "seconds"),
    [("2026-11-21T02:15:10Z", "2026-11-21T02:15:00Z", 10.0), ("2026-11-21T02:14:00Z", "2026-11-21T02:15:00Z", 0.0),
     ("2026-11-21T02:15:10Z", None, None)],
)
def test_lost_time_lies_between_the_newest_rows(live: str | None, backup: str | None, seconds: float | None) -> None:
    assert lost_seconds(live, backup) == seconds


NOON, LATER = "2026-11-21T12:00:00.000Z", "2026-11-21T13:00:00.000Z"
THEN = Written(5, NOON, [Counter(1, "public", "orders", 100, 10, 1), Counter(2, "public", "gone", 9)])


@pytest.mark.parametrize(
    ("then", "now", "expected"),
    [
        (THEN, Written(5, NOON, [Counter(1, "public", "orders", 4220, 22, 4)]), Changes(4120, 12, 3)),
        (THEN, Written(5, NOON, [*THEN.tables, Counter(3, "public", "new", 7, 1)]), Changes(7, 1, 0)),
        (THEN, Written(5, NOON, [Counter(8, "public", "orders", 50)]), Changes(50, 0, 0)),
        (THEN, Written(6, NOON, THEN.tables), "is not the one that was backed up"),
        (THEN, Written(5, LATER, [Counter(1, "public", "orders", 4220, 22, 4)]), f"began anew at {LATER}"),
        (THEN, Written(5, NOON, [Counter(1, "public", "orders", 99, 10, 1)]), "began anew"),
    ],
    ids=["grown", "a new table", "made anew", "another database", "reset", "shrunk"],
)
def test_rows_written_are_a_figure_or_a_reason(then: Written, now: Written, expected: Changes | str) -> None:
    """D15 D25: what a restore costs is said with numbers where the server has them, and never guessed."""
    found = changes(then, now)
    assert found == expected if isinstance(expected, Changes) else expected in str(found)


@pytest.mark.parametrize(
    ("began", "inserted", "expected"), [(NOON, 15, Changes(12, 2, 1)), (LATER, 15, "began anew"), (NOON, 2, "anew")]
)
def test_a_restored_database_began_with_the_rows_of_its_backup(
    manifest: Manifest, began: str, inserted: int, expected: Changes | str
) -> None:
    now = Written(9, began, [Counter(4, "public", "straße", inserted, 2, 1)])
    found = changes(written_when_made(manifest, now, NOON), now)
    assert found == expected if isinstance(expected, Changes) else expected in str(found)


def test_without_counters_the_least_is_told_and_why() -> None:
    grown, shrunk = {"table": "public.a", "backup": 10, "live": 15}, {"table": "public.b", "backup": 9, "live": None}
    known = told(Changes(4120, 12, 3), [grown, shrunk])
    assert (known["rows_lost"], known["uncounted"]) == (4120, [])
    assert known["lost"] == "about 4,120 rows inserted and 12 updated since the backup; 3 deleted since then come back"
    unknown = told("nobody knows", [grown, shrunk])
    assert (unknown["rows_lost"], unknown["uncounted"], unknown["deleted"]) == (5, ["public.b"], None)
    assert "at least 5 rows, and an unknown number in public.b" in unknown["lost"]
    assert told("nobody knows", [grown])["lost"] == (
        "about 5 rows more than in the backup; how many were updated or deleted is unknown, since nobody knows"
    )
