"""A cluster of worker processes on this machine that share one replicated map.

A node that is started again keeps its ports and its data directory, as a machine would after a crash.
"""

from __future__ import annotations

import contextlib
import random
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from copycat.cli.worker_process import WorkerProcess

HOSTNAME = "127.0.0.1"
PORTS = range(20_000, 30_000)


class Deadline:
    """A moment that everything must be done by."""

    def __init__(self, timeout_s: float) -> None:
        self._ends = time.monotonic() + timeout_s
        self._timeout_s = timeout_s

    def remaining(self) -> float:
        """Seconds left. Raises :class:`TimeoutError` when there are none."""
        left = self._ends - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"not done within {self._timeout_s:g} s")
        return left


@dataclass(slots=True)
class Seat:
    """A place in the cluster: what stays when its process dies."""

    name: str
    directory: Path
    copycat_port: int
    gossip_port: int
    node_id: str = ""
    worker: WorkerProcess | None = None
    overrides: dict[str, Any] = field(default_factory=dict)

    def config(self, peers: list[str]) -> dict[str, Any]:
        return {
            "hostname": HOSTNAME,
            "copycat_port": self.copycat_port,
            "gossip_port": self.gossip_port,
            "data_dir": str(self.directory / "db"),
            "peers_to_contact": peers,
            "gossip_profile": "local",
            **self.overrides,
        }


def free_ports(count: int) -> list[int]:
    """Ports that are free for TCP and UDP, and that the operating system gives to nobody who doesn't ask for them.

    So a port is still free when its node comes back. Raises :class:`OSError` if there are not so many.
    """
    found: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        if len(found) == count:
            return found
        with (
            socket.socket(socket.AF_INET, socket.SOCK_STREAM) as stream,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram,
            contextlib.suppress(OSError),
        ):
            stream.bind((HOSTNAME, port))
            datagram.bind((HOSTNAME, port))
            found.append(port)
    raise OSError(f"no {count} free ports in {PORTS}")


class LocalCluster:
    """Starts ``size`` workers in ``directory``, and stops them when the ``with`` block is left, however that happens.

    ``overrides`` are fields of :class:`~copycat.config.Config` that every node gets. Calls block until they are done or
    ``deadline`` is over. One thread at a time, but for :meth:`worker`, which any may call.
    """

    def __init__(self, directory: Path, size: int, deadline: Deadline, **overrides: Any) -> None:
        self.deadline = deadline
        self.map_id = ""
        ports = free_ports(2 * size)
        self.seats = [
            Seat(f"n{n}", directory / f"n{n}", ports.pop(), ports.pop(), overrides=overrides)
            for n in range(1, size + 1)
        ]

    def __enter__(self) -> LocalCluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for seat in self.seats:
            if seat.worker is not None:
                seat.worker.kill()

    def start(self) -> None:
        """Start every node, make the map, and attach every node to it."""
        for seat in self.seats:
            self._launch(seat)
        for position, seat in enumerate(self.seats):
            self._open(seat, [f"{HOSTNAME}:{earlier.gossip_port}" for earlier in self.seats[:position]])
        self._of_all("await_members", count=len(self.seats), timeout=self.deadline.remaining())
        allocated = self.worker(0).ask("allocate", replicas=len(self.seats), timeout=self.deadline.remaining())
        self.map_id = allocated["map_id"]
        self._of_all("subscribe", map_id=self.map_id, timeout=self.deadline.remaining())

    def worker(self, index: int) -> WorkerProcess:
        """The process on that seat, alive or not."""
        worker = self.seats[index].worker
        assert worker is not None, "the cluster was not started"
        return worker

    def leader(self, ask: int = 0) -> int:
        """Which seat has the leader, as the raft on seat ``ask`` sees it."""
        found = self.worker(ask).ask("await_other_leader", than="", timeout=self.deadline.remaining())
        return next(index for index, seat in enumerate(self.seats) if seat.node_id == found["leader"])

    def kill(self, index: int) -> None:
        """SIGKILL."""
        self.worker(index).kill()

    def restart(self, index: int) -> None:
        """Start a killed node again, in its old place, attach it, and wait until it has caught up."""
        seat = self.seats[index]
        self._launch(seat)
        self._open(seat, [f"{HOSTNAME}:{other.gossip_port}" for other in self.seats if other is not seat])
        self.worker(index).ask("subscribe", map_id=self.map_id, timeout=self.deadline.remaining())
        self.worker(index).ask("sync", timeout=self.deadline.remaining())

    def restart_all(self) -> None:
        """Start all nodes again after all were killed, attach them, and wait until they have caught up.

        The first one names no seed, since there is nobody to answer; it knows its groups from its own disk.
        """
        for position, seat in enumerate(self.seats):
            self._launch(seat)
            self._open(seat, [f"{HOSTNAME}:{earlier.gossip_port}" for earlier in self.seats[:position]])
        self._of_all("subscribe", map_id=self.map_id, timeout=self.deadline.remaining())
        self.sync()

    def sync(self) -> None:
        """Wait until every copy of the map holds everything that was committed before the call."""
        self._of_all("sync", timeout=self.deadline.remaining())

    def handed(self, index: int) -> tuple[int, list[str]]:
        """What the node's consumer was handed one by one since it attached, and the position of the first of that."""
        handed: list[str] = []
        while True:
            piece = self.worker(index).ask("handed", start=len(handed))
            handed += piece["handed"]
            if len(handed) >= piece["count"]:
                return piece["first_position"], handed

    def items(self, index: int) -> dict[str, str]:
        """The whole copy of the map on that seat."""
        items: dict[str, str] = self.worker(index).ask("items")["items"]
        return items

    def close(self) -> None:
        """Let every node leave gracefully."""
        with ThreadPoolExecutor(len(self.seats)) as pool:
            list(pool.map(lambda index: self.worker(index).close(), range(len(self.seats))))

    def _launch(self, seat: Seat) -> None:
        seat.directory.mkdir(parents=True, exist_ok=True)
        seat.worker = WorkerProcess(seat.name, seat.directory / "stderr.log")

    def _open(self, seat: Seat, peers: list[str]) -> None:
        assert seat.worker is not None
        opened = seat.worker.ask("open", config=seat.config(peers))
        assert seat.node_id in ("", opened["node_id"]), "a node that came back has another identity"
        seat.node_id = opened["node_id"]

    def _of_all(self, do: str, **arguments: Any) -> None:
        with ThreadPoolExecutor(len(self.seats)) as pool:
            list(pool.map(lambda index: self.worker(index).ask(do, **arguments), range(len(self.seats))))
