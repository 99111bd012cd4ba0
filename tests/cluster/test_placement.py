"""Placement: spread, weights, and that a join or a leave moves its share and no more."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from copycat.errors import NotEnoughNodes
from copycat.placement import (
    WEIGHT_MAX,
    WEIGHT_MIN,
    Candidate,
    place,
    place_available,
    settle_weight,
    weight_from_capacity,
)

candidates_lists = st.lists(
    st.builds(
        Candidate,
        node_id=st.integers(0, 10**6).map(lambda number: f"n{number}"),
        data_center=st.sampled_from("ABCD"),
        rack=st.sampled_from("123"),
        weight=st.sampled_from([0.0, 0.25, 1.0, 1.0, 4.0]),
        excluded=st.sampled_from([False, False, False, True]),
    ),
    max_size=24,
    unique_by=lambda candidate: candidate.node_id,
)
group_ids = st.binary(min_size=16, max_size=16)


def usable(candidates):
    return [candidate for candidate in candidates if candidate.weight > 0 and not candidate.excluded]


def even_fill(capacities: list[int], count: int) -> list[int]:
    """Obviously right: one at a time to whoever has least and still has room."""
    filled = [0] * len(capacities)
    for _ in range(count):
        open_ones = [i for i, capacity in enumerate(capacities) if filled[i] < capacity]
        if not open_ones:
            break
        filled[min(open_ones, key=lambda i: filled[i])] += 1
    return sorted(filled)


def flat(count: int, weights: dict[int, float] | None = None) -> list[Candidate]:
    return [Candidate(f"node-{i}", weight=(weights or {}).get(i, 1.0)) for i in range(count)]


def groups(count: int, seed: int = 1) -> list[bytes]:
    rng = random.Random(seed)
    return [rng.randbytes(16) for _ in range(count)]


@given(group_ids, candidates_lists, st.integers(1, 9))
def test_replicas_are_distinct_usable_and_evenly_spread(group_id, candidates, replicas):
    chosen = place_available(group_id, candidates, replicas)
    by_id = {candidate.node_id: candidate for candidate in usable(candidates)}
    assert len(set(chosen)) == len(chosen) == min(replicas, len(by_id))
    assert set(chosen) <= set(by_id)
    centers = Counter(candidate.data_center for candidate in by_id.values())
    used = Counter(by_id[node].data_center for node in chosen)
    assert sorted(used[center] for center in centers) == even_fill(list(centers.values()), replicas)
    for center in used:
        racks = Counter(candidate.rack for candidate in by_id.values() if candidate.data_center == center)
        used_racks = Counter(by_id[node].rack for node in chosen if by_id[node].data_center == center)
        assert sorted(used_racks[rack] for rack in racks) == even_fill(list(racks.values()), used[center])


def racks_possible(candidates: list[Candidate], count: int) -> int:
    """By trying out: the most racks that can be used while the data centres are filled evenly."""
    nodes = Counter(candidate.data_center for candidate in candidates)
    racks = {center: len({one.rack for one in candidates if one.data_center == center}) for center in nodes}
    level = 0
    while sum(min(room, level + 1) for room in nodes.values()) <= count and level < count:
        level += 1
    filled = {center: min(room, level) for center, room in nodes.items()}
    may_have_more = [center for center, room in nodes.items() if room > level]
    extra = min(count - sum(filled.values()), len(may_have_more))
    return max(
        sum(min(filled[center] + (center in chosen), racks[center]) for center in nodes)
        for chosen in combinations(may_have_more, extra)
    )


@given(group_ids, candidates_lists, st.integers(1, 9))
def test_as_many_racks_are_used_as_the_data_centers_allow(group_id, candidates, replicas):
    by_id = {candidate.node_id: candidate for candidate in usable(candidates)}
    chosen = [by_id[node] for node in place_available(group_id, candidates, replicas)]
    used = {(candidate.data_center, candidate.rack) for candidate in chosen}
    assert len(used) == (racks_possible(list(by_id.values()), replicas) if by_id else 0)


def test_three_replicas_use_three_racks_of_two_data_centers():
    places = [("east", "a"), ("east", "a"), ("east", "b"), ("west", "c"), ("west", "c")]
    nodes = [Candidate(f"n{i}", data_center=center, rack=rack) for i, (center, rack) in enumerate(places)]
    for group_id in groups(300):
        chosen = [nodes[int(node[1:])] for node in place(group_id, nodes, 3)]
        assert {candidate.rack for candidate in chosen} == {"a", "b", "c"}


@given(group_ids, candidates_lists, st.integers(1, 7), st.integers(0, 5))
def test_the_strict_form_answers_the_same_or_says_what_is_missing(group_id, candidates, replicas, centers):
    by_id = {candidate.node_id: candidate for candidate in usable(candidates)}
    exist = len({candidate.data_center for candidate in by_id.values()})
    if len(by_id) < replicas or exist < min(centers, replicas):
        with pytest.raises(NotEnoughNodes):
            place(group_id, candidates, replicas, centers)
        return
    chosen = place(group_id, candidates, replicas, centers)
    assert chosen == place_available(group_id, candidates, replicas, centers)
    assert len({by_id[node].data_center for node in chosen}) >= min(centers, replicas)


@given(group_ids, candidates_lists, st.integers(1, 7), st.integers(0, 4), st.randoms(use_true_random=False))
def test_the_order_of_candidates_does_not_matter(group_id, candidates, replicas, centers, rng):
    shuffled = list(candidates)
    rng.shuffle(shuffled)
    assert place_available(group_id, candidates, replicas, centers) == place_available(
        group_id, shuffled, replicas, centers
    )


@given(group_ids, candidates_lists.filter(bool), st.integers(1, 7))
def test_a_join_moves_nothing_unless_the_joiner_is_chosen(group_id, candidates, replicas):
    joiner = replace(candidates[-1], excluded=False, weight=1.0)
    before = set(place_available(group_id, candidates[:-1], replicas))
    after = set(place_available(group_id, [*candidates[:-1], joiner], replicas))
    if joiner.node_id in after:
        assert len(before - after) <= 1
    else:
        assert before == after


@given(group_ids, candidates_lists, st.integers(1, 7))
def test_excluding_a_node_is_the_same_as_its_absence(group_id, candidates, replicas):
    for position, candidate in enumerate(candidates):
        without = candidates[:position] + candidates[position + 1 :]
        barred = [*without, replace(candidate, excluded=True)]
        assert place_available(group_id, without, replicas) == place_available(group_id, barred, replicas)


def test_one_data_center_is_enough_when_one_is_asked_for():
    nodes = [Candidate(f"{center}{i}", data_center=center) for center in "ABC" for i in range(4)]
    for group_id in groups(200):
        chosen = place(group_id, nodes, 3, 1)
        assert len({node[0] for node in chosen}) == 1
        assert len({node[0] for node in place(group_id, nodes, 3, 2)}) == 2
        assert len({node[0] for node in place(group_id, nodes, 5, 1)}) == 2  # four nodes there are too few


def test_a_join_moves_about_its_share():
    before, after = flat(9), flat(10)
    moved = 0
    for group_id in groups(4000):
        old, new = set(place(group_id, before, 3)), set(place(group_id, after, 3))
        moved += len(new - old)
        assert new - old <= {"node-9"}
    assert 0.9 < moved / (4000 * 3 / 10) < 1.1


def test_in_a_hierarchy_too_a_join_or_a_leave_moves_about_its_share():
    nodes = [Candidate(f"n{i}", data_center="ABC"[i % 3], rack="xy"[i // 3 % 2]) for i in range(18)]
    moved = 0
    for group_id in groups(3000):
        without, whole = set(place(group_id, nodes[:-1], 3)), set(place(group_id, nodes, 3))
        moved += len(whole - without)
    assert 0.9 < moved / (3000 * 3 / 18) < 1.1


def test_load_follows_weight():
    nodes = flat(10, {0: 4.0, 1: 0.5})
    load = Counter(node for group_id in groups(6000) for node in place(group_id, nodes, 1))
    total_weight = 8 + 4.0 + 0.5
    assert abs(load["node-0"] / 6000 - 4.0 / total_weight) < 0.03
    assert abs(load["node-1"] / 6000 - 0.5 / total_weight) < 0.015
    assert abs(load["node-5"] / 6000 - 1.0 / total_weight) < 0.02


def test_the_hash_is_the_same_in_every_process_and_version():
    nodes = [Candidate(f"node-{i}", data_center="AB"[i % 2], rack="xyz"[i % 3]) for i in range(8)]
    assert place(bytes(range(16)), nodes, 5) == ("node-6", "node-3", "node-1", "node-4", "node-5")


def test_weight_grows_with_capacity_and_sinks_when_nearly_full():
    gib = 1 << 30
    normal = weight_from_capacity(40 * gib, 64 * gib, 2 * gib, 4 * gib)
    assert normal == 1.0
    assert weight_from_capacity(400 * gib, 640 * gib, 20 * gib, 40 * gib) == 10.0
    assert weight_from_capacity(400 * gib, 640 * gib, 2 * gib, 4 * gib) == 1.0
    assert weight_from_capacity(8 * gib, 64 * gib, 2 * gib, 4 * gib) == 0.5
    assert weight_from_capacity(0, 0, 0, 0) == WEIGHT_MIN
    assert weight_from_capacity(10**18, 10**18, 10**18, 10**18) == WEIGHT_MAX


def test_a_machine_that_is_nearly_full_is_not_chosen_until_it_has_twice_as_much_room():
    gib, mib = 1 << 30, 1 << 20
    assert weight_from_capacity(0, 64 * gib, 2 * gib, 4 * gib) == 0.0
    for free, total, room in ((2 * gib, 640 * gib, 2 * gib), (mib * 512, 10 * gib, 512 * mib)):
        assert weight_from_capacity(free - 1, total, 2 * gib, 4 * gib) == 0.0
        assert weight_from_capacity(free, total, 2 * gib, 4 * gib) > 0.0
        assert weight_from_capacity(2 * room - 1, total, 2 * gib, 4 * gib, excluded=True) == 0.0
        assert weight_from_capacity(2 * room, total, 2 * gib, 4 * gib, excluded=True) > 0.0
    assert weight_from_capacity(40 * gib, 64 * gib, 200 * mib, 4 * gib) == 0.0
    assert weight_from_capacity(40 * gib, 64 * gib, 256 * mib, 16 * gib) > 0.0
    for group_id in groups(50):
        nodes = flat(5, {2: 0.0})
        assert "node-2" not in place(group_id, nodes, 4)


def test_small_changes_of_capacity_keep_the_weight():
    assert settle_weight(1.0, 1.4) == 1.0
    assert settle_weight(1.0, 0.7) == 1.0
    assert settle_weight(1.0, 1.6) == 1.6
    assert settle_weight(1.0, 0.5) == 0.5
    assert settle_weight(0.0, 0.5) == 0.5
