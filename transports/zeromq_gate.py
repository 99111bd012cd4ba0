"""The gate: who may connect, and how many connections there may be. One small thread beside the transport's own.

Before libzmq reads a byte of a frame on a socket with CURVE it asks (ZAP, https://rfc.zeromq.org/spec/27/) whether the key
that the other side has proved is good. It asks here, on a thread that does nothing else, so that a node which is busy
still answers newcomers, and a crowd of these doesn't hold up the node.

libzmq itself accepts as many connections as the process has descriptors, with or without keys, and a process without
descriptors can't open its database's files. So the gate counts those of each listener, by what its monitor tells, and hangs
up on what is too many. Those that are there stay: a crowd keeps newcomers waiting, and costs nobody else anything. Only a
hang-up can be done from outside: the socket stays libzmq's, which then finds its peer gone.

A key that is trusted no longer has connections whose descriptors can't be told from others'. Then the gate hangs up on
all, and those that may come back do so at once.
"""

from __future__ import annotations

import logging
import os
import resource
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

import zmq
from zmq.utils import z85
from zmq.utils.monitor import parse_monitor_message

from copycat.ports import Credentials

log = logging.getLogger(__name__)

ZAP_ENDPOINT = "inproc://zeromq.zap.01"
ZAP_DOMAIN = b"copycat"
ZAP_FRAMES = 8
CONNECTIONS_MAX = 1024
"""Of each listener; less where the process may have few descriptors."""
DESCRIPTORS_SHARE = 4
"""A listener may use one in so many of the process's descriptors."""
_MONITORED = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED


class Gate:
    """Made, started with the listeners, and closed by the transport's thread; what is in between runs on its own.

    ``credentials`` None: nobody is asked for keys. Ends when its context does; :meth:`join` waits for that.
    """

    def __init__(self, within: zmq.Context[zmq.Socket[bytes]], credentials: Credentials | None) -> None:
        self._context = within
        self._credentials = credentials
        self._limit = connections_max()
        self._rooms: dict[zmq.Socket[bytes], _Room] = {}
        self._commands: zmq.Socket[bytes] | None = None
        self._thread: threading.Thread | None = None
        self._admitted: set[bytes] = set()
        self._shut_out: dict[str, _ShutOut] = {}
        self.refused = 0
        """Handshakes with keys that are not trusted, or whose owner is shut out."""
        self.hung_up = 0
        """Connections beyond the limit."""
        self.floods = 0
        """Connections that were ended because too much came by them."""

    def watch(self, listener: zmq.Socket[bytes], name: str) -> None:
        """Count the connections of ``listener``, which is not bound yet. Before :meth:`start`."""
        where = f"inproc://copycat-gate-{name}"
        monitor = self._context.socket(zmq.PAIR)
        try:
            monitor.set(zmq.LINGER, 0)
            monitor.set(zmq.RCVHWM, 0)  # libzmq's own thread would wait for room, and everything with it
            listener.monitor(where, _MONITORED)
            monitor.connect(where)
        except BaseException:
            monitor.close()
            raise
        self._rooms[monitor] = _Room(self._limit)

    def start(self) -> None:
        """Open. Before anything is bound, or whoever is early is refused."""
        own = self._context.socket(zmq.PAIR)
        sockets = [own, *self._rooms]
        try:
            own.bind("inproc://copycat-gate")
            self._commands = self._context.socket(zmq.PAIR)
            self._commands.set(zmq.LINGER, 0)
            self._commands.connect("inproc://copycat-gate")
            zap = None
            if self._credentials is not None:
                zap = self._context.socket(zmq.ROUTER)
                sockets.append(zap)
                zap.set(zmq.LINGER, 0)
                zap.set(zmq.SNDHWM, 0)
                zap.set(zmq.RCVHWM, 0)
                zap.bind(ZAP_ENDPOINT)
            self._thread = threading.Thread(target=self._run, args=(own, zap), name="copycat-gate", daemon=True)
            self._thread.start()
        except BaseException:
            self._thread = None
            for opened in sockets:
                opened.close()
            raise

    def look_again(self) -> None:
        """The credentials have changed: end what they no longer allow."""
        assert self._commands is not None, "start() comes first"
        self._commands.send(b"", zmq.NOBLOCK)

    def shut_out(self, owner: str, descriptor: int, port: int, seconds: float) -> None:
        """End the connection to ``port`` that a frame of this owner came by, and let him have no new one for so long.

        For the transport's thread. Once for each connection: when what came by it later is read, its descriptor may be another's.
        """
        now = time.monotonic()
        shut_out = self._shut_out.get(owner)
        if shut_out is None or now >= shut_out.until:
            log.warning("a member floods this node, and is shut out for a while", extra={"owner": owner})
            shut_out = self._shut_out[owner] = _ShutOut(now + seconds)
        if descriptor not in shut_out.ended:
            shut_out.ended.add(descriptor)
            self.floods += 1
            _hang_up(descriptor, port)

    def close(self) -> None:
        """Let go of what the transport's thread holds; the rest goes when the context ends. May be called twice."""
        if self._commands is not None:
            self._commands.close()
        if self._thread is None:
            for monitor in self._rooms:
                monitor.close()

    def join(self) -> None:
        """Wait for the thread, after the context has ended. May be called twice."""
        if self._thread is not None:
            self._thread.join()

    # --- on its own thread ------------------------------------------------------------------------------------------

    def _run(self, own: zmq.Socket[bytes], zap: zmq.Socket[bytes] | None) -> None:
        poller = zmq.Poller()
        sockets = [own, *self._rooms, *([] if zap is None else [zap])]
        for one in sockets:
            poller.register(one, zmq.POLLIN)
        try:
            while True:
                for ready, _ in poller.poll():
                    if ready is zap:
                        self._answer(zap)
                    elif ready is own:
                        own.recv()
                        self._revoke()
                    else:
                        self.hung_up += self._rooms[ready].note(ready)
        except zmq.ContextTerminated:
            pass
        finally:
            for one in sockets:
                one.close()

    def _revoke(self) -> None:
        assert self._credentials is not None, "what is not asked for can't be revoked"
        revoked = {key for key in self._admitted if self._credentials.owner_of(key) is None}
        if revoked:
            self._admitted -= revoked
            for room in self._rooms.values():
                room.hang_up_on_all()

    def _answer(self, zap: zmq.Socket[bytes]) -> None:
        request = zap.recv_multipart()
        # Routing id, empty, version, request, domain, address, identity, mechanism, credentials.
        if len(request) < ZAP_FRAMES:
            return
        owner = None
        if request[7] == b"CURVE" and len(request) == ZAP_FRAMES + 1 and self._credentials is not None:
            owner = self._credentials.owner_of(request[8])
        shut_out = None if owner is None else self._shut_out.get(owner)
        if owner is None or (shut_out is not None and time.monotonic() < shut_out.until):
            self.refused += 1
            answer = [b"400", b"not trusted", b""]
        else:
            self._admitted.add(request[8])
            # The key and not its owner: whether it is trusted is asked again for each frame.
            answer = [b"200", b"OK", z85.encode(request[8])]
        zap.send_multipart([request[0], b"", b"1.0", request[3], *answer, b""])


@dataclass(slots=True)
class _ShutOut:
    """An owner who flooded: until when he gets no new connection, and which were ended. Made and changed by one thread."""

    until: float
    ended: set[int] = field(default_factory=set)


class _Room:
    """The connections of one listener, by descriptor and address. For the gate's thread."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._from: dict[int, str] = {}
        self._count: Counter[str] = Counter()

    def note(self, monitor: zmq.Socket[bytes]) -> int:
        """Take one event; returns how many connections were hung up on for it."""
        event = parse_monitor_message(monitor.recv_multipart())
        descriptor = int(event["value"])
        if event["event"] == zmq.EVENT_CLOSED:  # the listener's own: an unbind ends its connections without a word
            self._from.clear()
            self._count.clear()
            return 0
        if event["event"] != zmq.EVENT_ACCEPTED:
            self._forget(descriptor)
            return 0
        self._forget(descriptor)
        port = int(event["endpoint"].rpartition(b":")[2])
        source = _peer(descriptor, port)
        if source is None:
            return 0  # gone already
        if len(self._from) >= self._limit or (
            not source.startswith("127.") and self._count[source] >= self._limit // 2
        ):
            _hang_up(descriptor, port)
            return 1
        self._from[descriptor] = source
        self._port = port
        self._count[source] += 1
        return 0

    def hang_up_on_all(self) -> None:
        for descriptor in self._from:
            _hang_up(descriptor, self._port)

    def _forget(self, descriptor: int) -> None:
        source = self._from.pop(descriptor, None)
        if source is not None:
            self._count[source] -= 1
            if not self._count[source]:
                del self._count[source]


def connections_max() -> int:
    """How many connections a listener of this process may have."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return CONNECTIONS_MAX if soft == resource.RLIM_INFINITY else min(CONNECTIONS_MAX, soft // DESCRIPTORS_SHARE)


def _duplicate(descriptor: int, port: int) -> socket.socket | None:
    """The connection behind a descriptor, if it is still one of the listener on ``port``.

    libzmq may have closed it meanwhile, and the number may be anything by now: even the listener itself, bound anew, which
    must never be hung up on, since libzmq aborts the process when it can't accept. What was looked at is what is returned:
    a duplicate, which nobody closes but who asked.
    """
    try:
        number = os.dup(descriptor)
    except OSError:
        return None
    try:
        twin = socket.socket(fileno=number)
    except OSError:
        os.close(number)
        return None
    try:
        connected = twin.type == socket.SOCK_STREAM and not twin.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if connected and twin.getsockname()[1] == port:
            return twin
    except (OSError, IndexError, TypeError):
        pass
    twin.close()
    return None


def _peer(descriptor: int, port: int) -> str | None:
    twin = _duplicate(descriptor, port)
    if twin is None:
        return None
    with twin:
        try:
            return str(twin.getpeername()[0]).removeprefix("::ffff:")
        except OSError:
            return None


def _hang_up(descriptor: int, port: int) -> None:
    twin = _duplicate(descriptor, port)
    if twin is None:
        return
    with twin:
        try:
            twin.shutdown(socket.SHUT_RDWR)
        except OSError:  # gone by itself
            pass
