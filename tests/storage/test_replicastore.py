"""What a replica's store does at its edges: damage, crashes at every write, destruction, retention, cost."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import pytest

from copycat import keys
from copycat.config import Config
from copycat.entrycache import CacheBudget
from copycat.errors import StorageCorrupt, StorageFailed
from copycat.keys import ReplicaKeys
from copycat.messages import ConfState, Entry, EntryType, HardState
from copycat.pending import Pending
from copycat.ports import Storage, WriteBatch
from copycat.raft.storage import LogStorage, SnapshotUnavailable
from copycat.records import ReplicaRecord, SnapshotMeta
from copycat.registry import make_storage
from copycat.replicastore import ReplicaStore
from copycat.storage.memory import MemoryStorage
from copycat.testing.disk import Disk, FaultyStorage

GROUP = b"\x10" * 16
KEYS = ReplicaKeys(GROUP)
HERE = Path("unused")
ALL = 1 << 40


class World:
    """A disk with one replica; each change is written, synced and completed at once."""

    def __init__(self, disk: Disk | None = None) -> None:
        self.disk = disk or Disk()
        self.storage = FaultyStorage(self.disk)
        self.storage.open(HERE)
        batch = WriteBatch()
        self.store = ReplicaStore.create(self.storage, GROUP, ReplicaRecord(5), batch)
        self.storage.write(batch, sync=True)

    def do(self, stage: Callable[[WriteBatch], Pending | None]) -> None:
        batch = WriteBatch()
        pending = stage(batch)
        self.storage.write(batch, sync=True)
        if pending is not None:
            self.store.complete(pending)

    def append(self, term: int, first: int, last: int, data: bytes = b"data") -> None:
        entries = [Entry(term, index, EntryType.NORMAL, data) for index in range(first, last + 1)]
        self.do(lambda batch: self.store.stage(batch, HardState(term, 1, 0), entries))

    def make_snapshot(self, index: int, term: int, chunks: list[bytes]) -> SnapshotMeta:
        slots = self.store.snapshots
        generation = slots.begin()
        for number, data in enumerate(chunks):
            self.do(lambda batch, number=number, data=data: slots.stage_chunk(batch, generation, number, data))  # type: ignore[misc]
        meta = describe(index, term, chunks, generation)
        self.do(lambda batch: slots.stage_snapshot(batch, meta))
        return meta

    def receive(self, source: bytes, chunks: list[bytes]) -> None:
        slots = self.store.snapshots
        self.do(lambda batch: slots.stage_receive(batch, source))
        for number, data in enumerate(chunks):
            self.do(lambda batch, number=number, data=data: slots.stage_received_chunk(batch, number, data))  # type: ignore[misc]

    def collect(self, keys_max: int = 1000) -> int:
        rounds = 0
        more = True
        while more:
            batch = WriteBatch()
            more = self.store.stage_garbage(batch, keys_max)
            assert len(batch.operations) <= keys_max
            self.storage.write(batch, sync=True)
            rounds += 1
        return rounds

    def restart(self) -> None:
        self.disk.crash()
        self.storage = FaultyStorage(self.disk)
        self.storage.open(HERE)
        self.store = ReplicaStore.load(self.storage, GROUP)


def describe(index: int, term: int, chunks: list[bytes], generation: int) -> SnapshotMeta:
    whole = b"".join(chunks)
    return SnapshotMeta(
        index, term, ConfState(voters=(5,)), b"table", len(whole), len(chunks), generation, crc32(whole)
    )


def test_it_is_what_raft_reads() -> None:
    store: LogStorage = World().store
    assert store.initial_state() == (HardState(), ConfState())
    assert (store.first_index(), store.last_index(), store.term(0)) == (1, 0, 0)
    with pytest.raises(SnapshotUnavailable):
        store.snapshot()


# --- order ----------------------------------------------------------------------------------------------------------


def test_nothing_staged_is_visible_before_it_is_completed() -> None:
    world = World()
    batch = WriteBatch()
    pending = world.store.stage(batch, HardState(3, 2, 1), [Entry(3, 1)])
    world.storage.write(batch, sync=True)
    assert world.store.initial_state()[0] == HardState()
    assert world.store.last_index() == 0
    assert world.store.outstanding == 1
    world.store.complete(pending)
    assert world.store.initial_state()[0] == HardState(3, 2, 1)
    assert world.store.last_index() == 1


def test_changes_are_completed_in_the_order_of_staging_and_once() -> None:
    store = World().store
    first = store.stage(WriteBatch(), None, [Entry(1, 1)])
    second = store.stage(WriteBatch(), None, [Entry(1, 2)])
    with pytest.raises(ValueError, match="can't be completed"):
        store.complete(second)
    store.complete(first)
    with pytest.raises(ValueError, match="can't be completed"):
        store.complete(first)
    store.complete(second)
    assert store.last_index() == 2


def test_entries_with_a_gap_or_in_the_compacted_part_are_refused() -> None:
    world = World()
    world.append(1, 1, 10)
    world.make_snapshot(8, 1, [b"x"])
    world.do(lambda batch: world.store.stage_compaction(batch, 5))
    for indices in ([12], [5], [11, 13], [11, 12, 12, 14]):
        batch = WriteBatch()
        with pytest.raises(ValueError, match=r"continue|follow"):
            world.store.stage(batch, None, [Entry(1, index) for index in indices])
        assert batch.operations == []


def test_compaction_needs_a_snapshot() -> None:
    world = World()
    world.append(1, 1, 10)
    with pytest.raises(ValueError, match="no snapshot"):
        world.store.stage_compaction(WriteBatch(), 1)
    world.make_snapshot(4, 1, [])
    with pytest.raises(ValueError, match="no snapshot"):
        world.store.stage_compaction(WriteBatch(), 5)
    world.do(lambda batch: world.store.stage_compaction(batch, 4))
    assert world.store.first_index() == 5
    assert world.store.term(4) == 1


# --- damage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [1, 5, 10])
def test_a_missing_entry_is_damage_wherever_it_is(index: int) -> None:
    world = World()
    world.append(1, 1, 10)
    world.disk.drop(KEYS.entry(index))
    with pytest.raises(StorageCorrupt, match=KEYS.entry(index).hex()):
        world.restart()


def test_any_flipped_bit_is_found_at_the_start() -> None:
    clean = World()
    clean.append(1, 1, 3, b"ab")
    clean.make_snapshot(2, 1, [b"chunk"])
    clean.receive(b"source", [b"chunk"])
    for key in (KEYS.replica, KEYS.state, KEYS.snapshot, KEYS.receive, KEYS.entry(2), KEYS.entry(3)):
        bits = 8 * len(dict(clean.disk.pairs())[key])
        for bit in range(bits):
            clean.disk.rot(key, bit)
            with pytest.raises(StorageCorrupt, match=key.hex()):
                clean.restart()
            clean.disk.rot(key, bit)
    clean.restart()


@pytest.mark.parametrize("key", [KEYS.replica, KEYS.state])
def test_a_missing_record_is_damage(key: bytes) -> None:
    world = World()
    world.append(1, 1, 3)
    world.disk.drop(key)
    with pytest.raises(StorageCorrupt, match=key.hex()):
        world.restart()


def test_entries_that_rot_while_the_node_runs_are_found_by_reading() -> None:
    world = World()
    world.append(1, 1, 10)
    assert len(world.store.entries(1, 11, ALL)) == 10
    world.disk.rot(KEYS.entry(7), 80)
    assert len(world.store.entries(1, 11, ALL)) == 10  # from memory
    world.store.forget_cache()
    assert len(world.store.entries(1, 7, ALL)) == 6
    with pytest.raises(StorageCorrupt, match=KEYS.entry(7).hex()):
        world.store.entries(5, 11, ALL)
    world.disk.drop(KEYS.entry(7))
    with pytest.raises(StorageCorrupt, match=KEYS.entry(7).hex()):
        world.store.entries(5, 11, ALL)


def test_a_sound_entry_in_the_wrong_place_is_damage() -> None:
    world = World()
    world.append(1, 1, 3)
    value = world.storage.get(KEYS.entry(1))
    assert value is not None
    world.storage.write(WriteBatch([(KEYS.entry(2), value)]), sync=True)
    with pytest.raises(StorageCorrupt, match=KEYS.entry(2).hex()):
        world.restart()


@pytest.mark.parametrize("fault", ["rot", "drop"])
def test_a_damaged_or_missing_chunk_is_found_by_reading(fault: str) -> None:
    world = World()
    world.append(1, 1, 3)
    meta = world.make_snapshot(2, 1, [b"one", b"two", b"three"])
    key = KEYS.chunk(meta.generation, 1)
    if fault == "rot":
        world.disk.rot(key, 33)
    else:
        world.disk.drop(key)
    found = world.store.snapshots.chunks(meta)
    assert next(found) == b"one"
    with pytest.raises(StorageCorrupt, match=key.hex()):
        next(found)


def test_chunks_that_are_not_the_snapshot_that_was_described_are_found_at_the_end() -> None:
    world = World()
    world.receive(b"source", [b"one", b"two"])
    state = world.store.snapshots.receiving
    assert state is not None
    wrong = describe(5, 1, [b"one", b"tWo"], state.generation)
    with pytest.raises(StorageCorrupt, match="checksum"):
        list(world.store.snapshots.chunks(wrong))


# --- crashes at every write -----------------------------------------------------------------------------------------


class PowerCut(Exception):
    pass


def run_until_power_cut(world: World, nth: int, steps: Callable[[World], None]) -> bool:
    """Cut the power before the ``nth`` write or sync of ``steps``; False if there were fewer."""
    countdown = nth

    def cut(operation: str) -> None:
        nonlocal countdown
        if operation in ("write", "sync"):
            countdown -= 1
            if countdown == 0:
                raise PowerCut

    world.disk.before = cut
    try:
        steps(world)
    except PowerCut:
        return True
    finally:
        world.disk.before = None
    return False


def old_world(seed: int | None) -> World:
    world = World(Disk(None if seed is None else random.Random(seed)))
    world.append(1, 1, 20)
    world.make_snapshot(5, 1, [b"old one", b"old two"])
    world.do(lambda batch: world.store.stage_compaction(batch, 3))
    return world


NEW = [b"new one", b"new two", b"new three"]


def install(world: World) -> None:
    world.receive(b"source", NEW)
    state = world.store.snapshots.receiving
    assert state is not None
    meta = describe(12, 2, NEW, state.generation)
    world.do(lambda batch: world.store.stage_install(batch, meta, HardState(2, 0, 12)))
    world.collect(keys_max=3)


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_an_installation_that_is_cut_off_anywhere_leaves_the_old_state_or_the_new_one(seed: int | None) -> None:
    outcomes = []
    nth = 1
    while True:
        world = old_world(seed)
        was_cut = run_until_power_cut(world, nth, install)
        world.restart()
        meta = world.store.snapshots.current
        assert meta is not None
        chunks = list(world.store.snapshots.chunks(meta))
        log = (world.store.first_index(), world.store.last_index())
        state = world.store.initial_state()[0]
        if meta.index == 12:
            assert (chunks, log, state, world.store.term(12)) == (NEW, (13, 12), HardState(2, 0, 12), 2)
            assert world.store.snapshots.receiving is None
        else:
            assert (meta.index, chunks) == (5, [b"old one", b"old two"])
            assert (log, state) == ((4, 20), HardState(1, 1, 5))
            assert len(world.store.entries(4, 21, ALL)) == 17
        outcomes.append(meta.index)
        world.collect()
        live = 3 if meta.index == 12 else 3 + 17 + 2
        receiving = world.store.snapshots.receiving
        assert len(world.disk.pairs()) == live + (3 if meta.index == 12 else 0) + (
            0 if receiving is None else 1 + receiving.chunks
        )
        if not was_cut:
            break
        nth += 1
    assert outcomes == sorted(outcomes)
    assert {5, 12} == set(outcomes)
    assert nth > 10


def make_and_compact(world: World) -> None:
    world.make_snapshot(15, 1, NEW)
    world.do(lambda batch: world.store.stage_compaction(batch, 15))
    world.collect(keys_max=3)


def test_a_snapshot_that_is_cut_off_anywhere_leaves_the_old_one_or_the_new_one() -> None:
    nth = 1
    outcomes = set()
    while True:
        world = old_world(None)
        was_cut = run_until_power_cut(world, nth, make_and_compact)
        world.restart()
        meta = world.store.snapshots.current
        assert meta is not None
        chunks = list(world.store.snapshots.chunks(meta))
        assert (meta.index, chunks) in [(5, [b"old one", b"old two"]), (15, NEW)]
        first = world.store.first_index()
        assert first in ((4, 16) if meta.index == 15 else (4,))
        assert len(world.store.entries(first, 21, ALL)) == 21 - first
        world.collect()
        assert len(world.disk.pairs()) == 3 + len(chunks) + 21 - first
        outcomes.add((meta.index, first))
        if not was_cut:
            break
        nth += 1
    assert outcomes == {(5, 4), (15, 4), (15, 16)}


def test_a_failed_write_leaves_the_visible_state_as_it_was() -> None:
    world = World()
    world.append(1, 1, 3)
    world.disk.fail_sync()
    with pytest.raises(StorageFailed):
        world.append(2, 2, 9)
    assert world.store.last_index() == 3
    assert [entry.term for entry in world.store.entries(1, 4, ALL)] == [1, 1, 1]
    world.restart()
    assert world.store.last_index() == 3


# --- receiving ------------------------------------------------------------------------------------------------------


def test_a_transfer_goes_on_after_a_restart_where_it_was_durable() -> None:
    world = World()
    world.receive(b"source", NEW[:1])
    batch = WriteBatch()
    world.store.snapshots.stage_received_chunk(batch, 1, NEW[1])
    world.storage.write(batch, sync=False)  # and lost
    world.restart()
    slots = world.store.snapshots
    assert slots.receiving is not None
    state = slots.receiving
    assert (state.source, state.chunks, state.size, state.checksum) == (b"source", 1, len(NEW[0]), crc32(NEW[0]))
    with pytest.raises(ValueError, match="next one"):
        slots.stage_received_chunk(WriteBatch(), 2, NEW[2])
    for number in (1, 2):
        world.do(lambda batch, number=number: slots.stage_received_chunk(batch, number, NEW[number]))  # type: ignore[misc]
    meta = describe(9, 4, NEW, slots.receiving.generation)
    world.do(lambda batch: world.store.stage_install(batch, meta, None))
    world.restart()
    assert list(world.store.snapshots.chunks(meta)) == NEW
    assert (world.store.first_index(), world.store.last_index(), world.store.term(9)) == (10, 9, 4)


def test_only_what_was_received_whole_can_be_installed() -> None:
    world = World()
    with pytest.raises(ValueError, match="not what was being received"):
        world.store.stage_install(WriteBatch(), describe(9, 4, NEW, 1), None)
    world.receive(b"source", NEW[:2])
    state = world.store.snapshots.receiving
    assert state is not None
    batch = WriteBatch()
    with pytest.raises(ValueError, match="not what was being received"):
        world.store.stage_install(batch, describe(9, 4, NEW, state.generation), None)
    assert batch.operations == []


def test_an_adopted_snapshot_leaves_the_log_which_must_reach_to_it() -> None:
    world = World()
    world.append(1, 1, 10)
    world.receive(b"source", NEW)
    state = world.store.snapshots.staged_receiving()
    assert state is not None
    generation = state.generation
    batch = WriteBatch()
    with pytest.raises(ValueError, match="ends at entry 10"):
        world.store.stage_adopt(batch, describe(11, 1, NEW, generation))
    assert batch.operations == []
    meta = describe(10, 1, NEW, generation)
    world.do(lambda batch: world.store.stage_adopt(batch, meta))
    for _ in range(2):
        assert world.store.snapshots.current == meta
        assert list(world.store.snapshots.chunks(meta)) == NEW
        assert world.store.snapshots.receiving is None
        assert (world.store.first_index(), world.store.last_index()) == (1, 10)
        assert world.store.initial_state()[0].commit == 10
        world.restart()
    world.do(lambda batch: world.store.stage_compaction(batch, 10))
    assert world.store.first_index() == 11


def test_an_older_snapshot_never_replaces_a_newer_one() -> None:
    world = World()
    world.append(1, 1, 20)
    world.make_snapshot(15, 1, [b"x"])
    world.receive(b"source", NEW)
    state = world.store.snapshots.receiving
    assert state is not None
    with pytest.raises(ValueError, match="older"):
        world.store.stage_install(WriteBatch(), describe(14, 1, NEW, state.generation), None)


# --- retention ------------------------------------------------------------------------------------------------------


def test_a_snapshot_that_a_transfer_reads_stays_until_the_last_one_releases_it() -> None:
    world = World()
    world.append(1, 1, 20)
    old = world.make_snapshot(5, 1, [b"a", b"b"])
    slots = world.store.snapshots
    slots.retain(old.generation)
    slots.retain(old.generation)
    new = world.make_snapshot(6, 1, [b"c"])
    slots.release(old.generation)
    slots.retain(old.generation)  # a third transfer may join the second
    slots.release(old.generation)
    world.collect()
    assert list(slots.chunks(old)) == [b"a", b"b"]
    slots.release(old.generation)
    assert world.store.has_garbage()
    world.collect()
    assert world.storage.get(KEYS.chunk(old.generation, 0)) is None
    assert list(slots.chunks(new)) == [b"c"]
    with pytest.raises(ValueError, match="not the current"):
        slots.retain(old.generation)


def test_one_snapshot_is_made_at_a_time() -> None:
    world = World()
    slots = world.store.snapshots
    generation = slots.begin()
    with pytest.raises(ValueError, match="already"):
        slots.begin()
    world.do(lambda batch: slots.stage_chunk(batch, generation, 0, b"x"))
    with pytest.raises(ValueError, match="next one"):
        slots.stage_chunk(WriteBatch(), generation, 0, b"x")
    with pytest.raises(ValueError, match="not what was being made"):
        slots.stage_snapshot(WriteBatch(), describe(1, 1, [b"x", b"y"], generation))
    assert not world.store.has_garbage()
    slots.abandon()
    assert world.store.has_garbage()
    assert slots.begin() != generation


# --- waste and destruction ------------------------------------------------------------------------------------------


def test_a_huge_log_is_cut_off_in_one_small_batch_and_deleted_in_pieces() -> None:
    world = World()
    world.append(1, 1, 5000)
    world.make_snapshot(5000, 1, [b"x"])
    batch = WriteBatch()
    pending = world.store.stage_compaction(batch, 4990)
    assert len(batch.operations) == 1
    world.storage.write(batch, sync=True)
    assert not world.store.has_garbage()  # readers still see the old log
    world.store.complete(pending)
    assert world.store.first_index() == 4991
    assert world.collect(keys_max=1000) == 5
    assert len(world.disk.pairs()) == 3 + 1 + 10


def test_entries_staged_where_waste_lay_are_not_deleted() -> None:
    world = World()
    world.append(1, 1, 10)
    world.append(2, 5, 5)  # 6 to 10 are waste
    batch = WriteBatch()
    pending = world.store.stage(batch, None, [Entry(2, index) for index in (6, 7)])
    assert world.store.stage_garbage(batch, 2)
    world.storage.write(batch, sync=True)
    world.store.complete(pending)
    world.collect()
    world.restart()
    assert [entry.term for entry in world.store.entries(1, 8, ALL)] == [1, 1, 1, 1, 2, 2, 2]
    assert len(world.disk.pairs()) == 2 + 7


def test_a_snapshot_on_its_way_to_the_disk_is_not_waste_and_neither_is_the_one_it_replaces() -> None:
    world = World()
    world.append(1, 1, 10)
    old = world.make_snapshot(5, 1, [b"old"])
    slots = world.store.snapshots
    generation = slots.begin()
    new = describe(6, 1, [b"new"], generation)
    batch = WriteBatch()
    slots.stage_chunk(batch, generation, 0, b"new")
    pending = slots.stage_snapshot(batch, new)
    assert not world.store.stage_garbage(batch, 100)
    world.storage.write(batch, sync=True)
    assert list(slots.chunks(old)) == [b"old"]
    world.store.complete(pending)
    world.collect()
    world.restart()
    assert list(world.store.snapshots.chunks(new)) == [b"new"]
    assert world.storage.get(KEYS.chunk(old.generation, 0)) is None


def test_each_of_several_snapshots_on_their_way_is_whole_when_it_becomes_visible() -> None:
    world = World()
    world.append(1, 1, 10)
    slots = world.store.snapshots
    changes: list[tuple[SnapshotMeta, Pending]] = []
    for index in (5, 6, 7):
        generation = slots.begin()
        batch = WriteBatch()
        slots.stage_chunk(batch, generation, 0, b"%d" % index)
        meta = describe(index, 1, [b"%d" % index], generation)
        changes.append((meta, slots.stage_snapshot(batch, meta)))
        world.storage.write(batch, sync=True)
    received: list[tuple[bytes, Pending]] = []
    for source in (b"first", b"second"):
        batch = WriteBatch()
        started = slots.stage_receive(batch, source)
        received += [(source, started), (source, slots.stage_received_chunk(batch, 0, source))]
        world.storage.write(batch, sync=True)
    batch = WriteBatch()
    assert not world.store.stage_garbage(batch, 100)
    world.storage.write(batch, sync=True)
    for meta, pending in changes:
        world.store.complete(pending)
        assert slots.current == meta
        assert list(slots.chunks(meta)) == [b"%d" % meta.index]
    for source, pending in received:
        world.store.complete(pending)
        state = slots.receiving
        assert state is not None
        assert [slots.read_chunk(state.generation, number) for number in range(state.chunks)] == [source][
            : state.chunks
        ]
    world.collect()
    assert len(world.disk.pairs()) == 2 + 10 + 2 + 2


def test_what_a_crash_left_of_a_deletion_is_deleted_after_the_restart() -> None:
    world = World()
    world.append(1, 1, 100)
    world.append(2, 31, 40)  # cuts off 41 to 100
    world.make_snapshot(20, 1, [b"x"])
    world.do(lambda batch: world.store.stage_compaction(batch, 20))
    batch = WriteBatch()
    assert world.store.stage_garbage(batch, 50)
    world.storage.write(batch, sync=True)
    world.restart()
    assert world.store.has_garbage()
    world.collect()
    assert not world.store.has_garbage()
    assert len(world.disk.pairs()) == 3 + 1 + 20
    assert [entry.term for entry in world.store.entries(21, 41, ALL)] == [1] * 10 + [2] * 10


def test_a_destroyed_replica_leaves_a_tombstone_and_nothing_else() -> None:
    world = World()
    world.append(1, 1, 50)
    world.make_snapshot(5, 1, NEW)
    world.receive(b"source", NEW)
    world.do(world.store.stage_destroy)
    assert world.store.destroyed
    batch = WriteBatch()
    world.store.stage_garbage(batch, 10)
    world.storage.write(batch, sync=True)
    world.restart()  # in the midst of it
    assert world.store.destroyed
    assert world.store.record.raft_id == 5
    assert (world.store.first_index(), world.store.last_index()) == (1, 0)
    world.collect()
    assert [key for key, _ in world.disk.pairs()] == [KEYS.replica]


def test_nothing_is_staged_for_a_destroyed_replica() -> None:
    world = World()
    world.do(world.store.stage_destroy)
    for _ in range(2):
        slots = world.store.snapshots
        calls: list[Callable[[WriteBatch], object]] = [
            lambda batch: world.store.stage(batch, HardState(1, 1, 1), []),
            lambda batch: world.store.stage_compaction(batch, 0),
            world.store.stage_destroy,
            lambda batch: world.store.stage_adopt(batch, describe(1, 1, [], 1)),
            lambda batch, slots=slots: slots.stage_receive(batch, b"source"),  # type: ignore[misc]
            lambda batch, slots=slots: slots.begin(),  # type: ignore[misc]
        ]
        for call in calls:
            batch = WriteBatch()
            with pytest.raises(ValueError, match="destroyed"):
                call(batch)
            assert batch.operations == []
        world.restart()


def test_a_raft_id_is_never_used_again() -> None:
    world = World()
    with pytest.raises(ValueError, match="already has"):
        ReplicaStore.create(world.storage, GROUP, ReplicaRecord(6), WriteBatch())
    for raft_id in (6, 7):
        world.do(world.store.stage_destroy)
        batch = WriteBatch()
        world.store = ReplicaStore.create(world.storage, GROUP, ReplicaRecord(raft_id), batch)
        world.storage.write(batch, sync=True)
    world.do(world.store.stage_destroy)
    for raft_id in (5, 6, 7):
        with pytest.raises(ValueError, match="used before"):
            ReplicaStore.create(world.storage, GROUP, ReplicaRecord(raft_id), WriteBatch())
    world.restart()
    assert world.store.record == ReplicaRecord(7, destroyed=True, retired=(5, 6))


def test_a_new_replica_sees_nothing_of_the_one_before() -> None:
    world = World()
    world.append(4, 1, 50)
    meta = world.make_snapshot(40, 4, NEW)
    world.do(lambda batch: world.store.stage_compaction(batch, 40))
    world.do(world.store.stage_destroy)
    batch = WriteBatch()
    world.store = ReplicaStore.create(world.storage, GROUP, ReplicaRecord(6), batch)
    world.storage.write(batch, sync=True)
    assert world.store.initial_state() == (HardState(), ConfState())
    assert world.store.snapshots.current is None
    assert world.store.snapshots.begin() > meta.generation
    world.store.snapshots.abandon()
    world.append(1, 1, 3)
    for _ in range(2):
        assert [entry.term for entry in world.store.entries(1, 4, ALL)] == [1, 1, 1]
        world.restart()
    world.collect()
    assert len(world.disk.pairs()) == 2 + 3


def test_groups_do_not_touch_each_other() -> None:
    world = World()
    neighbours = {}
    for group_id in (b"\x10" * 15 + b"\x0f", b"\x10" * 15 + b"\x11"):
        batch = WriteBatch()
        neighbours[group_id] = ReplicaStore.create(world.storage, group_id, ReplicaRecord(1), batch)
        pending = neighbours[group_id].stage(batch, None, [Entry(1, 1, EntryType.NORMAL, group_id)])
        world.storage.write(batch, sync=True)
        neighbours[group_id].complete(pending)
    world.append(1, 1, 10)
    world.make_snapshot(5, 1, NEW)
    world.do(world.store.stage_destroy)
    world.collect()
    for group_id in neighbours:
        store = ReplicaStore.load(world.storage, group_id)
        assert store.entries(1, 2, ALL) == [Entry(1, 1, EntryType.NORMAL, group_id)]
        assert not store.has_garbage()


# --- cost -----------------------------------------------------------------------------------------------------------


def test_fresh_entries_are_read_from_memory_and_old_ones_from_disk() -> None:
    world = World()
    reads: list[str] = []
    world.append(1, 1, 100, b"x" * 1000)
    batch = WriteBatch()
    store = ReplicaStore.load(world.storage, GROUP, CacheBudget(12_000))
    pending = store.stage(batch, None, [Entry(1, index, EntryType.NORMAL, b"y" * 1000) for index in range(101, 121)])
    world.storage.write(batch, sync=True)
    store.complete(pending)
    world.disk.before = lambda operation: reads.append(operation)
    assert [entry.index for entry in store.entries(112, 121, ALL)] == list(range(112, 121))
    assert reads == []
    assert [entry.index for entry in store.entries(95, 121, ALL)] == list(range(95, 121))
    assert reads == ["scan"]
    assert [entry.index for entry in store.entries(1, 121, 3500)] == [1, 2, 3]
    assert [entry.index for entry in store.entries(1, 121, 0)] == [1]


@pytest.mark.parametrize("make", [lambda: make_storage(Config.storage), MemoryStorage], ids=["disk", "memory"])
def test_loading_a_hundred_thousand_entries_costs_a_few_bare_scans(make: Callable[[], Storage], tmp_path: Path) -> None:
    storage = make()
    storage.open(tmp_path / "data")
    batch = WriteBatch()
    store = ReplicaStore.create(storage, GROUP, ReplicaRecord(5), batch)
    storage.write(batch, sync=False)
    for first in range(1, 100_001, 1000):
        batch = WriteBatch()
        entries = [
            Entry(1 + index // 30_000, index, EntryType.NORMAL, b"p" * 100) for index in range(first, first + 1000)
        ]
        store.complete(store.stage(batch, None, entries))
        storage.write(batch, sync=False)
    storage.close()
    storage.open(tmp_path / "data")
    began = time.thread_time()
    assert sum(1 for _ in storage.scan(keys.GROUP, keys.END)) == 100_001
    bare_s = time.thread_time() - began
    began = time.thread_time()
    loaded = ReplicaStore.load(storage, GROUP)
    spent_s = time.thread_time() - began
    assert loaded.last_index() == 100_000
    assert loaded.log_bytes == store.log_bytes == 100_000 * (keys.KEY_BYTES + 13 + 100)
    assert loaded.term(29_999) == 1
    assert loaded.term(99_999) == 4
    storage.close()
    assert spent_s < 20 * bare_s, f"{spent_s:.3f} s of CPU, and {bare_s:.3f} s for a bare scan"
