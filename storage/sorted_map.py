"""An ordered map of byte strings in memory: a dict for values, and its keys in sorted blocks.

A block is a sorted list of at most ``BLOCK_KEYS_MAX`` keys, so an insertion moves some hundred pointers wherever it
happens, however large the map (the same idea as a B-tree of two levels). Not thread-safe: whoever owns one holds a lock.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable

BLOCK_KEYS_MAX = 512


class SortedMap:
    """Keys in order of their bytes."""

    __slots__ = ("_blocks", "_firsts", "_values")

    def __init__(self) -> None:
        self._values: dict[bytes, bytes] = {}
        self._blocks: list[list[bytes]] = []  # never an empty one
        self._firsts: list[bytes] = []  # the first key of each block

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: bytes) -> bytes | None:
        return self._values.get(key)

    def apply(self, operations: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Put, or delete where the value is None, in the order given."""
        for key, value in operations:
            if value is None:
                if self._values.pop(key, None) is not None:
                    self._remove_key(key)
            else:
                if key not in self._values:
                    self._insert_key(key)
                self._values[key] = value

    def range(self, start: bytes, stop: bytes) -> list[tuple[bytes, bytes]]:
        """Pairs with ``start <= key < stop``, in order."""
        if start >= stop or not self._blocks:
            return []
        first = max(bisect_right(self._firsts, start) - 1, 0)
        last = bisect_left(self._firsts, stop)  # the first block that lies wholly at or behind stop
        keys: list[bytes] = []
        for block in self._blocks[first:last]:
            keys += block
        keys = keys[bisect_left(keys, start) : bisect_left(keys, stop)]
        return list(zip(keys, map(self._values.__getitem__, keys), strict=True))

    def _insert_key(self, key: bytes) -> None:
        if not self._blocks:
            self._blocks.append([key])
            self._firsts.append(key)
            return
        position = max(bisect_right(self._firsts, key) - 1, 0)
        block = self._blocks[position]
        insort(block, key)
        self._firsts[position] = block[0]
        if len(block) > BLOCK_KEYS_MAX:
            half = len(block) // 2
            self._blocks.insert(position + 1, block[half:])
            self._firsts.insert(position + 1, block[half])
            del block[half:]

    def _remove_key(self, key: bytes) -> None:
        position = bisect_right(self._firsts, key) - 1
        block = self._blocks[position]
        del block[bisect_left(block, key)]
        if block:
            self._firsts[position] = block[0]
        else:
            del self._blocks[position]
            del self._firsts[position]
