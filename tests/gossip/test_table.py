"""The order of probing: every member within 2N - 1 periods, and newcomers anywhere."""

from __future__ import annotations

import random
from collections import Counter

from copycat.gossip.records import MemberRecord
from copycat.gossip.table import Member, MemberTable


def filled(count: int, seed: int) -> MemberTable:
    print(f"seed {seed}")
    table = MemberTable(random.Random(seed))
    for number in range(count):
        join(table, number)
    return table


def join(table: MemberTable, number: int) -> None:
    node_id = str(number)
    table.entries[node_id] = Member(MemberRecord(node_id, "h", 1, 1), 0.0)
    table.start_probing(node_id)


def next_id(table: MemberTable) -> str:
    member = table.next_target()
    assert member is not None
    return member.record.node_id


def test_every_member_is_probed_once_per_round_and_within_2n_minus_1_periods() -> None:
    table = filled(20, seed=3)
    probed = [next_id(table) for _ in range(2000)]
    for start in range(0, 2000, 20):
        assert len(set(probed[start : start + 20])) == 20
    for start in range(2000 - 39):
        assert len(set(probed[start : start + 39])) == 20


def test_rounds_differ() -> None:
    table = filled(20, seed=3)
    rounds = [tuple(next_id(table) for _ in range(20)) for _ in range(10)]
    assert len(set(rounds)) == 10


def test_nobody_is_probed_twice_or_forgotten_when_members_come_and_go() -> None:
    table = filled(10, seed=5)
    rng = random.Random(6)
    live = {str(number) for number in range(10)}
    since: Counter[str] = Counter()
    for step in range(2000):
        if rng.random() < 0.05:
            join(table, 1000 + step)
            live.add(str(1000 + step))
        if rng.random() < 0.05 and len(live) > 5:
            gone = rng.choice(sorted(live))
            table.stop_probing(gone)
            live.discard(gone)
            since.pop(gone, None)
        probed = next_id(table)
        assert probed in live
        for node_id in live:
            since[node_id] += 1
        since[probed] = 0
        assert max(since.values()) <= 4 * len(live)
    assert table.live_count == len(live)


def test_a_newcomer_lands_anywhere_in_the_round() -> None:
    places: Counter[int] = Counter()
    for seed in range(300):
        table = MemberTable(random.Random(seed))
        for number in range(9):
            join(table, number)
        join(table, 99)
        places[[next_id(table) for _ in range(10)].index("99")] += 1
    assert len(places) == 10
    assert max(places.values()) < 70


def test_a_sample_is_distinct_and_leaves_out_whom_it_should() -> None:
    for count in (2, 5, 100):
        table = filled(count, seed=count)
        for _ in range(200):
            sample = [member.record.node_id for member in table.sample(3, ("0",))]
            assert len(set(sample)) == len(sample) == min(3, count - 1)
            assert "0" not in sample
