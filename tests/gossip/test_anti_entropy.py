"""Push-pull: equal tables cost one page, different ones converge, pages stay small."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from copycat.errors import CodecError
from copycat.gossip import LAN, MemberRecord, MemberState, Swim
from copycat.gossip.wire import PAGE_BYTES_MAX, PageKind, unpack_page
from copycat.testing.gossip_world import GossipWorld, SimulatedNode, node_id_of

MakeWorld = Callable[..., GossipWorld]


def exchange(one: Swim, other: Swim, now: float) -> list[PageKind]:
    """Carry an exchange that ``one`` starts; returns the kinds of all pages."""
    kinds = []
    pages = one.push_pull_request(now, other.me.node_id)
    sender, receiver = one, other
    while pages:
        replies: list[bytes] = []
        for page in pages:
            assert len(page) <= PAGE_BYTES_MAX
            kinds.append(unpack_page(page).kind)
            replies += receiver.receive_push_pull(now, sender.me.node_id, page)
        sender, receiver = receiver, sender
        pages = replies
    return kinds


def view(node: SimulatedNode) -> dict[str, tuple[MemberState, int]]:
    return {record.node_id: (record.state, record.incarnation) for record in node.swim.members()}


def test_equal_tables_are_found_equal_by_their_digest(make_world: MakeWorld) -> None:
    world = make_world(1)
    nodes = world.form(20)
    assert exchange(nodes[0].swim, nodes[1].swim, world.now) == [PageKind.OFFER, PageKind.SAME]


def test_one_exchange_makes_two_tables_agree(make_world: MakeWorld) -> None:
    world = make_world(2)
    one, other = world.add(world.record(0)), world.add(world.record(1))
    for number in range(2, 10):
        receiver = one if number % 2 else other
        receiver.swim.membership.hear_alive(0.0, world.record(number, incarnation=number), spread=False)
    one.swim.membership.hear_dead(0.0, node_id_of(3), 3, node_id_of(5))
    other.swim.membership.hear_left(0.0, node_id_of(4), 4)
    kinds = exchange(one.swim, other.swim, 0.0)
    assert kinds == [PageKind.OFFER, PageKind.STATE_ASK, PageKind.STATE]
    for node_id in (node_id_of(number) for number in (2, 3, 5, 6, 7, 8, 9)):
        assert view(one)[node_id] == view(other)[node_id]
    assert view(other)[node_id_of(3)] == (MemberState.DEAD, 3)
    assert node_id_of(4) not in view(one)  # it left before this node knew it
    assert exchange(one.swim, other.swim, 0.0) == [PageKind.OFFER, PageKind.SAME]


def test_whom_another_thinks_dead_is_only_suspected_so_that_it_can_refute(make_world: MakeWorld) -> None:
    world = make_world(3)
    nodes = world.form(3)
    nodes[0].swim.membership.hear_dead(0.0, nodes[2].node_id, 0, nodes[0].node_id)
    nodes[0].swim.take_outputs()
    exchange(nodes[0].swim, nodes[1].swim, 0.0)
    assert view(nodes[1])[nodes[2].node_id] == (MemberState.SUSPECT, 0)


def test_whom_a_restarted_node_remembers_is_neither_accused_nor_forgotten(make_world: MakeWorld) -> None:
    world = make_world(4)
    nodes = world.form(3)
    lost = world.record(8)
    remembered = [*nodes[0].swim.remembered(), lost]
    back = world.add(world.record(7), remembered=remembered)
    exchange(back.swim, nodes[0].swim, 0.0)
    assert view(nodes[0])[nodes[1].node_id] == (MemberState.ALIVE, 0)
    assert view(nodes[0])[lost.node_id] == (MemberState.DEAD, 0)
    assert view(back)[nodes[1].node_id] == (MemberState.ALIVE, 0)
    assert back.swim.joined
    assert view(nodes[1]).get(lost.node_id) is None


def test_large_tables_travel_in_pages_of_bounded_size(make_world: MakeWorld) -> None:
    world = make_world(5)
    one, other = world.add(world.record(0)), world.add(world.record(1))
    for number in range(2, 1002):
        record = MemberRecord(node_id_of(number), "h" * 255, 1, 2, meta=bytes(512))
        one.swim.membership.hear_alive(0.0, record, spread=False)
    kinds = exchange(other.swim, one.swim, 0.0)
    assert kinds.count(PageKind.STATE_ASK) > 3
    assert len(other.swim.members()) == len(one.swim.members()) == 1002


def test_a_lost_page_harms_nothing(make_world: MakeWorld) -> None:
    world = make_world(6)
    one, other = world.add(world.record(0)), world.add(world.record(1))
    for number in range(2, 1002):
        record = MemberRecord(node_id_of(number), "h" * 255, 1, 2, meta=bytes(512))
        one.swim.membership.hear_alive(0.0, record, spread=False)
    (offer,) = other.swim.push_pull_request(0.0, one.node_id)
    for page in one.swim.receive_push_pull(0.0, other.node_id, offer)[1:]:
        other.swim.receive_push_pull(0.0, one.node_id, page)
    assert 2 < len(other.swim.members()) < 1002
    exchange(other.swim, one.swim, 0.0)
    assert len(other.swim.members()) == 1002


def test_a_page_of_somebody_else_is_refused(make_world: MakeWorld) -> None:
    world = make_world(7)
    nodes = world.form(3)
    (offer,) = nodes[0].swim.push_pull_request(0.0, nodes[1].node_id)
    with pytest.raises(CodecError):
        nodes[1].swim.receive_push_pull(0.0, nodes[2].node_id, offer)


def test_tables_that_differ_without_news_converge(make_world: MakeWorld) -> None:
    world = make_world(8, LAN)
    nodes = world.form(8)
    world.run(20.0)
    stranger = world.record(50, incarnation=3)
    nodes[0].swim.membership.learn_dead(nodes[0].swim._time.now, stranger)
    assert world.run_until(lambda: all(node.swim.member(stranger.node_id) for node in nodes), 240.0)
