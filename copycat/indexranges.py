"""A set of log indices kept as ranges: which entries may still lie on disk although no log has them any more.

A log leaves waste in few, long pieces (what a compaction, a truncation or an installed snapshot cut off), so a short list
of ranges says it all, whatever their length. Pure arithmetic; both ends of a range belong to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class IndexRange(NamedTuple):
    """Indices ``low`` to ``high``, both included."""

    low: int
    high: int


class IndexRanges:
    """Disjoint ranges in order, none adjacent to the next."""

    __slots__ = ("_ranges",)

    def __init__(self) -> None:
        self._ranges: list[IndexRange] = []

    def __iter__(self) -> Iterator[IndexRange]:
        return iter(self._ranges)

    def add(self, low: int, high: int) -> None:
        """Add ``low`` to ``high``; nothing when ``high < low``."""
        if high < low:
            return
        apart: list[IndexRange] = []
        for found in self._ranges:
            if found.high + 1 < low or found.low > high + 1:
                apart.append(found)
            else:
                low, high = min(low, found.low), max(high, found.high)
        apart.append(IndexRange(low, high))
        self._ranges = sorted(apart)

    def remove(self, low: int, high: int) -> None:
        """Remove ``low`` to ``high``; nothing when ``high < low``."""
        if high < low:
            return
        left: list[IndexRange] = []
        for found in self._ranges:
            if found.low < low:
                left.append(IndexRange(found.low, min(found.high, low - 1)))
            if found.high > high:
                left.append(IndexRange(max(found.low, high + 1), found.high))
        self._ranges = left

    def outside(self, low: int, high: int) -> IndexRanges:
        """A copy without ``low`` to ``high``."""
        copy = IndexRanges()
        copy._ranges = list(self._ranges)
        copy.remove(low, high)
        return copy

    def smallest(self, count_max: int) -> list[IndexRange]:
        """The ``count_max`` smallest indices, or all."""
        found: list[IndexRange] = []
        for low, high in self._ranges:
            if count_max <= 0:
                break
            found.append(IndexRange(low, min(high, low + count_max - 1)))
            count_max -= found[-1].high - low + 1
        return found

    def __bool__(self) -> bool:
        return bool(self._ranges)
