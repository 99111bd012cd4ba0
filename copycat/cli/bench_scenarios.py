"""What ``copycat bench`` measures: each scenario starts a cluster of its own, warms it up, measures, checks, and ends it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from copycat.cli.bench_cluster import NODES, BenchCluster, Usage
from copycat.cli.local_cluster import Deadline
from copycat.config import DEFAULT_STORAGE

WARM_UP_S = 1.0
BURST = 1000
"""Proposals per call of ``send_many``."""
DEADLINE_S = 120.0
SATURATED_S_MAX = 5.0
"""For how long the most that the cluster carries is measured, where a share of it is wanted."""
MEMORY_SAMPLES = 4


@dataclass(frozen=True, slots=True)
class Setup:
    """What is asked for on the command line."""

    payload: int = 16
    in_flight: int = 20_000
    groups: int = 1
    proposers: str = "leader"
    durability: str = "fsync"
    seconds: float = 5.0
    transport: str = "zeromq"
    storage: str = DEFAULT_STORAGE
    failovers: int = 20

    def overrides(self) -> dict[str, Any]:
        """Fields of the nodes' configuration."""
        return {
            "durability": self.durability,
            "transport": self.transport,
            "storage": self.storage,
            "in_flight_proposals_max": self.in_flight,
        }


@dataclass(slots=True)
class Row:
    """One measured figure, and what it cost. None: does not apply, or the system doesn't tell."""

    scenario: str
    per_second: float | None = None
    unit: str = "commits/s"
    p50_ms: float | None = None
    p99_ms: float | None = None
    cpu_us_per_commit: float | None = None
    written_bytes_per_commit: float | None = None
    peak_mib: float | None = None
    longest_pause_ms: float | None = None
    note: str = ""
    setup: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def quantile(times: list[float], share: float) -> float:
    """In milliseconds."""
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000


def charge(row: Row, before: Usage, after: Usage, commits: int) -> Row:
    """Note in ``row`` what was used between two moments, per commit."""
    if commits:
        row.cpu_us_per_commit = (after.cpu_s - before.cpu_s) / commits * 1e6
        if before.written_bytes is not None and after.written_bytes is not None:
            row.written_bytes_per_commit = (after.written_bytes - before.written_bytes) / commits
    return row


def begin_proposing(cluster: BenchCluster, setup: Setup) -> None:
    led = cluster.led_by()
    for index in range(NODES):
        if setup.proposers == "all":
            groups = list(range(setup.groups))
        else:
            groups = led[index if setup.proposers == "leader" else (index + 1) % NODES]
        burst = max(1, min(BURST, setup.in_flight // 4))
        if groups:
            cluster.ask(index, "propose", groups=groups, proposer=index, payload=setup.payload, burst=burst)


def saturation(setup: Setup, directory: Path) -> Row:
    """As many proposals in flight as are allowed, all the time."""
    with BenchCluster(directory, Deadline(DEADLINE_S), setup.groups, **setup.overrides()) as cluster:
        cluster.start()
        begin_proposing(cluster, setup)
        time.sleep(WARM_UP_S)
        before = cluster.usage()
        time.sleep(setup.seconds)
        after = cluster.usage()
        commits = after.handed - before.handed
        row = Row(f"pipelined, from {setup.proposers}", commits / (after.at - before.at), setup=asdict(setup))
        charge(row, before, after, commits)
        cluster.stop()
        row.peak_mib = cluster.peak_memory_bytes() / (1 << 20)
        cluster.close()
    return row


def lone_client(setup: Setup, directory: Path) -> Row:
    """One proposal at a time: from ``send`` until the sender is handed it."""
    with BenchCluster(directory, Deadline(DEADLINE_S), **setup.overrides()) as cluster:
        cluster.start()
        led = cluster.led_by()
        leader = next(index for index in range(NODES) if led[index])
        client = leader if setup.proposers == "leader" else (leader + 1) % NODES
        arguments = {"group": 0, "proposer": client, "payload": setup.payload}
        cluster.ask(client, "lone", seconds=WARM_UP_S, **arguments)
        before = cluster.usage()
        times = cluster.ask(client, "lone", seconds=setup.seconds, **arguments)["times"]
        after = cluster.usage()
        row = Row(f"lone client on {'leader' if client == leader else 'follower'}", len(times) / sum(times))
        row.p50_ms, row.p99_ms, row.setup = quantile(times, 0.5), quantile(times, 0.99), asdict(setup)
        charge(row, before, after, len(times))
        cluster.stop()
        row.peak_mib = cluster.peak_memory_bytes() / (1 << 20)
        cluster.close()
    return row


def half_load(setup: Setup, directory: Path) -> Row:
    """A steady half of what the cluster carries at most: latency, pauses, and whether memory stays flat.

    From when a burst is due, every two milliseconds, until the node that proposes it was handed all of it. Snapshots are made and
    the log is compacted meanwhile, so with many seconds this is a soak.
    """
    with BenchCluster(directory, Deadline(DEADLINE_S + 2 * setup.seconds), **setup.overrides()) as cluster:
        cluster.start()
        led = cluster.led_by()
        leader = next(index for index in range(NODES) if led[index])
        burst = max(1, min(BURST, setup.in_flight // 4))
        cluster.ask(leader, "propose", groups=[0], proposer=leader, payload=setup.payload, burst=burst)
        time.sleep(WARM_UP_S)
        full = _rate_over(cluster, min(setup.seconds, SATURATED_S_MAX))
        cluster.ask(leader, "stop", timeout=cluster.deadline.remaining())
        pacing = {"group": 0, "proposer": leader, "payload": setup.payload, "per_second": full / 2}
        cluster.ask(leader, "pace", **pacing)
        before = cluster.usage()
        memory = []
        for _ in range(MEMORY_SAMPLES):
            time.sleep(setup.seconds / MEMORY_SAMPLES)
            memory.append(cluster.memory_bytes() / (1 << 20))
        after = cluster.usage()
        paced = cluster.ask(leader, "end_pace", group=0, timeout=cluster.deadline.remaining())
        commits = after.handed - before.handed
        row = Row("half load", commits / (after.at - before.at), setup=asdict(setup))
        row.p50_ms, row.p99_ms = quantile(paced["times"], 0.5), quantile(paced["times"], 0.99)
        row.longest_pause_ms = paced["longest_pause_s"] * 1000
        row.note = (
            f"of {full:,.0f} commits/s; longest pause {row.longest_pause_ms:,.0f} ms; resident MiB over time: "
            + ", ".join(f"{mib:,.0f}" for mib in memory)
        )
        charge(row, before, after, commits)
        cluster.stop()
        row.peak_mib = cluster.peak_memory_bytes() / (1 << 20)
        cluster.close()
    return row


def _rate_over(cluster: BenchCluster, seconds: float) -> float:
    before = cluster.usage()
    time.sleep(seconds)
    after = cluster.usage()
    return (after.handed - before.handed) / (after.at - before.at)


Scenario = Callable[[Setup, Path], Row]
