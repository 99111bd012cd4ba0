"""From a group's log to its sequence of items: a deterministic state machine over entries.

The group runs one at its applied index, to know what became of its own proposals and who its members are. Every consumer's
feed runs its own at the place that the consumer has reached, so a slow consumer needs nothing kept for it but the log.
What a snapshot carries beside the consumer's bytes is exactly the packed state of the feed that made it.
"""

from __future__ import annotations

from dataclasses import dataclass

from copycat import codec
from copycat.errors import CodecError
from copycat.messages import ConfChange, ConfChangeType, Entry, EntryType
from copycat.raft.confchange import unpack_conf_change
from copycat.sessions import Applied, Outcome, SessionTable

STATE_VERSION = 2

DEPARTED_MAX = 256
"""Raft ids of removed members that are remembered, so that a straggler can be told."""


@dataclass(frozen=True, slots=True)
class Replica:
    """Where a member of the group lives. ``placed``: chosen by placement, not joined by a subscriber."""

    node_id: str
    placed: bool


def pack_context(replicas: dict[int, Replica], wanted: int = 0) -> bytes:
    """What a configuration change says about the members it adds, and how many voters are wanted from now on; 0: as before."""
    described: list[object] = [[raft_id, replica.node_id, replica.placed] for raft_id, replica in replicas.items()]
    return codec.pack([*described, wanted] if wanted else described)


def unpack_context(context: bytes) -> tuple[dict[int, Replica], int]:
    """Raises :class:`~copycat.errors.CodecError`."""
    value = codec.unpack(context) if context else []
    wanted = 0
    if isinstance(value, list) and value and type(value[-1]) is int:
        wanted = value.pop()
    return _unpack_replicas(value), wanted


class Sequencer:
    """The state after the entries up to ``index``; ``position`` is that of the last item among them."""

    __slots__ = ("departed", "index", "members", "position", "sessions", "wanted")

    def __init__(self, members: dict[int, Replica]) -> None:
        self.index = 0
        self.position = 0
        self.sessions = SessionTable()
        self.members = members
        self.departed: list[int] = []
        self.wanted = 0
        """Voters that an operator wants the group to have; 0: as many as it was created for."""

    def apply(self, entry: Entry) -> Applied:
        """Apply the next entry. A batch's items are left packed: see :func:`copycat.sessions.unpack_proposals`."""
        assert entry.index == self.index + 1, f"entry {entry.index} after {self.index}"
        self.index = entry.index
        if entry.type is EntryType.NORMAL:
            applied = self.sessions.apply(entry.data, entry.index, self.position)
            self.position += applied.count
            return applied
        self._apply_change(unpack_conf_change(entry.data))
        return Applied(Outcome.NOTHING)

    def _apply_change(self, change: ConfChange) -> None:
        described, wanted = unpack_context(change.context)
        self.wanted = wanted or self.wanted
        for single in change.changes:
            if single.type is ConfChangeType.REMOVE:
                if self.members.pop(single.id, None) is not None:
                    self.departed = [*self.departed[1 - DEPARTED_MAX :], single.id]
            elif single.id in described:
                self.members[single.id] = described[single.id]

    def fork(self) -> Sequencer:
        """An independent copy."""
        twin = Sequencer(dict(self.members))
        twin.index = self.index
        twin.position = self.position
        twin.sessions = self.sessions.fork()
        twin.departed = self.departed
        twin.wanted = self.wanted
        return twin

    def pack(self) -> bytes:
        return codec.pack(
            [
                STATE_VERSION,
                self.index,
                self.position,
                self.sessions.pack(),
                [[raft_id, member.node_id, member.placed] for raft_id, member in self.members.items()],
                self.departed,
                self.wanted,
            ]
        )

    @classmethod
    def unpack(cls, data: bytes) -> Sequencer:
        """Raises :class:`~copycat.errors.CodecError`."""
        value = codec.unpack(data)
        if not isinstance(value, list) or len(value) != 7 or value[0] != STATE_VERSION:
            raise CodecError("malformed group state, or one of another version")
        _, index, position, sessions, members, departed, wanted = value
        if not all(type(number) is int and number >= 0 for number in (index, position, wanted)):
            raise CodecError("malformed group state")
        if not isinstance(departed, list) or not all(type(raft_id) is int for raft_id in departed):
            raise CodecError("malformed group state")
        sequencer = cls(_unpack_replicas(members))
        sequencer.index = index
        sequencer.position = position
        sequencer.departed = departed
        sequencer.wanted = wanted
        sequencer.sessions = SessionTable.unpack(sessions)
        return sequencer


def _unpack_replicas(value: object) -> dict[int, Replica]:
    replicas: dict[int, Replica] = {}
    if not isinstance(value, list):
        raise CodecError("malformed members")
    for item in value:
        if not isinstance(item, list) or len(item) != 3:
            raise CodecError("malformed members")
        raft_id, node_id, placed = item
        if type(raft_id) is not int or not isinstance(node_id, str) or not isinstance(placed, bool):
            raise CodecError("malformed members")
        replicas[raft_id] = Replica(node_id, placed)
    return replicas
