"""Membership of one node: SWIM with Lifeguard, as a core without clock, sockets, threads or disk.

The caller hands in time and bytes and does what :meth:`Swim.take_outputs` says. Rules for it:

* ``now`` is any clock in seconds; it may jump, but only time that goes on evenly detects failures in time.
* Call :meth:`Swim.tick` when :meth:`Swim.next_deadline` has come. Hand in what has arrived *before* ticking, so that a
  node that stood still hears its mail before it judges others.
* After each call, or a batch of calls, take the outputs: send the datagrams to the addresses given, ask
  :meth:`Swim.push_pull_request` for each node in ``push_pulls`` and carry the pages to it over a reliable lane, and
  there pass each to :meth:`Swim.receive_push_pull`, whose result goes back the same way.
* At an event REMEMBER, write :meth:`Swim.remembered` to disk, and give it back at the next start.

Not thread-safe; never blocks; raises only what is documented. Papers: Das, Gupta & Motivala, "SWIM", 2002; Dadgar,
Phillips & Currey, "Lifeguard", 2017.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from copycat.errors import UsageError
from copycat.gossip.anti_entropy import AntiEntropy
from copycat.gossip.awareness import Awareness
from copycat.gossip.dissemination import Datagrams
from copycat.gossip.joining import Joiner, JoinState
from copycat.gossip.membership import Membership
from copycat.gossip.probing import Prober
from copycat.gossip.profile import Profile
from copycat.gossip.records import EventKind, MemberEvent, MemberRecord, MemberState, check_record
from copycat.gossip.timers import Action, ProtocolTime, Timers
from copycat.gossip.wire import (
    DATAGRAM_BYTES_MIN,
    Packet,
    PacketKind,
    UpdateKind,
    pack_departure,
    pack_head,
    unpack_packet,
)

RIVALS_MAX = 64
"""Conflicting instances of this node's id that are told apart; further ones are not reported."""


@dataclass(slots=True)
class Outputs:
    """What the caller is to do, in any order."""

    datagrams: list[tuple[str, int, bytes]] = field(default_factory=list)  # host, gossip port, data: send, best effort
    push_pulls: list[str] = field(default_factory=list)  # node ids: start an exchange with each
    events: list[MemberEvent] = field(default_factory=list)  # in the order in which they happened


@dataclass(frozen=True, slots=True)
class Counters:
    """Totals since the start."""

    probes: int
    probes_failed: int
    nacks_missed: int
    refuted: int  # accusations against this node that it had to refute
    stalls: int  # calls that came too late
    refused: int  # unknown members beyond Profile.members_max


class Swim:
    """One node's membership core.

    ``me`` is this node's own record, with the incarnation that it was last known to have (see :meth:`remembered`),
    else 0. ``remembered`` is what :meth:`remembered` returned in an earlier life. ``seeds`` are gossip addresses.
    Datagrams never exceed ``datagram_bytes_max``: the budget of the network, less what the caller wraps around them.

    Raises :class:`~copycat.errors.UsageError` for a record that can't travel, or a budget that is too small.
    """

    def __init__(
        self,
        me: MemberRecord,
        profile: Profile,
        rng: random.Random,
        remembered: Iterable[MemberRecord] = (),
        seeds: Sequence[tuple[str, int]] = (),
        datagram_bytes_max: int = 1400,
    ) -> None:
        check_record(me)
        if datagram_bytes_max < DATAGRAM_BYTES_MIN:
            raise UsageError(f"datagrams of {datagram_bytes_max} bytes are too small, {DATAGRAM_BYTES_MIN} are needed")
        self._profile = profile
        self._rng = rng
        self._time = ProtocolTime(profile.stall_threshold_s)
        self._timers = Timers()
        self._awareness = Awareness(profile.awareness_max)
        self._datagrams = Datagrams(datagram_bytes_max, profile.retransmit_multiplier)
        alive = me.with_state(MemberState.ALIVE, me.incarnation)
        self.membership = Membership(alive, profile, rng, self._timers, self._awareness, self._datagrams)
        self._prober = Prober(profile, rng, self._timers, self._awareness, self._datagrams, self.membership)
        self._joiner = Joiner(profile, rng, self._timers, self._datagrams, self.membership, seeds)
        self._anti_entropy = AntiEntropy(self.membership, self._joiner)
        self._remembered = list(remembered)
        self._push_pulls: list[str] = []
        self._boot = rng.getrandbits(64)
        self._rivals: set[int] = set()
        self._claims_at: dict[tuple[str, int], float] = {}
        self._stalls = 0
        self._started = False
        for record in self._remembered:
            check_record(record)

    # --- what the caller asks ---------------------------------------------------------------------------------------

    @property
    def me(self) -> MemberRecord:
        """This node's own record, as it announces it now."""
        return self.membership.me

    @property
    def health(self) -> int:
        """Local health score: 0 is well, ``Profile.awareness_max`` the worst."""
        return self._awareness.score

    @property
    def join_state(self) -> JoinState:
        """Where this node stands between stranger and member; its ``value`` is a sentence."""
        return self._joiner.state

    @property
    def joined(self) -> bool:
        """Whether this node is part of a cluster now (one of its own founding included)."""
        return self._joiner.is_in

    @property
    def reason(self) -> str:
        """Why :attr:`joined` is what it is, in words."""
        return self._joiner.state.value

    @property
    def counters(self) -> Counters:
        return Counters(
            self._prober.probes,
            self._prober.probes_failed,
            self._prober.nacks_missed,
            self.membership.refuted,
            self._stalls,
            self.membership.refused,
        )

    def member(self, node_id: str) -> MemberRecord | None:
        """The record of a known member, whatever its state, or of this node."""
        return self.membership.record_of(node_id)

    def members(self) -> list[MemberRecord]:
        """All that are known, this node first; also the dead, and for a while those that left."""
        return [self.me, *(entry.record for entry in self.membership.table.entries.values())]

    def alive(self) -> list[MemberRecord]:
        """Members not known to be dead or gone (suspects count as alive), this node first."""
        return [self.me, *self.membership.table.in_state(MemberState.ALIVE, MemberState.SUSPECT)]

    def known(self) -> list[MemberRecord]:
        """Who belongs to the cluster, this node first: alive, suspected and dead, but not those that left.

        The base of every majority: a dead member counts until it leaves or is forgotten.
        """
        states = (MemberState.ALIVE, MemberState.SUSPECT, MemberState.DEAD)
        return [self.me, *self.membership.table.in_state(*states)]

    def remembered(self) -> list[MemberRecord]:
        """What to write to disk: :meth:`known`, or nothing before this node belonged to a cluster."""
        return self.known() if self._joiner.belongs else []

    def next_deadline(self) -> float:
        """When :meth:`tick` is needed next, in the caller's clock; infinity if never."""
        return self._time.to_caller(self._timers.next_at())

    @property
    def has_outputs(self) -> bool:
        """Whether there is anything to take; most often there is not."""
        return bool(self._datagrams.outgoing or self._push_pulls or self.membership.has_events)

    def take_outputs(self) -> Outputs:
        """All that is to be done since the last call."""
        outputs = Outputs(self._datagrams.outgoing, self._push_pulls, self.membership.take_events())
        self._datagrams.outgoing = []
        self._push_pulls = []
        return outputs

    # --- what the caller hands in -----------------------------------------------------------------------------------

    def start(self, now: float) -> None:
        """Begin: look for the cluster, or found one. Call once."""
        assert not self._started, "start() is called once"
        self._started = True
        self._time.start(now)
        membership = self.membership
        for record in self._remembered:
            if record.node_id != self.me.node_id:
                if record.state is not MemberState.LEFT:
                    membership.learn_remembered(now, record)
            elif record.incarnation >= self.me.incarnation:
                membership.me = self.me.with_state(MemberState.ALIVE, record.incarnation + 1)
        belonged = bool(self._remembered)
        self._remembered = []
        membership.announce()
        self._joiner.start(now, belonged)
        self._prober.start(now)
        self._later("push-pull", self._push_pull_interval_s() * self._rng.random(), self._push_pull)
        self._later("reconnect", self._profile.reconnect_interval_s * self._rng.random(), self._reconnect)
        self._settle()

    def tick(self, now: float) -> None:
        """Do what is due."""
        if self._is_over():
            return
        self._advance(now)
        self._timers.run_due(self._time.now)
        self._settle()

    def receive(self, now: float, data: bytes, source: tuple[str, int]) -> None:
        """Take a datagram that came from address ``source``.

        Raises :class:`~copycat.errors.CodecError`, before anything was changed, if it is none of ours.
        """
        packet = unpack_packet(data)
        if self._is_over():
            return
        self._advance(now)
        at = self._time.now
        membership = self.membership
        if packet.sender == self.me.node_id:
            self._meet_namesake(at, packet, source)
            return
        incarnation = self.me.incarnation
        before = membership.record_of(packet.sender)
        membership.hear_all(at, packet.updates)
        kind = packet.kind
        if kind is PacketKind.PING:
            self._prober.on_ping(packet, source)
        elif kind is PacketKind.ACK:
            self._prober.on_ack(packet)
        elif kind is PacketKind.PING_REQ:
            self._prober.on_ping_req(at, packet, source)
        elif kind is PacketKind.NACK:
            self._prober.on_nack(packet)
        elif kind is PacketKind.JOIN:
            self._joiner.on_join(at, packet, source)
        elif kind is PacketKind.WELCOME:
            self._joiner.on_welcome(at, packet, source, told_of_itself=self.me.incarnation != incarnation)
        if before is not None and before.state is MemberState.DEAD:
            after = membership.record_of(packet.sender)
            if after is not None and after.state is MemberState.ALIVE and self.joined:
                self._want_push_pull(packet.sender)  # whoever comes back may bring half a cluster
        self._settle()

    def push_pull_request(self, now: float, node_id: str) -> list[bytes]:
        """The pages that start an exchange with ``node_id``, each at most 256 KiB."""
        self._advance(now)
        return [] if self._is_over() else self._anti_entropy.offer()

    def receive_push_pull(self, now: float, from_node: str, page: bytes) -> list[bytes]:
        """Take a page that ``from_node`` sent; returns pages to send back to it, if any.

        Raises :class:`~copycat.errors.CodecError`, before anything was changed, if it is no page of that node.
        """
        if self._is_over():
            return []
        self._advance(now)
        replies = self._anti_entropy.receive(self._time.now, from_node, page)
        self._settle()
        return replies

    def update_meta(self, now: float, meta: bytes) -> None:
        """Announce another ``meta``. Raises :class:`~copycat.errors.UsageError` if it is too long."""
        mine = self.me
        record = MemberRecord(
            mine.node_id,
            mine.hostname,
            mine.copycat_port,
            mine.gossip_port,
            mine.data_center,
            mine.rack,
            mine.incarnation + 1,
            MemberState.ALIVE,
            meta,
        )
        check_record(record)
        if self._is_over() or self.membership.leaving or meta == mine.meta:
            return
        self._advance(now)
        self.membership.replace_me(record)
        self._settle()

    def forget(self, now: float, node_id: str) -> None:
        """An operator's word that a dead member will never come back; all members are told.

        Raises :class:`~copycat.errors.UsageError` if the member is unknown, or not dead.
        """
        self._advance(now)
        self.membership.forget(self._time.now, node_id)
        self._settle()

    def leave(self, now: float) -> None:
        """Say goodbye. :attr:`join_state` becomes LEFT, with an event, once that is spread or ``leave_timeout_s`` is
        over.
        """
        if self._is_over() or self.membership.leaving:
            return
        self._advance(now)
        membership = self.membership
        membership.leaving = True
        self._joiner.state = JoinState.LEAVING
        for key in ("probe", "probe timeout", "push-pull", "reconnect", "join"):
            self._timers.cancel(key)
        self._datagrams.news.put(self.me.node_id, pack_departure(UpdateKind.LEFT, self.me.node_id, self.me.incarnation))
        if not membership.table.live_count:
            self._finish(self._time.now)
            return
        self._later("leave", self._profile.leave_timeout_s, self._finish)
        self._gossip(self._time.now)
        self._settle()

    # --- inside -----------------------------------------------------------------------------------------------------

    def _is_over(self) -> bool:
        assert self._started, "start() comes first"
        return self._joiner.state is JoinState.LEFT

    def _advance(self, now: float) -> None:
        stall_s = self._time.advance(now, self._timers.next_at())
        if stall_s > 0.0:
            self._stalls += 1
            self._awareness.add(1 + int(min(stall_s / self._profile.probe_interval_s, 1000.0)))

    def _later(self, key: str, delay_s: float, action: Action) -> None:
        self._timers.set(key, self._time.now + delay_s, action)

    def _settle(self) -> None:
        """After every input: see to what it left to do."""
        membership = self.membership
        if self._joiner.push_pulls:
            for node_id in self._joiner.push_pulls:
                self._want_push_pull(node_id)
            self._joiner.push_pulls.clear()
        if membership.contested:
            for address in membership.contested:
                self._claim(self._time.now, address, answer=True)
            membership.contested.clear()
        if self._datagrams.news and membership.table.live_count and not self._timers.is_set("gossip"):
            self._later("gossip", self._profile.gossip_interval_s, self._gossip)

    def _gossip(self, now: float) -> None:
        news = self._datagrams.news
        head = pack_head(Packet(PacketKind.GOSSIP, self.me.node_id))
        for record in self.membership.gossip_targets(now, self._profile.gossip_fanout):
            if not news:
                break
            self._datagrams.send(record.hostname, record.gossip_port, head)
        if self.membership.leaving and self.me.node_id not in news:
            self._finish(now)

    def _finish(self, now: float) -> None:
        self._timers.clear()
        self._joiner.state = JoinState.LEFT
        me = self.me.with_state(MemberState.LEFT, self.me.incarnation)
        self.membership.me = me
        self.membership.emit(EventKind.LEFT, me)

    def _push_pull_interval_s(self) -> float:
        members = self._datagrams.members
        interval_s = self._profile.push_pull_interval_s
        if members <= 32:
            return interval_s
        return interval_s * (math.ceil(math.log2(members / 32)) + 1)

    def _push_pull(self, now: float) -> None:
        for member in self.membership.table.sample(1):
            self._want_push_pull(member.record.node_id)
        self._later("push-pull", self._push_pull_interval_s(), self._push_pull)

    def _want_push_pull(self, node_id: str) -> None:
        if node_id not in self._push_pulls:
            self._push_pulls.append(node_id)

    def _reconnect(self, now: float) -> None:
        """Try one of the dead again; all nodes together try each dead member about once per interval."""
        self._later("reconnect", self._profile.reconnect_interval_s, self._reconnect)
        table = self.membership.table
        dead = table.in_state(MemberState.DEAD)
        if not table.live_count:
            self._joiner.ask_seeds()
        if dead and self._rng.random() < len(dead) / (table.live_count + 1):
            record = self._rng.choice(dead)
            head = pack_head(Packet(PacketKind.JOIN, self.me.node_id, record=self.me))
            notices = self.membership.notices_for(record.node_id)
            self._datagrams.send(record.hostname, record.gossip_port, head, notices)

    def _meet_namesake(self, now: float, packet: Packet, source: tuple[str, int]) -> None:
        """A packet bears our own id: an echo of ours, or another live node has the same."""
        if packet.kind is not PacketKind.CLAIM:
            self._claim(now, source, answer=True)
            return
        if packet.boot == self._boot:
            return
        if packet.boot not in self._rivals and len(self._rivals) < RIVALS_MAX:
            assert packet.record is not None
            self._rivals.add(packet.boot)
            self.membership.emit(EventKind.CONFLICT, packet.record)
        if packet.flag:
            self._claim(now, source, answer=False)

    def _claim(self, now: float, address: tuple[str, int], answer: bool) -> None:
        """Ask whoever is at ``address`` whether it uses our id; at most once per protocol period and address."""
        claims_at = self._claims_at
        if answer:
            if now < claims_at.get(address, -math.inf) + self._profile.probe_interval_s:
                return
            if len(claims_at) >= RIVALS_MAX:
                claims_at.pop(next(iter(claims_at)))
            claims_at[address] = now
        packet = Packet(PacketKind.CLAIM, self.me.node_id, record=self.me, flag=answer, boot=self._boot)
        self._datagrams.send(address[0], address[1], pack_head(packet))
