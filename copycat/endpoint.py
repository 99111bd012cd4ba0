"""A small HTTP server for whoever watches a node: pages that are made anew for each request, and nothing else.

Imported only when one is wanted, since Python's HTTP modules take a while to load.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from copycat.errors import AddressInUse

REQUEST_TIMEOUT_S = 10.0
"""How long a connection may be silent."""

CONNECTIONS_MAX = 16
"""Requests that are answered at a time; further ones are closed at once."""


@dataclass(frozen=True, slots=True)
class Page:
    """What a request is answered with."""

    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    status: int = 200


class Endpoint:
    """Answers ``GET`` for the paths in ``pages`` until it is closed; a context manager. Safe from any thread.

    Raises :class:`~copycat.errors.AddressInUse` if it can't listen there.
    """

    def __init__(self, host: str, port: int, pages: Mapping[str, Callable[[], Page]]) -> None:
        try:
            self._server = _Server((host, port), _handler(pages))
        except (OSError, OverflowError) as error:
            raise AddressInUse(f"can't serve on {host}:{port}: {error}; choose another port") from error
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._server.serve_forever, name="copycat-metrics", daemon=True)
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
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no event."""


def _handler(pages: Mapping[str, Callable[[], Page]]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = REQUEST_TIMEOUT_S

        def do_GET(self) -> None:
            make = pages.get(self.path.partition("?")[0])
            page = make() if make is not None else Page("".join(f"{path}\n" for path in pages).encode(), status=404)
            self.send_response(page.status)
            self.send_header("Content-Type", page.content_type)
            self.send_header("Content-Length", str(len(page.body)))
            self.end_headers()
            self.wfile.write(page.body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """A scrape is no event."""

    return Handler
