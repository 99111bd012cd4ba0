"""A distributed hash map: the README's example, whole.

Every process that makes a :class:`HashMap` of the same id holds a full copy. Changes go down the propose channel and come
back on the commit channel, in one order on every copy; only then do they show. The map never changes itself on ``put``.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping
from types import TracebackType

import copycat
from copycat.errors import Timeout

logger = logging.getLogger(__name__)


class HashMap:
    """A map from text to text, the same on every node that subscribes to ``id``. Safe to use from any thread.

    Reads are local, and so may be behind; :meth:`sync` first makes them current.
    """

    def __init__(self, cat: copycat.CopyCat, id: copycat.DataStructureId, timeout: float = 10.0) -> None:  # noqa: A002
        self._data: dict[str, str] = {}
        self._applied = 0
        self._changed = threading.Condition()
        self.subscription = cat.subscribe_to_data_structure(id, self._take_snapshot, timeout=timeout)
        self._propose, self._commits, self._errors, self._snapshot_consumer = self.subscription
        self._threads = [
            threading.Thread(target=self._serve_commits, name="hash-map-commits", daemon=True),
            threading.Thread(target=self._serve_errors, name="hash-map-errors", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def get(self, key: str) -> str | None:
        """The value of ``key`` in this copy, or None."""
        with self._changed:
            return self._data.get(key)

    def items(self) -> dict[str, str]:
        """A copy of everything in this copy."""
        with self._changed:
            return dict(self._data)

    def put(self, key: str, value: str) -> None:
        """Ask for ``key`` to be set; returns once that is on its way."""
        self._propose.send(_encode("put", key, value))

    def update(self, changes: Mapping[str, str]) -> None:
        """Ask for many keys to be set, in order, at a fraction of the cost of many :meth:`put`."""
        self._propose.send_many([_encode("put", key, value) for key, value in changes.items()])

    def delete(self, key: str) -> None:
        """Ask for ``key`` to be removed; returns once that is on its way."""
        self._propose.send(_encode("delete", key))

    def flush(self, timeout: float = 10.0) -> None:
        """Wait until every change that was asked for here is committed."""
        self.subscription.flush(timeout)

    def sync(self, timeout: float = 10.0) -> None:
        """Wait until this copy holds everything that was committed anywhere before the call."""
        self.subscription.barrier(timeout)
        handed_out = self._commits.position
        with self._changed:
            if not self._changed.wait_for(lambda: self._applied >= handed_out, timeout):
                raise Timeout(f"the map has applied {self._applied} of {handed_out} changes after {timeout} s")

    def close(self) -> None:
        """Detach from the data structure; the other copies go on. May be called twice."""
        self.subscription.close()
        for thread in self._threads:
            thread.join(timeout=5.0)

    def __enter__(self) -> HashMap:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _serve_commits(self) -> None:
        for data in self._commits:
            with self._changed:
                if data is None:
                    self._load(self._snapshot_consumer())
                else:
                    self._apply(data)
                self._applied = self._commits.position
                self._changed.notify_all()

    def _serve_errors(self) -> None:
        for error in self._errors:
            logger.error("a change was not made", exc_info=error)

    def _apply(self, data: bytes) -> None:
        operation, key, *values = json.loads(data)
        if operation == "put":
            self._data[key] = values[0]
        else:
            self._data.pop(key, None)

    def _take_snapshot(self) -> bytes:
        """Called on the thread that receives commits, so the map is exactly what was handed out so far."""
        return json.dumps(self._data).encode()

    def _load(self, snapshot: bytes) -> None:
        self._data = json.loads(snapshot)


def _encode(*change: str) -> bytes:
    return json.dumps(change).encode()
