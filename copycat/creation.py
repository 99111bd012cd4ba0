"""Creates a group once: the proposer of single-decree Paxos, and the only judge of "it does not exist".

An attempt asks every known member, dead ones too, and needs a strict majority of them (Lamport, "Paxos made simple",
2001). Phase 1 finds out what exists: when a majority promises and none of it has accepted anything, nothing was chosen
before. Phase 2 gets the wish accepted, or, if phase 1 saw one, the value with the highest ballot: an attempt that died
half-way is finished by the next one. On a conflict it steps back for a random time and tries a higher ballot.

Silence never means "does not exist": without a majority the attempt fails with NoQuorum, before its time-out.

A retry with the same genesis (same nonce) is idempotent: it ends with the group that the first try made. The random
number in a ballot keeps two attempts of one node, one before and one after a restart, from sharing a ballot, so a
proposer needs no disk; its ``rng`` must therefore not be seeded alike in two attempts.

Never does: vote (that is :mod:`copycat.acceptor`, this node's own included), wait, or read a clock.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Iterable
from dataclasses import dataclass

from copycat.errors import NoQuorum
from copycat.genesis import (
    NO_BALLOT,
    Accept,
    Accepted,
    Ballot,
    Chosen,
    CreationMessage,
    Genesis,
    NotReady,
    Outbid,
    Prepare,
    Promise,
    Refresh,
    Send,
    roster_digest,
)

RESEND_S = 0.25
BACKOFF_FIRST_S = 0.02
BACKOFF_MAX_S = 1.0
_SILENT_NAMED_MAX = 5


class Verdict(enum.Enum):
    CREATED = "created"  # the group exists, by this wish
    EXISTS = "exists"  # the group exists, by another
    ABSENT = "absent"  # a majority said that nothing was chosen (only when nothing was proposed)
    FAILED = "failed"  # nothing is known


@dataclass(frozen=True, slots=True)
class Outcome:
    """``genesis`` is there for CREATED and EXISTS, ``error`` for FAILED."""

    verdict: Verdict
    genesis: Genesis | None = None
    error: NoQuorum | None = None


class _Phase(enum.Enum):
    PREPARE = 1
    ACCEPT = 2
    BACKOFF = 3
    DONE = 4


class Creation:
    """One attempt for one group id. Times are seconds of the caller's monotonic clock. One thread at a time.

    ``proposal`` None only asks whether the group exists (and finishes what an earlier attempt left half-done).
    ``members`` are all nodes ever known that have not left, dead or alive; ``left`` those that have.
    It gives up after ``timeout_s``; it may be asked :meth:`why_failed` before.
    """

    def __init__(
        self,
        node_id: str,
        group_id: bytes,
        proposal: Genesis | None,
        members: Iterable[str],
        left: Iterable[str],
        rng: random.Random,
        now: float,
        timeout_s: float,
    ) -> None:
        assert proposal is None or proposal.group_id == group_id
        self.node_id = node_id
        self.group_id = group_id
        self.outcome: Outcome | None = None
        self.ballots_tried = 0
        self._proposal = proposal
        self._left = set(left) - {node_id}
        self._members = (set(members) | {node_id}) - self._left
        self._rng = rng
        self._nonce = rng.getrandbits(63)
        self._deadline = now + timeout_s
        self._phase = _Phase.BACKOFF
        self._next_at = now
        self._conflicts = 0
        self._ballot: Ballot = NO_BALLOT
        self._round_seen = 0
        self._digest = b""
        self._value: Genesis | None = None
        self._highest: Ballot = NO_BALLOT
        self._voted: set[str] = set()
        self._heard: set[str] = set()
        self._not_ready: set[str] = set()
        self._want_list: set[str] = set()

    @property
    def members(self) -> frozenset[str]:
        """Whom this attempt counts; grows with what acceptors know."""
        return frozenset(self._members)

    def next_deadline(self) -> float:
        """When :meth:`tick` is due; infinity after the end."""
        return min(self._next_at, self._deadline) if self.outcome is None else float("inf")

    def tick(self, now: float) -> list[Send]:
        """Start (the first call), repeat what was not answered, try again after a conflict, or give up."""
        if self.outcome is not None or now < self.next_deadline():
            return []
        if now >= self._deadline:
            self._finish(Outcome(Verdict.FAILED, error=self.why_failed()))
            return []
        if self._phase is _Phase.BACKOFF:
            return self._new_ballot(now)
        self._next_at = now + RESEND_S
        return [self._request(node) for node in sorted(self._members - self._voted)]

    def step(self, sender: str, message: CreationMessage, now: float) -> list[Send]:
        """Take an acceptor's answer. Late, repeated and foreign ones are ignored."""
        if self.outcome is not None:
            return []
        if isinstance(message, Chosen):
            if message.genesis.group_id != self.group_id:
                return []
            self._heard.add(sender)
            return self._decided(message.genesis)
        if isinstance(message, (Promise, Accepted, Outbid, Refresh, NotReady)):
            if message.group_id != self.group_id or message.ballot != self._ballot or sender not in self._members:
                return []
            self._heard.add(sender)
            return self._on_answer(sender, message, now)
        return []

    def _on_answer(
        self, sender: str, message: Promise | Accepted | Outbid | Refresh | NotReady, now: float
    ) -> list[Send]:
        self._not_ready.discard(sender)
        if isinstance(message, NotReady):
            self._not_ready.add(sender)
            return []
        if isinstance(message, Outbid):
            self._round_seen = max(self._round_seen, message.promised[0])
            if self._phase is not _Phase.BACKOFF:
                self._back_off(now)
            return []
        if isinstance(message, Refresh):
            return self._on_refresh(sender, message, now)
        if isinstance(message, Promise):
            return self._on_promise(sender, message, now)
        return self._on_accepted(sender)

    def _on_promise(self, sender: str, message: Promise, now: float) -> list[Send]:
        if self._phase is not _Phase.PREPARE:
            return []
        self._voted.add(sender)
        if message.genesis is not None and message.accepted > self._highest:
            self._highest, self._value = message.accepted, message.genesis
        if not self._has_majority():
            return []
        if self._value is None:
            if self._proposal is None:
                return self._finish(Outcome(Verdict.ABSENT))
            if self._proposal.names(*self._left):
                # Nothing is decided yet, and this would be a group that begins with a voter that never comes.
                return self._finish(
                    Outcome(Verdict.FAILED, error=NoQuorum("a node left that was to be a voter: try again"))
                )
            self._value = self._proposal
        self._phase = _Phase.ACCEPT
        self._voted = set()
        self._next_at = now + RESEND_S
        return [self._request(node) for node in sorted(self._members)]

    def _on_accepted(self, sender: str) -> list[Send]:
        if self._phase is not _Phase.ACCEPT:
            return []
        self._voted.add(sender)
        if not self._has_majority():
            return []
        assert self._value is not None
        return self._decided(self._value)

    def _on_refresh(self, sender: str, message: Refresh, now: float) -> list[Send]:
        left = self._left | (set(message.left) - {self.node_id})
        members = (self._members | set(message.known)) - left
        if members == self._members and left == self._left:
            if sender in self._want_list:
                return []  # it counts a node that we know has left; gossip will tell it
            self._want_list.add(sender)
            return [self._request(sender)] if self._phase is not _Phase.BACKOFF else []
        self._left, self._members = left, members
        if self._phase is _Phase.BACKOFF:
            return []
        # Votes were given for another list: they prove nothing about this one.
        return self._new_ballot(now)

    def _new_ballot(self, now: float) -> list[Send]:
        self._round_seen += 1
        self._ballot = (self._round_seen, self.node_id, self._nonce)
        self.ballots_tried += 1
        self._digest = roster_digest(self._members)
        self._phase = _Phase.PREPARE
        self._value, self._highest = None, NO_BALLOT
        self._voted, self._heard, self._not_ready = set(), set(), set()
        self._next_at = now + RESEND_S
        return [self._request(node) for node in sorted(self._members)]

    def _back_off(self, now: float) -> None:
        self._conflicts += 1
        longest = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * (1 << min(self._conflicts, 16)))
        self._phase = _Phase.BACKOFF
        self._next_at = now + self._rng.uniform(0.0, longest)

    def _request(self, node: str) -> Send:
        members = tuple(sorted(self._members)) if node in self._want_list else ()
        if self._phase is _Phase.PREPARE:
            return Send(node, Prepare(self.group_id, self._ballot, self._digest, members))
        assert self._value is not None
        return Send(node, Accept(self._ballot, self._value, self._digest, members, self._highest != NO_BALLOT))

    def _has_majority(self) -> bool:
        return 2 * len(self._voted) > len(self._members)

    def _decided(self, genesis: Genesis) -> list[Send]:
        mine = self._proposal is not None and genesis.nonce == self._proposal.nonce
        self._finish(Outcome(Verdict.CREATED if mine else Verdict.EXISTS, genesis))
        return [Send(node, Chosen(genesis)) for node in sorted(self._members)]

    def _finish(self, outcome: Outcome) -> list[Send]:
        self.outcome = outcome
        self._phase = _Phase.DONE
        return []

    def why_failed(self) -> NoQuorum:
        """What to tell whoever can't wait any longer."""
        return NoQuorum(self._reason())

    def _reason(self) -> str:
        known, heard = len(self._members), len(self._heard)
        needed = known // 2 + 1
        text = f"{heard} of {known} known nodes answered in time; {needed} are needed to create or find a group."
        silent = sorted(self._members - self._heard)
        if silent:
            more = f" and {len(silent) - _SILENT_NAMED_MAX} more" if len(silent) > _SILENT_NAMED_MAX else ""
            text += f" Silent: {', '.join(silent[:_SILENT_NAMED_MAX])}{more}."
        if self._not_ready:
            text += f" {len(self._not_ready)} answered that they are still joining, or leaving."
        if heard >= needed and not self._not_ready:
            return text + " Other creators were in the way: try again."
        return text + " Bring nodes back, or remove those that are gone for good."
