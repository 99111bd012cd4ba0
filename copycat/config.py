"""What a node is told when it starts: names, addresses, plugs, periods and bounds. Checked whole when it is made."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, fields
from importlib.util import find_spec
from typing import Any

from copycat.errors import InvalidConfig
from copycat.ports import Address, Storage, Transport

KIB = 1024
MIB = 1024 * KIB


DEFAULT_STORAGE = "rocksdb" if find_spec("plyvel") is None and find_spec("rocksdict") is not None else "leveldb"
"""LevelDB, but where its binding is not installed and RocksDB's is: there are Pythons for which the former has no wheel."""


class Durability(str, enum.Enum):
    """When a write counts: once synced to the disk, or once the operating system has it."""

    FSYNC = "fsync"
    OS = "os"


@dataclass(frozen=True)
class Config:
    """Configuration of one node. Immutable; every field has a default. Raises :class:`~copycat.errors.InvalidConfig`.

    Names end in their unit: ``_s`` seconds, ``_ms`` milliseconds, ``_bytes`` bytes; ``_max`` marks a bound.
    """

    hostname: str = "127.0.0.1"
    """Advertised to the others; must be reachable by them."""
    copycat_port: int = 7458
    """Raft traffic (TCP). 0 picks a free one."""
    gossip_port: int = 7459
    """Gossip: UDP, and PUB on TCP, both on this number. 0 picks a free one."""
    bind_address: str = ""
    """Where to listen, if that differs from ``hostname``."""
    data_dir: str = "./copycat-db"
    """Directory of this node's database and identity; created if absent."""
    peers_to_contact: Iterable[str] | str = ()
    """Gossip addresses ``host:port`` of the cluster to join: a list, or one space-separated string. Empty: a new cluster."""
    data_center: str = ""
    """Where this node stands; replicas of a group are spread over data centres first."""
    rack: str = ""
    """Where it stands within its data centre; spread over next."""
    cluster_label: str = "copycat"
    """Nodes of another label are never joined, heard or answered."""
    key_file: str = ""
    """This node's secret key, in pyzmq's format; see ``copycat keygen``. Read again when it changes. Empty: no keys."""
    trusted_keys_dir: str = ""
    """Directory of the public keys, one ``NAME.key`` each, of all nodes of the cluster; read again when it changes."""
    gossip_keys_file: str = ""
    """The keys that gossip is sealed with, the same on all nodes; read again when it changes."""
    insecure: bool = False
    """Without keys, listen beyond loopback all the same: whoever reaches the ports can then read and change everything."""
    transport: str | Transport = "zeromq"
    """A name from entry-point group ``copycat.transports``, or an instance."""
    storage: str | Storage = DEFAULT_STORAGE
    """A name from entry-point group ``copycat.storage``, or an instance. Where plyvel is not installed, the default is
    ``rocksdb``. A data directory is opened only by the storage that made it."""
    durability: Durability | str = Durability.FSYNC
    """``fsync``: nothing is acknowledged before a quorum has it on disk; ``os``: written, not synced."""
    replicas: int = 3
    """Voters of a group that is created without saying."""
    repair_delay_s: float = 30.0
    """How long a voter's node is dead before it is replaced."""

    gossip_profile: str = "lan"
    """Periods of failure detection: ``lan``, ``wan`` or ``local``."""
    tick_ms: int = 50
    """Length of a Raft tick."""
    heartbeat_ticks: int = 2
    """Ticks between a leader's heartbeats."""
    election_ticks: int = 10
    """Ticks without a leader until a replica stands for election; randomised up to twice this."""
    join_timeout_s: float = 10.0
    """How long to wait for one of ``peers_to_contact`` to answer."""
    stalled_disk_hand_over_s: float = 2.0
    """A write that takes longer makes this node hand its leaderships to others."""
    stalled_disk_stop_s: float = 60.0
    """A write that takes longer stops this node, as a failed one does."""
    leave_timeout_s: float = 5.0
    """How long a clean shutdown may take to hand over and say goodbye."""
    admin_socket: bool = True
    """Whether the command ``copycat`` can ask this node: a Unix socket in ``data_dir``, for its owner alone."""

    proposal_bytes_max: int = MIB
    """The longest proposal."""
    batch_proposals_max: int = 4096
    """Proposals in one log entry."""
    batch_bytes_max: int = MIB
    """Bytes of proposals in one log entry (a single larger proposal travels alone)."""
    append_bytes_max: int = MIB
    """Bytes of log entries in one message to another replica (a single larger entry travels alone)."""
    in_flight_bytes_max: int = 16 * MIB
    """Bytes sent but not committed, per subscription; ``send`` blocks beyond."""
    in_flight_proposals_max: int = 262_144
    """Proposals sent but not committed, per subscription; ``send`` blocks beyond."""
    commit_queue_bytes_max: int = 16 * MIB
    """Bytes waiting for a consumer, per subscription; beyond, they stay in the log until it catches up."""
    errors_max: int = 10_000
    """Errors waiting in an error channel; beyond, one error that counts the others replaces them."""
    session_expiry_s: float = 60.0
    """How long a subscription's node is dead before its session is expired."""
    snapshot_log_bytes: int = 64 * MIB
    """A consumer is asked for a snapshot when the log behind the last one has this many bytes ..."""
    snapshot_log_entries: int = 100_000
    """... or this many entries."""
    snapshot_chunk_bytes: int = 256 * KIB
    """Piece in which a snapshot is stored and sent."""
    snapshot_bytes_per_s: int = 256 * MIB
    """Bound on what a node sends of snapshots, all transfers together."""
    log_bytes_max: int = 1024 * MIB
    """The log's cap while nobody makes snapshots; at it, proposals fail with ``LogFull``."""
    follower_log_bytes_max: int = 256 * MIB
    """Log kept for a follower that lags, behind the newest snapshot; beyond, it is given the snapshot."""
    log_cache_bytes: int = 64 * MIB
    """Recent entries kept in memory, all groups of the node together."""
    write_queue_bytes_max: int = 64 * MIB
    """Bytes that wait for the disk, all groups together; beyond, entries of other nodes are dropped, and come again."""
    frame_bytes_max: int = 64 * MIB
    """The longest frame that is accepted from another node."""

    seed: int | None = None
    """Seeds this node's randomness; None draws one from the operating system."""

    def __post_init__(self) -> None:
        for item in fields(self):
            _check_type(item.name, item.default, getattr(self, item.name))
        _require(
            bool(self.hostname.strip()), "hostname", self.hostname, "be the name or address others reach this node at"
        )
        for name in ("copycat_port", "gossip_port"):
            _require(0 <= getattr(self, name) <= 65535, name, getattr(self, name), "be a port, 0 to 65535")
        _require(
            self.copycat_port != self.gossip_port or self.copycat_port == 0,
            "gossip_port",
            self.gossip_port,
            "differ from copycat_port",
        )
        _require(0 < len(self.cluster_label.encode()) <= 64, "cluster_label", self.cluster_label, "have 1 to 64 bytes")
        for name in ("data_center", "rack"):
            _require(len(getattr(self, name).encode()) <= 64, name, getattr(self, name), "have at most 64 bytes")
        _require(bool(self.data_dir), "data_dir", self.data_dir, "name a directory")
        _require(1 <= self.replicas <= 99, "replicas", self.replicas, "be 1 to 99")
        _require(
            self.gossip_profile in ("lan", "wan", "local"),
            "gossip_profile",
            self.gossip_profile,
            "be lan, wan or local",
        )
        _require(
            self.election_ticks > self.heartbeat_ticks >= 1,
            "election_ticks",
            self.election_ticks,
            "be more than heartbeat_ticks, and that at least 1",
        )
        missing = [name for name in _KEYS if not getattr(self, name)]
        if missing and len(missing) < len(_KEYS):
            raise InvalidConfig(
                f"{' and '.join(missing)} must be given, too: a node has all of {', '.join(_KEYS)}, or no keys at all"
            )
        _require(
            missing != [] or not self.insecure, "insecure", self.insecure, "be left out where the node has keys to use"
        )
        for name in _POSITIVE:
            _require(getattr(self, name) > 0, name, getattr(self, name), "be more than 0")
        for name in ("repair_delay_s", "leave_timeout_s"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "not be negative")
        try:
            object.__setattr__(self, "durability", Durability(self.durability))
        except ValueError:
            raise InvalidConfig(f"durability must be 'fsync' or 'os', not {self.durability!r}") from None
        _require(
            self.frame_bytes_max >= 4 * max(self.proposal_bytes_max, self.batch_bytes_max, self.snapshot_chunk_bytes),
            "frame_bytes_max",
            self.frame_bytes_max,
            "hold four batches, proposals or chunks of the largest size",
        )
        object.__setattr__(self, "peers_to_contact", _parse_peers(self.peers_to_contact))

    @property
    def seeds(self) -> tuple[tuple[str, int], ...]:
        """``peers_to_contact`` as (host, port) pairs."""
        return tuple((host, int(port)) for host, _, port in (peer.rpartition(":") for peer in self.peers_to_contact))

    @property
    def address(self) -> Address:
        """Where the others reach this node."""
        return Address(self.hostname, self.copycat_port, self.gossip_port)

    @property
    def has_keys(self) -> bool:
        """Whether this node proves who it is, and lets in only those who do."""
        return bool(self.key_file)

    @property
    def synced(self) -> bool:
        """Whether a write counts only once it is on the disk."""
        return self.durability is Durability.FSYNC


_KEYS = ("key_file", "trusted_keys_dir", "gossip_keys_file")
_POSITIVE = (
    "tick_ms",
    "join_timeout_s",
    "proposal_bytes_max",
    "batch_proposals_max",
    "batch_bytes_max",
    "append_bytes_max",
    "in_flight_bytes_max",
    "in_flight_proposals_max",
    "commit_queue_bytes_max",
    "errors_max",
    "session_expiry_s",
    "stalled_disk_hand_over_s",
    "stalled_disk_stop_s",
    "snapshot_log_bytes",
    "snapshot_log_entries",
    "snapshot_chunk_bytes",
    "snapshot_bytes_per_s",
    "log_bytes_max",
    "follower_log_bytes_max",
    "log_cache_bytes",
    "write_queue_bytes_max",
    "frame_bytes_max",
)


def _require(holds: bool, name: str, value: object, rule: str) -> None:
    if not holds:
        raise InvalidConfig(f"{name} must {rule}, not {value!r}")


def _check_type(name: str, default: Any, value: Any) -> None:
    """Numbers and texts must be what their default is; an int may stand for a float, a bool for itself alone."""
    if isinstance(default, Durability) or name in ("transport", "storage", "peers_to_contact", "seed"):
        return
    wanted: tuple[type, ...] = (int, float) if isinstance(default, float) else (type(default),)
    if not isinstance(value, wanted) or isinstance(value, bool) != isinstance(default, bool):
        raise InvalidConfig(f"{name} must be {wanted[-1].__name__}, not {value!r}")


def _parse_peers(peers: Iterable[str] | str) -> tuple[str, ...]:
    parts = tuple(peers.split()) if isinstance(peers, str) else tuple(peers or ())
    for peer in parts:
        host, colon, port = peer.rpartition(":") if isinstance(peer, str) else ("", "", "")
        if not (host and colon and port.isdigit() and 0 < int(port) <= 65535):
            raise InvalidConfig(
                f"peers_to_contact holds {peer!r}; each must be host:port, the port being a gossip port"
            )
    return parts
