# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One service of the lab: a pool of database connections, a cache, /health, /metrics, a write path, faults on request.

    python lab/service.py <config.json>

A program of its own with few imports, since a lab starts eighteen of them. README.md says what it answers.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

TICK_S = 0.1
WRITE_EVERY_S = 0.5
# What a request waits for a connection when the database is away; a pool that is merely busy frees one sooner.
REQUEST_S = 1.0
SLOW_S = 3.5
DRAIN_S = 5.0
BUCKETS_S = (0.005, 0.05, 0.5, 1, 5, 30, 60)


def _moment() -> datetime:
    return datetime.now(UTC)


class Histogram:
    """How long something took, as Prometheus counts it."""

    def __init__(self) -> None:
        self._counts, self._sum = Counter[float](), 0.0

    def observe(self, seconds: float) -> None:
        """Count one."""
        self._sum += seconds
        self._counts[next((limit for limit in BUCKETS_S if seconds <= limit), float("inf"))] += 1

    def lines(self, name: str) -> list[str]:
        """In Prometheus' text format."""
        found, total = [], 0
        for limit in (*BUCKETS_S, float("inf")):
            total += self._counts[limit]
            found.append(f'{name}_bucket{{le="{"+Inf" if limit == float("inf") else limit}"}} {total}')
        return [*found, f"{name}_sum {self._sum:.6f}", f"{name}_count {total}"]


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Cache:
    """As much of the Redis protocol as this service needs; the client library alone would double its start."""

    def __init__(self, host: str, port: int, password: str) -> None:
        self._place, self._password = (host, port), password
        self._lock = threading.Lock()
        self._stream: Any = None

    def command(self, *words: str) -> str:
        """Send one command and return the first line of the answer.

        Raises:
            OSError: the cache cannot be reached, or refuses.
        """
        with self._lock:
            try:
                if self._stream is None:
                    self._stream = socket.create_connection(self._place, REQUEST_S).makefile("rwb")
                    self._send("AUTH", self._password)
                return self._send(*words)
            except OSError:
                self._stream = None
                raise

    def _send(self, *words: str) -> str:
        parts = [f"*{len(words)}\r\n", *(f"${len(word.encode())}\r\n{word}\r\n" for word in words)]
        self._stream.write("".join(parts).encode())
        self._stream.flush()
        line = self._stream.readline().decode().strip()
        if not line or line.startswith("-"):
            raise OSError(f"the cache answers {line or 'nothing'}")
        if line.startswith("$") and line != "$-1":
            self._stream.readline()
        return line


class Database:
    """The pool, its write path and its leak."""

    def __init__(self, config: dict[str, Any], pool: dict[str, int], name: str) -> None:
        from psycopg_pool import ConnectionPool
        from psycopg_pool.base import AttemptWithBackoff

        # As SQLAlchemy's pool, which tries again at each request: a restored database is found within a moment.
        AttemptWithBackoff.INITIAL_DELAY, AttemptWithBackoff.DELAY_BACKOFF = 0.2, 1.0
        self.size, self.overflow = pool["size"], pool["overflow"]
        self.config = config
        self.leaked: list[Any] = []
        self.pool = ConnectionPool(
            kwargs={
                "host": config["host"], "port": config["port"], "dbname": config["name"], "user": config["user"],
                "password": Path(config["password_file"]).read_text(encoding="utf-8"), "sslmode": "disable",
                "application_name": name, "autocommit": True, "connect_timeout": 5,
            },
            min_size=self.size, max_size=self.size + self.overflow, timeout=pool["timeout_seconds"],
            max_lifetime=pool["recycle_seconds"], check=ConnectionPool.check_connection, open=True, num_workers=2,
        )

    def ask(self, statement: str) -> tuple[Any, ...]:
        """The first row of a statement.

        Raises:
            psycopg.Error: no connection came in time, or the statement failed.
        """
        with self.pool.connection(timeout=REQUEST_S) as connection:
            return connection.execute(statement).fetchone() or ()

    def write(self) -> None:
        """Write one row; waits as long for a connection as the pool's configuration says."""
        with self.pool.connection() as connection:
            connection.execute(self.config["write"])

    def figures(self) -> dict[str, Any]:
        """How full the pool is."""
        stats = self.pool.get_stats()
        in_use = stats["pool_size"] - stats["pool_available"]
        return {
            "size": self.size, "overflow": self.overflow, "in_use": in_use, "waiting": stats["requests_waiting"],
            "in_use_percent": round(100 * in_use / (self.size + self.overflow), 1),
        }


class Service:
    """The state of one service: configuration, faults, counters."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.name, self.version = config["service"], config["version"]
        self.started = time.monotonic()
        self.faults: dict[str, str] = {}
        self.stopping = threading.Event()
        self.counters: Counter[str] = Counter()
        self.requests, self.writes = Histogram(), Histogram()
        self.running = 0
        self._lock = threading.Lock()
        self.server: ThreadingHTTPServer | None = None
        database, cache = config.get("database"), config.get("cache")
        self.database = Database(database, config["pool"], self.name) if database else None
        self.cache = (
            Cache(cache["host"], cache["port"], Path(cache["password_file"]).read_text(encoding="utf-8"))
            if cache else None
        )

    # -- what it answers ----------------------------------------------------------------------------------------------

    def health(self) -> tuple[int, dict[str, Any]]:
        """The HTTP status and the body of /health."""
        checks: dict[str, dict[str, Any]] = {}
        if self.database:
            checks["database"] = self._check(lambda: self.database.ask("SELECT 1"))
        if self.cache:
            checks["cache"] = self._check(lambda: self.cache.command("PING"))
        healthy = all(check["status"] == "up" for check in checks.values())
        moment = _moment()
        if "stale" in self.faults:
            moment = datetime.fromisoformat(self.faults["stale"])
        if "old" in self.faults:
            moment -= timedelta(hours=2)
        version = "0.9.0-old" if "version" in self.faults else self.version
        uptime = round(time.monotonic() - self.started, 1)
        if self.config["shape"] == "express":
            body = {
                "status": "ok" if healthy else "error",
                "timestamp": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                "uptime": uptime, "version": version,
                "checks": {name: "ok" if one["status"] == "up" else "error" for name, one in checks.items()},
            }
        else:
            body = {
                "status": "healthy" if healthy else "unhealthy", "service": self.name, "version": version,
                "timestamp": moment.isoformat(), "uptime_seconds": uptime, "checks": checks,
            }
        if self.database:
            body["pool"] = self.database.figures()
        if "down" in self.faults:
            return 200, {**body, "status": "down"}
        return 200 if healthy else 503, body

    def _check(self, question: Any) -> dict[str, Any]:
        from_ = time.perf_counter()
        try:
            question()
        except Exception as error:
            return {"status": "down", "error": " ".join(str(error).split())[:200]}
        return {"status": "up", "latency_ms": round((time.perf_counter() - from_) * 1000, 1)}

    def rows(self) -> tuple[int, dict[str, Any]]:
        """The newest row and how many came in the last minute."""
        if self.database is None:
            return 404, {"error": "this service has no database"}
        try:
            newest = self.database.ask(self.database.config["newest"])[0]
            recent = self.database.ask(self.database.config["recent"])[0]
        except Exception as error:
            return 503, {"error": " ".join(str(error).split())[:200]}
        return 200, {"newest": newest.isoformat() if newest else None, "rows": recent}

    def metrics(self) -> str:
        """Prometheus text; dbis_core's document has names of its own (D2)."""
        lines = [f'service_info{{service="{self.name}",version="{self.version}"}} 1',
                 f"http_requests_total {self.counters['requests']}", f"http_errors_total {self.counters['errors']}",
                 *self.requests.lines("http_request_duration_seconds"),
                 f"process_resident_memory_bytes {_resident_bytes()}",
                 f"process_cpu_user_seconds_total {os.times().user:.2f}"]
        if self.database:
            pool = self.database.figures()
            lines += [f"rows_written_total {self.counters['written']}", f"write_errors_total {self.counters['failed']}",
                      f"pool_connections_in_use {pool['in_use']}", f"pool_requests_waiting {pool['waiting']}"]
            if self.config["shape"] == "express":
                written, failed = self.counters["written"], self.counters["failed"]
                # A lab has no receiver, so nothing goes over TLS, and nothing is left unmatched.
                lines += [f"payments_initiated_total {written + failed}", f"payments_approved_total {written}",
                          f"payments_completed_total {written}", f"payments_failed_total {failed}",
                          *self.writes.lines("payment_processing_duration_seconds"), "tls_connections_active 0",
                          "tls_connection_errors_total 0", f"tls_acks_received_total {written}",
                          "tls_nacks_received_total 0", "reconciliation_unmatched_items 0",
                          f"circuit_breaker_state {int('errors' in self.faults)}"]
        return "\n".join(lines) + "\n"

    # -- what it does on its own --------------------------------------------------------------------------------------

    def keep_writing(self) -> None:
        """The write path: one row every half second, as long as the service lives."""
        failing = False
        while not self.stopping.wait(WRITE_EVERY_S):
            try:
                self.write()
                if self.cache:
                    self.cache.command("INCR", f"{self.name}:written")
                    self.cache.command("GET", f"{self.name}:written")
                if failing:
                    log("writes again")
                failing = False
            except Exception as error:
                if not failing:
                    log(f"cannot write: {' '.join(str(error).split())[:200]}")
                failing = True

    def write(self) -> None:
        """Write one row, or fail and count that.

        Raises:
            OSError: the fault `errors` is on.
            psycopg.Error: the database does not take it.
        """
        began = time.monotonic()
        try:
            if "errors" in self.faults and (self.counters["written"] + self.counters["failed"]) % 2:
                raise OSError("Internal Server Error")
            self.database.write()
        except Exception:
            self.counters["failed"] += 1
            raise
        finally:
            self.writes.observe(time.monotonic() - began)
        self.counters["written"] += 1

    def watch_faults(self) -> None:
        """Follow the control file, and do what the faults in it ask for."""
        control = Path(self.config["control_file"])
        seen: Any = None
        while True:
            with contextlib.suppress(FileNotFoundError, ValueError):
                now = control.stat().st_mtime_ns
                if now != seen:
                    seen = now
                    self.faults = json.loads(control.read_text(encoding="utf-8"))
                    log(f"faults: {', '.join(self.faults) or 'none'}")
            refusing = "refusing" in self.faults or self.stopping.is_set()
            if refusing and self.server:
                self.server.shutdown()
                self.server.server_close()
                self.server = None
            if self.stopping.is_set():
                return
            if not refusing and self.server is None:
                self.listen()
            self._leak()
            self.stopping.wait(TICK_S)

    def _leak(self) -> None:
        if self.database is None:
            return
        leaked = self.database.leaked
        if "leak" not in self.faults:
            while leaked:
                self.database.pool.putconn(leaked.pop()[1])
        elif not leaked or time.monotonic() - leaked[-1][0] > WRITE_EVERY_S:
            with contextlib.suppress(Exception):
                leaked.append((time.monotonic(), self.database.pool.getconn(timeout=TICK_S)))

    def listen(self) -> None:
        """Open the port and answer on it."""
        self.server = Server((self.config["host"], self.config["port"]), handler_of(self))
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": TICK_S}, daemon=True).start()

    def enter(self, count: int) -> None:
        """Count requests that are being answered."""
        with self._lock:
            self.running += count


class Server(ThreadingHTTPServer):
    """As the standard library's, for many clients at once."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no trouble of ours."""


def handler_of(service: Service) -> type[BaseHTTPRequestHandler]:
    """The handler class of one service."""

    class Handler(BaseHTTPRequestHandler):
        server_version = f"{service.name}/{service.version}"

        def do_GET(self) -> None:
            service.enter(1)
            began = time.monotonic()
            try:
                self._answer()
            finally:
                service.requests.observe(time.monotonic() - began)
                service.enter(-1)

        do_POST = do_GET  # noqa: N815 - the base class's word

        def _answer(self) -> None:
            path = self.path.split("?")[0].rstrip("/")
            service.counters["requests"] += 1
            while "hang" in service.faults:
                if service.stopping.wait(TICK_S):
                    return None
            if "slow" in service.faults:
                service.stopping.wait(SLOW_S)
            if "errors" in service.faults and service.counters["requests"] % 2 and path != "/metrics":
                self._send(500, "application/json", b'{"detail": "Internal Server Error"}')
            elif path == "/health" and "empty" in service.faults:
                self._send(200, "application/json", b"")
            elif path == "/health" and "html" in service.faults:
                self._send(200, "text/html", b"<!doctype html><html><body><h1>Welcome to nginx!</h1></body></html>\n")
            elif path == "/health":
                self._send_json(*service.health())
            elif path == "/version":
                self._send_json(200, {"service": service.name, "version": service.version})
            elif path == "/metrics":
                self._send(200, "text/plain; version=0.0.4", service.metrics().encode())
            elif path in ("/rows", service.config["path"]):
                if self.command == "POST" and service.database:
                    try:
                        service.write()
                    except Exception as error:
                        return self._send_json(503, {"error": " ".join(str(error).split())[:200]})
                self._send_json(*service.rows())
            else:
                self._send_json(404, {"error": f"there is nothing at {path or '/'}"})
            return None

        def _send_json(self, status: int, body: dict[str, Any]) -> None:
            self._send(status, "application/json", json.dumps(body).encode())

        def _send(self, status: int, kind: str, body: bytes) -> None:
            if status >= 500:
                service.counters["errors"] += 1
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words: Any) -> None:
            """Requests are counted, not logged: a lab runs for days."""

    return Handler


def log(text: str) -> None:
    """One line on standard output, which is the log file."""
    print(f"{_moment().isoformat(timespec='milliseconds')} {text}", flush=True)


def main(config_file: str) -> int:
    """Run until SIGTERM: stop accepting, finish what is being answered, close the pool."""
    config = json.loads(Path(config_file).read_text(encoding="utf-8"))
    service = Service(config)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: service.stopping.set())
    service.listen()
    pid_file = Path(config["pid_file"])
    making = pid_file.with_suffix(f".{os.getpid()}")
    making.write_text(str(os.getpid()), encoding="utf-8")
    making.replace(pid_file)
    log(f"{service.name} {service.version} listens on {config['host']}:{config['port']}")
    if service.database:
        threading.Thread(target=service.keep_writing, daemon=True).start()
    service.watch_faults()
    deadline = time.monotonic() + DRAIN_S
    while service.running and time.monotonic() < deadline:
        time.sleep(TICK_S)
    if service.database:
        service.database.pool.close(timeout=1)
    pid_file.unlink(missing_ok=True)
    log("ended")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
