"""A login never shows its password, and a name of ours fits into PostgreSQL's 63 bytes (X3, X18)."""

from __future__ import annotations

import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.postgresql.connection import Login, connect, shorten
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError
from hypothesis import given
from hypothesis import strategies as st

LOGIN = Login(host="127.0.0.1", port=1, user="orders_user", password="s3cret p@ss", database="orders_db")


def test_the_password_is_in_the_environment_and_nowhere_else():
    assert LOGIN.environment()["PGPASSWORD"] == "s3cret p@ss"
    assert "s3cret" not in repr(LOGIN)
    assert "s3cret" not in LOGIN.place


def test_options_that_are_not_set_take_their_defaults():
    login = Login.from_arguments({"host": "db", "port": 5432, "user": "u", "password": None, "sslrootcert": None})
    assert login == Login("db", 5432, "u")


def test_a_server_that_is_not_there_is_one_sentence_with_the_place_and_without_the_password():
    with pytest.raises(RunbookError) as caught:
        connect(LOGIN, timeout_s=2)
    assert "orders_user@127.0.0.1:1/orders_db" in caught.value.message
    assert "\n" not in str(caught.value)
    assert caught.value.message.endswith(": Connection refused.")
    assert "s3cret" not in str(caught.value)
    assert caught.value.hint


@given(name=st.text(min_size=1, max_size=80).filter(lambda text: "\x00" not in text))
def test_a_shortened_name_fits_and_keeps_its_suffix(name: str):
    suffix = "__retired_20261121T021500Z"
    short = shorten(name.encode("utf-8", "ignore").decode(), suffix)
    assert len(short.encode()) <= 63
    assert short.endswith(suffix)


def test_two_long_names_with_the_same_beginning_stay_two():
    """A85 ⚠: what is found by its name is never another database's."""
    suffix = "__restoring_20261121T021500Z-3fa9"
    first, second = (shorten(f"{'orders' * 9}_{year}", suffix) for year in (2025, 2026))
    assert first != second
    assert shorten("orders", suffix) == f"orders{suffix}"
