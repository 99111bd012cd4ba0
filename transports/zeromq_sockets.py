"""How each socket of the ZeroMQ transport is set up: options, endpoints, and binding with errors a person can act on.

Nothing here sends or receives.

Every queue is bounded (``SNDHWM``, ``RCVHWM``), nothing waits on close (``LINGER`` 0), and a peer that falls silent
without a goodbye is noticed by ZMTP heartbeats. libzmq's own thread sends and answers these, so a busy Python thread
can't fail them.
"""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass

import zmq

from copycat.errors import AddressInUse, NodeFailure
from copycat.transports.resolver import resolve

RAFT_QUEUE_FRAMES_MAX = 512
BULK_QUEUE_FRAMES_MAX = 16  # per peer; snapshot chunks are large
GOSSIP_QUEUE_FRAMES_MAX = 1024
RECEIVE_QUEUE_FRAMES_MAX = 256  # per connection
SUBSCRIPTION_BYTES_MAX = 1024  # what a subscriber may send to a publisher
HEARTBEAT_INTERVAL_MS = 1000
HEARTBEAT_TIMEOUT_MS = 4000
HANDSHAKE_TIMEOUT_MS = 5000
RECONNECT_FIRST_MS = 100
RECONNECT_LAST_MS = 2000
UDP_BUFFER_BYTES = 1 << 20
PORT_TRIES_MAX = 64

_NOT_OURS = {errno.EADDRNOTAVAIL, errno.ENODEV, errno.EAFNOSUPPORT, errno.EINVAL}


def context() -> zmq.Context[zmq.Socket[bytes]]:
    """A context of its own for each transport, so that closing one touches no other."""
    made: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    made.set(zmq.MAX_SOCKETS, made.get(zmq.SOCKET_LIMIT))
    return made


def endpoint(numeric: str, port: int | str) -> str:
    """The endpoint of a numeric address, in ZeroMQ's spelling."""
    return f"tcp://[{numeric}]:{port}" if ":" in numeric else f"tcp://{numeric}:{port}"


def make(
    within: zmq.Context[zmq.Socket[bytes]], kind: int, ipv6: bool, part_bytes_max: int, queue_frames_max: int
) -> zmq.Socket[bytes]:
    """A socket with the options that all of ours share."""
    made: zmq.Socket[bytes] = within.socket(kind)
    made.set(zmq.LINGER, 0)
    made.set(zmq.IPV6, int(ipv6))
    made.set(zmq.MAXMSGSIZE, part_bytes_max)
    made.set(zmq.SNDHWM, queue_frames_max)
    made.set(zmq.RCVHWM, RECEIVE_QUEUE_FRAMES_MAX)
    made.set(zmq.HEARTBEAT_IVL, HEARTBEAT_INTERVAL_MS)
    made.set(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)
    made.set(zmq.HEARTBEAT_TTL, HEARTBEAT_TIMEOUT_MS)
    made.set(zmq.HANDSHAKE_IVL, HANDSHAKE_TIMEOUT_MS)
    made.set(zmq.RECONNECT_IVL, RECONNECT_FIRST_MS)
    made.set(zmq.RECONNECT_IVL_MAX, RECONNECT_LAST_MS)
    made.set(zmq.TCP_KEEPALIVE, 1)
    return made


@dataclass(slots=True)
class GossipPort:
    """A number that has both: the publisher on TCP, and this socket on UDP."""

    datagrams: socket.socket
    port: int


def numeric_bind_address(bind_address: str) -> str:
    """``bind_address`` as a number; empty and ``*`` mean every interface. Waits for the name service.

    Raises :class:`~copycat.errors.AddressInUse`.
    """
    if bind_address in ("", "*"):
        return "0.0.0.0"  # noqa: S104  # asked for in so many words
    for family in (socket.AF_INET, socket.AF_INET6):
        found = resolve(bind_address, family)
        if found is not None:
            return found.removeprefix("::ffff:")
    raise AddressInUse(
        f"bind address {bind_address!r} is unknown to this machine: use an address of one of its interfaces"
    )


def bind_router(router: zmq.Socket[bytes], host: str, port: int) -> int:
    """Bind and return the port. Raises :class:`~copycat.errors.AddressInUse`, :class:`~copycat.errors.NodeFailure`."""
    try:
        router.bind(endpoint(host, port or "*"))
    except zmq.ZMQError as error:
        raise translated(error, "copycat_port", host, port, "TCP") from error
    return _bound_port(router)


def publisher(within: zmq.Context[zmq.Socket[bytes]], ipv6: bool) -> zmq.Socket[bytes]:
    """A PUB; what subscribers send it is short."""
    return make(within, zmq.PUB, ipv6, SUBSCRIPTION_BYTES_MAX, GOSSIP_QUEUE_FRAMES_MAX)


def bind_gossip(publisher: zmq.Socket[bytes], host: str, port: int) -> GossipPort:
    """Bind ``publisher`` and a datagram socket to one number, a free one if ``port`` is 0. All or nothing.

    Raises :class:`~copycat.errors.AddressInUse`, :class:`~copycat.errors.NodeFailure`.
    """
    for _ in range(PORT_TRIES_MAX):
        try:
            return _bind_gossip_once(publisher, host, port)
        except AddressInUse:
            if port:
                raise
    raise AddressInUse(
        f"no port of {host} is free for both TCP and UDP ({PORT_TRIES_MAX} tried): set gossip_port yourself"
    )


def _bind_gossip_once(publisher: zmq.Socket[bytes], host: str, port: int) -> GossipPort:
    ipv6 = ":" in host
    datagrams = socket.socket(socket.AF_INET6 if ipv6 else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        datagrams.setblocking(False)
        datagrams.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, UDP_BUFFER_BYTES)
        if ipv6:
            datagrams.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        try:
            datagrams.bind((host, port))
        except OSError as error:
            raise translated(error, "gossip_port", host, port, "UDP") from error
        bound = int(datagrams.getsockname()[1])
        try:
            publisher.bind(endpoint(host, bound))
        except zmq.ZMQError as error:
            raise translated(error, "gossip_port", host, bound, "TCP") from error
    except BaseException:
        datagrams.close()
        raise
    return GossipPort(datagrams, bound)


def _bound_port(bound: zmq.Socket[bytes]) -> int:
    where = bound.get(zmq.LAST_ENDPOINT)
    assert isinstance(where, bytes), where
    return int(where.rstrip(b"\0").rpartition(b":")[2])


def translated(
    error: OSError | zmq.ZMQError, field: str, host: str, port: int, protocol: str
) -> AddressInUse | NodeFailure:
    """What to tell the caller about a bind that failed."""
    where = f"{protocol} {host}:{port} ({field})"
    if error.errno == errno.EADDRINUSE:
        return AddressInUse(f"{where} is taken: stop the process that holds it, or set {field} to another number or 0")
    if error.errno in _NOT_OURS:
        return AddressInUse(f"{where} is no address of this machine: set bind_address to one of its interfaces")
    if error.errno == errno.EACCES:
        return AddressInUse(f"{where} may not be bound by this user: set {field} to a number above 1023")
    return NodeFailure(f"{where} can't be bound: {error}; look at this process's limits (ulimit -n)")
