"""Keeps calls out of a database that is closed or being closed: in C++ that is a crash, not an exception."""

from __future__ import annotations

import threading
import time

from copycat.errors import StorageFailed

CLOSE_WAIT_S = 10.0
"""How long the closing of a storage waits for calls of other threads to come back."""


class Gate:
    """Lets calls in while the database is open, and lets it close only when all of them are out."""

    __slots__ = ("_condition", "_inside", "_is_open")

    def __init__(self) -> None:
        self._condition = threading.Condition(threading.Lock())
        self._inside = 0
        self._is_open = False

    def open(self) -> None:
        with self._condition:
            self._is_open = True

    def enter(self) -> None:
        """Raises :class:`~copycat.errors.StorageFailed` when shut."""
        if not self.enter_if_open():
            raise StorageFailed("the storage is closed: open it before reading or writing")

    def enter_if_open(self) -> bool:
        with self._condition:
            if self._is_open:
                self._inside += 1
            return self._is_open

    def leave(self) -> None:
        with self._condition:
            self._inside -= 1
            if not self._is_open:
                self._condition.notify_all()

    def shut(self, wait_s: float) -> bool:
        """Let nobody in any more; True once everybody is out, False if that took longer than ``wait_s``."""
        deadline = time.monotonic() + wait_s
        with self._condition:
            self._is_open = False
            while self._inside:
                if not self._condition.wait(deadline - time.monotonic()) and self._inside:
                    return False
            return True
