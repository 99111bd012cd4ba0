"""What a replica wants done, all of it in one piece, with what must be durable before what may be sent.

The safety of Raft rests on this order: term, vote and entries are on disk before anybody is told of them (figure 2,
"persistent state"; thesis, 10.2.1 for what may overlap with the write).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from copycat.messages import NONE, Entry, HardState, Message, Snapshot
from copycat.raft.confchange import Configuration
from copycat.raft.progress import Progress, ProgressState


class Role(enum.IntEnum):
    FOLLOWER = 0
    CANDIDATE = 1
    LEADER = 2
    PRE_CANDIDATE = 3


@dataclass(frozen=True, slots=True)
class SoftState:
    """What is worth knowing but need not survive a crash."""

    lead: int = NONE
    role: Role = Role.FOLLOWER


@dataclass(frozen=True, slots=True)
class ReadState:
    """A read of ``context`` is linearizable once the state machine has applied ``index`` (thesis, 6.4)."""

    index: int
    context: bytes


@dataclass(slots=True)
class Ready:
    """One round of work. What is in here is handed out once; taking it is a promise to do it, in order.

    *Synchronous* (the default): write ``hard_state``, ``snapshot`` and ``entries`` in one atomic write, synced if
    ``must_sync``; then send ``messages``; apply ``committed_entries``; then call ``advance`` before the next one is
    taken.

    *Asynchronous*: ``messages`` is all there is to do, in any order between its addressees and in the given one for
    each. Those to replicas may go at once. The one to ``LOCAL_APPEND_THREAD`` carries what is to be written, the one
    to ``LOCAL_APPLY_THREAD`` what is to be applied; each is done in order, and only when it is done (for the write:
    durable) may its ``responses`` be sent, the ones to this replica itself included. ``advance`` is never called.
    A snapshot may be stored while older entries still wait to be applied: those at or before it are skipped.
    """

    soft_state: SoftState | None = None
    """Role and leader, if either changed. Need not be stored."""
    hard_state: HardState | None = None
    """Term, vote and commit, if any changed. Durable together with ``entries``, before ``messages`` goes."""
    read_states: list[ReadState] = field(default_factory=list)
    """Reads that may be served once their index is applied. Wait for nothing else."""
    entries: list[Entry] = field(default_factory=list)
    """To be written, over whatever storage has from the first index on; durable before ``messages`` goes."""
    snapshot: Snapshot | None = None
    """To be stored in the place of the whole log, before ``entries``; durable before ``messages`` goes."""
    committed_entries: list[Entry] = field(default_factory=list)
    """To be applied, once written here. In synchronous mode they may be among ``entries``."""
    messages: list[Message] = field(default_factory=list)
    """To be sent after the write (synchronous) or at once (asynchronous, see above). May be lost, never altered."""
    must_sync: bool = False
    """Whether entries, term or vote make it necessary to sync the write; a commit index alone can wait.

    A snapshot is always synced before ``messages`` goes, whatever this says: its answer vouches for what it replaces.
    """


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """A leader's view of one replica."""

    match: int
    next: int
    state: ProgressState
    paused: bool
    active: bool
    """Heard from since the last check of the quorum: of nobody, just after one."""
    recently_active: bool
    """Heard from since then, or in the period before."""
    is_learner: bool
    pending_snapshot: int
    inflight: int
    inflight_full: bool

    @classmethod
    def of(cls, progress: Progress) -> PeerStatus:
        return cls(
            match=progress.match,
            next=progress.next,
            state=progress.state,
            paused=progress.paused,
            active=progress.active,
            recently_active=progress.active or progress.was_active,
            is_learner=progress.is_learner,
            pending_snapshot=progress.pending_snapshot,
            inflight=len(progress.inflights),
            inflight_full=progress.inflights.full,
        )


@dataclass(frozen=True, slots=True)
class Status:
    """A replica at one moment. ``progress`` is empty but on a leader."""

    id: int
    term: int
    vote: int
    commit: int
    applied: int
    role: Role
    lead: int
    lead_transferee: int
    config: Configuration
    progress: dict[int, PeerStatus] = field(default_factory=dict)
