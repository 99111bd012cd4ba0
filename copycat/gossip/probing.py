"""Failure detection: one member is probed per protocol period (SWIM, section 3.1; Lifeguard, section IV-A).

A period: ping the next member; if no ack came by the probe timeout, ask k others to ping it; if none came by the end of
the period, suspect it. Every ping says at which incarnations the prober knows itself and the target, so that each probe
also repairs what the two missed about each other. Helpers answer with an ack as soon as they have one, or else with a
nack before the prober's patience ends: a nack that fails to come says that the prober, not the target, may be the slow
one. Period and timeout stretch with the prober's own local health.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from copycat.gossip.awareness import Awareness
from copycat.gossip.dissemination import Datagrams
from copycat.gossip.membership import Membership
from copycat.gossip.profile import Profile
from copycat.gossip.timers import Timers
from copycat.gossip.wire import Packet, PacketKind, UpdateKind, pack_alive, pack_departure, pack_head

RELAYS_MAX = 1024
"""Indirect probes that a node carries out for others at a time; more are not taken on."""

_SEQ_MASK = (1 << 32) - 1


@dataclass(slots=True)
class _Probe:
    seq: int
    target: str
    ends_at: float
    acked: bool = False
    helpers: set[str] = field(default_factory=set)
    nacked: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Relay:
    """An indirect probe for somebody else, who is reached at ``host`` and ``port``."""

    host: str
    port: int
    seq: int
    target: str


class Prober:
    """Probes others, helps others to probe, and answers."""

    def __init__(
        self,
        profile: Profile,
        rng: random.Random,
        timers: Timers,
        awareness: Awareness,
        datagrams: Datagrams,
        membership: Membership,
    ) -> None:
        self.probes = 0
        self.probes_failed = 0
        self.nacks_missed = 0
        self._profile = profile
        self._rng = rng
        self._timers = timers
        self._awareness = awareness
        self._datagrams = datagrams
        self._membership = membership
        self._seq = rng.getrandbits(32)
        self._probe: _Probe | None = None
        self._relays: dict[int, _Relay] = {}

    def start(self, now: float) -> None:
        """Begin with a first period at a random moment, so that the members of a cluster don't probe in step."""
        self._timers.set("probe", now + self._rng.random() * self._profile.probe_interval_s, self._begin)

    # --- our own probes ---------------------------------------------------------------------------------------------

    def _begin(self, now: float) -> None:
        profile = self._profile
        ends_at = now + self._awareness.scale(profile.probe_interval_s)
        self._timers.set("probe", ends_at, self._end)
        member = self._membership.table.next_target()
        if member is None:
            self._probe = None
            return
        record = member.record
        probe = self._probe = _Probe(self._next_seq(), record.node_id, ends_at)
        self.probes += 1
        self._ping(record.hostname, record.gossip_port, probe.seq, record.node_id)
        self._timers.set("probe timeout", now + self._awareness.scale(profile.probe_timeout_s), self._ask_others)

    def _ask_others(self, now: float) -> None:
        probe = self._probe
        if probe is None or probe.acked:
            return
        target = self._membership.record_of(probe.target)
        if target is None:
            return
        head = pack_head(
            Packet(
                PacketKind.PING_REQ,
                self._membership.me.node_id,
                seq=probe.seq,
                target=probe.target,
                host=target.hostname,
                port=target.gossip_port,
            )
        )
        for helper in self._membership.table.sample(self._profile.indirect_probes, (probe.target,)):
            probe.helpers.add(helper.record.node_id)
            self._datagrams.send(helper.record.hostname, helper.record.gossip_port, head)

    def _end(self, now: float) -> None:
        probe = self._probe
        if probe is not None and not probe.acked:
            self._fail(now, probe)
        self._begin(now)

    def _fail(self, now: float, probe: _Probe) -> None:
        target = self._membership.table.entries.get(probe.target)
        self.probes_failed += 1
        if self._profile.nacks and probe.helpers:
            missed = len(probe.helpers) - len(probe.nacked)
            self.nacks_missed += missed
            self._awareness.add(missed)
        else:
            self._awareness.add(1)
        if target is not None:
            me = self._membership.me.node_id
            self._membership.hear_suspect(now, probe.target, target.record.incarnation, me)

    # --- packets ----------------------------------------------------------------------------------------------------

    def on_ping(self, packet: Packet, source: tuple[str, int]) -> None:
        """Answer, and put right what the prober's view of itself or of us lacks."""
        membership = self._membership
        me = membership.me
        if packet.target != me.node_id:
            return  # meant for a node that had this address before
        known = membership.record_of(packet.sender)
        if known is not None and known.incarnation > packet.incarnation:
            notices = [pack_departure(UpdateKind.HEARD, packet.sender, known.incarnation)]
        else:
            notices = membership.notices_for(packet.sender)
        if packet.target_incarnation < me.incarnation and not membership.leaving:
            notices.append(pack_alive(me))
        head = pack_head(Packet(PacketKind.ACK, me.node_id, seq=packet.seq, target=me.node_id))
        self._datagrams.send(source[0], source[1], head, notices)

    def on_ack(self, packet: Packet) -> None:
        probe = self._probe
        if probe is not None and packet.seq == probe.seq:
            expected = packet.sender == probe.target or packet.sender in probe.helpers
            if packet.target == probe.target and expected and not probe.acked:
                probe.acked = True
                self._awareness.add(-1)
                self._timers.cancel("probe timeout")
            return
        relay = self._relays.get(packet.seq)
        if relay is not None and packet.sender == packet.target == relay.target:
            self._end_relay(packet.seq)
            self._answer(relay, PacketKind.ACK)

    def on_nack(self, packet: Packet) -> None:
        probe = self._probe
        if probe is not None and packet.seq == probe.seq and packet.sender in probe.helpers:
            probe.nacked.add(packet.sender)

    def on_ping_req(self, now: float, packet: Packet, source: tuple[str, int]) -> None:
        if packet.target == self._membership.me.node_id or len(self._relays) >= RELAYS_MAX:
            return
        seq = self._next_seq()
        self._relays[seq] = _Relay(source[0], source[1], packet.seq, packet.target)
        self._ping(packet.host, packet.port, seq, packet.target)
        nack_after_s = self._profile.probe_timeout_s * self._profile.nack_fraction
        self._timers.set(("relay", seq), now + nack_after_s, lambda at: self._nack(at, seq))

    def _nack(self, now: float, seq: int) -> None:
        if self._profile.nacks:
            self._answer(self._relays[seq], PacketKind.NACK)
        # A late ack is still passed on, since the prober's period may be longer than ours.
        patience_s = self._profile.probe_interval_s
        self._timers.set(("relay", seq), now + patience_s, lambda _: self._end_relay(seq))

    def _end_relay(self, seq: int) -> None:
        del self._relays[seq]
        self._timers.cancel(("relay", seq))

    def _answer(self, relay: _Relay, kind: PacketKind) -> None:
        packet = Packet(kind, self._membership.me.node_id, seq=relay.seq, target=relay.target)
        self._datagrams.send(relay.host, relay.port, pack_head(packet))

    def _ping(self, host: str, port: int, seq: int, target: str) -> None:
        membership = self._membership
        me = membership.me
        known = membership.record_of(target)
        packet = Packet(
            PacketKind.PING,
            me.node_id,
            seq=seq,
            target=target,
            incarnation=me.incarnation,
            target_incarnation=0 if known is None else known.incarnation,
        )
        self._datagrams.send(host, port, pack_head(packet), membership.notices_for(target))

    def _next_seq(self) -> int:
        self._seq = (self._seq + 1) & _SEQ_MASK
        return self._seq
