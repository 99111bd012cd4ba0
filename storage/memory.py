"""A storage without a disk: contents live as long as the process, one set for each data directory's path.

For tests and for nodes that may forget. A node that is closed and started again on the same path in one process finds its
data, as it would on a disk; nothing is ever created in the file system, and nothing survives the process.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

from copycat.errors import StorageFailed, StorageLocked
from copycat.ports import WriteBatch
from copycat.storage.sorted_map import SortedMap


class _Contents:
    """What one data directory holds. Its lock makes each batch and each scan one step for other threads."""

    __slots__ = ("held", "lock", "pairs")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.pairs = SortedMap()
        self.held = False


_contents: dict[Path, _Contents] = {}
_contents_lock = threading.Lock()


class MemoryStorage:
    """See :class:`copycat.ports.Storage`. Thread-safe throughout."""

    __slots__ = ("_contents",)

    def __init__(self) -> None:
        self._contents: _Contents | None = None

    def open(self, data_dir: Path) -> None:
        with _contents_lock:
            contents = _contents.setdefault(data_dir.resolve(), _Contents())
            if contents.held or self._contents is not None:
                raise StorageLocked(
                    f"data directory {data_dir} is open in another instance in this process; close that, "
                    "or use another data_dir"
                )
            contents.held = True
            self._contents = contents

    def write(self, batch: WriteBatch, sync: bool) -> None:
        contents = self._opened()
        with contents.lock:
            contents.pairs.apply(batch.operations)

    def get(self, key: bytes) -> bytes | None:
        contents = self._opened()
        with contents.lock:
            return contents.pairs.get(key)

    def scan(self, start: bytes, stop: bytes, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        contents = self._opened()
        with contents.lock:
            pairs = contents.pairs.range(start, stop)
        if reverse:
            pairs.reverse()
        return self._while_open(pairs)

    def close(self) -> None:
        with _contents_lock:
            contents, self._contents = self._contents, None
            if contents is not None:
                contents.held = False

    def _opened(self) -> _Contents:
        contents = self._contents
        if contents is None:
            raise StorageFailed("the storage is closed: open it before reading or writing")
        return contents

    def _while_open(self, pairs: list[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
        for pair in pairs:
            self._opened()
            yield pair


def forget(data_dir: Path) -> None:
    """Drop what ``data_dir`` held, as if its disk had been wiped.

    Raises :class:`~copycat.errors.StorageLocked` while it is open.
    """
    with _contents_lock:
        contents = _contents.get(data_dir.resolve())
        if contents is not None and contents.held:
            raise StorageLocked(f"data directory {data_dir} is open: close its node before wiping it")
        _contents.pop(data_dir.resolve(), None)
