"""One group per id: seeded runs of whole clusters over a lossy network, with crashes, joins and leaves."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from copycat.acceptor import Acceptor
from copycat.creation import Creation, Verdict
from copycat.enrolment import Departure, Enrolment
from copycat.errors import CodecError, NoQuorum
from copycat.genesis import (
    Accept,
    Chosen,
    EnrollPage,
    Genesis,
    NotReady,
    Prepare,
    Promise,
    Reading,
    Record,
    Refresh,
    Roster,
    Send,
    Standing,
    Step,
    from_fields,
    merge,
    roster_digest,
    to_fields,
)

GROUP = bytes(range(16))


def a_genesis(nonce: int, creator: str = "a") -> Genesis:
    return Genesis(GROUP, nonce, creator, ((nonce + 1, creator),), 1, 0)


@dataclass
class Disk:
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

    def send(self, sends) -> None:
        for send in sends:
            self.world.transmit(self.node_id, send)

    def receive(self, sender: str, message) -> None:
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
            message = from_fields(to_fields(send.message))
            assert message == send.message
            node.receive(sender, message)

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
    world = World(seed, random.Random(seed).choice([1, 2, 3, 3, 4, 5]))
    try:
        trouble(world, joins, leaves)
        settle(world)
    except AssertionError as error:
        raise AssertionError(f"seed {seed}, joins {joins}, leaves {leaves}: {error}") from error
    return world


def test_at_most_one_group_per_id_in_a_fixed_cluster():
    created = sum(run(seed, 0, 0).decided is not None for seed in range(250))
    assert created == 250


@pytest.mark.parametrize("joins", [1, 4])
def test_at_most_one_group_per_id_while_nodes_join(joins):
    for seed in range(1000, 1150):
        run(seed, joins, 0)


def test_at_most_one_group_per_id_while_nodes_join_and_leave():
    for seed in range(2000, 2150):
        run(seed, 3, 2)


# --- single rules ---------------------------------------------------------------------------------------------------


def a_voter(*members: str) -> Acceptor:
    acceptor = Acceptor(members[0])
    acceptor.meet(members)
    acceptor.found()
    return acceptor


def answer(step: Step):
    (send,) = step.then_send
    return send.message


def test_a_promise_is_persisted_in_the_step_that_sends_it():
    acceptor = a_voter("a", "b", "c")
    step = acceptor.step("b", Prepare(GROUP, (1, "b", 7), roster_digest("abc")))
    assert step.persist == (Record(GROUP, promised=(1, "b", 7)),)
    assert step.then_send == (Send("b", Promise(GROUP, (1, "b", 7), (0, "", 0), None)),)


def test_a_proposer_that_misses_a_member_is_refreshed_in_both_phases():
    acceptor = a_voter("a", "b", "c", "d")
    ballot = (1, "b", 7)
    wanted = Refresh(GROUP, ballot, ("a", "b", "c", "d"), ())
    assert answer(acceptor.step("b", Prepare(GROUP, ballot, roster_digest("abc")))) == wanted
    assert answer(acceptor.step("b", Prepare(GROUP, ballot, roster_digest("abc"), ("a", "b", "c")))) == wanted
    assert answer(acceptor.step("b", Accept(ballot, a_genesis(1), roster_digest("abc")))) == wanted
    assert acceptor.record(GROUP) is None
    knows_more = Prepare(GROUP, ballot, roster_digest("abcde"), ("a", "b", "c", "d", "e"))
    assert isinstance(answer(acceptor.step("b", knows_more)), Promise)


def test_a_node_that_enrolls_or_leaves_does_not_vote():
    enrolling = Acceptor("a")
    enrolling.meet("abc")
    sealed = a_voter("a", "b", "c")
    sealed.seal()
    for acceptor in (enrolling, sealed):
        message = Prepare(GROUP, (1, "b", 7), roster_digest("abc"))
        assert answer(acceptor.step("b", message)) == NotReady(GROUP, (1, "b", 7))


def test_no_quorum_comes_before_the_time_out_and_names_the_silent():
    creation = Creation("a", GROUP, a_genesis(1), "abc", (), random.Random(1), 100.0, 10.0)
    acceptor = a_voter("a", "b", "c")
    now = 100.0
    while creation.outcome is None:
        now = creation.next_deadline()
        for send in creation.tick(now):
            if send.to == "a":
                creation.step("a", answer(acceptor.step("a", send.message)), now)
    assert now < 110.0
    error = creation.outcome.error
    assert creation.outcome.verdict is Verdict.FAILED
    assert isinstance(error, NoQuorum)
    assert "1 of 3 known nodes answered" in str(error)
    assert "2 are needed" in str(error)
    assert "Silent: b, c" in str(error)


def test_a_retry_with_the_same_genesis_ends_with_the_same_group():
    acceptor = a_voter("a")
    verdicts = []
    for proposal in (a_genesis(1), a_genesis(1), a_genesis(2), None):
        creation = Creation("a", GROUP, proposal, "a", (), random.Random(len(verdicts)), 0.0, 10.0)
        sends = creation.tick(0.0)
        while sends and creation.outcome is None:
            sends = creation.step("a", answer(acceptor.step("a", sends[0].message)), 0.0)
        for send in sends:
            acceptor.step("a", send.message)
        assert creation.outcome is not None
        assert creation.outcome.genesis == a_genesis(1)
        verdicts.append(creation.outcome.verdict)
    assert verdicts == [Verdict.CREATED, Verdict.CREATED, Verdict.EXISTS, Verdict.EXISTS]


def test_merging_records_keeps_the_decision_the_higher_value_and_the_higher_promise():
    low = Record(GROUP, (5, "a", 1), (2, "a", 1), a_genesis(1))
    high = Record(GROUP, (4, "a", 1), (4, "a", 1), a_genesis(2))
    assert merge(low, high) == merge(high, low) == Record(GROUP, (5, "a", 1), (4, "a", 1), a_genesis(2))
    chosen = Record(GROUP, (1, "a", 1), (1, "a", 1), a_genesis(1), chosen=True)
    assert merge(chosen, high) == merge(high, chosen) == chosen
    assert merge(None, low) == low


def test_records_are_copied_in_pages_that_miss_none():
    rng = random.Random(3)
    acceptor = Acceptor("a", None, [Record(rng.randbytes(16), (1, "a", 1)) for _ in range(200)])
    other = Acceptor("b")
    cursor, pages = b"", 0
    while pages == 0 or cursor:
        records, cursor = acceptor.page(cursor)
        other.absorb(records)
        pages += 1
    assert pages == 4
    assert other.page(b"")[0] == acceptor.page(b"")[0]
    assert len([1 for record in other._records]) == 200


@pytest.mark.parametrize(
    "values",
    [
        None,
        (),
        (99,),
        ("0",),
        (True,),
        (0,),
        (0, GROUP, (1, "a"), b"", ()),
        (0, b"x" * 17, (1, "a", 1), b"", ()),
        (0, GROUP, (1, "a", -1), b"", ()),
        (0, GROUP, (1, "a" * 200, 1), b"", ()),
        (7, (b"short", 1, "a", (), 1, 0)),
        (7, (GROUP, 1, "a", ((1,),), 1, 0)),
        (9, 1, b"", b"", 9, (), (), ()),
    ],
)
def test_what_is_no_message_is_a_codec_error(values):
    with pytest.raises(CodecError):
        from_fields(values)


def test_a_chosen_message_survives_the_wire():
    assert from_fields(list(to_fields(Chosen(a_genesis(5))))) == Chosen(a_genesis(5))


def enroll_pumped(enrolments: dict[str, Enrolment], acceptors: dict[str, Acceptor], down: str = "") -> list[str]:
    """Carry the messages of several enrolments at once, without loss; returns the order in which they ended."""
    ended: list[str] = []
    for turn in range(40):
        for node_id, enrolment in enrolments.items():
            for send in enrolment.tick(turn * 1.0).then_send:
                if send.to not in down:
                    page = answer(acceptors[send.to].step(node_id, send.message))
                    enrolment.step(send.to, page)
            if enrolment.done and node_id not in ended:
                ended.append(node_id)
    return ended


def test_newcomers_that_outnumber_the_old_know_what_the_old_accepted():
    record = Record(GROUP, (1, "a", 1), (1, "a", 1), a_genesis(1))
    acceptors = {name: a_voter(name, *"abc".replace(name, "")) for name in "abc"}
    for name in "bc":
        acceptors[name].absorb([record])
    joiners = ["p", "o", "n", "m"]
    enrolments = {}
    for name in joiners:
        acceptors[name] = Acceptor(name)
        acceptors[name].meet("abc")
        enrolments[name] = Enrolment(acceptors[name], 1, 0.0)
    ended = enroll_pumped(enrolments, acceptors, down="c")
    assert sorted(ended) == sorted(joiners)
    for name in joiners:
        assert acceptors[name].record(GROUP) == record
        assert answer(
            acceptors["a"].step(name, Prepare(GROUP, (9, "c", 1), roster_digest("abc"), ("a", "b", "c")))
        ) == (Refresh(GROUP, (9, "c", 1), tuple("abcmnop"), ()))


def test_of_two_that_enroll_at_once_the_smaller_goes_first_and_the_other_starts_over():
    small, large = Acceptor("m"), Acceptor("n")
    small.meet("amn")
    large.meet("amn")
    asked_by_large = answer(small.step("n", Enrolment(large, 1, 0.0).tick(0.0).then_send[-1].message))
    assert asked_by_large.reading is Reading.WAIT
    large_enrolment = Enrolment(large, 1, 0.0)
    page_of_a = EnrollPage(1, b"", b"", Reading.SERVED, ("a", "m", "n"), (), ())
    large_enrolment.step("a", page_of_a)
    yielded = answer(large.step("m", Enrolment(small, 1, 0.0).tick(0.0).then_send[-1].message))
    assert yielded.reading is Reading.YIELDED
    asked_again = {send.to for send in large_enrolment.tick(1.0).then_send}
    assert asked_again == {"a", "m"}
    large_enrolment.step("a", page_of_a)  # of the attempt before
    assert not large_enrolment.done


def test_a_leaver_is_gone_only_when_a_majority_of_the_others_holds_its_records():
    leaver = a_voter("a", "b", "c", "d", "e")
    record = Record(GROUP, (1, "a", 1), (1, "a", 1), a_genesis(1))
    leaver.absorb([record])
    leaver.seal()
    departure = Departure(leaver, 1, 0.0)
    sends = departure.tick(0.0)
    assert [send.to for send in sends] == ["b", "c", "d", "e"]
    for send in sends[:3]:
        assert not departure.done
        other = a_voter(send.to, *"abcde".replace(send.to, ""))
        step = other.step("a", send.message)
        assert record in step.persist
        assert other.roster.handed_over == ("a",)
        departure.step(send.to, answer(step))
        departure.step(send.to, answer(step))  # repeated
    assert departure.done
