"""Who gives snapshots away does so at the configured rate, once for each chunk that is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from copycat.config import Config
from copycat.protocol import Chunk, ChunkAsk, ChunkGone
from copycat.transfer import WINDOW_CHUNKS, ChunkServer

GROUP = bytes(16)
GENERATION = 7


@dataclass
class Slots:
    """A snapshot of equal chunks."""

    chunk: bytes
    count: int
    retained: int = 0

    @property
    def current(self) -> Any:
        return self

    generation = GENERATION

    @property
    def chunk_count(self) -> int:
        return self.count

    def retain(self, generation: int) -> None:
        self.retained += 1

    def release(self, generation: int) -> None:
        self.retained -= 1

    def read_chunk(self, generation: int, number: int) -> bytes:
        return self.chunk


class Node:
    """What a chunk server sees of an engine, and of the one group on it."""

    def __init__(self, slots: Slots, **fields: Any) -> None:
        self.config = Config(**fields)
        self.handlers: dict[type, Any] = {}
        self.now = 0.0
        self.sent: list[tuple[str, int]] = []
        self.refuses: set[str] = set()
        self.replies: list[object] = []
        self.hosting = self
        self.snapshots = self
        self.store = _Store(slots)
        self.id = GROUP
        self.groups = {GROUP: self}
        self.server = ChunkServer(self)  # type: ignore[arg-type]

    def still_sending(self, node_id: str) -> None: ...

    def send(self, node_id: str, message: object) -> None:
        self.replies.append(message)

    def send_bulk(self, node_id: str, chunk: Chunk) -> bool:
        if node_id in self.refuses:
            return False
        self.sent.append((node_id, chunk.number))
        return True

    def ask(self, node_id: str, first: int, count: int = WINDOW_CHUNKS, generation: int = GENERATION) -> None:
        self.handlers[ChunkAsk](node_id, ChunkAsk(GROUP, generation, first, count))

    def tick(self) -> None:
        self.now += self.config.tick_ms / 1000
        self.server.tick()


@dataclass
class _Store:
    snapshots: Slots
    waste: list[int] = field(default_factory=list)


@pytest.mark.parametrize("bytes_per_s", [20_000, 1_000_000, 50_000_000])
def test_the_rate_holds_whatever_a_chunk_weighs(bytes_per_s: int) -> None:
    chunk = bytes(256 << 10)
    node = Node(Slots(chunk, 1 << 20), snapshot_bytes_per_s=bytes_per_s)
    wanted = [0, 0, 0]
    for _ in range(4000):
        for at in range(3):  # three who always want more, and repeat themselves
            name = f"n{at}"
            wanted[at] = sum(1 for to, _ in node.sent if to == name)
            node.ask(name, wanted[at])
        node.tick()
        if len(node.sent) > 300:
            break
    sent = len(node.sent) * len(chunk)
    fair = bytes_per_s * node.now
    assert sent <= fair + len(chunk) + bytes_per_s * node.config.tick_ms / 1000
    assert sent >= 0.9 * fair - len(chunk)
    for at in range(3):
        mine = [number for to, number in node.sent if to == f"n{at}"]
        assert mine == list(range(len(mine))), "a chunk went twice, or out of order"
        assert len(mine) >= len(node.sent) // 4 - WINDOW_CHUNKS, "one was served before others"


def test_one_that_takes_nothing_holds_up_nobody_and_may_ask_again() -> None:
    node = Node(Slots(bytes(1000), 100))
    node.refuses.add("stuck")
    node.ask("stuck", 0)
    node.ask("free", 0)
    for _ in range(100):
        node.tick()
    assert [to for to, _ in node.sent] == ["free"] * WINDOW_CHUNKS
    node.refuses.clear()
    node.ask("stuck", 0)
    node.tick()
    assert [number for to, number in node.sent if to == "stuck"] == list(range(WINDOW_CHUNKS))


def test_a_snapshot_is_kept_while_it_is_asked_for_and_let_go_afterwards() -> None:
    slots = Slots(bytes(10), 5)
    node = Node(slots)
    node.ask("n1", 0)
    assert slots.retained == 1
    node.ask("n1", 0, generation=GENERATION + 1)
    assert node.replies == [ChunkGone(GROUP, GENERATION + 1)]
    for _ in range(int(61.0 / (node.config.tick_ms / 1000))):
        node.tick()
    assert slots.retained == 0
    node.ask("n1", 3, 100)
    assert node.sent[-2:] == [("n1", 3), ("n1", 4)], "asked for beyond the end"
