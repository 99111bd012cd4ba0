"""Nodes on LevelDB whose files were damaged, cut, or had no room: they refuse, or stop and say so, and hand out nothing wrong."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from copycat import errors
from copycat.node import CopyCat
from copycat.testing.nodes import PATIENCE_S, ListCopy, NodeCluster, unpack_list, wait_until

COUNT = 400
ROUNDS = 8
SMALL = {"snapshot_log_bytes": 20_000, "snapshot_chunk_bytes": 2_000, "batch_proposals_max": 10}


@pytest.fixture
def leveldb(tmp_path: Path) -> Iterator[NodeCluster]:
    with NodeCluster(tmp_path, "memory", "leveldb") as cluster:
        yield cluster


def item(number: int) -> bytes:
    return b"%d " % number + random.Random(number).randbytes(100)


def nothing() -> bytes:
    return b""


def fill(cluster: NodeCluster, snapshots: bool) -> tuple[Path, object]:
    """A node's directory with ``COUNT`` acknowledged items, and the id of their group; with the cluster's last life over."""
    node = cluster.node(**(SMALL if snapshots else {}))
    group = cluster.group(node, replicas=1)
    copy = ListCopy(node, group)
    copy.sub.propose.send_many([item(number) for number in range(COUNT)], PATIENCE_S)
    copy.sub.flush(PATIENCE_S)
    copy.wait(COUNT)
    if snapshots:
        wait_until(lambda: node.groups()[group].snapshot_position > 0, "there is a snapshot")
    copy.close()
    cluster.stop(node)
    return Path(node.config.data_dir), group


def read_all(node: CopyCat, group: object) -> list[bytes]:
    """What a consumer is handed. Raises what it is told when the node stops on the way."""
    sub = node.subscribe_to_data_structure(group, nothing, timeout=PATIENCE_S)  # type: ignore[arg-type]
    items: list[bytes] = []
    while len(items) < COUNT:
        got = sub.commits.receive(PATIENCE_S)
        if got is None:
            items = unpack_list(sub.snapshot_consumer())
        else:
            items.append(got)
    return items


@pytest.mark.parametrize("snapshots", [False, True], ids=["log", "snapshot"])
def test_a_damaged_file_is_never_handed_out_and_nothing_acknowledged_is_missed_in_silence(
    leveldb: NodeCluster, tmp_path: Path, snapshots: bool
) -> None:
    sound, group = fill(leveldb, snapshots)
    rng = random.Random(5)
    expected = [item(number) for number in range(COUNT)]
    files = [path.name for path in sorted((sound / "db").iterdir()) if path.suffix in (".log", ".ldb")]
    files = [name for name in files if (sound / "db" / name).stat().st_size > 1_000]
    assert files
    refused = 0
    for number in range(ROUNDS):
        directory = tmp_path / f"damaged-{number}"
        shutil.copytree(sound, directory)
        path = directory / "db" / rng.choice(files)
        data = bytearray(path.read_bytes())
        if number % 2:
            del data[rng.randrange(len(data)) :]
        else:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        try:
            node = leveldb.node(data_dir=str(directory), peers_to_contact=[], **(SMALL if snapshots else {}))
        except errors.NodeFailure:
            refused += 1
            continue
        try:
            assert read_all(node, group) == expected
        except (errors.StorageCorrupt, errors.StorageFailed, errors.Closed):
            refused += 1
            with pytest.raises(errors.Closed):
                node.members()
        leveldb.stop(node)
    assert refused >= ROUNDS // 2, "most of the files is data"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few MiB."""
    place = tmp_path / "small"
    place.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    mounted = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system could be mounted: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_that_is_really_full_stops_the_node_and_takes_back_nothing(
    leveldb: NodeCluster, small_disk: Path, tmp_path: Path
) -> None:
    node = leveldb.node(data_dir=str(small_disk / "node"))
    group = leveldb.group(node, replicas=1)
    subs = [node.subscribe_to_data_structure(group, nothing, timeout=PATIENCE_S) for _ in range(2)]
    futures: list[Future[int]] = []

    def send() -> None:
        while len(futures) < 100_000:
            futures.append(subs[0].propose.submit(item(len(futures)) * 50, PATIENCE_S))

    with pytest.raises(errors.Closed):
        send()
    for sub in subs:
        told = list(sub.errors)
        assert isinstance(told[-1], errors.StorageFailed), told
        with pytest.raises(errors.Closed):
            sub.propose.send(b"")
    acknowledged = sum(future.exception(PATIENCE_S) is None for future in futures)
    assert acknowledged > 100
    leveldb.stop(node)

    roomy = tmp_path / "roomy"
    shutil.copytree(small_disk / "node", roomy)
    again = leveldb.node(data_dir=str(roomy))
    assert again.node_id == node.node_id
    sub = again.subscribe_to_data_structure(group, nothing, timeout=PATIENCE_S)
    end = sub.propose.submit(b"end").result(PATIENCE_S)
    assert end > acknowledged, "something acknowledged is gone"
    for number in range(end - 1):
        assert sub.commits.receive(PATIENCE_S) == item(number) * 50
    assert sub.commits.receive(PATIENCE_S) == b"end"
