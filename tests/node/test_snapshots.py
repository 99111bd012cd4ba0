"""Snapshots: made between two items, cut from the log, handed to whoever lags, comes late or comes back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from copycat import errors, snapshots
from copycat.node import CopyCat
from copycat.subscription import Subscription
from copycat.testing.nodes import PATIENCE_S, ListCopy, NodeCluster, pack_list, take, unpack_list, wait_until

SMALL = {
    "snapshot_log_bytes": 20_000,
    "snapshot_chunk_bytes": 1_000,
    "follower_log_bytes_max": 20_000,
    "batch_proposals_max": 20,
}


def numbers(start: int, stop: int) -> list[bytes]:
    return [b"%d" % number + b"." * 40 for number in range(start, stop)]


def snapshot_position(node: CopyCat) -> int:
    return max((status.snapshot_position for status in node.groups().values()), default=0)


def log_bytes(node: CopyCat) -> int:
    return max((status.log_bytes for status in node.groups().values()), default=0)


@pytest.mark.parametrize("many", [0, 7, 10_000])
def test_a_snapshot_holds_exactly_what_was_handed_out(one_cluster: NodeCluster, many: int) -> None:
    (node,) = one_cluster.start(1, **SMALL)
    group = one_cluster.group(node, replicas=1)
    copy = ListCopy(node, group, receive_many=many)
    sent = numbers(0, 3_000)
    copy.sub.propose.send_many(sent, PATIENCE_S)
    copy.wait(3_000)
    copy.sub.barrier(PATIENCE_S)
    assert copy.snapshots >= 1
    wait_until(lambda: log_bytes(node) <= 60_000, "the log is compacted")
    late = ListCopy(node, group)
    assert late.wait(3_000) == sent
    assert late.loads == 1
    copy.sub.propose.send(b"and on")
    assert late.wait(3_001) == copy.wait(3_001)
    late.close()
    copy.close()


def test_snapshots_are_cut_by_count_too(one_cluster: NodeCluster) -> None:
    (node,) = one_cluster.start(1, snapshot_log_entries=50, batch_proposals_max=1)
    copy = ListCopy(node, one_cluster.group(node, replicas=1))
    copy.sub.propose.send_many([b""] * 500, PATIENCE_S)
    copy.wait(500)
    wait_until(lambda: snapshot_position(node) >= 400, "a snapshot near the end")
    assert copy.snapshots >= 1
    copy.close()


def test_a_node_that_comes_back_loads_its_snapshot_and_then_exactly_the_rest(cluster: NodeCluster) -> None:
    (node,) = cluster.start(1, **SMALL)
    config = node.config
    group = cluster.group(node, replicas=1)
    sent = numbers(0, 2_000)
    for start in range(0, 2_000, 500):
        copy = ListCopy(node, group)
        copy.sub.propose.send_many(sent[start : start + 500], PATIENCE_S)
        assert copy.wait(start + 500) == sent[: start + 500]
        assert copy.loads == (0 if snapshot_position(node) == 0 or start == 0 else 1)
        node_id = node.node_id
        cluster.stop(node)
        node = CopyCat(config)
        cluster.nodes.append(node)
        assert node.node_id == node_id
        copy.join()
    last = ListCopy(node, group)
    assert last.wait(2_000) == sent
    assert last.loads == 1


def test_a_late_subscriber_elsewhere_is_given_the_snapshot_and_then_the_rest(cluster: NodeCluster) -> None:
    first, second = cluster.start(2, **SMALL)
    group = cluster.group(first, replicas=1)
    writer = ListCopy(first, group)
    writer.sub.propose.send_many(numbers(0, 3_000), PATIENCE_S)
    writer.wait(3_000)
    wait_until(lambda: max(map(log_bytes, (first, second))) <= 60_000, "the log is compacted")
    late = ListCopy(second, group)
    writer.sub.propose.send_many(numbers(3_000, 4_000), PATIENCE_S)
    assert late.wait(4_000) == numbers(0, 4_000)
    assert late.loads >= 1
    late.close()
    writer.close()


def test_detached_rafts_fetch_snapshots_and_compact(cluster: NodeCluster) -> None:
    nodes = cluster.start(3, **SMALL)
    group = cluster.group(nodes[0], replicas=3)
    copy = ListCopy(nodes[0], group)
    for start in range(0, 6_000, 1_000):
        copy.sub.propose.send_many(numbers(start, start + 1_000), PATIENCE_S)
        copy.wait(start + 1_000)
    for node in nodes:
        wait_until(lambda node=node: log_bytes(node) <= 60_000, "every log is compacted")  # type: ignore[misc]
        assert snapshot_position(node) > 0
    copy.close()
    for node in nodes[1:]:
        later = ListCopy(node, group)
        assert later.wait(6_000) == numbers(0, 6_000)
        assert later.loads == 1
        later.close()


def test_a_follower_that_was_away_for_long_catches_up_by_a_snapshot(cluster: NodeCluster) -> None:
    nodes = cluster.start(3, **SMALL)
    group = cluster.group(nodes[0], replicas=3)
    copies = [ListCopy(node, group) for node in nodes]
    copies[0].sub.propose.send_many(numbers(0, 100), PATIENCE_S)
    for copy in copies:
        copy.wait(100)
    away = nodes[2]
    cluster.stop(away)
    copies[0].sub.propose.send_many(numbers(100, 5_000), PATIENCE_S)
    copies[1].wait(5_000)
    wait_until(lambda: all(log_bytes(node) <= 80_000 for node in nodes[:2]), "the logs are compacted")
    # Its address may be another one, since ports are chosen free; its identity is not.
    back = cluster.node(data_dir=away.config.data_dir, **SMALL)
    assert back.node_id == away.node_id
    copy = ListCopy(back, group)
    assert copy.wait(5_000) == numbers(0, 5_000)
    copies[1].sub.propose.send_many(numbers(5_000, 5_100), PATIENCE_S)
    assert copy.wait(5_100) == numbers(0, 5_100)
    for each in (copy, *copies[:2]):
        each.close()


def test_a_provider_that_fails_is_reported_and_asked_again(
    one_cluster: NodeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "PROVIDER_RETRY_S", 0.05)
    (node,) = one_cluster.start(1, **SMALL)
    group = one_cluster.group(node, replicas=1)
    items: list[bytes] = []
    calls = []

    def provider() -> Iterator[bytes] | str:
        calls.append(len(items))
        if len(calls) == 1:
            raise RuntimeError("not today")
        return "no bytes" if len(calls) == 2 else pack_list(items)

    sub = node.subscribe_to_data_structure(group, provider, timeout=PATIENCE_S)  # type: ignore[arg-type]
    sent = numbers(0, 800)
    sub.propose.send_many(sent, PATIENCE_S)
    while len(items) < 800:
        items += [item for item in sub.commits.receive_many(50, PATIENCE_S) if item is not None]

    def made() -> bool:
        assert sub.commits.receive_many(50, 0) == []
        return snapshot_position(node) == 800

    wait_until(made, "the third one is made without a further item")
    for match in ("not today", "str"):
        failure = sub.errors.receive(0)
        assert isinstance(failure, errors.SnapshotProviderFailed)
        assert match in str(failure)
        assert failure.__cause__ is not None
    sub.close()


def test_a_consumer_that_takes_nothing_bounds_its_memory_and_holds_up_nobody(one_cluster: NodeCluster) -> None:
    nodes = one_cluster.start(3, **SMALL, commit_queue_bytes_max=20_000)
    group = one_cluster.group(nodes[0], replicas=3)
    stuck = [node.subscribe_to_data_structure(group, lambda: b"", timeout=PATIENCE_S) for node in nodes]
    reader = ListCopy(nodes[0], group)
    sent = numbers(0, 20_000)
    reader.sub.propose.send_many(sent, PATIENCE_S)
    assert reader.wait(20_000) == sent
    for sub in stuck:
        assert sub.commits._bytes <= 20_000 + 40_000
    for node in nodes:
        wait_until(lambda node=node: log_bytes(node) <= 150_000, "no stuck consumer keeps the log")  # type: ignore[misc]
    state: list[bytes] = []
    while len(state) < 20_000:
        (item,) = take(stuck[1].commits, 1)
        if item is None:
            state = unpack_list(stuck[1].snapshot_consumer())
        else:
            state.append(item)
        assert stuck[1].commits.position == len(state)
    assert state == sent
    reader.close()


def test_without_anybody_to_make_snapshots_the_log_is_capped_and_goes_on_when_one_receives(
    one_cluster: NodeCluster,
) -> None:
    nodes = one_cluster.start(3, **{**SMALL, "log_bytes_max": 100_000, "commit_queue_bytes_max": 1_000})
    group = one_cluster.group(nodes[0], replicas=3)
    for writer in nodes[:2]:  # one of them does not lead
        items: list[bytes] = []
        sub = writer.subscribe_to_data_structure(group, lambda items=items: pack_list(items), timeout=PATIENCE_S)  # type: ignore[misc]
        sent = 0

        def fill(sub=sub) -> bool:  # type: ignore[no-untyped-def]
            nonlocal sent
            try:
                sub.propose.send(os.urandom(500), timeout=PATIENCE_S)
            except errors.LogFull:
                return True
            sent += 1
            return False

        wait_until(fill, "the log is full")
        assert log_bytes(nodes[0]) <= 600_000

        def drain(sub=sub, items=items) -> bool:  # type: ignore[no-untyped-def]
            for item in sub.commits.receive_many(100, 0):
                if item is None:
                    items[:] = unpack_list(sub.snapshot_consumer())
                else:
                    items.append(item)
            try:
                sub.propose.send(b"goes on", timeout=0)
            except errors.Full:
                return False
            return True

        wait_until(drain, "it takes proposals again")
        wait_until(lambda items=items, drain=drain: drain() and items[-1:] == [b"goes on"], "and commits them")  # type: ignore[misc]
        sub.close()


@pytest.mark.parametrize("proposes_on", ["leader", "follower"])
def test_a_log_that_nobody_compacts_does_not_outgrow_its_cap_by_more_than_what_is_in_flight(
    one_cluster: NodeCluster, proposes_on: str
) -> None:
    cap, in_flight = 200_000, 20_000
    nodes = one_cluster.start(
        3, log_bytes_max=cap, in_flight_bytes_max=in_flight, commit_queue_bytes_max=1_000, batch_bytes_max=4_000
    )
    group = one_cluster.group(nodes[0], replicas=3)
    wait_until(lambda: any(node.groups()[group].role == "leader" for node in nodes), "somebody leads")
    wanted = proposes_on == "leader"
    writer = next(node for node in nodes if (node.groups()[group].role == "leader") is wanted)
    sub = writer.subscribe_to_data_structure(group, lambda: b"", timeout=PATIENCE_S)
    with pytest.raises(errors.LogFull, match="log_bytes_max"):
        sub.propose.send_many([os.urandom(1_000)] * 10_000, PATIENCE_S)
    assert cap <= max(map(log_bytes, nodes)) <= cap + 2 * in_flight
    assert isinstance(next(iter(errors_at_once(sub))), errors.LogFull)
    reader = ListCopy(nodes[0], group)
    wait_until(
        lambda: not any(errors_at_once(sub)), "it takes proposals again by itself, since somebody makes snapshots"
    )
    sub.flush(PATIENCE_S)
    reader.sub.barrier(PATIENCE_S)
    reader.close()


def errors_at_once(sub: Subscription) -> list[errors.CopyCatError]:
    """What one more proposal is told, if it is refused."""
    try:
        sub.propose.send(b"one more", 0)
    except errors.Full as error:
        return [error]
    return []


def test_a_wiped_directory_is_a_new_node(cluster: NodeCluster, tmp_path: Path) -> None:
    (node,) = cluster.start(1)
    before = node.node_id
    cluster.stop(node)
    again = CopyCat(node.config)
    cluster.nodes.append(again)
    assert again.node_id == before
    cluster.stop(again)
    fresh = cluster.node(data_dir=str(tmp_path / "fresh"))
    assert fresh.node_id != before
