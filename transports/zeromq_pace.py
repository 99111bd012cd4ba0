"""How fast a member may talk: frames of one owner's key in one second, whatever connections they come by.

No honest node comes near the limit: it sends a frame per turn of its engine, and gathers in it what the turn produced. One that
goes beyond floods, by a fault or by intent. What is too much is thrown away before it is looked at; and since even that costs
time, its connections are ended, and it may not come back for a while.
"""

from __future__ import annotations

import time

FRAMES_PER_S_MAX = 20_000
SHUT_OUT_S = 10.0


class Pace:
    """For the transport's thread."""

    __slots__ = ("_counts", "_ends")

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._ends = 0.0

    def look(self) -> None:
        """Begin a new second, if one has passed. Once a poll, so that a frame costs no look at the clock."""
        now = time.monotonic()
        if now >= self._ends:
            self._ends = now + 1.0
            self._counts.clear()

    def is_flood(self, owner: str) -> bool:
        """Count a frame of this owner; whether it is one too many."""
        count = self._counts.get(owner, 0) + 1
        self._counts[owner] = count
        return count > FRAMES_PER_S_MAX
