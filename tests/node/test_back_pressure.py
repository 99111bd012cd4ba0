"""One that can't keep up: what waits for it is bounded in bytes, by measuring, and nobody else waits."""

from __future__ import annotations

import threading
import tracemalloc
import zlib
from collections.abc import Iterator

import pytest

from copycat.node import CopyCat
from copycat.ports import WriteBatch
from copycat.testing.nodes import PATIENCE_S, NodeCluster, wait_until

MIB = 1 << 20
ITEM = bytes(range(256)) * 64
ITEMS = 3_000
"""47 MiB in all: several times what any node may hold in memory."""
HELD_MAX = 36 * MIB
"""Three nodes, each with the limits below, the frames between them, and the interpreter's slack."""
LIMITS = {
    "in_flight_bytes_max": MIB,
    "commit_queue_bytes_max": MIB,
    "log_cache_bytes": MIB,
    "write_queue_bytes_max": 4 * MIB,
    "snapshot_log_bytes": 8 * MIB,
    "stalled_disk_stop_s": 10 * PATIENCE_S,
}


class Tally:
    """Counts what it is handed and keeps a checksum: a consumer that holds next to nothing."""

    def __init__(self, node: CopyCat, group: object) -> None:
        self.count = 0
        self.checksum = 0
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.sub = node.subscribe_to_data_structure(group, self._provide, timeout=PATIENCE_S)  # type: ignore[arg-type]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _provide(self) -> bytes:
        return b"%d %d" % (self.count, self.checksum)

    def _run(self) -> None:
        for item in self.sub.commits:
            if item is None:
                state = self.sub.snapshot_consumer()
                self.count, self.checksum = map(int, state.split()) if state else (0, 0)
            else:
                self.checksum = zlib.crc32(item, self.checksum)
                self.count += 1
            self.may_go_on.wait(10 * PATIENCE_S)

    def close(self) -> None:
        self.may_go_on.set()
        self.sub.close()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start(1)
    yield
    tracemalloc.stop()


def pump(through: Tally) -> int:
    """Send everything, and tell by how many bytes the whole process grew at most meanwhile."""
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    for number in range(ITEMS):
        through.sub.propose.send(number.to_bytes(8, "big") + ITEM, PATIENCE_S)
    through.sub.flush(PATIENCE_S)
    grown = tracemalloc.get_traced_memory()[1] - before
    print(f"grew by {grown / MIB:.1f} MiB")
    return grown


def check_all_agree(tallies: list[Tally]) -> None:
    for tally in tallies:
        wait_until(lambda tally=tally: tally.count == ITEMS, "everything was handed out")  # type: ignore[misc]
    assert len({tally.checksum for tally in tallies}) == 1
    for tally in tallies:
        tally.close()


@pytest.fixture
def disk_cluster(tmp_path) -> Iterator[NodeCluster]:
    """Logs on disk, so that what is traced is what nodes hold in memory."""
    with NodeCluster(tmp_path, "memory", "leveldb") as cluster:
        yield cluster


@pytest.mark.usefixtures("traced")
def test_a_slow_consumer_holds_back_itself_only_and_what_waits_for_it_is_bounded(disk_cluster: NodeCluster) -> None:
    nodes = disk_cluster.start(3, **LIMITS)
    group = disk_cluster.group(nodes[0])
    tallies = [Tally(node, group) for node in nodes]
    slow = tallies[2]
    slow.may_go_on.clear()
    grown = pump(tallies[0])
    wait_until(lambda: tallies[1].count == ITEMS, "a quick consumer has everything")
    assert slow.count <= 1
    assert grown < HELD_MAX, f"grew by {grown / MIB:.1f} MiB"
    slow.may_go_on.set()
    check_all_agree(tallies)


@pytest.mark.usefixtures("traced")
def test_a_follower_with_a_slow_disk_holds_back_nobody_and_what_waits_for_it_is_bounded(
    disk_cluster: NodeCluster,
) -> None:
    leveldb = pytest.importorskip("copycat.storage.leveldb")
    gate = threading.Event()
    gate.set()

    class Gated(leveldb.LevelDBStorage):  # type: ignore[misc]
        def write(self, batch: WriteBatch, sync: bool) -> None:
            gate.wait(10 * PATIENCE_S)
            super().write(batch, sync)

    nodes = disk_cluster.start(2, **LIMITS)
    nodes += [disk_cluster.node(storage=Gated(), **LIMITS)]
    wait_until(lambda: all(len(node.members()) == 3 for node in nodes), "every node sees every other")
    group = disk_cluster.group(nodes[0])
    tallies = [Tally(node, group) for node in nodes]
    try:
        if tallies[2].sub.status().role == "leader":
            nodes[2].transfer_leader(group, nodes[0].node_id)
        gate.clear()
        grown = pump(tallies[0])
        wait_until(lambda: tallies[1].count == ITEMS, "a quick follower has everything")
        assert tallies[2].count < ITEMS
        assert grown < HELD_MAX, f"grew by {grown / MIB:.1f} MiB"
    finally:
        gate.set()
    check_all_agree(tallies)
