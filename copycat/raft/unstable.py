"""The end of the log that is not known to be on stable storage yet, and perhaps a snapshot before it.

Entries here go through two stages: new, then handed out to be written ("in progress"). They leave when the write is
acknowledged. A newer leader may overwrite entries whose write is still under way, so an acknowledgement names the last
entry's index *and* term, and counts only if that very entry is still here.
"""

from __future__ import annotations

from copycat.messages import Entry, Snapshot


class Unstable:
    """``entries[0].index == offset``, whenever there are entries."""

    __slots__ = ("entries", "in_progress_to", "offset", "snapshot", "snapshot_in_progress")

    def __init__(self, offset: int) -> None:
        self.offset = offset
        self.entries: list[Entry] = []
        self.in_progress_to = offset
        """First index that was not handed out yet."""
        self.snapshot: Snapshot | None = None
        self.snapshot_in_progress = False

    def term(self, index: int) -> int | None:
        """Term of an entry or of the snapshot held here; None for any other index."""
        offset = self.offset
        if index >= offset:
            position = index - offset
            return self.entries[position].term if position < len(self.entries) else None
        if self.snapshot is not None and self.snapshot.index == index:
            return self.snapshot.term
        return None

    def append(self, entries: list[Entry]) -> None:
        """Put ``entries`` (contiguous, not empty, at most one past the end) in, dropping what they overwrite."""
        first = entries[0].index
        position = first - self.offset
        if position == len(self.entries):
            self.entries.extend(entries)
        elif position <= 0:
            self.entries = entries[:]
            self.offset = self.in_progress_to = first
        else:
            del self.entries[position:]
            self.entries.extend(entries)
            self.in_progress_to = min(self.in_progress_to, first)

    def new_entries(self) -> list[Entry]:
        """Entries not handed out yet."""
        return self.entries[self.in_progress_to - self.offset :]

    def has_new_entries(self) -> bool:
        return self.in_progress_to - self.offset < len(self.entries)

    def new_snapshot(self) -> Snapshot | None:
        """The snapshot, unless it was handed out."""
        return None if self.snapshot_in_progress else self.snapshot

    def hand_out(self) -> None:
        """Everything new is being written from now on."""
        self.in_progress_to = self.offset + len(self.entries)
        if self.snapshot is not None:
            self.snapshot_in_progress = True

    def stable_to(self, index: int, term: int) -> None:
        """Storage holds everything up to this entry; ignored if that entry was overwritten meanwhile."""
        position = index - self.offset
        if 0 <= position < len(self.entries) and self.entries[position].term == term:
            del self.entries[: position + 1]
            self.offset = index + 1
            self.in_progress_to = max(self.in_progress_to, self.offset)

    def snapshot_stable(self, index: int) -> None:
        """Storage holds the snapshot at ``index``; ignored if another one is waiting."""
        if self.snapshot is not None and self.snapshot.index == index:
            self.snapshot = None
            self.snapshot_in_progress = False

    def restore(self, snapshot: Snapshot) -> None:
        """The snapshot replaces everything."""
        self.entries = []
        self.offset = self.in_progress_to = snapshot.index + 1
        self.snapshot = snapshot
        self.snapshot_in_progress = False
