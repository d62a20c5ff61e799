"""What an operator learns about certificates."""

from __future__ import annotations

import datetime
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from socket import create_server
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

NOW = datetime.datetime.now(datetime.UTC)
Certificate = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


def make(name: str, days: float, issuer: Certificate | None = None) -> Certificate:
    """A certificate for `name` that ends in `days`; without an issuer an authority that signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key()).serial_number(x509.random_serial_number())
        .not_valid_before(NOW - datetime.timedelta(days=400)).not_valid_after(NOW + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    return builder.sign(issuer[1] if issuer else key, hashes.SHA256()), key


@pytest.fixture
def authority(tmp_path: Path) -> tuple[Certificate, str]:
    """An authority, and the file with its certificate."""
    made, file = make("authority", 1000), tmp_path / "authority.pem"
    file.write_bytes(made[0].public_bytes(serialization.Encoding.PEM))
    return made, str(file)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[Certificate], int]]:
    """A TLS server with this certificate; returns its port."""
    listeners = []

    def start(certificate: Certificate) -> int:
        file = tmp_path / f"server-{len(listeners)}.pem"
        file.write_bytes(
            certificate[1].private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                         serialization.NoEncryption())
            + certificate[0].public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        listener = create_server(("127.0.0.1", 0))
        listeners.append(listener)
        threading.Thread(target=_serve, args=(listener, context), daemon=True).start()
        return listener.getsockname()[1]

    yield start
    for listener in listeners:
        listener.close()


def _serve(listener: Any, context: ssl.SSLContext) -> None:
    body = b'{"status": "UP"}'
    while True:
        try:
            plain, _unused = listener.accept()
        except OSError:
            return
        try:
            with context.wrap_socket(plain, server_side=True) as stream:
                stream.recv(65536)
                stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        except OSError:
            plain.close()


def tls(port: int, ca_file: str | None, **options: Any) -> dict[str, Any]:
    return {"kind": "tls", "host": "127.0.0.1", "port": port, "server_name": "shop.example", "ca_file": ca_file,
            **options}


@pytest.mark.parametrize(("days", "status"), [(200.5, "ok"), (20.5, "warning"), (3.5, "critical")])
def test_certificate_is_proven_and_its_days_are_counted(authority, serve, probe, days, status):
    """B12 A58 ⚠: parsed, with the name sent, held against a threshold."""
    found = probe(tls(serve(make("shop.example", days, authority[0])), authority[1]))
    assert found["tls"]["status"] == "ok"
    assert found["tls.certificate_days"]["status"] == status
    assert found["tls.certificate_days"]["value"] == pytest.approx(days, abs=0.1)


@pytest.mark.parametrize(("case", "words"), [
    ("expired", "certificate has expired"),
    ("other name", "not valid for 'shop.example'"),
    ("unknown authority", "unable to get local issuer certificate"),
    ("self-signed", "self-signed certificate"),
])
def test_certificate_that_proves_nothing_is_critical(authority, serve, probe, case, words):
    """D18 ⚠: verified, not only shown."""
    certificate = {
        "expired": lambda: make("shop.example", -1, authority[0]),
        "other name": lambda: make("other.example", 90, authority[0]),
        "unknown authority": lambda: make("shop.example", 90, make("somebody else", 90)),
        "self-signed": lambda: make("shop.example", 90),
    }[case]()
    found = probe(tls(serve(certificate), authority[1]))
    assert list(found) == ["tls"]
    assert found["tls"]["status"] == "critical"
    assert words in found["tls"]["message"]


def test_https_is_asked_with_the_same_proof(authority, serve, probe):
    """A10 ⚠: the body of an encrypted address, within a time-out, from where the name is known; no HEAD."""
    port = serve(make("localhost", 90, authority[0]))
    good = {"kind": "http", "url": f"https://localhost:{port}/health", "ca_file": authority[1]}
    assert probe(good)["http"]["status"] == "ok"
    assert probe(good)["http"]["value"] == "UP"
    assert probe({**good, "ca_file": None})["http"]["status"] == "critical"


def test_https_address_that_never_shakes_hands_is_unknown_within_its_time_out(authority, probe):
    """A10 ⚠: curl without a time-out waits for ever."""
    with create_server(("127.0.0.1", 0)) as silent:
        url = f"https://localhost:{silent.getsockname()[1]}/"
        found = probe({"kind": "http", "url": url, "ca_file": authority[1], "timeout_seconds": 0.5})
    assert found["http"]["status"] == "unknown"
    assert "did not finish the TLS handshake within" in found["http"]["message"]


def test_port_without_tls_and_a_missing_file_of_authorities_are_unknown(redis_server, authority, probe):
    plain = probe(tls(redis_server.port, authority[1]), timeout_seconds=1.0)
    missing = probe(tls(redis_server.port, "/no/such/file.pem"))
    assert plain["tls"]["status"] == missing["tls"]["status"] == "unknown"
    assert "/no/such/file.pem cannot be read" in missing["tls"]["message"]
