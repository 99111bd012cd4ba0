"""CopyCat beside its floor and beside PySyncObj, in the same run, and what became of each goal.

    python tools/bench_peers.py                     # all of it, some minutes
    python tools/bench_peers.py --only lone --only 16
    python tools/bench_peers.py --short             # shows that it works; its figures mean nothing

Each round runs, one after the other, every subject that a goal compares: the bare pipeline (tools/bare_pipeline.py), CopyCat
(``copycat bench``), and PySyncObj (tools/pysyncobj_peer.py, where the package pysyncobj is installed). Prints the median of each
figure over the rounds, then each goal: the median of the rounds' own ratios, its bound, and whether that holds. Figures of
different hours can't be compared, ratios of one round can.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from copycat.config import Config

HERE = Path(__file__).parent
PAYLOADS = (16, 128, 1024)
IN_FLIGHT = 20_000
PYSYNCOBJ_IN_FLIGHT_MAX = 2000
"""With more it answers that its queue is full, or is elected anew all the time."""
GRACE_S = 300
DEFAULTS = Config()
ELECTION_TIMEOUT_MS = DEFAULTS.election_ticks * DEFAULTS.tick_ms

Figures = dict[str, Any]
Round = dict[str, Figures]


@dataclass(frozen=True)
class Subject:
    """One measurement: a command that prints one JSON object with its figures."""

    name: str
    command: tuple[str, ...]
    once: bool = False
    """Long, or not compared with another: measured in the first round only."""


@dataclass(frozen=True)
class Goal:
    """A ratio of figures of one round, and its bound."""

    name: str
    ratio: Callable[[Round], float]
    bound: float
    at_least: bool
    needs: tuple[str, ...]

    def holds(self, ratio: float) -> bool:
        return ratio >= self.bound if self.at_least else ratio <= self.bound


def bare(name: str, *options: str) -> Subject:
    return Subject(name, (str(HERE / "bare_pipeline.py"), *options))


def cat(name: str, scenario: str, *options: str, once: bool = False) -> Subject:
    return Subject(name, ("-m", "copycat.cli", "bench", scenario, *options, "--json"), once)


def subjects(failovers: int) -> list[Subject]:
    listed = []
    for payload in PAYLOADS:
        load = ("--payload", str(payload), "--in-flight", str(IN_FLIGHT))
        listed += [bare(f"bare {payload} B", *load), cat(f"copycat {payload} B", "saturation", *load)]
    unsynced = ("--durability", "os")
    return [
        *listed,
        bare("bare 16 B os", *unsynced),
        cat("copycat 16 B os", "saturation", *unsynced),
        cat("copycat 16 B follower", "saturation", "--proposers", "follower"),
        cat("copycat 16 B all three", "saturation", "--proposers", "all"),
        cat("copycat 16 B 48 groups", "saturation", "--groups", "48", "--in-flight", str(IN_FLIGHT)),
        cat("copycat 16 B 48 x 416", "saturation", "--groups", "48", "--in-flight", str(IN_FLIGHT // 48), once=True),
        bare("bare lone", "--in-flight", "1"),
        cat("copycat lone", "lone"),
        bare("bare lone os", "--in-flight", "1", *unsynced),
        cat("copycat lone os", "lone", *unsynced),
        cat("copycat half load", "half-load"),
        cat("copycat failover", "failover", "--failovers", str(failovers), once=True),
        cat("copycat idle", "idle", once=True),
        pysyncobj("pysyncobj 16 B", PYSYNCOBJ_IN_FLIGHT_MAX),
        pysyncobj("pysyncobj lone", 1),
    ]


def pysyncobj(name: str, in_flight: int) -> Subject:
    return Subject(name, (str(HERE / "pysyncobj_peer.py"), "--in-flight", str(in_flight)), once=True)


def between(name: str, metric: str, one: str, other: str, bound: float, at_least: bool) -> Goal:
    """``metric`` of ``one`` in relation to that of ``other``."""
    return Goal(name, lambda each: each[one][metric] / each[other][metric], bound, at_least, (one, other))


def goals() -> list[Goal]:
    listed = []
    for payload in PAYLOADS:
        cat_name, bare_name = f"copycat {payload} B", f"bare {payload} B"
        listed += [
            between(f"fsync, {payload} B: commits/s to bare", "per_second", cat_name, bare_name, 0.6, True),
            between(f"fsync, {payload} B: CPU a commit to bare", "cpu_us_per_commit", cat_name, bare_name, 1.7, False),
        ]
    leader = "copycat 16 B"
    for title, one, other, bound in (
        ("os, 16 B: commits/s to bare", "copycat 16 B os", "bare 16 B os", 0.6),
        ("from a follower: commits/s to from the leader", "copycat 16 B follower", leader, 0.7),
        ("from all three: commits/s to from the leader", "copycat 16 B all three", leader, 0.9),
        ("48 groups: commits/s to one group", "copycat 16 B 48 groups", leader, 0.8),
    ):
        listed.append(between(title, "per_second", one, other, bound, True))
    for durability, mark in (("fsync", ""), ("os", " os")):
        alone, floor = f"copycat lone{mark}", f"bare lone{mark}"
        listed.append(between(f"lone client, {durability}: p50 to bare", "p50_ms", alone, floor, 1.15, False))
        listed.append(_spread(f"lone client, {durability}: p99 to p50", alone, 2.0))
    return [
        *listed,
        _spread("half load: p99 to p50", "copycat half load", 10.0),
        _bounded("half load: longest pause, s", "copycat half load", "longest_pause_ms", 1000.0, 1.0),
        _bounded("failover: p50 to election timeout", "copycat failover", "p50_ms", ELECTION_TIMEOUT_MS, 1.5),
        _bounded("election timeout, s", "", "", 1000.0, 0.5),
        _bounded("idle: % of a core a node", "copycat idle", "per_second", 1.0, 1.0),
    ]


def _spread(name: str, subject: str, bound: float) -> Goal:
    return Goal(name, lambda each: each[subject]["p99_ms"] / each[subject]["p50_ms"], bound, False, (subject,))


def _bounded(name: str, subject: str, metric: str, unit: float, bound: float) -> Goal:
    if not subject:
        return Goal(name, lambda each: ELECTION_TIMEOUT_MS / unit, bound, False, ())
    return Goal(name, lambda each: each[subject][metric] / unit, bound, False, (subject,))


def run(subject: Subject, seconds: float) -> Figures:
    command = [sys.executable, *subject.command, "--seconds", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + GRACE_S, check=False)
    if done.returncode:
        raise SystemExit(f"bench_peers: {subject.name} failed:\n{done.stderr}")
    found: Figures = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(chosen: list[Subject], rounds: int, seconds: float) -> list[Round]:
    measured: list[Round] = []
    for number in range(rounds):
        measured.append({each.name: run(each, seconds) for each in chosen if not (number and each.once)})
    return measured


def report_figures(measured: list[Round]) -> None:
    columns = (("per_second", 14, 0), ("cpu_us_per_commit", 16, 2), ("p50_ms", 12, 2), ("p99_ms", 12, 2))
    print(
        f"{'median of ' + str(len(measured)) + ' rounds':<26}{'rate':>14}{'CPU us/commit':>16}{'p50 ms':>12}{'p99 ms':>12}"
    )
    for name in measured[0]:
        cells = []
        for metric, width, digits in columns:
            values = [each[name][metric] for each in measured if name in each and each[name].get(metric) is not None]
            cells.append(f"{statistics.median(values):,.{digits}f}".rjust(width) if values else " " * width)
        print(f"{name:<26}{''.join(cells)}")


def report_goals(measured: list[Round]) -> int:
    """Print them; returns how many are missed."""
    missed = 0
    print()
    for goal in goals():
        if any(name not in measured[0] for name in goal.needs):
            continue
        ratio = statistics.median(goal.ratio(each) for each in measured if all(name in each for name in goal.needs))
        bound = f"{'>=' if goal.at_least else '<='} {goal.bound:g}"
        missed += not goal.holds(ratio)
        print(f"{'holds' if goal.holds(ratio) else 'MISSED':<8}{ratio:>8.3g}  {bound:<9}{goal.name}")
    return missed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each measurement")
    parser.add_argument("--failovers", type=int, default=20)
    parser.add_argument(
        "--only", action="append", default=[], help="only subjects whose name has this word; repeatable"
    )
    parser.add_argument("--short", action="store_true", help="one round of half a second each, and one failover")
    asked = parser.parse_args()
    rounds, seconds, failovers = (1, 0.5, 1) if asked.short else (asked.rounds, asked.seconds, asked.failovers)
    chosen = subjects(failovers)
    if asked.only:
        chosen = [each for each in chosen if set(asked.only) & set(each.name.split())]
    if importlib.util.find_spec("pysyncobj") is None:
        print("pysyncobj is not installed: left out")
        chosen = [each for each in chosen if not each.name.startswith("pysyncobj")]
    measured = measure(chosen, rounds, seconds)
    report_figures(measured)
    missed = report_goals(measured)
    print(f"\n{missed} missed" if missed else "\nall hold")


if __name__ == "__main__":
    main()
