"""A cluster in one thread and in virtual time: real engines over a simulated network, simulated disks and clocks.

Every node is a real :class:`copycat.engine.Engine`, driven as :mod:`copycat.runtime` drives it: a turn takes what arrived,
leaves a write, and hears later that it is durable. Only what lies beyond the engine's ports is simulated. One generator
of random numbers and one timeline decide everything, so one seed is one run; a digest of all that happened tells whether
two runs were the same.

This never injects a fault by itself (:mod:`copycat.testing.scenario` does) and judges nothing
(:mod:`copycat.testing.checks` does).
"""

from __future__ import annotations

import math
import random
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from ulid import ULID

from copycat.config import Config
from copycat.engine import Engine, Write
from copycat.errors import NodeFailure
from copycat.nodestore import NodeStore
from copycat.ports import WriteBatch
from copycat.testing.clock import NodeClock, Timeline
from copycat.testing.disk import Disk, FaultyStorage
from copycat.testing.network import Network, SimulatedTransport

COPYCAT_PORT = 7458
GOSSIP_PORT = 7459
MERGE_WRITES_MAX = 64
_FRAME = struct.Struct("<dII")


class SimulationError(AssertionError):
    """The library broke a promise. ``kind`` names it in few words, the same for the same fault."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(kind, message)  # both, so that it can travel between processes
        self.kind = kind

    def __str__(self) -> str:
        return ": ".join(map(str, self.args))


class Trace:
    """Everything that happened, as a digest, and as text for whoever wants to read it."""

    def __init__(self, timeline: Timeline, show: Callable[[str], None] | None) -> None:
        self._timeline = timeline
        self._show = show
        self._hash = blake2b(digest_size=16)

    def __call__(self, kind: str, *details: object) -> None:
        line = f"{self._timeline.now:.6f} {kind} {details}"
        self._hash.update(line.encode())
        if self._show is not None:
            self._show(f"{self._timeline.now:11.6f}  {kind:<12} {' '.join(map(str, details))}")

    def frame(self, pair: int, size: int) -> None:
        """A frame is sent: too many of them to be spelt out. ``pair``: a number for source, target and lane."""
        self._hash.update(_FRAME.pack(self._timeline.now, pair, size))

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()


@dataclass(slots=True)
class DiskTimes:
    """How long a node's disk takes: seconds for each write, on average, and until when it stands still."""

    write_s: float = 0.001
    stalled_until: float = 0.0


class World:
    """Nodes by the name of their host, one network, one time."""

    def __init__(self, seed: int, show: Callable[[str], None] | None = None) -> None:
        self.rng = random.Random(seed)
        self.timeline = Timeline()
        self.trace = Trace(self.timeline, show)
        self.network = Network(self.timeline, self.fork(), self.trace.frame)
        self.nodes: dict[str, SimulatedNode] = {}
        self.after_turn: list[Callable[[SimulatedNode], None]] = []
        """Called after each turn of a node."""

    @property
    def now(self) -> float:
        return self.timeline.now

    def fork(self) -> random.Random:
        """A generator of its own for a part of the world, so that parts don't disturb each other's chances."""
        return random.Random(self.rng.getrandbits(64))

    def add_node(self, host: str, config: Config) -> SimulatedNode:
        node = self.nodes[host] = SimulatedNode(self, host, config)
        return node

    def run_for(self, seconds: float) -> None:
        self.timeline.run_until(self.timeline.now + seconds)

    def running(self) -> list[SimulatedNode]:
        return [node for node in self.nodes.values() if node.engine is not None]


class SimulatedNode:
    """One machine: its disk outlives the process, the process outlives nothing."""

    def __init__(self, world: World, host: str, config: Config) -> None:
        self.world = world
        self.host = host
        self.config = replace(config, hostname=host, copycat_port=COPYCAT_PORT, gossip_port=GOSSIP_PORT)
        self.rng = world.fork()
        self.clock = NodeClock(self.rng.uniform(0.0, 1e5))
        self.disk = Disk(self.rng)
        self.disk_times = DiskTimes()
        self.weight = 1.0
        """In placement; it is looked at now and then."""
        self.turn_s = 0.0001
        """How long a turn takes at most: what arrives meanwhile waits for the next one."""
        self.tears = False
        """Whether writes that are carried out together may be torn apart by a crash."""
        self.engine: Engine | None = None
        self.transport: SimulatedTransport | None = None
        self.starts = 0
        """Tells one process on this machine from the next."""
        self.failure: NodeFailure | None = None
        """Why the last process stopped by itself."""
        self.faulty = False
        """Whether a fault of the disk was injected, so that stopping is what a node must do."""
        self.misled = False
        """Whether forged messages are sent to it, so that a replica may have to stop."""
        self.crash_after_writes = 0
        """Crash when so many more writes are on the disk and the answers have gone; 0: don't."""
        self.bounced = False
        """Whether it crashed for that, and was not started since."""
        self.on_start: Callable[[SimulatedNode], None] | None = None
        self.on_stop: Callable[[SimulatedNode], None] | None = None
        self.paused_until = 0.0
        self.cut_until = 0.0
        """Until when something between it and others is cut."""
        self._storage: FaultyStorage | None = None
        self._writes: deque[Write] = deque()
        self._writing = False
        self.answered = 0
        """Writes of this process whose answers have gone."""
        self._turn_at = math.inf
        self._turn_serial = 0

    # --- life and death ---

    def start(self) -> None:
        """Start a process. Raises what opening a damaged disk raises."""
        assert self.engine is None, f"{self.host} runs already"
        world = self.world
        self.starts += 1
        self.failure = None
        self._storage = FaultyStorage(self.disk)
        try:
            store = NodeStore.open(self._storage, Path(self.host), self.config.cluster_label, self._new_id)
            self.transport = SimulatedTransport(world.network, self.host, self._wake)
            address = self.transport.open(self.host, self.config.address, self.config.frame_bytes_max)
            rng = random.Random(self.rng.getrandbits(64))
            engine = Engine(self.config, address, self.transport, self._storage, store, rng, lambda _: self.weight)
        except NodeFailure as error:
            self.failure = error
            world.trace("cannot start", self.host, error)
            if self.transport is not None:
                self.transport.close()
            self._storage.close()
            if not self.faulty:
                raise SimulationError("a node can't start", f"{self.host}: {error!r}") from error
            return
        self.engine = engine
        world.trace("start", self.host, store.node_id)
        self._drive(lambda: engine.start(self.clock.read(world.now)))
        if self.engine is not None:
            self._wake()
            if self.on_start is not None:
                self.on_start(self)

    def _new_id(self) -> str:
        return str(ULID(self.rng.getrandbits(128).to_bytes(16, "big")))

    def crash(self) -> None:
        """The power is cut: the process is gone, and what was not synced may be."""
        if self.engine is None:
            return
        survivors = self.disk.crash()
        self.world.trace("crash", self.host, survivors)
        self._gone()

    def stop(self) -> None:
        """The process ends as after ``shutdown``: everybody on this node is told."""
        if self.engine is None:
            return
        engine = self.engine
        self.world.trace("stop", self.host)
        engine.end()
        self._close()

    def wipe(self) -> None:
        """Another disk, empty: the next process is another node."""
        assert self.engine is None
        self.world.trace("wipe", self.host)
        others = [f"{host}:{GOSSIP_PORT}" for host in self.world.nodes if host != self.host]
        self.config = replace(self.config, peers_to_contact=others)  # or it would found a cluster of its own
        self.disk = Disk(self.rng)
        self.faulty = False

    def _close(self) -> None:
        assert self._storage is not None
        self._storage.close()
        self._gone()

    def _gone(self) -> None:
        assert self.transport is not None
        self.transport.close()
        self.engine = None
        self._writes = deque()
        self._writing = False
        self.answered = 0
        self.crash_after_writes = 0
        self._turn_at = math.inf
        self._turn_serial += 1
        if self.on_stop is not None:
            self.on_stop(self)

    def _fail(self, error: NodeFailure) -> None:
        """Fail-stop, as the runtime does it."""
        assert self.engine is not None
        self.world.trace("failed", self.host, error)
        self.failure = error
        if not self.faulty:
            raise SimulationError("a node stopped without a fault", f"{self.host}: {error!r}") from error
        self.engine.failed = error
        self.engine.end()
        self._close()

    def pause(self, seconds: float) -> None:
        """The process doesn't run for a while (its disk and its network do)."""
        self.world.trace("pause", self.host, round(seconds, 3))
        self.paused_until = max(self.paused_until, self.world.now + seconds)

    @property
    def paused(self) -> bool:
        return self.world.now < self.paused_until

    # --- turns ---

    def _wake(self) -> None:
        self._turn_by(self.world.now + (0.2 + 0.8 * self.rng.random()) * self.turn_s)

    def _turn_by(self, when: float) -> None:
        if when >= self._turn_at or self.engine is None:
            return
        self._turn_at = when
        self._turn_serial += 1
        serial = self._turn_serial

        def due() -> None:
            if serial == self._turn_serial and self.engine is not None:
                self._turn()

        self.world.timeline.at(when, due)

    def _turn(self) -> None:
        self._turn_at = math.inf
        world = self.world
        if self.paused:
            self._turn_by(self.paused_until)
            return
        engine, transport = self.engine, self.transport
        assert engine is not None
        assert transport is not None
        self._drive(lambda: engine.turn(self.clock.read(world.now), transport.poll(0.0)))
        if self.engine is not engine:
            return
        write = engine.take_write()
        if write is not None:
            self._writes.append(write)
            self._write()
            if self.engine is not engine:
                return
        if engine.hosting.quarantined and not self.faulty and not self.misled:
            error = next(iter(engine.hosting.quarantined.values()))
            raise SimulationError("a replica stopped without a fault", f"{self.host}: {error!r}") from error
        for check in world.after_turn:
            check(self)
        if self.crash_after_writes and self.answered >= self.crash_after_writes:
            self.bounced = True
            self.crash()
            return
        if engine.busy or transport.waiting:
            self._turn_by(world.now + self.turn_s)
        else:
            self._turn_by(max(self.clock.when(engine.next_deadline()), world.now + self.turn_s))

    def _drive(self, action: Callable[[], None]) -> None:
        try:
            action()
        except NodeFailure as error:
            self._fail(error)
        except SimulationError:
            raise
        except Exception as error:
            raise SimulationError(f"the engine raised {type(error).__name__}", f"{self.host}: {error}") from error

    # --- the disk ---

    def _write(self) -> None:
        """Begin the next write, as the writer's thread does: all that waits, as one."""
        if self._writing or not self._writes or self.engine is None:
            return
        self._writing = True
        merged = [self._writes.popleft() for _ in range(min(len(self._writes), MERGE_WRITES_MAX))]
        if self.tears or len(merged) == 1:
            batches = [write.batch for write in merged]
        else:
            batches = [WriteBatch([operation for write in merged for operation in write.batch.operations])]
        sync = any(write.sync for write in merged)
        started = self.world.now
        serial = self.starts
        storage = self._storage
        assert storage is not None
        for batch in batches:
            if not self._storing(storage.write, batch, False):
                return

        def finished() -> None:
            engine = self.engine
            if serial != self.starts or engine is None:
                return
            if sync and not self._storing(storage.write, WriteBatch(), True):
                return
            self._writing = False
            seconds = self.world.now - started
            engine.post(lambda: self._written(engine, merged, seconds))
            self._write()

        times = self.disk_times
        done = started + self.rng.expovariate(1.0 / times.write_s)
        self.world.timeline.at(max(done, times.stalled_until), finished)

    def _written(self, engine: Engine, merged: list[Write], seconds: float) -> None:
        engine.written(merged, seconds)
        self.answered += 1

    def _storing(self, write: Callable[[WriteBatch, bool], None], batch: WriteBatch, sync: bool) -> bool:
        """Whether it went well; if not, the node has failed."""
        try:
            write(batch, sync)
        except NodeFailure as error:
            self._fail(error)
            return False
        return True

    def post(self, action: Callable[[], Any]) -> bool:
        """What another thread of the process does: see :meth:`copycat.engine.Engine.post`."""
        return self.engine is not None and self.engine.post(action)
