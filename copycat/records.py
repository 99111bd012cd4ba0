"""What a node keeps, and how each value is packed: four bytes of checksum, then the record.

The checksum is CRC-32 of key and record, so a value that was damaged is noticed, and so is a sound value under the wrong
key. Records are msgpack, their fields in order; entries and chunks, whose bulk is opaque, have a fixed head instead
and are not copied through a packer. Nothing here executes what it reads.

Reading raises :class:`~copycat.errors.StorageCorrupt`, with the key, for whatever can't be what was written.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TypeVar
from zlib import crc32

from copycat import codec
from copycat.errors import CodecError, StorageCorrupt
from copycat.messages import NONE, ConfState, Entry, EntryType

RETIRED_IDS_MAX = 256

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ReplicaRecord:
    """That this node has, or had, a replica of a group.

    ``genesis`` is the group's own and opaque here; ``conf_state`` is the configuration that holds while there is no
    snapshot (empty for a replica that learns it from one). ``destroyed`` marks a tombstone. ``retired``: raft ids of
    earlier replicas of the group on this node, newest last; none is ever used again.
    """

    raft_id: int
    genesis: bytes = b""
    conf_state: ConfState = field(default_factory=ConfState)
    destroyed: bool = False
    retired: tuple[int, ...] = ()


@dataclass(slots=True)
class LogState:
    """A replica's hard state and the bounds of its log, in one record, so that they can't disagree.

    The log is what lies under ``start_index < index <= last_index``; whatever else lies under an entry's key is waste.
    """

    term: int = 0
    vote: int = NONE
    commit: int = 0
    start_index: int = 0
    start_term: int = 0
    last_index: int = 0


@dataclass(frozen=True, slots=True)
class SnapshotMeta:
    """A snapshot without its chunks. ``size`` is their bytes, ``checksum`` the CRC-32 of all of them in order.

    ``state`` is the group's own and opaque here; ``generation`` says, on this node only, under which keys the chunks lie.
    """

    index: int
    term: int
    conf_state: ConfState
    state: bytes
    size: int
    chunk_count: int
    generation: int
    checksum: int


@dataclass(frozen=True, slots=True)
class ReceiveState:
    """A snapshot that is coming in: which one (``source``, opaque), where it is put, and how many chunks are there.

    ``size`` and ``checksum`` are those of these chunks, as in :class:`SnapshotMeta`.
    """

    source: bytes
    generation: int
    chunks: int
    size: int = 0
    checksum: int = 0


def pack_descriptor(meta: SnapshotMeta) -> bytes:
    """What travels in :class:`copycat.messages.Snapshot` as ``data``."""
    return codec.pack_record(meta)


def unpack_descriptor(data: bytes) -> SnapshotMeta:
    """The reverse of :func:`pack_descriptor`, for bytes from outside. Raises :class:`~copycat.errors.CodecError`."""
    meta = codec.unpack_record(SnapshotMeta, data)
    numbers = (meta.index, meta.term, meta.size, meta.chunk_count, meta.generation, meta.checksum)
    if min(numbers) < 0 or meta.index == 0 or (meta.size > 0) != (meta.chunk_count > 0):
        raise CodecError("malformed description of a snapshot")
    return meta


# --- sealing --------------------------------------------------------------------------------------------------------

_CHECKSUM_BYTES = 4
_entry_head = struct.Struct(">IBQ")  # checksum, type, term
_TYPES = {int(kind): kind for kind in EntryType}


def seal(key: bytes, record: bytes) -> bytes:
    """The value to store under ``key``."""
    return crc32(record, crc32(key)).to_bytes(_CHECKSUM_BYTES, "big") + record


def unseal(key: bytes, value: bytes) -> bytes:
    """The record in a stored value. Raises :class:`~copycat.errors.StorageCorrupt`."""
    record = value[_CHECKSUM_BYTES:]
    if crc32(record, crc32(key)) != int.from_bytes(value[:_CHECKSUM_BYTES], "big") or len(value) < _CHECKSUM_BYTES:
        raise damaged(key)
    return record


def seal_record(key: bytes, record: object) -> bytes:
    """As :func:`seal`, for one of the dataclasses above."""
    return seal(key, codec.pack_record(record))


def unseal_record(key: bytes, value: bytes, kind: type[T]) -> T:
    """The dataclass in a stored value. Raises :class:`~copycat.errors.StorageCorrupt`."""
    try:
        return codec.unpack_record(kind, unseal(key, value))
    except CodecError as error:
        raise StorageCorrupt(f"the record under key {key.hex()} is no {kind.__name__}: {error}") from error


def damaged(key: bytes) -> StorageCorrupt:
    return StorageCorrupt(
        f"the record under key {key.hex()} is damaged: its checksum is wrong; wipe this node's data_dir, "
        "so that it joins again as a new node"
    )


def missing(key: bytes, what: str) -> StorageCorrupt:
    return StorageCorrupt(
        f"{what} is missing under key {key.hex()}; wipe this node's data_dir, so that it joins again as a new node"
    )


# --- entries --------------------------------------------------------------------------------------------------------

ENTRY_HEAD_BYTES = _entry_head.size


def seal_entry(key: bytes, entry: Entry) -> bytes:
    head = _entry_head.pack(0, entry.type, entry.term)[_CHECKSUM_BYTES:]
    checksum = crc32(entry.data, crc32(head, crc32(key)))
    return b"".join((checksum.to_bytes(_CHECKSUM_BYTES, "big"), head, entry.data))


def term_of_sealed_entry(key: bytes, value: bytes) -> int:
    """Check a stored entry and return its term, without unpacking it. Raises :class:`~copycat.errors.StorageCorrupt`."""
    if len(value) < ENTRY_HEAD_BYTES:
        raise damaged(key)
    checksum, kind, term = _entry_head.unpack_from(value)
    if crc32(memoryview(value)[_CHECKSUM_BYTES:], crc32(key)) != checksum or kind not in _TYPES:
        raise damaged(key)
    return int(term)


def unseal_entry(key: bytes, value: bytes, index: int) -> Entry:
    """Raises :class:`~copycat.errors.StorageCorrupt`."""
    term = term_of_sealed_entry(key, value)
    return Entry(term, index, _TYPES[value[_CHECKSUM_BYTES]], value[ENTRY_HEAD_BYTES:])
