"""The transport over ZeroMQ: TCP for RAFT, BULK and GOSSIP, UDP for HEARTBEAT, on the two ports of an address.

======== ================================================== =========================================
lane     receives on                                        sends with
======== ================================================== =========================================
RAFT     one ROUTER, bound to TCP ``copycat_port``          one DEALER per peer
BULK     the same ROUTER, over connections of its own       one more DEALER per peer, made at first use
GOSSIP   one SUB, connected to the peers subscribed to      one PUB, bound to TCP ``gossip_port``
HEARTBEAT one UDP socket, bound to ``gossip_port``          the same
======== ================================================== =========================================

Why BULK shares RAFT's port: a node is known by two ports, and these are what firewalls, containers and address files
name; a third one, however it is found, fails exactly where snapshots matter. A DEALER per lane keeps apart what must be
apart: each has its own connection, its own bounded queues at both ends and its own back-pressure, so a full BULK queue
delays nothing on RAFT. The ROUTER takes one frame from each connection in turn, so a RAFT frame waits for at most one
chunk per sender, and :meth:`ZeroMQTransport.poll` hands RAFT out first. The lane travels in a first part of one byte
(a short frame: in the first byte of the only part) and not in the routing id: an id that is set can collide with a stale
connection's, and shut a restarted peer out.

Frames go one way only; an answer goes over the answerer's own DEALER, so routing ids are dropped on receipt.

With credentials all four ZeroMQ sockets speak CURVE (see ``zeromq_curve``, ``zeromq_gate``). UDP can't; what goes over it is
sealed by whoever sends it.

This never blocks, never starts a look-up of a name in the caller's thread (see ``resolver``), and keeps nothing for a
peer that is not connected. It does not bound the number of parts that a hostile peer puts in one message before libzmq
hands it over: ZMTP has no such bound.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import zmq

from copycat.ports import FRAME_PARTS_MAX, Address, Credentials, Inbound, Lane
from copycat.transports import zeromq_pace
from copycat.transports import zeromq_sockets as sockets
from copycat.transports.resolver import Resolver
from copycat.transports.wakeup import Wakeup
from copycat.transports.zeromq_curve import Change, Curve
from copycat.transports.zeromq_gate import Gate
from copycat.transports.zeromq_links import PACKED, Link, unpack_parts
from copycat.transports.zeromq_subscriptions import Subscriptions

FRAMES_PER_POLL_MAX = 256  # of each of the three receiving sockets
BYTES_PER_POLL_MAX = 8 << 20  # and one frame more: what is read stays bounded however large the frames are
DATAGRAM_BUFFER_BYTES = 65_536

_TAGS = {Lane.RAFT: b"\x00", Lane.BULK: b"\x01"}


@dataclass(slots=True)
class _Peer:
    address: Address
    raft: Link
    bulk: Link | None = None  # most peers never get a snapshot from here


@dataclass(slots=True, eq=False)
class _Listener:
    socket: zmq.Socket[bytes]
    endpoint: str


class ZeroMQTransport:
    """:class:`copycat.ports.Transport` over TCP and UDP. ``dropped`` counts the inbound frames that were refused."""

    def __init__(self) -> None:
        self.dropped = 0
        self._opened = False
        self._closed = False
        self._wakeup = Wakeup()
        self._peers: dict[str, _Peer] = {}
        self._names_changed = False
        self._unbound: list[_Listener] = []

    def open(
        self, bind_address: str, address: Address, frame_bytes_max: int, credentials: Credentials | None = None
    ) -> Address:
        """See :meth:`copycat.ports.Transport.open`. ``bind_address`` may be a name, a number, ``*`` or empty (all)."""
        assert not self._opened, "a transport is opened once"
        assert not self._closed, "a closed transport is not opened again: make another"
        self._curve = Curve(credentials)
        self._pace = zeromq_pace.Pace()
        host = sockets.numeric_bind_address(bind_address)
        self._ipv6 = ":" in host
        self._frame_bytes_max = frame_bytes_max
        self._context = sockets.context()
        self._gate = Gate(self._context, credentials)
        with contextlib.ExitStack() as undo:
            undo.callback(self._end_context)
            self._router = self._make(zmq.ROUTER, sockets.RAFT_QUEUE_FRAMES_MAX)
            undo.callback(self._router.close)
            self._publisher = sockets.publisher(self._context, self._ipv6)
            undo.callback(self._publisher.close)
            for listener, name in ((self._router, "raft"), (self._publisher, "gossip")):
                self._curve.listen(listener)
                self._gate.watch(listener, name)
            self._gate.start()
            copycat_port = sockets.bind_router(self._router, host, address.copycat_port)
            gossip = sockets.bind_gossip(self._publisher, host, address.gossip_port)
            self._datagrams = gossip.datagrams
            undo.callback(self._datagrams.close)
            self._resolver = Resolver(self._datagrams.family, self._on_names_changed)
            part_bytes_max = frame_bytes_max + self._curve.overhead_bytes
            self._subscriptions = Subscriptions(self._context, self._ipv6, part_bytes_max, self._resolver, self._curve)
            undo.pop_all()
        self._copycat_port = copycat_port
        self._listeners = (
            _Listener(self._router, sockets.endpoint(host, copycat_port)),
            _Listener(self._publisher, sockets.endpoint(host, gossip.port)),
        )
        wakeup_descriptor = self._wakeup.open()
        self._poller = zmq.Poller()
        for receiver in (self._router, self._subscriptions.socket):
            self._poller.register(receiver, zmq.POLLIN)
        self._poller.register(self._datagrams.fileno(), zmq.POLLIN)
        self._poller.register(wakeup_descriptor, zmq.POLLIN)
        self._opened = True
        public_key = self._curve.public_key
        return replace(address, copycat_port=copycat_port, gossip_port=gossip.port, public_key=public_key)

    def connect(self, node_id: str, address: Address) -> None:
        """See :meth:`copycat.ports.Transport.connect`. The same address again keeps the connection."""
        known = self._peers.get(node_id)
        if known is not None:
            if known.address == address:
                return
            self.disconnect(node_id)
        self._peers[node_id] = _Peer(address, self._link(address, Lane.RAFT))

    def disconnect(self, node_id: str) -> None:
        """See :meth:`copycat.ports.Transport.disconnect`."""
        peer = self._peers.pop(node_id, None)
        if peer is not None:
            peer.raft.close()
            if peer.bulk is not None:
                peer.bulk.close()

    def send(self, lane: Lane, node_id: str, parts: Sequence[bytes]) -> bool:
        """See :meth:`copycat.ports.Transport.send`."""
        peer = self._peers.get(node_id)
        if peer is None or not 0 < len(parts) <= FRAME_PARTS_MAX:
            return False
        if lane is Lane.RAFT:
            return peer.raft.send(parts)
        assert lane is Lane.BULK, lane
        if peer.bulk is None:
            peer.bulk = self._link(peer.address, Lane.BULK)
        return peer.bulk.send(parts)

    def send_datagram(self, host: str, port: int, data: bytes) -> bool:
        """See :meth:`copycat.ports.Transport.send_datagram`."""
        numeric = self._resolver.lookup(host)
        if numeric is None:
            return False
        try:
            self._datagrams.sendto(data, (numeric, port))
        except (OSError, OverflowError):
            return False
        return True

    def subscribe(self, node_id: str, address: Address) -> None:
        """See :meth:`copycat.ports.Transport.subscribe`."""
        self._subscriptions.add(node_id, address)

    def unsubscribe(self, node_id: str) -> None:
        """See :meth:`copycat.ports.Transport.unsubscribe`."""
        self._subscriptions.remove(node_id)

    def publish(self, parts: Sequence[bytes]) -> None:
        """See :meth:`copycat.ports.Transport.publish`."""
        if 0 < len(parts) <= FRAME_PARTS_MAX:
            self._publisher.send_multipart(parts, zmq.NOBLOCK)  # a PUB drops by itself and is always ready

    def poll(self, timeout_s: float) -> list[Inbound]:
        """See :meth:`copycat.ports.Transport.poll`. RAFT comes first, BULK last."""
        wakeup = self._wakeup
        # Rounded up: a wait of less than a millisecond must not turn into a busy loop.
        timeout_ms = math.ceil(timeout_s * 1000) if timeout_s > 0 and wakeup.arm() else 0
        try:
            ready = self._poller.poll(timeout_ms)
        finally:
            wakeup.disarm()
        change = self._curve.look()
        if change:
            self._follow(change)
        if self._unbound:
            self._bind_again()
        if self._names_changed:
            self._connect_resolved()
        self._subscriptions.tend()
        raft: list[Inbound] = []
        bulk: list[Inbound] = []
        for source, _ in ready:
            if source is self._router:
                self._receive_frames(raft, bulk)
            elif source is self._subscriptions.socket:
                self._receive_gossip(bulk)
            elif source == self._datagrams.fileno():
                self._receive_datagrams(raft)
        if bulk:
            bulk.sort(key=_bulk_last)
            raft += bulk
        return raft

    def wake(self) -> None:
        """See :meth:`copycat.ports.Transport.wake`. Does nothing once closed."""
        self._wakeup.wake()

    def close(self) -> None:
        """See :meth:`copycat.ports.Transport.close`."""
        if self._closed:
            return
        self._closed = True
        self._wakeup.close()
        if not self._opened:
            return
        self._resolver.close()
        for node_id in list(self._peers):
            self.disconnect(node_id)
        self._subscriptions.close()
        self._publisher.close()
        self._router.close()
        self._datagrams.close()
        self._end_context()

    # --- inside -----------------------------------------------------------------------------------------------------

    def _end_context(self) -> None:
        self._gate.close()
        self._context.term()
        self._gate.join()

    def _make(self, kind: int, queue_frames_max: int) -> zmq.Socket[bytes]:
        part_bytes_max = self._frame_bytes_max + self._curve.overhead_bytes
        return sockets.make(self._context, kind, self._ipv6, part_bytes_max, queue_frames_max)

    def _link(self, address: Address, lane: Lane) -> Link:
        queue_frames_max = sockets.RAFT_QUEUE_FRAMES_MAX if lane is Lane.RAFT else sockets.BULK_QUEUE_FRAMES_MAX
        return Link(
            address.hostname,
            address.copycat_port,
            _TAGS[lane],
            self._resolver,
            lambda: self._make_dealer(queue_frames_max, address.public_key),
        )

    def _make_dealer(self, queue_frames_max: int, public_key: bytes) -> zmq.Socket[bytes] | None:
        if not self._curve.trusts(public_key):
            return None
        dealer = self._make(zmq.DEALER, queue_frames_max)
        dealer.set(zmq.IMMEDIATE, 1)
        self._curve.call(dealer, public_key)
        return dealer

    def _follow(self, change: Change) -> None:
        """Keys have changed: from now on speak with those who are trusted now, and with the key of now.

        A new own key needs a new bind, which ends what came in by the old one. Peers come back once they have been told
        of the new key: what goes out goes on, and gossip needs no connection.
        """
        self._gate.look_again()
        new_key = Change.OWN_KEY in change
        for peer in self._peers.values():
            if new_key or not self._curve.trusts(peer.address.public_key):
                for link in (peer.raft, peer.bulk):
                    if link is not None:
                        link.renew()
        self._subscriptions.renew(new_key)
        if new_key:
            for listener in self._listeners:
                self._curve.listen(listener.socket)
                if listener not in self._unbound:
                    listener.socket.unbind(listener.endpoint)
                    self._unbound.append(listener)

    def _bind_again(self) -> None:
        """libzmq's own thread takes a moment to let go of a port: try until it has."""
        for listener in list(self._unbound):
            try:
                listener.socket.bind(listener.endpoint)
            except zmq.ZMQError:
                continue
            self._unbound.remove(listener)

    def _receive_frames(self, raft: list[Inbound], bulk: list[Inbound]) -> None:
        receive, curve = self._router.recv, self._curve
        raft_tag, bulk_tag = _TAGS[Lane.RAFT], _TAGS[Lane.BULK]
        owner: str | None = None
        flood = False
        self._pace.look()
        frames_left, bytes_left = FRAMES_PER_POLL_MAX, BYTES_PER_POLL_MAX
        while frames_left > 0 and bytes_left > 0:
            frames_left -= 1
            try:
                # The routing id; the rest of a message is there with its first part.
                if curve.on:  # only a frame that isn't copied tells whose connection it came by
                    first = receive(zmq.NOBLOCK, copy=False)
                    owner = curve.owner_of(str(first["User-Id"]))
                    flood = owner is not None and self._pace.is_flood(owner)
                    if owner is not None and flood:
                        self._gate.shut_out(
                            owner, int(first.get(zmq.SRCFD)), self._copycat_port, zeromq_pace.SHUT_OUT_S
                        )
                else:
                    receive(zmq.NOBLOCK)
            except zmq.Again:
                return
            part = receive(zmq.NOBLOCK, copy=False)
            tag = part.bytes
            parts: list[bytes] = []
            while part.more:  # asking the socket costs more than all the rest of receiving
                part = receive(zmq.NOBLOCK, copy=False)
                parts.append(part.bytes)
            if not parts:
                bytes_left -= len(tag)
                unpacked = unpack_parts(tag)
                tag = bytes((tag[0] & ~PACKED,)) if unpacked is not None and tag[0] & PACKED else b""
                parts = unpacked or []
            length = sum(map(len, parts))
            bytes_left -= length
            if (
                flood
                or (curve.on and owner is None)
                or not 0 < len(parts) <= FRAME_PARTS_MAX
                or length > self._frame_bytes_max
            ):
                self.dropped += 1
            elif tag == raft_tag:
                raft.append(Inbound(Lane.RAFT, parts, None, owner))
            elif tag == bulk_tag:
                bulk.append(Inbound(Lane.BULK, parts, None, owner))
            else:
                self.dropped += 1
            if not int(self._router.get(zmq.EVENTS)) & zmq.POLLIN:  # an exception that says so costs many times as much
                return

    def _receive_gossip(self, gossip: list[Inbound]) -> None:
        receive = self._subscriptions.socket.recv_multipart
        frames_left, bytes_left = FRAMES_PER_POLL_MAX, BYTES_PER_POLL_MAX
        while frames_left > 0 and bytes_left > 0:
            frames_left -= 1
            try:
                parts = receive(zmq.NOBLOCK)
            except zmq.Again:
                return
            length = sum(map(len, parts))
            bytes_left -= length
            if len(parts) > FRAME_PARTS_MAX or length > self._frame_bytes_max:
                self.dropped += 1
            else:
                gossip.append(Inbound(Lane.GOSSIP, parts))

    def _receive_datagrams(self, datagrams: list[Inbound]) -> None:
        receive = self._datagrams.recvfrom
        for _ in range(FRAMES_PER_POLL_MAX):
            try:
                data, source = receive(DATAGRAM_BUFFER_BYTES)
            except BlockingIOError:
                return
            except OSError:  # an earlier datagram's ICMP error: nothing was received, and nothing is wrong here
                continue
            if len(data) > self._frame_bytes_max:
                self.dropped += 1
                continue
            datagrams.append(Inbound(Lane.HEARTBEAT, [data], (source[0], source[1])))

    def _on_names_changed(self) -> None:
        self._names_changed = True
        self._wakeup.wake()

    def _connect_resolved(self) -> None:
        self._names_changed = False
        for peer in self._peers.values():
            peer.raft.build()
        self._subscriptions.connect_resolved()


def _bulk_last(inbound: Inbound) -> bool:
    return inbound.lane is Lane.BULK
