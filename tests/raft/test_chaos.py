"""Raft's guarantees (paper, figure 3) under loss, repetition, reordering, crashes, and changes of the configuration.

``COPYCAT_RAFT_SEEDS=first:last`` runs other seeds, and more of them.
"""

from __future__ import annotations

import os

import pytest

from copycat.raft import Role

from .chaos import Violation, World

STEPS = 2000
BATCH = 20


def _batches() -> list[range]:
    first, _, last = os.environ.get("COPYCAT_RAFT_SEEDS", "0:300").partition(":")
    return [range(start, min(start + BATCH, int(last))) for start in range(int(first), int(last), BATCH)]


@pytest.mark.parametrize("seeds", _batches(), ids=lambda seeds: f"{seeds.start}-{seeds.stop - 1}")
def test_guarantees_hold_whatever_happens(seeds: range) -> None:
    for seed in seeds:
        world = World(seed)
        try:
            world.run(STEPS)
            world.check_whole_logs()
            if not world.calm_down(120):
                raise Violation("nothing new is committed although everything works again")
            world.check_whole_logs()
        except Violation as violation:
            pytest.fail(world.report(violation))


def test_a_script_replays_its_run() -> None:
    for seed in range(3):
        world = World(seed)
        world.run(STEPS)
        again = World(seed)
        again.replay("\n".join(world.script))
        assert again.summary() == world.summary()


def test_the_world_is_wild_enough() -> None:
    """Otherwise the guarantees hold for want of trouble."""
    terms = commits = changes = snapshots = reads = leaders = 0
    for seed in range(40):
        world = World(seed)
        world.run(STEPS)
        terms += max(peer.raw.term for peer in world.peers.values())
        commits += len(world.committed)
        changes += len(world.states)
        snapshots += sum(peer.disk.newest is not None for peer in world.peers.values())
        reads += world.reads_done
        leaders += any(peer.raw.role == Role.LEADER for peer in world.peers.values())
    assert terms > 40 * 3
    assert commits > 40 * 5
    assert changes > 20
    assert snapshots > 40
    assert reads > 10
    assert leaders > 10
