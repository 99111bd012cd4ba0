"""The channels of one data structure, for tasks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import TypeVar

from copycat.aio.bridge import Bridge, Signal
from copycat.channels.commit import CommitChannel as ThreadedCommitChannel
from copycat.channels.error import ErrorChannel as ThreadedErrorChannel
from copycat.channels.propose import ProposeChannel as ThreadedProposeChannel
from copycat.errors import Closed, CopyCatError, Full, LogFull, Timeout

T = TypeVar("T")

TURN_S = 0.005
"""How long a task may go on with what need not be waited for, until the others get their turn: as a thread, with the GIL."""
CALLS_PER_LOOK = 32
"""Calls until it looks at the time."""
PIECE_PROPOSALS = 4096


class _Turn:
    """Lets the other tasks run now and then, where one never has to wait."""

    __slots__ = ("_loop", "_until", "left")

    def __init__(self, bridge: Bridge) -> None:
        self._loop = bridge.loop
        self._until = 0.0
        self.left = CALLS_PER_LOOK

    async def look(self) -> None:
        """To be awaited when ``left`` has been counted down."""
        if self._loop.time() >= self._until:
            await asyncio.sleep(0)
            self._until = self._loop.time() + TURN_S
        self.left = CALLS_PER_LOOK


class CommitChannel:
    """Hands out the group's sequence: every committed byte string, on every subscriber, in one order, exactly once.

    The snapshot provider is called on the event loop's thread, inside a ``receive``, between two items: it is a plain
    function, and holds the loop up for as long as it takes.
    """

    __slots__ = ("_bridge", "_channel", "_signal", "_turn")

    def __init__(self, bridge: Bridge, channel: ThreadedCommitChannel) -> None:
        self._bridge = bridge
        self._channel = channel
        self._signal = Signal(bridge)
        self._turn = _Turn(bridge)

    @property
    def position(self) -> int:
        """Position of the last item that was handed out; of the snapshot, if that was announced last."""
        return self._channel.position

    async def receive(self, timeout: float | None = None) -> bytes | None:
        """The next committed byte string, waiting up to ``timeout`` seconds for it; cancelled, it loses nothing.

        ``None`` means: load the snapshot now, from the snapshot consumer. Raises :class:`~copycat.errors.Timeout`, and
        :class:`~copycat.errors.Closed` after the channel's end.
        """
        turn = self._turn
        turn.left -= 1
        if turn.left > 0:
            try:
                return self._channel.receive(0.0)
            except Timeout:
                pass
        return await self._later(lambda: self._channel.receive(0.0), timeout)

    async def receive_many(self, max_items: int, timeout: float | None = None) -> list[bytes | None]:
        """Up to ``max_items`` of the same, as a list; empty only when timed out. A ``None`` comes alone.

        Raises :class:`~copycat.errors.Closed` after the channel's end.
        """

        def attempt() -> list[bytes | None]:
            items = self._channel.receive_many(max_items, 0.0)
            if not items:
                raise Timeout("nothing was committed in time")
            return items

        self._turn.left -= 1
        if self._turn.left > 0:
            items = self._channel.receive_many(max_items, 0.0)
            if items:
                return items
        try:
            return await self._later(attempt, timeout)
        except Timeout:
            return []

    async def _later(self, attempt: Callable[[], T], timeout: float | None) -> T:
        deadline = _deadline(self._bridge, timeout)
        if self._turn.left <= 0:
            await self._turn.look()
        while True:
            in_time = await self._signal.until(self._channel.ready, deadline)
            try:
                return attempt()
            except Timeout:
                if not in_time:
                    raise

    async def __aiter__(self) -> AsyncIterator[bytes | None]:
        """Items until the channel is closed; ``None`` as with :meth:`receive`."""
        receive = self._channel.receive
        while True:
            try:
                # What receive() does, without a coroutine for each item that need not be waited for.
                for _ in range(CALLS_PER_LOOK):
                    yield receive(0.0)
                await self._turn.look()
            except Timeout:
                await self._signal.until(self._channel.ready)
            except Closed:
                return

    async def snapshot(self) -> bytes:
        """The bytes of the snapshot that was announced last by ``None``, read on another thread.

        Raises :class:`~copycat.errors.UsageError` if none has been, and storage errors if it can't be read.
        """
        return await self._bridge.in_thread(self._channel.snapshot, "copycat-aio-snapshot")

    async def wait_for(self, position: int, timeout: float | None = None) -> None:
        """Return when everything up to ``position`` has been handed out.

        Raises :class:`~copycat.errors.Timeout`, :class:`~copycat.errors.Closed`.
        """
        deadline = _deadline(self._bridge, timeout)
        if not await self._signal.until(lambda listener: self._channel.reached(position, listener), deadline):
            raise Timeout(f"position {position} was not handed out in time")


class ProposeChannel:
    """Sends byte strings towards the log; each comes out of every subscriber's commit channel, once, in this order."""

    __slots__ = ("_bridge", "_channel", "_send", "_signal", "_turn")

    def __init__(self, bridge: Bridge, channel: ThreadedProposeChannel) -> None:
        self._bridge = bridge
        self._channel = channel
        self._send = channel.send
        self._signal = Signal(bridge)
        self._turn = _Turn(bridge)

    async def send(self, data: bytes, timeout: float | None = None) -> None:
        """Queue one proposal; waits while what is in flight is at its limit. Cancelled while it waits, it queues nothing.

        Raises :class:`~copycat.errors.InvalidProposal` (not bytes), :class:`~copycat.errors.ProposalTooLarge`,
        :class:`~copycat.errors.Full` at the timeout (seconds), :class:`~copycat.errors.LogFull`, :class:`~copycat.errors.Closed`.
        """
        turn = self._turn
        turn.left -= 1
        if turn.left <= 0:
            await turn.look()
        try:
            self._send(data, 0.0)
        except LogFull:
            raise
        except Full:
            await self._when_room(lambda: self._send(data, 0.0), timeout)

    async def send_many(self, proposals: Iterable[bytes], timeout: float | None = None) -> None:
        """Queue many proposals, in order. Checks all before it queues the first.

        Raises what :meth:`send` raises; ``Full.accepted`` tells how many of them were queued, in order. Cancelled while it
        waits, it has queued a beginning of them.
        """
        items = proposals if isinstance(proposals, list) else list(proposals)
        deadline = _deadline(self._bridge, timeout)
        self._turn.left -= 1
        at = 0
        piece = items
        while piece:
            try:
                self._channel.send_many(piece, 0.0)
                at += len(piece)
            except LogFull as error:
                error.accepted += at
                raise
            except Full as error:
                at += error.accepted
                if not await self._signal.until(self._channel.ready, deadline):
                    error.accepted = at
                    raise
            piece = items[at : at + PIECE_PROPOSALS]
        if self._turn.left <= 0:
            await self._turn.look()

    async def submit(self, data: bytes, timeout: float | None = None) -> int:
        """Send one proposal, and return the position at which it was committed. ``timeout`` bounds the sending alone.

        Raises what :meth:`send` raises, and what became of the proposal: :class:`~copycat.errors.OutcomeUnknown`,
        :class:`~copycat.errors.PositionUnknown`. Cancelled once it is sent, the proposal goes on.
        """
        future = await self._when_room(lambda: self._channel.submit(data, 0.0), timeout)
        return await self._bridge.wrap(future)

    async def flush(self, timeout: float | None = None) -> None:
        """Return when all that was sent before this call is committed.

        Raises :class:`~copycat.errors.Timeout`, :class:`~copycat.errors.Closed` if the channel's end came first, and
        :class:`~copycat.errors.OutcomeUnknown` or :class:`~copycat.errors.ProposalDropped` if some of what was sent since
        the last flush may never be, or never will be.
        """
        sent = self._channel.sent
        deadline = _deadline(self._bridge, timeout)
        if not await self._signal.until(lambda listener: self._channel.flushed(sent, listener), deadline):
            raise Timeout("some of the proposals sent are not committed yet")

    async def close(self) -> None:
        """Detach the consumer: the same as ``close()`` of the subscription."""
        await self._bridge.in_thread(self._channel.close, "copycat-aio-close")

    async def _when_room(self, attempt: Callable[[], T], timeout: float | None) -> T:
        deadline = _deadline(self._bridge, timeout)
        self._turn.left -= 1
        if self._turn.left <= 0:
            await self._turn.look()
        while True:
            try:
                return attempt()
            except LogFull:
                raise
            except Full:
                if not await self._signal.until(self._channel.ready, deadline):
                    raise


class ErrorChannel:
    """Exceptions that concern proposals or the group, each handed out once."""

    __slots__ = ("_bridge", "_channel", "_signal")

    def __init__(self, bridge: Bridge, channel: ThreadedErrorChannel) -> None:
        self._bridge = bridge
        self._channel = channel
        self._signal = Signal(bridge)

    async def receive(self, timeout: float | None = None) -> CopyCatError:
        """The next error, returned. Raises :class:`~copycat.errors.Timeout`, :class:`~copycat.errors.Closed` after the end."""
        deadline = _deadline(self._bridge, timeout)
        while True:
            in_time = await self._signal.until(self._channel.ready, deadline)
            try:
                return self._channel.receive(0.0)
            except Timeout:
                if not in_time:
                    raise

    def __aiter__(self) -> AsyncIterator[CopyCatError]:
        """Errors until the channel is closed."""
        return self

    async def __anext__(self) -> CopyCatError:
        """The next error."""
        try:
            return await self.receive()
        except Closed:
            raise StopAsyncIteration from None


def _deadline(bridge: Bridge, timeout: float | None) -> float | None:
    return None if timeout is None else bridge.loop.time() + max(0.0, timeout)
