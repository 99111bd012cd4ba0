"""Clusters with keys as real processes: strangers, a wrong clock, a tap on the wire, and keys that change under load."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from copycat.cli.commands import root
from copycat.cli.local_cluster import Deadline
from copycat.cli.worker_process import WorkerRefused
from copycat.ids import DataStructureId
from copycat.security.certificates import fingerprint, new_key_pair, write_key_pair, write_public_key
from copycat.security.keyring import KeyRing
from copycat.testing.member_cluster import MemberCluster

from .kit import KeyFiles

TIMEOUT_S = 120.0
DAY_S = 86_400.0
SECRET = "what only members may read, and nobody on the way"
OUT_OF_SIGHT = ("no key", "another cluster")
"""Strangers without the gossip's keys. The others have them, so they are seen; but nobody talks to them."""

pytestmark = pytest.mark.slow


class Tap:
    """Hears all that passes over the loopback interface to or from these ports: streams put together, and datagrams."""

    ETH_P_IP = 0x0800
    PACKET_OUTGOING = 4
    UDP, TCP = 17, 6

    def __init__(self, ports: set[int]) -> None:
        self._ports = ports
        self._heard: dict[tuple[int, bytes, bytes], bytearray] = defaultdict(bytearray)
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(self.ETH_P_IP))
        self._socket.bind(("lo", self.ETH_P_IP))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 26)
        self._socket.settimeout(0.1)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ending.is_set():
            try:
                packet, where = self._socket.recvfrom(1 << 17)
            except TimeoutError:
                continue
            if where[2] != self.PACKET_OUTGOING:  # on this interface each is on its way in, too
                self._note(packet)

    def _note(self, packet: bytes) -> None:
        header = 4 * (packet[0] & 0xF)
        protocol, addresses, body = packet[9], packet[12:20], packet[header : struct.unpack(">H", packet[2:4])[0]]
        if protocol not in (self.UDP, self.TCP) or self._ports.isdisjoint(struct.unpack(">HH", body[:4])):
            return
        payload = body[8:] if protocol == self.UDP else body[4 * (body[12] >> 4) :]
        self._heard[protocol, addresses, body[:4]] += payload

    def end(self) -> list[bytes]:
        self._ending.set()
        self._thread.join()
        self._socket.close()
        return [bytes(flow) for flow in self._heard.values()]


@pytest.fixture(autouse=True)
def _sockets_and_disks() -> None:
    plugs = os.environ.get("COPYCAT_TEST_TRANSPORT", "zeromq"), os.environ.get("COPYCAT_TEST_STORAGE", "leveldb")
    if plugs != ("zeromq", "leveldb"):
        pytest.skip("processes meet over sockets, and come back from disks")


def make(directory: Path, *fields: dict[str, Any]) -> MemberCluster:
    return MemberCluster(directory, Deadline(TIMEOUT_S), [{"tick_ms": 30, **one} for one in fields])


def start(cluster: MemberCluster, count: int) -> str:
    """Members on the first seats, the last of which has a clock that is a day off; a group with a list on each of them."""
    cluster.start(0)
    for index in range(1, count):
        cluster.start(index, [0], clock_off_s=DAY_S if index == count - 1 else 0.0)
    cluster.await_alive(range(count))
    group: str = cluster.ask(0, "allocate", replicas=count)["map_id"]
    cluster.at_once(*(lambda index=index: cluster.ask(index, "attach", group=group) for index in range(count)))
    return group


def lists(cluster: MemberCluster, group: str, count: int) -> list[list[str]]:
    return [cluster.ask(index, "list_of", group=group)["items"] for index in range(count)]


@pytest.fixture
def strangers(keys: KeyFiles, tmp_path: Path) -> dict[str, dict[str, Any]]:
    """Fields of nodes that are no members, by what they lack. One belongs to another cluster of the same name."""
    other = KeyFiles(tmp_path / "other")
    foreign = KeyFiles(tmp_path / "foreign")
    foreign.ring = keys.ring
    revoked = keys.make("revoked")
    (keys.trusted / "revoked.key").unlink()
    fields = {
        "no key": {},
        "a foreign key": foreign.make("x"),
        "a revoked key": revoked,
        "another cluster": other.make("y"),
    }
    for trusting in (other, foreign):
        for certificate in keys.trusted.iterdir():
            (trusting.trusted / certificate.name).write_bytes(certificate.read_bytes())
    return {what: {**one, "join_timeout_s": 1.0} for what, one in fields.items()}


@pytest.fixture
def members(keys: KeyFiles) -> list[dict[str, Any]]:
    for name in "abc":
        keys.own_ring(name)
    return [keys.make(name) for name in "abc"]


def intrude(cluster: MemberCluster, index: int, group: str) -> None:
    cluster.start(index, [0])
    cluster.worker(index).ask("attach", group=group, timeout=1.0)


def test_strangers_stay_out_and_a_tap_on_the_wire_hears_nothing(
    tmp_path: Path, members: list[dict[str, Any]], strangers: dict[str, dict[str, Any]]
) -> None:
    with make(tmp_path, *members, *strangers.values()) as cluster:
        ports = {port for seat in cluster.seats for port in (seat.copycat_port, seat.gossip_port)}
        try:
            tap = Tap(ports)
        except (PermissionError, AttributeError):
            tap = None
        group = start(cluster, 3)
        cluster.ask(1, "send", group=group, items=[f"{SECRET} {number}" for number in range(50)])
        for index, what in enumerate(strangers, 3):
            before = cluster.members(0).keys()
            with pytest.raises(WorkerRefused):
                intrude(cluster, index, group)
            if what in (
                "no key",
                "another cluster",
            ):  # the others have the gossip's keys: they are seen, and not talked to
                assert cluster.members(0).keys() == before, what
        cluster.ask(2, "send", group=group, items=["beside strangers"])
        wanted = [*(f"{SECRET} {number}" for number in range(50)), "beside strangers"]
        assert lists(cluster, group, 3) == [wanted] * 3
        if tap is None:
            pytest.skip("only root hears what passes over an interface; all else was seen")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            control.sendto(b"what is not sealed can be heard", ("127.0.0.1", cluster.seats[0].gossip_port))
        cluster.ask(0, "send", group=group, items=["after the control"])
        flows = tap.end()
        assert any(b"what is not sealed can be heard" in flow for flow in flows)
        assert sum(map(len, flows)) > 10_000
        ids = [seat.node_id for seat in cluster.seats[:3]]
        hidden = [SECRET.encode(), group.encode(), bytes(DataStructureId.parse(group)), *(one.encode() for one in ids)]
        for word in hidden:
            assert not any(word in flow for flow in flows), word


def test_every_key_is_changed_under_load_and_nothing_is_lost(
    tmp_path: Path, keys: KeyFiles, members: list[dict[str, Any]]
) -> None:
    with make(tmp_path, *members) as cluster:
        group = start(cluster, 3)
        cluster.worker(0).ask("begin_pulse", group=group)

        def goes_on() -> None:
            goal = cluster.worker(0).ask("pulses")["committed"] + 20
            cluster.wait(lambda: cluster.worker(0).ask("pulses")["committed"] >= goal, "proposals are committed")

        def says(index: int, words: str) -> bool:
            return words in cluster.worker(index).last_words

        goes_on()
        for index, name in enumerate("abc"):
            new = new_key_pair()
            write_public_key(keys.trusted / f"{name}.2.key", new.public, replace=False)
            cluster.wait(lambda: all(says(one, f"trusted={4}") for one in range(3)), "the new key is trusted")
            write_key_pair(keys.secret(name), new, replace=True)
            used = fingerprint(new.public)  # without the field: some are quoted
            cluster.wait(lambda index=index, used=used: says(index, used), "the new key is used")  # type: ignore[misc]
            goes_on()
            (keys.trusted / f"{name}.key").unlink()
            cluster.wait(lambda: all(_last_count(cluster, one) == 3 for one in range(3)), "the old key is gone")
            goes_on()
        directory = cluster.seats[1].directory / "db"
        done = CliRunner().invoke(root, ["gossip-keys", "rotate", "--data-dir", str(directory)], standalone_mode=False)
        assert done.exception is None, done.exception
        rings = [KeyRing.read(keys.own_rings[name]).ids() for name in "abc"]
        assert rings[0] == rings[1] == rings[2] != KeyRing.read(keys.ring).ids()
        goes_on()
        committed = cluster.worker(0).ask("end_pulse")["committed"]
        assert lists(cluster, group, 3) == [["pulse"] * committed] * 3
        assert {member["state"] for index in range(3) for member in cluster.members(index).values()} == {"alive"}


def _last_count(cluster: MemberCluster, index: int) -> int:
    """How many keys that node said last that it trusts."""
    _, _, rest = cluster.worker(index).last_words.rpartition("trusted=")
    return int(rest.split()[0])
