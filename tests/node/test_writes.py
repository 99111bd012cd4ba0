"""Who carries out a node's writes: the thread that drives the engine or the one beside it, and what a slow disk changes."""

from __future__ import annotations

import random
import threading
import time

import pytest

from copycat.errors import Closed, StorageFailed
from copycat.ports import WriteBatch
from copycat.storage.memory import MemoryStorage
from copycat.subscription import Subscription
from copycat.testing.nodes import PATIENCE_S, NodeCluster, library_threads, wait_until


class Watched(MemoryStorage):
    """Remembers which thread carried out each write, and sees that no write begins while another is under way."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: list[str] = []
        self.overlapped = False
        self._in_hand = threading.Lock()

    def write(self, batch: WriteBatch, sync: bool) -> None:
        if not self._in_hand.acquire(blocking=False):
            self.overlapped = True
        try:
            self.threads.append(threading.current_thread().name)
            self.delay()
            super().write(batch, sync)
        finally:
            self._in_hand.release()

    def delay(self) -> None:
        """How long the disk takes."""


class StuckInItsDriver(Watched):
    """The first write that the engine's own thread carries out, once it is told to, waits until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.trap = threading.Event()
        self.caught = threading.Event()
        self.let_go = threading.Event()
        self.fails = False

    def delay(self) -> None:
        if self.trap.is_set() and not self.caught.is_set() and threading.current_thread().name == "copycat-engine":
            self.caught.set()
            self.let_go.wait(3 * PATIENCE_S)
            if self.fails:
                raise StorageFailed("this disk is broken")


class Irregular(Watched):
    """Mostly fast; now and then slow enough for the threads to change places."""

    def __init__(self) -> None:
        super().__init__()
        self._rng = random.Random(1)
        self._never = threading.Event()

    def delay(self) -> None:
        if self._rng.random() < 0.1:
            self._never.wait(0.05)


def nothing() -> bytes:
    return b""


def lone(cluster: NodeCluster, storage: MemoryStorage) -> Subscription:
    """A group of one, and its consumer."""
    node = cluster.node(storage=storage)
    return node.subscribe_to_data_structure(cluster.group(node, replicas=1), nothing, timeout=PATIENCE_S)


def commit_until(sub: Subscription, event: threading.Event) -> int:
    """Propose one after the other until ``event`` is set; returns how many were sent."""
    deadline = time.monotonic() + PATIENCE_S
    sent = 0
    while not event.is_set():
        assert time.monotonic() < deadline, "the engine's own thread never wrote"
        sub.propose.send(b"%d" % sent)
        sent += 1
        event.wait(0.002)
    return sent


def refuses(sub: Subscription) -> bool:
    try:
        sub.propose.send(b"too late")
    except Closed:
        return True
    return False


def test_a_short_write_is_carried_out_by_the_thread_that_drives(memory_cluster: NodeCluster) -> None:
    storage = Watched()
    sub = lone(memory_cluster, storage)
    deadline = time.monotonic() + PATIENCE_S
    while "copycat-engine" not in storage.threads:
        assert time.monotonic() < deadline
        sub.propose.submit(b"x").result(PATIENCE_S)
    assert "copycat-writer" in storage.threads, "before the disk has shown that it is fast, the writer writes"
    assert not storage.overlapped


def test_a_long_write_is_left_to_the_writer(memory_cluster: NodeCluster) -> None:
    storage = Watched()
    sub = lone(memory_cluster, storage)
    for _ in range(50):
        sub.propose.submit(b"x" * 100_000).result(PATIENCE_S)
    large = storage.threads[-50:]
    assert large.count("copycat-writer") >= 40, "what is written beside it is short"


def test_a_write_that_hangs_in_the_thread_that_drives_stops_neither_time_nor_answers(
    memory_cluster: NodeCluster,
) -> None:
    storage = StuckInItsDriver()
    sub = lone(memory_cluster, storage)
    node = memory_cluster.nodes[0]
    storage.trap.set()
    sent = commit_until(sub, storage.caught)
    try:
        # Only a turn can answer, and the thread that ran all turns so far is stuck.
        assert len(node.members()) == 1
        assert sub.status().role == "leader"
        late = sub.propose.submit(b"behind the stuck write")
        assert not late.done(), "nothing is acknowledged before it is durable"
    finally:
        storage.let_go.set()
    assert late.result(PATIENCE_S) == sent + 1
    assert not storage.overlapped
    handed = [sub.commits.receive(PATIENCE_S) for _ in range(sent + 1)]
    assert handed == [*(b"%d" % number for number in range(sent)), b"behind the stuck write"]
    node.shutdown()
    assert not library_threads()


def test_a_write_that_hangs_and_then_fails_stops_the_node(memory_cluster: NodeCluster) -> None:
    storage = StuckInItsDriver()
    storage.fails = True
    sub = lone(memory_cluster, storage)
    storage.trap.set()
    commit_until(sub, storage.caught)
    assert len(memory_cluster.nodes[0].members()) == 1
    storage.let_go.set()
    error = sub.errors.receive(PATIENCE_S)
    while not isinstance(error, StorageFailed):
        error = sub.errors.receive(PATIENCE_S)
    with pytest.raises(Closed):
        sub.propose.send(b"x")


def test_the_node_ends_while_a_write_hangs_in_the_thread_that_drove(memory_cluster: NodeCluster) -> None:
    storage = StuckInItsDriver()
    sub = lone(memory_cluster, storage)
    storage.trap.set()
    commit_until(sub, storage.caught)
    ending = threading.Thread(target=memory_cluster.nodes[0].shutdown)
    ending.start()
    wait_until(lambda: refuses(sub), "the end has begun")
    storage.let_go.set()
    ending.join(PATIENCE_S)
    assert not ending.is_alive()
    assert not library_threads()


def test_however_often_the_threads_change_places_writes_keep_their_order(memory_cluster: NodeCluster) -> None:
    storage = Irregular()
    sub = lone(memory_cluster, storage)
    for number in range(100):
        sub.propose.send(b"%d" % number)
        if number % 10 == 0:
            sub.propose.flush(PATIENCE_S)
    sub.propose.flush(PATIENCE_S)
    assert [sub.commits.receive(PATIENCE_S) for _ in range(100)] == [b"%d" % number for number in range(100)]
    assert not storage.overlapped
    assert {"copycat-engine", "copycat-writer"} <= set(storage.threads)
