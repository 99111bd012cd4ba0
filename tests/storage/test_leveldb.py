"""What only LevelDB's edge has: its files, its damage, its full disk."""

from __future__ import annotations

import os
import random
import resource
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from copycat.errors import StorageCorrupt, StorageFailed, StorageForeign
from copycat.ports import WriteBatch

pytest.importorskip("plyvel", reason="plyvel is not installed")

from copycat.storage.leveldb import LevelDBStorage
from copycat.storage.watermark import NUMBER_KEY

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


def test_a_write_ahead_log_whose_unsynced_end_a_crash_took_still_opens(tmp_path: Path) -> None:
    fill(tmp_path)
    log = only(tmp_path, "*.log")
    os.truncate(log, log.stat().st_size - 10)
    with opened(tmp_path) as storage:
        assert len(list(storage.scan(b"", LAST))) == 199


def test_damage_in_a_table_is_found_by_reading(tmp_path: Path) -> None:
    fill(tmp_path)
    with opened(tmp_path):
        pass  # opening sorts the log into a table
    table = only(tmp_path, "*.ldb")
    flip(table, table.stat().st_size // 2)  # the first of its blocks is read when it opens
    with opened(tmp_path) as storage:
        with pytest.raises(StorageCorrupt):
            [storage.get(b"%04d" % number) for number in range(200)]
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
    with pytest.raises(StorageForeign, match='storage="rocksdb"'):
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


def synced(data_dir: Path, count: int = 12) -> list[tuple[bytes, bytes]]:
    """Synced one by one; what must be found again, or missed loudly."""
    pairs = [(b"%04d" % number, b"value-%02d" % number) for number in range(count)]
    with opened(data_dir) as storage:
        for pair in pairs:
            storage.write(WriteBatch([pair]), sync=True)
    return pairs


def found_or_refused(data_dir: Path, pairs: list[tuple[bytes, bytes]]) -> bool:
    """Whether it was refused; raises if something else was found than what was synced."""
    try:
        with opened(data_dir) as storage:
            found = list(storage.scan(b"", LAST))
    except (StorageCorrupt, StorageFailed):
        return True
    assert found == pairs, "synced writes are gone, and nobody said so"
    return False


@pytest.mark.parametrize("tables", [False, True], ids=["log", "tables"])
def test_whichever_file_is_cut_or_damaged_nothing_synced_is_lost_in_silence(tmp_path: Path, tables: bool) -> None:
    sound = tmp_path / "sound"
    pairs = synced(sound)
    if tables:
        with opened(sound):
            pass
    rng = random.Random(6)
    refused = 0
    files = [
        path for path in sorted((sound / "db").iterdir()) if path.stat().st_size and not path.name.startswith("LO")
    ]
    assert len(files) == 3, files
    for path in files:
        size = path.stat().st_size
        for number in range(16):
            copy = tmp_path / "copy"
            shutil.copytree(sound, copy)
            damaged = copy / "db" / path.name
            if number < 8:
                os.truncate(damaged, rng.randrange(size))
            else:
                flip(damaged, rng.randrange(size))
            refused += found_or_refused(copy, pairs)
            shutil.rmtree(copy)
    assert refused >= 40, "some places of a table mean nothing, but most do"


def test_a_log_cut_off_between_two_writes_is_missed_and_so_is_a_length_that_reaches_too_far(tmp_path: Path) -> None:
    """What LevelDB itself takes for the end that a crash left."""
    for name, cut in (("cut", True), ("length", False)):
        synced(tmp_path / name)
        log = only(tmp_path / name, "*.log")
        whole = log.read_bytes()
        last = len(whole) * 11 // 12  # all records are of one length
        assert whole[last + 6] == 1, "the type of a whole record"
        log.write_bytes(whole[:last] if cut else whole[: last + 5] + b"\x7f" + whole[last + 6 :])
        for _ in range(2):
            with pytest.raises(StorageCorrupt, match="lost writes"):
                LevelDBStorage().open(tmp_path / name)


def test_after_a_power_failure_the_watermark_may_be_old_or_gone(tmp_path: Path) -> None:
    pairs = synced(tmp_path)
    for content in (b"", bytes(12), None):
        if content is None:
            (tmp_path / "synced").unlink()
        else:
            (tmp_path / "synced").write_bytes(content)
        assert not found_or_refused(tmp_path, pairs)
    with opened(tmp_path) as storage:
        storage.write(WriteBatch([(b"more", b"")]), sync=True)
        held = (tmp_path / "synced").read_bytes()
        storage.write(WriteBatch([(b"unsynced", b"")]), sync=False)
        assert (tmp_path / "synced").read_bytes() == held
    (tmp_path / "synced").write_bytes(held[:-1] + bytes([held[-1] ^ 1]))
    with pytest.raises(StorageCorrupt, match="synced is damaged"):
        LevelDBStorage().open(tmp_path)


def test_the_number_of_the_last_write_is_nobody_elses_business(tmp_path: Path) -> None:
    with opened(tmp_path) as storage:
        storage.write(WriteBatch([(b"\x00", b"first"), (b"\x01", b"second")]), sync=True)
        assert storage.get(NUMBER_KEY) is None
        assert [key for key, _ in storage.scan(b"", LAST)] == [b"\x00", b"\x01"]
        assert [key for key, _ in storage.scan(b"", LAST, reverse=True)] == [b"\x01", b"\x00"]
        assert list(storage.scan(NUMBER_KEY, b"\x01")) == []


def test_what_was_written_with_compression_is_read_without_it_and_the_other_way_round(tmp_path: Path) -> None:
    value = b"repetition " * 10_000
    sizes = []
    for number, compress in enumerate((True, False)):
        storage = LevelDBStorage(compress)
        storage.open(tmp_path)
        assert [storage.get(b"%d" % each) for each in range(number)] == [value] * number
        batch = WriteBatch()
        batch.put(b"%d" % number, value)
        storage.write(batch, sync=True)
        storage._database.compact_range()
        sizes.append(sum(path.stat().st_size for path in tmp_path.rglob("*.ldb")))
        storage.close()
    assert sizes[0] < len(value) < sizes[1]
    with opened(tmp_path) as storage:
        assert [storage.get(b"%d" % each) for each in range(2)] == [value] * 2
