"""One core's probes, driven packet by packet: periods, helpers, nacks, and what they do to local health."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from copycat.gossip import LAN, EventKind, MemberRecord, MemberState, Profile, Swim
from copycat.gossip.wire import (
    Packet,
    PacketKind,
    Update,
    UpdateKind,
    pack_head,
    pack_packet,
    pack_update,
    unpack_packet,
)
from copycat.testing.gossip_world import node_id_of

ME = node_id_of(0)
OTHERS = [node_id_of(number) for number in range(1, 6)]


class Bench:
    """A core with up to five others, who only say what the test lets them say."""

    def __init__(self, others: int = 5, profile: Profile = LAN) -> None:
        self.now = 0.0
        self.swim = Swim(MemberRecord(ME, "me", 1, 2), profile, random.Random(3))
        self.swim.start(0.0)
        for node_id in OTHERS[:others]:
            self.swim.membership.hear_alive(0.0, MemberRecord(node_id, node_id, 1, 2), spread=False)
        self.sent: list[tuple[str, Packet]] = []
        self.events: list[EventKind] = []
        self.collect()

    def collect(self) -> None:
        outputs = self.swim.take_outputs()
        self.sent = [(host, unpack_packet(data)) for host, _, data in outputs.datagrams]
        self.events = [event.kind for event in outputs.events]

    def tick_until(self, kind: PacketKind, seconds: float = 30.0) -> list[tuple[str, Packet]]:
        """Tick on until packets of that kind are sent; returns them."""
        end = self.now + seconds
        while self.now < end:
            self.now = self.swim.next_deadline()
            self.swim.tick(self.now)
            self.collect()
            found = [(host, packet) for host, packet in self.sent if packet.kind is kind]
            if found:
                return found
        raise AssertionError(f"no {kind.name} within {seconds} s")

    def say(self, packet: Packet, source: str = "x") -> None:
        data = pack_packet(pack_head(packet), [pack_update(update) for update in packet.updates])
        self.swim.receive(self.now, data, (source, 2))
        self.collect()

    def probe(self) -> Packet:
        ((_, ping),) = self.tick_until(PacketKind.PING)
        return ping


def test_helpers_are_asked_after_the_probe_timeout_and_the_period_ends_in_suspicion() -> None:
    bench = Bench()
    ping = bench.probe()
    started = bench.now
    requests = bench.tick_until(PacketKind.PING_REQ)
    assert bench.now - started == pytest.approx(0.5)
    assert len(requests) == len({host for host, _ in requests}) == 3
    assert ping.target not in {host for host, _ in requests}
    assert {(packet.target, packet.host, packet.seq) for _, packet in requests} == {
        (ping.target, ping.target, ping.seq)
    }
    bench.probe()
    assert EventKind.SUSPECTED in bench.events
    assert bench.now - started == pytest.approx(1.0)
    record = bench.swim.member(ping.target)
    assert record is not None
    assert record.state is MemberState.SUSPECT


@pytest.mark.parametrize("nacks", [0, 1, 2, 3])
def test_a_failed_probe_costs_as_much_health_as_nacks_are_missing(nacks: int) -> None:
    bench = Bench()
    ping = bench.probe()
    for host, _ in bench.tick_until(PacketKind.PING_REQ)[:nacks]:
        for _ in range(2):  # a repeated nack counts once
            bench.say(Packet(PacketKind.NACK, host, seq=ping.seq, target=ping.target))
    bench.probe()
    assert bench.swim.health == 3 - nacks
    assert bench.swim.counters.nacks_missed == 3 - nacks
    assert bench.swim.counters.probes_failed == 1


def test_without_helpers_a_failed_probe_costs_one() -> None:
    bench = Bench(others=1)
    bench.probe()
    bench.probe()
    assert bench.swim.health == 1


@pytest.mark.parametrize("indirect", [False, True])
def test_an_ack_by_either_way_saves_the_target_and_restores_health(indirect: bool) -> None:
    bench = Bench()
    bench.swim._awareness.add(2)
    ping = bench.probe()
    sender = ping.target
    if indirect:
        sender = bench.tick_until(PacketKind.PING_REQ)[0][0]
    bench.say(Packet(PacketKind.ACK, sender, seq=ping.seq, target=ping.target))
    bench.say(Packet(PacketKind.ACK, sender, seq=ping.seq, target=ping.target))  # repeated: counts once
    assert bench.swim.health == 1
    bench.probe()
    assert EventKind.SUSPECTED not in bench.events


def test_an_ack_of_an_older_probe_or_of_a_bystander_proves_nothing() -> None:
    bench = Bench()
    ping = bench.probe()
    bystander = next(node_id for node_id in OTHERS if node_id != ping.target)
    bench.say(Packet(PacketKind.ACK, ping.target, seq=ping.seq - 1, target=ping.target))
    bench.say(Packet(PacketKind.ACK, bystander, seq=ping.seq, target=ping.target))
    bench.say(Packet(PacketKind.ACK, bystander, seq=ping.seq, target=bystander))
    bench.probe()
    assert EventKind.SUSPECTED in bench.events


def test_bad_local_health_stretches_timeout_and_period() -> None:
    bench = Bench()
    bench.swim._awareness.add(3)
    bench.probe()
    started = bench.now
    bench.tick_until(PacketKind.PING_REQ)
    assert bench.now - started == pytest.approx(0.5 * 4)
    bench.probe()
    assert bench.now - started == pytest.approx(1.0 * 4)


def test_a_helper_pings_passes_on_the_ack_and_says_no_more() -> None:
    bench = Bench()
    request = Packet(PacketKind.PING_REQ, OTHERS[0], seq=77, target=OTHERS[1], host="there", port=9)
    bench.say(request, source="asker")
    ((host, ping),) = bench.sent
    assert (host, ping.kind, ping.target) == ("there", PacketKind.PING, OTHERS[1])
    bench.say(Packet(PacketKind.ACK, OTHERS[1], seq=ping.seq, target=OTHERS[1]))
    ((host, ack),) = bench.sent
    assert (host, ack.kind, ack.seq, ack.target) == ("asker", PacketKind.ACK, 77, OTHERS[1])
    with pytest.raises(AssertionError, match="no NACK"):
        bench.tick_until(PacketKind.NACK, seconds=5.0)


def test_a_helper_that_hears_nothing_says_so_before_the_asker_gives_up_and_still_passes_on_a_late_ack() -> None:
    bench = Bench()
    asked = bench.now
    bench.say(Packet(PacketKind.PING_REQ, OTHERS[0], seq=77, target=OTHERS[1], host="there", port=9), source="asker")
    ((_, ping),) = bench.sent
    ((host, nack),) = bench.tick_until(PacketKind.NACK)
    assert (host, nack.seq, nack.target) == ("asker", 77, OTHERS[1])
    assert bench.now - asked == pytest.approx(0.4)
    bench.say(Packet(PacketKind.ACK, OTHERS[1], seq=ping.seq, target=OTHERS[1]))
    assert [packet.seq for _, packet in bench.sent if packet.kind is PacketKind.ACK] == [77]


def test_what_a_helper_takes_on_is_bounded() -> None:
    bench = Bench()
    for number in range(3000):
        bench.say(Packet(PacketKind.PING_REQ, OTHERS[0], seq=number, target=OTHERS[1], host="there", port=9))
    assert len(bench.swim._prober._relays) == 1024
    bench.tick_until(PacketKind.NACK)
    bench.now += 0.01
    while bench.swim._prober._relays:
        bench.now = bench.swim.next_deadline()
        bench.swim.tick(bench.now)
    assert bench.now < 5.0


@pytest.mark.parametrize(("stall_s", "cost"), [(0.2, 0), (0.5, 1), (3.5, 4), (1000.0, 8)])
def test_a_tick_that_comes_late_costs_health_by_its_length(stall_s: float, cost: int) -> None:
    bench = Bench(others=0)
    bench.now = bench.swim.next_deadline()
    bench.swim.tick(bench.now + stall_s)
    assert bench.swim.health == cost
    assert bench.swim.counters.stalls == (cost > 0)


def test_with_two_members_a_death_takes_the_shortest_suspicion() -> None:
    bench = Bench(others=1)
    bench.probe()
    started = bench.now
    while EventKind.DIED not in bench.events:
        bench.now = bench.swim.next_deadline()
        bench.swim.tick(bench.now)
        bench.collect()
    assert bench.now - started == pytest.approx(1.0 + 4.0)


def test_the_recently_dead_still_get_news_and_the_long_dead_do_not() -> None:
    bench = Bench()
    bench.say(Packet(PacketKind.GOSSIP, OTHERS[1], updates=[Update(UpdateKind.DEAD, OTHERS[0], 0, OTHERS[1])]))

    def packets_to_the_dead(seconds: float) -> int:
        end = bench.now + seconds
        count = 0
        while bench.now < end:
            bench.swim.update_meta(bench.now, b"%f" % bench.now)
            bench.now = bench.swim.next_deadline()
            for node_id in OTHERS[1:]:  # keep the rest alive without their help
                bench.swim.membership.table.entries[node_id].record = MemberRecord(node_id, node_id, 1, 2)
            bench.swim.tick(bench.now)
            bench.collect()
            count += sum(host == OTHERS[0] and packet.kind is PacketKind.GOSSIP for host, packet in bench.sent)
        return count

    assert packets_to_the_dead(5.0) > 0
    bench.now += 30.0
    bench.swim.tick(bench.now)
    assert bench.swim.membership.gossip_targets(1e9, 3)
    assert OTHERS[0] not in {record.node_id for record in bench.swim.membership.gossip_targets(1e9, 3)}


def test_push_pull_grows_rarer_with_the_logarithm_of_the_cluster() -> None:
    intervals = []
    for members in (2, 32, 64, 1024):
        bench = Bench()
        bench.swim._datagrams.members = members
        intervals.append(bench.swim._push_pull_interval_s() / LAN.push_pull_interval_s)
    assert intervals == [1, 1, 2, 6]


def test_plain_swim_sends_no_nacks_and_gives_no_notice_of_suspicion() -> None:
    bench = Bench(profile=replace(LAN.without_lifeguard(), gossip_interval_s=1000.0))
    bench.say(Packet(PacketKind.PING_REQ, OTHERS[0], seq=77, target=OTHERS[1], host="there", port=9), source="asker")
    with pytest.raises(AssertionError, match="no NACK"):
        bench.tick_until(PacketKind.NACK, seconds=3.0)
    for node_id in OTHERS:
        bench.swim.membership.hear_suspect(bench.now, node_id, 0, ME)
        assert bench.swim.membership.notices_for(node_id) == []
