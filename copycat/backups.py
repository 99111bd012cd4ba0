"""Backups: what a consumer of a data structure would be handed up to one position, read in pieces from a replica here.

A backup is the group's newest snapshot and the items behind it, up to the position that a barrier names: everything that was
acknowledged before the backup began is in it, and it is a state in which every consumer was. Whoever makes it asks for one
piece after the other, so its pace is their own, and nothing is held in memory meanwhile. The snapshot is kept for a reader as
for a follower that fetches it, and so is the log behind it, within the bounds in which it is kept for followers. Where the log
was compacted nevertheless, the next piece is the beginning of a newer snapshot, which stands for all that came before it.
"""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from zlib import crc32

from copycat.errors import Closed, CodecError, CopyCatError, StorageCorrupt, Timeout, UsageError
from copycat.group import Group
from copycat.ids import DataStructureId
from copycat.reads import Barrier
from copycat.records import SnapshotMeta
from copycat.sequencer import Sequencer
from copycat.sessions import unpack_proposals

if TYPE_CHECKING:
    from copycat.engine import Engine

READERS_MAX = 16
SILENT_S_MAX = 60.0
"""A reader that asks for nothing for so long is given up."""
PIECE_BYTES_MAX = 1 << 20
"""Log read for one piece, unless a single entry is longer."""
ITEM_BYTES_MAX = 48 << 20
"""More does not fit in an answer of the admin socket."""


@dataclass(slots=True)
class Reader:
    """One backup that is being made."""

    group: Group
    sequencer: Sequencer
    end_position: int
    touched_at: float
    snapshot: SnapshotMeta | None = None
    """The one that is being handed out, and kept meanwhile."""
    chunk: int = 0
    size: int = 0
    checksum: int = 0


@dataclass(slots=True, eq=False)
class _Opening:
    """A reader that waits for its barrier."""

    group: Group
    deadline: float
    answer: Future[dict[str, Any]]
    barrier: Barrier = field(default_factory=Barrier)


class Backups:
    """Belongs to the engine's thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._readers: dict[int, Reader] = {}
        self._openings: list[_Opening] = []
        self._count = 0

    def begin(self, group_id: bytes, local: bool, timeout_s: float, answer: Future[dict[str, Any]]) -> None:
        """Begin to read a data structure; ``answer`` gets the reader's number and what it is going to read.

        ``local``: only what this replica knows to be committed, without asking a leader, so also where there is none. Raises
        :class:`~copycat.errors.UsageError` if the group isn't hosted here, or too many are being read;
        :class:`~copycat.errors.Timeout` if no leader answers.
        """
        group = self._engine.hosting.groups.get(group_id)
        if group is None:
            hosts = ", ".join(self._engine.cluster.hosts_of(group_id)) or "none that is known"
            raise UsageError(f"this node does not host the group; back it up on one that does: {hosts}")
        if len(self._readers) + len(self._openings) >= READERS_MAX:
            raise UsageError(f"{READERS_MAX} backups are being made of this node already; try again when one has ended")
        if local:
            self._open(group, group.sequencer.position, answer)
            return
        opening = _Opening(group, self._engine.now + timeout_s, answer)
        self._openings.append(opening)
        opening.barrier.answer.add_done_callback(lambda position: self._confirmed(opening, position))
        group.barrier(opening.barrier)

    def _confirmed(self, opening: _Opening, position: Future[int]) -> None:
        """Raft has named a position that is applied here, or says why it can't."""
        if opening not in self._openings:
            return
        self._openings.remove(opening)
        error = position.exception()
        if error is not None:
            opening.answer.set_exception(error)
            return
        group = self._engine.hosting.groups.get(opening.group.id)
        if group is None or group.sequencer.position < position.result():
            opening.answer.set_exception(_replaced())
        else:
            self._open(group, position.result(), opening.answer)

    def _open(self, group: Group, end_position: int, answer: Future[dict[str, Any]]) -> None:
        self._count += 1
        reader = Reader(group, Sequencer(dict(group.founders)), end_position, self._engine.now)
        self._readers[self._count] = reader
        group.snapshots.readers.append(reader.sequencer)
        answer.set_result(
            {
                "reader": self._count,
                "id": str(DataStructureId(group.id)),
                "position": end_position,
                "replicas": group.replicas_wanted,
                "data_center_replicas": group.genesis.data_center_replicas,
            }
        )

    def read(self, number: int) -> dict[str, Any]:
        """The next piece: ``begin`` of a snapshot, a ``chunk`` of it, ``items`` behind it, or the ``end``.

        Raises :class:`~copycat.errors.UsageError` for a reader that is not there, :class:`~copycat.errors.Closed` if its
        replica has gone: begin again.
        """
        reader = self._readers.get(number)
        if reader is None:
            raise UsageError("no such backup is being made: it was silent for too long, or the node was started anew")
        reader.touched_at = self._engine.now
        group = reader.group
        if self._engine.hosting.groups.get(group.id) is not group:
            self.close(number)
            raise _replaced()
        if reader.snapshot is not None:
            return self._next_chunk(reader, reader.snapshot)
        position = reader.sequencer.position
        if position >= reader.end_position:
            self.close(number)
            return {"kind": "end", "position": position}
        index = reader.sequencer.index
        current = group.store.snapshots.current
        if current is not None and (index == 0 or index + 1 < group.store.first_index()):
            return self._begin_snapshot(reader, current)
        return self._next_items(reader)

    def _begin_snapshot(self, reader: Reader, meta: SnapshotMeta) -> dict[str, Any]:
        position = Sequencer.unpack(meta.state).position
        if position == 0:
            return self._pass(reader, meta)  # the state before the first item, in which every consumer begins by itself
        reader.group.store.snapshots.retain(meta.generation)
        reader.snapshot = meta
        reader.chunk = reader.size = reader.checksum = 0
        return {"kind": "begin", "position": position, "bytes": meta.size}

    def _next_chunk(self, reader: Reader, meta: SnapshotMeta) -> dict[str, Any]:
        if reader.chunk < meta.chunk_count:
            data = reader.group.store.snapshots.read_chunk(meta.generation, reader.chunk)
            reader.chunk += 1
            reader.size += len(data)
            reader.checksum = crc32(data, reader.checksum)
            return {"kind": "chunk", "data": data}
        if (reader.size, reader.checksum) != (meta.size, meta.checksum):
            raise StorageCorrupt(f"the snapshot at entry {meta.index} is not what was written")
        self._release(reader)
        return self._pass(reader, meta)

    def _pass(self, reader: Reader, meta: SnapshotMeta) -> dict[str, Any]:
        """Go on behind the snapshot."""
        passed = Sequencer.unpack(meta.state)
        readers = reader.group.snapshots.readers
        readers[readers.index(reader.sequencer)] = passed
        reader.sequencer = passed
        return {"kind": "items", "items": [], "position": passed.position}

    def _next_items(self, reader: Reader) -> dict[str, Any]:
        group, sequencer = reader.group, reader.sequencer
        items: list[bytes] = []
        for entry in group.store.entries(sequencer.index + 1, group.sequencer.index + 1, PIECE_BYTES_MAX):
            applied = sequencer.apply(entry)
            if applied.count:
                try:
                    fresh = unpack_proposals(entry.data)[applied.skip :]
                except CodecError as error:
                    raise StorageCorrupt(f"entry {entry.index} can't be unpacked: {error}") from error
                if max(map(len, fresh)) > ITEM_BYTES_MAX:
                    raise UsageError(f"an item has more than the {ITEM_BYTES_MAX} bytes that a backup can carry")
                items += fresh
            if sequencer.position >= reader.end_position:
                break
        return {"kind": "items", "items": items, "position": sequencer.position}

    def close(self, number: int) -> None:
        """Nothing more will be read. May be called twice."""
        reader = self._readers.pop(number, None)
        if reader is not None:
            self._release(reader)
            reader.group.snapshots.readers.remove(reader.sequencer)

    def _release(self, reader: Reader) -> None:
        if reader.snapshot is not None:
            reader.group.store.snapshots.release(reader.snapshot.generation)
            reader.snapshot = None

    def tick(self) -> None:
        """Give up those who wait, or are silent, for too long."""
        now = self._engine.now
        for opening in [opening for opening in self._openings if now >= opening.deadline]:
            self._openings.remove(opening)
            opening.answer.set_exception(
                Timeout(
                    "no leader of the group confirmed in time what is committed; a backup of what this replica alone knows is "
                    "made with --local"
                )
            )
        for number in [number for number, reader in self._readers.items() if now > reader.touched_at + SILENT_S_MAX]:
            self.close(number)

    def end(self, reason: CopyCatError) -> None:
        """No turn will come any more."""
        for opening in self._openings:
            if not opening.answer.done():
                opening.answer.set_exception(reason)
        self._openings.clear()


def _replaced() -> Closed:
    return Closed("this node's replica of the group was replaced meanwhile; make the backup again")
