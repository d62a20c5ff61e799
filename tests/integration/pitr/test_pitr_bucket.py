# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A repository in a bucket, which pgBackRest reaches by HTTPS only."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from lab import machine
from lab.pgbackrest import PgBackRestServer
from lab.s3 import S3Server
from tests.integration.pitr.conftest import Archived, make_archived


def certificate(folder: Path) -> tuple[Path, Path]:
    """Files with a certificate for 127.0.0.1 that signs itself, which all may read, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([
            x509.IPAddress(IPv4Address("127.0.0.1")), x509.DNSName("127.0.0.1"), x509.DNSName("localhost"),
        ]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = folder / "s3.crt", folder / "s3.key"
    files[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    machine.write_private(files[1], key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode())
    files[0].chmod(0o644)
    return files


@pytest.fixture(scope="module")
def https(server_folder: Path) -> Iterator[S3Server]:
    """A store that speaks HTTPS."""
    with S3Server(server_folder / "pitr-s3", buckets=("wal",), certificate=certificate(server_folder)) as server:
        yield server


@pytest.fixture
def bucketed(
    https: S3Server, server_folder: Path, call_module: Callable[..., Any], start_module: Callable[..., Any]
) -> Iterator[Archived]:
    """A cluster whose repository is in that bucket."""
    folder = server_folder / "pitr-bucketed"
    repository = {
        "repo1-type": "s3", "repo1-path": "/lab", "repo1-s3-bucket": "wal", "repo1-s3-endpoint": "localhost",
        "repo1-storage-host": "127.0.0.1", "repo1-storage-port": str(https.port),
        "repo1-storage-ca-file": str(https.certificate[0]), "repo1-s3-uri-style": "path",
        "repo1-s3-region": "us-east-1", "repo1-s3-key": https.access_key, "repo1-s3-key-secret": https.secret_key,
    }
    try:
        found = make_archived(folder, call_module, start_module, repository=repository)
        found.lose()
        yield found
    finally:
        PgBackRestServer(folder).end_all()
        shutil.rmtree(folder, ignore_errors=True)


def test_a_repository_in_a_bucket_brings_rows_back_and_its_key_is_nowhere(bucketed: Archived, https: S3Server) -> None:
    """A86 ⚠: the same way from a bucket; the key stands in pgBackRest's own private file alone."""
    assert bucketed.info()["backups"][-1]["problem"] == ""
    said = [bucketed.done("restored"), bucketed.done("exchanged")]
    assert bucketed.orders() == 100
    said.append(bucketed.done("done"))
    assert said[-1]["new_backup"]["timeline"] == 2
    assert https.secret_key not in str(said)
    settings = bucketed.server.data_directory.rglob("*.conf*")
    kept = bucketed.server.folder.glob("data.*/**/*.conf*")
    assert all(https.secret_key not in path.read_text(encoding="utf-8", errors="replace")
               for path in (*settings, *kept) if path.is_file())
