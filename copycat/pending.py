"""Changes that were staged for writing and take effect when the write is durable, in the order they were staged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pending:
    """One staged change; give it back to ``complete`` once its batch is durable."""

    number: int
    effect: Callable[[], None]


class Completions:
    """Numbers the changes of one replica and lets them take effect one after the other. One thread."""

    __slots__ = ("_completed", "_ended", "_staged")

    def __init__(self) -> None:
        self._staged = 0
        self._completed = 0
        self._ended = False

    @property
    def outstanding(self) -> int:
        """How many staged changes have not taken effect."""
        return self._staged - self._completed

    def pend(self, effect: Callable[[], None]) -> Pending:
        self._staged += 1
        return Pending(self._staged, effect)

    def end(self) -> None:
        """Nothing may be staged any more; what was can still be completed."""
        self._ended = True

    def check_open(self) -> None:
        """Raises ValueError after :meth:`end`."""
        if self._ended:
            raise ValueError("the replica is destroyed: nothing can be staged for it any more")

    def complete(self, pending: Pending) -> None:
        """Raises ValueError out of order; then nothing takes effect."""
        if pending.number != self._completed + 1:
            raise ValueError(f"change {pending.number} can't be completed after change {self._completed}")
        self._completed += 1
        pending.effect()
