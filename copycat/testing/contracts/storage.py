"""What :class:`copycat.ports.Storage` promises, as tests.

An author of a storage writes in a test module::

    class TestMyStorage(DiskStorageContract):
        def make(self):
            return MyStorage()

``StorageContract`` holds for every storage; ``DiskStorageContract`` adds what only one with files can show: permissions,
foreign directories, and what another process sees (there the class is constructed without arguments, as the registry does).
"""

from __future__ import annotations

import random
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from copycat.errors import CopyCatError, StorageFailed, StorageForeign, StorageLocked
from copycat.ports import Storage, WriteBatch

FIRST = b""
LAST = b"\xff" * 32
DEADLINE_S = 30.0

Pairs = list[tuple[bytes, bytes]]


def batch_of(*operations: tuple[bytes, bytes | None]) -> WriteBatch:
    return WriteBatch(list(operations))


class StorageContract:
    """Each test opens what :meth:`make` returns in a directory of its own."""

    def make(self) -> Storage:
        """A new instance that is not open. Instances opened on one directory, one after the other, see the same data."""
        raise NotImplementedError

    @contextmanager
    def opened(self, data_dir: Path) -> Iterator[Storage]:
        storage = self.make()
        storage.open(data_dir)
        try:
            yield storage
        finally:
            storage.close()

    # --- open and close -------------------------------------------------------------------------------------------

    def test_it_satisfies_the_protocol(self) -> None:
        assert isinstance(self.make(), Storage)

    def test_a_new_directory_is_empty(self, tmp_path: Path) -> None:
        with self.opened(tmp_path / "new" / "data") as storage:
            assert list(storage.scan(FIRST, LAST)) == []
            assert storage.get(b"k") is None

    @pytest.mark.parametrize("sync", [True, False])
    def test_what_was_written_is_there_after_reopening(self, tmp_path: Path, sync: bool) -> None:
        with self.opened(tmp_path / "data") as storage:
            storage.write(batch_of((b"a", b"1"), (b"b", b"2"), (b"c", b"3")), sync)
            storage.write(batch_of((b"b", None)), sync)
        with self.opened(tmp_path / "data") as storage:
            assert list(storage.scan(FIRST, LAST)) == [(b"a", b"1"), (b"c", b"3")]

    def test_one_instance_may_be_closed_and_opened_again(self, tmp_path: Path) -> None:
        storage = self.make()
        for round_ in range(3):
            storage.open(tmp_path / "data")
            assert len(list(storage.scan(FIRST, LAST))) == round_
            storage.write(batch_of((b"%d" % round_, b"")), sync=True)
            storage.close()

    def test_a_second_instance_is_refused_until_the_first_is_closed(self, tmp_path: Path) -> None:
        second = self.make()
        with self.opened(tmp_path / "data") as first:
            with pytest.raises(StorageLocked, match=r".{20}"):
                second.open(tmp_path / "data")
            first.write(batch_of((b"k", b"v")), sync=True)  # the refused attempt did no harm
            assert first.get(b"k") == b"v"
        second.open(tmp_path / "data")
        assert second.get(b"k") == b"v"
        second.close()

    def test_an_open_instance_can_not_be_opened_again(self, tmp_path: Path) -> None:
        with self.opened(tmp_path / "data") as storage:
            with pytest.raises(StorageLocked):
                storage.open(tmp_path / "data")
            assert storage.get(b"k") is None

    def test_close_may_be_called_twice_and_before_open(self, tmp_path: Path) -> None:
        storage = self.make()
        storage.close()
        storage.open(tmp_path / "data")
        storage.close()
        storage.close()

    def test_nothing_works_after_close(self, tmp_path: Path) -> None:
        storage = self.make()
        storage.open(tmp_path / "data")
        storage.write(WriteBatch([(b"%04d" % number, b"v" * 100) for number in range(2000)]), sync=True)
        begun = storage.scan(FIRST, LAST)
        next(begun)
        untouched = storage.scan(FIRST, LAST)
        storage.close()
        with pytest.raises(StorageFailed, match="closed"):
            storage.get(b"0001")
        with pytest.raises(StorageFailed, match="closed"):
            storage.write(batch_of((b"k", b"v")), sync=False)
        with pytest.raises(StorageFailed, match="closed"):
            storage.scan(FIRST, LAST)
        with pytest.raises(StorageFailed, match="closed"):
            list(begun)
        with pytest.raises(StorageFailed, match="closed"):
            list(untouched)

    # --- values and batches ---------------------------------------------------------------------------------------

    def test_values_come_back_as_they_were(self, tmp_path: Path) -> None:
        values = [b"", b"\x00", b"\x00\xff" * 10, random.Random(1).randbytes(1 << 20)]
        pairs = [(b"key%d\x00\xff" % number, value) for number, value in enumerate(values)]
        with self.opened(tmp_path / "data") as storage:
            storage.write(WriteBatch(list(pairs)), sync=True)
            assert [storage.get(key) for key, _ in pairs] == values
            assert list(storage.scan(FIRST, LAST)) == pairs
        with self.opened(tmp_path / "data") as storage:
            assert list(storage.scan(FIRST, LAST)) == pairs

    def test_an_empty_value_is_not_an_absent_one(self, tmp_path: Path) -> None:
        with self.opened(tmp_path / "data") as storage:
            storage.write(batch_of((b"empty", b"")), sync=True)
            assert storage.get(b"empty") == b""
            assert storage.get(b"absent") is None

    def test_a_scan_passes_many_large_values(self, tmp_path: Path) -> None:
        rng = random.Random(2)
        pairs = [(b"%02d" % number, rng.randbytes(1 << 20)) for number in range(8)]
        with self.opened(tmp_path / "data") as storage:
            for pair in pairs:
                storage.write(batch_of(pair), sync=False)
            assert list(storage.scan(FIRST, LAST, reverse=True)) == pairs[::-1]

    def test_the_later_operation_of_a_batch_wins(self, tmp_path: Path) -> None:
        with self.opened(tmp_path / "data") as storage:
            storage.write(
                batch_of((b"a", b"1"), (b"a", b"2"), (b"b", b"1"), (b"b", None), (b"c", None), (b"c", b"3")), sync=True
            )
            assert list(storage.scan(FIRST, LAST)) == [(b"a", b"2"), (b"c", b"3")]

    def test_deleting_what_is_absent_does_nothing(self, tmp_path: Path) -> None:
        with self.opened(tmp_path / "data") as storage:
            storage.write(batch_of((b"a", None)), sync=True)
            storage.write(WriteBatch(), sync=True)
            assert list(storage.scan(FIRST, LAST)) == []

    def test_a_batch_is_not_changed_by_writing_it(self, tmp_path: Path) -> None:
        batch = batch_of((b"a", b"1"), (b"b", None))
        with self.opened(tmp_path / "data") as storage:
            storage.write(batch, sync=True)
            batch.put(b"c", b"3")  # nor does changing it later reach back
            assert batch.operations == [(b"a", b"1"), (b"b", None), (b"c", b"3")]
            assert storage.get(b"c") is None

    def test_random_batches_match_a_dict(self, tmp_path: Path) -> None:
        rng = random.Random(3)
        twin: dict[bytes, bytes] = {}
        for _ in range(4):
            with self.opened(tmp_path / "data") as storage:
                for _ in range(25):
                    batch = WriteBatch()
                    for _ in range(rng.randint(0, 40)):
                        key = rng.randbytes(rng.randint(1, 2))
                        if rng.random() < 0.3:
                            batch.delete(key)
                            twin.pop(key, None)
                        else:
                            value = rng.randbytes(rng.randint(0, 50))
                            batch.put(key, value)
                            twin[key] = value
                    storage.write(batch, sync=rng.random() < 0.2)
                    start, stop = sorted(rng.randbytes(1) for _ in range(2))
                    expected = sorted(pair for pair in twin.items() if start <= pair[0] < stop)
                    assert list(storage.scan(start, stop)) == expected
                    assert list(storage.scan(start, stop, reverse=True)) == expected[::-1]
                assert list(storage.scan(FIRST, LAST)) == sorted(twin.items())

    # --- scan -----------------------------------------------------------------------------------------------------

    def test_keys_are_ordered_as_unsigned_bytes(self, tmp_path: Path) -> None:
        keys = [
            b"\x00",
            b"\x00\x00",
            b"\x00\x01",
            b"\x01",
            b"a",
            b"a\x00",
            b"aa",
            b"b",
            b"\x7f",
            b"\x80",
            b"\xff",
            b"\xff\xff",
        ]
        shuffled = list(keys)
        random.Random(4).shuffle(shuffled)
        with self.opened(tmp_path / "data") as storage:
            for key in shuffled:
                storage.write(batch_of((key, key)), sync=False)
            assert [key for key, _ in storage.scan(FIRST, LAST)] == sorted(keys)
            assert [key for key, _ in storage.scan(FIRST, LAST, reverse=True)] == sorted(keys, reverse=True)

    @pytest.mark.parametrize("reverse", [False, True])
    @pytest.mark.parametrize(
        ("start", "stop", "expected"),
        [
            (b"b", b"d", [b"b", b"c"]),
            (b"b", b"d\x00", [b"b", b"c", b"d"]),
            (b"b\x00", b"d", [b"c"]),
            (b"", b"b", [b"a"]),
            (b"d", LAST, [b"d", b"e"]),
            (b"bb", b"bc", []),
            (b"x", b"y", []),
            (b"", b"a", []),
            (b"c", b"c", []),
            (b"d", b"b", []),
        ],
    )
    def test_a_scan_has_its_start_and_not_its_stop(
        self, tmp_path: Path, start: bytes, stop: bytes, expected: list[bytes], reverse: bool
    ) -> None:
        with self.opened(tmp_path / "data") as storage:
            storage.write(WriteBatch([(bytes([letter]), b"") for letter in b"abcde"]), sync=True)
            found = [key for key, _ in storage.scan(start, stop, reverse)]
            assert found == (expected[::-1] if reverse else expected)

    @pytest.mark.parametrize("reverse", [False, True])
    def test_a_scan_sees_the_moment_of_its_call(self, tmp_path: Path, reverse: bool) -> None:
        pairs = [(b"%05d" % number, b"old" * 50) for number in range(0, 4000, 2)]
        expected = pairs[::-1] if reverse else pairs
        with self.opened(tmp_path / "data") as storage:
            storage.write(WriteBatch(list(pairs)), sync=True)
            not_begun = storage.scan(FIRST, LAST, reverse)
            begun = storage.scan(FIRST, LAST, reverse)
            first = next(begun)
            change = WriteBatch()
            for number in range(4000):
                change.put(b"%05d" % number, b"new")
            change.delete(pairs[0][0])
            change.delete(pairs[-1][0])
            storage.write(change, sync=True)
            assert [first, *begun] == expected
            assert list(not_begun) == expected
            assert len(list(storage.scan(FIRST, LAST, reverse))) == 4000 - 2

    def test_an_abandoned_scan_does_no_harm(self, tmp_path: Path) -> None:
        with self.opened(tmp_path / "data") as storage:
            storage.write(WriteBatch([(b"%05d" % number, b"v" * 100) for number in range(2000)]), sync=True)
            for _ in range(10):
                for _pair in storage.scan(FIRST, LAST):
                    break
                storage.scan(FIRST, LAST)
            assert len(list(storage.scan(FIRST, LAST))) == 2000

    # --- threads --------------------------------------------------------------------------------------------------

    def test_readers_see_each_batch_whole(self, tmp_path: Path) -> None:
        keys = [b"a", b"m", b"z"]
        torn: list[object] = []
        counts = [0, 0]
        stop = threading.Event()

        def read(storage: Storage, place: int) -> None:
            try:
                while not stop.is_set():
                    values = {value for _, value in storage.scan(FIRST, LAST)}
                    if len(values) != 1:
                        torn.append(values)
                    first, last = storage.get(keys[0]), storage.get(keys[2])
                    if first is None or last is None or int(last) < int(first):  # read later, so never older
                        torn.append((first, last))
                    counts[place] += 1
            except CopyCatError as error:
                torn.append(error)

        with self.opened(tmp_path / "data") as storage:
            storage.write(WriteBatch([(key, b"0") for key in keys]), sync=True)
            threads = [threading.Thread(target=read, args=(storage, place)) for place in range(2)]
            for thread in threads:
                thread.start()
            try:
                number = 0
                while not torn and number < 100_000 and (number < 500 or min(counts) < 100):
                    number += 1
                    storage.write(WriteBatch([(key, b"%d" % number) for key in keys]), sync=False)
            finally:
                stop.set()
                for thread in threads:
                    thread.join(DEADLINE_S)
            assert torn == []
            assert min(counts) >= 100, "the readers were starved"

    def test_close_while_others_read_ends_them_cleanly(self, tmp_path: Path) -> None:
        reading = threading.Barrier(3)
        ends: list[BaseException] = []

        def read(storage: Storage) -> None:
            reading.wait(DEADLINE_S)
            try:
                while True:
                    for _ in storage.scan(FIRST, LAST):
                        pass
                    storage.get(b"00001")
            except BaseException as error:
                ends.append(error)

        storage = self.make()
        storage.open(tmp_path / "data")
        storage.write(WriteBatch([(b"%05d" % number, b"v" * 100) for number in range(3000)]), sync=True)
        threads = [threading.Thread(target=read, args=(storage,), daemon=True) for _ in range(2)]
        for thread in threads:
            thread.start()
        reading.wait(DEADLINE_S)
        storage.close()
        for thread in threads:
            thread.join(DEADLINE_S)
            assert not thread.is_alive()
        assert [type(error) for error in ends] == [StorageFailed, StorageFailed]


class DiskStorageContract(StorageContract):
    """A storage that keeps files in its data directory."""

    def test_the_directory_is_its_owners_alone(self, tmp_path: Path) -> None:
        with self.opened(tmp_path / "deep" / "data"):
            pass
        created = tmp_path / "deep" / "data"
        directories = [created, *(path for path in created.rglob("*") if path.is_dir())]
        assert {stat.S_IMODE(path.stat().st_mode) for path in directories} == {0o700}

    def test_a_directory_of_something_else_is_refused_and_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.txt").write_text("four years of work")
        with pytest.raises(StorageForeign, match=tmp_path.name):
            self.make().open(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]

    def test_a_file_in_place_of_the_directory_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "data").write_text("")
        with pytest.raises(StorageForeign, match="data"):
            self.make().open(tmp_path / "data")

    def test_a_directory_that_can_not_be_made_is_a_failure(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(StorageFailed, match="file"):
            self.make().open(tmp_path / "file" / "data")

    def test_another_path_to_the_same_directory_is_locked_too(self, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(tmp_path / "data")
        with self.opened(tmp_path / "data"), pytest.raises(StorageLocked, match="link"):
            self.make().open(tmp_path / "link")

    def test_another_process_holds_the_lock_and_its_death_frees_it(self, tmp_path: Path) -> None:
        kind = type(self.make())
        command = [sys.executable, "-c", _HOLDER, kind.__module__, kind.__qualname__, str(tmp_path / "data")]
        holder = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE)  # noqa: S603
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"written\n"
            with pytest.raises(StorageLocked, match="data"):
                self.make().open(tmp_path / "data")
        finally:
            holder.kill()
            holder.communicate(timeout=DEADLINE_S)
        with self.opened(tmp_path / "data") as storage:  # and what it wrote is there, synced or not
            assert list(storage.scan(FIRST, LAST)) == [(b"synced", b"1"), (b"unsynced", b"2")]


_HOLDER = """
import importlib, pathlib, sys
from copycat.ports import WriteBatch
module, name, data_dir = sys.argv[1:]
storage = getattr(importlib.import_module(module), name)()
storage.open(pathlib.Path(data_dir))
storage.write(WriteBatch([(b"synced", b"1")]), sync=True)
storage.write(WriteBatch([(b"unsynced", b"2")]), sync=False)
print("written", flush=True)
sys.stdin.read()  # never ends: this process is killed
"""
