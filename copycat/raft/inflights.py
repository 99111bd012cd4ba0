"""The window of append messages that a leader has sent to one peer and that are not acknowledged (thesis, 10.2.1).

Bounded in messages and in payload bytes; the last message may pass the byte limit, none follows it.
"""

from __future__ import annotations

from collections import deque


class Inflights:
    """Last index and payload bytes of each message on its way, oldest first."""

    __slots__ = ("_window", "bytes", "bytes_max", "count_max")

    def __init__(self, count_max: int, bytes_max: int) -> None:
        self.count_max = count_max
        self.bytes_max = bytes_max
        self.bytes = 0
        self._window: deque[tuple[int, int]] = deque()

    def __len__(self) -> int:
        return len(self._window)

    @property
    def full(self) -> bool:
        return len(self._window) >= self.count_max or self.bytes >= self.bytes_max

    def add(self, last_index: int, payload_bytes: int) -> None:
        """A message up to ``last_index`` was sent; the caller has seen that the window is not full."""
        self._window.append((last_index, payload_bytes))
        self.bytes += payload_bytes

    def free_to(self, index: int) -> None:
        """Everything up to ``index`` has arrived."""
        window = self._window
        while window and window[0][0] <= index:
            self.bytes -= window.popleft()[1]

    def clear(self) -> None:
        self._window.clear()
        self.bytes = 0

    def copy(self) -> Inflights:
        twin = Inflights(self.count_max, self.bytes_max)
        twin._window.extend(self._window)
        twin.bytes = self.bytes
        return twin
