"""Backups of data structures in use, and what is restored from them: the same content, at the same positions."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from copycat.cli.asking import AdminClient
from copycat.cli.backup import _cut, _requests
from copycat.cli.backupfile import BackupWriter, Header, examine, read_frames
from copycat.cli.commands import root
from copycat.errors import CopyCatError, StorageCorrupt, UsageError
from copycat.node import CopyCat
from copycat.testing.nodes import PATIENCE_S, ListCopy, NodeCluster, wait_until

HEADER = Header("01ARZ3NDEKTSV4RRFFQ69G5FAV", 3, 0, "here", "01ARZ3NDEKTSV4RRFFQ69G5FAW", "2026-01-01T00:00:00+00:00")


class Shop:
    """The command line against nodes of this process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, node: CopyCat, *arguments: str, code: int = 0) -> Any:
        given = [*arguments, "--data-dir", node.config.data_dir, "--json"]
        done = CliRunner().invoke(root, given, standalone_mode=False)
        assert done.exception is None, done.exception
        assert (done.return_value or 0) == code, (done.stdout, done.stderr)
        return json.loads(done.stdout)

    def back_up(self, node: CopyCat, *arguments: str, code: int = 0) -> Any:
        return self.run(node, "backup", str(self.folder), *arguments, code=code)

    def file(self, group: Any) -> Path:
        return self.folder / f"{group}.copycat-backup"

    def restore(self, node: CopyCat, group: Any, *arguments: str, code: int = 0) -> Any:
        return self.run(node, "restore", str(self.file(group)), *arguments, code=code)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path / "backups")


def filled(node: CopyCat, group: Any, count: int, size: int = 10) -> ListCopy:
    copy = ListCopy(node, group)
    for number in range(0, count, 100):
        some = [b"%0*d" % (size, each) for each in range(number, min(number + 100, count))]
        copy.sub.propose.send_many(some)
    assert copy.sub.propose.flush(PATIENCE_S) is None
    copy.wait(count)
    return copy


SNAPSHOTS = {"snapshot_log_bytes": 20_000, "snapshot_log_entries": 20, "snapshot_chunk_bytes": 4096}


@pytest.mark.parametrize("snapshots", [False, True])
def test_what_was_acknowledged_comes_back_at_its_positions(
    cluster: NodeCluster, shop: Shop, tmp_path: Path, snapshots: bool
) -> None:
    nodes = cluster.start(3, **(SNAPSHOTS if snapshots else {}))
    group = cluster.group(nodes[0], replicas=3)
    copy = filled(nodes[1], group, 2500, 40)
    if snapshots:
        wait_until(lambda: nodes[0].groups()[group].snapshot_position > 0, "a snapshot")
    made = shop.back_up(nodes[0], str(group))
    assert not made["failed"]
    assert made["backed_up"][0]["position"] == 2500
    content = examine(shop.file(group))
    assert (content.snapshot_position > 0) == snapshots
    assert content.snapshot_position + content.items == 2500

    checked = shop.restore(nodes[0], group, "--check")
    assert checked["checked"][0]["position"] == 2500
    with NodeCluster(tmp_path / "other", cluster.transport, "leveldb") as other:
        others = other.start(3, snapshot_chunk_bytes=1000, repair_delay_s=0.1)
        restored = shop.restore(others[1], group)
        assert restored["restored"] == [
            {"file": str(shop.file(group)), "group": str(group), "was": str(group), "position": 2500}
        ]
        new = ListCopy(others[2], group)
        assert new.wait(2500) == copy.items[:2500]
        assert new.loads == (1 if snapshots else 0)
        new.sub.propose.submit(b"goes on").result(PATIENCE_S)
        assert new.wait(2501)[2500] == b"goes on"
        assert new.sub.commits.position == 2501
        wait_until(lambda: len(others[1].groups()[group].voters) == 3, "the others join")
        assert ListCopy(others[0], group).wait(2501) == new.items


def test_a_backup_is_one_state_of_a_data_structure_in_use(cluster: NodeCluster, shop: Shop) -> None:
    nodes = cluster.start(1, replicas=1, **SNAPSHOTS)
    group = cluster.group(nodes[0])
    copy = filled(nodes[0], group, 500)
    going, made = threading.Event(), list[Any]()

    def write_on() -> None:
        number = 0
        while not going.is_set():
            copy.sub.propose.send_many([b"more%06d" % each for each in range(number, number + 50)])
            copy.sub.propose.flush(PATIENCE_S)
            number += 50

    writer = threading.Thread(target=write_on)
    writer.start()
    try:
        for _ in range(3):
            made.append(shop.back_up(nodes[0], str(group))["backed_up"][0]["position"])
            shop.restore(nodes[0], group, "--new-id")
    finally:
        going.set()
        writer.join()
    assert made == sorted(made)
    copy.wait(made[-1])
    restored = [each for each in nodes[0].groups() if each != group]
    assert len(restored) == 3
    found = [ListCopy(nodes[0], each) for each in restored]
    for each, position in zip(sorted(found, key=lambda one: one.sub.status().commit_position), made, strict=True):
        assert each.wait(position) == copy.items[:position]
        assert len(each.items) == position


def test_a_data_structure_that_exists_is_not_overwritten(cluster: NodeCluster, shop: Shop) -> None:
    nodes = cluster.start(2, replicas=1)
    group = cluster.group(nodes[0])
    filled(nodes[0], group, 10)
    shop.back_up(nodes[0], str(group))
    for node in nodes:
        (failed,) = shop.restore(node, group, code=2)["failed"]
        assert "exists in this cluster" in failed["message"]
    assert shop.restore(nodes[1], group, "--new-id")["restored"][0]["position"] == 10


def test_one_that_has_nothing_yet_can_be_backed_up(cluster: NodeCluster, shop: Shop) -> None:
    (node,) = cluster.start(1, replicas=1)
    group = cluster.group(node)
    assert shop.back_up(node, "--all")["backed_up"][0]["position"] == 0
    (restored,) = shop.restore(node, group, "--new-id")["restored"]
    copy = filled(node, restored["group"], 3)
    assert len(copy.items) == 3


def test_each_node_backs_up_what_it_leads(cluster: NodeCluster, shop: Shop) -> None:
    nodes = cluster.start(2, replicas=2)
    groups = {str(cluster.group(nodes[each % 2])) for each in range(4)}
    led = [{one["group"] for one in shop.back_up(node, "--led")["backed_up"]} for node in nodes]
    assert led[0] | led[1] == groups
    assert not led[0] & led[1]


def test_without_a_leader_only_what_a_replica_knows_is_backed_up(cluster: NodeCluster, shop: Shop) -> None:
    nodes = cluster.start(2, replicas=2, repair_delay_s=600.0)
    group = cluster.group(nodes[0])
    filled(nodes[0], group, 20)
    cluster.stop(nodes[1])
    wait_until(lambda: nodes[0].groups()[group].leader is None, "no leader")
    with AdminClient(Path(nodes[0].config.data_dir)) as client, pytest.raises(CopyCatError, match="--local"):
        client.ask("backup_begin", id=str(group), timeout=0.2)
    assert shop.back_up(nodes[0], str(group), "--local")["backed_up"][0]["position"] == 20


def test_what_is_not_here_can_t_be_backed_up(cluster: NodeCluster, shop: Shop) -> None:
    nodes = cluster.start(2, replicas=1)
    group = cluster.group(nodes[0])
    away = next(node for node in nodes if group not in node.groups())
    wait_until(lambda: _failure(shop, away, group).endswith(_other(nodes, away).node_id), "it names who has it")
    assert list(shop.folder.iterdir()) == []


def _failure(shop: Shop, node: CopyCat, group: Any) -> str:
    (failed,) = shop.back_up(node, str(group), code=2)["failed"]
    message: str = failed["message"]
    return message


def _other(nodes: list[CopyCat], node: CopyCat) -> CopyCat:
    return nodes[1] if node is nodes[0] else nodes[0]


def test_a_damaged_file_restores_nothing(cluster: NodeCluster, shop: Shop) -> None:
    (node,) = cluster.start(1, replicas=1)
    group = cluster.group(node)
    filled(node, group, 300)
    shop.back_up(node, str(group))
    whole = shop.file(group).read_bytes()
    for at in (20, len(whole) // 2, len(whole) - 5):
        shop.file(group).write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        (failed,) = shop.restore(node, group, "--new-id", code=3)["failed"]
        assert failed["error"] == "StorageCorrupt"
    for size in (18, len(whole) // 2, len(whole) - 1):
        shop.file(group).write_bytes(whole[:size])
        assert shop.restore(node, group, "--check", code=3)["failed"]
    shop.file(group).write_bytes(whole + b"x")
    assert shop.restore(node, group, "--check", code=3)["failed"]
    shop.file(group).write_bytes(b"something else")
    assert shop.restore(node, group, "--check", code=2)["failed"]
    assert list(node.groups()) == [group]


@pytest.fixture
def asked(cluster: NodeCluster) -> Iterator[tuple[CopyCat, AdminClient]]:
    (node,) = cluster.start(1, replicas=1)
    with AdminClient(Path(node.config.data_dir)) as client:
        yield node, client


def test_what_is_handed_in_must_fit_what_was_announced(asked: tuple[CopyCat, AdminClient]) -> None:
    node, client = asked
    group = str(node.new_data_structure_id())
    with pytest.raises(UsageError, match="no such restore"):
        client.ask("restore_items", id=group, items=[])
    client.ask("restore_begin", id=group, replicas=1, position=5, snapshot_bytes=10)
    with pytest.raises(UsageError, match="being restored on this node already"):
        client.ask("restore_begin", id=group, replicas=1)
    client.ask("restore_chunk", id=group, data=b"12345")
    with pytest.raises(UsageError, match="and 10 were announced"):
        client.ask("restore_items", id=group, items=[b"too early"])
    with pytest.raises(UsageError, match="longer than the 10 bytes"):
        client.ask("restore_chunk", id=group, data=b"123456")
    client.ask("restore_chunk", id=group, data=b"67890")
    client.ask("restore_items", id=group, items=[b"six"])
    with pytest.raises(UsageError, match="no chunk"):
        client.ask("restore_chunk", id=group, data=b"1")
    with pytest.raises(UsageError, match="ends at position 7"):
        client.ask("restore_finish", id=group, position=7)
    with pytest.raises(CopyCatError, match="takes"):
        client.ask("restore_items", id=group, items=[bytes(node.config.proposal_bytes_max + 1)])
    client.ask("restore_give_up", id=group)
    with pytest.raises(UsageError, match="no such restore"):
        client.ask("restore_finish", id=group, position=6)
    _until_it_may_begin(client, group)
    client.ask("restore_items", id=group, items=[b"one"])
    assert client.ask("restore_finish", id=group, position=1)["position"] == 1
    assert ListCopy(node, group).wait(1) == [b"one"]


def _until_it_may_begin(client: AdminClient, group: str, **arguments: Any) -> None:
    def begins() -> bool:
        try:
            client.ask("restore_begin", id=group, replicas=1, **arguments)
        except UsageError:
            return False
        return True

    wait_until(begins, "what was given up is cleared away, and it may begin")


def test_what_is_not_complete_is_gone_after_a_restart(cluster: NodeCluster) -> None:
    (node,) = cluster.start(1, replicas=1)
    group = str(node.new_data_structure_id())
    with AdminClient(Path(node.config.data_dir)) as client:
        client.ask("restore_begin", id=group, replicas=1, position=5, snapshot_bytes=3)
        client.ask("restore_chunk", id=group, data=b"abc")
        client.ask("restore_items", id=group, items=[b"x"] * 100)
    cluster.stop(node)
    node = cluster.node(data_dir=node.config.data_dir, peers_to_contact=[])
    with AdminClient(Path(node.config.data_dir)) as client:
        assert not list(node.groups())
        with pytest.raises(UsageError, match="no such restore"):
            client.ask("restore_items", id=group, items=[b"y"])
        _until_it_may_begin(client, group)
        client.ask("restore_items", id=group, items=[b"z"])
        client.ask("restore_finish", id=group, position=1)
    assert ListCopy(node, group).wait(1) == [b"z"]


def test_what_is_complete_is_gone_on_with_after_a_restart(cluster: NodeCluster) -> None:
    nodes = cluster.start(2, replicas=1)
    group = str(nodes[0].new_data_structure_id())
    with AdminClient(Path(nodes[0].config.data_dir)) as client:
        client.ask("restore_begin", id=group, replicas=2)
        client.ask("restore_items", id=group, items=[b"%d" % each for each in range(100)])
        cluster.stop(nodes[1])  # of two nodes both have to agree to a creation
        with pytest.raises(CopyCatError, match="goes on with it by itself"):
            client.ask("restore_finish", id=group, position=100, timeout=0.2)
    cluster.stop(nodes[0])
    again = [
        cluster.node(data_dir=nodes[0].config.data_dir, peers_to_contact=[]),
        cluster.node(data_dir=nodes[1].config.data_dir),
    ]
    wait_until(lambda: group in map(str, again[0].groups()), "it is created")
    assert ListCopy(again[0], group).wait(100) == [b"%d" % each for each in range(100)]
    wait_until(lambda: len(next(iter(again[0].groups().values())).voters) == 2, "it grows")


def test_of_a_restore_and_a_subscriber_the_first_wins(asked: tuple[CopyCat, AdminClient]) -> None:
    node, client = asked
    group = str(node.new_data_structure_id())
    client.ask("restore_begin", id=group, replicas=1)
    client.ask("restore_items", id=group, items=[b"late"] * 10)
    copy = ListCopy(node, group)
    copy.sub.propose.submit(b"first").result(PATIENCE_S)
    with pytest.raises(UsageError, match="somebody else"):
        client.ask("restore_finish", id=group, position=10)
    assert copy.items == [b"first"]


def test_a_reader_that_is_silent_is_given_up(asked: tuple[CopyCat, AdminClient], monkeypatch: Any) -> None:
    monkeypatch.setattr("copycat.backups.SILENT_S_MAX", 0.05)
    node, client = asked
    group = str(node.allocate_new_data_structure().id)
    wait_until(lambda: bool(list(node.groups())), "the group")
    reader = client.ask("backup_begin", id=group)["reader"]

    def given_up() -> bool:
        done: Future[bool] = Future()
        node._engine.post(lambda: done.set_result(not node._engine.backups._readers))
        return done.result(PATIENCE_S)

    wait_until(given_up, "the reader is given up")
    with pytest.raises(UsageError, match="silent for too long"):
        client.ask("backup_read", reader=reader)


# --- the file ---


def write(path: Path, *frames: dict[str, Any]) -> Path:
    with BackupWriter(path, HEADER) as writer:
        for frame in frames:
            writer.write(frame)
        writer.finish(7)
    return path


BEGIN = {"kind": "begin", "position": 5, "bytes": 4}
CHUNK = {"kind": "chunk", "data": b"abcd"}
ITEMS = {"kind": "items", "items": [b"6", b"7"]}


def test_a_file_that_was_begun_again_holds_what_came_then(tmp_path: Path) -> None:
    path = tmp_path / "one"
    with BackupWriter(path, HEADER) as writer:
        writer.write({"kind": "items", "items": [b"x"] * 1000})
        writer.restart()
        for frame in (BEGIN, CHUNK, ITEMS):
            writer.write(frame)
        writer.finish(7)
    content = examine(path)
    assert (content.snapshot_position, content.snapshot_bytes, content.items) == (5, 4, 2)
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_backup_that_fails_leaves_the_one_before(tmp_path: Path) -> None:
    path = write(tmp_path / "one", BEGIN, CHUNK, ITEMS)
    before = path.read_bytes()
    with pytest.raises(ZeroDivisionError), BackupWriter(path, HEADER) as writer:
        writer.write({"kind": "items", "items": [b"6"] * (1 // 0)})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "frames",
    [
        (BEGIN, CHUNK),
        (BEGIN, ITEMS, CHUNK),
        (BEGIN, BEGIN, CHUNK, ITEMS),
        (BEGIN, CHUNK, CHUNK, ITEMS),
        (CHUNK, BEGIN, ITEMS),
        (ITEMS, BEGIN, CHUNK),
        (BEGIN, CHUNK, {"kind": "items", "items": ["6", "7"]}),
        (BEGIN, CHUNK, {"kind": "items", "items": None}),
        ({"kind": "begin", "position": -5, "bytes": 4}, CHUNK, ITEMS),
        ({"kind": "begin"}, CHUNK, ITEMS),
        (BEGIN, CHUNK, ITEMS, {"kind": "more"}),
        (BEGIN, {"kind": "chunk"}, ITEMS),
        (BEGIN, CHUNK, {"kind": "header"}, ITEMS),
    ],
)
def test_a_file_whose_parts_don_t_fit_is_damaged(tmp_path: Path, frames: tuple[dict[str, Any], ...]) -> None:
    with pytest.raises(StorageCorrupt, match="is damaged"):
        examine(write(tmp_path / "one", *frames))


def test_whatever_is_flipped_or_cut_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "one", BEGIN, CHUNK, ITEMS)
    whole = path.read_bytes()
    for at in range(len(whole)):
        for data in (whole[:at], whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :]):
            path.write_bytes(data)
            with pytest.raises((StorageCorrupt, UsageError)):
                examine(path)


def test_chunks_and_items_are_cut_anew(tmp_path: Path) -> None:
    chunks = [{"kind": "chunk", "data": bytes([each]) * 7} for each in range(5)]
    frames = [*chunks, {"kind": "items", "items": [b"a", b"b"]}]
    cut = list(_requests(frames, 10))
    assert [len(value) for kind, value in cut if kind == "chunk"] == [10, 10, 10, 5]
    assert b"".join(value for kind, value in cut if kind == "chunk") == b"".join(each["data"] for each in chunks)
    assert cut[-1] == ("items", [b"a", b"b"])
    assert [len(items) for items in _cut([bytes(1 << 19)] * 5)] == [2, 2, 1]
    assert [len(items) for items in _cut([bytes(3 << 20)] * 2)] == [1, 1]


def test_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "one"
    later = Header(**{**{name: getattr(HEADER, name) for name in HEADER.__slots__}, "version": 2})
    with BackupWriter(path, later) as writer:
        writer.finish(0)
    with pytest.raises(UsageError, match="version 2"):
        examine(path)
    assert next(iter(read_frames(path)))["version"] == 2
