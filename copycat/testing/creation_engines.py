"""Creation with whole engines, from a seed: everybody subscribes to the same new ids at once while the cluster is in trouble.

Partitions, crashes and restarts, and one node that joins or leaves meanwhile. Each wish must end, with a typed error at
worst, before its time is up; at most one genesis may come out for each id, on any node, ever; and when all is mended every
node that stays gets a replica of the same group. One seed is one run.
"""

from __future__ import annotations

import functools
import random
from concurrent.futures import Future
from dataclasses import dataclass, field

from copycat.departures import Stage
from copycat.errors import ClusterError, CopyCatError, GivenUp
from copycat.genesis import Genesis, Standing
from copycat.testing.checks import Inspector
from copycat.testing.engines import a_world, add, engine_of, group_ids, leaders, run_until, seek
from copycat.testing.world import SimulatedNode, SimulationError, World

TROUBLE_S = 4.0
STEP_S = 0.05
TURN_S = 0.05
"""How much later than its deadline a wish may be seen to have ended: a tick, and a look."""


@dataclass(slots=True)
class Wish:
    """What a node asked for, and until when, in the world's time."""

    node: SimulatedNode
    life: int
    deadline: float
    outcome: Future[CopyCatError | None]


@dataclass(slots=True)
class Report:
    """``created`` of ``wanted`` ids existed before the mending; the rest were created after."""

    seed: int
    wanted: int
    created: int
    refused: int
    """Wishes that ended with an error."""
    served: int
    virtual_s: float


@dataclass(slots=True)
class Life:
    """One run in the making."""

    seed: int
    rng: random.Random = field(init=False)
    world: World = field(init=False)
    ids: list[bytes] = field(init=False)
    chosen: dict[bytes, Genesis] = field(default_factory=dict)
    wishes: list[Wish] = field(default_factory=list)
    refused: int = 0
    served: int = 0

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.ids = group_ids(self.rng.choice((1, 1, 2, 3)), self.seed)
        self.world = a_world(self.seed, self.rng.choice((1, 2, 3, 3, 4, 5)), join_timeout_s=60.0)
        self.world.after_turn.append(Inspector().after_turn)
        conditions = self.world.network.conditions
        conditions.loss = self.rng.choice((0.0, 0.0, 0.05, 0.2))
        conditions.repeat = self.rng.choice((0.0, 0.1))
        conditions.datagram_loss = self.rng.choice((0.0, 0.1))
        conditions.latency_s = self.rng.choice((0.0005, 0.005, 0.03))
        conditions.holds_when_cut = self.rng.random() < 0.5

    def run(self) -> Report:
        self._trouble()
        created = len(self.chosen)
        self._mend()
        return Report(self.seed, len(self.ids), created, self.refused, self.served, self.world.now)

    # --- trouble ---

    def _trouble(self) -> None:
        rng, world = self.rng, self.world
        for node in list(world.nodes.values()):
            for group_id in self.ids:
                world.timeline.after(rng.uniform(0.0, 1.0), functools.partial(self._wish, node, group_id))
        for _ in range(rng.choice((0, 1, 2, 4))):
            world.timeline.after(rng.uniform(0.0, TROUBLE_S - 1.0), rng.choice((self._part, self._bounce)))
        if rng.random() < 0.6:
            world.timeline.after(rng.uniform(0.0, 2.0), rng.choice((self._join, self._leave)))
        ends = world.now + TROUBLE_S
        while world.now < ends:
            self._step()

    def _wish(self, node: SimulatedNode, group_id: bytes) -> None:
        if node.engine is not None:
            timeout_s = self.rng.choice((0.5, 2.0, 5.0))
            outcome = seek(node, group_id, 3, timeout_s, host_here=True)
            self.wishes.append(Wish(node, node.starts, self.world.now + timeout_s, outcome))

    def _part(self) -> None:
        hosts = list(self.world.nodes)
        side = set(self.rng.sample(hosts, self.rng.randint(1, len(hosts))))
        cuts = [(one, other) for one in hosts for other in hosts if (one in side) != (other in side)]
        for cut in cuts:
            self.world.network.cut(*cut)

        def heal() -> None:
            for cut in cuts:
                self.world.network.mend(*cut)

        self.world.timeline.after(self.rng.choice((0.3, 1.0, 3.0)), heal)

    def _bounce(self) -> None:
        running = self.world.running()
        if running:
            node = self.rng.choice(running)
            node.crash()
            self.world.timeline.after(self.rng.choice((0.0, 0.2, 1.0)), lambda: self._restart(node))

    def _restart(self, node: SimulatedNode) -> None:
        if node.engine is None and not isinstance(node.failure, GivenUp):
            node.start()
            for group_id in self.ids:
                self._wish(node, group_id)

    def _join(self) -> None:
        node = add(self.world, len(self.world.nodes), join_timeout_s=60.0)
        for group_id in self.ids:
            self._wish(node, group_id)

    def _leave(self) -> None:
        running = self.world.running()
        if len(running) > 1:
            leaver = running[-1]
            leaver.faulty = True  # one that crashes in the middle may find that it has left, and must stop then
            self._let_leave(leaver)

    def _let_leave(self, leaver: SimulatedNode) -> None:
        left: Future[None] = Future()
        leaver.post(lambda: engine_of(leaver).departures.leave(left))

    # --- what must hold ---

    def _step(self) -> None:
        self.world.run_for(STEP_S)
        for node in self.world.running():
            engine = engine_of(node)
            for group_id in self.ids:
                record = engine.founding.acceptor.record(group_id)
                if record is not None and record.chosen:
                    known = self.chosen.setdefault(group_id, record.genesis)
                    if known != record.genesis:
                        raise SimulationError("two groups of one id", f"{known} and {record.genesis}")
        for wish in [wish for wish in self.wishes if wish.outcome.done()]:
            self.wishes.remove(wish)
            error = wish.outcome.result()
            self.refused += error is not None
            self.served += error is None
            stopped = isinstance(error, GivenUp) and wish.node.faulty
            if error is not None and not stopped and not isinstance(error, ClusterError):
                raise SimulationError("an error of the wrong kind", repr(error))
        for wish in self.wishes:
            lives = wish.node.engine is not None and wish.node.starts == wish.life
            if lives and self.world.now > wish.deadline + TURN_S:
                raise SimulationError("a wish did not end", f"{wish.node.host} until {wish.deadline}")

    # --- the end ---

    def _mend(self) -> None:
        world = self.world
        world.run_for(3.0)  # every planned fault has come by then, and every cut has been mended
        world.network.mend_all()
        conditions = world.network.conditions
        conditions.loss = conditions.repeat = conditions.datagram_loss = 0.0
        for node in world.nodes.values():
            if node.engine is None and not isinstance(node.failure, GivenUp):
                node.start()
            if node.engine is not None and node.engine.founding.acceptor.standing is Standing.SEALED:
                self._let_leave(node)  # it crashed on its way out, and goes on when it is told to
        run_until(world, self._all_vote, "all that stay vote, and whoever leaves is gone", 60.0)
        for group_id in self.ids:
            nodes = [node for node in world.running() if self._stays(node)]
            outcomes = [seek(node, group_id, 3, 20.0, host_here=True) for node in nodes]
            while not all(outcome.done() for outcome in outcomes):
                self._step()
            errors = [outcome.result() for outcome in outcomes if outcome.result() is not None]
            if errors:
                raise SimulationError("not found after everything was mended", repr(errors))
        run_until(world, lambda: set(leaders(world)) >= set(self.ids), "all groups are led", 60.0)
        self._step()
        for group_id in self.ids:
            geneses = {
                engine_of(node).hosting.groups[group_id].store.record.genesis
                for node in world.running()
                if group_id in engine_of(node).hosting.groups
            }
            if len(geneses) != 1:
                raise SimulationError("two groups of one id", f"{len(geneses)} geneses of {group_id.hex()}")

    def _all_vote(self) -> bool:
        return all(
            engine_of(node).founding.ready if self._stays(node) else engine_of(node).departures.stage is Stage.GONE
            for node in self.world.running()
        )

    def _stays(self, node: SimulatedNode) -> bool:
        return not engine_of(node).departures.leaving


def live(seed: int) -> Report:
    """Run one life. Raises :class:`~copycat.testing.world.SimulationError`, or AssertionError, at the first broken promise."""
    return Life(seed).run()
