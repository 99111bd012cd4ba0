"""What a replica knows of its log without reading the disk: its bounds, each entry's term, and each entry's size.

Terms only change with elections, so they are kept as runs of (first index, term); sizes as running totals, eight bytes
an entry, so that the bytes between any two entries are one subtraction and a cut at a number of bytes is a binary
search. The compaction point keeps its term, as the Raft paper asks (section 7: "last included index and term"). Pure
memory, one thread.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable

from copycat import keys
from copycat.raft.storage import Compacted, Unavailable
from copycat.records import ENTRY_HEAD_BYTES

ENTRY_OVERHEAD_BYTES = keys.KEY_BYTES + ENTRY_HEAD_BYTES
"""What an entry takes on disk beyond its data."""


class LogIndex:
    """Entries ``start_index + 1`` to ``last_index``; empty when the two are equal."""

    __slots__ = ("_run_firsts", "_run_terms", "_totals", "last_index", "start_index", "start_term")

    def __init__(self, start_index: int, start_term: int) -> None:
        self.reset(start_index, start_term)

    def reset(self, start_index: int, start_term: int) -> None:
        """Forget all entries; the log goes on behind ``start_index``."""
        self.start_index = start_index
        self.start_term = start_term
        self.last_index = start_index
        self._run_firsts: list[int] = []
        self._run_terms: list[int] = []
        self._totals = array("Q", (0,))  # [i]: bytes of data up to and with entry start_index + i, plus a constant

    def append(self, term: int, data_bytes: int) -> None:
        """Entry ``last_index + 1``."""
        self.last_index += 1
        if not self._run_terms or self._run_terms[-1] != term:
            self._run_firsts.append(self.last_index)
            self._run_terms.append(term)
        self._totals.append(self._totals[-1] + data_bytes)

    def extend(self, entries: Iterable[tuple[int, int]]) -> None:
        """As :meth:`append` for many (term, bytes of data)."""
        for term, data_bytes in entries:
            self.append(term, data_bytes)

    def truncate(self, last_index: int) -> None:
        """Forget the entries behind ``last_index``, which is not before the compaction point."""
        if last_index >= self.last_index:
            return
        if last_index < self.start_index:
            raise ValueError(f"entry {last_index} is compacted and can't be the last one")
        while self._run_firsts and self._run_firsts[-1] > last_index:
            self._run_firsts.pop()
            self._run_terms.pop()
        del self._totals[last_index - self.start_index + 1 :]
        self.last_index = last_index

    def compact(self, index: int) -> None:
        """Forget the entries up to and with ``index``, but for its term. Raises as :meth:`term`."""
        term = self.term(index)
        del self._totals[: index - self.start_index]
        self.start_index = index
        self.start_term = term
        passed = bisect_right(self._run_firsts, index + 1) - 1
        if index == self.last_index:
            self._run_firsts.clear()
            self._run_terms.clear()
        elif passed >= 0:
            del self._run_firsts[:passed]
            del self._run_terms[:passed]

    def term(self, index: int) -> int:
        """Raises :class:`~copycat.raft.storage.Compacted` or :class:`~copycat.raft.storage.Unavailable`."""
        if index == self.start_index:
            return self.start_term
        if index < self.start_index:
            raise Compacted(f"entry {index} is compacted: the log starts behind {self.start_index}")
        if index > self.last_index:
            raise Unavailable(f"entry {index} is behind the last one, {self.last_index}")
        return self._run_terms[bisect_right(self._run_firsts, index) - 1]

    def check(self, low: int, high: int) -> None:
        """Raise as :meth:`term` unless every entry with ``low <= index < high`` is here."""
        if low <= self.start_index:
            raise Compacted(f"entry {low} is compacted: the log starts behind {self.start_index}")
        if high > self.last_index + 1:
            raise Unavailable(f"entry {high - 1} is behind the last one, {self.last_index}")

    def cut(self, low: int, high: int, bytes_max: int) -> int:
        """Largest ``stop <= high`` such that ``low <= index < stop`` fits in ``bytes_max`` of data; at least ``low + 1``."""
        base = low - self.start_index
        limit = self._totals[base - 1] + bytes_max
        fits = bisect_right(self._totals, limit, base, high - self.start_index)
        return min(high, max(self.start_index + fits, low + 1))

    def bytes_between(self, low: int, high: int) -> int:
        """Bytes on disk of the entries with ``low <= index < high``, as far as they are here."""
        low = max(low, self.start_index + 1)
        high = min(high, self.last_index + 1)
        if high <= low:
            return 0
        data = self._totals[high - 1 - self.start_index] - self._totals[low - 1 - self.start_index]
        return data + (high - low) * ENTRY_OVERHEAD_BYTES

    @property
    def log_bytes(self) -> int:
        return self._totals[-1] - self._totals[0] + (self.last_index - self.start_index) * ENTRY_OVERHEAD_BYTES
