"""What membership is about: a member's record, its state, and the events that tell of a change.

A record is a value: it is replaced, never changed. Its incarnation belongs to the member alone; nobody else raises it
(SWIM, Das, Gupta & Motivala 2002, section 4.2). Bounds are checked here once for what the caller gives, and in
:mod:`copycat.gossip.wire` for what comes from outside.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from copycat.errors import UsageError

HOSTNAME_BYTES_MAX = 255
LABEL_BYTES_MAX = 64
META_BYTES_MAX = 512
INCARNATION_MAX = (1 << 63) - 1
NODE_ID_BYTES = 26

NODE_ID_PATTERN = re.compile(rb"[0-7][0-9A-HJKMNP-TV-Z]{25}")
"""A ULID in Crockford's base 32, upper case."""


class MemberState(enum.IntEnum):
    """What is believed of a member. The numbers travel on the wire: never renumber."""

    ALIVE = 0
    SUSPECT = 1
    DEAD = 2  # failed: still a member of the cluster, until it leaves or an operator forgets it
    LEFT = 3  # said goodbye, or was forgotten: no member any more


@dataclass(frozen=True, slots=True)
class MemberRecord:
    """One node as its cluster knows it. Identity is ``node_id`` alone; all the rest may change with the incarnation.

    ``meta`` is opaque here (at most 512 bytes); it travels with every announcement, so keep it small.
    """

    node_id: str
    hostname: str
    copycat_port: int
    gossip_port: int
    data_center: str = ""
    rack: str = ""
    incarnation: int = 0
    state: MemberState = MemberState.ALIVE
    meta: bytes = b""

    def with_state(self, state: MemberState, incarnation: int) -> MemberRecord:
        return MemberRecord(
            self.node_id,
            self.hostname,
            self.copycat_port,
            self.gossip_port,
            self.data_center,
            self.rack,
            incarnation,
            state,
            self.meta,
        )

    def says_the_same(self, other: MemberRecord) -> bool:
        """Whether both describe the node alike, whatever their state and incarnation."""
        return (
            self.hostname == other.hostname
            and self.copycat_port == other.copycat_port
            and self.gossip_port == other.gossip_port
            and self.data_center == other.data_center
            and self.rack == other.rack
            and self.meta == other.meta
        )


def check_record(record: MemberRecord) -> None:
    """Raise :class:`~copycat.errors.UsageError` unless the record can travel."""
    if NODE_ID_PATTERN.fullmatch(record.node_id.encode()) is None:
        raise UsageError(f"node id {record.node_id!r} is no ULID: 26 characters of upper-case Crockford base 32")
    if not 0 < len(record.hostname.encode()) <= HOSTNAME_BYTES_MAX:
        raise UsageError(f"hostname of {record.node_id} must have 1 to {HOSTNAME_BYTES_MAX} bytes")
    for name in (record.data_center, record.rack):
        if len(name.encode()) > LABEL_BYTES_MAX:
            raise UsageError(f"data centre and rack may have {LABEL_BYTES_MAX} bytes, {name!r} has more")
    for port in (record.copycat_port, record.gossip_port):
        if not 0 < port < 65536:
            raise UsageError(f"port {port} of {record.node_id} is not in 1 to 65535")
    if len(record.meta) > META_BYTES_MAX:
        raise UsageError(f"meta has {len(record.meta)} bytes, {META_BYTES_MAX} are allowed")
    if not 0 <= record.incarnation < INCARNATION_MAX:
        raise UsageError(f"incarnation {record.incarnation} is out of range")


class EventKind(enum.Enum):
    """What happened, as seen by this node."""

    JOINED = "joined"  # a member is alive that was unknown, dead or gone
    UPDATED = "updated"  # a live member has a new address, place or meta
    SUSPECTED = "suspected"
    REFUTED = "refuted"  # a suspected member proved to be alive
    DIED = "died"
    LEFT = "left"  # it said goodbye, or an operator forgot it
    REAPED = "reaped"  # a member that had left was dropped from the table
    CONFLICT = "conflict"  # another live node uses this node's id; the record is the other's
    REMEMBER = "remember"  # `Swim.remembered()` should be written to disk; the record is this node's own
    READY = "ready"  # this node belongs to a cluster now; the record is this node's own


@dataclass(frozen=True, slots=True)
class MemberEvent:
    kind: EventKind
    record: MemberRecord
