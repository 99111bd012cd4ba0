"""The log's index, its waste and its cache, each against an obviously right twin."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from copycat.entrycache import ENTRY_OBJECT_BYTES, CacheBudget, EntryCache
from copycat.indexranges import IndexRange, IndexRanges
from copycat.logindex import ENTRY_OVERHEAD_BYTES, LogIndex
from copycat.messages import Entry, EntryType
from copycat.raft.storage import Compacted, Unavailable

index_steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 2), st.integers(0, 9)),
        st.tuples(st.just("truncate"), st.integers(0, 6), st.just(0)),
        st.tuples(st.just("compact"), st.integers(0, 6), st.just(0)),
    ),
    max_size=60,
)


@settings(deadline=None, derandomize=True)
@given(st.integers(0, 3), index_steps)
def test_the_index_matches_a_list(start: int, steps: list[tuple[str, int, int]]) -> None:
    index = LogIndex(start, 1)
    twin: dict[int, tuple[int, int]] = {}  # index -> term, bytes
    first, first_term = start, 1
    for step, number, size in steps:
        last = first + len(twin)
        if step == "append":
            term = index.term(last) + number
            index.append(term, size)
            twin[last + 1] = (term, size)
        elif step == "truncate":
            wanted = max(last - number, first)
            index.truncate(wanted)
            twin = {at: entry for at, entry in twin.items() if at <= wanted}
        else:
            wanted = min(first + number, last)
            if wanted > first:
                first_term = twin[wanted][0]
            index.compact(wanted)
            twin = {at: entry for at, entry in twin.items() if at > wanted}
            first = wanted
        last = first + len(twin)
        assert (index.start_index, index.start_term, index.last_index) == (first, first_term, last)
        assert [index.term(at) for at in range(first, last + 1)] == [first_term, *(term for term, _ in twin.values())]
        assert index.log_bytes == sum(size + ENTRY_OVERHEAD_BYTES for _, size in twin.values())
    last = first + len(twin)
    for low in range(first + 1, last + 1):
        for high in range(low + 1, last + 2):
            sizes = [twin[at][1] for at in range(low, high)]
            assert index.bytes_between(low, high) == sum(sizes) + len(sizes) * ENTRY_OVERHEAD_BYTES
            for bytes_max in (0, 5, 12):
                stop = low + 1
                while stop < high and sum(sizes[: stop - low + 1]) <= bytes_max:
                    stop += 1
                assert index.cut(low, high, bytes_max) == stop
    assert index.bytes_between(0, last + 5) == index.log_bytes
    with pytest.raises(Compacted):
        index.term(first - 1)
    with pytest.raises(Unavailable):
        index.term(last + 1)
    with pytest.raises(ValueError, match="compacted"):
        index.truncate(first - 1)


@settings(deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 30), st.integers(-2, 8)), max_size=30),
    st.integers(0, 30),
    st.integers(-1, 10),
    st.integers(0, 12),
)
def test_ranges_match_a_set(steps: list[tuple[bool, int, int]], low: int, length: int, count_max: int) -> None:
    ranges = IndexRanges()
    twin: set[int] = set()
    for is_added, start, more in steps:
        if is_added:
            ranges.add(start, start + more)
            twin |= set(range(start, start + more + 1))
        else:
            ranges.remove(start, start + more)
            twin -= set(range(start, start + more + 1))
        pieces = list(ranges)
        assert all(piece.low <= piece.high for piece in pieces)
        assert all(one.high + 1 < other.low for one, other in itertools.pairwise(pieces))
        assert spread(pieces) == sorted(twin)
        assert bool(ranges) == bool(twin)
    outside = ranges.outside(low, low + length)
    assert spread(list(outside)) == sorted(twin - set(range(low, low + length + 1)))
    assert spread(outside.smallest(count_max)) == spread(list(outside))[:count_max]
    assert spread(list(ranges)) == sorted(twin)


def spread(pieces: list[IndexRange]) -> list[int]:
    return [index for low, high in pieces for index in range(low, high + 1)]


@settings(deadline=None, derandomize=True)
@given(
    st.integers(0, 2000),
    st.lists(st.tuples(st.integers(-4, 2), st.lists(st.integers(0, 300), min_size=1, max_size=4)), max_size=25),
)
def test_the_cache_holds_the_newest_entries_and_counts_right(
    bytes_max: int, steps: list[tuple[int, list[int]]]
) -> None:
    cache = EntryCache(CacheBudget(bytes_max))
    log: dict[int, Entry] = {}
    last = 20
    for term, (offset, sizes) in enumerate(steps):
        first = last + 1 + offset  # truncates, continues, or leaves a gap, as after an installed snapshot
        entries = [Entry(term, first + at, EntryType.NORMAL, b"x" * size) for at, size in enumerate(sizes)]
        cache.append(entries)
        log = {index: entry for index, entry in log.items() if index < first} | {
            entry.index: entry for entry in entries
        }
        last = entries[-1].index
        held = [log[index] for index in range(cache.first_index, last + 1)]
        assert len(cache) == len(held)
        if held:
            assert cache.entries(cache.first_index, last + 1) == held
        assert sum(len(entry.data) + ENTRY_OBJECT_BYTES for entry in held) <= bytes_max
        # and nothing was dropped that fits, since the last truncation
        if cache.first_index > first:
            dropped = log[min(cache.first_index, last + 1) - 1]
            assert sum(len(entry.data) + ENTRY_OBJECT_BYTES for entry in [dropped, *held]) > bytes_max


@settings(deadline=None, derandomize=True)
@given(
    st.integers(0, 4000),
    st.integers(0, 2000),
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["append", "clear", "compact"]), st.integers(0, 900))),
)
def test_caches_share_one_budget_and_the_idlest_gives_way_first(
    bytes_max: int, log_bytes_max: int, steps: list[tuple[int, str, int]]
) -> None:
    budget = CacheBudget(bytes_max, log_bytes_max)
    caches = [EntryCache(budget) for _ in range(4)]
    last = [0] * 4
    order: list[int] = []
    for number, action, size in steps:
        cache = caches[number]
        before = [len(each) for each in caches]
        if action == "append":
            last[number] += 1
            cache.append([Entry(1, last[number], EntryType.NORMAL, bytes(size))])
            order = [each for each in order if each != number] + [number]
            lost = [each for each in order[:-1] if len(caches[each]) < before[each]]
            assert order[: len(lost)] == lost or not all(before[each] for each in order[: len(lost)])
        elif action == "clear":
            cache.clear()
        elif len(cache):
            cache.compact(cache.first_index)
        held = [
            sum(size_of(entry) for entry in each.entries(each.first_index, last[at] + 1)) if len(each) else 0
            for at, each in enumerate(caches)
        ]
        assert budget.bytes_used == sum(held) <= bytes_max
        assert [each.bytes_used for each in caches] == held
        assert max(held) <= log_bytes_max


def size_of(entry: Entry) -> int:
    return len(entry.data) + ENTRY_OBJECT_BYTES
