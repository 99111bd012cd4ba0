"""Linearizable reads: how far must a consumer have come to have seen everything committed before it asked?

Each question is put to Raft's read-index (Raft paper, section 8; thesis, section 6.4): the leader confirms that it still leads
and names its commit index. Once this replica has applied that far, the position it stands at is the answer.
Questions that come in the same turn share one round.
"""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field

from copycat.raft import RawNode

ASK_AGAIN_TICKS = 10
"""A question may be lost on its way to the leader: ask anew after this many ticks."""


@dataclass(slots=True, eq=False)
class Barrier:
    """One question; ``answer`` gets the position."""

    answer: Future[int] = field(default_factory=Future)


class ReadQueue:
    """Belongs to the engine's thread."""

    __slots__ = ("_asked", "_confirmed", "_count", "_ticks", "waiting")

    def __init__(self) -> None:
        self.waiting: list[Barrier] = []
        self._asked: dict[bytes, list[Barrier]] = {}
        self._confirmed: list[tuple[int, list[Barrier]]] = []
        self._count = 0
        self._ticks = 0

    def add(self, barrier: Barrier) -> None:
        self.waiting.append(barrier)

    def ask(self, raft: RawNode) -> None:
        """Put all waiting questions to Raft, as one."""
        self._count += 1
        context = self._count.to_bytes(8, "little")
        self._asked[context] = self.waiting
        self.waiting = []
        raft.read_index(context)

    def answered(self, context: bytes, index: int) -> None:
        asked = self._asked.pop(context, None)
        if asked is not None:
            self._confirmed.append((index, asked))

    def release(self, applied: int, position: int) -> None:
        """Answer the questions whose index is applied; ``position`` is that of the last item up to ``applied``."""
        if not self._confirmed:
            return
        still = []
        for index, barriers in self._confirmed:
            if index > applied:
                still.append((index, barriers))
                continue
            for barrier in barriers:
                if not barrier.answer.done():
                    barrier.answer.set_result(position)
        self._confirmed = still

    def ask_again(self) -> None:
        """What was asked of an earlier leader may never be answered."""
        for barriers in self._asked.values():
            self.waiting += [barrier for barrier in barriers if not barrier.answer.done()]
        self._asked.clear()
        self._ticks = 0

    def tick(self) -> None:
        if not self._asked:
            self._ticks = 0
            return
        self._ticks += 1
        if self._ticks >= ASK_AGAIN_TICKS:
            self.ask_again()

    def take(self) -> list[Barrier]:
        """All that are not answered, to be asked elsewhere."""
        self.ask_again()
        taken = self.waiting + [barrier for _, barriers in self._confirmed for barrier in barriers]
        self.waiting = []
        self._confirmed = []
        return taken

    def fail(self, error: Exception) -> None:
        """No answer will come."""
        for barrier in self.take():
            if not barrier.answer.done():
                barrier.answer.set_exception(error)
