# Copyright: the sre.runbooks contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A network that fails on request: a TCP proxy that is cut after so many bytes, an HTTP one that loses a part."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import http.server
import socket
import struct
import threading
from collections.abc import Iterator

RESET = struct.pack("ii", 1, 0)


class Proxy:
    """Passes connections on to a port of this machine until so many bytes went by; then all are reset, and no new ones.

    Args:
        port: where they go.
        cut_after: bytes, both ways together; None never cuts.
    """

    def __init__(self, port: int, cut_after: int | None = None) -> None:
        self._target, self._left = port, cut_after
        self._lock, self._open = threading.Lock(), []
        self.was_cut = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while not self.was_cut.is_set():
            try:
                near, _unused = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                return
            with self._lock:
                self._open += [near, far]
            for one, other in ((near, far), (far, near)):
                thread = threading.Thread(target=self._pass_on, args=(one, other), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(16384):
                if not self._may_pass(len(data)):
                    self.cut()
                    return
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def _may_pass(self, count: int) -> bool:
        with self._lock:
            if self._left is None:
                return True
            self._left -= count
            return self._left > 0

    def cut(self) -> None:
        """Now."""
        self.was_cut.set()
        with self._lock:
            # A thread that waits in accept holds the port until it is woken.
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            for one in self._open:
                with contextlib.suppress(OSError):
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                    one.shutdown(socket.SHUT_RDWR)
                one.close()
            self._open.clear()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_unused: object) -> None:
        self.cut()


@contextlib.contextmanager
def part_loser(port: int) -> Iterator[tuple[int, list[str]]]:
    """An HTTP proxy that swallows the second part of each upload, and says that it was stored.

    Args:
        port: of the store.

    Returns:
        Its port, and what it swallowed.
    """
    swallowed: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one_request(self) -> None:
            with contextlib.suppress(ConnectionError):
                super().handle_one_request()

        def _serve(self) -> None:
            if self.headers.get("Expect") == "100-continue":
                self.send_response_only(100)
                self.end_headers()
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.command == "PUT" and "partNumber=2" in self.path:
                swallowed.append(self.path)
                self.send_response(200)
                self.send_header("ETag", f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"')
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            connection = http.client.HTTPConnection("127.0.0.1", port)
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() != "expect":
                    connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            data = answer.read()
            self.send_response_only(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                    self.send_header(name, value)
            length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
            self.send_header("Content-Length", length or "0")
            self.end_headers()
            self.wfile.write(data)
            connection.close()

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve  # noqa: N815 - http.server's names

        def log_message(self, *_unused: object) -> None:
            """Nobody reads it."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server.server_address[1], swallowed
        finally:
            server.shutdown()
            thread.join()
