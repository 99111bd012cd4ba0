"""How far a database must at least reach: what its own write-ahead log can't tell.

A log whose end is missing looks like one that a crash cut short, and databases take it for that: they open, without what
was cut off. If that had been synced, and so acknowledged, opening would break a promise. So writes are numbered; the
database keeps the number of its last one, written with it, and a small file beside the database the number of the last
one that was *synced*, written when that sync had returned. A database that ends before that has lost writes.

The file itself is never synced. After a power failure it may be older than the database, never newer: it then asks for
less than it could, and refuses nothing that is sound. A kill of the process leaves it exact.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from zlib import crc32

from copycat.errors import StorageCorrupt, StorageFailed

FILE = "synced"

NUMBER_KEY = b"\x00copycat.storage.write"
"""Where the database keeps the number of its last write: not for those who use the storage."""

_RECORD = struct.Struct(">QI")


def pack_number(number: int) -> bytes:
    """The value under ``NUMBER_KEY``."""
    return number.to_bytes(8, "big")


def unpack_number(value: bytes | None) -> int:
    """The reverse; 0 for a database that has none yet."""
    return 0 if value is None else int.from_bytes(value, "big")


class Watermark:
    """The file ``synced`` of one data directory. One thread at a time."""

    __slots__ = ("_descriptor", "_path")

    def __init__(self, data_dir: Path) -> None:
        """Open it, or make it. Raises :class:`~copycat.errors.StorageFailed`."""
        self._path = data_dir / FILE
        try:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageFailed(f"can't open {self._path}: {error}") from error

    def check(self, number: int) -> None:
        """Raise :class:`~copycat.errors.StorageCorrupt` if more was synced than a database that ends with ``number`` holds."""
        synced = self._read()
        if synced > number:
            raise StorageCorrupt(
                f"the database in {self._path.parent} has lost writes that were on its disk: it ends with number {number}, and "
                f"{synced} had been synced; wipe this node's data_dir, so that it joins again as a new node"
            )

    def raise_to(self, number: int) -> None:
        """The write of that number is synced. Raises :class:`~copycat.errors.StorageFailed`."""
        packed = pack_number(number)
        try:
            os.pwrite(self._descriptor, packed + crc32(packed).to_bytes(4, "big"), 0)
        except OSError as error:
            raise StorageFailed(f"can't write to {self._path}: {error}") from error

    def close(self) -> None:
        """May be called twice."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _read(self) -> int:
        try:
            found = os.pread(self._descriptor, _RECORD.size + 1, 0)
        except OSError as error:
            raise StorageFailed(f"can't read {self._path}: {error}") from error
        if not found.strip(b"\x00"):
            return 0  # new, or a power failure came before it reached the disk
        if len(found) == _RECORD.size:
            number, checksum = _RECORD.unpack(found)
            if crc32(found[:8]) == checksum:
                return int(number)
        raise StorageCorrupt(
            f"{self._path} is damaged: wipe this node's data_dir, so that it joins again as a new node"
        )
