"""The transport within one process: same contract as the others, no socket.

For tests, for examples, and for several nodes in one process. Nodes meet in a :class:`MemoryHub`; a node that isn't
bound there is unreachable, a node that doesn't poll fills its bounded queues, and both look to a sender as they would
over a network. It adds no loss, delay or reordering of its own; ``copycat.testing`` simulates those.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from copycat.errors import AddressInUse
from copycat.ports import FRAME_PARTS_MAX, Address, Credentials, Inbound, Lane

QUEUE_FRAMES_MAX = {Lane.RAFT: 1024, Lane.BULK: 32, Lane.GOSSIP: 1024, Lane.HEARTBEAT: 1024}
FRAMES_PER_POLL_MAX = 256  # of each lane
DATAGRAM_BYTES_MAX = 65_507  # what UDP over IPv4 can carry
FIRST_FREE_PORT = 49_152
LAST_PORT = 65_535

_HAND_OUT_ORDER = (Lane.RAFT, Lane.HEARTBEAT, Lane.GOSSIP, Lane.BULK)


@dataclass(frozen=True, slots=True)
class _Place:
    """A host and one of its ports."""

    host: str
    port: int


class _Inbox:
    """What arrived at one node and was not polled yet. For any thread."""

    def __init__(self, frame_bytes_max: int) -> None:
        self._frame_bytes_max = frame_bytes_max
        self._changed = threading.Condition()
        self._lanes: dict[Lane, deque[Inbound]] = {lane: deque() for lane in _HAND_OUT_ORDER}
        self._woken = False
        self.dropped = 0

    def put(self, inbound: Inbound) -> bool:
        """False if the lane's queue is full."""
        with self._changed:
            if sum(map(len, inbound.parts)) > self._frame_bytes_max:
                self.dropped += 1
                return True
            queue = self._lanes[inbound.lane]
            if len(queue) >= QUEUE_FRAMES_MAX[inbound.lane]:
                return False
            queue.append(inbound)
            self._changed.notify()
            return True

    def take(self, timeout_s: float) -> list[Inbound]:
        with self._changed:
            if timeout_s > 0:
                self._changed.wait_for(self._something, timeout_s)
            self._woken = False
            taken: list[Inbound] = []
            for lane in _HAND_OUT_ORDER:
                queue = self._lanes[lane]
                taken.extend(queue.popleft() for _ in range(min(len(queue), FRAMES_PER_POLL_MAX)))
            return taken

    def wake(self) -> None:
        if self._woken:
            return
        with self._changed:
            self._woken = True
            self._changed.notify()

    def _something(self) -> bool:
        return self._woken or any(self._lanes.values())


class MemoryHub:
    """Where the nodes of one process find each other. For any thread; the hubs know nothing of one another."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._raft: dict[_Place, _Inbox] = {}
        self._gossip: dict[_Place, _Inbox] = {}
        self._subscribers: dict[_Place, list[_Inbox]] = {}

    def _bind(self, address: Address, inbox: _Inbox) -> Address:
        with self._lock:
            bound = replace(
                address,
                copycat_port=self._free(self._raft, address.hostname, address.copycat_port, "copycat_port"),
                gossip_port=self._free(self._gossip, address.hostname, address.gossip_port, "gossip_port"),
            )
            self._raft[_raft_place(bound)] = inbox
            self._gossip[_gossip_place(bound)] = inbox
            return bound

    def _unbind(self, address: Address) -> None:
        with self._lock:
            self._raft.pop(_raft_place(address), None)
            self._gossip.pop(_gossip_place(address), None)

    def _subscribe(self, place: _Place, inbox: _Inbox) -> None:
        with self._lock:
            self._subscribers.setdefault(place, []).append(inbox)

    def _unsubscribe(self, place: _Place, inbox: _Inbox) -> None:
        with self._lock:
            subscribers = self._subscribers[place]
            subscribers.remove(inbox)
            if not subscribers:
                del self._subscribers[place]

    def _publish(self, place: _Place, parts: list[bytes]) -> None:
        with self._lock:
            subscribers = dict.fromkeys(self._subscribers.get(place, ()))  # each once, however often it subscribed
        for inbox in subscribers:
            inbox.put(Inbound(Lane.GOSSIP, list(parts)))

    def _free(self, taken: dict[_Place, _Inbox], host: str, port: int, field: str) -> int:
        if port:
            if _Place(host, port) in taken:
                raise AddressInUse(
                    f"{host}:{port} ({field}) is taken in this process: close the node that holds it, "
                    f"or set {field} to another number, or to 0"
                )
            return port
        for candidate in range(FIRST_FREE_PORT, LAST_PORT + 1):
            if _Place(host, candidate) not in taken:
                return candidate
        raise AddressInUse(f"no port of {host} is free in this process: close some of its nodes")


DEFAULT_HUB = MemoryHub()


class MemoryTransport:
    """:class:`copycat.ports.Transport` among the nodes of one hub, by default the one of the process."""

    in_process = True

    def __init__(self, hub: MemoryHub | None = None) -> None:
        self._hub = DEFAULT_HUB if hub is None else hub
        self._inbox: _Inbox | None = None
        self._address = Address("", 0, 0)
        self._peers: dict[str, _Place] = {}
        self._subscribed: dict[str, _Place] = {}
        self._closed = False
        self._woken_early = False

    @property
    def dropped(self) -> int:
        """How many inbound frames were refused."""
        return 0 if self._inbox is None else self._inbox.dropped

    def open(
        self, bind_address: str, address: Address, frame_bytes_max: int, credentials: Credentials | None = None
    ) -> Address:
        """See :meth:`copycat.ports.Transport.open`. ``bind_address`` is ignored: ``hostname`` counts.

        ``credentials`` keep nobody out: whoever is in the process could read the keys.
        """
        assert self._inbox is None, "a transport is opened once"
        assert not self._closed, "a closed transport is not opened again: make another"
        inbox = _Inbox(frame_bytes_max)
        self._address = self._hub._bind(address, inbox)
        self._inbox = inbox
        return self._address

    def connect(self, node_id: str, address: Address) -> None:
        """See :meth:`copycat.ports.Transport.connect`."""
        self._peers[node_id] = _raft_place(address)

    def disconnect(self, node_id: str) -> None:
        """See :meth:`copycat.ports.Transport.disconnect`. What is in the peer's inbox has arrived, and stays."""
        self._peers.pop(node_id, None)

    def send(self, lane: Lane, node_id: str, parts: Sequence[bytes]) -> bool:
        """See :meth:`copycat.ports.Transport.send`."""
        assert lane in (Lane.RAFT, Lane.BULK), lane
        place = self._peers.get(node_id)
        inbox = None if place is None else self._hub._raft.get(place)
        if inbox is None or not 0 < len(parts) <= FRAME_PARTS_MAX:
            return False
        return inbox.put(Inbound(lane, [bytes(part) for part in parts]))

    def send_datagram(self, host: str, port: int, data: bytes) -> bool:
        """See :meth:`copycat.ports.Transport.send_datagram`."""
        inbox = self._hub._gossip.get(_Place(host, port))
        if inbox is None or len(data) > DATAGRAM_BYTES_MAX:
            return False
        source = (self._address.hostname, self._address.gossip_port)
        return inbox.put(Inbound(Lane.HEARTBEAT, [bytes(data)], source))

    def subscribe(self, node_id: str, address: Address) -> None:
        """See :meth:`copycat.ports.Transport.subscribe`."""
        self.unsubscribe(node_id)
        self._subscribed[node_id] = _gossip_place(address)
        self._hub._subscribe(_gossip_place(address), self._own_inbox)

    def unsubscribe(self, node_id: str) -> None:
        """See :meth:`copycat.ports.Transport.unsubscribe`."""
        place = self._subscribed.pop(node_id, None)
        if place is not None:
            self._hub._unsubscribe(place, self._own_inbox)

    def publish(self, parts: Sequence[bytes]) -> None:
        """See :meth:`copycat.ports.Transport.publish`."""
        if 0 < len(parts) <= FRAME_PARTS_MAX:
            self._hub._publish(_gossip_place(self._address), [bytes(part) for part in parts])

    def poll(self, timeout_s: float) -> list[Inbound]:
        """See :meth:`copycat.ports.Transport.poll`. RAFT comes first, BULK last."""
        if self._woken_early:
            self._woken_early = False
            timeout_s = 0.0
        return self._own_inbox.take(timeout_s)

    def wake(self) -> None:
        """See :meth:`copycat.ports.Transport.wake`. Does nothing once closed."""
        if self._inbox is None:
            self._woken_early = True
        else:
            self._inbox.wake()

    def close(self) -> None:
        """See :meth:`copycat.ports.Transport.close`."""
        if self._closed:
            return
        self._closed = True
        if self._inbox is not None:
            for node_id in list(self._subscribed):
                self.unsubscribe(node_id)
            self._peers.clear()
            self._hub._unbind(self._address)

    @property
    def _own_inbox(self) -> _Inbox:
        assert self._inbox is not None, "open the transport first"
        return self._inbox


def _raft_place(address: Address) -> _Place:
    return _Place(address.hostname, address.copycat_port)


def _gossip_place(address: Address) -> _Place:
    return _Place(address.hostname, address.gossip_port)
