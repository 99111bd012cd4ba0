"""Configuration changes: paper, section 6; thesis, chapter 4."""

from __future__ import annotations

import pytest

from copycat.errors import CodecError, InvalidConfChange, ProposalDropped
from copycat.messages import (
    ConfChange,
    ConfChangeSingle,
    ConfChangeType,
    ConfState,
    Entry,
    EntryType,
    HardState,
    Message,
    Snapshot,
)
from copycat.raft import ProgressState, Role, pack_conf_change, unpack_conf_change

from .kit import ADD, EXPLICIT, LEARNER, REMOVE, Replica, T, app, change, group, only

NORMAL, V2 = EntryType.NORMAL, EntryType.CONF_CHANGE_V2


def _types(replica: Replica) -> list[EntryType]:
    return [entry.type for entry in replica.disk.log]


def test_a_change_takes_effect_when_it_is_applied() -> None:
    """Not when it is appended: a replica counts by what it has applied."""
    leader = Replica().lead()
    leader.raw.propose_conf_change(change((ADD, 4)))
    leader.settle()
    assert leader.raw.status().config.voters == {1, 2, 3}
    leader.accept(2, 2)
    assert leader.raw.status().config.voters == {1, 2, 3, 4}


def test_a_new_member_is_probed_at_once() -> None:
    leader = Replica().lead()
    leader.raw.propose_conf_change(change((ADD, 4)))
    leader.settle()
    (probe,) = only(leader.accept(2, 2), T.APP, 4)
    assert (probe.index, [each.index for each in probe.entries]) == (1, [2])
    status = leader.raw.status().progress[4]
    assert (status.match, status.next, status.state, status.active) == (0, 2, ProgressState.PROBE, True)


def test_one_change_at_a_time_counting_from_the_applied_index() -> None:
    """Thesis 4.1: safe only if the last one is *applied*, not if it is merely committed."""
    leader = Replica(committed_size_per_ready_max=1).lead()
    leader.raw.propose(b"before")
    leader.raw.propose_conf_change(change((LEARNER, 4)))
    leader.raw.propose_conf_change(change((LEARNER, 5)))
    ready = leader.raw.ready()
    leader.disk.write(ready.hard_state, ready.snapshot, ready.entries)
    leader.raw.advance()
    leader.raw.step(Message(T.APP_RESP, to=1, sender=2, term=1, index=4))
    assert (leader.raw.committed, leader.raw.applied) == (4, 1)
    leader.raw.propose_conf_change(change((LEARNER, 6)))
    leader.settle()
    assert _types(leader) == [NORMAL, NORMAL, V2, NORMAL, NORMAL]
    assert leader.raw.status().config.learners == {4}
    leader.raw.propose_conf_change(change((LEARNER, 7)))
    leader.settle()
    assert _types(leader)[-1] == V2


def test_two_changes_in_one_proposal_are_one_too_many() -> None:
    leader = Replica().lead()
    data = pack_conf_change(change((LEARNER, 4)))
    message = Message(T.PROP, to=1, sender=2, entries=[Entry(0, 0, V2, data), Entry(0, 0, V2, data)])
    leader.raw.step(message)
    leader.settle()
    assert _types(leader) == [NORMAL, V2, NORMAL]


def test_a_new_leader_waits_until_its_whole_log_is_applied() -> None:
    """Its tail may hold a change; thesis 4.1."""
    leader = Replica(terms=[1, 1])
    leader.elect()
    leader.raw.propose_conf_change(change((ADD, 4)))
    leader.settle()
    assert _types(leader) == [NORMAL] * 4
    leader.accept(2, 4)
    leader.raw.propose_conf_change(change((ADD, 4)))
    leader.settle()
    assert _types(leader)[-1] == V2


def test_a_joint_configuration_must_be_left_before_the_next_change() -> None:
    """6: the transition ends before another begins."""
    leader = Replica(voters=(1,)).lead()
    leader.raw.propose_conf_change(change())
    leader.settle()
    assert _types(leader)[-1] == NORMAL, "nothing to leave"
    leader.raw.propose_conf_change(change((LEARNER, 4), transition=EXPLICIT))
    leader.settle()
    assert leader.raw.status().config.outgoing == {1}
    leader.raw.propose_conf_change(change((LEARNER, 5)))
    leader.settle()
    assert _types(leader)[-1] == NORMAL
    leader.raw.propose_conf_change(change())
    leader.settle()
    assert (_types(leader)[-1], leader.raw.status().config.joint) == (V2, False)


def test_without_validation_anything_is_appended() -> None:
    leader = Replica(voters=(1,), disable_conf_change_validation=True).lead()
    leader.raw.propose_conf_change(change((LEARNER, 4)))
    leader.raw.propose_conf_change(change((LEARNER, 5)))
    leader.settle()
    assert _types(leader) == [NORMAL, V2, V2]


def test_both_majorities_commit_while_the_configuration_is_joint() -> None:
    """6: log entries are replicated to both configurations, agreement requires majorities of both."""
    leader = Replica().lead()
    leader.raw.propose_conf_change(change((ADD, 4), (ADD, 5), (REMOVE, 2), (REMOVE, 3), transition=EXPLICIT))
    leader.settle()
    leader.accept(2, 2)
    assert leader.raw.status().config.conf_state() == ConfState((1, 4, 5), (), (1, 2, 3))
    leader.propose(b"x")
    leader.accept(4, 3)
    leader.accept(5, 3)
    assert leader.raw.committed == 2
    leader.accept(3, 3)
    assert leader.raw.committed == 3


def test_a_joint_configuration_is_left_automatically_once_it_is_applied() -> None:
    leader = Replica(voters=(1,)).lead()
    leader.raw.propose_conf_change(change((LEARNER, 4), (LEARNER, 5)))
    leader.settle()
    assert leader.raw.status().config.conf_state() == ConfState((1,), (4, 5))
    assert _types(leader) == [NORMAL, V2, V2]
    assert leader.disk.log[-1].data == b""


def test_no_second_departure_is_proposed_while_one_is_pending() -> None:
    """Applying other entries meanwhile must not propose it again."""
    leader = Replica().lead()
    leader.raw.propose_conf_change(change((ADD, 4), (ADD, 5)))
    leader.raw.propose(b"x")
    leader.raw.propose(b"y")
    leader.settle()
    leader.accept(2, 2)
    assert leader.raw.status().config.auto_leave
    assert _types(leader) == [NORMAL, V2, NORMAL, NORMAL, V2]
    leader.accept(4, 3)
    leader.accept(2, 3)
    leader.accept(4, 4)
    leader.accept(2, 4)
    assert leader.raw.applied == 4
    assert _types(leader) == [NORMAL, V2, NORMAL, NORMAL, V2]


def test_a_new_leader_leaves_the_joint_configuration_only_when_what_may_be_pending_is_applied() -> None:
    """The tail may hold the departure already."""
    replica = Replica(terms=[1, 1, 1], commit=1)
    replica.settle()
    replica.raw.apply_conf_change(change((ADD, 4), (ADD, 5)))
    replica.elect()
    assert _types(replica) == [NORMAL] * 4
    for voter in (2, 4, 5):
        replica.accept(voter, 2)
    assert replica.raw.committed == 1, "only with an entry of its own term"
    for voter in (2, 4):
        replica.accept(voter, 4)
    assert replica.raw.applied >= 4
    assert _types(replica) == [NORMAL] * 4 + [V2]


def test_a_departure_that_a_transfer_held_up_is_proposed_again() -> None:
    leader = Replica(voters=(1, 2)).lead()
    leader.raw.propose_conf_change(change((LEARNER, 4), (LEARNER, 5)))
    leader.raw.propose(b"x")
    leader.settle()
    leader.raw.transfer_leader(2)
    leader.accept(2, 2)
    assert leader.raw.status().config.auto_leave
    assert _types(leader) == [NORMAL, V2, NORMAL]
    leader.tick(10)
    leader.accept(2, 3)
    assert _types(leader) == [NORMAL, V2, NORMAL, V2]


def test_a_leader_that_removed_itself_steps_down_when_that_is_applied() -> None:
    """Thesis 4.2.2."""
    leader = Replica().lead()
    leader.raw.propose_conf_change(change((REMOVE, 1)))
    leader.settle()
    leader.accept(2, 2)
    leader.accept(3, 2)
    assert (leader.raw.role, leader.raw.lead, leader.raw.term) == (Role.FOLLOWER, 0, 1)


def test_a_demoted_leader_steps_down_too() -> None:
    leader = Replica().lead()
    leader.raw.propose_conf_change(change((LEARNER, 1)))
    leader.settle()
    leader.accept(2, 2)
    assert leader.raw.role == Role.FOLLOWER


def test_a_removed_leader_that_stays_does_not_count_itself_and_takes_no_proposals() -> None:
    """Thesis 4.2.2: it manages a group that does not include it; it replicates but doesn't count itself."""
    leader = Replica(step_down_on_removal=False).lead()
    leader.raw.propose_conf_change(change((REMOVE, 1)))
    leader.raw.propose(b"x")
    leader.settle()
    leader.accept(2, 2)
    assert leader.raw.status().config.voters == {2, 3}
    with pytest.raises(ProposalDropped):
        leader.raw.propose(b"y")
    leader.accept(2, 3)
    assert leader.raw.committed == 2
    leader.accept(3, 3)
    assert (leader.raw.committed, leader.raw.role) == (3, Role.LEADER)
    assert {each.to for each in only(leader.tick(1), T.HEARTBEAT)} == {2, 3}


def test_a_smaller_quorum_commits_what_already_suffices() -> None:
    leader = Replica(voters=(1, 2, 3, 4)).lead()
    leader.raw.propose_conf_change(change((REMOVE, 4)))
    leader.settle()
    leader.propose(b"x")
    leader.accept(2, 3)
    assert leader.raw.committed == 1
    sent = leader.accept(3, 2)
    assert leader.raw.committed == 3
    assert any(each.commit == 3 for each in only(sent, T.APP, 2))


def test_a_change_that_can_not_follow_is_refused_and_changes_nothing() -> None:
    replica = Replica(voters=(1,))
    before = replica.raw.status().config
    for bad in (change((REMOVE, 1)), ConfChange()):
        with pytest.raises(InvalidConfChange):
            replica.raw.apply_conf_change(bad)
    assert replica.raw.status().config == before


def test_a_simple_change_moves_one_voter_and_any_number_of_learners() -> None:
    """Thesis 4.1: adding or removing one server at a time keeps majorities overlapping."""
    changer = Replica().raw.raft.tracker.changer(0)
    two = change((ADD, 4), (REMOVE, 3)).changes
    with pytest.raises(InvalidConfChange):
        changer.simple(two)
    allowed = changer.simple(change((ADD, 4), (LEARNER, 5), (LEARNER, 6)).changes)
    assert allowed.config.conf_state() == ConfState((1, 2, 3, 4), (5, 6))


def test_everybody_learns_the_configuration_from_the_log() -> None:
    trio = group(1, 2, 3)
    trio.replicas[4] = Replica(4, voters=(1, 2, 3))
    trio[1].raw.campaign()
    trio.run()
    trio[1].raw.propose_conf_change(change((ADD, 4)))
    trio.run()
    assert [replica.raw.status().config.voters for replica in trio.replicas.values()] == [{1, 2, 3, 4}] * 4
    assert trio[4].raw.last_index == 2


# --- packing --------------------------------------------------------------------------------------------------------


def test_packed_changes_come_back_as_they_were() -> None:
    v1 = ConfChange((ConfChangeSingle(ConfChangeType.REMOVE, 7),), v1=True)
    for sample in (
        ConfChange(),
        v1,
        change((ADD, 1), (LEARNER, 2**63 - 1), transition=EXPLICIT),
        ConfChange((), context=b"abc"),
        ConfChange((ConfChangeSingle(ConfChangeType.UPDATE, 3),), context=b"\0" * 300),
    ):
        assert unpack_conf_change(pack_conf_change(sample)) == sample


def test_leaving_packs_to_nothing_so_that_no_limit_can_keep_it_out() -> None:
    assert pack_conf_change(ConfChange()) == b""


@pytest.mark.parametrize(
    "data",
    [
        b"\x01",
        b"\x02" + bytes(8),
        b"\x01\x00\x09" + bytes(6),
        b"\x01\x01\x00\x02\x00" + bytes(4 + 18),
        b"\x01\x00\x00\x01\x00\x00\x00\x00\x00\x09" + bytes(8),
        b"\x01\x00\x00\x01\x00\x00\x00\x00\x00" + bytes(8),
        b"\x01\x00\x00\x00\x00\x00\x00\x00\x00x",
    ],
)
def test_garbage_is_no_change(data: bytes) -> None:
    with pytest.raises(CodecError):
        unpack_conf_change(data)


def test_a_proposal_with_garbage_for_a_change_is_dropped() -> None:
    leader = Replica().lead()
    with pytest.raises(ProposalDropped):
        leader.raw.step(Message(T.PROP, to=1, sender=2, entries=[Entry(0, 0, V2, b"garbage")]))
    assert leader.raw.last_index == 1


def test_what_only_the_outgoing_half_had_goes_with_it() -> None:
    """Section 6: once the new configuration alone counts, those without a place in it are sent nothing more."""
    leader = Replica().lead()
    leader.raw.apply_conf_change(change((ADD, 4), (REMOVE, 2), transition=EXPLICIT))
    assert set(leader.raw.status().progress) == {1, 2, 3, 4}
    leader.raw.apply_conf_change(change())
    assert set(leader.raw.status().progress) == {1, 3, 4}
    assert not only(leader.propose(b"x"), T.APP, 2)


def test_a_voter_that_is_demoted_in_a_joint_change_is_a_learner_once_that_is_left() -> None:
    """Thesis 4.2.1: a learner counts for no quorum; a leader that takes it for a voter would keep its lease by it."""
    leader = Replica().lead()
    leader.raw.apply_conf_change(change((LEARNER, 2), (ADD, 4), transition=EXPLICIT))
    status = leader.raw.status()
    assert (status.config.learners_next, status.progress[2].is_learner) == ({2}, False)
    leader.raw.apply_conf_change(change())
    status = leader.raw.status()
    assert (status.config.learners, status.progress[2].is_learner) == ({2}, True)


def test_a_follower_of_a_joint_configuration_accepts_its_leader() -> None:
    replica = Replica()
    replica.raw.apply_conf_change(change((ADD, 4), (REMOVE, 2)))
    assert replica.hear(T.APP, 4, term=1, **app(0, 0, 1))[0].index == 1


def test_a_voter_that_forgot_that_it_is_the_only_one_left_can_be_told() -> None:
    """Commit indices are written behind what they speak of. Nobody else may stand, and the demoted one's log goes further."""
    pair = group(1, 2)
    first, second = pair[1], pair[2]
    first.raw.campaign()
    pair.run()
    first.raw.propose_conf_change(change((LEARNER, 2)))
    pair.run()
    first.raw.propose(b"only the demoted one still has this")
    ready = first.raw.ready()
    for message in ready.messages:
        second.raw.step(message)
    pair.drop = lambda message: True
    pair.run()
    change_at = second.raw.committed
    assert second.raw.last_index == change_at + 1
    assert not second.raw.has_vote

    first.disk.log = first.disk.log[:change_at]
    first.disk.hard_state = HardState(first.disk.hard_state.term, first.disk.hard_state.vote, change_at - 1)
    first.disk.point = Snapshot(conf_state=ConfState((1, 2)))
    first.restart()
    pair.heal()
    first.raw.campaign()
    pair.run()
    assert first.raw.role != Role.LEADER, "the other, whose log goes further, refuses"

    assert not first.raw.learn_commit(change_at, 99), "not the same entry: not believed"
    assert not first.raw.learn_commit(change_at + 1, 1), "it lacks that one"
    assert first.raw.learn_commit(change_at, second.raw.term_of(change_at) or 0)
    assert not first.raw.learn_commit(change_at, second.raw.term_of(change_at) or 0), "no news any more"
    pair.run()
    first.raw.campaign()
    pair.run()
    assert first.raw.role == Role.LEADER
    assert first.raw.has_vote
