"""Every registered storage, and the one that loses unsynced writes, passes the contract suite."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path

import pytest

from copycat.ports import Storage
from copycat.testing.contracts.storage import DiskStorageContract, StorageContract
from copycat.testing.disk import Disk, FaultyStorage

WITHOUT_FILES = {"memory"}
REGISTERED = {entry.name: entry for entry in entry_points(group="copycat.storage")}


def suite(name: str) -> type[StorageContract]:
    base = StorageContract if name in WITHOUT_FILES else DiskStorageContract

    def make(self: StorageContract) -> Storage:
        try:
            storage = REGISTERED[name].load()()
        except ImportError as error:
            pytest.skip(f"storage {name} can't be imported here: {error}")
        assert isinstance(storage, Storage)
        return storage

    return type(f"TestRegistered_{name}", (base,), {"make": make})


for _name in REGISTERED:
    globals()[f"TestRegistered_{_name}"] = suite(_name)


class TestFaultyStorage(StorageContract):
    @pytest.fixture(autouse=True)
    def _one_disk_for_each_test(self, tmp_path: Path) -> None:
        self.disk = Disk()

    def make(self) -> Storage:
        return FaultyStorage(getattr(self, "disk", None))


def test_the_storages_of_this_project_are_registered() -> None:
    assert {"leveldb", "rocksdb", "memory"} <= set(REGISTERED)
