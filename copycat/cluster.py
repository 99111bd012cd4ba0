"""Who is there, and who hosts what: membership and directory, wired to the transport and the disk.

The cores (:mod:`copycat.gossip`, :mod:`copycat.directory`) decide; this carries their words. Datagrams carry probes, the
GOSSIP lane carries changes of the directory as they happen (:mod:`copycat.exchange`), and the RAFT lane carries the exchanges
that repair what either lost. What changes in the membership is told to those who depend on it: transport, exchange,
founding, departures.
"""

from __future__ import annotations

import logging
import shutil
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from copycat import codec
from copycat.codec import pack_record, unpack_record
from copycat.directory import Directory
from copycat.errors import CodecError, CopyCatError
from copycat.exchange import DirectoryExchange
from copycat.gossip.joining import JoinState
from copycat.gossip.profile import PROFILES
from copycat.gossip.records import EventKind, MemberEvent, MemberRecord, MemberState
from copycat.gossip.swim import Outputs, Swim
from copycat.hostset import INTERACTIVE, LEARNER, VOTER
from copycat.placement import Candidate, settle_weight, weight_from_capacity
from copycat.ports import PUBLIC_KEY_BYTES, Address
from copycat.security.guard import Channel, Guard
from copycat.status import Member

if TYPE_CHECKING:
    from copycat.engine import Engine
    from copycat.group import Group

log = logging.getLogger(__name__)

DATAGRAM_BYTES_MAX = 1400
DATAGRAMS_HELD_MAX = 64
MEMBERS_KEY = "members"
HEARD_KEY = "heard"
STARTS_KEY = "starts"
WEIGH_EVERY_S = 30.0
"""How often the machine's room is looked at."""
KIND = 48


@dataclass(frozen=True, slots=True)
class Remembered:
    """The members as a node's disk keeps them."""

    members: tuple[MemberRecord, ...]


@dataclass(frozen=True, slots=True)
class Heard:
    """Of which start of each node something was heard last, as a node's disk keeps it: see :mod:`copycat.security.replay`."""

    starts: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class PushPull:
    """A page of the exchange of memberships."""

    page: bytes


@dataclass(frozen=True, slots=True)
class Known:
    candidate: Candidate
    state: MemberState
    leaving: bool


class Cluster:
    """Belongs to the engine's thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        config = engine.config
        store = engine.store
        starts = int.from_bytes(store.get(STARTS_KEY) or b"", "big") + 1
        kept = store.get(MEMBERS_KEY)
        remembered = () if kept is None else unpack_record(Remembered, kept).members
        address = engine.address
        heard = store.get(HEARD_KEY)
        self.guard = Guard(
            config.cluster_label,
            engine.node_id,
            starts,
            engine.credentials,
            None if heard is None else dict(unpack_record(Heard, heard).starts),
        )
        me = MemberRecord(
            engine.node_id,
            address.hostname,
            address.copycat_port,
            address.gossip_port,
            config.data_center,
            config.rack,
            meta=pack_meta(engine.weight, False, self.guard.public_key),
        )
        seeds = [seed for seed in config.seeds if seed != (address.hostname, address.gossip_port)]
        budget = DATAGRAM_BYTES_MAX - self.guard.overhead_bytes
        self.swim = Swim(me, PROFILES[config.gossip_profile], engine.rng, remembered, seeds, budget)
        self.directory = Directory(engine.node_id, starts)
        self._starts = starts
        self._start_is_durable = False
        self._held: list[tuple[str, int, bytes]] = []
        self._is_leaving = False
        self._joining: list[Future[None]] = []
        self._leaving: list[Future[None]] = []
        self._absent_since: dict[str, float] = {}
        self._weigh_at = 0.0
        self.exchange = DirectoryExchange(engine, self.directory, starts, self._address_of)
        engine.registry.register(KIND, PushPull)
        engine.handlers[PushPull] = self._on_push_pull

    # --- driving ---

    def start(self) -> None:
        engine = self._engine
        batch = engine.stage(True, self._start_counts)
        engine.store.stage_put(batch, STARTS_KEY, self._starts.to_bytes(8, "big"))
        for group in engine.hosting.groups.values():
            self.hosts(group)
        self.exchange.start()
        self.swim.start(engine.now)
        for record in self.swim.members():
            self._connect(record)
        if self.swim.join_state is JoinState.FOUNDED:
            engine.founding.found_cluster()

    def turn(self) -> None:
        """Let due timers run, and carry out what was decided since the last turn."""
        engine = self._engine
        if engine.now >= self.swim.next_deadline():
            self.swim.tick(engine.now)
        if self.swim.has_outputs:
            self._carry_out(self.swim.take_outputs())
        self.exchange.turn()
        if engine.now >= self._weigh_at:
            self._weigh()
        if self._joining and self.swim.join_state is not JoinState.SEEKING:
            for joined in self._joining:
                if not joined.done():
                    joined.set_result(None)
            self._joining.clear()

    def _carry_out(self, outputs: Outputs) -> None:
        engine = self._engine
        if self._start_is_durable:
            self._send_datagrams(outputs.datagrams)
        else:
            self._held = (self._held + outputs.datagrams)[-DATAGRAMS_HELD_MAX:]
        for event in outputs.events:
            self._happened(event)
        for node_id in outputs.push_pulls:
            for page in self.swim.push_pull_request(engine.now, node_id):
                engine.send(node_id, PushPull(page))
            self.exchange.compare_with(node_id)

    def next_deadline(self) -> float:
        return min(self.swim.next_deadline(), self.exchange.next_deadline())

    def when_joined(self, joined: Future[None]) -> None:
        """``joined`` is resolved once this node belongs to a cluster."""
        self._joining.append(joined)

    def leave(self, left: Future[None]) -> None:
        """Say goodbye; ``left`` is resolved when that has spread, or can't."""
        self._leaving.append(left)
        self.swim.leave(self._engine.now)

    def announce(self, leaving: bool) -> None:
        """Tell the others whether this node is about to leave for good."""
        self._is_leaving = leaving
        self._update_meta()

    def _weigh(self) -> None:
        """Announce this node's weight where its machine's room has changed much, or has run out."""
        engine = self._engine
        self._weigh_at = engine.now + WEIGH_EVERY_S
        weight = engine.weigh(engine.weight)
        if weight != engine.weight:
            log.warning(
                "this node's weight in placement changes", extra={"weight": weight, "weight_before": engine.weight}
            )
            engine.weight = weight
            self.announce(engine.departures.leaving)

    def remember(self) -> None:
        """Write to disk who belongs to the cluster, and where: this node finds them there when no seed answers.

        A node that was shut down has said goodbye, and is expected back all the same; one that left for good is not. If all
        are shut down at once, each must still know the others when it starts again.
        """
        departures = self._engine.departures
        members = [
            record.with_state(MemberState.DEAD, record.incarnation) if record.state is MemberState.LEFT else record
            for record in self.swim.members()
            if not departures.has_left(record.node_id)
        ]
        if self.swim.remembered():
            batch = self._engine.stage(True, lambda: None)
            self._engine.store.stage_put(batch, MEMBERS_KEY, pack_record(Remembered(tuple(members))))

    def end(self, reason: CopyCatError) -> None:
        """No turn will come any more."""
        for waiting in (*self._joining, *self._leaving):
            if not waiting.done():
                waiting.set_exception(reason)
        self._joining.clear()
        self._leaving.clear()

    # --- what others ask ---

    def members(self) -> list[Member]:
        return [
            Member(
                record.node_id,
                f"{record.hostname}:{record.gossip_port}",
                record.state.name.lower(),
                record.data_center,
                record.rack,
            )
            for record in self.swim.members()
        ]

    def candidates(self) -> list[Candidate]:
        """Living nodes that could host a replica; those that are about to leave could not."""
        return [
            Candidate(record.node_id, record.data_center, record.rack, weight_of(record))
            for record in self.swim.alive()
            if record.state is MemberState.ALIVE and not is_leaving(record)
        ]

    def candidates_with_state(self) -> list[Known]:
        """Every known node, with whether it lives: see :meth:`absent_since`."""
        return [
            Known(
                Candidate(record.node_id, record.data_center, record.rack, weight_of(record)),
                record.state,
                is_leaving(record),
            )
            for record in self.swim.members()
        ]

    def is_led(self, group_id: bytes) -> bool:
        """Whether a leader of the group is known, here or anywhere."""
        group = self._engine.hosting.groups.get(group_id)
        if group is not None and group.leader:
            return True
        return any(host.leader_term for host in self.directory.hosts_of(group_id))

    def has_consumer(self, node_id: str, group_id: bytes) -> bool:
        """Whether the node lives and says that a consumer of the group is attached there."""
        return self.absent_since(node_id) is None and any(
            host.node_id == node_id and host.interactive for host in self.directory.hosts_of(group_id)
        )

    def absent_since(self, node_id: str) -> float | None:
        """Since when a node is dead or gone, on the engine's clock; None while it lives.

        A node that nobody remembers is absent since this one started to look.
        """
        record = self.swim.member(node_id)
        if record is not None and record.state in (MemberState.ALIVE, MemberState.SUSPECT):
            return None
        return self._absent_since.setdefault(node_id, self._engine.now)

    def hosts_of(self, group_id: bytes) -> tuple[str, ...]:
        """Nodes that say they host the group, the leader's first."""
        return tuple([host.node_id for host in self.directory.hosts_of(group_id)])

    def hosts(self, group: Group) -> None:
        """This node hosts the group, in the role it has now."""
        voter = group.raft_id in group.voters()
        flags = (VOTER if voter else LEARNER) | (INTERACTIVE if group.interactive else 0)
        self.directory.host(group.id, flags)
        self.directory.set_leader(group.id, group.term if group.leads else 0)

    def hosts_no_more(self, group: Group) -> None:
        self.directory.unhost(group.id)

    # --- what arrives ---

    def receive_datagram(self, data: bytes, source: tuple[str, int]) -> None:
        self.swim.receive(self._engine.now, self.guard.open(Channel.DATAGRAM, data), source)

    def receive_published(self, data: bytes) -> None:
        self.exchange.receive(self.guard.open(Channel.PUBLICATION, data))

    def _on_push_pull(self, sender: str, message: PushPull) -> None:
        for page in self.swim.receive_push_pull(self._engine.now, sender, message.page):
            self._engine.send(sender, PushPull(page))

    # --- keys ---

    def read_keys_again(self) -> None:
        """This node has changed its key files: use what they say now."""
        self.guard.look_again()
        self.tick()

    def tick(self) -> None:
        """Now and then: see whether keys have changed, and keep what stops old datagrams from counting again."""
        engine = self._engine
        if self.guard.tick(engine.now):
            self._update_meta()
            for record in self.swim.members():
                self._connect(record)
        replays = self.guard.replays
        if replays is not None and replays.changed:
            replays.changed = False
            batch = engine.stage(False, lambda: None)
            engine.store.stage_put(batch, HEARD_KEY, pack_record(Heard(tuple(replays.starts().items()))))

    def _start_counts(self) -> None:
        """The number of this start is on the disk, so what bears it may leave."""
        self._start_is_durable = True
        self.exchange.counted()
        held, self._held = self._held, []
        self._send_datagrams(held)

    def _send_datagrams(self, datagrams: list[tuple[str, int, bytes]]) -> None:
        for host, port, data in datagrams:
            self._engine.transport.send_datagram(host, port, self.guard.seal(Channel.DATAGRAM, data))

    def _update_meta(self) -> None:
        meta = pack_meta(self._engine.weight, self._is_leaving, self.guard.public_key)
        self.swim.update_meta(self._engine.now, meta)

    # --- what changes ---

    def _happened(self, event: MemberEvent) -> None:
        engine = self._engine
        record = event.record
        kind = event.kind
        if kind is EventKind.REMEMBER:
            self.remember()
            return
        if kind is EventKind.CONFLICT:
            log.error(
                "another live node uses this node's id", extra={"node_id": record.node_id, "hostname": record.hostname}
            )
            return
        if kind is EventKind.READY:
            engine.founding.meet(self._known(), ())
            return
        if record.node_id == engine.node_id:
            if kind is EventKind.LEFT:
                for left in self._leaving:
                    left.set_result(None)
                self._leaving.clear()
            return
        if kind in (EventKind.JOINED, EventKind.UPDATED, EventKind.REFUTED):
            self._absent_since.pop(record.node_id, None)
            self._connect(record)
            self.exchange.member_up(record)
            if kind is EventKind.JOINED and self.swim.joined:
                engine.founding.meet(self._known(), ())
        elif kind in (EventKind.DIED, EventKind.LEFT):
            self._absent_since.setdefault(record.node_id, engine.now)
            self.exchange.member_down(record.node_id)
            if kind is EventKind.LEFT:
                self._disconnect(record.node_id)
        elif kind is EventKind.REAPED:
            self.exchange.forget(record.node_id)
        engine.departures.happened(event)
        engine.happenings.member(engine.now, kind.value, record.node_id)
        log.info("member %s", kind.value, extra={"node_id": record.node_id})

    def _known(self) -> list[str]:
        return [record.node_id for record in self.swim.members()]

    def _connect(self, record: MemberRecord) -> None:
        if record.node_id == self._engine.node_id or record.state is MemberState.LEFT:
            return
        public_key = public_key_of(record)
        if not self.guard.may_connect(record.node_id, public_key):
            log.error("a member is announced with the key of another one", extra={"node_id": record.node_id})
            return
        self._engine.transport.connect(record.node_id, _address(record))

    def _disconnect(self, node_id: str) -> None:
        self._engine.transport.disconnect(node_id)
        self._engine.outbox.forget(node_id)

    def _address_of(self, node_id: str) -> Address | None:
        record = self.swim.member(node_id)
        return None if record is None else _address(record)


def _address(record: MemberRecord) -> Address:
    return Address(record.hostname, record.copycat_port, record.gossip_port, public_key_of(record))


def measure_weight(data_dir: str, current: float) -> float:
    """This machine's weight in placement now, by what its disk and its memory can carry, given the one it had.

    A storage that keeps nothing on disk makes no ``data_dir``; then it is the disk where that would be.
    """
    place = Path(data_dir).absolute()
    import psutil  # the one place that needs it, and not what a program that only looks at a configuration loads

    try:
        disk = shutil.disk_usage(next(folder for folder in (place, *place.parents) if folder.is_dir()))
    except OSError as error:  # whether the disk is broken is for those to find out who write to it
        log.warning("the disk does not say how full it is: %s", error)
        return current
    memory = psutil.virtual_memory()
    measured = weight_from_capacity(disk.free, disk.total, memory.available, memory.total, excluded=current == 0.0)
    return settle_weight(current, measured)


def pack_meta(weight: float, leaving: bool, public_key: bytes = b"") -> bytes:
    """What a member's record says of it beyond names and places."""
    return codec.pack([weight, leaving, public_key] if public_key else [weight, leaving])


def public_key_of(record: MemberRecord) -> bytes:
    """The key that a member's connections prove; empty where it names none."""
    key = _meta_field(record, 2)
    return key if isinstance(key, bytes) and len(key) == PUBLIC_KEY_BYTES else b""


def weight_of(record: MemberRecord) -> float:
    """The weight that a member announces; 1 where it says nothing that can be understood."""
    weight = _meta_field(record, 0)
    return weight if isinstance(weight, float) and 0.0 <= weight <= 1e6 else 1.0


def is_leaving(record: MemberRecord) -> bool:
    """Whether a member says that it is about to leave for good."""
    return _meta_field(record, 1) is True


def _meta_field(record: MemberRecord, number: int) -> object:
    try:
        return codec.unpack(record.meta)[number]
    except (CodecError, TypeError, IndexError, KeyError):
        return None
