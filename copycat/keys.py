"""Where each record of a node lies in its storage: the only module that knows.

    01 name                               a record of the node as a whole; the name is UTF-8
    02 group(16)                          the replica of a group on this node, or its tombstone
    03 group(16) kind(1) number(8)        everything else of that replica; numbers are unsigned and big-endian, so the
                                          storage's order of keys is the order of numbers

Replica records lie apart from what belongs to them, so that a node finds all its groups in one short scan. A change of
anything here or in :mod:`copycat.records` raises ``FORMAT_VERSION``; docs/on-disk-format.md has the whole format.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

FORMAT_VERSION = 1

NODE = b"\x01"
REPLICA = b"\x02"
GROUP = b"\x03"
END = b"\x04"

FORMAT_KEY = NODE + b"format"
LABEL_KEY = NODE + b"cluster-label"
NODE_ID_KEY = NODE + b"node-id"

GROUP_ID_BYTES = 16
KEY_BYTES = 1 + GROUP_ID_BYTES + 1 + 8
GENERATION_MAX = (1 << 32) - 1
CHUNKS_MAX = 1 << 32
INDEX_MAX = (1 << 64) - 1

_STATE = b"\x01"
_SNAPSHOT = b"\x02"
_RECEIVE = b"\x03"
_ENTRY = b"\x04"
_CHUNK = b"\x05"
_AFTER_CHUNK = b"\x06"

_number = struct.Struct(">Q")
_pair = struct.Struct(">II")


def node_key(name: str) -> bytes:
    return NODE + name.encode()


def replica_key(group_id: bytes) -> bytes:
    if len(group_id) != GROUP_ID_BYTES:
        raise ValueError(f"a group id has {GROUP_ID_BYTES} bytes, not {len(group_id)}")
    return REPLICA + group_id


def group_of_replica_key(key: bytes) -> bytes:
    return key[1:]


class ChunkPlace(NamedTuple):
    """One chunk of one generation of a replica's snapshots; both count below 2**32, and chunks from 0."""

    generation: int
    number: int


class ReplicaKeys:
    """The keys of one replica."""

    __slots__ = ("_chunk_prefix", "chunks_end", "entry_prefix", "receive", "replica", "snapshot", "state")

    def __init__(self, group_id: bytes) -> None:
        self.replica = replica_key(group_id)
        prefix = GROUP + group_id
        self.state = prefix + _STATE + _number.pack(0)
        self.snapshot = prefix + _SNAPSHOT + _number.pack(0)
        self.receive = prefix + _RECEIVE + _number.pack(0)
        self.entry_prefix = prefix + _ENTRY
        self._chunk_prefix = prefix + _CHUNK
        self.chunks_end = prefix + _AFTER_CHUNK
        """Behind every chunk of the replica."""

    def entry(self, index: int) -> bytes:
        return self.entry_prefix + _number.pack(index)

    @property
    def entries_end(self) -> bytes:
        """Behind every entry of the replica."""
        return self._chunk_prefix

    def chunk(self, generation: int, number: int) -> bytes:
        return self._chunk_prefix + _pair.pack(generation, number)


def index_of_entry_key(key: bytes) -> int:
    index: int = _number.unpack(key[-8:])[0]
    return index


def place_of_chunk_key(key: bytes) -> ChunkPlace:
    return ChunkPlace(*_pair.unpack(key[-8:]))
