"""What a consumer holds: the four channels of one data structure, and what can be asked of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from types import TracebackType
from typing import Any, Protocol, TypeVar

from copycat.channels.commit import CommitChannel
from copycat.channels.error import ErrorChannel
from copycat.channels.propose import ProposeChannel
from copycat.channels.waiting import deadline_after, on_own_thread, remaining
from copycat.errors import Closed, Timeout
from copycat.ids import DataStructureId
from copycat.status import GroupStatus

T = TypeVar("T")

STATUS_TIMEOUT_S = 10.0


class Desk(Protocol):
    """Where a subscription's wishes go: the engine's side. Every method may be called from any thread."""

    def ask_barrier(self) -> Future[int]: ...

    def ask_status(self) -> Future[GroupStatus]: ...

    def ask_close(self) -> Future[None]: ...


def wait_for(future: Future[T], timeout: float | None, what: str) -> T:
    """The future's result. Raises :class:`~copycat.errors.Timeout`, or the future's own error.

    On the library's own thread, where it would wait for itself, it raises ``Timeout`` at once.
    """
    if on_own_thread():
        timeout = 0.0
    try:
        return future.result(timeout)
    except FutureTimeout:
        if future.done():
            raise
        raise Timeout(f"{what} took longer than {timeout} s") from None


class Subscription:
    """One consumer's part in one data structure. Unpacks into ``propose, commits, errors, snapshot_consumer``.

    Every method may be called from any thread. A context manager: leaving it closes.
    """

    def __init__(
        self, desk: Desk, propose: ProposeChannel, commits: CommitChannel, errors: ErrorChannel, close_timeout_s: float
    ) -> None:
        self._desk = desk
        self._close_timeout_s = close_timeout_s
        self.propose = propose
        self.commits = commits
        self.errors = errors
        self.snapshot_consumer: Callable[[], bytes] = commits.snapshot

    def __iter__(self) -> Iterator[Any]:
        """The four channels of the original interface."""
        return iter((self.propose, self.commits, self.errors, self.snapshot_consumer))

    def barrier(self, timeout: float | None = None) -> None:
        """Return when this subscriber has been handed everything committed before the call: a linearizable read.

        Somebody must be receiving meanwhile. Raises :class:`~copycat.errors.Timeout`, :class:`~copycat.errors.Closed`.
        """
        deadline = deadline_after(timeout)
        position = wait_for(self.committed(), timeout, "asking the leader how far the log is committed")
        self.commits.wait_for(position, remaining(deadline))

    def committed(self) -> Future[int]:
        """Ask how far the log is committed: the future gets a position that covers everything committed before the call.

        It is what :meth:`barrier` waits for to be handed out. Raises :class:`~copycat.errors.Closed`, here or in the future.
        """
        return self._desk.ask_barrier()

    def flush(self, timeout: float | None = None) -> None:
        """Return when everything sent so far on this subscription is committed.

        Raises :class:`~copycat.errors.Timeout`, :class:`~copycat.errors.OutcomeUnknown`, :class:`~copycat.errors.Closed`.
        """
        self.propose.flush(timeout)

    def status(self) -> GroupStatus:
        """This replica's view of its group. Raises :class:`~copycat.errors.Closed`."""
        return wait_for(self._desk.ask_status(), STATUS_TIMEOUT_S, "asking for the status")

    def close(self) -> None:
        """Detach: first let what is in flight commit, for at most ``Config.leave_timeout_s``, or report it as unknown.

        The raft goes on detached if placement put it here, else leaves its group. Idempotent.
        """
        try:
            wait_for(self._desk.ask_close(), 2 * self._close_timeout_s + 5.0, "closing")
        except (Closed, Timeout):
            return

    def __enter__(self) -> Subscription:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Allocation:
    """A data structure that is being created. ``id`` is known at once."""

    def __init__(self, allocated: DataStructureId, ready: Future[None]) -> None:
        self.id = allocated
        self._ready = ready

    def wait(self, timeout: float | None = None) -> None:
        """Return when the group has a leader.

        Raises :class:`~copycat.errors.Timeout`, or why it could not be created: :class:`~copycat.errors.NoQuorum`,
        :class:`~copycat.errors.NotEnoughNodes`, :class:`~copycat.errors.Closed`.
        """
        wait_for(self._ready, timeout, "creating the group")

    @property
    def ready(self) -> Future[None]:
        """The same as a future, for those who wait in their own way. Not to be cancelled."""
        return self._ready

    @property
    def done(self) -> bool:
        """Whether :meth:`wait` would return, or raise, at once."""
        return self._ready.done()
