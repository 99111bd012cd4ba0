"""Copies of real structures in a simulated world: the very classes of :mod:`copycat.structures`, without their threads.

Each copy is stepped as its own thread would step it. Its clients begin operations at random and write down what came of them;
:class:`Ledger` then asks whether all of it fits the specimen's sequential model, and whether all copies are equal.
"""

from __future__ import annotations

import math
import random
import threading
from concurrent.futures import Future
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from copycat.errors import Closed, CopyCatError, ProposalDropped, Refused
from copycat.structures import Operation, Replicated
from copycat.structures.follower import BATCH_ITEMS_MAX
from copycat.structures.packing import pack
from copycat.subscription import Subscription
from copycat.testing.clock import Timeline
from copycat.testing.consumer import Consumer, Habits
from copycat.testing.linearizability import Call, explains
from copycat.testing.specimens import REFUSED, Specimen
from copycat.testing.world import SimulatedNode, SimulationError

WAITING_MAX = 4
"""Calls of one copy that may be under way: concurrency is what makes the search of a history expensive."""


STATES_MAX = 20_000


def hashable(value: Any) -> Any:
    """A result as a model returns it: lists as tuples."""
    return tuple([hashable(each) for each in value]) if isinstance(value, (list, tuple)) else value


class Ledger:
    """Everything that was called on the copies of one structure, and what they held at which position."""

    def __init__(self, specimen: Specimen, timeline: Timeline) -> None:
        self.specimen = specimen
        self.history: list[Call] = []
        self._timeline = timeline
        self._states: dict[int, bytes] = {}

    @property
    def now(self) -> float:
        return self._timeline.now

    def record(self, name: str, arguments: list[Any], invoked: float, outcome: Future[Any] | None) -> None:
        """``outcome`` None: whoever called did not live to see it."""
        answered, result = self.now, None
        error = outcome.exception() if outcome is not None else Closed("never told")
        if isinstance(error, ProposalDropped):
            return  # it never happened, and never will
        if error is None:
            assert outcome is not None
            result = hashable(outcome.result())
        elif isinstance(error, Refused):
            result = REFUSED
        elif isinstance(error, CopyCatError):
            answered = math.inf
        else:
            raise SimulationError("unexpected error", f"{name}{tuple(arguments)}: {error!r}")
        self.history.append(Call(name, tuple(map(hashable, arguments)), invoked, answered, result))

    def holds(self, who: str, position: int, state: bytes) -> None:
        """A copy that has applied so much holds this."""
        known = self._states.setdefault(position, state)
        if known != state:
            raise SimulationError("copies differ", f"{self.specimen.name} of {who} at {position}")

    def check_end(self) -> bool | None:
        """What :func:`copycat.testing.linearizability.explains` says. Raises SimulationError if it is no."""
        model = replace(self.specimen.model, reads=frozenset(self.specimen.reads))
        verdict = explains(model, self.history, STATES_MAX)
        if verdict is False:
            raise SimulationError("not linearizable", f"{self.specimen.name}: {self.history}")
        return verdict


class Copy(Consumer):
    """One copy of a structure, and its clients."""

    def __init__(
        self, node: SimulatedNode, group_id: bytes, habits: Habits, rng: random.Random, ledger: Ledger
    ) -> None:
        super().__init__(node, group_id, habits, rng)
        self.ledger = ledger
        self._structure: Replicated | None = None
        self._calls: list[tuple[Operation[Any, Any], list[Any], float, Future[Any]]] = []
        self._reads: list[tuple[str, float, Future[int]]] = []

    @property
    def position(self) -> int:
        return self._structure.position if self._structure is not None else 0

    @property
    def idle(self) -> bool:
        return self.subscription is not None and not self._calls and not self._reads

    def _begins(self) -> None:
        node: Any = SimpleNamespace(config=self.node.config)  # all that a structure asks of it before it subscribes
        self._structure = self.ledger.specimen.make(node, self.group_id)
        self._structure._client = self.rng.getrandbits(80).to_bytes(10, "big")
        self._calls = []
        self._reads = []

    def _opened(self) -> None:
        assert self._structure is not None
        self._structure._subscription = self.subscription
        self.node.world.trace("opened", self.name, self.ledger.specimen.name)

    def _provide(self) -> bytes:
        assert self._structure is not None
        return self._structure._provide()

    def _serve(self, subscription: Subscription) -> None:
        structure = self._structure
        assert structure is not None
        items = subscription.commits.receive_many(BATCH_ITEMS_MAX, 0)
        if items:
            structure._thread = threading.current_thread()  # it is the copy's own for this moment
            try:
                structure._take(subscription, items)
            except CopyCatError as error:
                raise SimulationError("a copy stopped", f"{self.name}: {error!r}") from error
            finally:
                structure._thread = None
            self.ledger.holds(self.name, structure.position, pack(structure.snapshot()))
            self.node.world.trace("copy", self.name, structure.position)
        self._answers(structure)

    def _answers(self, structure: Replicated) -> None:
        waiting = []
        for call in self._calls:
            operation, arguments, invoked, future = call
            if future.done():
                self.ledger.record(operation.name, arguments, invoked, future)
            else:
                waiting.append(call)
        self._calls = waiting
        asked = []
        for read in self._reads:
            name, invoked, position = read
            if not position.done() or (position.exception() is None and position.result() > structure.position):
                asked.append(read)
            elif position.exception() is None:
                value: Future[Any] = Future()
                value.set_result(self.ledger.specimen.reads[name](structure))
                self.ledger.record(name, [], invoked, value)
        self._reads = asked

    def _act(self, subscription: Subscription) -> None:
        structure, rng, now = self._structure, self.rng, self.node.world.now
        assert structure is not None
        if not self.sending or len(self._calls) + len(self._reads) >= WAITING_MAX:
            return
        if rng.random() < self.habits.send_chance:
            operation, arguments = self.ledger.specimen.wish(rng, structure._client)
            try:
                future = structure._begin(operation, arguments)
            except CopyCatError:
                return
            if future is not None:
                self._calls.append((operation, arguments, now, future))
        names = list(self.ledger.specimen.reads)
        if names and (self.doubts or rng.random() < self.habits.read_chance):
            self._reads.append((rng.choice(names), now, subscription.committed()))

    def _ended(self, subscription: Subscription, clean: bool) -> None:
        structure = self._structure
        assert structure is not None
        structure._outstanding.end(Closed("the structure is closed"))
        for operation, arguments, invoked, future in self._calls:
            self.ledger.record(operation.name, arguments, invoked, future if clean and future.done() else None)
        self._calls = []
        self._reads = []
        self.node.world.trace("ended", self.name, clean)
