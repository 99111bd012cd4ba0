"""Quorums, configuration changes and the log against twins written to be obviously right, whatever they cost."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from copycat.errors import InvalidConfChange
from copycat.messages import ConfChange, ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfState, Entry
from copycat.raft import Compacted, quorum
from copycat.raft.confchange import Configuration
from copycat.raft.log import RaftLog, cut_to_size, entries_size, entry_size
from copycat.raft.quorum import VoteResult
from copycat.raft.tracker import Tracker

from .kit import Disk

IDS = st.integers(1, 6)
VOTERS = st.frozensets(IDS, max_size=6)
QUICK = settings(max_examples=300, deadline=None, derandomize=True)


# --- quorums: look at every majority there is -------------------------------------------------------------------------


def _majorities(voters: frozenset[int]) -> list[frozenset[int]]:
    needed = len(voters) // 2 + 1
    return [frozenset(some) for size in range(needed, len(voters) + 1) for some in combinations(sorted(voters), size)]


def _dumb_committed(voters: frozenset[int], acknowledged: dict[int, int]) -> int:
    candidates = {0, *acknowledged.values()}
    if not voters:
        return quorum.INFINITE
    return max(
        index
        for index in candidates
        if any(all(acknowledged.get(voter, 0) >= index for voter in some) for some in _majorities(voters))
    )


def _dumb_vote(voters: frozenset[int], votes: dict[int, bool]) -> VoteResult:
    def some_majority(fits: dict[int, bool]) -> bool:
        return not voters or any(all(fits[voter] for voter in some) for some in _majorities(voters))

    if some_majority({voter: votes.get(voter, False) for voter in voters}):
        return VoteResult.WON
    if some_majority({voter: votes.get(voter, True) for voter in voters}):
        return VoteResult.PENDING
    return VoteResult.LOST


@QUICK
@given(VOTERS, VOTERS, st.dictionaries(IDS, st.integers(0, 9)))
def test_committed_index_is_the_largest_that_some_majority_has(
    incoming: frozenset[int], outgoing: frozenset[int], acknowledged: dict[int, int]
) -> None:
    assert quorum.committed_index(incoming, acknowledged) == _dumb_committed(incoming, acknowledged)
    expected = min(_dumb_committed(incoming, acknowledged), _dumb_committed(outgoing, acknowledged))
    assert quorum.joint_committed_index(incoming, outgoing, acknowledged) == expected


@QUICK
@given(VOTERS, VOTERS, st.dictionaries(IDS, st.booleans()))
def test_a_vote_is_won_lost_or_open_as_the_majorities_say(
    incoming: frozenset[int], outgoing: frozenset[int], votes: dict[int, bool]
) -> None:
    first, second = _dumb_vote(incoming, votes), _dumb_vote(outgoing, votes)
    assert quorum.vote_result(incoming, votes) is first
    joint = quorum.joint_vote_result(incoming, outgoing, votes)
    if VoteResult.LOST in (first, second):
        assert joint is VoteResult.LOST
    elif first is second is VoteResult.WON:
        assert joint is VoteResult.WON
    else:
        assert joint is VoteResult.PENDING


@QUICK
@given(VOTERS.filter(bool), VOTERS, st.dictionaries(IDS, st.integers(0, 9)))
def test_the_tracker_commits_by_the_matches_of_its_members(
    incoming: frozenset[int], outgoing: frozenset[int], matches: dict[int, int]
) -> None:
    tracker = Tracker(1, 10, 1000)
    tracker.restore(ConfState(tuple(incoming), (), tuple(outgoing)), 0)
    for replica, progress in tracker.members.items():
        progress.match = matches.get(replica, 0)
    assert tracker.committed_index() == quorum.joint_committed_index(incoming, outgoing, matches)


# --- configuration changes: replay on plain sets ----------------------------------------------------------------------

OPERATIONS = st.lists(
    st.builds(ConfChangeSingle, st.sampled_from(list(ConfChangeType)), st.integers(0, 5)), max_size=4
).map(tuple)
CHANGES = st.builds(ConfChange, OPERATIONS, st.sampled_from(list(ConfChangeTransition)))


class DumbConfiguration:
    """Roles in one dictionary: of each half, and of who waits."""

    def __init__(self) -> None:
        self.incoming: set[int] = {1}
        self.outgoing: set[int] = set()
        self.wants_to_learn: set[int] = set()
        self.auto = False

    def apply(self, change: ConfChange) -> bool:
        leaving = not change.changes and change.transition == ConfChangeTransition.AUTO
        simple = len(change.changes) == 1 and change.transition == ConfChangeTransition.AUTO
        if leaving:
            if not self.outgoing:
                return False
            self.outgoing, self.auto = set(), False
            return True
        if self.outgoing:
            return False
        incoming, learning = set(self.incoming), set(self.wants_to_learn)
        for single in change.changes:
            if single.id == 0 or single.type == ConfChangeType.UPDATE:
                continue
            incoming.discard(single.id) if single.type != ConfChangeType.ADD_VOTER else incoming.add(single.id)
            learning.add(single.id) if single.type == ConfChangeType.ADD_LEARNER else learning.discard(single.id)
        if not incoming or (simple and len(incoming ^ self.incoming) > 1):
            return False
        if not simple:
            self.outgoing = set(self.incoming)
            self.auto = change.transition != ConfChangeTransition.JOINT_EXPLICIT
        self.incoming, self.wants_to_learn = incoming, learning
        return True

    def state(self) -> ConfState:
        return ConfState(
            voters=tuple(sorted(self.incoming)),
            learners=tuple(sorted(self.wants_to_learn - self.outgoing)),
            voters_outgoing=tuple(sorted(self.outgoing)),
            learners_next=tuple(sorted(self.wants_to_learn & self.outgoing)),
            auto_leave=self.auto,
        )


@QUICK
@given(st.lists(CHANGES, max_size=8))
def test_configurations_follow_each_other_as_plain_sets_say(changes: list[ConfChange]) -> None:
    tracker = Tracker(1, 10, 1000)
    tracker.restore(ConfState((1,)), 5)
    dumb = DumbConfiguration()
    for number, change in enumerate(changes):
        known = {replica: progress.next for replica, progress in tracker.members.items()}
        try:
            tracker.install(tracker.changer(10 + number).apply(change))
            accepted = True
        except InvalidConfChange:
            accepted = False
        assert accepted == dumb.apply(change), change
        config = tracker.config
        assert config.conf_state() == dumb.state()
        assert set(tracker.members) == config.voters | config.outgoing | config.learners
        for replica, progress in tracker.members.items():
            assert progress.is_learner == (replica in config.learners)
            assert progress.next == known.get(replica, 10 + number), "progress is kept, or starts at the last index"
        assert [replica for replica, _ in tracker.peers] == sorted(set(tracker.members) - {1})


@QUICK
@given(st.lists(CHANGES, max_size=8))
def test_any_two_configurations_that_follow_each_other_share_a_voter_in_every_quorum(changes: list[ConfChange]) -> None:
    """6: at no point may two leaders be elected in one term by disjoint majorities."""
    tracker = Tracker(1, 10, 1000)
    tracker.restore(ConfState((1,)), 5)
    everybody = range(1, 6)

    def wins(config: Configuration, some: frozenset[int]) -> bool:
        votes = {replica: replica in some for replica in everybody}
        return quorum.joint_vote_result(config.voters, config.outgoing, votes) is VoteResult.WON

    for change in changes:
        before = tracker.config
        try:
            tracker.install(tracker.changer(1).apply(change))
        except InvalidConfChange:
            continue
        for size in range(1, 6):
            for some in map(frozenset, combinations(everybody, size)):
                rest = frozenset(everybody) - some
                assert not (wins(before, some) and wins(tracker.config, rest)), (before, tracker.config, some)


# --- the log: one plain list ------------------------------------------------------------------------------------------


class DumbLog:
    """Terms by index from 0 on; nothing is compacted, nothing is unstable."""

    def __init__(self, terms: list[int]) -> None:
        self.terms = [0, *terms]

    def append_after(self, previous: int, previous_term: int, terms: list[int]) -> bool:
        if previous >= len(self.terms) or self.terms[previous] != previous_term:
            return False
        for offset, term in enumerate(terms, previous + 1):
            if offset < len(self.terms) and self.terms[offset] != term:
                del self.terms[offset:]
            if offset >= len(self.terms):
                self.terms.append(term)
        return True

    def probable_match(self, index: int, term: int) -> int:
        return max(each for each in range(index + 1) if each >= len(self.terms) or self.terms[each] <= term)


@st.composite
def _log_histories(draw: st.DrawFn) -> tuple[list[int], int, list[tuple[int, list[int], int]]]:
    stored = sorted(draw(st.lists(st.integers(1, 4), max_size=6)))
    point = draw(st.integers(0, len(stored)))
    steps = draw(
        st.lists(
            st.tuples(st.integers(0, 10), st.lists(st.integers(1, 6), max_size=4).map(sorted), st.integers(0, 3)),
            max_size=12,
        )
    )
    return stored, point, steps


@QUICK
@given(_log_histories())
def test_the_log_is_one_list_whatever_is_stored_written_or_compacted(
    history: tuple[list[int], int, list[tuple[int, list[int], int]]],
) -> None:
    stored, point, steps = history
    disk = Disk()
    disk.log = [Entry(term, index) for index, term in enumerate(stored, 1)]
    if point:
        disk.compact(point)
    log = RaftLog(disk, 1 << 20)
    dumb = DumbLog(stored)
    writes: list[list[Entry]] = []
    for previous, terms, fate in steps:
        if previous < point:
            continue
        before = dumb.terms[previous] if previous < len(dumb.terms) else 1
        if terms and before > terms[0]:
            continue
        entries = [Entry(term, index) for index, term in enumerate(terms, previous + 1)]
        assert log.append_after(previous, before, entries) == dumb.append_after(previous, before, terms)
        last = len(dumb.terms) - 1
        assert (log.last_index, log.last_term) == (last, dumb.terms[-1])
        if fate >= 1:
            handed_out = log.unstable.new_entries()
            log.unstable.hand_out()
            assert not log.unstable.has_new_entries()
            if handed_out:
                writes.append(handed_out)
            if fate >= 2 and writes:
                for written in writes:
                    disk.write(None, None, written)
                log.stable_to(writes[-1][-1].index, writes[-1][-1].term)
                writes.clear()
            if fate == 3 and disk.last_index() > point and not log.unstable.entries:
                point += 1
                disk.compact(point)
        assert log.first_index() == point + 1
        for index in range(last + 3):
            expected = dumb.terms[index] if point <= index <= last else None
            assert log.term(index) == expected, index
        for low in range(point + 1, last + 2):
            assert [entry.term for entry in log.entries(low, 1 << 20)] == dumb.terms[low:]
            for high in range(low + 1, last + 2):
                whole = log.slice(low, high, 1 << 20)
                assert [entry.index for entry in whole] == list(range(low, high))
                part = log.slice(low, high, 14)
                assert part == whole[: max(1, len(part))]
                assert len(part) == min(2, len(whole)), "six bytes an entry: two fit"
        if point:
            with pytest.raises(Compacted):
                log.slice(point, point + 1, 10)
        if point == 0:
            for index in range(last + 1):
                for term in range(7):
                    assert log.probable_match(index, term) == dumb.probable_match(index, term)


@QUICK
@given(st.lists(st.binary(max_size=300), max_size=8), st.integers(0, 600))
def test_cutting_to_a_size_keeps_the_longest_beginning_that_fits(payloads: list[bytes], bytes_max: int) -> None:
    entries = [Entry(3, index, data=data) for index, data in enumerate(payloads, 1)]
    kept = cut_to_size(entries, bytes_max)
    assert kept == entries[: len(kept)]
    if entries:
        assert kept
        assert len(kept) == 1 or entries_size(kept) <= bytes_max
        if len(kept) < len(entries):
            assert entries_size(entries[: len(kept) + 1]) > bytes_max


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


@QUICK
@given(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1), st.integers(0, 40_000))
def test_an_entrys_size_is_that_of_its_protocol_buffer(term: int, index: int, length: int) -> None:
    packed = b"\x08\x00" + b"\x10" + _varint(term) + b"\x18" + _varint(index)
    if length:
        packed += b"\x22" + _varint(length) + bytes(length)
    assert entry_size(Entry(term, index, data=bytes(length))) == len(packed)


@QUICK
@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=6).map(sorted),
    st.lists(st.integers(1, 4), min_size=1, max_size=6).map(sorted),
)
def test_up_to_date_compares_last_terms_then_lengths(mine: list[int], theirs: list[int]) -> None:
    """5.4.1."""
    disk = Disk()
    disk.log = [Entry(term, index) for index, term in enumerate(mine, 1)]
    log = RaftLog(disk, 1)
    assert log.is_up_to_date(theirs[-1], len(theirs)) == ((theirs[-1], len(theirs)) >= (mine[-1], len(mine)))
