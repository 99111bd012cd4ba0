"""The queue of news: its budget, its order, and its bounds."""

from __future__ import annotations

import math
import random

from copycat.gossip.dissemination import BroadcastQueue, Datagrams, retransmit_limit


def test_news_is_sent_as_often_as_the_logarithm_of_the_cluster_says() -> None:
    assert [retransmit_limit(4, members) for members in (1, 9, 10, 99, 100, 1000)] == [4, 4, 8, 8, 12, 16]
    for members in (1, 10, 1000):
        queue = BroadcastQueue()
        queue.put("a", bytes(40))
        limit = retransmit_limit(4, members)
        assert sum(len(queue.take(1400, 255, limit)) for _ in range(100)) == limit
        assert len(queue) == 0


def test_what_was_sent_least_often_goes_first_and_newest_first_among_equals() -> None:
    queue = BroadcastQueue()
    queue.put("old", b"o" * 40)
    queue.take(100, 255, 10)
    queue.put("first", b"1" * 40)
    queue.put("second", b"2" * 40)
    assert queue.take(80, 255, 10) == [b"2" * 40, b"1" * 40]


def test_newer_news_of_a_member_replaces_older_and_has_its_whole_budget() -> None:
    queue = BroadcastQueue()
    queue.put("a", b"1" * 40)
    queue.take(1000, 255, 3)
    queue.put("a", b"2" * 40)
    assert len(queue) == 1
    assert [queue.take(1000, 255, 3) for _ in range(4)] == [[b"2" * 40]] * 3 + [[]]


def test_news_that_does_not_fit_leaves_room_to_smaller_news() -> None:
    queue = BroadcastQueue()
    queue.put("small", bytes(40))
    queue.put("large", bytes(900))
    assert queue.take(100, 255, 5) == [bytes(40)]
    assert queue.take(940, 255, 5) == [bytes(900), bytes(40)]


def test_the_queue_agrees_with_a_plain_list() -> None:
    seed = 11
    print(f"seed {seed}")
    rng = random.Random(seed)
    queue = BroadcastQueue()
    twin: list[tuple[int, int, str, bytes]] = []  # times sent, order of arrival at that count, node, update
    serial = 0
    for _ in range(2000):
        serial += 1
        if rng.random() < 0.4:
            node_id = f"n{rng.randrange(12)}"
            update = bytes([rng.randrange(256)]) * rng.randrange(35, 400)
            queue.put(node_id, update)
            twin = [item for item in twin if item[2] != node_id]
            twin.append((0, serial, node_id, update))
            continue
        room = rng.randrange(1000)
        left = room
        taken = []
        for item in sorted(twin, key=lambda item: (item[0], -item[1])):
            if len(item[3]) <= left:
                taken.append(item)
                left -= len(item[3])
        assert queue.take(room, 255, 4) == [item[3] for item in taken]
        for item in taken:
            twin.remove(item)
            serial += 1
            if item[0] + 1 < 4:
                twin.append((item[0] + 1, serial, item[2], item[3]))
        assert len(queue) == len(twin)


def test_a_datagram_never_exceeds_its_budget_and_is_filled_up() -> None:
    datagrams = Datagrams(1300, 4)
    datagrams.members = 100
    for number in range(100):
        datagrams.news.put(str(number), bytes(90))
    datagrams.send("host", 1, bytes(60), [bytes(50)])
    (_, _, data) = datagrams.outgoing[0]
    assert len(data) == 60 + 1 + 50 + 90 * math.floor((1300 - 111) / 90)
    assert data[60] == 14
