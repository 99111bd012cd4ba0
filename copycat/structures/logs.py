"""A log that many processes append to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from copycat.structures.operations import operation, query
from copycat.structures.packing import fresh, refuse_unless
from copycat.structures.replicated import Replicated


class Log(Replicated):
    """A sequence that only grows, and is forgotten from its beginning. Indexes count from 0 and never change."""

    _first: int
    _items: list[Any]

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._first = 0
        self._items = []

    def snapshot(self) -> Any:
        """What is left of the beginning, and all items."""
        return [self._first, list(self._items)]

    def restore(self, state: Any) -> None:
        """Hold these items."""
        self._first, self._items = state

    @operation
    def append(self, item: Any) -> int:
        """Add one item: its index."""
        self._items.append(item)
        return self._first + len(self._items) - 1

    @operation
    def append_all(self, items: list[Any]) -> int:
        """Add many, one behind the other: the index of the first."""
        refuse_unless(isinstance(items, list), "takes a list")
        self._items.extend(items)
        return self._first + len(self._items) - len(items)

    @operation
    def truncate(self, before: int) -> int:
        """Forget the items before index ``before``: how many were forgotten."""
        refuse_unless(isinstance(before, int), "an index is an int")
        count = min(max(0, before - self._first), len(self._items))
        del self._items[:count]
        self._first += count
        return count

    def extend(self, items: Iterable[Any]) -> int:
        """:meth:`append_all` of anything that can be iterated over."""
        return self.append_all(list(items))

    @query
    def tail(self, count: int) -> list[Any]:
        """The last ``count`` items, or as many as there are."""
        return [fresh(item) for item in self._items[max(0, len(self._items) - count) :]] if count > 0 else []

    @query
    def since(self, index: int) -> list[Any]:
        """The items from ``index`` on, or from the first that is not forgotten."""
        return [fresh(item) for item in self._items[max(0, index - self._first) :]]

    @query
    def __getitem__(self, index: int) -> Any:
        """The item at an index; a negative one counts from the end. Raises ``IndexError``, also for what is forgotten."""
        at = index - self._first if index >= 0 else len(self._items) + index
        if not 0 <= at < len(self._items):
            raise IndexError(
                f"the log holds indexes {self._first} to {self._first + len(self._items) - 1}, not {index}"
            )
        return fresh(self._items[at])

    @property
    def first(self) -> int:
        """Index of the first item that is not forgotten."""
        return self._read_first()

    @query
    def _read_first(self) -> int:
        return self._first

    @query
    def __len__(self) -> int:
        """How many items are not forgotten."""
        return len(self._items)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.since(0))

    def _describe(self) -> str:
        return f"{len(self._items)} items from index {self._first}, {super()._describe()}"
