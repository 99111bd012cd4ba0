"""A number that many processes change."""

from __future__ import annotations

from typing import Any

from copycat.errors import Refused
from copycat.structures.operations import operation, query
from copycat.structures.replicated import Replicated

LIMIT = 1 << 63


class Counter(Replicated):
    """An integer of 64 bits, signed. Every change returns what came of it."""

    _value: int

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._value = 0

    def snapshot(self) -> Any:
        """The number."""
        return self._value

    def restore(self, state: Any) -> None:
        """Hold this number."""
        self._value = state

    @operation
    def add(self, amount: int = 1) -> int:
        """Add, and return the new value. Raises :class:`~copycat.errors.Refused` beyond 64 bits."""
        value = self._value + amount if _is_int(amount) else LIMIT
        if not -LIMIT <= value < LIMIT:
            raise Refused(f"{self._value} + {amount!r} is no integer of 64 bits")
        self._value = value
        return value

    @operation
    def compare_and_set(self, expected: int, value: int) -> bool:
        """Set it if it is ``expected``; whether it was. Raises :class:`~copycat.errors.Refused` for what is no int."""
        if not _is_int(value) or not -LIMIT <= value < LIMIT:
            raise Refused(f"{value!r} is no integer of 64 bits")
        if self._value != expected:
            return False
        self._value = value
        return True

    @property
    def value(self) -> int:
        """What it is on this copy."""
        return self._read()

    @query
    def _read(self) -> int:
        return self._value

    def _describe(self) -> str:
        return f"{self._value}, {super()._describe()}"


def _is_int(value: Any) -> bool:
    return value.__class__ is int
