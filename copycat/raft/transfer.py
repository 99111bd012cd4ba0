"""Handing leadership over (thesis, 3.10).

The leader brings the target's log up to its own, taking no proposals meanwhile, and then tells it to start an election
at once. If that does not succeed within an election timeout, the leader goes on as before.
"""

from __future__ import annotations

from copycat.messages import NONE, Message, MessageType
from copycat.raft import replication
from copycat.raft.state import Raft


def handle_request_at_leader(raft: Raft, message: Message) -> None:
    """``message.sender`` is to become leader. Another target replaces the present one; naming oneself only ends it."""
    target = message.sender
    progress = raft.tracker.members.get(target)
    if progress is None or progress.is_learner or target == raft.lead_transferee:
        return
    raft.lead_transferee = NONE
    if target == raft.id:
        return
    # It gets a whole election timeout.
    raft.election_elapsed = 0
    raft.lead_transferee = target
    if progress.match == raft.log.last_index:
        replication.send_timeout_now(raft, target)
    else:
        replication.send_append(raft, target, progress)


def forward_to_leader(raft: Raft, message: Message) -> None:
    if raft.lead != NONE:
        raft.send(Message(MessageType.TRANSFER_LEADER, to=raft.lead, sender=message.sender, term=raft.term))
