"""The commit channel: the group's sequence on its way to one consumer."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from threading import get_ident
from typing import Protocol

from copycat.channels.waiting import Listener, Waiting, deadline_after
from copycat.errors import Closed, CopyCatError, Timeout, UsageError

SnapshotProvider = Callable[[], "bytes | Iterable[bytes]"]


class SnapshotTask(Protocol):
    """A snapshot that is due at one place of the sequence; whoever comes there first makes it."""

    def run(self, provider: SnapshotProvider, deadline: float | None) -> bool:
        """Call the provider and store what it returns; False if that isn't done at the deadline: go on with another call.

        The deadline is a monotonic time, None: never. Errors of the provider are reported, never raised.
        """


@dataclass(slots=True)
class Delivery:
    """Items of one entry. ``position`` is that of the last one; ``task`` is due after it."""

    items: list[bytes]
    position: int
    size: int
    task: SnapshotTask | None = None


@dataclass(slots=True)
class Reload:
    """The consumer must load a snapshot that stands for everything up to ``position``."""

    position: int
    load: Callable[[], bytes]
    release: Callable[[], object]


class CommitChannel:
    """Hands out the group's sequence: every committed byte string, on every subscriber, in one order, exactly once."""

    def __init__(self, provider: SnapshotProvider, wake: Callable[[], None], bytes_max: int) -> None:
        self._provider = provider
        self._wake = wake
        self._bytes_max = bytes_max
        self._queue: deque[Delivery | Reload] = deque()
        self._state = Waiting()
        self._bytes = 0
        self._starved = False
        self._items: list[bytes] = []
        self._offset = 0
        self._end_position = 0
        self._task: SnapshotTask | None = None
        self._busy = False
        self._provider_thread = 0
        self._reload: Reload | None = None
        self._closed: CopyCatError | None = None

    @property
    def position(self) -> int:
        """Position of the last item that was handed out; of the snapshot, if that was announced last."""
        return self._end_position - (len(self._items) - self._offset)

    def receive(self, timeout: float | None = None) -> bytes | None:
        """The next committed byte string, waiting up to ``timeout`` seconds for it.

        ``None`` means: load the snapshot now, from the snapshot consumer. Raises :class:`~copycat.errors.Timeout`, and
        :class:`~copycat.errors.Closed` after the channel's end.
        """
        with self._state.condition:
            if self._offset >= len(self._items) and not self._advance(deadline_after(timeout)):
                return None
            item = self._items[self._offset]
            self._offset += 1
            self._state.notify()
            return item

    def receive_many(self, max_items: int, timeout: float | None = None) -> list[bytes | None]:
        """Up to ``max_items`` of the same, as a list; empty only when timed out. A ``None`` comes alone.

        Raises :class:`~copycat.errors.Closed` after the channel's end.
        """
        if not isinstance(max_items, int) or max_items < 1:
            raise UsageError(f"max_items must be a number of items, at least 1, not {max_items!r}")
        result: list[bytes | None] = []
        with self._state.condition:
            try:
                while len(result) < max_items:
                    if self._offset >= len(self._items):
                        # Once there is something to return, only go on where nothing has to be waited for or run.
                        if result and not self._goes_on():
                            break
                        if not self._advance(deadline_after(timeout)):
                            return [None]
                    stop = min(len(self._items), self._offset + max_items - len(result))
                    result += self._items[self._offset : stop]
                    self._offset = stop
            except Timeout:
                return result
            self._state.notify()
        return result

    def ready(self, listener: Listener) -> bool:
        """Whether :meth:`receive` has anything to do but wait. If not, the next change calls ``listener``, once."""
        if self._offset < len(self._items):
            return True
        with self._state.condition:
            if not self._busy and (self._queue or self._task is not None or self._closed is not None):
                return True
            self._state.listen(listener)
            return False

    def __iter__(self) -> Iterator[bytes | None]:
        """Items until the channel is closed; ``None`` as with :meth:`receive`."""
        while True:
            try:
                item = self.receive()
            except Closed:
                return
            yield item

    def snapshot(self) -> bytes:
        """The bytes of the snapshot that ``None`` announced; to be called before the next ``receive``.

        Raises :class:`~copycat.errors.UsageError` if none is announced, :class:`~copycat.errors.Closed`, and storage errors
        if it can't be read.
        """
        with self._state.condition:
            announced = self._reload
            closed = self._closed
        if closed is not None:
            raise Closed(str(closed)) from closed
        if announced is None:
            raise UsageError("no snapshot is announced: call this when the commit channel has handed out None, at once")
        try:
            return announced.load()
        except CopyCatError as error:
            if self._closed is None:
                raise
            raise Closed(str(self._closed)) from error

    # --- the consumer's side, inside ---

    def _goes_on(self) -> bool:
        """Whether items can follow those in hand at once: the caller has not seen them yet, so nothing may be run."""
        following = self._queue[0] if self._task is None and not self._busy and self._queue else None
        return isinstance(following, Delivery) and bool(following.items)

    def _advance(self, deadline: float | None) -> bool:
        """Make the next delivery current; False if a snapshot was announced instead. The lock is held."""
        while True:
            if self._busy:
                if self._provider_thread == get_ident():
                    raise UsageError("a snapshot provider can't receive: it returns the state as it is")
                self._wait(deadline)
            elif self._task is not None and self._closed is None:
                self._run_task(deadline)
            elif self._queue:
                following = self._queue.popleft()
                if isinstance(following, Reload):
                    self._announce(following)
                    return False
                self._items = following.items
                self._offset = 0
                self._end_position = following.position
                self._task = following.task
                self._took(following.size)
                if self._items:
                    self._forget_announced()
                    return True
            elif self._closed is not None:
                raise Closed(str(self._closed)) from self._closed
            else:
                self._wait(deadline)
            if self._offset < len(self._items):
                return True

    def _wait(self, deadline: float | None) -> None:
        if not self._state.wait(deadline):
            raise Timeout("nothing was committed in time")

    def _run_task(self, deadline: float | None) -> None:
        """Run the provider on this thread, between two items; other receivers wait, the engine doesn't."""
        task = self._task
        assert task is not None
        self._busy = True
        self._provider_thread = get_ident()
        self._state.condition.release()
        done = True
        try:
            done = task.run(self._provider, deadline)
        finally:
            self._state.condition.acquire()
            if done:
                self._task = None
            self._busy = False
            self._provider_thread = 0
            self._state.notify()
        if not done:
            raise Timeout("a snapshot is being taken, and the disk has not kept up with it in time")

    def _forget_announced(self) -> None:
        """Whoever receives on has loaded it."""
        if self._reload is not None:
            self._reload.release()
            self._reload = None

    def _announce(self, reload: Reload) -> None:
        self._forget_announced()
        self._reload = reload
        self._items = []
        self._offset = 0
        self._end_position = reload.position
        self._state.notify()

    def _took(self, size: int) -> None:
        self._bytes -= size
        if self._starved and self._bytes <= self._bytes_max // 2:
            self._starved = False
            self._wake()

    def wait_for(self, position: int, timeout: float | None) -> None:
        """Return when everything up to ``position`` has been handed out. Raises ``Timeout`` and ``Closed``."""
        deadline = deadline_after(timeout)
        with self._state.condition:
            while not self._reached(position):
                self._wait(deadline)

    def reached(self, position: int, listener: Listener) -> bool:
        """Whether :meth:`wait_for` would not wait. If it would, the next change calls ``listener``, once."""
        with self._state.condition:
            if self._reached(position):
                return True
            self._state.listen(listener)
            return False

    def _reached(self, position: int) -> bool:
        if self.position >= position:
            return True
        if self._closed is not None and not self._queue:
            raise Closed(str(self._closed)) from self._closed
        return False

    # --- the engine's side ---

    def has_room(self) -> bool:
        """Whether more may be pushed; if not, the engine is woken when the consumer has caught up half-way."""
        if self._bytes < self._bytes_max:
            return True
        with self._state.condition:
            self._starved = self._bytes >= self._bytes_max
            return not self._starved

    @property
    def bytes_waiting(self) -> int:
        """Bytes that the consumer has not received."""
        return self._bytes

    def push(self, delivery: Delivery | Reload) -> None:
        """Queue what comes next in the sequence; dropped after the end."""
        with self._state.condition:
            if self._closed is not None:
                return
            if isinstance(delivery, Delivery):
                self._bytes += delivery.size
            self._queue.append(delivery)
            self._state.notify()

    def end(self, reason: CopyCatError) -> None:
        """No more will come; what is queued can still be received, up to a snapshot that could not be loaded any more."""
        with self._state.condition:
            if self._closed is None:
                self._closed = reason
                kept: deque[Delivery | Reload] = deque()
                for item in self._queue:
                    if isinstance(item, Reload):
                        break
                    kept.append(item)
                for item in self._queue:
                    if isinstance(item, Reload):
                        item.release()
                self._queue = kept
                self._forget_announced()
            self._state.notify()
