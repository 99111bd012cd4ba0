"""A disk that loses what was not synced, and fails in the ways disks fail.

``Disk`` is the thing that survives a crash; ``FaultyStorage`` is one opening of it, an implementation of
:class:`copycat.ports.Storage`. A test crashes the disk, opens it again, and looks at what a node would find after a power
failure: a prefix of what was written, never less than what was synced. (Batches don't tear: that a batch is whole or
absent is the storage's promise, and its contract suite checks that.)

Faults are asked for, never random on their own; the one random choice, how much of the unsynced tail survives a crash,
comes from the ``random.Random`` that the caller hands in.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

from copycat.errors import StorageFailed, StorageLocked
from copycat.ports import WriteBatch
from copycat.storage.sorted_map import SortedMap

UNSYNCED_BATCHES_MAX = 1024
"""Beyond this the oldest unsynced batch becomes durable by itself, as an operating system writes back in the end."""

Operation = Literal["open", "get", "scan", "write", "sync"]
_Undo = list[tuple[bytes, bytes | None]]


class Disk:
    """What survives: contents, and the faults that were asked for. Thread-safe.

    ``bytes_max``: writes that would leave more than this many bytes of keys and values fail ("disk full"); None is no
    limit. ``before``: called with the operation's name before each one, outside every lock, so that a test can stall it,
    count it, crash in it, or raise.
    """

    def __init__(self, rng: random.Random | None = None) -> None:
        self.bytes_max: int | None = None
        self.before: Callable[[Operation], None] | None = None
        self.writes = 0
        self.syncs = 0
        self._rng = rng
        self._lock = threading.RLock()
        self._pairs = SortedMap()
        self._bytes = 0
        self._unsynced: deque[_Undo] = deque()  # how to undo each unsynced batch, oldest first
        self._opener: FaultyStorage | None = None
        self._failing_writes: set[int] = set()
        self._failing_syncs: set[int] = set()
        self._loses = False

    @property
    def bytes_used(self) -> int:
        return self._bytes

    @property
    def unsynced_batches(self) -> int:
        return len(self._unsynced)

    def crash(self) -> int:
        """Cut the power: whoever has the disk open is cut off, and unsynced batches are lost.

        With an ``rng`` a random number of the oldest unsynced ones survives; returns how many did.
        """
        with self._lock:
            kept = self._rng.randint(0, len(self._unsynced)) if self._rng is not None else 0
            while len(self._unsynced) > kept:
                self._apply(self._unsynced.pop())
            self._unsynced.clear()
            self._opener = None
            return kept

    def fail_write(self, nth: int = 1) -> None:
        """The ``nth`` write from now raises StorageFailed, and nothing of it happens."""
        with self._lock:
            self._failing_writes.add(self.writes + nth)

    def fail_sync(self, nth: int = 1) -> None:
        """The ``nth`` sync from now raises StorageFailed; what it should have made durable may survive a crash, or not.

        Nor does any later sync help before the disk is opened again, whatever it says: the pages that could not be written
        count as clean (Rebello et al., "Can applications recover from fsync failures?", 2020).
        """
        with self._lock:
            self._failing_syncs.add(self.syncs + nth)

    def rot(self, key: bytes, bit: int) -> None:
        """Flip one bit of the stored value of ``key`` (which must exist and not be empty), durably."""
        with self._lock:
            value = self._pairs.get(key)
            if not value:
                raise KeyError(key)
            rotten = bytearray(value)
            rotten[bit // 8 % len(value)] ^= 1 << bit % 8
            self._pairs.apply([(key, bytes(rotten))])

    def drop(self, key: bytes) -> None:
        """Lose one record, durably."""
        with self._lock:
            self._apply([(key, None)])

    def restore(self, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        """Hold these pairs too, durably."""
        with self._lock:
            self._apply(list(pairs))

    def pairs(self) -> list[tuple[bytes, bytes]]:
        """All that is visible now, in order."""
        with self._lock:
            return self._pairs.range(b"", b"\xff" * 64)

    # --- for FaultyStorage ----------------------------------------------------------------------------------------

    def _attach(self, opener: FaultyStorage) -> None:
        with self._lock:
            if self._opener is not None:
                raise StorageLocked("the disk is open in another instance: close that first")
            self._opener = opener
            self._loses = False

    def _detach(self, opener: FaultyStorage) -> None:
        with self._lock:
            if self._opener is opener:
                self._opener = None

    def _check(self, opener: FaultyStorage) -> None:
        if self._opener is not opener:
            raise StorageFailed("the storage is closed: open it before reading or writing")

    def _write(self, opener: FaultyStorage, batch: WriteBatch, sync: bool) -> None:
        with self._lock:
            self._check(opener)
            self.writes += 1
            if self.writes in self._failing_writes:
                raise StorageFailed("write failed: input/output error (injected)")
            undo = self._apply(batch.operations)
            if self.bytes_max is not None and self._bytes > self.bytes_max:
                self._apply(undo)
                raise StorageFailed("write failed: no space left on device (injected)")
            self._unsynced.append(undo)
            if len(self._unsynced) > UNSYNCED_BATCHES_MAX and not self._loses:
                self._unsynced.popleft()
        if sync:
            self._before("sync")
            with self._lock:
                self._check(opener)
                self.syncs += 1
                if self.syncs in self._failing_syncs:
                    self._loses = True
                    raise StorageFailed("sync failed: input/output error (injected)")
                if not self._loses:
                    self._unsynced.clear()

    def _apply(self, operations: _Undo) -> _Undo:
        """Apply, and return what would undo it."""
        undo: _Undo = []
        for key, value in operations:
            old = self._pairs.get(key)
            undo.append((key, old))
            self._bytes += (0 if value is None else len(key) + len(value)) - (0 if old is None else len(key) + len(old))
            self._pairs.apply([(key, value)])
        undo.reverse()
        return undo

    def _before(self, operation: Operation) -> None:
        if self.before is not None:
            self.before(operation)


class FaultyStorage:
    """A :class:`copycat.ports.Storage` on a :class:`Disk`; a disk of its own unless one is given.

    A disk is one data directory; its path is not looked at. After a crash the same instance, or another one, may open it.
    """

    __slots__ = ("disk",)

    def __init__(self, disk: Disk | None = None) -> None:
        self.disk = disk if disk is not None else Disk()

    def open(self, data_dir: Path) -> None:
        self.disk._before("open")
        self.disk._attach(self)

    def write(self, batch: WriteBatch, sync: bool) -> None:
        self.disk._before("write")
        self.disk._write(self, batch, sync)

    def get(self, key: bytes) -> bytes | None:
        self.disk._before("get")
        with self.disk._lock:
            self.disk._check(self)
            return self.disk._pairs.get(key)

    def scan(self, start: bytes, stop: bytes, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        self.disk._before("scan")
        with self.disk._lock:
            self.disk._check(self)
            pairs = self.disk._pairs.range(start, stop)
        if reverse:
            pairs.reverse()
        return self._while_open(pairs)

    def close(self) -> None:
        self.disk._detach(self)

    def _while_open(self, pairs: list[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
        for pair in pairs:
            self.disk._check(self)
            yield pair
