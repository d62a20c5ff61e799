"""Backups that leave encrypted: who may read them, and what is seen when a key or a byte is missing (real GnuPG)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.sre.runbooks.plugins.module_utils.backup.encryption import (
    KeyMissingError,
    Keyring,
    decrypted,
    encrypted,
    read_recipients,
)
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError

from tests.integration.conftest import PASSPHRASE

MIB = 1 << 20


def seal(data: bytes, *files: Path) -> bytes:
    recipients = read_recipients(str(file) for file in files)
    with encrypted((data[at : at + MIB] for at in range(0, len(data), MIB)), recipients) as pipe:
        sealed = pipe.output.read()
        pipe.finish()
    return sealed


def unseal(sealed: bytes, keyring: Keyring) -> bytes:
    with decrypted(iter([sealed]), keyring) as pipe:
        data = pipe.output.read()
        pipe.finish()
    return data


def test_each_recipient_alone_can_read_what_was_encrypted_to_both(keys: dict) -> None:
    """B38 ⚠: encrypted backups whose key nobody tried."""
    data = os.urandom(3 * MIB + 7)
    sealed = seal(data, keys["first"].public, keys["second"].public)
    assert data[:64] not in sealed
    assert unseal(sealed, Keyring(str(keys["first"].home))) == data
    assert unseal(sealed, Keyring(str(keys["second"].home), PASSPHRASE)) == data


def test_a_key_that_is_lost_is_named(keys: dict, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir(mode=0o700)
    with pytest.raises(KeyMissingError, match="No secret key of this host opens it"):
        unseal(seal(b"x", keys["first"].public), Keyring(str(empty)))


def test_a_wrong_passphrase_opens_nothing_and_is_not_told(keys: dict) -> None:
    """X18: secrets in output."""
    keys["second"].close()
    with pytest.raises(RunbookError) as caught:
        unseal(seal(b"x", keys["second"].public), Keyring(str(keys["second"].home), "battery staple"))
    assert "assphrase" in str(caught.value)
    assert "battery staple" not in str(caught.value)


@pytest.mark.parametrize("at", [0.1, 0.5, 0.99])
def test_a_flipped_byte_is_never_decrypted_as_if_nothing_were(keys: dict, at: float) -> None:
    sealed = bytearray(seal(os.urandom(MIB), keys["first"].public))
    sealed[int(len(sealed) * at)] ^= 1
    with pytest.raises(RunbookError) as caught:
        unseal(bytes(sealed), Keyring(str(keys["first"].home)))
    assert "the keys that store_recipients and store_keyring name" in caught.value.hint


def test_a_stream_that_ends_too_early_is_an_error(keys: dict) -> None:
    sealed = seal(os.urandom(MIB), keys["first"].public)
    with pytest.raises(RunbookError):
        unseal(sealed[: len(sealed) // 2], Keyring(str(keys["first"].home)))


def test_what_fails_while_it_is_read_ends_the_encryption(keys: dict) -> None:
    def source() -> Iterator[bytes]:
        yield b"x" * MIB
        raise RunbookError("The disk is gone.")

    with encrypted(source(), read_recipients([str(keys["first"].public)])) as pipe:
        pipe.output.read()
        with pytest.raises(RunbookError, match="The disk is gone"):
            pipe.finish()


def test_a_secret_key_on_the_host_that_makes_backups_is_refused(keys: dict, tmp_path: Path) -> None:
    secret = tmp_path / "secret.asc"
    secret.write_bytes(keys["first"].secret())
    with pytest.raises(RunbookError, match="holds a secret key"):
        read_recipients([str(secret)])


def test_a_file_without_a_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunbookError, match="does not exist"):
        read_recipients([str(tmp_path / "absent.asc")])
    (tmp_path / "empty.asc").write_text("nothing")
    with pytest.raises(RunbookError, match="holds 0 public keys"):
        read_recipients([str(tmp_path / "empty.asc")])


def test_no_keyring_of_the_user_is_made_or_read(keys: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    seal(b"x", keys["first"].public)
    assert not (tmp_path / ".gnupg").exists()
