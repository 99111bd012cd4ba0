"""Real processes, sockets and disks: kill -9 under load from all nodes, at moments that a printed seed decides."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from copycat.cli.local_cluster import free_ports
from copycat.ids import new_id
from copycat.testing.killing import Killing, kill_by_plan

SMALL = {
    "snapshot_log_bytes": 100_000,
    "follower_log_bytes_max": 100_000,
    "snapshot_chunk_bytes": 16_384,
    "snapshot_bytes_per_s": 2 << 20,
}

pytestmark = pytest.mark.slow


def seed_of_this_run() -> int:
    return int(os.environ.get("COPYCAT_TEST_SEED", random.SystemRandom().randrange(1 << 32)))


def test_nothing_is_lost_doubled_or_reordered_by_kills_of_leaders_followers_and_receivers(
    tmp_path: Path, disk_storage_name: str
) -> None:
    seed = seed_of_this_run()
    print(f"COPYCAT_TEST_SEED={seed}")
    rng = random.Random(seed)
    with Killing(
        tmp_path, free_ports(6), str(new_id(rng)), {**SMALL, "storage": disk_storage_name}, ballast=1 << 20
    ) as cluster:
        cluster.start()
        print(kill_by_plan(cluster, rng, rounds=3))
        summary = cluster.finish()
    print(summary)
    assert summary.items >= summary.confirmed > 0
    assert not summary.failed, "a proposal of a process that lived on failed"


def test_a_cluster_that_was_killed_whole_goes_on_where_it_was(tmp_path: Path, disk_storage_name: str) -> None:
    seed = seed_of_this_run()
    print(f"COPYCAT_TEST_SEED={seed}")
    rng = random.Random(seed)
    with Killing(tmp_path, free_ports(6), str(new_id(rng)), {**SMALL, "storage": disk_storage_name}) as cluster:
        cluster.start()
        cluster.run_on(rng.randrange(50_000))
        for seat in rng.sample(range(3), 3):
            cluster.kill(seat)
        for seat in range(3):
            cluster.begin(seat, peers=False)  # each knows the others from its own disk
        for seat in range(3):
            cluster.settle(seat)
        cluster.run_on(20_000)
        summary = cluster.finish()
    assert summary.confirmed > 0
