"""One subscription's proposals on their way into the log: batched, numbered, and repeated until they are seen to commit.

This is the proposer's half of exactly-once; :mod:`copycat.sessions` is the other. Rules:

* A batch is what waited when there was room for one more; nothing is ever delayed to fill it.
* At most ``BATCHES_IN_FLIGHT_MAX`` batches are under way. They are sent in order, and again in order from the first that
  has not committed: after a change of leader, after a gap, after silence. Repetition is harmless.
* Only the log tells what became of a batch: a batch is settled when this replica applies it.
* When the log shows that the session ended, everything not applied before that place never will be: it goes on, in order,
  under a new session. When the place itself was skipped by a snapshot, the fate of what Raft had taken can't be known, and
  exactly that is reported; the rest goes on.
* Silence makes it more patient, up to a bound: a slow disk or network is not helped by repetition.

The session is opened with the first proposal, so that subscribers who only read leave no trace in the log.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from copycat import sessions
from copycat.channels.error import ErrorChannel
from copycat.channels.propose import ProposeChannel
from copycat.errors import Closed, CopyCatError, OutcomeUnknown, ProposalDropped, SessionExpired, TooManySessions
from copycat.metrics import Tally
from copycat.sessions import Applied, Outcome, SessionTable

BATCHES_IN_FLIGHT_MAX = 4
assert BATCHES_IN_FLIGHT_MAX <= sessions.RECEIPTS_MAX

PATIENCE_MAX = 16
"""Times ``resend_after_s`` that it waits for an answer in the end."""

Propose = Callable[[bytes], bool]
"""Hands an entry's data to Raft; False if Raft did not take it now."""


class Phase(enum.Enum):
    UNOPENED = "no session yet"
    OPEN = "the session is in the table"
    ENDED = "closed for good"


@dataclass(slots=True)
class Batch:
    """Proposals under way; ``first`` counts within the session, ``size`` in bytes of proposals.

    ``taken``: Raft took it at least once under the present session, so it may be in the log.
    """

    first: int
    count: int
    size: int
    data: bytes
    taken: bool = False
    made_at: float = 0.0

    @property
    def last(self) -> int:
        return self.first + self.count - 1


class Proposer:
    """Belongs to the engine's thread."""

    def __init__(
        self,
        channel: ProposeChannel,
        errors: ErrorChannel,
        node_id: str,
        boot: bytes,
        new_session: Callable[[], bytes],
        batch_proposals_max: int,
        batch_bytes_max: int,
        resend_after_s: float,
        tally: Tally | None = None,
    ) -> None:
        self.channel = channel
        self.errors = errors
        self.phase = Phase.UNOPENED
        self.session = new_session()
        self.seen_index = 0
        """Index of the last entry that this proposer was told of, by whatever replica it was attached to."""
        self._opened = 0
        self._node_id = node_id
        self._boot = boot
        self._new_session = new_session
        self._count_max = batch_proposals_max
        self._bytes_max = batch_bytes_max
        self._resend_after_s = resend_after_s
        self._patience_s = resend_after_s
        self._tally = tally if tally is not None else Tally()
        self._now = 0.0
        self._in_flight: deque[Batch] = deque()
        self._next = 1
        self._unsent = 0  # index into _in_flight of the first batch to send
        self._retry_at = 0.0
        self._resending = False
        self._progressed = False
        self._draining = False
        self._close_tried = False

    # --- towards the log ---

    def pump(self, now: float, propose: Propose) -> None:
        """Send what can be sent."""
        if self.phase is Phase.ENDED:
            return
        self._now = now
        if self._progressed:
            self._progressed = False
            self._patience_s = self._resend_after_s
            self._retry_at = now + self._patience_s
        elif self._in_flight and now >= self._retry_at:
            self._unsent = 0
        if self.phase is Phase.UNOPENED:
            if (self._in_flight or self.channel.has_waiting()) and now >= self._retry_at:
                self._sent_now(now, propose(sessions.pack_open(self.session, self._node_id, self._boot)))
            return
        flying = self._in_flight
        again = self._unsent < len(flying)
        while True:
            if self._unsent == len(flying) and (len(flying) >= BATCHES_IN_FLIGHT_MAX or not self._take()):
                break
            batch = flying[self._unsent]
            if not propose(batch.data):
                self._sent_now(now, False)
                return
            batch.taken = True
            self._tally.batches_sent += 1
            self._unsent += 1
            self._retry_at = now + self._patience_s
        if again:
            self._sent_now(now, True)
        if self._draining and not flying and not self._close_tried:
            # If nobody takes it, nobody waits for it: sessions without a subscription are found and closed later.
            propose(sessions.pack_close(self.session))
            self._close_tried = True

    def _take(self) -> bool:
        taken = self.channel.take(self._count_max, self._bytes_max)
        if taken is None:
            return False
        count = len(taken.items)
        data = sessions.pack_batch(self.session, self._opened, self._next, taken.items)
        self._in_flight.append(Batch(self._next, count, taken.size, data, made_at=self._now))
        self._next += count
        self._tally.proposals += count
        self._tally.batch_proposals.add(count)
        return True

    def _sent_now(self, now: float, accepted: bool) -> None:
        # What Raft refused is worth another try as soon as something changes; until then, look now and then.
        if accepted:
            self._retry_at = now + self._patience_s
            self._patience_s = min(2 * self._patience_s, PATIENCE_MAX * self._resend_after_s)
        else:
            self._retry_at = now + self._resend_after_s / 4

    def retry_now(self) -> None:
        """The leader changed, or there is one again: what is under way may have been lost."""
        self._unsent = 0
        self._retry_at = 0.0
        self._patience_s = self._resend_after_s
        self._progressed = False

    # --- from the log ---

    def applied(self, applied: Applied, position: int) -> None:
        """An entry that concerns this session was applied; ``position`` is the group's after it."""
        if self.session in applied.ended:
            self._renew()
        elif applied.session != self.session:
            return
        elif applied.outcome is Outcome.DELIVERED:
            last = applied.first + applied.count - 1
            self._settle(last, lambda number: position - (last - number))
        elif applied.outcome is Outcome.GAP:
            if not self._resending:
                self._resending = True
                self._unsent = 0
        elif applied.outcome is Outcome.OPENED:
            if self.phase is Phase.UNOPENED:
                self._begin(applied.opened)
        elif applied.outcome is Outcome.REFUSED:
            self.errors.push(TooManySessions("the group's session table is full; this subscription waits for a place"))

    def skipped_to(self, table: SessionTable) -> None:
        """A snapshot was installed: entries of this session may have been applied elsewhere, unseen here."""
        held = table.sessions.get(self.session)
        if self.phase is Phase.UNOPENED:
            if held is not None:
                self._begin(held.opened)
        elif self.phase is Phase.OPEN:
            if held is not None and held.opened == self._opened:
                self._settle(held.due - 1, held.position_of)
                self.retry_now()
            else:
                self._fail_taken(SessionExpired, "this subscription's session ended unseen")
                self._renew()

    def _settle(self, last: int, position_of: Callable[[int], int | None]) -> None:
        flying = self._in_flight
        while flying and flying[0].last <= last:
            batch = flying.popleft()
            self._unsent = max(0, self._unsent - 1)
            self._resending = False
            self._progressed = True
            self._tally.proposals_committed += batch.count
            self._tally.commit_latency.add(self._now - batch.made_at)
            self.channel.settle(batch.count, batch.size, position_of(batch.last))

    def _begin(self, opened: int) -> None:
        """The session is open: number what is under way by it."""
        self.phase = Phase.OPEN
        self._opened = opened
        self._next = 1
        for batch in self._in_flight:
            batch.first = self._next
            batch.data = sessions.rename_batch(batch.data, self.session, opened, batch.first)
            self._next += batch.count
        self.retry_now()

    def _renew(self) -> None:
        """The old session is over: what is under way goes on under a new one."""
        if self._draining and not self._in_flight and not self.channel.has_waiting():
            self.phase = Phase.ENDED
            return
        self.phase = Phase.UNOPENED
        self.session = self._new_session()
        for batch in self._in_flight:
            batch.taken = False  # what the log may hold of it counts for nothing behind the session's end
        self._close_tried = False
        self._resending = False
        self.retry_now()

    def _fail_taken(self, kind: type[OutcomeUnknown], why: str) -> None:
        """Report what Raft took at some time; those batches are the first ones."""
        while self._in_flight and self._in_flight[0].taken:
            batch = self._in_flight.popleft()
            self._tally.proposals_failed += batch.count
            first = self.channel.settled + 1
            error = kind(
                f"{why}: whether proposals {first} to {first + batch.count - 1} commit is unknown", first, batch.count
            )
            if self.channel.fail(batch.count, batch.size, error):
                self.errors.push(error)
        self._unsent = 0

    # --- the end ---

    def drain(self, reason: CopyCatError) -> None:
        """Take no more proposals; send what was taken, then close the session."""
        self._draining = True
        self.channel.refuse_more(reason)

    @property
    def drained(self) -> bool:
        """Whether nothing is under way any more, and the log was told, if it could be, that the session is over."""
        if self.channel.unsettled():
            return False
        return self.phase is not Phase.OPEN or self._close_tried

    def end(self, reason: CopyCatError) -> None:
        """Stop now. What is still under way is reported: what Raft took may or may not commit, the rest never will."""
        self.phase = Phase.ENDED
        self._fail_taken(OutcomeUnknown, str(reason))
        self._in_flight.clear()
        closed = reason
        if not isinstance(reason, Closed):
            closed = Closed(str(reason))
            closed.__cause__ = reason
        first = self.channel.settled + 1
        error = self.channel.end(
            closed,
            lambda count: ProposalDropped(f"{reason}: {count} proposals from {first} on were not sent", first, count),
        )
        if error is not None:
            self.errors.push(error)
