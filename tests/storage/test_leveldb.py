"""What only LevelDB's edge has: its files, its damage, its full disk."""

from __future__ import annotations

import os
import resource
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from copycat.errors import StorageCorrupt, StorageFailed, StorageForeign
from copycat.ports import WriteBatch
from copycat.storage.leveldb import LevelDBStorage

LAST = b"\xff" * 32


@contextmanager
def opened(data_dir: Path) -> Iterator[LevelDBStorage]:
    storage = LevelDBStorage()
    storage.open(data_dir)
    try:
        yield storage
    finally:
        storage.close()


def fill(data_dir: Path, count: int = 200) -> None:
    with opened(data_dir) as storage:
        for number in range(count):
            storage.write(WriteBatch([(b"%04d" % number, b"value" * 20)]), sync=False)


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 0xFF
    path.write_bytes(data)


def only(data_dir: Path, pattern: str) -> Path:
    [path] = [path for path in (data_dir / "db").glob(pattern) if path.stat().st_size]
    return path


def test_damage_in_the_write_ahead_log_is_not_swallowed(tmp_path: Path) -> None:
    fill(tmp_path)
    log = only(tmp_path, "*.log")
    flip(log, log.stat().st_size // 2)
    with pytest.raises(StorageCorrupt, match="checksum"):
        LevelDBStorage().open(tmp_path)


def test_a_write_ahead_log_cut_short_by_a_crash_still_opens(tmp_path: Path) -> None:
    fill(tmp_path)
    log = only(tmp_path, "*.log")
    os.truncate(log, log.stat().st_size - 10)
    with opened(tmp_path) as storage:
        assert len(list(storage.scan(b"", LAST))) == 199


def test_damage_in_a_table_is_found_by_reading(tmp_path: Path) -> None:
    fill(tmp_path)
    with opened(tmp_path):
        pass  # opening sorts the log into a table
    flip(only(tmp_path, "*.ldb"), 100)
    with opened(tmp_path) as storage:
        with pytest.raises(StorageCorrupt):
            storage.get(b"0001")
        with pytest.raises(StorageCorrupt):
            list(storage.scan(b"", LAST))


def test_a_failed_open_holds_no_lock(tmp_path: Path) -> None:
    fill(tmp_path)
    log = only(tmp_path, "*.log")
    flip(log, 1000)
    for _ in range(2):
        with pytest.raises(StorageCorrupt):
            LevelDBStorage().open(tmp_path)
    flip(log, 1000)
    with opened(tmp_path) as storage:
        assert storage.get(b"0199") == b"value" * 20


def test_a_database_without_its_head_is_not_taken_for_a_new_one(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "db" / "CURRENT").unlink()
    with pytest.raises(StorageCorrupt, match="CURRENT"):
        LevelDBStorage().open(tmp_path)
    assert only(tmp_path, "*.log").stat().st_size > 10_000


def test_a_creation_that_a_crash_cut_short_is_taken_up_again(tmp_path: Path) -> None:
    (tmp_path / "COPYCAT").write_text("CopyCat data dir")
    (tmp_path / "db").mkdir()
    (tmp_path / "db" / "MANIFEST-000001").write_text("")
    with opened(tmp_path) as storage:
        assert list(storage.scan(b"", LAST)) == []


def test_the_directory_of_another_storage_is_refused(tmp_path: Path) -> None:
    (tmp_path / "COPYCAT").write_text("CopyCat data directory, layout 1, storage rocksdb\n")
    with pytest.raises(StorageForeign, match="rocksdb"):
        LevelDBStorage().open(tmp_path)


def test_the_root_of_a_fresh_file_system_is_an_empty_directory(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    with opened(tmp_path) as storage:
        assert storage.get(b"k") is None


def test_after_a_failed_write_nothing_more_is_written(tmp_path: Path) -> None:
    with opened(tmp_path) as storage:
        storage.write(WriteBatch([(b"before", b"1")]), sync=True)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        try:
            with pytest.raises(StorageFailed, match=r"write to .*large"):  # "File too large": the disk is full for us
                storage.write(WriteBatch([(b"large", os.urandom(1 << 20))]), sync=True)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        with pytest.raises(StorageFailed, match="earlier write"):
            storage.write(WriteBatch([(b"after", b"2")]), sync=True)
        assert storage.get(b"before") == b"1"
    with opened(tmp_path) as storage:
        assert [key for key, _ in storage.scan(b"", LAST)] == [b"before"]


def test_a_forked_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    storage = LevelDBStorage()
    storage.open(tmp_path)
    reading, writing = os.pipe()
    forked, child_forked = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # LevelDB has a thread; the child does nothing but wait
        child = os.fork()
    if child == 0:
        os.close(writing)
        os.write(child_forked, b"!")
        os.read(reading, 1)  # until the parent closes its end
        os._exit(0)
    try:
        assert os.read(forked, 1) == b"!"
        storage.close()
        with opened(tmp_path) as again:
            assert again.get(b"k") is None
    finally:
        for descriptor in (writing, reading, forked, child_forked):
            os.close(descriptor)
        assert os.waitpid(child, 0)[1] == 0
