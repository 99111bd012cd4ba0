"""A dict that many processes share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import Any

from copycat.structures.operations import operation, query
from copycat.structures.packing import check_key, fresh, is_key, refuse_unless
from copycat.structures.replicated import Replicated

_MISSING: Any = object()


class Dict(Replicated, MutableMapping[Any, Any]):
    """A ``dict``, in order of insertion, the same on every copy. Keys: None, bool, int, float, str, bytes.

    Whoever changes one key is not disturbed by others; ``update`` of many is one step. Iteration goes over a copy, taken
    between two operations.
    """

    _data: dict[Any, Any]

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._data = {}

    def snapshot(self) -> Any:
        """All items, in order."""
        return [[key, value] for key, value in self._data.items()]

    def restore(self, state: Any) -> None:
        """Hold these items."""
        self._data = {key: value for key, value in state}  # noqa: C416 (pairs come as lists)

    @operation
    def put(self, key: Any, value: Any) -> None:
        """Set ``key``; ``d[key] = value``."""
        refuse_unless(is_key(key), "a key is a scalar")
        self._data[key] = value

    @operation
    def put_all(self, items: list[Any]) -> None:
        """Set many, given as ``[[key, value], ...]``, in one step."""
        pairs = isinstance(items, list) and all(isinstance(item, list) and len(item) == 2 for item in items)
        refuse_unless(pairs and all(is_key(item[0]) for item in items), "items are lists of a scalar and a value")
        for key, value in items:
            self._data[key] = value

    @operation
    def take(self, key: Any) -> list[Any]:
        """Remove ``key``: ``[its value]``, or ``[]`` if it is not there."""
        refuse_unless(is_key(key), "a key is a scalar")
        return [self._data.pop(key)] if key in self._data else []

    @operation
    def take_last(self) -> list[Any]:
        """Remove the item that was inserted last: ``[key, value]``, or ``[]`` if there is none."""
        return list(self._data.popitem()) if self._data else []

    @operation
    def put_if_absent(self, key: Any, value: Any) -> Any:
        """The value of ``key``, which is set to ``value`` if it is not there; ``d.setdefault``."""
        refuse_unless(is_key(key), "a key is a scalar")
        return self._data.setdefault(key, value)

    @operation
    def compare_and_put(self, key: Any, expected: Any, value: Any) -> bool:
        """Set ``key`` if it is there with a value equal to ``expected``; whether that was so."""
        refuse_unless(is_key(key), "a key is a scalar")
        if key not in self._data or self._data[key] != expected:
            return False
        self._data[key] = value
        return True

    @operation
    def empty(self) -> None:
        """Remove everything; ``d.clear()``."""
        self._data.clear()

    @query
    def copy(self) -> dict[Any, Any]:
        """Everything, as an ordinary dict."""
        copied: dict[Any, Any] = {key: fresh(value) for key, value in self._data.items()}
        return copied

    @query
    def _get(self, key: Any) -> Any:
        return fresh(self._data[key]) if key in self._data else _MISSING

    @query
    def _keys(self) -> list[Any]:
        return list(self._data)

    # --- a MutableMapping ---

    def __getitem__(self, key: Any) -> Any:
        value = self._get(key)
        if value is _MISSING:
            raise KeyError(key)
        return value

    def __setitem__(self, key: Any, value: Any) -> None:
        check_key(key)
        self.put(key, value)

    def __delitem__(self, key: Any) -> None:
        check_key(key)
        if not self.take(key):
            raise KeyError(key)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._keys())

    @query
    def __len__(self) -> int:
        return len(self._data)

    def pop(self, key: Any, default: Any = _MISSING) -> Any:
        """Remove ``key`` and return its value, or ``default``. Raises ``KeyError``."""
        check_key(key)
        taken = self.take(key)
        if taken:
            return taken[0]
        if default is _MISSING:
            raise KeyError(key)
        return default

    def popitem(self) -> tuple[Any, Any]:
        """Remove and return the item that was inserted last. Raises ``KeyError``."""
        taken = self.take_last()
        if not taken:
            raise KeyError("popitem(): dictionary is empty")
        return taken[0], taken[1]

    def setdefault(self, key: Any, default: Any = None) -> Any:
        """The value of ``key``, which is set to ``default`` if it is not there."""
        check_key(key)
        return self.put_if_absent(key, default)

    def clear(self) -> None:
        """Remove everything."""
        self.empty()

    def update(  # type: ignore[override]
        self, other: Mapping[Any, Any] | Iterable[Any] = (), /, **named: Any
    ) -> None:
        """Set many keys, in one step."""
        items = [[key, value] for key, value in dict(other, **named).items()]
        for key, _ in items:
            check_key(key)
        if items:
            self.put_all(items)

    def _describe(self) -> str:
        return f"{len(self._data)} items, {super()._describe()}"
