"""A replica's log: what storage holds, the unstable end behind it, and how far it is committed and applied.

``applied <= applying <= committed <= last_index``, and none of the three ever moves back. ``committed`` may be ahead
of what this replica has on disk: a quorum has it there. Indices that were compacted away have no known term here.

Paper, 5.3 (log matching) and 5.4.1 (which log is more up to date); thesis, 10.2 (writing beside the protocol).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from copycat.errors import LogDiverged
from copycat.messages import Entry, Snapshot
from copycat.raft.storage import Compacted, LogStorage, LogUnavailable, SnapshotUnavailable
from copycat.raft.unstable import Unstable


def entry_size(entry: Entry) -> int:
    """Bytes that the entry would take in protocol buffers: type, term, index, data."""
    # A field is one byte of tag and a varint of seven bits a byte.
    size = 4 + ((entry.term.bit_length() + 6) // 7 or 1) + ((entry.index.bit_length() + 6) // 7 or 1)
    length = len(entry.data)
    if length:
        size += 1 + (length.bit_length() + 6) // 7 + length
    return size


def entries_size(entries: Sequence[Entry]) -> int:
    """The sum of :func:`entry_size`; at one go where all entries of a batch take the same room beside their data."""
    if len(entries) < 4:
        return sum(map(entry_size, entries))
    lengths = [len(entry.data) for entry in entries]
    first, last = entries[0], entries[-1]
    shortest, longest = min(lengths), max(lengths)
    # Terms and indices never decrease along the log, so what is equal at both ends is equal in between.
    if (
        shortest
        and _varint_size(first.term) == _varint_size(last.term)
        and _varint_size(first.index) == _varint_size(last.index)
    ):
        length_size = _varint_size(shortest)
        if length_size == _varint_size(longest):
            beside = entry_size(first) - lengths[0] - _varint_size(lengths[0]) + length_size
            return beside * len(entries) + sum(lengths)
    return sum(map(entry_size, entries))


def _varint_size(value: int) -> int:
    return (value.bit_length() + 6) // 7 or 1


def payload_size(entries: Iterable[Entry]) -> int:
    """Bytes of data alone."""
    return sum([len(entry.data) for entry in entries])


def fit(entries: list[Entry], bytes_max: int) -> tuple[list[Entry], int]:
    """The longest beginning of ``entries`` (not empty) that fits, but never less than one entry; and its size."""
    size = entries_size(entries)
    if size <= bytes_max or len(entries) == 1:
        return entries, size
    size = entry_size(entries[0])
    for count in range(1, len(entries)):
        grown = size + entry_size(entries[count])
        if grown > bytes_max:
            return entries[:count], size
        size = grown
    return entries, size


def cut_to_size(entries: list[Entry], bytes_max: int) -> list[Entry]:
    """The longest beginning that fits, but never less than one entry."""
    return entries if len(entries) <= 1 else fit(entries, bytes_max)[0]


class RaftLog:
    """See the module. Only this class decides where the boundary between storage and the unstable end runs."""

    __slots__ = (
        "_applying_bytes",
        "_applying_bytes_max",
        "_handed_out",
        "_last_index",
        "_last_run_from",
        "_last_term",
        "_storage",
        "applied",
        "applying",
        "applying_paused",
        "committed",
        "unstable",
    )

    def __init__(self, storage: LogStorage, applying_bytes_max: int) -> None:
        first = storage.first_index()
        last = storage.last_index()
        self._storage = storage
        self.unstable = Unstable(last + 1)
        self.committed = self.applying = self.applied = first - 1
        self.applying_paused = False
        # Last index and bytes of each list handed out and not acknowledged.
        self._handed_out: deque[tuple[int, int]] = deque()
        self._applying_bytes = 0
        self._applying_bytes_max = applying_bytes_max
        self._last_index = last
        self._last_term = storage.term(last)
        # Every entry from here to the end has the last term; most questions about terms are about these.
        self._last_run_from = last

    # --- what is there ---

    @property
    def last_index(self) -> int:
        return self._last_index

    @property
    def last_term(self) -> int:
        return self._last_term

    def first_index(self) -> int:
        snapshot = self.unstable.snapshot
        return snapshot.index + 1 if snapshot is not None else self._storage.first_index()

    def term(self, index: int) -> int | None:
        """The entry's term (the compaction point has one too); None if the index is compacted away or not there yet."""
        if index >= self._last_run_from:
            if index <= self._last_index and (index >= self.unstable.offset or index + 1 >= self.first_index()):
                return self._last_term
            return None
        known = self.unstable.term(index)
        if known is not None:
            return known
        if index + 1 < self.first_index():
            return None
        try:
            return self._storage.term(index)
        except LogUnavailable:
            return None

    def holds(self, index: int, term: int) -> bool:
        return self.term(index) == term

    def entries(self, low: int, bytes_max: int) -> list[Entry]:
        """Entries from ``low`` on, as many as fit. Raises :class:`~copycat.raft.storage.Compacted`."""
        if low > self._last_index:
            return []
        unstable = self.unstable
        if low >= unstable.offset:
            return cut_to_size(unstable.entries[low - unstable.offset :], bytes_max)
        return self.slice(low, self._last_index + 1, bytes_max)

    def slice(self, low: int, high: int, bytes_max: int) -> list[Entry]:
        """Entries ``low <= index < high``, as many as fit but at least one.

        Raises :class:`~copycat.raft.storage.Compacted`.
        """
        return cut_to_size(self._span(low, high, bytes_max), bytes_max)

    def _span(self, low: int, high: int, bytes_max: int) -> list[Entry]:
        """The same, perhaps more than fit: storage measures in its own way."""
        unstable = self.unstable
        offset = unstable.offset
        if low >= offset:
            return unstable.entries[low - offset : high - offset]
        if low < self.first_index():
            raise Compacted(low)
        stop = min(high, offset)
        stored = self._storage.entries(low, stop, bytes_max)
        if high <= offset or len(stored) < stop - low:
            return stored
        return stored + unstable.entries[: high - offset]

    def snapshot(self) -> Snapshot | None:
        """The newest snapshot; None if storage can't give one now."""
        if self.unstable.snapshot is not None:
            return self.unstable.snapshot
        try:
            snapshot = self._storage.snapshot()
        except SnapshotUnavailable:
            return None
        return None if snapshot.is_empty() else snapshot

    def is_up_to_date(self, last_term: int, last_index: int) -> bool:
        """Whether a log that ends so is at least as up to date as this one (paper, 5.4.1)."""
        return last_term > self._last_term or (last_term == self._last_term and last_index >= self._last_index)

    def probable_match(self, index: int, term: int) -> int:
        """The largest index up to ``index`` whose term is at most ``term``, or unknown (paper, end of 5.3).

        Everything above it conflicts with a log in which ``index`` has ``term``, so one answer skips whole terms.
        """
        while index > 0:
            known = self.term(index)
            if known is None or known <= term:
                break
            index -= 1
        return index

    # --- appending ---

    def append(self, entries: list[Entry]) -> None:
        """Put ``entries`` (contiguous, not empty) at the end, or over the end from their first index on."""
        first = entries[0].index
        if first <= self.committed:
            raise LogDiverged(f"entry {first} would overwrite the log, which is committed up to {self.committed}")
        self.unstable.append(entries)
        if first <= self._last_run_from:
            self._last_term = entries[0].term
            self._last_run_from = first
        last = entries[-1]
        if last.term != self._last_term:
            self._last_term = last.term
            run_from = last.index
            for entry in reversed(entries):
                if entry.term != last.term:
                    break
                run_from = entry.index
            self._last_run_from = run_from
        self._last_index = last.index

    def append_after(self, previous: int, previous_term: int, entries: list[Entry]) -> bool:
        """Take a leader's entries that follow ``previous`` (figure 2, AppendEntries, steps 2 to 4).

        Only from the first missing or conflicting one on: an overlapping message must not drop what is behind it.
        False if the entry before them does not match.
        """
        if previous == self._last_index and previous_term == self._last_term:
            if entries:
                self.append(entries)
            return True
        if self.term(previous) != previous_term:
            return False
        for position, entry in enumerate(entries):
            if self.term(entry.index) != entry.term:
                self.append(entries[position:] if position else entries)
                break
        return True

    def commit_to(self, index: int) -> None:
        """Everything up to ``index`` is committed. Never moves back."""
        if index > self.committed:
            if index > self._last_index:
                raise LogDiverged(f"{index} is committed, but the log ends at {self._last_index}: entries were lost")
            self.committed = index

    def restore(self, snapshot: Snapshot) -> None:
        """The snapshot replaces the log."""
        self.unstable.restore(snapshot)
        self.committed = snapshot.index
        self._last_index = self._last_run_from = snapshot.index
        self._last_term = snapshot.term

    # --- writing ---

    def stable_to(self, index: int, term: int) -> None:
        self.unstable.stable_to(index, term)

    def has_unstable_entries(self) -> bool:
        """Whether any entry is not known to be written, handed out or not."""
        return bool(self.unstable.entries)

    # --- applying ---

    def _appliable_to(self, allow_unstable: bool) -> int:
        committed = self.committed
        return committed if allow_unstable else min(committed, self.unstable.offset - 1)

    def has_next_committed(self, allow_unstable: bool) -> bool:
        if self.applying >= self.committed or self.applying_paused or self.unstable.snapshot is not None:
            return False
        return self.applying < self._appliable_to(allow_unstable)

    def take_committed(self, allow_unstable: bool) -> list[Entry]:
        """Committed entries that were not handed out yet, as many as the limit lets through. They are being applied
        from now on; no more follow until some are acknowledged if they use up the limit or were cut by it."""
        if not self.has_next_committed(allow_unstable):
            return []
        last = self._appliable_to(allow_unstable)
        bytes_max = self._applying_bytes_max - self._applying_bytes
        entries, size = fit(self._span(self.applying + 1, last + 1, bytes_max), bytes_max)
        self.applying = entries[-1].index
        self._handed_out.append((self.applying, size))
        self._applying_bytes += size
        self.applying_paused = self._applying_bytes >= self._applying_bytes_max or self.applying < last
        return entries

    def applied_to(self, index: int) -> None:
        """Everything up to ``index`` is applied; what was handed out up to there no longer counts."""
        if not self.applied <= index <= self.committed:
            raise LogDiverged(f"{index} is applied, but {self.applied} to {self.committed} could be")
        self.applied = index
        self.applying = max(self.applying, index)
        handed_out = self._handed_out
        while handed_out and handed_out[0][0] <= index:
            self._applying_bytes -= handed_out.popleft()[1]
        self.applying_paused = self._applying_bytes >= self._applying_bytes_max
