"""A set that many processes share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableSet
from typing import Any

from copycat.structures.operations import operation, query
from copycat.structures.packing import check_key, is_key, refuse_unless
from copycat.structures.replicated import Replicated


class Set(Replicated, MutableSet[Any]):
    """A ``set``, the same on every copy. Elements: None, bool, int, float, str, bytes.

    Iteration goes over a copy, in order of insertion. What ``&``, ``|`` and their like return is an ordinary set.
    """

    _elements: dict[Any, None]

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._elements = {}

    @classmethod
    def _from_iterable(cls, it: Iterable[Any]) -> set[Any]:
        return set(it)

    __hash__ = Replicated.__hash__

    def snapshot(self) -> Any:
        """All elements."""
        return list(self._elements)

    def restore(self, state: Any) -> None:
        """Hold these elements."""
        self._elements = dict.fromkeys(state)

    @operation
    def insert(self, elements: list[Any]) -> int:
        """Add many, in one step: how many were not there."""
        refuse_unless(isinstance(elements, list) and all(map(is_key, elements)), "elements are a list of scalars")
        before = len(self._elements)
        self._elements.update(dict.fromkeys(elements))
        return len(self._elements) - before

    @operation
    def delete(self, elements: list[Any]) -> int:
        """Remove many, in one step: how many were there."""
        refuse_unless(isinstance(elements, list) and all(map(is_key, elements)), "elements are a list of scalars")
        before = len(self._elements)
        for element in elements:
            self._elements.pop(element, None)
        return before - len(self._elements)

    @operation
    def take(self) -> list[Any]:
        """Remove the element that was added first: ``[element]``, or ``[]`` if there is none."""
        if not self._elements:
            return []
        element = next(iter(self._elements))
        del self._elements[element]
        return [element]

    @operation
    def empty(self) -> None:
        """Remove everything; ``s.clear()``."""
        self._elements.clear()

    @query
    def copy(self) -> set[Any]:
        """Everything, as an ordinary set."""
        return set(self._elements)

    @query
    def _list(self) -> list[Any]:
        return list(self._elements)

    # --- a MutableSet ---

    @query
    def __contains__(self, element: object) -> bool:
        return element in self._elements

    def __iter__(self) -> Iterator[Any]:
        return iter(self._list())

    @query
    def __len__(self) -> int:
        return len(self._elements)

    def add(self, value: Any) -> bool:  # type: ignore[override]
        """Add an element; whether it was not there."""
        check_key(value)
        return self.insert([value]) == 1

    def discard(self, value: Any) -> bool:  # type: ignore[override]
        """Remove an element; whether it was there."""
        check_key(value)
        return self.delete([value]) == 1

    def remove(self, value: Any) -> None:
        """Remove an element. Raises ``KeyError``."""
        if not self.discard(value):
            raise KeyError(value)

    def pop(self) -> Any:
        """Remove and return the element that was added first. Raises ``KeyError``."""
        taken = self.take()
        if not taken:
            raise KeyError("pop from an empty set")
        return taken[0]

    def clear(self) -> None:
        """Remove everything."""
        self.empty()

    def update(self, elements: Iterable[Any]) -> int:
        """Add many, in one step: how many were not there."""
        items = list(elements)
        for item in items:
            check_key(item)
        return self.insert(items)

    def _describe(self) -> str:
        return f"{len(self._elements)} elements, {super()._describe()}"
