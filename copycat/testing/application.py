"""A consumer as a user would write one: registers, kept by what the commit channel hands out, and saved in snapshots.

Each proposal names its sender and its number, so that whoever reads the sequence can tell what is missing, twice or out
of order. The application never blocks: it calls the real channels with a timeout of 0, at times of its own.

What it sees is told to a :class:`Witness` as it happens; this judges nothing itself.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Protocol

from copycat import codec
from copycat.errors import Closed, CopyCatError, Full, OutcomeUnknown, Timeout
from copycat.subscription import Subscription
from copycat.testing.consumer import Consumer, Habits
from copycat.testing.world import SimulatedNode, SimulationError

RECEIVE_MAX = 64
CHAIN_BYTES = 12
WAITING_MAX = 1000


@dataclass(frozen=True, slots=True)
class Proposal:
    """What travels: sender and number, and the register that it sets to exactly these two."""

    sender: str
    number: int
    key: str

    def pack(self, padding: bytes) -> bytes:
        return codec.pack([self.sender, self.number, self.key, padding])

    @classmethod
    def unpack(cls, data: bytes) -> Proposal:
        sender, number, key, _ = codec.unpack(data)
        return cls(sender, number, key)


def extend_chain(chain: bytes, item: bytes) -> bytes:
    """A digest of the whole sequence up to an item."""
    return blake2b(chain + item, digest_size=CHAIN_BYTES).digest()


@dataclass(slots=True)
class State:
    """What the consumer replicates."""

    position: int = 0
    chain: bytes = b""
    registers: dict[str, str] = field(default_factory=dict)

    def apply(self, item: bytes) -> Proposal:
        proposal = Proposal.unpack(item)
        self.position += 1
        self.chain = extend_chain(self.chain, item)
        self.registers[proposal.key] = f"{proposal.sender}:{proposal.number}"
        return proposal

    def pack(self, padding: int) -> bytes:
        return codec.pack([self.position, self.chain, self.registers, b"\0" * padding])

    @classmethod
    def unpack(cls, data: bytes) -> State:
        position, chain, registers, _ = codec.unpack(data)
        return cls(position, chain, registers)


class Witness(Protocol):
    """Who is told what consumers do and see."""

    def opened(self, app: Application) -> None: ...

    def sent(self, app: Application, proposal: Proposal) -> None: ...

    def handed_out(self, app: Application, position: int, item: bytes, proposal: Proposal) -> None: ...

    def reloaded(self, app: Application, state: State, position: int) -> None: ...

    def resolved(self, app: Application, proposal: Proposal, position: int) -> None: ...

    def rejected(self, app: Application, proposal: Proposal, error: BaseException) -> None: ...

    def error(self, app: Application, error: CopyCatError) -> None: ...

    def read(self, app: Application, key: str, value: str | None, asked_at: float) -> None: ...

    def ended(self, app: Application, clean: bool) -> None:
        """The subscription is over; ``clean``: it was closed, not killed."""


class Application(Consumer):
    """A consumer whose every call and answer is told to a witness."""

    def __init__(
        self, node: SimulatedNode, group_id: bytes, habits: Habits, rng: random.Random, witness: Witness
    ) -> None:
        super().__init__(node, group_id, habits, rng)
        self.witness = witness
        self.state = State()
        self._sent = 0
        self._futures: list[tuple[Proposal, Future[int]]] = []
        self._reads: list[tuple[float, str, Future[int]]] = []

    @property
    def position(self) -> int:
        return self.state.position

    @property
    def idle(self) -> bool:
        """Whether nothing is under way: all futures are told, all reads answered."""
        return self.subscription is not None and not self._futures and not self._reads

    # --- steps ---

    def _begins(self) -> None:
        self._sent = 0
        self.state = State()

    def _opened(self) -> None:
        self.witness.opened(self)

    def _serve(self, subscription: Subscription) -> None:
        self._receive(subscription)
        self._read_errors(subscription)
        self._answers(subscription)

    def _provide(self) -> Iterator[bytes]:
        packed = self.state.pack(self.habits.snapshot_padding_bytes)
        middle = len(packed) // 2
        yield packed[:middle]
        yield packed[middle:]

    def _receive(self, subscription: Subscription) -> None:
        commits = subscription.commits
        for item in commits.receive_many(RECEIVE_MAX, timeout=0):
            if item is None:
                self.state = State.unpack(subscription.snapshot_consumer())
                self.witness.reloaded(self, self.state, commits.position)
            else:
                proposal = self.state.apply(item)
                self.witness.handed_out(self, self.state.position, item, proposal)
        if commits.position != self.state.position:
            raise SimulationError("wrong position", f"{self.name}: {commits.position}, not {self.state.position}")

    def _read_errors(self, subscription: Subscription) -> None:
        while True:
            try:
                error = subscription.errors.receive(timeout=0)
            except Timeout:
                return
            self.witness.error(self, error)

    def _answers(self, subscription: Subscription) -> None:
        waiting = []
        for proposal, future in self._futures:
            if not future.done():
                waiting.append((proposal, future))
                continue
            error = future.exception()
            if error is None:
                self.witness.resolved(self, proposal, future.result())
            else:
                self.witness.rejected(self, proposal, error)
        self._futures = waiting
        reads = []
        for asked_at, key, answer in self._reads:
            if not answer.done() or (answer.exception() is None and answer.result() > self.state.position):
                reads.append((asked_at, key, answer))
            elif answer.exception() is None:
                self.witness.read(self, key, self.state.registers.get(key), asked_at)
        self._reads = reads

    def _key(self) -> str:
        epoch = int(self.node.world.now / self.habits.epoch_s)
        return f"{epoch}.{self.rng.randrange(self.habits.keys)}"

    def _act(self, subscription: Subscription) -> None:
        rng, habits = self.rng, self.habits
        if self.sending and rng.random() < habits.send_chance and len(self._futures) < WAITING_MAX:
            for _ in range(rng.randint(1, habits.burst_max)):
                if not self._send(subscription):
                    break
        reads = self.doubts or rng.random() < habits.read_chance
        if self.sending and reads and len(self._reads) < WAITING_MAX:
            self._reads.append((self.node.world.now, self._key(), subscription._desk.ask_barrier()))

    def _send(self, subscription: Subscription) -> bool:
        padding = bytes(self.rng.randrange(self.habits.padding_bytes + 1))
        proposal = Proposal(self.name, self._sent + 1, self._key())
        data = proposal.pack(padding)
        try:
            if self.rng.random() < self.habits.submit_chance:
                self._futures.append((proposal, subscription.propose.submit(data, timeout=0)))
            else:
                subscription.propose.send(data, timeout=0)
        except Full:
            return False
        self._sent += 1
        self.witness.sent(self, proposal)
        return True

    # --- the end ---

    def _ended(self, subscription: Subscription, clean: bool) -> None:
        if clean:
            self._read_last(subscription)
        self.witness.ended(self, clean)
        self._futures = []
        self._reads = []

    def _read_last(self, subscription: Subscription) -> None:
        """What was told on the channels before their end."""
        try:
            self._read_errors(subscription)
        except Closed:
            pass
        for proposal, future in self._futures:
            error = future.exception() if future.done() else OutcomeUnknown("never told")
            if error is None:
                self.witness.resolved(self, proposal, future.result())
            else:
                self.witness.rejected(self, proposal, error)
