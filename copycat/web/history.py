"""Rates and latencies of the last minutes, made from what a node counts.

Every few seconds the node is measured (:meth:`copycat.CopyCat.measure`), and the difference to the time before becomes one
:class:`Point`. Measuring costs the engine some microseconds a replica; a node with thousands of them is measured less often, so
that a view never takes more than a hundredth of its time.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from copycat.errors import CopyCatError
from copycat.metrics import Sample, Spread

EVERY_S = 2.0
SHARE_MAX = 0.01
"""Of the engine's time, spent on being measured."""
POINTS_MAX = 300
RATES = {
    "proposals": "copycat_proposals_total",
    "commits": "copycat_proposals_committed_total",
    "failures": "copycat_proposals_failed_total",
    "items": "copycat_items_applied_total",
    "written_bytes": "copycat_written_bytes_total",
    "sent_bytes": "copycat_sent_bytes_total",
    "received_bytes": "copycat_received_bytes_total",
    "leader_changes": "copycat_leader_changes_total",
}
LATENCIES = {"commit": "copycat_commit_latency_seconds", "sync": "copycat_sync_seconds"}


@dataclass(frozen=True, slots=True)
class Point:
    """What happened between two looks. A node that did not answer has no rates."""

    number: int
    at: float
    """On the monotonic clock."""
    rates: dict[str, float]
    """Each second, by the names of :data:`RATES`."""
    latencies: dict[str, tuple[float, float]]
    """Seconds, median and 99th percentile, by the names of :data:`LATENCIES`; only of what happened at all."""


class History:
    """Measures in a thread of its own from ``start`` to ``close``; ``since`` from any thread."""

    def __init__(self, measure: Callable[[], list[Sample]], every_s: float = EVERY_S) -> None:
        self._measure = measure
        self._every_s = every_s
        self._points: deque[Point] = deque(maxlen=POINTS_MAX)
        self._before: tuple[float, dict[str, float], dict[str, Spread]] | None = None
        self._number = 0
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="copycat-view-history", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._thread.join()

    def since(self, number: int) -> list[Point]:
        """Points behind ``number``, the oldest first."""
        with self._lock:
            return [point for point in self._points if point.number > number]

    def _run(self) -> None:
        wait = 0.0
        while not self._closing.wait(wait):
            began = time.monotonic()
            self.look(began)
            took = time.monotonic() - began
            wait = max(self._every_s, took / SHARE_MAX)

    def look(self, now: float) -> None:
        """Measure, and keep the difference to the time before."""
        try:
            samples = self._measure()
        except (CopyCatError, TimeoutError):
            self._before = None
            self._keep(now, {}, {})
            return
        totals, spreads = totals_of(samples), spreads_of(samples)
        if self._before is not None:
            at, totals_before, spreads_before = self._before
            seconds = max(now - at, 1e-3)
            rates = {name: max(0.0, totals[name] - totals_before[name]) / seconds for name in RATES}
            latencies = {}
            for name in LATENCIES:
                counts = [
                    after - before
                    for after, before in zip(spreads[name].counts, spreads_before[name].counts, strict=True)
                ]
                if sum(counts) > 0:
                    bounds = spreads[name].bounds
                    latencies[name] = (quantile(0.5, bounds, counts), quantile(0.99, bounds, counts))
            self._keep(now, rates, latencies)
        self._before = now, totals, spreads

    def _keep(self, now: float, rates: dict[str, float], latencies: dict[str, tuple[float, float]]) -> None:
        with self._lock:
            self._number += 1
            self._points.append(Point(self._number, now, rates, latencies))


def totals_of(samples: Sequence[Sample]) -> dict[str, float]:
    """What was counted so far, by the names of :data:`RATES`, all lanes together."""
    found = dict.fromkeys(RATES, 0.0)
    names = {metric: name for name, metric in RATES.items()}
    for sample in samples:
        name = names.get(sample.name)
        if name is not None and not isinstance(sample.value, Spread):
            found[name] += sample.value
    return found


def spreads_of(samples: Sequence[Sample]) -> dict[str, Spread]:
    """The histograms, by the names of :data:`LATENCIES`."""
    names = {metric: name for name, metric in LATENCIES.items()}
    return {names[one.name]: one.value for one in samples if one.name in names and isinstance(one.value, Spread)}


def quantile(share: float, bounds: Sequence[float], counts: Sequence[int]) -> float:
    """The value below which ``share`` of what was counted lies, as evenly spread within its bucket as can be.

    What is above the last bound counts as that bound. ``counts`` has one more than ``bounds``, and their sum is above 0.
    """
    wanted = share * sum(counts)
    below = 0
    for number, count in enumerate(counts[:-1]):
        if count and below + count >= wanted:
            low = bounds[number - 1] if number else 0.0
            return low + (bounds[number] - low) * (wanted - below) / count
        below += count
    return bounds[-1]
