"""One group on this node: a Raft replica, the sequence that comes out of it, and those who propose and listen here.

The group is where a proposal's way closes: proposers hand batches to Raft; Raft hands out what must be written (staged into
the node's one write of the turn), what must be sent (into the outbox) and what is committed; committed entries go
through the sequencer, settle proposers, and feed consumers. Nothing here waits, writes or sends by itself: all of it is
the host's, so that one turn serves all groups with one write and one frame per peer.

A group without proposers and feeds is a detached raft: the same code, with nobody to hand anything to.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import Protocol

from copycat.config import Config
from copycat.errors import Closed, InvalidConfChange, PeerUnknown, ProposalDropped
from copycat.farewell import Farewell
from copycat.feed import Feed
from copycat.genesis import Genesis
from copycat.ids import name_of
from copycat.messages import (
    LOCAL_APPEND_THREAD,
    LOCAL_APPLY_THREAD,
    ConfChange,
    ConfState,
    Entry,
    EntryType,
    HardState,
    Message,
    MessageType,
)
from copycat.plausibility import check_member
from copycat.ports import WriteBatch
from copycat.proposer import Proposer
from copycat.raft import ProgressState, RawNode, Ready
from copycat.raft.confchange import unpack_conf_change
from copycat.raftconfig import raft_config
from copycat.reads import Barrier, ReadQueue
from copycat.replicastore import ReplicaStore
from copycat.sequencer import Replica, Sequencer
from copycat.sessions import Outcome
from copycat.snapshots import SnapshotDesk

log = logging.getLogger(__name__)


def founders_of(genesis: Genesis) -> dict[int, Replica]:
    """The members that a group begins with."""
    return {raft_id: Replica(node_id, placed=True) for raft_id, node_id in genesis.voters}


ROUTES_MAX = 1024
"""Raft ids for which is remembered from which node they spoke."""


class Host(Protocol):
    """What the engine does for its groups. ``now`` is the time of the current turn, in seconds."""

    config: Config
    node_id: str
    rng: random.Random
    now: float

    def stage(self, sync: bool, durable: Callable[[], None]) -> WriteBatch:
        """The batch of this turn's write; ``durable`` is called, in order, once it is on disk."""

    def send_raft(self, node_id: str, group: bytes, message: Message) -> None: ...

    def send(self, node_id: str, message: object) -> None: ...

    def send_bulk(self, node_id: str, message: object) -> bool: ...

    def disk_congested(self) -> bool:
        """Whether bulk should wait with its writes."""

    def touch(self, group: Group) -> None:
        """Look at ``group`` before the turn ends."""

    def post(self, action: Callable[[], None]) -> bool:
        """Run ``action`` on the engine's thread, in a later turn; False if none will come. From any thread."""

    def changed_role(self, group: Group) -> None:
        """Leader or term of ``group`` changed."""

    def changed_members(self, group: Group) -> None:
        """The configuration of ``group`` changed; or this replica is no longer in it."""

    def reached_cap(self, group: Group) -> None:
        """The log of ``group``, which this replica leads, is as long as it may be."""


class Group:
    """Belongs to the engine's thread."""

    def __init__(
        self, host: Host, group_id: bytes, store: ReplicaStore, genesis: Genesis, applied: Sequencer | None
    ) -> None:
        self.host = host
        self.id = group_id
        self.store = store
        self.raft_id = store.record.raft_id
        self.genesis = genesis
        self.founders = founders_of(genesis)
        self.sequencer = applied if applied is not None else Sequencer(dict(self.founders))
        self.proposers: list[Proposer] = []
        self.feeds: list[Feed] = []
        self.routes: dict[int, str] = {}
        self.snapshots = SnapshotDesk(self)
        self.reads = ReadQueue()
        self.leader = 0
        self.term = 0
        self.led_at = host.now
        """When it was last seen to have a leader; see :meth:`Stewardship.tick`."""
        self.removed = False
        """The log says that this replica was removed. It still votes, until the leader says that it need not."""
        self.farewell = Farewell(self)
        self.ended = False
        """Closed, or destroyed: what still arrives for it is ignored, and nothing is staged."""
        self.log_full = False
        """This replica leads and takes no proposals."""
        self.log_full_until = 0.0
        """How long the leader's word counts that it takes none; 0 if it takes some."""
        self.conf_states: list[tuple[int, ConfState]] = []
        self._loaded_commit = store.initial_state()[0].commit
        self._deferred: HardState | None = None
        self._only_commits = False
        self._told = (0, 0, 0)
        rng = random.Random(host.rng.getrandbits(64))
        self.raft = RawNode(raft_config(host.config, self.raft_id, store, self.sequencer.index, rng))
        self.conf_states.append((self.sequencer.index, store.initial_state()[1]))

    # --- what comes in ---

    def check_speaker(self, sender: str, message: Message) -> None:
        """Raises :class:`~copycat.errors.CodecError` unless node ``sender`` may say that, as far as this replica knows."""
        raft = self.raft
        configured = raft.raft.tracker.members
        check_member(self.sequencer.members, configured, self.routes, sender, message, raft.heard_leader)

    def step(self, sender: str, message: Message) -> None:
        """A Raft message for this replica arrived from node ``sender``."""
        if self.ended:
            return
        if message.sender in self.routes or len(self.routes) < ROUTES_MAX:
            self.routes[message.sender] = sender
        if message.type is MessageType.SNAP:
            self.snapshots.fetch_for_raft(sender, message)
        else:
            if message.type is MessageType.APP:
                self._only_commits = not message.entries and message.commit > self.raft.committed
            self.raft.step(message)
        self.host.touch(self)

    def step_proposal(self, message: Message) -> None:
        """A follower forwarded proposals. What can't be taken now is dropped: its proposer repeats it."""
        if self._is_full():
            return
        try:
            self.raft.step(message)
        except ProposalDropped:
            return
        self.host.touch(self)

    def tick(self) -> None:
        """One tick of time has passed."""
        self.raft.tick()
        self.reads.tick()
        self.snapshots.tick()
        self.host.touch(self)

    def unreachable(self, raft_id: int) -> None:
        """A message for this member was dropped on its way out."""
        self.raft.report_unreachable(raft_id)
        self.snapshots.unreachable(raft_id)

    def propose(self, data: bytes) -> bool:
        """Hand an entry's data to Raft; False if it can't take it now."""
        if self.ended or not self.raft.lead or self._is_full():
            return False
        try:
            self.raft.propose(data)
        except ProposalDropped:
            return False
        return True

    def _is_full(self) -> bool:
        if not self.log_full and self.store.log_bytes >= self.host.config.log_bytes_max and self.leads:
            self.host.reached_cap(self)
        return self.log_full

    def propose_change(self, change: ConfChange) -> bool:
        try:
            self.raft.check_conf_change(change)
            self.raft.propose_conf_change(change)
        except (InvalidConfChange, ProposalDropped) as error:
            log.info("not proposed: %s", error, extra={"group": name_of(self.id)})
            return False
        self.host.touch(self)
        return True

    def barrier(self, barrier: Barrier) -> None:
        """Learn the position of everything committed before now (Raft paper, section 8)."""
        self.reads.add(barrier)
        self.host.touch(self)

    # --- one turn ---

    def turn(self) -> None:
        """Do everything there is to do, up to what must be written or heard first."""
        if self.ended:
            return
        for proposer in self.proposers:
            proposer.pump(self.host.now, self.propose)
        if self.reads.waiting and self.raft.lead:
            self.reads.ask(self.raft)
        self.snapshots.turn()
        while self.raft.has_ready():
            self._handle(self.raft.ready())
        for feed in self.feeds:
            self._pump(feed)

    def _handle(self, ready: Ready) -> None:
        for message in ready.messages:
            if message.to == LOCAL_APPEND_THREAD:
                self._write(message, ready.must_sync)
            elif message.to == LOCAL_APPLY_THREAD:
                self._apply(message.entries)
                for response in message.responses:
                    self.raft.step(response)
            else:
                self._send(message)
        for state in ready.read_states:
            self.reads.answered(state.context, state.index)
        if ready.read_states:
            self.reads.release(self.sequencer.index, self.sequencer.position)
        if self.raft.lead != self.leader or self.raft.term != self.term:
            self._role_changed()

    def _role_changed(self) -> None:
        appeared = self.raft.lead and (self.raft.lead != self.leader or self.raft.term != self.term)
        self.leader = self.raft.lead
        self.term = self.raft.term
        if appeared:
            self.farewell.begin()
            for proposer in self.proposers:
                proposer.retry_now()
            self.reads.ask_again()
            self.host.touch(self)
        self.host.changed_role(self)

    def _send(self, message: Message) -> None:
        if message.type is MessageType.APP_RESP and self._is_repeated(message):
            return
        node_id = self.node_of(message.to)
        if node_id is None:
            self.raft.report_unreachable(message.to)
        elif message.type is MessageType.SNAP:
            self.snapshots.sending(message)
            self.host.send_raft(node_id, self.id, message)
        else:
            self.host.send_raft(node_id, self.id, message)

    def _is_repeated(self, response: Message) -> bool:
        """Whether the leader has been told just this, and asked for nothing: it only said that the commit index moved.

        If it never heard it the first time, its next heartbeat finds that out.
        """
        told = (response.to, response.term, response.index)
        repeated = self._only_commits and told == self._told and not response.reject
        self._only_commits = False
        self._told = told
        return repeated

    def node_of(self, raft_id: int) -> str | None:
        member = self.sequencer.members.get(raft_id)
        return member.node_id if member is not None else self.routes.get(raft_id)

    def _write(self, message: Message, must_sync: bool) -> None:
        """Stage term, vote and entries of one step as one atomic write; answer only when it is done."""
        hard_state = None
        if message.term or message.vote or message.commit:
            hard_state = HardState(message.term, message.vote, message.commit)
        if message.snapshot is None and not message.entries and not must_sync and not self.store.outstanding:
            # Only the commit index moved. It may be stale on disk, since any leader tells it again: it waits for company.
            # Nor does an answer wait for it: all else that it vouches for is on disk already.
            self._deferred = hard_state or self._deferred
            if message.responses:
                self._respond(message.responses)
            return
        hard_state = hard_state or self._deferred
        self._deferred = None
        responses = message.responses
        if message.snapshot is not None:
            self._install(message, hard_state)
            return
        store = self.store

        def durable() -> None:
            store.complete(pending)
            self._respond(responses)

        batch = self.host.stage(must_sync, durable)
        pending = store.stage(batch, hard_state, message.entries)

    def _install(self, message: Message, hard_state: HardState | None) -> None:
        snapshot = message.snapshot
        assert snapshot is not None
        meta = self.snapshots.fetched(snapshot)

        def durable() -> None:
            self.store.complete(pending)
            if message.entries:
                self.store.complete(appended)
            if self.ended:
                return
            self.sequencer = Sequencer.unpack(meta.state)
            self.conf_states = [(snapshot.index, snapshot.conf_state)]
            for proposer in self.proposers:
                self._skip(proposer)
            self._respond(message.responses)
            self.reads.release(self.sequencer.index, self.sequencer.position)
            self.host.changed_members(self)

        batch = self.host.stage(True, durable)
        pending = self.store.stage_install(batch, meta, hard_state)
        if message.entries:
            appended = self.store.stage(batch, None, message.entries)

    def _respond(self, responses: list[Message]) -> None:
        if self.ended:
            return
        for response in responses:
            if response.to != self.raft_id:
                self._send(response)
                continue
            try:
                self.raft.step(response)
            except PeerUnknown:
                # It led, and was removed while it wrote: its own word counts no more.
                log.debug("no member any more", extra={"group": name_of(self.id)})
        self.host.touch(self)

    # --- what is committed ---

    def _apply(self, entries: list[Entry]) -> None:
        members_changed = False
        for entry in entries:
            if entry.type is not EntryType.NORMAL:
                change = unpack_conf_change(entry.data)
                try:
                    self.conf_states.append((entry.index, self.raft.apply_conf_change(change)))
                except InvalidConfChange as error:  # for every replica alike
                    log.error("a change that can't follow: %s", error, extra={"group": name_of(self.id)})
                members_changed = True
                for single in change.changes:
                    # Whoever is on the way out is still spoken to while the configuration is joint.
                    if single.id in self.sequencer.members:
                        self.routes.setdefault(single.id, self.sequencer.members[single.id].node_id)
            applied = self.sequencer.apply(entry)
            if applied.outcome is not Outcome.NOTHING:
                for proposer in self.proposers:
                    if applied.session == proposer.session or applied.ended:
                        proposer.applied(applied, self.sequencer.position)
        if self.proposers:
            for proposer in self.proposers:
                proposer.pump(self.host.now, self.propose)
        for feed in self.feeds:
            feed.offer(entries, self.snapshots.due)
        self.reads.release(self.sequencer.index, self.sequencer.position)
        if members_changed:
            self._keep_commit()
            self.removed = self.is_departed(self.raft_id)
            self.farewell.begin()
            self.host.changed_members(self)
        elif self.farewell.came():
            self.host.changed_members(self)

    def _keep_commit(self) -> None:
        """Write down that a change of the members is committed, or a restart would go back to the members before.

        Of those a majority may be lost for good by then. Of anything else any leader tells again that it is committed.
        """
        if self.sequencer.index <= self._loaded_commit:
            return
        batch = self.host.stage(True, lambda: self.store.complete(pending))
        pending = self.store.stage_commit(batch, self.sequencer.index)

    def _pump(self, feed: Feed) -> None:
        at = feed.sequencer.index
        if at >= self.sequencer.index:
            return
        if (at == 0 or at + 1 < self.store.first_index()) and feed.channel.has_room():
            self.snapshots.reload(feed)
        if feed.pump(self.store, self.sequencer.index, self.snapshots.due):
            self.host.post(lambda: self.host.touch(self))

    def conf_state_at(self, index: int) -> ConfState:
        """The configuration as of a log index that is not compacted."""
        for since, state in reversed(self.conf_states):
            if since <= index:
                return state
        raise AssertionError(f"no configuration is known as of index {index}")

    def forget_conf_states(self, index: int) -> None:
        """Nobody will ask for configurations before ``index`` any more."""
        while len(self.conf_states) > 1 and self.conf_states[1][0] <= index:
            del self.conf_states[0]

    # --- who is in it ---

    @property
    def replicas_wanted(self) -> int:
        """Voters that the group is to have: as it was created, unless an operator wanted another number since."""
        return self.sequencer.wanted or self.genesis.replicas

    def voters(self) -> frozenset[int]:
        """Whose word counts now; in a joint configuration, of either majority."""
        config = self.raft.raft.tracker.config
        return config.voters | config.outgoing

    def is_departed(self, raft_id: int) -> bool:
        """Whether the log says that this replica was removed, for good."""
        config = self.raft.raft.tracker.config
        return (
            raft_id in self.sequencer.departed
            and raft_id not in config.voters
            and raft_id not in config.outgoing
            and raft_id not in config.learners
        )

    def matches(self) -> dict[int, int]:
        """The last index known to be on each member; only a leader knows."""
        return {raft_id: progress.match for raft_id, progress in self.raft.status().progress.items()}

    def matches_if_replicating(self) -> dict[int, int]:
        """The same, but only of members whose log is known to join the leader's."""
        return {
            raft_id: progress.match
            for raft_id, progress in self.raft.status().progress.items()
            if raft_id == self.raft_id or progress.state is ProgressState.REPLICATE
        }

    def follower_matches(self) -> list[int]:
        """The same of other members that answer."""
        progress = self.raft.status().progress
        return [peer.match for raft_id, peer in progress.items() if raft_id != self.raft_id and peer.recently_active]

    # --- consumers ---

    def attach(self, proposer: Proposer, feed: Feed) -> None:
        self._skip(proposer)
        self.proposers.append(proposer)
        self.feeds.append(feed)
        self.host.touch(self)

    def _skip(self, proposer: Proposer) -> None:
        """This replica has come to its place without telling ``proposer``, unless an earlier one had told it all."""
        if self.sequencer.index > proposer.seen_index:
            proposer.skipped_to(self.sequencer.sessions)

    def suspend(self) -> None:
        """Nothing is staged or sent for this replica any more; those who wait here are kept for the one that follows it."""
        self.ended = True
        self.snapshots.end()

    def end(self) -> None:
        """This replica is closed, or destroyed."""
        self.suspend()
        self.reads.fail(Closed("this node no longer hosts the group"))

    def detach(self, proposer: Proposer, feed: Feed) -> None:
        if proposer in self.proposers:
            self.proposers.remove(proposer)
            proposer.seen_index = max(proposer.seen_index, self.sequencer.index)
        if feed in self.feeds:
            self.feeds.remove(feed)
            self.snapshots.left(feed)

    @property
    def interactive(self) -> bool:
        return bool(self.feeds)

    @property
    def leads(self) -> bool:
        return self.raft.lead == self.raft_id
