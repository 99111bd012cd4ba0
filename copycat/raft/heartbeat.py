"""What a leader does by the clock: heartbeats, and the check that a quorum still hears it.

Check-quorum (thesis, 6.2): a leader that was not answered by a quorum for an election timeout steps down, so that its
clients look elsewhere. In return, followers that hear it refuse to vote for others (see :mod:`copycat.raft.core`).
"""

from __future__ import annotations

from copycat.messages import NONE, Message, MessageType
from copycat.raft.ready import Role
from copycat.raft.state import Raft

HEARTBEAT = MessageType.HEARTBEAT
HEARTBEAT_RESP = MessageType.HEARTBEAT_RESP


def tick_leader(raft: Raft) -> None:
    """One tick of a leader's two timers."""
    raft.heartbeat_elapsed += 1
    raft.election_elapsed += 1
    if raft.election_elapsed >= raft.election_tick:
        raft.election_elapsed = 0
        if raft.check_quorum:
            check_quorum(raft)
        # The transferee had a whole election timeout; serve proposals again (thesis, 3.10).
        raft.lead_transferee = NONE
    if raft.role == Role.LEADER and raft.heartbeat_elapsed >= raft.heartbeat_tick:
        raft.heartbeat_elapsed = 0
        broadcast_heartbeat(raft)


def check_quorum(raft: Raft) -> None:
    """Step down unless a quorum was heard from since the last check."""
    if not raft.tracker.quorum_is_active():
        raft.become_follower(raft.term, NONE)
    for _, progress in raft.tracker.peers:
        progress.begin_period()


def broadcast_heartbeat(raft: Raft) -> None:
    """Tell all that this leader lives, and what each may safely commit: no more than it is known to hold."""
    committed = raft.log.committed
    context = raft.reads.context()
    for peer, progress in raft.tracker.peers:
        commit = progress.sent_commit = min(progress.match, committed)
        raft.send(Message(HEARTBEAT, to=peer, sender=raft.id, term=raft.term, commit=commit, context=context))


def handle_beat(raft: Raft, message: Message) -> None:
    broadcast_heartbeat(raft)


def handle_check_quorum(raft: Raft, message: Message) -> None:
    check_quorum(raft)


def handle_heartbeat(raft: Raft, message: Message) -> None:
    """A follower's answer; it depends on nothing that is not yet durable."""
    raft.election_elapsed = 0
    raft.lead = message.sender
    raft.log.commit_to(message.commit)
    raft.send(Message(HEARTBEAT_RESP, to=message.sender, sender=raft.id, term=raft.term, context=message.context))
