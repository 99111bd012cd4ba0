"""RawNode: one replica of one group, as the engine drives it.

Put in what happened (``tick``, ``step``, ``propose`` ...), take out what is to be done (``ready``), do it, say so
(``advance``, or in asynchronous mode the responses that the work carried). It knows no clock, socket, disk or thread,
never waits, and is not thread-safe: one thread at a time.

Errors of :meth:`RawNode.step` and the proposals leave the state unchanged. :class:`~copycat.errors.LogDiverged` means
that this replica must stop.
"""

from __future__ import annotations

from collections.abc import Sequence

from copycat.messages import (
    LOCAL_APPEND_THREAD,
    LOCAL_APPLY_THREAD,
    NONE,
    ConfChange,
    ConfState,
    Entry,
    EntryType,
    HardState,
    Message,
    MessageType,
)
from copycat.raft import core, membership, reads
from copycat.raft.confchange import pack_conf_change
from copycat.raft.config import RaftConfig
from copycat.raft.ready import PeerStatus, Ready, Role, SoftState, Status
from copycat.raft.state import Raft

# Looking a member up in its enumeration costs more than the message.
_PROP = MessageType.PROP
_STORAGE_APPEND = MessageType.STORAGE_APPEND
_STORAGE_APPEND_RESP = MessageType.STORAGE_APPEND_RESP
_STORAGE_APPLY = MessageType.STORAGE_APPLY
_STORAGE_APPLY_RESP = MessageType.STORAGE_APPLY_RESP


class RawNode:
    """See the module. ``raft`` is the state behind it: to look at, not to touch."""

    __slots__ = ("_apply_unstable", "_hard_state", "_soft_state", "_steps_on_advance", "raft")

    def __init__(self, config: RaftConfig) -> None:
        self.raft = Raft(config)
        # In synchronous mode entries are written before committed ones are applied, so those may still be unstable.
        self._apply_unstable = not config.async_storage_writes
        self._steps_on_advance: list[Message] = []
        self._soft_state: SoftState = self.raft.soft_state()
        self._hard_state: HardState = self.raft.hard_state()

    # --- what happened ---

    def tick(self) -> None:
        """One tick of time has passed."""
        core.tick(self.raft)

    def step(self, message: Message) -> None:
        """A message has arrived.

        Raises :class:`~copycat.errors.PeerUnknown` for an answer of a replica that is no member,
        :class:`~copycat.errors.ProposalDropped` for a proposal that was not taken, and
        :class:`~copycat.errors.LocalMessage`.
        """
        core.deliver(self.raft, message)

    def campaign(self) -> None:
        """Start an election now, if this replica may stand."""
        self._local(MessageType.HUP, self.raft.id)

    def propose(self, data: bytes) -> None:
        """Propose one entry; a follower sends it on. Raises :class:`~copycat.errors.ProposalDropped`."""
        raft = self.raft
        core.step(raft, Message(_PROP, sender=raft.id, entries=[Entry(0, 0, EntryType.NORMAL, data)]))

    def propose_many(self, data: Sequence[bytes]) -> None:
        """Propose several entries that follow each other: all of them are taken, or none.

        Raises :class:`~copycat.errors.ProposalDropped`.
        """
        if data:
            entries = [Entry(0, 0, EntryType.NORMAL, each) for each in data]
            core.step(self.raft, Message(_PROP, sender=self.raft.id, entries=entries))

    def propose_conf_change(self, change: ConfChange) -> None:
        """Propose a change of the configuration; without operations, to leave a joint one.

        One that can't follow the present configuration, or comes while another is pending, is replaced by an empty
        entry. Raises :class:`~copycat.errors.ProposalDropped`.
        """
        kind = EntryType.CONF_CHANGE if change.v1 else EntryType.CONF_CHANGE_V2
        entry = Entry(0, 0, kind, pack_conf_change(change))
        core.step(self.raft, Message(_PROP, sender=self.raft.id, entries=[entry]))

    def check_conf_change(self, change: ConfChange) -> None:
        """Raise :class:`~copycat.errors.InvalidConfChange` unless ``change`` could follow the present configuration."""
        raft = self.raft
        raft.tracker.changer(raft.log.last_index).apply(change)

    def apply_conf_change(self, change: ConfChange) -> ConfState:
        """The application reached this change in the log. Call it for each, before saying that its entry is applied.
        It has no effect, and need not be called, once a snapshot came that goes beyond the entry.

        Raises :class:`~copycat.errors.InvalidConfChange`, with nothing changed, if it can't follow the present
        configuration.
        """
        return membership.apply_conf_change(self.raft, change)

    def read_index(self, context: bytes) -> None:
        """Ask for a linearizable read; its ``ReadState`` comes with a later ``Ready``. It may be lost: ask again."""
        core.step(self.raft, reads.request_for(self.raft, context))

    def transfer_leader(self, target: int) -> None:
        """Hand leadership to ``target``; a follower asks its leader to."""
        self._local(MessageType.TRANSFER_LEADER, target)

    def forget_leader(self) -> None:
        """The application knows that the leader is gone: grant votes at once. Not with lease-based reads."""
        self._local(MessageType.FORGET_LEADER, self.raft.id)

    def report_unreachable(self, peer: int) -> None:
        """A message to ``peer`` could not be sent."""
        self._local(MessageType.UNREACHABLE, peer)

    def report_snapshot(self, peer: int, ok: bool) -> None:
        """A snapshot for ``peer`` was sent, or could not be. Must be said in the end, or the peer gets nothing more."""
        core.step(self.raft, Message(MessageType.SNAP_STATUS, sender=peer, reject=not ok))

    def _local(self, kind: MessageType, sender: int) -> None:
        core.step(self.raft, Message(kind, sender=sender))

    def learn_commit(self, index: int, term: int) -> bool:
        """Someone knows that the entry of ``term`` at ``index`` is committed; whether that is news here.

        Believed only if this replica holds that very entry: then it holds everything before it, too (5.3, log matching).
        """
        raft = self.raft
        if raft.role == Role.LEADER or index <= raft.log.committed or not raft.log.holds(index, term):
            return False
        raft.log.commit_to(index)
        return True

    # --- what is to be done ---

    def has_ready(self) -> bool:
        """Whether :meth:`ready` has anything to say."""
        raft = self.raft
        if raft.messages or raft.messages_after_append or raft.read_states:
            return True
        log = raft.log
        unstable = log.unstable
        hard, soft = self._hard_state, self._soft_state
        # Asked after every step, and mostly in vain: written out, since calls would cost more than what they look at.
        return (
            log.committed != hard.commit
            or unstable.in_progress_to - unstable.offset < len(unstable.entries)
            or raft.lead != soft.lead
            or raft.role != soft.role
            or raft.term != hard.term
            or raft.vote != hard.vote
            or (log.applying < log.committed and log.has_next_committed(self._apply_unstable))
            or (unstable.snapshot is not None and not unstable.snapshot_in_progress)
        )

    def ready(self) -> Ready:
        """Take everything that is to be done. In synchronous mode ``advance`` comes before the next."""
        raft = self.raft
        log = raft.log
        unstable = log.unstable
        after_append = raft.messages_after_append
        entries = unstable.entries[unstable.in_progress_to - unstable.offset :]
        snapshot = unstable.new_snapshot() if unstable.snapshot is not None else None
        committed = log.take_committed(self._apply_unstable) if log.applying < log.committed else []
        must_sync = bool(entries)
        soft_state = hard_state = None
        soft, hard = self._soft_state, self._hard_state
        if raft.lead != soft.lead or raft.role != soft.role:
            soft_state = self._soft_state = SoftState(raft.lead, raft.role)
        if log.committed != hard.commit or raft.term != hard.term or raft.vote != hard.vote:
            must_sync = must_sync or raft.term != hard.term or raft.vote != hard.vote
            hard_state = self._hard_state = HardState(raft.term, raft.vote, log.committed)
        ready = Ready(soft_state, hard_state, raft.read_states, entries, snapshot, committed, raft.messages, must_sync)
        if self._apply_unstable:
            self._plan_advance(ready, after_append)
        else:
            self._plan_storage_threads(ready, after_append)
        if raft.read_states:
            raft.read_states = []
        raft.messages = []
        raft.messages_after_append = []
        if entries or snapshot is not None:
            unstable.hand_out()
        return ready

    def _plan_advance(self, ready: Ready, after_append: list[Message]) -> None:
        """Synchronous: others hear of the write after it, this replica itself when it is told that all is done."""
        own_id = self.raft.id
        steps = self._steps_on_advance
        for message in after_append:
            (steps if message.to == own_id else ready.messages).append(message)
        if self.raft.log.unstable.entries or ready.snapshot is not None:
            steps.append(self._append_acknowledgement(ready))
        if ready.committed_entries:
            steps.append(self._apply_acknowledgement(ready))

    def _plan_storage_threads(self, ready: Ready, after_append: list[Message]) -> None:
        """Asynchronous: the work travels as messages, which carry what may be said once it is done."""
        hard_state = ready.hard_state
        if ready.entries or hard_state is not None or ready.snapshot is not None or after_append:
            term, vote, commit = (
                (0, 0, 0) if hard_state is None else (hard_state.term, hard_state.vote, hard_state.commit)
            )
            work = Message(_STORAGE_APPEND, LOCAL_APPEND_THREAD, self.raft.id, term, 0, 0, commit, vote)
            work.entries, work.snapshot, work.responses = ready.entries, ready.snapshot, after_append
            # Even if this write adds no entries: an acknowledgement of an earlier term is ignored, this one is not.
            if self.raft.log.unstable.entries or ready.snapshot is not None:
                work.responses.append(self._append_acknowledgement(ready))
            ready.messages.append(work)
        if ready.committed_entries:
            work = Message(_STORAGE_APPLY, LOCAL_APPLY_THREAD, self.raft.id, entries=ready.committed_entries)
            work.responses.append(self._apply_acknowledgement(ready))
            ready.messages.append(work)

    def _append_acknowledgement(self, ready: Ready) -> Message:
        """Says that the log up to its present end is durable, as of this term."""
        raft, log = self.raft, self.raft.log
        snapshot = ready.snapshot
        if not log.unstable.entries:
            return Message(_STORAGE_APPEND_RESP, raft.id, LOCAL_APPEND_THREAD, raft.term, snapshot=snapshot)
        last_term, last_index = log.last_term, log.last_index
        return Message(
            _STORAGE_APPEND_RESP, raft.id, LOCAL_APPEND_THREAD, raft.term, last_term, last_index, snapshot=snapshot
        )

    def _apply_acknowledgement(self, ready: Ready) -> Message:
        return Message(_STORAGE_APPLY_RESP, self.raft.id, LOCAL_APPLY_THREAD, entries=ready.committed_entries)

    def advance(self) -> None:
        """Synchronous mode only: everything in the last ``Ready`` is done."""
        steps = self._steps_on_advance
        if steps:
            self._steps_on_advance = []
            raft = self.raft
            for message in steps:
                core.step(raft, message)

    # --- what is known ---

    @property
    def id(self) -> int:
        return self.raft.id

    @property
    def term(self) -> int:
        return self.raft.term

    @property
    def vote(self) -> int:
        return self.raft.vote

    @property
    def lead(self) -> int:
        """The leader's id as far as is known, or ``NONE``."""
        return self.raft.lead

    @property
    def role(self) -> Role:
        return self.raft.role

    @property
    def committed(self) -> int:
        return self.raft.log.committed

    @property
    def applied(self) -> int:
        return self.raft.log.applied

    @property
    def first_index(self) -> int:
        return self.raft.log.first_index()

    @property
    def last_index(self) -> int:
        return self.raft.log.last_index

    def term_of(self, index: int) -> int | None:
        """The term of the entry at ``index``; None if the log does not hold it."""
        return self.raft.log.term(index)

    @property
    def has_vote(self) -> bool:
        """Whether this replica is a voter in the configuration that it has applied."""
        return self.raft.id in self.raft.tracker.voters()

    @property
    def abandoned(self) -> bool:
        """Whether no leader was heard of for so long that this replica may be a member no more."""
        raft = self.raft
        if raft.role == Role.LEADER:
            return False
        return raft.lead == NONE or raft.election_elapsed > 2 * raft.randomized_election_timeout

    @property
    def hears_leader(self) -> bool:
        """Whether this replica leads, or has heard its leader within an election timeout."""
        return core.hears_leader(self.raft)

    @property
    def heard_leader(self) -> int:
        """That leader, or ``NONE``."""
        return self.raft.lead if core.hears_leader(self.raft) else NONE

    @property
    def restoring(self) -> bool:
        """Whether Raft took a snapshot that was not handed out to be installed yet."""
        return self.raft.log.unstable.new_snapshot() is not None

    @property
    def change_pending(self) -> bool:
        """On a leader: whether a configuration change would be refused now (thesis, 4.1: one at a time)."""
        raft = self.raft
        return raft.pending_conf_index > raft.log.applied or raft.tracker.config.joint

    def basic_status(self) -> Status:
        """Everything but the progress of the others; cheap."""
        raft = self.raft
        return Status(
            id=raft.id,
            term=raft.term,
            vote=raft.vote,
            commit=raft.log.committed,
            applied=raft.log.applied,
            role=raft.role,
            lead=raft.lead,
            lead_transferee=raft.lead_transferee,
            config=raft.tracker.config,
        )

    def status(self) -> Status:
        """A copy of what is known; with every member's progress, ascending by id, on a leader."""
        status = self.basic_status()
        if status.role == Role.LEADER:
            members = self.raft.tracker.members
            status.progress.update((peer, PeerStatus.of(members[peer])) for peer in sorted(members))
        return status
