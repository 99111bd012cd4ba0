"""What the directory costs where every node hosts thousands of groups: a join, a change, a restart, a quiet minute.

    python tools/measure_directory.py                       5 nodes, 10,000 groups each
    python tools/measure_directory.py --nodes 20 --groups 10000

Whole engines in virtual time, over a simulated network without loss. Bytes are what leaves all nodes together; CPU is this
process's own, for all nodes together, with what the simulation itself costs.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable, Sequence

from copycat.hostset import VOTER
from copycat.ports import Inbound, Lane
from copycat.testing.engines import a_world, add, engine_of, group_ids, run_until, settle
from copycat.testing.world import SimulatedNode, World


class Meter:
    """Counts what is sent on the lanes that carry the directory."""

    def __init__(self, world: World) -> None:
        self.bytes = dict.fromkeys(Lane, 0)
        self._carry = world.network.carry
        world.network.carry = self._counted  # type: ignore[method-assign]

    def _counted(self, source: str, target: str, frame: Inbound, size: int) -> None:
        self.bytes[frame.lane] += size
        self._carry(source, target, frame, size)


def measure(what: str, world: World, meter: Meter, act: Callable[[], None], seconds: float) -> None:
    """Print one row: do it, and let ``seconds`` of virtual time pass, at least until all agree again."""
    before, cpu, at = dict(meter.bytes), time.process_time(), world.now
    act()
    agreed = run_until(world, lambda: agree(world), "all hold the same", 300.0)
    world.run_for(max(0.0, seconds - (world.now - at)))
    raft, gossip = (meter.bytes[lane] - before[lane] for lane in (Lane.RAFT, Lane.GOSSIP))
    spent = time.process_time() - cpu
    print(f"{what:<28} {gossip:>14,} {raft:>14,} {spent:>8.2f} {world.now - at:>10.1f} {agreed:>9.2f}")
    sys.stdout.flush()


def agree(world: World) -> bool:
    return len({engine_of(node).cluster.directory.summary() for node in world.running()}) == 1


def host(node: SimulatedNode, ids: Sequence[bytes]) -> None:
    directory = engine_of(node).cluster.directory
    node.post(lambda: [directory.host(group_id, VOTER) for group_id in ids])


def restart(world: World, node: SimulatedNode, ids: Sequence[bytes]) -> None:
    """Crash a node and start it with what it hosted, as its disk would tell it before it begins."""
    node.crash()
    node.start()
    directory = engine_of(node).cluster.directory
    for group_id in ids:
        directory.host(group_id, VOTER)
    directory.born()
    settle(world)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=5)
    parser.add_argument("--groups", type=int, default=10_000, help="that each node hosts")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    world = a_world(arguments.seed, arguments.nodes)
    meter = Meter(world)
    sets = [group_ids(arguments.groups, seed) for seed in range(arguments.nodes)]
    nodes = world.running()
    print(f"{arguments.nodes} nodes, {arguments.groups:,} groups each\n")
    print(f"{'what':<28} {'gossip bytes':>14} {'other bytes':>14} {'CPU s':>8} {'virtual s':>10} {'agreed s':>9}")

    def fill() -> None:
        for node, ids in zip(nodes, sets, strict=True):
            host(node, ids)
        world.run_for(0.5)

    def change() -> None:
        host(nodes[0], group_ids(1, seed=-1))
        world.run_for(0.05)

    def join() -> None:
        add(world, arguments.nodes)
        settle(world)

    measure("all begin to host", world, meter, fill, 0.0)
    measure("quiet", world, meter, lambda: world.run_for(1.0), 60.0)
    measure("one change, and quiet", world, meter, change, 60.0)
    measure("a node joins", world, meter, join, 0.0)
    measure("a node starts again", world, meter, lambda: restart(world, nodes[1], sets[1]), 0.0)


if __name__ == "__main__":
    main()
