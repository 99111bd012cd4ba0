"""Overlays: bounded and connected links; items once, in order, or reported missing."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from copycat.errors import CodecError, UsageError
from copycat.gossip import Gap, Item, Overlay, OverlayProfile, Position
from copycat.gossip.overlay import ITEM_BYTES_MAX, NUMBER_MAX, pack_item, unpack_item
from copycat.testing.gossip_world import node_id_of
from copycat.testing.overlay_world import OverlayNode, OverlayWorld

ME, ORIGIN, OTHER = (node_id_of(number) for number in range(3))


def item(sequence: int, epoch: int = 1, origin: str = ORIGIN, payload: bytes = b"") -> Item:
    return Item(origin, epoch, sequence, payload or b"%d.%d" % (epoch, sequence))


def listener(profile: OverlayProfile | None = None) -> Overlay:
    overlay = Overlay(ME, 1, random.Random(1), profile)
    overlay.start(0.0)
    return overlay


def hear(overlay: Overlay, *items: Item, now: float = 0.0) -> list[int]:
    """Hand items in; returns the sequence numbers handed up."""
    for one in items:
        overlay.receive(now, pack_item(one))
    return [one.sequence for one in overlay.take_outputs().items]


def reached_from(world: OverlayWorld, start: OverlayNode) -> set[str]:
    seen = {start.node_id}
    edge = [start]
    while edge:
        for name in edge.pop().subscribers:
            if name not in seen and world.nodes[name].running:
                seen.add(name)
                edge.append(world.nodes[name])
    return seen


# --- links ----------------------------------------------------------------------------------------------------------


def test_up_to_a_dozen_nodes_all_subscribe_to_all() -> None:
    world = OverlayWorld(1, 12)
    for name, node in world.nodes.items():
        assert node.overlay.links == set(world.nodes) - {name}


@pytest.mark.parametrize("count", [13, 40, 300])
def test_above_that_links_are_bounded_and_every_node_reaches_every_other(count: int) -> None:
    for seed in range(3):
        print(f"seed {seed}")
        world = OverlayWorld(seed, count)
        world.run(0.1)
        for node in world.nodes.values():
            assert len(node.overlay.links) == 6
            assert reached_from(world, node) == set(world.nodes)


def test_dead_sources_are_replaced_and_the_overlay_stays_connected() -> None:
    world = OverlayWorld(2, 60)
    rng = random.Random(2)
    for victim in rng.sample(sorted(world.nodes), 40):
        world.crash(world.nodes[victim])
        world.run(0.1)
        live = {name for name, node in world.nodes.items() if node.running}
        for name in live:
            links = world.nodes[name].overlay.links
            assert links <= live
            assert len(links) == (6 if len(live) > 12 else len(live) - 1)
        assert reached_from(world, world.nodes[min(live)]) == live


def test_links_change_slowly() -> None:
    world = OverlayWorld(3, 50)
    before = {name: node.overlay.links for name, node in world.nodes.items()}
    world.run(60.5)
    after = {name: node.overlay.links for name, node in world.nodes.items()}
    assert any(before[name] != after[name] for name in before)
    assert all(len(before[name] - after[name]) <= 1 for name in before)
    world.run(3600.0)
    assert sum(len(before[name] & node.overlay.links) for name, node in world.nodes.items()) < 4 * 50


def test_one_more_node_moves_few_links() -> None:
    overlay = listener()
    for number in range(1, 40):
        overlay.member_up(node_id_of(number))
    overlay.take_outputs()
    overlay.member_up(node_id_of(41))
    outputs = overlay.take_outputs()
    assert len(outputs.subscribe) == len(outputs.unsubscribe) <= 1
    overlay.member_up(node_id_of(41))
    assert overlay.take_outputs().subscribe == []


# --- items ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [5, 12, 13, 100])
def test_every_item_reaches_every_node_once_and_in_order(count: int) -> None:
    world = OverlayWorld(count, count)
    world.run(0.1)
    rng = random.Random(count)
    sent: dict[str, list[bytes]] = {name: [] for name in world.nodes}
    for number in range(60):
        node = world.nodes[rng.choice(sorted(world.nodes))]
        payload = b"%d" % number
        sent[node.node_id].append(payload)
        world.publish(node, payload)
        world.run(rng.random() * 0.002)
    world.run(2.0)
    for node in world.nodes.values():
        assert node.gaps == []
        for origin, payloads in sent.items():
            if origin != node.node_id:
                assert [one.payload for one in node.items if one.origin == origin] == payloads


def test_lost_frames_come_another_way() -> None:
    world = OverlayWorld(4, 100, loss=0.05)
    world.run(0.1)
    origin = world.nodes[node_id_of(0)]
    for number in range(50):
        world.publish(origin, b"%d" % number)
        world.run(0.05)
    world.run(2.0)
    for node in world.nodes.values():
        if node is not origin:
            assert [one.sequence for one in node.items] == list(range(1, 51))


def test_whatever_is_lost_is_handed_up_once_in_order_or_lies_in_exactly_one_gap() -> None:
    world = OverlayWorld(5, 30, loss=0.5)
    world.run(0.1)
    origin = world.nodes[node_id_of(0)]
    for number in range(100):
        world.publish(origin, b"%d" % number)
        world.run(0.05)
    world.run(2.0)
    some_gap = False
    for node in world.nodes.values():
        if node is origin:
            continue
        (position,) = [one for one in node.overlay.positions() if one.origin == origin.node_id]
        handed_up = [one.sequence for one in node.items]
        missing = [number for gap in node.gaps for number in range(gap.first, gap.last + 1)]
        assert handed_up == sorted(set(handed_up))
        assert sorted(handed_up + missing) == list(range(1, position.sequence + 1))
        some_gap = some_gap or bool(missing)
    assert some_gap


def test_where_all_hear_all_nothing_is_passed_on() -> None:
    world = OverlayWorld(7, 12)
    world.run(0.1)
    world.publish(world.nodes[node_id_of(0)], b"once")
    world.run(2.0)
    assert [node.frames_in for node in world.nodes.values()] == [0] + [1] * 11


def test_above_a_dozen_each_node_passes_an_item_on_once() -> None:
    world = OverlayWorld(8, 100)
    world.run(0.1)
    world.publish(world.nodes[node_id_of(0)], b"once")
    world.run(2.0)
    assert sum(node.frames_in for node in world.nodes.values()) == 100 * 6
    assert sum(node.overlay.duplicates for node in world.nodes.values()) == 100 * 6 - 99


def test_a_node_of_whom_others_remember_a_later_life_goes_on_above_it() -> None:
    hearer = listener()
    assert hear(hearer, item(3, epoch=7), item(1, epoch=7)) == [1]
    origin = Overlay(ORIGIN, 2, random.Random(1))
    origin.publish(b"unheard")
    assert hear(hearer, unpack_item(origin.take_outputs().publish[0])) == []
    origin.renew(8)
    origin.renew(3)
    assert origin.publish(b"heard") == Position(ORIGIN, 8, 1)
    assert hear(hearer, unpack_item(origin.take_outputs().publish[0])) == [1]


def test_first_receipts_are_republished_and_repeats_are_not() -> None:
    overlay = listener()
    for number in range(2, 20):
        overlay.member_up(node_id_of(number))
    frame = pack_item(item(1))
    overlay.receive(0.0, frame)
    assert overlay.take_outputs().publish == [frame]
    overlay.receive(0.0, frame)
    outputs = overlay.take_outputs()
    assert outputs.publish == []
    assert outputs.items == []
    assert overlay.duplicates == 1


def test_an_item_that_came_early_waits_for_the_one_before() -> None:
    overlay = listener()
    assert hear(overlay, item(1), item(3), item(4)) == [1]
    assert hear(overlay, item(2)) == [2, 3, 4]
    overlay.tick(10.0)
    assert overlay.take_outputs().gaps == []


def test_a_gap_is_reported_after_some_patience_and_not_handed_up_later() -> None:
    overlay = listener()
    hear(overlay, item(1), item(4), item(7))
    overlay.tick(0.49)
    assert overlay.take_outputs().gaps == []
    assert overlay.next_deadline() == 0.5
    overlay.tick(0.5)
    outputs = overlay.take_outputs()
    assert outputs.gaps == [Gap(ORIGIN, 1, 2, 3)]
    assert [one.sequence for one in outputs.items] == [4]
    assert hear(overlay, item(2)) == []
    overlay.tick(1.0)
    outputs = overlay.take_outputs()
    assert outputs.gaps == [Gap(ORIGIN, 1, 5, 6)]
    assert [one.sequence for one in outputs.items] == [7]


def test_a_tail_that_was_lost_is_found_by_comparing_positions() -> None:
    overlay = listener()
    hear(overlay, item(1), item(2))
    overlay.heard_of(1.0, Position(ORIGIN, 1, 5))
    assert hear(overlay, item(3), now=1.1) == [3]
    overlay.tick(1.5)
    assert overlay.take_outputs().gaps == [Gap(ORIGIN, 1, 4, 5)]
    overlay.heard_of(2.0, Position(ORIGIN, 1, 5))
    overlay.heard_of(2.0, Position(ORIGIN, 1, 3))
    overlay.tick(9.0)
    assert overlay.take_outputs().gaps == []


def test_what_was_repaired_otherwise_is_not_wanted_any_more() -> None:
    overlay = listener()
    hear(overlay, item(1), item(3), item(6))
    overlay.repaired(0.1, Position(ORIGIN, 1, 5))
    assert [one.sequence for one in overlay.take_outputs().items] == [6]
    assert hear(overlay, item(4)) == []
    overlay.tick(9.0)
    assert overlay.take_outputs().gaps == []
    assert Position(ORIGIN, 1, 6) in overlay.positions()


def test_an_origin_that_starts_anew_voids_what_it_said_before() -> None:
    overlay = listener()
    hear(overlay, item(1), item(2), item(5))
    assert hear(overlay, item(1, epoch=2)) == [1]
    assert hear(overlay, item(3), item(6)) == []
    assert hear(overlay, item(2, epoch=2)) == [2]
    overlay.tick(9.0)
    assert overlay.take_outputs().gaps == []


def test_what_is_held_is_bounded_in_items_and_bytes() -> None:
    profile = OverlayProfile(held_per_origin_max=4, held_bytes_max=1000)
    overlay = listener(profile)
    assert hear(overlay, *(item(2 * number) for number in range(1, 5))) == []
    assert hear(overlay, item(10)) == [2]
    overlay = listener(profile)
    assert hear(overlay, item(3, payload=bytes(600))) == []
    assert hear(overlay, item(3, origin=OTHER, payload=bytes(600))) == [3]
    assert overlay._held_bytes == 600


def test_held_bytes_are_counted_right() -> None:
    seed = 6
    print(f"seed {seed}")
    rng = random.Random(seed)
    overlay = listener(OverlayProfile(held_per_origin_max=8, held_bytes_max=5000))
    names = [node_id_of(number) for number in range(1, 6)]
    for step in range(3000):
        name = rng.choice(names)
        what = rng.random()
        position = Position(name, rng.choice([1, 1, 1, 2, 3]), rng.randrange(1, 200))
        if what < 0.8:
            overlay.receive(step * 0.1, pack_item(Item(name, position.epoch, position.sequence, bytes(step % 700))))
        elif what < 0.85:
            overlay.repaired(step * 0.1, position)
        elif what < 0.9:
            overlay.heard_of(step * 0.1, position)
        elif what < 0.91:
            overlay.forget(name)
        else:
            overlay.tick(step * 0.1)
        held = [one for origin in overlay._origins.values() for one in origin.held.values()]
        assert overlay._held_bytes == sum(len(one.payload) for one in held) <= 5000
    assert overlay.take_outputs().gaps


def test_origins_are_bounded() -> None:
    overlay = listener(OverlayProfile(origins_max=1))
    assert hear(overlay, item(1), item(1, origin=OTHER)) == [1]
    assert overlay.refused == 1
    overlay.forget(ORIGIN)
    assert hear(overlay, item(1, origin=OTHER)) == [1]


def test_own_items_that_come_back_are_dropped() -> None:
    overlay = listener()
    position = overlay.publish(b"mine")
    (frame,) = overlay.take_outputs().publish
    overlay.receive(0.0, frame)
    outputs = overlay.take_outputs()
    assert (outputs.items, outputs.publish) == ([], [])
    assert overlay.positions() == [position] == [Position(ME, 1, 1)]
    with pytest.raises(UsageError):
        overlay.publish(bytes(ITEM_BYTES_MAX + 1))


@given(
    st.builds(
        Item,
        st.integers(0, 2**128 - 1).map(node_id_of),
        st.integers(0, NUMBER_MAX),
        st.integers(1, NUMBER_MAX),
        st.binary(max_size=300),
    )
)
def test_an_item_comes_out_as_it_went_in(one: Item) -> None:
    assert unpack_item(pack_item(one)) == one
    with pytest.raises(CodecError):
        unpack_item(pack_item(one)[:42])


@given(st.binary(max_size=200))
def test_garbage_raises_nothing_but_codec_error(data: bytes) -> None:
    try:
        decoded = unpack_item(data)
    except CodecError:
        return
    assert pack_item(decoded) == data


def test_items_out_of_range_are_refused() -> None:
    for bad in (
        item(1, payload=bytes(ITEM_BYTES_MAX + 1)),
        item(0),
        item(NUMBER_MAX + 1),
        replace(item(1), origin="x"),
    ):
        with pytest.raises(CodecError):
            unpack_item(pack_item(bad))
