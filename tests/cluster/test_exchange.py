"""The directory over whole clusters of engines in virtual time: everybody hears of every change, at a cost that stays small."""

from __future__ import annotations

import pytest

from copycat.gossip.overlay import OverlayProfile
from copycat.hostset import VOTER
from copycat.ports import Lane
from copycat.testing.engines import a_world, add, create, engine_of, group_ids, leaders, run_until, settle
from copycat.testing.world import SimulatedNode, World

MANY = 20
"""More than the dozen up to which everybody subscribes to everybody."""


class Meter:
    """Bytes that were sent since, by lane."""

    def __init__(self, world: World) -> None:
        self.sent: dict[Lane, int] = dict.fromkeys(Lane, 0)
        self.frames: dict[Lane, int] = dict.fromkeys(Lane, 0)
        carry = world.network.carry

        def counted(source: str, target: str, frame, size: int) -> None:
            self.sent[frame.lane] += size
            self.frames[frame.lane] += 1
            carry(source, target, frame, size)

        world.network.carry = counted  # type: ignore[method-assign]

    def reset(self) -> None:
        for lane in Lane:
            self.sent[lane] = self.frames[lane] = 0


def links_of(node: SimulatedNode) -> frozenset[str]:
    return engine_of(node).cluster.exchange.links


def agree(world: World) -> bool:
    return len({engine_of(node).cluster.directory.summary() for node in world.running()}) == 1


def host(node: SimulatedNode, ids: list[bytes]) -> None:
    """Say that this node hosts these groups."""

    def say() -> None:
        for group_id in ids:
            engine_of(node).cluster.directory.host(group_id, VOTER)

    assert node.post(say)


def reached_from(world: World, start: SimulatedNode) -> set[str]:
    """Nodes that hear, directly or passed on, what ``start`` publishes."""
    names = {engine_of(node).node_id: node for node in world.running()}
    seen = {engine_of(start).node_id}
    edge = list(seen)
    while edge:
        name = edge.pop()
        for other, node in names.items():
            if other not in seen and name in links_of(node):
                seen.add(other)
                edge.append(other)
    return seen


def test_above_a_dozen_nodes_subscriptions_are_bounded_and_every_change_reaches_all_once() -> None:
    world = a_world(1, MANY)
    nodes = world.running()
    for node in nodes:
        assert len(links_of(node)) == OverlayProfile().degree
        assert node.transport is not None
        assert node.transport.subscriptions == links_of(node), "what it listens to is what it chose"
        assert len(reached_from(world, node)) == MANY
    run_until(world, lambda: agree(world), "all hold the same")
    meter = Meter(world)
    (group_id,) = group_ids(1)
    host(nodes[3], [group_id])
    world.run_for(0.4)
    assert all(engine_of(node).cluster.hosts_of(group_id) == (engine_of(nodes[3]).node_id,) for node in nodes)
    assert meter.frames[Lane.GOSSIP] <= 2 * MANY * OverlayProfile().degree, (
        "two items, each passed on once by each node"
    )
    assert agree(world)


def test_up_to_a_dozen_nodes_everybody_listens_to_everybody_and_nothing_is_passed_on() -> None:
    world = a_world(2, 6)
    nodes = world.running()
    assert [len(links_of(node)) for node in nodes] == [5] * 6
    run_until(world, lambda: agree(world), "all hold the same")
    host(nodes[0], group_ids(1))
    world.run_for(0.2)
    meter = Meter(world)
    host(nodes[0], group_ids(1, seed=2))
    world.run_for(0.2)
    assert agree(world)
    assert meter.frames[Lane.GOSSIP] == 5


def test_dead_sources_are_replaced_and_those_that_come_are_listened_to() -> None:
    world = a_world(3, MANY)
    victims = world.running()[1:8]
    gone = {engine_of(node).node_id for node in victims}
    for node in victims:
        node.crash()
    run_until(world, lambda: not any(links_of(node) & gone for node in world.running()), "the dead are replaced")
    for node in world.running():
        assert len(reached_from(world, node)) == MANY - 7
    late = add(world, MANY)
    settle(world)
    for node in victims:
        node.start()
    settle(world)
    for node in world.running():
        assert len(links_of(node)) == OverlayProfile().degree
    host(late, group_ids(3))
    run_until(world, lambda: agree(world), "all hold the same")
    assert all(len(engine_of(node).cluster.directory) == 3 for node in world.running())


@pytest.mark.parametrize("count", [5, MANY])
def test_what_publications_lose_comparison_finds(count: int) -> None:
    world = a_world(4, count)
    world.network.conditions.loss = 0.7
    for number, node in enumerate(world.running()):
        host(node, group_ids(20, seed=number))
        world.run_for(0.1)
    world.run_for(2.0)
    assert not agree(world), "nothing was lost, so this shows nothing"
    world.network.conditions.loss = 0.0
    run_until(world, lambda: agree(world), "all hold the same")
    assert all(len(engine_of(node).cluster.directory) == 20 * count for node in world.running())


def test_a_large_set_is_sent_once_to_a_newcomer_and_never_again_for_a_change_or_a_restart() -> None:
    per_node, count = 10_000, 4
    world = a_world(5, count)
    for number, node in enumerate(world.running()):
        host(node, group_ids(per_node, seed=number))
    run_until(world, lambda: agree(world), "all hold the same")
    world.run_for(3.0)
    meter = Meter(world)
    world.run_for(10.0)
    quiet = dict(meter.sent)
    assert quiet[Lane.GOSSIP] == 0
    assert quiet[Lane.RAFT] < 10 * count * 400, "a quiet cluster's comparisons don't grow with groups"

    meter.reset()
    host(world.running()[0], group_ids(1, seed=99))
    world.run_for(10.0)
    assert agree(world)
    assert 0 < meter.sent[Lane.GOSSIP] < 2_000
    assert meter.sent[Lane.RAFT] < quiet[Lane.RAFT] + 3_000

    meter.reset()
    late = add(world, count)
    settle(world)
    run_until(world, lambda: agree(world), "the newcomer holds all")
    assert len(engine_of(late).cluster.directory) == per_node * count + 1
    whole = 20 * per_node * count
    assert whole < meter.sent[Lane.RAFT] < 1.2 * whole, "each set travelled once"


def test_a_node_that_starts_again_costs_the_others_no_more_than_its_digest() -> None:
    world = a_world(6, 3)
    create(world, group_ids(60), replicas=3)
    run_until(world, lambda: agree(world), "all hold the same")
    again = world.running()[1]
    node_id = engine_of(again).node_id
    directory = engine_of(world.running()[0]).cluster.directory
    groups_before = set(directory.groups_of(node_id))
    assert len(groups_before) == 60
    asked = {node.host: engine_of(node).cluster.exchange.questions for node in world.running() if node is not again}
    again.crash()
    again.start()
    settle(world)
    run_until(world, lambda: agree(world) and len(leaders(world)) == 60, "all hold the same again")
    assert set(directory.groups_of(node_id)) == groups_before
    pages = 0
    for node in world.running():
        if node is not again:
            pages += engine_of(node).cluster.exchange.questions - asked[node.host]
    assert pages <= 4, "at most what was lost while sockets connected was asked for, and no set anew"
