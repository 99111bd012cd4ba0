"""What ``copycat bench`` measures beside throughput: reads, a lost leader, a late joiner, a restart, and doing nothing."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

from copycat.cli.bench_cluster import NODES, BenchCluster
from copycat.cli.bench_scenarios import BURST, DEADLINE_S, WARM_UP_S, Row, Setup, charge, quantile
from copycat.cli.local_cluster import Deadline

BARRIER_THREADS = 16
SNAPSHOT_BYTES = 256 << 20
JOINED_LOG_BYTES = 4096
JOINED_PAYLOAD_BYTES = 16
JOINED_PROPOSALS = 60
"""Enough for one snapshot to be due, and too few for a second one."""
RESTART_PROPOSALS = 1_000_000
NO_SNAPSHOTS = {"snapshot_log_entries": 1 << 40, "snapshot_log_bytes": 1 << 40, "log_bytes_max": 1 << 40}
MIB = 1 << 20


def leader_of(cluster: BenchCluster) -> int:
    """The node that leads the only group, once there is one."""
    led = cluster.led_by()
    return next(index for index in range(NODES) if led[index])


def barrier(setup: Setup, directory: Path) -> Row:
    """Linearizable reads on a follower, by many threads for the rate and by one for the latency."""
    with BenchCluster(directory, Deadline(DEADLINE_S), **setup.overrides()) as cluster:
        cluster.start()
        client = (leader_of(cluster) + 1) % NODES
        cluster.ask(client, "next_commit", group=0, proposer=client, payload=setup.payload, timeout=10.0)
        arguments = {"group": 0, "seconds": setup.seconds / 2, "timeout": setup.seconds + 10.0}
        before = cluster.usage()
        crowd = cluster.ask(client, "barriers", threads=BARRIER_THREADS, **arguments)["times"]
        after = cluster.usage()
        alone = cluster.ask(client, "barriers", threads=1, **arguments)["times"]
        row = Row("barrier on follower", len(crowd) / (after.at - before.at), "barriers/s", setup=asdict(setup))
        row.p50_ms, row.p99_ms = quantile(alone, 0.5), quantile(alone, 0.99)
        charge(row, before, after, len(crowd))
        row.note = f"rate with {BARRIER_THREADS} threads, latency with one; costs are per barrier"
        cluster.check({(0, client): 1})
        row.peak_mib = cluster.peak_memory_bytes() / MIB
        cluster.close()
    return row


def failover(setup: Setup, directory: Path) -> Row:
    """SIGKILL of the leader: until a proposal that is sent at that moment, on another node, is committed."""
    times = setup.failovers
    with BenchCluster(directory, Deadline(DEADLINE_S + 20.0 * times), **setup.overrides()) as cluster:
        cluster.start()
        sent = dict.fromkeys(range(NODES), 0)
        gaps: list[float] = []
        for _ in range(times):
            leader = leader_of(cluster)
            client = next(index for index in range(NODES) if index != leader)
            proposing = {"group": 0, "proposer": client, "payload": setup.payload, "timeout": 30.0}
            for node in (leader, client):
                cluster.ask(node, "number_from", group=0, sent=sent[node])
            cluster.ask(client, "next_commit", **proposing)
            killed = time.monotonic()
            cluster.kill(leader)
            cluster.ask(client, "next_commit", **proposing)
            gaps.append(time.monotonic() - killed)
            sent[client] += 2
            cluster.start_again(leader)
        row = Row("failover", note=f"{times} times from SIGKILL of the leader to the next commit", setup=asdict(setup))
        row.p50_ms, row.p99_ms = quantile(gaps, 0.5), quantile(gaps, 0.99)
        cluster.check({(0, node): count for node, count in sent.items()})
        row.peak_mib = cluster.peak_memory_bytes() / MIB
        cluster.close()
    return row


def late_join(setup: Setup, directory: Path, snapshot_bytes: int = SNAPSHOT_BYTES) -> Row:
    """A fourth node subscribes to a data structure whose log begins behind a large snapshot."""
    overrides = {**setup.overrides(), "snapshot_log_bytes": JOINED_LOG_BYTES}
    with BenchCluster(directory, Deadline(DEADLINE_S), ballast_bytes=snapshot_bytes, **overrides) as cluster:
        cluster.start()
        client = leader_of(cluster)
        for _ in range(JOINED_PROPOSALS):
            cluster.ask(client, "next_commit", group=0, proposer=client, payload=JOINED_PAYLOAD_BYTES, timeout=60.0)
        cluster.of_all("barrier", timeout=60.0)  # handed over behind the snapshot, so that one is made
        before = cluster.usage()
        cluster.start_again(NODES)
        loaded = int(cluster.ask(NODES, "await_snapshot", group=0, timeout=60.0)["bytes"])
        after = cluster.usage()
        elapsed = after.at - before.at
        row = Row("late join", loaded / MIB / elapsed, "MiB/s", setup=asdict(setup))
        row.note = f"{loaded / MIB:,.0f} MiB in {elapsed:.2f} s, from starting the process to having caught up"
        cluster.check({(0, client): JOINED_PROPOSALS})
        row.peak_mib = cluster.peak_memory_bytes() / MIB
        cluster.close()
    return row


def restart(setup: Setup, directory: Path, proposals: int = RESTART_PROPOSALS) -> Row:
    """A node is killed and started again with all proposals in its log, none of them in a snapshot."""
    with BenchCluster(directory, Deadline(DEADLINE_S), **setup.overrides(), **NO_SNAPSHOTS) as cluster:
        cluster.start()
        leader = leader_of(cluster)
        burst = max(1, min(BURST, setup.in_flight // 4))
        cluster.ask(leader, "propose", groups=[0], proposer=leader, payload=setup.payload, burst=burst)
        while cluster.ask(leader, "progress")["handed"] < proposals:
            cluster.deadline.remaining()
            time.sleep(0.05)
        sent = cluster.finish()
        killed = (leader + 1) % NODES
        cluster.kill(killed)
        started = time.monotonic()
        cluster.start_again(killed)
        elapsed = time.monotonic() - started
        cluster.check(sent)
        count = sum(sent.values())
        row = Row("restart", count / elapsed, "proposals/s", setup=asdict(setup))
        row.note = f"{count:,} proposals in the log; {elapsed:.2f} s from starting the process to having caught up"
        row.peak_mib = cluster.peak_memory_bytes() / MIB
        cluster.close()
    return row


def idle(setup: Setup, directory: Path) -> Row:
    """Nobody proposes."""
    with BenchCluster(directory, Deadline(DEADLINE_S + setup.seconds), setup.groups, **setup.overrides()) as cluster:
        cluster.start()
        cluster.led_by()
        time.sleep(WARM_UP_S)
        before = cluster.usage()
        time.sleep(setup.seconds)
        after = cluster.usage()
        share = (after.cpu_s - before.cpu_s) / (after.at - before.at) / NODES
        row = Row("idle", share * 100, "% of a core a node", setup=asdict(setup))
        row.note = f"{setup.groups} groups, each with a consumer on every node"
        row.peak_mib = cluster.peak_memory_bytes() / MIB
        cluster.close()
    return row
