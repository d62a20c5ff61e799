# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Probes of kind http: one bounded request, no redirects, no proxy."""

from __future__ import annotations

import http.client
import re
import time
from datetime import UTC, datetime
from urllib.parse import SplitResult, quote, urlsplit

from ansible_collections.sre.runbooks.plugins.module_utils.health.body import HttpAnswer, judge_answer
from ansible_collections.sre.runbooks.plugins.module_utils.health.metrics import judge_metrics
from ansible_collections.sre.runbooks.plugins.module_utils.health.network import secure
from ansible_collections.sre.runbooks.plugins.module_utils.health.probe import (
    Answer,
    Deadline,
    ProbeError,
    Request,
    open_socket,
)
from ansible_collections.sre.runbooks.plugins.module_utils.health.shapes import quoted
from ansible_collections.sre.runbooks.plugins.module_utils.run.words import about

CHUNK_BYTES = 65536
# What may stand in a path as it is; the per cent sign too, for paths that are quoted already.
KEPT_IN_PATH = "/%:@!$&'()*+,;=~-._"


def probe_http(request: Request) -> Answer:
    """Ask the address, read the body, judge what it says (K5, X5).

    Raises:
        ProbeError: there was no answer to judge.
    """
    answer = fetch(request.check["url"], request.check, Deadline(request.timeout_s), request.body_limit_bytes)
    if request.check["shape"] == "metrics":
        return judge_metrics(answer, request.check, request.target)
    return Answer(judge_answer(answer, request.check, request.target, datetime.now(UTC)))


def _split(url: str) -> tuple[SplitResult, int]:
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        # Python's own sentence quotes what it could not read, which may be a part of a password.
        raise ProbeError(f"The address of {_shown(url)} is not a URL.") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ProbeError(f"The address of {_shown(url)} is no http or https URL.")
    if parts.username or parts.password:
        raise ProbeError(f"The address of {parts.hostname}:{port} carries a login; give it as token instead.")
    return parts, port


def _shown(url: str) -> str:
    """Scheme and host of an address that cannot be used, without what may be a login, a path or a query."""
    scheme, mark, rest = url.partition("://")
    host = re.split(r"[/?#\\]", (rest if mark else url).rpartition("@")[2], maxsplit=1)[0]
    known = mark and re.fullmatch(r"[A-Za-z][\w+.-]*", scheme)
    return quoted(f"{scheme}://{host}" if known else host) or "nothing"


def _headers(token: str | None) -> dict[str, str]:
    headers = {"Accept": "application/json, */*;q=0.5", "User-Agent": "sre.runbooks", "Connection": "close"}
    if token:
        if not (token.isascii() and token.isprintable()):
            raise ProbeError("The token has characters that an HTTP header cannot carry.")
        headers["Authorization"] = f"Bearer {token}"
    return headers


def fetch(url: str, check: dict, deadline: Deadline, limit_bytes: int) -> HttpAnswer:
    """One GET within the deadline and the size limit.

    Raises:
        ProbeError: no connection, no answer, not HTTP, a body that is too long or does not end.
    """
    parts, port = _split(url)
    host, headers = str(parts.hostname), _headers(check["token"])
    path = quote(parts.path or "/", safe=KEPT_IN_PATH) + (f"?{parts.query}" if parts.query else "")
    started = time.monotonic()
    stream = open_socket(host, port, deadline)
    if parts.scheme == "https":
        stream = secure(stream, host, check["ca_file"], deadline)
    connection = http.client.HTTPConnection(host, port)
    connection.sock = stream
    place, content = f"{host}:{port}", b""
    try:
        stream.settimeout(deadline.left())
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        while chunk := _next_chunk(response, stream, deadline):
            content += chunk
            if len(content) > limit_bytes:
                raise ProbeError(f"The body from {place} is longer than {limit_bytes} bytes and was not read on.")
    except TimeoutError as error:
        what = f"sent {len(content)} bytes of a body that did not end" if content else "sent no whole answer"
        raise ProbeError(f"{place} took the connection and {what} within {about(deadline.seconds)}.") from error
    except http.client.RemoteDisconnected as error:
        raise ProbeError(f"{place} closed the connection without an answer.") from error
    except http.client.HTTPException as error:
        raise ProbeError(f"{place} does not speak HTTP: {type(error).__name__} {quoted(error)}.") from error
    except (OSError, ValueError) as error:
        raise ProbeError(f"The request to {place} failed: {error}.") from error
    finally:
        connection.close()
    if response.length:
        raise ProbeError(f"{place} closed the connection {response.length} bytes before the end of the body.")
    return HttpAnswer(
        response.status, content, response.headers.get("Content-Type", ""), time.monotonic() - started
    )


def _next_chunk(response: http.client.HTTPResponse, stream: object, deadline: Deadline) -> bytes:
    if response.isclosed():
        return b""
    if deadline.over:
        raise TimeoutError
    stream.settimeout(deadline.left())  # type: ignore[attr-defined]
    return response.read1(CHUNK_BYTES)
