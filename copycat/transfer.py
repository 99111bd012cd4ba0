"""Snapshots on their way between nodes: asked for chunk by chunk, so that the receiver sets the pace.

The receiver asks for a window of chunks, stages each into its node's writes as it comes, and asks on as they become durable:
memory is bounded by the window on both sides, a lost chunk is asked for again, and after a restart the transfer goes on
where the disk says it was. The sender only answers, at a bounded rate, over a lane of its own.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

from copycat import codec
from copycat.protocol import Chunk, ChunkAsk, ChunkGone
from copycat.records import SnapshotMeta
from copycat.snapshotslots import SnapshotSlots

if TYPE_CHECKING:
    from copycat.engine import Engine
    from copycat.group import Group

log = logging.getLogger(__name__)

WINDOW_CHUNKS = 8
ASK_AGAIN_S = 1.0
GIVE_UP_S = 30.0
QUEUE_MAX = 1024
LEASE_S = 60.0
TRIES_MAX = 40
"""How often a chunk is tried when its connection does not take it, once a tick."""


class Fetch:
    """One snapshot being received. Belongs to the engine's thread."""

    def __init__(self, group: Group, node_id: str, meta: SnapshotMeta) -> None:
        self._group = group
        self.node_id = node_id
        self.meta = meta
        self.failed = ""
        """Why it came to nothing."""
        self._progress_at = group.host.now
        self._asked_at = group.host.now
        self._held_back = False
        """More could be asked for, but the disk has enough to do; the next tick looks again."""
        snapshots = group.store.snapshots
        source = codec.pack([node_id, meta.index, meta.term, meta.size, meta.checksum, meta.generation])
        state = snapshots.staged_receiving()
        if state is None or state.source != source:
            batch = group.host.stage(True, lambda: group.store.complete(pending))
            pending = snapshots.stage_receive(batch, source)
            state = snapshots.staged_receiving()
        assert state is not None
        self._generation = state.generation
        # What an earlier attempt staged is durable before anything that this one stages.
        self._durable = self._staged = self._asked = state.chunks
        self._size = state.size
        self._checksum = state.checksum
        self._ask()

    def is_of(self, node_id: str, meta: SnapshotMeta) -> bool:
        return self.node_id == node_id and self.meta == meta and not self.failed

    @property
    def done(self) -> bool:
        """Whether everything is durable, and is what was announced."""
        return not self.failed and self._durable == self.meta.chunk_count

    def local_meta(self) -> SnapshotMeta:
        """The same snapshot, as it lies on this node."""
        return replace(self.meta, generation=self._generation)

    def received(self, chunk: Chunk) -> None:
        """Take the next chunk; others are asked for again."""
        if chunk.generation != self.meta.generation or chunk.number != self._staged or self.failed:
            return
        if self._staged >= self.meta.chunk_count:
            return
        if crc32(chunk.data) != chunk.checksum:
            return
        self._staged += 1
        self._size += len(chunk.data)
        self._checksum = crc32(chunk.data, self._checksum)
        self._progress_at = self._group.host.now
        if self._size > self.meta.size or (
            self._staged == self.meta.chunk_count
            and (self._size != self.meta.size or self._checksum != self.meta.checksum)
        ):
            self._fail("its checksum is wrong")
            return
        store = self._group.store

        def durable() -> None:
            store.complete(pending)
            self._durable += 1
            self._ask()
            if self._durable == self.meta.chunk_count:
                self._group.host.touch(self._group)

        batch = self._group.host.stage(True, durable)
        pending = store.snapshots.stage_received_chunk(batch, chunk.number, chunk.data)

    def replaced(self) -> None:
        """Another transfer takes its place."""
        self.failed = "another took its place"

    def gone(self) -> None:
        """The sender no longer has it."""
        self._fail("its sender no longer has it")

    def _fail(self, why: str) -> None:
        self.failed = why
        self._group.host.touch(self._group)

    def tick(self) -> None:
        now = self._group.host.now
        if self._held_back:
            self._progress_at = now  # it is this node that makes the sender wait
            self._ask()
        if self.done or self.failed:
            self._group.host.touch(self._group)
        elif now - self._progress_at > GIVE_UP_S:
            self._fail("nothing comes any more")
        elif now - max(self._progress_at, self._asked_at) > ASK_AGAIN_S:
            self._asked = self._staged
            self._ask()

    def _ask(self) -> None:
        if self.failed:
            return
        stop = min(self.meta.chunk_count, self._durable + WINDOW_CHUNKS)
        self._held_back = stop > self._asked and self._group.host.disk_congested()
        if stop > self._asked and not self._held_back:
            ask = ChunkAsk(self._group.id, self.meta.generation, self._asked, stop - self._asked)
            self._group.host.send(self.node_id, ask)
            self._asked = stop
            self._asked_at = self._group.host.now
        if self.meta.chunk_count == 0:
            self._group.host.touch(self._group)


@dataclass(slots=True)
class _Lease:
    """A generation that is kept because somebody fetches it; it may be the current snapshot no longer."""

    snapshots: SnapshotSlots
    chunk_count: int
    until: float


class _Wanted(NamedTuple):
    """One chunk, and who wants it."""

    node_id: str
    group_id: bytes
    generation: int
    number: int


@dataclass(slots=True)
class _Parcel:
    wanted: _Wanted
    tries: int = 0


class ChunkServer:
    """Answers what other nodes ask for, all transfers together at a bounded rate. Belongs to the engine's thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._queue: deque[_Parcel] = deque()
        self._queued: set[_Wanted] = set()
        self._leases: dict[tuple[bytes, int], _Lease] = {}
        self._per_tick = max(1, engine.config.snapshot_bytes_per_s * engine.config.tick_ms // 1000)
        self._allowance = self._per_tick
        """Bytes that may be sent before the next tick. A chunk that is larger runs it into debt, which later ticks pay."""
        engine.handlers[ChunkAsk] = self._on_ask
        engine.handlers[Chunk] = self._on_chunk
        engine.handlers[ChunkGone] = self._on_gone

    def tick(self) -> None:
        self._allowance = min(self._allowance + self._per_tick, self._per_tick)
        self._send()
        now = self._engine.now
        for place, lease in list(self._leases.items()):
            if now > lease.until:
                self._end_lease(place)

    def _on_ask(self, sender: str, ask: ChunkAsk) -> None:
        group = self._engine.hosting.groups.get(ask.group)
        lease = None if group is None else self._lease(group, ask.generation)
        if group is None or lease is None:
            self._engine.send(sender, ChunkGone(ask.group, ask.generation))
            return
        lease.until = self._engine.now + LEASE_S
        group.snapshots.still_sending(sender)
        for number in range(max(0, ask.first), min(ask.first + min(ask.count, WINDOW_CHUNKS), lease.chunk_count)):
            wanted = _Wanted(sender, ask.group, ask.generation, number)
            # Whoever waits long, because of the rate, asks again: once is enough.
            if len(self._queue) < QUEUE_MAX and wanted not in self._queued:
                self._queued.add(wanted)
                self._queue.append(_Parcel(wanted))
        self._send()

    def _lease(self, group: Group, generation: int) -> _Lease | None:
        """Keep a generation for a while longer; None if it is gone."""
        snapshots = group.store.snapshots
        place = (group.id, generation)
        lease = self._leases.get(place)
        if lease is not None and lease.snapshots is snapshots:
            return lease
        if lease is not None:  # of an earlier replica of the group on this node
            self._end_lease(place)
        current = snapshots.current
        if current is None or current.generation != generation:
            return None
        snapshots.retain(generation)
        lease = self._leases[place] = _Lease(snapshots, current.chunk_count, self._engine.now + LEASE_S)
        return lease

    def _end_lease(self, place: tuple[bytes, int]) -> None:
        self._leases.pop(place).snapshots.release(place[1])

    def _send(self) -> None:
        blocked: list[_Parcel] = []
        while self._queue and self._allowance > 0:
            parcel = self._queue.popleft()
            node_id, group_id, generation, number = parcel.wanted
            lease = self._leases.get((group_id, generation))
            if lease is None or group_id not in self._engine.hosting.groups:
                self._queued.discard(parcel.wanted)
                continue
            data = lease.snapshots.read_chunk(generation, number)
            if self._engine.send_bulk(node_id, Chunk(group_id, generation, number, crc32(data), data)):
                self._allowance -= len(data)
            elif parcel.tries < TRIES_MAX:
                # The connection is being made, or its queue is full: the rest waits, too, to stay in order.
                parcel.tries += 1
                blocked += [parcel, *self._take_parcels_of(node_id)]
                continue
            else:  # what follows is of no use without it, and all of it will be asked for again
                self._queued.difference_update([each.wanted for each in self._take_parcels_of(node_id)])
            self._queued.discard(parcel.wanted)
        self._queue.extend(blocked)

    def _take_parcels_of(self, node_id: str) -> list[_Parcel]:
        """Take out what waits for a node; others are served meanwhile."""
        theirs = [parcel for parcel in self._queue if parcel.wanted.node_id == node_id]
        self._queue = deque([parcel for parcel in self._queue if parcel.wanted.node_id != node_id])
        return theirs

    def _on_chunk(self, sender: str, chunk: Chunk) -> None:
        group = self._engine.hosting.groups.get(chunk.group)
        fetch = None if group is None else group.snapshots.fetch
        if fetch is not None and fetch.node_id == sender:
            fetch.received(chunk)

    def _on_gone(self, sender: str, gone: ChunkGone) -> None:
        group = self._engine.hosting.groups.get(gone.group)
        fetch = None if group is None else group.snapshots.fetch
        if fetch is not None and fetch.node_id == sender and fetch.meta.generation == gone.generation:
            fetch.gone()
