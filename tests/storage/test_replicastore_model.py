"""A replica's store against a dumb twin, through any sequence of changes, writes, completions, restarts and crashes.

The twin keeps everything in lists and is copied whole at each staged batch. What is checked: reads show exactly the
completed changes; after a crash the store is the twin of some batch that was written, never an older one than was
synced; and when all waste is collected, the disk holds the records of the live state and not one more.
"""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass, field, replace
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from copycat.entrycache import CacheBudget
from copycat.logindex import ENTRY_OVERHEAD_BYTES
from copycat.messages import ConfState, Entry, EntryType, HardState
from copycat.pending import Pending
from copycat.ports import WriteBatch
from copycat.raft.storage import Compacted, SnapshotUnavailable, Unavailable
from copycat.records import ReplicaRecord, SnapshotMeta, unpack_descriptor
from copycat.replicastore import ReplicaStore
from copycat.testing.disk import Disk, FaultyStorage

GROUP = bytes(range(16))
GENESIS = ConfState(voters=(7,))
ALL = 1 << 40


@dataclass
class Twin:
    hard_state: HardState = field(default_factory=HardState)
    start_index: int = 0
    start_term: int = 0
    entries: list[Entry] = field(default_factory=list)
    meta: SnapshotMeta | None = None
    chunks: list[bytes] = field(default_factory=list)
    source: bytes | None = None
    received: list[bytes] = field(default_factory=list)

    @property
    def last_index(self) -> int:
        return self.start_index + len(self.entries)

    def term(self, index: int) -> int:
        return self.start_term if index == self.start_index else self.entries[index - self.start_index - 1].term


@dataclass
class Staged:
    """One batch on its way."""

    batch: WriteBatch
    pending: list[Pending]
    twin: Twin
    first_entry: int = ALL


def describe(chunks: list[bytes], index: int, term: int, generation: int) -> SnapshotMeta:
    whole = b"".join(chunks)
    conf_state = ConfState(voters=(1, index), learners=(9,))
    return SnapshotMeta(index, term, conf_state, b"state", len(whole), len(chunks), generation, crc32(whole))


class ReplicaStoreMachine(RuleBasedStateMachine):
    @initialize(seed=st.integers(0, 1 << 30), cache_bytes_max=st.sampled_from([0, 400, 1 << 20]))
    def start(self, seed: int, cache_bytes_max: int) -> None:
        self.rng = random.Random(seed)
        self.cache_bytes_max = cache_bytes_max
        self.disk = Disk(self.rng)
        self.storage = FaultyStorage(self.disk)
        self.storage.open(Path("unused"))
        batch = WriteBatch()
        record = ReplicaRecord(5, b"genesis", GENESIS)
        self.store = ReplicaStore.create(self.storage, GROUP, record, batch, CacheBudget(cache_bytes_max))
        self.storage.write(batch, sync=True)
        self.forget_the_unwritten(Twin())

    def forget_the_unwritten(self, twin: Twin) -> None:
        self.visible = twin
        self.staged = copy.deepcopy(twin)
        self.unwritten: list[Staged] = []
        self.written: list[Staged] = []  # and not completed
        self.history = [copy.deepcopy(twin)]  # after each batch since the last restart
        self.synced = 0  # how many of them a crash can't take
        self.making: tuple[int, list[bytes]] | None = None

    def push(self, batch: WriteBatch, pending: list[Pending], first_entry: int = ALL) -> None:
        self.unwritten.append(Staged(batch, pending, copy.deepcopy(self.staged), first_entry))

    # --- changes --------------------------------------------------------------------------------------------------

    @rule(
        back=st.integers(0, 5), sizes=st.lists(st.integers(0, 60), max_size=6), newer=st.booleans(), vote=st.booleans()
    )
    def stage(self, back: int, sizes: list[int], newer: bool, vote: bool) -> None:
        twin = self.staged
        first = max(twin.last_index + 1 - back, twin.start_index + 1)
        term = max(twin.term(first - 1), twin.hard_state.term) + newer
        entries = [
            Entry(term, first + place, self.rng.choice(list(EntryType)), self.rng.randbytes(size))
            for place, size in enumerate(sizes)
        ]
        hard_state = HardState(term, 3, twin.hard_state.commit + 1) if vote else None
        if hard_state is not None:
            twin.hard_state = copy.copy(hard_state)
        if entries:
            twin.entries = twin.entries[: first - twin.start_index - 1] + entries
        batch = WriteBatch()
        pending = self.store.stage(batch, hard_state, entries)
        if hard_state is not None:
            hard_state.term = 999  # the store has its own copy
        self.push(batch, [pending], first if entries else ALL)

    @precondition(lambda self: self.staged.meta is not None)
    @rule(share=st.floats(0, 1))
    def stage_compaction(self, share: float) -> None:
        twin = self.staged
        assert twin.meta is not None
        # the committed part of a log is what both views agree on, and only that is compacted
        highest = min(twin.meta.index, self.visible.last_index, self.lowest_overwritten() - 1)
        if highest < max(twin.start_index, self.visible.start_index):
            return
        index = round(share * highest)
        batch = WriteBatch()
        pending = self.store.stage_compaction(batch, index)
        if index > twin.start_index:
            twin.start_term = twin.term(index)
            del twin.entries[: index - twin.start_index]
            twin.start_index = index
        self.push(batch, [pending])

    @precondition(lambda self: self.making is None)
    @rule()
    def begin_snapshot(self) -> None:
        self.making = (self.store.snapshots.begin(), [])

    @precondition(lambda self: self.making is not None)
    @rule(size=st.integers(1, 50))
    def stage_chunk(self, size: int) -> None:
        assert self.making is not None
        generation, chunks = self.making
        chunks.append(self.rng.randbytes(size))
        batch = WriteBatch()
        self.store.snapshots.stage_chunk(batch, generation, len(chunks) - 1, chunks[-1])
        self.push(batch, [])

    @precondition(lambda self: self.making is not None)
    @rule(abandon=st.booleans(), share=st.floats(0, 1))
    def finish_snapshot(self, abandon: bool, share: float) -> None:
        assert self.making is not None
        generation, chunks = self.making
        twin = self.staged
        low = max(twin.start_index, 0 if twin.meta is None else twin.meta.index, 1)
        if abandon or twin.last_index < low:
            self.store.snapshots.abandon()
        else:
            index = low + round(share * (twin.last_index - low))
            batch = WriteBatch()
            twin.meta = describe(chunks, index, twin.term(index), generation)
            twin.chunks = list(chunks)
            self.push(batch, [self.store.snapshots.stage_snapshot(batch, twin.meta)])
        self.making = None

    @precondition(lambda self: self.making is None and self.staged.last_index > self.staged.start_index)
    @rule(sizes=st.lists(st.integers(1, 50), max_size=3), share=st.floats(0, 1))
    def make_a_whole_snapshot(self, sizes: list[int], share: float) -> None:
        self.begin_snapshot()
        for size in sizes:
            self.stage_chunk(size)
        self.finish_snapshot(False, share)

    @precondition(lambda self: self.making is None and self.visible.last_index > self.staged.start_index)
    @rule(sizes=st.lists(st.integers(1, 50), max_size=3), share=st.floats(0, 1))
    def make_a_snapshot_and_compact(self, sizes: list[int], share: float) -> None:
        self.make_a_whole_snapshot(sizes, share)
        if self.staged.meta is not None:
            self.stage_compaction(1.0)

    @rule(sizes=st.lists(st.integers(1, 50), max_size=3), ahead=st.integers(-3, 6), vote=st.booleans())
    def install_a_whole_snapshot(self, sizes: list[int], ahead: int, vote: bool) -> None:
        self.stage_receive()
        for size in sizes:
            self.stage_received_chunk(size)
        self.settle()
        self.stage_install(ahead, vote, vote)

    @rule()
    def stage_receive(self) -> None:
        batch = WriteBatch()
        self.staged.source, self.staged.received = self.rng.randbytes(5), []
        self.push(batch, [self.store.snapshots.stage_receive(batch, self.staged.source)])

    @precondition(lambda self: self.staged.source is not None)
    @rule(size=st.integers(1, 50))
    def stage_received_chunk(self, size: int) -> None:
        batch = WriteBatch()
        self.staged.received.append(self.rng.randbytes(size))
        number = len(self.staged.received) - 1
        self.push(batch, [self.store.snapshots.stage_received_chunk(batch, number, self.staged.received[-1])])

    @rule()
    def stage_receive_abandoned(self) -> None:
        batch = WriteBatch()
        self.staged.source, self.staged.received = None, []
        self.push(batch, [self.store.snapshots.stage_receive_abandoned(batch)])

    @precondition(lambda self: self.staged.source is not None and not self.unwritten and not self.written)
    @rule(ahead=st.integers(-3, 6), vote=st.booleans(), and_more=st.booleans())
    def stage_install(self, ahead: int, vote: bool, and_more: bool) -> None:
        twin = self.staged
        index = max(twin.last_index + ahead, twin.start_index + 1, 1 if twin.meta is None else twin.meta.index)
        term = max(twin.term(twin.last_index), twin.hard_state.term)
        receiving = self.store.snapshots.receiving
        assert receiving is not None
        meta = describe(twin.received, index, term, receiving.generation)
        hard_state = HardState(term, 0, index) if vote else None
        batch = WriteBatch()
        pending = [self.store.stage_install(batch, meta, hard_state)]
        entries = [Entry(term, index + 1, EntryType.NORMAL, b"behind")] if and_more else []
        if and_more:  # a batch may carry several changes of one replica
            pending.append(self.store.stage(batch, None, entries))
        twin.hard_state = twin.hard_state if hard_state is None else hard_state
        twin.start_index, twin.start_term, twin.entries = index, term, entries
        twin.meta, twin.chunks = meta, twin.received
        twin.source, twin.received = None, []
        self.push(batch, pending, index + 1 if and_more else ALL)

    @rule(sizes=st.lists(st.integers(1, 50), max_size=3), share=st.floats(0, 1))
    def adopt_a_whole_snapshot(self, sizes: list[int], share: float) -> None:
        twin = self.staged
        low = max(twin.start_index, 0 if twin.meta is None else twin.meta.index, 1)
        if twin.last_index < low:
            return
        self.stage_receive()
        for size in sizes:
            self.stage_received_chunk(size)
        index = low + round(share * (twin.last_index - low))
        batch = WriteBatch()
        receiving = self.store.snapshots.staged_receiving()
        assert receiving is not None
        meta = describe(twin.received, index, twin.term(index), receiving.generation)
        pending = self.store.stage_adopt(batch, meta)
        twin.meta, twin.chunks = meta, twin.received
        twin.source, twin.received = None, []
        self.push(batch, [pending])

    @rule(keys_max=st.sampled_from([1, 3, 20]))
    def stage_garbage(self, keys_max: int) -> None:
        batch = WriteBatch()
        self.store.stage_garbage(batch, keys_max)
        assert len(batch.operations) <= keys_max
        self.push(batch, [])

    # --- the way to the disk --------------------------------------------------------------------------------------

    @precondition(lambda self: self.unwritten)
    @rule(sync=st.booleans())
    def write(self, sync: bool) -> None:
        staged = self.unwritten.pop(0)
        self.storage.write(staged.batch, sync)
        self.written.append(staged)
        self.history.append(staged.twin)
        if sync:
            self.synced = len(self.history) - 1

    @rule()
    def write_all(self) -> None:
        while self.unwritten:
            self.write(False)

    @precondition(lambda self: self.written)
    @rule()
    def complete(self) -> None:
        staged = self.written.pop(0)
        for pending in staged.pending:
            self.store.complete(pending)
        self.visible = staged.twin

    @rule()
    def settle(self) -> None:
        while self.unwritten:
            self.write(True)
        while self.written:
            self.complete()

    @rule()
    def restart(self) -> None:
        self.settle()
        self.storage.write(WriteBatch(), sync=True)
        self.storage.close()
        self.come_back(self.visible)

    @rule()
    def crash(self) -> None:
        kept = self.disk.crash()
        survived = self.history[self.synced + kept]
        self.come_back(survived)

    def come_back(self, twin: Twin) -> None:
        self.storage = FaultyStorage(self.disk)
        self.storage.open(Path("unused"))
        self.store = ReplicaStore.load(self.storage, GROUP, CacheBudget(self.cache_bytes_max))
        assert self.store.record == ReplicaRecord(5, b"genesis", GENESIS)
        self.forget_the_unwritten(copy.deepcopy(twin))

    @rule()
    def collect_all_waste(self) -> None:
        self.settle()
        for _ in range(1000):
            batch = WriteBatch()
            more = self.store.stage_garbage(batch, 7)
            self.storage.write(batch, sync=True)
            self.history.append(self.visible)
            self.synced = len(self.history) - 1
            if not more:
                break
        assert not self.store.has_garbage()
        twin = self.visible
        making = 0 if self.making is None else len(self.making[1])
        records = 2 + (twin.meta is not None) + (twin.source is not None)
        expected = records + len(twin.entries) + len(twin.chunks) + len(twin.received) + making
        assert len(self.disk.pairs()) == expected

    # --- what reads show ------------------------------------------------------------------------------------------

    def lowest_overwritten(self) -> int:
        return min((staged.first_entry for staged in self.written + self.unwritten), default=ALL)

    @invariant()
    def reads_show_what_was_completed(self) -> None:
        store, twin = self.store, self.visible
        hard_state, conf_state = store.initial_state()
        covered = max(twin.start_index, 0 if twin.meta is None else twin.meta.index)
        assert hard_state == replace(twin.hard_state, commit=max(twin.hard_state.commit, covered))
        assert conf_state == (GENESIS if twin.meta is None else twin.meta.conf_state)
        assert (store.first_index(), store.last_index()) == (twin.start_index + 1, twin.last_index)
        for index in range(twin.start_index, twin.last_index + 1):
            assert store.term(index) == twin.term(index)
        assert store.log_bytes == sum(ENTRY_OVERHEAD_BYTES + len(entry.data) for entry in twin.entries)
        # Raft reads what is about to be overwritten from its unstable part only
        stop = min(twin.last_index + 1, max(self.lowest_overwritten(), twin.start_index + 1))
        low = self.rng.randint(twin.start_index + 1, stop)
        bytes_max = self.rng.choice([0, 30, 100, ALL])
        expected: list[Entry] = []
        for entry in twin.entries[low - twin.start_index - 1 : stop - twin.start_index - 1]:
            if expected and sum(len(taken.data) for taken in [*expected, entry]) > bytes_max:
                break
            expected.append(entry)
        assert store.entries(low, stop, bytes_max) == expected
        assert store.bytes_between(low, stop) == sum(
            ENTRY_OVERHEAD_BYTES + len(entry.data) for entry in twin.entries if low <= entry.index < stop
        )

    @invariant()
    def what_is_outside_the_log_is_refused(self) -> None:
        store, twin = self.store, self.visible
        with pytest.raises(Unavailable):
            store.term(twin.last_index + 1)
        with pytest.raises(Unavailable):
            store.entries(twin.last_index + 1, twin.last_index + 2, ALL)
        with pytest.raises(Compacted):
            store.entries(twin.start_index, twin.start_index + 1, ALL)
        if twin.start_index:
            with pytest.raises(Compacted):
                store.term(twin.start_index - 1)

    @invariant()
    def snapshots_are_whole(self) -> None:
        store, twin = self.store, self.visible
        assert store.snapshots.current == twin.meta
        if twin.meta is None:
            with pytest.raises(SnapshotUnavailable):
                store.snapshot()
        else:
            assert list(store.snapshots.chunks(twin.meta)) == twin.chunks
            snapshot = store.snapshot()
            assert unpack_descriptor(snapshot.data) == twin.meta
            assert (snapshot.index, snapshot.term, snapshot.conf_state) == (
                twin.meta.index,
                twin.meta.term,
                twin.meta.conf_state,
            )
        receiving = store.snapshots.receiving
        assert (None if receiving is None else receiving.source) == twin.source
        if receiving is not None:
            chunks = [store.snapshots.read_chunk(receiving.generation, number) for number in range(receiving.chunks)]
            assert chunks == twin.received
            whole = b"".join(chunks)
            assert (receiving.size, receiving.checksum) == (len(whole), crc32(whole))


ReplicaStoreMachine.TestCase.settings = settings(
    max_examples=300, stateful_step_count=60, deadline=None, derandomize=True
)
TestReplicaStoreModel = ReplicaStoreMachine.TestCase
