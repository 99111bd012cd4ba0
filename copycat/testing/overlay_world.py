"""A seeded world of overlays: real :class:`copycat.gossip.Overlay` cores, simulated publish and subscribe.

A subscription works ``connect_s`` after it was asked for; a frame reaches each subscriber after a hop of random
length, or is lost. Membership is told from outside, so that overlays are measured apart from failure detection.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from copycat.gossip import Gap, Item, Overlay, OverlayProfile
from copycat.testing.gossip_world import VirtualTime, node_id_of


@dataclass(slots=True)
class OverlayNode:
    overlay: Overlay
    node_id: str
    running: bool = True
    wakes_at: float = math.inf
    subscribers: set[str] = field(default_factory=set)
    items: list[Item] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    frames_in: int = 0


class OverlayWorld(VirtualTime):
    """``count`` nodes that know each other."""

    def __init__(
        self,
        seed: int,
        count: int,
        hop_s: tuple[float, float] = (0.0002, 0.002),
        loss: float = 0.0,
        profile: OverlayProfile | None = None,
        connect_s: float = 0.01,
    ) -> None:
        super().__init__()
        self.rng = random.Random(seed)
        self.hop_s = hop_s
        self.loss = loss
        self.profile = profile
        self.connect_s = connect_s
        self.on_item: Callable[[OverlayNode, Item], None] | None = None
        self.nodes: dict[str, OverlayNode] = {}
        for number in range(count):
            self.add(number)
        for node in self.nodes.values():
            node.overlay.start(self.now, [other for other in self.nodes if other != node.node_id])
            self.settle(node)

    def add(self, number: int, epoch: int = 1) -> OverlayNode:
        """A node that is not started yet; it replaces one of the same number."""
        node_id = node_id_of(number)
        overlay = Overlay(node_id, epoch, random.Random(self.rng.getrandbits(64)), self.profile)
        node = self.nodes[node_id] = OverlayNode(overlay, node_id)
        return node

    def publish(self, node: OverlayNode, payload: bytes) -> None:
        node.overlay.publish(payload)
        self.settle(node)

    def crash(self, node: OverlayNode) -> None:
        """It ends, and all others are told at once."""
        node.running = False
        for other in self.nodes.values():
            if other.running:
                other.overlay.member_down(node.node_id)
                self.settle(other)

    def settle(self, node: OverlayNode) -> None:
        """Carry out what a node wants."""
        outputs = node.overlay.take_outputs()
        for source in outputs.unsubscribe:
            self.nodes[source].subscribers.discard(node.node_id)
        for source in outputs.subscribe:
            self._connect_later(node, source)
        for item in outputs.items:
            node.items.append(item)
            if self.on_item is not None:
                self.on_item(node, item)
        node.gaps += outputs.gaps
        low, high = self.hop_s
        for frame in outputs.publish:
            for name in sorted(node.subscribers):
                if self.rng.random() >= self.loss:
                    self._deliver_later(self.nodes[name], frame, low + (high - low) * self.rng.random())
        deadline = node.overlay.next_deadline()
        if deadline < node.wakes_at:
            node.wakes_at = deadline
            self.at(deadline, lambda: self._wake(node, deadline))

    def _connect_later(self, node: OverlayNode, source: str) -> None:
        def connect() -> None:
            if source in node.overlay.links and node.running:
                self.nodes[source].subscribers.add(node.node_id)

        self.at(self.now + self.connect_s, connect)

    def _deliver_later(self, to: OverlayNode, frame: bytes, delay_s: float) -> None:
        def deliver() -> None:
            if to.running:
                to.frames_in += 1
                to.overlay.receive(self.now, frame)
                self.settle(to)

        self.at(self.now + delay_s, deliver)

    def _wake(self, node: OverlayNode, when: float) -> None:
        if node.wakes_at != when:
            return
        node.wakes_at = math.inf
        if node.running:
            node.overlay.tick(self.now)
            self.settle(node)
