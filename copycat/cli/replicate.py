"""The demo's story: three nodes replicate a file from all sides, lose their leader half way, and get it back.

Each line is proposed by one of the nodes, as ``key = line number``, ``value = proposer, sequence number, text``. A node that
is killed may have proposed lines it was never told of as committed. When it is back it looks at its copy, after a
linearizable read, and proposes again exactly the lines of its share that are lacking: none of those can still arrive, so
none comes twice.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from copycat.cli.local_cluster import LocalCluster
from copycat.cli.worker_process import WorkerGone

CHUNKS_PER_SHARE = 40
CHUNK_LINES_MAX = 256


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the file, and the one who proposes it."""

    number: int
    proposer: str
    sequence: int
    text: str

    @property
    def key(self) -> str:
        return str(self.number)

    @property
    def value(self) -> str:
        return f"{self.proposer} {self.sequence} {self.text}"


@dataclass(frozen=True, slots=True)
class Copy:
    """What one node ended up with."""

    name: str
    first_position: int
    handed: list[str]
    items: dict[str, str]

    @property
    def last_position(self) -> int:
        return self.first_position + len(self.handed) - 1


@dataclass(slots=True)
class Outcome:
    """What the run showed. ``differences`` is empty when every promise was kept."""

    lines: int = 0
    commits_per_s: float = 0.0
    killed: str = ""
    leaderless_s: float = 0.0
    rejoin_s: float = 0.0
    unconfirmed: int = 0
    proposed_again: int = 0
    differences: list[str] = field(default_factory=list)


def shares(texts: Sequence[str], names: Sequence[str]) -> list[list[Line]]:
    """Deal the lines out in turn."""
    return [
        [
            Line(number, name, sequence, text)
            for sequence, (number, text) in enumerate(list(enumerate(texts, 1))[offset :: len(names)], 1)
        ]
        for offset, name in enumerate(names)
    ]


def compare(copies: Sequence[Copy], lines: Sequence[Line]) -> list[str]:
    """Every difference between the copies, and from what was promised of them, in words."""
    differences = []
    expected = {line.key: line.value for line in lines}
    longest = min(copies, key=lambda copy: copy.first_position)
    for copy in copies:
        if copy.items != expected:
            differing = [key for key in expected.keys() | copy.items.keys() if expected.get(key) != copy.items.get(key)]
            differences.append(f"{copy.name}: its map differs from the file in {len(differing)} lines")
        if copy.last_position != len(lines):
            differences.append(f"{copy.name}: was handed up to position {copy.last_position}, not {len(lines)}")
        if copy.handed != longest.handed[copy.first_position - longest.first_position :]:
            differences.append(f"{copy.name}: was handed another sequence than {longest.name}")
        last: dict[str, int] = {}
        for change in copy.handed:
            proposer, sequence, _ = json.loads(change)[2].split(" ", 2)
            if int(sequence) <= last.get(proposer, 0):
                differences.append(f"{copy.name}: was handed number {sequence} of {proposer} twice or out of order")
                break
            last[proposer] = int(sequence)
    return differences


class Proposers:
    """One thread a node, which proposes lines in chunks and counts those that the node confirmed as committed."""

    def __init__(self, cluster: LocalCluster, progress: Callable[[int], None]) -> None:
        self._cluster = cluster
        self._progress = progress
        self._changed = threading.Condition()
        self._threads: dict[int, threading.Thread] = {}
        self._failure: Exception | None = None
        self.confirmed: dict[int, list[Line]] = {index: [] for index in range(len(cluster.seats))}

    def start(self, index: int, lines: Sequence[Line]) -> None:
        thread = threading.Thread(target=self._propose, args=(index, lines), name=f"proposer-{index}", daemon=True)
        self._threads[index] = thread
        thread.start()

    def await_confirmed(self, count: int) -> None:
        """Wait until so many lines are confirmed, all nodes together."""
        with self._changed:
            while self._total() < count:
                self._raise_failure()
                self._changed.wait(self._cluster.deadline.remaining())

    def await_stopped(self, index: int) -> None:
        """Wait until that node's thread has ended: by finishing, or by the death of its node."""
        self._threads[index].join(self._cluster.deadline.remaining())
        self._cluster.deadline.remaining()
        self._raise_failure()

    def _total(self) -> int:
        return sum(map(len, self.confirmed.values()))

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _propose(self, index: int, lines: Sequence[Line]) -> None:
        size = max(1, min(CHUNK_LINES_MAX, len(lines) // CHUNKS_PER_SHARE))
        worker = self._cluster.worker(index)
        try:
            for start in range(0, len(lines), size):
                chunk = lines[start : start + size]
                items = {line.key: line.value for line in chunk}
                worker.ask("put", items=items, timeout=self._cluster.deadline.remaining())
                with self._changed:
                    self.confirmed[index].extend(chunk)
                    self._progress(self._total())
                    self._changed.notify_all()
        except WorkerGone:
            return  # killed on purpose; whoever died by itself is found dead at the next request
        except Exception as error:  # handed to the thread that waits
            with self._changed:
                self._failure = error
                self._changed.notify_all()


def replicate(
    cluster: LocalCluster, texts: Sequence[str], say: Callable[[str], None], progress: Callable[[int], None]
) -> Outcome:
    """Run the story on a cluster that was started, and compare what every node ended up with."""
    dealt = shares(texts, [seat.name for seat in cluster.seats])
    lines = [line for share in dealt for line in share]
    outcome = Outcome(lines=len(lines))
    proposers = Proposers(cluster, progress)

    half = (len(lines) + 1) // 2
    started = time.perf_counter()
    for index, share in enumerate(dealt):
        proposers.start(index, share)
    proposers.await_confirmed(half)
    outcome.commits_per_s = half / (time.perf_counter() - started)

    killed = cluster.leader()
    survivor = next(index for index in range(len(cluster.seats)) if index != killed)
    outcome.killed = cluster.seats[killed].name
    say(f"half of the lines are committed; killing the leader, {outcome.killed} (SIGKILL)")
    died = time.perf_counter()
    cluster.kill(killed)
    cluster.worker(survivor).ask(
        "await_other_leader", than=cluster.seats[killed].node_id, timeout=cluster.deadline.remaining()
    )
    outcome.leaderless_s = time.perf_counter() - died
    proposers.await_stopped(killed)
    confirmed = {line.key for line in proposers.confirmed[killed]}
    outcome.unconfirmed = len(dealt[killed]) - len(confirmed)
    say(f"{cluster.seats[cluster.leader(survivor)].name} leads; the others go on; starting {outcome.killed} again")

    restarted = time.perf_counter()
    cluster.restart(killed)
    outcome.rejoin_s = time.perf_counter() - restarted
    present = cluster.items(killed)
    lost = confirmed - present.keys()
    if lost:
        outcome.differences.append(f"{len(lost)} lines that {outcome.killed} had confirmed are gone")
    lacking = [line for line in dealt[killed] if line.key not in present]
    outcome.proposed_again = len(lacking)
    say(
        f"{outcome.killed} is back and up to date; it proposes the {len(lacking)} lines of its share that its copy lacks"
    )
    proposers.start(killed, lacking)
    for index in range(len(cluster.seats)):
        proposers.await_stopped(index)

    cluster.sync()
    progress(len(lines))
    copies = [Copy(seat.name, *cluster.handed(index), cluster.items(index)) for index, seat in enumerate(cluster.seats)]
    outcome.differences += compare(copies, lines)
    return outcome
