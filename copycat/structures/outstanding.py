"""Operations of one copy whose results are still to come.

Each has a number, counted from 1 in the order in which they are sent; that is the order in which they are applied. So when
a snapshot says that number 7 was applied, so were those before it.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from copycat.channels.waiting import Listener, Waiting, deadline_after
from copycat.errors import CopyCatError, Full, PositionUnknown, Refused, ResultLost
from copycat.structures.packing import unpack
from copycat.structures.results import RESULTS_MAX, ResultTable

Send = Callable[[bytes], "Future[int]"]
Pack = Callable[[int, int], bytes]
"""Makes an operation's bytes of its number and of the last number that needs no result any more."""


@dataclass(slots=True)
class Call:
    """Somebody waits for ``future``; ``size`` in bytes."""

    future: Future[Any]
    size: int


def deliver(future: Future[Any], packed: bytes | None) -> None:
    """Hand a packed result to whoever waits: the value, or the refusal."""
    if packed is None:
        future.set_result(None)
        return
    refused, value = unpack(packed)
    if refused:
        future.set_exception(Refused(value))
    else:
        future.set_result(value)


class Outstanding:
    """For any thread."""

    def __init__(self, bytes_max: int, count_max: int) -> None:
        self._calls: dict[int, Call] = {}
        self._bytes = 0
        self._bytes_max = bytes_max
        self._count_max = min(count_max, RESULTS_MAX)
        self._state = Waiting()
        self._applied = 0
        self._forgotten = 0
        self._ended: CopyCatError | None = None
        self.sent = 0

    def begin(self, pack: Pack, send: Send) -> Future[Any] | None:
        """Send one operation; None if too much is outstanding. Raises what packing and sending raise."""
        with self._state.condition:
            if self._ended is not None:
                raise self._ended
            if not self._has_room():
                return None
            number = self.sent + 1
            data = pack(number, next(iter(self._calls), number) - 1)
            future: Future[Any] = Future()
            future.set_running_or_notify_cancel()
            self._calls[number] = Call(future, len(data))
            try:
                sent = send(data)
            except BaseException:
                del self._calls[number]
                raise
            self._bytes += len(data)
            self.sent = number
        sent.add_done_callback(lambda done: self._settled(number, done))
        return future

    def _has_room(self) -> bool:
        return len(self._calls) < self._count_max and self._bytes < self._bytes_max

    def wait(self, timeout: float | None) -> None:
        """Return when :meth:`begin` would send. Raises :class:`~copycat.errors.Full`."""
        deadline = deadline_after(timeout)
        with self._state.condition:
            while self._ended is None and not self._has_room():
                if not self._state.wait(deadline):
                    raise Full(f"{len(self._calls)} operations are on their way and not applied")

    def ready(self, listener: Listener) -> bool:
        """Whether :meth:`begin` would send, or raise. If not, the next change calls ``listener``, once."""
        with self._state.condition:
            if self._ended is not None or self._has_room():
                return True
            self._state.listen(listener)
            return False

    def _settled(self, number: int, done: Future[int]) -> None:
        """The log has it, or never will: the engine says so, and must not be kept waiting."""
        error = done.exception()
        if error is not None and not isinstance(error, PositionUnknown):
            self._finish(number, lambda future: future.set_exception(error))

    def finish(self, number: int, packed: bytes | None) -> None:
        """Operation ``number`` was applied on this copy."""
        self._applied = number
        self._finish(number, lambda future: deliver(future, packed))

    def _finish(self, number: int, tell: Callable[[Future[Any]], object]) -> None:
        with self._state.condition:
            call = self._calls.pop(number, None)
            if call is None:
                return
            self._bytes -= call.size
            self._state.notify()
        tell(call.future)

    def skipped(self, client: bytes, table: ResultTable) -> None:
        """A snapshot was loaded, whose results are ``table``: tell those whose operations it covers."""
        known = table.clients.get(client)
        if known is not None:
            covered = [number for number in list(self._calls) if number <= known.applied]
            for number in covered:
                self.finish(number, known.results.get(number))
        elif self._applied or table.forgotten != self._forgotten:
            lost = ResultLost("the results of this copy's operations were forgotten before it could learn them")
            for number in list(self._calls):
                self._finish(number, lambda future: future.set_exception(lost))
        self._forgotten = table.forgotten

    def end(self, error: CopyCatError) -> None:
        """No result will come any more."""
        with self._state.condition:
            self._ended = self._ended or error
            calls, self._calls = self._calls, {}
            self._state.notify()
        for call in calls.values():
            call.future.set_exception(error)
