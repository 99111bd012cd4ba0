"""What a consumer on an event loop holds: the four channels of one data structure, and what can be asked of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from types import TracebackType
from typing import Any, TypeVar

from copycat.aio.bridge import Bridge
from copycat.aio.channels import CommitChannel, ErrorChannel, ProposeChannel
from copycat.errors import Timeout
from copycat.ids import DataStructureId
from copycat.status import GroupStatus
from copycat.subscription import Allocation as ThreadedAllocation
from copycat.subscription import Subscription as ThreadedSubscription

T = TypeVar("T")


async def wait_for(bridge: Bridge, future: Future[T], timeout: float | None, what: str) -> T:
    """The future's result. Raises :class:`~copycat.errors.Timeout`, or the future's own error."""
    wrapped = bridge.wrap(future)
    done, _ = await asyncio.wait((wrapped,), timeout=timeout)
    if not done:
        wrapped.cancel()
        raise Timeout(f"{what} took longer than {timeout} s")
    return wrapped.result()


class Subscription:
    """One consumer's part in one data structure. Unpacks into ``propose, commits, errors, snapshot_consumer``.

    To be used on the event loop that it was made on. An asynchronous context manager: leaving it closes.
    """

    def __init__(self, bridge: Bridge, subscription: ThreadedSubscription) -> None:
        self._bridge = bridge
        self._subscription = subscription
        self.propose = ProposeChannel(bridge, subscription.propose)
        self.commits = CommitChannel(bridge, subscription.commits)
        self.errors = ErrorChannel(bridge, subscription.errors)
        self.snapshot_consumer: Callable[[], Awaitable[bytes]] = self.commits.snapshot

    def __iter__(self) -> Iterator[Any]:
        """The four channels of the original interface."""
        return iter((self.propose, self.commits, self.errors, self.snapshot_consumer))

    async def barrier(self, timeout: float | None = None) -> None:
        """Return when this subscriber has been handed everything committed before the call: a linearizable read.

        Some task must be receiving meanwhile. Raises :class:`~copycat.errors.Timeout`, :class:`~copycat.errors.Closed`.
        """
        loop = self._bridge.loop
        started = loop.time()
        position = await wait_for(
            self._bridge, self._subscription.committed(), timeout, "asking the leader how far the log is committed"
        )
        await self.commits.wait_for(position, None if timeout is None else timeout - (loop.time() - started))

    async def flush(self, timeout: float | None = None) -> None:
        """Return when everything sent so far on this subscription is committed.

        Raises :class:`~copycat.errors.Timeout`, :class:`~copycat.errors.OutcomeUnknown`, :class:`~copycat.errors.Closed`.
        """
        await self.propose.flush(timeout)

    async def status(self) -> GroupStatus:
        """This replica's view of its group. Raises :class:`~copycat.errors.Closed`."""
        return await self._bridge.in_thread(self._subscription.status, "copycat-aio-status")

    async def close(self) -> None:
        """Detach: first let what is in flight commit, for at most ``Config.leave_timeout_s``, or report it as unknown.

        The raft goes on detached if placement put it here, else leaves its group. Idempotent. Cancelled, it goes on.
        """
        await self._bridge.in_thread(self._subscription.close, "copycat-aio-close")

    async def __aenter__(self) -> Subscription:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class Allocation:
    """A data structure that is being created. ``id`` is known at once."""

    def __init__(self, bridge: Bridge, allocation: ThreadedAllocation) -> None:
        self._bridge = bridge
        self._allocation = allocation

    @property
    def id(self) -> DataStructureId:
        """Names the data structure."""
        return self._allocation.id

    async def wait(self, timeout: float | None = None) -> None:
        """Return when the group has a leader.

        Raises :class:`~copycat.errors.Timeout`, or why it could not be created: :class:`~copycat.errors.NoQuorum`,
        :class:`~copycat.errors.NotEnoughNodes`, :class:`~copycat.errors.Closed`.
        """
        await wait_for(self._bridge, self._allocation.ready, timeout, "creating the group")

    @property
    def done(self) -> bool:
        """Whether :meth:`wait` would return, or raise, at once."""
        return self._allocation.done
