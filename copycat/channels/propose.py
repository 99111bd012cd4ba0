"""The propose channel: what a consumer sends, until it is known to be committed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass

from copycat.channels.waiting import Listener, Waiting, deadline_after
from copycat.errors import (
    Closed,
    CopyCatError,
    Full,
    InvalidProposal,
    LogFull,
    PositionUnknown,
    ProposalTooLarge,
    Timeout,
)


@dataclass(slots=True)
class Taken:
    """Proposals that the engine took for one batch. ``first`` counts what was sent on the subscription, from 1."""

    first: int
    items: list[bytes]
    size: int


class ProposeChannel:
    """Sends byte strings towards the log; each comes out of every subscriber's commit channel, once, in this order."""

    def __init__(
        self,
        wake: Callable[[], None],
        close: Callable[[], None],
        proposal_bytes_max: int,
        in_flight_bytes_max: int,
        in_flight_proposals_max: int,
    ) -> None:
        self._wake = wake
        self._close = close
        self._proposal_bytes_max = proposal_bytes_max
        self._bytes_max = in_flight_bytes_max
        self._count_max = in_flight_proposals_max
        self._waiting: deque[bytes] = deque()
        self._state = Waiting()
        self._signalled = False
        self._bytes = 0
        self._sent = 0
        self._taken = 0
        self._settled = 0
        self._futures: dict[int, Future[int]] = {}
        self._lost: CopyCatError | None = None
        self._lost_told = False
        self._closed: CopyCatError | None = None
        self._draining = False
        self._log_full = False

    def send(self, data: bytes, timeout: float | None = None) -> None:
        """Queue one proposal; blocks while what is in flight is at its limit.

        Raises :class:`~copycat.errors.InvalidProposal` (not bytes), :class:`~copycat.errors.ProposalTooLarge`,
        :class:`~copycat.errors.Full` at the timeout (seconds), :class:`~copycat.errors.LogFull`, :class:`~copycat.errors.Closed`.
        """
        self._check(data)
        state = self._state
        with state.condition:
            if self._closed or self._log_full or self._bytes >= self._bytes_max or self._in_flight() >= self._count_max:
                self._wait_for_room(deadline_after(timeout), 0)
            self._waiting.append(data)
            self._bytes += len(data)
            self._sent += 1
            wake = not self._signalled
            self._signalled = True
        if wake:
            self._wake()

    def send_many(self, proposals: Iterable[bytes], timeout: float | None = None) -> None:
        """Queue many proposals, in order. Checks all before it queues the first.

        Raises what :meth:`send` raises; ``Full.accepted`` tells how many of them were queued, in order.
        """
        if not isinstance(proposals, Iterable):
            raise InvalidProposal(f"send_many takes a list of bytes, not {type(proposals).__name__}")
        items = proposals if isinstance(proposals, list) else list(proposals)
        self.check(items)
        deadline = deadline_after(timeout)
        at = 0
        while at < len(items):
            with self._state.condition:
                self._wait_for_room(deadline, at)
                piece = items[at : at + self._count_max - self._in_flight()]
                size = sum(map(len, piece))
                if size > self._bytes_max - self._bytes:
                    piece, size = self._cut(piece, self._bytes_max - self._bytes)
                self._waiting.extend(piece)
                self._bytes += size
                self._sent += len(piece)
                wake = not self._signalled
                self._signalled = True
            at += len(piece)
            if wake:
                self._wake()

    def check(self, proposals: list[bytes]) -> None:
        """Raise what :meth:`send` would say of the proposals themselves; queue nothing."""
        longest = 0
        for item in proposals:
            if item.__class__ is not bytes:
                self._check(item)
            if len(item) > longest:
                longest = len(item)
        if longest > self._proposal_bytes_max:
            self._check_length(longest)

    def submit(self, data: bytes, timeout: float | None = None) -> Future[int]:
        """Like :meth:`send`. The future gets the position at which the proposal was committed, or the error.

        Its callbacks run on the library's own thread, where nothing waits: what would block raises ``Timeout`` or ``Full``.
        """
        self._check(data)
        future: Future[int] = Future()
        future.set_running_or_notify_cancel()
        with self._state.condition:
            self._wait_for_room(deadline_after(timeout), 0)
            self._waiting.append(data)
            self._bytes += len(data)
            self._sent += 1
            self._futures[self._sent] = future
            wake = not self._signalled
            self._signalled = True
        if wake:
            self._wake()
        return future

    def flush(self, timeout: float | None = None) -> None:
        """Return when all that was sent before this call is committed.

        Raises :class:`~copycat.errors.Timeout`, :class:`~copycat.errors.Closed` if the channel's end came first, and
        :class:`~copycat.errors.OutcomeUnknown` or :class:`~copycat.errors.ProposalDropped` if some of what was sent since
        the last flush may never be, or never will be.
        """
        deadline = deadline_after(timeout)
        state = self._state
        with state.condition:
            target = self._sent
            while not self._reached(target):
                if not state.wait(deadline):
                    raise Timeout(f"{target - self._settled} of the proposals sent are not committed yet")
            self._tell_lost()

    def ready(self, listener: Listener) -> bool:
        """Whether :meth:`send` would return or raise at once. If not, the next change calls ``listener``, once."""
        with self._state.condition:
            if self._closed or self._log_full or self._has_room():
                return True
            self._state.listen(listener)
            return False

    @property
    def sent(self) -> int:
        """How many proposals have been sent: what a :meth:`flush` that begins now waits for."""
        return self._sent

    def flushed(self, sent: int, listener: Listener) -> bool:
        """Whether a :meth:`flush` that began when ``sent`` were sent would return now; raises what it raises.

        If it would go on waiting, the next change calls ``listener``, once.
        """
        with self._state.condition:
            if self._reached(sent):
                self._tell_lost()
                return True
            self._state.listen(listener)
            return False

    def close(self) -> None:
        """Detach the consumer: the same as ``close()`` of the subscription."""
        self._close()

    # --- the consumer's side, inside ---

    def _check(self, data: object) -> None:
        if not isinstance(data, bytes):
            raise InvalidProposal(f"a proposal is bytes, not {type(data).__name__}; encode it first")
        self._check_length(len(data))

    def _check_length(self, length: int) -> None:
        if length > self._proposal_bytes_max:
            raise ProposalTooLarge(
                f"a proposal of {length} bytes is over proposal_bytes_max ({self._proposal_bytes_max}): "
                "split it, or raise the limit on every node"
            )

    def _reached(self, target: int) -> bool:
        if self._settled >= target:
            return True
        if self._closed is not None and not self._draining:
            raise Closed(f"closed before {target - self._settled} proposals were committed") from self._closed
        return False

    def _tell_lost(self) -> None:
        if self._lost is not None and not self._lost_told:
            self._lost_told = True
            raise self._lost

    def _has_room(self) -> bool:
        return self._bytes < self._bytes_max and self._in_flight() < self._count_max

    def _in_flight(self) -> int:
        return self._sent - self._settled

    def _wait_for_room(self, deadline: float | None, accepted: int) -> None:
        while True:
            if self._closed is not None:
                raise Closed(str(self._closed)) from self._closed
            if self._log_full:
                raise LogFull(
                    "the log has reached log_bytes_max and no consumer makes snapshots of it: let a consumer receive, "
                    "then send again",
                    accepted,
                )
            if self._has_room():
                return
            if not self._state.wait(deadline):
                raise Full(
                    f"{self._bytes} bytes in {self._in_flight()} proposals are in flight and not committed; "
                    "send more slowly, or raise in_flight_bytes_max",
                    accepted,
                )

    @staticmethod
    def _cut(items: list[bytes], room: int) -> tuple[list[bytes], int]:
        """As many items as start within ``room`` bytes; at least one."""
        size = 0
        for count, item in enumerate(items):
            if size >= room and count:
                return items[:count], size
            size += len(item)
        return items, size

    # --- the engine's side ---

    def has_waiting(self) -> bool:
        """Whether :meth:`take` would return something."""
        return bool(self._waiting)

    def take(self, count_max: int, bytes_max: int) -> Taken | None:
        """Take what waits, for one batch; None if nothing does."""
        waiting = self._waiting
        if not waiting:
            return None  # whoever is about to append signals: that flag is only set along with something that waits
        with self._state.condition:
            self._signalled = False
            if not waiting:
                return None
            first = self._taken + 1
            if len(waiting) <= count_max and self._bytes <= bytes_max:
                items = list(waiting)
                waiting.clear()
                size = sum(map(len, items))
            else:
                items = []
                size = 0
                while waiting and len(items) < count_max and (size + len(waiting[0]) <= bytes_max or not items):
                    item = waiting.popleft()
                    size += len(item)
                    items.append(item)
            self._taken += len(items)
            return Taken(first, items, size)

    def settle(self, count: int, size: int, position: int | None) -> None:
        """The next ``count`` proposals are committed, the last of them at ``position`` (None: it can't be known)."""
        with self._state.condition:
            first = self._settled + 1
            self._settled += count
            self._bytes -= size
            futures = self._pop_futures(first, count) if self._futures else ()
            last = self._settled
            self._state.notify()
        for number, future in futures:
            if position is None:
                future.set_exception(
                    PositionUnknown(
                        "committed, but this node learnt it from a snapshot that no longer tells the position"
                    )
                )
            else:
                future.set_result(position - (last - number))

    def fail(self, count: int, size: int, error: CopyCatError) -> int:
        """The next ``count`` proposals failed; returns how many of them had no future to tell."""
        with self._state.condition:
            first = self._settled + 1
            self._settled += count
            self._bytes -= size
            futures = self._pop_futures(first, count)
            self._lost = error
            self._lost_told = False
            self._state.notify()
        for _, future in futures:
            future.set_exception(error)
        return count - len(futures)

    def _pop_futures(self, first: int, count: int) -> list[tuple[int, Future[int]]]:
        if len(self._futures) < count:
            numbers = [number for number in self._futures if first <= number < first + count]
        else:
            numbers = [number for number in range(first, first + count) if number in self._futures]
        return [(number, self._futures.pop(number)) for number in numbers]

    def set_log_full(self, full: bool) -> None:
        """While the log is full, whoever sends is told so."""
        with self._state.condition:
            self._log_full = full
            self._state.notify()

    def refuse_more(self, reason: CopyCatError) -> None:
        """Take no more proposals; those in flight go on."""
        with self._state.condition:
            self._draining = True
            self._closed = self._closed or reason
            self._state.notify()

    def end(self, reason: CopyCatError, failure: Callable[[int], CopyCatError]) -> CopyCatError | None:
        """Nothing will come any more: what is left fails with what ``failure`` makes of its number.

        Returns that error if some of it had no future to tell.
        """
        with self._state.condition:
            self._draining = False
            self._closed = self._closed or reason
            count = self._in_flight()
            size = self._bytes
            self._waiting.clear()
            self._taken = self._sent
            self._state.notify()
        if not count:
            return None
        error = failure(count)
        return error if self.fail(count, size, error) else None

    @property
    def settled(self) -> int:
        """How many proposals have been settled, one way or the other."""
        return self._settled

    @property
    def bytes_in_flight(self) -> int:
        """Bytes of proposals that are sent but not settled."""
        return self._bytes

    def unsettled(self) -> int:
        """How many proposals are sent but not settled."""
        return self._sent - self._settled
