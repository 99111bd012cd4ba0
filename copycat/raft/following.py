"""A follower's side of replication (figure 2, AppendEntries; figure 13, InstallSnapshot).

By the time a message gets here, its term is this replica's own and its sender is the leader of that term.
"""

from __future__ import annotations

from copycat.messages import Message, MessageType
from copycat.raft.confchange import Configuration
from copycat.raft.state import Raft

APP_RESP = MessageType.APP_RESP


def handle_append(raft: Raft, message: Message) -> None:
    """Take the leader's entries, or say where the logs may agree."""
    raft.election_elapsed = 0
    raft.lead = message.sender
    log = raft.log
    previous = message.index
    entries = message.entries
    count = len(entries)
    if count and (entries[0].index != previous + 1 or entries[-1].index != previous + count):
        return  # no leader sends this
    if previous < log.committed:
        _accept(raft, message.sender, log.committed)
    elif log.append_after(previous, message.log_term, entries):
        log.commit_to(min(message.commit, previous + count))
        _accept(raft, message.sender, previous + count)
    else:
        hint = log.probable_match(min(previous, log.last_index), message.log_term)
        raft.send_after_append(
            Message(
                APP_RESP,
                to=message.sender,
                sender=raft.id,
                term=raft.term,
                log_term=log.term(hint) or 0,
                index=previous,
                reject=True,
                reject_hint=hint,
            )
        )


def _accept(raft: Raft, leader: int, index: int) -> None:
    raft.messages_after_append.append(Message(APP_RESP, leader, raft.id, raft.term, 0, index))


def handle_snapshot(raft: Raft, message: Message) -> None:
    """Let a snapshot replace the log, unless the log has all of it already.

    It may have been made before this replica joined: then the log behind it says so, as it would to a replica that
    began with the group's first configuration.
    """
    raft.election_elapsed = 0
    raft.lead = message.sender
    _accept(raft, message.sender, raft.log.last_index if _install(raft, message) else raft.log.committed)


def _install(raft: Raft, message: Message) -> bool:
    snapshot = message.snapshot
    if snapshot is None or snapshot.index <= raft.log.committed:
        return False
    state = snapshot.conf_state
    known = raft.id in state.voters or raft.id in state.learners or raft.id in state.voters_outgoing
    if not known and not raft.install_older_snapshots:
        return False  # it was made before this replica joined, or after it left
    if raft.log.holds(snapshot.index, snapshot.term):
        raft.log.commit_to(snapshot.index)
        return False
    Configuration.of(state)  # refuse it as a whole before anything is replaced
    raft.log.restore(snapshot)
    raft.tracker.restore(state, raft.log.last_index)
    return True
