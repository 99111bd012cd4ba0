"""What the transport contract works with: nodes that remember what they polled, and waits with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from copycat.ports import Address, Inbound, Lane, Transport

_T = TypeVar("_T")

DEADLINE_S = 20.0
FRAME_BYTES_MAX = 4 << 20
UNSEEN_FRAMES_MAX = 50_000  # more than any bounded queue may hold
STALL_S = 2.0  # a call that "never waits" is not measured, only told from one that does


class Node:
    """A transport that is open, with a memory of what it has polled."""

    def __init__(self, transport: Transport, host: str, address: Address, frame_bytes_max: int) -> None:
        self.transport = transport
        self.address = transport.open(host, address, frame_bytes_max)
        self.seen: list[Inbound] = []

    def poll(self, timeout_s: float = 0.02) -> None:
        self.seen += self.transport.poll(timeout_s)

    def payloads(self, lane: Lane) -> list[list[bytes]]:
        return [inbound.parts for inbound in self.seen if inbound.lane is lane]


def until(condition: Callable[[], bool], *nodes: Node) -> None:
    """Poll ``nodes`` until ``condition`` holds; fail at the deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE_S} s; seen: {[node.seen[-3:] for node in nodes]}"
        if not nodes:
            time.sleep(0.01)
        for node in nodes:
            node.poll()


class Nodes:
    """Makes nodes for one test and closes them after it."""

    def __init__(self, make: Callable[[], Transport], host: str) -> None:
        self._make = make
        self._host = host
        self._transports: list[Transport] = []

    def new(self, address: Address | None = None, frame_bytes_max: int = FRAME_BYTES_MAX) -> Node:
        return self.open(self._make(), address, frame_bytes_max)

    def open(
        self, transport: Transport, address: Address | None = None, frame_bytes_max: int = FRAME_BYTES_MAX
    ) -> Node:
        self._transports.append(transport)
        return Node(transport, self._host, address or Address(self._host, 0, 0), frame_bytes_max)

    def free_address(self) -> Address:
        """An address that was free a moment ago."""
        node = self.new()
        node.transport.close()
        return node.address

    def connected_pair(self, lane: Lane = Lane.RAFT) -> tuple[Node, Node]:
        """Two nodes; the first reaches the second as ``b``, and has seen that it does. Nothing is under way."""
        a, b = self.new(), self.new()
        a.transport.connect("b", b.address)
        until(lambda: a.transport.send(lane, "b", [b"connected"]), a)
        until(lambda: [b"connected"] in b.payloads(lane), b)
        return a, b

    def deliver(self, sender: Node, receiver: Node, lane: Lane, parts: list[bytes], node_id: str = "b") -> None:
        """Send ``parts`` until they have arrived."""
        deadline = time.monotonic() + DEADLINE_S
        while parts not in receiver.payloads(lane):
            assert time.monotonic() < deadline, f"{parts[0][:20]!r} did not arrive on {lane.name}"
            sender.transport.send(lane, node_id, parts)
            receiver.poll()

    def spread(self, publisher: Node, parts: list[bytes], *subscribers: Node) -> None:
        """Publish ``parts`` until all ``subscribers`` have them."""
        deadline = time.monotonic() + DEADLINE_S
        while not all(parts in subscriber.payloads(Lane.GOSSIP) for subscriber in subscribers):
            assert time.monotonic() < deadline, f"{parts[0][:20]!r} did not reach every subscriber"
            publisher.transport.publish(parts)
            for subscriber in subscribers:
                subscriber.poll()

    def fling(self, sender: Node, receiver: Node, data: bytes) -> Inbound:
        """Send a datagram until it has arrived."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            for inbound in receiver.seen:
                if inbound.lane is Lane.HEARTBEAT and inbound.parts == [data]:
                    return inbound
            assert time.monotonic() < deadline, f"{data[:20]!r} did not arrive"
            sender.transport.send_datagram(receiver.address.hostname, receiver.address.gossip_port, data)
            receiver.poll()

    def close(self) -> None:
        for transport in self._transports:
            transport.close()
        self._transports.clear()


def quiet(node: Node) -> Callable[[], bool]:
    """True once nothing has come for a while: what was under way has arrived."""

    def nothing_came() -> bool:
        before = len(node.seen)
        node.poll(0.1)
        return len(node.seen) == before

    return nothing_came


def at_once(call: Callable[[], _T]) -> _T:
    """Fail if ``call`` waits for something."""
    return _within(call, STALL_S)


def before_deadline(call: Callable[[], _T]) -> _T:
    """Fail if ``call`` comes back only because its own time-out, the deadline, is over."""
    return _within(call, DEADLINE_S / 2)


def _within(call: Callable[[], _T], limit_s: float) -> _T:
    began = time.monotonic()
    result = call()
    took_s = time.monotonic() - began
    assert took_s < limit_s, f"waited {took_s:.1f} s"
    return result
