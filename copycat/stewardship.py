"""What a group's leader does for its group, beside replicating: members come and go, sessions end, damage is repaired.

Every decision is the leader's own, and takes effect through the group's log alone; gossip only gives the reasons. What a
leader learns too late, or says to somebody who is gone, is said again with the next tick.
"""

from __future__ import annotations

import logging
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING

from copycat import codec, sessions
from copycat.errors import CodecError, StorageFailed, UsageError
from copycat.group import Group
from copycat.ids import DataStructureId, name_of
from copycat.messages import (
    ConfChange,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
    EntryType,
    Message,
)
from copycat.placement import Candidate
from copycat.plausibility import is_member
from copycat.protocol import (
    JoinAsk,
    LeaderHint,
    LeaveAsk,
    LogFullNotice,
    ReplicaAsk,
    ReplicaInvite,
    ReplicaRemoved,
    SnapshotAsk,
    SnapshotFailed,
    SnapshotOffer,
)
from copycat.raft import Role
from copycat.repair import (
    Action,
    AddLearner,
    GroupView,
    NodeState,
    NodeView,
    Pace,
    Policy,
    Promote,
    Remove,
    TransferLeader,
    decide,
    fresh_raft_id,
    missing,
)
from copycat.repair import Replica as ReplicaView
from copycat.sequencer import Replica, pack_context
from copycat.status import GroupStatus, Peer

if TYPE_CHECKING:
    from copycat.engine import Engine

log = logging.getLogger(__name__)

CHECK_EVERY_TICKS = 10
CHECKS_PER_TICK_MAX = 200
"""Groups that are looked at in one tick: with thousands, a round takes longer, and never holds a turn up."""
LEARNER_LINGERS_S = 60.0
REBALANCE_EVERY_S = 1.0
LOG_FULL_CLEARS_AT = 0.9
CAUGHT_UP_ENTRIES = 8
NOT_REPLICATING = -(1 << 62)
"""Stands for the match of a replica whose log does not join the leader's yet: it has not caught up, however short that is."""
LOG_FULL_LEASE_CHECKS = 6
"""The leader's word that the log is full holds for so many of its checks; each repeats it, so a lost word is no harm."""


def role_of(group: Group) -> str:
    """``leader``, ``follower``, ``candidate`` or ``learner``."""
    if group.raft.role is Role.LEADER:
        return "leader"
    if group.raft_id not in group.voters():
        return "learner"
    return "follower" if group.raft.role is Role.FOLLOWER else "candidate"


class Stewardship:
    """Belongs to the engine's thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._ticks = 0
        self._round: deque[Group] = deque()
        self._round_at = 0
        self._seen: dict[str, NodeView] = {}
        self._seen_at = -CHECK_EVERY_TICKS
        self._pace = Pace(REBALANCE_EVERY_S)
        self._deserted: dict[bytes, float] = {}
        handlers = engine.handlers
        handlers[JoinAsk] = self._on_join
        handlers[LeaveAsk] = self._on_leave
        handlers[LogFullNotice] = self._on_log_full
        handlers[SnapshotAsk] = self._on_snapshot_ask
        handlers[SnapshotOffer] = self._on_snapshot_offer
        handlers[SnapshotFailed] = self._on_snapshot_failed

    # --- time and change ---

    def tick(self) -> None:
        self._ticks += 1
        groups = self._engine.hosting.groups
        if self._ticks % CHECK_EVERY_TICKS == 0:
            self._watch_disk()
        if not self._round and self._ticks >= self._round_at:
            self._round_at = self._ticks + CHECK_EVERY_TICKS
            self._round.extend(groups.values())
        for _ in range(min(len(self._round), CHECKS_PER_TICK_MAX, 1 + len(groups) // CHECK_EVERY_TICKS)):
            group = self._round.popleft()
            if groups.get(group.id) is group:
                self._look_at(group)

    def _look_at(self, group: Group) -> None:
        """See what there is to do for one group."""
        if group.leader:
            group.led_at = self._engine.now
        if 0 < group.log_full_until < self._engine.now:
            self._set_log_full(group, 0.0)
        if group.leads:
            self._dismiss(group)
            self.watch_log(group)
            self._expire_sessions(group)
            if self._ticks - self._seen_at >= CHECK_EVERY_TICKS:
                self._seen, self._seen_at = self.nodes(), self._ticks
            self._repair(group, self._seen)
        elif group.raft.abandoned or group.removed:
            self._ask_whether_removed(group)
        self._leave_if_deserted(group, at_once=self._engine.departures.leaving)

    def changed_role(self, group: Group) -> None:
        self._engine.cluster.hosts(group)
        for proposer in group.proposers:
            proposer.channel.set_log_full(False)
        group.log_full = False
        group.log_full_until = 0.0

    def changed_members(self, group: Group) -> None:
        """Tell those that were added or removed; they may hear it from nobody else."""
        self._engine.cluster.hosts(group)
        if not group.leads:
            return
        genesis = group.store.record.genesis
        for raft_id, member in group.sequencer.members.items():
            if raft_id != group.raft_id and raft_id not in group.routes:
                self._engine.send(member.node_id, ReplicaInvite(group.id, raft_id, genesis))
        self._dismiss(group)

    def _dismiss(self, group: Group) -> None:
        """Let go whom the log has removed, as soon as nobody can need their votes any more."""
        for raft_id in [raft_id for raft_id in group.routes if group.is_departed(raft_id)]:
            if not group.farewell.may_dismiss:
                group.farewell.hasten()
                return
            node_id = group.routes.pop(raft_id)
            if raft_id != group.raft_id:
                self._engine.send(node_id, ReplicaRemoved(group.id, raft_id))

    def _ask_whether_removed(self, group: Group) -> None:
        """Nobody leads this replica: perhaps it was removed, and the one notice of it was lost."""
        others = {member.node_id for member in group.sequencer.members.values()}
        others.update(self._engine.cluster.hosts_of(group.id))
        others.discard(self._engine.node_id)
        if others:
            asked = self._engine.rng.choice(sorted(others))
            self._engine.send(asked, ReplicaAsk(group.id, group.raft_id, group.raft_id))

    # --- proposals from other nodes ---

    def proposed(self, group: Group, sender: str, message: Message) -> None:
        """A follower forwarded proposals."""
        for entry in message.entries:
            if entry.type is not EntryType.NORMAL:
                return  # only a leader changes the configuration, and through its own hands
            sessions.check_proposed(entry.data)
        if group.log_full:
            self._engine.send(sender, LogFullNotice(group.id, full=True))
            return
        group.step_proposal(message)

    # --- coming and going ---

    def _on_join(self, sender: str, ask: JoinAsk) -> None:
        if ask.node_id != sender:
            raise CodecError("a node asks to join for another one")
        group = self._engine.hosting.groups.get(ask.group)
        if group is None or not group.leads:
            self._engine.send(sender, LeaderHint(ask.group, self._leader_hint(group, ask.group)))
            return
        here = [raft_id for raft_id, member in group.sequencer.members.items() if member.node_id == ask.node_id]
        alive = [raft_id for raft_id in here if raft_id not in ask.buried]
        if alive:
            self._engine.send(ask.node_id, ReplicaInvite(group.id, alive[0], group.store.record.genesis))
        elif not self._changing(group):
            self._add_learner(group, ask.node_id, placed=False, instead_of=here)

    def _leader_hint(self, group: Group | None, group_id: bytes) -> str:
        if group is not None and group.leader:
            return group.node_of(group.leader) or ""
        hosts = [node for node in self._engine.cluster.hosts_of(group_id) if node != self._engine.node_id]
        return hosts[0] if hosts else ""

    def _on_leave(self, sender: str, ask: LeaveAsk) -> None:
        group = self._engine.hosting.groups.get(ask.group)
        if group is None or not group.leads:
            return
        if group.is_departed(ask.raft_id):
            group.routes[ask.raft_id] = sender
            self._dismiss(group)
            return
        member = group.sequencer.members.get(ask.raft_id)
        if member is not None and member.node_id != sender:
            raise CodecError("a node takes leave for another one")
        if member is not None and ask.raft_id not in group.voters() and not self._changing(group):
            self._change(group, [ConfChangeSingle(ConfChangeType.REMOVE, ask.raft_id)])

    def deserted(self, group: Group) -> None:
        """The last consumer here was detached: a learner that is here for nobody leaves its group."""
        self._engine.cluster.hosts(group)
        self._deserted[group.id] = self._engine.now
        self._leave_if_deserted(group, at_once=True)

    def _leave_if_deserted(self, group: Group, at_once: bool = False) -> None:
        member = group.sequencer.members.get(group.raft_id)
        if group.interactive or member is None or member.placed or group.raft_id in group.voters() or group.leads:
            self._deserted.pop(group.id, None)
            return
        since = self._deserted.setdefault(group.id, self._engine.now)
        known = since + (0.0 if at_once else LEARNER_LINGERS_S) <= self._engine.now
        leader = group.node_of(group.leader) if group.leader else None
        if known and leader is not None:
            self._deserted[group.id] = self._engine.now - LEARNER_LINGERS_S  # ask again with every check
            self._engine.send(leader, LeaveAsk(group.id, group.raft_id))

    def leave(self, left: Future[None]) -> None:
        """This node is being shut down: hand leaderships to whoever is up to date, then say goodbye."""
        for group in self._engine.hosting.groups.values():
            if group.leads:
                self._hand_over(group)
        self._engine.cluster.leave(left)

    def _hand_over(self, group: Group) -> None:
        status = group.raft.status()
        heirs = [
            (progress.match, raft_id)
            for raft_id, progress in status.progress.items()
            if raft_id != group.raft_id and not progress.is_learner and progress.recently_active
        ]
        if heirs:
            group.raft.transfer_leader(max(heirs)[1])
            self._engine.touch(group)

    def _watch_disk(self) -> None:
        """A leader whose disk stands still holds everybody up: let others lead, and in the end stop."""
        age = self._engine.write_age()
        config = self._engine.config
        if age >= config.stalled_disk_stop_s:
            raise StorageFailed(f"a write has not come back for {age:.0f} s: check the disk of {config.data_dir}")
        if age < config.stalled_disk_hand_over_s:
            return
        log.warning("the disk stands still", extra={"seconds": round(age, 1)})
        for group in self._engine.hosting.groups.values():
            if group.leads:
                self._hand_over(group)

    # --- configuration ---

    def _changing(self, group: Group) -> bool:
        return group.raft.change_pending

    def _change(
        self,
        group: Group,
        changes: list[ConfChangeSingle],
        added: dict[int, Replica] | None = None,
        wanted: int = 0,
    ) -> None:
        context = pack_context(added or {}, wanted) if added or wanted else b""
        group.propose_change(ConfChange(tuple(changes), ConfChangeTransition.AUTO, context))

    def _add_learner(self, group: Group, node_id: str, placed: bool, instead_of: list[int] | None = None) -> None:
        used = {*group.sequencer.members, *group.sequencer.departed}
        raft_id = fresh_raft_id(self._engine.rng, used)
        changes = [ConfChangeSingle(ConfChangeType.REMOVE, old) for old in instead_of or ()]
        changes.append(ConfChangeSingle(ConfChangeType.ADD_LEARNER, raft_id))
        self._change(group, changes, {raft_id: Replica(node_id, placed)})

    def change_wanted(self, group: Group, wanted: int, node_id: str, add: bool) -> bool:
        """Propose that the group is to have ``wanted`` voters, beginning with a replica on ``node_id``, if one is named.

        False if another change is under way. Raises :class:`~copycat.errors.UsageError` if that node doesn't fit.
        """
        if self._changing(group):
            return False
        described: dict[int, Replica] = {}
        changes = [ConfChangeSingle(ConfChangeType.UPDATE, group.raft_id)]
        if node_id:
            members = group.sequencer.members
            here = [raft_id for raft_id, member in members.items() if member.node_id == node_id]
            if add:
                if any(raft_id in group.voters() for raft_id in here):
                    raise UsageError(f"{node_id} has a voter of the group already")
                if node_id not in {candidate.node_id for candidate in self._engine.cluster.candidates()}:
                    raise UsageError(f"{node_id} is no living node that takes replicas")
                raft_id = here[0] if here else fresh_raft_id(self._engine.rng, {*members, *group.sequencer.departed})
                described[raft_id] = Replica(node_id, placed=True)
                changes = [ConfChangeSingle(ConfChangeType.ADD_LEARNER, raft_id)]
            else:
                if not any(raft_id in group.voters() for raft_id in here):
                    raise UsageError(f"{node_id} has no voter of the group")
                if here[0] == group.raft_id:
                    raise UsageError(
                        f"{node_id} leads the group: transfer the leadership first ('copycat transfer-leader')"
                    )
                changes = [self._dismissal(group, here[0], described)]
        self._change(group, changes, described, wanted)
        return True

    def _repair(self, group: Group, nodes: dict[str, NodeView]) -> None:
        view = self._view(group)
        for replica in (*view.voters, *view.learners):
            if replica.node_id not in nodes:  # gone for so long that even gossip has forgotten it
                since = self._engine.cluster.absent_since(replica.node_id)
                if since is not None:
                    stranger = Candidate(replica.node_id, excluded=True)
                    gone = self._engine.departures.has_left(replica.node_id)
                    nodes[replica.node_id] = NodeView(stranger, NodeState.LEFT if gone else NodeState.DEAD, since)
        policy = Policy(self._engine.config.repair_delay_s, CAUGHT_UP_ENTRIES)
        may_rebalance = self._pace.allows(self._engine.now)
        action = decide(self._engine.now, view, nodes, policy, may_rebalance)
        self._carry_out(group, action)
        if may_rebalance and isinstance(action, AddLearner):
            self._pace.took(self._engine.now)

    def _carry_out(self, group: Group, action: Action) -> None:
        members = group.sequencer.members
        if isinstance(action, AddLearner):
            self._add_learner(group, action.node_id, placed=True)
        elif isinstance(action, Promote):
            changes = [ConfChangeSingle(ConfChangeType.ADD_VOTER, action.raft_id)]
            described = {action.raft_id: Replica(members[action.raft_id].node_id, placed=True)}
            if action.replacing:
                changes.append(self._dismissal(group, action.replacing, described))
            self._change(group, changes, described)
        elif isinstance(action, Remove):
            described = {}
            self._change(group, [self._dismissal(group, action.raft_id, described)], described)
        elif isinstance(action, TransferLeader):
            group.raft.transfer_leader(action.to)
            self._engine.touch(group)
        else:
            return
        log.info("repair", extra={"group": name_of(group.id), "action": repr(action)})

    def _dismissal(self, group: Group, raft_id: int, described: dict[int, Replica]) -> ConfChangeSingle:
        """How a replica goes: a voter that has a consumer stays on as a learner, for the consumer's sake."""
        node_id = group.sequencer.members[raft_id].node_id
        if raft_id in group.voters() and self._engine.cluster.has_consumer(node_id, group.id):
            described[raft_id] = Replica(node_id, placed=False)
            return ConfChangeSingle(ConfChangeType.ADD_LEARNER, raft_id)
        return ConfChangeSingle(ConfChangeType.REMOVE, raft_id)

    def _view(self, group: Group) -> GroupView:
        matches = group.matches_if_replicating()
        voters: list[ReplicaView] = []
        learners: list[ReplicaView] = []
        for raft_id, member in group.sequencer.members.items():
            match = matches.get(raft_id, NOT_REPLICATING)
            replica = ReplicaView(raft_id, member.node_id, match, subscriber=not member.placed)
            (voters if raft_id in group.voters() else learners).append(replica)
        return GroupView(
            group.id,
            group.raft_id,
            group.raft.last_index,
            tuple(voters),
            tuple(learners),
            group.replicas_wanted,
            group.genesis.data_center_replicas,
            self._changing(group),
        )

    def nodes(self) -> dict[str, NodeView]:
        """Members as repair sees them. A node that was shut down, but did not leave for good, is expected back."""
        cluster = self._engine.cluster
        nodes = {}
        for member in cluster.candidates_with_state():
            node_id = member.candidate.node_id
            since = cluster.absent_since(node_id)
            if self._engine.departures.has_left(node_id):
                state = NodeState.LEFT
            elif since is not None:
                state = NodeState.DEAD
            else:
                state = NodeState.LEAVING if member.leaving else NodeState.ALIVE
            nodes[node_id] = NodeView(member.candidate, state, 0.0 if since is None else since)
        return nodes

    # --- sessions and the log's cap ---

    def _expire_sessions(self, group: Group) -> None:
        """End the sessions of subscriptions whose node has been away for long: nobody else will."""
        cluster = self._engine.cluster
        expiry = self._engine.config.session_expiry_s
        for name, session in group.sequencer.sessions.sessions.items():
            since = cluster.absent_since(session.node_id)
            if since is not None and self._engine.now - since >= expiry:
                group.propose(sessions.pack_expire(name))
                self._engine.touch(group)

    def watch_log(self, group: Group) -> None:
        """Refuse proposals while the log is at its cap; only a leader does."""
        cap = self._engine.config.log_bytes_max
        full = group.store.log_bytes >= (cap * LOG_FULL_CLEARS_AT if group.log_full else cap)
        if not full and not group.log_full:
            return
        if full != group.log_full:
            group.log_full = full
            log.warning("the log is %s", "full" if full else "no longer full", extra={"group": name_of(group.id)})
        for node_id in sorted({member.node_id for member in group.sequencer.members.values()}):
            self._engine.send(node_id, LogFullNotice(group.id, full))

    def _on_log_full(self, sender: str, notice: LogFullNotice) -> None:
        group = self._engine.hosting.groups.get(notice.group)
        if group is not None and group.node_of(group.leader) == sender:
            lease_s = LOG_FULL_LEASE_CHECKS * CHECK_EVERY_TICKS * self._engine.config.tick_ms / 1000
            self._set_log_full(group, self._engine.now + lease_s if notice.full else 0.0)

    def _set_log_full(self, group: Group, until: float) -> None:
        """Proposers are refused until then, unless the leader says so again; 0: no longer."""
        group.log_full_until = until
        for proposer in group.proposers:
            proposer.channel.set_log_full(until > 0)
            if not until:
                proposer.retry_now()
        self._engine.touch(group)

    # --- snapshots ---

    def _on_snapshot_ask(self, sender: str, ask: SnapshotAsk) -> None:
        group = self._engine.hosting.groups.get(ask.group)
        if group is not None:
            group.snapshots.handle_ask(sender, ask)

    def _on_snapshot_offer(self, sender: str, offer: SnapshotOffer) -> None:
        group = self._engine.hosting.groups.get(offer.group)
        if group is not None:
            if not is_member(group.sequencer.members, sender):
                raise CodecError("a snapshot from a node that is no member")
            group.snapshots.offered(sender, codec.unpack_snapshot(codec.unpack(offer.snapshot)))

    def _on_snapshot_failed(self, sender: str, failed: SnapshotFailed) -> None:
        group = self._engine.hosting.groups.get(failed.group)
        if group is not None and group.node_of(failed.raft_id) == sender:
            group.snapshots.peer_failed(failed.raft_id)

    # --- what others ask ---

    def is_under_replicated(self, group: Group, nodes: dict[str, NodeView]) -> bool:
        """Whether fewer voters live than are wanted; ``nodes`` are those of :meth:`nodes`."""
        return missing([str(group.node_of(raft_id)) for raft_id in group.voters()], group.replicas_wanted, nodes) > 0

    def status_of(self, group: Group, nodes: dict[str, NodeView] | None = None) -> GroupStatus:
        """The replica's view of its group. ``nodes`` spares those who ask for many to look at every member each time."""
        raft = group.raft
        members = group.sequencer.members
        voters = group.voters()
        peers = [Peer(raft_id, member.node_id) for raft_id, member in sorted(members.items())]
        lag = {}
        if group.leads:
            last = raft.last_index
            lag = {raft_id: last - match for raft_id, match in group.matches().items() if raft_id != group.raft_id}
        return GroupStatus(
            data_structure_id=str(DataStructureId(group.id)),
            raft_id=group.raft_id,
            role=role_of(group),
            term=raft.term,
            leader=group.node_of(raft.lead) if raft.lead else None,
            commit_position=group.sequencer.position,
            applied_position=group.sequencer.position,
            voters=tuple([peer for peer in peers if peer.raft_id in voters]),
            learners=tuple([peer for peer in peers if peer.raft_id not in voters]),
            lag=lag,
            interactive=group.interactive,
            replicas_wanted=group.replicas_wanted,
            under_replicated=self.is_under_replicated(group, self.nodes() if nodes is None else nodes),
            has_quorum=self._engine.recoveries.has_quorum(group),
            log_bytes=group.store.log_bytes,
            snapshot_position=group.snapshots.position,
        )
