"""From a group's log to one consumer's commit channel, at the consumer's own pace.

A feed has a sequencer of its own at the place its consumer has been given everything up to. It reads the log from there
(recent entries come from memory), as long as the channel has room. So a consumer that is slow, new, or back after a
restart is the same case, and costs nobody else anything: what it has not taken stays in the log. When the log no longer
reaches back that far, the consumer is handed a snapshot and then exactly the items behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from copycat.channels.commit import CommitChannel, Delivery, Reload, SnapshotTask
from copycat.channels.error import ErrorChannel
from copycat.errors import CodecError, StorageCorrupt
from copycat.logindex import ENTRY_OVERHEAD_BYTES
from copycat.messages import Entry
from copycat.sequencer import Sequencer
from copycat.sessions import unpack_proposals

READ_BYTES_MAX = 1 << 20
"""Log read for one feed before others get their turn."""

ITEM_OBJECT_BYTES = 41
"""What an item takes in memory beyond its data: the object's head, and its place in a list."""


class Log(Protocol):
    """What a feed reads of its group."""

    def first_index(self) -> int: ...

    def entries(self, low: int, high: int, bytes_max: int) -> list[Entry]: ...


class Feed:
    """Belongs to the engine's thread."""

    __slots__ = ("asked", "bytes_passed", "channel", "entries_passed", "errors", "failures", "retry_at", "sequencer")

    def __init__(self, channel: CommitChannel, errors: ErrorChannel, sequencer: Sequencer) -> None:
        self.channel = channel
        self.errors = errors
        self.sequencer = sequencer
        self.bytes_passed = 0
        self.entries_passed = 0
        self.asked = 0
        """Snapshots that its consumer is asked for and has not come to yet."""
        self.failures = 0
        """Snapshots that its provider failed to make, one after the other."""
        self.retry_at: float | None = None
        """When it is asked again after a failure, on the engine's clock."""

    def ask(self, task: SnapshotTask) -> None:
        """Ask the consumer for a snapshot of the place it is coming to, with no item to wait for."""
        self.channel.push(Delivery([], self.sequencer.position, 0, task))

    def restart_count(self, bytes_passed: int = 0, entries_passed: int = 0) -> None:
        """Count log anew until the next snapshot is due."""
        self.bytes_passed = bytes_passed
        self.entries_passed = entries_passed

    def offer(self, entries: list[Entry], due: Callable[[Feed, Entry], SnapshotTask | None]) -> None:
        """Hand over entries that were just applied, if they are the next ones and there is room."""
        if entries[0].index == self.sequencer.index + 1 and self.channel.has_room():
            for entry in entries:
                self._hand_over(entry, due)

    def pump(self, log: Log, applied: int, due: Callable[[Feed, Entry], SnapshotTask | None]) -> bool:
        """Read on from the log while there is room; True if more is left that could be handed over at once."""
        budget = READ_BYTES_MAX
        while self.sequencer.index < applied and self.channel.has_room():
            if budget <= 0:
                return True
            for entry in log.entries(self.sequencer.index + 1, applied + 1, READ_BYTES_MAX):
                self._hand_over(entry, due)
                budget -= len(entry.data) + 1
        return False

    def reload(self, state: bytes, load: Callable[[], bytes], release: Callable[[], object]) -> None:
        """Skip to a snapshot whose packed sequencer is ``state``."""
        self.sequencer = Sequencer.unpack(state)
        self.restart_count()
        self.channel.push(Reload(self.sequencer.position, load, release))

    def _hand_over(self, entry: Entry, due: Callable[[Feed, Entry], SnapshotTask | None]) -> None:
        applied = self.sequencer.apply(entry)
        self.bytes_passed += len(entry.data) + ENTRY_OVERHEAD_BYTES
        self.entries_passed += 1
        items: list[bytes] = []
        if applied.count:
            try:
                items = unpack_proposals(entry.data)
            except CodecError as error:
                raise StorageCorrupt(f"entry {entry.index} can't be unpacked: {error}") from error
            if applied.skip:
                items = items[applied.skip :]
        task = due(self, entry)
        if items or task is not None:
            size = len(entry.data) + ITEM_OBJECT_BYTES * len(items)
            self.channel.push(Delivery(items, self.sequencer.position, size, task))
