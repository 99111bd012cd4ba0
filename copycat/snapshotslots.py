"""Where a replica's snapshots lie: the current one, at most one being made, and at most one being received.

Each has a generation of its own, and its chunks lie under that generation. What makes a snapshot the current one is a single
record that names its generation, so at any moment of a crash the old one or the new one is current, and whole. Chunks that no
slot names and no transfer reads are waste: invisible at once, deleted later in pieces.

Receiving is resumable: the record of what is being received is written in the same batch as each chunk, so after a
restart it says how many chunks are durable, and the sender goes on from there.

As in :mod:`copycat.replicastore`, staging adds to a batch that someone else writes, in the order of staging; what was
staged becomes visible with the completion of its :class:`~copycat.pending.Pending`. One thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from zlib import crc32

from copycat import keys
from copycat.errors import StorageCorrupt
from copycat.keys import ReplicaKeys, place_of_chunk_key
from copycat.pending import Completions, Pending
from copycat.ports import Storage, WriteBatch
from copycat.records import ReceiveState, SnapshotMeta, missing, seal, seal_record, unseal, unseal_record


class SnapshotSlots:
    """Made by :class:`~copycat.replicastore.ReplicaStore`, which shares its storage, keys and order of completion."""

    __slots__ = (
        "_completions",
        "_keys",
        "_next_generation",
        "_on_their_way",
        "_retained",
        "_staged_current",
        "_staged_receiving",
        "_storage",
        "_written",
        "current",
        "making",
        "receiving",
    )

    def __init__(self, storage: Storage, replica_keys: ReplicaKeys, completions: Completions) -> None:
        self._storage = storage
        self._keys = replica_keys
        self._completions = completions
        self.current: SnapshotMeta | None = None
        """The newest snapshot that is whole and durable."""
        self.receiving: ReceiveState | None = None
        """The one coming in, with the number of its chunks that are durable."""
        self.making: int | None = None
        """The generation being made here."""
        self._staged_current: SnapshotMeta | None = None
        self._staged_receiving: ReceiveState | None = None
        self._written: dict[int, int] = {}  # generation -> number of chunks that may lie on disk, from 0
        self._retained: dict[int, int] = {}  # generation -> number of transfers that read it
        self._on_their_way: list[int] = []  # generations that a staged change will make visible, each as often
        self._next_generation = 1

    def load(self) -> None:
        """Read what a restart left. Chunks outside the slots are found here and become waste."""
        value = self._storage.get(self._keys.snapshot)
        if value is not None:
            self.current = unseal_record(self._keys.snapshot, value, SnapshotMeta)
        value = self._storage.get(self._keys.receive)
        if value is not None:
            self.receiving = unseal_record(self._keys.receive, value, ReceiveState)
        self._staged_current, self._staged_receiving = self.current, self.receiving
        known = {self.current.generation: self.current.chunk_count} if self.current is not None else {}
        if self.receiving is not None:
            known[self.receiving.generation] = self.receiving.chunks
        self._written = {generation: count for generation, count in known.items() if count}
        low = 0
        for generation in (*sorted(known), keys.GENERATION_MAX + 1):  # only between the known ones: those may be large
            self._find_waste(low, generation)
            low = generation + 1
        self._next_generation = max((0, *known, *self._written)) + 1

    def load_empty(self) -> None:
        """Of a replica that has no snapshot: whatever lies here is waste, left by an earlier one or by what never became one."""
        self._find_waste(0, keys.GENERATION_MAX + 1)
        self._next_generation = max((0, *self._written)) + 1

    def stage_empty(self, batch: WriteBatch) -> None:
        """Stage that there is no snapshot, whatever what never became a replica has written."""
        batch.delete(self._keys.snapshot)
        batch.delete(self._keys.receive)

    def _find_waste(self, low: int, high: int) -> None:
        start = self._keys.chunk(low, 0)
        while True:
            stop = self._keys.chunk(high, 0) if high <= keys.GENERATION_MAX else self._keys.chunks_end
            last = next(self._storage.scan(start, stop, reverse=True), None)
            if last is None:
                return
            place = place_of_chunk_key(last[0])
            self._written[place.generation] = place.number + 1
            high = place.generation

    # --- making one here --------------------------------------------------------------------------------------------

    def begin(self) -> int:
        """Start making a snapshot; its generation. Raises ValueError while another one is being made."""
        self._completions.check_open()
        if self.making is not None:
            raise ValueError("a snapshot is already being made: make it current or abandon it first")
        self.making = self._new_generation()
        return self.making

    def stage_chunk(self, batch: WriteBatch, generation: int, number: int, data: bytes) -> None:
        """Add chunk ``number`` (from 0, in order) of the snapshot being made."""
        if generation != self.making or number != self._written.get(generation, 0):
            raise ValueError(
                f"chunk {number} of generation {generation} is not the next one of the snapshot being made"
            )
        self._put_chunk(batch, generation, number, data)

    def stage_snapshot(self, batch: WriteBatch, meta: SnapshotMeta) -> Pending:
        """Make the snapshot that was being made the current one, in one atomic step."""
        if meta.generation != self.making or meta.chunk_count != self._written.get(meta.generation, 0):
            raise ValueError(f"generation {meta.generation} with {meta.chunk_count} chunks is not what was being made")
        self.check_newer(meta)
        batch.put(self._keys.snapshot, seal_record(self._keys.snapshot, meta))
        self._staged_current = meta
        self.making = None
        self._on_their_way.append(meta.generation)

        def effect() -> None:
            self._on_their_way.remove(meta.generation)
            self.current = meta

        return self._completions.pend(effect)

    def abandon(self) -> None:
        """Give up the snapshot being made, if there is one; its chunks become waste."""
        self.making = None

    # --- receiving one ----------------------------------------------------------------------------------------------

    def stage_receive(self, batch: WriteBatch, source: bytes) -> Pending:
        """Start receiving the snapshot that ``source`` identifies; what was being received before becomes waste."""
        return self._stage_receiving(batch, ReceiveState(source, self._new_generation(), 0))

    def staged_receiving(self) -> ReceiveState | None:
        """What is being received once all that is staged is durable; its chunks may be read as they become so."""
        return self._staged_receiving

    def stage_received_chunk(self, batch: WriteBatch, number: int, data: bytes) -> Pending:
        """Add chunk ``number`` (from 0, in order) of the snapshot being received."""
        state = self._staged_receiving
        if state is None or number != state.chunks:
            raise ValueError(f"chunk {number} is not the next one of the snapshot being received")
        self._put_chunk(batch, state.generation, number, data)
        checksum = crc32(data, state.checksum)
        following = replace(state, chunks=number + 1, size=state.size + len(data), checksum=checksum)
        return self._stage_receiving(batch, following)

    def stage_receive_abandoned(self, batch: WriteBatch) -> Pending:
        """Give up what is being received, if anything is."""
        return self._stage_receiving(batch, None)

    def _stage_receiving(self, batch: WriteBatch, state: ReceiveState | None) -> Pending:
        self._completions.check_open()
        if state is None:
            batch.delete(self._keys.receive)
        else:
            batch.put(self._keys.receive, seal_record(self._keys.receive, state))
        self._staged_receiving = state
        if state is not None:
            self._on_their_way.append(state.generation)

        def effect() -> None:
            if state is not None:
                self._on_their_way.remove(state.generation)
            self.receiving = state

        return self._completions.pend(effect)

    # --- reading ----------------------------------------------------------------------------------------------------

    def retain(self, generation: int) -> None:
        """Keep the chunks of the current snapshot, even when it is replaced, until as many calls of :meth:`release`.

        Raises ValueError if that generation is neither current nor retained. Does not outlive the process.
        """
        if generation not in self._retained and (self.current is None or generation != self.current.generation):
            raise ValueError(f"generation {generation} is not the current snapshot")
        self._retained[generation] = self._retained.get(generation, 0) + 1

    def release(self, generation: int) -> None:
        """Undo one :meth:`retain`."""
        left = self._retained[generation] - 1
        if left:
            self._retained[generation] = left
        else:
            del self._retained[generation]

    @property
    def retained(self) -> bool:
        """Whether anybody still reads a snapshot that must be kept for it."""
        return bool(self._retained)

    def succeed(self, earlier: SnapshotSlots) -> None:
        """Keep what is still read of an earlier replica of the group on this node, which has been destroyed."""
        self._retained = earlier._retained
        self._next_generation = max(self._next_generation, earlier._next_generation)

    def read_chunk(self, generation: int, number: int) -> bytes:
        """Raises :class:`~copycat.errors.StorageCorrupt` if it is damaged or missing."""
        key = self._keys.chunk(generation, number)
        value = self._storage.get(key)
        if value is None:
            raise missing(key, f"chunk {number} of snapshot generation {generation}")
        return unseal(key, value)

    def chunks(self, meta: SnapshotMeta) -> Iterator[bytes]:
        """All chunks of ``meta`` in order, one in memory at a time.

        Raises :class:`~copycat.errors.StorageCorrupt` at a damaged or missing chunk, or at the end if size or checksum of the
        whole is wrong: what was handed out is to be trusted only once the iteration has ended.
        """
        size = checksum = 0
        for number in range(meta.chunk_count):
            data = self.read_chunk(meta.generation, number)
            size += len(data)
            checksum = crc32(data, checksum)
            yield data
        if size != meta.size or checksum != meta.checksum:
            raise StorageCorrupt(
                f"snapshot at entry {meta.index} (key {self._keys.snapshot.hex()}) has {size} bytes with checksum "
                f"{checksum:08x}, not {meta.size} with {meta.checksum:08x}"
            )

    # --- for ReplicaStore -------------------------------------------------------------------------------------------

    def stage_received(self, batch: WriteBatch, meta: SnapshotMeta) -> None:
        """The records' part of an installation; :meth:`received` is its effect."""
        state = self._staged_receiving
        if state is None or meta.generation != state.generation or meta.chunk_count != state.chunks:
            raise ValueError(
                f"generation {meta.generation} with {meta.chunk_count} chunks is not what was being received"
            )
        self.check_newer(meta)
        batch.put(self._keys.snapshot, seal_record(self._keys.snapshot, meta))
        batch.delete(self._keys.receive)
        self._staged_current = meta
        self._staged_receiving = None
        self._on_their_way.append(meta.generation)

    def received(self, meta: SnapshotMeta) -> None:
        self._on_their_way.remove(meta.generation)
        self.current = meta
        self.receiving = None

    def stage_destroyed(self, batch: WriteBatch) -> None:
        """The records' part of a destruction; :meth:`destroyed` is its effect."""
        batch.delete(self._keys.snapshot)
        batch.delete(self._keys.receive)
        self._staged_current = self._staged_receiving = self.making = None

    def destroyed(self) -> None:
        self.current = self.receiving = None

    def staged_index(self) -> int:
        """The entry that the newest staged snapshot stands for; 0 if there is none."""
        return 0 if self._staged_current is None else self._staged_current.index

    def check_newer(self, meta: SnapshotMeta) -> None:
        if meta.index < max(self.staged_index(), 1):
            raise ValueError(f"a snapshot at entry {meta.index} is older than the one at {self.staged_index()}")

    def has_garbage(self) -> bool:
        in_use = self._in_use()
        return any(generation not in in_use for generation in self._written)

    def stage_garbage(self, batch: WriteBatch, keys_max: int) -> int:
        """Stage up to ``keys_max`` deletions of waste; how many it was."""
        in_use = self._in_use()
        staged = 0
        for generation in [generation for generation in self._written if generation not in in_use]:
            count = self._written[generation]
            kept = max(count - (keys_max - staged), 0)
            for number in range(kept, count):
                batch.delete(self._keys.chunk(generation, number))
            staged += count - kept
            if kept:
                self._written[generation] = kept
                break
            del self._written[generation]
        return staged

    def _in_use(self) -> set[int]:
        in_use = {*self._retained, *self._on_their_way}
        for slot in (self.current, self.receiving):
            if slot is not None:
                in_use.add(slot.generation)
        if self.making is not None:
            in_use.add(self.making)
        return in_use

    def _new_generation(self) -> int:
        generation = self._next_generation
        if generation > keys.GENERATION_MAX:
            raise ValueError("this replica has used up its generations of snapshots")
        self._next_generation += 1
        return generation

    def _put_chunk(self, batch: WriteBatch, generation: int, number: int, data: bytes) -> None:
        key = self._keys.chunk(generation, number)
        batch.put(key, seal(key, data))
        self._written[generation] = number + 1
