"""Making a snapshot: the half of it that runs on the consumer's thread.

Calls the provider where the consumer has come exactly to the snapshot's place, cuts what it returns into chunks, and hands
these to the engine a few at a time: memory stays bounded, and whoever waits for the disk is the consumer, never the engine.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol
from zlib import crc32

from copycat.channels.commit import SnapshotProvider
from copycat.channels.waiting import remaining
from copycat.errors import CopyCatError, SnapshotProviderFailed
from copycat.feed import Feed
from copycat.messages import ConfState

CHUNKS_ON_THE_WAY_MAX = 8


class Desk(Protocol):
    """The engine's half: see :class:`copycat.snapshots.SnapshotDesk`. ``wants``, ``post`` and ``ended`` from any thread."""

    ended: bool

    def wants(self, making: Making) -> bool: ...

    def post(self, action: Callable[[], None]) -> bool: ...

    def chunk(self, making: Making, number: int, data: bytes) -> None: ...

    def finished(self, making: Making) -> None: ...

    def failed(self, making: Making, error: CopyCatError) -> None: ...

    def dropped(self, making: Making) -> None: ...


@dataclass(slots=True, eq=False)
class Making:
    """A snapshot that is due at ``index``. :meth:`run` is called on the consumer's thread, all else on the engine's."""

    desk: Desk
    feed: Feed
    index: int
    term: int
    conf_state: ConfState
    state: bytes
    chunk_bytes: int
    generation: int | None = None
    refused: bool = False
    over: bool = False
    size: int = 0
    count: int = 0
    checksum: int = 0
    room: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(CHUNKS_ON_THE_WAY_MAX))
    chunks: Iterator[bytes] | None = None
    unsent: bytes | None = None

    def run(self, provider: SnapshotProvider, deadline: float | None) -> bool:
        """Call the provider and hand over what it returns, as far as the deadline lets it; True when that is over.

        Errors of the provider go to the error channel.
        """
        desk = self.desk
        try:
            if self.chunks is None:
                if not desk.wants(self):
                    desk.post(lambda: desk.dropped(self))
                    return True
                self.chunks = iter(_cut(_pieces(provider()), self.chunk_bytes))
            while (chunk := self._next_chunk()) is not None:
                if not self._wait_for_room(deadline):
                    return False
                if self.refused or not self._hand_over(chunk):
                    return True
        except Exception as error:
            failure = SnapshotProviderFailed(
                f"the snapshot provider failed: {error!r}; the log is kept until it succeeds"
            )
            failure.__cause__ = error
            desk.post(lambda: desk.failed(self, failure))
            return True
        except BaseException:  # the consumer's thread is being ended: not the provider's fault
            desk.post(lambda: desk.dropped(self))
            raise
        desk.post(lambda: desk.finished(self))
        return True

    def _next_chunk(self) -> bytes | None:
        if self.unsent is None:
            assert self.chunks is not None
            self.unsent = next(self.chunks, None)
        return self.unsent

    def _wait_for_room(self, deadline: float | None) -> bool:
        """Wait until one more chunk may be on its way to the disk, or the snapshot is refused; False at the deadline."""
        while not self.refused:
            left = remaining(deadline)
            if self.room.acquire(timeout=1.0 if left is None else min(left, 1.0)):
                return True
            if self.desk.ended:
                self.refused = True
            elif left == 0.0:
                return False
        return True

    def _hand_over(self, chunk: bytes) -> bool:
        number = self.count
        self.count += 1
        self.size += len(chunk)
        self.checksum = crc32(chunk, self.checksum)
        self.unsent = None
        return self.desk.post(lambda: self.desk.chunk(self, number, chunk))

    def refuse(self) -> None:
        self.refused = True
        self.room.release(CHUNKS_ON_THE_WAY_MAX)


def _pieces(produced: object) -> Iterable[bytes]:
    if isinstance(produced, (bytes, bytearray, memoryview)):
        return (bytes(produced),)
    if isinstance(produced, str) or not isinstance(produced, Iterable):
        raise TypeError(f"it returned {type(produced).__name__}, not bytes or an iterable of bytes")
    return produced


def _cut(pieces: Iterable[bytes], size: int) -> Iterable[bytes]:
    """The same bytes in chunks of ``size``, the last one shorter."""
    buffer = bytearray()
    for piece in pieces:
        if not isinstance(piece, (bytes, bytearray, memoryview)):
            raise TypeError(f"it yielded {type(piece).__name__}, not bytes")
        view = memoryview(piece)
        for start in range(0, len(view), size):
            buffer += view[start : start + size]
            if len(buffer) >= size:
                yield bytes(buffer[:size])
                del buffer[:size]
    if buffer:
        yield bytes(buffer)
