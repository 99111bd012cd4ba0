"""Three node processes on loopback to measure, and what they use: processor, disk, memory.

Every run ends with :meth:`BenchCluster.check`: what each node's consumers were handed must be all that was sent, once, in one
order. Figures of a run that fails it are not shown.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from copycat.cli.local_cluster import HOSTNAME, Deadline, Seat, free_ports
from copycat.cli.worker_process import WorkerProcess

NODES = 3
WORKER = "copycat.cli.bench_worker"


class RunFailed(Exception):
    """The nodes did not hand out what was sent: every item, once, everywhere in one order."""


@dataclass(slots=True)
class Usage:
    """What the nodes' processes have used so far, together. ``written_bytes`` is None where the system doesn't tell."""

    at: float
    cpu_s: float
    written_bytes: int | None
    handed: int
    """Items handed over by the node that is furthest behind."""


class BenchCluster:
    """Starts the nodes in ``directory``, and stops them when the ``with`` block is left, however that happens.

    ``overrides`` are fields of :class:`~copycat.config.Config` that every node gets.
    """

    def __init__(self, directory: Path, deadline: Deadline, groups: int = 1, ballast_bytes: int = 0, **overrides: Any):
        self.deadline = deadline
        self.names: list[str] = []
        self._groups = groups
        self._ballast_bytes = ballast_bytes
        self._directory = directory
        self._overrides = {"cluster_label": "copycat-bench", **overrides}
        ports = free_ports(2 * (NODES + 1))
        self.seats = [
            Seat(f"n{n}", directory / f"n{n}", ports.pop(), ports.pop(), overrides=self._overrides)
            for n in range(1, NODES + 2)
        ]

    def __enter__(self) -> BenchCluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for seat in self.seats:
            if seat.worker is not None:
                seat.worker.kill()

    # --- who is there ---

    def start(self) -> None:
        """Start three nodes, make the data structures, and attach a consumer to each of them on every node."""
        for position, seat in enumerate(self.seats[:NODES]):
            self._open(seat, self.seats[:position])
        self.of_all("await_members", count=NODES, timeout=self.deadline.remaining())
        made = self.worker(0).ask("allocate", groups=self._groups, replicas=NODES, timeout=self.deadline.remaining())
        self.names = made["names"]
        self.of_all("subscribe", names=self.names, ballast_bytes=self._ballast_bytes, timeout=self.deadline.remaining())

    def start_again(self, index: int) -> None:
        """Start a node that was killed, or the fourth one, attach its consumers, and wait until they have caught up."""
        seat = self.seats[index]
        self._open(seat, [other for other in self.seats if other is not seat and other.worker is not None])
        self.ask(index, "subscribe", names=self.names, ballast_bytes=0, timeout=self.deadline.remaining())
        self.ask(index, "barrier", timeout=self.deadline.remaining())

    def _open(self, seat: Seat, others: list[Seat]) -> None:
        seat.directory.mkdir(parents=True, exist_ok=True)
        seat.worker = WorkerProcess(seat.name, seat.directory / "stderr.log", WORKER)
        peers = [f"{HOSTNAME}:{other.gossip_port}" for other in others]
        seat.node_id = seat.worker.ask("open", config=seat.config(peers))["node_id"]

    def kill(self, index: int) -> None:
        """SIGKILL."""
        self.worker(index).kill()
        self.seats[index].worker = None

    def worker(self, index: int) -> WorkerProcess:
        worker = self.seats[index].worker
        assert worker is not None, "the node was not started"
        return worker

    def ask(self, index: int, do: str, **arguments: Any) -> dict[str, Any]:
        return self.worker(index).ask(do, **arguments)

    def of_all(self, do: str, **arguments: Any) -> list[dict[str, Any]]:
        """Ask all nodes that run, at once."""
        workers = [seat.worker for seat in self.seats if seat.worker is not None]
        with ThreadPoolExecutor(len(workers)) as pool:
            return list(pool.map(lambda worker: worker.ask(do, **arguments), workers))

    def led_by(self) -> list[list[int]]:
        """The groups that each of the three nodes leads; waits until every group has one leader."""
        while True:
            led = [answer["groups"] for answer in self.of_all("leads")][:NODES]
            if sorted(group for groups in led for group in groups) == list(range(self._groups)):
                return led
            self.deadline.remaining()
            time.sleep(0.02)

    # --- what they use ---

    def usage(self) -> Usage:
        handed = min(answer["handed"] for answer in self.of_all("progress"))
        now, cpu_s, written = time.monotonic(), 0.0, 0
        known = True
        for seat in self.seats:
            if seat.worker is None:
                continue
            process = psutil.Process(seat.worker.pid)
            times = process.cpu_times()
            cpu_s += times.user + times.system
            try:
                written += process.io_counters().write_bytes
            except (AttributeError, psutil.AccessDenied):
                known = False
        return Usage(now, cpu_s, written if known else None, handed)

    def memory_bytes(self) -> int:
        """Of the process that has most, now."""
        return max(int(answer["bytes"]) for answer in self.of_all("memory"))

    def peak_memory_bytes(self) -> int:
        """Of the process that had most."""
        return max(int(answer["bytes"]) for answer in self.of_all("peak_memory"))

    # --- whether it was right ---

    def stop(self) -> None:
        """End all proposing, wait until everything is committed, and check it."""
        self.check(self.finish())

    def finish(self) -> dict[tuple[int, int], int]:
        """End all proposing, wait until everything is committed, and return how much was sent, by (group, proposer)."""
        sent: dict[tuple[int, int], int] = {}
        timeout = self.deadline.remaining()
        for index, answer in enumerate(self.of_all("stop", timeout=timeout)):
            for group, count in answer["sent"]:
                sent[group, index] = count
        return sent

    def check(self, sent: dict[tuple[int, int], int]) -> None:
        """Raise :class:`RunFailed` unless all consumers were handed what was sent, by (group, proposer), and the same."""
        answers = self.of_all("tallies", timeout=self.deadline.remaining())
        for answer in answers:
            if answer["errors"]:
                raise RunFailed(f"an error channel says: {answer['errors'][0]}")
            if answer["tallies"] != answers[0]["tallies"]:
                raise RunFailed("two nodes handed out different sequences")
        for group, (_, _, counts) in enumerate(answers[0]["tallies"]):
            handed = {proposer: count for proposer, count in counts if count}
            expected = {index: count for (of, index), count in sent.items() if of == group and count}
            if handed != expected:
                raise RunFailed(f"group {group}: sent by proposer {expected}, handed over {handed}")

    def close(self) -> None:
        """Let every node leave gracefully."""
        for seat in self.seats:
            if seat.worker is not None:
                seat.worker.close()
