"""Handing leadership over (thesis 3.10), reads (thesis 6.4; paper 8), and limits on proposals."""

from __future__ import annotations

import pytest

from copycat.errors import InvalidConfig, ProposalDropped
from copycat.messages import Entry, Message
from copycat.raft import ReadOnly, ReadState, Role

from .kit import ADD, LEARNER, REMOVE, Replica, T, change, group, only

# --- transfer -------------------------------------------------------------------------------------------------------


def test_an_up_to_date_target_is_told_to_stand_at_once() -> None:
    leader = Replica().lead()
    leader.raw.transfer_leader(2)
    assert [(each.type, each.to) for each in leader.settle()] == [(T.TIMEOUT_NOW, 2)]


def test_a_target_that_lags_is_brought_up_to_date_first() -> None:
    """Thesis 3.10, step 2."""
    leader = Replica().lead()
    leader.propose(b"x")
    leader.raw.transfer_leader(2)
    assert not only(leader.settle(), T.TIMEOUT_NOW)
    assert [each.to for each in only(leader.accept(2, 2), T.TIMEOUT_NOW)] == [2]


def test_proposals_are_dropped_while_leadership_is_handed_over() -> None:
    """Thesis 3.10, step 1: the prior leader stops accepting new client requests."""
    leader = Replica().lead()
    leader.raw.transfer_leader(2)
    with pytest.raises(ProposalDropped):
        leader.raw.propose(b"x")
    with pytest.raises(ProposalDropped):
        leader.raw.step(Message(T.PROP, to=1, sender=3, entries=[Entry(0, 0, data=b"x")]))
    assert leader.raw.last_index == 1


def test_an_unfinished_transfer_ends_after_an_election_timeout() -> None:
    """Thesis 3.10: if it has not completed after about an election timeout, the prior leader resumes."""
    leader = Replica().lead()
    leader.tick(7)
    leader.raw.transfer_leader(2)
    leader.tick(9)
    with pytest.raises(ProposalDropped):
        leader.raw.propose(b"x")
    leader.tick(1)
    leader.propose(b"x")
    assert leader.raw.last_index == 2


def test_a_transfer_to_nobody_suitable_is_ignored() -> None:
    leader = Replica(learners=(4,)).lead()
    for target in (1, 4, 9):
        leader.raw.transfer_leader(target)
        assert not leader.settle()
        leader.propose(b"x")
    assert leader.raw.last_index == 4


def test_another_target_replaces_the_first_and_the_same_one_does_not_restart() -> None:
    leader = Replica().lead()
    leader.raw.transfer_leader(2)
    leader.settle()
    leader.tick(5)
    leader.raw.transfer_leader(2)
    assert not leader.settle()
    assert leader.raw.raft.election_elapsed == 5
    leader.raw.transfer_leader(3)
    assert [each.to for each in only(leader.settle(), T.TIMEOUT_NOW)] == [3]
    assert leader.raw.status().lead_transferee == 3


def test_a_target_that_stops_being_a_voter_ends_the_transfer() -> None:
    leader = Replica().lead()
    leader.raw.propose_conf_change(change((LEARNER, 2)))
    leader.settle()
    leader.raw.transfer_leader(2)
    leader.settle()
    leader.accept(3, 2)
    assert leader.raw.status().lead_transferee == 0
    leader.propose(b"x")


def test_a_change_that_keeps_the_target_does_not_end_the_transfer() -> None:
    leader = Replica().lead()
    leader.raw.propose_conf_change(change((ADD, 4)))
    leader.settle()
    leader.raw.transfer_leader(2)
    leader.settle()
    leader.accept(3, 2)
    assert leader.raw.status().lead_transferee == 2


def test_the_target_stands_at_once_without_pre_vote_and_says_why() -> None:
    replica = Replica(pre_vote=True)
    replica.hear(T.HEARTBEAT, 2, term=1)
    sent = replica.hear(T.TIMEOUT_NOW, 2, term=1)
    assert replica.raw.role == Role.CANDIDATE
    assert [(each.type, each.context) for each in sent] == [(T.VOTE, b"CampaignTransfer")] * 2


def test_an_ordinary_election_does_not_claim_to_be_a_hand_over() -> None:
    replica = Replica()
    replica.raw.campaign()
    assert {each.context for each in only(replica.settle(), T.VOTE)} == {b""}


def test_a_follower_passes_the_wish_on_to_its_leader() -> None:
    follower = Replica(2)
    follower.raw.transfer_leader(3)
    assert not follower.settle()
    follower.hear(T.HEARTBEAT, 1, term=1)
    follower.raw.transfer_leader(3)
    (wish,) = follower.settle()
    assert (wish.type, wish.to, wish.sender) == (T.TRANSFER_LEADER, 1, 3)


def test_leadership_moves_within_the_lease() -> None:
    trio = group(1, 2, 3, pre_vote=True, check_quorum=True)
    trio[1].raw.campaign()
    trio.run()
    trio[1].raw.transfer_leader(3)
    trio.run()
    assert [replica.raw.lead for replica in trio.replicas.values()] == [3, 3, 3]


# --- reads ----------------------------------------------------------------------------------------------------------


def test_a_safe_read_waits_for_a_quorum_that_heard_the_leader_after_it_came() -> None:
    """Thesis 6.4, steps 2 and 3."""
    leader = Replica(voters=(1, 2, 3, 4, 5)).lead()
    leader.raw.read_index(b"r")
    beats = only(leader.settle(), T.HEARTBEAT)
    assert {each.to for each in beats} == {2, 3, 4, 5}
    context = beats[0].context
    leader.hear(T.HEARTBEAT_RESP, 2)
    leader.hear(T.HEARTBEAT_RESP, 3)
    leader.hear(T.HEARTBEAT_RESP, 2, context=context)
    leader.hear(T.HEARTBEAT_RESP, 2, context=context)
    assert not leader.reads
    leader.hear(T.HEARTBEAT_RESP, 4, context=context)
    assert leader.reads == [ReadState(1, b"r")]


def test_a_heartbeats_context_counts_requests_and_one_answer_vouches_for_all_before_it() -> None:
    leader = Replica().lead()
    leader.raw.read_index(b"a")
    leader.propose(b"x")
    leader.accept(2, 2)
    leader.raw.read_index(b"b")
    contexts = [each.context for each in only(leader.settle(), T.HEARTBEAT, 2)]
    leader.raw.read_index(b"c")
    contexts += [each.context for each in only(leader.settle(), T.HEARTBEAT, 2)]
    assert contexts[-2:] == [(2).to_bytes(8, "little"), (3).to_bytes(8, "little")]
    leader.hear(T.HEARTBEAT_RESP, 3, context=contexts[-2])
    assert leader.reads == [ReadState(1, b"a"), ReadState(2, b"b")]
    leader.hear(T.HEARTBEAT_RESP, 2, context=contexts[-1])
    assert leader.reads[2:] == [ReadState(2, b"c")]


def test_an_answer_to_an_earlier_heartbeat_does_not_vouch_for_a_later_read() -> None:
    leader = Replica().lead()
    leader.raw.read_index(b"a")
    leader.settle()
    leader.raw.read_index(b"b")
    leader.settle()
    leader.hear(T.HEARTBEAT_RESP, 2, context=(1).to_bytes(8, "little"))
    assert leader.reads == [ReadState(1, b"a")]
    for nonsense in (b"x", (9).to_bytes(8, "little"), bytes(8), bytes(9)):
        leader.hear(T.HEARTBEAT_RESP, 2, context=nonsense)
    assert len(leader.reads) == 1


def test_periodic_heartbeats_repeat_the_question_while_a_read_waits() -> None:
    leader = Replica().lead()
    assert {each.context for each in only(leader.tick(1), T.HEARTBEAT)} == {b""}
    leader.raw.read_index(b"a")
    leader.settle()
    assert {each.context for each in only(leader.tick(1), T.HEARTBEAT)} == {(1).to_bytes(8, "little")}
    leader.hear(T.HEARTBEAT_RESP, 2, context=(1).to_bytes(8, "little"))
    assert {each.context for each in only(leader.tick(1), T.HEARTBEAT)} == {b""}


def test_a_read_waits_until_the_leader_has_committed_an_entry_of_its_term() -> None:
    """Thesis 6.4, step 1; 8: it does not know what is committed before that."""
    for options in ({}, {"read_only": ReadOnly.LEASE_BASED, "check_quorum": True}):
        leader = Replica(terms=[1], commit=1, **options)  # type: ignore[arg-type]
        leader.elect()
        leader.raw.read_index(b"r")
        assert not only(leader.settle(), T.HEARTBEAT)
        assert not leader.reads
        sent = leader.accept(2, 2)
        if options:
            assert leader.reads == [ReadState(2, b"r")]
        else:
            (beat,) = only(sent, T.HEARTBEAT, 2)
            leader.hear(T.HEARTBEAT_RESP, 2, context=beat.context)
            assert leader.reads == [ReadState(2, b"r")]


def test_reads_that_wait_are_bounded() -> None:
    leader = Replica(terms=[1], waiting_reads_max=3)
    leader.elect()
    for number in range(3):
        leader.raw.read_index(b"%d" % number)
    leader.raw.read_index(b"lost")
    leader.accept(2, 2)
    leader.raw.read_index(b"lost too")
    for count in (3, 4, 5):
        leader.hear(T.HEARTBEAT_RESP, 2, context=count.to_bytes(8, "little"))
    assert [read.context for read in leader.reads] == [b"0", b"1", b"2"]


def test_a_leased_read_is_answered_at_once() -> None:
    """Thesis 6.4.1."""
    leader = Replica(read_only=ReadOnly.LEASE_BASED, check_quorum=True).lead()
    leader.raw.read_index(b"r")
    assert not leader.settle()
    assert leader.reads == [ReadState(1, b"r")]


def test_leased_reads_need_the_lease() -> None:
    with pytest.raises(InvalidConfig):
        Replica(read_only=ReadOnly.LEASE_BASED, check_quorum=False)


def test_a_sole_voter_answers_at_its_commit_index() -> None:
    leader = Replica(voters=(1,), learners=(2,)).lead()
    leader.raw.read_index(b"r")
    assert not only(leader.settle(), T.HEARTBEAT)
    assert leader.reads == [ReadState(1, b"r")]


def test_a_follower_asks_its_leader_and_gets_the_answer_back() -> None:
    trio = group(1, 2, 3)
    trio[2].raw.read_index(b"lost")
    trio[1].raw.campaign()
    trio.run()
    trio[2].raw.read_index(b"r")
    trio.run()
    assert trio[2].reads == [ReadState(1, b"r")]
    assert trio[1].reads == []


def test_a_deposed_leader_answers_no_read() -> None:
    leader = Replica().lead()
    leader.raw.read_index(b"r")
    leader.settle()
    leader.hear(T.APP, 2, term=2)
    leader.raw.step(Message(T.HEARTBEAT_RESP, to=1, sender=3, term=1, context=(1).to_bytes(8, "little")))
    leader.settle()
    assert not leader.reads


def test_reads_that_wait_end_with_their_leaders_term() -> None:
    """Thesis 6.4: who asked has to ask again; a later term of the same leader does not answer for an earlier one."""
    leader = Replica().lead()
    leader.raw.read_index(b"q")
    assert leader.settle()[0].context
    leader.hear(T.HEARTBEAT, 2, term=2)
    leader.raw.campaign()
    leader.settle()
    leader.hear(T.VOTE_RESP, 2)
    assert leader.raw.role == Role.LEADER
    assert {each.context for each in only(leader.tick(1), T.HEARTBEAT)} == {b""}
    assert not leader.reads


def test_reads_that_waited_are_released_when_the_quorum_shrinks_to_those_that_vouched() -> None:
    leader = Replica(voters=(1, 2)).lead()
    leader.raw.propose_conf_change(change((REMOVE, 2)))
    leader.settle()
    leader.raw.read_index(b"r")
    leader.settle()
    leader.accept(2, 2)
    assert leader.reads == [ReadState(1, b"r")]


def test_a_quorum_for_reads_is_of_both_majorities() -> None:
    leader = Replica().lead()
    leader.raw.apply_conf_change(change((ADD, 4), (ADD, 5), (REMOVE, 2), (REMOVE, 3)))
    leader.raw.read_index(b"r")
    leader.settle()
    leader.hear(T.HEARTBEAT_RESP, 4, context=(1).to_bytes(8, "little"))
    assert not leader.reads
    leader.hear(T.HEARTBEAT_RESP, 3, context=(1).to_bytes(8, "little"))
    assert leader.reads


# --- limits on proposals --------------------------------------------------------------------------------------------


def test_proposals_beyond_the_uncommitted_limit_are_dropped_until_entries_are_applied() -> None:
    leader = Replica(uncommitted_size_max=100).lead()
    leader.propose(b"x" * 60)
    with pytest.raises(ProposalDropped):
        leader.raw.propose(b"x" * 60)
    leader.propose(b"x" * 40)
    leader.propose(b"")
    with pytest.raises(ProposalDropped):
        leader.raw.propose(b"x")
    leader.accept(2, 2)
    leader.propose(b"x" * 60)
    assert [len(entry.data) for entry in leader.disk.log] == [0, 60, 40, 0, 60]


def test_with_nothing_uncommitted_one_proposal_of_any_size_is_taken() -> None:
    leader = Replica(uncommitted_size_max=100).lead()
    leader.propose(b"x" * 500)
    assert leader.raw.last_index == 2


def test_a_dropped_proposal_leaves_no_trace() -> None:
    leader = Replica(uncommitted_size_max=100).lead()
    leader.propose(b"x" * 99)
    with pytest.raises(ProposalDropped):
        leader.raw.propose_conf_change(change((ADD, 4)))
    assert not leader.raw.has_ready()
    leader.accept(2, 2)
    leader.raw.propose_conf_change(change((ADD, 4)))
    leader.settle()
    leader.accept(2, 3)
    assert leader.raw.status().config.voters == {1, 2, 3, 4}


# --- configuration --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        {"id": 0},
        {"heartbeat_tick": 0},
        {"election_tick": 1, "heartbeat_tick": 1},
        {"applied": -1},
        {"applied": 5},
        {"inflight_msgs_max": 0},
        {"inflight_bytes_max": 5},
        {"size_per_msg_max": 0},
        {"committed_size_per_ready_max": -1},
        {"uncommitted_size_max": 0},
        {"waiting_reads_max": 0},
    ],
)
def test_settings_that_can_not_work_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(InvalidConfig):
        Replica(**bad)  # type: ignore[arg-type]


def test_what_was_applied_before_is_not_handed_out_again() -> None:
    replica = Replica(terms=[1, 1, 1], commit=3, applied=2)
    replica.settle()
    assert [entry.index for entry in replica.applied] == [3]


def test_what_was_applied_is_committed_even_if_the_stored_commit_index_is_older() -> None:
    replica = Replica(terms=[1, 1, 1], commit=1, applied=3)
    assert (replica.raw.committed, replica.raw.applied) == (3, 3)


def test_status_shows_progress_only_on_a_leader() -> None:
    leader = Replica().lead()
    assert sorted(leader.raw.status().progress) == [1, 2, 3]
    assert leader.raw.basic_status().progress == {}
    assert Replica().raw.status().progress == {}
