"""The disk that loses what was not synced."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from copycat.errors import StorageFailed
from copycat.ports import WriteBatch
from copycat.testing.disk import UNSYNCED_BATCHES_MAX, Disk, FaultyStorage

HERE = Path("unused")


def opened(disk: Disk) -> FaultyStorage:
    storage = FaultyStorage(disk)
    storage.open(HERE)
    return storage


def write(storage: FaultyStorage, number: int, sync: bool) -> None:
    batch = WriteBatch([(b"same", b"%d" % number), (b"%04d" % number, b"v")])
    batch.delete(b"%04d" % (number - 2))
    storage.write(batch, sync)


def test_a_crash_loses_what_was_not_synced_and_nothing_else() -> None:
    disk = Disk()
    storage = opened(disk)
    for number in range(5):
        write(storage, number, sync=number == 2)
    disk.crash()
    assert opened(disk).get(b"same") == b"2"
    assert disk.pairs() == [(b"0001", b"v"), (b"0002", b"v"), (b"same", b"2")]
    assert disk.bytes_used == sum(len(key) + len(value) for key, value in disk.pairs())


def test_a_crash_may_keep_a_prefix_of_it() -> None:
    kept = set()
    for seed in range(40):
        disk = Disk(random.Random(seed))
        storage = opened(disk)
        for number in range(5):
            write(storage, number, sync=number == 2)
        survived = disk.crash()
        assert opened(disk).get(b"same") == b"%d" % (2 + survived), f"seed {seed}"
        kept.add(survived)
    assert kept == {0, 1, 2}


def test_a_crash_cuts_the_opener_off() -> None:
    disk = Disk()
    storage = opened(disk)
    write(storage, 1, sync=True)
    scan = storage.scan(b"", b"\xff")
    disk.crash()
    with pytest.raises(StorageFailed):
        storage.get(b"same")
    with pytest.raises(StorageFailed):
        list(scan)
    again = opened(disk)
    storage.close()  # of the dead process: does not close the new one
    assert again.get(b"same") == b"1"


def test_a_failed_write_leaves_nothing_and_a_failed_sync_leaves_doubt() -> None:
    disk = Disk()
    storage = opened(disk)
    write(storage, 1, sync=True)
    disk.fail_write(2)
    write(storage, 2, sync=True)
    with pytest.raises(StorageFailed):
        write(storage, 3, sync=True)
    assert storage.get(b"same") == b"2"
    disk.fail_sync()
    with pytest.raises(StorageFailed):
        write(storage, 4, sync=True)
    assert storage.get(b"same") == b"4"
    disk.crash()
    assert opened(disk).get(b"same") == b"2"


def test_a_full_disk_refuses_what_does_not_fit_and_takes_deletions() -> None:
    disk = Disk()
    storage = opened(disk)
    disk.bytes_max = 100
    storage.write(WriteBatch([(b"a", b"x" * 90)]), sync=True)
    with pytest.raises(StorageFailed, match="no space"):
        storage.write(WriteBatch([(b"b", b"x" * 90)]), sync=True)
    assert disk.pairs() == [(b"a", b"x" * 90)]
    storage.write(WriteBatch([(b"a", None), (b"b", b"x" * 90)]), sync=True)
    assert disk.bytes_used == 91


def test_the_hook_sees_every_operation_before_it_happens() -> None:
    disk = Disk()
    seen: list[str] = []
    disk.before = seen.append
    storage = opened(disk)
    write(storage, 1, sync=True)
    write(storage, 2, sync=False)
    storage.get(b"same")
    list(storage.scan(b"", b"\xff"))
    assert seen == ["open", "write", "sync", "write", "get", "scan"]


def test_rot_flips_one_bit_and_drop_loses_one_record() -> None:
    disk = Disk()
    storage = opened(disk)
    storage.write(WriteBatch([(b"k", b"\x00\x00"), (b"l", b"")]), sync=True)
    disk.rot(b"k", 9)
    disk.drop(b"l")
    disk.crash()
    assert disk.pairs() == [(b"k", b"\x00\x02")]
    with pytest.raises(KeyError):
        disk.rot(b"l", 0)


def test_unsynced_batches_are_bounded() -> None:
    disk = Disk()
    storage = opened(disk)
    for number in range(UNSYNCED_BATCHES_MAX + 10):
        write(storage, number, sync=False)
    assert disk.unsynced_batches == UNSYNCED_BATCHES_MAX
    disk.crash()
    assert opened(disk).get(b"same") == b"9"
