"""Nodes as real processes, over real sockets and disks: who finds whom, who is replaced, and what that costs the groups."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from copycat.cli.local_cluster import Deadline
from copycat.cli.worker_process import WorkerRefused
from copycat.testing.member_cluster import MemberCluster

TIMEOUT_S = 300.0
HARD_CODED = "01CFR5R4JJE9KNRAJFFEAQ2SAJ"

pytestmark = pytest.mark.slow

MakeCluster = Callable[..., Any]


@pytest.fixture
def make(tmp_path: Path, transport_name: str, storage_name: str) -> MakeCluster:
    if (transport_name, storage_name) != ("zeromq", "leveldb"):
        pytest.skip("processes meet over sockets, and come back from disks")

    @contextmanager
    def made(*fields: dict[str, Any], **common: Any) -> Iterator[MemberCluster]:
        with MemberCluster(tmp_path, Deadline(TIMEOUT_S), [{**common, **one} for one in fields]) as cluster:
            yield cluster
        for seat in cluster.seats:
            assert seat.worker is not None
            assert "Traceback" not in seat.worker.last_words, seat.worker.last_words

    return made


def test_two_of_five_die_one_after_the_other_and_every_group_is_whole_again(make: MakeCluster) -> None:
    places = [("east", "a"), ("east", "a"), ("east", "b"), ("west", "c"), ("west", "c")]
    with make(
        *({"data_center": center, "rack": rack} for center, rack in places), repair_delay_s=0.5, tick_ms=30
    ) as cluster:
        cluster.start_all()
        place_of = {seat.node_id: place for seat, place in zip(cluster.seats, places, strict=True)}
        groups = [cluster.ask(0, "allocate", replicas=3)["map_id"] for _ in range(5)]
        for group in groups:
            cluster.at_once(
                *(lambda index=index, group=group: cluster.ask(index, "attach", group=group) for index in (0, 2))
            )
        cluster.wait(lambda: len(cluster.led(range(5))) == 5, "all groups are led")
        for status in cluster.led(range(5)).values():
            voters = [place_of[node_id] for node_id in status["voters"]]
            assert len(voters) == 3
            assert len({center for center, _ in voters}) == 2
            assert len({rack for _, rack in voters}) == 3, "three racks hold a voter each"
        sent: dict[str, list[str]] = {group: [] for group in groups}

        def send(index: int, word: str) -> None:
            for group in groups:
                items = [f"{word}-{number}" for number in range(20)]
                cluster.ask(index, "send", group=group, items=items)
                sent[group] += items

        send(0, "all alive")
        survivors = [0, 1, 2, 3, 4]
        for killed in (4, 1):
            began = time.monotonic()
            cluster.kill(killed)
            survivors.remove(killed)
            living = {cluster.seats[index].node_id for index in survivors}
            send(2, f"without {killed}")
            answering_s = time.monotonic() - began

            def is_whole(living: set[str] = living) -> bool:
                led = cluster.led(survivors)
                return led.keys() == set(groups) and all(
                    len(status["voters"]) == 3
                    and living.issuperset(status["voters"])
                    and not status["under_replicated"]
                    for status in led.values()
                )

            cluster.wait(is_whole, f"every group has three living voters after {killed} died")
            whole_s = time.monotonic() - began
            print(
                f"node {killed} killed: all groups took items after {answering_s:.1f} s, were whole after {whole_s:.1f} s"
            )
        send(0, "three left")
        for group in groups:
            for index in (0, 2):
                assert cluster.ask(index, "list_of", group=group)["items"] == sent[group]


def test_an_id_that_is_written_into_the_program_works_from_everywhere_at_once(make: MakeCluster) -> None:
    """The first thing that the README of the original did: subscribe to a fixed id on a cluster that knows nothing."""
    with make({}, {}, {}, {}) as cluster:

        def join_and_subscribe(index: int) -> None:
            cluster.start(index, [0])
            cluster.ask(index, "attach", group=HARD_CODED)
            cluster.ask(index, "send", group=HARD_CODED, items=[f"from {index}"])

        cluster.start(0)
        cluster.at_once(
            lambda: cluster.ask(0, "attach", group=HARD_CODED),
            *(lambda index=index: join_and_subscribe(index) for index in (1, 2, 3)),
        )
        lists = [cluster.ask(index, "list_of", group=HARD_CODED)["items"] for index in range(4)]
        assert sorted(lists[0]) == ["from 1", "from 2", "from 3"]
        assert lists == [lists[0]] * 4, "one group, one order"
        cluster.wait(
            lambda: not cluster.led(range(4))[HARD_CODED]["under_replicated"], "it has as many voters as it should"
        )


def test_an_id_that_nobody_knows_is_created_once_whoever_asks_first(make: MakeCluster) -> None:
    with make({}, {}, {}) as cluster:
        cluster.start_all()
        groups = [HARD_CODED[:-1] + last for last in "ABCDEFGH"]
        for group in groups:
            cluster.at_once(
                *(lambda index=index, group=group: cluster.ask(index, "attach", group=group) for index in range(3))
            )
        for group in groups:
            cluster.at_once(
                *(
                    lambda index=index, group=group: cluster.ask(index, "send", group=group, items=[f"{index}"])
                    for index in range(3)
                )
            )
            lists = [cluster.ask(index, "list_of", group=group)["items"] for index in range(3)]
            assert sorted(lists[0]) == ["0", "1", "2"]
            assert lists == [lists[0]] * 3


def test_a_cluster_without_a_majority_says_so_before_the_time_is_up_and_goes_on_when_it_is_back(
    make: MakeCluster,
) -> None:
    with make({}, {}, {}) as cluster:
        cluster.start_all()
        for index in range(3):  # one that dies before it counts can't be counted on when it is back
            assert cluster.ask(index, "locate", group=HARD_CODED)["hosts"] == []
        cluster.kill(1)
        cluster.kill(2)
        with pytest.raises(WorkerRefused, match="of 3 known nodes answered") as refused:
            cluster.worker(0).ask("attach", group=HARD_CODED, timeout=3.0)
        assert refused.value.kind == "NoQuorum"
        cluster.start(2)
        cluster.ask(0, "attach", group=HARD_CODED)
        cluster.start(1)


def test_nodes_come_back_without_seeds_with_silent_seeds_and_at_another_address(make: MakeCluster) -> None:
    with make({}, {}, {}, {}) as cluster:
        cluster.start_all([0, 1, 2])
        group = cluster.ask(0, "allocate", replicas=3)["map_id"]
        cluster.ask(1, "attach", group=group)
        cluster.ask(1, "send", group=group, items=["before"])
        for index in range(3):
            cluster.kill(index)
        cluster.start(1, [3])  # nothing was ever started on that seat: a seed that is silent
        assert cluster.alive(1) == {cluster.seats[1].node_id}
        assert len(cluster.members(1)) == 3
        with pytest.raises(WorkerRefused) as refused:
            cluster.worker(1).ask("attach", group=HARD_CODED, timeout=2.0)
        assert refused.value.kind == "NoQuorum", "it founded a cluster of its own"
        cluster.move(2)
        cluster.start(2)
        cluster.start(0)
        cluster.await_alive([0, 1, 2])
        moved = cluster.members(0)[cluster.seats[2].node_id]["address"]
        assert moved == f"127.0.0.1:{cluster.seats[2].gossip_port}"
        for index in range(3):
            cluster.ask(index, "attach", group=group)
        cluster.ask(2, "send", group=group, items=["after"])
        assert [cluster.ask(index, "list_of", group=group)["items"] for index in range(3)] == [["before", "after"]] * 3
        cluster.start(3, [2])
        cluster.await_alive([0, 1, 2, 3])


def test_a_cluster_that_was_shut_down_whole_finds_itself_again_without_seeds(make: MakeCluster) -> None:
    with make({}, {}, {}) as cluster:
        cluster.start_all()
        cluster.ask(0, "attach", group=HARD_CODED)
        cluster.ask(0, "send", group=HARD_CODED, items=["kept"])
        cluster.shut_down(0, 1, 2)
        cluster.at_once(*(lambda index=index: cluster.start(index) for index in range(3)))
        cluster.await_alive(range(3))
        cluster.ask(2, "attach", group=HARD_CODED)
        assert cluster.ask(2, "list_of", group=HARD_CODED)["items"] == ["kept"]


def test_clusters_of_two_labels_never_merge_even_with_each_others_seeds(make: MakeCluster) -> None:
    red, blue = {"cluster_label": "red"}, {"cluster_label": "blue"}
    with make(red, red, blue, blue, {**blue, "join_timeout_s": 2.0}) as cluster:
        cluster.start(0)
        cluster.start(2)
        cluster.at_once(lambda: cluster.start(1, [2, 0]), lambda: cluster.start(3, [0, 2]))
        with pytest.raises(WorkerRefused) as refused:
            cluster.start(4, [0, 1])
        assert refused.value.kind == "SeedUnreachable"
        for pair in ((0, 1), (2, 3)):
            cluster.await_alive(pair)
            cluster.at_once(*(lambda index=index: cluster.ask(index, "attach", group=HARD_CODED) for index in pair))
            cluster.ask(pair[0], "send", group=HARD_CODED, items=[f"of {pair}"])
            assert cluster.ask(pair[1], "list_of", group=HARD_CODED)["items"] == [f"of {pair}"]
        for pair in ((0, 1), (2, 3)):
            for index in pair:
                assert cluster.members(index).keys() == {cluster.seats[one].node_id for one in pair}


@pytest.mark.parametrize("how", ["leave", "shut down"])
def test_a_leader_that_goes_in_order_costs_its_group_less_than_one_election(make: MakeCluster, how: str) -> None:
    tick_ms, election_ticks = 100, 50  # so that whatever waits for an election is seen, on a busy machine too
    with make({}, {}, {}, {}, tick_ms=tick_ms, election_ticks=election_ticks, repair_delay_s=60.0) as cluster:
        cluster.start_all()
        group = cluster.ask(0, "allocate", replicas=3)["map_id"]
        cluster.wait(lambda: group in cluster.led(range(4)), "it is led")
        voters = cluster.led(range(4))[group]["voters"]
        leader = next(index for index in range(4) if cluster.groups(index).get(group, {}).get("role") == "leader")
        watcher = next(index for index, seat in enumerate(cluster.seats) if index != leader and seat.node_id in voters)
        cluster.ask(watcher, "attach", group=group)
        cluster.worker(watcher).ask("begin_pulse", group=group)

        def await_pulses(count: int) -> None:
            reached = cluster.worker(watcher).ask("pulses")["committed"] + count
            cluster.wait(lambda: cluster.worker(watcher).ask("pulses")["committed"] >= reached, "the group takes items")

        await_pulses(20)
        if how == "leave":
            cluster.ask(leader, "leave")
        else:
            cluster.shut_down(leader)
        await_pulses(20)
        pulse = cluster.worker(watcher).ask("end_pulse")
        print(f"{how}: the longest wait of {pulse['committed']} items was {pulse['longest_s']:.2f} s")
        assert pulse["longest_s"] < tick_ms * election_ticks / 1000
        others = [index for index in range(4) if index != leader]
        gone = cluster.seats[leader].node_id
        if how == "leave":
            cluster.wait(lambda: gone not in cluster.led(others)[group]["voters"], "another took its place")
            assert len(cluster.led(others)[group]["voters"]) == 3
            cluster.wait(lambda: cluster.members(watcher)[gone]["state"] == "left", "it is known to have left")
