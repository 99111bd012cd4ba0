"""A node that comes back: what it costs, and what its earlier life left behind."""

from __future__ import annotations

import time

from copycat.node import CopyCat
from copycat.testing.disk import Disk, FaultyStorage
from copycat.testing.nodes import PATIENCE_S, ListCopy, NodeCluster, take, wait_until

ENTRIES = 20_000


def nothing() -> bytes:
    return b""


def sessions_of(node: CopyCat) -> int:
    return sum(len(group.sequencer.sessions.sessions) for group in node._engine.hosting.groups.values())


def test_a_long_log_is_read_back_quickly_and_whole(one_cluster: NodeCluster) -> None:
    config = one_cluster.config(durability="os", batch_proposals_max=1, snapshot_log_entries=10**9)
    node = CopyCat(config)
    one_cluster.nodes.append(node)
    group = one_cluster.group(node, replicas=1)
    sub = node.subscribe_to_data_structure(group, nothing, timeout=PATIENCE_S)
    sent = [b"%d" % number for number in range(ENTRIES)]
    before = time.process_time()
    sub.propose.send_many(sent, PATIENCE_S)
    sub.flush(PATIENCE_S)
    took_to_write = time.process_time() - before
    one_cluster.stop(node)
    before = time.process_time()
    again = CopyCat(config)
    one_cluster.nodes.append(again)
    assert again.node_id == node.node_id
    sub = again.subscribe_to_data_structure(group, nothing, timeout=PATIENCE_S)
    items = take(sub.commits, ENTRIES)
    took = time.process_time() - before
    assert items == sent
    assert took < took_to_write, (
        "to come back to a log takes less than to write it; tools/measure_restart tells how much"
    )


def test_sessions_that_a_crashed_life_left_are_closed_even_if_nobody_subscribes_again(
    memory_cluster: NodeCluster,
) -> None:
    disk = Disk()
    node = memory_cluster.node(storage=FaultyStorage(disk))
    group = memory_cluster.group(node, replicas=1)
    copies = [ListCopy(node, group) for _ in range(3)]
    for copy in copies:
        copy.sub.propose.submit(b"x").result(PATIENCE_S)
    assert sessions_of(node) == 3
    disk.crash()
    memory_cluster.stop(node)
    again = memory_cluster.node(storage=FaultyStorage(disk))
    wait_until(lambda: bool(again.groups()[group].leader), "it leads again")
    wait_until(lambda: sessions_of(again) == 0, "no session is left")
    copy = ListCopy(again, group)
    assert copy.wait(3) == [b"x"] * 3
    assert copy.sub.propose.submit(b"y").result(PATIENCE_S) == 4
    copy.close()


def test_subscriptions_that_only_read_leave_no_trace_in_the_log(one_cluster: NodeCluster) -> None:
    (node,) = one_cluster.start(1)
    group = one_cluster.group(node, replicas=1)
    with node.subscribe_to_data_structure(group, nothing, timeout=PATIENCE_S) as sub:
        sub.barrier(PATIENCE_S)
        assert sessions_of(node) == 0
        sub.propose.submit(b"x").result(PATIENCE_S)
        assert sessions_of(node) == 1
    wait_until(lambda: sessions_of(node) == 0, "the session is closed with its subscription")
