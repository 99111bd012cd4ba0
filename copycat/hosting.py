"""The replicas on this node: loaded when it starts, made when it is told to, destroyed when their group removed them.

A replica is made for one of three reasons: the group's genesis names this node as a voter; a leader added one here; or a
message came for one that isn't here, and its sender explained. It is destroyed only when the group's leader says that the log
has removed it and nobody can need its vote any more. Its raft id is then buried: never used again on this node, whatever
arrives late.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from copycat.codec import unpack_record
from copycat.entrycache import CacheBudget
from copycat.errors import CodecError
from copycat.genesis import Genesis
from copycat.group import Group
from copycat.ids import name_of
from copycat.messages import LOCAL_APPLY_THREAD, NONE, ConfState, Message
from copycat.plausibility import check_genesis, is_member
from copycat.ports import WriteBatch
from copycat.protocol import ReplicaAsk, ReplicaInvite, ReplicaRemoved
from copycat.records import ReplicaRecord
from copycat.replicastore import ReplicaStore
from copycat.sequencer import Sequencer

if TYPE_CHECKING:
    from copycat.engine import Engine

log = logging.getLogger(__name__)

CACHE_BYTES_PER_GROUP_MAX = 16 << 20
"""Entries of one group that are kept in memory, so that a busy one leaves some of ``log_cache_bytes`` to others."""
GARBAGE_KEYS_PER_TICK = 2048
STRANGERS_PER_TICK_MAX = 4096


class Hosting:
    """Belongs to the engine's thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.groups: dict[bytes, Group] = {}
        self.cache = CacheBudget(engine.config.log_cache_bytes, CACHE_BYTES_PER_GROUP_MAX)
        self.buried: dict[bytes, tuple[int, ...]] = {}
        self.quarantined: dict[bytes, Exception] = {}
        """Replicas that stopped because what their group has committed, or says, can't be; and why."""
        self._ruins: dict[bytes, ReplicaStore] = {}
        self._asked: set[tuple[bytes, int]] = set()
        engine.handlers[ReplicaAsk] = self._on_ask
        engine.handlers[ReplicaInvite] = self._on_invite
        engine.handlers[ReplicaRemoved] = self._on_removed

    def load(self) -> None:
        """Bring back every replica that the disk holds."""
        for group_id, record in self._engine.store.replicas():
            self.buried[group_id] = (*record.retired, record.raft_id) if record.destroyed else record.retired
            store = ReplicaStore.load(self._engine.storage, group_id, self.cache)
            if store.destroyed:
                self._ruins[group_id] = store
            else:
                self._open(group_id, store)

    def create(self, group_id: bytes, raft_id: int, genesis: bytes) -> Group | None:
        """Host replica ``raft_id``; None if the id is buried, or another replica of the group is here.

        Raises :class:`~copycat.errors.CodecError` for a genesis that no group can begin with.
        """
        if group_id in self.quarantined:
            return None
        group = self.groups.get(group_id)
        if group is not None:
            return group if group.raft_id == raft_id else None
        buried = self.buried.get(group_id, ())
        if raft_id in buried:
            return None
        ruin = self._ruins.get(group_id)
        if ruin is not None and (not ruin.destroyed or ruin.has_garbage()):
            return None  # what is left of an earlier replica is being cleared away
        first = unpack_record(Genesis, genesis)
        check_genesis(first)
        if not NONE < raft_id < LOCAL_APPLY_THREAD:
            raise CodecError("no raft id")
        founders = first.voters
        conf_state = ConfState(voters=tuple(sorted(raft_id for raft_id, _ in founders)))
        record = ReplicaRecord(raft_id, genesis, conf_state)
        if self._engine.restores.gave_way(group_id, genesis):
            return None  # this, too, is to be cleared away first
        batch = self._engine.stage(True, _nothing)
        store = self._engine.restores.take(group_id, batch)
        if store is None:
            store = ReplicaStore.create(self._engine.storage, group_id, record, batch, self.cache)
        if ruin is not None:
            store.snapshots.succeed(ruin.snapshots)
            del self._ruins[group_id]
        group = self._open(group_id, store)
        self._engine.cluster.hosts(group)
        self._engine.touch(group)
        log.info("hosting replica", extra={"group": name_of(group_id), "raft_id": raft_id})
        return group

    def destroy(self, group: Group) -> None:
        """The group has removed this replica: forget everything but that it existed."""
        if self.groups.get(group.id) is not group:
            return
        del self.groups[group.id]
        self._engine.drop(group)
        self.buried[group.id] = (*self.buried.get(group.id, ()), group.raft_id)
        store = group.store

        batch = self._engine.stage(True, lambda: store.complete(pending))
        pending = store.stage_destroy(batch)
        self._ruins[group.id] = store
        self._engine.consumers.lost_replica(group)
        group.end()
        self._engine.cluster.hosts_no_more(group)
        log.info("replica removed", extra={"group": name_of(group.id), "raft_id": group.raft_id})

    def clear_away(self, store: ReplicaStore) -> WriteBatch:
        """Destroy a replica that never became one, or not yet; the batch is the one in which it ends."""
        batch = self._engine.stage(True, lambda: store.complete(pending))
        pending = store.stage_destroy(batch)
        self._ruins[store.group_id] = store
        self.buried[store.group_id] = (*self.buried.get(store.group_id, ()), store.record.raft_id)
        return batch

    def is_clearing(self, group_id: bytes) -> bool:
        """Whether what an earlier replica left is still being deleted."""
        return group_id in self._ruins

    def quarantine(self, group: Group, error: Exception) -> None:
        """Stop one replica, and leave what it has on disk: either this disk lost writes, or a member of the group lies.

        It takes part in nothing until the node is started again, and then only as far as it comes. Other groups go on.
        """
        if self.groups.get(group.id) is not group:
            return
        del self.groups[group.id]
        self._engine.drop(group)
        self.quarantined[group.id] = error
        self._engine.consumers.lost_replica(group)
        group.end()
        self._engine.cluster.hosts_no_more(group)
        log.critical("a replica stops: %s", error, extra={"group": name_of(group.id), "raft_id": group.raft_id})

    def tick(self) -> None:
        """One tick of Raft's time for every replica."""
        self._asked.clear()
        for group in list(self.groups.values()):
            group.tick()
        for group_id, store in list(self._ruins.items()):
            if not store.destroyed:
                continue  # not durable yet
            if store.has_garbage():
                store.stage_garbage(self._engine.stage(False, _nothing), GARBAGE_KEYS_PER_TICK)
            elif not store.snapshots.retained:
                del self._ruins[group_id]

    def succeed(self, earlier: Group, store: ReplicaStore) -> Group:
        """Let another replica, which ``store`` holds by now, go on where ``earlier`` was suspended."""
        assert self.groups.get(earlier.id) is earlier
        self._engine.drop(earlier)
        store.snapshots.abandon()
        group = self._open(earlier.id, store)
        self.buried[group.id] = store.record.retired
        self._engine.consumers.succeeded(earlier, group)
        self._engine.cluster.hosts(group)
        self._engine.touch(group)
        return group

    def stranger(self, sender: str, group_id: bytes, message: Message) -> None:
        """A message came for a replica that isn't here: ask its sender what it is, once a tick."""
        if group_id in self.quarantined or len(self._asked) >= STRANGERS_PER_TICK_MAX:
            return
        group = self.groups.get(group_id)
        raft_id = message.to
        if raft_id in self.buried.get(group_id, ()):
            # Perhaps it speaks to who was a member with it, and does not know that both are none any more.
            if group is not None and (group_id, message.sender) not in self._asked:
                self._asked.add((group_id, message.sender))
                self._dismiss_if_departed(group, sender, message.sender)
        elif (group_id, raft_id) not in self._asked:
            self._asked.add((group_id, raft_id))
            self._engine.send(sender, ReplicaAsk(group_id, raft_id, group.raft_id if group is not None else 0))

    def _dismiss_if_departed(self, group: Group, node_id: str, raft_id: int) -> None:
        if not group.is_departed(raft_id):
            return
        if group.farewell.may_dismiss:
            self._engine.send(node_id, ReplicaRemoved(group.id, raft_id))
        else:
            group.farewell.hasten()

    def _open(self, group_id: bytes, store: ReplicaStore) -> Group:
        genesis = unpack_record(Genesis, store.record.genesis)
        meta = store.snapshots.current
        sequencer = Sequencer.unpack(meta.state) if meta is not None else None
        group = Group(self._engine, group_id, store, genesis, sequencer)
        self.groups[group_id] = group
        return group

    def _on_ask(self, sender: str, ask: ReplicaAsk) -> None:
        group = self.groups.get(ask.group)
        if group is None:
            return
        self._dismiss_if_departed(group, sender, ask.hosted)
        member = group.sequencer.members.get(ask.raft_id)
        if member is not None and member.node_id == sender:
            self._engine.send(sender, ReplicaInvite(ask.group, ask.raft_id, group.store.record.genesis))

    def _on_invite(self, sender: str, invite: ReplicaInvite) -> None:
        if self._engine.departures.has_left(sender):
            return
        if unpack_record(Genesis, invite.genesis).group_id != invite.group or invite.raft_id <= 0:
            raise CodecError("an invitation that contradicts itself")
        self.create(invite.group, invite.raft_id, invite.genesis)

    def _on_removed(self, sender: str, removed: ReplicaRemoved) -> None:
        group = self.groups.get(removed.group)
        if group is None or group.raft_id != removed.raft_id:
            return
        # While its leader is heard and hasn't removed it, a replica believes members only. One that was left behind may
        # have a leader that it has never heard of.
        behind = group.removed or not group.raft.hears_leader
        hosts = self._engine.cluster.hosts_of(group.id)
        if not is_member(group.sequencer.members, sender) and not (behind and sender in hosts):
            raise CodecError(f"node {sender} is no member, and removes one")
        self.destroy(group)


def _nothing() -> None:
    """Nobody waits for this write alone; everything that depends on it is written behind it."""
