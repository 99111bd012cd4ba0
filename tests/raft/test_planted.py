"""The seeded world finds what it is there to find: rules broken on purpose, each seen in few runs.

A guarantee that holds in a world where nothing could break it says nothing. What a run that ends so reports is the seed
and a script, and the script alone ends in the same violation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from copycat.messages import HardState, Message, MessageType
from copycat.raft import following, heartbeat, quorum
from copycat.raft.log import RaftLog
from copycat.raft.state import Raft

from . import chaos
from .chaos import Violation, World

SEEDS_MAX = 60
STEPS = 2000

Plant = Callable[[pytest.MonkeyPatch], None]


def _votes_for_any_log(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RaftLog, "is_up_to_date", lambda log, term, index: True)


def _acknowledges_before_the_write(patch: pytest.MonkeyPatch) -> None:
    def accept(raft: Raft, leader: int, index: int) -> None:
        raft.send(Message(MessageType.APP_RESP, leader, raft.id, raft.term, 0, index))

    patch.setattr(following, "_accept", accept)


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


def _takes_one_for_a_majority(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(quorum, "majority_index", lambda indices: max(indices, default=quorum.INFINITE))


# Where to begin looking. Most faults show within a few runs; a vote forgotten between two rivals takes the right moment.
PLANTS: dict[Plant, int] = {
    _votes_for_any_log: 0,
    _takes_one_for_a_majority: 0,
    _acknowledges_before_the_write: 0,
    _takes_entries_behind_a_gap_in_terms: 0,
    _heartbeats_tell_all_that_is_committed: 0,
    _forgets_its_vote_in_a_crash: 165,
}


def _first_violation(first_seed: int) -> tuple[World, Violation] | None:
    for seed in range(first_seed, first_seed + SEEDS_MAX):
        world = World(seed)
        try:
            world.run(STEPS)
            world.check_whole_logs()
        except Violation as violation:
            return world, violation
    return None


def _replay(seed: int, script: str) -> None:
    world = World(seed)
    world.replay(script)
    world.check_whole_logs()


@pytest.mark.parametrize(("plant", "first_seed"), PLANTS.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_a_broken_rule_is_seen_and_its_script_replays(
    plant: Plant, first_seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    found = _first_violation(first_seed)
    assert found is not None, f"not seen from seed {first_seed} on"
    world, violation = found
    report = world.report(violation)
    assert report.startswith(f"seed {world.seed}, step {len(world.script)}: ")
    _, script, _ = report.split("'''")
    with pytest.raises(Violation) as once_more:
        _replay(world.seed, script)
    assert str(once_more.value) == str(violation)
