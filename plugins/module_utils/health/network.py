# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Probes of kind tcp and tls."""

from __future__ import annotations

import socket
import ssl
import time

from ansible_collections.sre.runbooks.plugins.module_utils.health.check import Check, judged
from ansible_collections.sre.runbooks.plugins.module_utils.health.measures import MEASURES, threshold_for
from ansible_collections.sre.runbooks.plugins.module_utils.health.probe import (
    Answer,
    Deadline,
    ProbeError,
    Request,
    open_socket,
)
from ansible_collections.sre.runbooks.plugins.module_utils.run.words import about


def probe_tcp(request: Request) -> Answer:
    """Whether the port takes a connection."""
    host, port = request.check["host"], request.check["port"]
    started = time.monotonic()
    open_socket(host, port, Deadline(request.timeout_s)).close()
    took = (time.monotonic() - started) * 1000
    return Answer([Check(request.check["name"], request.target, "tcp", "ok",
                         f"{host}:{port} takes connections ({took:.0f} ms).", value=round(took, 1), unit="ms")])


def probe_tls(request: Request) -> Answer:
    """Whether the certificate is trusted and carries the name, and how long it is still valid (B12)."""
    deadline = Deadline(request.timeout_s)
    host, port = request.check["host"], request.check["port"]
    name = request.check["server_name"] or host
    with secure(open_socket(host, port, deadline), name, request.check["ca_file"], deadline) as stream:
        certificate = stream.getpeercert() or {}
        version = stream.version()
    ends = str(certificate["notAfter"])
    days = (ssl.cert_time_to_seconds(ends) - time.time()) / 86400
    threshold = threshold_for("tls", "certificate_days", request.check["thresholds"])
    return Answer([
        Check(request.check["name"], request.target, "tls", "ok", f"{name} is proven by its certificate ({version}).",
              value=version),
        judged(f"{request.check['name']}.certificate_days", request.target, "tls", days,
               MEASURES["tls"]["certificate_days"].unit, threshold,
               f"The certificate of {name} is valid for {days:.0f} more days, until {ends}.",
               issuer=", ".join(f"{key}={value}" for part in certificate.get("issuer", ()) for key, value in part)),
    ])


def secure(plain: socket.socket, name: str, ca_file: str | None, deadline: Deadline) -> ssl.SSLSocket:
    """TLS over an open connection, with certificate and name verified.

    Raises:
        ProbeError: critical when the certificate proves nothing; unknown when the handshake did not come to its end.
    """
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        plain.close()
        raise ProbeError(f"The file with trusted certificates {ca_file} cannot be read: {error}.") from error
    plain.settimeout(deadline.left())
    try:
        return context.wrap_socket(plain, server_hostname=name)
    except ssl.SSLCertVerificationError as error:
        plain.close()
        raise ProbeError(f"The certificate for {name} is not to be trusted: {error.verify_message}.",
                         "critical") from error
    except TimeoutError as error:
        plain.close()
        raise ProbeError(f"{name} took the connection and did not finish the TLS handshake within "
                         f"{about(deadline.seconds)}.") from error
    except (OSError, ValueError) as error:
        plain.close()
        raise ProbeError(f"The TLS handshake with {name} failed: {error}.") from error
