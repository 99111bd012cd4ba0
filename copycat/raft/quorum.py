"""Majorities, and majorities of two configurations at once (paper, 5.3 and 6; thesis, 4.3).

Pure arithmetic over sets of ids. A group is usually ruled by one majority; while it moves between two configurations,
every decision needs both. An empty majority agrees with everything, so that "no outgoing configuration" needs no case
of its own.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping

INFINITE = (1 << 64) - 1
"""The index that an empty majority has committed: it never holds the other one back."""


class VoteResult(enum.Enum):
    PENDING = "pending"
    LOST = "lost"
    WON = "won"


def majority_index(indices: list[int]) -> int:
    """The largest index that more than half of ``indices`` have reached. Sorts its argument."""
    count = len(indices)
    if count == 0:
        return INFINITE
    if count == 1:
        return indices[0]
    indices.sort()
    return indices[(count - 1) // 2]


def committed_index(voters: Collection[int], acknowledged: Mapping[int, int]) -> int:
    """The largest index that a majority of ``voters`` acknowledged; who said nothing counts as 0."""
    return majority_index([acknowledged.get(voter, 0) for voter in voters])


def joint_committed_index(incoming: Collection[int], outgoing: Collection[int], acknowledged: Mapping[int, int]) -> int:
    """What both majorities have."""
    return min(committed_index(incoming, acknowledged), committed_index(outgoing, acknowledged))


def vote_result(voters: Collection[int], votes: Mapping[int, bool]) -> VoteResult:
    """Where an election stands in one majority; who has not answered may still say either."""
    if not voters:
        return VoteResult.WON
    granted = sum(1 for voter in voters if votes.get(voter, False))
    missing = sum(1 for voter in voters if voter not in votes)
    needed = len(voters) // 2 + 1
    if granted >= needed:
        return VoteResult.WON
    if granted + missing >= needed:
        return VoteResult.PENDING
    return VoteResult.LOST


def joint_vote_result(incoming: Collection[int], outgoing: Collection[int], votes: Mapping[int, bool]) -> VoteResult:
    """Lost where either majority is lost, won where both are won."""
    first, second = vote_result(incoming, votes), vote_result(outgoing, votes)
    if first is second:
        return first
    if VoteResult.LOST in (first, second):
        return VoteResult.LOST
    return VoteResult.PENDING
