"""Restores: a data structure that comes from a backup, and begins where that ends.

Whoever restores hands in a snapshot and the items behind it, piece by piece. They are written as the beginning of a replica's
log: a snapshot at entry 1, then a session that proposes the items in order, all in term 1 and committed by the one voter that
this replica is. That much nobody sees, and it is cleared away if it is given up. Once all of it is durable, a record says so:
from there on the restore happens, also over a restart. The group is then created as any other, by the word of a majority of the
nodes (:mod:`copycat.creation`), with a genesis whose only voter is this replica; so of two restores, or a restore and a
subscriber who came first, one wins and the other is told. In one synced write the replica becomes real, with its content; it
elects itself, and ordinary repair gives it the other voters.

Positions go on as in the group that was backed up. Sessions do not: what was in flight there was in flight to another group.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from copycat.codec import pack_record, unpack_record
from copycat.errors import CopyCatError, InvalidProposal, ProposalTooLarge, Timeout, UsageError
from copycat.genesis import Genesis
from copycat.ids import DataStructureId, name_of
from copycat.messages import ConfState, Entry, EntryType, HardState
from copycat.pending import Pending
from copycat.ports import WriteBatch
from copycat.records import ReplicaRecord, SnapshotMeta
from copycat.replicastore import ReplicaStore
from copycat.sequencer import Replica, Sequencer
from copycat.sessions import SESSION_BYTES, pack_batch, pack_close, pack_open

if TYPE_CHECKING:
    from copycat.engine import Engine

log = logging.getLogger(__name__)

RECORD_PREFIX = "restore/"
RESTORES_MAX = 4
SILENT_S_MAX = 60.0
"""A restore that is handed nothing for so long is given up."""
FOUND_S = 10.0
"""How long one attempt to create the group may take; there is always another."""
TERM = 1
SNAPSHOT_INDEX = 1
CHUNK_BYTES_MAX = 4 << 20
BOOT = b"restore"


@dataclass(frozen=True, slots=True)
class RestoreRecord:
    """What the disk says of a restore under way. ``complete``: all was handed in, and the group is to be created."""

    genesis: bytes
    complete: bool


@dataclass(slots=True, eq=False)
class _Restore:
    group_id: bytes
    genesis: Genesis
    store: ReplicaStore
    position: int
    """Of the last item so far; of the snapshot, before the first."""
    touched_at: float
    snapshot_bytes: int | None = None
    """Size of the snapshot while its chunks come."""
    session: bytes = b""
    opened: int = 0
    proposed: int = 0
    complete: bool = False
    """All was handed in, and ``durable`` once a restart knows it, too."""
    durable: bool = False
    deadline: float = 0.0
    answer: Future[dict[str, Any]] | None = None

    @property
    def raft_id(self) -> int:
        return self.genesis.voters[0][0]


class Restores:
    """Belongs to the engine's thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._restores: dict[bytes, _Restore] = {}
        self._awaited: list[_Restore] = []
        """Those whose group exists, and has yet to elect this replica."""
        self._locating: set[bytes] = set()

    def load(self) -> None:
        """Go on with what a restart interrupted, and clear away what was not complete."""
        engine = self._engine
        for _, data in engine.store.scan(RECORD_PREFIX):
            state = unpack_record(RestoreRecord, data)
            genesis = unpack_record(Genesis, state.genesis)
            record = _replica_record(genesis)
            if state.complete:
                store = ReplicaStore.load(engine.storage, genesis.group_id, engine.hosting.cache, record)
                restore = _Restore(genesis.group_id, genesis, store, 0, engine.now, complete=True, durable=True)
                self._restores[genesis.group_id] = restore
            else:
                store = ReplicaStore.prepare(engine.storage, genesis.group_id, record, engine.hosting.cache)
                self._clear_away(genesis.group_id, store)

    # --- what is handed in ---

    def begin(
        self,
        group_id: bytes,
        replicas: int,
        data_center_replicas: int,
        position: int,
        snapshot_bytes: int | None,
        timeout_s: float,
        answer: Future[dict[str, Any]],
    ) -> None:
        """Begin to restore; ``answer`` gets how large chunks and items may be. ``position`` is that of the snapshot, or 0.

        Raises :class:`~copycat.errors.UsageError`, also through ``answer``, if the data structure exists;
        :class:`~copycat.errors.LookupFailed` if too few nodes say whether it does.
        """
        engine = self._engine
        if not 1 <= replicas <= 64 or not 0 <= data_center_replicas <= replicas:
            raise UsageError("replicas must be 1 to 64 and data_center_replicas 0 to replicas")
        if position < 0 or (snapshot_bytes is None) != (position == 0) or (snapshot_bytes or 0) < 0:
            raise UsageError("a snapshot has a position of at least 1, and a size")
        if engine.departures.leaving:
            raise UsageError("this node is leaving its cluster; restore on another")
        if group_id in self._restores or group_id in self._locating:
            raise UsageError("the data structure is being restored on this node already")
        if len(self._restores) + len(self._locating) >= RESTORES_MAX:
            raise UsageError(f"{RESTORES_MAX} data structures are being restored on this node already")
        if engine.hosting.is_clearing(group_id):
            raise _clearing()

        def located(hosts: Future[tuple[str, ...]]) -> None:
            self._locating.discard(group_id)
            error: BaseException | None = hosts.exception()
            if error is None and (hosts.result() or group_id in engine.hosting.groups):
                error = _exists(group_id)
            if error is None and engine.hosting.is_clearing(group_id):
                error = _clearing()
            if error is not None:
                answer.set_exception(error)
                return
            self._open(group_id, replicas, data_center_replicas, position, snapshot_bytes)
            answer.set_result(
                {
                    "chunk_bytes": min(engine.config.snapshot_chunk_bytes, CHUNK_BYTES_MAX),
                    "item_bytes": engine.config.proposal_bytes_max,
                }
            )

        self._locating.add(group_id)
        found: Future[tuple[str, ...]] = Future()
        engine.locating.locate(group_id, timeout_s, found)
        found.add_done_callback(located)

    def _open(
        self, group_id: bytes, replicas: int, data_center_replicas: int, position: int, snapshot_bytes: int | None
    ) -> None:
        engine = self._engine
        genesis = Genesis(
            group_id,
            engine.rng.getrandbits(63),
            engine.node_id,
            ((engine.rng.getrandbits(62) + 1, engine.node_id),),
            replicas,
            data_center_replicas,
        )
        store = ReplicaStore.prepare(engine.storage, group_id, _replica_record(genesis), engine.hosting.cache)
        self._restores[group_id] = _Restore(group_id, genesis, store, position, engine.now, snapshot_bytes)
        pending: list[Pending] = []
        batch = engine.stage(True, lambda: _complete(store, pending))
        self._stage_record(batch, genesis, complete=False)
        if snapshot_bytes is not None:
            pending.append(store.snapshots.stage_receive(batch, BOOT))

    def take_chunk(self, group_id: bytes, data: bytes, answer: Future[dict[str, Any]]) -> None:
        """The next piece of the snapshot; ``answer`` is resolved once it is durable. Raises ``UsageError``."""
        restore = self._of(group_id)
        store = restore.store
        receiving = store.snapshots.staged_receiving()
        if restore.snapshot_bytes is None or receiving is None:
            raise UsageError("no chunk of a snapshot is expected here")
        if not 0 < len(data) <= min(self._engine.config.snapshot_chunk_bytes, CHUNK_BYTES_MAX):
            raise UsageError("a chunk is empty, or larger than this node's snapshot_chunk_bytes")
        if receiving.size + len(data) > restore.snapshot_bytes:
            raise UsageError(f"the snapshot is longer than the {restore.snapshot_bytes} bytes that were announced")

        def durable() -> None:
            store.complete(pending)
            answer.set_result({})

        batch = self._engine.stage(True, durable)
        pending = store.snapshots.stage_received_chunk(batch, receiving.chunks, data)

    def take_items(self, group_id: bytes, items: Sequence[bytes], answer: Future[dict[str, Any]]) -> None:
        """The next items; ``answer`` is resolved once they are durable.

        Raises :class:`~copycat.errors.UsageError`, :class:`~copycat.errors.InvalidProposal` and
        :class:`~copycat.errors.ProposalTooLarge`.
        """
        restore = self._of(group_id)
        limit = self._engine.config.proposal_bytes_max
        for item in items:
            if type(item) is not bytes:
                raise InvalidProposal("an item of a backup is bytes")
            if len(item) > limit:
                raise ProposalTooLarge(
                    f"an item of the backup has {len(item)} bytes, and this node takes {limit}: raise proposal_bytes_max on "
                    "all nodes"
                )
        _check_whole(restore)
        store = restore.store
        pending: list[Pending] = []

        def durable() -> None:
            _complete(store, pending)
            answer.set_result({})

        batch = self._engine.stage(True, durable)
        pending += self._stage_snapshot(batch, restore)
        if items:
            pending.append(self._stage_items(batch, restore, items))

    def _stage_snapshot(self, batch: WriteBatch, restore: _Restore) -> list[Pending]:
        """Let the log begin behind the snapshot, once that is whole."""
        if restore.snapshot_bytes is None:
            return []
        receiving = restore.store.snapshots.staged_receiving()
        assert receiving is not None
        sequencer = Sequencer({restore.raft_id: Replica(self._engine.node_id, placed=True)})
        sequencer.index, sequencer.position = SNAPSHOT_INDEX, restore.position
        meta = SnapshotMeta(
            SNAPSHOT_INDEX,
            TERM,
            restore.store.record.conf_state,
            sequencer.pack(),
            receiving.size,
            receiving.chunks,
            receiving.generation,
            receiving.checksum,
        )
        restore.snapshot_bytes = None
        return [restore.store.stage_install(batch, meta, HardState(TERM, 0, SNAPSHOT_INDEX))]

    def _stage_items(self, batch: WriteBatch, restore: _Restore, items: Sequence[bytes]) -> Pending:
        """Entries in which the restore's own session proposes the items."""
        data: list[bytes] = []
        index = restore.store.staged_last_index() + 1
        if not restore.opened:
            restore.session = self._engine.rng.getrandbits(8 * SESSION_BYTES).to_bytes(SESSION_BYTES, "big")
            restore.opened = index
            data.append(pack_open(restore.session, self._engine.node_id, BOOT))
        for batched in self._batches(items):
            data.append(pack_batch(restore.session, restore.opened, restore.proposed + 1, batched))
            restore.proposed += len(batched)
        restore.position += len(items)
        return _stage_entries(batch, restore.store, index, data)

    def _batches(self, items: Sequence[bytes]) -> list[list[bytes]]:
        config = self._engine.config
        batches: list[list[bytes]] = []
        size = config.batch_bytes_max
        for item in items:
            if size + len(item) > config.batch_bytes_max or len(batches[-1]) >= config.batch_proposals_max:
                batches.append([])
                size = 0
            batches[-1].append(item)
            size += len(item)
        return batches

    def finish(self, group_id: bytes, position: int, timeout_s: float, answer: Future[dict[str, Any]]) -> None:
        """All was handed in, and it ends at ``position``: let it become a data structure.

        ``answer`` is resolved when its group leads itself on this node. It gets :class:`~copycat.errors.UsageError` if the
        data structure exists by now, and :class:`~copycat.errors.Timeout` after ``timeout_s``: the node goes on with it.
        """
        restore = self._of(group_id)
        if position != restore.position:
            raise UsageError(f"the backup ends at position {position}, and what was handed in at {restore.position}")
        _check_whole(restore)
        store = restore.store
        pending: list[Pending] = []

        def durable() -> None:
            _complete(store, pending)
            restore.durable = True

        batch = self._engine.stage(True, durable)
        pending += self._stage_snapshot(batch, restore)
        if restore.opened:
            end = pack_close(restore.session)
            pending.append(_stage_entries(batch, store, store.staged_last_index() + 1, [end]))
        self._stage_record(batch, restore.genesis, complete=True)
        restore.complete = True
        restore.deadline = self._engine.now + timeout_s
        restore.answer = answer

    def give_up(self, group_id: bytes) -> None:
        """Clear away what was handed in. Raises :class:`~copycat.errors.UsageError` if it is complete, or not there."""
        self._of(group_id)
        self._drop(self._restores[group_id])

    def _of(self, group_id: bytes) -> _Restore:
        restore = self._restores.get(group_id)
        if restore is None or restore.complete:
            raise UsageError(
                "no such restore takes anything: it was silent for too long, is complete, or somebody else has created the data "
                "structure"
            )
        restore.touched_at = self._engine.now
        return restore

    # --- becoming a group ---

    def gave_way(self, group_id: bytes, genesis: bytes) -> bool:
        """Whether there was a restore for another genesis: somebody else has created the group, and it is given up."""
        restore = self._restores.get(group_id)
        if restore is None or restore.store.record.genesis == genesis:
            return False
        self._fail(restore, _exists(group_id))
        self._drop(restore)
        return True

    def take(self, group_id: bytes, batch: WriteBatch) -> ReplicaStore | None:
        """The replica that was prepared, staged to be real with all that it holds; None if there is none."""
        restore = self._restores.pop(group_id, None)
        if restore is None:
            return None
        self._engine.store.stage_delete(batch, RECORD_PREFIX + group_id.hex())
        restore.store.stage_record(batch)
        self._awaited.append(restore)
        return restore.store

    def tick(self) -> None:
        engine, now = self._engine, self._engine.now
        for restore in list(self._restores.values()):
            record = engine.founding.acceptor.record(restore.group_id)
            if not restore.complete:
                if now > restore.touched_at + SILENT_S_MAX:
                    self._drop(restore)
            elif record is not None and record.chosen and record.genesis != restore.genesis:
                self._fail(restore, _exists(restore.group_id))
                self._drop(restore)
            elif restore.durable and engine.founding.ready and not engine.founding.founds(restore.group_id):
                engine.founding.found(restore.genesis, FOUND_S)
            self._tell_if_late(restore)
        self._awaited = [restore for restore in self._awaited if not self._is_led(restore)]

    def _is_led(self, restore: _Restore) -> bool:
        """Whether its group has come to its end, or nobody waits for that any more."""
        group = self._engine.hosting.groups.get(restore.group_id)
        if restore.answer is None or restore.answer.done():
            return True
        if group is not None and group.leader and group.sequencer.index >= restore.store.last_index():
            log.info("data structure restored", extra={"group": name_of(restore.group_id)})
            restore.answer.set_result(
                {"id": str(DataStructureId(restore.group_id)), "position": group.sequencer.position}
            )
            return True
        self._tell_if_late(restore)
        return False

    def _tell_if_late(self, restore: _Restore) -> None:
        if restore.complete and self._engine.now >= restore.deadline:
            self._fail(restore, Timeout("the group could not be created in time; this node goes on with it by itself"))

    def _fail(self, restore: _Restore, error: CopyCatError) -> None:
        if restore.answer is not None and not restore.answer.done():
            restore.answer.set_exception(error)

    def _drop(self, restore: _Restore) -> None:
        del self._restores[restore.group_id]
        self._clear_away(restore.group_id, restore.store)

    def _clear_away(self, group_id: bytes, store: ReplicaStore) -> None:
        batch = self._engine.hosting.clear_away(store)
        self._engine.store.stage_delete(batch, RECORD_PREFIX + group_id.hex())

    def _stage_record(self, batch: WriteBatch, genesis: Genesis, complete: bool) -> None:
        record = RestoreRecord(pack_record(genesis), complete)
        self._engine.store.stage_put(batch, RECORD_PREFIX + genesis.group_id.hex(), pack_record(record))

    def end(self, reason: CopyCatError) -> None:
        """No turn will come any more."""
        for restore in (*self._restores.values(), *self._awaited):
            self._fail(restore, reason)


def _replica_record(genesis: Genesis) -> ReplicaRecord:
    raft_id = genesis.voters[0][0]
    return ReplicaRecord(raft_id, pack_record(genesis), ConfState(voters=(raft_id,)))


def _check_whole(restore: _Restore) -> None:
    """Raise :class:`~copycat.errors.UsageError` if chunks of the snapshot are missing."""
    receiving = restore.store.snapshots.staged_receiving()
    if restore.snapshot_bytes is not None and receiving is not None and receiving.size != restore.snapshot_bytes:
        raise UsageError(f"the snapshot has {receiving.size} bytes, and {restore.snapshot_bytes} were announced")


def _stage_entries(batch: WriteBatch, store: ReplicaStore, index: int, data: Sequence[bytes]) -> Pending:
    """Stage entries that are committed as soon as they are durable: there is one voter."""
    entries = [Entry(TERM, number, EntryType.NORMAL, one) for number, one in enumerate(data, index)]
    return store.stage(batch, HardState(TERM, 0, entries[-1].index), entries)


def _complete(store: ReplicaStore, pending: Sequence[Pending]) -> None:
    for each in pending:
        store.complete(each)


def _clearing() -> UsageError:
    return UsageError("what an earlier replica left on this node is being cleared away; try again in a moment")


def _exists(group_id: bytes) -> UsageError:
    return UsageError(
        f"the data structure {DataStructureId(group_id)} exists in this cluster; restore it under a new id, or into another "
        "cluster"
    )
