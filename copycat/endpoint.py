"""A small HTTP server for whoever watches a node: answers are made anew for each request, and nothing can be sent.

It understands ``GET`` and ``HEAD``, one request a connection, and never reads a body. Connections, the bytes of a request's
head and the time that both may take are bounded. Imported only when one is wanted, since Python's HTTP modules take a
while to load.
"""

from __future__ import annotations

import http.client
import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from types import TracebackType
from typing import Any

from copycat.errors import AddressInUse

log = logging.getLogger(__name__)

REQUEST_TIMEOUT_S = 10.0
"""How long a connection may be silent."""

CONNECTION_S_MAX = 30.0
"""How long a connection may last in all; one that sends a byte now and then must not keep its place."""

CONNECTIONS_MAX = 16
"""Requests that are answered at a time; further ones are closed at once."""

HEAD_BYTES_MAX = 16 * 1024
"""Bytes of a request line and its headers."""

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Page:
    """What a request is answered with."""

    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    status: int = 200
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for. ``query`` is what follows the question mark, as it came; names of headers are in any case."""

    path: str
    query: str
    headers: Message


Answer = Callable[[Request], Page]


def pages(makers: Mapping[str, Callable[[], Page]]) -> Answer:
    """An answer that has a page for each path, whatever is asked of it; 404 lists the paths."""

    def answer(request: Request) -> Page:
        make = makers.get(request.path)
        return make() if make is not None else Page("".join(f"{path}\n" for path in makers).encode(), status=404)

    return answer


class Endpoint:
    """Calls ``answer`` for each request, on a thread of the request's, until it is closed. Safe from any thread.

    ``headers`` go with every answer, also with those that say that something could not be understood. A context manager. Raises
    :class:`~copycat.errors.AddressInUse` if it can't listen there.
    """

    def __init__(self, host: str, port: int, answer: Answer, name: str, headers: Headers = ()) -> None:
        try:
            self._server = _Server((host, port), _handler(answer, headers))
        except (OSError, OverflowError) as error:
            raise AddressInUse(f"can't serve on {host}:{port}: {error}; choose another port") from error
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._server.serve_forever, name=name, daemon=True)
        self._thread.start()

    @property
    def host(self) -> str:
        """The address on which it listens."""
        return str(self._server.server_address[0])

    @property
    def port(self) -> int:
        """Where it listens, also if it was started on port 0."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop listening. May be called twice. The node goes on."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._places = threading.BoundedSemaphore(CONNECTIONS_MAX)
        self._began: dict[socket.socket, float] = {}
        self._lock = threading.Lock()
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, handler)

    def server_bind(self) -> None:
        """Without asking the name service for this machine's name, which nobody wants to know."""
        TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._places.acquire(blocking=False):
            with self._lock:
                self._began[request] = time.monotonic()
            try:
                super().process_request(request, client_address)
            except RuntimeError:  # no thread could be started
                self._ended(request)
                self.shutdown_request(request)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._ended(request)

    def _ended(self, request: Any) -> None:
        with self._lock:
            del self._began[request]
        self._places.release()

    def service_actions(self) -> None:
        """Now and then: end connections that last too long. Their threads see it, and clean up."""
        now = time.monotonic()
        with self._lock:
            for request, began in self._began.items():
                if now - began > CONNECTION_S_MAX:
                    try:
                        request.shutdown(socket.SHUT_RDWR)
                    except OSError:
                        pass  # it has just ended by itself

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no event."""


class _Head:
    """Reads lines, and not more than a head may have in all."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._left = HEAD_BYTES_MAX

    def readline(self, limit: int = -1) -> bytes:
        line: bytes = self._file.readline(self._left + 1)
        self._left -= len(line)
        if self._left < 0:
            raise http.client.LineTooLong("head")
        return line

    def close(self) -> None:
        self._file.close()


def _handler(answer: Answer, headers: Headers) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = REQUEST_TIMEOUT_S
        default_request_version = "HTTP/1.0"  # 0.9 has no headers, and would not be told what keeps it safe

        def setup(self) -> None:
            super().setup()
            self.rfile = _Head(self.rfile)  # type: ignore[assignment]

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except http.client.LineTooLong:  # of the first line; that of others becomes a 431 by itself
                self.requestline = self.request_version = self.command = ""
                self.send_error(414)

        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            try:
                page = answer(Request(path, query, self.headers))
            except Exception:
                log.exception("a page could not be made: this is a bug in CopyCat")
                page = Page(b"the page could not be made; the log of the node says why\n", status=500)
            self._send(page)

        do_HEAD = do_GET  # noqa: N815

        def _refuse(self) -> None:
            self._send(Page(b"this can only be looked at\n", status=405, headers=(("Allow", "GET, HEAD"),)))

        do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_TRACE = do_CONNECT = _refuse  # noqa: N815

        def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
            """What could not be understood; nothing of it is repeated."""
            self.close_connection = True
            self._send(Page(f"{http.client.responses.get(code, 'error')}\n".encode(), status=code))

        def _send(self, page: Page) -> None:
            self.send_response(page.status)
            for name, value in (*headers, *page.headers):
                self.send_header(name, value)
            self.send_header("Content-Type", page.content_type)
            self.send_header("Content-Length", str(len(page.body)))
            self.send_header("Connection", "close")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(page.body)

        def version_string(self) -> str:
            """Nobody needs to know which Python this is."""
            return "CopyCat"

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """A scrape is no event. And what is asked for may hold a secret."""

    return Handler
