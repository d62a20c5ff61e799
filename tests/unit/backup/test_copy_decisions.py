# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a restore beside the live database reads from globals.sql and from a table of contents."""

from __future__ import annotations

import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.backup.cluster_roles import (
    Membership,
    Role,
    create_statements,
    left_as_they_are,
    missing_roles,
    read_globals,
    to_do,
)
from ansible_collections.sre.runbooks.plugins.module_utils.backup.parts import select
from ansible_collections.sre.runbooks.plugins.module_utils.backup.rights import Foreign, in_schemas_of_others, owners

SCRIPT = r"""--
-- PostgreSQL database cluster dump
--
\restrict n0VtrfEU6uuiNqmZrQd2fzO9iPTGwnwX
SET standard_conforming_strings = on;
CREATE ROLE app;
ALTER ROLE app WITH NOSUPERUSER INHERIT NOCREATEROLE CREATEDB LOGIN NOREPLICATION NOBYPASSRLS CONNECTION LIMIT 5 PASSWORD 'md5''x';
COMMENT ON ROLE app IS E'a\\b; \nCREATE ROLE evil; --''';
CREATE ROLE "Odd ""name""; x";
ALTER ROLE "Odd ""name""; x" WITH NOSUPERUSER NOINHERIT NOCREATEROLE NOCREATEDB NOLOGIN NOREPLICATION BYPASSRLS;
CREATE ROLE stranger;
ALTER ROLE app SET search_path TO '$user', 'public';
GRANT "Odd ""name""; x" TO app WITH ADMIN OPTION, INHERIT FALSE, SET TRUE GRANTED BY admin;
GRANT pg_monitor TO app WITH INHERIT TRUE GRANTED BY postgres;
GRANT SET ON PARAMETER log_statement TO app;
\unrestrict n0VtrfEU6uuiNqmZrQd2fzO9iPTGwnwX
"""  # noqa: E501 - as pg_dumpall writes it
ODD = 'Odd "name"; x'


def test_globals_are_read_whatever_a_name_or_a_comment_holds() -> None:
    """A82 ⚠: globals come with the backup. A comment that looks like a statement makes no role."""
    found = read_globals(SCRIPT)
    assert found.roles == {
        "app": Role("app", True, True, ("CREATEDB",), ("search_path",)),
        ODD: Role(ODD, False, False, ("BYPASSRLS",)), "stranger": Role("stranger"),
    }
    assert found.memberships == (
        Membership(ODD, "app", True, False, True), Membership("pg_monitor", "app", False, True),
    )


def test_members_of_a_role_that_the_database_names_come_with_their_groups_and_strangers_do_not() -> None:
    missing = missing_roles(read_globals(SCRIPT), [ODD], ["postgres", "pg_monitor"])
    assert [role.name for role in missing.roles] == [ODD, "app"]
    assert [(one.role, one.member) for one in missing.memberships] == [(ODD, "app")]
    assert [(one.role, one.member) for one in missing.left] == [("pg_monitor", "app")]


def test_between_roles_that_are_there_nothing_is_granted() -> None:
    missing = missing_roles(read_globals(SCRIPT), [ODD], ["app", ODD, "pg_monitor"])
    assert (missing.roles, missing.memberships) == ((), ())
    assert [(one.role, one.member) for one in missing.left] == [(ODD, "app"), ("pg_monitor", "app")]
    (said,) = left_as_they_are(missing, ["app", ODD])
    assert 'ALTER ROLE "app" LOGIN' in said


@pytest.mark.parametrize("there", ["pg_monitor", "boss"])
@pytest.mark.parametrize("as_group", [True, False])
def test_a_backup_makes_nobody_a_member_of_a_role_that_was_there_nor_such_a_role_a_member(
    there: str, as_group: bool
) -> None:
    """X18: a superuser of this server, or who may start programs on it, is not said by a backup; a person is told."""
    pair = (there, "new") if as_group else ("new", there)
    script = f"CREATE ROLE new;\nCREATE ROLE boss;\nALTER ROLE boss WITH SUPERUSER;\nGRANT {pair[0]} TO {pair[1]};\n"
    missing = missing_roles(read_globals(script), ["new"], ["pg_monitor", "boss"])
    assert [one.as_string() for one in create_statements(missing, 17, login=True)] == [
        'CREATE ROLE "new" NOLOGIN INHERIT'
    ]
    (said,) = to_do(missing, 17, login=True)
    assert f'GRANT "{pair[0]}" TO "{pair[1]}";' in said
    assert missing_roles(read_globals(script), ["new"], ["pg_monitor", "boss"], [pair]).left == ()


def test_a_role_is_created_without_password_and_power_and_a_membership_as_the_server_knows_it() -> None:
    """X18: no password is in a statement."""
    missing = missing_roles(read_globals(SCRIPT), [ODD], ["pg_monitor"])
    newer = [one.as_string() for one in create_statements(missing, 17, login=True)]
    assert newer == [
        'CREATE ROLE "Odd ""name""; x" NOLOGIN NOINHERIT', 'CREATE ROLE "app" LOGIN INHERIT',
        'GRANT "Odd ""name""; x" TO "app" WITH ADMIN OPTION, INHERIT FALSE, SET TRUE',
    ]
    older = [one.as_string() for one in create_statements(missing, 15, login=False)]
    assert older[1:] == [
        'CREATE ROLE "app" NOLOGIN INHERIT', 'GRANT "Odd ""name""; x" TO "app" WITH ADMIN OPTION',
    ]


LISTING = """;
; Archive created
;
5; 2615 2200 SCHEMA - public pg_database_owner
6; 2615 16400 SCHEMA - odd one her own
220; 1259 16389 TABLE public orders the boss
221; 1259 16390 TABLE odd one orders late her own
222; 1259 16391 TABLE odd one late boss
223; 1255 16392 FUNCTION public f(integer) boss
3400; 0 16389 TABLE DATA public orders the boss
3401; 0 16390 TABLE DATA odd one orders late her own
3402; 0 16391 TABLE DATA odd one orders late boss
3403; 0 0 SEQUENCE SET public orders_id_seq the boss
3500; 2606 16393 CONSTRAINT public orders orders_pkey the boss
3501; 2606 16394 FK CONSTRAINT public items items_order_fkey the boss
3502; 2620 16395 TRIGGER public orders refuse the boss
3503; 0 0 COMMENT - EXTENSION pg_trgm 
"""  # noqa: W291 - what has no owner ends with a blank
ROLES = ("boss", "the boss", "her own", "own")


def test_an_owner_is_told_from_a_name_with_blanks() -> None:
    assert owners(LISTING, ROLES) == {"boss", "the boss", "her own"}


def test_who_owns_something_in_a_schema_of_somebody_else_is_found() -> None:
    assert in_schemas_of_others(LISTING, ROLES, "the boss") == [
        Foreign("boss", "odd one", "her own"), Foreign("boss", "public", "the boss"),
    ]


def test_only_the_rows_of_the_chosen_tables_are_loaded_and_nothing_that_needs_others_or_acts_on_them() -> None:
    chosen = select(LISTING, [("odd one", "orders\nlate", "her own")])
    assert [line.split(";")[0] for line in chosen] == ["3401", "3403", "3500"]
