"""Runs a scenario: builds its world, injects its faults, lets it settle, and checks what must hold.

    failure = run(draw(seed)).failure

The same scenario gives the same run, bit for bit, in any process. A failing one can be cut down with :func:`shrink`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from copycat.testing.application import Application
from copycat.testing.checks import Inspector, Observer
from copycat.testing.consumer import Consumer
from copycat.testing.copies import Copy, Ledger
from copycat.testing.faults import Chaos
from copycat.testing.network import Conditions
from copycat.testing.scenario import Scenario
from copycat.testing.world import GOSSIP_PORT, SimulatedNode, SimulationError, World

CONVERGE_S = 120.0
STEP_S = 0.5
LOOK_INTO_LOGS_S = 2.0
WARM_UP_S = 1.0
HASTE_S = 0.05
"""How often even a slow consumer looks at its channels in the end: a backlog is no failure to converge."""


@dataclass(frozen=True, slots=True)
class Report:
    """How a run went. ``failure`` is None if every promise was kept."""

    scenario: Scenario
    failure: SimulationError | None
    digest: str
    virtual_s: float
    real_s: float
    events: int
    committed: int
    reads: int
    calls: int
    """On structures, reads included."""
    reloads: int
    elections: int
    settled_s: float
    """Virtual seconds from the end of the faults until everything agreed."""


class Simulation:
    """One run in the making."""

    def __init__(self, scenario: Scenario, show: Callable[[str], None] | None = None) -> None:
        self.scenario = scenario
        self.world = World(scenario.seed, show)
        self.observer = Observer(self.world.timeline)
        self.inspector = Inspector()
        self.world.after_turn.append(self.inspector.after_turn)
        self.group_ids = [self.world.rng.getrandbits(128).to_bytes(16, "big") for _ in range(scenario.groups)]
        self.ledgers = {
            group_id: Ledger(specimen, self.world.timeline)
            for group_id, specimen in zip(self.group_ids, scenario.specimens, strict=False)
            if specimen is not None
        }
        self.apps: dict[str, list[Consumer]] = {}
        self._rng = self.world.fork()
        self._wanted: dict[str, list[bytes]] = {}
        self._build()
        self.chaos = Chaos(self.world, scenario, self.apps)

    def _build(self) -> None:
        scenario, world = self.scenario, self.world
        world.network.conditions = Conditions(
            scenario.latency_s,
            scenario.loss,
            scenario.datagram_loss,
            scenario.repeat,
            scenario.reconnect,
            scenario.bytes_per_s,
            scenario.holds_when_cut,
        )
        hosts = [f"n{number + 1}" for number in range(scenario.nodes)]
        for host in hosts:
            seeds = [f"{other}:{GOSSIP_PORT}" for other in hosts[:2] if other != host] if host != hosts[0] else []
            node = world.add_node(host, replace(scenario.config, peers_to_contact=seeds))
            node.disk_times.write_s = scenario.write_s
            node.turn_s, node.tears = scenario.turn_s, scenario.tears
            node.clock.rate = self._rng.uniform(0.99, 1.01)
            node.on_start, node.on_stop = self._started, self._stopped
            self._wanted[host] = [each for each in self.group_ids if self._rng.random() < scenario.subscribers]
        for group_id in self.group_ids:
            if not any(group_id in wanted for wanted in self._wanted.values()):
                self._wanted[self._rng.choice(hosts)].append(group_id)
        for host in hosts:
            world.timeline.at(0.0 if host == hosts[0] else self._rng.uniform(0.05, WARM_UP_S), world.nodes[host].start)

    def _started(self, node: SimulatedNode) -> None:
        self.apps[node.host] = [self._consumer(node, group_id) for group_id in self._wanted[node.host]]

    def _consumer(self, node: SimulatedNode, group_id: bytes) -> Consumer:
        rng = random.Random(self._rng.getrandbits(64))
        ledger = self.ledgers.get(group_id)
        if ledger is not None:
            return Copy(node, group_id, self.scenario.habits, rng, ledger)
        return Application(node, group_id, self.scenario.habits, rng, self.observer)

    def _stopped(self, node: SimulatedNode) -> None:
        for app in self.apps.pop(node.host, []):
            app.kill()

    # --- the run ---

    def run(self) -> Report:
        started = time.process_time()
        failure: SimulationError | None = None
        settled = 0.0
        try:
            self.chaos.plan()
            for _ in range(int((WARM_UP_S + self.scenario.chaos_s) / LOOK_INTO_LOGS_S) + 1):
                self.world.run_for(LOOK_INTO_LOGS_S)
                self.inspector.check_logs(self.world.running())
            settled = self._settle()
            self.observer.check_end()
            for ledger in self.ledgers.values():
                ledger.check_end()
        except SimulationError as error:
            failure = error
            self.world.trace("FAILED", error)
        except Exception as error:
            failure = SimulationError(f"{type(error).__name__} outside the engine", str(error))
            failure.__cause__ = error
        return Report(
            self.scenario,
            failure,
            self.world.trace.digest,
            self.world.now,
            time.process_time() - started,
            self.world.timeline.events,
            self.observer.committed,
            self.observer.reads,
            sum(len(ledger.history) for ledger in self.ledgers.values()),
            self.observer.reloads,
            self.inspector.elections,
            settled,
        )

    def _settle(self) -> float:
        """Mend everything, and wait until everybody agrees."""
        self.chaos.mend()
        began = self.world.now
        quiet_at = began + 5.0
        while True:
            self.world.run_for(STEP_S)
            if self.world.now >= quiet_at:
                for apps in self.apps.values():
                    for app in apps:
                        app.sending = False
                        app.step_s = min(app.step_s, HASTE_S)
            unsettled = self._unsettled()
            if self.world.now >= quiet_at and not unsettled:
                self.inspector.check_logs(self.world.running())
                return self.world.now - began
            if self.world.now - began > CONVERGE_S:
                raise SimulationError("did not converge", unsettled or "")

    def _unsettled(self) -> str | None:
        """Why not everything is as it must be in the end; None if it is."""
        for node in self.world.nodes.values():
            if node.engine is None:
                return f"{node.host} does not run: {node.failure!r}"
            for app in self.apps[node.host]:
                why = self._unsettled_app(app)
                if why:
                    return f"{app.name or node.host} of {app.group_id.hex()[-4:]}: {why}"
        return self._unsettled_gossip()

    def _unsettled_gossip(self) -> str | None:
        """Whether everybody knows who is there, and who hosts what."""
        engines = [node.engine for node in self.world.running() if node.engine is not None]
        alive = {engine.node_id for engine in engines}
        hosts = {
            group_id: {engine.node_id for engine in engines if group_id in engine.hosting.groups}
            for group_id in self.group_ids
        }
        for engine in engines:
            known = {member.node_id for member in engine.cluster.members() if member.state == "alive"}
            if known != alive:
                return f"{engine.node_id} counts {sorted(known)} as alive, not {sorted(alive)}"
            for group_id, expected in hosts.items():
                listed = alive.intersection(engine.cluster.hosts_of(group_id))  # who is gone may come back
                if listed != expected:
                    return (
                        f"{engine.node_id} lists {sorted(listed)} as hosts of {group_id.hex()[-4:]}, "
                        f"not {sorted(expected)}"
                    )
        return None

    def _unsettled_app(self, app: Consumer) -> str | None:
        if app.subscription is None:
            return "not subscribed"
        assert app.node.engine is not None
        group = app.node.engine.hosting.groups.get(app.group_id)
        if group is None:
            return "no replica"
        length = max(len(self.observer.groups[app.group_id].items), group.sequencer.position)
        if app.position != length:
            return f"at {app.position} of {length}"
        if app.subscription.propose.unsettled():
            return f"{app.subscription.propose.unsettled()} proposals are not settled"
        if not app.idle:
            return "waits for answers"
        return None


def run(scenario: Scenario, show: Callable[[str], None] | None = None) -> Report:
    """Run a scenario to its end, or to its first broken promise."""
    return Simulation(scenario, show).run()


def shrink(scenario: Scenario, attempts_max: int = 60) -> Scenario:
    """A shorter scenario with fewer faults that fails in the same way; the same one if there is none."""
    failure = run(scenario).failure
    assert failure is not None, "only a failing run can be cut down"
    best = scenario
    attempts = 0

    def fails(candidate: Scenario) -> bool:
        nonlocal attempts
        attempts += 1
        found = run(candidate).failure
        return found is not None and found.kind == failure.kind

    piece = max(len(best.faults) // 2, 1)
    while piece and attempts < attempts_max:
        at = 0
        while at < len(best.faults) and attempts < attempts_max:
            candidate = replace(best, faults=best.faults[:at] + best.faults[at + piece :])
            if fails(candidate):
                best = candidate
            else:
                at += piece
        piece //= 2
    for shorter in (0.25, 0.5, 0.75):
        candidate = replace(best, chaos_s=best.chaos_s * shorter)
        candidate = replace(candidate, faults=tuple(each for each in best.faults if each.at < candidate.chaos_s))
        if attempts < attempts_max and fails(candidate):
            return candidate
    return best
