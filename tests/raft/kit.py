"""One replica on a disk of lists, and a handful of them on a network that a test holds in its hand."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from copycat.messages import (
    LOCAL_APPEND_THREAD,
    LOCAL_APPLY_THREAD,
    ConfChange,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
    ConfState,
    Entry,
    EntryType,
    HardState,
    Message,
    MessageType,
    Snapshot,
)
from copycat.raft import (
    Compacted,
    RaftConfig,
    RawNode,
    ReadState,
    Ready,
    Role,
    SnapshotUnavailable,
    Unavailable,
    unpack_conf_change,
)

T = MessageType
ADD = ConfChangeType.ADD_VOTER
LEARNER = ConfChangeType.ADD_LEARNER
REMOVE = ConfChangeType.REMOVE
IMPLICIT = ConfChangeTransition.JOINT_IMPLICIT
EXPLICIT = ConfChangeTransition.JOINT_EXPLICIT


def change(
    *operations: tuple[ConfChangeType, int], transition: ConfChangeTransition = ConfChangeTransition.AUTO
) -> ConfChange:
    return ConfChange(tuple(ConfChangeSingle(kind, ident) for kind, ident in operations), transition)


class Disk:
    """Stable storage of one replica."""

    def __init__(self, conf_state: ConfState | None = None) -> None:
        self.hard_state = HardState()
        self.log: list[Entry] = []
        self.point = Snapshot(conf_state=conf_state or ConfState())
        self.newest: Snapshot | None = None

    def initial_state(self) -> tuple[HardState, ConfState]:
        return self.hard_state, self.point.conf_state

    def first_index(self) -> int:
        return self.point.index + 1

    def last_index(self) -> int:
        return self.point.index + len(self.log)

    def term(self, index: int) -> int:
        if index == self.point.index:
            return self.point.term
        return self.entries(index, index + 1, 0)[0].term

    def entries(self, low: int, high: int, bytes_max: int) -> list[Entry]:
        if low <= self.point.index:
            raise Compacted(low)
        if high > self.last_index() + 1:
            raise Unavailable(high)
        found = self.log[low - self.point.index - 1 : high - self.point.index - 1]
        size = len(found[0].data)
        for count in range(1, len(found)):
            size += len(found[count].data)
            if size > bytes_max:
                return found[:count]
        return found

    def snapshot(self) -> Snapshot:
        if self.newest is None:
            raise SnapshotUnavailable
        return self.newest

    def write(self, hard_state: HardState | None, snapshot: Snapshot | None, entries: Sequence[Entry]) -> None:
        if hard_state is not None:
            self.hard_state = hard_state
        if snapshot is not None:
            self.log = []
            self.point = self.newest = snapshot
        if entries:
            keep = entries[0].index - self.point.index - 1
            assert 0 <= keep <= len(self.log), "a write that leaves a gap"
            self.log[keep:] = entries

    def compact(self, index: int, conf_state: ConfState | None = None) -> None:
        """Make a snapshot at ``index`` and drop the log up to it."""
        state = conf_state or self.point.conf_state
        term = self.term(index)
        del self.log[: index - self.point.index]
        self.point = self.newest = Snapshot(index, term, state, b"state")


class Replica:
    """A replica whose work is done as soon as it is asked for. Plain Raft unless options say more."""

    def __init__(
        self,
        ident: int = 1,
        *,
        voters: Sequence[int] = (1, 2, 3),
        learners: Sequence[int] = (),
        terms: Sequence[int] = (),
        term: int | None = None,
        vote: int = 0,
        commit: int = 0,
        **options: Any,
    ) -> None:
        self.disk = Disk(ConfState(tuple(voters), tuple(learners)))
        self.disk.log = [Entry(each, index) for index, each in enumerate(terms, 1)]
        if term is None:
            term = terms[-1] if terms else 0
        self.disk.hard_state = HardState(term, vote, commit)
        self.options: dict[str, Any] = {
            "id": ident,
            "storage": self.disk,
            "rng": random.Random(ident),
            "check_quorum": False,
            "pre_vote": False,
            **options,
        }
        self.applied: list[Entry] = []
        self.reads: list[ReadState] = []
        self.raw = RawNode(RaftConfig(**self.options))

    @property
    def id(self) -> int:
        return self.raw.id

    def restart(self, applied: int = 0) -> None:
        """Start again from what is on the disk."""
        self.applied = []
        self.raw = RawNode(RaftConfig(**{**self.options, "applied": applied}))

    def work(self) -> Ready:
        """Do what one Ready asks for."""
        ready = self.raw.ready()
        self.disk.write(ready.hard_state, ready.snapshot, ready.entries)
        self.reads += ready.read_states
        self.apply(ready.committed_entries)
        self.raw.advance()
        return ready

    def apply(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self.applied.append(entry)
            if entry.type != EntryType.NORMAL:
                self.raw.apply_conf_change(unpack_conf_change(entry.data))

    def settle(self) -> list[Message]:
        """Work until nothing is left; the messages that were sent."""
        sent: list[Message] = []
        while self.raw.has_ready():
            sent += self.work().messages
        return sent

    def hear(self, kind: MessageType, sender: int, **fields: Any) -> list[Message]:
        """A message arrives; what is sent for it."""
        fields.setdefault("term", self.raw.term)
        self.raw.step(Message(kind, to=self.id, sender=sender, **fields))
        return self.settle()

    def accept(self, sender: int, index: int) -> list[Message]:
        return self.hear(T.APP_RESP, sender, index=index)

    def tick(self, count: int = 1) -> list[Message]:
        for _ in range(count):
            self.raw.tick()
        return self.settle()

    def propose(self, *data: bytes) -> list[Message]:
        self.raw.propose_many(list(data))
        return self.settle()

    def elect(self) -> list[Message]:
        """Make this replica leader with all votes; what it sends then."""
        self.raw.campaign()
        self.settle()
        for voter in sorted(self.raw.raft.tracker.voters() - {self.id}):
            if self.raw.role != Role.LEADER:
                self.raw.step(Message(T.VOTE_RESP, to=self.id, sender=voter, term=self.raw.term))
        assert self.raw.role == Role.LEADER
        return self.settle()

    def lead(self) -> Replica:
        """Elected, with the empty entry of its term acknowledged by all voters and nothing in the air."""
        self.elect()
        for member in sorted(self.raw.raft.tracker.members.keys() - {self.id}):
            self.accept(member, self.raw.last_index)
        self.settle()
        return self

    def terms(self) -> list[int]:
        """Terms of the log from the first index on."""
        log = self.raw.raft.log
        return [entry.term for entry in log.entries(log.first_index(), 1 << 60)]

    def progress(self, peer: int) -> Any:
        return self.raw.raft.tracker.members[peer]


def app(index: int, log_term: int, *terms: int, commit: int = 0, data: bytes = b"") -> dict[str, Any]:
    """Fields of an append message."""
    entries = [Entry(term, index + 1 + offset, data=data) for offset, term in enumerate(terms)]
    return {"index": index, "log_term": log_term, "entries": entries, "commit": commit}


def only(messages: Iterable[Message], kind: MessageType, to: int | None = None) -> list[Message]:
    return [each for each in messages if each.type == kind and to in (None, each.to)]


class Group:
    """Replicas, and messages that arrive in the order in which they were sent unless ``drop`` says no."""

    def __init__(self, *replicas: Replica) -> None:
        self.replicas = {replica.id: replica for replica in replicas}
        self.drop: Callable[[Message], bool] = lambda message: False

    def __getitem__(self, ident: int) -> Replica:
        return self.replicas[ident]

    def run(self) -> list[Message]:
        """Until nothing moves; all messages that were delivered."""
        delivered: list[Message] = []
        for _ in range(10_000):
            sent = [message for replica in self.replicas.values() for message in replica.settle()]
            arriving = [each for each in sent if each.to in self.replicas and not self.drop(each)]
            if not arriving:
                return delivered
            for message in arriving:
                self.replicas[message.to].raw.step(message)
            delivered += arriving
        raise AssertionError("the group does not come to rest")

    def isolate(self, *cut: int) -> None:
        self.drop = lambda message: message.to in cut or message.sender in cut

    def heal(self) -> None:
        self.drop = lambda message: False


def group(*voters: int, **options: Any) -> Group:
    return Group(*(Replica(ident, voters=voters, **options) for ident in voters))


__all__ = ["LOCAL_APPEND_THREAD", "LOCAL_APPLY_THREAD"]
