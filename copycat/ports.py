"""The two plugs: what a transport and a storage must offer, and what they may rely on.

An author of either needs this page, :mod:`copycat.errors`, and the contract suites in ``copycat.testing.contracts``, which
any implementation must pass. Implementations translate every foreign exception at their own edge: callers see only
errors of :mod:`copycat.errors`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

FRAME_PARTS_MAX = 256


class Lane(enum.IntEnum):
    """A kind of traffic with a queue of its own, so that a burst in one never delays another."""

    RAFT = 0  # batched messages of all groups, and requests between nodes
    BULK = 1  # snapshot chunks
    GOSSIP = 2  # publish / subscribe: metadata
    HEARTBEAT = 3  # datagrams: failure detection


PUBLIC_KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class Address:
    """Where a node is reached, and by which key it is known there. Identity is the node id, never this.

    ``public_key`` is Curve25519, 32 bytes; empty for a node that has none.
    """

    hostname: str
    copycat_port: int
    gossip_port: int
    public_key: bytes = b""


@dataclass(slots=True)
class Inbound:
    """One frame that arrived.

    ``source`` is set for datagrams only: ``(host, port)`` of the sender. ``owner`` is whose key the transport has seen the
    sender use (see :meth:`Credentials.owner_of`); None where it checks no keys.
    """

    lane: Lane
    parts: list[bytes]
    source: tuple[str, int] | None = None
    owner: str | None = None


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A Curve25519 key pair, 32 bytes each. The secret half shows in no text."""

    public: bytes
    secret: bytes = field(repr=False)


class Credentials(Protocol):
    """Who this node is, and whose connections it takes. Both may change while it runs. For any thread; never waits."""

    @property
    def generation(self) -> int:
        """Another number after each change of the rest."""

    @property
    def key_pair(self) -> KeyPair:
        """This node's own."""

    def owner_of(self, public_key: bytes) -> str | None:
        """In whose name that key may speak; None if it is not trusted, or no longer."""


@runtime_checkable
class Transport(Protocol):
    """Carries frames between nodes: best effort, never blocking, bounded.

    Frames may be lost, and after a reconnect repeated or reordered across connections; within one connection and lane
    they keep their order. A frame arrives whole or not at all. Nothing here knows what a frame means.

    A frame is one to ``FRAME_PARTS_MAX`` parts, each of which may be empty; what is no frame is not sent. The parts
    that arrive are the ones that were sent, with the same boundaries.

    All methods are called by one thread at a time, but for :meth:`wake`, which any thread may call, at any time. It need not
    always be the same thread: it changes with a lock in between, so that what one did the next one sees.

    A transport whose frames never leave the process says so by an attribute ``in_process`` that is true; any other binds
    beyond loopback only with keys, or where the configuration says ``insecure``.
    """

    def open(
        self, bind_address: str, address: Address, frame_bytes_max: int, credentials: Credentials | None = None
    ) -> Address:
        """Bind all lanes and return the address as bound: a port given as 0 is chosen free.

        With ``credentials``, whoever can't prove to hold a trusted key is shut out of RAFT, BULK and GOSSIP, in both
        directions and before a byte of a frame is read; what passes is encrypted; each frame of RAFT and BULK bears its
        ``owner``; and the address returned bears the public key, as that of every peer does. A key that is trusted no
        longer loses its connections; a new own key is used from the next :meth:`poll` on. HEARTBEAT is not the
        transport's to protect. A transport that can't do this raises :class:`~copycat.errors.InvalidConfig`.

        RAFT listens on ``copycat_port``; GOSSIP (TCP) and HEARTBEAT (UDP) both on ``gossip_port``. The endpoint of BULK is
        the transport's own business, as long as peers find it from the same address. A longer inbound frame than
        ``frame_bytes_max`` (the sum of its parts) is dropped, and its connection may be lost with it.

        Raises :class:`~copycat.errors.AddressInUse` if the configuration names what can't be bound, and
        :class:`~copycat.errors.NodeFailure` if the machine has no means left; either way nothing stays bound.
        """

    def connect(self, node_id: str, address: Address) -> None:
        """From now on ``node_id`` is reached at ``address``; replaces an earlier address of it. Never waits."""

    def disconnect(self, node_id: str) -> None:
        """Forget ``node_id`` and drop what is queued for it. Unknown ids are ignored."""

    def send(self, lane: Lane, node_id: str, parts: Sequence[bytes]) -> bool:
        """Queue one frame on RAFT or BULK for a connected node.

        False if it was dropped at once: the node is unknown, not reachable now, or its queue is full. True promises nothing.
        """

    def send_datagram(self, host: str, port: int, data: bytes) -> bool:
        """Send one datagram on HEARTBEAT to any gossip address. False if it could not be sent."""

    def subscribe(self, node_id: str, address: Address) -> None:
        """Receive what ``node_id`` publishes on GOSSIP. Replaces an earlier subscription to it."""

    def unsubscribe(self, node_id: str) -> None:
        """Stop receiving what ``node_id`` publishes. Unknown ids are ignored."""

    def publish(self, parts: Sequence[bytes]) -> None:
        """Send one frame on GOSSIP to whoever subscribed; slow subscribers lose frames."""

    def poll(self, timeout_s: float) -> list[Inbound]:
        """Return what arrived, waiting up to ``timeout_s`` for the first frame or for :meth:`wake`.

        Bounded in count per call; what is left comes with the next call. ``timeout_s`` 0 never waits.
        """

    def wake(self) -> None:
        """End a :meth:`poll` that waits, or the next one. From any thread; cheap when repeated."""

    def close(self) -> None:
        """Release every socket and queue, at once. May be called twice.

        Afterwards nothing but :meth:`wake` may be called, and that does nothing.
        """


@dataclass(slots=True)
class WriteBatch:
    """Changes that become visible and durable together, or not at all. Later operations win over earlier ones."""

    operations: list[tuple[bytes, bytes | None]] = field(default_factory=list)

    def put(self, key: bytes, value: bytes) -> None:
        self.operations.append((key, value))

    def delete(self, key: bytes) -> None:
        self.operations.append((key, None))


@runtime_checkable
class Storage(Protocol):
    """An ordered map of byte strings on disk, with atomic batches. One per node; it holds all of the node's groups.

    :meth:`write` is called by one thread at a time; reads may run in other threads meanwhile and see each batch whole
    or not at all. A failed read or write raises :class:`~copycat.errors.StorageFailed` (or ``StorageCorrupt`` where the
    engine itself notices a broken block), and the node stops: no state is guessed.

    A storage that sorts what it was given in the background may have a method ``congested() -> bool`` beside these: whether it
    is so far behind that bulk (snapshots) should wait, before everybody has to. It is called often, and never waits.
    """

    def open(self, data_dir: Path) -> None:
        """Open or create the database in ``data_dir`` (created if absent, readable by its owner only).

        Raises :class:`~copycat.errors.StorageLocked` if anyone has it open, :class:`~copycat.errors.StorageForeign`
        if something else is there, :class:`~copycat.errors.StorageCorrupt` or :class:`~copycat.errors.StorageFailed`
        if it can't be read.
        """

    def write(self, batch: WriteBatch, sync: bool) -> None:
        """Apply ``batch`` atomically. With ``sync`` it is on the disk when this returns."""

    def get(self, key: bytes) -> bytes | None:
        """The value of ``key``, or None."""

    def scan(self, start: bytes, stop: bytes, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """Pairs with ``start <= key < stop`` in order of keys, as of the call; writes during the iteration don't show."""

    def close(self) -> None:
        """Release the database and its lock. May be called twice."""
