"""The reads that wait for proof that their leader still leads (thesis, 6.4).

Requests are counted from 1. A heartbeat carries the count of requests that came before it, and its answer echoes it:
so one answer vouches for every request up to that count, and however many wait, one number per peer is kept.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from copycat.messages import Message

_COUNT = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class WaitingRead:
    """A request, and the commit index when it came."""

    index: int
    request: Message


class ReadQueue:
    """Requests in the order of their coming, and how far each peer has vouched."""

    __slots__ = ("_acknowledged", "_count", "_waiting")

    def __init__(self) -> None:
        self._waiting: deque[WaitingRead] = deque()
        self._acknowledged: dict[int, int] = {}
        self._count = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, commit: int, request: Message) -> None:
        self._waiting.append(WaitingRead(commit, request))
        self._count += 1

    def context(self) -> bytes:
        """What a heartbeat carries now; nothing unless a request waits."""
        return _COUNT.pack(self._count) if self._waiting else b""

    def acknowledge_own(self, replica: int) -> None:
        """The leader vouches for all that came so far."""
        self._acknowledged[replica] = self._count

    def acknowledge(self, replica: int, context: bytes) -> None:
        """A peer echoed a heartbeat's context; one that makes no sense is ignored."""
        if len(context) != _COUNT.size:
            return
        (count,) = _COUNT.unpack(context)
        if self._acknowledged.get(replica, 0) < count <= self._count:
            self._acknowledged[replica] = count

    def release(self, quorum_of: Callable[[dict[int, int]], int]) -> list[WaitingRead]:
        """Take the requests that a quorum has vouched for, oldest first."""
        waiting = self._waiting
        proven = min(quorum_of(self._acknowledged), self._count)
        released_before = self._count - len(waiting)
        return [waiting.popleft() for _ in range(max(proven - released_before, 0))]
