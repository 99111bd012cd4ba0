"""What one seed means: sizes, settings, habits, and the faults of a run, drawn as a mix of its own for each seed.

A mix (a "swarm": Groce et al., "Swarm testing", 2012) leaves most kinds of faults out of most runs, so that those it has
come more often and in combinations that a uniform draw would hardly ever show. A scenario is plain data: it can be
printed, repeated, and cut down.
"""

from __future__ import annotations

import enum
import random
from dataclasses import dataclass, field

from copycat.config import Config
from copycat.testing.consumer import Habits
from copycat.testing.specimens import SPECIMENS, Specimen


class FaultKind(str, enum.Enum):
    """What may go wrong.

    A *bounce* is a crash at the moment when something was written, and a restart at once. A *storm* unseats every leader as
    soon as there is one, while the others bounce: votes are given, and forgotten if they can be. A *partial* partition cuts some
    pairs of nodes in some directions, so that no two nodes need to agree on who is there.
    """

    CRASH = "crash"
    PAUSE = "pause"
    ISOLATE = "isolate"
    HALVES = "halves"
    ONE_WAY = "one way"
    PARTIAL = "partial"
    SLOW_HOST = "slow host"
    SLOW_LINK = "slow link"
    SIZE_LIMIT = "size limit"
    LOSS = "loss"
    DISK_STALL = "disk stall"
    SLOW_DISK = "slow disk"
    DISK_ERROR = "disk error"
    DISK_FULL = "disk full"
    CLOCK_JUMP = "clock jump"
    CLOCK_DRIFT = "clock drift"
    CLOSE = "close"
    WIPE = "wipe"
    ROT = "rot"
    SHUT_DOWN = "shut down"
    CRASH_ALL = "crash all"
    BOUNCE = "bounce"
    STORM = "storm"


LOSES_DATA = frozenset({FaultKind.WIPE, FaultKind.ROT})
"""Kinds after which a node's data is gone for good: too many of them at once break any replication."""


@dataclass(frozen=True, slots=True)
class Fault:
    """``at`` in seconds of the run; ``draw`` decides every detail, whatever other faults there are."""

    at: float
    kind: FaultKind
    length_s: float
    draw: int


@dataclass(frozen=True, slots=True)
class Scenario:
    """One run. ``chaos_s`` seconds with faults, then everything is mended and must converge."""

    seed: int
    nodes: int
    groups: int
    replicas: int
    subscribers: float
    """Chance of each node to be a consumer of each group."""
    chaos_s: float
    config: Config
    habits: Habits
    latency_s: float
    loss: float
    datagram_loss: float
    repeat: float
    reconnect: float
    bytes_per_s: float
    holds_when_cut: bool
    write_s: float
    turn_s: float
    tears: bool
    specimens: tuple[Specimen | None, ...] = ()
    """The structure of each group; None, and beyond the end: registers, with a log of their own to compare."""
    faults: tuple[Fault, ...] = field(default_factory=tuple)


CHAOS_S = 54.0
"""With the second in which a world starts and the five in which it comes to rest, a run is 60 virtual seconds long."""


def draw(seed: int) -> Scenario:
    """The scenario of a seed."""
    rng = random.Random(seed)
    nodes = rng.choice((1, 2, 3, 3, 3, 4, 5, 5, 6, 7))
    groups = rng.choice((1, 1, 1, 2, 3, 6)) if nodes < 6 else rng.choice((1, 2))
    subscribers = rng.choice((0.3, 0.6, 1.0, 1.0))
    replicas = min(nodes, rng.choice((1, 2, 3, 3, 3, 3, 4, 5)))
    config = _draw_config(rng, replicas)
    election_s = config.tick_ms * config.election_ticks / 1000
    return Scenario(
        seed=seed,
        nodes=nodes,
        groups=groups,
        replicas=replicas,
        subscribers=subscribers,
        chaos_s=CHAOS_S,
        config=config,
        habits=_draw_habits(rng, nodes * groups * subscribers),
        latency_s=min(rng.choice((0.0002, 0.0005, 0.002, 0.01, 0.03)), election_s / 20),
        loss=rng.choice((0.0, 0.0, 0.001, 0.01, 0.05)),
        datagram_loss=rng.choice((0.0, 0.01, 0.05)),
        repeat=rng.choice((0.0, 0.0, 0.01, 0.1)),
        reconnect=rng.choice((0.0, 0.0, 0.01, 0.1)),
        bytes_per_s=rng.choice((1e9, 1e9, 1e6)),
        holds_when_cut=rng.random() < 0.5,
        write_s=rng.choice((0.0002, 0.001, 0.005)),
        turn_s=rng.choice((0.0002, 0.001, 0.004, 0.01)),
        tears=rng.random() < 0.5,
        specimens=_draw_specimens(rng, groups),
        faults=_draw_faults(rng),
    )


def _draw_config(rng: random.Random, replicas: int) -> Config:
    batch = rng.choice((1, 4, 16, 4096))
    batch_bytes = rng.choice((200, 4096, 1 << 20))
    chunk = rng.choice((128, 512, 4096))
    snapshot_log_bytes = rng.choice((500, 2_000, 10_000, 1 << 20))
    return Config(
        replicas=replicas,
        gossip_profile=rng.choice(("local", "lan", "lan")),
        repair_delay_s=rng.choice((2.0, 5.0, 30.0)),
        tick_ms=rng.choice((50, 100, 100, 200)),
        heartbeat_ticks=rng.choice((1, 2, 3)),
        election_ticks=rng.choice((5, 10, 20)),
        batch_proposals_max=batch,
        batch_bytes_max=batch_bytes,
        append_bytes_max=rng.choice((1, 1, 4096, 1 << 20)),
        in_flight_proposals_max=rng.choice((8, 64, 10_000)),
        in_flight_bytes_max=rng.choice((2_000, 100_000)),
        commit_queue_bytes_max=rng.choice((500, 5_000, 1 << 20)),
        session_expiry_s=rng.choice((3.0, 10.0, 60.0)),
        proposal_bytes_max=1024,
        frame_bytes_max=4 * max(1024, batch_bytes, chunk),
        snapshot_log_bytes=snapshot_log_bytes,
        snapshot_log_entries=rng.choice((5, 20, 100, 100_000)),
        snapshot_chunk_bytes=chunk,
        snapshot_bytes_per_s=rng.choice((10_000, 1 << 20)),
        follower_log_bytes_max=rng.choice((500, 5_000, 1 << 20)),
        log_bytes_max=rng.choice((max(20_000, 4 * snapshot_log_bytes), 1 << 30)),
        leave_timeout_s=rng.choice((0.5, 3.0)),
        errors_max=rng.choice((10, 10_000)),
    )


def _draw_habits(rng: random.Random, consumers: float) -> Habits:
    step_s = rng.choice((0.1, 0.2, 0.4))
    burst_max = rng.choice((1, 4, 12))
    per_s = rng.choice((1.0, 4.0, 15.0))  # proposals of all consumers together
    reads_per_s = rng.choice((0.3, 1.0, 4.0))
    return Habits(
        step_s=step_s,
        send_chance=min(per_s * step_s / max(consumers, 1.0) / ((1 + burst_max) / 2), 0.9),
        burst_max=burst_max,
        submit_chance=rng.choice((0.2, 0.8)),
        read_chance=min(reads_per_s * step_s / max(consumers, 1.0), 0.5),
        padding_bytes=rng.choice((0, 20, 300)),
        snapshot_padding_bytes=rng.choice((0, 500, 6_000)),
    )


def _draw_specimens(rng: random.Random, groups: int) -> tuple[Specimen | None, ...]:
    share = rng.choice((0.0, 0.0, 0.5, 1.0))
    names = sorted(SPECIMENS)
    return tuple([SPECIMENS[rng.choice(names)] if rng.random() < share else None for _ in range(groups)])


def _draw_faults(rng: random.Random) -> tuple[Fault, ...]:
    kinds = [kind for kind in FaultKind if rng.random() < 0.35 and (kind not in LOSES_DATA or rng.random() < 0.5)]
    if not kinds:
        return ()
    every_s = rng.choice((1.0, 2.0, 5.0))
    faults = []
    at = rng.expovariate(1.0 / every_s)
    while at < CHAOS_S:
        length = min(rng.expovariate(1.0 / rng.choice((0.2, 1.0, 4.0))), 12.0)
        faults.append(Fault(at, rng.choice(kinds), length, rng.getrandbits(32)))
        at += rng.expovariate(1.0 / every_s)
    return tuple(faults)
