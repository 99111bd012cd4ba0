"""Repair: single rules, and random lives of a cluster in which no step may endanger the group."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import pytest

from copycat.messages import NONE
from copycat.placement import Candidate, place_available
from copycat.repair import (
    AddLearner,
    GroupView,
    NodeState,
    NodeView,
    Nothing,
    Pace,
    Policy,
    Promote,
    Remove,
    Replica,
    TransferLeader,
    decide,
    fresh_raft_id,
    missing,
)

GROUP = bytes(16)
POLICY = Policy(repair_delay_s=30.0, lag_max=10)
ALIVE, SUSPECT, DEAD = NodeState.ALIVE, NodeState.SUSPECT, NodeState.DEAD
LEAVING, LEFT = NodeState.LEAVING, NodeState.LEFT


def nodes_of(states: dict[str, NodeState], since: float = 0.0) -> dict[str, NodeView]:
    return {name: NodeView(Candidate(name), state, since) for name, state in states.items()}


def all_alive(names: str) -> dict[str, NodeView]:
    return nodes_of(dict.fromkeys(names, ALIVE))


def replicas(names: str, first: int = 1, match: int = 100) -> tuple[Replica, ...]:
    return tuple([Replica(first + position, name, match) for position, name in enumerate(names)])


def group(voters: str, learners: tuple[Replica, ...] = (), wanted: int = 3, leader: int = 1) -> GroupView:
    return GroupView(GROUP, leader, 100, replicas(voters), learners, wanted)


def wanted_nodes(names: str, count: int = 3) -> str:
    return "".join(place_available(GROUP, [Candidate(name) for name in names], count))


def test_a_dead_voter_is_replaced_after_the_delay_and_not_before():
    view = group("abc")
    nodes = nodes_of({"a": ALIVE, "b": ALIVE, "c": DEAD, "d": ALIVE}, since=100.0)
    assert isinstance(decide(129.9, view, nodes, POLICY, False), Nothing)
    assert decide(129.9, view, nodes, POLICY, True).look_again_at == 130.0
    assert decide(130.0, view, nodes, POLICY, False) == AddLearner("d")
    behind = replace(view, learners=(Replica(9, "d", 20),))
    assert isinstance(decide(131.0, behind, nodes, POLICY, False), Nothing)
    caught_up = replace(view, learners=(Replica(9, "d", 95),))
    assert decide(131.0, caught_up, nodes, POLICY, False) == Promote(9, replacing=3)


def test_nothing_is_done_while_a_change_is_under_way():
    view = replace(group("abc"), changing=True)
    nodes = nodes_of({"a": ALIVE, "b": ALIVE, "c": LEFT, "d": ALIVE})
    assert isinstance(decide(0.0, view, nodes, POLICY, True), Nothing)


def test_nothing_is_done_without_a_living_majority():
    nodes = nodes_of({"a": ALIVE, "b": DEAD, "c": DEAD, "d": ALIVE})
    assert isinstance(decide(1000.0, group("abc"), nodes, POLICY, True), Nothing)


def test_a_voter_that_comes_back_in_mid_repair_stays_and_the_recruit_goes():
    home = wanted_nodes("abcd")
    (outside,) = set("abcd") - set(home)
    view = group(home, (Replica(9, outside, 95),))
    assert decide(1000.0, view, all_alive("abcd"), POLICY, True) == Remove(9)


def test_a_leaving_leader_hands_over_first_and_then_its_voter():
    nodes = nodes_of({"a": LEAVING, "b": ALIVE, "c": ALIVE, "d": ALIVE})
    view = group("abc")
    assert decide(0.0, view, nodes, POLICY, False) == TransferLeader(3)
    view = replace(view, leader=3)
    assert decide(0.0, view, nodes, POLICY, False) == AddLearner("d")
    view = replace(view, learners=(Replica(9, "d", 100),))
    assert decide(0.0, view, nodes, POLICY, False) == Promote(9, replacing=1)


def test_a_lone_leaving_voter_is_followed_by_another():
    nodes = nodes_of({"a": LEAVING, "b": ALIVE})
    view = group("a", wanted=1)
    assert decide(0.0, view, nodes, POLICY, False) == AddLearner("b")
    view = replace(view, learners=(Replica(9, "b", 100),))
    assert decide(0.0, view, nodes, POLICY, False) == Promote(9, NONE)
    view = replace(view, voters=(*view.voters, Replica(9, "b", 100)), learners=())
    assert decide(0.0, view, nodes, POLICY, False) == TransferLeader(9)
    assert decide(0.0, replace(view, leader=9), nodes, POLICY, False) == Remove(1)


def test_a_group_shrinks_when_a_node_leaves_and_nobody_can_take_its_place():
    nodes = nodes_of({"a": ALIVE, "b": ALIVE, "c": LEAVING})
    assert decide(0.0, group("abc"), nodes, POLICY, False) == Remove(3)
    nodes = nodes_of({"a": ALIVE, "b": LEFT})
    assert isinstance(decide(0.0, group("ab"), nodes, POLICY, False), Nothing)  # one of two is no majority
    nodes = nodes_of({"a": ALIVE, "b": ALIVE, "c": DEAD})
    assert isinstance(decide(1000.0, group("abc"), nodes, POLICY, False), Nothing)  # it may come back


def test_a_leaving_voter_stays_while_the_others_alone_would_be_no_majority():
    nodes = nodes_of({"a": ALIVE, "b": DEAD, "c": LEAVING}, since=100.0)
    assert decide(101.0, group("abc"), nodes, POLICY, False) == Nothing(
        "to replace a voter, there is no node without a replica that can be used", 130.0
    )
    assert decide(101.0, group("abc", wanted=2), nodes, POLICY, False) == Remove(2)


def test_a_small_group_grows_when_nodes_come():
    assert isinstance(decide(0.0, group("a"), all_alive("a"), POLICY, False), Nothing)
    assert decide(0.0, group("a"), all_alive("ab"), POLICY, False) == AddLearner("b")
    view = group("a", (Replica(9, "b", 100),))
    assert decide(0.0, view, all_alive("ab"), POLICY, False) == Promote(9, NONE)
    assert missing([voter.node_id for voter in view.voters], view.replicas, all_alive("ab")) == 2


def test_the_new_voter_goes_where_the_voters_are_not():
    names = {"a": "X", "b": "Y", "c": "Z", "d": "X", "e": "Y", "f": "Z"}
    for seed in range(50):
        view = replace(group("abc"), group_id=random.Random(seed).randbytes(16))
        nodes = {name: NodeView(Candidate(name, center), ALIVE, 0.0) for name, center in names.items()}
        nodes["c"] = NodeView(Candidate("c", "Z"), DEAD, 0.0)
        assert decide(1000.0, view, nodes, POLICY, False) == AddLearner("f")
        stay_together = replace(view, data_center_replicas=2)
        assert decide(1000.0, stay_together, nodes, POLICY, False) in (AddLearner("d"), AddLearner("e"))


def test_a_subscriber_learner_stays_until_its_node_is_gone():
    home = wanted_nodes("abcs")
    outside = next(name for name in "abcs" if name not in home)
    view = group(home, (Replica(9, outside, 3, subscriber=True),))
    nodes = all_alive("abcs")
    assert isinstance(decide(0.0, view, nodes, POLICY, True), Nothing)
    nodes[outside] = NodeView(Candidate(outside), DEAD, 100.0)
    assert isinstance(decide(129.0, view, nodes, POLICY, True), Nothing)
    assert decide(130.0, view, nodes, POLICY, True) == Remove(9)
    nodes[outside] = NodeView(Candidate(outside), LEFT, 100.0)
    assert decide(100.0, view, nodes, POLICY, True) == Remove(9)


def test_a_subscriber_learner_where_placement_wants_a_voter_is_promoted():
    view = group("ab", (Replica(9, "c", 100, subscriber=True),))
    assert decide(0.0, view, all_alive("abc"), POLICY, False) == Promote(9, NONE)


def test_a_voter_too_many_goes_the_worst_placed_first_and_never_the_leader_itself():
    home = wanted_nodes("abcd")
    outside = next(name for name in "abcd" if name not in home)
    view = GroupView(GROUP, 1, 100, replicas(home + outside), (), 3)
    assert decide(0.0, view, all_alive("abcd"), POLICY, False) == Remove(4)
    assert isinstance(decide(0.0, replace(view, leader=4), all_alive("abcd"), POLICY, False), TransferLeader)


def test_rebalancing_waits_for_its_turn_and_for_everybody_to_be_well():
    names = "abcdef"
    home = wanted_nodes(names)
    away = [name for name in names if name not in home]
    view = group(home[0] + home[1] + away[0])
    nodes = all_alive(names)
    assert isinstance(decide(0.0, view, nodes, POLICY, False), Nothing)
    assert decide(0.0, view, nodes, POLICY, True) == AddLearner(home[2])
    arriving = replace(view, learners=(Replica(9, home[2], 100),))
    assert decide(0.0, arriving, nodes, POLICY, False) == Promote(9, replacing=3)
    nodes[home[1]] = NodeView(Candidate(home[1]), SUSPECT, 0.0)
    assert isinstance(decide(0.0, view, nodes, POLICY, True), Nothing)
    behind = replace(view, voters=(*view.voters[:2], replace(view.voters[2], match=0)))
    assert isinstance(decide(0.0, behind, all_alive(names), POLICY, True), Nothing)


def test_pace_lets_one_step_through_per_interval():
    pace = Pace(10.0)
    assert pace.allows(0.0)
    pace.took(0.0)
    assert not pace.allows(9.9)
    assert pace.allows(10.0)


def test_a_fresh_raft_id_is_valid_and_unused():
    rng = random.Random(1)
    used = {random.Random(1).randrange(1, 1 << 63)}
    for _ in range(100):
        raft_id = fresh_raft_id(rng, used)
        assert 0 < raft_id < 1 << 63
        assert raft_id not in used
        used.add(raft_id)


# --- random lives ---------------------------------------------------------------------------------------------------


@dataclass
class Machine:
    candidate: Candidate
    state: NodeState
    since: float


class Life:
    """A group on machines that die, return, join and leave; changes of configuration take effect at once."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now = 0.0
        self.machines: dict[str, Machine] = {}
        self.last_index = 1000
        self.used: set[int] = set()
        self.replicas = self.rng.choice([1, 2, 3, 3, 5])
        self.centers = self.rng.choice([0, 0, 1, 2])
        for _ in range(self.rng.randint(1, 7)):
            self.join()
        names = sorted(self.machines)[: self.replicas]
        self.voters = {self.fresh(): name for name in names}
        self.learners: dict[int, str] = {}
        self.subscribers: set[str] = set()
        self.match = dict.fromkeys(self.voters, 1000)
        self.leader = min(self.voters)
        self.group_id = self.rng.randbytes(16)
        self.steps = 0

    def fresh(self) -> int:
        raft_id = fresh_raft_id(self.rng, self.used)
        self.used.add(raft_id)
        return raft_id

    def join(self) -> None:
        name = f"m{len(self.machines)}"
        candidate = Candidate(name, self.rng.choice("XYZ"), self.rng.choice("12"), self.rng.choice([1.0, 1.0, 3.0]))
        self.machines[name] = Machine(candidate, ALIVE, self.now)

    def set_state(self, name: str, state: NodeState) -> None:
        machine = self.machines[name]
        if machine.state is not LEFT and machine.state is not state:
            machine.state, machine.since = state, self.now

    def views(self) -> dict[str, NodeView]:
        return {name: NodeView(one.candidate, one.state, one.since) for name, one in self.machines.items()}

    def living(self, name: str) -> bool:
        return self.machines[name].state in (ALIVE, SUSPECT, LEAVING)

    def living_majority(self, voters: dict[int, str]) -> bool:
        return 2 * sum(self.living(name) for name in voters.values()) > len(voters)

    def elect(self) -> bool:
        if not self.living_majority(self.voters):
            return False
        if self.leader not in self.voters or not self.living(self.voters[self.leader]):
            living = [raft_id for raft_id, name in self.voters.items() if self.living(name)]
            self.leader = max(living, key=lambda raft_id: self.match[raft_id])
        return True

    def group(self) -> GroupView:
        def as_replicas(ids: dict[int, str]) -> tuple[Replica, ...]:
            return tuple(
                [Replica(raft_id, name, self.match[raft_id], name in self.subscribers) for raft_id, name in ids.items()]
            )

        return GroupView(
            self.group_id,
            self.leader,
            self.last_index,
            as_replicas(self.voters),
            as_replicas(self.learners),
            self.replicas,
            self.centers,
        )

    def replicate(self) -> None:
        for raft_id, name in (self.voters | self.learners).items():
            if self.living(name):
                self.match[raft_id] = min(self.last_index, self.match[raft_id] + 600)

    def turn(self, may_rebalance: bool) -> bool:
        """One decision and its effect; True if something was done."""
        if not self.elect():
            return False
        view, nodes = self.group(), self.views()
        action = decide(self.now, view, nodes, POLICY, may_rebalance)
        assert action == decide(self.now, view, nodes, POLICY, may_rebalance)
        if isinstance(action, Nothing):
            assert action.look_again_at > self.now
            return False
        self.check(action)
        before_living = sum(self.living(name) for name in self.voters.values())
        if isinstance(action, AddLearner):
            raft_id = self.fresh()
            self.learners[raft_id] = action.node_id
            self.match[raft_id] = 0
        elif isinstance(action, Promote):
            self.voters[action.raft_id] = self.learners.pop(action.raft_id)
            self.voters.pop(action.replacing, None)
        elif isinstance(action, Remove):
            self.voters.pop(action.raft_id, None)
            self.learners.pop(action.raft_id, None)
        else:
            self.leader = action.to
        assert self.living_majority(self.voters), action
        after_living = sum(self.living(name) for name in self.voters.values())
        leaving = isinstance(action, Remove) and after_living < before_living
        assert after_living >= min(before_living, self.replicas) or leaving, action
        hosts = [*self.voters.values(), *self.learners.values()]
        assert len(hosts) == len(set(hosts)), "two replicas of a group on one node"
        self.steps += 1
        return True

    def check(self, action) -> None:
        if isinstance(action, AddLearner):
            assert self.machines[action.node_id].state is ALIVE
        elif isinstance(action, Promote):
            assert self.match[action.raft_id] + POLICY.lag_max >= self.last_index
            assert self.living(self.learners[action.raft_id])
            assert action.replacing != self.leader
            if action.replacing != NONE:
                assert action.replacing in self.voters
        elif isinstance(action, Remove):
            assert action.raft_id != self.leader
            if action.raft_id in self.voters:
                machine = self.machines[self.voters[action.raft_id]]
                assert len(self.voters) > self.replicas or machine.state in (LEAVING, LEFT)
            else:
                name = self.learners[action.raft_id]
                machine = self.machines[name]
                long_dead = machine.state is DEAD and self.now - machine.since >= POLICY.repair_delay_s
                assert name not in self.subscribers or long_dead or machine.state is LEFT
        else:
            assert isinstance(action, TransferLeader)
            assert self.machines[self.voters[action.to]].state in (ALIVE, SUSPECT)

    def trouble(self) -> None:
        rng = self.rng
        name = rng.choice(sorted(self.machines))
        dice = rng.random()
        if dice < 0.3:
            self.set_state(name, rng.choice([DEAD, SUSPECT]))
        elif dice < 0.65:
            self.set_state(name, ALIVE)
        elif dice < 0.75:
            self.join()
        elif dice < 0.8:
            self.set_state(name, LEAVING)
        elif dice < 0.83 and self.machines[name].state is LEAVING:
            self.set_state(name, LEFT)
        elif dice < 0.9 and self.machines[name].state is ALIVE:
            hosts = [*self.voters.values(), *self.learners.values()]
            if name not in hosts and self.elect():
                raft_id = self.fresh()
                self.learners[raft_id] = name
                self.match[raft_id] = 0
                self.subscribers.add(name)
        self.last_index += rng.choice([0, 0, 5, 400])
        self.now += rng.choice([0.1, 1.0, 10.0, 31.0])


@pytest.mark.parametrize("block", range(4))
def test_in_any_life_no_step_endangers_the_group_and_at_the_end_all_is_as_wanted(block):
    for seed in range(block * 50, block * 50 + 50):
        life = Life(seed)
        try:
            live_through(life)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error


def live_through(life: Life) -> None:
    for _ in range(60):
        life.trouble()
        for _ in range(life.rng.choice([0, 1, 3])):
            life.replicate()
            life.turn(life.rng.random() < 0.5)
    # Peace: all that did not leave come back.
    for name in life.machines:
        life.set_state(name, ALIVE)
    stuck = not life.elect()
    for _ in range(200):
        life.now += 1.0
        life.replicate()
        life.turn(True)
    if stuck:
        assert not life.elect(), "without a majority only those that left can be missing"
        return
    before = life.steps
    life.turn(True)
    assert life.steps == before, "it goes on changing things for ever"
    usable = [one.candidate for one in life.machines.values() if one.state is ALIVE]
    wanted = place_available(life.group_id, usable, life.replicas, life.centers)
    assert sorted(life.voters.values()) == sorted(wanted)
    assert set(life.learners.values()) <= life.subscribers
    assert all(life.machines[name].state is ALIVE for name in life.learners.values())
    group = life.group()
    lacking = missing([voter.node_id for voter in group.voters], group.replicas, life.views())
    assert lacking == life.replicas - len(wanted)


def test_a_rolling_restart_changes_nothing():
    life = Life(4)
    for _ in range(100):
        life.replicate()
        life.turn(True)
    before = life.steps
    for name in sorted(life.machines):
        life.set_state(name, SUSPECT)
        for state in (DEAD, ALIVE):
            for _ in range(8):
                life.now += 3.0
                life.replicate()
                life.turn(True)
            life.set_state(name, state)
    assert life.steps == before
