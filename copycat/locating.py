"""Who hosts a group, for whoever wants to know without creating it.

This node's own view answers at once if it holds anything. Else the others are asked (:mod:`copycat.lookup`), and there are three
answers, never mixed up: some nodes host it; a majority of all known nodes says that it does not exist; or too few could be asked,
which says nothing. A node says "no" only if it votes on creations and has not accepted one of this id: so what a
majority has created before is never said not to exist.
"""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

from copycat.errors import CodecError, CopyCatError, LookupFailed
from copycat.founding import PATIENCE
from copycat.lookup import HOSTS_MAX, CouldNotAsk, Found, Lookup

if TYPE_CHECKING:
    from copycat.engine import Engine

FIRST_KIND = 64
_SILENT_NAMED_MAX = 5


@dataclass(frozen=True, slots=True)
class HostsAsk:
    """Do you know of this group? ``number`` comes back with the answer."""

    group: bytes
    number: int


@dataclass(frozen=True, slots=True)
class HostsTell:
    """These nodes host it, as far as the sender knows; empty: nobody does."""

    group: bytes
    number: int
    hosts: tuple[str, ...]


@dataclass(slots=True)
class _Question:
    group_id: bytes
    lookup: Lookup
    answer: Future[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class _Early:
    """A question that came before this node belonged to the cluster. ``deadline`` is on the engine's clock."""

    group_id: bytes
    deadline: float
    answer: Future[tuple[str, ...]]


class Locating:
    """Belongs to the engine's thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._questions: dict[int, _Question] = {}
        self._early: list[_Early] = []
        for number, kind in enumerate((HostsAsk, HostsTell)):
            engine.registry.register(FIRST_KIND + number, kind)
        engine.handlers[HostsAsk] = self._on_ask
        engine.handlers[HostsTell] = self._on_tell

    def locate(self, group_id: bytes, timeout_s: float, answer: Future[tuple[str, ...]]) -> None:
        """``answer`` gets the node ids of the group's hosts, none if it does not exist, or LookupFailed."""
        engine = self._engine
        hosts = self._known_hosts(group_id)
        if hosts:
            answer.set_result(hosts)
            return
        if not engine.founding.ready:
            self._early.append(_Early(group_id, engine.now + PATIENCE * timeout_s, answer))
            return
        self._ask_all(group_id, PATIENCE * timeout_s, answer)

    def _ask_all(self, group_id: bytes, timeout_s: float, answer: Future[tuple[str, ...]]) -> None:
        engine = self._engine
        known = engine.founding.acceptor.roster.known
        lookup = Lookup(engine.node_id, known, engine.rng, engine.now, timeout_s)
        number = engine.rng.getrandbits(62)
        self._questions[number] = _Question(group_id, lookup, answer)
        self._go_on(number)

    def tick(self) -> None:
        early, self._early = self._early, []
        for each in early:
            self._try_again(each)
        for number in list(self._questions):
            self._go_on(number)

    def _try_again(self, early: _Early) -> None:
        """This node could not say who is a member when it was asked: it may have joined by now."""
        now = self._engine.now
        hosts = self._known_hosts(early.group_id)
        if hosts:
            early.answer.set_result(hosts)
        elif now >= early.deadline:
            early.answer.set_exception(
                LookupFailed("this node is still joining, or leaving, and knows too little: try again")
            )
        elif self._engine.founding.ready:
            self._ask_all(early.group_id, early.deadline - now, early.answer)
        else:
            self._early.append(early)

    def end(self, reason: CopyCatError) -> None:
        """No turn will come any more."""
        answers = [early.answer for early in self._early]
        answers += [question.answer for question in self._questions.values()]
        self._early, self._questions = [], {}
        for answer in answers:
            if not answer.done():
                answer.set_exception(reason)

    def _known_hosts(self, group_id: bytes) -> tuple[str, ...]:
        engine = self._engine
        hosts = engine.cluster.hosts_of(group_id)
        record = engine.founding.acceptor.record(group_id)
        if not hosts and record is not None and record.genesis is not None:
            hosts = tuple([node_id for _, node_id in record.genesis.voters])
        return hosts[:HOSTS_MAX]

    def _go_on(self, number: int) -> None:
        question = self._questions[number]
        now = self._engine.now
        while now >= question.lookup.next_deadline():
            self._ask(number, question.lookup.tick(now))
        self._end_if_over(number)

    def _ask(self, number: int, node_ids: list[str]) -> None:
        group_id = self._questions[number].group_id
        for node_id in node_ids:
            self._engine.send(node_id, HostsAsk(group_id, number))

    def _end_if_over(self, number: int) -> None:
        question = self._questions[number]
        outcome = question.lookup.outcome
        if outcome is None:
            return
        del self._questions[number]
        if question.answer.done():
            return
        if isinstance(outcome, Found):
            question.answer.set_result(outcome.hosts)
        elif isinstance(outcome, CouldNotAsk):
            silent = ", ".join(outcome.silent[:_SILENT_NAMED_MAX])
            question.answer.set_exception(
                LookupFailed(
                    f"{outcome.said_no} of {outcome.known} known nodes know of no such data structure, and the others did not "
                    f"answer in time: it may exist. Silent: {silent}. Bring nodes back, or try again"
                )
            )
        else:
            question.answer.set_result(())

    def _on_ask(self, sender: str, ask: HostsAsk) -> None:
        hosts = self._known_hosts(ask.group)
        if hosts or self._engine.founding.ready:
            self._engine.send(sender, HostsTell(ask.group, ask.number, hosts))

    def _on_tell(self, sender: str, tell: HostsTell) -> None:
        if len(tell.hosts) > HOSTS_MAX:
            raise CodecError("too many hosts")
        question = self._questions.get(tell.number)
        if question is not None and question.group_id == tell.group:
            self._ask(tell.number, question.lookup.answered(sender, tell.hosts, self._engine.now))
            self._end_if_over(tell.number)
