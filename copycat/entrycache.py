"""The newest entries of one log, as many as fit in a number of bytes, so that replicating and applying read no disk."""

from __future__ import annotations

from collections.abc import Sequence

from copycat.messages import Entry

ENTRY_OBJECT_BYTES = 150
"""Roughly what an entry takes in memory beyond its data: the object, its numbers, its place in the dict."""


class EntryCache:
    """Entries without gaps up to the last one appended. One thread."""

    __slots__ = ("_bytes", "_bytes_max", "_entries", "_last_index", "first_index")

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self.clear()

    def clear(self) -> None:
        self._entries: dict[int, Entry] = {}
        self._bytes = 0
        self._last_index = 0
        self.first_index = 1 << 64
        """Of the cached ones; beyond every index when there is none."""

    def __len__(self) -> int:
        return len(self._entries)

    def append(self, entries: Sequence[Entry]) -> None:
        """Entries that follow each other; those at or behind the first are replaced, those before a gap are dropped."""
        first = entries[0].index
        if not self._entries or first > self._last_index + 1 or first <= self.first_index:
            self.clear()
            self.first_index = first
        else:
            for index in range(first, self._last_index + 1):
                self._bytes -= _bytes_of(self._entries.pop(index))
        for entry in entries:
            self._entries[entry.index] = entry
            self._bytes += _bytes_of(entry)
        self._last_index = entries[-1].index
        self._evict()

    def compact(self, index: int) -> None:
        """Drop the entries up to and with ``index``."""
        if index >= self._last_index:
            self.clear()
            return
        while self.first_index <= index:
            self._drop_first()

    def entries(self, low: int, high: int) -> list[Entry]:
        """Entries with ``low <= index < high``, all of which are cached."""
        return [self._entries[index] for index in range(low, high)]

    def _evict(self) -> None:
        while self._bytes > self._bytes_max:
            if len(self._entries) == 1:
                self.clear()
                return
            self._drop_first()

    def _drop_first(self) -> None:
        self._bytes -= _bytes_of(self._entries.pop(self.first_index))
        self.first_index += 1


def _bytes_of(entry: Entry) -> int:
    return ENTRY_OBJECT_BYTES + len(entry.data)
