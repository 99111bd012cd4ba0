"""Deadlines, and the time they are measured in.

Protocol time is what the caller's ``now`` says, less the time in which this node did not run: a node that stood still
has heard nobody, so that time proves nothing about others. It never runs backwards, whatever the caller's clock does.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Hashable

Action = Callable[[float], None]

CLOCK_GRAIN_S = 1e-6
"""A deadline this near has come: turning it into the caller's clock and back loses that much in rounding."""


class ProtocolTime:
    """Turns the caller's clock into protocol time."""

    __slots__ = ("_offset", "_stall_threshold_s", "now")

    def __init__(self, stall_threshold_s: float) -> None:
        self._stall_threshold_s = stall_threshold_s
        self._offset = 0.0
        self.now = 0.0

    def start(self, now: float) -> None:
        self.now = now

    def advance(self, now: float, due: float) -> float:
        """Go on to the caller's ``now``; ``due`` is the protocol time at which a call was expected at the latest.

        Returns for how many seconds the node stood still, 0.0 if it did not. Of a stall only the time up to ``due``
        counts, so that time goes on even if every call is late.
        """
        at = now - self._offset
        if at < self.now:
            self._offset = now - self.now
            return 0.0
        expected = max(due, self.now)
        late_s = at - expected
        if late_s > self._stall_threshold_s:
            self._offset += late_s
            self.now = expected
            return late_s
        self.now = at
        return 0.0

    def to_caller(self, at: float) -> float:
        """The caller's time for a protocol time."""
        return at + self._offset


class Timers:
    """Named deadlines; setting a name again replaces its deadline."""

    __slots__ = ("_actions", "_heap", "_serial")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Hashable]] = []
        self._actions: dict[Hashable, tuple[int, Action]] = {}
        self._serial = 0

    def set(self, key: Hashable, at: float, action: Action) -> None:
        self._serial += 1
        self._actions[key] = (self._serial, action)
        heapq.heappush(self._heap, (at, self._serial, key))
        if len(self._heap) > 64 + 4 * len(self._actions):
            self._drop_stale()

    def cancel(self, key: Hashable) -> None:
        self._actions.pop(key, None)

    def clear(self) -> None:
        self._actions.clear()
        self._heap.clear()

    def is_set(self, key: Hashable) -> bool:
        return key in self._actions

    def next_at(self) -> float:
        """The earliest deadline, or infinity."""
        heap = self._heap
        while heap:
            at, serial, key = heap[0]
            live = self._actions.get(key)
            if live is not None and live[0] == serial:
                return at
            heapq.heappop(heap)
        return math.inf

    def run_due(self, now: float) -> None:
        """Call what is due, in order. An action that sets a deadline in the past waits for the next call."""
        due: list[tuple[int, Hashable]] = []
        while self.next_at() <= now + CLOCK_GRAIN_S:
            _, serial, key = heapq.heappop(self._heap)
            due.append((serial, key))
        for serial, key in due:
            live = self._actions.get(key)
            if live is not None and live[0] == serial:
                del self._actions[key]
                live[1](now)

    def _drop_stale(self) -> None:
        actions = self._actions
        self._heap = [item for item in self._heap if item[2] in actions and actions[item[2]][0] == item[1]]
        heapq.heapify(self._heap)
