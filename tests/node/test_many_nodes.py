"""More real nodes than all listen to each other: what one says reaches those that don't listen to it."""

from __future__ import annotations

import os

import pytest

from copycat.gossip.overlay import OverlayProfile
from copycat.node import CopyCat
from copycat.testing.nodes import NodeCluster, wait_until

from .conftest import plugs_of_this_run

TRANSPORTS = sorted({transport for transport, _ in plugs_of_this_run()})


def links(node: CopyCat) -> frozenset[str]:
    return node._engine.cluster.exchange.links


def knows_host(node: CopyCat, group: object, host: CopyCat) -> bool:
    return host.node_id in node._engine.cluster.hosts_of(bytes(group))  # type: ignore[call-overload]


@pytest.mark.slow
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_news_of_a_group_reaches_every_node_over_a_bounded_overlay(tmp_path: object, transport: str) -> None:
    count = 20 if transport == "memory" else 14
    with NodeCluster(tmp_path, transport, os.environ.get("COPYCAT_TEST_STORAGE", "memory")) as cluster:  # type: ignore[arg-type]
        nodes = cluster.start(count, gossip_profile="lan", tick_ms=100)
        degree = OverlayProfile().degree
        for node in nodes:
            wait_until(lambda node=node: len(links(node)) == degree, "it listens to a few")  # type: ignore[misc]
        group = cluster.group(nodes[0], replicas=1)
        host = next(node for node in nodes if group in node.groups())
        deaf = [node for node in nodes if node is not host and host.node_id not in links(node)]
        assert deaf, "everybody listens to it, so this shows nothing"
        for node in nodes:
            wait_until(lambda node=node: knows_host(node, group, host), "it knows who hosts the group")  # type: ignore[misc]
        stopped = next(node for node in nodes[1:] if node is not host)
        cluster.stop(stopped)
        for node in cluster.nodes:
            wait_until(lambda node=node: stopped.node_id not in links(node), "it listens to somebody else")  # type: ignore[misc]
            assert len(links(node)) == degree
