# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Encrypts what leaves for a store to GPG recipients, and decrypts what comes back.

Who encrypts needs public keys only, each in a file of its own; no keyring of this host is read or changed for that.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ansible_collections.sre.runbooks.plugins.module_utils.run import process
from ansible_collections.sre.runbooks.plugins.module_utils.run.errors import RunbookError

SUFFIX = ".gpg"
CIPHER = "AES256"
# The data is compressed already, and nobody is there to answer a question.
OPTIONS = ("--batch", "--no-tty", "--compress-algo", "none", "--cipher-algo", CIPHER, "--no-options")
LIST_TIMEOUT_S = 30
TAIL = 4000


class KeyMissingError(RunbookError):
    """No secret key of this host opens what is encrypted."""


@dataclass(frozen=True)
class Recipient:
    """A key that may read backups; `file` holds its public half."""

    file: str
    fingerprint: str
    name: str


@dataclass(frozen=True)
class Keyring:
    """Where secret keys are. `passphrase` opens them where no agent does; `home` None is the user's own."""

    home: str | None = None
    passphrase: str | None = None


def _gpg() -> str:
    return "gpg"


@contextlib.contextmanager
def _empty_home() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="sre-runbooks-gpg-") as home:
        yield home


def read_recipients(files: Iterable[str]) -> list[Recipient]:
    """The keys of the files, one each.

    Raises:
        RunbookError: a file is missing, holds no public key, or one that has expired or may not encrypt; or a secret
            one, which does not belong on a host that makes backups.
    """
    recipients = []
    with _empty_home() as home:
        for file in files:
            if not Path(file).is_file():
                raise RunbookError(
                    f"The public key {file} does not exist on this host.", "Copy it there, or mend store_recipients."
                )
            listing = process.run(
                [_gpg(), "--homedir", home, *OPTIONS, "--with-colons", "--show-keys", file],
                timeout_s=LIST_TIMEOUT_S, check=False,
            ).stdout
            recipients.append(parse_key(file, listing))
    return recipients


def parse_key(file: str, listing: str) -> Recipient:
    """The one key in the output of `gpg --show-keys --with-colons` (GnuPG's doc/DETAILS).

    Raises:
        RunbookError: see read_recipients.
    """
    rows = [line.split(":") for line in listing.splitlines()]
    step = "Export it again: gpg --export --armor <fingerprint>."
    if any(row[0] == "sec" for row in rows):
        raise RunbookError(
            f"{file} holds a secret key, which does not belong on a host that makes backups.",
            "Remove it there, export the public half (gpg --export --armor <fingerprint>), and replace the key.",
        )
    keys = [row for row in rows if row[0] == "pub"]
    if len(keys) != 1:
        raise RunbookError(f"{file} holds {len(keys)} public keys instead of one.", step)
    validity, abilities = keys[0][1], keys[0][11]
    if validity in ("e", "r") or "E" not in abilities:
        what = {"e": "has expired", "r": "was revoked"}.get(validity, "cannot encrypt")
        raise RunbookError(f"The key in {file} {what}.", "Give the key that replaces it.")
    fingerprint = next(row[9] for row in rows if row[0] == "fpr")
    name = next((row[9] for row in rows if row[0] == "uid"), "")
    return Recipient(file, fingerprint, name)


class Pipe:
    """A gpg between two streams: what is fed goes in by a thread, what comes out is read like a file."""

    def __init__(self, argv: list[str], source: Iterable[bytes], passphrase: str | None = None) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - close() does
        descriptors: tuple[int, ...] = ()
        if passphrase is not None:
            reader, writer = os.pipe()
            os.write(writer, passphrase.encode() + b"\n")
            os.close(writer)
            descriptors = (reader,)
            argv = [*argv[:1], "--pinentry-mode", "loopback", "--passphrase-fd", str(reader), *argv[1:]]
        try:
            self._child = subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, pass_fds=descriptors,
                env={**os.environ, "LC_ALL": "C.UTF-8"}, preexec_fn=process._die_with_parent,
            )
        except FileNotFoundError as error:
            raise RunbookError(
                f"The program {argv[0]} does not exist on this host.", "Install GnuPG 2.2 or newer (Debian: gnupg)."
            ) from error
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._feed, args=(source,), daemon=True)
        self._thread.start()

    def _feed(self, source: Iterable[bytes]) -> None:
        try:
            with contextlib.suppress(BrokenPipeError), self._child.stdin as stream:
                for chunk in source:
                    stream.write(chunk)
        except BaseException as error:
            self._failure = error
            self._child.kill()

    @property
    def output(self) -> BinaryIO:
        """What gpg writes."""
        return self._child.stdout

    def finish(self) -> None:
        """Wait for the end.

        Raises:
            RunbookError: gpg failed.
        """
        self._thread.join()
        code = self._child.wait()
        if self._failure:
            raise self._failure
        if code == 0:
            return
        self._errors.seek(0)
        said = self._errors.read()[-TAIL:].decode("utf-8", "replace").strip()
        raise gpg_error(code, said)

    def close(self) -> None:
        """End it, wherever it stands."""
        if self._child.poll() is None:
            self._child.kill()
        self._child.stdout.close()
        self._thread.join()
        self._child.wait()
        self._errors.close()


def gpg_error(code: int, said: str) -> RunbookError:
    """Why gpg failed, in one sentence."""
    words = "; ".join(line.removeprefix("gpg: ").strip() for line in said.splitlines())
    if "Bad passphrase" in said or "No passphrase given" in said:
        return KeyMissingError(f"The passphrase does not open the secret key (gpg: {words}).")
    if "No secret key" in said:
        return KeyMissingError(f"No secret key of this host opens it (gpg: {words}).")
    return RunbookError(
        f"gpg ended with exit code {code}: {words or 'it printed no error'}.",
        "Look at what it says, at the keys that store_recipients and store_keyring name, and at the room of the disk,"
        " then start it again.", code=code,
    )


@contextlib.contextmanager
def encrypted(source: Iterable[bytes], recipients: Iterable[Recipient]) -> Iterator[Pipe]:
    """A pipe that gives what `source` gives, encrypted; `finish()` it after the last byte was read."""
    with _empty_home() as home:
        argv = [_gpg(), "--homedir", home, *OPTIONS, "--trust-model", "always"]
        for recipient in recipients:
            argv += ["--recipient-file", recipient.file]
        pipe = Pipe([*argv, "--encrypt"], source)
        with contextlib.closing(pipe):
            yield pipe


@contextlib.contextmanager
def decrypted(source: Iterable[bytes], keyring: Keyring) -> Iterator[Pipe]:
    """A pipe that gives what `source` gives, decrypted; `finish()` it after the last byte was read."""
    home = ["--homedir", keyring.home] if keyring.home else []
    pipe = Pipe([_gpg(), *home, *OPTIONS, "--decrypt"], source, keyring.passphrase)
    with contextlib.closing(pipe):
        yield pipe
