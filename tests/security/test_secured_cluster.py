"""Nodes with keys, over real sockets: they replicate, strangers stay out, and keys change under load."""

from __future__ import annotations

import logging
import os
import socket
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import copycat
from copycat.errors import InvalidConfig, SeedUnreachable, StorageExposed
from copycat.security import guard
from copycat.security.certificates import new_key_pair, write_key_pair, write_public_key
from copycat.security.keyring import KeyRing
from copycat.testing.nodes import PATIENCE_S, ListCopy, NodeCluster, wait_until
from copycat.transports import zeromq_links

from .kit import KeyFiles, Load, start_keyed


def test_nodes_with_keys_replicate(zeromq_cluster: NodeCluster, keys: KeyFiles) -> None:
    nodes = start_keyed(zeromq_cluster, keys, "a", "b", "c")
    group = zeromq_cluster.group(nodes[0], replicas=3)
    copies = [ListCopy(node, group) for node in nodes]
    for number, copy in enumerate(copies):
        copy.sub.propose.send(b"from %d" % number)
        copy.sub.flush(PATIENCE_S)
    for copy in copies:
        wait_until(lambda copy=copy: len(copy.items) == 3, "all has come")  # type: ignore[misc]
        assert sorted(copy.items) == [b"from 0", b"from 1", b"from 2"]
        copy.close()


def stranger_fields(kind: str, keys: KeyFiles, directory: Path) -> dict[str, str]:
    if kind == "no key":
        return {}
    if kind == "a foreign key":  # and the gossip keys, so that it gets as far as it can
        other = KeyFiles(directory)
        fields = other.make("x")
        write_all = [path.name for path in keys.trusted.iterdir()]
        for name in write_all:
            (other.trusted / name).write_bytes((keys.trusted / name).read_bytes())
        return {**fields, "gossip_keys_file": str(keys.ring)}
    if kind == "a revoked key":
        fields = keys.make("x")
        (keys.trusted / "x.key").unlink()
        return fields
    fields = keys.make("x")  # a trusted key, but another cluster's gossip
    KeyRing.new().write(directory, replace=False)
    return {**fields, "gossip_keys_file": str(directory)}


@pytest.mark.parametrize("kind", ["no key", "a foreign key", "a revoked key", "other gossip keys"])
def test_a_stranger_gets_neither_word_nor_data(
    zeromq_cluster: NodeCluster, keys: KeyFiles, tmp_path: Path, kind: str
) -> None:
    nodes = start_keyed(zeromq_cluster, keys, "a", "b")
    group = zeromq_cluster.group(nodes[0], replicas=2)
    copy = ListCopy(nodes[0], group)
    copy.sub.propose.send(b"for members only")
    copy.sub.flush(PATIENCE_S)
    fields = {**stranger_fields(kind, keys, tmp_path / "other"), "join_timeout_s": 1.0}
    config = zeromq_cluster.config(**fields)
    try:
        stranger = copycat.CopyCat(config)
    except SeedUnreachable:
        pass
    else:  # it has the gossip keys, so it is seen; but no connection of its is
        with stranger, pytest.raises(copycat.errors.CopyCatError):
            stranger.subscribe_to_data_structure(group, lambda: b"", timeout=2.0)
    copy.sub.propose.send(b"still at work")
    copy.sub.flush(PATIENCE_S)
    assert copy.wait(2) == [b"for members only", b"still at work"]
    copy.close()


def test_every_key_is_changed_under_load_and_nothing_is_lost(
    zeromq_cluster: NodeCluster, keys: KeyFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zeromq_links, "REBUILD_AFTER_S", 1.0)
    monkeypatch.setattr(guard, "REFRESH_EVERY_S", 0.1)
    nodes = start_keyed(zeromq_cluster, keys, "a", "b", "c")
    group = zeromq_cluster.group(nodes[0], replicas=3)
    copies = [ListCopy(node, group) for node in nodes]
    load = Load(copies[0])
    try:
        load.passes()
        seen = [credentials_of(node) for node in nodes]

        def everybody_has(holds: Callable[[object], bool], what: str) -> None:
            wait_until(lambda: all(holds(held) for held in seen), what)
            load.passes()

        for name in ("a", "b", "c"):
            old, new = seen["abc".index(name)].key_pair, new_key_pair()
            write_public_key(keys.trusted / f"{name}.2.key", new.public, replace=False)
            everybody_has(lambda held: held.owner_of(new.public) == name, "the new key is trusted")  # noqa: B023
            write_key_pair(keys.secret(name), new, replace=True)
            wait_until(lambda: seen["abc".index(name)].key_pair == new, "the new key is used")  # noqa: B023
            load.passes()
            (keys.trusted / f"{name}.key").unlink()
            everybody_has(lambda held: held.owner_of(old.public) is None, "the old key is gone")  # noqa: B023

        ring = KeyRing.read(keys.ring)
        first = ring.ids()[0]
        second = ring.with_new()
        for step in (second, second.sealing_with(second.ids()[1]), second.sealing_with(second.ids()[1]).without(first)):
            step.write(keys.ring, replace=True)
            everybody_has(lambda held: held.ring() == step, "the ring has changed")  # noqa: B023
        late = zeromq_cluster.node(**keys.make("d"))
        wait_until(lambda: sum(m.state == "alive" for m in late.members()) == 4, "a newcomer sees all")
        load.passes()
    finally:
        load.end()
    for copy in copies:
        wait_until(lambda copy=copy: len(copy.items) >= len(load.sent), "all has come")  # type: ignore[misc]
        assert copy.items == load.sent
        copy.close()


def credentials_of(node: copycat.CopyCat):  # type: ignore[no-untyped-def]
    return node._engine.credentials


def test_a_member_whose_key_is_revoked_is_cut_off_and_the_others_go_on(
    zeromq_cluster: NodeCluster, keys: KeyFiles
) -> None:
    nodes = start_keyed(zeromq_cluster, keys, "a", "b", "c")
    group = zeromq_cluster.group(nodes[0], replicas=3)
    copies = [ListCopy(node, group) for node in nodes]
    copies[0].sub.propose.send(b"before")
    for copy in copies:
        wait_until(lambda copy=copy: len(copy.items) == 1, "all has come")  # type: ignore[misc]
    own = KeyFiles(zeromq_cluster.directory / "own")  # the one that is thrown out goes on trusting
    for path in keys.trusted.iterdir():
        (own.trusted / path.name).write_bytes(path.read_bytes())
    credentials_of(nodes[2])._places = (keys.secret("c"), own.trusted, keys.ring)
    (keys.trusted / "c.key").unlink()
    c_key = credentials_of(nodes[2]).key_pair.public
    wait_until(lambda: all(credentials_of(node).owner_of(c_key) is None for node in nodes[:2]), "the key is revoked")
    for number in range(20):
        copies[0].sub.propose.send(b"after %d" % number)
    copies[0].sub.flush(PATIENCE_S)
    wait_until(lambda: len(copies[1].items) == 21, "the others go on")
    with pytest.raises(TimeoutError):
        copies[2].sub.barrier(1.0)
    assert copies[2].items == [b"before"]
    for copy in copies:
        copy.close()


# --- without keys ---------------------------------------------------------------------------------------------------


def test_without_keys_a_node_starts_on_loopback_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fields = {"copycat_port": 0, "gossip_port": 0, "storage": "memory", "data_dir": str(tmp_path / "db")}
    with pytest.raises(InvalidConfig, match="loopback only"):
        copycat.CopyCat(copycat.Config(bind_address="0.0.0.0", **fields))  # type: ignore[arg-type]
    assert not (tmp_path / "db").exists()
    with caplog.at_level(logging.INFO, logger="copycat"), copycat.CopyCat(copycat.Config(**fields)):  # type: ignore[arg-type]
        pass
    assert sum("no keys are configured" in record.getMessage() for record in caplog.records) == 1


@pytest.mark.parametrize("mode", [0o750, 0o705, 0o711, 0o755])
def test_a_data_directory_that_others_can_enter_is_refused(tmp_path: Path, mode: int) -> None:
    config = copycat.Config(transport="memory", data_dir=str(tmp_path / "db"))
    with copycat.CopyCat(config):
        pass
    assert stat.S_IMODE((tmp_path / "db").stat().st_mode) == 0o700
    (tmp_path / "db").chmod(mode)
    with pytest.raises(StorageExposed, match="chmod 700"):
        copycat.CopyCat(config)
    (tmp_path / "db").chmod(0o700)
    with copycat.CopyCat(config):
        pass


def test_an_empty_directory_becomes_its_owners_alone(tmp_path: Path) -> None:
    (tmp_path / "db").mkdir(mode=0o755)
    with copycat.CopyCat(copycat.Config(transport="memory", data_dir=str(tmp_path / "db"))):
        pass
    assert stat.S_IMODE((tmp_path / "db").stat().st_mode) == 0o700


# --- what goes over the wire ----------------------------------------------------------------------------------------


def test_garbage_and_floods_of_datagrams_leave_the_cluster_together(
    zeromq_cluster: NodeCluster, keys: KeyFiles
) -> None:
    nodes = start_keyed(zeromq_cluster, keys, "a", "b")
    port = int(nodes[0].address.rpartition(":")[2])
    engine = nodes[0]._engine
    before = engine.counters.frames_rejected
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flood:
        for number in range(3000):
            flood.sendto(os.urandom(number % 1400), ("127.0.0.1", port))
    wait_until(lambda: engine.counters.frames_rejected > before + 100, "garbage was counted")
    assert {member.state for member in nodes[1].members()} == {"alive"}
    group = zeromq_cluster.group(nodes[0], replicas=2)
    copy = ListCopy(nodes[1], group)
    copy.sub.propose.send(b"x")
    copy.sub.flush(PATIENCE_S)
    copy.close()


def test_the_clock_on_the_wall_is_never_asked(
    zeromq_cluster: NodeCluster, keys: KeyFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node whose clock is a day off takes part like any other, because nothing depends on it."""
    days = iter([0.0, 86_400.0, -86_400.0] * 100_000)
    genuine = time.time
    monkeypatch.setattr(time, "time", lambda: genuine() + next(days))
    nodes = start_keyed(zeromq_cluster, keys, "a", "b")
    group = zeromq_cluster.group(nodes[0], replicas=2)
    copy = ListCopy(nodes[1], group)
    copy.sub.propose.send(b"x")
    copy.sub.flush(PATIENCE_S)
    copy.close()
