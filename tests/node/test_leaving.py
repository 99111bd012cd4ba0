"""Nodes that leave for good, and nodes that are given up: what the others do, and what becomes of the directory."""

from __future__ import annotations

import pytest

from copycat.errors import GivenUp, LeftForGood, Timeout, UsageError
from copycat.node import CopyCat
from copycat.testing.nodes import ListCopy, NodeCluster, wait_until


def voters(node: CopyCat, group: object) -> set[str]:
    status = node.groups().get(group)  # type: ignore[call-overload]
    return set() if status is None else {peer.node_id for peer in status.voters}


def state_of(node: CopyCat, other: CopyCat) -> str:
    return next(member.state for member in node.members() if member.node_id == other.node_id)


def test_a_node_that_leaves_hands_its_voters_over_first_and_nothing_is_lost(cluster: NodeCluster) -> None:
    nodes = cluster.start(4)
    groups = [cluster.group(nodes[0], replicas=3) for _ in range(4)]
    copies = [ListCopy(nodes[0], group) for group in groups]
    for copy in copies:
        copy.sub.propose.send_many([b"a", b"b", b"c"])
        copy.wait(3)
    leaver = nodes[3]
    config = leaver.config
    cluster.nodes.remove(leaver)
    leaver.leave(timeout=30.0)
    for group, copy in zip(groups, copies, strict=True):
        wait_until(lambda group=group: len(voters(nodes[0], group) - {leaver.node_id}) == 3, "three voters")  # type: ignore[misc]
        copy.sub.propose.send(b"d")
        assert copy.wait(4) == [b"a", b"b", b"c", b"d"]
    for node in nodes[:3]:
        wait_until(lambda node=node: state_of(node, leaver) == "left", "everybody knows that it left")  # type: ignore[misc]
    if config.storage != "memory":
        with pytest.raises(LeftForGood, match="left its cluster for good"):
            CopyCat(config)


def test_those_that_left_are_not_counted_when_a_group_is_created(cluster: NodeCluster) -> None:
    nodes = cluster.start(5)
    for node in nodes[:1:-1]:
        cluster.nodes.remove(node)
        node.leave(timeout=30.0)
    cluster.group(nodes[0], replicas=2)  # 2 of 2 answer; of 5 it would be no majority


def test_a_node_that_shut_down_is_still_counted(cluster: NodeCluster) -> None:
    nodes = cluster.start(3)
    for node in nodes[:0:-1]:
        cluster.stop(node)
    allocation = nodes[0].allocate_new_data_structure(replicas=1, timeout=1.0)
    with pytest.raises(Exception, match="1 of 3 known nodes"):
        allocation.wait(10.0)


def test_the_last_voters_do_not_leave_and_go_on(one_cluster: NodeCluster) -> None:
    (node,) = one_cluster.start(1)
    group = one_cluster.group(node, replicas=1)
    with pytest.raises(Timeout, match="1 groups could not be handed over"):
        node.leave(timeout=1.0)
    copy = ListCopy(node, group)
    copy.sub.propose.send(b"still here")
    assert copy.wait(1) == [b"still here"]


def test_a_forgotten_member_is_replaced_at_once_and_refused_when_it_returns(cluster: NodeCluster) -> None:
    nodes = cluster.start(4, repair_delay_s=600.0)
    group = cluster.group(nodes[0], replicas=3)
    home = next(node for node in nodes if voters(node, group))
    gone = next(node for node in nodes[1:] if node is not home and node.node_id in voters(home, group))
    with pytest.raises(UsageError, match="alive"):
        nodes[0].forget(gone.node_id)
    config = gone.config
    cluster.stop(gone)
    wait_until(lambda: state_of(nodes[0], gone) == "left", "its goodbye is heard")
    nodes[0].forget(gone.node_id)
    wait_until(lambda: gone.node_id not in voters(home, group) and len(voters(home, group)) == 3, "a new voter")
    if config.storage == "memory":
        return
    try:
        returned = CopyCat(config)
    except GivenUp:
        pass  # it heard while it was joining
    else:
        wait_until(lambda: returned._runtime.ended.is_set(), "it hears that it was given up, and stops")
        assert isinstance(returned._engine.failed, GivenUp)
        returned.shutdown()
    with pytest.raises(LeftForGood, match="given up"):
        CopyCat(config)


def test_a_minority_does_not_forget_the_majority_unless_it_is_forced_to(one_cluster: NodeCluster) -> None:
    nodes = one_cluster.start(3)
    gone = nodes[1:]
    for node in gone:
        one_cluster.stop(node)
    with pytest.raises(UsageError, match="no majority"):
        nodes[0].forget(gone[0].node_id)
    for node in gone:
        nodes[0].forget(node.node_id, force=True)
    one_cluster.group(nodes[0], replicas=1)


def test_a_leadership_goes_where_the_operator_wants_it(cluster: NodeCluster) -> None:
    nodes = cluster.start(3)
    group = cluster.group(nodes[0], replicas=3)
    for target in nodes:
        nodes[0].transfer_leader(group, target.node_id, timeout=10.0)
        assert nodes[0].groups()[group].leader == target.node_id
    with pytest.raises(UsageError, match="has no voter"):
        nodes[0].transfer_leader(group, "0" * 26)
