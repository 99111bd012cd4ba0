"""A link: what one node holds to send to one peer on one lane.

A link is one DEALER with ``IMMEDIATE`` set, so that nothing queues for a peer that isn't connected. libzmq reconnects a
lost connection by itself, but gives an endpoint up for ever when something else than ZMTP answers there, and it knows
one numeric address only. So a link that has refused every frame for some seconds is built anew, from the name.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Sequence

import zmq

from copycat.transports.resolver import Resolver
from copycat.transports.zeromq_sockets import endpoint

REBUILD_AFTER_S = 8.0

PACKED = 0x10
"""Added to a link's tag where a frame travels as one part."""
PACKED_BYTES_MAX = 4096
PACKED_PARTS_MAX = 255


def pack_parts(tag: int, parts: Sequence[bytes]) -> bytes:
    """A short frame as one part: tag, number of parts, the length of each, the parts.

    libzmq is entered once per part, without the interpreter's lock, which other threads take meanwhile and have to give
    back. For a short frame that costs more than all the rest of sending it.
    """
    return struct.pack(f">BB{len(parts)}H", tag | PACKED, len(parts), *map(len, parts)) + b"".join(parts)


def unpack_parts(packed: bytes) -> list[bytes] | None:
    """The parts of what :func:`pack_parts` made, without its tag; None for anything else."""
    if len(packed) < 2:
        return None
    count = packed[1]
    at = 2 + 2 * count
    if len(packed) < at or not count:
        return None
    parts = []
    for length in struct.unpack_from(f">{count}H", packed, 2):
        parts.append(packed[at : at + length])
        at += length
    return parts if at == len(packed) else None


class Link:
    """One peer's frames on one lane, each marked with the byte ``tag``, alone in a first part or packed. For one thread."""

    __slots__ = ("_host", "_make_dealer", "_port", "_refusing_since", "_resolver", "_socket", "_tag")

    def __init__(
        self, host: str, port: int, tag: bytes, resolver: Resolver, make_dealer: Callable[[], zmq.Socket[bytes] | None]
    ) -> None:
        """``make_dealer`` says None where the peer's key is not trusted: it is asked again at the next frame."""
        self._host = host
        self._port = port
        self._tag = tag
        self._resolver = resolver
        self._make_dealer = make_dealer
        self._socket: zmq.Socket[bytes] | None = None
        self._refusing_since: float | None = None
        self.build()

    def send(self, parts: Sequence[bytes]) -> bool:
        """Queue one frame; False if it was dropped."""
        socket = self._socket
        if socket is None:
            self.build()
            return False
        try:
            if len(parts) <= PACKED_PARTS_MAX and sum(map(len, parts)) <= PACKED_BYTES_MAX:
                socket.send(pack_parts(self._tag[0], parts), zmq.NOBLOCK)
            else:
                socket.send_multipart((self._tag, *parts), zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                raise
            self._refused()
            return False
        self._refusing_since = None
        return True

    def build(self) -> None:
        """Begin to connect, if that has not been done and the peer's name is known by now."""
        if self._socket is not None:
            return
        numeric = self._resolver.lookup(self._host)
        if numeric is None:
            return
        try:
            socket = self._make_dealer()
        except zmq.ZMQError:  # out of descriptors: the peer counts as unreachable until there are some
            return
        if socket is None:
            return
        try:
            socket.connect(endpoint(numeric, self._port))
        except zmq.ZMQError:
            socket.close()
            return
        self._socket = socket

    def renew(self) -> None:
        """Drop the connection and what is queued, and begin anew, with the keys of now."""
        self.close()
        self._refusing_since = None
        self.build()

    def close(self) -> None:
        """Drop the connection and what is queued. May be called twice."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _refused(self) -> None:
        now = time.monotonic()
        if self._refusing_since is None:
            self._refusing_since = now
        elif now - self._refusing_since > REBUILD_AFTER_S:
            self._refusing_since = None
            self.close()
            self.build()
