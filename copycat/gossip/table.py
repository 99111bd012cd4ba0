"""Who is known, and in which order the living are probed.

Probing is round-robin over a randomised list, so that every member is probed within 2N - 1 periods: the list is
shuffled at each wrap, and a new member goes to a random place (SWIM, section 4.3). The dead and those that left stay
known, but are not in that list.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from copycat.gossip.records import MemberRecord, MemberState


@dataclass(slots=True)
class Member:
    """``verified`` is False while all that is known comes from an earlier life of this node."""

    record: MemberRecord
    since: float
    verified: bool = True


class MemberTable:
    """All known members but this node itself."""

    __slots__ = ("_cursor", "_probe_order", "_rng", "entries")

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.entries: dict[str, Member] = {}
        self._probe_order: list[str] = []
        self._cursor = 0

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def live_count(self) -> int:
        """Members that are alive or suspected."""
        return len(self._probe_order)

    def live_ids(self) -> Iterator[str]:
        return iter(self._probe_order)

    def start_probing(self, node_id: str) -> None:
        at = self._rng.randint(0, len(self._probe_order))
        self._probe_order.insert(at, node_id)
        if at < self._cursor:
            self._cursor += 1

    def stop_probing(self, node_id: str) -> None:
        at = self._probe_order.index(node_id)
        del self._probe_order[at]
        if at < self._cursor:
            self._cursor -= 1

    def next_target(self) -> Member | None:
        """Whom to probe now; None if nobody lives."""
        order = self._probe_order
        if not order:
            return None
        if self._cursor >= len(order):
            self._rng.shuffle(order)
            self._cursor = 0
        node_id = order[self._cursor]
        self._cursor += 1
        return self.entries[node_id]

    def sample(self, count: int, exclude: Collection[str] = ()) -> list[Member]:
        """Up to ``count`` distinct live members, at random."""
        order = self._probe_order
        if len(order) <= 4 * count + len(exclude):
            candidates = [node_id for node_id in order if node_id not in exclude]
            chosen = self._rng.sample(candidates, min(count, len(candidates)))
            return [self.entries[node_id] for node_id in chosen]
        picked: dict[str, Member] = {}
        while len(picked) < count:
            node_id = order[int(self._rng.random() * len(order))]
            if node_id not in exclude:
                picked[node_id] = self.entries[node_id]
        return list(picked.values())

    def in_state(self, *states: MemberState) -> list[MemberRecord]:
        return [member.record for member in self.entries.values() if member.record.state in states]
