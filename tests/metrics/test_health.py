"""The health check says what is wrong, in a simulated cluster where things go wrong on purpose."""

from __future__ import annotations

from concurrent.futures import Future

from copycat.config import Config
from copycat.engine import Engine
from copycat.founding import Wish
from copycat.health import LEADERLESS_S, check
from copycat.testing.world import GOSSIP_PORT, World

HOSTS = ("a", "b", "c")
GROUP = bytes(range(16))


def world_with_a_group() -> World:
    world = World(seed=1)
    peers: list[str] = []
    for host in HOSTS:
        world.add_node(host, Config(peers_to_contact=list(peers), gossip_profile="local")).start()
        peers.append(f"{host}:{GOSSIP_PORT}")
        world.run_for(2.0)
    ready: Future[None] = Future()
    engine = engine_of(world, "a")
    world.nodes["a"].post(lambda: engine.errands.allocate(GROUP, Wish(3), 10.0, ready))
    world.run_for(5.0)
    ready.result(0)
    return world


def engine_of(world: World, host: str) -> Engine:
    engine = world.nodes[host].engine
    assert engine is not None
    return engine


def test_a_cluster_that_is_well_says_so_everywhere() -> None:
    world = world_with_a_group()
    assert [check(engine_of(world, host)).reasons for host in HOSTS] == [()] * 3


def test_a_lost_majority_is_named_once_it_lasts_longer_than_an_election_and_forgotten_when_it_is_back() -> None:
    world = world_with_a_group()
    for host in "bc":
        world.nodes[host].crash()
    engine = engine_of(world, "a")
    world.run_for(LEADERLESS_S + 20.0)
    health = check(engine)
    assert not health.healthy
    assert any(reason.startswith("no majority of the cluster: 1 of 3") for reason in health.reasons)
    assert any(reason.startswith("no quorum: a majority of the voters is away") for reason in health.reasons)
    for host in "bc":
        world.nodes[host].start()
    world.run_for(30.0)
    assert [check(engine_of(world, host)).reasons for host in HOSTS] == [()] * 3


def test_a_full_log_is_named() -> None:
    world = world_with_a_group()
    engine = engine_of(world, "b")
    group = engine.hosting.groups[GROUP]
    group.log_full_until = engine.now + 1.0
    assert [reason.split(":")[0] for reason in check(engine).reasons] == ["the log is full"]
    group.log_full_until = 0.0
    assert check(engine).healthy
