"""Waiting for another thread, with a deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


def deadline_after(timeout: float | None) -> float | None:
    """The monotonic time at which a wait that begins now must end; None: never."""
    return None if timeout is None else time.monotonic() + max(0.0, timeout)


def remaining(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())


_own = threading.local()


def mark_own_thread() -> None:
    """This thread is the library's: what it would wait for would have to come from itself."""
    _own.marked = True


def on_own_thread() -> bool:
    """Whether a future's callback, say, called from the library's own thread: it must never wait."""
    return getattr(_own, "marked", False)


Listener = Callable[[], None]
"""Told once that something has changed. Called with a lock held, on the thread that changed it: it only passes that on."""


class Waiting:
    """A condition that costs nothing to signal while nobody waits.

    Threads sleep on it. Whoever must not sleep, because it serves an event loop, leaves a listener instead; the next change
    calls it, once. A listener that is left again before that counts once.
    """

    __slots__ = ("condition", "listeners", "sleepers")

    def __init__(self) -> None:
        self.condition = threading.Condition(threading.Lock())
        self.sleepers = 0
        self.listeners: set[Listener] = set()

    def wait(self, deadline: float | None) -> bool:
        """Sleep until notified, holding the lock before and after. False once the deadline has passed."""
        left = remaining(deadline)
        if (left is not None and left <= 0.0) or on_own_thread():
            return False
        self.sleepers += 1
        try:
            self.condition.wait(left)
        finally:
            self.sleepers -= 1
        return True

    def notify(self) -> None:
        """Wake all sleepers and call all listeners; the lock must be held."""
        if self.sleepers:
            self.condition.notify_all()
        if self.listeners:
            listeners, self.listeners = self.listeners, set()
            for listener in listeners:
                listener()

    def listen(self, listener: Listener) -> None:
        """Have the next change call ``listener``; the lock must be held."""
        self.listeners.add(listener)
