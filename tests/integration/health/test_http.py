"""What an operator learns from a service that answers well, badly, slowly or not at all."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest

CRLF = "\r\n"
Serve = Callable[..., int]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start a server that treats each connection as the function says; returns its port."""
    ending = threading.Event()
    listeners: list[socket.socket] = []

    def start(treat: Callable[[socket.socket, threading.Event], None]) -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def loop() -> None:
            while True:
                try:
                    connection, _unused = listener.accept()
                except OSError:
                    return
                threading.Thread(target=one, args=(connection,), daemon=True).start()

        def one(connection: socket.socket) -> None:
            with connection:
                try:
                    treat(connection, ending)
                except OSError:
                    return

        threading.Thread(target=loop, daemon=True).start()
        return listener.getsockname()[1]

    yield start
    ending.set()
    for listener in listeners:
        listener.close()


def answer(
    body: str | bytes, status: str = "200 OK", content_type: str = "application/json", length: int | None = None
) -> Callable[[socket.socket, threading.Event], None]:
    """A server that answers each request in the same way."""
    content = body.encode() if isinstance(body, str) else body
    head = CRLF.join([f"HTTP/1.1 {status}", f"Content-Type: {content_type}",
                      f"Content-Length: {len(content) if length is None else length}", "", ""]).encode()

    def treat(connection: socket.socket, _ending: threading.Event) -> None:
        connection.recv(65536)
        connection.sendall(head + content)

    return treat


def body_of(**fields: object) -> str:
    fields.setdefault("timestamp", datetime.now(UTC).isoformat())
    return json.dumps({"status": "healthy", **fields})


def http(port: int, **options: object) -> dict[str, object]:
    return {"kind": "http", "url": f"http://127.0.0.1:{port}/health", **options}


KREDETE = {"customer": "up", "loan": "up", "scoring": "up", "ledger": "up", "payment": "up"}


def test_healthy_body_passes_with_each_part_its_time_and_its_version(serve, probe):
    """K5 ⚠ X5: the body is parsed, each named service is up, the time stamp is fresh."""
    port = serve(answer(body_of(services=KREDETE, version="2.4.1")))
    found = probe(http(port, services=list(KREDETE), version="2.4.1", timestamp_required=True,
                       thresholds=[{"measure": "response_seconds", "warning": 2, "critical": 3}]))
    assert {name: check["status"] for name, check in found.items()} == dict.fromkeys(
        ["http", "http.services", "http.timestamp", "http.version", "http.response_seconds"], "ok")
    assert found["http.services"]["value"] == 5


OLD = (datetime.now(UTC) - timedelta(hours=2)).isoformat()
BAD_ANSWERS = {
    "empty body": (answer(""), "http", "unknown", "The body is empty."),
    "HTML": (answer("<!DOCTYPE html><h1>Sign in</h1>", content_type="text/html"), "http", "unknown",
             "HTML instead of JSON"),
    "status down": (answer(json.dumps({"status": "down"})), "http", "critical", 'It says "down".'),
    "status degraded": (answer(json.dumps({"status": "degraded"})), "http", "warning", 'It says "degraded".'),
    "unknown word": (answer(json.dumps({"status": "flourishing"})), "http", "unknown", "no known status word"),
    "no status": (answer(json.dumps({"services": KREDETE})), "http", "unknown", "The body has no status."),
    "two hours old": (answer(body_of(timestamp=OLD)), "http.timestamp", "critical",
                      "2 hours old, so the body is stale"),
    "time stamp from tomorrow": (
        answer(body_of(timestamp=(datetime.now(UTC) + timedelta(days=1)).isoformat())), "http.timestamp", "unknown",
        "in the future, so one of the clocks is wrong"),
    "unreadable time stamp": (answer(body_of(timestamp="noon")), "http.timestamp", "unknown",
                              'The time stamp "noon" cannot be read.'),
    "part down": (answer(body_of(services={**KREDETE, "ledger": "down"})), "http.services", "critical",
                  "ledger is down"),
    "not JSON": (answer("OK"), "http", "unknown", "not JSON"),
    "JSON list": (answer("[1]"), "http", "unknown", "no object"),
    "other keys": (answer('{"hello": "world"}'), "http", "unknown", "none of the known shapes; its keys are hello"),
    "503 that says why": (answer(json.dumps({"status": "unhealthy", "checks": {"database": {"status": "down"}}}),
                                 status="503 Service Unavailable"),
                          "http", "critical", "HTTP 503 instead of 200"),
    "redirect": (answer("", status="302 Found"), "http", "critical", "HTTP 302 instead of 200"),
    "cut off": (answer('{"status":', length=100), "http", "unknown", "90 bytes before the end"),
    "no HTTP": (lambda connection, _x: connection.sendall(b"220 mail ready\r\n"), "http", "unknown", "not speak HTTP"),
    "hangs up": (lambda connection, _x: connection.recv(65536), "http", "unknown", "closed the connection without an"),
}


@pytest.mark.parametrize("case", BAD_ANSWERS)
def test_bad_answer_is_never_ok_and_has_a_sentence_of_its_own(serve, probe, case):
    """X5 D3: an exit code of curl says none of this."""
    treat, name, status, words = BAD_ANSWERS[case]
    found = probe(http(serve(treat)))
    assert found[name]["status"] == status
    assert words in found[name]["message"]


def test_sentences_for_bad_answers_are_all_different():
    assert len({words for _unused, _unused, _unused, words in BAD_ANSWERS.values()}) >= len(BAD_ANSWERS) - 1


def test_part_of_a_failing_service_is_named_although_the_status_is_503(serve, probe):
    body = json.dumps({"status": "unhealthy", "checks": {"database": {"status": "down"}, "cache": {"status": "up"}}})
    found = probe(http(serve(answer(body, status="503 Service Unavailable"))))
    assert found["http.services"]["message"] == "database is down."


def test_service_that_should_be_named_and_is_not_is_unknown(serve, probe):
    found = probe(http(serve(answer(body_of(services={"loan": "up"}))), services=["loan", "ledger"]))
    assert found["http.services"]["status"] == "unknown"
    assert "ledger is not named" in found["http.services"]["message"]


def test_another_version_that_answers_is_a_warning(serve, probe):
    """K16 ⚠: old pods can answer."""
    found = probe(http(serve(answer(body_of(version="2.4.0"))), version="2.4.1"))
    assert found["http.version"]["status"] == "warning"
    assert found["http.version"]["message"] == "2.4.0 answers, not 2.4.1."


@pytest.mark.parametrize(("value", "status"), [(80, "ok"), (80.1, "warning"), (96, "critical"), ("96", "unknown"),
                                               (None, "unknown"), (True, "unknown")])
def test_any_field_of_the_body_can_have_a_threshold(serve, probe, value, status):
    """D4: breaker, queue, pool: whatever the service tells."""
    port = serve(answer(body_of(pool={"in_use_percent": value})))
    found = probe(http(port, thresholds=[{"measure": "pool.in_use_percent", "warning": 80, "critical": 95,
                                          "unit": "percent"}]))
    assert found["http.pool.in_use_percent"]["status"] == status


def test_field_with_an_expression_that_is_none_is_unknown(serve, probe):
    found = probe(http(serve(answer(body_of())), thresholds=[{"measure": "pool[", "warning": 1}]))
    assert found["http.pool["]["status"] == "unknown"


def test_closed_port_is_critical(probe, unused_port):
    found = probe(http(unused_port), {"kind": "tcp", "host": "127.0.0.1", "port": unused_port})
    assert {check["status"] for check in found.values()} == {"critical"}
    assert found["http"]["message"] == f"Nothing listens on 127.0.0.1:{unused_port}."


def test_name_without_an_address_is_unknown(probe):
    found = probe({"kind": "http", "url": "http://no-such-host.invalid/health"})
    assert found["http"]["status"] == "unknown"
    assert "no-such-host.invalid has no address" in found["http"]["message"]


def test_tcp_port_that_takes_connections_is_ok(serve, probe):
    port = serve(_silent)
    assert probe({"kind": "tcp", "host": "127.0.0.1", "port": port})["tcp"]["status"] == "ok"


def test_address_that_needs_a_token_gets_it_and_shows_it_nowhere(serve, probe):
    seen: list[bytes] = []

    def treat(connection: socket.socket, _ending: threading.Event) -> None:
        seen.append(connection.recv(65536))
        connection.sendall(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")

    found = probe(http(serve(treat), token="t0k3n"))
    assert b"Authorization: Bearer t0k3n" in seen[0]
    assert "t0k3n" not in str(found)


@pytest.mark.parametrize("token", ["t0k3n\nX: y", "tökén"])
def test_token_that_no_header_can_carry_is_not_quoted(serve, probe, token):
    found = probe(http(serve(answer(body_of())), token=token))
    assert found["http"]["status"] == "unknown"
    assert token not in str(found)


def test_login_inside_the_address_is_refused(serve, probe):
    found = probe({"kind": "http", "url": f"http://me:pw99@127.0.0.1:{serve(answer(body_of()))}/"})
    assert found["http"]["status"] == "unknown"
    assert "pw99" not in str(found)


@pytest.mark.parametrize(("url", "shown"), [
    ("http://u:s3cret@h:999999/", "http://h:999999"), ("http://u:s3cret@[::1/", "http://[::1"),
    ("http://u:s3cret@h:port/health", "http://h:port"), ("ftp://u:s3cret@h/", "ftp://h"), ("u:s3cret@h", "h"),
    ("http://u:s3cret/4@h:x/", "http://h:x"), ("http://h:x/?token=s3cret", "http://h:x"), ("s3cret@", "nothing"),
])
def test_address_that_cannot_be_used_is_named_without_its_login(probe, url, shown):
    found = probe({"kind": "http", "url": url})
    assert found["http"]["status"] == "unknown"
    assert shown in found["http"]["message"]
    assert "s3cret" not in str(found)


def _silent(_connection: socket.socket, ending: threading.Event) -> None:
    ending.wait(60)


def _drips_body(connection: socket.socket, ending: threading.Event) -> None:
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while not ending.wait(0.05):
        connection.sendall(b"x")


def _drips_header(connection: socket.socket, ending: threading.Event) -> None:
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
    while not ending.wait(0.05):
        connection.sendall(b"x")


def _floods(connection: socket.socket, ending: threading.Event) -> None:
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while not ending.is_set():
        connection.sendall(b"x" * 65536)


@pytest.mark.parametrize(("treat", "words"), [
    (_silent, "took the connection and sent no whole answer within 1 s"),
    (_drips_body, "of a body that did not end within 1 s"),
    (_drips_header, "No answer within"),
    (_floods, "longer than 100000 bytes"),
])
def test_server_that_never_comes_to_an_end_is_unknown_in_time(serve, probe, treat, words):
    started = time.monotonic()
    found = probe(http(serve(treat)), timeout_seconds=1.0, deadline_seconds=5.0, body_limit_bytes=100000)
    assert time.monotonic() - started < 5
    assert found["http"]["status"] == "unknown"
    assert words in found["http"]["message"]


def test_connection_that_is_never_taken_is_unknown_in_time(probe):
    """A full accept queue behaves like a firewall that drops: no refusal, no answer."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        filling = [socket.socket() for _unused in range(4)]
        try:
            for one in filling:
                one.setblocking(False)
                one.connect_ex(address)
            time.sleep(0.2)
            found = probe(http(address[1]), {"kind": "tcp", "host": address[0], "port": address[1]},
                          {"kind": "redis", "host": address[0], "port": address[1]},
                          {"kind": "postgresql", "login": {"host": address[0], "port": address[1], "user": "x"}},
                          timeout_seconds=1.0, deadline_seconds=6.0)
        finally:
            for one in filling:
                one.close()
    assert {check["status"] for check in found.values()} == {"unknown"}


def test_deadline_of_the_whole_holds_when_every_target_hangs_and_only_few_are_asked_at_once(serve, module):
    """One hung target must not take the sweep with it: what was not asked says so."""
    port = serve(_silent)
    well = serve(answer(body_of()))
    targets = [{"name": "well", "checks": [http(well)]}]
    targets += [{"name": f"hung-{number}", "checks": [http(port)]} for number in range(12)]
    started = time.monotonic()
    result = module(targets=targets, timeout_seconds=1, deadline_seconds=3, concurrency=3, wait_for_second_sample=False)
    assert time.monotonic() - started < 3 + 3  # the deadline, and Python's own start
    statuses = {check["target"]: check["status"] for check in result["checks"]}
    assert statuses.pop("well") == "ok"
    assert set(statuses.values()) == {"unknown"}
    assert len(statuses) == 12
    assert any(check["message"].startswith("Not asked: the whole sweep may take 3 s") for check in result["checks"])


@pytest.mark.parametrize(("figures", "status", "words"), [
    ([95, 40, 40], "ok", "1 of 3 samples was critical (95.0 percent), which counts from 2."),
    ([95, 40, 96], "critical", "load is 96 percent."), ([95, 96], "critical", "load is 96 percent."),
    ([40], "ok", "load is 40 percent."),
])
def test_threshold_counts_only_when_it_is_crossed_in_enough_samples(serve, probe, figures, status, words):
    """N of M, for the documents' thresholds without a duration (K2 ⚠); a figure that is well is asked for once."""
    coming = list(figures)

    def flapping(connection: socket.socket, ending: threading.Event) -> None:
        answer(json.dumps({"status": "healthy", "load": coming.pop(0)}))(connection, ending)

    limits = [{"measure": "load", "warning": 80, "critical": 90, "unit": "percent"}]
    found = probe(http(serve(flapping), thresholds=limits))["http.load"]
    assert coming == []
    assert (found["status"], words in found["message"]) == (status, True), found


def test_refusal_and_silence_count_at_once(serve, probe, unused_port):
    """They are no value that swings about a threshold, and asking a silent target again would cost its time-out."""
    times: list[int] = []

    def down(connection: socket.socket, ending: threading.Event) -> None:
        times.append(1)
        answer(json.dumps({"status": "down"}))(connection, ending)

    assert probe(http(serve(down)))["http"]["status"] == "critical"
    assert probe(http(unused_port))["http"]["status"] == "critical"
    assert len(times) == 1
