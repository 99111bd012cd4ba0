"""Disks that fail: the node stops, says why on every channel, and never took back its word."""

from __future__ import annotations

import random
import threading
from concurrent.futures import Future

import pytest

from copycat import errors
from copycat.node import CopyCat
from copycat.subscription import Subscription
from copycat.testing.disk import Disk, FaultyStorage
from copycat.testing.nodes import PATIENCE_S, ListCopy, NodeCluster, take, wait_until


def start(cluster: NodeCluster, disk: Disk, **fields: object) -> CopyCat:
    return cluster.node(storage=FaultyStorage(disk), **fields)


def nothing() -> bytes:
    return b""


def check_stopped(node: CopyCat, subs: list[Subscription], reason: type[errors.NodeFailure]) -> None:
    """Every subscription was told, every channel has ended, and every further call says so."""
    for sub in subs:
        told: list[errors.CopyCatError] = []
        while True:
            try:
                told.append(sub.errors.receive(PATIENCE_S))
            except errors.Closed:
                break
        assert [type(error) for error in told if isinstance(error, errors.NodeFailure)] == [reason]
        assert None not in list(sub.commits)
        for call in (lambda sub=sub: sub.propose.send(b"x", 0), sub.status, lambda sub=sub: sub.barrier(PATIENCE_S)):  # type: ignore[misc]
            with pytest.raises(errors.Closed):
                call()
        sub.close()
    with pytest.raises(errors.Closed, match="stopped"):
        node.subscribe_to_data_structure(node.new_data_structure_id(), nothing)
    with pytest.raises(errors.Closed):
        node.members()
    node.shutdown()


@pytest.mark.parametrize("fault", ["write", "sync", "full"])
def test_a_disk_error_stops_the_node_and_nothing_unsynced_was_acknowledged(
    memory_cluster: NodeCluster, fault: str
) -> None:
    disk = Disk(random.Random(1))
    node = start(memory_cluster, disk)
    group = memory_cluster.group(node, replicas=1)
    subs = [node.subscribe_to_data_structure(group, nothing, timeout=PATIENCE_S) for _ in range(2)]
    futures: list[Future[int]] = []
    futures += [subs[0].propose.submit(b"%d" % number) for number in range(100)]
    futures[-1].result(PATIENCE_S)
    if fault == "write":
        disk.fail_write(2)
    elif fault == "sync":
        disk.fail_sync(2)
    else:
        disk.bytes_max = disk.bytes_used + 2_000
    while True:
        try:
            futures.append(subs[0].propose.submit(b"%d" % len(futures), PATIENCE_S))
        except errors.Closed:
            break
    done = [future for future in futures if future.exception(PATIENCE_S) is None]
    assert [future.result(0) for future in done] == list(range(1, len(done) + 1))
    for future in futures[len(done) :]:
        assert isinstance(future.exception(0), (errors.OutcomeUnknown, errors.ProposalDropped))
    check_stopped(node, subs, errors.StorageFailed)
    memory_cluster.nodes.remove(node)

    disk.crash()
    disk.bytes_max = None
    again = start(memory_cluster, disk)
    assert again.node_id == node.node_id
    sub = again.subscribe_to_data_structure(group, nothing, timeout=PATIENCE_S)
    position = sub.propose.submit(b"end").result(PATIENCE_S)
    assert position > len(done), "something acknowledged is gone"
    items = take(sub.commits, position)
    assert items[:-1] == [b"%d" % number for number in range(position - 1)]


def test_every_crash_leaves_what_was_acknowledged_and_a_sequence_without_gap(memory_cluster: NodeCluster) -> None:
    disk = Disk(random.Random(2))
    acknowledged = sent = 0
    group = None
    for _ in range(6):
        node = start(memory_cluster, disk, snapshot_log_bytes=3_000, snapshot_chunk_bytes=300)
        group = group or memory_cluster.group(node, replicas=1)
        copy = ListCopy(node, group)
        futures = []
        for _ in range(150):
            sent += 1
            futures.append(copy.sub.propose.submit(b"%d" % sent, PATIENCE_S))
        futures[100].result(PATIENCE_S)
        disk.crash()  # whoever has it open meets an error with the next access
        send_until_closed(copy.sub)
        copy.join()
        known = [future.result(0) for future in futures if future.exception(PATIENCE_S) is None]
        acknowledged = max(acknowledged, *known)
        with pytest.raises(errors.Closed):
            node.members()
        memory_cluster.stop(node)
        mine = [int(item) for item in copy.items]
        assert mine == sorted(set(mine))
        assert len(mine) >= acknowledged
    node = start(memory_cluster, disk)
    copy = ListCopy(node, group)
    position = copy.sub.propose.submit(b"%d" % (sent + 1)).result(PATIENCE_S)
    items = [int(item) for item in copy.wait(position)]
    assert items == sorted(set(items))
    assert position > acknowledged
    copy.close()


@pytest.mark.parametrize("damage", ["rot", "drop"])
@pytest.mark.parametrize("kind", [b"\x01", b"\x02", b"\x04", b"\x05"])
def test_damage_is_found_at_the_start_or_when_it_is_read_and_never_papered_over(
    memory_cluster: NodeCluster, damage: str, kind: bytes
) -> None:
    disk = Disk()
    node = start(memory_cluster, disk, snapshot_log_bytes=3_000, snapshot_chunk_bytes=300)
    group = memory_cluster.group(node, replicas=1)
    copy = ListCopy(node, group)
    copy.sub.propose.send_many([b"%d" % number for number in range(2_000)], PATIENCE_S)
    copy.wait(2_000)
    wait_until(lambda: node.groups()[group].snapshot_position > 0, "there is a snapshot")
    for number in range(20):
        copy.sub.propose.submit(b"more-%d" % number).result(PATIENCE_S)
    copy.close()
    memory_cluster.stop(node)
    prefix = b"\x03" + bytes(group) + kind
    keys = [key for key, _ in disk.pairs() if key.startswith(prefix)]
    assert keys, "nothing to damage"
    if damage == "rot":
        disk.rot(keys[-1], 41)
    elif kind == b"\x02":
        return  # without its record there is no snapshot, and the log does not begin at 1: found by the case of b"\x01"
    else:
        disk.drop(keys[-1])
    if kind != b"\x05":
        with pytest.raises(errors.StorageCorrupt, match=keys[-1].hex()):
            start(memory_cluster, disk)
        return
    again = start(memory_cluster, disk)
    memory_cluster.nodes.remove(again)
    subs = [again.subscribe_to_data_structure(group, nothing, timeout=PATIENCE_S) for _ in range(2)]
    assert subs[0].commits.receive(PATIENCE_S) is None
    with pytest.raises((errors.StorageCorrupt, errors.Closed)):
        subs[0].snapshot_consumer()
    wait_until(lambda: _refused(again), "the node has stopped")
    check_stopped(again, subs, errors.StorageCorrupt)


def send_until_closed(sub: Subscription) -> None:
    try:
        while True:
            sub.propose.send(b"0", PATIENCE_S)
    except errors.Closed:
        return


def _refused(node: CopyCat) -> bool:
    try:
        node.members()
    except errors.Closed:
        return True
    return False


def test_a_slow_disk_slows_its_proposers_and_bounds_what_is_in_flight(memory_cluster: NodeCluster) -> None:
    disk = Disk()
    gate = threading.Semaphore(0)
    slow = threading.Event()

    def before(operation: str) -> None:
        if operation == "sync" and slow.is_set():
            gate.acquire(timeout=PATIENCE_S)

    disk.before = before  # type: ignore[assignment]
    node = start(memory_cluster, disk, in_flight_bytes_max=10_000)
    copy = ListCopy(node, memory_cluster.group(node, replicas=1))
    copy.sub.propose.submit(b"first").result(PATIENCE_S)
    slow.set()
    with pytest.raises(errors.Full):
        copy.sub.propose.send_many([bytes(100)] * 1_000, timeout=0.05)
    assert len(copy.items) == 1, "handed out before it was synced"
    waiting = sum(write.size for write in list(node._engine._under_way))
    assert waiting <= 4 * 10_000, "what waits for the disk is bounded by what may be in flight"
    assert node.members(), "the node is alive meanwhile"
    slow.clear()
    gate.release(1_000)
    copy.sub.flush(PATIENCE_S)
    copy.close()
