"""Which rule handles which message: terms first, then one table per role.

Every message with a term is measured against this replica's own (figure 2, "all servers"). What is left is handed to
the function that the table names for the present role; a gap in the table means that the role ignores that message.

The lease (thesis, 6.2 and 9.6): with check-quorum, a replica that hears a leader does not even look at requests for
votes, so that one that was cut off or removed can't depose a leader that works.
"""

from __future__ import annotations

from collections.abc import Callable

from copycat.errors import LocalMessage, PeerUnknown, ProposalDropped
from copycat.messages import LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD, NONE, Message, MessageType
from copycat.raft import election, following, heartbeat, membership, reads, replication, transfer
from copycat.raft.config import ReadOnly
from copycat.raft.log import payload_size
from copycat.raft.ready import Role
from copycat.raft.state import Raft

Handler = Callable[[Raft, Message], None]
_Type = MessageType

_LOCAL = frozenset(
    {
        _Type.HUP,
        _Type.BEAT,
        _Type.UNREACHABLE,
        _Type.SNAP_STATUS,
        _Type.CHECK_QUORUM,
        _Type.FORGET_LEADER,
        _Type.STORAGE_APPEND,
        _Type.STORAGE_APPEND_RESP,
        _Type.STORAGE_APPLY,
        _Type.STORAGE_APPLY_RESP,
    }
)
_RESPONSES = frozenset(
    {_Type.APP_RESP, _Type.VOTE_RESP, _Type.PRE_VOTE_RESP, _Type.HEARTBEAT_RESP, _Type.READ_INDEX_RESP}
)
_FROM_LEADERS = frozenset({_Type.APP, _Type.HEARTBEAT, _Type.SNAP})
_VOTE_REQUESTS = frozenset({_Type.VOTE, _Type.PRE_VOTE})


def tick(raft: Raft) -> None:
    """One unit of time has passed."""
    if raft.role == Role.LEADER:
        heartbeat.tick_leader(raft)
    else:
        election.tick_election(raft)


def deliver(raft: Raft, message: Message) -> None:
    """A message has come from another replica or from a storage thread.

    Raises :class:`~copycat.errors.LocalMessage` and :class:`~copycat.errors.PeerUnknown` (nothing was changed), and
    what :func:`step` raises.
    """
    sender = message.sender
    if message.type in _LOCAL:
        if sender not in (LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD):
            raise LocalMessage(f"{message.type.name} can't come from replica {sender}")
    elif message.type in _RESPONSES and sender not in raft.tracker.members:
        raise PeerUnknown(f"{message.type.name} from replica {sender}, which is no member")
    step(raft, message)


def step(raft: Raft, message: Message) -> None:
    """Let one message have its effect. Raises :class:`~copycat.errors.ProposalDropped` for a proposal not taken."""
    term = message.term
    if term and term != raft.term:
        if term < raft.term:
            _handle_lower_term(raft, message)
            return
        if not _enter_higher_term(raft, message):
            return
    handler = _TABLES[raft.role][message.type]
    if handler is not None:
        handler(raft, message)


def _enter_higher_term(raft: Raft, message: Message) -> bool:
    """Follow into the message's term, if it proves that there is one. False if the message is to be ignored."""
    kind = message.type
    if kind in _VOTE_REQUESTS and message.context != election.TRANSFER_CONTEXT and hears_leader(raft):
        return False
    if kind == _Type.PRE_VOTE or (kind == _Type.PRE_VOTE_RESP and not message.reject):
        return True  # a term that may never be
    raft.become_follower(message.term, message.sender if kind in _FROM_LEADERS else NONE)
    return True


def hears_leader(raft: Raft) -> bool:
    """Whether the lease of check-quorum holds, during which nobody else is voted for."""
    return raft.check_quorum and raft.lead != NONE and raft.election_elapsed < raft.election_tick


def _handle_lower_term(raft: Raft, message: Message) -> None:
    kind = message.type
    if kind in (_Type.HEARTBEAT, _Type.APP):
        if raft.check_quorum or raft.pre_vote:
            # A leader of the past would wait in vain, and under a lease nobody could tell it. An answer brings it up.
            raft.send_after_append(Message(_Type.APP_RESP, to=message.sender, sender=raft.id, term=raft.term))
    elif kind == _Type.PRE_VOTE:
        # Ignored, a pre-candidate of a lower term could wait for ever, because it never raises its own.
        election.answer_vote(raft, message, False)
    elif kind == _Type.STORAGE_APPEND_RESP and message.snapshot is not None:
        # The entries may have been overwritten since by a write still under way; a snapshot can't have been.
        _snapshot_stored(raft, message.snapshot.index)


# --- storage --------------------------------------------------------------------------------------------------------


def _handle_stored(raft: Raft, message: Message) -> None:
    if message.index:
        raft.log.stable_to(message.index, message.log_term)
    if message.snapshot is not None:
        _snapshot_stored(raft, message.snapshot.index)


def _snapshot_stored(raft: Raft, index: int) -> None:
    raft.log.unstable.snapshot_stable(index)
    membership.applied_to(raft, index)


def _handle_applied(raft: Raft, message: Message) -> None:
    entries = message.entries
    if entries:
        membership.applied_to(raft, entries[-1].index)
        if raft.uncommitted_size:
            raft.uncommitted_size = max(raft.uncommitted_size - payload_size(entries), 0)


# --- one line each --------------------------------------------------------------------------------------------------


def _append_proposals(raft: Raft, message: Message) -> None:
    membership.propose(raft, message.entries)


def _forward_proposals(raft: Raft, message: Message) -> None:
    if raft.lead == NONE:
        raise ProposalDropped("the group has no leader now; propose again when there is one")
    if raft.disable_proposal_forwarding:
        raise ProposalDropped(f"proposals are not forwarded; the leader is replica {raft.lead}")
    raft.send(Message(_Type.PROP, to=raft.lead, sender=message.sender, entries=message.entries))


def _drop_proposals(raft: Raft, message: Message) -> None:
    raise ProposalDropped("an election is under way; propose again when there is a leader")


def _follow(rule: Handler) -> Handler:
    """A candidate hears the leader of its own term: the election is over."""

    def handle(raft: Raft, message: Message) -> None:
        raft.become_follower(message.term, message.sender)
        rule(raft, message)

    return handle


def _forget_leader(raft: Raft, message: Message) -> None:
    # The lease that reads rely on is this replica's promise not to vote while it hears its leader.
    if raft.read_only is not ReadOnly.LEASE_BASED:
        raft.lead = NONE


# --- tables ---------------------------------------------------------------------------------------------------------

_ALWAYS: dict[MessageType, Handler] = {
    _Type.HUP: election.handle_hup,
    _Type.VOTE: election.handle_vote_request,
    _Type.PRE_VOTE: election.handle_vote_request,
    _Type.STORAGE_APPEND_RESP: _handle_stored,
    _Type.STORAGE_APPLY_RESP: _handle_applied,
}

_FOLLOWER: dict[MessageType, Handler] = {
    _Type.PROP: _forward_proposals,
    _Type.APP: following.handle_append,
    _Type.HEARTBEAT: heartbeat.handle_heartbeat,
    _Type.SNAP: following.handle_snapshot,
    _Type.TRANSFER_LEADER: transfer.forward_to_leader,
    _Type.TIMEOUT_NOW: election.handle_timeout_now,
    _Type.READ_INDEX: reads.forward_to_leader,
    _Type.READ_INDEX_RESP: reads.handle_answer,
    _Type.FORGET_LEADER: _forget_leader,
}

_ANY_CANDIDATE: dict[MessageType, Handler] = {
    _Type.PROP: _drop_proposals,
    _Type.APP: _follow(following.handle_append),
    _Type.HEARTBEAT: _follow(heartbeat.handle_heartbeat),
    _Type.SNAP: _follow(following.handle_snapshot),
}

_PRE_CANDIDATE = _ANY_CANDIDATE | {_Type.PRE_VOTE_RESP: election.handle_vote}
_CANDIDATE = _ANY_CANDIDATE | {_Type.VOTE_RESP: election.handle_vote}

_LEADER: dict[MessageType, Handler] = {
    _Type.PROP: _append_proposals,
    _Type.APP_RESP: replication.handle_append_response,
    _Type.HEARTBEAT_RESP: replication.handle_heartbeat_response,
    _Type.UNREACHABLE: replication.handle_unreachable,
    _Type.SNAP_STATUS: replication.handle_snapshot_status,
    _Type.BEAT: heartbeat.handle_beat,
    _Type.CHECK_QUORUM: heartbeat.handle_check_quorum,
    _Type.TRANSFER_LEADER: transfer.handle_request_at_leader,
    _Type.READ_INDEX: reads.handle_request_at_leader,
}


def _row(rules: dict[MessageType, Handler]) -> tuple[Handler | None, ...]:
    known = _ALWAYS | rules
    return tuple(known.get(kind) for kind in MessageType)


_RULES = {
    Role.FOLLOWER: _FOLLOWER,
    Role.CANDIDATE: _CANDIDATE,
    Role.LEADER: _LEADER,
    Role.PRE_CANDIDATE: _PRE_CANDIDATE,
}
_TABLES: tuple[tuple[Handler | None, ...], ...] = tuple(_row(_RULES[role]) for role in Role)
