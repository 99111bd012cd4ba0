"""A load beside somebody without keys who does his worst: it goes on.

By turns with and without him, and the sums compared, so that it doesn't matter how fast the machine is or what else it
does. The bound is wide, because the attacker has the same processors.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from copycat.testing.nodes import PATIENCE_S, ListCopy, NodeCluster, wait_until

from .kit import KeyFiles

ROUNDS = 4
ROUND_S = 0.6
SHARE_MIN = 0.3
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


@contextlib.contextmanager
def attack(ports: list[tuple[int, int]]) -> Iterator[Attacker]:
    attacker = Attacker(ports)
    try:
        yield attacker
    finally:
        attacker.end()


def commits_in(copy: ListCopy, seconds: float) -> int:
    """How many proposals were committed in about that time, so many in flight at once."""
    before = len(copy.items)
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        copy.sub.propose.send_many([b"x" * 16] * 50)
        copy.sub.flush(PATIENCE_S)
    return len(copy.items) - before


@pytest.mark.slow
def test_a_load_goes_on_beside_someone_without_keys(zeromq_cluster: NodeCluster, keys: KeyFiles) -> None:
    fields: list[dict[str, Any]] = [keys.make(name) for name in ("a", "b", "c")]
    nodes = [zeromq_cluster.node(**one) for one in fields]
    wait_until(lambda: all(sum(m.state == "alive" for m in n.members()) == 3 for n in nodes), "all see all")
    group = zeromq_cluster.group(nodes[0], replicas=3)
    copy = ListCopy(nodes[0], group)
    addresses = [node._engine.address for node in nodes]
    ports = [(address.copycat_port, address.gossip_port) for address in addresses]
    alone = beside = 0
    attackers = []
    for _ in range(ROUNDS):
        alone += commits_in(copy, ROUND_S)
        with attack(ports) as attacker:
            beside += commits_in(copy, ROUND_S)
        attackers.append(attacker)
    assert all(attacker.connections and attacker.datagrams for attacker in attackers)
    assert beside >= SHARE_MIN * alone
    assert {member.state for node in nodes for member in node.members()} == {"alive"}
    copy.close()
