"""What the benchmark proposes, and how each consumer checks that it is handed every item, once and in order.

An item is eight bytes, big-endian, and padding: the proposer's number in the first byte, its own count from 1 in the other
seven. So any consumer can tell, without having heard of it before, whether an item of any proposer is missing, repeated or
out of place. A running checksum over all items tells whether two consumers were handed the same sequence.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from zlib import crc32

HEAD_BYTES = 8
PROPOSERS_MAX = 256
_COUNT_BITS = 56
_COUNT_MASK = (1 << _COUNT_BITS) - 1
_HEAD = struct.Struct(">Q")


class OutOfOrder(Exception):
    """An item is missing, repeated or out of place."""


def make_items(proposer: int, first: int, count: int, payload_bytes: int) -> list[bytes]:
    """``count`` items of ``proposer``, numbered from ``first``, of ``payload_bytes`` (at least ``HEAD_BYTES``) each."""
    padding = b"x" * (payload_bytes - HEAD_BYTES)
    start = (proposer << _COUNT_BITS) + first
    return [number.to_bytes(HEAD_BYTES, "big") + padding for number in range(start, start + count)]


class Tally:
    """Counts and checks the items of one data structure. For one thread at a time."""

    __slots__ = ("_due", "checksum", "count")

    def __init__(self) -> None:
        self.count = 0
        self.checksum = 0
        self._due: dict[int, int] = {}

    def take(self, items: Sequence[bytes]) -> None:
        """Check the next items. Raises :class:`OutOfOrder`."""
        joined = b"".join(items)
        length = len(items[0])
        if len(joined) == length * len(items) and length >= HEAD_BYTES:
            numbers = [number for (number,) in struct.iter_unpack(f">Q{length - HEAD_BYTES}x", joined)]
        else:
            numbers = [_HEAD.unpack_from(item)[0] for item in items]
        first = numbers[0]
        proposer = first >> _COUNT_BITS
        if first & _COUNT_MASK == self._due.get(proposer, 1) and numbers == list(range(first, first + len(numbers))):
            self._due[proposer] = (first & _COUNT_MASK) + len(numbers)
        else:
            self._take_mixed(numbers)
        self.checksum = crc32(joined, self.checksum)
        self.count += len(items)  # last: whoever sees the count, from another thread, sees all that belongs to it

    def _take_mixed(self, numbers: list[int]) -> None:
        due = self._due
        for number in numbers:
            proposer, count = number >> _COUNT_BITS, number & _COUNT_MASK
            expected = due.get(proposer, 1)
            if count != expected:
                raise OutOfOrder(f"item {count} of proposer {proposer} came where {expected} was due")
            due[proposer] = count + 1

    def counts(self) -> dict[int, int]:
        """How many items of each proposer came."""
        return {proposer: due - 1 for proposer, due in self._due.items()}

    def pack(self) -> bytes:
        """The state as a snapshot."""
        return json.dumps([self.count, self.checksum, sorted(self._due.items())]).encode()

    @classmethod
    def unpack(cls, data: bytes) -> Tally:
        tally = cls()
        tally.count, tally.checksum, due = json.loads(data)
        tally._due = dict(due)
        return tally
