"""Whole nodes in one process, for integration tests: clusters of them, and a consumer that keeps what it is handed.

Every wait has a deadline, generous because nothing but a failure comes near it, and is for an event where there is one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from copycat.channels.commit import CommitChannel
from copycat.config import Config
from copycat.errors import Closed
from copycat.node import CopyCat
from copycat.subscription import Subscription

PATIENCE_S = 30.0
POLL_S = 0.005


def wait_until(holds: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> None:
    """Look again and again, for what no event tells. Raises AssertionError."""
    deadline = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < deadline, f"not within {patience_s} s: {what}"
        time.sleep(POLL_S)


def library_threads() -> list[threading.Thread]:
    """Threads that nodes of this process run, or left behind."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("copycat-")]


class NodeCluster:
    """Makes nodes that find each other, in directories of their own, and shuts them down in the end."""

    def __init__(self, directory: Path, transport: str, storage: str) -> None:
        self.nodes: list[CopyCat] = []
        self.directory = directory
        self.storage = storage
        self.transport = transport
        self._made = 0

    def config(self, **fields: Any) -> Config:
        """Of another node of this cluster; ``fields`` win over what it would be given."""
        self._made += 1
        defaults: dict[str, Any] = {
            "copycat_port": 0,
            "gossip_port": 0,
            "gossip_profile": "local",
            "tick_ms": 30,
            "transport": self.transport,
            "storage": self.storage,
            "data_dir": str(self.directory / f"node-{self._made}"),
            "peers_to_contact": [node.address for node in self.nodes[:1]],
        }
        return Config(**{**defaults, **fields})

    def node(self, **fields: Any) -> CopyCat:
        """Start one more."""
        node = CopyCat(self.config(**fields))
        self.nodes.append(node)
        return node

    def start(self, count: int, **fields: Any) -> list[CopyCat]:
        """Start ``count`` more, and wait until all know all."""
        started = [self.node(**fields) for _ in range(count)]
        for node in self.nodes:
            wait_until(lambda node=node: self._sees_all(node), "every node sees every other")  # type: ignore[misc]
        return started

    def _sees_all(self, node: CopyCat) -> bool:
        return sum(member.state == "alive" for member in node.members()) >= len(self.nodes)

    def group(self, node: CopyCat, **wish: Any) -> Any:
        """The id of a new group that has a leader."""
        allocation = node.allocate_new_data_structure(timeout=PATIENCE_S, **wish)
        allocation.wait(PATIENCE_S)
        return allocation.id

    def stop(self, node: CopyCat) -> None:
        """Shut one down; it no longer belongs to the cluster."""
        self.nodes.remove(node)
        node.shutdown()

    def close(self) -> None:
        """Shut all down, one after the other, the last started first."""
        for node in reversed(self.nodes):
            node.shutdown()

    def __enter__(self) -> NodeCluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def pack_list(items: Iterable[bytes]) -> Iterator[bytes]:
    """A list of byte strings in many pieces of odd sizes, as a snapshot provider may return it."""
    for item in items:
        yield len(item).to_bytes(4, "big") + item


def unpack_list(data: bytes) -> list[bytes]:
    """The reverse, of the pieces joined."""
    items = []
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        items.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    assert at == len(data), "a snapshot that was cut off"
    return items


class ListCopy:
    """The simplest replicated structure: a list of all items, which its consumer's own thread keeps up to date.

    Its snapshot holds the list, so it checks by itself that snapshots and items fit together at every position.
    """

    def __init__(self, node: CopyCat, group: Any, receive_many: int = 0, timeout: float = PATIENCE_S) -> None:
        self.items: list[bytes] = []
        self.loads = 0
        """Snapshots that were loaded."""
        self.snapshots = 0
        """Snapshots that were made."""
        self.failure: BaseException | None = None
        self._many = receive_many
        self._changed = threading.Condition()
        self.sub: Subscription = node.subscribe_to_data_structure(group, self._provide, timeout=timeout)
        self._thread = threading.Thread(target=self._run, name="list-copy", daemon=True)
        self._thread.start()

    def wait(self, count: int, patience_s: float = PATIENCE_S) -> list[bytes]:
        """The items, once there are so many. Patience ends when nothing has come for so long."""
        came = -1
        with self._changed:
            while len(self.items) < count and self.failure is None and came != len(self.items):
                came = len(self.items)
                self._changed.wait_for(partial(self._moved_on, came), patience_s)
        assert self.failure is None, repr(self.failure)
        assert len(self.items) >= count, f"{len(self.items)} of {count} items came"
        return self.items

    def close(self) -> None:
        """Detach, and wait until the thread has ended."""
        self.sub.close()
        self.join()

    def join(self) -> None:
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive(), "the commit channel never ended"
        assert self.failure is None, repr(self.failure)

    def _moved_on(self, came: int) -> bool:
        return len(self.items) != came or self.failure is not None

    def _provide(self) -> Iterator[bytes]:
        assert threading.current_thread() is self._thread, "the provider runs on the consumer's thread"
        assert len(self.items) == self.sub.commits.position, "the state is what was handed out so far"
        self.snapshots += 1
        return pack_list(self.items)

    def _run(self) -> None:
        commits = self.sub.commits
        try:
            while True:
                items = commits.receive_many(self._many) if self._many else [commits.receive()]
                with self._changed:
                    self._take(items)
                    self._changed.notify_all()
        except Closed:
            pass
        except BaseException as error:
            self.failure = error
            with self._changed:
                self._changed.notify_all()

    def _take(self, items: Sequence[bytes | None]) -> None:
        for item in items:
            if item is None:
                self.items = unpack_list(self.sub.snapshot_consumer())
                self.loads += 1
            else:
                self.items.append(item)
        assert len(self.items) == self.sub.commits.position, "a position was skipped or repeated"


def take(commits: CommitChannel, count: int) -> list[bytes | None]:
    """Exactly so many from the channel."""
    got: list[bytes | None] = []
    while len(got) < count:
        piece = commits.receive_many(count - len(got), PATIENCE_S)
        assert piece, f"{len(got)} of {count} items came"
        got += piece
    return got
