"""Linearizable reads without an entry in the log (thesis, 6.4).

A leader notes its commit index, makes sure that it still leads, and lets the read go ahead once that index is applied.
Its commit index is the group's only after it has committed an entry of its own term, so until then requests wait: also
where it is the sole voter, since a commit index read back from disk may be older than what was answered before a
crash.
"""

from __future__ import annotations

from copycat.messages import NONE, Entry, Message, MessageType
from copycat.raft.config import ReadOnly
from copycat.raft.heartbeat import broadcast_heartbeat
from copycat.raft.ready import ReadState
from copycat.raft.state import Raft

READ_INDEX = MessageType.READ_INDEX
READ_INDEX_RESP = MessageType.READ_INDEX_RESP


def request_for(raft: Raft, context: bytes) -> Message:
    """A read of this replica's own state machine."""
    return Message(READ_INDEX, sender=raft.id, entries=[Entry(0, 0, data=context)])


def handle_request_at_leader(raft: Raft, request: Message) -> None:
    if len(request.entries) != 1 or len(raft.reads) + len(raft.reads_before_commit) >= raft.waiting_reads_max:
        return
    log = raft.log
    if log.term(log.committed) != raft.term:
        raft.reads_before_commit.append(request)
        return
    _serve(raft, request)


def _serve(raft: Raft, request: Message) -> None:
    if raft.read_only is ReadOnly.LEASE_BASED or raft.tracker.sole_voter() == raft.id:
        _answer(raft, request, raft.log.committed)
        return
    raft.reads.add(raft.log.committed, request)
    raft.reads.acknowledge_own(raft.id)
    broadcast_heartbeat(raft)


def _answer(raft: Raft, request: Message, index: int) -> None:
    if request.sender in (NONE, raft.id):
        raft.read_states.append(ReadState(index, request.entries[0].data))
        return
    raft.send(
        Message(
            READ_INDEX_RESP,
            to=request.sender,
            sender=raft.id,
            term=raft.term,
            index=index,
            entries=list(request.entries),
        )
    )


def commit_advanced(raft: Raft) -> None:
    """The leader has committed an entry of its term: serve what waited for that."""
    waiting = raft.reads_before_commit
    if waiting:
        raft.reads_before_commit = []
        for request in waiting:
            _serve(raft, request)


def acknowledge(raft: Raft, message: Message) -> None:
    """A peer answered a heartbeat that vouches for reads."""
    raft.reads.acknowledge(message.sender, message.context)
    release(raft)


def release(raft: Raft) -> None:
    """Answer what a quorum of the present configuration has vouched for."""
    if len(raft.reads):
        for read in raft.reads.release(raft.tracker.quorum_of):
            _answer(raft, read.request, read.index)


def forward_to_leader(raft: Raft, request: Message) -> None:
    """A follower asks its leader; without one the request is dropped, and asked again by whoever wants it."""
    if raft.lead != NONE:
        raft.send(
            Message(
                READ_INDEX,
                to=raft.lead,
                sender=request.sender,
                entries=list(request.entries),
                context=request.context,
            )
        )


def handle_answer(raft: Raft, message: Message) -> None:
    if len(message.entries) == 1:
        raft.read_states.append(ReadState(message.index, message.entries[0].data))
