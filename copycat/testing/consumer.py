"""Anybody who subscribes in a simulated world: opens one subscription after another, and looks at it at times of its own.

A consumer never blocks. What it does with its subscription is said by those who derive from it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass

from copycat.errors import Closed, CopyCatError, NodeFailure
from copycat.subscription import Subscription
from copycat.testing.world import SimulatedNode, SimulationError

SUBSCRIBE_TIMEOUT_S = 10.0
DOUBT = 0.5


@dataclass(frozen=True, slots=True)
class Habits:
    """What a consumer does, and how often. ``step_s`` is the mean time between two looks at its channels."""

    step_s: float = 0.02
    send_chance: float = 0.3
    burst_max: int = 4
    submit_chance: float = 0.5
    read_chance: float = 0.1
    padding_bytes: int = 20
    snapshot_padding_bytes: int = 0
    keys: int = 3
    epoch_s: float = 3.0
    """A register is used for this long, then there is another one: histories stay short enough to be checked."""


class Consumer:
    """One subscription at a time to one group, on one node, for as long as the process lives."""

    def __init__(self, node: SimulatedNode, group_id: bytes, habits: Habits, rng: random.Random) -> None:
        self.node = node
        self.group_id = group_id
        self.habits = habits
        self.rng = rng
        self.name = ""
        self.subscription: Subscription | None = None
        self.step_s = habits.step_s
        self.sending = True
        """Whether it may still begin something."""
        self.closing: Future[None] | None = None
        self.stopped = False
        self._woke = False
        self._opening: Future[Subscription] | None = None
        self._generation = 0
        self._plan()

    # --- for those who derive ---

    @property
    def position(self) -> int:
        """How much of the sequence it has been handed."""
        raise NotImplementedError

    @property
    def idle(self) -> bool:
        """Whether it waits for nothing."""
        raise NotImplementedError

    def _begins(self) -> None:
        """It is about to subscribe, with nothing in its hands."""

    def _opened(self) -> None:
        """It has subscribed."""

    def _serve(self, subscription: Subscription) -> None:
        """Look at the channels."""
        raise NotImplementedError

    def _act(self, subscription: Subscription) -> None:
        """Do something, now and then."""

    def _provide(self) -> bytes | Iterator[bytes]:
        """A snapshot."""
        raise NotImplementedError

    def _ended(self, subscription: Subscription, clean: bool) -> None:
        """The subscription is over; ``clean``: it was closed, not killed."""

    # --- life ---

    def kill(self) -> None:
        """The process is gone."""
        if self.stopped:
            return
        self.stopped = True
        subscription, self.subscription = self.subscription, None
        if subscription is not None:
            self._ended(subscription, clean=False)

    def close(self) -> None:
        """Close the subscription; another one follows."""
        if self.subscription is not None and self.closing is None:
            self.closing = self.subscription._desk.ask_close()

    @property
    def doubts(self) -> bool:
        """Whether what it knows may be old without its knowing that: then it should read.

        Its process has just gone on after a pause, or something between its node and others is cut.
        """
        return self._woke or (self.node.cut_until > self.node.world.now and self.rng.random() < DOUBT)

    def _plan(self) -> None:
        self.node.world.timeline.after(self.rng.expovariate(1.0 / self.step_s), self._step)

    def _step(self) -> None:
        if self.stopped:
            return
        self._plan()
        if self.node.paused:
            self._woke = True
            return
        if self.subscription is None:
            self._open()
            return
        try:
            self._serve(self.subscription)
            if self.closing is None:
                self._act(self.subscription)
                self._woke = False
            elif self.closing.done():
                self._closed()
        except Closed:
            self._closed()
        except NodeFailure as error:
            if not self.node.faulty:
                raise SimulationError("a snapshot can't be read", f"{self.name}: {error}") from error
            self.kill()  # and the node stops, too

    def _open(self) -> None:
        opening = self._opening
        if opening is None:
            future: Future[Subscription] = Future()
            self._opening = future
            self._generation += 1
            self.name = f"{self.node.host}.{self.node.starts}.{self._generation}"
            self._begins()
            self.node.post(lambda: self._subscribe(future))
        elif opening.done():
            self._opening = None
            error = opening.exception()
            if error is None:
                self.subscription = opening.result()
                self._opened()
            elif not isinstance(error, CopyCatError):
                raise error

    def _subscribe(self, future: Future[Subscription]) -> None:
        engine = self.node.engine
        assert engine is not None
        try:
            engine.consumers.subscribe(self.group_id, self._provide, SUBSCRIBE_TIMEOUT_S, future)
        except CopyCatError as error:
            future.set_exception(error)

    def _closed(self) -> None:
        subscription, self.subscription = self.subscription, None
        assert subscription is not None
        self.closing = None
        self._ended(subscription, clean=True)
