"""What a node tells about itself, its cluster and its groups: frozen values, safe to keep and to share between threads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Peer:
    """A replica of a group, and the node that hosts it."""

    raft_id: int
    node_id: str


@dataclass(frozen=True, slots=True)
class GroupStatus:
    """One replica's view of its group.

    ``commit_position`` and ``applied_position`` count items; where entries are committed but not applied yet, the former
    is the latter. ``lag`` is told by the leader alone: entries of the log that each other replica is behind, by raft id.
    """

    data_structure_id: str
    raft_id: int
    role: str
    """``leader``, ``follower``, ``candidate`` or ``learner``."""
    term: int
    leader: str | None
    """Node id of the leader, if one is known."""
    commit_position: int
    applied_position: int
    voters: tuple[Peer, ...]
    learners: tuple[Peer, ...]
    lag: Mapping[int, int] = field(default_factory=dict)
    interactive: bool = False
    """Whether a consumer is attached on this node."""
    replicas_wanted: int = 0
    """Voters that the group was created to have."""
    under_replicated: bool = False
    """Whether it has fewer voters on living nodes than that; it grows when nodes come."""
    has_quorum: bool = True
    """Whether nodes with a majority of its voters live, as seen from here; docs/operations.md says what to do if not."""
    log_bytes: int = 0
    """Bytes of log on this node's disk."""
    snapshot_position: int = 0
    """Position that this node's newest snapshot stands for; 0: none."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a node.

    ``what`` is its name, for programs: ``silent``, ``stopped``, ``stalled_disk``, ``no_cluster``, ``no_majority``,
    ``no_quorum``, ``no_leader``, ``log_full``, ``lag``, ``slow_consumer``, ``under_replicated``. ``message`` is for people.
    With ``serious`` the node is not healthy. ``groups``: how many data structures it concerns, ``examples`` the ids of some.
    """

    what: str
    message: str
    serious: bool = True
    groups: int = 0
    examples: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.groups:
            return self.message
        return f"{self.message}: {self.groups} groups, among them {', '.join(self.examples)}"


@dataclass(frozen=True, slots=True)
class Health:
    """Whether a node is well; if not, ``reasons`` says in words what is wrong, the most pressing first.

    ``problems`` has the same for programs, and behind it what should be known although the node is well.
    """

    healthy: bool
    reasons: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class Member:
    """A node, as this one knows it. ``state`` is ``alive``, ``suspect``, ``dead`` or ``left``."""

    node_id: str
    address: str
    """``host:port`` of its gossip: what ``peers_to_contact`` takes."""
    state: str
    data_center: str = ""
    rack: str = ""
