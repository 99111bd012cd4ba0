"""Changing who belongs to the group (paper, section 6; thesis, chapter 4).

A change takes effect at each replica when it *applies* the entry, so at most one may be in the log and not applied:
that is checked when it is proposed, against the applied index, and again by whoever becomes leader, who can't know
what the tail holds. A joint configuration that was entered implicitly is left by its leader as soon as entering is
applied.
"""

from __future__ import annotations

from copycat.errors import CodecError, ProposalDropped
from copycat.messages import NONE, ConfChange, ConfState, Entry, EntryType
from copycat.raft import reads, replication
from copycat.raft.confchange import unpack_conf_change
from copycat.raft.log import payload_size
from copycat.raft.ready import Role
from copycat.raft.state import Raft

NORMAL = EntryType.NORMAL


def may_propose(raft: Raft, entry: Entry, pending_conf_index: int) -> bool:
    """Whether the change in ``entry`` can follow the present configuration, if nothing else is pending.

    Raises :class:`~copycat.errors.ProposalDropped` if the entry holds no change that can be read.
    """
    try:
        change = unpack_conf_change(entry.data)
    except CodecError as error:
        raise ProposalDropped(f"the proposal can't be read: {error}") from error
    if raft.disable_conf_change_validation:
        return True
    if pending_conf_index > raft.log.applied:
        return False
    return raft.tracker.config.joint == (not change.changes)


def apply_conf_change(raft: Raft, change: ConfChange) -> ConfState:
    """The application reached a configuration change. Raises :class:`~copycat.errors.InvalidConfChange`.

    While a snapshot waits to be stored, an entry can only be one that was handed out before it came: the snapshot's
    configuration, by which this replica counts already, has that change behind it.
    """
    if raft.log.unstable.snapshot is not None:
        return raft.tracker.config.conf_state()
    raft.tracker.install(raft.tracker.changer(raft.log.last_index).apply(change))
    state = raft.tracker.config.conf_state()
    if raft.role == Role.LEADER:
        _lead_new_configuration(raft)
    return state


def _lead_new_configuration(raft: Raft) -> None:
    tracker = raft.tracker
    if tracker.own is None or tracker.is_learner:
        # It led its own removal to the end (thesis, 4.2.2).
        if raft.step_down_on_removal:
            raft.become_follower(raft.term, NONE)
        return
    if replication.maybe_commit(raft):
        replication.broadcast(raft)
    else:
        # New members need not wait for the next proposal or heartbeat.
        for peer, progress in tracker.peers:
            replication.send_entries(raft, peer, progress)
    reads.release(raft)
    if raft.lead_transferee not in tracker.voters():
        raft.lead_transferee = NONE


def applied_to(raft: Raft, index: int) -> None:
    """The application holds everything up to ``index``."""
    log = raft.log
    log.applied_to(max(index, log.applied))
    if raft.role == Role.LEADER and raft.tracker.config.auto_leave and log.applied >= raft.pending_conf_index:
        try:
            propose(raft, [Entry(0, 0, EntryType.CONF_CHANGE_V2)])
        except ProposalDropped:
            # A transfer is under way. Either the next leader leaves, or this one does when it applies the next entry.
            return


def propose(raft: Raft, proposed: list[Entry]) -> None:
    """Append a leader's proposals and send them on. Raises :class:`~copycat.errors.ProposalDropped`; then nothing
    happened.

    A configuration change that can't follow the present one becomes an empty entry.
    """
    if raft.tracker.own is None:
        raise ProposalDropped("this leader is no longer a member of its group")
    if raft.lead_transferee != NONE:
        raise ProposalDropped(f"leadership is being handed to {raft.lead_transferee}")
    payload = payload_size(proposed)
    term, index = raft.term, raft.log.last_index
    pending_conf_index = raft.pending_conf_index
    # Anew, because a repeated message would otherwise put one object into the log twice.
    entries: list[Entry] = []
    for entry in proposed:
        index += 1
        if entry.type == NORMAL:
            entries.append(Entry(term, index, NORMAL, entry.data))
        elif may_propose(raft, entry, pending_conf_index):
            pending_conf_index = index
            entries.append(Entry(term, index, entry.type, entry.data))
        else:
            payload -= len(entry.data)
            entries.append(Entry(term, index))
    if payload and raft.uncommitted_size and raft.uncommitted_size + payload > raft.uncommitted_size_max:
        raise ProposalDropped(f"{raft.uncommitted_size} bytes are not committed yet")
    raft.uncommitted_size += payload
    raft.pending_conf_index = pending_conf_index
    replication.append(raft, entries)
    replication.broadcast(raft)
