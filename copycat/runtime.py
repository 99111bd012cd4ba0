"""The thin edge between an engine and the world: two threads, real time, and nothing that decides.

One thread drives: it waits for frames or a wake-up, and runs a turn. The other one writes: it carries out the writes that
turns leave, merges all that waits into one batch and syncs it once. So the disk is busy while the engine goes on, and batches
grow by themselves when the disk is what everybody waits for.

Where nothing else waits, that division only costs: two threads have to be woken for each write. So the thread that drives
carries out a short write itself, as long as no other is under way and the last ones were all fast. What if the disk
stands still just then? The other thread looks every ``WATCH_S`` whether such a write is taking long, and if it is, drives
on in its place; the first one becomes the writer with the write that it has in hand. So time never stands still for longer than
twice ``WATCH_S`` (and what the system takes to run a thread), which is a fraction of a tick, and whoever watches over the
disk (:mod:`copycat.stewardship`) goes on watching. The threads change places, the order of writes doesn't: none is begun
before the one in hand is done.
"""

from __future__ import annotations

import logging
import threading
import time
from queue import Empty, SimpleQueue

from copycat.channels.waiting import mark_own_thread
from copycat.engine import Engine, Write
from copycat.errors import CopyCatError, NodeFailure, StorageFailed
from copycat.ports import Storage, Transport, WriteBatch

log = logging.getLogger(__name__)

POLL_S_MAX = 1.0
MERGE_BYTES_MAX = 8 << 20
WRITER_ENDS_S = 8.0
"""How long the end of a node waits for the last write."""

OWN_WRITE_BYTES_MAX = 16 << 10
"""Longer writes are the writer's: the disk has work enough to go on beside it."""
SLOW_S = 0.005
"""A write that takes longer is slow ..."""
FAST_WRITES_MIN = 4
"""... and after a slow one so many fast ones must follow before the thread that drives writes again."""
WATCH_S = 0.02
LOOKS_IN_VAIN_MAX = 50
"""After so many looks without a write in between, nobody watches until there is one."""


class _Look:
    """Tells the writer to begin to watch."""


_LOOK = _Look()


class Runtime:
    """Drives one engine. ``start`` and ``stop`` from any thread, ``stop`` repeatedly."""

    def __init__(self, engine: Engine, transport: Transport, storage: Storage) -> None:
        self._engine = engine
        self._transport = transport
        self._storage = storage
        self._writes: SimpleQueue[Write | _Look | None] = SimpleQueue()
        self._stopping = False
        self._lock = threading.Lock()
        self._own_write_since = 0.0
        """Since when the thread that drives has been writing; 0: it is not. Cleared under the lock."""
        self._own_writes = 0
        self._watching = False
        self._fast_writes = 0
        self._writer_ended = threading.Event()
        self.ended = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(drives,), name=name, daemon=True)
            for drives, name in ((True, "copycat-engine"), (False, "copycat-writer"))
        ]
        self._driver = self._threads[0]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self, timeout: float) -> bool:
        """End both threads and release transport and storage; False if they are still busy after ``timeout`` seconds.

        Called from one of the threads themselves, it only asks them to end.
        """
        self._stopping = True
        if not self.ended.is_set():
            self._transport.wake()
        if threading.current_thread() in self._threads:
            return False
        ended = self.ended.wait(timeout)
        if ended:
            self._driver.join(timeout)
        return ended

    # --- both threads ---

    def _run(self, drives: bool) -> None:
        mark_own_thread()
        try:
            if drives:
                self._engine.start(time.monotonic())
            while not self._stopping or not drives:
                if drives:
                    drives = self._drive()
                elif self._write_behind():
                    drives = True
                else:
                    break
        except NodeFailure as error:
            self._failed(error)
        except Exception as error:
            log.exception("the engine failed: this is a bug in CopyCat")
            failure = NodeFailure(f"the engine failed: {error!r}")
            failure.__cause__ = error
            self._failed(failure)
        finally:
            if self._drives():
                self._end()
            else:
                self._writer_ended.set()

    def _drives(self) -> bool:
        return self._driver is threading.current_thread()

    def _write(self, writes: list[Write]) -> float:
        """Carry out these writes as one; returns how many seconds that took. Raises NodeFailure."""
        batch = writes[0].batch
        if len(writes) > 1:
            batch = WriteBatch([operation for write in writes for operation in write.batch.operations])
        started = time.monotonic()
        if batch.operations:
            try:
                self._storage.write(batch, any(write.sync for write in writes))
            except NodeFailure:
                raise
            except CopyCatError as error:
                raise StorageFailed(str(error)) from error
            except Exception as error:
                raise StorageFailed(f"the storage failed with an error it should have translated: {error!r}") from error
        return time.monotonic() - started

    def _written(self, writes: list[Write], seconds: float) -> None:
        self._fast_writes = self._fast_writes + 1 if seconds < SLOW_S else 0
        self._engine.written(writes, seconds)

    # --- the thread that drives ---

    def _drive(self) -> bool:
        """Run turns until the node stops. False if the other thread has taken over meanwhile."""
        engine = self._engine
        poll = self._transport.poll
        while not self._stopping:
            wait = 0.0
            if not engine.busy:
                wait = min(POLL_S_MAX, max(0.0, engine.next_deadline() - time.monotonic()))
            inbound = poll(wait)
            engine.turn(time.monotonic(), inbound)
            write = engine.take_write()
            if write is None:
                continue
            if not self._is_own(write):
                self._writes.put(write)
            elif self._write_here(write):
                engine.settle()
            else:
                return False
        return True

    def _is_own(self, write: Write) -> bool:
        """Whether the thread that drives should carry out this write itself."""
        return (
            self._fast_writes >= FAST_WRITES_MIN
            and self._engine.writes_under_way == 1
            and write.size <= OWN_WRITE_BYTES_MAX
        )

    def _write_here(self, write: Write) -> bool:
        """Carry out a write. False if that took so long that the other thread drives now."""
        self._own_writes += 1
        self._own_write_since = time.monotonic()
        if not self._watching:  # in this order, and the watcher's in the opposite one: no write goes unwatched
            self._watching = True
            self._writes.put(_LOOK)
        writes = [write]
        try:
            seconds = self._write(writes)
        finally:
            with self._lock:
                still_drives = self._drives()
                if still_drives:
                    self._own_write_since = 0.0
        if still_drives:
            self._written(writes, seconds)
        else:
            self._engine.post(lambda: self._written(writes, seconds))
        return still_drives

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

    # --- the thread that writes ---

    def _write_behind(self) -> bool:
        """Carry out writes until the node ends (False), or until this thread has to drive (True)."""
        queue = self._writes
        seen = looks_in_vain = 0
        while True:
            try:
                following = queue.get(timeout=WATCH_S if self._watching else None)
            except Empty:
                if self._take_over():
                    return True
                looks_in_vain = looks_in_vain + 1 if self._own_writes == seen else 0
                seen = self._own_writes
                if looks_in_vain >= LOOKS_IN_VAIN_MAX:
                    looks_in_vain = 0
                    self._watching = False
                    self._watching = bool(self._own_write_since)  # one that has just begun counts on it
                continue
            if following is None:
                return False
            if following is not _LOOK:
                assert isinstance(following, Write)
                self._write_merged(following)

    def _write_merged(self, write: Write) -> None:
        """Carry out this write and all that wait behind it."""
        queue = self._writes
        writes = [write]
        size = write.size
        while size < MERGE_BYTES_MAX and not queue.empty():
            following = queue.get()
            if not isinstance(following, Write):
                queue.put(following)
                break
            writes.append(following)
            size += following.size
        seconds = self._write(writes)
        self._engine.post(lambda: self._written(writes, seconds))

    def _take_over(self) -> bool:
        """Drive from now on, if the thread that does has been at a write for too long."""
        with self._lock:
            since = self._own_write_since
            if not since or time.monotonic() - since < WATCH_S:
                return False
            self._own_write_since = 0.0
            self._driver = threading.current_thread()
        log.info("a write takes long: the threads change places")
        return True
