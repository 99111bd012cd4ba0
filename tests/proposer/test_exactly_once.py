"""A proposer and the table together, over a network that loses, repeats and reorders, under everything else that happens.

The log is one list. What the proposer hands over is on its way until the script puts it into the log, or loses it; an item
may be put in again at any later time. The proposer follows one replica, which applies the log as far as the script says,
jumps ahead by a snapshot, or is replaced by another one.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import Future
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from copycat import sessions
from copycat.channels.error import ErrorChannel
from copycat.channels.propose import ProposeChannel
from copycat.errors import Closed, OutcomeUnknown, PositionUnknown, ProposalDropped, SessionExpired, Timeout
from copycat.messages import Entry
from copycat.proposer import Proposer
from copycat.sequencer import Sequencer
from copycat.sessions import Kind, Outcome, read_header, unpack_proposals

RESEND_S = 1.0
ON_THE_WAY_MAX = 64


class World:
    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now = 0.0
        self.log: list[bytes] = []
        self.on_the_way: list[bytes] = []
        self.ever: list[bytes] = []
        self.reachable = True
        self.errors = ErrorChannel(1000)
        self.channel = ProposeChannel(lambda: None, lambda: None, 1000, 1 << 20, 1 << 20)
        self.proposer = Proposer(
            self.channel,
            self.errors,
            "n1",
            b"boot",
            lambda: self.rng.getrandbits(128).to_bytes(16, "big"),
            3,
            100,
            RESEND_S,
        )
        self.replica = Sequencer({})
        self.sent = 0
        self.futures: dict[int, Future[int]] = {}

    # --- what happens ---

    def send(self, count: int) -> None:
        for _ in range(count):
            self.sent += 1
            data = b"%d" % self.sent
            if self.sent % 3:
                self.futures[self.sent] = self.channel.submit(data)
            else:
                self.channel.send(data)

    def propose(self, data: bytes) -> bool:
        if not self.reachable:
            return False
        if len(self.on_the_way) < ON_THE_WAY_MAX:
            self.on_the_way.append(data)
        self.ever.append(data)
        return True

    def pump(self) -> None:
        self.proposer.pump(self.now, self.propose)

    def flow(self, count: int) -> None:
        """Send, and get some of it into the log, unseen so far."""
        self.send(count)
        self.pump()
        self.commit(0)
        self.commit(0)

    def pass_time(self, amount: int) -> None:
        self.now += amount * RESEND_S / 2
        self.pump()

    def commit(self, which: int) -> None:
        if self.on_the_way:
            self.log.append(self.on_the_way.pop(which % len(self.on_the_way) if which > 6 else 0))

    def lose(self, which: int) -> None:
        if self.on_the_way:
            self.on_the_way.pop(which % len(self.on_the_way))

    def repeat(self, which: int) -> None:
        if self.ever:
            self.log.append(self.ever[which % len(self.ever)])

    def expire(self) -> None:
        self.log.append(sessions.pack_expire(self.proposer.session))

    def apply(self, count: int) -> None:
        """As :meth:`copycat.group.Group._apply` does it."""
        for data in self.log[self.replica.index : self.replica.index + count]:
            applied = self.replica.apply(Entry(1, self.replica.index + 1, data=data))
            if applied.outcome is not Outcome.NOTHING:
                self.proposer.applied(applied, self.replica.position)
        self.pump()

    def snapshot(self) -> None:
        """The replica skips to the end of the log."""
        self.replica = replay(self.log)
        self._skip()
        self.pump()

    def change_leader(self) -> None:
        self.proposer.retry_now()
        self.pump()

    def replace_replica(self, upto: int) -> None:
        """The replica is lost; another one is here, as far as it has come."""
        self.proposer.seen_index = max(self.proposer.seen_index, self.replica.index)
        self.replica = replay(self.log[: upto * len(self.log) // 10])
        self._skip()

    def _skip(self) -> None:
        if self.replica.index > self.proposer.seen_index:
            self.proposer.skipped_to(self.replica.sessions)

    # --- what must hold ---

    def delivered(self) -> list[int]:
        """Numbers of the items, in the group's order."""
        items: list[int] = []
        sequencer = Sequencer({})
        for index, data in enumerate(self.log, 1):
            applied = sequencer.apply(Entry(1, index, data=data))
            if applied.count:
                items += [int(item) for item in unpack_proposals(data)[applied.skip :]]
        return items

    def taken(self, sessions_wanted: Callable[[bytes], bool]) -> set[int]:
        """Numbers of what Raft ever took under such sessions."""
        batches = [data for data in self.ever if data[0] == Kind.BATCH]
        return {
            int(item)
            for data in batches
            if sessions_wanted(read_header(data).session)
            for item in unpack_proposals(data)
        }

    def settle(self) -> None:
        """The trouble is over: everything sent is committed or reported in the end."""
        self.reachable = True
        for _ in range(2000):
            if not self.channel.unsettled() and self.replica.index == len(self.log):
                return
            self.pass_time(8)
            while self.on_the_way:
                self.commit(0)
            self.apply(len(self.log))
        raise AssertionError("it never settles")

    def reported(self) -> tuple[set[int], set[int]]:
        """Numbers whose fate was reported as unknown, and as never sent; each once."""
        unknown: list[int] = []
        dropped: list[int] = []
        while True:
            try:
                error = self.errors.receive(0)
            except (Timeout, Closed):
                break
            assert isinstance(error, (OutcomeUnknown, ProposalDropped))
            without_future = [n for n in range(error.first, error.first + error.count) if n not in self.futures]
            assert without_future, "an error for proposals whose futures told"
            (unknown if isinstance(error, OutcomeUnknown) else dropped).extend(without_future)
        for number, future in self.futures.items():
            failure = future.exception(0)
            if isinstance(failure, OutcomeUnknown):
                unknown.append(number)
            elif isinstance(failure, ProposalDropped):
                dropped.append(number)
            else:
                assert failure is None or isinstance(failure, PositionUnknown)
        assert len(unknown) == len(set(unknown))
        assert len(dropped) == len(set(dropped))
        return set(unknown), set(dropped)

    def check(self) -> tuple[set[int], set[int]]:
        items = self.delivered()
        assert len(items) == len(set(items)), f"twice: {items}"
        assert items == sorted(items), f"out of order: {items}"
        unknown, dropped = self.reported()
        missing = set(range(1, self.sent + 1)) - set(items)
        assert missing <= unknown | dropped, f"lost without a word: {sorted(missing - unknown - dropped)}"
        assert not dropped & set(items), "said to be never sent, but committed"
        for number, future in self.futures.items():
            if future.exception(0) is None:
                assert items[future.result(0) - 1] == number, "a future told a wrong position"
        return unknown, dropped


def replay(log: list[bytes]) -> Sequencer:
    sequencer = Sequencer({})
    for index, data in enumerate(log, 1):
        sequencer.apply(Entry(1, index, data=data))
    return Sequencer.unpack(sequencer.pack())


CALM = ("send", "pump", "commit", "apply", "flow")
TROUBLE = ("lose", "repeat", "pass_time", "change_leader", "unreachable", "reachable", "expire")
SKIPPING = ("snapshot", "replace_replica")


def run(world: World, script: list[tuple[str, int]]) -> None:
    world.send(1)
    world.settle()
    for step, number in script:
        if step in ("send", "flow", "commit", "lose", "repeat", "apply", "pass_time", "replace_replica"):
            getattr(world, step)(number)
        elif step in ("unreachable", "reachable"):
            world.reachable = step == "reachable"
        else:
            getattr(world, step)()


def scripts(*steps: tuple[str, ...]) -> st.SearchStrategy[list[tuple[str, int]]]:
    names = [name for group in steps for name in group] + list(CALM) * 2
    return st.lists(st.tuples(st.sampled_from(names), st.integers(0, 10)), max_size=120)


@given(st.integers(0, 1 << 32), scripts(TROUBLE))
@settings(deadline=None, derandomize=True, max_examples=250)
def test_nothing_is_lost_doubled_or_reordered_while_the_log_is_seen(seed: int, script: list[tuple[str, int]]) -> None:
    world = World(seed)
    run(world, script)
    world.settle()
    unknown, dropped = world.check()
    assert not unknown
    assert not dropped
    assert world.delivered() == list(range(1, world.sent + 1))


@given(st.integers(0, 1 << 32), scripts(TROUBLE, SKIPPING))
@settings(deadline=None, derandomize=True, max_examples=400)
def test_what_a_snapshot_hides_is_reported_exactly_where_it_can_not_be_known(
    seed: int, script: list[tuple[str, int]]
) -> None:
    world = World(seed)
    run(world, script)
    world.settle()
    unknown, dropped = world.check()
    assert not dropped
    if not any(step == "expire" for step, _ in script):
        assert not unknown


@given(st.integers(0, 1 << 32), scripts(TROUBLE, SKIPPING), st.booleans())
@settings(deadline=None, derandomize=True, max_examples=250)
def test_an_end_in_the_middle_reports_what_was_taken_and_what_never_was(
    seed: int, script: list[tuple[str, int]], draining: bool
) -> None:
    world = World(seed)
    run(world, script)
    if draining:
        world.proposer.drain(Closed("closed"))
        world.pump()
    world.proposer.end(Closed("closed"))
    while world.on_the_way:
        world.commit(0)
    world.log += world.ever  # whatever comes late
    unknown, dropped = world.check()
    taken = world.taken(lambda session: True)
    under_the_last_session = world.taken(lambda session: session == world.proposer.session)
    at_the_end = {number for number, future in world.futures.items() if type(future.exception(0)) is OutcomeUnknown}
    assert unknown <= taken
    assert at_the_end <= under_the_last_session
    assert not dropped & under_the_last_session


def test_a_drained_proposer_closes_its_session() -> None:
    world = World(0)
    world.send(7)
    world.pump()
    world.proposer.drain(Closed("closed"))
    world.settle()
    assert world.proposer.drained
    assert world.delivered() == [1, 2, 3, 4, 5, 6, 7]
    while world.on_the_way:
        world.commit(0)
    world.apply(len(world.log))
    assert not world.replica.sessions.sessions


def test_a_session_that_ended_unseen_is_an_error_for_what_was_taken_and_only_that() -> None:
    world = World(0)
    world.send(2)
    world.settle()
    world.send(3)
    world.pump()
    world.reachable = False
    world.send(3)
    world.pump()
    world.on_the_way.clear()
    world.expire()
    world.snapshot()
    failures = {number: future.exception(0) for number, future in world.futures.items() if future.done()}
    assert {number for number, failure in failures.items() if isinstance(failure, SessionExpired)} == {4, 5}
    error = world.errors.receive(0)
    assert isinstance(error, SessionExpired)
    assert (error.first, error.count) == (3, 3)
    world.settle()
    assert world.delivered() == [1, 2, 6, 7, 8]


def test_silence_makes_it_patient_and_an_answer_makes_it_quick_again() -> None:
    world = World(0)
    world.send(1)
    world.settle()
    world.send(1)
    world.pump()
    times = []
    for _ in range(200):
        before = len(world.ever)
        world.pass_time(1)
        if len(world.ever) > before:
            times.append(world.now)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert gaps == sorted(gaps)
    assert gaps[-1] >= 8 * RESEND_S
    world.settle()
    world.send(1)
    world.pump()
    world.on_the_way.clear()
    before = len(world.ever)
    world.pass_time(2)
    assert len(world.ever) == before + 1


def test_a_session_opened_again_unseen_by_a_late_repetition_is_another_one() -> None:
    world = World(0)
    world.send(3)
    world.settle()
    opening = world.log[0]
    world.send(3)
    world.pump()
    world.on_the_way.clear()
    world.expire()
    world.log.append(opening)
    world.snapshot()
    world.settle()
    unknown, _ = world.check()
    assert unknown == {4, 5, 6}
