"""Turns host names into numeric addresses without ever making the caller wait.

A numeric address is its own answer. A name is looked up by a thread that lives only while there are names to look up;
until it has an answer, :meth:`Resolver.lookup` says None. Answers are kept for a minute and then refreshed in the
background while the old one still serves, so a change in the name service is followed and an outage of it does no harm.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

ANSWER_S = 60.0
FAILURE_S = 5.0
NAMES_MAX = 4096  # more names than nodes that anyone runs: a bound, not a tuning knob


@dataclass(slots=True)
class _Answer:
    numeric: str | None
    fresh_until: float


class Resolver:
    """Names to numeric addresses of one family. :meth:`lookup` and :meth:`close` are for one thread.

    ``on_answer`` is called in the look-up thread, after each change of an answer.
    """

    def __init__(self, family: socket.AddressFamily, on_answer: Callable[[], None]) -> None:
        self._family = family
        self._on_answer = on_answer
        self._lock = threading.Lock()
        self._answers: dict[str, _Answer] = {}
        self._wanted: dict[str, None] = {}  # an ordered set
        self._running = False
        self._closed = False

    def lookup(self, host: str) -> str | None:
        """The numeric address of ``host``, or None while it is not known."""
        answer = self._answers.get(host)
        if answer is not None and time.monotonic() < answer.fresh_until:
            return answer.numeric
        numeric = self._literal(host)
        if numeric is not None:
            self._remember(host, _Answer(numeric, float("inf")))
            return numeric
        self._want(host)
        return answer.numeric if answer is not None else None

    def close(self) -> None:
        """No look-up is begun from now on, and no answer announced. A look-up under way ends by itself."""
        with self._lock:
            self._closed = True
            self._wanted.clear()

    def _literal(self, host: str) -> str | None:
        try:
            socket.inet_pton(self._family, host)
            return host
        except (OSError, ValueError):
            pass
        if self._family == socket.AF_INET6:
            try:
                socket.inet_pton(socket.AF_INET, host)
                return f"::ffff:{host}"
            except (OSError, ValueError):
                pass
        return None

    def _remember(self, host: str, answer: _Answer) -> None:
        with self._lock:
            if host not in self._answers and len(self._answers) >= NAMES_MAX:
                del self._answers[next(iter(self._answers))]
            self._answers[host] = answer

    def _want(self, host: str) -> None:
        with self._lock:
            if self._closed or len(self._wanted) >= NAMES_MAX:
                return
            self._wanted[host] = None
            if self._running:
                return
            self._running = True
        try:
            threading.Thread(target=self._run, name="copycat-resolver", daemon=True).start()
        except RuntimeError:  # no more threads to be had: the next lookup tries again
            with self._lock:
                self._running = False

    def _run(self) -> None:
        while True:
            with self._lock:
                host = next(iter(self._wanted), None)
                if host is None:
                    self._running = False
                    return
            numeric = resolve(host, self._family)
            lifetime_s = ANSWER_S if numeric is not None else FAILURE_S
            before = self._answers.get(host)
            if numeric is None and before is not None:
                numeric = before.numeric
            self._remember(host, _Answer(numeric, time.monotonic() + lifetime_s))
            with self._lock:
                self._wanted.pop(host, None)
                announce = not self._closed and (before is None or before.numeric != numeric)
            if announce:
                self._on_answer()


def resolve(host: str, family: int) -> str | None:
    """The first address of ``host`` in ``family``, or None. Waits for the name service."""
    flags = socket.AI_V4MAPPED if family == socket.AF_INET6 else 0
    try:
        found = socket.getaddrinfo(host, None, family, socket.SOCK_STREAM, 0, flags)
    except (OSError, UnicodeError, ValueError):
        return None
    return str(found[0][4][0]) if found else None
