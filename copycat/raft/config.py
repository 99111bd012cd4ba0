"""What a replica is told when it starts, checked before anything else sees it.

All sizes are bytes, all timeouts ticks: the core has no clock. Names and defaults follow the common implementations;
``pre_vote`` (thesis, 9.6) and ``check_quorum`` (thesis, 6.2) are on because rejoining replicas otherwise depose healthy
leaders.
"""

from __future__ import annotations

import enum
import random
from dataclasses import dataclass

from copycat.errors import InvalidConfig
from copycat.messages import LOCAL_APPLY_THREAD, NONE
from copycat.raft.storage import LogStorage

NO_LIMIT = (1 << 63) - 1
"""A size or count that never binds."""


class ReadOnly(enum.Enum):
    """How a leader proves that it still leads before it answers a read (thesis, 6.4)."""

    SAFE = "safe"  # a quorum answers a heartbeat sent after the read came
    LEASE_BASED = "lease-based"  # the lease of check-quorum; wrong if clocks drift further than an election timeout


@dataclass(slots=True, kw_only=True)
class RaftConfig:
    """One replica's settings. Raises :class:`~copycat.errors.InvalidConfig` where a value can't work."""

    id: int
    storage: LogStorage
    rng: random.Random
    """Randomises the election timeout; nothing else in the core is random."""

    election_tick: int = 10
    """Ticks without a leader's word before an election starts; randomised in [election_tick, 2 * election_tick - 1]."""
    heartbeat_tick: int = 1
    """Ticks between two heartbeats of a leader."""
    applied: int = 0
    """Last index that the state machine holds; entries up to it are not handed out again."""
    async_storage_writes: bool = False
    """Hand writes out as messages to storage threads (thesis, 10.2) instead of waiting for ``advance``."""

    size_per_msg_max: int = 1 << 20
    """Bytes of entries in one append message; one entry always fits."""
    committed_size_per_ready_max: int = 0
    """Bytes of committed entries handed out and not yet applied; 0 takes ``size_per_msg_max``."""
    uncommitted_size_max: int = 1 << 28
    """Payload bytes in a leader's uncommitted tail, beyond which proposals are dropped; an empty tail takes any one."""
    inflight_msgs_max: int = 256
    """Append messages on their way to one peer."""
    inflight_bytes_max: int = 1 << 26
    """Payload bytes on their way to one peer; at least ``size_per_msg_max``."""

    check_quorum: bool = True
    """A leader that a quorum has not answered for an election timeout steps down; followers honour its lease."""
    pre_vote: bool = True
    """Ask whether an election could be won before starting it (thesis, 9.6)."""
    read_only: ReadOnly = ReadOnly.SAFE
    waiting_reads_max: int = 1 << 14
    """Reads that wait at a leader for its proof; more are lost, and asked again by whoever wants them."""
    disable_conf_change_validation: bool = False
    """Append configuration changes even if they can't apply now: for replaying history, never for safety."""
    step_down_on_removal: bool = True
    """A leader that removed or demoted itself becomes a follower once that is applied (thesis, 4.2.2)."""
    install_older_snapshots: bool = False
    """Install a snapshot that was made before this replica joined: the log behind it makes it a member. Where snapshots
    are always made on demand, one that does not know its receiver is a mistake, and ignored."""
    disable_proposal_forwarding: bool = False
    """Followers drop proposals instead of sending them on to the leader."""

    def __post_init__(self) -> None:
        if not NONE < self.id < LOCAL_APPLY_THREAD:
            raise InvalidConfig(f"id is {self.id}: a replica's id is positive and below the storage threads' ids")
        if self.heartbeat_tick < 1:
            raise InvalidConfig(f"heartbeat_tick is {self.heartbeat_tick}: it must be at least 1")
        if self.election_tick <= self.heartbeat_tick:
            raise InvalidConfig(f"election_tick is {self.election_tick}: it must be above heartbeat_tick")
        if self.applied < 0:
            raise InvalidConfig(f"applied is {self.applied}: it can't be negative")
        if self.committed_size_per_ready_max == 0:
            self.committed_size_per_ready_max = self.size_per_msg_max
        for name in (
            "size_per_msg_max",
            "committed_size_per_ready_max",
            "uncommitted_size_max",
            "inflight_msgs_max",
            "waiting_reads_max",
        ):
            if getattr(self, name) < 1:
                raise InvalidConfig(f"{name} is {getattr(self, name)}: it must be at least 1")
        if self.inflight_bytes_max < self.size_per_msg_max:
            raise InvalidConfig("inflight_bytes_max must be at least size_per_msg_max")
        if self.read_only is ReadOnly.LEASE_BASED and not self.check_quorum:
            raise InvalidConfig("lease-based reads need check_quorum: without it there is no lease")
