"""A network in virtual time: an implementation of :class:`copycat.ports.Transport`, and the faults between its nodes.

Frames of one connection and lane keep their order, as the port promises; a connection is lost now and then, and what is sent
on the next one may overtake, or repeat, what was on its way on the last. Datagrams keep no order. Cuts have a
direction, so a node may be heard and not hear. What is cut off is lost, or waits as in a socket's queue and comes
late. Every fault is a number or a set that a scenario changes while the world runs; chance comes from one generator.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from copycat.ports import FRAME_PARTS_MAX, Address, Credentials, Inbound, Lane
from copycat.testing.clock import Timeline

INBOX_FRAMES_MAX = 20_000
POLL_FRAMES_MAX = 256
HELD_FRAMES_MAX = 1_000
DATAGRAM_BYTES_MAX = 65_507

Place = tuple[str, int]
"""Host and port."""


@dataclass(slots=True)
class Conditions:
    """How the network is now. Times in seconds; chances from 0 to 1, for each frame."""

    latency_s: float = 0.0005
    """The shortest; the rest is distributed exponentially, with this mean and one in a hundred far beyond."""
    loss: float = 0.0
    datagram_loss: float = 0.0
    repeat: float = 0.0
    reconnect: float = 0.0
    """Chance that a frame goes over a new connection, without regard to what went before."""
    bytes_per_s: float = 1e9
    holds_when_cut: bool = False
    """Whether what is sent into a cut waits for its end, in bounds, or is lost."""


@dataclass(slots=True)
class _Connection:
    source: str
    target: str
    number: int
    arrives: float = 0.0
    free: float = 0.0


class Network:
    """Who is where, what is on its way, and what is cut. One thread."""

    def __init__(self, timeline: Timeline, rng: random.Random, trace: Callable[[int, int], None]) -> None:
        self.conditions = Conditions()
        self.slow: dict[tuple[str, str], float] = {}
        """Seconds that everything from one host to another takes longer."""
        self.bytes_max: dict[tuple[str, str], int] = {}
        """What is longer is lost on the way from one host to another, as where a tunnel has a smaller packet size."""
        self.frames_sent = 0
        self.frames_lost = 0
        self._timeline = timeline
        self._rng = rng
        self._trace = trace
        self._cut: dict[tuple[str, str], int] = {}
        self._held: dict[tuple[str, str], deque[Callable[[], None]]] = {}
        self._transports: dict[str, SimulatedTransport] = {}
        self._connections: dict[tuple[str, str, Lane], _Connection] = {}

    # --- faults ---

    def cut(self, source: str, target: str) -> None:
        """Let nothing pass from one host to another. Cuts add up: each wants its own :meth:`mend`."""
        self._cut[source, target] = self._cut.get((source, target), 0) + 1

    def mend(self, source: str, target: str) -> None:
        count = self._cut.get((source, target), 0)
        if count > 1:
            self._cut[source, target] = count - 1
            return
        self._cut.pop((source, target), None)
        for arrive in self._held.pop((source, target), ()):
            self._timeline.after(self._latency(source, target), arrive)

    def mend_all(self) -> None:
        for source, target in list(self._cut):
            self._cut[source, target] = 1
            self.mend(source, target)

    # --- for transports ---

    def bind(self, transport: SimulatedTransport) -> None:
        self._transports[transport.host] = transport

    def unbind(self, transport: SimulatedTransport) -> None:
        if self._transports.get(transport.host) is transport:
            del self._transports[transport.host]

    def reachable(self, host: str) -> bool:
        return host in self._transports

    def subscribers(self, place: Place) -> list[str]:
        return [host for host, transport in self._transports.items() if transport.listens_to(place)]

    def carry(self, source: str, target: str, frame: Inbound, size: int) -> None:
        """Put one frame on its way."""
        conditions = self.conditions
        rng = self._rng
        self.frames_sent += 1
        datagram = frame.lane is Lane.HEARTBEAT
        connection = self._connection(source, target, frame.lane)
        self._trace(connection.number, size)
        if rng.random() < (conditions.datagram_loss if datagram else conditions.loss) or (
            self.bytes_max and size > self.bytes_max.get((source, target), size)
        ):
            self.frames_lost += 1
            return
        self._carry_once(connection, frame, size)
        if conditions.repeat and rng.random() < conditions.repeat:
            copy = Inbound(frame.lane, list(frame.parts), frame.source)
            self._timeline.after(rng.expovariate(1.0), lambda: self._arrive(source, target, copy))

    def _connection(self, source: str, target: str, lane: Lane) -> _Connection:
        key = (source, target, lane)
        connection = self._connections.get(key)
        if connection is None:
            connection = self._connections[key] = _Connection(source, target, len(self._connections))
        return connection

    def _carry_once(self, connection: _Connection, frame: Inbound, size: int) -> None:
        now = self._timeline.now
        conditions = self.conditions
        source, target = connection.source, connection.target
        latency = self._latency(source, target)
        if frame.lane is Lane.HEARTBEAT:
            self._timeline.at(now + latency, lambda: self._arrive(source, target, frame))
            return
        if conditions.reconnect and self._rng.random() < conditions.reconnect:
            connection.arrives = connection.free = 0.0
        connection.free = max(connection.free, now) + size / conditions.bytes_per_s
        connection.arrives = max(connection.arrives, connection.free + latency)
        self._timeline.at(connection.arrives, lambda: self._arrive(source, target, frame))

    def _latency(self, source: str, target: str) -> float:
        mean = self.conditions.latency_s
        rng = self._rng
        latency = mean + rng.expovariate(1.0 / mean)
        if rng.random() < 0.01:
            latency += rng.expovariate(1.0 / (50 * mean))
        return latency + self.slow.get((source, target), 0.0)

    def _arrive(self, source: str, target: str, frame: Inbound) -> None:
        if (source, target) in self._cut:
            held = self._held.setdefault((source, target), deque())
            if self.conditions.holds_when_cut and frame.lane is not Lane.HEARTBEAT and len(held) < HELD_FRAMES_MAX:
                held.append(lambda: self._arrive(source, target, frame))
            else:
                self.frames_lost += 1
            return
        transport = self._transports.get(target)
        if transport is None:
            self.frames_lost += 1
        else:
            transport.arrived(frame)


class SimulatedTransport:
    """:class:`copycat.ports.Transport` of one process on ``host``. ``wake_up`` is called when there is something to do."""

    def __init__(self, network: Network, host: str, wake_up: Callable[[], None]) -> None:
        self.host = host
        self._network = network
        self._wake_up = wake_up
        self._inbox: deque[Inbound] = deque()
        self._peers: dict[str, str] = {}
        self._subscribed: dict[str, Place] = {}
        self._frame_bytes_max = 0
        self._gossip: Place = (host, 0)
        self._closed = False

    @property
    def waiting(self) -> int:
        """Frames that have arrived and were not polled."""
        return len(self._inbox)

    @property
    def subscriptions(self) -> frozenset[str]:
        """Node ids that this one listens to."""
        return frozenset(self._subscribed)

    def listens_to(self, place: Place) -> bool:
        return place in self._subscribed.values()

    def arrived(self, frame: Inbound) -> None:
        if sum(map(len, frame.parts)) <= self._frame_bytes_max and len(self._inbox) < INBOX_FRAMES_MAX:
            self._inbox.append(frame)
            self._wake_up()

    # --- the port ---

    def open(
        self, bind_address: str, address: Address, frame_bytes_max: int, credentials: Credentials | None = None
    ) -> Address:
        self._frame_bytes_max = frame_bytes_max
        self._gossip = (address.hostname, address.gossip_port)
        self._network.bind(self)
        return address

    def connect(self, node_id: str, address: Address) -> None:
        self._peers[node_id] = address.hostname

    def disconnect(self, node_id: str) -> None:
        self._peers.pop(node_id, None)

    def send(self, lane: Lane, node_id: str, parts: Sequence[bytes]) -> bool:
        host = self._peers.get(node_id)
        if host is None or not 0 < len(parts) <= FRAME_PARTS_MAX:
            return False
        frame = Inbound(lane, list(parts))
        self._network.carry(self.host, host, frame, sum(map(len, parts)))
        return True

    def send_datagram(self, host: str, port: int, data: bytes) -> bool:
        if len(data) > DATAGRAM_BYTES_MAX:
            return False
        self._network.carry(self.host, host, Inbound(Lane.HEARTBEAT, [data], self._gossip), len(data))
        return True

    def subscribe(self, node_id: str, address: Address) -> None:
        self._subscribed[node_id] = (address.hostname, address.gossip_port)

    def unsubscribe(self, node_id: str) -> None:
        self._subscribed.pop(node_id, None)

    def publish(self, parts: Sequence[bytes]) -> None:
        size = sum(map(len, parts))
        for host in self._network.subscribers(self._gossip):
            self._network.carry(self.host, host, Inbound(Lane.GOSSIP, list(parts)), size)

    def poll(self, timeout_s: float) -> list[Inbound]:
        inbox = self._inbox
        if len(inbox) <= POLL_FRAMES_MAX:
            taken = list(inbox)
            inbox.clear()
            return taken
        return [inbox.popleft() for _ in range(POLL_FRAMES_MAX)]

    def wake(self) -> None:
        if not self._closed:
            self._wake_up()

    def close(self) -> None:
        self._closed = True
        self._inbox.clear()
        self._network.unbind(self)
