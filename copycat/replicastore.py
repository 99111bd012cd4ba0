"""One replica's stable storage: hard state, log, snapshots; what Raft reads of it and how it changes.

Writing is asynchronous. A ``stage_*`` method adds the change to a batch; a storage thread writes the batches in the order
in which they were staged, synced; then the change's :class:`~copycat.pending.Pending` is completed here, in the same
order, and only from then on do reads show it. (What is under way is Raft's "unstable" part; it never reads that here.) So
this never shows Raft what a crash could still take away, and after a crash the disk holds the state after some prefix of
the staged batches, never less than the completed ones.

Every change that moves the bounds of the log (entries appended, over a conflicting suffix or not, a compaction, an installed
snapshot) writes one small record with the hard state and those bounds. Entries outside the bounds are invisible at once, and
are deleted later, a bounded number at a time, by :meth:`ReplicaStore.stage_garbage`. An entry that is missing inside the
bounds is damage, not the end of the log: what figure 2 of the Raft paper calls persistent was promised to others.

All methods belong to one thread; only the writing of batches happens in another. This never writes by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from copycat import keys
from copycat.entrycache import CacheBudget, EntryCache
from copycat.errors import StorageCorrupt
from copycat.indexranges import IndexRanges
from copycat.keys import ReplicaKeys, index_of_entry_key
from copycat.logindex import LogIndex
from copycat.messages import ConfState, Entry, HardState, Snapshot
from copycat.pending import Completions, Pending
from copycat.ports import Storage, WriteBatch
from copycat.raft.storage import SnapshotUnavailable
from copycat.records import (
    ENTRY_HEAD_BYTES,
    RETIRED_IDS_MAX,
    LogState,
    ReplicaRecord,
    SnapshotMeta,
    missing,
    pack_descriptor,
    seal_entry,
    seal_record,
    term_of_sealed_entry,
    unseal_entry,
    unseal_record,
)
from copycat.snapshotslots import SnapshotSlots

CACHE_BYTES_MAX = 1 << 20
"""Of a log that is given no share of a node's cache."""


class ReplicaStore:
    """Implements :class:`copycat.raft.storage.LogStorage`. Use :meth:`create` or :meth:`load`."""

    __slots__ = (
        "_cache",
        "_completions",
        "_hard_state",
        "_index",
        "_keys",
        "_staged",
        "_storage",
        "_waste",
        "destroyed",
        "group_id",
        "record",
        "snapshots",
    )

    def __init__(self, storage: Storage, group_id: bytes, record: ReplicaRecord, cache: CacheBudget | None) -> None:
        self.group_id = group_id
        self.record = record
        self.destroyed = record.destroyed
        self._storage = storage
        self._keys = ReplicaKeys(group_id)
        self._completions = Completions()
        self._hard_state = HardState()
        self._index = LogIndex(0, 0)
        self._cache = EntryCache(cache or CacheBudget(CACHE_BYTES_MAX))
        self._staged = LogState()  # as it will be when all that was staged is durable
        self._waste = IndexRanges()  # entries outside the staged log that may lie on disk
        self.snapshots = SnapshotSlots(storage, self._keys, self._completions)

    @classmethod
    def create(
        cls,
        storage: Storage,
        group_id: bytes,
        record: ReplicaRecord,
        batch: WriteBatch,
        cache: CacheBudget | None = None,
    ) -> ReplicaStore:
        """Stage a new replica with an empty log, and return its store at once.

        Where there was one before, its tombstone is replaced and its raft id is remembered. Raises ValueError if the group
        has a replica here, or if the raft id was used before.
        """
        store = cls.prepare(storage, group_id, record, cache)
        store.stage_record(batch)
        store.snapshots.stage_empty(batch)
        store._put_state(batch)
        return store

    @classmethod
    def prepare(
        cls, storage: Storage, group_id: bytes, record: ReplicaRecord, cache: CacheBudget | None = None
    ) -> ReplicaStore:
        """The store of a replica that is none until :meth:`stage_record`, and may be given its content before.

        Raises ValueError as :meth:`create`.
        """
        keys_ = ReplicaKeys(group_id)
        value = storage.get(keys_.replica)
        if value is not None:
            earlier = unseal_record(keys_.replica, value, ReplicaRecord)
            retired = (*earlier.retired, earlier.raft_id)[-RETIRED_IDS_MAX:]
            if not earlier.destroyed:
                raise ValueError(f"group {group_id.hex()} already has a replica on this node")
            if record.raft_id in retired:
                raise ValueError(f"raft id {record.raft_id} of group {group_id.hex()} was used before on this node")
            record = replace(record, retired=retired)
        store = cls(storage, group_id, record, cache)
        store._find_waste()
        store.snapshots.load_empty()
        return store

    def stage_record(self, batch: WriteBatch) -> None:
        """Stage that this replica exists."""
        batch.put(self._keys.replica, seal_record(self._keys.replica, self.record))

    @classmethod
    def load(
        cls,
        storage: Storage,
        group_id: bytes,
        cache: CacheBudget | None = None,
        prepared: ReplicaRecord | None = None,
    ) -> ReplicaStore:
        """Read what a restart left; every entry is checked. With ``destroyed`` set only its waste is left.

        ``prepared`` is the record of a replica that has its content, and is none yet: see :meth:`prepare`.
        Raises :class:`~copycat.errors.StorageCorrupt` for a damaged or missing record, with its key.
        """
        record = prepared
        if record is None:
            key = keys.replica_key(group_id)
            value = storage.get(key)
            if value is None:
                raise missing(key, "the record of a replica")
            record = unseal_record(key, value, ReplicaRecord)
        store = cls(storage, group_id, record, cache)
        if store.destroyed:
            store._completions.end()
        else:
            store._load_log()
        store._find_waste()
        store.snapshots.load()
        return store

    # --- what Raft reads --------------------------------------------------------------------------------------------

    def initial_state(self) -> tuple[HardState, ConfState]:
        """See :class:`~copycat.raft.storage.LogStorage`. What the snapshot covers counts as committed."""
        state, snapshot = self._hard_state, self.snapshots.current
        commit = state.commit if snapshot is None else max(state.commit, snapshot.index)
        conf_state = self.record.conf_state if snapshot is None else snapshot.conf_state
        return HardState(state.term, state.vote, commit), conf_state

    def first_index(self) -> int:
        return self._index.start_index + 1

    def last_index(self) -> int:
        return self._index.last_index

    def staged_last_index(self) -> int:
        """The last entry once all that was staged is durable."""
        return self._staged.last_index

    def term(self, index: int) -> int:
        return self._index.term(index)

    def entries(self, low: int, high: int, bytes_max: int) -> list[Entry]:
        """See :class:`~copycat.raft.storage.LogStorage`. Reads the disk only for what is not among the recent entries.

        Raises :class:`~copycat.errors.StorageCorrupt` for a damaged or missing entry, with its key.
        """
        self._index.check(low, high)
        if low >= high:
            return []
        stop = self._index.cut(low, high, bytes_max)
        cached = max(low, min(stop, self._cache.first_index))
        found = self._read_entries(low, cached) if low < cached else []
        return found + self._cache.entries(cached, stop)

    def snapshot(self) -> Snapshot:
        """The current snapshot; ``data`` is its packed :class:`~copycat.records.SnapshotMeta`, without chunks."""
        meta = self.snapshots.current
        if meta is None:
            raise SnapshotUnavailable
        return Snapshot(meta.index, meta.term, meta.conf_state, pack_descriptor(meta))

    @property
    def log_bytes(self) -> int:
        """Bytes on disk of the log's entries, keys and heads included, waste not."""
        return self._index.log_bytes

    def bytes_between(self, low: int, high: int) -> int:
        """The same for ``low <= index < high``, as far as these are in the log."""
        return self._index.bytes_between(low, high)

    @property
    def outstanding(self) -> int:
        """How many staged changes have not been completed."""
        return self._completions.outstanding

    # --- changes ----------------------------------------------------------------------------------------------------

    def stage(self, batch: WriteBatch, hard_state: HardState | None, entries: Sequence[Entry]) -> Pending:
        """Stage a new hard state, and entries that follow each other; whatever was at or behind the first one is gone.

        Raises ValueError for entries that leave a gap or reach into the compacted part.
        """
        self._completions.check_open()
        if hard_state is not None:
            hard_state = self._stage_hard_state(hard_state)
        entries = tuple(entries)  # the caller's list may change before it is completed, too
        if entries:
            self._stage_entries(batch, entries)
        if entries or hard_state is not None:
            self._put_state(batch)

        def effect() -> None:
            if hard_state is not None:
                self._hard_state = hard_state
            if entries:
                self._append(entries)

        return self._completions.pend(effect)

    def stage_commit(self, batch: WriteBatch, index: int) -> Pending:
        """Stage that all up to and with ``index``, an entry of the log, is committed."""
        staged = self._staged
        return self.stage(batch, HardState(staged.term, staged.vote, max(staged.commit, index)), ())

    def stage_compaction(self, batch: WriteBatch, index: int) -> Pending:
        """Stage the removal of all entries up to and with ``index``; its term stays readable.

        ``index`` is at most the newest snapshot's, and visible already. An earlier point than the present one changes nothing.
        Raises ValueError for an index that no snapshot covers.
        """
        self._completions.check_open()
        if index > self.snapshots.staged_index():
            raise ValueError(f"no snapshot covers entry {index}: it can't be compacted")
        if index <= self._staged.start_index:
            return self._completions.pend(_nothing)
        term = self._index.term(index)
        self._waste.add(self._staged.start_index + 1, index)
        self._staged.start_index, self._staged.start_term = index, term
        self._put_state(batch)

        def effect() -> None:
            self._index.compact(index)
            self._cache.compact(index)

        return self._completions.pend(effect)

    def stage_install(self, batch: WriteBatch, meta: SnapshotMeta, hard_state: HardState | None) -> Pending:
        """Stage, as one step, that the received snapshot becomes the current one and stands for the whole log.

        ``meta.generation`` is that of :attr:`SnapshotSlots.receiving`, and all of ``meta.chunk_count`` chunks were staged.
        Whoever calls this has read them through :meth:`SnapshotSlots.chunks`. Raises ValueError for any other.
        """
        self._completions.check_open()
        self.snapshots.stage_received(batch, meta)
        if hard_state is not None:
            hard_state = self._stage_hard_state(hard_state)
        self._waste.add(self._staged.start_index + 1, self._staged.last_index)
        self._staged.start_index = self._staged.last_index = meta.index
        self._staged.start_term = meta.term
        self._put_state(batch)

        def effect() -> None:
            if hard_state is not None:
                self._hard_state = hard_state
            self._index.reset(meta.index, meta.term)
            self._cache.clear()
            self.snapshots.received(meta)

        return self._completions.pend(effect)

    def stage_adopt(self, batch: WriteBatch, meta: SnapshotMeta) -> Pending:
        """Stage that the received snapshot becomes the current one; the log stays, and may be compacted up to it.

        Raises what :meth:`stage_install` raises, and ValueError if the log does not reach to the snapshot: a restart would
        take entries for committed that it does not have.
        """
        self._completions.check_open()
        if meta.index > self._staged.last_index:
            raise ValueError(f"the log ends at entry {self._staged.last_index}, before the snapshot at {meta.index}")
        self.snapshots.stage_received(batch, meta)
        return self._completions.pend(lambda: self.snapshots.received(meta))

    def stage_succession(
        self, batch: WriteBatch, raft_id: int, hard_state: HardState, entries: Sequence[Entry]
    ) -> tuple[Pending, Pending]:
        """Stage, as one step, that this log goes on under another raft id, with ``entries`` behind what it holds.

        The present raft id is remembered with those that are never used again. Both changes are to be completed, in order.
        Raises ValueError as :meth:`stage` does, and for a raft id that was used before.
        """
        record = self.record
        retired = (*record.retired, record.raft_id)[-RETIRED_IDS_MAX:]
        if raft_id in retired:
            raise ValueError(f"raft id {raft_id} of group {self.group_id.hex()} was used before on this node")
        successor = replace(record, raft_id=raft_id, retired=retired)
        appended = self.stage(batch, hard_state, entries)
        batch.put(self._keys.replica, seal_record(self._keys.replica, successor))

        def effect() -> None:
            self.record = successor

        return appended, self._completions.pend(effect)

    def stage_destroy(self, batch: WriteBatch) -> Pending:
        """Stage the end of this replica: a tombstone stays, so that its raft id is never used again; all else is waste."""
        self._completions.check_open()
        self._completions.end()
        tombstone = replace(self.record, destroyed=True)
        batch.put(self._keys.replica, seal_record(self._keys.replica, tombstone))
        batch.delete(self._keys.state)
        self.snapshots.stage_destroyed(batch)
        self._waste.add(self._staged.start_index + 1, self._staged.last_index)
        self._staged = LogState()

        def effect() -> None:
            self.record = tombstone
            self.destroyed = True
            self._hard_state = HardState()
            self._index.reset(0, 0)
            self._cache.clear()
            self.snapshots.destroyed()

        return self._completions.pend(effect)

    def complete(self, pending: Pending) -> None:
        """Its batch is durable: show it. Raises ValueError unless changes are completed in the order of staging."""
        self._completions.complete(pending)

    def forget_cache(self) -> None:
        """Drop the recent entries from memory; later reads find them on disk."""
        self._cache.clear()

    # --- waste ------------------------------------------------------------------------------------------------------

    def has_garbage(self) -> bool:
        """Whether :meth:`stage_garbage` would stage anything now."""
        return bool(self._deletable()) or self.snapshots.has_garbage()

    def stage_garbage(self, batch: WriteBatch, keys_max: int) -> bool:
        """Stage the deletion of up to ``keys_max`` records that are waste; True if there is more.

        Nothing has to be completed. What a crash leaves over is found again at the next start.
        """
        for low, high in self._deletable().smallest(keys_max):
            for index in range(low, high + 1):
                batch.delete(self._keys.entry(index))
            self._waste.remove(low, high)
            keys_max -= high - low + 1
        self.snapshots.stage_garbage(batch, keys_max)
        return self.has_garbage()

    def _deletable(self) -> IndexRanges:
        """Waste that no reader can ask for either, before what is staged becomes visible.

        Entries that were cut off while they were still on their way become visible for a moment without being here any more;
        Raft has its own, newer log in their place and does not read them.
        """
        return self._waste.outside(self._index.start_index + 1, self._index.last_index)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _put_state(self, batch: WriteBatch) -> None:
        batch.put(self._keys.state, seal_record(self._keys.state, self._staged))

    def _stage_hard_state(self, hard_state: HardState) -> HardState:
        """A copy, because the caller's may change before it is completed."""
        staged = self._staged
        staged.term, staged.vote, staged.commit = hard_state.term, hard_state.vote, hard_state.commit
        return HardState(hard_state.term, hard_state.vote, hard_state.commit)

    def _stage_entries(self, batch: WriteBatch, entries: Sequence[Entry]) -> None:
        staged = self._staged
        first = index = entries[0].index
        if not staged.start_index < first <= staged.last_index + 1:
            raise ValueError(f"entry {first} doesn't continue a log of {staged.start_index + 1} to {staged.last_index}")
        entry_key = self._keys.entry
        puts: list[tuple[bytes, bytes | None]] = []
        for entry in entries:
            if entry.index != index:
                raise ValueError(f"entry {entry.index} can't follow entry {index - 1}")
            key = entry_key(index)
            puts.append((key, seal_entry(key, entry)))
            index += 1
        batch.operations += puts
        last = index - 1
        self._waste.add(last + 1, staged.last_index)
        if self._waste:
            self._waste.remove(first, last)
        staged.last_index = last

    def _append(self, entries: Sequence[Entry]) -> None:
        self._index.truncate(entries[0].index - 1)
        self._index.extend([(entry.term, len(entry.data)) for entry in entries])
        self._cache.append(entries)

    def _read_entries(self, low: int, high: int) -> list[Entry]:
        found: list[Entry] = []
        expected = low
        for key, value in self._storage.scan(self._keys.entry(low), self._keys.entry(high)):
            index = index_of_entry_key(key)
            if index != expected:
                break
            entry = unseal_entry(key, value, index)
            if entry.term != self._index.term(index):
                raise StorageCorrupt(
                    f"entry {index} under key {key.hex()} has term {entry.term}, not {self._index.term(index)}"
                )
            found.append(entry)
            expected += 1
        if expected != high:
            raise missing(self._keys.entry(expected), f"entry {expected}")
        return found

    def _load_log(self) -> None:
        value = self._storage.get(self._keys.state)
        if value is None:
            raise missing(self._keys.state, "the hard state of a replica")
        state = self._staged = unseal_record(self._keys.state, value, LogState)
        self._hard_state = HardState(state.term, state.vote, state.commit)
        self._index.reset(state.start_index, state.start_term)
        expected = state.start_index + 1
        append = self._index.append
        stop = self._keys.entry(state.last_index) + b"\x00"
        for key, value in self._storage.scan(self._keys.entry(expected), stop):
            if index_of_entry_key(key) != expected:
                break
            append(term_of_sealed_entry(key, value), len(value) - ENTRY_HEAD_BYTES)
            expected += 1
        if expected != state.last_index + 1:
            raise missing(self._keys.entry(expected), f"entry {expected}")

    def _find_waste(self) -> None:
        """Look for entries outside the bounds of the log, without reading those inside."""
        in_front = self._keys.entry(self._staged.start_index) + b"\x00"
        behind = self._keys.entry(self._staged.last_index) + b"\x00"
        for start, stop in ((self._keys.entry_prefix, in_front), (behind, self._keys.entries_end)):
            lowest = next(self._storage.scan(start, stop), None)
            highest = next(self._storage.scan(start, stop, reverse=True), None)
            if lowest is not None and highest is not None:
                self._waste.add(index_of_entry_key(lowest[0]), index_of_entry_key(highest[0]))


def _nothing() -> None:
    """The effect of a change that turned out to be none."""
