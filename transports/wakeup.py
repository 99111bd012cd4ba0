"""Ends another thread's wait, for the price of a flag while nobody waits.

The polling thread says when it is about to sleep (:meth:`Wakeup.arm`) and when it is back (:meth:`Wakeup.disarm`); only
in between does :meth:`Wakeup.wake` cost a system call, and at most one per sleep.

Why no wake is lost (Dekker's argument): a waker sets ``_pending`` and then reads ``_sleeping``; the sleeper sets
``_sleeping`` and then reads ``_pending``. Whatever the interleaving, at least one of them sees the other. A wake may
come through one poll later than needed to, that is to say twice; it never fails to come.
"""

from __future__ import annotations

import os
import socket
import sys
import threading

if sys.platform == "linux":

    class _Signal:
        """A readable file descriptor made of an eventfd."""

        __slots__ = ("_fd",)

        def __init__(self) -> None:
            self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

        def fileno(self) -> int:
            return self._fd

        def raise_(self) -> None:
            os.eventfd_write(self._fd, 1)

        def lower(self) -> None:
            os.eventfd_read(self._fd)

        def close(self) -> None:
            os.close(self._fd)

else:

    class _Signal:
        """A readable file descriptor made of a socket pair."""

        __slots__ = ("_reader", "_writer")

        def __init__(self) -> None:
            self._reader, self._writer = socket.socketpair()
            self._reader.setblocking(False)
            self._writer.setblocking(False)

        def fileno(self) -> int:
            return self._reader.fileno()

        def raise_(self) -> None:
            self._writer.send(b"\0")

        def lower(self) -> None:
            self._reader.recv(1)

        def close(self) -> None:
            self._reader.close()
            self._writer.close()


class Wakeup:
    """One sleeper, any number of wakers. :meth:`wake` is for any thread, the rest for the sleeper's."""

    __slots__ = ("_lock", "_pending", "_raised", "_signal", "_sleeping")

    def __init__(self) -> None:
        self._signal: _Signal | None = None
        self._lock = threading.Lock()  # guards the descriptor: nobody may write to a closed one, whose number is reused
        self._pending = False
        self._sleeping = False
        self._raised = False

    def open(self) -> int:
        """Make the descriptor that turns readable when a sleep must end. Before that, nobody may sleep."""
        self._signal = _Signal()
        return self._signal.fileno()

    def wake(self) -> None:
        """End the sleep that is under way, or the next one. Does nothing once closed."""
        self._pending = True
        if not self._sleeping:
            return
        with self._lock:
            if self._sleeping and not self._raised and self._signal is not None:
                self._raised = True
                self._signal.raise_()

    def arm(self) -> bool:
        """Announce a sleep. False if a wake is pending: then don't sleep."""
        self._sleeping = True
        return not self._pending

    def disarm(self) -> None:
        """The sleep is over, and with it every wake up to now."""
        self._sleeping = False
        self._pending = False
        if self._raised:
            with self._lock:
                self._raised = False
                if self._signal is not None:
                    self._signal.lower()

    def close(self) -> None:
        """Release the descriptor. May be called twice."""
        with self._lock:
            if self._signal is not None:
                self._signal.close()
                self._signal = None
