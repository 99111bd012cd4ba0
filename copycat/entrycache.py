"""The newest entries of logs, as many as fit in a number of bytes, so that replicating and applying read no disk.

Each log has a cache of its own; all caches of a node draw on one :class:`CacheBudget`. When that is used up, the log that
nothing was appended to for the longest time gives up its oldest entries first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from copycat.messages import Entry

ENTRY_OBJECT_BYTES = 150
"""Roughly what an entry takes in memory beyond its data: the object, its numbers, its place in the dict."""


class CacheBudget:
    """At most ``bytes_max`` in all caches together, and ``log_bytes_max`` in any one of them. One thread."""

    __slots__ = ("_caches", "bytes_max", "bytes_used", "log_bytes_max")

    def __init__(self, bytes_max: int, log_bytes_max: int | None = None) -> None:
        self.bytes_max = bytes_max
        self.log_bytes_max = bytes_max if log_bytes_max is None else min(log_bytes_max, bytes_max)
        self.bytes_used = 0
        self._caches: OrderedDict[EntryCache, None] = OrderedDict()  # that hold anything, latest append last

    def changed(self, cache: EntryCache, by: int) -> None:
        """``cache`` holds so many bytes more, or less; call :meth:`keep` after it grew."""
        self.bytes_used += by
        if not cache.bytes_used:
            self._caches.pop(cache, None)

    def keep(self, cache: EntryCache) -> None:
        """``cache`` was appended to: stay within the bounds."""
        if cache.bytes_used:
            self._caches[cache] = None
            self._caches.move_to_end(cache)
        while self.bytes_used > self.bytes_max:
            next(iter(self._caches)).drop_first()


class EntryCache:
    """Entries of one log without gaps up to the last one appended. One thread."""

    __slots__ = ("_budget", "_entries", "_last_index", "bytes_used", "first_index")

    def __init__(self, budget: CacheBudget) -> None:
        self._budget = budget
        self.bytes_used = 0
        self.clear()

    def clear(self) -> None:
        self._entries: dict[int, Entry] = {}
        self._last_index = 0
        self.first_index = 1 << 64
        """Of the cached ones; beyond every index when there is none."""
        self._count(-self.bytes_used)

    def __len__(self) -> int:
        return len(self._entries)

    def append(self, entries: Sequence[Entry]) -> None:
        """Entries that follow each other; those at or behind the first are replaced, those before a gap are dropped."""
        first = entries[0].index
        if not self._entries or first > self._last_index + 1 or first <= self.first_index:
            self.clear()
            self.first_index = first
        elif first <= self._last_index:
            self._count(-sum(_bytes_of(self._entries.pop(index)) for index in range(first, self._last_index + 1)))
        for entry in entries:
            self._entries[entry.index] = entry
        self._count(sum(map(_bytes_of, entries)))
        self._last_index = entries[-1].index
        while self.bytes_used > self._budget.log_bytes_max:
            self.drop_first()
        self._budget.keep(self)

    def compact(self, index: int) -> None:
        """Drop the entries up to and with ``index``."""
        if index >= self._last_index:
            self.clear()
            return
        while self.first_index <= index:
            self.drop_first()

    def entries(self, low: int, high: int) -> list[Entry]:
        """Entries with ``low <= index < high``, all of which are cached."""
        return [self._entries[index] for index in range(low, high)]

    def drop_first(self) -> None:
        """Give up the oldest entry; there is one."""
        if len(self._entries) == 1:
            self.clear()
            return
        self._count(-_bytes_of(self._entries.pop(self.first_index)))
        self.first_index += 1

    def _count(self, by: int) -> None:
        self.bytes_used += by
        self._budget.changed(self, by)


def _bytes_of(entry: Entry) -> int:
    return ENTRY_OBJECT_BYTES + len(entry.data)
