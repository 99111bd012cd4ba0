"""A seeded world of membership cores: virtual time, one event queue, faults on demand.

Every node is a real :class:`copycat.gossip.Swim`; only time, the network and the processes are simulated. The same seed
replays the same run. Datagrams may be lost, delayed, cut off; pages of push-pull travel reliably while both nodes run
and reach each other. A stalled node neither hears nor ticks; what comes in meanwhile waits in its inbox, up to a
bound, as in a socket's buffer.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from copycat.errors import CodecError
from copycat.gossip import MemberEvent, MemberRecord, Profile, Swim

INBOX_DATAGRAMS_MAX = 512
"""What the buffer of a datagram socket holds, roughly: 200 KiB in small packets."""

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def node_id_of(number: int) -> str:
    """A valid node id for a number."""
    digits = []
    for _ in range(26):
        digits.append(_CROCKFORD[number % 32])
        number //= 32
    return "".join(reversed(digits))


@dataclass(slots=True)
class SimulatedNode:
    """One process. ``clock_offset_s`` is how far its clock is off; ``events`` is all it reported."""

    swim: Swim
    host: str
    port: int
    running: bool = True
    stalled: bool = False
    cut_off: bool = False
    clock_offset_s: float = 0.0
    wakes_at: float = math.inf
    inbox: deque[tuple[bytes, tuple[str, int]]] = field(default_factory=deque)
    outbox: deque[tuple[str, int, bytes]] = field(default_factory=deque)
    events: list[tuple[float, MemberEvent]] = field(default_factory=list)
    saved: list[MemberRecord] = field(default_factory=list)
    datagrams_sent: int = 0
    bytes_sent: int = 0
    page_bytes_sent: int = 0
    garbage: int = 0

    @property
    def node_id(self) -> str:
        return self.swim.me.node_id


class VirtualTime:
    """One queue of events. What is due at the same moment happens in the order in which it was planned."""

    def __init__(self) -> None:
        self.now = 0.0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = 0

    def at(self, when: float, action: Callable[[], None]) -> None:
        self._serial += 1
        heapq.heappush(self._queue, (when, self._serial, action))

    def run(self, seconds: float) -> None:
        """Let time pass."""
        self.run_until(lambda: False, seconds)

    def run_until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Let time pass until ``condition`` holds; False if it did not within ``timeout_s``."""
        end = self.now + timeout_s
        queue = self._queue
        while not condition():
            if not queue or queue[0][0] > end:
                self.now = end
                return condition()
            self.now, _, action = heapq.heappop(queue)
            action()
        return True


class GossipWorld(VirtualTime):
    """Nodes, a network between them, and the time they share."""

    def __init__(
        self, seed: int, profile: Profile, latency_s: tuple[float, float] = (0.0002, 0.002), loss: float = 0.0
    ) -> None:
        super().__init__()
        self.seed = seed
        self.rng = random.Random(seed)
        self.profile = profile
        self.latency_s = latency_s
        self.loss = loss
        self.nodes: list[SimulatedNode] = []
        self.keep_events = True
        self.mail_before_timers = True  # what a node does first when it goes on after a stall
        self.on_event: Callable[[SimulatedNode, MemberEvent], None] | None = None
        self.on_datagram: Callable[[SimulatedNode, tuple[str, int], bytes], None] | None = None
        self.reachable: Callable[[SimulatedNode, SimulatedNode], bool] | None = None
        self._at_address: dict[tuple[str, int], SimulatedNode] = {}
        self._by_id: dict[str, SimulatedNode] = {}

    # --- building ---------------------------------------------------------------------------------------------------

    def record(self, number: int, host: str = "", incarnation: int = 0) -> MemberRecord:
        return MemberRecord(node_id_of(number), host or f"host-{number}", 7458, 7459, incarnation=incarnation)

    def add(
        self,
        record: MemberRecord,
        seeds: Sequence[tuple[str, int]] = (),
        remembered: Sequence[MemberRecord] = (),
    ) -> SimulatedNode:
        """Start a node. It takes the address in its record from whoever had it."""
        rng = random.Random(self.rng.getrandbits(64))
        node = SimulatedNode(Swim(record, self.profile, rng, remembered, seeds), record.hostname, record.gossip_port)
        self.nodes.append(node)
        self._at_address[(node.host, node.port)] = node
        self._by_id[node.node_id] = node
        node.swim.start(self.now)
        self._settle(node)
        return node

    def form(self, count: int) -> list[SimulatedNode]:
        """A cluster of ``count`` nodes that know each other already, without the traffic of joining."""
        records = [self.record(number) for number in range(count)]
        nodes = [self.add(record) for record in records]
        for node in nodes:
            membership = node.swim.membership
            for record in records:
                if record.node_id != node.node_id:
                    membership.hear_alive(self.now, record, spread=False)
            self._settle(node)
        return nodes

    # --- faults -----------------------------------------------------------------------------------------------------

    def crash(self, node: SimulatedNode) -> None:
        """The process ends, without a word."""
        node.running = False
        if self._at_address.get((node.host, node.port)) is node:
            del self._at_address[(node.host, node.port)]

    def stall(self, node: SimulatedNode, seconds: float) -> None:
        """The process stands still, and then goes on with what has arrived meanwhile."""
        node.stalled = True
        self.at(self.now + seconds, lambda: self._resume(node))

    def cut_off(self, node: SimulatedNode, seconds: float) -> None:
        """The process goes on, but its mail waits, in both directions, and then arrives all at once."""
        node.cut_off = True
        self.at(self.now + seconds, lambda: self._resume(node))

    def _resume(self, node: SimulatedNode) -> None:
        node.stalled = False
        node.cut_off = False
        if not node.running:
            return
        while node.outbox:
            self._send(node, *node.outbox.popleft())
        if not self.mail_before_timers:
            node.swim.tick(self.now + node.clock_offset_s)
        while node.inbox:
            self._receive(node, *node.inbox.popleft())
        node.swim.tick(self.now + node.clock_offset_s)
        self._settle(node)

    # --- inside -----------------------------------------------------------------------------------------------------

    def settle(self, node: SimulatedNode) -> None:
        """Carry out what a node wants after it was called from outside."""
        self._settle(node)

    def _wake(self, node: SimulatedNode, when: float) -> None:
        if node.wakes_at != when or node.stalled or not node.running:
            if node.wakes_at == when:
                node.wakes_at = math.inf
            return
        node.wakes_at = math.inf
        node.swim.tick(self.now + node.clock_offset_s)
        self._settle(node)

    def _settle(self, node: SimulatedNode) -> None:
        swim = node.swim
        outputs = swim.take_outputs()
        for host, port, data in outputs.datagrams:
            if node.cut_off:
                if len(node.outbox) < INBOX_DATAGRAMS_MAX:
                    node.outbox.append((host, port, data))
            else:
                self._send(node, host, port, data)
        for node_id in outputs.push_pulls:
            self._send_pages(node, node_id, swim.push_pull_request(self.now + node.clock_offset_s, node_id))
        for event in outputs.events:
            if event.kind.value == "remember":
                node.saved = swim.remembered()
            if self.keep_events:
                node.events.append((self.now, event))
            if self.on_event is not None:
                self.on_event(node, event)
        deadline = max(self.now, swim.next_deadline() - node.clock_offset_s)
        if deadline < node.wakes_at:
            node.wakes_at = deadline
            self.at(deadline, lambda: self._wake(node, deadline))

    def _send(self, node: SimulatedNode, host: str, port: int, data: bytes) -> None:
        node.datagrams_sent += 1
        node.bytes_sent += len(data)
        if self.on_datagram is not None:
            self.on_datagram(node, (host, port), data)
        if self.loss and self.rng.random() < self.loss:
            return
        to = self._at_address.get((host, port))
        if to is not None and (self.reachable is None or self.reachable(node, to)):
            low, high = self.latency_s
            self._deliver_later(to, data, (node.host, node.port), low + (high - low) * self.rng.random())

    def _deliver_later(self, to: SimulatedNode, data: bytes, source: tuple[str, int], delay_s: float) -> None:
        self.at(self.now + delay_s, lambda: self._arrive(to, data, source))

    def _arrive(self, node: SimulatedNode, data: bytes, source: tuple[str, int]) -> None:
        if not node.running:
            return
        if node.stalled or node.cut_off:
            if len(node.inbox) < INBOX_DATAGRAMS_MAX:
                node.inbox.append((data, source))
            return
        self._receive(node, data, source)
        self._settle(node)

    def _receive(self, node: SimulatedNode, data: bytes, source: tuple[str, int]) -> None:
        try:
            node.swim.receive(self.now + node.clock_offset_s, data, source)
        except CodecError:
            node.garbage += 1

    def _send_pages(self, node: SimulatedNode, node_id: str, pages: list[bytes]) -> None:
        to = self._by_id.get(node_id)
        for page in pages:
            node.page_bytes_sent += len(page)
            if to is not None:
                self._page_later(node, to, page)

    def _page_later(self, node: SimulatedNode, to: SimulatedNode, page: bytes) -> None:
        self.at(self.now + self.latency_s[1], lambda: self._page_arrives(node, to, page))

    def _page_arrives(self, node: SimulatedNode, to: SimulatedNode, page: bytes) -> None:
        if not to.running or (self.reachable is not None and not self.reachable(node, to)):
            return
        if to.stalled or to.cut_off or node.cut_off:
            self._page_later(node, to, page)
            return
        replies = to.swim.receive_push_pull(self.now + to.clock_offset_s, node.node_id, page)
        self._send_pages(to, node.node_id, replies)
        self._settle(to)
