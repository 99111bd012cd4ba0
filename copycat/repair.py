"""What a group's leader should change about its replicas next: at most one step, or nothing.

Rules, in this order:

1. One change at a time, and none that the living voters could not commit.
2. A voter is replaced when its node has been dead for the repair delay, or is leaving, or has left. The newcomer is
first a learner with an id never used before, catches up, and then takes the old one's place in one joint change
(Ongaro's thesis, sections 4.2.1 and 4.3). Where no node can take the place of one that leaves for good, the group
shrinks, as long as the living voters that remain are a majority of what remains. 3. A leader on a node that is leaving
hands the leadership over first. 4. A group with too few voters grows when there is a node for it; one with too many
gives up the one that is placed worst. 5. Learners of subscribers stay learners until their node has been dead for the
delay, or has left, or placement wants that very node. Learners that a repair added and nobody needs any more are taken
away. 6. Only if every voter is alive and has caught up, and the caller's pace allows it, voters move to where
placement wants them.

A node that is back within the delay changes nothing, so flapping and rolling restarts are free. The same input always
gives the same answer; nothing is remembered between calls.

Never does: send, wait, read a clock, or choose raft ids (but see :func:`fresh_raft_id`).
"""

from __future__ import annotations

import enum
import math
import random
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from copycat.messages import NONE
from copycat.placement import Candidate, place_available, score


class NodeState(enum.Enum):
    ALIVE = "alive"
    SUSPECT = "suspect"
    DEAD = "dead"
    LEAVING = "leaving"  # alive, and waits to be rid of its replicas
    LEFT = "left"


@dataclass(frozen=True, slots=True)
class NodeView:
    """A member. ``since`` is when it came to be in ``state``, in seconds of the caller's monotonic clock."""

    candidate: Candidate
    state: NodeState
    since: float


@dataclass(frozen=True, slots=True)
class Replica:
    """One raft of the group. ``match`` is the last log index known to be on it (the leader's Progress).

    ``subscriber``: it is there because a consumer on its node asked for it; looked at for learners only.
    """

    raft_id: int
    node_id: str
    match: int
    subscriber: bool = False


@dataclass(frozen=True, slots=True)
class GroupView:
    """A group, seen by its leader. ``changing``: joint, or a configuration change is proposed and not yet applied."""

    group_id: bytes
    leader: int
    last_index: int
    voters: tuple[Replica, ...]
    learners: tuple[Replica, ...]
    replicas: int
    data_center_replicas: int = 0
    changing: bool = False


@dataclass(frozen=True, slots=True)
class Policy:
    """``repair_delay_s``: how long a node is dead before its voters are replaced. ``lag_max``: a replica that is this
    many entries behind, or fewer, has caught up.
    """

    repair_delay_s: float = 30.0
    lag_max: int = 64


@dataclass(frozen=True, slots=True)
class AddLearner:
    """Start a raft on ``node_id`` and add it as learner, with an id from :func:`fresh_raft_id`."""

    node_id: str


@dataclass(frozen=True, slots=True)
class Promote:
    """Make the learner ``raft_id`` a voter; unless NONE, the voter ``replacing`` goes in the same joint change."""

    raft_id: int
    replacing: int = NONE


@dataclass(frozen=True, slots=True)
class Remove:
    """Take a voter or learner out of the configuration."""

    raft_id: int


@dataclass(frozen=True, slots=True)
class TransferLeader:
    to: int


@dataclass(frozen=True, slots=True)
class Nothing:
    """No change now. ``look_again_at``: when time alone could change that; infinity if only an event can."""

    reason: str
    look_again_at: float = math.inf


Action = AddLearner | Promote | Remove | TransferLeader | Nothing


class Pace:
    """Lets one rebalancing step through per ``interval_s``, for all groups of a node together."""

    __slots__ = ("_interval_s", "_next_at")

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._next_at = -math.inf

    def allows(self, now: float) -> bool:
        return now >= self._next_at

    def took(self, now: float) -> None:
        """A step was made that :func:`decide` gave for rebalancing."""
        self._next_at = now + self._interval_s


def fresh_raft_id(rng: random.Random, used: Collection[int]) -> int:
    """A raft id, positive and below 2**63, at random, so that ids of removed replicas don't come back."""
    while True:
        raft_id = rng.randrange(1, 1 << 63)
        if raft_id not in used:
            return raft_id


def decide(now: float, group: GroupView, nodes: Mapping[str, NodeView], policy: Policy, may_rebalance: bool) -> Action:
    """The next step for ``group``, by its leader.

    ``nodes`` are all members, also those that left while a replica of the group is on them. A node that is missing
    there counts as neither alive nor gone: nothing is done about it. Pure; any thread.
    """
    if group.changing:
        return Nothing("a change is under way")
    return _Decision(now, group, nodes, policy).next(may_rebalance)


def missing(voters: Iterable[str], wanted: int, nodes: Mapping[str, NodeView]) -> int:
    """How many living voters are missing to the number wanted; one within the repair delay is not living."""
    living = sum([node_id in nodes and nodes[node_id].state in _LIVING for node_id in voters])
    return max(0, wanted - living)


class _Decision:
    """One call of :func:`decide`: the questions that the rules ask, with the answers' inputs at hand."""

    __slots__ = ("group", "nodes", "now", "policy")

    def __init__(self, now: float, group: GroupView, nodes: Mapping[str, NodeView], policy: Policy) -> None:
        self.now = now
        self.group = group
        self.nodes = nodes
        self.policy = policy

    # --- the rules -----------------------------------------------------------------------------------------------

    def next(self, may_rebalance: bool) -> Action:
        group = self.group
        if not self.is_majority(group.voters):
            return self.nothing("the living voters are no majority")
        handover = self.hand_over_leadership()
        if handover is not None:
            return handover
        for learner in group.learners:
            if self.is_gone(learner) or (self.is_leaving(learner) and not learner.subscriber):
                return Remove(learner.raft_id)
        doomed = [voter for voter in group.voters if self.is_gone(voter) or self.is_leaving(voter)]
        doomed.sort(key=lambda voter: (not self.is_gone(voter), voter.raft_id))
        if len(group.voters) > group.replicas:
            return self.shrink(doomed)
        if doomed:
            return self.replace(doomed[0])
        if len(group.voters) < group.replicas:
            return self.bring_in(NONE, "grow")
        return self.rebalance(may_rebalance)

    def hand_over_leadership(self) -> Action | None:
        leader = self.voter(self.group.leader)
        if leader is None or not self.is_leaving(leader):
            return None
        heirs = [voter for voter in self.group.voters if self.is_settled(voter)]
        if not heirs:
            return None
        return TransferLeader(max(heirs, key=lambda voter: (voter.match, voter.raft_id)).raft_id)

    def replace(self, old: Replica) -> Action:
        # The leader does not vote itself out: the newcomer comes in beside it, gets the lead, and then removes it.
        replacing = NONE if old.raft_id == self.group.leader else old.raft_id
        action = self.bring_in(replacing, "replace a voter")
        if not isinstance(action, Nothing) or self.recruits() or self.best_new_node() is not None:
            return action
        for_good = self.is_leaving(old) or self.state(old) is NodeState.LEFT
        others = tuple([voter for voter in self.group.voters if voter.raft_id != old.raft_id])
        if for_good and replacing != NONE and self.is_majority(others):
            return Remove(old.raft_id)
        return action

    def bring_in(self, replacing: int, purpose: str) -> Action:
        recruits = self.recruits()
        ready = [learner for learner in recruits if self.is_settled(learner)]
        if ready:
            return self.promote(max(ready, key=lambda learner: (learner.match, learner.raft_id)), replacing)
        if recruits:
            return self.nothing(f"to {purpose}, a learner is catching up")
        node_id = self.best_new_node()
        if node_id is None:
            return self.nothing(f"to {purpose}, there is no node without a replica that can be used")
        for learner in self.group.learners:
            if learner.node_id == node_id:
                if self.is_settled(learner):
                    return self.promote(learner, replacing)
                return self.nothing(f"to {purpose}, a subscriber's learner is catching up")
        return AddLearner(node_id)

    def promote(self, learner: Replica, replacing: int) -> Promote:
        voters = tuple([voter for voter in self.group.voters if voter.raft_id != replacing])
        assert self.is_majority((*voters, learner)), "a settled learner can only add to a living majority"
        return Promote(learner.raft_id, replacing)

    def shrink(self, doomed: list[Replica]) -> Action:
        wanted = self.wanted_nodes()
        rest = [voter for voter in self.group.voters if voter not in doomed]
        rest.sort(
            key=lambda voter: (self.is_living(voter), voter.node_id in wanted, self.is_settled(voter), voter.raft_id)
        )
        for voter in (*doomed, *rest):
            others = tuple([other for other in self.group.voters if other.raft_id != voter.raft_id])
            if not self.is_majority(others):
                continue
            if voter.raft_id != self.group.leader:
                return Remove(voter.raft_id)
            heirs = [other for other in others if self.is_settled(other)]
            if heirs:
                return TransferLeader(max(heirs, key=lambda heir: (heir.match, heir.raft_id)).raft_id)
        return self.nothing("there is a voter too many, but none can go safely")

    def rebalance(self, may_rebalance: bool) -> Action:
        group = self.group
        if not may_rebalance and not self.recruits():
            return self.nothing("all voters are there")  # spares a placement, for thousands of groups at each look
        wanted = self.wanted_nodes()
        misplaced = [voter for voter in group.voters if voter.node_id not in wanted]
        missing = [node_id for node_id in wanted if node_id not in {voter.node_id for voter in group.voters}]
        healthy = all(self.is_settled(voter) and self.state(voter) is NodeState.ALIVE for voter in group.voters)
        for learner in self.recruits():
            if not misplaced or learner.node_id not in missing:
                return Remove(learner.raft_id)
        if not misplaced or not missing:
            return self.nothing("all is as it should be")
        if not healthy:
            return self.nothing("voters could be placed better, once all are well")
        arrived = [learner for learner in group.learners if learner.node_id in missing and not learner.subscriber]
        if not arrived:
            arrived = [learner for learner in group.learners if learner.node_id == missing[0]]
        if not arrived:
            if not may_rebalance:
                return self.nothing("voters could be placed better, when it is their turn")
            node = self.nodes[missing[0]]
            return AddLearner(missing[0]) if node.state is NodeState.ALIVE else self.nothing("a node is away")
        if not self.is_settled(arrived[0]):
            return self.nothing("to move a voter, a learner is catching up")
        if [voter.raft_id for voter in misplaced] == [group.leader]:
            heirs = [voter for voter in group.voters if voter.node_id in wanted]
            if not heirs:
                return self.promote(arrived[0], NONE)  # a lone voter: the new one comes beside it and takes the lead
            return TransferLeader(max(heirs, key=lambda voter: (voter.match, voter.raft_id)).raft_id)
        old = next(voter for voter in misplaced if voter.raft_id != group.leader)
        return self.promote(arrived[0], old.raft_id)

    # --- the questions -------------------------------------------------------------------------------------------

    def state(self, replica: Replica) -> NodeState | None:
        node = self.nodes.get(replica.node_id)
        return node.state if node is not None else None

    def is_living(self, replica: Replica) -> bool:
        return self.state(replica) in _LIVING

    def is_leaving(self, replica: Replica) -> bool:
        return self.state(replica) is NodeState.LEAVING

    def is_gone(self, replica: Replica) -> bool:
        node = self.nodes.get(replica.node_id)
        return node is not None and self.is_node_gone(node)

    def is_node_gone(self, node: NodeView) -> bool:
        if node.state is NodeState.DEAD:
            return self.now - node.since >= self.policy.repair_delay_s
        return node.state is NodeState.LEFT

    def is_settled(self, replica: Replica) -> bool:
        """Stays, answers, and has nearly all of the log."""
        staying = self.is_living(replica) and not self.is_leaving(replica)
        return staying and replica.match + self.policy.lag_max >= self.group.last_index

    def living_count(self, replicas: tuple[Replica, ...]) -> int:
        return sum([self.is_living(replica) for replica in replicas])

    def is_majority(self, voters: tuple[Replica, ...]) -> bool:
        return 2 * self.living_count(voters) > len(voters)

    def voter(self, raft_id: int) -> Replica | None:
        return next((voter for voter in self.group.voters if voter.raft_id == raft_id), None)

    def recruits(self) -> list[Replica]:
        """Learners that a repair added: whoever is under way is used, even if placement would choose another by now."""
        return [learner for learner in self.group.learners if not learner.subscriber]

    def wanted_nodes(self) -> tuple[str, ...]:
        """Where placement wants the voters; nodes within the repair delay are still counted on."""
        group = self.group
        candidates = [
            node.candidate
            for node in self.nodes.values()
            if not self.is_node_gone(node) and node.state is not NodeState.LEAVING
        ]
        return place_available(group.group_id, candidates, group.replicas, group.data_center_replicas)

    def best_new_node(self) -> str | None:
        """The node that adds most to the spread of the voters that stay; among equals, placement's choice."""
        group = self.group
        staying = [voter for voter in group.voters if not self.is_gone(voter) and not self.is_leaving(voter)]
        homes = [self.nodes[voter.node_id].candidate for voter in staying if voter.node_id in self.nodes]
        taken = {voter.node_id for voter in group.voters}
        free = [
            node.candidate
            for node in self.nodes.values()
            if node.state is NodeState.ALIVE
            and not node.candidate.excluded
            and node.candidate.weight > 0
            and node.candidate.node_id not in taken
        ]
        if not free:
            return None
        wanted = self.wanted_nodes()
        centers = [home.data_center for home in homes]
        enough = 0 < group.data_center_replicas <= len(set(centers))

        def rank(candidate: Candidate) -> tuple[bool, int, int, bool, float, str]:
            mates = centers.count(candidate.data_center)
            rack = (candidate.data_center, candidate.rack)
            rack_mates = sum([(home.data_center, home.rack) == rack for home in homes])
            best = score(group.group_id, candidate.node_id, candidate.weight)
            unwanted = candidate.node_id not in wanted
            return (enough and mates == 0, mates, rack_mates, unwanted, -best, candidate.node_id)

        return min(free, key=rank).node_id

    def nothing(self, reason: str) -> Nothing:
        replicas = (*self.group.voters, *self.group.learners)
        dead = [self.nodes[one.node_id] for one in replicas if self.state(one) is NodeState.DEAD]
        due = [node.since + self.policy.repair_delay_s for node in dead]
        return Nothing(reason, min([when for when in due if when > self.now], default=math.inf))


_LIVING = frozenset((NodeState.ALIVE, NodeState.SUSPECT, NodeState.LEAVING))
