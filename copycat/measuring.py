"""Reads a node's counters and looks up the rest, when somebody asks: what :mod:`copycat.metrics` lists.

Runs on the engine's thread, between two turns, and costs some microseconds for each replica on the node.
"""

from __future__ import annotations

import heapq
from collections import Counter
from typing import TYPE_CHECKING

from copycat.gossip.records import MemberState
from copycat.health import check, consumer_lag, replica_lag
from copycat.ids import DataStructureId
from copycat.metrics import Sample, Spread
from copycat.ports import Lane
from copycat.stewardship import role_of

if TYPE_CHECKING:
    from copycat.engine import Engine
    from copycat.group import Group

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
    samples.add("healthy", float(check(engine).healthy))
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
        samples.add("group_lag_entries", replica_lag(group), name)
