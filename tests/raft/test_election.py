"""Elections: paper 5.1, 5.2, 5.4.1 and figure 2; thesis 6.2 (leases) and 9.6 (pre-vote)."""

from __future__ import annotations

import random

import pytest

from copycat.errors import ProposalDropped
from copycat.messages import Entry, EntryType, HardState, Message, Snapshot
from copycat.raft import ReadOnly, Role

from .kit import ADD, LEARNER, REMOVE, Group, Replica, T, app, change, group, only


def test_a_replica_starts_as_follower_with_what_it_stored() -> None:
    """5.2: servers start up as followers; figure 2: term and vote are persistent."""
    replica = Replica(terms=[1, 1], term=4, vote=2, commit=1)
    assert (replica.raw.role, replica.raw.term, replica.raw.vote, replica.raw.lead) == (Role.FOLLOWER, 4, 2, 0)
    assert replica.raw.committed == 1


def test_a_follower_without_a_leader_stands_after_its_timeout() -> None:
    """5.2: increments its term, votes for itself, asks all others with the position of its last entry."""
    replica = Replica(terms=[1, 2])
    sent = replica.tick(2 * 10 - 1)
    assert replica.raw.role == Role.CANDIDATE
    assert (replica.raw.term, replica.raw.vote) == (3, 1)
    requests = only(sent, T.VOTE)
    assert [(each.to, each.term, each.log_term, each.index) for each in requests] == [(2, 3, 2, 2), (3, 3, 2, 2)]


def test_the_election_timeout_is_random_and_renewed() -> None:
    """5.2: randomised from a fixed interval, anew at each start of an election."""
    seen = set()
    for seed in range(60):
        replica = Replica(rng=random.Random(seed))
        seen.add(replica.raw.raft.randomized_election_timeout)
    assert seen == set(range(10, 20))
    replica = Replica()
    timeouts = set()
    for _ in range(50):
        replica.raw.campaign()
        timeouts.add(replica.raw.raft.randomized_election_timeout)
    assert len(timeouts) > 5


def test_a_majority_of_votes_wins_and_the_leader_says_so_at_once() -> None:
    """5.2: heartbeats to all others at once; 8: with a blank entry of its term."""
    replica = Replica(voters=(1, 2, 3, 4, 5))
    replica.raw.campaign()
    replica.settle()
    assert not replica.hear(T.VOTE_RESP, 2)
    assert replica.raw.role == Role.CANDIDATE
    sent = replica.hear(T.VOTE_RESP, 3)
    assert replica.raw.role == Role.LEADER
    assert [each.to for each in only(sent, T.APP)] == [2, 3, 4, 5]
    assert all(each.entries == [Entry(1, 1)] for each in sent)


def test_a_repeated_vote_counts_once_and_the_first_answer_stands() -> None:
    """5.2: each server votes for at most one candidate in a term."""
    replica = Replica(voters=(1, 2, 3, 4, 5))
    replica.raw.campaign()
    replica.settle()
    for _ in range(3):
        replica.hear(T.VOTE_RESP, 2)
    assert replica.raw.role == Role.CANDIDATE
    for voter in (3, 4):
        replica.hear(T.VOTE_RESP, voter, reject=True)
        replica.hear(T.VOTE_RESP, voter)
    assert replica.raw.role == Role.CANDIDATE
    replica.hear(T.VOTE_RESP, 5)
    assert replica.raw.role == Role.LEADER


def test_a_candidate_without_a_majority_stands_again_in_a_higher_term() -> None:
    """5.2, figure 2 (candidates): if the election timeout elapses, start a new election."""
    replica = Replica()
    replica.raw.campaign()
    replica.settle()
    replica.raw.raft.randomized_election_timeout = 12
    assert not replica.tick(11)
    sent = replica.tick(1)
    assert [(each.type, each.to, each.term) for each in sent] == [(T.VOTE, 2, 2), (T.VOTE, 3, 2)]
    assert replica.disk.hard_state == HardState(2, 1, 0)


@pytest.mark.parametrize("kind", [T.APP, T.HEARTBEAT, T.SNAP])
def test_every_word_of_the_leader_holds_elections_off(kind: T) -> None:
    """5.2, figure 2 (followers): only a timeout without AppendEntries from the current leader starts an election."""
    replica = Replica(terms=[1], commit=1)
    for _ in range(5):
        replica.hear(kind, 2)
        assert not replica.tick(9)
    assert replica.raw.role == Role.FOLLOWER


def test_a_majority_of_refusals_ends_the_election_in_the_same_term() -> None:
    replica = Replica()
    replica.raw.campaign()
    replica.settle()
    replica.hear(T.VOTE_RESP, 2, reject=True)
    replica.hear(T.VOTE_RESP, 3, reject=True)
    assert (replica.raw.role, replica.raw.term) == (Role.FOLLOWER, 1)


def test_ones_own_vote_counts_only_when_it_is_durable() -> None:
    """Figure 2: votedFor is on stable storage before it is told to anybody, oneself included."""
    replica = Replica(voters=(1,))
    replica.raw.campaign()
    assert replica.raw.role == Role.CANDIDATE
    ready = replica.raw.ready()
    assert ready.must_sync
    assert ready.hard_state is not None
    assert replica.raw.role == Role.CANDIDATE
    replica.raw.advance()
    assert replica.raw.role == Role.LEADER


@pytest.mark.parametrize(
    ("last_term", "last_index", "granted"),
    [(1, 9, False), (2, 2, False), (2, 3, True), (2, 4, True), (3, 1, True)],
)
def test_a_vote_goes_only_to_a_log_at_least_as_up_to_date(last_term: int, last_index: int, granted: bool) -> None:
    """5.4.1: the later last term wins, then the longer log."""
    replica = Replica(terms=[1, 2, 2])
    (answer,) = replica.hear(T.VOTE, 2, term=5, log_term=last_term, index=last_index)
    assert (answer.type, answer.reject, answer.term) == (T.VOTE_RESP, not granted, 5)
    assert replica.raw.vote == (2 if granted else 0)


def test_one_vote_a_term_but_repeated_requests_get_the_same_answer() -> None:
    """Figure 2, RequestVote: votedFor is null or candidateId."""
    replica = Replica()
    assert not replica.hear(T.VOTE, 2, term=1)[0].reject
    assert replica.hear(T.VOTE, 3, term=1)[0].reject
    assert not replica.hear(T.VOTE, 2, term=1)[0].reject
    assert not replica.hear(T.VOTE, 3, term=2)[0].reject


def test_a_vote_survives_a_crash_before_the_answer() -> None:
    replica = Replica()
    replica.raw.step(Message(T.VOTE, to=1, sender=2, term=1))
    ready = replica.raw.ready()
    assert ready.must_sync
    replica.disk.write(ready.hard_state, ready.snapshot, ready.entries)
    replica.restart()
    assert replica.hear(T.VOTE, 3, term=1)[0].reject


def test_a_replica_that_knows_a_leader_of_the_term_does_not_vote_in_it() -> None:
    replica = Replica()
    replica.hear(T.HEARTBEAT, 2, term=1)
    assert replica.hear(T.VOTE, 3, term=1)[0].reject


def test_granting_a_vote_restarts_the_election_timer_and_refusing_does_not() -> None:
    """Figure 2, followers: unless AppendEntries came or a vote was granted."""
    replica = Replica(terms=[1, 1], term=1)
    replica.raw.raft.randomized_election_timeout = 19
    replica.tick(5)
    replica.hear(T.VOTE, 2, term=1, log_term=0, index=0)
    assert replica.raw.raft.election_elapsed == 5
    replica.hear(T.VOTE, 2, term=1, log_term=1, index=2)
    assert replica.raw.raft.election_elapsed == 0


@pytest.mark.parametrize("kind", [T.APP, T.HEARTBEAT, T.SNAP])
def test_a_candidate_follows_the_leader_of_its_own_term(kind: T) -> None:
    """5.2: a leader's claim with a term at least as large is recognised."""
    replica = Replica()
    replica.raw.campaign()
    replica.settle()
    fields = {"snapshot": Snapshot(1, 1)} if kind == T.SNAP else {}
    replica.hear(kind, 3, term=1, **fields)
    assert (replica.raw.role, replica.raw.lead, replica.raw.term) == (Role.FOLLOWER, 3, 1)


@pytest.mark.parametrize("role", ["follower", "candidate", "leader"])
def test_a_higher_term_makes_a_follower_of_anybody(role: str) -> None:
    """Figure 2, all servers: if a term is higher, adopt it and become follower. Not every sender is the leader."""
    replica = Replica()
    if role == "candidate":
        replica.raw.campaign()
    elif role == "leader":
        replica.lead()
    replica.settle()
    replica.hear(T.APP_RESP, 2, term=9)
    assert (replica.raw.role, replica.raw.term, replica.raw.lead, replica.raw.vote) == (Role.FOLLOWER, 9, 0, 0)
    replica.hear(T.APP, 3, term=10)
    assert replica.raw.lead == 3


def test_messages_of_the_past_are_ignored() -> None:
    """Figure 2: reply false if term < currentTerm; plain Raft does not even answer."""
    replica = Replica(term=5)
    assert not replica.hear(T.APP, 2, term=4, **app(0, 0, 4))
    assert replica.hear(T.VOTE, 2, term=4) == []
    assert (replica.raw.last_index, replica.raw.lead, replica.raw.vote) == (0, 0, 0)


@pytest.mark.parametrize("option", ["check_quorum", "pre_vote"])
@pytest.mark.parametrize("kind", [T.APP, T.HEARTBEAT])
def test_a_leader_of_the_past_is_told_so_where_nobody_else_could(option: str, kind: T) -> None:
    """Under a lease or with pre-vote, one stuck at a higher term can't raise the others' by asking for votes."""
    replica = Replica(term=5, **{option: True})
    (answer,) = replica.hear(kind, 2, term=4)
    assert (answer.type, answer.term, answer.index, answer.reject) == (T.APP_RESP, 5, 0, False)


def test_neither_a_learner_nor_a_stranger_stands() -> None:
    """Thesis 4.2.1: a non-voting member; 4.2.2: a removed one."""
    for replica in (Replica(9, voters=(1, 2), learners=(9,)), Replica(9, voters=(1, 2))):
        replica.raw.campaign()
        assert not replica.tick(40)
        assert (replica.raw.role, replica.raw.term) == (Role.FOLLOWER, 0)


def test_a_learner_votes_when_asked() -> None:
    """Whoever asks may know of its promotion already."""
    replica = Replica(9, voters=(1, 2), learners=(9,))
    assert not replica.hear(T.VOTE, 1, term=3)[0].reject


def test_nobody_stands_while_a_snapshot_is_not_stored() -> None:
    replica = Replica()
    state = replica.disk.point.conf_state
    replica.raw.step(Message(T.SNAP, to=1, sender=2, term=1, snapshot=Snapshot(5, 1, state)))
    replica.raw.campaign()
    assert replica.raw.role == Role.FOLLOWER
    replica.settle()
    replica.raw.campaign()
    assert replica.raw.role == Role.CANDIDATE


def test_nobody_stands_with_a_committed_configuration_change_that_is_not_applied() -> None:
    """Thesis 4.1: the configuration counts; standing by an old one could elect a second leader in a term."""
    replica = Replica(committed_size_per_ready_max=1)
    entries = [Entry(1, 1), Entry(1, 2, EntryType.CONF_CHANGE_V2, b""), Entry(1, 3)]
    replica.raw.step(Message(T.APP, to=1, sender=2, term=1, entries=entries, commit=3))
    ready = replica.raw.ready()
    replica.disk.write(ready.hard_state, ready.snapshot, ready.entries)
    replica.raw.advance()
    assert (replica.raw.committed, replica.raw.applied) == (3, 1)
    replica.raw.campaign()
    replica.raw.step(Message(T.TIMEOUT_NOW, to=1, sender=2, term=1))
    for _ in range(40):
        replica.raw.tick()
    assert replica.raw.role == Role.FOLLOWER


def test_a_normal_entry_that_is_not_applied_does_not_keep_from_standing() -> None:
    replica = Replica(terms=[1, 1], commit=2)
    replica.raw.campaign()
    assert replica.raw.role == Role.CANDIDATE


def test_a_lease_keeps_requests_for_votes_from_having_any_effect_until_it_expires() -> None:
    """Thesis 4.2.3 and 6.2: within the minimum election timeout of hearing from a leader."""
    replica = Replica(check_quorum=True)
    replica.raw.raft.randomized_election_timeout = 19
    replica.hear(T.HEARTBEAT, 2, term=1)
    replica.raw.raft.randomized_election_timeout = 19
    replica.tick(9)
    assert replica.hear(T.VOTE, 3, term=2) == []
    assert replica.hear(T.PRE_VOTE, 3, term=2) == []
    assert replica.raw.term == 1
    replica.tick(1)
    assert not replica.hear(T.VOTE, 3, term=2)[0].reject
    assert replica.raw.term == 2


def test_a_lease_does_not_bind_against_a_hand_over() -> None:
    """Thesis 4.2.3: a flag says that the leader itself asked for the election."""
    replica = Replica(check_quorum=True)
    replica.hear(T.HEARTBEAT, 2, term=1)
    assert not replica.hear(T.VOTE, 3, term=2, context=b"CampaignTransfer")[0].reject


def test_without_a_leader_there_is_no_lease() -> None:
    replica = Replica(check_quorum=True)
    replica.hear(T.HEARTBEAT, 2, term=1)
    replica.raw.forget_leader()
    assert not replica.hear(T.VOTE, 3, term=2)[0].reject


def test_a_leader_without_a_quorum_steps_down() -> None:
    """Thesis 6.2: if an election timeout passes without a round of heartbeats to a majority."""
    replica = Replica(voters=(1, 2, 3, 4, 5), check_quorum=True).lead()
    replica.tick(10)  # this period counts those who answered the election
    for _ in range(3):
        replica.hear(T.HEARTBEAT_RESP, 2)
        replica.hear(T.APP_RESP, 3, index=1)
        replica.tick(10)
        assert replica.raw.role == Role.LEADER
    replica.hear(T.HEARTBEAT_RESP, 2)
    replica.tick(10)
    assert (replica.raw.role, replica.raw.lead, replica.raw.term) == (Role.FOLLOWER, 0, 1)


def test_whoever_was_heard_in_the_period_before_a_check_still_counts_as_recently_active_after_it() -> None:
    """A check begins a new period. Who asks just behind it, as hand-overs do, must not find that nobody lives."""
    leader = Replica(check_quorum=True).lead()
    for peer in (2, 3):
        leader.hear(T.HEARTBEAT_RESP, peer)
    leader.tick(10)
    peers = leader.raw.status().progress
    assert [(peers[peer].active, peers[peer].recently_active) for peer in (2, 3)] == [(False, True)] * 2
    leader.hear(T.HEARTBEAT_RESP, 2)
    leader.tick(10)
    peers = leader.raw.status().progress
    assert [peers[peer].recently_active for peer in (2, 3)] == [True, False]


def test_learners_do_not_count_in_the_check_of_the_quorum() -> None:
    replica = Replica(voters=(1, 2, 3), learners=(4, 5), check_quorum=True).lead()
    replica.tick(10)
    replica.hear(T.HEARTBEAT_RESP, 4)
    replica.hear(T.HEARTBEAT_RESP, 5)
    replica.tick(10)
    assert replica.raw.role == Role.FOLLOWER


def test_without_check_quorum_a_leader_stays() -> None:
    replica = Replica().lead()
    replica.tick(50)
    assert replica.raw.role == Role.LEADER


# --- pre-vote -------------------------------------------------------------------------------------------------------


def test_a_pre_candidate_changes_neither_term_nor_vote() -> None:
    """Thesis 9.6: a candidate only increments its term if it learns that a majority would vote for it."""
    replica = Replica(terms=[1], vote=3, pre_vote=True)
    replica.raw.campaign()
    ready = replica.raw.ready()
    assert not ready.must_sync
    assert ready.hard_state is None
    replica.raw.advance()
    assert (replica.raw.role, replica.raw.term, replica.raw.vote) == (Role.PRE_CANDIDATE, 1, 3)
    assert [(each.type, each.to, each.term) for each in ready.messages] == [(T.PRE_VOTE, 2, 2), (T.PRE_VOTE, 3, 2)]
    sent = replica.hear(T.PRE_VOTE_RESP, 2, term=2)
    assert (replica.raw.role, replica.raw.term, replica.raw.vote) == (Role.CANDIDATE, 2, 1)
    assert [each.type for each in sent] == [T.VOTE, T.VOTE]


def test_a_pre_vote_changes_nothing_at_the_voter() -> None:
    replica = Replica(terms=[1])
    replica.raw.raft.randomized_election_timeout = 19
    replica.tick(3)
    (answer,) = replica.hear(T.PRE_VOTE, 2, term=2, log_term=1, index=1)
    assert (answer.type, answer.reject, answer.term) == (T.PRE_VOTE_RESP, False, 2)
    assert (replica.raw.term, replica.raw.vote, replica.raw.raft.election_elapsed) == (1, 0, 3)
    # Also for another, and also where the vote of this term is cast.
    assert not replica.hear(T.PRE_VOTE, 3, term=2, log_term=1, index=1)[0].reject


def test_a_pre_vote_is_refused_to_a_log_that_lags_with_the_voters_own_term() -> None:
    replica = Replica(terms=[1, 2])
    (answer,) = replica.hear(T.PRE_VOTE, 2, term=3, log_term=1, index=5)
    assert (answer.reject, answer.term) == (True, 2)


def test_a_pre_candidate_of_a_lower_term_is_told_the_term() -> None:
    """Otherwise two pre-candidates could refuse each other for ever."""
    replica = Replica(term=7)
    (answer,) = replica.hear(T.PRE_VOTE, 2, term=5, log_term=9, index=9)
    assert (answer.type, answer.reject, answer.term) == (T.PRE_VOTE_RESP, True, 7)
    candidate = Replica(2, term=4, pre_vote=True)
    candidate.raw.campaign()
    candidate.settle()
    candidate.raw.step(answer)
    assert (candidate.raw.role, candidate.raw.term) == (Role.FOLLOWER, 7)


def test_only_answers_of_the_present_phase_count() -> None:
    replica = Replica(pre_vote=True)
    replica.raw.campaign()
    replica.settle()
    replica.hear(T.VOTE_RESP, 2, term=0)
    assert replica.raw.role == Role.PRE_CANDIDATE
    replica.hear(T.PRE_VOTE_RESP, 2, term=1)
    assert replica.raw.role == Role.CANDIDATE
    replica.hear(T.PRE_VOTE_RESP, 3, term=1)
    assert replica.raw.role == Role.CANDIDATE


def test_a_partitioned_replica_does_not_disturb_when_it_returns() -> None:
    """Thesis 9.6."""
    trio = group(1, 2, 3, pre_vote=True, check_quorum=True)
    trio[1].raw.campaign()
    trio.run()
    trio.isolate(3)
    for _ in range(60):
        for replica in trio.replicas.values():
            replica.raw.tick()
        trio.run()
    assert (trio[3].raw.role, trio[3].raw.term) == (Role.PRE_CANDIDATE, 1)
    trio.heal()
    for _ in range(25):
        for replica in trio.replicas.values():
            replica.raw.tick()
        trio.run()
    assert [replica.raw.lead for replica in trio.replicas.values()] == [1, 1, 1]
    assert trio[1].raw.term == 1


def test_both_majorities_must_vote_while_the_configuration_is_joint() -> None:
    """6: agreement for elections requires separate majorities from both configurations."""
    replica = Replica(voters=(1, 2, 3))
    replica.raw.apply_conf_change(change((ADD, 4), (ADD, 5), (REMOVE, 2), (REMOVE, 3), (LEARNER, 6)))
    replica.raw.campaign()
    requests = only(replica.settle(), T.VOTE)
    assert [each.to for each in requests] == [2, 3, 4, 5]
    replica.hear(T.VOTE_RESP, 4)
    replica.hear(T.VOTE_RESP, 5)
    assert replica.raw.role == Role.CANDIDATE
    replica.hear(T.VOTE_RESP, 2)
    assert replica.raw.role == Role.LEADER


def test_a_follower_may_forget_its_leader_but_not_under_leased_reads() -> None:
    replica = Replica()
    replica.hear(T.HEARTBEAT, 2, term=1)
    replica.raw.forget_leader()
    assert replica.raw.lead == 0
    leased = Replica(check_quorum=True, read_only=ReadOnly.LEASE_BASED)
    leased.hear(T.HEARTBEAT, 2, term=1)
    leased.raw.forget_leader()
    assert leased.raw.lead == 2


def test_without_a_leader_proposals_are_dropped() -> None:
    for replica in (Replica(), Replica(disable_proposal_forwarding=True)):
        if replica.options.get("disable_proposal_forwarding"):
            replica.hear(T.HEARTBEAT, 2, term=1)
        with pytest.raises(ProposalDropped):
            replica.raw.propose(b"x")
    candidate = Replica()
    candidate.raw.campaign()
    with pytest.raises(ProposalDropped):
        candidate.raw.propose(b"x")


def test_a_follower_forwards_proposals_and_the_leader_takes_its_own_copies() -> None:
    """8: a follower refers its clients to the leader. One message that comes twice makes two entries, not one twice."""
    follower, leader = Replica(2), Replica(1).lead()
    follower.hear(T.HEARTBEAT, 1, term=1)
    follower.raw.propose(b"x")
    (forwarded,) = follower.settle()
    assert (forwarded.type, forwarded.to, forwarded.term, forwarded.entries[0].term) == (T.PROP, 1, 0, 0)
    leader.raw.step(forwarded)
    leader.raw.step(forwarded)
    leader.settle()
    assert [(each.index, each.data) for each in leader.disk.log] == [(1, b""), (2, b"x"), (3, b"x")]


def test_a_group_elects_one_leader_through_messages_alone() -> None:
    quintet: Group = group(1, 2, 3, 4, 5, pre_vote=True, check_quorum=True)
    for _ in range(60):
        for replica in quintet.replicas.values():
            replica.raw.tick()
        quintet.run()
    leads = {replica.raw.lead for replica in quintet.replicas.values()}
    assert len(leads) == 1
    assert leads != {0}
