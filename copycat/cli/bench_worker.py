"""A node whose consumers check and whose proposers time what they do: ``python -m copycat.cli.bench_worker``.

Obeys :mod:`copycat.cli.bench_cluster` as :mod:`copycat.cli.worker` obeys its own commander: one JSON object a line. Uses
nothing of the library but its public interface.
"""

from __future__ import annotations

import os
import resource
import sys
import threading
import time
from collections import deque
from typing import Any

import psutil

import copycat
from copycat.cli.bench_items import Tally, make_items
from copycat.cli.logs import logging_to_stderr
from copycat.cli.worker import serve
from copycat.errors import Closed, Timeout

TAKE_MAX = 4096
POLL_S = 0.005
MIB = 1 << 20
HEAD_BYTES_OF_SNAPSHOT = 4
PACE_S = 0.002
"""Time between two bursts of a steady rate, where that is more than one item."""


class Copy:
    """One subscription, and a thread that receives and checks all that comes.

    A snapshot of it is the tally, and ``ballast_bytes`` of nothing in particular.
    """

    def __init__(self, cat: copycat.CopyCat, name: str, ballast_bytes: int, timeout: float) -> None:
        self.tally = Tally()
        self.loaded_bytes = 0
        self.loaded_at = 0.0
        self.receiving = True
        self.pace: Pace | None = None
        self._ballast = os.urandom(MIB) * (ballast_bytes // MIB)
        self.subscription = cat.subscribe_to_data_structure(
            copycat.DataStructureId.parse(name), self._provide, timeout=timeout
        )
        self._thread = threading.Thread(target=self._receive, name="consumer", daemon=True)
        self._thread.start()

    def pause(self) -> None:
        """Let another thread receive. Something must be committed meanwhile for this to return soon."""
        self.receiving = False
        self._thread.join()

    def resume(self) -> None:
        self.receiving = True
        self._thread = threading.Thread(target=self._receive, name="consumer", daemon=True)
        self._thread.start()

    def take(self, items: list[bytes | None]) -> None:
        """Check what was received."""
        if items[0] is None:
            self._load(self.subscription.snapshot_consumer())
        else:
            self.tally.take(items)  # type: ignore[arg-type]  # a None comes alone
            if self.pace is not None:
                self.pace.handed(self.tally.count)

    def _receive(self) -> None:
        receive_many = self.subscription.commits.receive_many
        try:
            while self.receiving:
                items = receive_many(TAKE_MAX, 0.2)
                if items:
                    self.take(items)
        except Closed:
            return
        except BaseException as error:  # an item is missing or out of order: the run has failed
            sys.excepthook(type(error), error, error.__traceback__)
            os._exit(71)

    def _provide(self) -> list[bytes]:
        state = self.tally.pack()
        pieces = [self._ballast[at : at + MIB] for at in range(0, len(self._ballast), MIB)]
        return [len(state).to_bytes(HEAD_BYTES_OF_SNAPSHOT, "big"), state, *pieces]

    def _load(self, snapshot: bytes) -> None:
        self.loaded_at = time.monotonic()
        self.loaded_bytes = len(snapshot)
        end = HEAD_BYTES_OF_SNAPSHOT + int.from_bytes(snapshot[:HEAD_BYTES_OF_SNAPSHOT], "big")
        self.tally = Tally.unpack(snapshot[HEAD_BYTES_OF_SNAPSHOT:end])


class Stream:
    """A thread that keeps one subscription's proposals in flight at the limit that the node's configuration sets."""

    def __init__(self, copy: Copy, proposer: int, payload_bytes: int, burst: int) -> None:
        self._copy = copy
        self._proposer = proposer
        self._payload_bytes = payload_bytes
        self._burst = burst
        self._stopping = False
        self.sent = 0
        self._thread = threading.Thread(target=self._run, name="proposer", daemon=True)
        self._thread.start()

    def stop(self, timeout: float) -> int:
        """End, and return how many items were sent once all of them are committed."""
        self._stopping = True
        self._thread.join(timeout)
        self._copy.subscription.flush(timeout)
        return self.sent

    def _run(self) -> None:
        send_many = self._copy.subscription.propose.send_many
        try:
            while not self._stopping:
                send_many(make_items(self._proposer, self.sent + 1, self._burst, self._payload_bytes))
                self.sent += self._burst
        except BaseException as error:
            sys.excepthook(type(error), error, error.__traceback__)
            os._exit(72)


class Pace:
    """A thread that proposes at a steady rate, and what its own consumer thread makes of it: seconds from each burst's due
    time until all of it was handed over and checked. So a burst that had to wait for an earlier one counts as late, too.
    """

    def __init__(self, copy: Copy, proposer: int, payload_bytes: int, per_second: float, sent: int) -> None:
        self._copy = copy
        self._proposer = proposer
        self._payload_bytes = payload_bytes
        self._burst = max(1, round(per_second * PACE_S))
        self._period_s = self._burst / per_second
        self.sent = sent
        self.times: list[float] = []
        self.longest_pause_s = 0.0
        self._marks: deque[tuple[int, float]] = deque()
        self._last_handed = time.perf_counter()
        self._stopping = threading.Event()
        copy.pace = self
        self._thread = threading.Thread(target=self._run, name="proposer", daemon=True)
        self._thread.start()

    def handed(self, count: int) -> None:
        """The consumer has checked ``count`` items. On its thread."""
        now = time.perf_counter()
        self.longest_pause_s = max(self.longest_pause_s, now - self._last_handed)
        self._last_handed = now
        marks = self._marks
        while marks and marks[0][0] <= count:
            self.times.append(now - marks.popleft()[1])

    def stop(self, timeout: float) -> int:
        """End, and return how many items were sent once all of them are handed over here."""
        self._stopping.set()
        self._thread.join(timeout)
        self._copy.subscription.flush(timeout)
        self._copy.subscription.barrier(timeout)
        self._copy.pace = None
        return self.sent

    def _run(self) -> None:
        send_many = self._copy.subscription.propose.send_many
        due = time.perf_counter()
        try:
            while not self._stopping.wait(max(0.0, due - time.perf_counter())):
                items = make_items(self._proposer, self.sent + 1, self._burst, self._payload_bytes)
                self.sent += self._burst
                self._marks.append((self.sent, due))
                send_many(items)
                due += self._period_s
        except BaseException as error:
            sys.excepthook(type(error), error, error.__traceback__)
            os._exit(72)


class Worker:
    """Carries out requests; each public method is one. ``group`` is the place of a data structure in ``names``."""

    def __init__(self) -> None:
        self._cat: copycat.CopyCat | None = None
        self._copies: list[Copy] = []
        self._streams: dict[int, Stream] = {}
        self._sent: dict[int, int] = {}
        self._pace: Pace | None = None

    @property
    def cat(self) -> copycat.CopyCat:
        if self._cat is None:
            raise Closed("the node is not open")
        return self._cat

    def open(self, config: dict[str, Any]) -> dict[str, Any]:
        self._cat = copycat.CopyCat(copycat.Config(**config))
        return {"node_id": self._cat.node_id}

    def await_members(self, count: int, timeout: float) -> dict[str, Any]:
        """Wait until this node sees ``count`` nodes alive, itself included."""
        deadline = time.monotonic() + timeout
        while sum(member.state == "alive" for member in self.cat.members()) < count:
            if time.monotonic() >= deadline:
                raise Timeout(f"does not see {count} nodes alive after {timeout} s")
            time.sleep(POLL_S)
        return {}

    def allocate(self, groups: int, replicas: int, timeout: float) -> dict[str, Any]:
        allocations = [self.cat.allocate_new_data_structure(replicas=replicas) for _ in range(groups)]
        for allocation in allocations:
            allocation.wait(timeout=timeout)
        return {"names": [str(allocation.id) for allocation in allocations]}

    def subscribe(self, names: list[str], ballast_bytes: int, timeout: float) -> dict[str, Any]:
        self._copies = [Copy(self.cat, name, ballast_bytes, timeout) for name in names]
        return {}

    def leads(self) -> dict[str, Any]:
        """The groups that this node leads."""
        return {
            "groups": [group for group, copy in enumerate(self._copies) if copy.subscription.status().role == "leader"]
        }

    def leader_of(self, group: int) -> dict[str, Any]:
        return {"leader": self._copies[group].subscription.status().leader}

    def propose(self, groups: list[int], proposer: int, payload: int, burst: int) -> dict[str, Any]:
        """Begin to propose, until :meth:`stop`."""
        for group in groups:
            self._streams[group] = Stream(self._copies[group], proposer, payload, burst)
        return {}

    def stop(self, timeout: float) -> dict[str, Any]:
        """End all proposing; answer how much was sent by group, once all of that is committed."""
        for stream in self._streams.values():
            stream._stopping = True
        for group, stream in self._streams.items():
            self._sent[group] = self._sent.get(group, 0) + stream.stop(timeout)
        self._streams.clear()
        return {"sent": list(self._sent.items())}

    def pace(self, group: int, proposer: int, payload: int, per_second: float) -> dict[str, Any]:
        """Begin to propose at a steady rate, until :meth:`end_pace`. Nobody else may propose to the group meanwhile."""
        self._pace = Pace(self._copies[group], proposer, payload, per_second, self._sent.get(group, 0))
        return {}

    def end_pace(self, group: int, timeout: float) -> dict[str, Any]:
        """End it: seconds of each burst, and the longest time in which nothing was handed over."""
        assert self._pace is not None
        self._sent[group] = self._pace.stop(timeout)
        return {"times": self._pace.times, "longest_pause_s": self._pace.longest_pause_s}

    def lone(self, group: int, proposer: int, payload: int, seconds: float) -> dict[str, Any]:
        """One client that sends, waits until it is handed its item, and sends again: seconds of each round trip."""
        copy = self._copies[group]
        propose, commits = copy.subscription.propose, copy.subscription.commits
        first = self._sent.get(group, 0)
        copy.pause()
        times: list[float] = []
        clock = time.perf_counter
        ends = clock() + seconds
        sent = first
        while True:
            (item,) = make_items(proposer, sent + 1, 1, payload)
            begun = clock()
            if begun >= ends:
                break
            propose.send(item)
            sent += 1
            while copy.tally.count < sent:
                received = commits.receive_many(TAKE_MAX, 10.0)
                copy.take(received)
            times.append(clock() - begun)
        self._sent[group] = sent
        copy.resume()
        return {"times": times}

    def barriers(self, group: int, threads: int, seconds: float, timeout: float) -> dict[str, Any]:
        """Barriers one after the other on each of ``threads`` threads: seconds of each."""
        subscription = self._copies[group].subscription
        times: list[float] = []
        clock = time.perf_counter
        ends = clock() + seconds

        def ask() -> None:
            while (begun := clock()) < ends:
                subscription.barrier(timeout)
                times.append(clock() - begun)

        asking = [threading.Thread(target=ask, daemon=True) for _ in range(threads)]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join()
        return {"times": times}

    def next_commit(self, group: int, proposer: int, payload: int, timeout: float) -> dict[str, Any]:
        """Propose one item and wait until it is handed over."""
        copy = self._copies[group]
        self._sent[group] = self._sent.get(group, 0) + 1
        propose = copy.subscription.propose
        propose.send_many(make_items(proposer, self._sent[group], 1, payload))
        propose.flush(timeout)
        return {}

    def number_from(self, group: int, sent: int) -> dict[str, Any]:
        """Number on behind ``sent`` items: an earlier process of this node sent those."""
        self._sent[group] = sent
        return {}

    def barrier(self, timeout: float) -> dict[str, Any]:
        """Wait until every copy here was handed everything that was committed before."""
        for copy in self._copies:
            copy.subscription.barrier(timeout)
        return {}

    def tallies(self, timeout: float) -> dict[str, Any]:
        """What each copy was handed, after all of it; and the errors that came."""
        self.barrier(timeout)
        tallies, errors = [], []
        deadline = time.monotonic() + timeout
        for copy in self._copies:
            # A barrier speaks of what was handed out; the consumer may still be checking it.
            while copy.tally.count < copy.subscription.commits.position and time.monotonic() < deadline:
                time.sleep(POLL_S)
            tallies.append([copy.tally.count, copy.tally.checksum, sorted(copy.tally.counts().items())])
            try:
                while True:
                    errors.append(str(copy.subscription.errors.receive(0)))
            except Timeout:
                pass
        return {"tallies": tallies, "errors": errors}

    def progress(self) -> dict[str, Any]:
        """How many items were handed over here so far, all copies together."""
        return {"handed": sum(copy.tally.count for copy in self._copies)}

    def await_snapshot(self, group: int, timeout: float) -> dict[str, Any]:
        """Wait until a copy here was handed a snapshot: its bytes, and when."""
        copy = self._copies[group]
        deadline = time.monotonic() + timeout
        while not copy.loaded_at:
            if time.monotonic() >= deadline:
                raise Timeout(f"no snapshot after {timeout} s")
            time.sleep(POLL_S)
        return {"bytes": copy.loaded_bytes}

    def memory(self) -> dict[str, Any]:
        """The memory this process has resident now."""
        return {"bytes": psutil.Process().memory_info().rss}

    def peak_memory(self) -> dict[str, Any]:
        """The most memory this process has had resident."""
        unit = 1 if sys.platform == "darwin" else 1024
        return {"bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}

    def close(self) -> dict[str, Any]:
        for copy in self._copies:
            copy.subscription.close()
        if self._cat is not None:
            self._cat.shutdown()
        return {}


def main() -> None:
    with logging_to_stderr("error"):
        serve(Worker())


if __name__ == "__main__":
    main()
