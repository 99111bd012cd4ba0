"""The thin edge between an engine and the world: two threads, real time, and nothing that decides.

The engine's thread waits for frames or a wake-up, runs a turn, and hands the turn's write to the writer's thread, which
merges all that waits into one batch and syncs it once. So the disk is busy while the engine goes on, and batches grow
by themselves when the disk is what everybody waits for.
"""

from __future__ import annotations

import logging
import threading
import time
from queue import SimpleQueue

from copycat.channels.waiting import mark_own_thread
from copycat.engine import Engine, Write
from copycat.errors import CopyCatError, NodeFailure, StorageFailed
from copycat.ports import Storage, Transport, WriteBatch

log = logging.getLogger(__name__)

POLL_S_MAX = 1.0
MERGE_BYTES_MAX = 8 << 20
WRITER_ENDS_S = 8.0
"""How long the end of a node waits for the last write."""


class Runtime:
    """Drives one engine. ``start`` and ``stop`` from any thread, ``stop`` repeatedly."""

    def __init__(self, engine: Engine, transport: Transport, storage: Storage) -> None:
        self._engine = engine
        self._transport = transport
        self._storage = storage
        self._writes: SimpleQueue[Write | None] = SimpleQueue()
        self._stopping = False
        self._writer_ended = threading.Event()
        self.ended = threading.Event()
        self._engine_thread = threading.Thread(target=self._run_engine, name="copycat-engine", daemon=True)
        self._writer_thread = threading.Thread(target=self._run_writer, name="copycat-writer", daemon=True)

    def start(self) -> None:
        self._engine_thread.start()
        self._writer_thread.start()

    def stop(self, timeout: float) -> bool:
        """End both threads and release transport and storage; False if they are still busy after ``timeout`` seconds.

        Called from one of the threads themselves, it only asks them to end.
        """
        self._stopping = True
        if not self.ended.is_set():
            self._transport.wake()
        if threading.current_thread() in (self._engine_thread, self._writer_thread):
            return False
        ended = self.ended.wait(timeout)
        if ended:
            self._engine_thread.join(timeout)
        return ended

    def _run_engine(self) -> None:
        mark_own_thread()
        engine = self._engine
        transport = self._transport
        try:
            engine.start(time.monotonic())
            while not self._stopping:
                now = time.monotonic()
                wait = 0.0 if engine.busy else min(POLL_S_MAX, max(0.0, engine.next_deadline() - now))
                inbound = transport.poll(wait)
                engine.turn(time.monotonic(), inbound)
                write = engine.take_write()
                if write is not None:
                    self._writes.put(write)
        except NodeFailure as error:
            self._failed(error)
        except Exception as error:
            log.exception("the engine failed: this is a bug in CopyCat")
            failure = NodeFailure(f"the engine failed: {error!r}")
            failure.__cause__ = error
            self._failed(failure)
        finally:
            self._end()

    def _run_writer(self) -> None:
        engine = self._engine
        writes = self._writes
        try:
            while True:
                write = writes.get()
                if write is None:
                    return
                merged = [write]
                size = write.size
                while size < MERGE_BYTES_MAX and not writes.empty():
                    write = writes.get()
                    if write is None:
                        writes.put(None)
                        break
                    merged.append(write)
                    size += write.size
                started = time.monotonic()
                self._write(merged)
                took = time.monotonic() - started
                engine.post(lambda merged=merged, took=took: engine.written(merged, took))  # type: ignore[misc]
        except CopyCatError as error:
            failure = error if isinstance(error, NodeFailure) else StorageFailed(str(error))
            self._failed(failure)
        except Exception as error:
            failure = StorageFailed(f"the storage failed with an error it should have translated: {error!r}")
            failure.__cause__ = error
            self._failed(failure)
        finally:
            self._writer_ended.set()

    def _write(self, merged: list[Write]) -> None:
        if len(merged) == 1:
            batch = merged[0].batch
        else:
            batch = WriteBatch([operation for write in merged for operation in write.batch.operations])
        if batch.operations:
            self._storage.write(batch, any(write.sync for write in merged))

    def _failed(self, error: NodeFailure) -> None:
        """Fail-stop: nobody is answered any more, and everybody on this node is told why."""
        log.critical("this node stops: %s", error)
        self._stopping = True
        self._engine.failed = error
        self._transport.wake()

    def _end(self) -> None:
        """Let the writer finish what it was given, tell everybody, and release what is held."""
        self._stopping = True
        try:
            self._writes.put(None)
            self._writer_ended.wait(WRITER_ENDS_S)
            self._engine.end()
        except Exception:
            log.exception("the engine did not end cleanly")
        finally:
            self._transport.close()
            if self._writer_ended.is_set():
                self._storage.close()
            else:
                log.critical("a write does not come back: the database stays open until this process ends")
            self.ended.set()
