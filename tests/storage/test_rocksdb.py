"""What only RocksDB's edge has: its files, its damage, its full disk, its binding."""

from __future__ import annotations

import os
import random
import resource
import shutil
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from copycat.errors import StorageCorrupt, StorageFailed, StorageForeign
from copycat.ports import WriteBatch

pytest.importorskip("rocksdict", reason="rocksdict is not installed")

from copycat.storage import rocksdb
from copycat.storage.rocksdb import RocksDBStorage

LAST = b"\xff" * 32


@contextmanager
def opened(data_dir: Path) -> Iterator[RocksDBStorage]:
    storage = RocksDBStorage()
    storage.open(data_dir)
    try:
        yield storage
    finally:
        storage.close()


def write_some(storage: RocksDBStorage, count: int = 200) -> None:
    for number in range(count):
        storage.write(WriteBatch([(b"%04d" % number, b"value" * 20)]), sync=False)


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 0xFF
    path.write_bytes(data)


def only(data_dir: Path, pattern: str) -> Path:
    [path] = [path for path in (data_dir / "db").glob(pattern) if path.stat().st_size]
    return path


@pytest.fixture
def crashed(tmp_path: Path) -> Path:
    """The files as a process that wrote 200 pairs and died left them: all in the write-ahead log."""
    with opened(tmp_path / "alive") as storage:
        write_some(storage)
        shutil.copytree(tmp_path / "alive", tmp_path / "crashed", ignore=shutil.ignore_patterns("LOCK"))
    return tmp_path / "crashed"


def test_damage_in_the_write_ahead_log_is_not_swallowed(crashed: Path) -> None:
    log = only(crashed, "*.log")
    flip(log, log.stat().st_size // 2)
    with pytest.raises(StorageCorrupt, match="checksum"):
        RocksDBStorage().open(crashed)


def test_a_write_ahead_log_cut_short_by_a_crash_still_opens(crashed: Path) -> None:
    log = only(crashed, "*.log")
    os.truncate(log, log.stat().st_size - 10)
    with opened(crashed) as storage:
        assert len(list(storage.scan(b"", LAST))) == 199


@pytest.mark.parametrize("sorted_first", [False, True])
def test_a_log_that_lost_what_was_synced_is_refused(tmp_path: Path, sorted_first: bool) -> None:
    with opened(tmp_path / "alive") as storage:
        write_some(storage)
        if sorted_first:
            storage._database.flush()
        storage.write(WriteBatch([(b"synced", b"1" * 50)]), sync=True)
        storage.write(WriteBatch([(b"unsynced", b"2")]), sync=False)
        shutil.copytree(tmp_path / "alive", tmp_path / "crashed", ignore=shutil.ignore_patterns("LOCK"))
    log = only(tmp_path / "crashed", "*.log")
    whole = log.read_bytes()
    os.truncate(log, len(whole) - 10)  # what was not synced may go
    shutil.copytree(tmp_path / "crashed", tmp_path / "again")
    with opened(tmp_path / "again") as storage:
        assert storage.get(b"synced") == b"1" * 50
        assert storage.get(b"unsynced") is None
    os.truncate(log, len(whole) - 60)
    for _ in range(2):
        with pytest.raises(StorageCorrupt, match="lost writes"):
            RocksDBStorage().open(tmp_path / "crashed")


def test_damage_in_a_table_is_found_by_reading(crashed: Path) -> None:
    with opened(crashed):
        pass  # opening sorts the log into a table
    flip(only(crashed, "*.sst"), 100)
    with opened(crashed) as storage:
        with pytest.raises(StorageCorrupt):
            storage.get(b"0001")
        for reverse in (False, True):  # an iterator of the binding would end there as if there were no more
            with pytest.raises(StorageCorrupt):
                list(storage.scan(b"", LAST, reverse))


def test_an_error_that_is_kept_does_not_keep_the_database_open(crashed: Path) -> None:
    with opened(crashed):
        pass
    flip(only(crashed, "*.sst"), 100)
    kept = []
    for _ in range(2):
        with opened(crashed) as storage:
            try:
                list(storage.scan(b"", LAST))
            except StorageCorrupt as error:
                kept.append(error)
    assert len(kept) == 2


def test_a_scan_keeps_its_end_however_much_comes_and_goes_meanwhile(tmp_path: Path) -> None:
    with opened(tmp_path) as storage:
        write_some(storage, 2000)
        begun = []
        for number in range(0, 1000, 5):  # each is more than is read ahead
            begun.append((number, storage.scan(b"%04d" % number, b"%04d" % (number + 700))))
            list(storage.scan(b"0001", b"0002"))
        for number, pairs in begun:
            assert [int(key) for key, _ in pairs] == list(range(number, number + 700))


def test_a_lost_table_is_found_by_opening(crashed: Path) -> None:
    with opened(crashed):
        pass
    only(crashed, "*.sst").unlink()
    with pytest.raises(StorageCorrupt, match="No such file"):
        RocksDBStorage().open(crashed)


def test_a_failed_open_holds_no_lock(crashed: Path) -> None:
    log = only(crashed, "*.log")
    flip(log, 1000)
    for _ in range(2):
        with pytest.raises(StorageCorrupt):
            RocksDBStorage().open(crashed)
    flip(log, 1000)
    with opened(crashed) as storage:
        assert storage.get(b"0199") == b"value" * 20


def test_a_database_without_its_head_is_not_taken_for_a_new_one(crashed: Path) -> None:
    (crashed / "db" / "CURRENT").unlink()
    with pytest.raises(StorageCorrupt, match="CURRENT"):
        RocksDBStorage().open(crashed)
    assert only(crashed, "*.log").stat().st_size > 10_000


def test_a_creation_that_a_crash_cut_short_is_taken_up_again(tmp_path: Path) -> None:
    (tmp_path / "COPYCAT").write_text("CopyCat data dir")
    (tmp_path / "db").mkdir()
    (tmp_path / "db" / "MANIFEST-000001").write_text("")
    (tmp_path / "db" / "rocksdict-config.json").write_text("")
    with opened(tmp_path) as storage:
        assert list(storage.scan(b"", LAST)) == []


def test_the_directory_of_another_storage_is_refused(tmp_path: Path) -> None:
    (tmp_path / "COPYCAT").write_text("CopyCat data directory, layout 1, storage leveldb\n")
    with pytest.raises(StorageForeign, match='storage="leveldb"'):
        RocksDBStorage().open(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["COPYCAT"]


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


def test_a_write_that_has_no_room_yet_waits_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rocksdb, "WRITE_BUFFER_BYTES", 64 << 10)
    waits: list[float] = []
    pause = threading.Event().wait
    monkeypatch.setattr(rocksdb.time, "sleep", lambda seconds: waits.append(seconds) or pause(seconds))
    rng = random.Random(1)
    written = []
    with opened(tmp_path) as storage:
        congested = False
        while not waits or not congested:
            congested = congested or storage.congested()
            assert len(written) < 5_000, "RocksDB never was too busy"
            written.append((b"%06d" % len(written), rng.randbytes(60_000)))
            storage.write(WriteBatch([written[-1]]), sync=False)
        assert list(storage.scan(b"", LAST)) == written
    assert not storage.congested()


_TRACED = """
import pathlib, sys
from copycat.ports import WriteBatch
from copycat.storage.rocksdb import RocksDBStorage
storage = RocksDBStorage()
storage.open(pathlib.Path(sys.argv[1]))
for number in range(20):
    storage.write(WriteBatch([(b"%d" % number, b"v")]), sync=sys.argv[2] == "sync")
import os
os._exit(0)
"""


def test_a_synced_write_is_synced_once_and_another_never(tmp_path: Path) -> None:
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    counts = {}
    for how in ("sync", "not"):
        log = tmp_path / f"{how}.trace"
        command = [strace, "-f", "-e", "trace=fdatasync,fsync", "-o", str(log)]
        ran = subprocess.run([*command, sys.executable, "-c", _TRACED, str(tmp_path / how), how], capture_output=True)
        if ran.returncode != 0 and b"ptrace" in ran.stderr:
            pytest.skip("strace may not trace here")
        assert ran.returncode == 0, ran.stderr
        counts[how] = sum(line.endswith("= 0") for line in log.read_text().splitlines())
    assert 20 <= counts["sync"] - counts["not"] <= 22  # the log's directory is synced once, too


def test_a_forked_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    storage = RocksDBStorage()
    storage.open(tmp_path)
    reading, writing = os.pipe()
    forked, child_forked = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # RocksDB has threads; the child does nothing but wait
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
