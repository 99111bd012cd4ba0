"""Snapshots in the place of a log: paper, section 7 and figure 13; thesis, chapter 5."""

from __future__ import annotations

import pytest

from copycat.messages import ConfState, Message, Snapshot
from copycat.raft import NO_LIMIT, ProgressState

from .kit import Replica, T, app, group, only


def _compacted_leader(**options: object) -> Replica:
    leader = Replica(terms=[1] * 5, commit=5, **options).lead()  # type: ignore[arg-type]
    leader.disk.compact(5)
    return leader


def test_a_peer_that_needs_compacted_entries_gets_a_snapshot_if_it_was_heard_from_lately() -> None:
    """7: when the leader has discarded the next entry that it needs."""
    leader = _compacted_leader()
    leader.progress(2).become_probe()
    leader.progress(2).match, leader.progress(2).next = 0, 1
    leader.progress(2).active = False
    assert not only(leader.propose(b"x"), T.SNAP)
    sent = only(leader.hear(T.HEARTBEAT_RESP, 2), T.SNAP, 2)
    assert [(each.snapshot.index, each.snapshot.term) for each in sent if each.snapshot] == [(5, 1)]
    progress = leader.progress(2)
    assert progress.state is ProgressState.SNAPSHOT
    assert (progress.pending_snapshot, progress.next, progress.sent_commit) == (5, 6, 5)
    assert not only(leader.propose(b"y"), T.APP, 2)


def test_without_a_snapshot_at_hand_the_peer_waits() -> None:
    leader = _compacted_leader()
    leader.disk.newest = None
    leader.progress(2).become_probe()
    leader.progress(2).match, leader.progress(2).next = 0, 1
    assert not only(leader.propose(b"x"), T.SNAP)
    assert leader.progress(2).state is ProgressState.PROBE


def test_any_snapshot_that_reaches_the_leaders_log_ends_the_wait() -> None:
    leader = _compacted_leader()
    leader.progress(2).match = 0
    leader.progress(2).become_snapshot(6)
    sent = only(leader.accept(2, 5), T.APP, 2)
    assert leader.progress(2).state is ProgressState.REPLICATE
    assert [each.index for message in sent for each in message.entries] == [6]
    leader.progress(3).match = 0
    leader.progress(3).become_snapshot(6)
    leader.accept(3, 4)
    assert leader.progress(3).state is ProgressState.SNAPSHOT


@pytest.mark.parametrize(("ok", "next_index"), [(True, 7), (False, 2)])
def test_a_snapshots_fate_returns_the_peer_to_probing_but_paused(ok: bool, next_index: int) -> None:
    leader = _compacted_leader()
    leader.progress(2).match = 1
    leader.progress(2).become_snapshot(6)
    leader.raw.report_snapshot(2, ok)
    progress = leader.progress(2)
    assert (progress.state, progress.next, progress.paused) == (ProgressState.PROBE, next_index, True)


def test_a_snapshot_replaces_log_and_configuration() -> None:
    """Figure 13, InstallSnapshot."""
    replica = Replica(terms=[1, 1])
    state = ConfState((1, 2, 3, 4), (5,))
    replica.raw.step(Message(T.SNAP, to=1, sender=2, term=2, snapshot=Snapshot(9, 2, state, b"d")))
    ready = replica.raw.ready()
    assert ready.snapshot is not None
    assert [(each.type, each.index) for each in ready.messages] == [(T.APP_RESP, 9)]
    replica.disk.write(ready.hard_state, ready.snapshot, ready.entries)
    assert not ready.committed_entries
    replica.raw.advance()
    assert (replica.raw.committed, replica.raw.applied, replica.raw.last_index, replica.raw.first_index) == (
        9,
        9,
        9,
        10,
    )
    assert replica.raw.status().config.conf_state() == state
    replica.hear(T.APP, 2, term=2, **app(9, 2, 2))
    assert replica.raw.last_index == 10


def test_a_snapshot_that_the_log_holds_already_only_commits() -> None:
    """7: if a follower receives a snapshot that describes a prefix of its log, the entries behind it are retained."""
    replica = Replica(terms=[1, 1, 1])
    state = ConfState((1, 2, 3))
    (answer,) = replica.hear(T.SNAP, 2, term=1, snapshot=Snapshot(2, 1, state))
    assert (answer.index, replica.raw.committed, replica.raw.last_index) == (2, 2, 3)
    (answer,) = replica.hear(T.SNAP, 2, term=1, snapshot=Snapshot(1, 1, state))
    assert (answer.index, replica.raw.committed) == (2, 2)


def test_a_snapshot_in_which_a_replica_does_not_occur_is_refused() -> None:
    replica = Replica()
    (answer,) = replica.hear(T.SNAP, 2, term=1, snapshot=Snapshot(5, 1, ConfState((2, 3))))
    assert (answer.index, replica.raw.last_index) == (0, 0)
    for state in (ConfState((2,), (1,)), ConfState((2,), (), (1, 2))):
        learner = Replica()
        (answer,) = learner.hear(T.SNAP, 2, term=1, snapshot=Snapshot(5, 1, state))
        assert answer.index == 5


def test_nothing_is_applied_while_a_snapshot_waits_to_be_stored() -> None:
    replica = Replica(terms=[1], async_storage_writes=True)
    state = ConfState((1, 2, 3))
    replica.raw.step(Message(T.SNAP, to=1, sender=2, term=1, snapshot=Snapshot(5, 1, state)))
    replica.raw.step(Message(T.APP, to=1, sender=2, term=1, **app(5, 1, 1, commit=6)))
    ready = replica.raw.ready()
    assert ready.snapshot is not None
    assert [each.index for each in ready.entries] == [6]
    assert not ready.committed_entries
    (write,) = ready.messages
    replica.disk.write(ready.hard_state, ready.snapshot, ready.entries)
    for response in write.responses:
        if response.to == 1:
            replica.raw.step(response)
    assert replica.raw.applied == 5
    assert [each.index for each in replica.raw.ready().committed_entries] == [6]


def test_a_follower_that_lost_nothing_catches_up_through_a_snapshot() -> None:
    """7, from end to end."""
    trio = group(1, 2, 3, inflight_bytes_max=NO_LIMIT)
    trio[1].raw.campaign()
    trio.run()
    trio.isolate(3)
    for number in range(20):
        trio[1].raw.propose(b"%d" % number)
        trio.run()
    trio[1].disk.compact(15)
    trio.heal()
    for _ in range(3):
        trio[1].raw.tick()
        trio.run()
    assert trio[3].raw.applied == 21
    assert trio[3].disk.point.index >= 15


def test_a_snapshot_of_what_is_committed_here_replaces_nothing() -> None:
    """7: it describes a prefix of the log, here one that was compacted away; what follows is retained."""
    replica = Replica(terms=[1] * 6, commit=5)
    replica.settle()
    replica.disk.compact(4)
    (answer,) = replica.hear(T.SNAP, 2, snapshot=Snapshot(3, 1, ConfState((1, 2))))
    assert (answer.type, answer.index, answer.reject) == (T.APP_RESP, 5, False)
    assert (replica.raw.last_index, replica.raw.status().config.voters) == (6, {1, 2, 3})
