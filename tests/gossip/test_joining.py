"""How nodes become one cluster, come back to it, and never start a second one."""

from __future__ import annotations

from collections.abc import Callable

from copycat.gossip import LAN, LOCAL, EventKind, JoinState
from copycat.gossip.wire import Packet, PacketKind, UpdateKind, pack_departure, pack_head, pack_packet, unpack_packet
from copycat.testing.gossip_world import GossipWorld, SimulatedNode

MakeWorld = Callable[..., GossipWorld]

SEED = ("host-0", 7459)


def complete(nodes: list[SimulatedNode]) -> bool:
    return all(node.swim.joined and len(node.swim.alive()) == len(nodes) for node in nodes)


def test_a_node_without_seeds_founds_a_cluster_and_others_join_it(make_world: MakeWorld) -> None:
    world = make_world(1)
    founder = world.add(world.record(0))
    assert founder.swim.join_state is JoinState.FOUNDED
    assert founder.swim.joined
    joiner = world.add(world.record(1), seeds=[SEED])
    assert not joiner.swim.joined
    assert "seed" in joiner.swim.reason
    assert world.run_until(lambda: complete(world.nodes), 5.0)
    assert [event.kind for _, event in joiner.events].count(EventKind.READY) == 1
    third = world.add(world.record(2), seeds=[("nobody", 1), ("host-1", 7459)])
    assert world.run_until(lambda: complete([founder, joiner, third]), 5.0)


def test_many_nodes_join_through_one_seed_at_once(make_world: MakeWorld) -> None:
    world = make_world(2, LAN, loss=0.1)
    world.add(world.record(0))
    for number in range(1, 40):
        world.add(world.record(number), seeds=[SEED])
    assert world.run_until(lambda: complete(world.nodes), 60.0)


def test_a_seed_that_comes_later_is_found(make_world: MakeWorld) -> None:
    world = make_world(3)
    joiner = world.add(world.record(1), seeds=[SEED])
    world.run(30.0)
    assert joiner.swim.join_state is JoinState.SEEKING
    world.add(world.record(0))
    assert world.run_until(lambda: complete(world.nodes), 5.0)


def test_two_nodes_that_only_seek_make_no_cluster_by_meeting(make_world: MakeWorld) -> None:
    world = make_world(4)
    one = world.add(world.record(1), seeds=[("host-2", 7459)])
    two = world.add(world.record(2), seeds=[("host-1", 7459), SEED])
    world.run(60.0)
    assert not one.swim.joined
    assert not two.swim.joined
    assert one.saved == two.saved == []
    world.add(world.record(0))
    assert world.run_until(lambda: complete(world.nodes), 10.0)


def test_a_node_that_belonged_to_a_cluster_never_starts_a_new_one(make_world: MakeWorld) -> None:
    world = make_world(5)
    founder = world.add(world.record(0))
    joiner = world.add(world.record(1), seeds=[SEED])
    assert world.run_until(lambda: complete(world.nodes), 5.0)
    saved = joiner.saved
    assert {record.node_id for record in saved} == {founder.node_id, joiner.node_id}
    world.crash(founder)
    world.crash(joiner)
    for seeds in ([], [SEED]):
        back = world.add(world.record(1), seeds=seeds, remembered=saved)
        world.run(120.0)
        assert back.swim.join_state is JoinState.REJOINING
        assert not back.swim.joined
        assert "rejoining" in back.swim.reason
        assert len(back.swim.known()) == 2
        assert back.saved in ([], saved) or len(back.saved) == 2
        world.crash(back)


def test_a_founder_that_is_still_alone_is_joined_after_a_restart_with_seeds(make_world: MakeWorld) -> None:
    """All nodes are given the same list of seeds, and the founder had been there before: it belongs, the others only seek."""
    world = make_world(10)
    founder = world.add(world.record(0))
    assert [record.node_id for record in founder.saved] == [founder.node_id], "it remembers that it is a cluster"
    saved = founder.saved
    world.crash(founder)
    seeds = [world.record(number) for number in range(3)]
    addresses = [(record.hostname, record.gossip_port) for record in seeds]
    back = world.add(world.record(0), seeds=addresses[1:], remembered=saved)
    world.run(30.0)
    assert back.swim.join_state is JoinState.REJOINING, "its seeds are silent: it waits, and founds no other"
    others = [world.add(world.record(number), seeds=addresses) for number in (1, 2)]
    assert world.run_until(lambda: complete([back, *others]), 10.0)
    assert world.run_until(lambda: all(node.swim.joined for node in (back, *others)), 10.0)
    world.crash(back)
    alone = world.add(world.record(0), remembered=saved)
    assert alone.swim.join_state is JoinState.FOUNDED, "without seeds too it is what it was: its own cluster"


def test_a_whole_cluster_comes_back_from_what_it_remembers(make_world: MakeWorld) -> None:
    world = make_world(6, LOCAL)
    world.add(world.record(0))
    for number in range(1, 6):
        world.add(world.record(number), seeds=[SEED])
    assert world.run_until(lambda: complete(world.nodes), 5.0)
    world.run(5.0)
    first_life = list(world.nodes)
    for node in first_life:
        world.crash(node)
    second_life = [world.add(world.record(number), remembered=node.saved) for number, node in enumerate(first_life)]
    assert world.run_until(lambda: complete(second_life), 10.0)
    world.run(20.0)
    assert complete(second_life)
    for node in second_life:
        assert EventKind.DIED not in [event.kind for _, event in node.events]


def test_members_that_did_not_come_back_still_count_as_known(make_world: MakeWorld) -> None:
    world = make_world(7, LOCAL)
    world.add(world.record(0))
    for number in range(1, 5):
        world.add(world.record(number), seeds=[SEED])
    assert world.run_until(lambda: complete(world.nodes), 5.0)
    world.run(5.0)
    first_life = list(world.nodes)
    for node in first_life:
        world.crash(node)
    two = [world.add(world.record(number), remembered=first_life[number].saved) for number in (1, 2)]
    assert world.run_until(lambda: all(node.swim.joined for node in two), 10.0)
    world.run(30.0)
    newcomer = world.add(world.record(9), seeds=[("host-1", 7459)])
    assert world.run_until(lambda: newcomer.swim.joined, 10.0)
    world.run(5.0)
    for node in (*two, newcomer):
        assert len(node.swim.known()) == 6
        assert len(node.swim.alive()) == 3


def test_what_is_to_be_remembered_is_reported_when_it_changes(make_world: MakeWorld) -> None:
    world = make_world(8)
    founder = world.add(world.record(0))
    world.add(world.record(1), seeds=[SEED])
    third = world.add(world.record(2), seeds=[SEED])
    assert world.run_until(lambda: complete(world.nodes), 5.0)
    world.run(5.0)
    assert {record.node_id for record in founder.saved} == {node.node_id for node in world.nodes}
    third.swim.leave(world.now)
    world.settle(third)
    world.run(6.0)
    assert {record.node_id for record in founder.saved} == {node.node_id for node in world.nodes[:2]}
    assert len(third.swim.remembered()) == 3  # whoever left may come back, but not found another cluster


def test_a_joiner_does_not_spread_again_what_all_others_know(make_world: MakeWorld) -> None:
    world = make_world(9)
    nodes = world.form(30)
    world.run(20.0)
    told = []

    def watch(sender: SimulatedNode, address: tuple[str, int], data: bytes) -> None:
        told.extend(update.node_id for update in unpack_packet(data).updates if update.kind is UpdateKind.ALIVE)

    world.on_datagram = watch
    joiner = world.add(world.record(99), seeds=[SEED])
    assert world.run_until(lambda: complete([*nodes, joiner]), 20.0)
    world.run(5.0)
    assert set(told) == {joiner.node_id}


def test_a_seed_that_seeks_itself_is_not_asked_for_its_table(make_world: MakeWorld) -> None:
    world = make_world(10)
    node = world.add(world.record(1), seeds=[SEED])
    seed = world.record(0)
    for belongs, expected in ((False, []), (True, [seed.node_id])):
        welcome = Packet(PacketKind.WELCOME, seed.node_id, record=seed, flag=belongs)
        node.swim.receive(0.1, pack_packet(pack_head(welcome), []), SEED)
        assert node.swim.take_outputs().push_pulls == expected


def test_a_seed_that_knows_more_of_a_joiner_is_told_its_new_record_before_tables_are_exchanged(
    make_world: MakeWorld,
) -> None:
    world = make_world(11)
    nodes = world.form(3)
    world.run(5.0)
    world.crash(nodes[2])
    moved = world.add(world.record(2, host="elsewhere"), seeds=[SEED])
    assert world.run_until(lambda: moved.swim.joined, 0.1)
    record = nodes[0].swim.member(moved.node_id)
    assert record is not None
    assert record.hostname == "elsewhere"
    fresh = world.add(world.record(50), seeds=[SEED])
    heard = pack_departure(UpdateKind.HEARD, fresh.node_id, 8)
    welcome = Packet(PacketKind.WELCOME, nodes[0].node_id, record=nodes[0].swim.me, flag=True)
    fresh.swim.receive(world.now, pack_packet(pack_head(welcome), [heard]), SEED)
    outputs = fresh.swim.take_outputs()
    assert outputs.push_pulls == []
    ((host, port, data),) = outputs.datagrams
    join = unpack_packet(data)
    assert (host, port) == SEED
    assert join.record is not None
    assert (join.kind, join.record.incarnation) == (PacketKind.JOIN, 9)


def test_whoever_has_lost_all_others_asks_its_seeds_again(make_world: MakeWorld) -> None:
    world = make_world(12)
    founder = world.add(world.record(0))
    joiner = world.add(world.record(1), seeds=[SEED, ("host-7", 7459)])
    assert world.run_until(lambda: complete(world.nodes), 5.0)
    world.crash(founder)
    assert world.run_until(lambda: len(joiner.swim.alive()) == 1, 60.0)
    stranger = world.add(world.record(7))  # the joiner has never heard of it, but its address is a seed
    assert world.run_until(lambda: complete([joiner, stranger]), 2 * LAN.reconnect_interval_s)


def test_whoever_comes_back_from_the_dead_exchanges_tables_at_once(make_world: MakeWorld) -> None:
    world = make_world(13)
    nodes = world.form(4)
    world.run(5.0)
    one, other = nodes[:2]
    now = one.swim._time.now
    one.swim.membership.hear_dead(now, other.node_id, 0, nodes[2].node_id)
    one.swim.take_outputs()
    join = Packet(PacketKind.JOIN, other.node_id, record=world.record(1, incarnation=1))
    one.swim.receive(world.now, pack_packet(pack_head(join), []), ("host-1", 7459))
    assert one.swim.take_outputs().push_pulls == [other.node_id]
