"""What travels between replicas, and what Raft keeps: plain data without behaviour beyond its own arithmetic.

The words are those of the Raft paper (Ongaro & Ousterhout, extended version) and of its common implementations, so that
a reader who knows one knows this. ``NONE`` (0) stands for "no replica" wherever a raft id is expected; real ids are
positive and below 2**63. How these are packed is the business of :mod:`copycat.codec` alone.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

NONE = 0
"""No replica: nobody is leader, no vote was cast."""

LOCAL_APPEND_THREAD = (1 << 64) - 1
"""Pseudo id: whoever writes entries to stable storage (asynchronous storage writes)."""

LOCAL_APPLY_THREAD = (1 << 64) - 2
"""Pseudo id: whoever applies committed entries (asynchronous storage writes)."""


class EntryType(enum.IntEnum):
    """What an entry's data means."""

    NORMAL = 0
    CONF_CHANGE = 1  # a ConfChange in its single-operation form ("v1")
    CONF_CHANGE_V2 = 2

    __hash__ = int.__hash__  # Enum's own is a call into Python


@dataclass(slots=True)
class Entry:
    """One record of a group's log. ``data`` is opaque to Raft, but for configuration changes."""

    term: int
    index: int
    type: EntryType = EntryType.NORMAL
    data: bytes = b""


@dataclass(slots=True)
class HardState:
    """What must be on disk before any message that depends on it is sent (figure 2, "persistent state")."""

    term: int = 0
    vote: int = NONE
    commit: int = 0

    def is_empty(self) -> bool:
        return self.term == 0 and self.vote == NONE and self.commit == 0


@dataclass(slots=True)
class ConfState:
    """A group's configuration: who votes, in which majorities, and who only listens (thesis, section 4)."""

    voters: tuple[int, ...] = ()
    learners: tuple[int, ...] = ()
    voters_outgoing: tuple[int, ...] = ()
    learners_next: tuple[int, ...] = ()
    auto_leave: bool = False


@dataclass(slots=True)
class Snapshot:
    """Stands for the log up to and including ``index``. ``data`` is opaque to Raft."""

    index: int = 0
    term: int = 0
    conf_state: ConfState = field(default_factory=ConfState)
    data: bytes = b""

    def is_empty(self) -> bool:
        return self.index == 0


class ConfChangeType(enum.IntEnum):
    ADD_VOTER = 0
    REMOVE = 1
    UPDATE = 2
    ADD_LEARNER = 3


class ConfChangeTransition(enum.IntEnum):
    """How a change with several operations leaves its joint configuration."""

    AUTO = 0  # simple when one operation suffices, else joint and left automatically
    JOINT_IMPLICIT = 1  # always joint, left automatically
    JOINT_EXPLICIT = 2  # always joint, left by a change without operations


@dataclass(slots=True)
class ConfChangeSingle:
    type: ConfChangeType
    id: int


@dataclass(slots=True)
class ConfChange:
    """A change of the configuration; without operations it leaves a joint configuration.

    ``v1`` marks the old single-operation form, which is always simple. ``context`` is the caller's.
    """

    changes: tuple[ConfChangeSingle, ...] = ()
    transition: ConfChangeTransition = ConfChangeTransition.AUTO
    context: bytes = b""
    v1: bool = False


class MessageType(enum.IntEnum):
    """The numbers travel on the wire: add at the end, never renumber."""

    HUP = 0
    BEAT = 1
    PROP = 2
    APP = 3
    APP_RESP = 4
    VOTE = 5
    VOTE_RESP = 6
    SNAP = 7
    HEARTBEAT = 8
    HEARTBEAT_RESP = 9
    UNREACHABLE = 10
    SNAP_STATUS = 11
    CHECK_QUORUM = 12
    TRANSFER_LEADER = 13
    TIMEOUT_NOW = 14
    READ_INDEX = 15
    READ_INDEX_RESP = 16
    PRE_VOTE = 17
    PRE_VOTE_RESP = 18
    STORAGE_APPEND = 19
    STORAGE_APPEND_RESP = 20
    STORAGE_APPLY = 21
    STORAGE_APPLY_RESP = 22
    FORGET_LEADER = 23

    __hash__ = int.__hash__  # Enum's own is a call into Python, in each look-up of every message


@dataclass(slots=True, init=False)
class Message:
    """A Raft message between two replicas of a group, or between a replica and its storage threads."""

    type: MessageType
    to: int = NONE
    sender: int = NONE
    term: int = 0
    log_term: int = 0
    index: int = 0
    commit: int = 0
    vote: int = NONE
    reject: bool = False
    reject_hint: int = 0
    entries: list[Entry] = field(default_factory=list)
    snapshot: Snapshot | None = None
    context: bytes = b""
    responses: list[Message] = field(default_factory=list)

    # Some twenty messages are made for each round of replication. What a dataclass generates, with its factories, takes
    # twice as long as this.
    def __init__(
        self,
        type: MessageType,  # noqa: A002
        to: int = NONE,
        sender: int = NONE,
        term: int = 0,
        log_term: int = 0,
        index: int = 0,
        commit: int = 0,
        vote: int = NONE,
        reject: bool = False,
        reject_hint: int = 0,
        entries: list[Entry] | None = None,
        snapshot: Snapshot | None = None,
        context: bytes = b"",
        responses: list[Message] | None = None,
    ) -> None:
        self.type = type
        self.to = to
        self.sender = sender
        self.term = term
        self.log_term = log_term
        self.index = index
        self.commit = commit
        self.vote = vote
        self.reject = reject
        self.reject_hint = reject_hint
        self.entries = [] if entries is None else entries
        self.snapshot = snapshot
        self.context = context
        self.responses = [] if responses is None else responses
