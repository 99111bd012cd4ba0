"""Who has left the cluster for good, and how this node does: as opposed to a shutdown, after which a node is expected back.

A leave goes these steps, and each is safe to stop in (docs/operations.md):

1. *Handing over.* The member record says LEAVING; every group's leader replaces this node's voters (:mod:`copycat.repair`).
   Given up in this step, the node takes its word back and stays.
2. *Sealing.* The acceptor stops voting on creations, durably, and gives its records to a majority of the others
   (:class:`copycat.enrolment.Departure`). From here there is no way back, only on.
3. *Announcing.* The others put it on their durable list of those that left, until a majority of the living have confirmed
   that. Then the node marks its own directory, so that it never starts from it again, and says goodbye in gossip.

The list of those that left is part of each acceptor's roster. It only grows, and spreads by comparison of digests with one
member at random each second, so that a node that was down learns it too. One that finds itself on the list was given up by
an operator (:meth:`Departures.forget`): its votes and its places have been taken from it, so it stops.

Never does: decide what a group's replicas become, or take a living node off the list of members.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

from copycat.errors import CodecError, CopyCatError, GivenUp, LeftForGood, UsageError
from copycat.genesis import Standing, roster_digest
from copycat.gossip.records import NODE_ID_PATTERN, EventKind, MemberEvent, MemberState
from copycat.nodestore import NodeStore

if TYPE_CHECKING:
    from copycat.engine import Engine

log = logging.getLogger(__name__)

FIRST_KIND = 56
MARK_KEY = "departed"
LEFT_MAX = 65_536
ANNOUNCE_EVERY_S = 0.25
COMPARE_EVERY_S = 1.0
"""On average; drawn anew each time, so that nodes that were started together don't compare in step."""


@dataclass(frozen=True, slots=True)
class Departed:
    """Nodes that left for good, or were given up. ``answer``: say which you know of, once it is on your disk."""

    left: tuple[str, ...]
    answer: bool


@dataclass(frozen=True, slots=True)
class DepartedDigest:
    """What the sender's list of those that left comes to; whoever has another sends its own."""

    digest: bytes


class Stage(enum.Enum):
    STAYING = "staying"
    HANDING_OVER = "handing over its replicas"
    SEALING = "handing over its records of groups"
    ANNOUNCING = "announcing that it leaves for good"
    GONE = "gone for good"


def check_may_start(store: NodeStore) -> None:
    """Raises :class:`~copycat.errors.LeftForGood` for the directory of a node that is no member any more."""
    mark = store.get(MARK_KEY)
    if mark is not None:
        how = "left its cluster for good" if mark == b"left" else "was given up by its cluster"
        raise LeftForGood(
            f"node {store.node_id} {how}, and its id is never used again; start with an empty data_dir, as a new node"
        )


class Departures:
    """Belongs to the engine's thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.stage = Stage.STAYING
        self._left: frozenset[str] = frozenset(engine.founding.acceptor.roster.left)
        self._confirmed: set[str] = set()
        self._answers: list[Future[None]] = []
        self._announce_at = 0.0
        self._compare_at = 0.0
        self._refused: set[str] = set()
        self._stopping = False
        for number, kind in enumerate((Departed, DepartedDigest)):
            engine.registry.register(FIRST_KIND + number, kind)
        engine.handlers[Departed] = self._on_departed
        engine.handlers[DepartedDigest] = self._on_digest

    def start(self) -> None:
        if self._engine.founding.acceptor.standing is Standing.SEALED:
            log.warning("this node had begun to leave for good: let it finish, it votes on no creation any more")
            self._engine.cluster.announce(leaving=True)

    def has_left(self, node_id: str) -> bool:
        """Whether the node is known to have left for good, or was given up."""
        return node_id in self._left

    @property
    def left(self) -> frozenset[str]:
        return self._left

    # --- this node leaves ----------------------------------------------------------------------------------------

    @property
    def leaving(self) -> bool:
        return self.stage is not Stage.STAYING

    def leave(self, answer: Future[None]) -> None:
        """Begin, or go on, to leave for good; ``answer`` is resolved when nothing but the goodbye is left to do."""
        self._answers.append(answer)
        if self.stage is Stage.GONE:
            self._resolve()
        elif self.stage is Stage.STAYING:
            self.stage = Stage.HANDING_OVER
            self._engine.cluster.announce(leaving=True)
            log.warning("leaving the cluster for good", extra={"groups": len(self._engine.hosting.groups)})

    def stop_leaving(self) -> str:
        """Whoever wanted it to leave waits no longer; returns how far it came, in words."""
        self._answers.clear()
        if self.stage is Stage.HANDING_OVER:
            groups = list(self._engine.hosting.groups)
            self.stage = Stage.STAYING
            self._engine.cluster.announce(leaving=False)
            return (
                f"{len(groups)} groups could not be handed over in time (the first is {groups[0].hex()}), so the node stays: "
                "bring back voters that are away, or give it more time"
                if groups
                else "the node stays"
            )
        return (
            f"it came as far as {self.stage.value}, and can't go back: it needs a majority of the other members. Bring "
            "nodes back and call it again"
        )

    def tick(self) -> None:
        engine = self._engine
        if engine.now >= self._compare_at:
            self._compare_at = engine.now + COMPARE_EVERY_S * engine.rng.uniform(0.5, 1.5)
            self._refused.clear()
            others = self._living()
            if others:
                engine.send(engine.rng.choice(others), DepartedDigest(roster_digest(self._left)))
        if self.stage is Stage.HANDING_OVER and self._handed_over():
            self.stage = Stage.SEALING
            engine.founding.depart()
        # A group that was created meanwhile may have a voter here: that, too, is handed over before anybody calls it gone.
        if self.stage is Stage.SEALING and engine.founding.has_departed and not engine.hosting.groups:
            self.stage = Stage.ANNOUNCING
        if self.stage is Stage.ANNOUNCING and engine.now >= self._announce_at:
            self._announce()

    def end(self, reason: CopyCatError) -> None:
        """No turn will come any more."""
        answers, self._answers = self._answers, []
        for answer in answers:
            if not answer.done():
                answer.set_exception(reason)

    def _handed_over(self) -> bool:
        engine = self._engine
        return not engine.hosting.groups and engine.founding.idle and engine.founding.settle_places()

    def _announce(self) -> None:
        engine = self._engine
        self._announce_at = engine.now + ANNOUNCE_EVERY_S
        others = self._living()
        confirmed = self._confirmed.intersection(others)
        # Where all others seem dead, there is somebody to tell still: it waits for one of them.
        alone = len(engine.founding.acceptor.roster.known) == 1
        if 2 * len(confirmed) > len(others) or alone:
            self.stage = Stage.GONE
            self._mark(b"left", self._resolve)
            return
        message = Departed((engine.node_id,), answer=True)
        for node_id in others:
            if node_id not in confirmed:
                engine.send(node_id, message)

    def _mark(self, how: bytes, durable: Callable[[], None]) -> None:
        batch = self._engine.stage(True, durable)
        self._engine.store.stage_put(batch, MARK_KEY, how)

    def _resolve(self) -> None:
        answers, self._answers = self._answers, []
        for answer in answers:
            if not answer.done():
                answer.set_result(None)

    # --- others leave --------------------------------------------------------------------------------------------

    def forget(self, node_id: str, force: bool, answer: Future[None]) -> None:
        """An operator's word that a dead member never comes back; resolved when it is on this node's disk.

        Unless ``force``, a majority of the members must be alive here: else it may be this node that is cut off.
        Raises :class:`~copycat.errors.UsageError` for a member that is unknown, alive, or this node.
        """
        engine = self._engine
        roster = engine.founding.acceptor.roster
        if node_id == engine.node_id:
            raise UsageError("a node that runs can't be forgotten: let it leave")
        if node_id in self._left:
            answer.set_result(None)
            return
        record = engine.cluster.swim.member(node_id)
        if record is None and node_id not in roster.known:
            raise UsageError(f"no member {node_id} is known")
        if record is not None and record.state in (MemberState.ALIVE, MemberState.SUSPECT):
            raise UsageError(f"member {node_id} is {record.state.name.lower()}: only dead ones can be forgotten")
        living = len(self._living()) + 1
        if not force and 2 * living <= len(roster.known):
            raise UsageError(
                f"only {living} of {len(roster.known)} members are alive as seen from here, no majority: if it is this side that "
                "is cut off, forgetting the others would split the cluster. If they are gone for certain, force it"
            )
        log.warning(
            "an operator gave up a member",
            extra={"node_id": node_id, "members_alive": living, "members_known": len(roster.known), "forced": force},
        )
        self._learn({node_id})
        message = Departed((node_id,), answer=False)
        for other in self._living():
            engine.send(other, message)
        engine.stage(True, lambda: None if answer.done() else answer.set_result(None))

    def happened(self, event: MemberEvent) -> None:
        """Gossip says something of another member."""
        node_id = event.record.node_id
        if node_id not in self._left:
            return
        if event.kind is EventKind.JOINED:
            self._engine.send(node_id, Departed((node_id,), answer=False))
        elif event.kind is EventKind.DIED:
            self._engine.cluster.swim.forget(self._engine.now, node_id)

    def refuse(self, node_id: str) -> None:
        """A node on the list speaks for replicas, as if it were not on it: it is not heard, but told, once in a while."""
        if node_id not in self._refused:
            self._refused.add(node_id)
            self._engine.send(node_id, Departed((node_id,), answer=False))

    def _learn(self, left: set[str]) -> None:
        news = left - self._left - {self._engine.node_id}
        if not news:
            return
        if len(self._left) + len(news) > LEFT_MAX:
            log.error("too many nodes have left", extra={"members_left": len(self._left)})
            return
        engine = self._engine
        engine.founding.meet((), news)
        self._left = frozenset(engine.founding.acceptor.roster.left)
        for node_id in sorted(news):
            log.warning("member is gone for good", extra={"node_id": node_id})
            engine.cluster.directory.drop_node(node_id)
            record = engine.cluster.swim.member(node_id)
            if record is not None and record.state is MemberState.DEAD:
                engine.cluster.swim.forget(engine.now, node_id)
        engine.cluster.remember()

    def _on_departed(self, sender: str, message: Departed) -> None:
        if len(message.left) > LEFT_MAX or not all(NODE_ID_PATTERN.fullmatch(one.encode()) for one in message.left):
            raise CodecError("a malformed list of those that left")
        engine = self._engine
        if sender in self._left and sender not in message.left:
            return  # it was given up: its word counts no more
        if engine.node_id in message.left:
            if self.stage in (Stage.ANNOUNCING, Stage.GONE):
                self._confirmed.add(sender)
            else:
                self._given_up(sender)
                return
        self._learn(set(message.left))
        if message.answer:
            answer = Departed(tuple(sorted(self._left)), answer=False)
            engine.stage(True, lambda: engine.send(sender, answer))

    def _on_digest(self, sender: str, message: DepartedDigest) -> None:
        if message.digest != roster_digest(self._left):
            self._engine.send(sender, Departed(tuple(sorted(self._left)), answer=len(self._left) < LEFT_MAX))

    def _given_up(self, sender: str) -> None:
        if self._stopping:
            return
        self._stopping = True
        engine = self._engine
        log.critical("this node was given up by its cluster", extra={"node_id": sender})

        def stop() -> None:
            engine.failed = GivenUp(
                f"this node was given up: {sender} has it on its list of members that never come back. Start with an empty "
                "data_dir, as a new node"
            )
            engine.post(lambda: None)

        self._mark(b"given up", stop)

    def _living(self) -> list[str]:
        return [one.node_id for one in self._engine.cluster.swim.alive()[1:] if one.node_id not in self._left]
