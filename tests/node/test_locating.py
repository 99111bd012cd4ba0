"""Where is a data structure: here, nowhere, and "nobody could be asked" are three answers."""

from __future__ import annotations

from concurrent.futures import Future

import pytest

from copycat.errors import LookupFailed, NoQuorum, UsageError
from copycat.testing.engines import a_world, create, engine_of, group_ids, run_until
from copycat.testing.nodes import NodeCluster


def nothing() -> bytes:
    return b""


def test_a_data_structure_is_found_from_everywhere_and_one_that_was_never_made_is_not(cluster: NodeCluster) -> None:
    nodes = cluster.start(4)
    group = cluster.group(nodes[0], replicas=1)
    fresh = nodes[0].new_data_structure_id()
    (host,) = nodes[0].locate_data_structure(group)
    assert host in {node.node_id for node in nodes}
    for node in nodes:
        assert node.locate_data_structure(str(group)) == (host,)
        assert node.locate_data_structure(fresh) == ()
    assert all(fresh not in node.groups() for node in nodes), "asking creates nothing"
    with pytest.raises(UsageError):
        nodes[0].locate_data_structure("no id")
    with pytest.raises(UsageError):
        nodes[0].locate_data_structure(fresh, timeout=0)


def test_without_a_majority_nobody_says_that_it_does_not_exist(cluster: NodeCluster) -> None:
    nodes = cluster.start(3)
    for node in nodes[:0:-1]:
        cluster.stop(node)
    fresh = nodes[0].new_data_structure_id()
    with pytest.raises(LookupFailed, match="1 of 3 known nodes"):
        nodes[0].locate_data_structure(fresh, timeout=1.0)
    with pytest.raises(NoQuorum, match="1 of 3 known nodes answered"):
        nodes[0].subscribe_to_data_structure(fresh, nothing, timeout=1.0)


def test_who_knows_nothing_asks_the_others_and_is_answered_in_time() -> None:
    world = a_world(1, 5)
    (group_id,) = group_ids(1)
    create(world, [group_id])
    hosts = next(engine_of(node).cluster.hosts_of(group_id) for node in world.running())
    asker = next(node for node in world.running() if engine_of(node).node_id not in hosts)
    engine = engine_of(asker)
    engine.locating._known_hosts = lambda _: ()  # it has heard nothing

    found: Future[tuple[str, ...]] = Future()
    asker.post(lambda: engine.locating.locate(group_id, 10.0, found))
    run_until(world, found.done, "somebody answers")
    assert set(found.result()) >= set(hosts)

    absent: Future[tuple[str, ...]] = Future()
    asker.post(lambda: engine.locating.locate(group_ids(1, seed=2)[0], 10.0, absent))
    run_until(world, absent.done, "a majority answers")
    assert absent.result() == ()

    world.network.conditions.loss = 1.0
    unknown: Future[tuple[str, ...]] = Future()
    asker.post(lambda: engine.locating.locate(group_id, 10.0, unknown))
    assert 8.0 < run_until(world, unknown.done, "it gives up") < 10.0
    assert isinstance(unknown.exception(), LookupFailed)
