"""Keeps the votes on group creation alive while the electorate changes: how a node starts to vote, and how it stops.

Single-decree Paxos is proved for one fixed set of acceptors. A set that grows from 3 to 7 could otherwise form a
majority of newcomers that never heard of a group. So, in the spirit of state transfer on reconfiguration (Lamport,
Malkhi & Zhou, "Reconfiguring a state machine", 2010):

* **Enrolment.** A joiner reads the records of a majority of the members that it and they know. Whoever is read first
  notes the joiner durably and from then on refuses lists without it. What any earlier majority chose was thus either
  read by the joiner, or stopped. Only then the joiner votes. Of two nodes that enroll at once, the one with the smaller
  id goes first; the other starts over, and doesn't count for the first.
* **Departure.** A leaver stops voting, then gives its records to a majority of the others; only then may it be called
  left. The same order holds between two leavers.

Copying a record repeats proposals that were issued, under their own ballots, which never makes or unmakes a decision.

Never does: decide who is a member (gossip does), touch sockets, clocks or disks. One thread at a time.
"""

from __future__ import annotations

from copycat.acceptor import Acceptor
from copycat.genesis import (
    NOTHING,
    CreationMessage,
    Enroll,
    EnrollPage,
    HandedOver,
    HandOver,
    Reading,
    Record,
    Roster,
    Send,
    Standing,
    Step,
)

RESEND_S = 0.25


class Enrolment:
    """Makes this node's acceptor ready, after :meth:`Acceptor.meet` was told whom the seeds know.

    ``attempt`` must differ from those of earlier runs: a random number will do.
    """

    def __init__(self, acceptor: Acceptor, attempt: int, now: float) -> None:
        assert acceptor.standing is Standing.ENROLLING
        self._acceptor = acceptor
        self._attempt = attempt
        self._generation = acceptor.generation
        self._cursors: dict[str, bytes] = {}
        self._read: set[str] = set()
        self._yielded: set[str] = set()
        self._next_at = now

    @property
    def done(self) -> bool:
        return self._acceptor.standing is not Standing.ENROLLING

    def next_deadline(self) -> float:
        return float("inf") if self.done else self._next_at

    def tick(self, now: float) -> Step:
        """Ask whoever has not answered yet; see whether those that have are a majority by now, since others left."""
        if self.done or now < self._next_at:
            return NOTHING
        self._start_over_if_told()
        self._next_at = now + RESEND_S
        persist = self._end_if_read()
        # Those that yielded are asked again: they may be ready by now, and needed.
        others = set(self._acceptor.roster.known) - {self._acceptor.node_id} - self._read
        return Step(persist, tuple([self._ask(node) for node in sorted(others)]))

    def step(self, sender: str, message: CreationMessage) -> Step:
        """Take a page. The step's records must be durable before its messages go, as always."""
        if self.done or not isinstance(message, EnrollPage):
            return NOTHING
        self._start_over_if_told()
        if message.attempt != self._attempt or message.cursor != self._cursors.get(sender, b"") or sender in self._read:
            return NOTHING
        acceptor = self._acceptor
        persist: list[Record | Roster] = [*acceptor.meet(message.known, message.left).persist]
        persist.extend(acceptor.absorb(message.records))
        sends: tuple[Send, ...] = ()
        if message.reading is Reading.YIELDED:
            self._yielded.add(sender)
        elif message.reading is Reading.SERVED:
            self._yielded.discard(sender)
            if message.next_cursor:
                self._cursors[sender] = message.next_cursor
                sends = (self._ask(sender),)
            else:
                self._read.add(sender)
        persist.extend(self._end_if_read())
        return Step(tuple(persist), sends)

    def _end_if_read(self) -> tuple[Record | Roster, ...]:
        counted = set(self._acceptor.roster.known) - {self._acceptor.node_id} - self._yielded
        if 2 * len(self._read & counted) > len(counted):
            return self._acceptor.become_ready().persist
        return ()

    def _ask(self, node: str) -> Send:
        roster = self._acceptor.roster
        return Send(node, Enroll(self._attempt, self._cursors.get(node, b""), roster.known, roster.left))

    def _start_over_if_told(self) -> None:
        if self._generation == self._acceptor.generation:
            return
        self._generation = self._acceptor.generation
        self._attempt += 1
        self._cursors.clear()
        self._read.clear()
        self._yielded.clear()


class Departure:
    """Gives a sealed acceptor's records away. When :attr:`done`, gossip may say that this node has left.

    If it can't finish in the caller's time, the node must not be announced as left: it then counts as dead, and its
    records are safe on its disk.
    """

    def __init__(self, acceptor: Acceptor, attempt: int, now: float) -> None:
        assert acceptor.standing is Standing.SEALED
        self._acceptor = acceptor
        self._attempt = attempt
        self._generation = acceptor.generation
        self._cursors: dict[str, bytes] = {}
        self._finished: set[str] = set()
        self._next_at = now

    @property
    def done(self) -> bool:
        others = self._others()
        return self._generation == self._acceptor.generation and (
            2 * len(self._finished & others) > len(others) or not others
        )

    def next_deadline(self) -> float:
        return float("inf") if self.done else self._next_at

    def tick(self, now: float) -> list[Send]:
        """Send the current page to whoever has not confirmed it."""
        if self.done or now < self._next_at:
            return []
        self._start_over_if_told()
        self._next_at = now + RESEND_S
        return [self._page_for(node) for node in sorted(self._others() - self._finished)]

    def step(self, sender: str, message: CreationMessage) -> list[Send]:
        """Take a confirmation: the next page follows at once."""
        if not isinstance(message, HandedOver):
            return []
        self._start_over_if_told()
        if message.attempt != self._attempt or message.cursor != self._cursors.get(sender, b""):
            return []
        if sender in self._finished or sender not in self._others():
            return []
        _records, next_cursor = self._acceptor.page(message.cursor)
        if not next_cursor:
            self._finished.add(sender)
            return []
        self._cursors[sender] = next_cursor
        return [self._page_for(sender)]

    def _page_for(self, node: str) -> Send:
        cursor = self._cursors.get(node, b"")
        records, next_cursor = self._acceptor.page(cursor)
        return Send(node, HandOver(self._attempt, cursor, next_cursor, records))

    def _others(self) -> set[str]:
        return set(self._acceptor.roster.known) - {self._acceptor.node_id}

    def _start_over_if_told(self) -> None:
        if self._generation == self._acceptor.generation:
            return
        self._generation = self._acceptor.generation
        self._attempt += 1
        self._cursors.clear()
        self._finished.clear()
