"""Clusters of whole engines in virtual time, for tests and tools that look at membership, creation and repair."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from copycat.config import Config
from copycat.errors import CopyCatError
from copycat.founding import Wish
from copycat.testing.world import GOSSIP_PORT, SimulatedNode, World

STEP_S = 0.05


def a_world(seed: int, count: int, places: list[tuple[str, str]] | None = None, **fields: Any) -> World:
    """``count`` nodes that have found each other, of which the first founded the cluster."""
    world = World(seed)
    for number in range(count):
        add(world, number, places[number % len(places)] if places else ("", ""), **fields)
    settle(world)
    return world


def add(world: World, number: int, place: tuple[str, str] = ("", ""), **fields: Any) -> SimulatedNode:
    """One more node, started; it knows the first one's address."""
    seeds = [f"n1:{GOSSIP_PORT}"] if number else []
    config = Config(
        peers_to_contact=seeds,
        data_center=place[0],
        rack=place[1],
        **{"gossip_profile": "local", "tick_ms": 20, **fields},
    )
    node = world.add_node(f"n{number + 1}", config)
    node.start()
    return node


def engine_of(node: SimulatedNode) -> Any:
    assert node.engine is not None
    return node.engine


def settle(world: World, patience_s: float = 60.0) -> None:
    """Until all that run see each other alive, and vote."""
    running = world.running()
    ids = {engine_of(node).node_id for node in running}

    def settled() -> bool:
        return all(
            ids == {one.node_id for one in engine_of(node).cluster.members() if one.state == "alive"}
            and engine_of(node).founding.ready
            for node in running
        )

    run_until(world, settled, "all see all", patience_s)


def run_until(world: World, holds: Callable[[], bool], what: str, patience_s: float = 60.0) -> float:
    """Virtual seconds until it held."""
    began = world.now
    while not holds():
        assert world.now - began < patience_s, f"not within {patience_s} s: {what}"
        world.run_for(STEP_S)
    return world.now - began


def seek(
    node: SimulatedNode, group_id: bytes, replicas: int = 3, timeout_s: float = 10.0, host_here: bool = False
) -> Future[CopyCatError | None]:
    """Wish for a group; the future gets the error, or None."""
    outcome: Future[CopyCatError | None] = Future()

    def wish() -> None:
        engine_of(node).founding.seek(group_id, Wish(replicas), timeout_s, host_here, outcome.set_result)

    assert node.post(wish)
    return outcome


def create(world: World, group_ids: list[bytes], replicas: int = 3) -> None:
    """Make groups, and wait until each has a leader."""
    node = world.running()[0]
    outcomes = [seek(node, group_id, replicas) for group_id in group_ids]
    run_until(world, lambda: all(outcome.done() for outcome in outcomes), "the groups are created")
    assert [outcome.result() for outcome in outcomes] == [None] * len(group_ids)
    run_until(world, lambda: len(leaders(world)) == len(group_ids), "all groups are led")


def leaders(world: World) -> dict[bytes, Any]:
    """Of each group the replica that leads it in the highest term."""
    found: dict[bytes, Any] = {}
    for node in world.running():
        for group_id, group in engine_of(node).hosting.groups.items():
            if group.leads and (group_id not in found or group.term > found[group_id].term):
                found[group_id] = group
    return found


def voters(world: World) -> dict[bytes, frozenset[str]]:
    """Node ids of each group's voters, as its leader has them."""
    return {
        group_id: frozenset(group.node_of(raft_id) or "" for raft_id in group.voters())
        for group_id, group in leaders(world).items()
    }


def group_ids(count: int, seed: int = 1) -> list[bytes]:
    """Distinct ids."""
    rng = random.Random(seed)
    return [rng.randbytes(16) for _ in range(count)]
