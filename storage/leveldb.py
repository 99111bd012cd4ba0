"""LevelDB (through plyvel) as a storage: one database in ``data_dir/db``.

What it relies on LevelDB for: a batch is one checksummed record of its log, so a crash leaves it whole or absent, and what was
synced stays. (Of what was not, a power failure may take an earlier batch and leave a later one: LevelDB does not sync a log
that it has finished with.) What it adds: the directory is ours alone (:mod:`copycat.storage.directory`),
no call reaches a database that is closed or being closed (in C++ that is a crash, not an exception), after a failed
write nothing more is written, because LevelDB's log then ends in a place nobody knows, and a log that lost its end after that
was synced is noticed (:mod:`copycat.storage.watermark`).

It knows nothing of what the keys mean, and never repairs: a database that can't be read is reported, not emptied.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import plyvel

from copycat.errors import CopyCatError, StorageCorrupt, StorageFailed
from copycat.ports import WriteBatch
from copycat.storage import directory
from copycat.storage.gate import CLOSE_WAIT_S, Gate
from copycat.storage.watermark import NUMBER_KEY, Watermark, pack_number, unpack_number

DATABASE = "db"

WRITE_BUFFER_BYTES = 16 << 20
"""At most twice this is in memory, and is replayed when the database opens. Large, because each time it is full everything in it
is sorted into files, and log entries may have been compacted away by then."""

FILE_BYTES = 4 << 20
OPEN_FILES_MAX = 74
"""LevelDB maps the files that it has open (64 of these, the least that it takes), and what it has read of them counts as the
process' memory. So these two bound how much that is, however large the database: to read or compact snapshots of some GiB
takes no more. A file is opened again in some microseconds."""

BLOCK_CACHE_BYTES = 16 << 20
"""A follower that catches up reads ahead in pieces smaller than what lies in a block; each block is read once."""

SCAN_ITEMS = 256
SCAN_BYTES = 64 << 10
"""A scan reads this much ahead at most (or one pair), so that holding the database costs once per piece."""

CONGESTED_FILES = 6
"""Files at level 0, of the 12 at which LevelDB stops all writes until it has merged them; it begins to merge at 4."""

_FOREIGN_ERRORS = (plyvel.Error, OSError, RuntimeError)  # RuntimeError is plyvel's word for "closed"


class LevelDBStorage:
    """See :class:`copycat.ports.Storage`. Any thread may call anything; writes are the caller's to put in one order.

    ``compress``: whether files are written with Snappy. It halves what a disk is written of textual proposals, and more of
    repetitive ones; without it LevelDB's thread needs a fifth of the processor, by which proposals that don't compress gain.
    Either reads what the other wrote. :class:`copycat.Config` takes an instance as ``storage``.
    """

    __slots__ = ("_claim", "_compress", "_data_dir", "_database", "_gate", "_number", "_watermark", "_write_failure")

    def __init__(self, compress: bool = True) -> None:
        self._compress = compress
        self._gate = Gate()
        self._database: Any = None
        self._claim: directory.Claim | None = None
        self._data_dir = Path()
        self._number = 0
        self._watermark: Watermark | None = None
        self._write_failure: str | None = None

    def open(self, data_dir: Path) -> None:
        claim = directory.claim(data_dir, "leveldb")  # refuses an instance that is already open, too
        watermark = database = None
        try:
            watermark = Watermark(data_dir)
            database = _open_database(data_dir, self._compress)
            self._number = _last_write(database, data_dir)
            watermark.check(self._number)
        except BaseException:
            if database is not None:
                database.close()
            if watermark is not None:
                watermark.close()
            claim.release()
            raise
        self._database = database
        self._watermark = watermark
        self._claim = claim
        self._data_dir = data_dir
        self._write_failure = None
        self._gate.open()

    def write(self, batch: WriteBatch, sync: bool) -> None:
        self._gate.enter()
        try:
            if self._write_failure is not None:
                raise StorageFailed(f"an earlier write to {self._data_dir} failed: {self._write_failure}")
            pending = self._database.write_batch(sync=sync)
            put, delete = pending.put, pending.delete
            for key, value in batch.operations:
                if value is None:
                    delete(key)
                else:
                    put(key, value)
            number = self._number + 1
            put(NUMBER_KEY, pack_number(number))
            pending.write()
            self._number = number
            if sync:
                assert self._watermark is not None
                self._watermark.raise_to(number)
        except _FOREIGN_ERRORS as error:
            self._write_failure = str(error)
            raise _translated("write to", self._data_dir, error) from error
        except StorageFailed as error:
            self._write_failure = self._write_failure or str(error)
            raise
        finally:
            self._gate.leave()

    def congested(self) -> bool:
        """Whether so much waits to be merged that a little more would make every write wait."""
        if not self._gate.enter_if_open():
            return False
        try:
            return int(self._database.get_property(b"leveldb.num-files-at-level0") or 0) >= CONGESTED_FILES
        finally:
            self._gate.leave()

    def get(self, key: bytes) -> bytes | None:
        if key == NUMBER_KEY:
            return None
        self._gate.enter()
        try:
            value: bytes | None = self._database.get(key, verify_checksums=True)
        except _FOREIGN_ERRORS as error:
            raise _translated("read from", self._data_dir, error) from error
        finally:
            self._gate.leave()
        return value

    def scan(self, start: bytes, stop: bytes, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        self._gate.enter()
        try:
            if start >= stop:
                return iter(())
            hides = start <= NUMBER_KEY < stop
            # LevelDB fixes what an iterator sees when it is made: that is the isolation the port asks for.
            iterator = self._database.iterator(start=start, stop=stop, reverse=reverse, verify_checksums=True)
        except _FOREIGN_ERRORS as error:
            raise _translated("read from", self._data_dir, error) from error
        finally:
            self._gate.leave()
        pieces = self._pieces(iterator)
        pairs = chain(next(pieces), chain.from_iterable(pieces))
        return (pair for pair in pairs if pair[0] != NUMBER_KEY) if hides else pairs

    def _pieces(self, iterator: Any) -> Iterator[list[tuple[bytes, bytes]]]:
        """What is left of ``iterator``, in pieces; the last one may be empty, and there is always a first."""
        try:
            exhausted = False
            while not exhausted:
                self._gate.enter()
                try:
                    piece, exhausted = _read_piece(iterator)
                except _FOREIGN_ERRORS as error:
                    raise _translated("read from", self._data_dir, error) from error
                finally:
                    self._gate.leave()
                yield piece
        finally:
            if self._gate.enter_if_open():  # otherwise the database has closed, or will close, its iterators itself
                try:
                    iterator.close()
                finally:
                    self._gate.leave()

    def close(self) -> None:
        if not self._gate.shut(CLOSE_WAIT_S):
            raise StorageFailed(
                f"{self._data_dir} is still being read or written after {CLOSE_WAIT_S:g} s; its lock is kept until a "
                "later close, or the end of the process"
            )
        database, self._database = self._database, None
        watermark, self._watermark = self._watermark, None
        claim, self._claim = self._claim, None
        try:
            if database is not None:
                database.close()
        except _FOREIGN_ERRORS as error:
            raise _translated("close", self._data_dir, error) from error
        finally:
            if watermark is not None:
                watermark.close()
            if claim is not None:
                claim.release()


def _open_database(data_dir: Path, compress: bool) -> Any:
    path = data_dir / DATABASE
    try:
        if not path.exists():
            path.mkdir(mode=0o700)
            directory.sync_directory(data_dir)
        directory.refuse_headless(path, (".ldb", ".sst", ".log"))
        return plyvel.DB(
            str(path),
            create_if_missing=True,
            # Without these checks LevelDB drops damaged records of its log in silence: acknowledged entries would be gone,
            # and Raft would go on with less than it promised. A log that a crash cut short is no damage, and still opens.
            paranoid_checks=True,
            write_buffer_size=WRITE_BUFFER_BYTES,
            max_file_size=FILE_BYTES,
            max_open_files=OPEN_FILES_MAX,
            lru_cache_size=BLOCK_CACHE_BYTES,
            compression="snappy" if compress else None,
        )
    except _FOREIGN_ERRORS as error:
        raise _translated("open", data_dir, error) from error


def _last_write(database: Any, data_dir: Path) -> int:
    try:
        return unpack_number(database.get(NUMBER_KEY, verify_checksums=True))
    except _FOREIGN_ERRORS as error:
        raise _translated("read from", data_dir, error) from error


def _read_piece(iterator: Any) -> tuple[list[tuple[bytes, bytes]], bool]:
    """Up to one piece, and whether the iterator has ended."""
    piece: list[tuple[bytes, bytes]] = []
    room = SCAN_BYTES
    for pair in iterator:
        piece.append(pair)
        room -= len(pair[0]) + len(pair[1])
        if room <= 0 or len(piece) == SCAN_ITEMS:
            return piece, False
    return piece, True


def _translated(doing: str, data_dir: Path, error: Exception) -> CopyCatError:
    detail = error.args[0].decode(errors="replace") if error.args and isinstance(error.args[0], bytes) else str(error)
    if isinstance(error, plyvel.CorruptionError):
        return StorageCorrupt(f"LevelDB found damage while trying to {doing} {data_dir}: {detail}")
    return StorageFailed(f"LevelDB failed to {doing} {data_dir}: {detail}")
