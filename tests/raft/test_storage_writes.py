"""What is handed out, when, and what its acknowledgement means: figure 2 (persistent state); thesis 10.2."""

from __future__ import annotations

import pytest

from copycat.errors import LocalMessage, PeerUnknown
from copycat.messages import LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD, ConfState, Entry, HardState, Message, Snapshot
from copycat.raft import Ready, Role

from .kit import ADD, Replica, T, app, change, only


def _write_of(ready: Ready) -> Message:
    (write,) = only(ready.messages, T.STORAGE_APPEND)
    return write


def _acknowledge(replica: Replica, write: Message) -> list[Message]:
    """The write is done: what this replica tells itself, and what it tells others."""
    for response in write.responses:
        if response.to == replica.id:
            replica.raw.step(response)
    return [response for response in write.responses if response.to != replica.id]


def test_a_ready_is_handed_out_once() -> None:
    replica = Replica()
    replica.raw.step(Message(T.APP, to=1, sender=2, term=1, **app(0, 0, 1, 1)))
    assert replica.raw.has_ready()
    ready = replica.raw.ready()
    assert (len(ready.entries), ready.must_sync, ready.hard_state) == (2, True, HardState(1, 0, 0))
    assert ready.soft_state is not None
    assert ready.soft_state.lead == 2
    assert not replica.raw.has_ready()
    assert replica.raw.ready() == Ready()


def test_a_changed_commit_index_alone_need_not_be_synced() -> None:
    """Figure 2: commitIndex is volatile; it is stored only to start faster."""
    replica = Replica(terms=[1])
    replica.raw.step(Message(T.HEARTBEAT, to=1, sender=2, term=1, commit=1))
    ready = replica.raw.ready()
    assert (ready.hard_state, ready.must_sync) == (HardState(1, 0, 1), False)


def test_a_new_term_must_be_synced_even_without_a_vote() -> None:
    replica = Replica(terms=[1])
    replica.raw.step(Message(T.HEARTBEAT, to=1, sender=2, term=2))
    assert replica.raw.ready().must_sync


def test_synchronous_messages_come_with_immediate_ones_first_and_none_to_oneself() -> None:
    leader = Replica().lead()
    leader.raw.propose(b"x")
    ready = leader.raw.ready()
    assert [(each.type, each.to) for each in ready.messages] == [(T.APP, 2), (T.APP, 3)]
    follower = Replica()
    follower.raw.step(Message(T.APP, to=1, sender=2, term=1, **app(0, 0, 1)))
    follower.raw.step(Message(T.HEARTBEAT, to=1, sender=2, term=1))
    assert [each.type for each in follower.raw.ready().messages] == [T.HEARTBEAT_RESP, T.APP_RESP]


def test_synchronous_entries_may_be_applied_in_the_ready_that_writes_them() -> None:
    replica = Replica()
    replica.raw.step(Message(T.APP, to=1, sender=2, term=1, **app(0, 0, 1, commit=1)))
    ready = replica.raw.ready()
    assert ready.entries == ready.committed_entries == [Entry(1, 1)]


def test_asynchronous_entries_are_applied_only_once_they_are_written() -> None:
    replica = Replica(async_storage_writes=True)
    replica.raw.step(Message(T.APP, to=1, sender=2, term=1, **app(0, 0, 1, commit=1)))
    ready = replica.raw.ready()
    assert not ready.committed_entries
    write = _write_of(ready)
    replica.disk.write(ready.hard_state, None, write.entries)
    _acknowledge(replica, write)
    ready = replica.raw.ready()
    (work,) = only(ready.messages, T.STORAGE_APPLY)
    assert (work.to, work.entries, work.term) == (LOCAL_APPLY_THREAD, [Entry(1, 1)], 0)
    assert replica.raw.applied == 0
    (response,) = work.responses
    assert response.sender == LOCAL_APPLY_THREAD
    replica.raw.step(response)
    assert replica.raw.applied == 1


def test_asynchronous_writes_overlap_and_each_carries_its_own_answers() -> None:
    replica = Replica(async_storage_writes=True)
    replica.raw.step(Message(T.APP, to=1, sender=2, term=1, **app(0, 0, 1)))
    first = _write_of(replica.raw.ready())
    replica.raw.step(Message(T.APP, to=1, sender=2, term=1, **app(1, 1, 1)))
    second = _write_of(replica.raw.ready())
    assert [[each.index for each in write.entries] for write in (first, second)] == [[1], [2]]
    assert [each.index for each in _acknowledge(replica, first)] == [1]
    assert replica.raw.raft.log.unstable.offset == 2
    assert [each.index for each in _acknowledge(replica, second)] == [2]
    assert not replica.raw.raft.log.has_unstable_entries()


def test_a_write_without_entries_still_acknowledges_those_that_are_on_their_way() -> None:
    """An acknowledgement of an older term is ignored; so each write of the present one repeats it."""
    replica = Replica(async_storage_writes=True)
    replica.raw.step(Message(T.APP, to=1, sender=2, term=1, **app(0, 0, 1)))
    replica.raw.ready()
    replica.raw.step(Message(T.VOTE, to=1, sender=3, term=2, log_term=1, index=1))
    write = _write_of(replica.raw.ready())
    assert not write.entries
    assert [(each.type, each.sender, each.index, each.log_term, each.term) for each in write.responses] == [
        (T.VOTE_RESP, 1, 0, 0, 2),
        (T.STORAGE_APPEND_RESP, LOCAL_APPEND_THREAD, 1, 1, 2),
    ]


def test_an_acknowledgement_of_an_older_term_is_ignored_because_a_later_write_may_overwrite_it() -> None:
    """Thesis 10.2: A, overwritten by B, then by A again. The first A's acknowledgement says nothing of the last."""
    replica = Replica(async_storage_writes=True)
    replica.raw.step(Message(T.APP, to=1, sender=2, term=1, **app(0, 0, 1)))
    write_a = _write_of(replica.raw.ready())
    replica.raw.step(Message(T.APP, to=1, sender=3, term=2, **app(0, 0, 2)))
    write_b = _write_of(replica.raw.ready())
    replica.raw.step(Message(T.APP, to=1, sender=2, term=3, **app(0, 0, 1)))
    write_a_again = _write_of(replica.raw.ready())
    _acknowledge(replica, write_a)
    _acknowledge(replica, write_b)
    assert replica.raw.raft.log.unstable.entries == [Entry(1, 1)]
    _acknowledge(replica, write_a_again)
    assert not replica.raw.raft.log.has_unstable_entries()


def test_an_acknowledgement_of_an_overwritten_entry_is_ignored() -> None:
    replica = Replica(async_storage_writes=True)
    replica.raw.step(Message(T.APP, to=1, sender=2, term=2, index=0, entries=[Entry(1, 1)]))
    write = _write_of(replica.raw.ready())
    replica.raw.raft.log.append([Entry(2, 1)])
    _acknowledge(replica, write)
    assert replica.raw.raft.log.unstable.entries == [Entry(2, 1)]


def test_overwritten_entries_are_handed_out_again() -> None:
    replica = Replica(async_storage_writes=True)
    replica.raw.step(Message(T.APP, to=1, sender=2, term=1, **app(0, 0, 1, 1, 1)))
    assert len(replica.raw.ready().entries) == 3
    replica.raw.step(Message(T.APP, to=1, sender=3, term=2, **app(1, 1, 2)))
    assert replica.raw.ready().entries == [Entry(2, 2)]


def test_a_stored_snapshot_counts_even_if_the_term_has_moved_on() -> None:
    replica = Replica(async_storage_writes=True)
    snapshot = Snapshot(5, 1, ConfState((1, 2, 3)))
    replica.raw.step(Message(T.SNAP, to=1, sender=2, term=1, snapshot=snapshot))
    ready = replica.raw.ready()
    write = _write_of(ready)
    assert write.snapshot == snapshot
    replica.disk.write(ready.hard_state, write.snapshot, [])
    replica.raw.step(Message(T.HEARTBEAT, to=1, sender=3, term=2))
    _acknowledge(replica, write)
    assert replica.raw.applied == 5
    assert replica.raw.raft.log.unstable.snapshot is None


def test_nothing_to_write_makes_no_work() -> None:
    replica = Replica(async_storage_writes=True, terms=[1])
    replica.raw.step(Message(T.HEARTBEAT, to=1, sender=2, term=1))
    replica.raw.ready()
    replica.raw.step(Message(T.HEARTBEAT, to=1, sender=2, term=1))
    assert [each.type for each in replica.raw.ready().messages] == [T.HEARTBEAT_RESP]


def test_an_asynchronous_sole_voter_elects_and_commits_by_its_writes_alone() -> None:
    replica = Replica(voters=(1,), async_storage_writes=True)
    replica.raw.campaign()
    for _ in range(20):
        if not replica.raw.has_ready():
            break
        for work in replica.raw.ready().messages:
            if work.type == T.STORAGE_APPEND:
                hard_state = HardState(work.term, work.vote, work.commit) if work.term else None
                replica.disk.write(hard_state, None, work.entries)
            for response in work.responses:
                replica.raw.step(response)
    assert (replica.raw.role, replica.raw.committed, replica.raw.applied) == (Role.LEADER, 1, 1)
    assert replica.disk.hard_state == HardState(1, 1, 1)


# --- limits ---------------------------------------------------------------------------------------------------------


def test_committed_entries_are_handed_out_up_to_the_limit_and_then_pause() -> None:
    replica = Replica(terms=[1] * 4, commit=4, committed_size_per_ready_max=12, async_storage_writes=True)
    # Six bytes each: two fill the limit.
    ready = replica.raw.ready()
    assert [each.index for each in ready.committed_entries] == [1, 2]
    assert not replica.raw.has_ready()
    (work,) = only(ready.messages, T.STORAGE_APPLY)
    replica.raw.step(work.responses[0])
    assert [each.index for each in replica.raw.ready().committed_entries] == [3, 4]


def test_a_list_that_the_limit_cut_pauses_application_until_it_is_acknowledged() -> None:
    """Otherwise a second, small piece would go out beside the first, and so on."""
    replica = Replica(terms=[1] * 3, commit=3, committed_size_per_ready_max=16, async_storage_writes=True)
    ready = replica.raw.ready()
    assert [each.index for each in ready.committed_entries] == [1, 2]
    assert not replica.raw.has_ready(), "twelve of sixteen bytes are used, yet the list was cut"
    (work,) = only(ready.messages, T.STORAGE_APPLY)
    replica.raw.step(work.responses[0])
    assert [each.index for each in replica.raw.ready().committed_entries] == [3]


def test_a_list_that_was_not_cut_does_not_pause() -> None:
    replica = Replica(terms=[1] * 3, commit=1, committed_size_per_ready_max=16, async_storage_writes=True)
    assert [each.index for each in replica.raw.ready().committed_entries] == [1]
    replica.raw.step(Message(T.HEARTBEAT, to=1, sender=2, term=1, commit=2))
    assert [each.index for each in replica.raw.ready().committed_entries] == [2]


def test_one_entry_is_handed_out_however_large() -> None:
    replica = Replica(terms=[1], commit=1, committed_size_per_ready_max=1)
    assert len(replica.raw.ready().committed_entries) == 1


# --- at the door ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", [T.HUP, T.BEAT, T.UNREACHABLE, T.SNAP_STATUS, T.CHECK_QUORUM, T.STORAGE_APPEND_RESP, T.STORAGE_APPLY_RESP]
)
def test_what_a_replica_tells_itself_is_refused_from_outside(kind: T) -> None:
    replica = Replica().lead()
    with pytest.raises(LocalMessage):
        replica.raw.step(Message(kind, to=1, sender=2))
    assert replica.raw.role == Role.LEADER


@pytest.mark.parametrize("kind", [T.APP_RESP, T.VOTE_RESP, T.PRE_VOTE_RESP, T.HEARTBEAT_RESP, T.READ_INDEX_RESP])
def test_answers_of_strangers_are_refused_whatever_ones_role(kind: T) -> None:
    for replica in (Replica(), Replica().lead()):
        with pytest.raises(PeerUnknown):
            replica.raw.step(Message(kind, to=1, sender=9, term=99))
        assert replica.raw.term < 99


def test_a_change_applied_behind_the_back_of_a_waiting_snapshot_does_not_count() -> None:
    """Thesis 10.2: the threads for applying and for writing are not in step.

    The change was handed out to be applied before the snapshot came, whose configuration goes beyond it.
    """
    replica = Replica(async_storage_writes=True, terms=[1, 1], commit=2)
    later = ConfState((1, 2, 5), (), (1, 2, 3))
    replica.raw.step(Message(T.SNAP, to=1, sender=2, term=1, snapshot=Snapshot(9, 1, later)))
    assert replica.raw.apply_conf_change(change((ADD, 4))) == later
    assert replica.raw.apply_conf_change(change()) == later
    assert replica.raw.status().config.conf_state() == later
    _acknowledge(replica, _write_of(replica.raw.ready()))
    assert replica.raw.apply_conf_change(change()) == ConfState((1, 2, 5))
