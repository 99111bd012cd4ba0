"""Who may stand, who may vote for whom, and who wins (paper, 5.2 and 5.4.1; thesis, 9.6 for pre-vote).

============= ============================= ==============================================================
role          enters it by                  leaves it by
============= ============================= ==============================================================
follower      a higher term, a leader's     its election timeout, or a leader that hands over
              word, a lost election
pre-candidate its timeout, with pre-vote    a majority that would vote for it: candidate; lost: follower
candidate     its timeout, a won pre-vote,  a majority of votes: leader; lost: follower
              or a leader's hand-over
leader        a won election                a higher term; no quorum; its own removal
============= ============================= ==============================================================

A vote is granted once a term, only to a log at least as up to date as the voter's. A pre-vote changes nothing at the
voter: it says what the vote would be. While a voter hears a leader it grants neither (see :mod:`copycat.raft.core`),
unless that leader itself handed over. A replica that has committed but not applied a configuration change does not
stand: it would count by a configuration that is no longer the group's.
"""

from __future__ import annotations

import enum

from copycat.messages import NONE, Entry, EntryType, Message, MessageType
from copycat.raft import replication
from copycat.raft.quorum import VoteResult
from copycat.raft.ready import Role
from copycat.raft.state import Raft

PRE_VOTE = MessageType.PRE_VOTE
PRE_VOTE_RESP = MessageType.PRE_VOTE_RESP
VOTE = MessageType.VOTE
VOTE_RESP = MessageType.VOTE_RESP

TRANSFER_CONTEXT = b"CampaignTransfer"
"""Marks the requests of an election that the leader itself asked for: leases don't count against it."""

_SCAN_BYTES_MAX = 1 << 20


class Campaign(enum.Enum):
    PRE_ELECTION = "pre-election"
    ELECTION = "election"
    TRANSFER = "transfer"


# --- standing -------------------------------------------------------------------------------------------------------


def tick_election(raft: Raft) -> None:
    """One tick without being leader."""
    raft.election_elapsed += 1
    if raft.election_elapsed >= raft.randomized_election_timeout and raft.promotable():
        raft.election_elapsed = 0
        handle_hup(raft, None)


def handle_hup(raft: Raft, message: Message | None) -> None:
    """The election timeout passed, or the application wants an election."""
    stand(raft, Campaign.PRE_ELECTION if raft.pre_vote else Campaign.ELECTION)


def handle_timeout_now(raft: Raft, message: Message) -> None:
    """The leader hands over; it will not mind, so there is nothing to ask beforehand (thesis, 3.10)."""
    stand(raft, Campaign.TRANSFER)


def stand(raft: Raft, campaign: Campaign) -> None:
    """Start an election, unless this replica must not."""
    if raft.role != Role.LEADER and raft.promotable() and not has_unapplied_conf_change(raft):
        _campaign(raft, campaign)


def has_unapplied_conf_change(raft: Raft) -> bool:
    """Whether a configuration change is committed but not applied here."""
    log = raft.log
    index, committed = log.applied + 1, log.committed
    while index <= committed:
        page = log.slice(index, committed + 1, _SCAN_BYTES_MAX)
        if any(entry.type != EntryType.NORMAL for entry in page):
            return True
        index += len(page)
    return False


def _campaign(raft: Raft, campaign: Campaign) -> None:
    if campaign is Campaign.PRE_ELECTION:
        become_pre_candidate(raft)
        request, answer, term = PRE_VOTE, PRE_VOTE_RESP, raft.term + 1
    else:
        become_candidate(raft)
        request, answer, term = VOTE, VOTE_RESP, raft.term
    context = TRANSFER_CONTEXT if campaign is Campaign.TRANSFER else b""
    log = raft.log
    for voter in sorted(raft.tracker.voters()):
        if voter == raft.id:
            # One's own vote counts like any other: when it is durable.
            raft.send_after_append(Message(answer, to=voter, sender=raft.id, term=term))
            continue
        raft.send(
            Message(
                request,
                to=voter,
                sender=raft.id,
                term=term,
                log_term=log.last_term,
                index=log.last_index,
                context=context,
            )
        )


def become_pre_candidate(raft: Raft) -> None:
    """Changes neither term nor vote: nothing happened yet."""
    raft.tracker.votes = {}
    raft.lead = NONE
    raft.role = Role.PRE_CANDIDATE


def become_candidate(raft: Raft) -> None:
    raft.reset(raft.term + 1)
    raft.vote = raft.id
    raft.role = Role.CANDIDATE


def become_leader(raft: Raft) -> None:
    """Lead this term, and say so with an empty entry: earlier ones can only be committed behind it (5.4.2)."""
    raft.reset(raft.term)
    raft.lead = raft.id
    raft.role = Role.LEADER
    if raft.tracker.own is not None:
        raft.tracker.own.become_replicate()
        raft.tracker.own.active = True
    log = raft.log
    # The tail may hold a configuration change that nobody has applied.
    raft.pending_conf_index = log.last_index
    replication.append(raft, [Entry(raft.term, log.last_index + 1)])


# --- voting ---------------------------------------------------------------------------------------------------------


def handle_vote_request(raft: Raft, message: Message) -> None:
    """Grant a vote, or say that one would be granted."""
    is_pre_vote = message.type == PRE_VOTE
    can_vote = (
        raft.vote == message.sender
        or (raft.vote == NONE and raft.lead == NONE)
        or (is_pre_vote and message.term > raft.term)
    )
    granted = can_vote and raft.log.is_up_to_date(message.log_term, message.index)
    if granted and not is_pre_vote:
        raft.election_elapsed = 0
        raft.vote = message.sender
    answer_vote(raft, message, granted)


def answer_vote(raft: Raft, request: Message, granted: bool) -> None:
    """A grant carries the term that was asked for, a refusal the voter's own, so that the asker catches up."""
    raft.send_after_append(
        Message(
            PRE_VOTE_RESP if request.type == PRE_VOTE else VOTE_RESP,
            to=request.sender,
            sender=raft.id,
            term=request.term if granted else raft.term,
            reject=not granted,
        )
    )


def handle_vote(raft: Raft, message: Message) -> None:
    """A vote for this candidate or against it, in the phase that it is in."""
    tracker = raft.tracker
    tracker.record_vote(message.sender, not message.reject)
    result = tracker.election_result()
    if result is VoteResult.LOST:
        raft.become_follower(raft.term, NONE)
    elif result is VoteResult.WON:
        if raft.role == Role.PRE_CANDIDATE:
            _campaign(raft, Campaign.ELECTION)
        else:
            become_leader(raft)
            replication.broadcast(raft)
