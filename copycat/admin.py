"""The admin socket of a node: a Unix socket in its data directory, for its owner alone.

One thread serves all connections and never waits for anything but them: a request is handed on, as a rule to the engine by
a post, and its answer comes back as a future. So who asks slowly, or not at all, delays neither the engine nor others. What
can't be understood is counted, and its connection closed. Everything is bounded: connections, frames, and the time that one
may be silent.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from copycat.adminwire import (
    ANSWER_BYTES_MAX,
    FOLDER,
    REQUEST_BYTES_MAX,
    VERSION,
    FrameReader,
    make_folder,
    pack_frame,
    socket_address,
)
from copycat.errors import CodecError, CopyCatError, NodeFailure, UsageError

log = logging.getLogger(__name__)

CONNECTIONS_MAX = 16
SILENT_S_MAX = 30.0
"""A connection that neither sends nor takes anything for so long is closed, unless it waits for an answer."""
SWEEP_S = 1.0
READ_BYTES = 64 * 1024
FAREWELL_S = 1.0
"""How long the end of a node waits until answers have gone out."""

Handler = Callable[[str, dict[str, Any]], "Future[Any]"]


class _Connection:
    __slots__ = ("answer", "leaving", "out", "reader", "sock", "touched_at")

    def __init__(self, sock: socket.socket, now: float) -> None:
        self.sock = sock
        self.reader = FrameReader(REQUEST_BYTES_MAX)
        self.out = bytearray()
        self.answer: Future[Any] | None = None
        self.leaving = False
        """Closed once everything that waits for it has gone."""
        self.touched_at = now


class AdminServer:
    """``start`` and ``close`` from any thread. ``handle`` gets what is asked for, on the server's thread, and must not wait."""

    def __init__(self, data_dir: Path, handle: Handler) -> None:
        self.requests = 0
        self.rejected = 0
        """What could not be understood, and connections that were not let in."""
        self._data_dir = data_dir
        self._handle = handle
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._selector = selectors.DefaultSelector()
        self._bell, self._ear = socket.socketpair()
        self._answered: deque[_Connection] = deque()
        self._connections: set[_Connection] = set()
        self._closing = threading.Event()
        self._closed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="copycat-admin", daemon=True)

    def start(self) -> None:
        """Listen. Raises OSError or :class:`~copycat.errors.UsageError` if it can't; then nothing is left behind."""
        try:
            make_folder(self._data_dir)
            with socket_address(self._data_dir) as address:
                _remove_if_stale(address)
                self._listener.bind(address)
                os.chmod(address, 0o600)
            self._listener.listen(CONNECTIONS_MAX)
        except BaseException:
            for sock in (self._listener, self._bell, self._ear):
                sock.close()
            self._selector.close()
            raise
        for sock in (self._listener, self._bell, self._ear):
            sock.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._ear, selectors.EVENT_READ)
        self._thread.start()

    def close(self) -> None:
        """Let answers that are ready go out, and end. May be called twice."""
        self._closing.set()
        self._ring()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _ring(self) -> None:
        with self._lock, contextlib.suppress(BlockingIOError):
            if not self._closed:
                self._bell.send(b"\0")

    # --- the thread ---

    def _run(self) -> None:
        try:
            while not self._closing.is_set():
                self._turn(SWEEP_S if self._connections else None)
            self._say_goodbye()
        except Exception:
            log.exception("the admin socket failed: this is a bug in CopyCat")
        finally:
            for connection in list(self._connections):
                self._drop(connection)
            with contextlib.suppress(OSError), socket_address(self._data_dir) as address:
                os.unlink(address)
            with contextlib.suppress(OSError):
                (self._data_dir.absolute() / FOLDER).rmdir()
            with self._lock:
                self._closed = True
                self._bell.close()
            self._selector.close()
            self._ear.close()
            self._listener.close()

    def _turn(self, timeout: float | None) -> None:
        for key, _ in self._selector.select(timeout):
            if key.fileobj is self._listener:
                self._accept()
            elif key.fileobj is self._ear:
                with contextlib.suppress(BlockingIOError):
                    self._ear.recv(READ_BYTES)
            else:
                self._serve(key.data)
        while self._answered:
            self._answer(self._answered.popleft())
        now = time.monotonic()
        for connection in list(self._connections):
            if connection.answer is None and now - connection.touched_at > SILENT_S_MAX:
                self._drop(connection)

    def _say_goodbye(self) -> None:
        ends = time.monotonic() + FAREWELL_S
        self._selector.unregister(self._listener)
        for connection in self._connections:
            connection.leaving = True
        while (left := ends - time.monotonic()) > 0 and any(each.out or each.answer for each in self._connections):
            self._turn(left)

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError as error:
            log.warning("a connection to the admin socket failed: %s", error)
            return
        if len(self._connections) >= CONNECTIONS_MAX or not _is_owner(sock):
            self.rejected += 1
            sock.close()
            return
        sock.setblocking(False)
        connection = _Connection(sock, time.monotonic())
        self._connections.add(connection)
        self._selector.register(sock, selectors.EVENT_READ, connection)

    def _serve(self, connection: _Connection) -> None:
        """It can be read or written; which of them is wanted follows from its state."""
        connection.touched_at = time.monotonic()
        try:
            if connection.out:
                sent = connection.sock.send(connection.out)
                del connection.out[:sent]
            elif connection.answer is None:
                data = connection.sock.recv(READ_BYTES)
                if not data:
                    self._drop(connection)
                    return
                connection.reader.feed(data)
            if not connection.out and connection.answer is None:
                self._next_request(connection)
        except BlockingIOError:
            return
        except CodecError as error:
            self.rejected += 1
            log.debug("dropped an admin connection: %s", error)
            self._drop(connection)
            return
        except OSError:
            self._drop(connection)
            return
        self._watch(connection)

    def _next_request(self, connection: _Connection) -> None:
        if connection.leaving:
            return
        request = connection.reader.take()
        if request is None:
            return
        name, arguments = request.get("do"), request.get("with", {})
        if not isinstance(name, str) or not isinstance(arguments, dict):
            raise CodecError("not a request")
        self.requests += 1
        try:
            answer = self._handle(name, arguments)
        except CopyCatError as error:
            answer = Future()
            answer.set_exception(error)
        connection.answer = answer

        def answered(_: Future[Any]) -> None:
            self._answered.append(connection)
            self._ring()

        answer.add_done_callback(answered)

    def _answer(self, connection: _Connection) -> None:
        if connection not in self._connections or connection.answer is None:
            return
        connection.out += pack_answer(connection.answer)
        connection.answer = None
        connection.touched_at = time.monotonic()
        self._watch(connection)

    def _watch(self, connection: _Connection) -> None:
        if connection not in self._connections:
            return
        if connection.out:
            wanted = selectors.EVENT_WRITE
        elif connection.answer is None and not connection.leaving:
            wanted = selectors.EVENT_READ
        else:
            wanted = 0
        registered = connection.sock in self._selector.get_map()
        if wanted and registered:
            self._selector.modify(connection.sock, wanted, connection)
        elif wanted:
            self._selector.register(connection.sock, wanted, connection)
        elif registered:
            self._selector.unregister(connection.sock)

    def _drop(self, connection: _Connection) -> None:
        self._connections.discard(connection)
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(connection.sock)
        connection.sock.close()


def pack_answer(answer: Future[Any]) -> bytes:
    """The frame for what became of a request; it is done."""
    error = answer.exception()
    if error is None:
        frame = pack_frame({"version": VERSION, "ok": answer.result()})
        if len(frame) <= ANSWER_BYTES_MAX:
            return frame
        error = UsageError("the answer is too long: ask for less at a time")
    if not isinstance(error, CopyCatError):
        log.error("an admin request failed: this is a bug in CopyCat", exc_info=error)
        error = NodeFailure(f"the request failed: {error!r}")
    return pack_frame({"version": VERSION, "error": type(error).__name__, "message": str(error)[:8192]})


def _is_owner(sock: socket.socket) -> bool:
    """Whether this user or root is at the other end. The modes of folder and socket say so, too; this is the second lock."""
    if not hasattr(socket, "SO_PEERCRED"):
        return True
    _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return uid in (0, os.geteuid())


def _remove_if_stale(address: str) -> None:
    """Make way where a node that crashed left its socket. Raises OSError if a living one answers there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(address)
            probe.sendall(pack_frame({"version": VERSION, "do": "status"}))
            probe.recv(1)
        except FileNotFoundError:
            return
        except (ConnectionRefusedError, TimeoutError):  # silent: a child of a process that crashed holds it open
            os.unlink(address)
            return
    raise OSError("another node answers at this data directory's admin socket")
