# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Probes of kind redis: one INFO, which says everything that is measured."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from typing import Any

from ansible_collections.sre.runbooks.plugins.module_utils.health.check import Check, Threshold, judged
from ansible_collections.sre.runbooks.plugins.module_utils.health.measures import (
    MEASURES,
    threshold_for,
    wanted_measures,
)
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

# What one reply may take at most: INFO of a server with thousands of databases stays far below.
REPLY_BYTES = 1048576
PERSISTENCE = {
    "rdb_last_bgsave_status": "the last snapshot",
    "aof_last_bgrewrite_status": "the last rewrite of the append-only file",
    "aof_last_write_status": "the last write to the append-only file",
}


def probe_redis(request: Request) -> Answer:
    """Log in, ask for INFO, take the measures (A9, A19 ⚠).

    Raises:
        ProbeError: no connection, or the login is refused.
    """
    deadline, started = Deadline(request.timeout_s), time.monotonic()
    host, port = request.check["host"], request.check["port"]
    stream = open_socket(host, port, deadline)
    if request.check["tls"]:
        stream = secure(stream, request.check["server_name"] or host, request.check["ca_file"], deadline)
    with stream:
        client = Conversation(stream, f"{host}:{port}", deadline)
        if request.check["password"]:
            user = [request.check["user"]] if request.check["user"] else []
            client.ask("AUTH", *user, request.check["password"])
        information = parse_information(client.ask("INFO", "all"))
    took = (time.monotonic() - started) * 1000
    name, target = request.check["name"], request.target
    loading = information.get("loading") == "1"
    answer = Answer([Check(
        name, target, "redis", "critical" if loading else "ok",
        f"Redis {information.get('redis_version', 'of unknown version')} "
        f"{'is still loading its data' if loading else 'answers'} ({took:.0f} ms).", value=round(took, 1), unit="ms",
    )], identity=information.get("run_id", ""))
    for measure in wanted_measures("redis", request.check["measures"]):
        _take(measure, information, request, answer)
    return answer


class Conversation:
    """Speaks just enough of the Redis protocol (RESP) for AUTH and INFO.

    The client library would take longer to import than the whole sweep takes to run, and its time-outs are those of
    each read, not of the conversation.
    """

    def __init__(self, stream: socket.socket, place: str, deadline: Deadline) -> None:
        self._stream, self._place, self._deadline = stream, place, deadline
        self._received = b""

    def ask(self, *words: str) -> str:
        """Send one command and return its reply.

        Raises:
            ProbeError: the server refuses the command, or does not speak the protocol, or takes too long.
        """
        encoded = [word.encode() for word in words]
        request = b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded)
        try:
            self._stream.settimeout(self._deadline.left())
            self._stream.sendall(request)
            return self._reply(words[0])
        except TimeoutError as error:
            raise ProbeError(f"{self._place} took the connection and gave no answer to {words[0]} within "
                             f"{about(self._deadline.seconds)}.") from error
        except OSError as error:
            raise ProbeError(f"{self._place} broke the connection off during {words[0]}: {error}.") from error

    def _reply(self, command: str) -> str:
        line = self._line()
        kind, rest = line[:1], line[1:].decode("utf-8", "replace")
        if kind == b"-":
            raise self._refusal(command, rest)
        if kind == b"+":
            return rest
        if kind == b"$" and rest.isdigit() and int(rest) <= REPLY_BYTES:
            return self._take(int(rest) + 2)[:-2].decode("utf-8", "replace")
        raise ProbeError(f"{self._place} does not speak the Redis protocol: {quoted(line)}.")

    def _refusal(self, command: str, reason: str) -> ProbeError:
        if reason.startswith("NOAUTH"):
            return ProbeError(f"Redis at {self._place} wants a password and none is given.")
        # It is the application's own password, so the application is refused too. The reply never quotes it.
        status = "critical" if command == "AUTH" or reason.startswith("LOADING") else "unknown"
        return ProbeError(f"Redis at {self._place} refuses {command}: {quoted(reason)}", status)

    def _line(self) -> bytes:
        while b"\r\n" not in self._received:
            self._receive()
        line, _unused, self._received = self._received.partition(b"\r\n")
        return line

    def _take(self, count: int) -> bytes:
        while len(self._received) < count:
            self._receive()
        content, self._received = self._received[:count], self._received[count:]
        return content

    def _receive(self) -> None:
        if self._deadline.over:
            raise TimeoutError
        if len(self._received) > REPLY_BYTES:
            raise ProbeError(f"{self._place} does not speak the Redis protocol: a line without an end.")
        self._stream.settimeout(self._deadline.left())
        chunk = self._stream.recv(65536)
        if not chunk:
            raise ProbeError(f"{self._place} closed the connection in the middle of an answer.")
        self._received += chunk


def parse_information(text: str) -> dict[str, str]:
    """INFO's lines as a dictionary."""
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line and not line.startswith("#"))


def _number(information: Mapping[str, str], key: str) -> float:
    try:
        return float(information[key])
    except (KeyError, ValueError) as error:
        raise ProbeError(f"INFO has no number {key}.") from error


def _take(measure: str, information: Mapping[str, str], request: Request, answer: Answer) -> None:
    name = f"{request.check['name']}.{measure}"
    try:
        if measure == "hit_percent":
            answer.counters[measure] = {"hits": _number(information, "keyspace_hits"),
                                        "reads": _number(information, "keyspace_misses")}
        elif measure == "evictions_per_second":
            answer.counters[measure] = {"count": _number(information, "evicted_keys")}
        elif measure == "memory_percent":
            answer.checks.append(_memory(name, information, request))
        else:
            answer.checks.append(_persistence(name, information, request))
    except ProbeError as error:
        answer.checks.append(Check(name, request.target, "redis", "unknown", error.message))


def _memory(name: str, information: Mapping[str, str], request: Request) -> Check:
    used, limit = _number(information, "used_memory"), _number(information, "maxmemory")
    policy = information.get("maxmemory_policy", "noeviction")
    given: Any = request.check["thresholds"]
    threshold = threshold_for("redis", "memory_percent", given)
    of = "its maxmemory"
    if not limit:
        limit, of = _number(information, "total_system_memory"), "the machine's memory, since it has no maxmemory"
    elif policy != "noeviction" and not any(entry["measure"] == "memory_percent" for entry in given):
        # A cache that evicts is full by design; evictions_per_second tells whether that hurts.
        threshold = Threshold()
    return judged(
        name, request.target, "redis", 100 * used / limit if limit else 100.0,
        MEASURES["redis"]["memory_percent"].unit, threshold,
        f"{used / 1e6:,.1f} MB of {limit / 1e6:,.1f} MB, {of}; when full it follows {policy}.",
        used_bytes=int(used), maxmemory_policy=policy,
    )


def _persistence(name: str, information: Mapping[str, str], request: Request) -> Check:
    seen = {key: information[key] for key in PERSISTENCE if key in information}
    if not seen:
        raise ProbeError("INFO says nothing about persistence.")
    failed = [PERSISTENCE[key] for key, word in seen.items() if word != "ok"]
    return judged(
        name, request.target, "redis", float(len(failed)), MEASURES["redis"]["persistence_errors"].unit,
        threshold_for("redis", "persistence_errors", request.check["thresholds"]),
        f"Failed: {', '.join(failed)}." if failed else "Snapshots and the append-only file are written without errors.",
        **seen,
    )
