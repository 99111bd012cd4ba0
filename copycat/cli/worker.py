"""A node with a replicated map, as a process of its own that obeys another: ``python -m copycat.cli.worker``.

Requests come on stdin and answers leave on stdout, one JSON object a line: ``{"id": 7, "do": "put", ...}`` is answered by
``{"id": 7, ...}``, or by ``{"id": 7, "error": "Timeout", "message": "..."}`` for a typed error. Each request runs on a thread
of its own, so that one which waits for a leader delays no other; whoever wants an order waits for the answer. When stdin
ends without ``close``, the one who gave the orders is dead, and the process ends at once. See
:mod:`copycat.cli.worker_process` for the other end.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import copycat
from copycat.cli.logs import logging_to_stderr
from copycat.errors import Closed, CopyCatError, Timeout
from copycat.examples.hash_map import HashMap

REQUESTS_AT_ONCE_MAX = 8
HANDED_CHUNK = 2_000
POLL_S = 0.005


class RecordedMap(HashMap):
    """The example's map, which also keeps what it was handed, so that it can be compared."""

    def __init__(self, cat: copycat.CopyCat, id: copycat.DataStructureId, timeout: float) -> None:  # noqa: A002
        self.first_position = 1
        self.handed: list[str] = []
        super().__init__(cat, id, timeout)

    def _load(self, snapshot: bytes) -> None:
        super()._load(snapshot)
        self.first_position = self._commits.position + 1
        self.handed = []

    def _apply(self, data: bytes) -> None:
        self.handed.append(data.decode())
        super()._apply(data)

    @property
    def last_position(self) -> int:
        """Position of the last item that is in the map."""
        with self._changed:
            return self._applied

    def handed_from(self, start: int) -> dict[str, Any]:
        """Position of the first item handed out one by one, how many came since, and a piece of them."""
        with self._changed:
            return {
                "first_position": self.first_position,
                "count": len(self.handed),
                "handed": self.handed[start : start + HANDED_CHUNK],
            }


class Worker:
    """Carries out requests; each public method is one."""

    def __init__(self) -> None:
        self._cat: copycat.CopyCat | None = None
        self._map: RecordedMap | None = None

    @property
    def cat(self) -> copycat.CopyCat:
        if self._cat is None:
            raise Closed("the node is not open")
        return self._cat

    @property
    def map(self) -> RecordedMap:
        if self._map is None:
            raise Closed("no map is open")
        return self._map

    def open(self, config: dict[str, Any]) -> dict[str, Any]:
        self._cat = copycat.CopyCat(copycat.Config(**config))
        return {"node_id": self._cat.node_id}

    def await_members(self, count: int, timeout: float) -> dict[str, Any]:
        """Wait until this node sees ``count`` nodes alive, itself included."""

        def alive() -> int:
            return sum(member.state == "alive" for member in self.cat.members())

        _poll(lambda: alive() >= count, timeout, lambda: f"sees {alive()} of {count} nodes")
        return {}

    def allocate(self, replicas: int, timeout: float) -> dict[str, Any]:
        allocation = self.cat.allocate_new_data_structure(replicas=replicas)
        allocation.wait(timeout=timeout)
        return {"map_id": str(allocation.id)}

    def subscribe(self, map_id: str, timeout: float) -> dict[str, Any]:
        self._map = RecordedMap(self.cat, copycat.DataStructureId.parse(map_id), timeout)
        return {}

    def sync(self, timeout: float) -> dict[str, Any]:
        self.map.sync(timeout)
        return {"size": len(self.map.items())}

    def await_applied(self, position: int, timeout: float) -> dict[str, Any]:
        """Wait until this copy was handed everything up to ``position``."""
        copy = self.map
        _poll(lambda: copy.last_position >= position, timeout, lambda: f"is at {copy.last_position} of {position}")
        return {}

    def put(self, items: dict[str, str], timeout: float) -> dict[str, Any]:
        """Set keys, and answer once that is committed."""
        self.map.update(items)
        self.map.flush(timeout)
        return {}

    def status(self) -> dict[str, Any]:
        status = self.map.subscription.status()
        return {"role": status.role, "leader": status.leader, "term": status.term, "applied": status.applied_position}

    def await_other_leader(self, than: str, timeout: float) -> dict[str, Any]:
        """Wait until this node's raft follows, or is, a leader on another node than ``than``."""

        def leader() -> str | None:
            found: str | None = self.map.subscription.status().leader
            return found

        _poll(lambda: leader() not in (None, than), timeout, lambda: f"leader is {leader()}")
        return {"leader": leader()}

    def items(self) -> dict[str, Any]:
        return {"items": self.map.items()}

    def handed(self, start: int) -> dict[str, Any]:
        return self.map.handed_from(start)

    def close(self) -> dict[str, Any]:
        if self._map is not None:
            self._map.close()
        if self._cat is not None:
            self._cat.shutdown()
        return {}


def _poll(holds: Callable[[], bool], timeout: float, state: Callable[[], str]) -> None:
    deadline = time.monotonic() + timeout
    while not holds():
        if time.monotonic() >= deadline:
            raise Timeout(f"{state()} after {timeout} s")
        time.sleep(POLL_S)


def serve(worker: object) -> None:
    """Carry out requests from stdin, each by the method of ``worker`` that it names, until ``close`` or the end."""
    writing = threading.Lock()

    def answer(request: dict[str, Any]) -> None:
        number, name = request.pop("id"), request.pop("do")
        try:
            reply = getattr(worker, name)(**request)
        except CopyCatError as error:
            reply = {"error": type(error).__name__, "message": str(error)}
        except BaseException as error:  # a bug: end the process, loudly, rather than leave a request without an answer
            sys.excepthook(type(error), error, error.__traceback__)
            os._exit(70)
        with writing:
            sys.stdout.write(json.dumps({"id": number, **reply}) + "\n")
            sys.stdout.flush()

    with ThreadPoolExecutor(REQUESTS_AT_ONCE_MAX, thread_name_prefix="request") as pool:
        for line in sys.stdin:
            request = json.loads(line)
            if request["do"] == "close":
                answer(request)
                return
            pool.submit(answer, request)
        os._exit(1)


def main() -> None:
    with logging_to_stderr("warning"):
        serve(Worker())


if __name__ == "__main__":
    main()
