"""RocksDB (through rocksdict) as a storage: one database in ``data_dir/db``.

What it relies on RocksDB for: a batch is one checksummed record of its log, so a crash leaves it whole or absent, and syncing
the log makes every earlier batch durable too. What it adds: the directory is ours alone
(:mod:`copycat.storage.directory`), no call reaches a database that is closed or being closed, after a failed write nothing more
is written, because the log then ends in a place nobody knows, and a log that lost its end after that was synced is noticed
(:mod:`copycat.storage.watermark`; RocksDB numbers its writes itself).

Four habits of the binding shape what is written here. Its calls keep Python's global lock, but for the syncing of the log: so a
batch is handed to the operating system first and synced in a second call, during which the rest of the process runs; and a
write that RocksDB would hold up is refused and repeated instead. Its simple iterators end at a damaged block as if nothing came
behind it: so the plain one is used, and asked how it ended. That one only points to its bound, which must outlive it. And an
iterator keeps a closed database open: so those that are left over are let go first.

It knows nothing of what the keys mean, and never repairs: a database that can't be read is reported, not emptied.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import rocksdict

from copycat.errors import CopyCatError, StorageCorrupt, StorageFailed
from copycat.ports import WriteBatch
from copycat.storage import directory
from copycat.storage.gate import CLOSE_WAIT_S, Gate
from copycat.storage.watermark import Watermark

DATABASE = "db"

WRITE_BUFFER_BYTES = 32 << 20
"""Log entries are mostly deleted by compaction soon after they were written. The larger the buffer, the more of them die in it
and are never sorted into files; but what is in it is replayed when the database opens."""

COMPRESSION = "lz4"
"""Cheap, in RocksDB's own threads, and it halves what merging textual proposals writes."""

WRITE_BUFFERS_MAX = 3
"""One that is written to and two that are being sorted; with more, RocksDB slows writers down before it stops them."""

LEVEL_0_FILES_MAX = 36
"""Writers wait when this many files have not been merged yet. There is no earlier slowing down; see :func:`_options`."""

CONGESTED_FILES = 12
CONGESTED_BUFFERS = WRITE_BUFFERS_MAX - 1
"""So many files to merge (it begins at 4), or full buffers, and bulk should wait before every write has to."""

OPEN_FILES_MAX = 512
"""File descriptors are shared with the sockets of the process, and the usual limit is 1,024."""

BLOCK_CACHE_BYTES = 16 << 20
"""A follower that catches up reads ahead in pieces smaller than what lies in a block; each block is read once."""

BACKGROUND_JOBS = 2
INFO_LOG_BYTES = 1 << 20
INFO_LOGS_MAX = 4
"""RocksDB's own account of what it does, beside the data."""

SCAN_ITEMS = 256
SCAN_BYTES = 64 << 10
"""A scan reads this much ahead at most (or one pair), so that holding the database costs once per piece."""

STALL_PAUSE_S = 0.002
"""How long a write that RocksDB has no room for yet waits until it asks again."""


class RocksDBStorage:
    """See :class:`copycat.ports.Storage`. Any thread may call anything; writes are the caller's to put in one order."""

    __slots__ = (
        "_claim",
        "_data_dir",
        "_database",
        "_gate",
        "_scans",
        "_watermark",
        "_write_failure",
        "_write_options",
    )

    def __init__(self) -> None:
        self._gate = Gate()
        self._database: Any = None
        self._claim: directory.Claim | None = None
        self._data_dir = Path()
        self._watermark: Watermark | None = None
        self._write_failure: str | None = None
        self._scans: weakref.WeakSet[_Scan] = weakref.WeakSet()
        self._write_options = rocksdict.WriteOptions()
        self._write_options.no_slowdown = True

    def open(self, data_dir: Path) -> None:
        claim = directory.claim(data_dir, "rocksdb")  # refuses an instance that is already open, too
        watermark = database = None
        try:
            watermark = Watermark(data_dir)
            database = _open_database(data_dir)
            watermark.check(database.latest_sequence_number())
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
            try:
                while not self._try_write(batch):
                    time.sleep(STALL_PAUSE_S)
                if sync:
                    self._database.flush_wal(True)
                    assert self._watermark is not None
                    self._watermark.raise_to(self._database.latest_sequence_number())
            except CopyCatError as error:
                self._write_failure = str(error)
                raise
            except Exception as error:
                self._write_failure = str(error)
                raise _translated("write to", self._data_dir, error) from error
        finally:
            self._gate.leave()

    def _try_write(self, batch: WriteBatch) -> bool:
        """False if RocksDB is busy merging what it has, and nothing was written."""
        pending = rocksdict.WriteBatch(raw_mode=True)  # one can be written once only, even in vain
        put, delete = pending.put, pending.delete
        for key, value in batch.operations:
            if value is None:
                delete(key)
            else:
                put(key, value)
        try:
            self._database.write(pending, self._write_options)
        except Exception as error:
            if str(error).startswith("Result incomplete: Write stall"):
                return False
            raise
        return True

    def congested(self) -> bool:
        """Whether so much waits to be merged that a little more would make every write wait."""
        if not self._gate.enter_if_open():
            return False
        try:
            files = int(self._database.property_value("rocksdb.num-files-at-level0") or 0)
            buffers = self._database.property_int_value("rocksdb.num-immutable-mem-table") or 0
            return files >= CONGESTED_FILES or buffers >= CONGESTED_BUFFERS
        finally:
            self._gate.leave()

    def get(self, key: bytes) -> bytes | None:
        self._gate.enter()
        try:
            value: bytes | None = self._database.get(key)
        except Exception as error:
            raise _translated("read from", self._data_dir, error) from error
        finally:
            self._gate.leave()
        return value

    def scan(self, start: bytes, stop: bytes, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        self._gate.enter()
        try:
            if start >= stop:
                return iter(())
            # RocksDB fixes what an iterator sees when it is made: that is the isolation the port asks for.
            scan = _Scan(self._database, start, stop, reverse)
            self._scans.add(scan)
        except Exception as error:
            raise _translated("read from", self._data_dir, error) from error
        finally:
            self._gate.leave()
        pieces = self._pieces(scan)
        return chain(next(pieces), chain.from_iterable(pieces))

    def _pieces(self, scan: _Scan) -> Iterator[list[tuple[bytes, bytes]]]:
        """What is left of ``scan``, in pieces; the last one may be empty, and there is always a first."""
        exhausted = False
        while not exhausted:
            self._gate.enter()
            try:
                piece, exhausted = scan.read_piece()
            except Exception as error:
                raise _translated("read from", self._data_dir, error) from error
            finally:
                self._gate.leave()
            yield piece

    def close(self) -> None:
        if not self._gate.shut(CLOSE_WAIT_S):
            raise StorageFailed(
                f"{self._data_dir} is still being read or written after {CLOSE_WAIT_S:g} s; its lock is kept until a "
                "later close, or the end of the process"
            )
        for scan in self._scans:
            scan.iterator = None
        database, self._database = self._database, None
        watermark, self._watermark = self._watermark, None
        claim, self._claim = self._claim, None
        try:
            if database is not None:
                database.close()
        except Exception as error:
            if self._write_failure is None:  # otherwise RocksDB says again what the failed write has said
                raise _translated("close", self._data_dir, error) from error
        finally:
            if watermark is not None:
                watermark.close()
            if claim is not None:
                claim.release()


class _Scan:
    """An iterator of RocksDB and where it ends. Belongs to whoever is inside the gate."""

    __slots__ = ("__weakref__", "_reverse", "_start", "iterator", "options")

    def __init__(self, database: Any, start: bytes, stop: bytes, reverse: bool) -> None:
        self._start = start
        self._reverse = reverse
        self.options = rocksdict.ReadOptions()  # kept, because the iterator only points to the bound that is in it
        if reverse:
            self.iterator = database.iter(self.options)
            self.iterator.seek_for_prev(stop)
            if self.iterator.valid() and self.iterator.key() == stop:
                self.iterator.prev()
        else:
            self.options.set_iterate_upper_bound(stop)
            self.iterator = database.iter(self.options)
            self.iterator.seek(start)

    def read_piece(self) -> tuple[list[tuple[bytes, bytes]], bool]:
        """Up to one piece, and whether the iterator has ended. Raises RocksDB's error if it ended for another reason."""
        iterator = self.iterator
        step = iterator.prev if self._reverse else iterator.next
        piece: list[tuple[bytes, bytes]] = []
        room = SCAN_BYTES
        try:
            while iterator.valid():
                key, value = iterator.key(), iterator.value()
                if key < self._start:  # the binding has no lower bound
                    return piece, True
                piece.append((key, value))
                step()
                room -= len(key) + len(value)
                if room <= 0 or len(piece) == SCAN_ITEMS:
                    return piece, False
            iterator.status()
        finally:
            del iterator, step  # the traceback of an error must not keep the database open
        return piece, True


def _options() -> Any:
    options = rocksdict.Options(raw_mode=True)
    options.create_if_missing(True)
    # A log that a crash cut short still opens; one that is damaged before its end does not: acknowledged entries would be gone,
    # and Raft would go on with less than it promised.
    options.set_wal_recovery_mode(rocksdict.DBRecoveryMode.tolerate_corrupted_tail_records())
    options.set_paranoid_checks(True)
    options.set_write_buffer_size(WRITE_BUFFER_BYTES)
    options.set_max_write_buffer_number(WRITE_BUFFERS_MAX)
    options.set_compression_type(getattr(rocksdict.DBCompressionType, COMPRESSION)())
    # A refused write is repeated until it is let in, which a slowdown (a rate that each attempt counts against) would put off.
    options.set_level_zero_slowdown_writes_trigger(LEVEL_0_FILES_MAX)
    options.set_level_zero_stop_writes_trigger(LEVEL_0_FILES_MAX)
    options.set_soft_pending_compaction_bytes_limit(0)
    options.set_max_open_files(OPEN_FILES_MAX)
    options.set_max_background_jobs(BACKGROUND_JOBS)
    options.set_max_log_file_size(INFO_LOG_BYTES)
    options.set_keep_log_file_num(INFO_LOGS_MAX)
    options.set_stats_dump_period_sec(0)
    options.set_stats_persist_period_sec(0)
    blocks = rocksdict.BlockBasedOptions()
    blocks.set_block_cache(rocksdict.Cache(BLOCK_CACHE_BYTES))
    options.set_block_based_table_factory(blocks)
    return options


def _open_database(data_dir: Path) -> Any:
    path = data_dir / DATABASE
    try:
        if not path.exists():
            path.mkdir(mode=0o700)
            directory.sync_directory(data_dir)
        directory.refuse_headless(path, (".sst", ".log"))
        return rocksdict.Rdict(str(path), _options())
    except CopyCatError:
        raise
    except Exception as error:
        raise _translated("open", data_dir, error) from error


def _translated(doing: str, data_dir: Path, error: Exception) -> CopyCatError:
    if str(error).startswith("Corruption"):
        return StorageCorrupt(f"RocksDB found damage while trying to {doing} {data_dir}: {error}")
    return StorageFailed(f"RocksDB failed to {doing} {data_dir}: {error}")
