"""What changed, for those who want to be told: events, and the bounded queue in which they wait."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from copycat.aio.bridge import Bridge, Signal
from copycat.channels.waiting import Listener, Waiting, deadline_after
from copycat.errors import Closed, Timeout


@dataclass(frozen=True, slots=True)
class Change:
    """An operation was applied, whoever called it. ``own``: this copy did. Arguments and result are not to be changed."""

    operation: str
    arguments: tuple[Any, ...]
    result: Any
    own: bool


@dataclass(frozen=True, slots=True)
class Reloaded:
    """The copy was replaced by a snapshot: anything may have changed."""


@dataclass(frozen=True, slots=True)
class Missed:
    """``count`` events came while the queue was full."""

    count: int


Event = Change | Reloaded | Missed


class Watch:
    """Events in the order of the log, from the moment of its making. For any thread, and for any event loop.

    Iterate over it with ``for`` or ``async for``: until it, or the structure, is closed.
    """

    def __init__(self, events_max: int, forget: Callable[[Watch], object]) -> None:
        self._events: deque[Event] = deque()
        self._events_max = events_max
        self._forget = forget
        self._missed = 0
        self._closed = False
        self._state = Waiting()

    def receive(self, timeout: float | None = None) -> Event:
        """The next event. Raises :class:`~copycat.errors.Timeout`, and :class:`~copycat.errors.Closed` after the end."""
        deadline = deadline_after(timeout)
        with self._state.condition:
            while not self._due():
                if not self._state.wait(deadline):
                    raise Timeout("nothing changed in time")
            if self._events:
                return self._events.popleft()
            if self._missed:
                missed, self._missed = self._missed, 0
                return Missed(missed)
        raise Closed("the watch, or the structure, is closed")

    def ready(self, listener: Listener) -> bool:
        """Whether :meth:`receive` would return or raise at once. If not, the next change calls ``listener``, once."""
        with self._state.condition:
            if self._due():
                return True
            self._state.listen(listener)
            return False

    def _due(self) -> bool:
        return bool(self._events or self._missed or self._closed)

    def __iter__(self) -> Iterator[Event]:
        """Events until the end."""
        while True:
            try:
                event = self.receive()
            except Closed:
                return
            yield event

    async def __aiter__(self) -> AsyncIterator[Event]:
        """The same for tasks."""
        signal = Signal(Bridge())
        while True:
            await signal.until(self.ready)
            try:
                event = self.receive(0.0)
            except Timeout:
                continue
            except Closed:
                return
            yield event

    def push(self, events: list[Event]) -> None:
        """Queue events, or count those for which there is no room."""
        with self._state.condition:
            room = 0 if self._missed else max(0, self._events_max - len(self._events))
            self._events.extend(events[:room])
            self._missed += len(events[room:])
            self._state.notify()

    def close(self) -> None:
        """Take no more; what is queued can still be received."""
        with self._state.condition:
            self._closed = True
            self._state.notify()
        self._forget(self)
