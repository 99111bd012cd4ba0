"""One node's vote on which groups exist: the acceptor of single-decree Paxos, one instance per group id.

Rules (Lamport, "Paxos made simple", section 2.2):

* a ballot below one that was promised is refused (P1a);
* what was promised or accepted is durable before it is said: :class:`copycat.genesis.Step` shows it in its type;
* what is chosen stays chosen; whoever asks is told.

The electorate can change, so there are three more:

* a proposer whose list of members lacks a node that this one knows, or has one that left, gets a Refresh and no vote:
  a majority of an outdated list is stopped by any voter that it shares with those who know better;
* a joiner votes only after it has read the records of a majority (:mod:`copycat.enrolment`), and whoever was read knows
  the joiner from then on, durably;
* a leaver stops voting first, and gives its records to a majority before anyone may count without it.

Never does: propose, wait, or forget a record. One thread at a time.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable
from dataclasses import replace

from copycat.errors import CodecError
from copycat.genesis import (
    NO_BALLOT,
    NOTHING,
    PAGE_RECORDS_MAX,
    Accept,
    Accepted,
    Ballot,
    Chosen,
    CreationMessage,
    Enroll,
    EnrollPage,
    Genesis,
    HandedOver,
    HandOver,
    NotReady,
    Outbid,
    Prepare,
    Promise,
    Reading,
    Record,
    Refresh,
    Roster,
    Send,
    Standing,
    Step,
    merge,
    roster_digest,
)


class Acceptor:
    """All group ids of one node. Made from what its disk holds: nothing, for a new node."""

    __slots__ = ("_accepted_digests", "_known", "_order", "_records", "_roster", "_yielded_to", "generation", "node_id")

    def __init__(self, node_id: str, roster: Roster | None = None, records: Iterable[Record] = ()) -> None:
        self.node_id = node_id
        self.generation = 0
        """Grows when a copying of records that is under way must start over."""
        self._records: dict[bytes, Record] = {record.group_id: record for record in records}
        self._order = sorted(self._records)
        self._yielded_to: dict[str, int] = {}
        self._set_roster(roster if roster is not None else Roster(known=(node_id,)))

    @property
    def roster(self) -> Roster:
        return self._roster

    @property
    def standing(self) -> Standing:
        return self._roster.standing

    def record(self, group_id: bytes) -> Record | None:
        """What this node alone knows of ``group_id``. None does not mean that the group doesn't exist."""
        return self._records.get(group_id)

    def undecided(self, node_id: str) -> list[Genesis]:
        """What this node has accepted, would have a voter on ``node_id``, and is or isn't decided for all it knows.

        Not those with a voter that has left: nobody can see to these in time any more.
        """
        gone = set(self._roster.left)
        return [
            record.genesis
            for record in self._records.values()
            if record.genesis is not None
            and not record.chosen
            and record.genesis.names(node_id)
            and not record.genesis.names(*gone)
        ]

    # --- membership, told by gossip and by the node's life -------------------------------------------------------

    def found(self) -> Step:
        """This node starts a new cluster: there is nobody to read from, so it votes at once."""
        return self._roster_step(replace(self._roster, standing=Standing.READY))

    def seal(self) -> Step:
        """This node is leaving: from now on it never votes again, also after a restart."""
        return self._roster_step(replace(self._roster, standing=Standing.SEALED))

    def become_ready(self) -> Step:
        """The enrolment has read a majority (called by :class:`copycat.enrolment.Enrolment` alone)."""
        assert self.standing is Standing.ENROLLING
        return self._roster_step(replace(self._roster, standing=Standing.READY))

    def meet(self, known: Iterable[str], left: Iterable[str] = ()) -> Step:
        """Members that gossip knows of; ``left`` finished their departure, or were given up by an operator."""
        roster = self._roster
        gone = set(roster.left) | (set(left) - {self.node_id})
        members = (self._known | set(known)) - gone
        if len(gone) == len(roster.left) and members == self._known:
            return NOTHING
        return self._roster_step(
            replace(
                roster,
                known=tuple(sorted(members)),
                left=tuple(sorted(gone)),
                handed_over=tuple([node for node in roster.handed_over if node in members]),
            )
        )

    # --- messages ------------------------------------------------------------------------------------------------

    def step(self, sender: str, message: CreationMessage) -> Step:
        """Take one message. Those that are meant for proposers or for an enrolment are ignored."""
        if isinstance(message, Prepare):
            return self._on_prepare(sender, message)
        if isinstance(message, Accept):
            return self._on_accept(sender, message)
        if isinstance(message, Chosen):
            return self._on_chosen(message.genesis)
        if isinstance(message, Enroll):
            return self._on_enroll(sender, message)
        if isinstance(message, HandOver):
            return self._on_hand_over(sender, message)
        return NOTHING

    def _on_prepare(self, sender: str, message: Prepare) -> Step:
        record = self._records.get(message.group_id)
        refused = self._refusal(record, message.group_id, message.ballot, message.roster_digest, message.members)
        if refused is not None:
            return Step(then_send=(Send(sender, refused),))
        if record is None:
            record = Record(message.group_id)
        promise = Promise(message.group_id, message.ballot, record.accepted, record.genesis)
        return self._record_step(replace(record, promised=message.ballot), Send(sender, promise))

    def _on_accept(self, sender: str, message: Accept) -> Step:
        genesis = message.genesis
        record = self._records.get(genesis.group_id)
        refused = self._refusal(record, genesis.group_id, message.ballot, message.roster_digest, message.members)
        if refused is not None:
            return Step(then_send=(Send(sender, refused),))
        roster = self._roster
        if not message.forced and genesis.names(*roster.handed_over, *roster.left):
            # A new wish, made before that node began to leave: it could not hand that place over any more.
            staying = tuple([node_id for node_id in roster.known if node_id not in roster.handed_over])
            gone = (*roster.left, *roster.handed_over)
            return Step(then_send=(Send(sender, Refresh(genesis.group_id, message.ballot, staying, gone)),))
        accepted = Record(genesis.group_id, message.ballot, message.ballot, genesis)
        return self._record_step(accepted, Send(sender, Accepted(genesis.group_id, message.ballot)))

    def _on_chosen(self, genesis: Genesis) -> Step:
        record = self._records.get(genesis.group_id)
        if record is not None and record.chosen:
            if record.genesis != genesis:
                raise CodecError(f"two groups were created for one id: {record.genesis} and {genesis}")
            return NOTHING
        accepted = record.accepted if record is not None else NO_BALLOT
        promised = record.promised if record is not None else NO_BALLOT
        return self._record_step(Record(genesis.group_id, promised, accepted, genesis, chosen=True))

    def _on_enroll(self, sender: str, message: Enroll) -> Step:
        if sender in self._roster.left or sender == self.node_id:
            return NOTHING
        persist = self.meet((sender, *message.known), message.left).persist
        reading = Reading.SERVED
        if self.standing is Standing.ENROLLING:
            reading = Reading.WAIT
            if sender < self.node_id:
                reading = Reading.YIELDED
                if self._yielded_to.get(sender) != message.attempt:
                    self._yielded_to[sender] = message.attempt
                    self.generation += 1
        records: tuple[Record, ...] = ()
        next_cursor = b""
        if reading is Reading.SERVED:
            records, next_cursor = self.page(message.cursor)
        page = EnrollPage(
            message.attempt, message.cursor, next_cursor, reading, self._roster.known, self._roster.left, records
        )
        return Step(persist, (Send(sender, page),))

    def _on_hand_over(self, sender: str, message: HandOver) -> Step:
        if self.standing is Standing.SEALED:
            if sender > self.node_id:
                return NOTHING  # that one takes over from this one, not the other way round
            self.generation += 1
        persist: list[Record | Roster] = list(self.absorb(message.records))
        roster = self._roster
        if not message.next_cursor and sender in self._known and sender not in roster.handed_over:
            persist.extend(self._roster_step(replace(roster, handed_over=(*roster.handed_over, sender))).persist)
        return Step(tuple(persist), (Send(sender, HandedOver(message.attempt, message.cursor)),))

    # --- copying -------------------------------------------------------------------------------------------------

    def page(self, cursor: bytes) -> tuple[tuple[Record, ...], bytes]:
        """Records behind ``cursor`` in the order of ids, and the cursor behind them: empty at the end."""
        first = bisect_right(self._order, cursor) if cursor else 0
        ids = self._order[first : first + PAGE_RECORDS_MAX]
        more = first + PAGE_RECORDS_MAX < len(self._order)
        return tuple([self._records[group_id] for group_id in ids]), ids[-1] if more else b""

    def absorb(self, records: Iterable[Record]) -> tuple[Record, ...]:
        """Merge another acceptor's records; returns those that changed and must be persisted."""
        changed = []
        for theirs in records:
            mine = self._records.get(theirs.group_id)
            merged = merge(mine, theirs)
            if merged != mine:
                self._put(merged)
                changed.append(merged)
        return tuple(changed)

    # --- inside --------------------------------------------------------------------------------------------------

    def _refusal(
        self, record: Record | None, group_id: bytes, ballot: Ballot, digest: bytes, members: tuple[str, ...]
    ) -> CreationMessage | None:
        if record is not None and record.chosen:
            assert record.genesis is not None
            return Chosen(record.genesis)
        if self.standing is not Standing.READY:
            return NotReady(group_id, ballot)
        if digest not in self._accepted_digests and not self._fits(members):
            return Refresh(group_id, ballot, self._roster.known, self._roster.left)
        if record is not None and ballot < record.promised:
            return Outbid(group_id, ballot, record.promised)
        return None

    def _fits(self, members: tuple[str, ...]) -> bool:
        listed = set(members)
        roster = self._roster
        return bool(listed) and listed >= self._known - set(roster.handed_over) and listed.isdisjoint(roster.left)

    def _put(self, record: Record) -> None:
        if record.group_id not in self._records:
            insort(self._order, record.group_id)
        self._records[record.group_id] = record

    def _record_step(self, record: Record, *sends: Send) -> Step:
        if self._records.get(record.group_id) == record:
            return Step((), sends)
        self._put(record)
        return Step((record,), sends)

    def _set_roster(self, roster: Roster) -> None:
        self._roster = roster
        self._known = set(roster.known)
        self._accepted_digests = {
            roster_digest(self._known),
            roster_digest(self._known - set(roster.handed_over)),
        }

    def _roster_step(self, roster: Roster) -> Step:
        if roster == self._roster:
            return NOTHING
        self._set_roster(roster)
        return Step((roster,))
