"""Carries a scenario's faults out on a world, each for its time, and mends what it did.

Faults are allowed whatever a careful operator would survive: any number of nodes may crash, stop or be cut off, but data is
destroyed on one node at a time, and only once its group has three voters and has recovered from the last time.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace

from copycat.errors import StorageCorrupt
from copycat.testing.consumer import Consumer
from copycat.testing.scenario import Fault, FaultKind, Scenario
from copycat.testing.world import SimulatedNode, World

RESTART_EVERY_S = 0.5


class Chaos:
    """What goes wrong in one run."""

    def __init__(self, world: World, scenario: Scenario, apps: dict[str, list[Consumer]]) -> None:
        self._world = world
        self._scenario = scenario
        self._apps = apps
        self._down_until: dict[str, float] = {}
        self._lost_ids: set[str] = set()
        self._ended = False
        self._carry_out: dict[FaultKind, Callable[[SimulatedNode, Fault, random.Random], None]] = {
            FaultKind.CRASH: self._crash,
            FaultKind.PAUSE: lambda node, fault, rng: node.pause(fault.length_s),
            FaultKind.ISOLATE: self._isolate,
            FaultKind.HALVES: self._halves,
            FaultKind.ONE_WAY: self._one_way,
            FaultKind.PARTIAL: self._partial,
            FaultKind.SLOW_HOST: self._slow_host,
            FaultKind.SLOW_LINK: self._slow_link,
            FaultKind.SIZE_LIMIT: self._size_limit,
            FaultKind.LOSS: self._loss,
            FaultKind.DISK_STALL: self._disk_stall,
            FaultKind.SLOW_DISK: self._slow_disk,
            FaultKind.DISK_ERROR: self._disk_error,
            FaultKind.DISK_FULL: self._disk_full,
            FaultKind.CLOCK_JUMP: lambda node, fault, rng: node.clock.jump(world.now, fault.length_s),
            FaultKind.CLOCK_DRIFT: lambda node, fault, rng: node.clock.drift(world.now, rng.uniform(0.9, 1.1)),
            FaultKind.CLOSE: self._close,
            FaultKind.WIPE: self._wipe,
            FaultKind.ROT: self._rot,
            FaultKind.SHUT_DOWN: self._shut_down,
            FaultKind.CRASH_ALL: self._crash_all,
            FaultKind.BOUNCE: self._bounce,
            FaultKind.STORM: self._storm,
        }

    def plan(self) -> None:
        for fault in self._scenario.faults:
            self._world.timeline.at(1.0 + fault.at, lambda fault=fault: self._happen(fault))  # type: ignore[misc]
        self._world.timeline.after(RESTART_EVERY_S, self._restart)

    def mend(self) -> None:
        """No faults any more: everything is connected, runs, and works."""
        world = self._world
        self._ended = True
        world.trace("mend")
        conditions = world.network.conditions
        conditions.loss = min(conditions.loss, 0.01)
        conditions.datagram_loss = min(conditions.datagram_loss, 0.01)
        world.network.slow.clear()
        world.network.bytes_max.clear()
        world.network.mend_all()
        self._down_until.clear()
        for node in world.nodes.values():
            node.disk.bytes_max = None
            node.disk_times.write_s = self._scenario.write_s
            node.disk_times.stalled_until = 0.0
            node.clock.drift(world.now, min(max(node.clock.rate, 0.99), 1.01))

    def _happen(self, fault: Fault) -> None:
        if self._ended:
            return
        rng = random.Random(fault.draw)
        node = rng.choice(list(self._world.nodes.values()))
        self._world.trace("fault", fault.kind.value, node.host, f"{fault.length_s:.3f}")
        self._carry_out[fault.kind](node, fault, rng)

    def _later(self, seconds: float, action: Callable[[], object]) -> None:
        self._world.timeline.after(seconds, action)

    def _restart(self) -> None:
        """What is down comes back, when its time is up."""
        now = self._world.now
        for node in self._world.nodes.values():
            if node.engine is None and node.starts and now >= self._down_until.get(node.host, 0.0):
                node.disk.bytes_max = None
                if isinstance(node.failure, StorageCorrupt):
                    node.wipe()  # as the error says: a new node takes its place
                node.start()
        self._later(RESTART_EVERY_S, self._restart)

    # --- processes ---

    def _crash(self, node: SimulatedNode, fault: Fault, rng: random.Random) -> None:
        self._down_until[node.host] = self._world.now + fault.length_s
        node.crash()

    def _crash_all(self, node: SimulatedNode, fault: Fault, rng: random.Random) -> None:
        for each in self._world.nodes.values():
            self._crash(each, fault, rng)

    def _bounce(self, node: SimulatedNode, fault: Fault, rng: random.Random) -> None:
        """For a while, some nodes crash whenever they have just given their word, and are back before it is forgotten."""
        nodes = [each for each in self._world.nodes.values() if rng.random() < 0.6]
        self._bounce_each(lambda: nodes, 8, lambda: None, fault, rng)

    def _storm(self, node: SimulatedNode, fault: Fault, rng: random.Random) -> None:
        """As soon as somebody leads, it is cut off for an election's time, over links of which some are slow.

        Meanwhile one node at a time crashes with its next word, and is back before the slow ones are heard: who forgot whom
        it voted for may vote again.
        """
        config = self._scenario.config
        election_s = config.tick_ms * config.election_ticks / 1000
        slow = [pair for pair in self._pairs() if rng.random() < 0.3]
        storm = replace(fault, length_s=fault.length_s + 10 * election_s)
        self._slow(slow, rng.uniform(0.1, 0.5) * election_s, storm)
        free_at: dict[str, float] = {}

        def unseat() -> None:
            now = self._world.now
            for each in self._world.running():
                assert each.engine is not None
                leads = any(group.leads for group in each.engine.hosting.groups.values())
                if leads and free_at.get(each.host, 0.0) <= now:
                    free_at[each.host] = now + 2 * election_s
                    self._cut_for(2 * election_s, self._pairs(each.host))

        nodes = list(self._world.nodes.values())
        self._bounce_each(lambda: rng.sample(nodes, 1), 2, unseat, storm, rng)

    def _bounce_each(
        self,
        choose: Callable[[], list[SimulatedNode]],
        writes_max: int,
        meanwhile: Callable[[], None],
        fault: Fault,
        rng: random.Random,
    ) -> None:
        end = self._world.now + 1.0 + fault.length_s

        def again() -> None:
            if self._world.now >= end or self._ended:
                for each in self._world.nodes.values():
                    each.crash_after_writes = 0
                return
            for each in self._world.nodes.values():
                if each.engine is None and each.failure is None and each.bounced:
                    each.bounced = False
                    each.start()
            for each in choose():
                if each.engine is not None and not each.crash_after_writes:
                    each.crash_after_writes = each.answered + rng.randint(1, writes_max)
            meanwhile()
            self._later(rng.uniform(0.01, 0.1), again)

        again()

    def _shut_down(self, node: SimulatedNode, fault: Fault, rng: random.Random) -> None:
        engine = node.engine
        if engine is None:
            return
        starts = node.starts

        def end() -> None:
            if node.starts == starts and node.engine is not None:
                self._down_until[node.host] = self._world.now + fault.length_s
                node.stop()

        left: Future[None] = Future()
        node.post(lambda: engine.consumers.drain_all())
        self._later(1.0, lambda: node.post(lambda: engine.stewardship.leave(left)) if node.starts == starts else None)
        self._later(2.0, end)

    def _close(self, node: SimulatedNode, fault: Fault, rng: random.Random) -> None:
        apps = self._apps.get(node.host)
        if apps:
            rng.choice(apps).close()

    # --- network ---

    def _cut_for(self, seconds: float, pairs: list[tuple[str, str]]) -> None:
        network = self._world.network
        for source, target in pairs:
            network.cut(source, target)
            node = self._world.nodes[source]
            node.cut_until = max(node.cut_until, self._world.now + seconds)

        def mend() -> None:
            if not self._ended:
                for source, target in pairs:
                    network.mend(source, target)

        self._later(seconds, mend)

    def _isolate(self, node: SimulatedNode, fault: Fault, rng: random.Random) -> None:
        self._cut_for(fault.length_s, self._pairs(node.host))

    def _halves(self, node: SimulatedNode, fault: Fault, rng: random.Random) -> None:
        hosts = list(self._world.nodes)
        rng.shuffle(hosts)
        middle = rng.randint(0, len(hosts))
        left, right = hosts[:middle], hosts[middle:]
        pairs = [(one, other) for one in left for other in right] + [(other, one) for one in left for other in right]
        self._cut_for(fault.length_s, pairs)

    def _one_way(self, node: SimulatedNode, fault: Fault, rng: random.Random) -> None:
        others = [host for host in self._world.nodes if host != node.host and rng.random() < 0.6]
        inwards = rng.random() < 0.5
        self._cut_for(fault.length_s, [(each, node.host) if inwards else (node.host, each) for each in others])

    def _partial(self, node: SimulatedNode, fault: Fault, rng: random.Random) -> None:
        chance = rng.choice((0.2, 0.5))
        self._cut_for(fault.length_s, [pair for pair in self._pairs() if rng.random() < chance])

    def _pairs(self, host: str | None = None) -> list[tuple[str, str]]:
        """All directed links; those of one host."""
        hosts = list(self._world.nodes)
        return [
            (one, other) for one in hosts for other in hosts if one != other and (host is None or host in (one, other))
        ]

    def _slow_host(self, node: SimulatedNode, fault: Fault, rng: random.Random) -> None:
        self._slow(self._pairs(node.host), rng.choice((0.02, 0.1, 0.5)), fault)

    def _slow_link(self, node: SimulatedNode, fault: Fault, rng: random.Random) -> None:
        """Some links are slow, in one direction."""
        self._slow([pair for pair in self._pairs() if rng.random() < 0.3], rng.choice((0.02, 0.1, 0.5, 2.0)), fault)

    def _slow(self, pairs: list[tuple[str, str]], seconds: float, fault: Fault) -> None:
        slow = self._world.network.slow
        slow.update(dict.fromkeys(pairs, seconds))

        def mend() -> None:
            for pair in pairs:
                slow.pop(pair, None)

        self._later(fault.length_s, mend)

    def _size_limit(self, node: SimulatedNode, fault: Fault, rng: random.Random) -> None:
        limits = self._world.network.bytes_max
        bytes_max = rng.choice((100, 300, 1_400))
        pairs = [pair for pair in self._pairs() if rng.random() < 0.5]
        limits.update(dict.fromkeys(pairs, bytes_max))

        def mend() -> None:
            for pair in pairs:
                limits.pop(pair, None)

        self._later(fault.length_s, mend)

    def _loss(self, node: SimulatedNode, fault: Fault, rng: random.Random) -> None:
        conditions = self._world.network.conditions
        conditions.loss = conditions.datagram_loss = rng.choice((0.1, 0.3, 0.7))

        def mend() -> None:
            conditions.loss, conditions.datagram_loss = self._scenario.loss, self._scenario.datagram_loss

        self._later(fault.length_s, mend)

    # --- disks ---

    def _disk_stall(self, node: SimulatedNode, fault: Fault, rng: random.Random) -> None:
        node.disk_times.stalled_until = self._world.now + fault.length_s

    def _slow_disk(self, node: SimulatedNode, fault: Fault, rng: random.Random) -> None:
        node.disk_times.write_s = rng.choice((0.02, 0.1))

        def mend() -> None:
            node.disk_times.write_s = self._scenario.write_s

        self._later(fault.length_s, mend)

    def _disk_error(self, node: SimulatedNode, fault: Fault, rng: random.Random) -> None:
        node.faulty = True
        self._down_until[node.host] = self._world.now + fault.length_s
        if rng.random() < 0.5:
            node.disk.fail_write(rng.randint(1, 5))
        else:
            node.disk.fail_sync(rng.randint(1, 5))

    def _disk_full(self, node: SimulatedNode, fault: Fault, rng: random.Random) -> None:
        node.faulty = True
        self._down_until[node.host] = self._world.now + fault.length_s
        node.disk.bytes_max = node.disk.bytes_used + rng.choice((0, 1000))

    def _may_lose_data(self, node: SimulatedNode) -> bool:
        """Whether every group has three voters, and has recovered from what was lost before."""
        if node.engine is None:
            return False
        safe: set[bytes] = set()
        for each in self._world.running():
            assert each.engine is not None
            for group in each.engine.hosting.groups.values():
                homes = {member.node_id for member in group.sequencer.members.values()}
                if homes & self._lost_ids:
                    return False
                config = group.raft.raft.tracker.config
                if group.leads and len(config.voters) >= 3 and not config.joint and not group.raft.change_pending:
                    safe.add(group.id)
        return len(safe) == self._scenario.groups

    def _wipe(self, node: SimulatedNode, fault: Fault, rng: random.Random) -> None:
        if not self._may_lose_data(node):
            return
        assert node.engine is not None
        self._lost_ids.add(node.engine.node_id)
        node.crash()
        self._down_until[node.host] = self._world.now + fault.length_s
        node.wipe()

    def _rot(self, node: SimulatedNode, fault: Fault, rng: random.Random) -> None:
        """One record on disk is damaged; the node must notice and stop, now or when it is read."""
        if not self._may_lose_data(node):
            return
        assert node.engine is not None
        pairs = [(key, value) for key, value in node.disk.pairs() if value]
        key, value = rng.choice(pairs)
        self._lost_ids.add(node.engine.node_id)
        node.faulty = True
        node.disk.rot(key, rng.randrange(8 * len(value)))
        self._crash(node, fault, rng)
