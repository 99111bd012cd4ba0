"""Real faults on real processes, by a seeded plan: kills, pauses, cuts in both directions or one, a disk that is full.

Everybody proposes and reads all the time, and writes down what came of it (:mod:`copycat.testing.recorder`). In the end all that
was handed out is compared (:mod:`copycat.testing.records`), and what clients saw is searched for an order that explains it
(:mod:`copycat.testing.history`). The seed decides what is done and to whom; the machine decides when.
"""

from __future__ import annotations

import contextlib
import enum
import json
import os
import random
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from copycat.ids import new_id
from copycat.testing import history
from copycat.testing.killing import Killing, Life
from copycat.testing.nodes import wait_until
from copycat.testing.records import Summary
from copycat.testing.wires import Namespaces, Relay, Wires

PORTS = (7458, 7459)
"""On every seat, since each has an address of its own."""
PATIENCE_S = 60.0
DISK_MIB = 48
PROGRESS_BYTES = 3_000
"""Of somebody's record: what must be written before the next fault."""

CONFIG = {
    "snapshot_log_bytes": 50_000,
    "follower_log_bytes_max": 50_000,
    "snapshot_chunk_bytes": 16_384,
    "snapshot_bytes_per_s": 4 << 20,
    "repair_delay_s": 30.0,
}


class Fault(str, enum.Enum):
    KILL = "kill"
    PAUSE = "pause"
    ISOLATE = "isolate"
    DEAF = "deaf"
    """It hears nobody; everybody hears it."""
    MUTE = "mute"
    """Nobody hears it; it hears everybody."""
    LINK = "link"
    """Nothing passes between two nodes; both reach all others."""
    FULL_DISK = "full disk"


@dataclass(frozen=True, slots=True)
class Result:
    """What a run came to. ``registers`` were searched; ``given_up`` of them were too tangled."""

    done: list[str]
    summary: Summary
    calls: int
    registers: int
    given_up: int


@contextlib.contextmanager
def small_disk(directory: Path, seat: int) -> Iterator[bool]:
    """A file system of its own for a seat's data, where root may mount one; whether it was."""
    place = directory / f"seat-{seat}"
    place.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "copycat-chaos", str(place)]
    mounted = os.geteuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0  # noqa: S603
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(place)], capture_output=True, check=False)  # noqa: S603, S607


class Plan:
    """The faults of one run."""

    def __init__(self, cluster: Killing, rng: random.Random, small_disk_on: int | None, directory: Path) -> None:
        self.done: list[str] = []
        self._cluster = cluster
        self._rng = rng
        self._small_disk_on = small_disk_on
        self._directory = directory
        self._clock = threading.Event()

    def carry_out(self, faults: list[Fault], seconds_max: float) -> None:
        """One after the other; each is mended, and everybody takes part again, before the next."""
        for fault in faults:
            self._cluster.run_on(PROGRESS_BYTES)
            leader = self._cluster.leader()
            victim = leader if self._rng.random() < 0.5 else self._rng.randrange(len(self._cluster.seats))
            seconds = self._rng.uniform(0.3, 1.0) * seconds_max
            if fault is Fault.FULL_DISK:
                assert self._small_disk_on is not None
                victim = self._small_disk_on
            role = "leader" if victim == leader else "follower"
            self.done.append(f"{fault.value} {role} on seat {victim} for {seconds:.1f} s")
            self._do(fault, victim, seconds)
            self._cluster.run_on(PROGRESS_BYTES)

    def _pass_time(self, seconds: float) -> None:
        self._clock.wait(seconds)  # no wait for something: how long a fault lasts is part of the plan

    def _do(self, fault: Fault, victim: int, seconds: float) -> None:
        cluster = self._cluster
        life = cluster.seats[victim]
        assert life is not None
        if fault is Fault.KILL:
            cluster.kill(victim)
            self._pass_time(seconds)
            self._restart(victim)
        elif fault is Fault.PAUSE:
            life.signal(signal.SIGSTOP)
            try:
                self._pass_time(seconds)
            finally:
                life.signal(signal.SIGCONT)
        elif fault is Fault.FULL_DISK:
            self._fill(life, victim)
        else:
            others = [seat for seat in range(len(cluster.seats)) if seat != victim]
            if fault is Fault.LINK:
                others = [self._rng.choice(others)]
            for other in others:
                if fault is not Fault.DEAF:
                    cluster.wires.cut(victim, other)
                if fault is not Fault.MUTE:
                    cluster.wires.cut(other, victim)
            try:
                self._pass_time(seconds)
            finally:
                cluster.wires.mend()

    def _restart(self, seat: int) -> None:
        self._cluster.begin(seat)
        self._cluster.settle(seat)

    def _fill(self, life: Life, seat: int) -> None:
        """The node must notice, and stop; with room again, the next process goes on where it was."""
        filler = self._directory / f"seat-{seat}" / "filler"
        life.doomed = True
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))
        try:
            wait_until(life.has_ended, f"{life.name} stops: its disk is full", PATIENCE_S)
        finally:
            filler.unlink()
        self._cluster.kill(seat)
        self._restart(seat)


def faults_of(rng: random.Random, rounds: int, full_disk: bool) -> list[Fault]:
    """A list that holds every kind before it holds one twice."""
    kinds = [each for each in Fault if full_disk or each is not Fault.FULL_DISK]
    faults: list[Fault] = []
    while len(faults) < rounds:
        faults += rng.sample(kinds, len(kinds))
    return faults[:rounds]


def run(
    directory: Path,
    seed: int,
    wires: Wires,
    nodes: int = 3,
    rounds: int = 7,
    seconds_max: float = 4.0,
    history_file: Path | None = None,
) -> Result:
    """One cluster's life; ``wires`` are closed in any case. Raises AssertionError if anything does not fit."""
    rng = random.Random(seed)
    with contextlib.ExitStack() as stack:
        stack.callback(wires.close)
        seat = rng.randrange(nodes)
        mounted = stack.enter_context(small_disk(directory, seat))
        ports = list(PORTS) * nodes
        group = str(new_id(rng))
        config = {**CONFIG, "insecure": isinstance(wires, Namespaces)}  # nobody else is in those
        cluster = stack.enter_context(Killing(directory, ports, group, config, wires=wires, histories=True))
        cluster.start()
        plan = Plan(cluster, rng, seat if mounted else None, directory)
        plan.carry_out(faults_of(rng, rounds, mounted), seconds_max)
        summary = cluster.finish()
        lines = [line for life in cluster.lives for line in history.read_lines(cluster.history_of(life.name))]
        lines.sort(key=lambda line: line["time"])
        if history_file is not None:
            history_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        registers, given_up = history.check(lines)
        calls = sum(line["type"] == "invoke" for line in lines)
        return Result(plan.done, summary, calls, registers, given_up)


def make_wires(kind: str, nodes: int, seed: int, delay_ms: float, loss_percent: float) -> Wires:
    """``namespaces``, or ``relay``."""
    if kind == "namespaces":
        return Namespaces(nodes, delay_ms, loss_percent)
    return Relay(nodes, PORTS, delay_ms / 1000, loss_percent / 100, seed)
