"""How the copies of the directory are kept alike: news over the overlay, and comparison with one peer now and then.

Every node publishes changes of its own set as items of the overlay (:mod:`copycat.gossip.overlay`). What was lost on the
way, or happened before somebody listened, is found by comparison: about once a second a node sends a few bytes that stand
for all it holds to a random peer, and only if that holds anything else do the two exchange digests, of a bounded number of
sets. So what a quiet cluster costs depends neither on how many groups there are, nor on how many nodes.

Whoever is behind asks for what is missing, of one node at a time for each set: a question that stays without an answer is
asked again, elsewhere, when the next comparison or the next item shows that something is still missing.

Never does: decide who is a member; believe a node about another's set where the other's own word is newer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from copycat import codec
from copycat.directory import SETS_MAX, Directory
from copycat.errors import CodecError
from copycat.gossip.overlay import Overlay, OverlayOutputs, OverlayProfile
from copycat.gossip.records import MemberRecord
from copycat.hostset import CHANGES_PER_MESSAGE_MAX, Delta, Digest, Page, Want
from copycat.ports import Address
from copycat.security.guard import Channel

if TYPE_CHECKING:
    from copycat.engine import Engine

log = logging.getLogger(__name__)

OVERLAY = OverlayProfile()
DELTAS_PER_TURN_MAX = 16
DIGESTS_MAX = 64
"""In one message."""
COMPARE_EVERY_S = 1.0
"""On average; drawn anew each time, so that nodes that were started together don't compare in step."""
ASK_AGAIN_S = 1.0
FIRST_KIND = 49


@dataclass(frozen=True, slots=True)
class Digests:
    """What the sender holds of the directory; ``answer``: tell what you hold, too."""

    digests: tuple[Digest, ...]
    answer: bool


@dataclass(frozen=True, slots=True)
class Summary:
    """Stands for all that the sender holds; whoever holds anything else sends its digests."""

    summary: bytes


class DirectoryExchange:
    """Belongs to the engine's thread. ``address_of`` tells where a member is; None if it is unknown."""

    def __init__(
        self, engine: Engine, directory: Directory, starts: int, address_of: Callable[[str], Address | None]
    ) -> None:
        self._engine = engine
        self._directory = directory
        self._address_of = address_of
        self._overlay = Overlay(engine.node_id, starts, engine.rng, OVERLAY)
        self._living: list[str] = []
        self._asked: dict[str, float] = {}
        self._compare_at = 0.0
        self._counted = False
        self._announced = False
        self.questions = 0
        """Asked of others since the start, for what was missing."""
        for number, kind in enumerate((Digests, Want, Delta, Page, Summary)):
            engine.registry.register(FIRST_KIND + number, kind)
        engine.handlers[Digests] = self._on_digests
        engine.handlers[Want] = self._on_want
        engine.handlers[Delta] = self._on_delta
        engine.handlers[Page] = self._on_page
        engine.handlers[Summary] = self._on_summary

    @property
    def links(self) -> frozenset[str]:
        """Nodes whose publications this one listens to."""
        return self._overlay.links

    # --- driving ---

    def start(self) -> None:
        """Begin; what this node hosts by now is what others find by comparison."""
        self._directory.born()
        self._overlay.start(self._engine.now)
        self._compare_at = self._engine.now + COMPARE_EVERY_S * self._engine.rng.random()

    def counted(self) -> None:
        """The number of this start is on the disk: no later life will use it, so what is published under it counts."""
        self._counted = True

    def turn(self) -> None:
        engine = self._engine
        overlay = self._overlay
        if engine.now >= overlay.next_deadline():
            overlay.tick(engine.now)
        if self._counted and self._directory.pending():
            self._publish_changes()
        if overlay.has_outputs:
            self._carry_out(overlay.take_outputs())
        if engine.now >= self._compare_at:
            self._compare_at = engine.now + COMPARE_EVERY_S * engine.rng.uniform(0.5, 1.5)
            if self._living:
                self.compare_with(engine.rng.choice(self._living))

    def _carry_out(self, outputs: OverlayOutputs) -> None:
        engine = self._engine
        for node_id in outputs.unsubscribe:
            engine.transport.unsubscribe(node_id)
        for node_id in outputs.subscribe:
            self._subscribe(node_id)
            self.compare_with(node_id)  # what it published before goes unheard
        for frame in outputs.publish:
            engine.transport.publish([engine.cluster.guard.seal(Channel.PUBLICATION, frame)])
        for item in outputs.items:
            try:
                self._take_item(item.origin, item.payload)
            except CodecError as error:
                engine.counters.items_rejected += 1
                log.debug("dropped an item of node %s: %s", item.origin, error)
        for gap in outputs.gaps:
            self._ask_somebody(gap.origin, self._directory.want(gap.origin))

    def next_deadline(self) -> float:
        return self._overlay.next_deadline()

    def compare_with(self, node_id: str) -> None:
        """See whether that node holds anything that is missing here, or lacks anything."""
        self._engine.send(node_id, Summary(self._directory.summary()))

    # --- who is there ---

    def member_up(self, record: MemberRecord) -> None:
        """A member lives, at this address."""
        node_id = record.node_id
        if node_id not in self._living:
            self._living.append(node_id)
        self._overlay.member_up(node_id)
        if node_id in self._overlay.links:
            self._subscribe(node_id)  # it may have moved

    def member_down(self, node_id: str) -> None:
        if node_id in self._living:
            self._living.remove(node_id)
        self._overlay.member_down(node_id)

    def forget(self, node_id: str) -> None:
        """A node is no member any more."""
        self.member_down(node_id)
        self._overlay.forget(node_id)

    def _subscribe(self, node_id: str) -> None:
        address = self._address_of(node_id)
        if address is not None:
            self._engine.transport.subscribe(node_id, address)

    # --- news ---

    def receive(self, payload: bytes) -> None:
        """Take what some node published. Raises :class:`~copycat.errors.CodecError` if it is nothing of ours."""
        self._overlay.receive(self._engine.now, payload)

    def _publish_changes(self) -> None:
        directory = self._directory
        self._overlay.renew(directory.epoch)
        if not self._announced:
            self._announced = True
            if directory.birth is not None:
                self._publish(Digests((directory.birth,), answer=False))
        for delta in directory.take_deltas(DELTAS_PER_TURN_MAX):
            self._publish(delta)

    def _publish(self, message: Digests | Delta) -> None:
        self._overlay.publish(codec.pack(self._engine.registry.pack(message)))

    def _take_item(self, origin: str, payload: bytes) -> None:
        message = self._engine.registry.unpack(codec.unpack(payload))
        if isinstance(message, Delta) and message.node_id == origin:
            self._ask_somebody(origin, self._directory.receive_delta(message))
        elif isinstance(message, Digests) and [one.node_id for one in message.digests] == [origin]:
            for want in self._directory.compare(origin, message.digests):
                self._ask_somebody(origin, want)
        else:
            raise CodecError("only changes of one's own set are published")

    # --- what is missing ---

    def _ask_somebody(self, origin: str, want: Want | None) -> None:
        """Ask one of those this node listens to; they have most likely what it missed. Up to a dozen, ask the origin."""
        links = self._overlay.links
        if want is not None:
            asked = origin if origin in links or not links else self._engine.rng.choice(sorted(links))
            self._ask(asked, want)

    def _ask(self, node_id: str, want: Want | None) -> None:
        if want is None or self._engine.now < self._asked.get(want.node_id, 0.0):
            return
        if len(self._asked) >= SETS_MAX:
            self._asked.clear()
        self._asked[want.node_id] = self._engine.now + ASK_AGAIN_S
        self.questions += 1
        self._engine.send(node_id, want)

    def _on_summary(self, sender: str, message: Summary) -> None:
        if message.summary != self._directory.summary():
            self._send_digests(sender, answer=True)

    def _on_digests(self, sender: str, message: Digests) -> None:
        for want in self._directory.compare(sender, message.digests[:DIGESTS_MAX]):
            self._ask(sender, want)
        if message.answer:
            self._send_digests(sender, answer=False)

    def _send_digests(self, node_id: str, answer: bool) -> None:
        self._engine.send(node_id, Digests(tuple(self._directory.digests(DIGESTS_MAX)), answer))

    def _on_want(self, sender: str, want: Want) -> None:
        answer = self._directory.serve(want)
        if answer is not None:
            self._engine.send(sender, answer)

    def _on_delta(self, sender: str, delta: Delta) -> None:
        self._asked.pop(delta.node_id, None)
        more = self._directory.receive_delta(delta)
        if more is None and len(delta.changes) == CHANGES_PER_MESSAGE_MAX:
            more = self._directory.want(delta.node_id)
        self._ask(sender, more)

    def _on_page(self, sender: str, page: Page) -> None:
        self._asked.pop(page.node_id, None)
        self._ask(sender, self._directory.receive_page(page))
