"""The one loop over all groups of a node. No sockets, no threads, no clock of its own.

One turn: take what arrived and what other threads posted; let every group it concerns do what there is to do; send one
frame to each peer; leave one write for the storage. Whoever drives the engine carries out the write, whenever and
wherever it likes, and reports it with :meth:`Engine.written`; only then are the answers sent that depend on it.

    runtime:     poll -> turn(now, frames) -> take_write() -> ... -> post(written), or at once: written -> settle()
    simulation:  the same calls, in one thread and in virtual time
"""

from __future__ import annotations

import logging
import random
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from copycat import codec, protocol
from copycat.backups import Backups
from copycat.cluster import Cluster
from copycat.config import Config
from copycat.consumers import Consumers
from copycat.departures import Departures
from copycat.errands import Errands
from copycat.errors import (
    Closed,
    CodecError,
    CopyCatError,
    LocalMessage,
    LogDiverged,
    NodeFailure,
    PeerUnknown,
    ProposalDropped,
    UsageError,
)
from copycat.founding import Founding
from copycat.group import Group
from copycat.happenings import Happenings
from copycat.hosting import Hosting
from copycat.locating import Locating
from copycat.messages import Message, MessageType
from copycat.metrics import Tally
from copycat.nodestore import NodeStore
from copycat.outbox import Outbox
from copycat.plausibility import check_message, check_numbers
from copycat.ports import Address, Inbound, Lane, Storage, Transport, WriteBatch
from copycat.recovery import Recoveries
from copycat.restores import Restores
from copycat.ringchange import RingChanges
from copycat.stewardship import Stewardship
from copycat.testimony import VOTE_REQUESTS, Testimony
from copycat.traffic import MeteredTransport
from copycat.transfer import ChunkServer

if TYPE_CHECKING:
    from copycat.security.credentials import FileCredentials

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Write:
    """The write of one turn, for all groups that changed, and whom to tell when it is done."""

    batch: WriteBatch = field(default_factory=WriteBatch)
    sync: bool = False
    durable: list[Callable[[], None]] = field(default_factory=list)
    taken_at: float = 0.0
    size: int = 0
    """Bytes of values; counted once, when the write is taken."""


@dataclass(slots=True)
class Counters:
    """What happened since the start; never reset. More of it is in :class:`~copycat.metrics.Tally`."""

    turns: int = 0
    frames_received: int = 0
    frames_rejected: int = 0
    items_rejected: int = 0
    items_postponed: int = 0
    writes: int = 0
    write_seconds: float = 0.0
    write_bytes: int = 0


class Engine:
    """All methods belong to the thread that drives it, but for :meth:`post`."""

    def __init__(
        self,
        config: Config,
        address: Address,
        transport: Transport,
        storage: Storage,
        store: NodeStore,
        rng: random.Random,
        weigh: Callable[[float], float],
        credentials: FileCredentials | None = None,
    ) -> None:
        self.config = config
        self.weigh = weigh
        """Given the weight that this node has in placement, the one that it should have: see
        :func:`copycat.placement.weight_from_capacity`."""
        self.weight = weigh(0.0)
        self.address = address
        self.credentials = credentials
        self.transport = MeteredTransport(transport)
        self.storage = storage
        self.store = store
        self.node_id = store.node_id
        self.rng = rng
        self.now = 0.0
        self.boot = rng.getrandbits(64).to_bytes(8, "big")
        self.failed: NodeFailure | None = None
        self.counters = Counters()
        self.tally = Tally()
        self.happenings = Happenings()
        self.registry = codec.Registry()
        self.handlers: dict[type[Any], Callable[[str, Any], None]] = {}
        self.outbox = Outbox(
            self.transport, self.registry, config.cluster_label, self.node_id, config.frame_bytes_max, self._unreachable
        )
        self._posts: deque[Callable[[], None]] = deque()
        self._post_lock = threading.Lock()
        self._accepting = True
        self._dirty: dict[bytes, Group] = {}
        self._write: Write | None = None
        self._under_way: deque[Write] = deque()
        self._unwritten = 0
        self._next_tick = 0.0
        protocol.register(self.registry)
        self.hosting = Hosting(self)
        self.cluster = Cluster(self)
        self.founding = Founding(self)
        self.departures = Departures(self)
        self.stewardship = Stewardship(self)
        self.errands = Errands(self)
        self.recoveries = Recoveries(self)
        self.backups = Backups(self)
        self.restores = Restores(self)
        self.locating = Locating(self)
        self.testimony = Testimony(self)
        self.ring_changes = RingChanges(self)
        self.consumers = Consumers(self)
        self.chunks = ChunkServer(self)

    # --- driving ---

    def start(self, now: float) -> None:
        """Begin: load what the disk holds, and look for the cluster."""
        self.now = now
        self._next_tick = now
        self.hosting.load()
        self.restores.load()
        self.cluster.start()
        self.departures.start()

    def turn(self, now: float, inbound: list[Inbound]) -> None:
        """One pass over everything. Raises :class:`~copycat.errors.NodeFailure` if the node must stop."""
        self.now = now
        self.counters.turns += 1
        posts = self._posts
        for _ in range(len(posts)):
            posts.popleft()()
        if self.failed is not None:
            raise self.failed
        for frame in inbound:
            self._receive(frame)
        if now >= self._next_tick:
            self._tick()
        self.cluster.turn()
        self.settle()

    def settle(self) -> None:
        """Let every group that something happened to do what there is to do, and send what they say.

        A turn ends with it. Whoever carries out a turn's write at once calls it again, behind :meth:`written`.
        """
        while self._dirty:
            _, group = self._dirty.popitem()
            position = group.sequencer.position
            try:
                group.turn()
            except (LogDiverged, CodecError, UsageError) as error:
                self.hosting.quarantine(group, error)  # what is wrong with one group must not stop the others
                continue
            self.tally.items_applied += group.sequencer.position - position
            self.consumers.settled(group)
        self.outbox.flush()

    def take_write(self) -> Write | None:
        """What must be written after this turn, if anything."""
        write, self._write = self._write, None
        if write is not None:
            write.taken_at = self.now
            write.size = sum([len(value) for _, value in write.batch.operations if value is not None])
            self._under_way.append(write)
            self._unwritten += write.size
        return write

    def written(self, writes: list[Write], seconds: float) -> None:
        """These writes are durable; ``seconds`` is how long that took."""
        self.counters.writes += 1
        self.counters.write_seconds += seconds
        self.tally.sync.add(seconds)
        for write in writes:
            self.counters.write_bytes += write.size
            assert write is self._under_way[0], "writes are carried out in the order in which they were taken"
            self._under_way.popleft()
            self._unwritten -= write.size
            for durable in write.durable:
                durable()

    def disk_congested(self) -> bool:
        """Whether bulk should wait, because the storage says that everybody would have to otherwise."""
        congested = getattr(self.storage, "congested", None)
        return congested is not None and bool(congested())

    def write_age(self) -> float:
        """For how many seconds the oldest write that is not done has been waiting; 0 if there is none."""
        return self.now - self._under_way[0].taken_at if self._under_way else 0.0

    @property
    def _is_behind(self) -> bool:
        """Whether so much waits for the disk that no more may be taken on."""
        return self._unwritten >= self.config.write_queue_bytes_max

    @property
    def writes_under_way(self) -> int:
        """How many writes were taken and are not done."""
        return len(self._under_way)

    @property
    def busy(self) -> bool:
        """Whether another turn is wanted at once."""
        return bool(self._posts or self._dirty or self._write is not None)

    def next_deadline(self) -> float:
        """When a turn is wanted even if nothing arrives, on the clock that ``now`` comes from."""
        return min(self._next_tick, self.cluster.next_deadline())

    def end(self) -> None:
        """No further turn will come: tell every consumer and everyone who waits."""
        reason: CopyCatError = self.failed if self.failed is not None else Closed("the node has been shut down")
        with self._post_lock:
            self._accepting = False
        while self._posts:
            try:
                self._posts.popleft()()
            except CopyCatError as error:
                log.debug("not done any more: %s", error)
            except Exception:
                log.exception("a request failed at the end")
        self.consumers.end(reason)
        self.cluster.end(reason)
        self.founding.end(reason)
        self.departures.end(reason)
        self.errands.end(reason)
        self.recoveries.end(reason)
        self.backups.end(reason)
        self.restores.end(reason)
        self.locating.end(reason)
        self.ring_changes.end(reason)
        for group in self.hosting.groups.values():
            group.end()

    def _tick(self) -> None:
        """Raft's time passes. After a pause it passes once: missed ticks are not made up for."""
        period = self.config.tick_ms / 1000
        self._next_tick = max(self._next_tick + period, self.now + period / 2)
        self.cluster.tick()
        self.outbox.tick()
        self.hosting.tick()
        self.consumers.tick()
        self.founding.tick()
        self.departures.tick()
        self.stewardship.tick()
        self.errands.tick()
        self.recoveries.tick()
        self.backups.tick()
        self.restores.tick()
        self.locating.tick()
        self.ring_changes.tick()
        self.chunks.tick()

    # --- what arrives ---

    def _receive(self, frame: Inbound) -> None:
        self.counters.frames_received += 1
        self.transport.arrived(frame)
        try:
            if frame.lane is Lane.HEARTBEAT:
                assert frame.source is not None
                self.cluster.receive_datagram(frame.parts[0], frame.source)
                return
            if frame.lane is Lane.GOSSIP:
                self.cluster.receive_published(frame.parts[0])
                return
            sender, items, attachments = codec.open_frame(frame.parts, self.config.cluster_label, self.node_id)
            self.cluster.guard.check_speaker(frame.owner, sender)
        except CodecError as error:
            self.counters.frames_rejected += 1
            log.debug("dropped a frame on lane %s: %s", frame.lane.name, error)
            return
        for item in items:
            try:
                self._receive_item(sender, item, attachments)
            except (CodecError, PeerUnknown, LocalMessage, ProposalDropped) as error:
                self.counters.items_rejected += 1
                log.debug("dropped a message of node %s: %s", sender, error)

    def _receive_item(self, sender: str, item: Any, attachments: Any) -> None:
        if isinstance(item, list) and item and item[0] == codec.RAFT_ITEM:
            group_id, message = codec.unpack_raft(item, attachments)
            self._receive_raft(sender, group_id, message)
        else:
            unpacked = self.registry.unpack(item)
            check_numbers(unpacked)
            self.deliver(sender, unpacked)

    def _receive_raft(self, sender: str, group_id: bytes, message: Message) -> None:
        if self.departures.has_left(sender):
            self.departures.refuse(sender)
            return
        group = self.hosting.groups.get(group_id)
        if group is None or group.raft_id != message.to:
            self.hosting.stranger(sender, group_id, message)
            return
        check_message(message, group.raft.term)
        group.check_speaker(sender, message)
        if message.entries and self._is_behind:
            # As if the network had lost it: who sent it will find out, slow down, and send it again.
            self.counters.items_postponed += 1
            return
        if message.type in VOTE_REQUESTS:
            self.testimony.asked_for_vote(group, sender, message)
        try:
            if message.type is MessageType.PROP:
                self.stewardship.proposed(group, sender, message)
            else:
                group.step(sender, message)
        except LogDiverged as error:
            self.hosting.quarantine(group, error)

    def deliver(self, sender: str, message: Any) -> None:
        """Hand a message between nodes to whoever handles its kind."""
        self.handlers[message.__class__](sender, message)

    def _unreachable(self, group_id: bytes, raft_id: int) -> None:
        group = self.hosting.groups.get(group_id)
        if group is not None:
            group.unreachable(raft_id)

    # --- what groups and services ask of their host ---

    def post(self, action: Callable[[], None]) -> bool:
        """Run ``action`` in a later turn; False if none will come any more. From any thread."""
        with self._post_lock:
            if not self._accepting:
                return False
            self._posts.append(action)
        self.transport.wake()
        return True

    def stage(self, sync: bool, durable: Callable[[], None]) -> WriteBatch:
        """The batch of this turn's write; ``durable`` is called, in order, once it is on disk.

        With ``sync`` the write is synced, as far as the configured durability wants any sync.
        """
        if self._write is None:
            self._write = Write()
        self._write.sync = self._write.sync or (sync and self.config.synced)
        self._write.durable.append(durable)
        return self._write.batch

    def send_raft(self, node_id: str, group: bytes, message: Message) -> None:
        self.outbox.add_raft(node_id, group, message)

    def send(self, node_id: str, message: Any) -> None:
        """Send a message between nodes; one to this node itself is handed over in a later turn."""
        if node_id == self.node_id:
            self.post(lambda: self.deliver(node_id, message))
        else:
            self.outbox.add(node_id, message)

    def send_bulk(self, node_id: str, message: Any) -> bool:
        return self.outbox.send_bulk(node_id, message)

    def touch(self, group: Group) -> None:
        """Look at ``group`` before the turn ends, unless it has been destroyed meanwhile."""
        if self.hosting.groups.get(group.id) is group:
            self._dirty[group.id] = group

    def drop(self, group: Group) -> None:
        """The group is no longer here: don't look at it any more."""
        self._dirty.pop(group.id, None)

    def changed_role(self, group: Group) -> None:
        if group.leader:
            self.tally.leader_changes += 1
            self.tally.elections_won += group.leads
            self.happenings.leader(self.now, group.node_of(group.leader) or "", group.id, group.term)
        self.stewardship.changed_role(group)
        self.consumers.changed_role(group)

    def changed_members(self, group: Group) -> None:
        self.stewardship.changed_members(group)

    def reached_cap(self, group: Group) -> None:
        self.stewardship.watch_log(group)
