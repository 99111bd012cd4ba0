"""What must hold in every run: judged from what consumers saw, and from what engines hold.

:class:`Observer` stands outside: order, exactly-once, positions, snapshots and linearizable reads, by what the channels handed
out. :class:`Inspector` looks inside after each turn: one leader per term, one log, one genesis, voters apart, queues
within their bounds. Both raise :class:`~copycat.testing.world.SimulationError` at the first contradiction.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from zlib import crc32

from copycat.errors import CopyCatError, OutcomeUnknown, PositionUnknown, ProposalDropped
from copycat.group import Group
from copycat.messages import EntryType
from copycat.raft import Role
from copycat.testing.application import Application, Proposal, State, extend_chain
from copycat.testing.clock import Timeline
from copycat.testing.linearizability import Operation, is_linearizable
from copycat.testing.world import SimulatedNode, SimulationError

POSTS_MAX = 5_000
LOG_TAIL_MAX = 200


@dataclass(slots=True)
class Sender:
    """What one subscription sent, and what became of it. ``invoked`` and ``answered`` are times by number."""

    app: Application
    sent: int = 0
    committed: int = 0
    """Number of the last proposal that was seen to commit."""
    alive: bool = True
    unknown: set[int] = field(default_factory=set)
    """Numbers whose fate the library, rightly or not, said it can't know."""
    missing: set[int] = field(default_factory=set)
    """Numbers that were skipped by later ones."""
    dropped: set[int] = field(default_factory=set)
    """Numbers of which the library said that they never will be committed."""
    invoked: dict[int, float] = field(default_factory=dict)
    answered: dict[int, float] = field(default_factory=dict)


@dataclass(slots=True)
class Sequence:
    """One group, as its subscribers saw it."""

    items: list[bytes] = field(default_factory=list)
    chains: list[bytes] = field(default_factory=lambda: [b""])
    senders: dict[str, Sender] = field(default_factory=dict)
    promised: dict[int, Proposal] = field(default_factory=dict)
    """Positions that futures told, and of what."""
    reads: dict[str, list[Operation]] = field(default_factory=lambda: defaultdict(list))
    writes: dict[str, list[tuple[str, int]]] = field(default_factory=lambda: defaultdict(list))
    reached: list[tuple[float, int]] = field(default_factory=list)
    """(time, position): from then on, every read that is asked for must see the position. Both ascend."""


class Observer:
    """A :class:`copycat.testing.application.Witness` that compares what it is told with all it was told before."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self.groups: dict[bytes, Sequence] = defaultdict(Sequence)
        self.reads = 0
        self.reloads = 0
        self.unknowns = 0
        self.histories = 0
        self.given_up = 0
        """Registers whose history was too tangled to be searched."""

    @property
    def now(self) -> float:
        return self._timeline.now

    @property
    def committed(self) -> int:
        return sum(len(sequence.items) for sequence in self.groups.values())

    # --- what consumers tell ---

    def opened(self, app: Application) -> None:
        self.groups[app.group_id].senders[app.name] = Sender(app)
        app.node.world.trace("opened", app.name, app.group_id.hex()[-4:])

    def sent(self, app: Application, proposal: Proposal) -> None:
        sequence = self.groups[app.group_id]
        sender = sequence.senders[app.name]
        sender.sent = proposal.number
        sender.invoked[proposal.number] = self.now
        sequence.writes[proposal.key].append((app.name, proposal.number))

    def handed_out(self, app: Application, position: int, item: bytes, proposal: Proposal) -> None:
        sequence = self.groups[app.group_id]
        if position <= len(sequence.items):
            if sequence.items[position - 1] != item:
                raise SimulationError(
                    "subscribers disagree",
                    f"{app.name} was handed {proposal} at {position}, another one "
                    f"{Proposal.unpack(sequence.items[position - 1])}",
                )
        elif position == len(sequence.items) + 1:
            self._append(sequence, item, proposal)
        else:
            raise SimulationError("skipped", f"{app.name} was handed {position} after {len(sequence.items)}")
        if proposal.sender == app.name:
            sequence.senders[app.name].answered.setdefault(proposal.number, self.now)
            self._reached(sequence, position)
        app.node.world.trace("item", app.name, position, proposal.sender, proposal.number)

    def _append(self, sequence: Sequence, item: bytes, proposal: Proposal) -> None:
        position = len(sequence.items) + 1
        sequence.items.append(item)
        sequence.chains.append(extend_chain(sequence.chains[-1], item))
        sender = sequence.senders.get(proposal.sender)
        if sender is None or proposal.number > sender.sent:
            raise SimulationError("never sent", f"{proposal} at {position}")
        if proposal.number <= sender.committed:
            kind = "out of order" if proposal.number in sender.missing else "twice"
            raise SimulationError(kind, f"{proposal} at {position}, after number {sender.committed}")
        if proposal.number in sender.dropped:
            raise SimulationError("dropped, and committed", f"{proposal} at {position}")
        sender.missing.update(range(sender.committed + 1, proposal.number))
        sender.committed = proposal.number
        promised = sequence.promised.get(position)
        if promised is not None and promised != proposal:
            raise SimulationError("wrong future", f"{promised} was told position {position}, where {proposal} is")

    def reloaded(self, app: Application, state: State, position: int) -> None:
        self.reloads += 1
        app.node.world.trace("reload", app.name, position)
        sequence = self.groups[app.group_id]
        if state.position != position:
            raise SimulationError("snapshot of another place", f"{app.name}: {state.position}, announced {position}")
        if position > len(sequence.items):
            raise SimulationError("snapshot of the future", f"{app.name}: {position} of {len(sequence.items)}")
        if state.chain != sequence.chains[position]:
            raise SimulationError("snapshot differs", f"{app.name} at {position}")

    def resolved(self, app: Application, proposal: Proposal, position: int) -> None:
        sequence = self.groups[app.group_id]
        app.node.world.trace("resolved", app.name, proposal.number, position)
        known = Proposal.unpack(sequence.items[position - 1]) if 0 < position <= len(sequence.items) else proposal
        if known != proposal or sequence.promised.setdefault(position, proposal) != proposal or position < 1:
            raise SimulationError("wrong future", f"{proposal} was told position {position}, where {known} is")
        sequence.senders[app.name].answered.setdefault(proposal.number, self.now)
        self._reached(sequence, position)

    def rejected(self, app: Application, proposal: Proposal, error: BaseException) -> None:
        sender = self.groups[app.group_id].senders[app.name]
        app.node.world.trace("rejected", app.name, proposal.number, error)
        if isinstance(error, PositionUnknown):
            return
        self._fate(sender, error, {proposal.number})

    def error(self, app: Application, error: CopyCatError) -> None:
        app.node.world.trace("error", app.name, type(error).__name__, error)
        if isinstance(error, (OutcomeUnknown, ProposalDropped)):
            sender = self.groups[app.group_id].senders[app.name]
            self._fate(sender, error, set(range(error.first, error.first + error.count)))

    def _fate(self, sender: Sender, error: BaseException, numbers: set[int]) -> None:
        self.unknowns += 1
        if isinstance(error, ProposalDropped):
            sender.dropped |= numbers
        elif not isinstance(error, OutcomeUnknown):
            raise SimulationError("unexpected error", f"{sender.app.name} {sorted(numbers)}: {error!r}")
        sender.unknown |= numbers
        if isinstance(error, ProposalDropped) and min(numbers, default=sender.committed + 1) <= sender.committed:
            committed = [number for number in numbers if number <= sender.committed and number not in sender.missing]
            if committed:
                raise SimulationError("dropped, and committed", f"{sender.app.name} {committed}")

    def _reached(self, sequence: Sequence, position: int) -> None:
        if not sequence.reached or position > sequence.reached[-1][1]:
            sequence.reached.append((self.now, position))

    def read(self, app: Application, key: str, value: str | None, asked_at: float) -> None:
        self.reads += 1
        sequence = self.groups[app.group_id]
        seen = app.state.position
        app.node.world.trace("read", app.name, key, value, seen)
        for at, position in reversed(sequence.reached):
            if at < asked_at:
                if seen < position:
                    raise SimulationError(
                        "stale read",
                        f"{app.name} asked at {asked_at:.6f} and saw {seen}; {position} was known at {at:.6f}",
                    )
                break
        self._reached(sequence, seen)
        sequence.reads[key].append(Operation(False, value, asked_at, self.now))

    def ended(self, app: Application, clean: bool) -> None:
        sender = self.groups[app.group_id].senders[app.name]
        app.node.world.trace("ended", app.name, clean)
        if clean:
            self._check_told(sender)
        sender.alive = False

    # --- at the end ---

    def _check_told(self, sender: Sender) -> None:
        untold = sender.missing - sender.unknown
        if untold:
            raise SimulationError(
                "lost", f"{sender.app.name}: numbers {sorted(untold)[:5]} were skipped without a word"
            )

    def check_end(self) -> None:
        """After everything has settled: nothing is missing, every read fits."""
        for sequence in self.groups.values():
            for name, sender in sequence.senders.items():
                self._check_sender(sequence, name, sender)
            for position, proposal in sequence.promised.items():
                if position > len(sequence.items):
                    raise SimulationError("lost", f"{proposal} was told position {position}, which nobody has seen")
            for key, reads in sequence.reads.items():
                self._check_register(sequence, key, reads)

    def _check_sender(self, sequence: Sequence, name: str, sender: Sender) -> None:
        if sender.alive:
            self._check_told(sender)
            if (
                sender.committed < sender.sent
                and not set(range(sender.committed + 1, sender.sent + 1)) <= sender.unknown
            ):
                raise SimulationError("lost", f"{name} sent {sender.sent}, and {sender.committed} were committed")
        else:
            told = {number for number in sender.answered if number > sender.committed}
            skipped = sender.missing - sender.unknown
            if told or skipped:
                raise SimulationError("lost", f"{name}: told of {sorted(told)}, skipped {sorted(skipped)[:5]}")

    def _check_register(self, sequence: Sequence, key: str, reads: list[Operation]) -> None:
        history = list(reads)
        for name, number in sequence.writes[key]:
            sender = sequence.senders[name]
            answered = sender.answered.get(number, math.inf)
            if answered == math.inf and (number > sender.committed or number in sender.missing):
                continue  # nobody has seen it, or ever will
            history.append(Operation(True, f"{name}:{number}", sender.invoked[number], answered))
        verdict = is_linearizable(history)
        self.histories += 1
        self.given_up += verdict is None
        if verdict is False:
            raise SimulationError("not linearizable", f"register {key}: {history}")


class Inspector:
    """Looks into engines, and remembers what it saw of every group."""

    def __init__(self) -> None:
        self.leaders: dict[tuple[bytes, int], int] = {}
        self.log: dict[tuple[bytes, int], tuple[int, int]] = {}
        """(group, index) -> term and digest of the committed entry."""
        self.entries: dict[tuple[bytes, int, int], tuple[int, int | None]] = {}
        """(group, index, term) -> digest, and term of the entry before it."""
        self.genesis: dict[bytes, bytes] = {}
        self.homes: dict[tuple[bytes, int], str] = {}
        self.terms: dict[tuple[str, bytes, int], int] = {}
        self._applied: dict[Group, int] = {}
        self.elections = 0

    def after_turn(self, node: SimulatedNode) -> None:
        engine = node.engine
        assert engine is not None
        if len(engine._posts) > POSTS_MAX:
            raise SimulationError("unbounded", f"{len(engine._posts)} posts wait at {node.host}")
        for group in engine.hosting.groups.values():
            raft = group.raft.raft
            if raft.role is Role.LEADER:
                self._leads(node, group)
            if raft.log.committed > self._applied.get(group, -1):
                self._committed(node, group)

    def _leads(self, node: SimulatedNode, group: Group) -> None:
        key = (group.id, group.raft.term)
        known = self.leaders.get(key)
        if known is None:
            self.leaders[key] = group.raft_id
            self.elections += 1
            node.world.trace("leader", node.host, group.id.hex()[-4:], group.raft.term)
        elif known != group.raft_id:
            raise SimulationError("two leaders", f"{known} and {group.raft_id} in term {group.raft.term}")

    def _committed(self, node: SimulatedNode, group: Group) -> None:
        first = group not in self._applied
        log = group.raft.raft.log
        low = max(self._applied.get(group, 0) + 1, log.first_index())
        high = group.raft.committed
        if first:
            self._hosted(node, group)
        self._applied[group] = high
        if low > high:
            return
        for entry in log.slice(low, high + 1, 1 << 30):
            seen = (entry.term, crc32(entry.data))
            known = self.log.setdefault((group.id, entry.index), seen)
            if known != seen:
                raise SimulationError(
                    "committed entries differ", f"{node.host}: entry {entry.index} is {seen}, and was {known}"
                )
            if entry.type is not EntryType.NORMAL:
                self._apart(node, group)

    def _hosted(self, node: SimulatedNode, group: Group) -> None:
        genesis = group.store.record.genesis
        if self.genesis.setdefault(group.id, genesis) != genesis:
            raise SimulationError("two groups of one id", f"{group.id.hex()} at {node.host}")
        assert node.engine is not None
        home = self.homes.setdefault((group.id, group.raft_id), node.engine.node_id)
        if home != node.engine.node_id:
            raise SimulationError("raft id used twice", f"{group.raft_id} at {home} and {node.engine.node_id}")

    def _apart(self, node: SimulatedNode, group: Group) -> None:
        config = group.raft.raft.tracker.config
        for half in (config.voters, config.outgoing):
            homes = [group.sequencer.members[raft_id].node_id for raft_id in half if raft_id in group.sequencer.members]
            if len(set(homes)) != len(homes):
                raise SimulationError("voters share a node", f"{group.id.hex()}: {sorted(homes)}")

    def check_logs(self, nodes: list[SimulatedNode]) -> None:
        """Log matching: an index and a term name one entry, and everything in front of it."""
        for node in nodes:
            assert node.engine is not None
            for group in node.engine.hosting.groups.values():
                log = group.raft.raft.log
                last = log.last_index
                first = max(log.first_index(), last - LOG_TAIL_MAX)
                if last < first:
                    continue
                before = log.term(first - 1) or 0
                for entry in log.slice(first, last + 1, 1 << 30):
                    seen = (crc32(entry.data), before)
                    known = self.entries.setdefault((group.id, entry.index, entry.term), seen)
                    if known != seen:
                        raise SimulationError("logs differ", f"{node.host}: entry {entry.index}: {seen}, was {known}")
                    before = entry.term
