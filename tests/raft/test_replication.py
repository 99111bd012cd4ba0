"""Log replication: paper 5.3, 5.4.2 and figure 2; thesis 10.2.1 (pipelining)."""

from __future__ import annotations

import pytest

from copycat.errors import LogDiverged
from copycat.messages import Entry, HardState, Message
from copycat.raft import ProgressState, Role
from copycat.raft.inflights import Inflights
from copycat.raft.progress import Progress

from .kit import Replica, T, app, group, only

# --- followers ------------------------------------------------------------------------------------------------------


def test_a_follower_appends_what_follows_a_matching_entry() -> None:
    """Figure 2, AppendEntries 2 and 4."""
    replica = Replica(terms=[1, 1])
    (answer,) = replica.hear(T.APP, 2, term=2, **app(2, 1, 2, 2))
    assert (answer.type, answer.index, answer.reject) == (T.APP_RESP, 4, False)
    assert replica.terms() == [1, 1, 2, 2]


def test_a_follower_refuses_what_does_not_follow_its_log() -> None:
    replica = Replica(terms=[1, 1])
    (answer,) = replica.hear(T.APP, 2, term=2, **app(3, 2, 2))
    assert (answer.reject, answer.index) == (True, 3)
    (answer,) = replica.hear(T.APP, 2, term=2, **app(2, 2, 2))
    assert (answer.reject, answer.index) == (True, 2)
    assert replica.terms() == [1, 1]


def test_a_conflicting_entry_and_all_that_follow_it_are_dropped() -> None:
    """Figure 2, AppendEntries 3; figure 7."""
    replica = Replica(terms=[1, 1, 2, 2, 2])
    replica.hear(T.APP, 2, term=3, **app(2, 1, 3))
    assert replica.terms() == [1, 1, 3]


def test_an_overlapping_message_does_not_drop_what_is_behind_it() -> None:
    """5.3: only a conflict deletes; messages may come late and out of order."""
    replica = Replica(terms=[1, 1, 1, 1])
    (answer,) = replica.hear(T.APP, 2, term=1, **app(1, 1, 1))
    assert replica.terms() == [1, 1, 1, 1]
    assert answer.index == 2, "only what the message proves is acknowledged"
    replica.hear(T.APP, 2, term=1, **app(2, 1, 1, 1, 1, 1))
    assert replica.terms() == [1] * 6


def test_a_follower_commits_no_further_than_what_the_message_proves() -> None:
    """Figure 2, AppendEntries 5: min(leaderCommit, index of last new entry)."""
    replica = Replica(terms=[1, 1, 1, 1])
    replica.hear(T.APP, 2, term=1, **app(1, 1, 1, commit=4))
    assert replica.raw.committed == 2
    replica.hear(T.APP, 2, term=1, **app(2, 1, commit=3))
    assert replica.raw.committed == 2
    replica.hear(T.APP, 2, term=1, **app(4, 1, commit=3))
    assert replica.raw.committed == 3


def test_the_commit_index_never_moves_back() -> None:
    replica = Replica(terms=[1, 1, 1], commit=3)
    replica.hear(T.APP, 2, term=1, **app(3, 1, 1, commit=1))
    replica.hear(T.HEARTBEAT, 2, term=1, commit=2)
    assert replica.raw.committed == 3


def test_a_message_from_before_the_commit_index_is_answered_with_it() -> None:
    replica = Replica(terms=[1, 1, 1], commit=3)
    (answer,) = replica.hear(T.APP, 2, term=1, **app(1, 1, 1))
    assert (answer.index, answer.reject) == (3, False)


def test_a_leader_that_would_overwrite_what_is_committed_stops_the_replica() -> None:
    """5.4.3, leader completeness: it can't be, unless a replica lost its disk."""
    replica = Replica(terms=[1, 1], commit=2)
    replica.raw.step(Message(T.APP, to=1, sender=2, term=2, index=2, log_term=1, entries=[Entry(2, 3)]))
    replica.raw.raft.log.commit_to(3)
    with pytest.raises(LogDiverged):
        replica.raw.raft.log.append([Entry(3, 3)])
    lost = Replica(terms=[1])
    with pytest.raises(LogDiverged):
        lost.raw.step(Message(T.HEARTBEAT, to=1, sender=2, term=1, commit=2))


def test_a_refusal_names_the_last_entry_that_could_match_by_term() -> None:
    """End of 5.3: one refusal for each conflicting term, not for each entry."""
    replica = Replica(terms=[1, 3, 3, 5, 5, 5])
    (answer,) = replica.hear(T.APP, 2, term=6, **app(6, 4, 6))
    assert (answer.index, answer.reject_hint, answer.log_term) == (6, 3, 3)
    (answer,) = replica.hear(T.APP, 2, term=6, **app(9, 2, 6))
    assert (answer.index, answer.reject_hint, answer.log_term) == (9, 1, 1)
    (answer,) = Replica().hear(T.APP, 2, term=6, **app(9, 2, 6))
    assert (answer.index, answer.reject_hint, answer.log_term) == (9, 0, 0)


def test_a_message_whose_entries_do_not_follow_it_is_ignored() -> None:
    replica = Replica(terms=[1])
    assert not replica.hear(T.APP, 2, term=1, index=1, log_term=1, entries=[Entry(1, 5)])
    assert not replica.hear(T.APP, 2, term=1, index=1, log_term=1, entries=[Entry(1, 2), Entry(1, 5)])
    assert replica.raw.last_index == 1


def test_entries_are_acknowledged_only_when_they_are_durable() -> None:
    """Figure 2: persistent state is updated on stable storage before responding."""
    replica = Replica(async_storage_writes=True)
    replica.raw.step(Message(T.APP, to=1, sender=2, term=1, **app(0, 0, 1)))
    ready = replica.raw.ready()
    (write,) = ready.messages
    assert write.type == T.STORAGE_APPEND
    assert (write.term, write.entries) == (1, [Entry(1, 1)])
    assert [each.type for each in write.responses] == [T.APP_RESP, T.STORAGE_APPEND_RESP]


# --- leaders --------------------------------------------------------------------------------------------------------


def test_a_leader_sends_proposals_at_once_and_pipelines_them() -> None:
    """Thesis 10.2.1: it does not wait for the acknowledgement of the last message."""
    leader = Replica().lead()
    first, second = only(leader.propose(b"a"), T.APP, 2), only(leader.propose(b"b"), T.APP, 2)
    assert [(each.index, each.entries[0].data) for each in first + second] == [(1, b"a"), (2, b"b")]


def test_proposals_that_come_together_travel_together() -> None:
    leader = Replica().lead()
    (message,) = only(leader.propose(b"a", b"b", b"c"), T.APP, 2)
    assert [(each.term, each.index, each.data) for each in message.entries] == [
        (1, 2, b"a"),
        (1, 3, b"b"),
        (1, 4, b"c"),
    ]


def test_an_entry_commits_when_a_majority_has_it() -> None:
    """5.3."""
    leader = Replica(voters=(1, 2, 3, 4, 5)).lead()
    leader.propose(b"x")
    leader.accept(2, 2)
    assert leader.raw.committed == 1
    sent = leader.accept(3, 2)
    assert leader.raw.committed == 2
    assert leader.applied[-1].data == b"x"
    assert {each.to for each in only(sent, T.APP) if each.commit == 2} == {2, 3, 4, 5}


def test_a_leaders_own_copy_counts_only_when_it_is_durable() -> None:
    """Thesis 10.2.1: a leader may write in parallel, but must not count what it has not."""
    leader = Replica(voters=(1, 2)).lead()
    leader.raw.propose(b"x")
    ready = leader.raw.ready()
    leader.raw.step(Message(T.APP_RESP, to=1, sender=2, term=1, index=2))
    assert leader.raw.committed == 1
    leader.disk.write(ready.hard_state, ready.snapshot, ready.entries)
    leader.raw.advance()
    assert leader.raw.committed == 2


def test_a_majority_without_the_leader_commits() -> None:
    """Thesis 10.2.1: the entry may be committed before the leader has it on its own disk."""
    leader = Replica().lead()
    leader.raw.propose(b"x")
    leader.raw.ready()
    leader.raw.step(Message(T.APP_RESP, to=1, sender=2, term=1, index=2))
    leader.raw.step(Message(T.APP_RESP, to=1, sender=3, term=1, index=2))
    assert leader.raw.committed == 2


def test_an_entry_of_an_earlier_term_is_not_committed_by_counting() -> None:
    """5.4.2 and figure 8."""
    leader = Replica(terms=[1, 2], term=2)
    leader.elect()
    leader.accept(2, 2)
    assert leader.raw.committed == 0
    leader.accept(2, 3)
    assert leader.raw.committed == 3


def test_learners_do_not_count_for_commitment() -> None:
    """Thesis 4.2.1."""
    leader = Replica(voters=(1, 2, 3), learners=(4, 5)).lead()
    leader.propose(b"x")
    leader.accept(4, 2)
    leader.accept(5, 2)
    assert leader.raw.committed == 1


def test_a_leader_never_overwrites_its_own_entries() -> None:
    """Figure 3, leader append-only: an append of its own term from elsewhere has no effect."""
    leader = Replica().lead()
    leader.propose(b"x")
    leader.raw.step(Message(T.APP, to=1, sender=2, term=1, **app(1, 1, 1, 1)))
    assert leader.raw.role == Role.LEADER
    assert [each.data for each in leader.disk.log] == [b"", b"x"]


def test_a_refusal_moves_the_leader_back_by_whole_terms_of_its_own_log() -> None:
    """End of 5.3, seen from the leader: its entries of later terms than the hint's can't match."""
    leader = Replica(terms=[1, 2, 2, 5, 5, 5], term=6)
    leader.elect()
    assert leader.progress(2).next == 7
    (retry,) = only(leader.hear(T.APP_RESP, 2, index=6, reject=True, reject_hint=6, log_term=4), T.APP, 2)
    assert (retry.index, retry.log_term) == (3, 2)


def test_a_refusal_with_a_short_log_moves_the_leader_to_its_end() -> None:
    leader = Replica(terms=[1] * 9)
    leader.elect()
    (retry,) = only(leader.hear(T.APP_RESP, 2, index=9, reject=True, reject_hint=2, log_term=1), T.APP, 2)
    assert (retry.index, len(retry.entries)) == (2, 8)
    leader = Replica(terms=[1] * 9)
    leader.elect()
    (retry,) = only(leader.hear(T.APP_RESP, 2, index=9, reject=True, reject_hint=0, log_term=0), T.APP, 2)
    assert (retry.index, len(retry.entries)) == (0, 10)


def test_a_refused_log_is_repaired_in_few_rounds_from_either_side() -> None:
    """End of 5.3: rounds are bounded by terms, not by entries."""
    mine = [1] * 3 + [2] * 40 + [5] * 40
    theirs = [1] * 3 + [3] * 40 + [4] * 40
    pair = group(1, 2)
    pair[1].disk.log = [Entry(term, index) for index, term in enumerate(mine, 1)]
    pair[2].disk.log = [Entry(term, index) for index, term in enumerate(theirs, 1)]
    for replica in pair.replicas.values():
        replica.disk.hard_state = HardState(5, 0, 0)
        replica.restart()
    pair[1].raw.campaign()
    delivered = pair.run()
    assert pair[2].terms() == [*mine, 6]
    assert len([each for each in delivered if each.type == T.APP_RESP and each.reject]) <= 2


def test_stale_refusals_are_ignored() -> None:
    """Messages may be repeated and reordered."""
    leader = Replica(terms=[1] * 5)
    leader.elect()
    assert leader.progress(2).state is ProgressState.PROBE
    assert not leader.hear(T.APP_RESP, 2, index=3, reject=True, reject_hint=1, log_term=1)
    assert leader.progress(2).next == 6
    leader.accept(2, 6)
    assert leader.progress(2).state is ProgressState.REPLICATE
    assert not leader.hear(T.APP_RESP, 2, index=6, reject=True, reject_hint=1, log_term=1)
    assert leader.progress(2).state is ProgressState.REPLICATE
    leader.propose(b"x", b"y")
    leader.hear(T.APP_RESP, 2, index=8, reject=True, reject_hint=6, log_term=1)
    assert (leader.progress(2).state, leader.progress(2).next) == (ProgressState.PROBE, 7)


def test_a_refused_probe_goes_where_the_hint_says_but_never_below_what_is_proven() -> None:
    """Figure 2: nextIndex is decremented; matchIndex is known to be replicated and only increases."""
    progress = Progress(5, 20, Inflights(10, 1000), is_learner=False, active=True)
    progress.sent_commit = 19
    assert progress.reject(19, 8)
    assert (progress.next, progress.sent_commit) == (9, 8), "a commit index beyond the log that may match says nothing"
    assert progress.reject(8, 2)
    assert (progress.next, progress.match, progress.sent_commit) == (6, 5, 5)
    assert not progress.reject(8, 2), "stale: 6 was not asked for there"


def test_an_old_acceptance_does_not_move_back() -> None:
    leader = Replica().lead()
    leader.propose(b"x")
    leader.accept(2, 2)
    leader.accept(2, 1)
    assert (leader.progress(2).match, leader.progress(2).next) == (2, 3)


# --- probing, windows, pauses ---------------------------------------------------------------------------------------


def test_a_probe_with_entries_pauses_until_it_is_answered() -> None:
    leader = Replica(terms=[1])
    leader.elect()
    assert leader.progress(2).paused
    assert not only(leader.propose(b"x"), T.APP, 2)
    (more,) = only(leader.accept(2, 1), T.APP, 2)[-1:]
    assert [each.index for each in more.entries] == [2, 3]


def test_an_empty_probe_does_not_pause() -> None:
    leader = Replica().lead()
    leader.raw.report_unreachable(2)
    assert leader.progress(2).state is ProgressState.PROBE
    leader.hear(T.HEARTBEAT_RESP, 2)
    assert not leader.progress(2).paused
    assert only(leader.propose(b"x"), T.APP, 2)
    assert leader.progress(2).paused


def test_a_heartbeats_answer_revives_a_paused_probe() -> None:
    """5.3: the leader retries indefinitely."""
    leader = Replica(terms=[1])
    leader.elect()
    (again,) = only(leader.hear(T.HEARTBEAT_RESP, 2), T.APP, 2)
    assert [each.index for each in again.entries] == [2]
    assert leader.progress(2).paused


def test_an_unreachable_peer_is_probed() -> None:
    leader = Replica().lead()
    leader.propose(b"x")
    leader.raw.report_unreachable(2)
    assert (leader.progress(2).state, leader.progress(2).next) == (ProgressState.PROBE, 2)
    assert len(leader.progress(2).inflights) == 0


def test_the_window_bounds_messages_in_flight_and_frees_as_they_arrive() -> None:
    leader = Replica(inflight_msgs_max=2).lead()
    assert only(leader.propose(b"a"), T.APP, 2)
    assert only(leader.propose(b"b"), T.APP, 2)
    assert not only(leader.propose(b"c"), T.APP, 2)
    assert leader.progress(2).paused
    sent = only(leader.accept(2, 2), T.APP, 2)
    assert [each.index for message in sent for each in message.entries] == [4]
    assert len(leader.progress(2).inflights) == 2


def test_a_full_window_whose_messages_were_lost_is_found_out_by_an_empty_message() -> None:
    leader = Replica(inflight_msgs_max=1).lead()
    leader.propose(b"a")
    assert leader.progress(2).inflights.full
    leader.propose(b"b")
    (probe,) = only(leader.hear(T.HEARTBEAT_RESP, 2), T.APP, 2)
    assert (probe.index, probe.entries) == (2, []), "3 does not fit into the window"
    assert leader.progress(2).paused
    (retry,) = only(leader.hear(T.APP_RESP, 2, index=2, reject=True, reject_hint=1, log_term=1), T.APP, 2)
    assert [each.index for each in retry.entries] == [2, 3]


def test_the_window_bounds_bytes_in_flight() -> None:
    leader = Replica(size_per_msg_max=100, inflight_bytes_max=100).lead()
    assert only(leader.propose(b"x" * 60), T.APP, 2)
    assert not leader.progress(2).paused
    assert only(leader.propose(b"x" * 60), T.APP, 2), "the last message may pass the limit"
    assert leader.progress(2).inflights.full
    assert not only(leader.propose(b"x"), T.APP, 2)
    leader.accept(2, 2)
    assert len(leader.progress(2).inflights) == 2
    assert leader.progress(2).inflights.bytes == 61


def test_messages_fill_to_their_limit_but_hold_at_least_one_entry() -> None:
    leader = Replica(terms=[1] * 4, size_per_msg_max=20)
    leader.elect()
    sizes: list[int] = []
    index = 4
    # Entries of nothing take six bytes each: three fit into twenty.
    leader.hear(T.APP_RESP, 2, index=4, reject=True, reject_hint=0)
    messages = only(leader.accept(2, 0), T.APP, 2)
    assert messages
    for message in messages:
        sizes.append(len(message.entries))
        index = message.entries[-1].index
    assert sizes[0] == 3
    assert index == 5
    big = Replica(size_per_msg_max=20).lead()
    (message,) = only(big.propose(b"x" * 500), T.APP, 2)
    assert len(message.entries[0].data) == 500


# --- telling the commit index ---------------------------------------------------------------------------------------


def test_an_empty_append_goes_to_a_peer_that_was_not_sent_the_commit_index() -> None:
    leader = Replica(voters=(1, 2, 3)).lead()
    leader.hear(T.APP_RESP, 3, index=1)
    leader.propose(b"x")
    leader.accept(2, 2)
    assert leader.raw.committed == 2
    assert leader.progress(3).sent_commit == 2
    # The peer was full when the commit index moved: it learns of it when it answers.
    narrow = Replica(inflight_msgs_max=1).lead()
    narrow.propose(b"x")
    narrow.accept(2, 2)
    assert narrow.progress(3).sent_commit == 1
    sent = only(narrow.accept(3, 2), T.APP, 3)
    assert [(each.entries, each.commit) for each in sent] == [([], 2)]


def test_no_empty_append_goes_for_a_commit_index_that_was_sent() -> None:
    leader = Replica().lead()
    leader.propose(b"x")
    leader.accept(2, 2)
    assert not only(leader.accept(3, 2), T.APP, 3)


def test_a_heartbeat_carries_no_more_than_the_peer_is_known_to_have_and_counts_as_telling_it() -> None:
    """A follower may not have matching entries up to the commit index (5.3)."""
    leader = Replica(terms=[1, 1], commit=0)
    leader.elect()
    leader.accept(2, 3)
    assert leader.raw.committed == 3
    beats = only(leader.tick(1), T.HEARTBEAT)
    assert {each.to: each.commit for each in beats} == {2: 3, 3: 0}
    assert leader.progress(3).sent_commit == 0
    # So an acceptance that adds nothing else is followed by the commit index: the heartbeat told a lower one.
    narrow = Replica(inflight_msgs_max=1).lead()
    narrow.propose(b"x")
    narrow.accept(2, 2)
    narrow.progress(3).sent_commit = 2
    narrow.tick(1)
    assert narrow.progress(3).sent_commit == 1
    assert [each.commit for each in only(narrow.accept(3, 2), T.APP, 3)] == [2]


def test_a_return_to_probing_forgets_what_was_told_beyond_it() -> None:
    leader = Replica().lead()
    leader.propose(b"x", b"y")
    leader.accept(2, 3)
    assert leader.progress(3).sent_commit == 3
    leader.raw.report_unreachable(3)
    assert leader.progress(3).sent_commit == 1


def test_heartbeats_go_to_all_at_the_interval() -> None:
    leader = Replica(voters=(1, 2), learners=(3,), heartbeat_tick=3).lead()
    assert not leader.tick(2)
    assert [(each.type, each.to) for each in leader.tick(1)] == [(T.HEARTBEAT, 2), (T.HEARTBEAT, 3)]


def test_a_heartbeat_is_answered_and_holds_elections_off() -> None:
    replica = Replica()
    replica.raw.raft.randomized_election_timeout = 10
    for _ in range(5):
        assert [each.type for each in replica.hear(T.HEARTBEAT, 2, term=1, context=b"c")] == [T.HEARTBEAT_RESP]
        replica.raw.raft.randomized_election_timeout = 10
        assert not replica.tick(9)
    assert replica.raw.role == Role.FOLLOWER
    assert replica.tick(1)
