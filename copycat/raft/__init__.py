"""Raft without input or output: a replica of one group as a state machine that its engine drives.

:class:`RawNode` is all that an engine needs; what it reads of the disk is :class:`~copycat.raft.storage.LogStorage`,
what it wants done is a :class:`Ready`. Paper: Ongaro & Ousterhout, "In Search of an Understandable Consensus Algorithm
(Extended Version)"; thesis: Ongaro, "Consensus: Bridging Theory and Practice".
"""

from copycat.raft.confchange import Configuration, pack_conf_change, unpack_conf_change
from copycat.raft.config import NO_LIMIT, RaftConfig, ReadOnly
from copycat.raft.node import RawNode
from copycat.raft.progress import ProgressState
from copycat.raft.ready import PeerStatus, ReadState, Ready, Role, SoftState, Status
from copycat.raft.storage import Compacted, LogStorage, LogUnavailable, SnapshotUnavailable, Unavailable

StateType = Role

__all__ = [
    "NO_LIMIT",
    "Compacted",
    "Configuration",
    "LogStorage",
    "LogUnavailable",
    "PeerStatus",
    "ProgressState",
    "RaftConfig",
    "RawNode",
    "ReadOnly",
    "ReadState",
    "Ready",
    "Role",
    "SnapshotUnavailable",
    "SoftState",
    "StateType",
    "Status",
    "Unavailable",
    "pack_conf_change",
    "unpack_conf_change",
]
