"""Keeps one copy of a replicated object current, on a thread of its own.

Rules:

* The copy changes here only, under its lock, by one operation after another as the log hands them out.
* What this program does not understand, or what fails, stops the copy with a typed error. It never skips and goes on: then it
  would differ from the others. A stopped copy receives no more, and so makes no snapshots.
* Callers are told after the copy has changed, and outside its lock.

It never sends anything, and never waits for what it has to apply itself.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, ClassVar

import copycat
from copycat.channels.waiting import Waiting, remaining
from copycat.errors import Closed, CopyCatError, OperationFailed, Refused, StructureStopped, UnknownOperation
from copycat.structures.operations import Operation
from copycat.structures.outstanding import Outstanding
from copycat.structures.packing import Packed, State, pack, pack_state, unpack_operation, unpack_state
from copycat.structures.results import ResultTable
from copycat.structures.watching import Change, Event, Reloaded, Watch

log = logging.getLogger(__name__)

BATCH_ITEMS_MAX = 256
WATCH_EVENTS_MAX = 10_000
LEAVE = ""
"""Name of the operation with which a client says that it waits for nothing any more."""


class Follower:
    """One copy, and the thread that applies operations to it. ``client`` names this copy in the operations it sends."""

    _operations: ClassVar[dict[tuple[str, int], Operation[Any, Any]]] = {}

    def __init__(self, client: bytes, outstanding: Outstanding) -> None:
        self._client = client
        self._outstanding = outstanding
        self._lock = threading.RLock()
        self._changed = Waiting()
        self._results = ResultTable()
        self._applied = 0
        self._applying = False
        self._thread: threading.Thread | None = None
        self._ended: CopyCatError | None = None
        self._watches: list[Watch] = []
        self._callbacks: list[Callable[[Event], object]] = []

    def __init_subclass__(cls, **named: Any) -> None:
        super().__init_subclass__(**named)
        found: dict[tuple[str, int], Operation[Any, Any]] = {}
        for base in reversed(cls.__mro__):
            for value in vars(base).values():
                if isinstance(value, Operation):
                    found[value.name, value.version] = value
        cls._operations = found

    # --- to be written by those who derive ---

    def snapshot(self) -> Any:
        """Everything the copy holds, as msgpack carries it. Called between two operations."""
        raise NotImplementedError

    def restore(self, state: Any) -> None:
        """Hold exactly what :meth:`snapshot` returned, on this or another copy, and nothing else."""
        raise NotImplementedError

    # --- being told ---

    def watch(self, events_max: int = WATCH_EVENTS_MAX) -> Watch:
        """Every change from now on, in a queue that holds at most ``events_max``. Close it when done."""
        watch = Watch(events_max, self._forget_watch)
        with self._lock:
            self._watches.append(watch)
        return watch

    def on_change(self, callback: Callable[[Event], object]) -> None:
        """Have ``callback`` called with every event, on the copy's own thread: it may read, but not wait for operations."""
        with self._lock:
            self._callbacks.append(callback)

    def _forget_watch(self, watch: Watch) -> None:
        with self._lock:
            if watch in self._watches:
                self._watches.remove(watch)

    # --- the copy's own thread ---

    def _follow(self, subscription: copycat.Subscription) -> None:
        name = f"copycat-{type(self).__name__.lower()}"
        self._thread = threading.Thread(target=self._serve, args=(subscription,), name=name, daemon=True)
        self._thread.start()

    def _applies_here(self) -> bool:
        return threading.current_thread() is self._thread and self._applying

    def _idle(self, now: float) -> float | None:
        """Called between batches; returns when to be called at the latest, on the monotonic clock. Must not wait."""
        return None

    def _serve(self, subscription: copycat.Subscription) -> None:
        try:
            while True:
                wake_at = self._idle(time.monotonic())
                items = subscription.commits.receive_many(BATCH_ITEMS_MAX, remaining(wake_at))
                if items:
                    self._take(subscription, items)
        except Closed as error:
            self._end(error)
        except CopyCatError as error:
            log.error("a copy of %s has stopped: %s", type(self).__name__, error)
            self._end(error)
            subscription.close()
        except Exception as error:
            log.exception("a copy of %s has stopped", type(self).__name__)
            stopped = StructureStopped(f"the copy failed: {error!r}")
            stopped.__cause__ = error
            self._end(stopped)
            subscription.close()

    def _take(self, subscription: copycat.Subscription, items: list[bytes | None]) -> None:
        """Apply what was handed out, then tell everybody."""
        state = unpack_state(subscription.snapshot_consumer()) if items == [None] else None
        events: list[Event] = []
        applied: list[tuple[int, bytes | None]] = []
        with self._lock:
            if state is not None:
                self._results = ResultTable.unpack(state.results)
                self.restore(state.content)
                events.append(Reloaded())
            else:
                for data in items:
                    assert data is not None
                    self._apply(unpack_operation(data), events, applied)
            self._applied = subscription.commits.position
        if state is not None:
            self._outstanding.skipped(self._client, self._results)
        for number, result in applied:
            self._outstanding.finish(number, result)
        with self._changed.condition:
            self._changed.notify()
        if events:
            self._tell(events)

    def _apply(self, packed: Packed, events: list[Event], applied: list[tuple[int, bytes | None]]) -> None:
        if packed.name == LEAVE:
            self._results.leave(packed.client)
            return
        operation = self._operations.get((packed.name, packed.version))
        if operation is None:
            raise UnknownOperation(
                f"the log holds operation {packed.name!r} in version {packed.version}, which {type(self).__name__} of this "
                "program does not have: update the program"
            )
        self._applying = True
        try:
            result = operation.body(self, *packed.arguments)
            outcome = None if result is None else pack([False, result])
        except Refused as refused:
            result = None
            outcome = pack([True, str(refused)])
        except Exception as error:
            raise OperationFailed(f"operation {packed.name} failed: {error!r}; this copy has stopped") from error
        finally:
            self._applying = False
        self._results.record(packed.client, packed.number, packed.acknowledged, outcome)
        own = packed.client == self._client
        if own:
            applied.append((packed.number, outcome))
        if self._watches or self._callbacks:
            events.append(Change(packed.name, tuple(packed.arguments), result, own))

    def _tell(self, events: list[Event]) -> None:
        with self._lock:
            watches, callbacks = list(self._watches), list(self._callbacks)
        for watch in watches:
            watch.push(events)
        for callback in callbacks:
            for event in events:
                try:
                    callback(event)
                except Exception:
                    log.exception("a callback failed; it is called again with the next event")

    def _provide(self) -> bytes:
        with self._lock:
            return pack_state(State(self._results.pack(), self.snapshot()))

    def _end(self, error: CopyCatError) -> None:
        """No operation will be applied any more: tell everybody."""
        with self._lock:
            self._ended = self._ended or error
            watches = list(self._watches)
        if not isinstance(error, Closed) or threading.current_thread() is self._thread:
            self._outstanding.end(self._ended)
        with self._changed.condition:
            self._changed.notify()
        for watch in watches:
            watch.close()
