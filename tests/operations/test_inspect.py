"""Looking into a stopped node's data directory: what is whole is told, and what is damaged is found, wherever it lies."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from copycat import keys
from copycat.cli.commands import root
from copycat.cli.inspect import EXIT_DAMAGED
from copycat.errors import CopyCatError, StorageLocked, UsageError
from copycat.keys import place_of_chunk_key
from copycat.ports import WriteBatch
from copycat.records import SnapshotMeta, unseal_record
from copycat.registry import make_storage
from copycat.testing.nodes import PATIENCE_S, ListCopy, NodeCluster, wait_until


def inspect(data_dir: Path, *arguments: str) -> tuple[int, Any]:
    done = CliRunner().invoke(
        root, ["inspect", "--json", "--data-dir", str(data_dir), *arguments], standalone_mode=False
    )
    if done.exception is not None:
        raise done.exception
    return done.return_value or 0, json.loads(done.stdout)


@pytest.fixture
def stopped(cluster: NodeCluster) -> tuple[Path, str]:
    """The directory of a node with a group of 60 items and a snapshot, and the group's id."""
    (node,) = cluster.start(1, snapshot_log_entries=20, leave_timeout_s=1.0)
    group = cluster.group(node, replicas=1)
    copy = ListCopy(node, group)
    for number in range(60):
        copy.sub.propose.submit(b"%d" % number).result(PATIENCE_S)
    wait_until(lambda: node.groups()[group].snapshot_position > 0, "a snapshot")
    cluster.stop(node)
    return Path(node.config.data_dir), str(group)


def test_what_is_whole_is_told(stopped: tuple[Path, str]) -> None:
    data_dir, group = stopped
    code, found = inspect(data_dir)
    assert code == 0
    assert found["damaged"] == []
    assert found["cluster_label"] == "copycat"
    (replica,) = found["groups"]
    assert replica["id"] == group
    assert replica["whole"]
    assert replica["position"] == 60
    assert replica["snapshot"]["index"] > 0
    assert [member["node_id"] for member in replica["members"]] == [found["node_id"]]
    assert [member["role"] for member in replica["members"]] == ["voter"]
    assert inspect(data_dir, "--quick")[0] == 0


def test_looking_changes_nothing(stopped: tuple[Path, str]) -> None:
    data_dir, _ = stopped
    before = contents(data_dir)
    inspect(data_dir)
    assert contents(data_dir) == before


def contents(data_dir: Path) -> list[tuple[bytes, bytes]]:
    storage = make_storage("leveldb")
    storage.open(data_dir)
    try:
        return list(storage.scan(b"", b"\xff" * 32))
    finally:
        storage.close()


def change(data_dir: Path, at: Callable[[bytes], bool], to: Callable[[bytes], bytes | None]) -> None:
    """Another value for one record, by the storage itself, so that only CopyCat's own checksums can notice.

    Chunks of an earlier snapshot may still lie there as waste; nobody reads those.
    """
    found = contents(data_dir)
    (meta,) = [unseal_record(key, value, SnapshotMeta) for key, value in found if kind_of(key) == 2]

    def is_used(key: bytes) -> bool:
        return kind_of(key) != 5 or place_of_chunk_key(key).generation == meta.generation

    key, value = random.choice([(key, value) for key, value in found if at(key) and is_used(key)])
    changed = to(value)
    batch = WriteBatch()
    batch.delete(key) if changed is None else batch.put(key, changed)
    storage = make_storage("leveldb")
    storage.open(data_dir)
    try:
        storage.write(batch, sync=True)
    finally:
        storage.close()


def flip(value: bytes) -> bytes:
    at = random.randrange(len(value))
    return value[:at] + bytes([value[at] ^ 1]) + value[at + 1 :]


def kind_of(key: bytes) -> int:
    return key[17] if key[:1] == keys.GROUP else 0


@pytest.mark.parametrize(
    ("where", "at"),
    [
        ("the node's id", lambda key: key == keys.NODE_ID_KEY),
        ("a replica's record", lambda key: key[:1] == keys.REPLICA),
        ("the hard state", lambda key: kind_of(key) == 1),
        ("the snapshot's record", lambda key: kind_of(key) == 2),
        ("a snapshot's chunk", lambda key: kind_of(key) == 5),
    ],
)
def test_damage_is_found_and_named(stopped: tuple[Path, str], where: str, at: Callable[[bytes], bool]) -> None:
    data_dir, _ = stopped
    change(data_dir, at, flip)
    code, found = inspect(data_dir)
    assert code == EXIT_DAMAGED, where
    assert len(found["damaged"]) == 1
    assert "key" in found["damaged"][0]


def test_a_missing_entry_is_damage(stopped: tuple[Path, str]) -> None:
    data_dir, _ = stopped
    last = max(key for key, _ in contents(data_dir) if kind_of(key) == 4)
    change(data_dir, lambda key: key == last, lambda value: None)
    code, found = inspect(data_dir)
    assert code == EXIT_DAMAGED
    assert "missing" in found["damaged"][0]
    assert not found["groups"][0]["whole"]


def test_what_is_no_data_directory_stays_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no data directory"):
        inspect(tmp_path / "absent")
    assert not (tmp_path / "absent").exists()


def test_a_running_node_is_left_alone(cluster: NodeCluster) -> None:
    (node,) = cluster.start(1)
    with pytest.raises(StorageLocked) as refused:
        inspect(Path(node.config.data_dir))
    assert isinstance(refused.value, CopyCatError)
