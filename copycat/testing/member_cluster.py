"""Nodes as processes on this machine, each with a configuration of its own, that a test starts, kills and asks.

A seat keeps its ports and its data directory, so the next process on it is the same node again. Every wait is for an event, up
to the deadline of the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from copycat.cli.local_cluster import HOSTNAME, Deadline, Seat, free_ports
from copycat.cli.worker_process import WorkerProcess
from copycat.testing.nodes import wait_until

MODULE = "copycat.testing.member_worker"


class MemberCluster:
    """``fields`` has one mapping of :class:`~copycat.config.Config` fields for each seat."""

    def __init__(self, directory: Path, deadline: Deadline, fields: Sequence[dict[str, Any]]) -> None:
        self.deadline = deadline
        ports = free_ports(2 * len(fields))
        self.seats = [
            Seat(f"n{number}", directory / f"n{number}", ports.pop(), ports.pop(), overrides=dict(overrides))
            for number, overrides in enumerate(fields)
        ]

    def __enter__(self) -> MemberCluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for seat in self.seats:
            if seat.worker is not None:
                seat.worker.kill()

    # --- life and death ---

    def start(self, index: int, seeds: Iterable[int] = (), clock_off_s: float = 0.0) -> None:
        """Start a process on a seat, which is to join through the nodes on those seats; its clock may be wrong."""
        seat = self.seats[index]
        seat.directory.mkdir(parents=True, exist_ok=True)
        seat.worker = WorkerProcess(seat.name, seat.directory / "stderr.log", MODULE)
        config = seat.config([f"{HOSTNAME}:{self.seats[seed].gossip_port}" for seed in seeds])
        if clock_off_s:
            seat.worker.ask("shift_clock", seconds=clock_off_s)
        opened = seat.worker.ask("open", config=config)
        assert seat.node_id in ("", opened["node_id"]), "a node that came back has another identity"
        seat.node_id = opened["node_id"]

    def start_all(self, indices: Iterable[int] | None = None) -> None:
        """Start the first, then all others at once through it, and wait until each sees all."""
        first, *others = range(len(self.seats)) if indices is None else indices
        self.start(first)
        self.at_once(*(lambda index=index: self.start(index, [first]) for index in others))
        self.await_alive([first, *others])

    def move(self, index: int) -> None:
        """The node's next process listens elsewhere."""
        seat = self.seats[index]
        seat.copycat_port, seat.gossip_port = free_ports(2)

    def kill(self, index: int) -> None:
        """SIGKILL."""
        self.worker(index).kill()

    def shut_down(self, *indices: int) -> None:
        """Let these nodes stop as a program that ends does, all at once."""
        self.at_once(*(self.worker(index).close for index in indices))

    # --- asking ---

    def worker(self, index: int) -> WorkerProcess:
        worker = self.seats[index].worker
        assert worker is not None, f"nothing was started on seat {index}"
        return worker

    def ask(self, index: int, do: str, **arguments: Any) -> dict[str, Any]:
        """A request that takes a timeout."""
        return self.worker(index).ask(do, timeout=self.deadline.remaining(), **arguments)

    def members(self, index: int) -> dict[str, dict[str, str]]:
        """By node id, as seen from there."""
        found: dict[str, dict[str, str]] = self.worker(index).ask("members")["members"]
        return found

    def groups(self, index: int) -> dict[str, dict[str, Any]]:
        """Replicas hosted there, by group."""
        found: dict[str, dict[str, Any]] = self.worker(index).ask("groups")["groups"]
        return found

    def led(self, indices: Iterable[int]) -> dict[str, dict[str, Any]]:
        """Of each group its leader's view, from those of these seats that lead one."""
        return {
            group: status
            for index in indices
            for group, status in self.groups(index).items()
            if status["role"] == "leader"
        }

    def alive(self, index: int) -> set[str]:
        return {node_id for node_id, member in self.members(index).items() if member["state"] == "alive"}

    def await_alive(self, indices: Iterable[int]) -> None:
        """Wait until each of these sees all of these, and nobody else, alive."""
        seats = list(indices)
        wanted = {self.seats[index].node_id for index in seats}
        for index in seats:
            self.wait(lambda index=index: self.alive(index) == wanted, f"{self.seats[index].name} sees who lives")  # type: ignore[misc]

    def wait(self, holds: Callable[[], bool], what: str) -> None:
        wait_until(holds, what, self.deadline.remaining())

    def at_once(self, *actions: Callable[[], object]) -> list[Any]:
        """Run each in a thread of its own; what they return, in order."""
        with ThreadPoolExecutor(max(len(actions), 1)) as pool:
            return [running.result() for running in [pool.submit(action) for action in actions]]
