"""The groups that one node hosts, as a versioned set, and what nodes say to each other about such sets.

A set has one author. Its content is a map from group ids to values: flags, and the leader's term above them. Each change
of a value is a version; the last :data:`CHANGES_KEPT_MAX` (the author: :data:`OWN_CHANGES_KEPT_MAX`) are kept, so that
whoever is a little behind is given those alone. The checksum does not depend on the order of changes, and is kept with each.

Never does: decide whose set is taken, or merge two (that is :mod:`copycat.directory`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from dataclasses import dataclass
from hashlib import blake2b

VOTER = 1
LEARNER = 2
INTERACTIVE = 4
LEADER = 8
FLAGS_MASK = 0xFF
UNHOSTED = 0
"""The value of a change that takes a group out of the set. Others: flags, and above them the term, if LEADER is set."""

CHANGES_PER_MESSAGE_MAX = 1000
"""At most 28 bytes each when packed, so that a delta or a page stays under 32 KiB."""
OWN_CHANGES_KEPT_MAX = 16_384
CHANGES_KEPT_MAX = 256
GROUPS_PER_NODE_MAX = 1_000_000
DIGEST_BYTES = 8
GROUP_ID_BYTES = 16

Change = tuple[bytes, int]
"""Group id and value."""


@dataclass(frozen=True, slots=True)
class Delta:
    """Changes ``first_version``, ``first_version`` + 1, ... of one node's set."""

    node_id: str
    epoch: int
    first_version: int
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class Digest:
    """Stands for one node's whole set."""

    node_id: str
    epoch: int
    version: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Want:
    """Ask for the changes after ``version`` of ``epoch``, or, with a cursor, for the page behind it."""

    node_id: str
    epoch: int
    version: int
    cursor: bytes


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a full set at ``version``, in the order of ids; an empty ``next_cursor`` ends it."""

    node_id: str
    epoch: int
    version: int
    cursor: bytes
    next_cursor: bytes
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class Host:
    """A node that has a raft of a group. ``leader_term`` is the term it says it leads, or 0."""

    node_id: str
    voter: bool
    interactive: bool
    leader_term: int


class HostSet:
    """One node's set as this node knows it."""

    __slots__ = ("_order", "checksum", "entries", "epoch", "log", "version")

    def __init__(self, epoch: int, version: int, kept_max: int) -> None:
        self.epoch = epoch
        self.version = version
        self.entries: dict[bytes, int] = {}
        self.checksum = 0
        self.log: deque[Change] = deque(maxlen=kept_max)
        self._order: list[bytes] | None = None  # sorted ids, while none has come or gone

    def put(self, group_id: bytes, value: int) -> None:
        old = self.entries.get(group_id)
        if old is not None:
            self.checksum ^= _mix(group_id, old)
        if value == UNHOSTED:
            if old is not None:
                del self.entries[group_id]
                self._order = None
        else:
            if old is None:
                self._order = None
            self.entries[group_id] = value
            self.checksum ^= _mix(group_id, value)

    def in_order(self) -> list[bytes]:
        """All ids, sorted."""
        if self._order is None:
            self._order = sorted(self.entries)
        return self._order

    def reborn(self, epoch: int, version: int, digest: bytes) -> bool:
        """Become the author's next epoch, if ``digest`` is that of this set without leaders and consumers."""
        plain = {group_id: value & (VOTER | LEARNER) for group_id, value in self.entries.items()}
        checksum = 0
        for group_id, value in plain.items():
            checksum ^= _mix(group_id, value)
        if checksum.to_bytes(DIGEST_BYTES, "big") != digest:
            return False
        self.epoch, self.version, self.entries, self.checksum = epoch, version, plain, checksum
        self.log.clear()
        return True

    def has_changes_after(self, version: int) -> bool:
        return self.version - len(self.log) <= version <= self.version

    def digest(self) -> bytes:
        return self.checksum.to_bytes(DIGEST_BYTES, "big")


class Assembly:
    """A full set that is arriving. Not shown to anyone before it is whole and consistent."""

    __slots__ = ("cursor", "entries", "epoch", "newest", "version", "whole")

    def __init__(self, epoch: int, version: int) -> None:
        self.epoch = epoch
        self.version = version
        self.newest = version
        self.cursor = b""
        self.entries: dict[bytes, int] = {}
        self.whole = False


def is_sound(changes: tuple[Change, ...]) -> bool:
    return len(changes) <= CHANGES_PER_MESSAGE_MAX and all(len(change[0]) == GROUP_ID_BYTES for change in changes)


def _mix(group_id: bytes, value: int) -> int:
    return int.from_bytes(blake2b(group_id + value.to_bytes(12, "big"), digest_size=8).digest(), "big")


def digest_of(node_id: str, held: HostSet) -> Digest:
    return Digest(node_id, held.epoch, held.version, held.digest())


def delta_of(node_id: str, held: HostSet, after: int) -> Delta:
    skip = after - (held.version - len(held.log))
    stop = min(skip + CHANGES_PER_MESSAGE_MAX, len(held.log))
    return Delta(node_id, held.epoch, after + 1, tuple([held.log[position] for position in range(skip, stop)]))


def page_of(node_id: str, held: HostSet, cursor: bytes) -> Page:
    """The groups behind ``cursor``; empty: from the start."""
    order = held.in_order()
    first = bisect_right(order, cursor) if cursor else 0
    ids = order[first : first + CHANGES_PER_MESSAGE_MAX]
    next_cursor = ids[-1] if first + len(ids) < len(order) else b""
    changes = tuple([(group_id, held.entries[group_id]) for group_id in ids])
    return Page(node_id, held.epoch, held.version, cursor, next_cursor, changes)


def host_of(node_id: str, value: int) -> Host:
    return Host(node_id, bool(value & VOTER), bool(value & INTERACTIVE), value >> 8 if value & LEADER else 0)
