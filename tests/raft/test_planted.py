"""The seeded world finds what it is there to find: rules broken on purpose, each seen in few runs.

A guarantee that holds in a world where nothing could break it says nothing. What a run that ends so reports is the seed
and a script, and the script alone ends in the same violation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from copycat.messages import HardState, Message, MessageType
from copycat.raft import following, heartbeat, membership, quorum, replication
from copycat.raft.log import RaftLog
from copycat.raft.state import Raft
from copycat.raft.tracker import Tracker

from . import chaos
from .chaos import Violation, World

SEEDS_MAX = 60
STEPS = 2000

Plant = Callable[[pytest.MonkeyPatch], None]


def _votes_for_any_log(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RaftLog, "is_up_to_date", lambda log, term, index: True)


def _commits_older_terms_by_counting(patch: pytest.MonkeyPatch) -> None:
    def maybe_commit(raft: Raft) -> bool:
        index = raft.tracker.committed_index()
        if index <= raft.log.committed:
            return False
        raft.log.commit_to(index)
        return True

    patch.setattr(replication, "maybe_commit", maybe_commit)


def _acknowledges_before_the_write(patch: pytest.MonkeyPatch) -> None:
    def accept(raft: Raft, leader: int, index: int) -> None:
        raft.send(Message(MessageType.APP_RESP, leader, raft.id, raft.term, 0, index))

    patch.setattr(following, "_accept", accept)


def _takes_half_for_a_majority(patch: pytest.MonkeyPatch) -> None:
    def majority_index(indices: list[int]) -> int:
        return sorted([0, *indices])[(len(indices) + 2) // 2] if indices else quorum.INFINITE

    patch.setattr(quorum, "majority_index", majority_index)


def _counts_one_half_of_a_joint_election(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Tracker, "election_result", lambda tracker: quorum.vote_result(tracker.config.voters, tracker.votes))


def _takes_entries_behind_a_gap_in_terms(patch: pytest.MonkeyPatch) -> None:
    def append_after(log: RaftLog, previous: int, previous_term: int, entries: list[Any]) -> bool:
        if previous > log.last_index:
            return False
        if entries:
            log.append(entries)
        return True

    patch.setattr(RaftLog, "append_after", append_after)


def _forgets_its_vote_in_a_crash(patch: pytest.MonkeyPatch) -> None:
    def crash(disk: chaos.ChaosDisk) -> None:
        original(disk)
        disk.hard_state = HardState(disk.hard_state.term, 0, disk.hard_state.commit)

    original = chaos.ChaosDisk.crash
    patch.setattr(chaos.ChaosDisk, "crash", crash)


def _heartbeats_tell_all_that_is_committed(patch: pytest.MonkeyPatch) -> None:
    def broadcast(raft: Raft) -> None:
        for peer, _ in raft.tracker.peers:
            raft.send(
                Message(MessageType.HEARTBEAT, to=peer, sender=raft.id, term=raft.term, commit=raft.log.committed)
            )

    patch.setattr(heartbeat, "broadcast_heartbeat", broadcast)


def _proposes_any_change_at_any_time(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(membership, "may_propose", lambda raft, entry, pending: True)


def _applies_a_snapshot_it_is_ahead_of(patch: pytest.MonkeyPatch) -> None:
    def install(raft: Raft, message: Message) -> bool:
        if message.snapshot is None:
            return False
        raft.log.restore(message.snapshot)
        raft.tracker.restore(message.snapshot.conf_state, raft.log.last_index)
        return True

    patch.setattr(following, "_install", install)


PLANTS: dict[Plant, tuple[str, ...]] = {
    _votes_for_any_log: ("leader completeness",),
    _commits_older_terms_by_counting: (),
    _acknowledges_before_the_write: (),
    _takes_half_for_a_majority: (),
    _counts_one_half_of_a_joint_election: (),
    _takes_entries_behind_a_gap_in_terms: (),
    _forgets_its_vote_in_a_crash: ("election safety",),
    _heartbeats_tell_all_that_is_committed: (),
    _proposes_any_change_at_any_time: (),
    _applies_a_snapshot_it_is_ahead_of: (),
}


def _first_violation() -> tuple[World, Violation] | None:
    for seed in range(SEEDS_MAX):
        world = World(seed)
        try:
            world.run(STEPS)
            world.check_whole_logs()
        except Violation as violation:
            return world, violation
    return None
