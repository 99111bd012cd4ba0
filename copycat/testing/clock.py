"""Virtual time: one timeline of events for the whole world, and a clock for each node that need not agree with it.

The timeline is the truth; no node ever sees it. A node reads its own :class:`NodeClock`, which starts anywhere, runs a
little fast or slow, and may jump forward, as a monotonic clock does when a machine was suspended. Nothing here waits.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass

Action = Callable[[], object]


class Timeline:
    """Events in the order of their time; at equal times in the order in which they were planned."""

    __slots__ = ("_heap", "_serial", "events", "now")

    def __init__(self) -> None:
        self.now = 0.0
        self.events = 0
        """How many have happened."""
        self._heap: list[tuple[float, int, Action]] = []
        self._serial = 0

    def at(self, when: float, action: Action) -> None:
        """Plan ``action`` for the time ``when``, or for now if that is past."""
        self._serial += 1
        heapq.heappush(self._heap, (max(when, self.now), self._serial, action))

    def after(self, delay_s: float, action: Action) -> None:
        self.at(self.now + delay_s, action)

    def run_until(self, end: float) -> None:
        """Let everything happen that is due up to ``end``."""
        heap = self._heap
        while heap and heap[0][0] <= end:
            self.now, _, action = heapq.heappop(heap)
            self.events += 1
            action()
        self.now = max(self.now, end)


@dataclass(slots=True)
class NodeClock:
    """A monotonic clock: ``rate`` of its seconds pass in one of the world's, since it showed ``shown`` at ``since``."""

    shown: float = 0.0
    since: float = 0.0
    rate: float = 1.0

    def read(self, now: float) -> float:
        return self.shown + (now - self.since) * self.rate

    def when(self, reading: float) -> float:
        """The world's time at which this clock will show ``reading``."""
        return self.since + (reading - self.shown) / self.rate

    def drift(self, now: float, rate: float) -> None:
        """Run at another rate from now on."""
        self.shown, self.since, self.rate = self.read(now), now, rate

    def jump(self, now: float, seconds: float) -> None:
        """Skip ``seconds`` (forward only: it is a monotonic clock)."""
        assert seconds >= 0.0
        self.shown, self.since = self.read(now) + seconds, now
