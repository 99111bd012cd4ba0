"""One command changes the gossip key of a whole cluster, while it works, and can be interrupted anywhere."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import copycat
from copycat.cli.commands import root
from copycat.errors import ClusterError, UsageError
from copycat.security.keyring import KeyRing
from copycat.testing.nodes import ListCopy, NodeCluster, wait_until

from .kit import KeyFiles, Load, start_keyed


class Rings:
    """Nodes that each have a ring file of their own, as on machines of their own, and the command."""

    def __init__(self, cluster: NodeCluster, keys: KeyFiles, *names: str) -> None:
        self.first = KeyRing.read(keys.ring).ids()[0]
        self.files = [keys.own_ring(name) for name in names]
        self.nodes = start_keyed(cluster, keys, *names)

    def ids(self) -> list[list[str]]:
        return [KeyRing.read(file).ids() for file in self.files]

    def call(self, *arguments: str, through: int = 0) -> Any:
        """What ``copycat gossip-keys`` prints with ``--json``; raises what it raises."""
        where = ["--data-dir", self.nodes[through].config.data_dir, "--json"]
        done = CliRunner().invoke(root, ["gossip-keys", *arguments, *where], standalone_mode=False)
        if done.exception is not None:
            raise done.exception
        return json.loads(done.stdout)


def test_the_key_is_changed_everywhere_under_load_and_nothing_is_lost(
    disk_cluster: NodeCluster, keys: KeyFiles, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    rings = Rings(disk_cluster, keys, "a", "b", "c")
    old = KeyRing.read(rings.files[0]).keys[0]
    group = disk_cluster.group(rings.nodes[0], replicas=3)
    copies = [ListCopy(node, group) for node in rings.nodes]
    load = Load(copies[0])
    try:
        load.passes()
        done = rings.call("rotate", through=1)
        load.passes()
        assert done["key"] != rings.first
        assert rings.ids() == [[done["key"]]] * 3
        assert done["silent"] == []
        assert [node["keys"] for node in done["nodes"]] == [[done["key"]]] * 3
        assert rings.call("status")["alike"]
        assert {m.state for node in rings.nodes for m in node.members()} == {"alive"}
    finally:
        load.end()
    for copy in copies:
        wait_until(lambda copy=copy: len(copy.items) >= len(load.sent), "all has come")  # type: ignore[misc]
        assert copy.items == load.sent
        copy.close()
    new = KeyRing.read(rings.files[0]).keys[0]
    said = caplog.text + repr([vars(record) for record in caplog.records])
    for key in (old, new):
        assert key.hex() not in said
        assert repr(key) not in said


@pytest.mark.parametrize("steps", [("add",), ("add", "use"), ("add", "use", "remove")])
def test_a_change_that_was_interrupted_anywhere_is_gone_on_with(
    disk_cluster: NodeCluster, keys: KeyFiles, steps: tuple[str, ...]
) -> None:
    """On one node the last of these steps was taken, on the others none of it."""
    rings = Rings(disk_cluster, keys, "a", "b")
    start = KeyRing.read(rings.files[0])
    added = start.with_new()
    new = added.ids()[1]
    after = {"add": added, "use": added.sealing_with(new), "remove": added.sealing_with(new).without(rings.first)}
    before = {"add": start, "use": added, "remove": after["use"]}[steps[-1]]
    before.write(rings.files[1], replace=True)
    after[steps[-1]].write(rings.files[0], replace=True)
    wait_until(lambda: _in_use(rings.nodes[0]) == after[steps[-1]].ids(), "the file is read")
    wait_until(lambda: _in_use(rings.nodes[1]) == before.ids(), "the file is read")
    assert not rings.call("status")["alike"]
    with pytest.raises(UsageError, match="--to"):
        rings.call("rotate")
    rings.call("rotate", "--to", new)
    assert rings.ids() == [[new]] * 2


def _in_use(node: copycat.CopyCat) -> list[str]:
    credentials = node._engine.credentials
    assert credentials is not None
    return credentials.ring().ids()


def test_nothing_changes_while_a_member_is_away_unless_it_is_to_be_left_behind(
    disk_cluster: NodeCluster, keys: KeyFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("copycat.cli.rotation.STEP_TIMEOUT_S", 0.5)
    rings = Rings(disk_cluster, keys, "a", "b", "c")
    away = rings.nodes[2]
    disk_cluster.stop(away)
    wait_until(lambda: _states(rings.nodes[0])[away.node_id] != "alive", "it is missed")
    with pytest.raises(ClusterError, match=f"nothing was changed: {away.node_id}"):
        rings.call("rotate")
    assert rings.ids() == [[rings.first]] * 3
    done = rings.call("rotate", "--leave-behind")
    assert rings.ids() == [[done["key"]], [done["key"]], [rings.first]]
    assert done["silent"] == [away.node_id]


def _states(node: copycat.CopyCat) -> dict[str, str]:
    return {member.node_id: member.state for member in node.members()}


def test_a_node_that_can_not_change_its_file_is_named_and_the_old_key_stays(
    disk_cluster: NodeCluster, keys: KeyFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    rings = Rings(disk_cluster, keys, "a", "b")
    stubborn = rings.files[1]
    genuine = KeyRing.write

    def write(ring: KeyRing, path: Path, replace: bool) -> None:
        if path == stubborn:
            raise copycat.errors.KeyFileInvalid(f"{path} can't be written: Read-only file system")
        genuine(ring, path, replace)

    monkeypatch.setattr(KeyRing, "write", write)
    with pytest.raises(ClusterError, match=rf"not in use: {rings.nodes[1].node_id} \(KeyFileInvalid: .*Read-only"):
        rings.call("rotate")
    assert rings.ids()[1] == [rings.first]
    assert rings.ids()[0][0] == rings.first, "nobody seals with a key that another lacks"


def test_without_keys_there_is_nothing_to_change(disk_cluster: NodeCluster) -> None:
    node = disk_cluster.node()
    done = CliRunner().invoke(
        root, ["gossip-keys", "rotate", "--data-dir", node.config.data_dir], standalone_mode=False
    )
    assert isinstance(done.exception, UsageError)
    assert "no keys" in str(done.exception)
