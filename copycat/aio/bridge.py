"""From other threads to an event loop: many calls, one wake-up.

A loop that is woken once per item spends its time on being woken. So calls gather while the loop is busy, and the loop is
told only of the first: :class:`Bridge`. On it stand a :class:`Signal`, for tasks that wait until a channel is ready, and
:meth:`Bridge.wrap`, for those that wait for a future.

A call that comes when the loop is closed is dropped: nobody is left to be told.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from copycat.channels.waiting import Listener

T = TypeVar("T")

Ready = Callable[[Listener], bool]
"""A channel's question: is there anything to wait for? If so, it calls the listener once when that may have changed."""


class Bridge:
    """Belongs to the event loop it is made on; :meth:`call` may be called from any thread."""

    __slots__ = ("_calls", "_told", "loop")

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._calls: deque[Callable[[], object]] = deque()
        self._told = False

    def call(self, function: Callable[[], object]) -> None:
        """Have the loop call ``function``, which must not raise. Calls keep their order."""
        # The order matters: whoever finds the loop told has appended before the loop takes what is there.
        self._calls.append(function)
        if not self._told:
            self._told = True
            try:
                self.loop.call_soon_threadsafe(self._run)
            except RuntimeError:
                self._calls.clear()

    def _run(self) -> None:
        self._told = False
        calls = self._calls
        for _ in range(len(calls)):
            calls.popleft()()

    def wrap(self, future: Future[T]) -> asyncio.Future[T]:
        """The same outcome, to be awaited here. Cancelling it leaves ``future`` alone."""
        wrapped: asyncio.Future[T] = self.loop.create_future()
        future.add_done_callback(lambda done: self.call(lambda: _copy(done, wrapped)))
        return wrapped

    async def in_thread(self, function: Callable[[], T], name: str, discard: Callable[[T], object] | None = None) -> T:
        """Call what blocks, on a thread of its own, called ``name``.

        When the waiting task is cancelled the call goes on to its end, and ``discard`` gets what comes of it.
        """
        outcome: Future[T] = Future()
        abandoned = threading.Event()
        delivered = threading.Event()

        def run() -> None:
            try:
                result = function()
            except BaseException as error:
                outcome.set_exception(error)
                return
            outcome.set_result(result)
            if discard is not None:
                delivered.wait()
                if abandoned.is_set():
                    discard(result)

        thread = threading.Thread(target=run, name=name, daemon=True)
        thread.start()
        try:
            result = await self.wrap(outcome)
        except BaseException:
            abandoned.set()
            raise
        finally:
            delivered.set()
            if outcome.done() and not abandoned.is_set():
                thread.join()
        return result


def _copy(done: Future[T], wrapped: asyncio.Future[T]) -> None:
    if wrapped.done():
        return
    if done.cancelled():
        wrapped.cancel()
        return
    error = done.exception()
    if error is not None:
        wrapped.set_exception(error)
    else:
        wrapped.set_result(done.result())


class Signal:
    """Wakes the tasks that wait until something is ready. :meth:`notify` may be called from any thread."""

    __slots__ = ("_bridge", "_waiters")

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge
        self._waiters: set[asyncio.Future[bool]] = set()

    def notify(self) -> None:
        """Have the tasks look again."""
        self._bridge.call(self._release)

    def _release(self) -> None:
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(True)

    async def until(self, ready: Ready, deadline: float | None = None) -> bool:
        """Return when ``ready`` says so, or False when the loop's clock has come to ``deadline`` first."""
        while not ready(self.notify):
            if not await self._changed(deadline):
                return False
        return True

    async def _changed(self, deadline: float | None) -> bool:
        loop = self._bridge.loop
        waiter: asyncio.Future[bool] = loop.create_future()
        timer = loop.call_at(deadline, _expire, waiter) if deadline is not None else None
        self._waiters.add(waiter)
        try:
            return await waiter
        finally:
            self._waiters.discard(waiter)
            if timer is not None:
                timer.cancel()


def _expire(waiter: asyncio.Future[bool]) -> None:
    if not waiter.done():
        waiter.set_result(False)
