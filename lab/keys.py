# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""GPG key pairs of the lab, each in a home of its own."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

TIMEOUT_S = 60


@dataclass(frozen=True)
class Key:
    """A key pair: the home that holds its secret half, and the file with its public one."""

    home: Path
    public: Path
    fingerprint: str

    def close(self) -> None:
        """End the agent that GnuPG started for this home."""
        self._run("gpgconf", "--kill", "all")

    def secret(self) -> bytes:
        """The secret half, armoured."""
        return self._run("gpg", "--batch", "--armor", "--export-secret-keys")

    def _run(self, program: str, *arguments: str) -> bytes:
        return _run(self.home, program, *arguments)


def _run(home: Path, program: str, *arguments: str, given: bytes = b"") -> bytes:
    done = subprocess.run(
        [program, "--homedir", str(home), *arguments], input=given, check=True, capture_output=True, timeout=TIMEOUT_S
    )
    return done.stdout


def make_key(folder: Path, name: str, passphrase: str = "") -> Key:
    """Make a key pair.

    Args:
        folder: the home and the public key's file become neighbours in it. Keep its path short: GnuPG's agent has a
            socket in the home, and such paths end at 107 bytes.
        name: of home, file and owner.
        passphrase: of the secret half; empty has none.
    """
    home = folder / name
    home.mkdir(mode=0o700, parents=True)
    _run(
        home, "gpg", "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase-fd", "0",
        "--quick-generate-key", f"{name} <{name}@example.org>", "future-default", "default", "never",
        given=passphrase.encode() + b"\n",
    )
    public = folder / f"{name}.asc"
    public.write_bytes(_run(home, "gpg", "--batch", "--armor", "--export"))
    listing = _run(home, "gpg", "--batch", "--with-colons", "--list-keys").decode()
    return Key(home, public, next(line.split(":")[9] for line in listing.splitlines() if line.startswith("fpr")))
