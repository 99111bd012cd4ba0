"""From an id to a replica on this node: find the group, or create it once, or join it.

The acceptor of this node votes on creations (:mod:`copycat.acceptor`), whoever proposes them. A local wish for a group goes
these steps, each repeated until it holds or time is up:

1. A replica is here: done.
2. Somebody hosts the group, or its genesis is known: ask to join it, or take the founder's place the genesis gives this node.
3. Nothing is known: ask a majority of the cluster; where that says that nothing exists, create it (one decision for both).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from copycat.acceptor import Acceptor
from copycat.codec import pack_record, unpack_record
from copycat.creation import Creation, Verdict
from copycat.enrolment import Departure, Enrolment
from copycat.errors import CopyCatError, GroupUnavailable, LookupFailed, NotEnoughNodes
from copycat.genesis import (
    Accept,
    Accepted,
    Chosen,
    CreationMessage,
    Enroll,
    EnrollPage,
    Genesis,
    HandedOver,
    HandOver,
    NotReady,
    Outbid,
    Prepare,
    Promise,
    Record,
    Refresh,
    Roster,
    Send,
    Standing,
    Step,
    group_of,
)
from copycat.placement import place, place_available
from copycat.plausibility import check_genesis, check_record
from copycat.protocol import JoinAsk, LeaderHint

if TYPE_CHECKING:
    from copycat.engine import Engine

log = logging.getLogger(__name__)

MESSAGES = (
    Prepare,
    Promise,
    Accept,
    Accepted,
    Outbid,
    Refresh,
    NotReady,
    Chosen,
    Enroll,
    EnrollPage,
    HandOver,
    HandedOver,
)
FIRST_KIND = 32
ROSTER_KEY = "roster"
RECORD_PREFIX = "genesis/"
JOIN_AGAIN_S = 0.25
SETTLE_S = 5.0
PATIENCE = 0.9
"""The share of its time after which a wish ends, so that whoever waits hears why instead of timing out."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a group should be like, if it is created. ``all_at_once``: fail rather than begin with fewer voters."""

    replicas: int
    data_center_replicas: int = 0
    all_at_once: bool = False


Done = Callable[["CopyCatError | None"], None]


@dataclass(frozen=True, slots=True)
class Waiting:
    """Somebody here who waits for a search, and until when: on the engine's clock."""

    deadline: float
    done: Done


@dataclass(slots=True)
class Search:
    """One local wish for one group, and everybody here who waits for it."""

    group_id: bytes
    wish: Wish
    host_here: bool
    waiting: list[Waiting] = field(default_factory=list)
    creation: Creation | None = None
    genesis: Genesis | None = None
    hint: str = ""
    asked: int = 0
    ask_at: float = 0.0


class Founding:
    """Belongs to the engine's thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        store = engine.store
        roster = store.get(ROSTER_KEY)
        records = [unpack_record(Record, data) for _, data in store.scan(RECORD_PREFIX)]
        self.acceptor = Acceptor(engine.node_id, None if roster is None else unpack_record(Roster, roster), records)
        self._enrolment: Enrolment | None = None
        self._departure: Departure | None = None
        self._searches: dict[bytes, Search] = {}
        self._settling: dict[bytes, Creation] = {}
        for number, kind in enumerate(MESSAGES):
            engine.registry.register(FIRST_KIND + number, kind)
            engine.handlers[kind] = self._on_message
        engine.handlers[LeaderHint] = self._on_hint

    # --- the electorate ---

    def found_cluster(self) -> None:
        """This node is the first of a new cluster."""
        self._do(self.acceptor.found())

    def meet(self, known: Iterable[str], left: Iterable[str]) -> None:
        """Gossip knows these members; once there are others, this node begins to enroll."""
        self._do(self.acceptor.meet(known, left))
        if self.acceptor.standing is Standing.ENROLLING and self._enrolment is None:
            self._enrolment = Enrolment(self.acceptor, self._engine.rng.getrandbits(63), self._engine.now)

    def depart(self) -> None:
        """This node leaves for good: it stops voting, durably, and then gives its records away."""
        if self._departure is None:

            def sealed() -> None:
                self._departure = Departure(self.acceptor, self._engine.rng.getrandbits(63), self._engine.now)

            step = self.acceptor.seal()
            self._do(step)
            if step.persist:
                self._engine.stage(True, sealed)
            else:
                sealed()

    @property
    def has_departed(self) -> bool:
        """Whether a majority of the others hold this node's records."""
        return self._departure is not None and self._departure.done

    @property
    def idle(self) -> bool:
        """Whether no local wish is under way."""
        return not self._searches

    def settle_places(self) -> bool:
        """Whether all is decided that this node has accepted and that has a place for it; else see to that.

        Who leaves while a group that names it is being decided would take a vote away that the group then needs. So it takes
        its place first, and hands that over as any other. Those to whom it gives its records do the same for what they
        have accepted, before they say that they have them.
        """
        # Once its votes are sealed it has been seen to.
        return self.acceptor.standing is not Standing.READY or self._settle(self._engine.node_id)

    def _settle(self, node_id: str) -> bool:
        """Finish what was accepted here and names the node; whether there is nothing of that kind."""
        engine = self._engine
        roster = self.acceptor.roster
        undecided = self.acceptor.undecided(node_id)
        for genesis in undecided:
            if genesis.group_id not in self._settling:
                self._settling[genesis.group_id] = Creation(
                    engine.node_id,
                    genesis.group_id,
                    genesis,
                    [one for one in roster.known if one not in roster.handed_over],
                    (),
                    engine.rng,
                    engine.now,
                    SETTLE_S,
                )
        return not undecided

    def found(self, genesis: Genesis, timeout_s: float) -> None:
        """Let the group begin with just this genesis, unless it has another already; its voters are told which it is.

        After ``timeout_s`` without a decision it is given up: then it may still have been made.
        """
        engine, roster = self._engine, self.acceptor.roster
        creation = Creation(
            engine.node_id,
            genesis.group_id,
            genesis,
            roster.known,
            roster.left,
            engine.rng,
            engine.now,
            timeout_s,
        )
        self._settling[genesis.group_id] = creation
        self._send_all(creation.tick(engine.now))

    def founds(self, group_id: bytes) -> bool:
        """Whether :meth:`found` is under way for the group."""
        return group_id in self._settling

    def _end_settled(self) -> None:
        for group_id, creation in list(self._settling.items()):
            if creation.outcome is not None:
                del self._settling[group_id]
                genesis = creation.outcome.genesis
                if genesis is not None:
                    # To those, too, that are not asked any more: they take their places, and hand them over.
                    self._send_all([Send(node_id, Chosen(genesis)) for _, node_id in genesis.voters])

    @property
    def ready(self) -> bool:
        """Whether this node votes, so that creation can succeed."""
        return self.acceptor.standing is Standing.READY

    # --- local wishes ---

    def seek(self, group_id: bytes, wish: Wish, timeout_s: float, host_here: bool, done: Done) -> None:
        """Make sure that the group exists and, if ``host_here``, has a replica on this node; then call ``done``."""
        search = self._searches.get(group_id)
        if search is None:
            search = self._searches[group_id] = Search(group_id, wish, host_here)
        search.host_here = search.host_here or host_here
        search.waiting.append(Waiting(self._engine.now + PATIENCE * timeout_s, done))
        self._advance(search)

    def seeks(self, group_id: bytes) -> bool:
        """Whether a local wish for the group is under way."""
        return group_id in self._searches

    def tick(self) -> None:
        now = self._engine.now
        if self._enrolment is not None:
            self._do(self._enrolment.tick(now))
            if self._enrolment.done:
                self._enrolment = None
        if self._departure is not None:
            self._send_all(self._departure.tick(now))
        for settling in self._settling.values():
            self._send_all(settling.tick(now))
        self._end_settled()
        for search in list(self._searches.values()):
            if search.creation is not None:
                self._send_all(search.creation.tick(now))
            self._advance(search)

    def end(self, reason: CopyCatError) -> None:
        """Nothing will be found any more."""
        for search in list(self._searches.values()):
            self._finish(search, reason)

    def _advance(self, search: Search) -> None:
        engine = self._engine
        if search.creation is not None and search.creation.outcome is not None:
            outcome = search.creation.outcome
            if outcome.verdict is not Verdict.FAILED:
                search.genesis = outcome.genesis
                search.creation = None
        record = self.acceptor.record(search.group_id)
        if record is not None and record.chosen:
            search.genesis = record.genesis
        if search.group_id in engine.hosting.groups or (search.genesis is not None and not search.host_here):
            self._finish(search, None)
            return
        self._end_impatience(search)
        if not search.waiting:
            self._finish(search, None)
        elif search.genesis is not None or engine.cluster.hosts_of(search.group_id):
            self._join(search)
        elif search.creation is None or search.creation.outcome is not None:
            self._create(search)

    def _end_impatience(self, search: Search) -> None:
        """Tell those whose time is up why, and go on for the others: each has a time-out of its own."""
        late = [waiting for waiting in search.waiting if self._engine.now >= waiting.deadline]
        if late:
            error = self._why_late(search)
            search.waiting = [waiting for waiting in search.waiting if waiting not in late]
            for waiting in late:
                waiting.done(error)

    def _create(self, search: Search) -> None:
        engine = self._engine
        choose = place if search.wish.all_at_once else place_available
        try:
            nodes = choose(
                search.group_id, engine.cluster.candidates(), search.wish.replicas, search.wish.data_center_replicas
            )
            if not nodes:
                raise NotEnoughNodes(
                    "no living node has room for another replica: free disk and memory, or start nodes"
                )
        except NotEnoughNodes as error:
            self._finish(search, error)
            return
        genesis = Genesis(
            search.group_id,
            engine.rng.getrandbits(63),
            engine.node_id,
            tuple([(engine.rng.getrandbits(62) + 1, node) for node in nodes]),
            search.wish.replicas,
            search.wish.data_center_replicas,
        )
        roster = self.acceptor.roster
        search.creation = Creation(
            engine.node_id,
            search.group_id,
            genesis,
            roster.known,
            roster.left,
            engine.rng,
            engine.now,
            max(waiting.deadline for waiting in search.waiting) - engine.now,
        )
        self._send_all(search.creation.tick(engine.now))

    def _join(self, search: Search) -> None:
        engine = self._engine
        genesis = search.genesis
        if genesis is not None and self._take_place(genesis):
            self._finish(search, None)
            return
        if engine.now < search.ask_at:
            return
        search.ask_at = engine.now + JOIN_AGAIN_S
        hosts = list(engine.cluster.hosts_of(search.group_id))
        if genesis is not None:
            hosts += [node_id for _, node_id in genesis.voters if node_id not in hosts]
        hosts = [node_id for node_id in hosts if node_id != engine.node_id]
        if search.hint:
            target, search.hint = search.hint, ""
        elif hosts:
            target = hosts[search.asked % len(hosts)]
            search.asked += 1
        else:
            return
        engine.send(target, JoinAsk(search.group_id, engine.node_id, engine.hosting.buried.get(search.group_id, ())))

    def _take_place(self, genesis: Genesis) -> bool:
        """Become the founder that the genesis names on this node; False if it names none, or its time is over."""
        engine = self._engine
        for rank, (raft_id, node_id) in enumerate(genesis.voters):
            if node_id != engine.node_id:
                continue
            known = genesis.group_id in engine.hosting.groups
            group = engine.hosting.create(genesis.group_id, raft_id, pack_record(genesis))
            if group is not None and not known and rank == 0:
                group.raft.campaign()  # somebody has to be first: no need to wait for an election timeout
            return group is not None
        return False

    def _on_hint(self, sender: str, hint: LeaderHint) -> None:
        search = self._searches.get(hint.group)
        if search is not None and hint.node_id and hint.node_id != self._engine.node_id:
            search.hint = hint.node_id
            if hint.node_id != sender:
                search.ask_at = 0.0
                self._advance(search)

    def _finish(self, search: Search, error: CopyCatError | None) -> None:
        self._searches.pop(search.group_id, None)
        for waiting in search.waiting:
            waiting.done(error)

    def _why_late(self, search: Search) -> CopyCatError:
        if search.genesis is None and not self._engine.cluster.hosts_of(search.group_id):
            if search.creation is not None:
                return search.creation.why_failed()
            return LookupFailed("whether the data structure exists could not be found out in time")
        return GroupUnavailable("the data structure exists, but its replicas did not let this node join in time")

    # --- Paxos ---

    def _on_message(self, sender: str, message: CreationMessage) -> None:
        _check(message)
        step = self.acceptor.step(sender, message)
        if isinstance(message, HandOver) and not message.next_cursor and self.ready and not self._settle(sender):
            step = Step(step.persist)  # it asks again, and is told once that is decided
        self._do(step)
        if isinstance(message, EnrollPage) and self._enrolment is not None:
            self._do(self._enrolment.step(sender, message))
        if self._departure is not None:
            self._send_all(self._departure.step(sender, message))
        if isinstance(message, Chosen):
            self._on_chosen(message.genesis)
        group_id = group_of(message)
        settling = self._settling.get(group_id)
        if settling is not None:
            self._send_all(settling.step(sender, message, self._engine.now))
            self._end_settled()
        search = self._searches.get(group_id)
        if search is not None and search.creation is not None:
            self._send_all(search.creation.step(sender, message, self._engine.now))
            if search.creation.outcome is not None:
                self._advance(search)

    def _on_chosen(self, genesis: Genesis) -> None:
        """Take the place of a founder, if the genesis gives this node one."""
        self._take_place(genesis)
        search = self._searches.get(genesis.group_id)
        if search is not None:
            self._advance(search)

    def _do(self, step: Step) -> None:
        """Persist, then send: an acceptor's word must be on disk before anyone hears it."""
        if not step.persist:
            self._send_all(step.then_send)
            return
        batch = self._engine.stage(True, lambda: self._send_all(step.then_send))
        for item in step.persist:
            if isinstance(item, Roster):
                self._engine.store.stage_put(batch, ROSTER_KEY, pack_record(item))
            else:
                self._engine.store.stage_put(batch, RECORD_PREFIX + item.group_id.hex(), pack_record(item))

    def _send_all(self, sends: Iterable[Send]) -> None:
        for send in sends:
            self._engine.send(send.to, send.message)


def _check(message: CreationMessage) -> None:
    """Raise :class:`~copycat.errors.CodecError` for what no group can begin with, before this node believes it."""
    if isinstance(message, (Accept, Chosen, Promise)):
        genesis = message.genesis
        if genesis is not None:
            check_genesis(genesis)
    elif isinstance(message, (EnrollPage, HandOver)):
        for record in message.records:
            check_record(record)
