"""What happened lately in a cluster, as one node saw it: members that came and went, leaders that changed.

For people who look at a node (:mod:`copycat.web`), not for programs: it is bounded, forgets the oldest, and begins anew with the
process. A wave of elections, which a node with thousands of groups has when a neighbour dies, must not wash away what it
was that happened to the neighbour; so each kind has a ring of its own.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

EVENTS_MAX = 500
"""Kept of members, and as many of leaders."""


@dataclass(frozen=True, slots=True)
class Happening:
    """One thing that happened. ``number`` counts them from 1; ``at`` is on the engine's clock.

    ``kind`` is ``leader``, or what became of a member: ``joined``, ``updated``, ``suspected``, ``refuted``, ``died``, ``left``,
    ``reaped``. ``node_id`` is the member, or the new leader's node (empty: not known).
    """

    number: int
    at: float
    kind: str
    node_id: str
    group: bytes = b""
    term: int = 0


class Happenings:
    """Belongs to the engine's thread."""

    def __init__(self) -> None:
        self._last = 0
        self._members: deque[Happening] = deque(maxlen=EVENTS_MAX)
        self._leaders: deque[Happening] = deque(maxlen=EVENTS_MAX)

    @property
    def last(self) -> int:
        """The number of the newest; 0: nothing has happened yet."""
        return self._last

    def member(self, at: float, kind: str, node_id: str) -> None:
        """Something became of a member."""
        self._last += 1
        self._members.append(Happening(self._last, at, kind, node_id))

    def leader(self, at: float, node_id: str, group: bytes, term: int) -> None:
        """A group has a new leader, or a new term."""
        self._last += 1
        self._leaders.append(Happening(self._last, at, "leader", node_id, group, term))

    def since(self, number: int) -> list[Happening]:
        """What is still kept of all behind ``number``, the oldest first."""
        found = [one for ring in (self._members, self._leaders) for one in ring if one.number > number]
        return sorted(found, key=lambda one: one.number)
