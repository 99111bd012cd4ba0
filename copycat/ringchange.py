"""Changing the keys of the whole cluster's gossip: one step on all nodes, and what each has afterwards.

Whoever changes them takes three steps, each on all nodes before the next: the new key is added, it seals, the old one is
removed (docs/security.md). Here one step is carried out: on this node's file first, then on those of all other members, which
answer with what they use from then on. Steps are harmless when repeated, and the question is repeated until all have answered
or time is up, so nothing has to be remembered: what is left to do can be seen from the rings.

Keys travel over connections that are authenticated and encrypted (nodes with keys have no others), and show nowhere else: in
logs and answers they are named by their ids. The file is written by the thread that drives the engine, as it is read by it.
"""

from __future__ import annotations

import enum
import logging
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from copycat.errors import CodecError, CopyCatError, UsageError
from copycat.security.keyring import KEY_BYTES, KeyRing, key_id

if TYPE_CHECKING:
    from copycat.engine import Engine

log = logging.getLogger(__name__)

FIRST_KIND = 80
ASK_EVERY_S = 0.5
ERROR_CHARACTERS_MAX = 300


class Step(enum.Enum):
    LOOK = "look"
    ADD = "add"
    USE = "use"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class RingAsk:
    """Take this step with the key of that id, and say what your ring is then. ``key`` is empty but to add it."""

    number: int
    step: str
    name: str
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class RingTell:
    """The sender seals with the first of these and understands the others; ``error``: why the step was not taken."""

    number: int
    names: tuple[str, ...]
    error: str


@dataclass(slots=True)
class _Question:
    ask: RingAsk
    waiting: set[str]
    told: dict[str, RingTell]
    deadline: float
    ask_again_at: float
    answer: Future[Any]


class RingChanges:
    """Belongs to the engine's thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._questions: dict[int, _Question] = {}
        for number, kind in enumerate((RingAsk, RingTell)):
            engine.registry.register(FIRST_KIND + number, kind)
        engine.handlers[RingAsk] = self._on_ask
        engine.handlers[RingTell] = self._on_tell

    def change(self, step: Step, name: str, timeout_s: float, answer: Future[Any]) -> None:
        """Take ``step`` with the key called ``name`` on all members; to add without a name makes a key.

        ``answer`` gets a dict, once all have answered or ``timeout_s`` seconds have passed: ``key`` (its id), ``nodes`` (of
        those that answered: ``node_id``, ``keys`` and ``error``) and ``silent`` (ids of the others). Raises
        :class:`~copycat.errors.UsageError` if this node has no keys, or not that one, and
        :class:`~copycat.errors.KeyFileInvalid` if its own file can't be changed.
        """
        ring = self._ring()
        key = b""
        if step is Step.ADD:
            key = ring.with_new().keys[-1] if not name else ring.named(name)
            name = key_id(key).hex()
        me = self._engine.node_id
        number = self._engine.rng.getrandbits(62)
        mine = RingTell(number, self._take(step, name, key), "")
        others = self._members() - {me}
        now = self._engine.now
        ask = RingAsk(number, step.value, name, key)
        self._questions[number] = _Question(ask, others, {me: mine}, now + timeout_s, now, answer)
        self._go_on(number)

    def tick(self) -> None:
        for number in list(self._questions):
            self._go_on(number)

    def end(self, reason: CopyCatError) -> None:
        """No turn will come any more."""
        questions, self._questions = self._questions, {}
        for question in questions.values():
            if not question.answer.done():
                question.answer.set_exception(reason)

    def _go_on(self, number: int) -> None:
        question = self._questions[number]
        now = self._engine.now
        if not question.waiting or now >= question.deadline:
            del self._questions[number]
            nodes = [
                {"node_id": node_id, "keys": list(told.names), "error": told.error or None}
                for node_id, told in sorted(question.told.items())
            ]
            if not question.answer.done():
                question.answer.set_result(
                    {"key": question.ask.name, "nodes": nodes, "silent": sorted(question.waiting)}
                )
        elif now >= question.ask_again_at:
            question.ask_again_at = now + ASK_EVERY_S
            for node_id in sorted(question.waiting):
                self._engine.send(node_id, question.ask)

    def _on_tell(self, sender: str, told: RingTell) -> None:
        question = self._questions.get(told.number)
        if question is not None and sender in question.waiting:
            question.waiting.remove(sender)
            question.told[sender] = told
            self._go_on(told.number)

    def _on_ask(self, sender: str, ask: RingAsk) -> None:
        if sender not in self._members():
            raise CodecError("a node that is no member asks for keys to be changed")
        try:
            step = Step(ask.step)
        except ValueError:
            raise CodecError("a step that is none") from None
        if step is Step.ADD and (len(ask.key) != KEY_BYTES or key_id(ask.key).hex() != ask.name):
            raise CodecError("a key that has another id than its own")
        names: tuple[str, ...] = ()
        error = ""
        try:
            names = tuple(self._ring().ids())
            names = self._take(step, ask.name, ask.key)
        except CopyCatError as refused:
            error = f"{type(refused).__name__}: {refused}"[:ERROR_CHARACTERS_MAX]
        self._engine.send(sender, RingTell(ask.number, names, error))

    def _members(self) -> set[str]:
        """All that may be heard of again: those that are down, or were shut down, too."""
        engine = self._engine
        seen = {member.node_id for member in engine.cluster.members()}
        return {one for one in seen.union(engine.founding.acceptor.roster.known) if not engine.departures.has_left(one)}

    def _ring(self) -> KeyRing:
        credentials = self._engine.credentials
        if credentials is None:
            raise UsageError("this node has no keys: its gossip is not sealed")
        return credentials.ring()

    def _take(self, step: Step, name: str, key: bytes) -> tuple[str, ...]:
        """Change this node's file if need be, and use it; the ids in use then."""
        if step is not Step.LOOK:
            path = Path(self._engine.config.gossip_keys_file)
            ring = KeyRing.read(path)  # not from memory: it may have been changed by hand a moment ago
            changed = _after(ring, step, name, key)
            if changed != ring:
                changed.write(path, replace=True)
                log.warning(
                    "the keys of gossip are changed for the cluster", extra={"gossip_keys": ",".join(changed.ids())}
                )
            self._engine.cluster.read_keys_again()
        return tuple(self._ring().ids())


def _after(ring: KeyRing, step: Step, name: str, key: bytes) -> KeyRing:
    """The ring once the step is taken; the same if it has been. Raises :class:`~copycat.errors.KeyFileInvalid`."""
    if step is Step.ADD:
        return ring if name in ring.ids() else ring.with_key(key)
    if step is Step.USE:
        return ring.sealing_with(name)
    return ring.without(name) if name in ring.ids() else ring
