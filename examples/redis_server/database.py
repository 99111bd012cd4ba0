"""The keys and what they hold: plain Python that the same commands in the same order bring to the same state, anywhere.

What time it is, is an argument. A write says what its server's clock showed, and the latest that was ever said counts; so a key
expires at the same place of the sequence on every replica. Whatever has an order here has it from the commands: sets are dicts,
since Python's own sets are ordered by a hash that differs from process to process.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Iterator
from typing import Any
from zlib import crc32

from copycat.examples.redis_server.replies import WRONG_TYPE, CommandError

SLOTS = 4096
"""Keys are in slots by their checksum, so that SCAN misses none, and may go on at another server."""


class Entry:
    """What a key holds: ``value`` is bytes, a dict of fields, a deque, or a dict whose values are None, by ``kind``."""

    __slots__ = ("expires", "kind", "value", "version")

    def __init__(self, kind: str, value: Any) -> None:
        self.kind = kind
        self.value = value
        self.expires = 0
        """Milliseconds since 1970; 0: never."""
        self.version = 0
        """When it was changed last, in a count of all changes."""


_EMPTY = {"string": bytes, "hash": dict, "list": deque, "set": dict}


class Database:
    """Used under the lock of the copy that it belongs to."""

    def __init__(self) -> None:
        self.now = 0
        """The latest time that any write came with, in milliseconds since 1970."""
        self.at = 0
        """What a command takes for now: the same, or for a read what its server's clock shows, if that is later."""
        self.changes = 0
        self.entries: dict[bytes, Entry] = {}
        self._slots: list[dict[bytes, None]] = [{} for _ in range(SLOTS)]
        self._expiring: list[tuple[int, bytes]] = []

    # --- time ---

    def advance(self, now: int) -> None:
        """A write came that was begun at ``now``: what has expired by then is gone."""
        self.now = self.at = max(self.now, now)
        expiring = self._expiring
        while expiring and expiring[0][0] <= self.now:
            expires, key = heapq.heappop(expiring)
            entry = self.entries.get(key)
            if entry is not None and entry.expires == expires:
                self.remove(key)

    def due(self, now: int) -> bool:
        """Whether something waits to be removed."""
        return bool(self._expiring) and self._expiring[0][0] <= now

    # --- keys ---

    def find(self, key: bytes) -> Entry | None:
        entry = self.entries.get(key)
        if entry is not None and entry.expires and entry.expires <= self.at:
            return None
        return entry

    def find_kind(self, key: bytes, kind: str) -> Entry | None:
        """Raises :class:`CommandError` if the key holds something else."""
        entry = self.find(key)
        if entry is not None and entry.kind != kind:
            raise CommandError(WRONG_TYPE)
        return entry

    def value(self, key: bytes, kind: str) -> Any:
        """What it holds, or something empty of that kind, which nothing is to be put into."""
        entry = self.find_kind(key, kind)
        return _EMPTY[kind]() if entry is None else entry.value

    def make(self, key: bytes, kind: str) -> Entry:
        """The entry, new if there is none; it is about to be changed. Raises as :meth:`find_kind`."""
        entry = self.find_kind(key, kind)
        if entry is None:
            entry = self.put(key, kind, _EMPTY[kind]())
        self.touch(entry)
        return entry

    def put(self, key: bytes, kind: str, value: Any) -> Entry:
        """Let the key hold that, whatever it was; it does not expire."""
        entry = self.entries.get(key)
        if entry is None:
            entry = self.entries[key] = Entry(kind, value)
            self._slots[slot_of(key)][key] = None
        else:
            entry.kind, entry.value, entry.expires = kind, value, 0
        self.touch(entry)
        return entry

    def touch(self, entry: Entry) -> None:
        self.changes += 1
        entry.version = self.changes

    def remove(self, key: bytes) -> bool:
        """Whether it was there, and had not expired."""
        was = self.find(key) is not None
        if self.entries.pop(key, None) is not None:
            del self._slots[slot_of(key)][key]
            self.changes += 1
        return was

    def remove_if_empty(self, key: bytes, entry: Entry) -> None:
        if not entry.value:
            self.remove(key)

    def expire(self, key: bytes, entry: Entry, expires: int) -> None:
        """At ``expires``, or never if that is 0; at once if it is past."""
        entry.expires = expires
        self.touch(entry)
        if expires and expires <= self.at:
            self.remove(key)
        elif expires:
            heapq.heappush(self._expiring, (expires, key))
            if len(self._expiring) > 64 + 2 * len(self.entries):  # most are of expiries that were replaced
                self._expiring = [(each.expires, one) for one, each in self.entries.items() if each.expires]
                heapq.heapify(self._expiring)

    def version(self, key: bytes) -> int:
        """Changes whenever the key does; 0 while it isn't there."""
        entry = self.find(key)
        return 0 if entry is None else entry.version

    def live(self) -> Iterator[bytes]:
        return (key for key in self.entries if self.find(key) is not None)

    def count(self) -> int:
        """Of the keys that have not expired."""
        if not self.due(self.at):
            return len(self.entries)
        return sum(1 for _ in self.live())

    def slot(self, number: int) -> list[bytes]:
        return [key for key in self._slots[number] if self.find(key) is not None]

    def clear(self) -> None:
        self.entries.clear()
        self._expiring.clear()
        for slot in self._slots:
            slot.clear()
        self.changes += 1

    def choose(self, count: int) -> int:
        """Of the numbers below ``count`` one that nobody foresees, and that is the same on every copy."""
        return random.Random(self.changes << 20 | count).randrange(count)

    # --- snapshots ---

    def pack(self) -> list[Any]:
        return [
            self.now,
            self.changes,
            [[key, each.kind, _plain(each), each.expires, each.version] for key, each in self.entries.items()],
        ]

    def unpack(self, state: list[Any]) -> None:
        self.clear()
        self.now, self.changes, entries = state
        self.at = self.now
        for key, kind, value, expires, version in entries:
            entry = self.entries[key] = Entry(kind, _rich(kind, value))
            self._slots[slot_of(key)][key] = None
            entry.expires, entry.version = expires, version
            if expires:
                self._expiring.append((expires, key))
        heapq.heapify(self._expiring)


def slot_of(key: bytes) -> int:
    return crc32(key) % SLOTS


def _plain(entry: Entry) -> Any:
    if entry.kind == "hash":
        return [each for pair in entry.value.items() for each in pair]
    return entry.value if entry.kind == "string" else list(entry.value)


def _rich(kind: str, value: Any) -> Any:
    if kind == "hash":
        return dict(zip(value[::2], value[1::2], strict=True))
    if kind == "list":
        return deque(value)
    return dict.fromkeys(value) if kind == "set" else value
