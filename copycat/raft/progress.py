"""What a leader knows and guesses about one peer's log (figure 2: nextIndex and matchIndex; thesis, 10.2.1).

========== =======================================================================================================
state      meaning
========== =======================================================================================================
PROBE      ``next`` is a guess: one message with entries at a time, until the peer answers
REPLICATE  ``next`` is right as far as is known: messages are pipelined, bounded by the window of those in flight
SNAPSHOT   the peer needs entries that are gone: nothing is sent until a snapshot has arrived
========== =======================================================================================================

``match`` is proven and only grows within a term; ``next`` is ``match + 1`` or more.
"""

from __future__ import annotations

import enum

from copycat.raft.inflights import Inflights


class ProgressState(enum.Enum):
    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


PROBE = ProgressState.PROBE
REPLICATE = ProgressState.REPLICATE
SNAPSHOT = ProgressState.SNAPSHOT


class Progress:
    """One peer, as its leader sees it."""

    __slots__ = (
        "active",
        "flow_paused",
        "inflights",
        "is_learner",
        "match",
        "next",
        "pending_snapshot",
        "sent_commit",
        "state",
        "was_active",
    )

    def __init__(self, match: int, next_index: int, inflights: Inflights, *, is_learner: bool, active: bool) -> None:
        self.match = match
        self.next = next_index
        self.state = PROBE
        self.inflights = inflights
        self.is_learner = is_learner
        self.active = active
        """Heard from since the last check of the quorum."""
        self.was_active = False
        """Heard from in the period before that."""
        self.flow_paused = False
        """Nothing more is sent until an answer clears it."""
        self.pending_snapshot = 0
        """Index of the snapshot on its way, in state SNAPSHOT."""
        self.sent_commit = 0
        """Highest commit index that the peer was sent."""

    def copy(self) -> Progress:
        twin = Progress(self.match, self.next, self.inflights.copy(), is_learner=self.is_learner, active=self.active)
        twin.state = self.state
        twin.flow_paused = self.flow_paused
        twin.pending_snapshot = self.pending_snapshot
        twin.sent_commit = self.sent_commit
        twin.was_active = self.was_active
        return twin

    def reset(self, match: int, next_index: int) -> None:
        """A new term or role: everything known is forgotten."""
        self._enter(PROBE)
        self.match = match
        self.next = next_index
        self.active = False
        self.was_active = False
        self.sent_commit = 0

    def begin_period(self) -> None:
        """The quorum was checked: count anew who is heard from."""
        self.was_active = self.active
        self.active = False

    @property
    def paused(self) -> bool:
        return self.flow_paused or self.state is SNAPSHOT

    def become_probe(self) -> None:
        next_index = self.match + 1
        if self.state is SNAPSHOT:
            next_index = max(next_index, self.pending_snapshot + 1)
        self._enter(PROBE)
        self.next = next_index
        self._cap_sent_commit()

    def become_replicate(self) -> None:
        self._enter(REPLICATE)
        self.next = self.match + 1

    def become_snapshot(self, index: int) -> None:
        self._enter(SNAPSHOT)
        self.pending_snapshot = index
        self.next = index + 1
        self.sent_commit = index

    def _enter(self, state: ProgressState) -> None:
        self.state = state
        self.flow_paused = False
        self.pending_snapshot = 0
        self.inflights.clear()

    def sent_entries(self, count: int, payload_bytes: int) -> None:
        """An append message with ``count`` entries (perhaps none) was sent."""
        if self.state is REPLICATE:
            if count:
                self.next += count
                self.inflights.add(self.next - 1, payload_bytes)
            self.flow_paused = self.inflights.full
        elif count:
            self.flow_paused = True

    def acknowledge(self, index: int) -> bool:
        """The peer holds everything up to ``index``. False if that is old news."""
        if index <= self.match:
            return False
        self.match = index
        if self.next <= index:
            self.next = index + 1
        self.flow_paused = False
        return True

    def reject(self, rejected: int, guess: int) -> bool:
        """The peer refused an append after ``rejected``; ``guess`` may match. False if the refusal is stale."""
        if self.state is REPLICATE:
            if rejected <= self.match:
                return False
            self.become_probe()
            return True
        if rejected != self.next - 1:
            return False
        self.next = max(min(rejected, guess + 1), self.match + 1)
        self._cap_sent_commit()
        self.flow_paused = False
        return True

    def commit_is_news(self, commit: int) -> bool:
        """Whether an empty append would tell the peer of a commit index that it can use and was not sent."""
        return commit > self.sent_commit and self.sent_commit < self.next - 1

    def _cap_sent_commit(self) -> None:
        self.sent_commit = min(self.sent_commit, self.next - 1)
