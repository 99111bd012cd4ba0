"""What a replica that has no vote any more can do for one that counts on it: tell it that its vote is not needed.

A voter can come back from a crash without knowing that the change by which another lost its vote is committed: commit
indices are written behind what they speak of. It then stands in the old configuration. If that needs the other's vote, and
the other's log goes further, it is refused for ever, and nobody else may stand. But the other knows that the change is
committed. It says so, by index and term: whoever has that very entry has everything before it too (Raft paper, 5.3, log
matching), and may count it as committed whoever says so.

Raft's own refusal stays as it is. This is said beside it, by replicas that are asked for a vote and have none to give.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from copycat.errors import CodecError
from copycat.messages import Message, MessageType

if TYPE_CHECKING:
    from copycat.engine import Engine
    from copycat.group import Group

KIND = 66
VOTE_REQUESTS = frozenset((MessageType.PRE_VOTE, MessageType.VOTE))


@dataclass(frozen=True, slots=True)
class Committed:
    """In this group the entry of ``term`` at ``index`` is committed."""

    group: bytes
    index: int
    term: int


class Testimony:
    """Of one node. Belongs to the engine's thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        engine.registry.register(KIND, Committed)
        engine.handlers[Committed] = self._on_committed

    def asked_for_vote(self, group: Group, sender: str, request: Message) -> None:
        """The candidate on node ``sender`` counts on the replica here; if that has no vote, tell it what is committed."""
        raft = group.raft
        if raft.has_vote:
            return
        index = min(raft.committed, request.index)
        term = raft.term_of(index)
        if term is not None:
            self._engine.send(sender, Committed(group.id, index, term))

    def _on_committed(self, sender: str, said: Committed) -> None:
        group = self._engine.hosting.groups.get(said.group)
        if group is None or group.ended:
            return
        if all(member.node_id != sender for member in group.sequencer.members.values()):
            raise CodecError(f"node {sender} speaks of a group of which it is no member")
        if group.raft.learn_commit(said.index, said.term):
            group.host.touch(group)
