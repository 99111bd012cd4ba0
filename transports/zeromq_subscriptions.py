"""What one node listens to on GOSSIP: one SUB, connected to the publisher of each peer it subscribed to.

libzmq reconnects a lost connection by itself, but gives a publisher up for ever after anything that is no ZMTP, or a
part that is too long. The socket's monitor tells when a connection ended; one that has not come back in time is
connected anew.
"""

from __future__ import annotations

import time

import zmq
from zmq.utils.monitor import parse_monitor_message

from copycat.ports import Address
from copycat.transports.resolver import Resolver
from copycat.transports.zeromq_curve import Curve
from copycat.transports.zeromq_sockets import GOSSIP_QUEUE_FRAMES_MAX, endpoint, make

TEND_EVERY_S = 0.5  # seldom enough to cost nothing: the monitor is not among the sockets that each poll waits on
HEAL_AFTER_S = 3.0  # longer than libzmq's own longest pause between two tries
_MONITORED = (
    zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)


class Subscriptions:
    """The SUB and who it is connected to. For one thread."""

    def __init__(
        self, within: zmq.Context[zmq.Socket[bytes]], ipv6: bool, part_bytes_max: int, resolver: Resolver, curve: Curve
    ) -> None:
        self._resolver = resolver
        self._curve = curve
        self._keys: dict[str, bytes] = {}  # endpoint -> the key that is demanded there
        self._wanted: dict[str, Address] = {}
        self._endpoints: dict[str, str] = {}  # by node id; two ids may share one, when a node was wiped
        self._lost: dict[str, float] = {}  # endpoint -> when to heal it
        self._tend_at = 0.0
        self.socket = make(within, zmq.SUB, ipv6, part_bytes_max, GOSSIP_QUEUE_FRAMES_MAX)
        try:
            self.socket.set(zmq.SUBSCRIBE, b"")
            self._monitor = self.socket.get_monitor_socket(_MONITORED)
            self._monitor.set(zmq.LINGER, 0)
        except BaseException:
            self.socket.close()
            raise

    def add(self, node_id: str, address: Address) -> None:
        """Listen to ``node_id`` at ``address``, and no longer at an earlier address of it."""
        if self._wanted.get(node_id) == address:
            return
        self.remove(node_id)
        self._wanted[node_id] = address
        self.connect_resolved()

    def remove(self, node_id: str) -> None:
        """Stop listening to ``node_id``; unknown ids are ignored."""
        self._wanted.pop(node_id, None)
        where = self._endpoints.pop(node_id, None)
        if where is not None and where not in self._endpoints.values():
            self._lost.pop(where, None)
            self._disconnect(where)

    def connect_resolved(self) -> None:
        """Connect to those whose names have become known, or whose keys are trusted by now.

        Where two ids share an address, one of them is of the past: the key that was told last is the one to demand.
        """
        done: set[str] = set()
        for node_id, address in reversed(self._wanted.items()):
            if node_id in self._endpoints or not self._curve.trusts(address.public_key):
                continue
            numeric = self._resolver.lookup(address.hostname)
            if numeric is None:
                continue
            where = endpoint(numeric, address.gossip_port)
            shared = where in self._endpoints.values()
            if shared and where not in done and self._keys[where] != address.public_key:
                self._disconnect(where)
                shared = False
            if shared or self._connect(where, address.public_key):
                self._endpoints[node_id] = where
                done.add(where)

    def renew(self, all_of_them: bool) -> None:
        """Keys have changed: end what is trusted no longer, or everything, and connect to whoever may be heard now."""
        for where, key in list(self._keys.items()):
            if all_of_them or not self._curve.trusts(key):
                self._give_up(where)
        self.connect_resolved()

    def tend(self) -> None:
        """Find lost connections, and connect those anew that don't come back by themselves. Cheap when called often."""
        now = time.monotonic()
        if now >= self._tend_at:
            self._tend_at = now + TEND_EVERY_S
            self._note_losses(now)
            self._heal(now)

    def close(self) -> None:
        """Release both sockets. May be called twice."""
        if not self.socket.closed:
            self.socket.disable_monitor()
            self._monitor.close()
            self.socket.close()

    def _note_losses(self, now: float) -> None:
        connected = set(self._endpoints.values())
        while True:
            try:
                event = parse_monitor_message(self._monitor.recv_multipart(zmq.NOBLOCK))
            except zmq.Again:
                return
            where = event["endpoint"].decode("ascii", "replace")
            if event["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._lost.pop(where, None)
            elif where in connected:
                self._lost[where] = now + HEAL_AFTER_S

    def _heal(self, now: float) -> None:
        if not self._lost:
            return
        for where in [where for where, due in self._lost.items() if due <= now]:
            self._give_up(where)
        self.connect_resolved()

    def _give_up(self, where: str) -> None:
        self._lost.pop(where, None)
        self._disconnect(where)
        for node_id in [node_id for node_id, used in self._endpoints.items() if used == where]:
            del self._endpoints[node_id]

    def _connect(self, where: str, public_key: bytes) -> bool:
        if not self._curve.call(self.socket, public_key):
            return False
        try:
            self.socket.connect(where)
        except zmq.ZMQError:
            return False
        self._keys[where] = public_key
        return True

    def _disconnect(self, where: str) -> None:
        self._keys.pop(where, None)
        try:
            self.socket.disconnect(where)
        except zmq.ZMQError:  # libzmq has given it up already
            pass
