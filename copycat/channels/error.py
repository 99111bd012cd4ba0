"""The error channel: what went wrong, each once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from copycat.channels.waiting import Listener, Waiting, deadline_after
from copycat.errors import Closed, CopyCatError, NodeFailure, Timeout, UnreceivedErrors


class ErrorChannel:
    """Exceptions that concern proposals or the group, each handed out once."""

    def __init__(self, errors_max: int) -> None:
        self._queue: deque[CopyCatError] = deque()
        self._errors_max = errors_max
        self._state = Waiting()
        self._closed: CopyCatError | None = None
        self._last: CopyCatError | None = None
        self._dropped = 0

    def receive(self, timeout: float | None = None) -> CopyCatError:
        """The next error, returned. Raises :class:`~copycat.errors.Timeout`, :class:`~copycat.errors.Closed` after the end."""
        deadline = deadline_after(timeout)
        with self._state.condition:
            while True:
                if self._queue:
                    return self._queue.popleft()
                if self._dropped:
                    dropped, self._dropped = self._dropped, 0
                    return UnreceivedErrors(f"{dropped} more errors came while nobody received them", dropped)
                if self._last is not None:
                    last, self._last = self._last, None
                    return last
                if self._closed is not None:
                    raise Closed(str(self._closed)) from self._closed
                if not self._state.wait(deadline):
                    raise Timeout("no error came in time")

    def ready(self, listener: Listener) -> bool:
        """Whether :meth:`receive` would return or raise at once. If not, the next change calls ``listener``, once."""
        with self._state.condition:
            if self._queue or self._dropped or self._closed is not None:
                return True
            self._state.listen(listener)
            return False

    def __iter__(self) -> Iterator[CopyCatError]:
        """Errors until the channel is closed."""
        while True:
            try:
                error = self.receive()
            except Closed:
                return
            yield error

    # --- the engine's side ---

    def push(self, error: CopyCatError) -> None:
        """Queue one error, or count it where ``errors_max`` wait already."""
        with self._state.condition:
            if len(self._queue) < self._errors_max:
                self._queue.append(error)
            else:
                self._dropped += 1
            self._state.notify()

    def end(self, reason: CopyCatError) -> None:
        """No more will come; what is queued can still be received. A failure of the node is the last of it, limit or not."""
        with self._state.condition:
            if self._closed is None and isinstance(reason, NodeFailure):
                self._last = reason
            self._closed = self._closed or reason
            self._state.notify()
