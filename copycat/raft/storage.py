"""What the Raft core reads of a replica's stable storage.

The core only ever reads through this; what must be written it hands out (see ``Ready``). So a write that is under way
is invisible here until whoever writes says that it is done.
"""

from __future__ import annotations

from typing import Protocol

from copycat.messages import ConfState, Entry, HardState, Snapshot


class LogUnavailable(Exception):
    """An index that storage does not hold; never leaves the library."""


class Compacted(LogUnavailable):
    """The index is at or before the compaction point: only a snapshot has it."""


class Unavailable(LogUnavailable):
    """The index is beyond the last one."""


class SnapshotUnavailable(Exception):
    """No snapshot can be given now; ask again later. Never leaves the library."""


class LogStorage(Protocol):
    """Stable storage of one replica, as Raft sees it. Indices count from 1; the compaction point may be 0."""

    def initial_state(self) -> tuple[HardState, ConfState]:
        """What was last made durable; read once, when the core starts."""

    def first_index(self) -> int:
        """The compaction point + 1."""

    def last_index(self) -> int:
        """The last entry's index, or the compaction point if there is none."""

    def term(self, index: int) -> int:
        """Term of an entry, or of the compaction point itself. Raises :class:`Compacted` or :class:`Unavailable`."""

    def entries(self, low: int, high: int, bytes_max: int) -> list[Entry]:
        """Entries ``low <= index < high``, cut to ``bytes_max`` of data but never below one.

        Raises :class:`Compacted` or :class:`Unavailable`.
        """

    def snapshot(self) -> Snapshot:
        """The newest snapshot. Raises :class:`SnapshotUnavailable`."""
