"""Reads a node's counters and looks up the rest, when somebody asks: what :mod:`copycat.metrics` lists, and what ails the node.

Runs on the engine's thread, between two turns, and costs some microseconds for each replica on the node.
"""

from __future__ import annotations

import heapq
from collections import Counter
from typing import TYPE_CHECKING

from copycat.gossip.records import MemberState
from copycat.ids import DataStructureId
from copycat.metrics import Sample, Spread
from copycat.ports import Lane
from copycat.status import Health
from copycat.stewardship import role_of

if TYPE_CHECKING:
    from copycat.engine import Engine
    from copycat.group import Group

LEADERLESS_S = 5.0
"""An election takes less."""

LAG_ENTRIES_MAX = 10_000
"""A consumer that has more than so much log to receive does not keep up."""

ROLES = ("leader", "follower", "candidate", "learner")


class _Samples:
    """Collects samples under their full names."""

    def __init__(self) -> None:
        self.found: list[Sample] = []

    def add(self, name: str, value: float | Spread, *labels: str) -> None:
        self.found.append(Sample(f"copycat_{name}", value, labels))


def measure(engine: Engine, groups_max: int) -> list[Sample]:
    """All metrics but ``copycat_up``; of the groups with the longest logs, ``groups_max`` one by one."""
    samples = _Samples()
    config = engine.config
    samples.add("healthy", float(not ailments(engine)))
    samples.add("node_info", 1.0, engine.node_id, config.data_center, config.rack)
    _proposals(engine, samples)
    _groups(engine, samples)
    _storage(engine, samples)
    _traffic(engine, samples)
    _members(engine, samples)
    groups = engine.hosting.groups.values()
    for group in heapq.nlargest(groups_max, groups, key=lambda group: group.store.log_bytes):
        _one_group(group, samples)
    return samples.found


def _proposals(engine: Engine, samples: _Samples) -> None:
    tally = engine.tally
    samples.add("proposals_total", tally.proposals)
    samples.add("proposals_committed_total", tally.proposals_committed)
    samples.add("proposals_failed_total", tally.proposals_failed)
    samples.add("batches_sent_total", tally.batches_sent)
    samples.add("batch_proposals", tally.batch_proposals.spread())
    samples.add("commit_latency_seconds", tally.commit_latency.spread())
    samples.add("items_applied_total", tally.items_applied)
    proposals_bytes, commits_bytes = engine.consumers.queue_bytes()
    samples.add("consumers", engine.consumers.count)
    samples.add("queue_bytes", proposals_bytes, "proposals")
    samples.add("queue_bytes", commits_bytes, "commits")


def _groups(engine: Engine, samples: _Samples) -> None:
    groups = engine.hosting.groups.values()
    roles = Counter(role_of(group) for group in groups)
    for role in ROLES:
        samples.add("groups", roles[role], role)
    samples.add("groups_leaderless", sum(not group.leader for group in groups))
    samples.add("leader_changes_total", engine.tally.leader_changes)
    samples.add("elections_won_total", engine.tally.elections_won)
    samples.add("consumer_lag_entries", max(map(consumer_lag, groups), default=0))
    samples.add("log_bytes", sum(group.store.log_bytes for group in groups))
    samples.add("logs_full", sum(group.log_full for group in groups))
    ages = [engine.now - group.snapshots.since for group in groups if group.store.snapshots.current is not None]
    samples.add("snapshot_age_seconds", max(ages, default=0.0))


def _storage(engine: Engine, samples: _Samples) -> None:
    samples.add("sync_seconds", engine.tally.sync.spread())
    samples.add("written_bytes_total", engine.counters.write_bytes)
    samples.add("write_age_seconds", engine.write_age())
    samples.add("engine_turns_total", engine.counters.turns)


def _traffic(engine: Engine, samples: _Samples) -> None:
    metered = engine.transport
    for lane in Lane:
        name = lane.name.lower()
        samples.add("frames_sent_total", metered.frames_sent[lane], name)
        samples.add("sent_bytes_total", metered.bytes_sent[lane], name)
        samples.add("frames_dropped_total", metered.frames_dropped[lane], name)
        samples.add("frames_received_total", metered.frames_received[lane], name)
        samples.add("received_bytes_total", metered.bytes_received[lane], name)
    samples.add("frames_rejected_total", engine.counters.frames_rejected)
    samples.add("messages_rejected_total", engine.counters.items_rejected)
    samples.add("messages_postponed_total", engine.counters.items_postponed)


def _members(engine: Engine, samples: _Samples) -> None:
    swim = engine.cluster.swim
    states = Counter(record.state for record in swim.members())
    for state in MemberState:
        samples.add("members", states[state], state.name.lower())
    counters = swim.counters
    samples.add("probes_total", counters.probes)
    samples.add("probes_failed_total", counters.probes_failed)
    samples.add("suspicions_refuted_total", counters.refuted)
    samples.add("stalls_total", counters.stalls)
    samples.add("awareness_score", swim.health)


def _one_group(group: Group, samples: _Samples) -> None:
    name = str(DataStructureId(group.id))
    samples.add("group_commit_position", group.sequencer.position, name)
    samples.add("group_log_bytes", group.store.log_bytes, name)
    if group.leads:
        last = group.raft.last_index
        lags = [last - match for raft_id, match in group.matches().items() if raft_id != group.raft_id]
        samples.add("group_lag_entries", max(lags, default=0), name)


def consumer_lag(group: Group) -> int:
    """Entries that the slowest consumer of the group on this node has yet to be handed."""
    return max([group.sequencer.index - feed.sequencer.index for feed in group.feeds], default=0)


# --- what ails it -----------------------------------------------------------------------------------------------------


def check(engine: Engine) -> Health:
    """Whether this node is well, and why not."""
    reasons = ailments(engine)
    return Health(not reasons, tuple(reasons))


def ailments(engine: Engine) -> list[str]:
    """What is wrong, in words, the most pressing first."""
    reasons = []
    age = engine.write_age()
    if age >= engine.config.stalled_disk_hand_over_s:
        reasons.append(f"the disk stands still: a write has not come back for {age:.1f} s")
    swim = engine.cluster.swim
    if not swim.joined:
        reasons.append(f"this node is in no cluster: {swim.reason}")
    known, alive = len(swim.known()), len(swim.alive())
    if 2 * alive <= known:
        reasons.append(f"no majority of the cluster: {alive} of {known} known nodes are alive")
    groups = list(engine.hosting.groups.values())
    leaderless = [group for group in groups if not group.leader and engine.now - group.led_at >= LEADERLESS_S]
    mute = [group for group in leaderless if not engine.recoveries.has_quorum(group)]
    _name(reasons, mute, "no quorum: a majority of the voters is away")
    _name(reasons, [group for group in leaderless if group not in mute], f"no leader for {LEADERLESS_S:g} s or more")
    _name(reasons, [group for group in groups if group.log_full or group.log_full_until], "the log is full")
    lagging = [group for group in groups if consumer_lag(group) > LAG_ENTRIES_MAX]
    _name(reasons, lagging, f"a consumer here lags by more than {LAG_ENTRIES_MAX} entries")
    return reasons


def _name(reasons: list[str], groups: list[Group], what: str) -> None:
    """Say of how many groups this is so, and name one."""
    if groups:
        reasons.append(f"{what}: {len(groups)} groups, among them {DataStructureId(groups[0].id)}")
