"""Gathers the writes of all connections into few operations of the log, and brings each answer back to who waits for it.

While some operations are under way, what comes meanwhile waits and travels together: batches grow by themselves when there is
more to do. One event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from copycat.errors import CopyCatError
from copycat.examples.redis_server.keyspace import Keyspace, Line

UNDER_WAY_MAX = 8
BATCH_LINES_MAX = 2048
BATCH_BYTES_MAX = 256 * 1024
"""Of one operation, unless a single run is longer."""

Done = Callable[[Any, "CopyCatError | None"], None]


@dataclass(slots=True)
class Run:
    """Commands of one connection that are done without anything between them."""

    protocol: int
    lines: list[Line]
    size: int
    watched: list[list[Any]] | None
    done: Done


class Batcher:
    """``batches`` counts the operations, ``lines`` the commands in them."""

    def __init__(self, keyspace: Keyspace) -> None:
        self._keyspace = keyspace
        self._waiting: list[Run] = []
        self._under_way: set[asyncio.Task[None]] = set()
        self._due = False
        self.batches = 0
        self.lines = 0

    def add(self, run: Run) -> None:
        """``done`` is called with the answer or the error, never from within this call."""
        self._waiting.append(run)
        if not self._due and len(self._under_way) < UNDER_WAY_MAX:
            self._due = True
            asyncio.get_running_loop().call_soon(self._send)

    def _send(self) -> None:
        self._due = False
        while self._waiting and len(self._under_way) < UNDER_WAY_MAX:
            batch: list[Run] = []
            lines = size = 0
            for run in self._waiting:
                if batch and (lines + len(run.lines) > BATCH_LINES_MAX or size + run.size > BATCH_BYTES_MAX):
                    break
                batch.append(run)
                lines += len(run.lines)
                size += run.size
            del self._waiting[: len(batch)]
            self.batches += 1
            self.lines += lines
            task = asyncio.get_running_loop().create_task(self._carry(batch))
            self._under_way.add(task)
            task.add_done_callback(self._carried)

    async def _carry(self, batch: list[Run]) -> None:
        answers: list[Any] = [None] * len(batch)
        failure: CopyCatError | None = None
        try:
            answers = await self._keyspace.write.aio(
                now_ms(), [[run.protocol, run.lines, run.watched] for run in batch]
            )
        except CopyCatError as error:
            failure = error
        for run, answer in zip(batch, answers, strict=True):
            run.done(answer, failure)

    def _carried(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        if self._waiting:
            self._send()


def now_ms() -> int:
    return time.time_ns() // 1_000_000
