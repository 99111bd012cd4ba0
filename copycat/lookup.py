"""Finds a group's hosts by asking nodes, when the directory here doesn't know any.

Three different answers, never mixed up: some node named hosts; a majority of all known nodes said that it knows none;
or too few could be asked. Even the second is only what nodes have heard: whether a group exists is decided by
:mod:`copycat.creation` alone.

Never does: send, wait, or read a clock. One thread at a time.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

ASK_TIMEOUT_S = 0.5
HOSTS_MAX = 64


@dataclass(frozen=True, slots=True)
class Found:
    hosts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NotFound:
    """``said_no`` of ``known`` nodes, a majority, know no host."""

    said_no: int
    known: int


@dataclass(frozen=True, slots=True)
class CouldNotAsk:
    """No majority answered before the deadline; says nothing about the group."""

    said_no: int
    known: int
    silent: tuple[str, ...]


class Lookup:
    """One search. ``known`` are all members that have not left, dead ones too; this node counts as one that said no.

    At most ``fan_out`` questions are open at a time; one that stays without an answer for ``ASK_TIMEOUT_S`` is asked
    again after the others. Times are seconds of the caller's monotonic clock.
    """

    def __init__(
        self, node_id: str, known: Iterable[str], rng: random.Random, now: float, timeout_s: float, fan_out: int = 16
    ) -> None:
        self.outcome: Found | NotFound | CouldNotAsk | None = None
        others = sorted(set(known) - {node_id})
        rng.shuffle(others)
        self._waiting = deque(others)
        self._known = frozenset((*others, node_id))
        self._said_no = {node_id}
        self._open: dict[str, float] = {}
        self._fan_out = fan_out
        self._deadline = now + timeout_s
        self._judge()

    def next_deadline(self) -> float:
        """When :meth:`tick` is due; infinity after the end. The first call is due at once."""
        if self.outcome is not None:
            return float("inf")
        if self._waiting and len(self._open) < self._fan_out:
            return float("-inf")
        return min([self._deadline, *self._open.values()])

    def tick(self, now: float) -> list[str]:
        """The nodes to ask now."""
        if self.outcome is not None:
            return []
        if now >= self._deadline:
            silent = tuple(sorted(self._known - self._said_no))
            self.outcome = CouldNotAsk(len(self._said_no), len(self._known), silent)
            return []
        for node in [node for node, due in self._open.items() if due <= now]:
            del self._open[node]
            self._waiting.append(node)
        return self._ask(now)

    def answered(self, node_id: str, hosts: tuple[str, ...], now: float) -> list[str]:
        """A node named hosts, or none; returns whom to ask next."""
        if self.outcome is not None or node_id not in self._known:
            return []
        if hosts:
            self.outcome = Found(hosts[:HOSTS_MAX])
            return []
        self._said_no.add(node_id)
        if self._open.pop(node_id, None) is None and node_id in self._waiting:
            self._waiting.remove(node_id)
        self._judge()
        return self._ask(now) if self.outcome is None else []

    def _ask(self, now: float) -> list[str]:
        asked: list[str] = []
        while self._waiting and len(self._open) < self._fan_out:
            node = self._waiting.popleft()
            self._open[node] = now + ASK_TIMEOUT_S
            asked.append(node)
        return asked

    def _judge(self) -> None:
        if 2 * len(self._said_no) > len(self._known):
            self.outcome = NotFound(len(self._said_no), len(self._known))
