"""The whole public interface, on real nodes, over each pair of plugs."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import copycat
from copycat import errors
from copycat.testing.nodes import PATIENCE_S, ListCopy, NodeCluster, take, wait_until


def nothing() -> bytes:
    return b""


def test_every_subscriber_is_handed_the_same_sequence(cluster: NodeCluster) -> None:
    nodes = cluster.start(3)
    group = cluster.group(nodes[0])
    copies = [ListCopy(node, group, receive_many=many) for node, many in zip(nodes, (0, 1, 1000), strict=True)]

    def propose(index: int) -> None:
        sent = [b"%d:%d" % (index, number) for number in range(500)]
        copies[index].sub.propose.send_many(sent[:250], PATIENCE_S)
        for each in sent[250:]:
            copies[index].sub.propose.send(each, PATIENCE_S)
        copies[index].sub.flush(PATIENCE_S)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(propose, range(3)))
    sequences = [copy.wait(1500) for copy in copies]
    assert sequences[0] == sequences[1] == sequences[2]
    assert len(sequences[0]) == 1500
    for index in range(3):
        mine = [item for item in sequences[0] if item.startswith(b"%d:" % index)]
        assert mine == [b"%d:%d" % (index, number) for number in range(500)]
    for copy in copies:
        copy.close()


def test_a_future_gets_the_position_at_which_its_proposal_comes_out(cluster: NodeCluster) -> None:
    (node,) = cluster.start(1)
    with node.subscribe_to_data_structure(node.new_data_structure_id(), nothing, timeout=PATIENCE_S) as sub:
        sub.propose.send(b"first")
        futures = [sub.propose.submit(b"%d" % number) for number in range(20)]
        sub.propose.send(b"last")
        assert [future.result(PATIENCE_S) for future in futures] == list(range(2, 22))
        for position in range(1, 23):
            item = sub.commits.receive(PATIENCE_S)
            assert sub.commits.position == position
            if 2 <= position <= 21:
                assert item == b"%d" % (position - 2)


def test_empty_proposals_count(one_cluster: NodeCluster) -> None:
    (node,) = one_cluster.start(1)
    with node.subscribe_to_data_structure(node.new_data_structure_id(), nothing, timeout=PATIENCE_S) as sub:
        sub.propose.send_many([b"", b"a", b"", b""])
        assert sub.propose.submit(b"").result(PATIENCE_S) == 5
        assert take(sub.commits, 5) == [b"", b"a", b"", b"", b""]
        assert sub.commits.position == 5


def test_the_subscription_unpacks_into_the_four_channels(one_cluster: NodeCluster) -> None:
    (node,) = one_cluster.start(1)
    with node.subscribe_to_data_structure(node.new_data_structure_id(), nothing, timeout=PATIENCE_S) as sub:
        propose, commits, failures, snapshot_consumer = sub
        propose.send(b"x")
        assert commits.receive(PATIENCE_S) == b"x"
        with pytest.raises(errors.Timeout):
            commits.receive(0)
        assert commits.receive_many(10, 0) == []
        with pytest.raises(TimeoutError):
            failures.receive(0.001)
        with pytest.raises(errors.UsageError):
            snapshot_consumer()


def test_several_subscriptions_on_one_node_have_their_own_channels(cluster: NodeCluster) -> None:
    (node,) = cluster.start(1)
    group = cluster.group(node, replicas=1)
    subs = [node.subscribe_to_data_structure(group, nothing, timeout=PATIENCE_S) for _ in range(3)]
    for number, sub in enumerate(subs):
        sub.propose.send_many([b"%d-%d" % (number, count) for count in range(10)])
    for sub in subs:
        sub.flush(PATIENCE_S)
    sequences = [take(sub.commits, 30) for sub in subs]
    assert sequences[0] == sequences[1] == sequences[2]
    subs[0].close()
    subs[1].propose.send(b"more")
    assert subs[2].commits.receive(PATIENCE_S) == b"more"
    with pytest.raises(errors.Closed):
        subs[0].commits.receive(PATIENCE_S)
    assert len(node.groups()) == 1


def test_after_a_barrier_everything_committed_before_was_handed_out(cluster: NodeCluster) -> None:
    nodes = cluster.start(3)
    group = cluster.group(nodes[0])
    copies = [ListCopy(node, group) for node in nodes]
    for count in range(1, 20):
        writer, reader = copies[count % 3], copies[(count + 1) % 3]
        position = writer.sub.propose.submit(b"%d" % count).result(PATIENCE_S)
        reader.sub.barrier(PATIENCE_S)
        assert len(reader.items) >= position
        assert reader.items[position - 1] == b"%d" % count
    for copy in copies:
        copy.close()


def test_close_lets_what_is_in_flight_commit_first(cluster: NodeCluster) -> None:
    nodes = cluster.start(3)
    group = cluster.group(nodes[0])
    reader = ListCopy(nodes[0], group)
    for round_ in range(3):
        node = nodes[round_]
        sub = node.subscribe_to_data_structure(group, nothing, timeout=PATIENCE_S)
        sub.propose.send_many([b"%d" % number for number in range(2000)])
        last = sub.propose.submit(b"last")
        sub.propose.close()
        sub.close()
        assert last.result(PATIENCE_S) == 2001 * (round_ + 1)
        with pytest.raises(errors.Closed):
            sub.propose.send(b"too late")
        with pytest.raises(errors.Closed):
            sub.propose.submit(b"too late")
        with pytest.raises(errors.Closed):
            sub.errors.receive(PATIENCE_S)
        with pytest.raises(errors.Closed):
            sub.status()
    expected = ([b"%d" % number for number in range(2000)] + [b"last"]) * 3
    assert reader.wait(len(expected)) == expected
    reader.close()


def test_iteration_ends_when_the_channel_is_closed(one_cluster: NodeCluster) -> None:
    (node,) = one_cluster.start(1)
    sub = node.subscribe_to_data_structure(node.new_data_structure_id(), nothing, timeout=PATIENCE_S)
    got: list[bytes | None] = []
    reader = threading.Thread(target=lambda: got.extend(sub.commits), daemon=True)
    reader.start()
    sub.propose.send_many([b"a", b"b"])
    sub.flush(PATIENCE_S)
    sub.close()
    reader.join(PATIENCE_S)
    assert got == [b"a", b"b"]
    assert list(sub.errors) == []


def test_members_groups_and_status_tell_what_is_there(cluster: NodeCluster) -> None:
    nodes = cluster.start(3, data_center="here", rack="r")
    group = cluster.group(nodes[0], replicas=3)
    ids = {node.node_id for node in nodes}
    for node in nodes:
        members = node.members()
        assert {member.node_id for member in members} == ids
        assert {(member.state, member.data_center, member.rack) for member in members} == {("alive", "here", "r")}
        assert {member.address for member in members} == {each.address for each in nodes}
    subs = [node.subscribe_to_data_structure(group, nothing, timeout=PATIENCE_S) for node in nodes]
    subs[0].propose.submit(b"x").result(PATIENCE_S)
    for sub in subs:
        assert sub.commits.receive(PATIENCE_S) == b"x"

    def settled() -> bool:
        found = [sub.status() for sub in subs]
        return sorted(status.role for status in found) == ["follower", "follower", "leader"] and all(
            len(status.voters) == 3 for status in found
        )

    wait_until(settled, "one leader and two followers")
    statuses = [sub.status() for sub in subs]
    assert {status.leader for status in statuses} <= ids
    assert {peer.node_id for peer in statuses[0].voters} == ids
    assert all(status.applied_position == 1 and status.interactive for status in statuses)
    assert all(node.groups()[group].data_structure_id == str(group) for node in nodes)


def test_a_subscriber_elsewhere_joins_as_learner_and_leaves_when_it_closes(cluster: NodeCluster) -> None:
    nodes = cluster.start(2)
    group = cluster.group(nodes[0], replicas=1)
    (host,) = [node for node in nodes if node.groups()]
    (guest,) = [node for node in nodes if node is not host]
    copy = ListCopy(guest, group)
    copy.sub.propose.send_many([b"%d" % number for number in range(100)])
    assert copy.wait(100) == [b"%d" % number for number in range(100)]
    assert copy.sub.status().role == "learner"
    copy.close()
    wait_until(lambda: not guest.groups(), "the learner left its group")
    wait_until(lambda: not host.groups()[group].learners, "the group has no learner")
    again = ListCopy(guest, group)
    assert again.wait(100) == [b"%d" % number for number in range(100)]
    again.close()


def test_bad_input_is_refused_with_an_error_that_says_what_is_wrong(one_cluster: NodeCluster) -> None:
    (node,) = one_cluster.start(1, proposal_bytes_max=1000)
    with pytest.raises(errors.InvalidId):
        node.subscribe_to_data_structure("no id", nothing)
    with pytest.raises(errors.UsageError, match="callable"):
        node.subscribe_to_data_structure(node.new_data_structure_id(), b"state")  # type: ignore[arg-type]
    for timeout in (0, -1, None):
        with pytest.raises(errors.UsageError, match="timeout"):
            node.subscribe_to_data_structure(node.new_data_structure_id(), nothing, timeout=timeout)  # type: ignore[arg-type]
    for wish in ({"replicas": 0}, {"replicas": 100}, {"replicas": 1, "data_center_replicas": 2}):
        with pytest.raises(errors.UsageError):
            node.allocate_new_data_structure(**wish)
    with pytest.raises(errors.InvalidConfig):
        copycat.CopyCat({"hostname": "here"})  # type: ignore[arg-type]
    with pytest.raises(errors.StorageLocked):
        copycat.CopyCat(node.config)
    with pytest.raises(errors.UnknownStorage):
        one_cluster.node(storage="stone")
    with pytest.raises(errors.UnknownTransport):
        one_cluster.node(transport="pigeon")
    sub = node.subscribe_to_data_structure(str(node.new_data_structure_id()), nothing, timeout=PATIENCE_S)
    for wrong in ("text", 1, None, bytearray(b"x"), [b"x"]):
        with pytest.raises(errors.InvalidProposal):
            sub.propose.send(wrong)  # type: ignore[arg-type]
        with pytest.raises(errors.InvalidProposal):
            sub.propose.submit(wrong)  # type: ignore[arg-type]
        with pytest.raises(errors.InvalidProposal):
            sub.propose.send_many([b"good", wrong])  # type: ignore[list-item]
    with pytest.raises(errors.ProposalTooLarge):
        sub.propose.send(bytes(1001))
    with pytest.raises(errors.ProposalTooLarge):
        sub.propose.send_many([b"good", bytes(1001)])
    with pytest.raises(errors.UsageError):
        sub.commits.receive_many(0)
    sub.propose.send(bytes(1000))
    assert sub.commits.receive(PATIENCE_S) == bytes(1000)
    assert sub.commits.receive_many(5, 0) == []


def test_a_seed_that_does_not_answer_is_an_error_in_time(one_cluster: NodeCluster) -> None:
    with pytest.raises(errors.SeedUnreachable, match=r"127\.0\.0\.1:9"):
        one_cluster.node(peers_to_contact="127.0.0.1:9", join_timeout_s=0.2)


def test_full_is_raised_when_nothing_moves(one_cluster: NodeCluster) -> None:
    nodes = one_cluster.start(3, in_flight_proposals_max=10, in_flight_bytes_max=1000, leave_timeout_s=0.2)
    group = one_cluster.group(nodes[0], replicas=3)
    sub = nodes[0].subscribe_to_data_structure(group, nothing, timeout=PATIENCE_S)
    sub.propose.submit(b"x").result(PATIENCE_S)
    for node in nodes[1:]:
        one_cluster.stop(node)
    with pytest.raises(errors.Full) as caught:
        sub.propose.send_many([b"%d" % number for number in range(20)], timeout=0.05)
    assert caught.value.accepted == 10
    with pytest.raises(errors.Full):
        sub.propose.send(b"y", timeout=0)
    with pytest.raises(errors.Timeout):
        sub.flush(0.05)
    sub.close()
    failure = sub.errors.receive(PATIENCE_S)
    assert isinstance(failure, (errors.OutcomeUnknown, errors.ProposalDropped))
    told = failure.count
    while told < 10:
        failure = sub.errors.receive(0)
        assert isinstance(failure, (errors.OutcomeUnknown, errors.ProposalDropped))
        assert failure.first == told + 2
        told += failure.count
    assert told == 10
    with pytest.raises(errors.Closed):
        sub.errors.receive(0)
