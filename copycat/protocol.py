"""What nodes say to each other beside Raft's own messages, and the number under which each travels.

Numbers are never reused. Messages are requests without an expected answer: whoever asked and hears nothing asks again,
so each must be harmless when repeated.
"""

from __future__ import annotations

from dataclasses import dataclass

from copycat import codec


@dataclass(frozen=True, slots=True)
class ReplicaAsk:
    """To a node that spoke to replica ``raft_id`` here, which this node does not host: what is this group?

    ``hosted`` is the replica of that group which it does host, or 0.
    """

    group: bytes
    raft_id: int
    hosted: int


@dataclass(frozen=True, slots=True)
class ReplicaInvite:
    """You host replica ``raft_id`` of a group that began with ``genesis`` (packed): make it, and listen."""

    group: bytes
    raft_id: int
    genesis: bytes


@dataclass(frozen=True, slots=True)
class ReplicaRemoved:
    """The group has removed replica ``raft_id``: destroy it."""

    group: bytes
    raft_id: int


@dataclass(frozen=True, slots=True)
class JoinAsk:
    """A node wants a replica, as a learner, for a subscriber. ``buried`` are raft ids it had and destroyed."""

    group: bytes
    node_id: str
    buried: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class LeaveAsk:
    """A learner whose consumer is gone wants to be removed."""

    group: bytes
    raft_id: int


@dataclass(frozen=True, slots=True)
class LeaderHint:
    """Not here; ``node_id`` (maybe empty) is where the leader is believed to be."""

    group: bytes
    node_id: str


@dataclass(frozen=True, slots=True)
class LogFullNotice:
    """The leader takes no proposals (``full``), or takes them again."""

    group: bytes
    full: bool


@dataclass(frozen=True, slots=True)
class SnapshotAsk:
    """A replica without a consumer wants the newest snapshot, if it is beyond ``index``."""

    group: bytes
    index: int


@dataclass(frozen=True, slots=True)
class SnapshotOffer:
    """A snapshot (packed) that can be fetched from the sender."""

    group: bytes
    snapshot: bytes


@dataclass(frozen=True, slots=True)
class SnapshotFailed:
    """Replica ``raft_id`` could not fetch the snapshot that its leader told it to install."""

    group: bytes
    raft_id: int


@dataclass(frozen=True, slots=True)
class ChunkAsk:
    """Send ``count`` chunks of a snapshot, from ``first`` on, over the BULK lane."""

    group: bytes
    generation: int
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """One chunk; ``checksum`` is the CRC-32 of ``data``."""

    group: bytes
    generation: int
    number: int
    checksum: int
    data: bytes


@dataclass(frozen=True, slots=True)
class ChunkGone:
    """That snapshot is no longer here."""

    group: bytes
    generation: int


def register(registry: codec.Registry) -> None:
    """Give every message of this module its number."""
    for kind, cls in (
        (1, ReplicaAsk),
        (2, ReplicaInvite),
        (3, ReplicaRemoved),
        (4, JoinAsk),
        (5, LeaveAsk),
        (6, LeaderHint),
        (7, LogFullNotice),
        (8, SnapshotAsk),
        (9, SnapshotOffer),
        (10, SnapshotFailed),
        (11, ChunkAsk),
        (12, Chunk),
        (13, ChunkGone),
    ):
        registry.register(kind, cls)
