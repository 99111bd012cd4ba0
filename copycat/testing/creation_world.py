"""Seeded lives of small clusters of creation cores over a lossy network: acceptors, creators, joiners and leavers alone.

Every message may be lost, late or repeated, every node may crash and lose what was not written, nodes join and leave. At most one
genesis may come out for the one id that everybody wants, and none that exists may be called absent. See also
:mod:`copycat.testing.creation_engines`, which looks at the same with whole engines.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from copycat.acceptor import Acceptor
from copycat.creation import Creation, Verdict
from copycat.enrolment import Departure, Enrolment
from copycat.genesis import CreationMessage, Genesis, Record, Roster, Send, Standing, Step, from_fields, to_fields

GROUP = bytes(range(16))


def a_genesis(nonce: int, creator: str = "a") -> Genesis:
    return Genesis(GROUP, nonce, creator, ((nonce + 1, creator),), 1, 0)


@dataclass
class Disk:
    """What survives a crash."""

    roster: Roster | None = None
    records: dict[bytes, Record] = field(default_factory=dict)


class Node:
    """One process on one disk: everything but the disk is lost in a crash."""

    def __init__(self, world: World, node_id: str) -> None:
        self.world = world
        self.node_id = node_id
        self.disk = Disk()
        self.life = 0
        self.up = False
        self.departed = False
        self.creations: list[Creation] = []
        self.started_after: dict[int, bool] = {}
        self.boot()

    def boot(self) -> None:
        self.up = True
        self.life += 1
        self.acceptor = Acceptor(self.node_id, self.disk.roster, self.disk.records.values())
        self.enrolment: Enrolment | None = None
        self.departure: Departure | None = None
        self.last_write_at = self.world.now
        if self.disk.roster is not None and self.acceptor.standing is Standing.ENROLLING:
            self.enroll()
        if self.acceptor.standing is Standing.SEALED:
            self.departure = Departure(self.acceptor, self.world.rng.getrandbits(32), self.world.now)
        self.later(0.05, self.tick)

    def enroll(self) -> None:
        self.enrolment = Enrolment(self.acceptor, self.world.rng.getrandbits(32), self.world.now)

    def crash(self) -> None:
        self.up = False
        self.life += 1
        self.creations = []

    def later(self, delay: float, action: Callable[[], None]) -> None:
        life = self.life

        def run() -> None:
            if self.life == life:
                action()

        self.world.at(self.world.now + delay, run)

    def do(self, step: Step) -> None:
        """Write, in order and some time later, and only then send."""
        delay = self.world.rng.choice([0.0, 0.0, 0.001, 0.02])
        at = max(self.last_write_at, self.world.now + delay)
        self.last_write_at = at

        def written() -> None:
            for item in step.persist:
                if isinstance(item, Roster):
                    self.disk.roster = item
                else:
                    self.disk.records[item.group_id] = item
                    self.world.see_record(item)
            self.send(step.then_send)

        self.later(at - self.world.now, written)

    def send(self, sends: Iterable[Send]) -> None:
        for send in sends:
            self.world.transmit(self.node_id, send)

    def receive(self, sender: str, message: CreationMessage) -> None:
        for creation in list(self.creations):
            self.send(creation.step(sender, message, self.world.now))
        if self.enrolment is not None:
            self.do(self.enrolment.step(sender, message))
        if self.departure is not None:
            self.send(self.departure.step(sender, message))
        self.do(self.acceptor.step(sender, message))
        self.look_at_outcomes()

    def tick(self) -> None:
        now = self.world.now
        for creation in list(self.creations):
            self.send(creation.tick(now))
        if self.enrolment is not None:
            self.do(self.enrolment.tick(now))
        if self.departure is not None:
            self.send(self.departure.tick(now))
            if self.departure.done:
                self.departed = True
                self.world.left.add(self.node_id)
                self.crash()
                return
        self.look_at_outcomes()
        self.later(0.05, self.tick)

    def create(self, proposal: Genesis | None, timeout_s: float) -> Creation:
        roster = self.acceptor.roster
        creation = Creation(
            self.node_id, GROUP, proposal, roster.known, roster.left, self.world.rng, self.world.now, timeout_s
        )
        self.started_after[id(creation)] = self.world.decided is not None
        self.creations.append(creation)
        self.send(creation.tick(self.world.now))
        return creation

    def look_at_outcomes(self) -> None:
        for creation in [one for one in self.creations if one.outcome is not None]:
            self.creations.remove(creation)
            outcome = creation.outcome
            assert outcome is not None
            if outcome.genesis is not None:
                self.world.see_decision(outcome.genesis)
            if outcome.verdict is Verdict.ABSENT:
                assert not self.started_after[id(creation)], "a group that existed was called absent"


class World:
    """Time, network and checker of one seeded run."""

    def __init__(self, seed: int, node_count: int) -> None:
        self.rng = random.Random(seed)
        self.now = 0.0
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.counter = 0
        self.loss = self.rng.choice([0.0, 0.05, 0.3])
        self.repeat = self.rng.choice([0.0, 0.2])
        self.sides: dict[str, int] = {}
        self.decided: Genesis | None = None
        self.left: set[str] = set()
        self.nodes: dict[str, Node] = {}
        ids = [f"n{number}" for number in self.rng.sample(range(100), node_count)]
        for node_id in ids:
            node = self.nodes[node_id] = Node(self, node_id)
            node.acceptor.meet(ids)
            node.do(Step((*node.acceptor.meet(ids).persist, *node.acceptor.found().persist)))
            node.disk.roster = node.acceptor.roster

    def at(self, when: float, action: Callable[[], None]) -> None:
        self.counter += 1
        heapq.heappush(self.events, (when, self.counter, action))

    def run_until(self, end: float) -> None:
        while self.events and self.events[0][0] <= end:
            self.now, _, action = heapq.heappop(self.events)
            action()
        self.now = end

    def transmit(self, sender: str, send: Send) -> None:
        if send.to == sender:
            node = self.nodes[sender]
            node.later(0.0, lambda: node.receive(sender, send.message))
            return
        copies = 1 + (self.rng.random() < self.repeat)
        for _ in range(copies):
            if self.rng.random() < self.loss or send.to not in self.nodes:
                continue
            if self.sides.get(sender, 0) != self.sides.get(send.to, 0):
                continue
            delay = self.rng.expovariate(1 / 0.01) + self.rng.choice([0.0, 0.0, 0.0, 0.5])
            self.at(self.now + delay, lambda: self.deliver(sender, send))

    def deliver(self, sender: str, send: Send) -> None:
        node = self.nodes[send.to]
        if node.up:
            assert from_fields(to_fields(send.message)) == send.message
            node.receive(sender, send.message)

    def see_decision(self, genesis: Genesis) -> None:
        assert self.decided in (None, genesis), f"two groups for one id: {self.decided} and {genesis}"
        self.decided = genesis

    def see_record(self, record: Record) -> None:
        if record.chosen:
            assert record.genesis is not None
            self.see_decision(record.genesis)

    def join(self, through: str) -> None:
        node_id = (
            f"n{self.rng.randrange(100, 100_000)}" if self.rng.random() < 0.5 else f"m{self.rng.randrange(99_999)}"
        )
        if node_id in self.nodes:
            return
        node = self.nodes[node_id] = Node(self, node_id)
        roster = self.nodes[through].acceptor.roster
        node.do(node.acceptor.meet(roster.known, roster.left))
        node.disk.roster = node.acceptor.roster
        node.enroll()

    def leave(self, node: Node) -> None:
        node.do(node.acceptor.seal())
        node.disk.roster = node.acceptor.roster
        node.departure = Departure(node.acceptor, self.rng.getrandbits(32), self.now)

    def gossip(self) -> None:
        up = [node for node in self.nodes.values() if node.up]
        if len(up) >= 2:
            teller, hearer = self.rng.sample(up, 2)
            roster = teller.acceptor.roster
            hearer.do(hearer.acceptor.meet(roster.known, set(roster.left) | self.left))

    def heal(self) -> None:
        self.loss = self.repeat = 0.0
        self.sides = {}
        for node in self.nodes.values():
            if not node.up and not node.departed:
                node.boot()


def trouble(world: World, joins: int, leaves: int) -> None:
    """Some seconds of everything at once."""
    rng = world.rng
    nonce = 0
    for _ in range(rng.randrange(15, 40)):
        world.run_until(world.now + rng.expovariate(1 / 0.15))
        up = [node for node in world.nodes.values() if node.up]
        dice = rng.random()
        if dice < 0.35 and up:
            nonce += 1
            node = rng.choice(up)
            node.create(a_genesis(nonce, node.node_id) if rng.random() < 0.8 else None, rng.choice([0.3, 2.0, 5.0]))
        elif dice < 0.45 and up:
            rng.choice(up).crash()
        elif dice < 0.6:
            down = [node for node in world.nodes.values() if not node.up and not node.departed]
            if down:
                rng.choice(down).boot()
        elif dice < 0.7:
            world.sides = {node_id: rng.randrange(2) for node_id in world.nodes}
        elif dice < 0.75:
            world.sides = {}
        elif dice < 0.85 and joins and up:
            for _ in range(rng.randint(1, joins)):
                joins -= 1
                world.join(rng.choice(up).node_id)
        elif dice < 0.9 and leaves:
            staying = [node for node in up if node.acceptor.standing is Standing.READY]
            if len(staying) > 1:
                leaves -= 1
                world.leave(rng.choice(staying))
        elif dice < 0.95:
            world.gossip()


def settle(world: World) -> None:
    """All faults end: every node that stays comes to vote, and all find the same group."""
    world.heal()
    world.run_until(world.now + 8.0)
    for _ in range(60):
        world.gossip()
    for _ in range(2):
        world.run_until(world.now + 3.0)
        for node in world.nodes.values():
            if node.up:
                node.do(node.acceptor.meet((), world.left))
    staying = [node for node in world.nodes.values() if not node.departed]
    standings = {node.node_id: node.acceptor.roster for node in staying}
    assert all(node.acceptor.standing is Standing.READY for node in staying), standings
    node = world.rng.choice(staying)
    last = node.create(a_genesis(10_000, node.node_id), 10.0)
    world.run_until(world.now + 10.0)
    assert last.outcome is not None
    assert last.outcome.verdict in (Verdict.CREATED, Verdict.EXISTS), last.outcome
    finders = [node.create(None, 10.0) for node in staying]
    world.run_until(world.now + 10.0)
    assert {finder.outcome.genesis for finder in finders if finder.outcome} == {last.outcome.genesis}


def run(seed: int, joins: int, leaves: int) -> World:
    """One life. Raises AssertionError if two groups came of one id, or one that existed was called absent."""
    world = World(seed, random.Random(seed).choice([1, 2, 3, 3, 4, 5]))
    try:
        trouble(world, joins, leaves)
        settle(world)
    except AssertionError as error:
        raise AssertionError(f"seed {seed}, joins {joins}, leaves {leaves}: {error}") from error
    return world
