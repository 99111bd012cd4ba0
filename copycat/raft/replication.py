"""A leader's side of log replication (paper, 5.3, 5.4.2 and 7; thesis, 10.2.1 for pipelining).

To each peer goes what follows ``next - 1``, where the two logs are believed to agree. A refusal carries a hint that
skips whole terms; an acceptance moves ``match``, and perhaps the commit index: only when the entry that a quorum holds
is of the leader's own term (figure 8).
"""

from __future__ import annotations

from copycat.messages import Entry, Message, MessageType
from copycat.raft import reads
from copycat.raft.log import payload_size
from copycat.raft.progress import PROBE, REPLICATE, SNAPSHOT, Progress
from copycat.raft.state import Raft
from copycat.raft.storage import LogUnavailable

APP = MessageType.APP
APP_RESP = MessageType.APP_RESP
SNAP = MessageType.SNAP
TIMEOUT_NOW = MessageType.TIMEOUT_NOW


def append(raft: Raft, entries: list[Entry]) -> None:
    """Put entries of this term at the end of a leader's own log, and let it acknowledge them once they are durable."""
    raft.log.append(entries)
    raft.messages_after_append.append(
        Message(APP_RESP, to=raft.id, sender=raft.id, term=raft.term, index=entries[-1].index)
    )


# --- sending --------------------------------------------------------------------------------------------------------


def broadcast(raft: Raft) -> None:
    """Send every peer what it lacks, or at least the commit index."""
    for peer, progress in raft.tracker.peers:
        _send(raft, peer, progress, True)


def send_append(raft: Raft, peer: int, progress: Progress) -> bool:
    """Send ``peer`` what it lacks, or an empty message. False if nothing went."""
    return _send(raft, peer, progress, True)


def send_entries(raft: Raft, peer: int, progress: Progress) -> bool:
    """Send ``peer`` what it lacks, if it lacks anything. False if nothing went."""
    return _send(raft, peer, progress, False)


def _send(raft: Raft, peer: int, progress: Progress, even_if_empty: bool) -> bool:
    state = progress.state
    if progress.flow_paused or state is SNAPSHOT:
        return False
    log = raft.log
    first = progress.next
    previous_term = log.term(first - 1)
    if previous_term is None:
        return _send_snapshot(raft, peer, progress)
    entries: list[Entry] = []
    # With a full window an empty message still goes, so that a window whose messages were all lost is found out.
    if first <= log.last_index and (state is not REPLICATE or not progress.inflights.full):
        try:
            entries = log.entries(first, raft.size_per_msg_max)
        except LogUnavailable:
            return _send_snapshot(raft, peer, progress)
    if not entries and not even_if_empty:
        return False
    commit = log.committed
    raft.messages.append(Message(APP, peer, raft.id, raft.term, previous_term, first - 1, commit, entries=entries))
    progress.sent_entries(len(entries), payload_size(entries))
    progress.sent_commit = commit
    return True


def _send_snapshot(raft: Raft, peer: int, progress: Progress) -> bool:
    """Entries that the peer needs are gone. One that is not heard from would not notice, and the state would stick."""
    if not progress.active:
        return False
    snapshot = raft.log.snapshot()
    if snapshot is None:
        return False
    progress.become_snapshot(snapshot.index)
    raft.send(Message(SNAP, to=peer, sender=raft.id, term=raft.term, snapshot=snapshot))
    return True


# --- answers --------------------------------------------------------------------------------------------------------


def handle_append_response(raft: Raft, message: Message) -> None:
    progress = raft.tracker.members.get(message.sender)
    if progress is None:
        return
    progress.active = True
    if message.reject:
        _handle_rejection(raft, message, progress)
    else:
        _handle_acceptance(raft, message.sender, message.index, progress)


def _handle_rejection(raft: Raft, message: Message, progress: Progress) -> None:
    guess = message.reject_hint
    if message.log_term > 0:
        guess = raft.log.probable_match(guess, message.log_term)
    if progress.reject(message.index, guess):
        send_append(raft, message.sender, progress)


def _handle_acceptance(raft: Raft, peer: int, index: int, progress: Progress) -> None:
    state = progress.state
    if not progress.acknowledge(index) and not (state is PROBE and index == progress.match):
        return
    if state is REPLICATE:
        progress.inflights.free_to(index)
    elif state is PROBE or progress.match + 1 >= raft.log.first_index():
        # After a snapshot, whichever it was that arrived: what counts is that the log here continues it.
        progress.become_replicate()
    is_peer = peer != raft.id
    if maybe_commit(raft):
        broadcast(raft)
    elif is_peer and progress.commit_is_news(raft.log.committed):
        send_append(raft, peer, progress)
    if is_peer:
        last = raft.log.last_index
        while progress.next <= last and send_entries(raft, peer, progress):
            pass
    if peer == raft.lead_transferee and progress.match == raft.log.last_index:
        send_timeout_now(raft, peer)


def maybe_commit(raft: Raft) -> bool:
    """Commit what a quorum holds, if its last entry is of this term (5.4.2); earlier ones come with it."""
    log = raft.log
    index = raft.tracker.committed_index()
    if index <= log.committed or log.term(index) != raft.term:
        return False
    log.commit_to(index)
    reads.commit_advanced(raft)
    return True


def send_timeout_now(raft: Raft, peer: int) -> None:
    """Ask ``peer``, whose log is complete, to start an election at once (thesis, 3.10)."""
    raft.send(Message(TIMEOUT_NOW, to=peer, sender=raft.id, term=raft.term))


def handle_heartbeat_response(raft: Raft, message: Message) -> None:
    """A peer lives: whatever paused the flow to it is tried again."""
    progress = raft.tracker.members.get(message.sender)
    if progress is None:
        return
    progress.active = True
    progress.flow_paused = False
    if progress.match < raft.log.last_index or progress.state is PROBE:
        send_append(raft, message.sender, progress)
    if message.context:
        reads.acknowledge(raft, message)


def handle_unreachable(raft: Raft, message: Message) -> None:
    """A message to the peer was probably lost: stop pipelining until it has said where it is."""
    progress = raft.tracker.members.get(message.sender)
    if progress is not None and progress.state is REPLICATE:
        progress.become_probe()


def handle_snapshot_status(raft: Raft, message: Message) -> None:
    """A snapshot was sent, or could not be. Either way the next word is the peer's: an answer, or a heartbeat's."""
    progress = raft.tracker.members.get(message.sender)
    if progress is None or progress.state is not SNAPSHOT:
        return
    if message.reject:
        progress.pending_snapshot = 0
    progress.become_probe()
    progress.flow_paused = True
