"""A group that lost its quorum for good: it waits, is reported, is recovered from a survivor, and grows back."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from copycat import errors
from copycat.errors import GivenUp, UsageError
from copycat.node import CopyCat
from copycat.recovery import Extent, is_quorum, objection, recoveries_in
from copycat.testing.nodes import PATIENCE_S, ListCopy, NodeCluster, wait_until

SAFELY = {"repair_delay_s": 600.0}


def status(node: CopyCat, group: Any) -> Any:
    return node.groups()[group]


def voters(node: CopyCat, group: Any) -> set[str]:
    return {peer.node_id for peer in status(node, group).voters}


def lose(cluster: NodeCluster, survivor: CopyCat, lost: list[CopyCat], forget: bool = True) -> None:
    for node in lost:
        cluster.stop(node)
    if forget:
        for node in lost:
            survivor.forget(node.node_id, force=True)


def recover(node: CopyCat, group: Any, **how: Any) -> Any:
    wait_until(lambda: status(node, group).leader is None, "no leader")
    return node.recover(group, "the test", "two of three are gone", **how)


def test_without_a_quorum_a_group_waits_and_says_so(cluster: NodeCluster) -> None:
    nodes = cluster.start(3, **SAFELY)
    group = cluster.group(nodes[0], replicas=3)
    assert status(nodes[0], group).has_quorum
    lose(cluster, nodes[0], nodes[1:], forget=False)
    wait_until(lambda: status(nodes[0], group).leader is None, "no leader")
    wait_until(lambda: not status(nodes[0], group).has_quorum, "no quorum")
    with pytest.raises(UsageError, match="give them up first"):
        recover(nodes[0], group, force=True)


def test_a_survivor_goes_on_and_nothing_it_had_is_lost_or_doubled(cluster: NodeCluster) -> None:
    nodes = cluster.start(3, **SAFELY)
    group = cluster.group(nodes[0], replicas=3)
    copy = ListCopy(nodes[0], group)
    other = ListCopy(nodes[1], group)
    copy.sub.propose.send_many([b"a%d" % number for number in range(50)])
    other.sub.propose.send_many([b"b%d" % number for number in range(50)])
    before = list(copy.wait(100))
    lose(cluster, nodes[0], nodes[1:])
    waiting = [copy.sub.propose.submit(b"waits%d" % number) for number in range(10)]
    wait_until(lambda: status(nodes[0], group).leader is None, "no leader")
    old = status(nodes[0], group)

    record = recover(nodes[0], group)
    assert record.old_raft_id == old.raft_id
    assert record.new_term > old.term
    assert dict(record.voters).keys() == {peer.raft_id for peer in old.voters}
    for future in waiting:
        future.result(PATIENCE_S)
    assert copy.wait(110)[:100] == before
    assert copy.items[100:] == [b"waits%d" % number for number in range(10)]
    new = status(nodes[0], group)
    assert [peer.raft_id for peer in new.voters] == [record.new_raft_id]
    assert new.has_quorum
    assert new.under_replicated

    cluster.start(2, **SAFELY)
    wait_until(lambda: len(voters(nodes[0], group)) == 3, "it grows back")
    assert ListCopy(cluster.nodes[-1], group).wait(110) == copy.items
    copy.sub.propose.submit(b"end").result(PATIENCE_S)


def test_what_was_recovered_is_on_the_disk_and_survives_a_restart(cluster: NodeCluster) -> None:
    nodes = cluster.start(3, **SAFELY)
    group = cluster.group(nodes[0], replicas=3)
    copy = ListCopy(nodes[0], group)
    copy.sub.propose.submit(b"kept").result(PATIENCE_S)
    survivor = nodes[0]
    lose(cluster, survivor, nodes[1:])
    record = recover(survivor, group)
    copy.sub.propose.submit(b"new").result(PATIENCE_S)
    config = survivor.config
    cluster.stop(survivor)
    again = CopyCat(config)
    cluster.nodes.append(again)
    assert ListCopy(again, group).wait(2) == [b"kept", b"new"]
    assert recoveries_in(again._engine.store) == [record]
    assert status(again, group).raft_id == record.new_raft_id


def test_a_group_with_a_living_majority_is_not_recovered(cluster: NodeCluster) -> None:
    nodes = cluster.start(3, **SAFELY)
    group = cluster.group(nodes[0], replicas=3)
    with pytest.raises(UsageError, match="has a leader"):
        nodes[0].recover(group, "the test", "")
    with pytest.raises(UsageError, match="no replica of the group"):
        nodes[0].recover(nodes[0].new_data_structure_id(), "the test", "")


def test_an_old_member_that_comes_back_stops_and_makes_no_second_group(cluster: NodeCluster) -> None:
    nodes = cluster.start(3, **SAFELY)
    group = cluster.group(nodes[0], replicas=3)
    copy = ListCopy(nodes[0], group)
    copy.sub.propose.submit(b"first").result(PATIENCE_S)
    lost = nodes[1:]
    configs = [node.config for node in lost]
    lose(cluster, nodes[0], lost)
    record = recover(nodes[0], group)
    copy.sub.propose.submit(b"second").result(PATIENCE_S)
    for config in configs:  # both, which are a majority of the old configuration
        try:
            cluster.nodes.append(CopyCat(config))
        except GivenUp:  # it heard it while it joined
            continue
    for returned in cluster.nodes[1:]:
        wait_until(lambda returned=returned: returned._runtime.ended.is_set(), "it hears that it was given up")  # type: ignore[misc]
        assert isinstance(returned._engine.failed, GivenUp)
    copy.sub.propose.submit(b"third").result(PATIENCE_S)
    assert copy.wait(3) == [b"first", b"second", b"third"]
    assert [peer.raft_id for peer in status(nodes[0], group).voters] == [record.new_raft_id]
    for config in configs:
        with pytest.raises(errors.LeftForGood):
            CopyCat(config)


def test_the_other_survivors_replica_gives_way_and_its_consumer_goes_on(cluster: NodeCluster) -> None:
    nodes = cluster.start(5, **SAFELY)
    group = cluster.group(nodes[0], replicas=5)
    copies = [ListCopy(node, group) for node in nodes[:2]]
    for number, copy in enumerate(copies):
        copy.sub.propose.submit(b"%d" % number).result(PATIENCE_S)
    lose(cluster, nodes[0], nodes[2:])
    for number, copy in enumerate(copies):
        copy.sub.propose.send(b"waits%d" % number)
    wait_until(lambda: all(status(node, group).leader is None for node in nodes[:2]), "no leader")
    for node in nodes[:2]:
        try:
            record = recover(node, group)
        except UsageError as error:
            refusal = str(error)
        else:
            break
    if node is not nodes[0]:
        assert "more complete log" in refusal
    wait_until(lambda: len(voters(node, group)) == 2, "the other one joined again")
    contents = [copy.wait(4) for copy in copies]
    assert contents[0] == contents[1]
    assert sorted(contents[0]) == [b"0", b"1", b"waits0", b"waits1"]
    old = {raft_id for raft_id, _ in record.voters}
    assert old.isdisjoint(peer.raft_id for peer in status(node, group).voters)


def test_a_survivor_without_the_disk_of_another_is_not_fooled_by_a_wiped_one(
    cluster: NodeCluster, tmp_path: Path
) -> None:
    """A wiped disk is another node: it has no vote in the old configuration, and none in the new one until it has the log."""
    nodes = cluster.start(3, **SAFELY)
    group = cluster.group(nodes[0], replicas=3)
    ListCopy(nodes[0], group).sub.propose.submit(b"kept").result(PATIENCE_S)
    wiped = [node.config for node in nodes[1:]]
    lose(cluster, nodes[0], nodes[1:])
    recover(nodes[0], group)
    for config in wiped:
        shutil.rmtree(config.data_dir)
        cluster.nodes.append(CopyCat(config))
    wait_until(lambda: len(voters(nodes[0], group)) == 3, "it grows back")
    assert ListCopy(cluster.nodes[-1], group).wait(1) == [b"kept"]


# --- which survivor --------------------------------------------------------------------------------------------------


def extent(commit: int, commit_term: int, last: int, last_term: int, held: bool, led: bool = False) -> Extent:
    return Extent(bytes(16), 0, 1, led, commit, commit_term, last, last_term, held)


@pytest.mark.parametrize(
    ("mine", "theirs", "objects"),
    [
        (extent(5, 1, 9, 1, True), extent(5, 1, 9, 1, True), None),
        (extent(5, 1, 9, 1, True), extent(5, 1, 10, 1, True), "more complete"),
        (extent(5, 1, 9, 1, True), extent(5, 1, 6, 2, True), "more complete"),
        (extent(5, 1, 9, 2, True), extent(5, 1, 20, 1, True), None),
        # They have a longer log, but not what is known here to be committed: theirs is a tail that never was.
        (extent(5, 3, 9, 3, True), extent(4, 1, 6, 4, False), None),
        (extent(5, 1, 9, 4, False), extent(7, 3, 8, 3, True), "to be committed"),
        (extent(5, 1, 9, 1, True), extent(5, 1, 9, 1, True, led=True), "knows a leader"),
    ],
)
def test_the_most_complete_log_goes_on(mine: Extent, theirs: Extent, objects: str | None) -> None:
    found = objection(mine, theirs)
    assert (found is None) == (objects is None)
    assert objects is None or objects in str(found)


def test_a_quorum_needs_both_halves_of_a_joint_configuration() -> None:
    assert is_quorum({1, 2}, {1, 2, 3}, set())
    assert not is_quorum({1}, {1, 2}, set())
    assert not is_quorum({1, 2}, {1, 2, 3}, {3, 4, 5})
    assert is_quorum({1, 2, 4}, {1, 2, 3}, {2, 4, 5})
