"""What every transport must do: :class:`copycat.ports.Transport`, sentence by sentence, as tests.

The author of a transport subclasses :class:`TransportContract` in a test module and says how one is made; pytest does
the rest. Nothing here sleeps to wait for something: each test polls until the event or a deadline. Frames are best
effort, so a test that needs an arrival sends again until it has it; a test of order or of boundaries sends once over a
connection that was seen to work.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from copycat.errors import AddressInUse
from copycat.ports import FRAME_PARTS_MAX, Address, Lane, Transport
from copycat.testing.contracts.transport_nodes import (
    DEADLINE_S,
    UNSEEN_FRAMES_MAX,
    Nodes,
    at_once,
    before_deadline,
    quiet,
    until,
)


class TransportContract:
    """Subclass this, name the class ``Test...``, and override :meth:`make`."""

    host = "127.0.0.1"
    """Where the transports of these tests bind and are reached."""

    def make(self) -> Transport:
        """A new transport, not yet open. All that one class makes must be able to reach each other."""
        raise NotImplementedError

    @pytest.fixture
    def nodes(self) -> Iterator[Nodes]:
        made = Nodes(self.make, self.host)
        yield made
        made.close()

    # --- open and close ---------------------------------------------------------------------------------------------

    def test_it_is_a_transport(self) -> None:
        assert isinstance(self.make(), Transport)

    def test_open_returns_the_address_with_free_ports_chosen(self, nodes: Nodes) -> None:
        a, b = nodes.new(), nodes.new()
        for node in (a, b):
            assert node.address.hostname == self.host
            assert 0 < node.address.copycat_port < 65536
            assert 0 < node.address.gossip_port < 65536
        assert a.address.copycat_port != b.address.copycat_port
        assert a.address.gossip_port != b.address.gossip_port

    def test_open_keeps_ports_that_are_given(self, nodes: Nodes) -> None:
        address = nodes.free_address()
        assert nodes.new(address).address == address

    @pytest.mark.parametrize("field", ["copycat_port", "gossip_port"])
    def test_a_taken_port_is_refused_by_name_and_nothing_stays_bound(self, nodes: Nodes, field: str) -> None:
        holder = nodes.new()
        free = nodes.free_address()
        taken = getattr(holder.address, field)
        wanted = Address(
            self.host,
            taken if field == "copycat_port" else free.copycat_port,
            taken if field == "gossip_port" else free.gossip_port,
        )
        with pytest.raises(AddressInUse, match=str(taken)):
            nodes.new(wanted)
        assert nodes.new(free).address == free

    def test_close_may_be_called_twice_and_before_open(self, nodes: Nodes) -> None:
        node = nodes.new()
        node.transport.close()
        node.transport.close()
        never_opened = self.make()
        never_opened.close()
        never_opened.close()

    def test_wake_after_close_does_nothing(self, nodes: Nodes) -> None:
        node = nodes.new()
        node.transport.close()
        node.transport.wake()

    def test_the_same_ports_can_be_opened_again_after_close(self, nodes: Nodes) -> None:
        address = nodes.new().address
        for _ in range(3):
            nodes.close()
            assert nodes.new(address).address == address

    def test_close_returns_at_once_with_frames_queued(self, nodes: Nodes) -> None:
        a, b = nodes.connected_pair()
        for _ in range(100):
            a.transport.send(Lane.RAFT, "b", [bytes(10_000)])
        a.transport.connect("nobody", nodes.free_address())
        a.transport.send(Lane.RAFT, "nobody", [b"x"])
        at_once(a.transport.close)
        at_once(b.transport.close)

    # --- RAFT and BULK ----------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("lane", [Lane.RAFT, Lane.BULK])
    def test_a_frame_arrives_on_the_lane_it_was_sent_on(self, nodes: Nodes, lane: Lane) -> None:
        a, b = nodes.connected_pair(lane)
        assert a.transport.send(lane, "b", [b"hello"])
        until(lambda: [b"hello"] in b.payloads(lane), b)
        (inbound,) = [inbound for inbound in b.seen if inbound.parts == [b"hello"]]
        assert inbound.lane is lane
        assert inbound.source is None

    @pytest.mark.parametrize("lane", [Lane.RAFT, Lane.BULK])
    @pytest.mark.parametrize(
        "parts", [[b""], [b"", b""], [b"a", b"", b"bc", b""], [bytes(range(256))] * 20, [b"x" * 1_000_000, b"y"]]
    )
    def test_parts_keep_their_boundaries(self, nodes: Nodes, lane: Lane, parts: list[bytes]) -> None:
        a, b = nodes.connected_pair(lane)
        assert a.transport.send(lane, "b", parts)
        until(lambda: parts in b.payloads(lane), b)
        assert all(type(part) is bytes for inbound in b.seen for part in inbound.parts)

    def test_a_frame_has_at_least_one_part_and_no_more_than_the_port_says(self, nodes: Nodes) -> None:
        a, b = nodes.connected_pair()
        for no_frame in ([], [b"x"] * (FRAME_PARTS_MAX + 1)):
            assert not a.transport.send(Lane.RAFT, "b", no_frame)
            a.transport.publish(no_frame)
        nodes.deliver(a, b, Lane.RAFT, [b"x"] * FRAME_PARTS_MAX)
        assert a.transport.send(Lane.RAFT, "b", [b"after"])
        until(lambda: [b"after"] in b.payloads(Lane.RAFT), b)
        assert [] not in b.payloads(Lane.RAFT)

    @pytest.mark.parametrize("lane", [Lane.RAFT, Lane.BULK])
    def test_frames_of_one_connection_keep_their_order(self, nodes: Nodes, lane: Lane) -> None:
        a, b = nodes.connected_pair(lane)
        b.seen.clear()
        sent: list[list[bytes]] = []
        for number in range(2000):
            frame = [b"%d" % number, b"x" * (number % 50)]
            if a.transport.send(lane, "b", frame):
                sent.append(frame)
            else:
                b.poll(0)
        until(lambda: len(b.payloads(lane)) == len(sent), b)
        assert b.payloads(lane) == sent
        assert len(sent) >= 32

    def test_a_frame_of_the_longest_length_arrives_and_a_longer_one_is_dropped(self, nodes: Nodes) -> None:
        a = nodes.new()
        b = nodes.new(frame_bytes_max=100_000)
        a.transport.connect("b", b.address)
        longest = [b"l" * 60_000, b"l" * 40_000]
        nodes.deliver(a, b, Lane.RAFT, longest)
        for too_long in ([b"t" * 60_000, b"t" * 40_001], [b"t" * 200_000]):
            a.transport.send(Lane.RAFT, "b", too_long)
            nodes.deliver(a, b, Lane.RAFT, [b"after %d" % len(too_long)])
            assert too_long not in b.payloads(Lane.RAFT)

    @pytest.mark.parametrize("lane", [Lane.RAFT, Lane.BULK])
    def test_an_unknown_node_is_not_sent_to(self, nodes: Nodes, lane: Lane) -> None:
        assert not nodes.new().transport.send(lane, "nobody", [b"x"])

    @pytest.mark.parametrize("lane", [Lane.RAFT, Lane.BULK])
    def test_nothing_is_queued_for_a_node_that_nobody_bound(self, nodes: Nodes, lane: Lane) -> None:
        a = nodes.new()
        a.transport.connect("gone", nodes.free_address())
        for _ in range(100):
            assert not a.transport.send(lane, "gone", [b"x"])

    def test_connect_and_datagrams_to_a_name_that_does_not_exist_fail_softly(self, nodes: Nodes) -> None:
        a = nodes.new()
        nowhere = Address("no-such-host.invalid", 1, 1)
        at_once(lambda: a.transport.connect("b", nowhere))
        at_once(lambda: a.transport.subscribe("b", nowhere))
        assert not a.transport.send(Lane.RAFT, "b", [b"x"])
        assert not a.transport.send_datagram(nowhere.hostname, nowhere.gossip_port, b"x")

    @pytest.mark.parametrize("lane", [Lane.RAFT, Lane.BULK])
    def test_a_node_that_does_not_poll_makes_sends_fail_and_never_wait(self, nodes: Nodes, lane: Lane) -> None:
        a, b = nodes.connected_pair(lane)
        frame = [bytes(8192)]
        accepted = 0
        while at_once(lambda: a.transport.send(lane, "b", frame)):
            accepted += 1
            assert accepted < UNSEEN_FRAMES_MAX, "the queue has no bound"
        b.seen.clear()
        nodes.deliver(a, b, lane, [b"polling again"])

    def test_a_full_bulk_queue_leaves_the_raft_lane_alone(self, nodes: Nodes) -> None:
        a, b = nodes.connected_pair(Lane.BULK)
        nodes.deliver(a, b, Lane.RAFT, [b"works"])
        for _ in range(UNSEEN_FRAMES_MAX):
            if not a.transport.send(Lane.BULK, "b", [bytes(65_536)]):
                break
        else:
            pytest.fail("the queue has no bound")
        for number in range(50):
            assert a.transport.send(Lane.RAFT, "b", [b"%d" % number])
        until(lambda: len(b.payloads(Lane.RAFT)) >= 51, b)
        assert b.payloads(Lane.RAFT)[-50:] == [[b"%d" % number] for number in range(50)]

    def test_what_arrived_together_is_handed_out_raft_before_bulk(self, nodes: Nodes) -> None:
        a, b = nodes.connected_pair(Lane.BULK)
        nodes.deliver(a, b, Lane.RAFT, [b"works"])
        together = 0
        deadline = time.monotonic() + DEADLINE_S
        while not together:
            assert time.monotonic() < deadline, "never did both lanes come with one poll"
            for _ in range(5):
                a.transport.send(Lane.BULK, "b", [b"chunk"])
                a.transport.send(Lane.RAFT, "b", [b"step"])
            time.sleep(0.005)  # a chance to arrive together; if they don't, the loop tries again
            lanes = [inbound.lane for inbound in b.transport.poll(0.1)]
            assert lanes == sorted(lanes, key=lambda lane: lane is Lane.BULK)
            together += len(set(lanes)) == 2

    def test_a_dead_node_makes_sends_fail(self, nodes: Nodes) -> None:
        a, b = nodes.connected_pair()
        b.transport.close()
        until(lambda: not a.transport.send(Lane.RAFT, "b", [b"x"]))

    @pytest.mark.parametrize("lane", [Lane.RAFT, Lane.BULK])
    def test_a_node_that_restarts_on_its_ports_is_reached_again_by_itself(self, nodes: Nodes, lane: Lane) -> None:
        a, b = nodes.connected_pair(lane)
        for restart in range(2):
            b.transport.close()
            b = nodes.new(b.address)
            nodes.deliver(a, b, lane, [b"again %d" % restart])

    def test_a_node_that_is_connected_to_before_it_opens_is_reached(self, nodes: Nodes) -> None:
        a = nodes.new()
        address = nodes.free_address()
        a.transport.connect("b", address)
        a.transport.send(Lane.RAFT, "b", [b"lost"])
        b = nodes.new(address)
        nodes.deliver(a, b, Lane.RAFT, [b"found"])

    def test_connect_again_moves_the_node_to_its_new_address(self, nodes: Nodes) -> None:
        a, old = nodes.connected_pair()
        new = nodes.new()
        a.transport.connect("b", new.address)
        nodes.deliver(a, new, Lane.RAFT, [b"moved"])
        old.poll(0.1)
        assert [b"moved"] not in old.payloads(Lane.RAFT)

    def test_connect_again_to_the_same_address_changes_nothing(self, nodes: Nodes) -> None:
        a, b = nodes.connected_pair()
        a.transport.connect("b", b.address)
        assert a.transport.send(Lane.RAFT, "b", [b"still here"])
        until(lambda: [b"still here"] in b.payloads(Lane.RAFT), b)

    def test_disconnect_forgets_the_node(self, nodes: Nodes) -> None:
        a, b = nodes.connected_pair()
        a.transport.disconnect("b")
        a.transport.disconnect("b")
        a.transport.disconnect("never known")
        assert not a.transport.send(Lane.RAFT, "b", [b"x"])
        a.transport.connect("b", b.address)
        nodes.deliver(a, b, Lane.RAFT, [b"known again"])

    def test_a_node_can_send_to_itself(self, nodes: Nodes) -> None:
        a = nodes.new()
        a.transport.connect("a", a.address)
        nodes.deliver(a, a, Lane.RAFT, [b"me"], "a")

    def test_connecting_gives_no_way_back(self, nodes: Nodes) -> None:
        a, b = nodes.connected_pair()
        assert not b.transport.send(Lane.RAFT, "a", [b"x"])
        b.transport.connect("a", a.address)
        nodes.deliver(b, a, Lane.RAFT, [b"now"], "a")

    # --- GOSSIP -----------------------------------------------------------------------------------------------------

    def test_subscribers_and_only_they_receive_what_is_published(self, nodes: Nodes) -> None:
        publisher, first, second, stranger = nodes.new(), nodes.new(), nodes.new(), nodes.new()
        first.transport.subscribe("p", publisher.address)
        second.transport.subscribe("p", publisher.address)
        parts = [b"delta", b"", b"x" * 10_000]
        nodes.spread(publisher, parts, first, second)
        stranger.poll(0.05)
        publisher.poll(0.05)
        assert not stranger.seen
        assert not publisher.seen
        assert {inbound.lane for inbound in first.seen} == {Lane.GOSSIP}
        assert all(inbound.source is None for inbound in first.seen)

    def test_publishing_with_no_subscriber_does_nothing(self, nodes: Nodes) -> None:
        node = nodes.new()
        for _ in range(100):
            at_once(lambda: node.transport.publish([b"x"]))

    def test_what_is_published_keeps_its_order(self, nodes: Nodes) -> None:
        publisher, subscriber = nodes.new(), nodes.new()
        subscriber.transport.subscribe("p", publisher.address)
        nodes.spread(publisher, [b"subscribed"], subscriber)
        until(quiet(subscriber))
        subscriber.seen.clear()
        sent = [[b"%d" % number] for number in range(100)]
        for frame in sent:
            publisher.transport.publish(frame)
        until(lambda: len(subscriber.payloads(Lane.GOSSIP)) >= 100, subscriber)
        assert subscriber.payloads(Lane.GOSSIP) == sent

    def test_a_subscriber_that_does_not_poll_loses_frames_and_holds_nobody_up(self, nodes: Nodes) -> None:
        publisher, subscriber, slow = nodes.new(), nodes.new(), nodes.new()
        subscriber.transport.subscribe("p", publisher.address)
        slow.transport.subscribe("p", publisher.address)
        nodes.spread(publisher, [b"subscribed"], subscriber, slow)
        for _ in range(5000):
            at_once(lambda: publisher.transport.publish([bytes(2048)]))
        nodes.spread(publisher, [b"after the flood"], subscriber)

    def test_unsubscribe_ends_it(self, nodes: Nodes) -> None:
        publisher, leaver, stayer = nodes.new(), nodes.new(), nodes.new()
        leaver.transport.subscribe("p", publisher.address)
        stayer.transport.subscribe("p", publisher.address)
        nodes.spread(publisher, [b"subscribed"], leaver, stayer)
        leaver.transport.unsubscribe("p")
        leaver.transport.unsubscribe("p")
        leaver.transport.unsubscribe("never known")
        until(quiet(leaver))
        leaver.seen.clear()
        nodes.spread(publisher, [b"without you"], stayer)
        leaver.poll(0.1)
        assert not leaver.seen

    def test_subscribe_again_moves_the_subscription(self, nodes: Nodes) -> None:
        old, new, subscriber = nodes.new(), nodes.new(), nodes.new()
        subscriber.transport.subscribe("p", old.address)
        nodes.spread(old, [b"old"], subscriber)
        subscriber.transport.subscribe("p", new.address)
        nodes.spread(new, [b"new"], subscriber)
        until(quiet(subscriber))
        subscriber.seen.clear()
        old.transport.publish([b"old"])
        nodes.spread(new, [b"new again"], subscriber)
        assert [b"old"] not in subscriber.payloads(Lane.GOSSIP)

    def test_two_ids_at_one_address_bring_each_frame_once(self, nodes: Nodes) -> None:
        publisher, subscriber = nodes.new(), nodes.new()
        subscriber.transport.subscribe("before it was wiped", publisher.address)
        subscriber.transport.subscribe("since then", publisher.address)
        nodes.spread(publisher, [b"subscribed"], subscriber)
        until(quiet(subscriber))
        subscriber.seen.clear()
        publisher.transport.publish([b"once"])
        publisher.transport.publish([b"end"])
        until(lambda: [b"end"] in subscriber.payloads(Lane.GOSSIP), subscriber)
        assert subscriber.payloads(Lane.GOSSIP) == [[b"once"], [b"end"]]
        subscriber.transport.unsubscribe("before it was wiped")
        nodes.spread(publisher, [b"still subscribed"], subscriber)

    def test_a_publisher_that_restarts_is_heard_again(self, nodes: Nodes) -> None:
        publisher, subscriber = nodes.new(), nodes.new()
        subscriber.transport.subscribe("p", publisher.address)
        nodes.spread(publisher, [b"first life"], subscriber)
        publisher.transport.close()
        publisher = nodes.new(publisher.address)
        nodes.spread(publisher, [b"second life"], subscriber)

    def test_a_published_frame_that_is_too_long_costs_itself_and_no_later_one(self, nodes: Nodes) -> None:
        publisher, subscriber = nodes.new(), nodes.new(frame_bytes_max=10_000)
        subscriber.transport.subscribe("p", publisher.address)
        nodes.spread(publisher, [b"subscribed"], subscriber)
        too_long = [bytes(10_001)]
        publisher.transport.publish(too_long)
        publisher.transport.publish([bytes(5_001), bytes(5_001)])
        nodes.spread(publisher, [b"after"], subscriber)
        assert max(sum(map(len, parts)) for parts in subscriber.payloads(Lane.GOSSIP)) <= 10_000

    # --- HEARTBEAT --------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("data", [b"", b"ping", bytes(range(256)) * 5])
    def test_a_datagram_arrives_with_a_source_that_answers_reach(self, nodes: Nodes, data: bytes) -> None:
        a, b = nodes.new(), nodes.new()
        ping = nodes.fling(a, b, data)
        assert ping.source is not None
        host, port = ping.source
        assert port == a.address.gossip_port
        deadline = time.monotonic() + DEADLINE_S
        while [b"ack"] not in a.payloads(Lane.HEARTBEAT):
            assert time.monotonic() < deadline
            b.transport.send_datagram(host, port, b"ack")
            a.poll()

    def test_a_datagram_that_no_network_carries_is_refused(self, nodes: Nodes) -> None:
        a, b = nodes.new(), nodes.new()
        assert not a.transport.send_datagram(b.address.hostname, b.address.gossip_port, bytes(70_000))
        nodes.fling(a, b, b"still works")

    def test_a_datagram_longer_than_the_longest_frame_is_dropped(self, nodes: Nodes) -> None:
        a, b = nodes.new(), nodes.new(frame_bytes_max=1000)
        a.transport.send_datagram(b.address.hostname, b.address.gossip_port, bytes(1001))
        nodes.fling(a, b, b"after")
        assert [bytes(1001)] not in b.payloads(Lane.HEARTBEAT)

    def test_datagrams_to_nobody_do_no_harm(self, nodes: Nodes) -> None:
        a, b = nodes.new(), nodes.new()
        nowhere = nodes.free_address()
        for _ in range(20):
            a.transport.send_datagram(nowhere.hostname, nowhere.gossip_port, b"x")
            a.poll(0)
        nodes.fling(a, b, b"still works")

    # --- poll and wake ----------------------------------------------------------------------------------------------

    def test_poll_with_nothing_to_say_returns_nothing_when_its_time_is_over(self, nodes: Nodes) -> None:
        node = nodes.new()
        began = time.monotonic()
        while time.monotonic() - began < 0.05:
            assert node.transport.poll(0.05) == []

    def test_poll_with_no_time_never_waits(self, nodes: Nodes) -> None:
        node = nodes.new()
        for _ in range(100):
            assert at_once(lambda: node.transport.poll(0)) == []

    def test_poll_ends_at_the_first_frame(self, nodes: Nodes) -> None:
        a, b = nodes.connected_pair()
        assert a.transport.send(Lane.RAFT, "b", [b"x"])
        assert [inbound.parts for inbound in before_deadline(lambda: b.transport.poll(DEADLINE_S))] == [[b"x"]]

    def test_poll_leaves_what_is_too_much_for_the_next_call(self, nodes: Nodes) -> None:
        a, b = nodes.connected_pair()
        b.seen.clear()
        accepted = 0
        while accepted < 10_000 and a.transport.send(Lane.RAFT, "b", [b"%d" % accepted]):
            accepted += 1
        until(lambda: len(b.payloads(Lane.RAFT)) == accepted, b)
        assert b.payloads(Lane.RAFT) == [[b"%d" % number] for number in range(accepted)]

    def test_wake_ends_a_poll_that_waits(self, nodes: Nodes) -> None:
        node = nodes.new()
        waker = threading.Timer(0.05, node.transport.wake)
        waker.start()
        assert before_deadline(lambda: node.transport.poll(DEADLINE_S)) == []
        waker.join()

    def test_wake_before_poll_ends_that_one_and_no_further(self, nodes: Nodes) -> None:
        node = nodes.new()
        for _ in range(1000):
            node.transport.wake()
        assert before_deadline(lambda: node.transport.poll(DEADLINE_S)) == []
        began = time.monotonic()
        assert node.transport.poll(0.2) == []
        assert time.monotonic() - began > 0.1, "one wake ended two polls"

    def test_wake_before_open_is_kept_or_lost_but_does_no_harm(self, nodes: Nodes) -> None:
        transport = self.make()
        transport.wake()
        node = nodes.open(transport)
        assert node.transport.poll(0.01) == []

    def test_no_wake_is_lost_among_threads(self, nodes: Nodes) -> None:
        """Hand-overs one at a time: each wake must end the poll, or the next hand-over never comes."""
        node = nodes.new()
        rounds, handed, taken = 2000, [0], threading.Semaphore(0)

        def hand_over() -> None:
            for _ in range(rounds):
                handed[0] += 1
                node.transport.wake()
                if not taken.acquire(timeout=DEADLINE_S):
                    return

        giver = threading.Thread(target=hand_over)
        giver.start()
        deadline = time.monotonic() + DEADLINE_S
        seen = 0
        while seen < rounds:
            if handed[0] == seen:
                began = time.monotonic()
                node.transport.poll(DEADLINE_S)
                assert time.monotonic() - began < DEADLINE_S / 2, f"the wake of round {seen} was lost"
            if handed[0] > seen:
                seen += 1
                taken.release()
            assert time.monotonic() < deadline
        giver.join(DEADLINE_S)
        assert not giver.is_alive()
