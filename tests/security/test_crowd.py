"""A load is held beside somebody who does his worst, without keys or with them: it doesn't fall behind.

Held means so much a second, a small part of what the nodes can do: what the attacker himself burns of the processors that all
share here is not what is asked. By turns with and without him, and compared, so that it doesn't matter how fast the machine is;
one pair of turns in which the load kept up shows that nothing in the nodes makes it wait.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from copycat.node import CopyCat
from copycat.testing.nodes import PATIENCE_S, ListCopy, NodeCluster, wait_until
from copycat.transports import zeromq_pace
from copycat.transports.zeromq_gate import Gate

from .kit import KeyFiles, start_keyed

ROUNDS_MAX = 10
ROUND_S = 0.6
STEP_S = 0.01
ITEMS_A_STEP = 10
SHARE_MIN = 0.9
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01CURVE" + bytes(15) + b"\0" + bytes(31)


class Attacker:
    """Connects, stalls, sends half frames and garbage, hangs up, and begins again, in bounds that a test can bear."""

    def __init__(self, ports: list[tuple[int, int]]) -> None:
        self._ports = ports
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._crowd), threading.Thread(target=self._flood)]
        self.connections = 0
        self.datagrams = 0
        for thread in self._threads:
            thread.start()

    def _crowd(self) -> None:
        held: list[socket.socket] = []
        beginnings = (b"", GREETING[:20], GREETING, GREETING + b"\x04\xc8\x05HELLO", os.urandom(200))
        while not self._stop.is_set():
            for number in range(20):
                copycat_port, gossip_port = self._ports[self.connections % len(self._ports)]
                with contextlib.suppress(OSError):
                    one = socket.create_connection(
                        ("127.0.0.1", copycat_port if number % 2 else gossip_port), timeout=0.2
                    )
                    held.append(one)
                    one.sendall(beginnings[self.connections % len(beginnings)])
                self.connections += 1
            while len(held) > 200:
                held.pop(0).close()
            self._stop.wait(0.05)
        for one in held:
            one.close()

    def _flood(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flood:
            while not self._stop.is_set():
                for _, gossip_port in self._ports:
                    for _ in range(10):
                        flood.sendto(os.urandom(300), ("127.0.0.1", gossip_port))
                        self.datagrams += 1
                self._stop.wait(0.01)

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


FLOOD = """
import sys, zmq
from zmq.auth import load_certificate
_, secret, directory, *targets = sys.argv
public_key, secret_key = load_certificate(secret)
context = zmq.Context()
callers = []
for target in targets:
    owner, port = target.split("=")
    caller = context.socket(zmq.DEALER)
    caller.set(zmq.LINGER, 0)
    caller.set(zmq.CURVE_PUBLICKEY, public_key)
    caller.set(zmq.CURVE_SECRETKEY, secret_key)
    caller.set(zmq.CURVE_SERVERKEY, load_certificate(f"{directory}/{owner}.key")[0])
    caller.connect(f"tcp://127.0.0.1:{port}")
    callers.append(caller)
print("at it", flush=True)
while True:
    for caller in callers:
        try:
            for _ in range(100):
                caller.send_multipart([b"\\1", b"nonsense" * 8], zmq.NOBLOCK)
        except zmq.Again:
            pass
"""
"""A member's process gone mad: as much as it can, to all. With the ids that nodes have, it would be no different."""


class Flooder:
    """A trusted member in a process of its own."""

    def __init__(self, keys: KeyFiles, name: str, targets: dict[str, int]) -> None:
        arguments = [f"{owner}={port}" for owner, port in targets.items()]
        self._process = subprocess.Popen(
            [sys.executable, "-c", FLOOD, str(keys.secret(name)), str(keys.trusted), *arguments],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "at it\n"

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


def share_held(copy: ListCopy) -> float:
    """Offer so many proposals a second; which part of them was committed when the last was offered."""
    before = len(copy.items)
    began = time.monotonic()
    steps = int(ROUND_S / STEP_S)
    for step in range(steps):
        copy.sub.propose.send_many([b"x" * 16] * ITEMS_A_STEP)
        # The pace is what is offered, not a wait for something.
        time.sleep(max(began + (step + 1) * STEP_S - time.monotonic(), 0.0))
    committed = len(copy.items) - before
    copy.sub.flush(PATIENCE_S)
    return committed / (steps * ITEMS_A_STEP)


def keeps_up(copy: ListCopy, attack: Callable[[], Attacker | Flooder]) -> list[float]:
    """What the load had beside the attacker of what it had without, until once it was as good as all."""
    ratios: list[float] = []
    while len(ratios) < ROUNDS_MAX and not any(ratio >= SHARE_MIN for ratio in ratios):
        alone = share_held(copy)
        attacker = attack()
        try:
            beside = share_held(copy)
        finally:
            attacker.end()
        ratios.append(beside / alone)
    return ratios


@pytest.fixture
def copy(zeromq_cluster: NodeCluster, keys: KeyFiles) -> Iterator[ListCopy]:
    """Of a group on three nodes with keys."""
    nodes = start_keyed(zeromq_cluster, keys, "a", "b", "c")
    group = zeromq_cluster.group(nodes[0], replicas=3)
    copy = ListCopy(nodes[0], group)
    yield copy
    assert {member.state for node in nodes for member in node.members()} == {"alive"}
    copy.close()


@pytest.mark.slow
def test_a_load_is_held_beside_someone_without_keys(zeromq_cluster: NodeCluster, copy: ListCopy) -> None:
    addresses = [node._engine.address for node in zeromq_cluster.nodes]
    ports = [(address.copycat_port, address.gossip_port) for address in addresses]
    attackers: list[Attacker] = []

    def attack() -> Attacker:
        attackers.append(Attacker(ports))
        return attackers[-1]

    ratios = keeps_up(copy, attack)
    assert max(ratios) >= SHARE_MIN, ratios
    assert all(attacker.connections and attacker.datagrams for attacker in attackers)


@pytest.mark.slow
def test_a_load_is_held_beside_a_member_that_floods(
    zeromq_cluster: NodeCluster, keys: KeyFiles, copy: ListCopy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zeromq_pace, "FRAMES_PER_S_MAX", 2_000)  # these three share one interpreter's lock
    monkeypatch.setattr(zeromq_pace, "SHUT_OUT_S", 60.0)  # what it costs to be flooded once is not what is asked
    keys.make("mallory")
    nodes = zeromq_cluster.nodes
    wait_until(lambda: all("mallory" in trusted_by(node) for node in nodes), "the member is known")
    targets = {name: node._engine.address.copycat_port for name, node in zip("abc", nodes, strict=True)}

    def attack() -> Flooder:
        return Flooder(keys, "mallory", targets)

    first = attack()
    try:
        wait_until(lambda: all(gate_of(node).floods > 0 for node in nodes), "each has shut it out")
    finally:
        first.end()
    ratios = keeps_up(copy, attack)
    assert max(ratios) >= SHARE_MIN, ratios
    assert all(gate_of(node).refused > 0 for node in nodes), "it came again, and was not let in"


def trusted_by(node: CopyCat) -> set[str]:
    credentials = node._engine.credentials
    assert credentials is not None
    return set(credentials._held.trusted.owners.values())


def gate_of(node: CopyCat) -> Gate:
    transport = node._engine.transport._transport  # type: ignore[attr-defined]
    return transport._gate  # type: ignore[no-any-return]
