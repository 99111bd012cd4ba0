"""Three processes, real sockets, real disks: kill -9 the leader, start it again, and look at what everyone was handed.

Every wait is for an event, with the deadline of the whole test behind it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from copycat.cli.local_cluster import Deadline, LocalCluster
from copycat.cli.worker_process import WorkerGone

NODES = 3
TIMEOUT_S = 180.0
CHUNK = 10

pytestmark = pytest.mark.slow


@pytest.fixture
def overrides() -> dict[str, int]:
    """Fields of the nodes' configuration; a test may give others."""
    return {}


@pytest.fixture
def cluster(tmp_path: Path, disk_storage_name: str, overrides: dict[str, int]) -> Iterator[LocalCluster]:
    with LocalCluster(
        tmp_path,
        NODES,
        Deadline(TIMEOUT_S),
        transport="zeromq",
        storage=disk_storage_name,
        cluster_label="test",
        **overrides,
    ) as made:
        yield made
        made.close()
    for seat in made.seats:
        assert seat.worker is not None
        assert "Traceback" not in seat.worker.last_words, seat.worker.last_words


class Proposer:
    """Puts ``prefix-1``, ``prefix-2``, ... through one node, in chunks, until told to stop or until the node dies."""

    def __init__(self, cluster: LocalCluster, index: int, prefix: str, count: int) -> None:
        self._cluster = cluster
        self._index = index
        self._keys = [f"{prefix}-{number}" for number in range(1, count + 1)]
        self.confirmed: list[str] = []

    def run(self) -> None:
        worker = self._cluster.worker(self._index)
        for start in range(0, len(self._keys), CHUNK):
            chunk = self._keys[start : start + CHUNK]
            try:
                worker.ask("put", items=dict.fromkeys(chunk, ""), timeout=self._cluster.deadline.remaining())
            except WorkerGone:
                return
            self.confirmed += chunk


def keys_of(handed: list[str]) -> list[str]:
    return [json.loads(change)[1] for change in handed]


def numbers_of(keys: list[str], prefix: str) -> list[int]:
    return [int(key.rpartition("-")[2]) for key in keys if key.rpartition("-")[0] == prefix]


def check_everyone_was_handed_the_same(cluster: LocalCluster) -> list[str]:
    """The whole sequence, which some node was handed from position 1 on."""
    cluster.sync()
    sequences = [cluster.handed(index) for index in range(NODES)]
    first_position, longest = min(sequences, key=lambda sequence: sequence[0])
    assert first_position == 1
    for position, handed in sequences:
        assert handed == longest[position - 1 :]
    keys = keys_of(longest)
    assert len(keys) == len(set(keys)), "something was handed out twice"
    for index in range(NODES):
        assert cluster.items(index).keys() == set(keys)
    return keys


def test_nothing_is_lost_doubled_or_reordered_when_the_leader_is_killed(cluster: LocalCluster) -> None:
    cluster.start()
    killed = cluster.leader()
    survivors = [index for index in range(NODES) if index != killed]
    proposers = [Proposer(cluster, index, f"n{index}", 2_000) for index in range(NODES)]
    with ThreadPoolExecutor(NODES) as pool:
        running = [pool.submit(proposer.run) for proposer in proposers]
        cluster.worker(survivors[0]).ask("await_applied", position=300, timeout=cluster.deadline.remaining())
        cluster.kill(killed)
        for done in running:
            done.result(cluster.deadline.remaining())
    assert all(len(proposers[index].confirmed) == 2_000 for index in survivors)
    assert cluster.leader(survivors[0]) != killed

    cluster.restart(killed)
    again = Proposer(cluster, killed, "again", 200)
    again.run()
    assert len(again.confirmed) == 200

    keys = check_everyone_was_handed_the_same(cluster)
    for proposer in (*proposers, again):
        assert set(proposer.confirmed) <= set(keys), "what flush had confirmed is gone"
    for prefix in ("n0", "n1", "n2", "again"):
        numbers = numbers_of(keys, prefix)
        assert numbers == list(range(1, len(numbers) + 1)), "a subscription's own order was lost"


def test_a_cluster_that_was_killed_whole_comes_back_with_everything_confirmed(cluster: LocalCluster) -> None:
    cluster.start()
    proposers = [Proposer(cluster, index, f"n{index}", 200) for index in range(NODES)]
    with ThreadPoolExecutor(NODES) as pool:
        for done in [pool.submit(proposer.run) for proposer in proposers]:
            done.result(cluster.deadline.remaining())
    for index in range(NODES):
        cluster.kill(index)
    cluster.restart_all()
    assert sorted(check_everyone_was_handed_the_same(cluster)) == sorted(
        key for proposer in proposers for key in proposer.confirmed
    )


def come_back_after_600_more(cluster: LocalCluster) -> int:
    """Kill a node that 200 items reached, go on without it, start it again; the first position it was handed."""
    cluster.start()
    killed = cluster.leader()
    survivor = next(index for index in range(NODES) if index != killed)
    Proposer(cluster, killed, "before", 200).run()
    cluster.kill(killed)
    while_away = Proposer(cluster, survivor, "while away", 600)
    while_away.run()
    assert len(while_away.confirmed) == 600
    cluster.restart(killed)
    Proposer(cluster, killed, "after", 100).run()
    assert len(check_everyone_was_handed_the_same(cluster)) == 200 + 600 + 100
    first_position, _ = cluster.handed(killed)
    return first_position


@pytest.mark.parametrize("overrides", [{"snapshot_log_entries": 10}])
def test_a_node_that_comes_back_starts_from_its_own_snapshot_and_misses_nothing(cluster: LocalCluster) -> None:
    assert 1 < come_back_after_600_more(cluster) <= 201


@pytest.mark.parametrize("overrides", [{"snapshot_log_bytes": 2_000, "follower_log_bytes_max": 1}])
def test_a_node_that_was_away_for_too_long_starts_from_the_snapshot_of_another(cluster: LocalCluster) -> None:
    assert come_back_after_600_more(cluster) > 201


def test_every_node_may_die_in_turn(cluster: LocalCluster) -> None:
    cluster.start()
    confirmed: list[str] = []
    for killed in range(NODES):
        survivor = (killed + 1) % NODES
        cluster.kill(killed)
        proposer = Proposer(cluster, survivor, f"without-{killed}", 300)
        proposer.run()
        assert len(proposer.confirmed) == 300
        confirmed += proposer.confirmed
        cluster.restart(killed)
    assert check_everyone_was_handed_the_same(cluster) == confirmed
