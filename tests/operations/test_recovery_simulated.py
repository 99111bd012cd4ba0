"""Recovery in virtual time, with the worst that old members can do: come back together, elect, and only then meet the rest."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import pytest

from copycat.config import Config
from copycat.engine import Engine
from copycat.errors import GivenUp, UsageError
from copycat.founding import Wish
from copycat.recovery import Order, Recovery
from copycat.testing.application import Application, Habits
from copycat.testing.checks import Observer
from copycat.testing.world import GOSSIP_PORT, SimulatedNode, SimulationError, World

GROUP = bytes(range(16))
STEP_S = 0.25
PATIENCE_S = 120.0


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    library = logging.getLogger("copycat")
    level = library.level
    library.setLevel(logging.CRITICAL)
    yield
    library.setLevel(level)


class Story:
    """Five nodes' hosts; a consumer on each of some, all of whose words are checked as they come."""

    def __init__(self, seed: int) -> None:
        self.world = World(seed)
        self.observer = Observer(self.world.timeline)
        self.apps: list[Application] = []
        self._rng = random.Random(seed)

    def start(self, host: str) -> SimulatedNode:
        seeds = [] if host == "n1" else [f"n1:{GOSSIP_PORT}"]
        config = Config(peers_to_contact=seeds, gossip_profile="local", repair_delay_s=600.0, snapshot_log_entries=200)
        node = self.world.add_node(host, config)
        node.start()
        return node

    def consume(self, node: SimulatedNode) -> Application:
        app = Application(node, GROUP, Habits(), random.Random(self._rng.getrandbits(64)), self.observer)
        self.apps.append(app)
        return app

    def until(self, holds: Callable[[], bool], what: str) -> None:
        ends = self.world.now + PATIENCE_S
        while not holds():
            assert self.world.now < ends, what
            self.world.run_for(STEP_S)

    def order(self, node: SimulatedNode, ask: Callable[[Future[object]], None]) -> object:
        answer: Future[object] = Future()
        node.post(lambda: ask(answer))
        self.until(answer.done, "an answer")
        return answer.result()

    def leader(self, node: SimulatedNode) -> int:
        assert node.engine is not None
        group = node.engine.hosting.groups.get(GROUP)
        return 0 if group is None else group.leader

    def voters(self, node: SimulatedNode) -> set[str]:
        assert node.engine is not None
        group = node.engine.hosting.groups.get(GROUP)
        return set() if group is None else {group.node_of(raft_id) or "" for raft_id in group.voters()}


def is_whole(story: Story) -> bool:
    """Proposals that nobody waits for may be under way when everybody agrees."""
    try:
        story.observer.check_end()
    except SimulationError:
        return False
    return True


@pytest.mark.parametrize("seed", range(6))
def test_old_members_that_elect_among_themselves_never_touch_the_group_that_goes_on(seed: int) -> None:
    story = Story(seed)
    world = story.world
    survivor, *lost = [story.start(f"n{number}") for number in (1, 2, 3)]
    story.until(lambda: all(len(node.engine.cluster.members()) == 3 for node in world.running()), "three members")  # type: ignore[union-attr]
    app = story.consume(survivor)
    story.until(lambda: story.observer.committed >= 40 and len(story.voters(survivor)) == 3, "items")
    ids = [node.engine.node_id for node in lost if node.engine is not None]
    for node in lost:
        node.crash()
    story.until(lambda: story.leader(survivor) == 0, "the survivor sees no leader")
    assert survivor.engine is not None
    story.until(lambda: not survivor.engine.recoveries.has_quorum(survivor.engine.hosting.groups[GROUP]), "no quorum")
    handed = app.state.position

    engine = survivor.engine
    for node_id in ids:
        story.until(lambda node_id=node_id: engine.cluster.absent_since(node_id) is not None, "it counts as dead")  # type: ignore[misc]
        story.order(survivor, lambda answer, node_id=node_id: engine.departures.forget(node_id, True, answer))  # type: ignore[misc]
    order = Order("the test", "two disks are gone", "2000-01-01T00:00:00")
    record = story.order(survivor, lambda answer: engine.recoveries.recover(GROUP, order, 10.0, answer))  # type: ignore[arg-type]
    assert isinstance(record, Recovery)
    story.until(lambda: app.state.position > handed + 20, "the survivor goes on")

    # The disks were not gone after all, and their nodes come back where nobody tells them.
    for node in lost:
        for pair in ((node.host, "n1"), ("n1", node.host)):
            world.network.cut(*pair)
        node.start()
    story.until(lambda: all(story.leader(node) for node in lost), "the old majority elects, as it must")
    for node in lost:
        assert node.engine is not None
        term = node.engine.hosting.groups[GROUP].term
        assert record.old_term < term < record.new_term
        node.faulty = True  # so the world lets it stop
    world.network.mend_all()
    story.until(lambda: all(node.engine is None for node in lost), "old members stop when they meet the others")
    assert all(isinstance(node.failure, GivenUp) for node in lost)

    replacements = [story.start("n4"), story.start("n5")]
    story.until(lambda: len(story.voters(survivor)) == 3, "the group grows back")
    story.consume(replacements[0])
    app.sending = False
    story.until(
        lambda: all(each.state.position == story.observer.committed and not each._futures for each in story.apps),
        "everybody agrees",
    )
    story.until(lambda: is_whole(story), "what was still on its way has come")
    story.observer.check_end()
    group = survivor.engine.hosting.groups[GROUP]
    assert {raft_id for raft_id, _ in record.voters} <= set(group.sequencer.departed)


@pytest.mark.parametrize("seed", range(6))
def test_of_two_survivors_that_are_ordered_at_once_one_goes_on(seed: int) -> None:
    story = Story(seed)
    world = story.world
    nodes = [story.start(f"n{number}") for number in range(1, 6)]
    survivors, lost = nodes[:2], nodes[2:]
    story.until(lambda: all(len(node.engine.cluster.members()) == 5 for node in world.running()), "five members")  # type: ignore[union-attr]
    engines = [node.engine for node in survivors if node.engine is not None]
    made: Future[None] = Future()
    survivors[0].post(lambda: engines[0].errands.allocate(GROUP, Wish(5), 30.0, made))
    story.until(made.done, "a group of five")
    apps = [story.consume(node) for node in survivors]
    story.until(lambda: story.observer.committed >= 40 and len(story.voters(survivors[0])) == 5, "items")
    ids = [node.engine.node_id for node in lost if node.engine is not None]
    for node in lost:
        node.crash()
    story.until(lambda: not any(story.leader(node) for node in survivors), "no leader")
    for node, engine in zip(survivors, engines, strict=True):
        for node_id in ids:
            story.until(lambda engine=engine, node_id=node_id: engine.cluster.absent_since(node_id) is not None, "dead")  # type: ignore[misc]
            story.order(node, lambda answer, node_id=node_id, e=engine: e.departures.forget(node_id, True, answer))  # type: ignore[misc]

    answers: list[Future[Recovery]] = [Future() for _ in survivors]
    order = Order("the test", "three disks are gone", "2000-01-01T00:00:00")

    def ask(engine: Engine, answer: Future[Recovery]) -> None:
        try:
            engine.recoveries.recover(GROUP, order, 10.0, answer)
        except UsageError as error:
            answer.set_exception(error)

    for number in random.Random(seed).sample(range(2), 2):
        survivors[number].post(lambda number=number: ask(engines[number], answers[number]))  # type: ignore[misc]
        world.run_for(random.Random(seed).choice((0.0, 0.0001, 0.001, 0.01)))
    story.until(lambda: all(answer.done() for answer in answers), "both are answered")
    recovered = [answer for answer in answers if answer.exception() is None]
    assert len(recovered) <= 1
    if not recovered:  # the one with the smaller id lacked something: it is the other one, a moment later
        for number in (0, 1):
            again: Future[Recovery] = Future()
            survivors[number].post(lambda number=number, again=again: ask(engines[number], again))  # type: ignore[misc]
            story.until(again.done, "an answer")
            if again.exception() is None:
                break
            world.run_for(1.0)
        assert again.exception() is None
    story.until(lambda: len(story.voters(survivors[0]) & story.voters(survivors[1])) == 2, "both have it again")
    for app in apps:
        app.sending = False
    story.until(
        lambda: all(app.state.position == story.observer.committed and not app._futures for app in apps),
        "everybody agrees",
    )
    story.until(lambda: is_whole(story), "what was still on its way has come")
    story.observer.check_end()
