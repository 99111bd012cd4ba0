"""Clusters of real cores over a simulated network: detection, refutation, stalls, clocks, leaving, moving, conflict."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from copycat.errors import CodecError, UsageError
from copycat.gossip import LAN, LOCAL, WAN, EventKind, JoinState, MemberState, Profile, Swim
from copycat.gossip.wire import PacketKind, UpdateKind, unpack_packet
from copycat.testing.gossip_world import GossipWorld, SimulatedNode, node_id_of

MakeWorld = Callable[..., GossipWorld]


def state_of(node: SimulatedNode, other: SimulatedNode) -> MemberState | None:
    record = node.swim.member(other.node_id)
    return None if record is None else record.state


def all_see(nodes: list[SimulatedNode], other: SimulatedNode, state: MemberState) -> bool:
    return all(state_of(node, other) is state for node in nodes)


def kinds(node: SimulatedNode, about: SimulatedNode | None = None) -> list[EventKind]:
    return [event.kind for _, event in node.events if about is None or event.record.node_id == about.node_id]


@pytest.mark.parametrize("profile", [LAN, WAN, LOCAL])
@pytest.mark.parametrize("count", [2, 3, 10, 50])
def test_a_crash_is_known_everywhere_and_nobody_else_is_accused(
    make_world: MakeWorld, profile: Profile, count: int
) -> None:
    world = make_world(count, profile)
    nodes = world.form(count)
    world.run(10 * profile.probe_interval_s)
    world.crash(nodes[0])
    rest = nodes[1:]
    assert world.run_until(lambda: all_see(rest, nodes[0], MemberState.DEAD), 60 * profile.probe_interval_s)
    world.run(10 * profile.probe_interval_s)
    for node in rest:
        assert EventKind.SUSPECTED in kinds(node, nodes[0]) or EventKind.DIED in kinds(node, nodes[0])
        for other in rest:
            assert EventKind.SUSPECTED not in kinds(node, other)
        assert len(node.swim.alive()) == count - 1
        assert len(node.swim.known()) == count


def test_on_one_machine_a_death_is_known_within_seconds(make_world: MakeWorld) -> None:
    for seed in range(10):
        world = make_world(seed, LOCAL)
        nodes = world.form(3)
        world.run(2.0)
        world.crash(nodes[0])
        crashed_at = world.now
        assert world.run_until(lambda nodes=nodes: all_see(nodes[1:], nodes[0], MemberState.DEAD), 10.0)
        assert world.now - crashed_at < 2.5


@pytest.mark.parametrize("loss", [0.05, 0.2])
def test_lost_datagrams_kill_nobody(make_world: MakeWorld, loss: float) -> None:
    world = make_world(1, LAN, loss=loss)
    nodes = world.form(20)
    world.run(300.0)
    for node in nodes:
        assert EventKind.DIED not in kinds(node)
        assert len(node.swim.alive()) == 20


def test_a_member_that_only_some_can_reach_is_kept_alive_by_the_others(make_world: MakeWorld) -> None:
    world = make_world(4)
    nodes = world.form(10)
    cut = {nodes[0].node_id, nodes[1].node_id}
    world.reachable = lambda sender, to: {sender.node_id, to.node_id} != cut
    world.run(120.0)
    for node in nodes:
        assert EventKind.DIED not in kinds(node)
        assert EventKind.SUSPECTED not in kinds(node)


def test_a_suspect_hears_of_it_in_the_next_ping_and_refutes(make_world: MakeWorld) -> None:
    world = make_world(5)
    nodes = world.form(5)
    world.run(5.0)
    victim = nodes[0]
    nodes[1].swim.membership.hear_suspect(nodes[1].swim._time.now, victim.node_id, 0, nodes[1].node_id)
    world.settle(nodes[1])
    assert world.run_until(lambda: victim.swim.me.incarnation == 1, 8.0)
    assert world.run_until(lambda: all_see(nodes[1:], victim, MemberState.ALIVE), 5.0)
    assert victim.swim.counters.refuted == 1


def test_pings_to_suspects_carry_the_accusation_first(make_world: MakeWorld) -> None:
    world = make_world(6)
    nodes = world.form(10)
    world.run(5.0)
    world.crash(nodes[0])
    seen = []

    def watch(sender: SimulatedNode, address: tuple[str, int], data: bytes) -> None:
        packet = unpack_packet(data)
        is_probe = packet.kind is PacketKind.PING and packet.target == nodes[0].node_id
        if is_probe and state_of(sender, nodes[0]) is MemberState.SUSPECT:
            seen.append((packet.updates[0].kind, packet.updates[0].node_id))

    world.on_datagram = watch
    world.run(20.0)
    assert seen
    assert set(seen) == {(UpdateKind.SUSPECT, nodes[0].node_id)}


def test_a_node_that_stood_still_accuses_nobody_and_lowers_its_own_health(make_world: MakeWorld) -> None:
    world = make_world(7)
    nodes = world.form(10)
    world.run(10.0)
    world.stall(nodes[0], 8.0)
    world.run(8.001)
    assert nodes[0].swim.health > 0
    assert nodes[0].swim.counters.stalls >= 1
    world.run(60.0)
    for node in nodes:
        for other in nodes[1:]:
            assert EventKind.SUSPECTED not in kinds(node, other)
        assert len(node.swim.alive()) == 10
    assert nodes[0].swim.health == 0


@pytest.mark.parametrize(("profile", "suspects"), [(LAN, False), (LAN.without_lifeguard(), True)])
def test_a_stall_between_ping_and_ack_is_not_held_against_the_target(
    make_world: MakeWorld, profile: Profile, suspects: bool
) -> None:
    world = make_world(22, profile)
    nodes = world.form(8)
    world.run(10.0)
    world.mail_before_timers = False  # the worst engine: it judges before it listens
    stalls = 0

    def stall_after_ping(sender: SimulatedNode, address: tuple[str, int], data: bytes) -> None:
        nonlocal stalls
        if sender is nodes[0] and unpack_packet(data).kind is PacketKind.PING and not sender.stalled and stalls < 5:
            stalls += 1
            world.stall(sender, 3.0)

    world.on_datagram = stall_after_ping
    world.run(40.0)
    assert stalls == 5
    accused = [
        event for _, event in nodes[0].events if event.kind is EventKind.SUSPECTED and event.record is not nodes[0]
    ]
    assert bool(accused) is suspects


def test_clocks_that_jump_break_nothing(make_world: MakeWorld) -> None:
    world = make_world(8)
    nodes = world.form(6)
    for step, node in enumerate(nodes * 3):
        world.run(7.0)
        node.clock_offset_s += random.Random(step).choice([-3600.0, -5.0, 5.0, 3600.0])
        node.wakes_at = float("inf")
        node.swim.tick(world.now + node.clock_offset_s)
        world.settle(node)
    world.run(60.0)
    for node in nodes:
        assert EventKind.DIED not in kinds(node)
        assert len(node.swim.alive()) == 6
    world.crash(nodes[0])
    assert world.run_until(lambda: all_see(nodes[1:], nodes[0], MemberState.DEAD), 60.0)


def test_leaving_is_not_failing(make_world: MakeWorld) -> None:
    world = make_world(9)
    nodes = world.form(10)
    world.run(10.0)
    leaver = nodes[0]
    leaver.swim.leave(world.now)
    world.settle(leaver)
    assert world.run_until(lambda: leaver.swim.join_state is JoinState.LEFT, LAN.leave_timeout_s + 0.1)
    world.crash(leaver)
    world.run(30.0)
    for node in nodes[1:]:
        assert kinds(node, leaver)[-1] is EventKind.LEFT
        assert EventKind.SUSPECTED not in kinds(node, leaver)
        assert leaver.node_id not in [record.node_id for record in node.swim.known()]
    assert leaver.swim.next_deadline() == float("inf")
    assert not leaver.swim.joined


def test_leaving_takes_bounded_time_even_if_nobody_listens(make_world: MakeWorld) -> None:
    world = make_world(10)
    nodes = world.form(3)
    world.run(5.0)
    world.reachable = lambda sender, to: False
    nodes[0].swim.leave(world.now)
    world.settle(nodes[0])
    world.run(LAN.leave_timeout_s + 0.1)
    assert nodes[0].swim.join_state is JoinState.LEFT
    alone = world.add(world.record(77))
    alone.swim.leave(world.now)
    assert alone.swim.join_state is JoinState.LEFT


def test_a_node_that_comes_back_outlives_its_own_death_without_its_incarnation(make_world: MakeWorld) -> None:
    world = make_world(11)
    nodes = world.form(5)
    world.run(5.0)
    world.crash(nodes[0])
    assert world.run_until(lambda: all_see(nodes[1:], nodes[0], MemberState.DEAD), 60.0)
    back = world.add(world.record(0), remembered=nodes[1].swim.remembered())
    assert world.run_until(lambda: all_see(nodes[1:], back, MemberState.ALIVE) and back.swim.joined, 10.0)
    assert back.swim.me.incarnation > 0
    assert len(back.swim.alive()) == 5


@pytest.mark.parametrize("gap_s", [0.1, 60.0])
def test_a_node_that_comes_back_elsewhere_is_found_there(make_world: MakeWorld, gap_s: float) -> None:
    world = make_world(12)
    nodes = world.form(5)
    world.run(5.0)
    world.crash(nodes[0])
    world.run(gap_s)
    moved = world.add(world.record(0, host="elsewhere"), remembered=nodes[1].swim.remembered())

    def found() -> bool:
        records = [node.swim.member(moved.node_id) for node in nodes[1:]]
        return all(record is not None and record.hostname == "elsewhere" and record.state == 0 for record in records)

    assert world.run_until(found, 20.0)
    world.run(30.0)
    assert found()
    for node in nodes[1:]:
        assert EventKind.CONFLICT not in kinds(node)
    assert EventKind.CONFLICT not in kinds(moved)


def test_a_node_that_comes_back_after_leaving_is_a_member_again(make_world: MakeWorld) -> None:
    world = make_world(13)
    nodes = world.form(4)
    world.run(5.0)
    nodes[0].swim.leave(world.now)
    world.settle(nodes[0])
    world.run(6.0)
    world.crash(nodes[0])
    back = world.add(world.record(0), seeds=[("host-2", 7459)])
    assert world.run_until(lambda: all_see(nodes[1:], back, MemberState.ALIVE), 10.0)
    assert back.swim.join_state is JoinState.JOINED


def test_two_live_nodes_of_one_id_both_report_it(make_world: MakeWorld) -> None:
    world = make_world(14)
    nodes = world.form(6)
    world.run(5.0)
    twin = world.add(world.record(0, host="other-machine"), seeds=[("host-3", 7459)])
    both = [nodes[0], twin]
    assert world.run_until(lambda: all(EventKind.CONFLICT in kinds(node) for node in both), 20.0)
    hosts = {event.record.hostname for node in both for _, event in node.events if event.kind is EventKind.CONFLICT}
    assert hosts == {"host-0", "other-machine"}
    for node in both:
        assert kinds(node).count(EventKind.CONFLICT) == 1


def test_a_node_that_is_its_own_seed_is_in_no_conflict_with_itself(make_world: MakeWorld) -> None:
    world = make_world(15)
    node = world.add(world.record(0), seeds=[("host-0", 7459)])
    world.run(10.0)
    assert EventKind.CONFLICT not in kinds(node)
    assert not node.swim.joined


def test_after_a_partition_both_halves_find_each_other_without_seeds(make_world: MakeWorld) -> None:
    world = make_world(16)
    nodes = world.form(12)
    world.run(5.0)
    half = {node.node_id for node in nodes[:6]}
    world.reachable = lambda sender, to: (sender.node_id in half) == (to.node_id in half)
    assert world.run_until(lambda: all(len(node.swim.alive()) == 6 for node in nodes), 120.0)
    world.run(120.0)
    assert all(len(node.swim.known()) == 12 for node in nodes)
    world.reachable = None
    assert world.run_until(lambda: all(len(node.swim.alive()) == 12 for node in nodes), 60.0)


def test_new_meta_reaches_everybody(make_world: MakeWorld) -> None:
    world = make_world(17)
    nodes = world.form(30)
    world.run(5.0)
    nodes[3].swim.update_meta(world.now, b"weight=7")
    world.settle(nodes[3])
    told = [node for node in nodes if node is not nodes[3]]

    def known() -> bool:
        records = [node.swim.member(nodes[3].node_id) for node in told]
        return all(record is not None and record.meta == b"weight=7" for record in records)

    assert world.run_until(known, 10.0)
    assert all(EventKind.UPDATED in kinds(node, nodes[3]) for node in told)


def test_forgetting_the_dead_spreads(make_world: MakeWorld) -> None:
    world = make_world(18)
    nodes = world.form(6)
    world.run(5.0)
    world.crash(nodes[0])
    assert world.run_until(lambda: all_see(nodes[1:], nodes[0], MemberState.DEAD), 60.0)
    nodes[1].swim.forget(world.now, nodes[0].node_id)
    world.settle(nodes[1])
    assert world.run_until(lambda: all_see(nodes[1:], nodes[0], MemberState.LEFT), 10.0)
    world.run(120.0)
    assert all(len(node.swim.known()) == 5 for node in nodes[1:])


def test_datagrams_keep_their_budget_when_there_is_much_news(make_world: MakeWorld) -> None:
    world = make_world(19)
    sizes = []
    world.on_datagram = lambda sender, address, data: sizes.append(len(data))
    founder = world.add(world.record(0))
    for number in range(1, 60):
        world.add(replace(world.record(number), meta=bytes(200)), seeds=[("host-0", 7459)])
    assert world.run_until(lambda: all(len(node.swim.alive()) == 60 for node in world.nodes), 30.0)
    assert founder.swim.joined
    assert 1000 < max(sizes) <= 1400


def test_garbage_is_refused_and_changes_nothing(make_world: MakeWorld) -> None:
    world = make_world(20)
    nodes = world.form(3)
    world.run(5.0)
    before = nodes[0].swim.members()
    rng = random.Random(20)
    for _ in range(200):
        data = rng.randbytes(rng.randrange(100))
        with pytest.raises(CodecError):
            nodes[0].swim.receive(world.now, data, ("host-1", 7459))
        with pytest.raises(CodecError):
            nodes[0].swim.receive_push_pull(world.now, nodes[1].node_id, data)
    assert nodes[0].swim.members() == before
    assert nodes[0].swim.take_outputs().datagrams == []


def test_the_same_seed_replays_the_same_run(make_world: MakeWorld) -> None:
    def run() -> list[object]:
        world = make_world(21, LAN, loss=0.2)
        nodes = world.form(15)
        world.crash(nodes[0])
        world.run(60.0)
        return [node.events for node in nodes] + [[node.bytes_sent for node in nodes]]

    assert run() == run()


def test_too_small_a_datagram_budget_is_refused() -> None:
    world = GossipWorld(0, LAN)
    with pytest.raises(UsageError):
        Swim(world.record(0), LAN, random.Random(0), datagram_bytes_max=500)
    assert node_id_of(0) == "0" * 26
