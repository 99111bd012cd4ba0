"""How much CPU the bare core takes from append to commit, in one thread, without disk, network or packing.

A lone entry passes through about six steps over three replicas; the figure is the processor time of all of them
together.

    python tools/bench_core.py [--entries 20000] [--batch 1] [--mode async|sync] [--profile]
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import random
import time
from collections import deque

from copycat.messages import LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD, ConfState, Entry, HardState, Message, Snapshot
from copycat.raft import Compacted, RaftConfig, RawNode, Role, SnapshotUnavailable, Unavailable

VOTERS = (1, 2, 3)


class ListStorage:
    """The cheapest storage there can be: a list, and nothing synced."""

    def __init__(self) -> None:
        self.hard_state = HardState()
        self.log: list[Entry] = []

    def initial_state(self) -> tuple[HardState, ConfState]:
        return self.hard_state, ConfState(VOTERS)

    def first_index(self) -> int:
        return 1

    def last_index(self) -> int:
        return len(self.log)

    def term(self, index: int) -> int:
        if index == 0:
            return 0
        if index > len(self.log):
            raise Unavailable(index)
        return self.log[index - 1].term

    def entries(self, low: int, high: int, bytes_max: int) -> list[Entry]:
        if low < 1:
            raise Compacted(low)
        return self.log[low - 1 : high - 1]

    def snapshot(self) -> Snapshot:
        raise SnapshotUnavailable

    def append(self, entries: list[Entry]) -> None:
        self.log[entries[0].index - 1 :] = entries


class Trio:
    """Three replicas whose messages arrive at once."""

    def __init__(self, asynchronous: bool) -> None:
        self.asynchronous = asynchronous
        self.storage = {voter: ListStorage() for voter in VOTERS}
        self.nodes = {
            voter: RawNode(
                RaftConfig(
                    id=voter,
                    storage=self.storage[voter],
                    rng=random.Random(voter),
                    async_storage_writes=asynchronous,
                )
            )
            for voter in VOTERS
        }
        self.inbox: deque[Message] = deque()
        self.applied = 0
        self.steps = 0
        self.readies = 0
        self.nodes[1].campaign()
        self.run()
        assert self.nodes[1].role == Role.LEADER

    def run(self) -> None:
        """Until nothing moves."""
        nodes, inbox = self.nodes, self.inbox
        busy = True
        while busy:
            busy = False
            while inbox:
                message = inbox.popleft()
                nodes[message.to].step(message)
                self.steps += 1
            for voter, node in nodes.items():
                if node.has_ready():
                    busy = True
                    self.readies += 1
                    self._work(voter, node)

    def _work(self, voter: int, node: RawNode) -> None:
        ready = node.ready()
        if ready.entries:
            self.storage[voter].append(ready.entries)
        if voter == 1:
            self.applied += len(ready.committed_entries)
        if not self.asynchronous:
            self.inbox.extend(ready.messages)
            node.advance()
            return
        for message in ready.messages:
            if message.to in (LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD):
                for response in message.responses:
                    if response.to == voter:
                        node.step(response)
                    else:
                        self.inbox.append(response)
            else:
                self.inbox.append(message)


def measure(entries: int, batch: int, asynchronous: bool) -> float:
    """Microseconds of CPU for one proposal (of ``batch`` entries) to be committed and applied by all three."""
    trio = Trio(asynchronous)
    leader = trio.nodes[1]
    data = [b"x" * 16] * batch
    rounds = entries // batch
    before = trio.applied
    start = time.process_time()
    for _ in range(rounds):
        leader.propose_many(data)
        trio.run()
    spent = time.process_time() - start
    assert trio.applied - before == rounds * batch
    return spent / rounds * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--entries", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=1, help="entries proposed together")
    parser.add_argument("--mode", choices=("async", "sync"), default="async")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    asynchronous = options.mode == "async"
    if options.profile:
        profile = cProfile.Profile()
        profile.runcall(measure, options.entries, options.batch, asynchronous)
        pstats.Stats(profile).sort_stats("tottime").print_stats(30)
        return
    figures = sorted(measure(options.entries, options.batch, asynchronous) for _ in range(options.repeat))
    print(
        f"{options.mode}, batches of {options.batch}: {figures[0]:.1f} us of CPU for each (best of {len(figures)}; "
        f"median {figures[len(figures) // 2]:.1f})"
    )


if __name__ == "__main__":
    main()
