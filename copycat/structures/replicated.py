"""The base of all structures: one copy of a replicated object. This is what its callers see of it.

Rules:

* The copy changes in one place only, where the log hands out the next operation; on every copy the same way, in one order.
* An operation returns after it was applied to this copy, so every caller reads its own writes.
* Its result finds its caller by the client's id and the operation's number, which travel with it; when a snapshot passes over
  it, by the table of results inside the snapshot (:mod:`copycat.structures.results`).
* Values go in and out as copies. Nobody but an operation can change what the structure holds.

How the copy is kept current is in :mod:`copycat.structures.follower`. All of it stands on the public interface alone.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TypeVar

from ulid import ULID

import copycat
import copycat.aio
from copycat.aio.bridge import Bridge, Signal
from copycat.channels.waiting import Listener, remaining
from copycat.errors import (
    ApplyTimeout,
    Closed,
    CopyCatError,
    Full,
    NotOpen,
    Timeout,
    UsageError,
)
from copycat.structures.follower import LEAVE, Follower
from copycat.structures.operations import Operation
from copycat.structures.outstanding import Outstanding
from copycat.structures.packing import Packed, pack_operation
from copycat.structures.verbs import Begin, Until, Verb

log = logging.getLogger(__name__)

T = TypeVar("T")
Self = TypeVar("Self", bound="Replicated")

DEFAULT_TIMEOUT_S = 10.0
CLIENT_BYTES = 10
"""A copy's id: random, since two that were alike would take each other's results, and a seed can be used twice."""


class WayBack:
    """To the event loop on which tasks use the structure. ``gate``: one of them waits for room, the others for their turn."""

    __slots__ = ("bridge", "gate", "signal")

    def __init__(self) -> None:
        self.bridge = Bridge()
        self.signal = Signal(self.bridge)
        self.gate = asyncio.Lock()


class Replicated(Follower):
    """Derive from this, write operations and reads, and the two methods that make a snapshot and load one.

    ``cat`` is a :class:`copycat.CopyCat` or a started :class:`copycat.aio.CopyCat`. Nothing is subscribed to before the
    structure is opened: by ``with``, ``async with``, :meth:`open` or :meth:`aopen`. Any thread and any event loop may use it
    then. ``timeout`` (seconds) bounds every call.

    Calls raise :class:`~copycat.errors.NotOpen`, :class:`~copycat.errors.InvalidValue`, :class:`~copycat.errors.Refused`,
    :class:`~copycat.errors.Full`, :class:`~copycat.errors.ApplyTimeout` and other kinds of
    :class:`~copycat.errors.OutcomeUnknown`, :class:`~copycat.errors.StructureStopped`, and :class:`~copycat.errors.Closed`.
    """

    def __init__(
        self,
        cat: copycat.CopyCat | copycat.aio.CopyCat,
        id: copycat.DataStructureId | ULID | str | bytes,  # noqa: A002 (as everywhere)
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        node = cat.threaded if isinstance(cat, copycat.aio.CopyCat) else cat
        config = node.config
        super().__init__(
            secrets.token_bytes(CLIENT_BYTES),
            Outstanding(config.in_flight_bytes_max, config.in_flight_proposals_max),
        )
        self._cat = node
        self.id = copycat.DataStructureId.parse(id)
        self.timeout = timeout
        self._subscription: copycat.Subscription | None = None
        self._way_back: WayBack | None = None

    # --- life ---

    def open(self: Self, timeout: float | None = None) -> Self:
        """Subscribe and begin to follow. Raises what ``subscribe_to_data_structure`` raises. Returns this object."""
        if self._thread is not None or self._ended is not None:
            raise UsageError("this structure has been opened before: make another")
        subscription = self._cat.subscribe_to_data_structure(self.id, self._provide, timeout or self.timeout)
        self._subscription = subscription
        self._follow(subscription)
        return self

    async def aopen(self: Self, timeout: float | None = None) -> Self:
        """:meth:`open`, for tasks."""
        return await Bridge().in_thread(lambda: self.open(timeout), "copycat-structure-open", lambda _: self.close())

    def close(self) -> None:
        """Detach, once what was begun is on its way; the other copies go on. Idempotent, bounded in time."""
        self._end(Closed("the structure is closed"))
        subscription = self._subscription
        if subscription is not None:
            self._leave(subscription)
            subscription.close()
        if self._thread is not None and threading.current_thread() is not self._thread:
            self._thread.join(self.timeout)

    async def aclose(self) -> None:
        """:meth:`close`, for tasks."""
        await Bridge().in_thread(self.close, "copycat-structure-close")

    def _leave(self, subscription: copycat.Subscription) -> None:
        """Let the others forget this client's results; if they are not told, they forget them in time."""
        sent = self._outstanding.sent
        if sent:
            try:
                subscription.propose.send(pack_operation(Packed(self._client, sent, sent, LEAVE, 1, [])), 0.0)
            except CopyCatError as error:
                log.debug("the other copies were not told that this one leaves: %s", error)

    def __enter__(self: Self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self: Self) -> Self:
        return await self.aopen()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}, {self._describe()}>"

    def _describe(self) -> str:
        if self._ended is not None:
            return str(self._ended)
        return "not open" if self._thread is None else f"at position {self._applied}"

    # --- reading ---

    @property
    def position(self) -> int:
        """How much of the sequence this copy has applied."""
        return self._applied

    def barrier(self, timeout: float | None = None) -> None:
        """Return when this copy has applied everything that was committed anywhere before the call.

        A read after it is linearizable. Raises :class:`~copycat.errors.Timeout`, :class:`~copycat.errors.Closed`.
        """
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        asked = self._live().committed()
        try:
            position = asked.result(remaining(deadline))
        except FutureTimeout:
            if asked.done():
                raise
            raise Timeout("the leader did not say in time how far the log is committed") from None
        if not self._wait_until(lambda: self._applied >= position, deadline):
            raise Timeout(f"this copy has applied {self._applied} of {position}")

    async def abarrier(self, timeout: float | None = None) -> None:
        """:meth:`barrier`, for tasks."""
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        wrapped = self._here().bridge.wrap(self._live().committed())
        done, _pending = await asyncio.wait((wrapped,), timeout=remaining(deadline))
        if not done:
            wrapped.cancel()
            raise Timeout("the leader did not say in time how far the log is committed")
        position = wrapped.result()
        if not await self._await_until(lambda: self._applied >= position, deadline):
            raise Timeout(f"this copy has applied {self._applied} of {position}")

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Between two operations."""
        self._live()
        with self._lock:
            yield

    def _live(self) -> copycat.Subscription:
        if self._ended is not None:
            raise self._ended
        if self._subscription is None:
            raise NotOpen("open the structure first: use it in a 'with' or 'async with' block, or call its open()")
        return self._subscription

    # --- operations, from any thread ---

    def _begin(self, operation: Operation[Any, Any], arguments: list[Any]) -> Future[Any] | None:
        """Send; None if too much is outstanding."""
        propose = self._live().propose

        def packed(number: int, acknowledged: int) -> bytes:
            return pack_operation(
                Packed(self._client, number, acknowledged, operation.name, operation.version, arguments)
            )

        return self._outstanding.begin(packed, lambda data: propose.submit(data, 0.0))

    def _submit(self, operation: Operation[Any, Any], arguments: list[Any]) -> Future[Any]:
        if threading.current_thread() is self._thread:
            raise UsageError("the copy's own thread can't wait for operations: call them from another")
        while True:
            future = self._begin(operation, arguments)
            if future is not None:
                return future
            self._outstanding.wait(self.timeout)

    def _call(self, operation: Operation[Any, Any], arguments: list[Any]) -> Any:
        future = self._submit(operation, arguments)
        return self._result(future, operation)

    def _result(self, future: Future[Any], operation: Operation[Any, Any]) -> Any:
        try:
            return future.result(self.timeout)
        except FutureTimeout:
            if future.done():
                return future.result()
            raise self._late(operation) from None

    def _late(self, operation: Operation[Any, Any]) -> ApplyTimeout:
        return ApplyTimeout(f"{operation.name} was not applied here within {self.timeout} s; it may be yet")

    async def _acall(self, operation: Operation[Any, Any], arguments: list[Any]) -> Any:
        return await self._aresult(await self._asubmit(operation, arguments), operation)

    async def _asubmit(self, operation: Operation[Any, Any], arguments: list[Any]) -> Future[Any]:
        here = self._here()
        deadline = here.bridge.loop.time() + self.timeout
        async with here.gate:
            while True:
                future = self._begin(operation, arguments)
                if future is not None:
                    return future
                if not await here.signal.until(self._outstanding.ready, deadline):
                    raise Full("too many operations are on their way and not applied")

    async def _aresult(self, future: Future[Any], operation: Operation[Any, Any]) -> Any:
        wrapped = self._here().bridge.wrap(future)
        done, _pending = await asyncio.wait((wrapped,), timeout=self.timeout)
        if not done:
            wrapped.cancel()
            raise self._late(operation)
        return wrapped.result()

    def _here(self) -> WayBack:
        """The way back to the running event loop."""
        here = self._way_back
        if here is None or here.bridge.loop is not asyncio.get_running_loop():
            here = self._way_back = WayBack()
        return here

    # --- verbs of more than one step ---

    def _run(self, verb: Verb[T]) -> T:
        """Drive a verb on this thread."""
        return self._drive(verb, self._wait_for_step)

    def _drive(self, verb: Verb[T], wait: Callable[[Begin | Until], Any]) -> T:
        try:
            step = next(verb)
            while True:
                try:
                    outcome = wait(step)
                except BaseException as error:
                    step = verb.throw(error)
                else:
                    step = verb.send(outcome)
        except StopIteration as end:
            result: T = end.value
            return result

    def _wait_for_step(self, step: Begin | Until) -> Any:
        if isinstance(step, Until):
            return self._wait_until(step.holds, step.deadline)
        step.future = self._submit(step.operation, step.arguments)
        return self._result(step.future, step.operation)

    async def _arun(self, verb: Verb[T]) -> T:
        """Drive a verb in this task."""
        try:
            step = next(verb)
            while True:
                try:
                    outcome = await self._await_step(step)
                except BaseException as error:
                    step = verb.throw(error)
                else:
                    step = verb.send(outcome)
        except StopIteration as end:
            result: T = end.value
            return result

    async def _await_step(self, step: Begin | Until) -> Any:
        if isinstance(step, Until):
            return await self._await_until(step.holds, step.deadline)
        step.future = await self._asubmit(step.operation, step.arguments)
        return await self._aresult(step.future, step.operation)

    def _wait_until(self, holds: Callable[[], bool], deadline: float | None) -> bool:
        with self._changed.condition:
            while not holds():
                self._live()
                if not self._changed.wait(deadline):
                    return False
        return True

    async def _await_until(self, holds: Callable[[], bool], deadline: float | None) -> bool:
        here = self._here()

        def ready(listener: Listener) -> bool:
            with self._changed.condition:
                if holds():
                    return True
                self._live()
                self._changed.listen(listener)
                return False

        left = remaining(deadline)
        return await here.signal.until(ready, None if left is None else here.bridge.loop.time() + left)
