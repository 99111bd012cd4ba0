"""A node's own records: made once, checked at every start."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from copycat import ids, keys
from copycat.config import Config
from copycat.errors import StorageCorrupt, StorageFailed, StorageForeign, StorageLocked, StorageVersion
from copycat.messages import ConfState
from copycat.nodestore import NodeStore
from copycat.ports import WriteBatch
from copycat.records import ReplicaRecord, seal, seal_record
from copycat.registry import make_storage
from copycat.replicastore import ReplicaStore
from copycat.testing.disk import Disk, FaultyStorage

HERE = Path("unused")


class Ids:
    def __init__(self) -> None:
        self.made: list[str] = []

    def __call__(self) -> str:
        self.made.append(str(ids.new_id(random.Random(len(self.made)), now_ms=1)))
        return self.made[-1]


def start(disk: Disk, label: str = "here", new_id: Ids | None = None) -> NodeStore:
    return NodeStore.open(FaultyStorage(disk), HERE, label, new_id or Ids())


def overwrite(disk: Disk, key: bytes, value: bytes) -> None:
    storage = FaultyStorage(disk)
    storage.open(HERE)
    storage.write(WriteBatch([(key, value)]), sync=True)
    storage.close()


def test_the_id_is_made_once_and_survives_a_crash_right_after() -> None:
    disk, new_id = Disk(), Ids()
    node_id = start(disk, new_id=new_id).node_id
    disk.crash()
    again = start(disk, new_id=new_id)
    assert again.node_id == node_id
    assert new_id.made == [node_id]
    assert len(node_id) == 26


def test_the_id_survives_on_disk(tmp_path: Path) -> None:
    new_id = Ids()
    for _ in range(3):
        node = NodeStore.open(make_storage(Config.storage), tmp_path / "data", "here", new_id)
        assert node.node_id == new_id.made[0]
        node.close()
        node.close()
    assert len(new_id.made) == 1


def test_a_crash_while_the_database_is_created_leaves_a_new_or_a_whole_one() -> None:
    disk, new_id = Disk(), Ids()
    disk.fail_sync()
    with pytest.raises(StorageFailed):
        start(disk, new_id=new_id)
    disk.crash()
    assert disk.pairs() == []
    assert start(disk, new_id=new_id).node_id == new_id.made[1]


def test_another_clusters_directory_is_refused_and_closed_again() -> None:
    disk = Disk()
    start(disk, "theirs").close()
    for _ in range(2):  # the second attempt isn't locked out by the first
        with pytest.raises(StorageForeign, match=r"'theirs'.*'here'"):
            start(disk, "here")
    start(disk, "theirs")


def test_an_open_directory_is_locked_and_stays_open() -> None:
    disk = Disk()
    node = start(disk)
    with pytest.raises(StorageLocked):
        start(disk)
    assert node.get("anything") is None


def test_an_unknown_format_is_refused() -> None:
    disk = Disk()
    start(disk).close()
    overwrite(disk, keys.FORMAT_KEY, seal(keys.FORMAT_KEY, b"2"))
    with pytest.raises(StorageVersion, match="'2'"):
        start(disk)


def test_a_database_of_something_else_is_refused() -> None:
    disk = Disk()
    overwrite(disk, b"user:1", b"Ann")
    with pytest.raises(StorageForeign):
        start(disk)
    assert disk.pairs() == [(b"user:1", b"Ann")]


@pytest.mark.parametrize("key", [keys.FORMAT_KEY, keys.LABEL_KEY, keys.NODE_ID_KEY])
def test_a_lost_or_damaged_record_is_not_made_anew(key: bytes) -> None:
    disk, new_id = Disk(), Ids()
    start(disk, new_id=new_id).close()
    disk.rot(key, 40)
    with pytest.raises(StorageCorrupt, match=key.hex()):
        start(disk, new_id=new_id)
    disk.drop(key)
    with pytest.raises(StorageCorrupt, match=key.hex()):
        start(disk, new_id=new_id)
    assert len(new_id.made) == 1


def test_small_records_come_back_and_go() -> None:
    disk = Disk()
    node = start(disk)
    batch = WriteBatch()
    node.stage_put(batch, "members", b"\x00\xff")
    node.stage_put(batch, "empty", b"")
    node.storage.write(batch, sync=True)
    node.close()
    node = start(disk)
    assert (node.get("members"), node.get("empty"), node.get("absent")) == (b"\x00\xff", b"", None)
    batch = WriteBatch()
    node.stage_delete(batch, "members")
    node.storage.write(batch, sync=True)
    assert node.get("members") is None
    disk.rot(keys.node_key("empty"), 0)
    with pytest.raises(StorageCorrupt):
        node.get("empty")


def test_records_are_found_by_the_beginning_of_their_names() -> None:
    node = start(Disk())
    batch = WriteBatch()
    for name in ("vote/b", "vote/a", "vote", "votes", "vote/\u00fc"):
        node.stage_put(batch, name, name.encode())
    node.storage.write(batch, sync=True)
    assert list(node.scan("vote/")) == [(name, name.encode()) for name in ("vote/a", "vote/b", "vote/\u00fc")]
    assert list(node.scan("absent")) == []


def test_its_own_records_are_not_anyones_to_write() -> None:
    node = start(Disk())
    with pytest.raises(ValueError, match="once"):
        node.stage_put(WriteBatch(), "node-id", b"another")
    with pytest.raises(ValueError, match="once"):
        node.stage_delete(WriteBatch(), "cluster-label")


def test_all_replicas_are_listed_whatever_lies_between_them() -> None:
    disk = Disk()
    node = start(disk)
    expected = {}
    for number in (0, 3, 255):
        group_id = bytes([number]) * 16
        batch = WriteBatch()
        record = ReplicaRecord(number + 1, b"genesis", ConfState(voters=(1, 2)))
        ReplicaStore.create(node.storage, group_id, record, batch)
        node.storage.write(batch, sync=True)
        expected[group_id] = record
    assert dict(node.replicas()) == expected
    key = keys.replica_key(b"\x03" * 16)
    disk.rot(key, 50)
    with pytest.raises(StorageCorrupt, match=key.hex()):
        list(node.replicas())


def test_a_record_that_is_no_replica_is_damage() -> None:
    disk = Disk()
    node = start(disk)
    key = keys.replica_key(bytes(16))
    node.storage.write(WriteBatch([(key, seal_record(key, ConfState()))]), sync=True)
    with pytest.raises(StorageCorrupt, match="ReplicaRecord"):
        list(node.replicas())
