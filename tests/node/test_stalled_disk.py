"""A disk that stands still: its node hands the lead over, goes on beating, and stops in the end."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from copycat.errors import Closed, StorageFailed
from copycat.ports import WriteBatch
from copycat.storage.memory import MemoryStorage
from copycat.testing.nodes import PATIENCE_S, ListCopy, NodeCluster, wait_until


class Gate(MemoryStorage):
    """Writes wait while the gate is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open_gate = threading.Event()
        self.open_gate.set()

    def write(self, batch: WriteBatch, sync: bool) -> None:
        self.open_gate.wait(3 * PATIENCE_S)
        super().write(batch, sync)


@pytest.fixture
def gates() -> Iterator[list[Gate]]:
    gates = [Gate() for _ in range(3)]
    yield gates
    for gate in gates:
        gate.open_gate.set()


def start(cluster: NodeCluster, gates: list[Gate], stop_s: float) -> list[ListCopy]:
    for gate in gates:
        cluster.node(storage=gate, stalled_disk_hand_over_s=0.5, stalled_disk_stop_s=stop_s)
    for node in cluster.nodes:
        wait_until(lambda node=node: len(node.members()) == 3, "every node sees every other")  # type: ignore[misc]
    group = cluster.group(cluster.nodes[0])
    return [ListCopy(node, group) for node in cluster.nodes]


def test_a_leader_whose_disk_stands_still_lets_another_lead_and_the_group_goes_on(
    memory_cluster: NodeCluster, gates: list[Gate]
) -> None:
    copies = start(memory_cluster, gates, stop_s=10 * PATIENCE_S)
    stalled = next(at for at in range(3) if copies[at].sub.status().role == "leader")
    other = copies[(stalled + 1) % 3]
    gates[stalled].open_gate.clear()
    # Something has to be written for the disk to be missed.
    assert other.sub.propose.submit(b"while the disk stands still").result(PATIENCE_S) == 1
    wait_until(lambda: copies[stalled].sub.status().role != "leader", "the lead has gone to another")
    assert "the disk stands still" in str(memory_cluster.nodes[stalled].health())
    assert other.sub.propose.submit(b"under another leader").result(PATIENCE_S) == 2
    gates[stalled].open_gate.set()
    wait_until(lambda: memory_cluster.nodes[stalled].health().healthy, "the disk moves again")
    for copy in copies:
        assert copy.wait(2) == [b"while the disk stands still", b"under another leader"]


def test_a_node_whose_disk_does_not_come_back_stops_and_says_so(memory_cluster: NodeCluster, gates: list[Gate]) -> None:
    copies = start(memory_cluster, gates, stop_s=1.0)
    stalled = copies[0].sub
    gates[0].open_gate.clear()
    assert copies[1].sub.propose.submit(b"a").result(PATIENCE_S) == 1
    error = stalled.errors.receive(PATIENCE_S)
    gates[0].open_gate.set()
    assert isinstance(error, StorageFailed)
    assert "has not come back" in str(error)
    with pytest.raises(Closed):
        stalled.propose.send(b"b")
    assert copies[1].sub.propose.submit(b"c").result(PATIENCE_S) == 2
