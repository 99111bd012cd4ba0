"""A queue that many processes fill and empty."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from typing import Any

from copycat.errors import CopyCatError, Full, Timeout
from copycat.structures.operations import operation, query
from copycat.structures.packing import fresh, refuse_unless
from copycat.structures.replicated import Replicated
from copycat.structures.verbs import Begin, Until, Verb

log = logging.getLogger(__name__)

PAY_AGAIN_S = 0.1


class Queue(Replicated):
    """First in, first out; each item is taken by exactly one of those who ask.

    Taken is gone: who dies with an item in hand takes it along. Who must not lose work keeps what is being worked on in a
    :class:`Dict` as well. ``maxsize`` (0: none) is this copy's bound on ``put``.
    """

    _items: deque[Any]

    def __init__(self, *args: Any, maxsize: int = 0, **named: Any) -> None:
        super().__init__(*args, **named)
        self.maxsize = maxsize
        self._items = deque()
        self._owed: deque[Any] = deque()

    def snapshot(self) -> Any:
        """All items, the next first."""
        return list(self._items)

    def restore(self, state: Any) -> None:
        """Hold these items."""
        self._items = deque(state)

    @operation
    def append(self, items: list[Any], size_max: int) -> bool:
        """Add all items at the end in one step, unless there would be more than ``size_max`` (0: no bound) then."""
        refuse_unless(isinstance(items, list) and isinstance(size_max, int), "takes a list, and a number")
        if size_max and len(self._items) + len(items) > size_max:
            return False
        self._items.extend(items)
        return True

    @operation
    def take(self) -> list[Any]:
        """Remove the first: ``[item]``, or ``[]`` if there is none."""
        return [self._items.popleft()] if self._items else []

    @operation
    def give_back(self, item: Any) -> None:
        """Put an item before all others."""
        self._items.appendleft(item)

    @operation
    def empty(self) -> int:
        """Remove everything: how many there were."""
        count = len(self._items)
        self._items.clear()
        return count

    def put(self, item: Any, timeout: float | None = None) -> None:
        """Add an item at the end, waiting up to ``timeout`` seconds for room. Raises :class:`~copycat.errors.Full`."""
        self._run(self._putting([item], timeout))

    async def aput(self, item: Any, timeout: float | None = None) -> None:
        """:meth:`put`, for tasks."""
        await self._arun(self._putting([item], timeout))

    def put_many(self, items: Iterable[Any], timeout: float | None = None) -> None:
        """Add many, in one step."""
        self._run(self._putting(list(items), timeout))

    def get(self, timeout: float | None = None) -> Any:
        """Take the first item, waiting up to ``timeout`` seconds for one. Raises :class:`~copycat.errors.Timeout`."""
        return self._run(self._getting(timeout))

    async def aget(self, timeout: float | None = None) -> Any:
        """:meth:`get`, for tasks. What is taken for a task that was cancelled meanwhile is given back."""
        return await self._arun(self._getting(timeout))

    def _putting(self, items: list[Any], timeout: float | None) -> Verb[None]:
        deadline = None if timeout is None else time.monotonic() + timeout
        while not (yield Begin(Queue.append, items, self.maxsize)):
            room = yield Until(lambda: len(self._items) + len(items) <= self.maxsize, deadline)
            if not room or len(items) > self.maxsize:
                raise Full(f"the queue had no room for {len(items)} items in time; its maxsize is {self.maxsize}")

    def _getting(self, timeout: float | None) -> Verb[Any]:
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            taking = Begin(Queue.take)
            try:
                taken = yield taking
            except BaseException:
                if taking.future is not None:
                    taking.future.add_done_callback(self._return)
                raise
            if taken:
                return taken[0]
            if not (yield Until(lambda: bool(self._items), deadline)):
                raise Timeout("nothing was put into the queue in time")

    def _return(self, taking: Future[Any]) -> None:
        """What was taken for somebody who waits no more."""
        if taking.exception() is None:
            self._owed.extend(taking.result())
            self._pay()

    def _pay(self) -> None:
        while self._owed:
            item = self._owed.pop()
            try:
                sent = self._begin(Queue.give_back, [item])
            except Full:
                sent = None
            except CopyCatError as error:
                log.warning("an item that nobody waits for any more could not be given back: %s", error)
                continue
            if sent is None:
                self._owed.append(item)
                return

    def _idle(self, now: float) -> float | None:
        if not self._owed:
            return None
        self._pay()
        return now + PAY_AGAIN_S

    @query
    def copy(self) -> list[Any]:
        """All items, the next first."""
        return [fresh(item) for item in self._items]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.copy())

    @query
    def __len__(self) -> int:
        return len(self._items)

    def _describe(self) -> str:
        return f"{len(self._items)} items, {super()._describe()}"
