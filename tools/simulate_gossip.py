"""Measure membership and metadata gossip: real cores, virtual time, one seed per run.

    python tools/simulate_gossip.py                  every experiment at full size (about an hour)
    python tools/simulate_gossip.py --short          the same in small (under a minute)
    python tools/simulate_gossip.py detection loss   only these; also: stalls, traffic, metadata
    python tools/simulate_gossip.py stalls --plot stalls.png

What each figure means is said in docs/gossip.md.
"""

from __future__ import annotations

import argparse
import enum
import importlib
import itertools
import math
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from copycat.gossip import LAN, EventKind, Item, MemberEvent, Profile
from copycat.gossip.wire import PacketKind
from copycat.testing.gossip_world import GossipWorld, SimulatedNode
from copycat.testing.overlay_world import OverlayNode, OverlayWorld

HOP_S = (0.0002, 0.002)
"""One way through a local network, and the receiver's turn."""

SLOW_HOP_S = (0.001, 0.02)
"""The same with a busy engine at each hop."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much of everything is done."""

    members: tuple[int, ...]
    crashes: int
    loss_members: int
    loss_seconds: float
    stall_members: int
    stall_seconds: float
    stall_shares: tuple[float, ...]
    stall_lengths_s: tuple[float, ...]
    stall_pauses_s: tuple[float, ...]
    traffic_seconds: float
    changes: int


FULL = Size(
    members=(10, 100, 1000),
    crashes=300,
    loss_members=100,
    loss_seconds=600.0,
    stall_members=100,
    stall_seconds=120.0,
    stall_shares=(0.01, 0.05, 0.10, 0.25),
    stall_lengths_s=(0.1, 0.5, 2.0, 8.0, 16.0, 30.0),
    stall_pauses_s=(0.1, 1.0),
    traffic_seconds=60.0,
    changes=20,
)
SHORT = Size(
    members=(10, 100),
    crashes=60,
    loss_members=20,
    loss_seconds=120.0,
    stall_members=40,
    stall_seconds=60.0,
    stall_shares=(0.25,),
    stall_lengths_s=(2.0, 16.0),
    stall_pauses_s=(0.1,),
    traffic_seconds=30.0,
    changes=5,
)


# --- detection ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Detection:
    """Means over all crashes, but for ``slowest_probe_periods``."""

    members: int
    crashes: int
    first_probe_periods: float  # the protocol period, counted from the crash, in which somebody first probes the victim
    standard_error: float
    slowest_probe_periods: int
    first_suspicion_s: float
    first_death_s: float
    known_by_99_percent_s: float


def expected_first_probe_periods(members: int) -> float:
    """SWIM's model for N members: each period, each of the others probes the victim with probability 1 / (N - 1)."""
    others = members - 1
    return 1.0 / (1.0 - (1.0 - 1.0 / others) ** others)


def measure_detection(members: int, crashes: int, seed: int, profile: Profile = LAN) -> Detection:
    """Crash one member at a time, at random moments, in a cluster without loss; a tenth of each world at most."""
    periods: list[int] = []
    suspicions: list[float] = []
    deaths: list[float] = []
    spreads: list[float] = []
    rng = random.Random(seed)
    while len(periods) < crashes:
        world = GossipWorld(rng.getrandbits(32), profile, HOP_S)
        world.keep_events = False
        nodes = world.form(members)
        for _ in range(min(max(1, members // 10), crashes - len(periods))):
            world.run(rng.uniform(5.0, 15.0) * profile.probe_interval_s)
            victim = nodes.pop(rng.randrange(len(nodes)))
            times = _crash(world, victim, len(nodes), profile)
            periods.append(1 + math.floor(times.first_probe_s / profile.probe_interval_s))
            suspicions.append(times.first_suspicion_s)
            deaths.append(times.first_death_s)
            spreads.append(times.known_by_99_percent_s)
    return Detection(
        members,
        crashes,
        statistics.mean(periods),
        statistics.stdev(periods) / math.sqrt(crashes),
        max(periods),
        statistics.mean(suspicions),
        statistics.mean(deaths),
        statistics.mean(spreads),
    )


@dataclass(slots=True)
class _CrashTimes:
    first_probe_s: float = math.inf
    first_suspicion_s: float = math.inf
    first_death_s: float = math.inf
    known_by_99_percent_s: float = math.inf


def _crash(world: GossipWorld, victim: SimulatedNode, survivors: int, profile: Profile) -> _CrashTimes:
    crashed_at = world.now
    times = _CrashTimes()
    name = victim.node_id.encode()
    needed = math.ceil(0.99 * survivors)
    known = 0

    def watch_datagram(sender: SimulatedNode, address: tuple[str, int], data: bytes) -> None:
        if data[1] == PacketKind.PING and data[32:58] == name and times.first_probe_s == math.inf:
            times.first_probe_s = world.now - crashed_at

    def watch_event(node: SimulatedNode, event: MemberEvent) -> None:
        nonlocal known
        if event.record.node_id != victim.node_id:
            return
        if event.kind is EventKind.SUSPECTED and times.first_suspicion_s == math.inf:
            times.first_suspicion_s = world.now - crashed_at
        elif event.kind is EventKind.DIED:
            known += 1
            if known == 1:
                times.first_death_s = world.now - crashed_at
            if known == needed:
                times.known_by_99_percent_s = world.now - crashed_at

    world.on_datagram = watch_datagram
    world.on_event = watch_event
    world.crash(victim)
    found = world.run_until(lambda: known >= needed, 200 * profile.probe_interval_s)
    world.on_datagram = None
    world.on_event = None
    if not found:
        raise RuntimeError(f"a crash was not known after 200 periods, seed {world.seed}")
    return times


# --- false positives ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FalsePositives:
    """About members that were well. ``events`` counts each member that took a healthy one for dead."""

    node_hours: float
    events: int
    events_at_healthy: int  # of these, at members that were well themselves

    @property
    def per_node_hour(self) -> float:
        return self.events / self.node_hours


def measure_false_positives(
    profile: Profile,
    members: int,
    seconds: float,
    seed: int,
    loss: float = 0.0,
    disturb: Callable[[GossipWorld, Sequence[SimulatedNode]], set[str]] | None = None,
) -> FalsePositives:
    """Nobody crashes. ``disturb`` plans faults of some members and returns their ids; they don't count as victims."""
    world = GossipWorld(seed, profile, HOP_S, loss)
    world.keep_events = False
    nodes = world.form(members)
    world.run(10 * profile.probe_interval_s)
    disturbed = disturb(world, nodes) if disturb is not None else set()
    events = at_healthy = 0

    def watch(node: SimulatedNode, event: MemberEvent) -> None:
        nonlocal events, at_healthy
        if event.kind is EventKind.DIED and event.record.node_id not in disturbed:
            events += 1
            at_healthy += node.node_id not in disturbed

    world.on_event = watch
    world.run(seconds)
    return FalsePositives(members * seconds / 3600.0, events, at_healthy)


class FaultKind(enum.Enum):
    STALL = "processes stand still"
    CUT_OFF = "processes run, their mail waits"


class Fault:
    """A share of the members is out of order again and again, all at the same moments: ``length_s`` out, ``pause_s``
    well.
    """

    def __init__(self, kind: FaultKind, share: float, length_s: float, pause_s: float, seconds: float) -> None:
        self.share = share
        self.length_s = length_s
        self.pause_s = pause_s
        self.seconds = seconds
        self.kind = kind

    def __call__(self, world: GossipWorld, nodes: Sequence[SimulatedNode]) -> set[str]:
        chosen = world.rng.sample(list(nodes), max(1, round(self.share * len(nodes))))
        fault = world.cut_off if self.kind is FaultKind.CUT_OFF else world.stall

        def begin() -> None:
            for node in chosen:
                fault(node, self.length_s)

        start = world.now
        at_s = 0.0
        while at_s < self.seconds:
            world.at(start + at_s, begin)
            at_s += self.length_s + self.pause_s
        return {node.node_id for node in chosen}


@dataclass(frozen=True, slots=True)
class StallResult:
    fault: FaultKind
    share: float
    length_s: float
    pause_s: float
    profile: str
    result: FalsePositives


STALL_PROFILES = {
    "SWIM": LAN.without_lifeguard(),
    "Lifeguard": LAN,
}


def measure_stalls(size: Size, seed: int, fault: FaultKind) -> Iterator[StallResult]:
    """The whole sweep for one kind of fault, under each profile with the same seeds."""
    sweep = itertools.product(size.stall_shares, size.stall_lengths_s, size.stall_pauses_s)
    for number, (share, length_s, pause_s) in enumerate(sweep):
        for name, profile in STALL_PROFILES.items():
            disturb = Fault(fault, share, length_s, pause_s, size.stall_seconds)
            result = measure_false_positives(
                profile, size.stall_members, size.stall_seconds, seed + number, disturb=disturb
            )
            yield StallResult(fault, share, length_s, pause_s, name, result)


# --- traffic --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Traffic:
    """Sent per node and second in a quiet cluster."""

    members: int
    packets: float
    bytes: float
    push_pull_bytes: float


def measure_traffic(members: int, seconds: float, seed: int, profile: Profile = LAN) -> Traffic:
    world = GossipWorld(seed, profile, HOP_S)
    world.keep_events = False
    nodes = world.form(members)
    world.run(20.0)
    before = [(node.datagrams_sent, node.bytes_sent, node.page_bytes_sent) for node in nodes]
    world.run(seconds)
    share = members * seconds
    return Traffic(
        members,
        sum(node.datagrams_sent - old[0] for node, old in zip(nodes, before, strict=True)) / share,
        sum(node.bytes_sent - old[1] for node, old in zip(nodes, before, strict=True)) / share,
        sum(node.page_bytes_sent - old[2] for node, old in zip(nodes, before, strict=True)) / share,
    )


# --- metadata -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Spread:
    """Seconds until a change was known to 99 % of the members: mean and worst of ``changes``."""

    way: str
    members: int
    loss: float
    changes: int
    mean_s: float
    worst_s: float
    unreached: int  # changes that 99 % did not hear of within 30 s
    frames_per_node: float  # received per change


def measure_overlay(members: int, changes: int, loss: float, seed: int) -> Spread:
    """Items of 256 bytes from random origins over the overlay of subscriptions."""
    world = OverlayWorld(seed, members, SLOW_HOP_S, loss)
    world.run(1.0)
    rng = random.Random(seed)
    needed = math.ceil(0.99 * (members - 1))
    times = []
    frames = sum(node.frames_in for node in world.nodes.values())
    reached = 0

    def watch(node: OverlayNode, item: Item) -> None:
        nonlocal reached
        reached += 1

    def enough() -> bool:
        return reached >= needed

    world.on_item = watch
    for _ in range(changes):
        reached = 0
        started = world.now
        world.publish(world.nodes[rng.choice(sorted(world.nodes))], bytes(256))
        found = world.run_until(enough, 30.0)
        times.append(world.now - started if found else math.inf)
        world.run(2.0)
    frames = sum(node.frames_in for node in world.nodes.values()) - frames
    return _spread("overlay", members, loss, times, frames / members / changes)


def measure_meta(members: int, changes: int, loss: float, seed: int) -> Spread:
    """A member's own ``meta``, which travels with membership."""
    world = GossipWorld(seed, LAN, HOP_S, loss)
    world.keep_events = False
    nodes = world.form(members)
    world.run(20.0)
    rng = random.Random(seed)
    needed = math.ceil(0.99 * (members - 1))
    times = []
    reached = 0

    def watch(node: SimulatedNode, event: MemberEvent) -> None:
        nonlocal reached
        reached += event.kind is EventKind.UPDATED

    def enough() -> bool:
        return reached >= needed

    world.on_event = watch
    packets = sum(node.datagrams_sent for node in nodes)
    seconds = world.now
    for number in range(changes):
        reached = 0
        started = world.now
        node = rng.choice(nodes)
        node.swim.update_meta(world.now, b"%d" % number)
        world.settle(node)
        found = world.run_until(enough, 30.0)
        times.append(world.now - started if found else math.inf)
        world.run(5.0)
    packets = sum(node.datagrams_sent for node in nodes) - packets
    probes = 2.0 * (world.now - seconds) * members
    return _spread("meta", members, loss, times, (packets - probes) / members / changes)


def _spread(way: str, members: int, loss: float, times: list[float], frames_per_node: float) -> Spread:
    reached = [seconds for seconds in times if seconds != math.inf]
    return Spread(
        way,
        members,
        loss,
        len(times),
        statistics.mean(reached) if reached else math.inf,
        max(reached, default=math.inf),
        len(times) - len(reached),
        frames_per_node,
    )


# --- tables ---------------------------------------------------------------------------------------------------------


def print_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    print(f"\n{title}\n")
    for row in [head, ["-" * width for width in widths], *rows]:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
    sys.stdout.flush()


def show_detection(size: Size, seed: int) -> None:
    rows = []
    for members in size.members:
        got = measure_detection(members, size.crashes, seed)
        model = expected_first_probe_periods(members)
        rows.append(
            [
                f"{members}",
                f"{got.crashes}",
                f"{got.first_probe_periods:.3f} ±{got.standard_error:.3f}",
                f"{model:.3f}",
                f"{got.slowest_probe_periods}",
                f"{got.first_suspicion_s:.2f}",
                f"{got.first_death_s:.2f}",
                f"{got.known_by_99_percent_s:.2f}",
            ]
        )
    limit = math.e / (math.e - 1)
    head = ["members", "crashes", "first probe, periods", "model", "slowest", "suspected s", "dead s", "99 % know s"]
    print_table(f"Detection without loss; e/(e-1) = {limit:.3f}", head, rows)


def show_loss(size: Size, seed: int) -> None:
    rows = []
    for loss in (0.0, 0.05, 0.20):
        for name, profile in STALL_PROFILES.items():
            got = measure_false_positives(profile, size.loss_members, size.loss_seconds, seed, loss)
            rows.append([f"{loss:.0%}", name, f"{got.node_hours:.1f}", f"{got.events}", f"{got.per_node_hour:.3f}"])
    title = f"False positives under loss, {size.loss_members} members"
    print_table(title, ["loss", "rules", "node hours", "events", "per node hour"], rows)


def show_stalls(size: Size, seed: int, plot: str) -> None:
    for fault in FaultKind:
        results = list(measure_stalls(size, seed, fault))
        _show_sweep(size, fault.value, results)
        if plot and fault is FaultKind.CUT_OFF:
            _plot_stalls(results, plot)


def _show_sweep(size: Size, what: str, results: list[StallResult]) -> None:
    rows = []
    for share, length_s in itertools.product(size.stall_shares, size.stall_lengths_s):
        row = [f"{share:.0%}", f"{length_s:g}"]
        for name in STALL_PROFILES:
            here = [one for one in results if (one.share, one.length_s, one.profile) == (share, length_s, name)]
            hours = sum(one.result.node_hours for one in here)
            row.append(f"{sum(one.result.events for one in here) / hours:.2f}")
            row.append(f"{sum(one.result.events_at_healthy for one in here) / hours:.2f}")
        rows.append(row)
    total = ["all", "all"]
    for name in STALL_PROFILES:
        here = [one for one in results if one.profile == name]
        hours = sum(one.result.node_hours for one in here)
        events = sum(one.result.events for one in here)
        total.append(f"{events / hours:.2f}")
        total.append(f"{sum(one.result.events_at_healthy for one in here) / hours:.2f}")
    rows.append(total)
    head = ["share", "length s", *itertools.chain(*((name, "at healthy") for name in STALL_PROFILES))]
    print_table(f"False positives per node hour, {size.stall_members} members, {what}", head, rows)
    for kind in ("events", "events_at_healthy"):
        sums = [sum(getattr(one.result, kind) for one in results if one.profile == name) for name in STALL_PROFILES]
        ratio = f"{sums[0] / sums[1]:.0f} times fewer" if sums[1] else "none left"
        print(f"{kind}: {sums[0]} without Lifeguard, {sums[1]} with: {ratio}")


def _plot_stalls(results: list[StallResult], path: str) -> None:
    try:
        pyplot = importlib.import_module("matplotlib.pyplot")
    except ImportError:
        print("matplotlib is not installed: no plot")
        return
    for name in STALL_PROFILES:
        lengths_s = sorted({one.length_s for one in results})
        rates = []
        for length_s in lengths_s:
            here = [one.result for one in results if one.profile == name and one.length_s == length_s]
            rates.append(sum(one.events for one in here) / sum(one.node_hours for one in here))
        pyplot.plot(lengths_s, rates, marker="o", label=name)
    pyplot.xscale("log")
    pyplot.yscale("symlog", linthresh=0.1)
    pyplot.xlabel("length of each fault, s")
    pyplot.ylabel("false positives per node hour")
    pyplot.legend()
    pyplot.savefig(path)


def show_traffic(size: Size, seed: int) -> None:
    rows = []
    for members in size.members:
        got = measure_traffic(members, size.traffic_seconds, seed)
        rows.append([f"{members}", f"{got.packets:.3f}", f"{got.bytes:.1f}", f"{got.push_pull_bytes:.2f}"])
    print_table("Sent per node and second, quiet", ["members", "packets", "bytes", "push-pull bytes"], rows)


def show_metadata(size: Size, seed: int) -> None:
    rows = []
    for measure, loss in itertools.product((measure_overlay, measure_meta), (0.0, 0.05)):
        for members in size.members:
            got = measure(members, size.changes, loss, seed)
            rows.append(
                [
                    got.way,
                    f"{got.members}",
                    f"{got.loss:.0%}",
                    f"{got.changes}",
                    f"{got.mean_s:.3f}",
                    f"{got.worst_s:.3f}",
                    f"{got.unreached}",
                    f"{got.frames_per_node:.1f}",
                ]
            )
    head = ["way", "members", "loss", "changes", "mean s", "worst s", "unreached", "frames per node"]
    print_table("A change of metadata at 99 % of the members", head, rows)


def main(arguments: Sequence[str] | None = None) -> None:
    experiments = ("detection", "loss", "stalls", "traffic", "metadata")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="*", metavar="experiment", help=", ".join(experiments))
    parser.add_argument("--short", action="store_true", help="small sizes")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--members", type=int, nargs="+", help="sizes of clusters for detection, traffic, metadata")
    parser.add_argument("--crashes", type=int, help="how many for detection")
    parser.add_argument(
        "--plot", default="", metavar="FILE", help="draw the sweep with waiting mail, if matplotlib is installed"
    )
    options = parser.parse_args(arguments)
    unknown = set(options.experiments) - set(experiments)
    if unknown:
        parser.error(f"unknown experiment: {', '.join(sorted(unknown))}")
    size = SHORT if options.short else FULL
    if options.members:
        size = replace(size, members=tuple(options.members))
    if options.crashes:
        size = replace(size, crashes=options.crashes)
    for experiment in options.experiments or experiments:
        started = time.monotonic()
        if experiment == "stalls":
            show_stalls(size, options.seed, options.plot)
        else:
            shows = {
                "detection": show_detection,
                "loss": show_loss,
                "traffic": show_traffic,
                "metadata": show_metadata,
            }
            shows[experiment](size, options.seed)
        print(f"({experiment}: seed {options.seed}, {time.monotonic() - started:.0f} s)")


if __name__ == "__main__":
    main()
