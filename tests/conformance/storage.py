"""A node's stable storage in the scripts: everything in lists, compacted by hand."""

from __future__ import annotations

from copycat.messages import ConfState, Entry, HardState, Snapshot
from copycat.raft import Compacted, Unavailable


class ScriptStorage:
    """HardState, the compaction point and the entries after it. ``history`` holds a snapshot at each applied index."""

    def __init__(self, start: Snapshot) -> None:
        self.hard_state = HardState()
        self.point_index = start.index
        self.point_term = start.term
        self.conf_state = start.conf_state
        self.log: list[Entry] = []
        self.history: list[Snapshot] = [start]

    # --- what Raft reads ---

    def initial_state(self) -> tuple[HardState, ConfState]:
        return self.hard_state, self.conf_state

    def first_index(self) -> int:
        return self.point_index + 1

    def last_index(self) -> int:
        return self.point_index + len(self.log)

    def term(self, index: int) -> int:
        if index == self.point_index:
            return self.point_term
        self._check(index)
        return self.log[index - self.point_index - 1].term

    def entries(self, low: int, high: int, bytes_max: int) -> list[Entry]:
        self._check(low)
        self._check(high - 1)
        found: list[Entry] = []
        size = 0
        for entry in self.log[low - self.point_index - 1 : high - self.point_index - 1]:
            size += len(entry.data)
            if found and size > bytes_max:
                break
            found.append(entry)
        return found

    def snapshot(self) -> Snapshot:
        return self.history[-1]

    def _check(self, index: int) -> None:
        if index <= self.point_index:
            raise Compacted(index)
        if index > self.last_index():
            raise Unavailable(index)

    # --- what the script writes ---

    def append(self, entries: list[Entry]) -> None:
        # A write may have been on its way while a snapshot replaced what it holds.
        entries = [entry for entry in entries if entry.index > self.point_index]
        if not entries:
            return
        keep = entries[0].index - self.point_index - 1
        if not 0 <= keep <= len(self.log):
            raise AssertionError(f"entries from {entries[0].index} on leave a gap behind {self.last_index()}")
        self.log[keep:] = entries

    def install(self, snapshot: Snapshot) -> None:
        self.log = []
        self.point_index, self.point_term = snapshot.index, snapshot.term
        self.conf_state = snapshot.conf_state

    def compact(self, index: int) -> None:
        self._check(index)
        term = self.term(index)
        del self.log[: index - self.point_index]
        self.point_index, self.point_term = index, term
