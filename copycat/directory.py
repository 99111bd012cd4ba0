"""Who hosts which group: each node is the sole author of its own set; everybody keeps a copy of everybody's.

A set is versioned (epoch, version): the epoch grows with each start of its author, the version by one with each change.
Changes travel as deltas of contiguous versions, published to whoever listens, and lost at will. Repair is by
anti-entropy (Demers et al., "Epidemic algorithms for replicated database maintenance", 1987): peers exchange one
(epoch, version, digest) per node, and whoever is behind asks for the missing changes, or, if those are no longer kept,
for the full set in pages. Any node serves any set it holds whole.

Pages of a set that changes meanwhile don't fit together. The receiver therefore takes the first page's version for the
whole, and catches up from there by changes: to apply a change again that a page already shows does no harm, because
the last change of a group decides.

Never does: decide who is a member, send, wait, or read a clock. What it knows of others is a hint: Raft alone says
who is in a group. One thread at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b

VOTER = 1
LEARNER = 2
INTERACTIVE = 4
LEADER = 8
FLAGS_MASK = 0xFF
UNHOSTED = 0
"""The value of a change that takes a group out of the set. Others: flags, and above them the term, if LEADER is set."""

CHANGES_PER_MESSAGE_MAX = 1000
"""At most 28 bytes each when packed, so that a delta or a page stays under 32 KiB."""
OWN_CHANGES_KEPT_MAX = 16_384
CHANGES_KEPT_MAX = 256
GROUPS_PER_NODE_MAX = 1_000_000

Change = tuple[bytes, int]
"""Group id and value."""


@dataclass(frozen=True, slots=True)
class Delta:
    """Changes ``first_version``, ``first_version`` + 1, ... of one node's set."""

    node_id: str
    epoch: int
    first_version: int
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class Digest:
    """Stands for one node's whole set."""

    node_id: str
    epoch: int
    version: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Want:
    """Ask for the changes after ``version`` of ``epoch``, or, with a cursor, for the page behind it."""

    node_id: str
    epoch: int
    version: int
    cursor: bytes


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a full set at ``version``, in the order of ids; an empty ``next_cursor`` ends it."""

    node_id: str
    epoch: int
    version: int
    cursor: bytes
    next_cursor: bytes
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class Host:
    """A node that has a raft of a group. ``leader_term`` is the term it says it leads, or 0."""

    node_id: str
    voter: bool
    interactive: bool
    leader_term: int


class _Set:
    """One node's set as this node knows it."""

    __slots__ = ("checksum", "entries", "epoch", "log", "version")

    def __init__(self, epoch: int, version: int, kept_max: int) -> None:
        self.epoch = epoch
        self.version = version
        self.entries: dict[bytes, int] = {}
        self.checksum = 0
        self.log: deque[Change] = deque(maxlen=kept_max)

    def put(self, group_id: bytes, value: int) -> None:
        old = self.entries.get(group_id)
        if old is not None:
            self.checksum ^= _mix(group_id, old)
        if value == UNHOSTED:
            self.entries.pop(group_id, None)
        else:
            self.entries[group_id] = value
            self.checksum ^= _mix(group_id, value)

    def has_changes_after(self, version: int) -> bool:
        return self.version - len(self.log) <= version <= self.version

    def digest(self) -> bytes:
        return self.checksum.to_bytes(8, "big")


class _Assembly:
    """A full set that is arriving. Not shown to anyone before it is whole and consistent."""

    __slots__ = ("cursor", "entries", "epoch", "newest", "version", "whole")

    def __init__(self, epoch: int, version: int) -> None:
        self.epoch = epoch
        self.version = version
        self.newest = version
        self.cursor = b""
        self.entries: dict[bytes, int] = {}
        self.whole = False


class Directory:
    """This node's view. ``epoch`` must be above all that this node has used before (a durable count of starts)."""

    def __init__(self, node_id: str, epoch: int) -> None:
        assert epoch >= 1
        self.node_id = node_id
        self._own = _Set(epoch, 0, OWN_CHANGES_KEPT_MAX)
        self._sets: dict[str, _Set] = {node_id: self._own}
        self._assemblies: dict[str, _Assembly] = {}
        self._hosts: dict[bytes, tuple[str, ...]] = {}
        self._dropped: set[str] = set()
        self._sent_version = 0
        self._digest_order: list[str] = []

    @property
    def epoch(self) -> int:
        """This node's epoch; it is raised if others remember a later one than ours."""
        return self._own.epoch

    # --- our own set ---------------------------------------------------------------------------------------------

    def host(self, group_id: bytes, flags: int) -> None:
        """This node has a raft of the group: VOTER or LEARNER, and INTERACTIVE if a consumer is attached."""
        assert len(group_id) == 16
        assert flags & (VOTER | LEARNER)
        assert not flags & ~(VOTER | LEARNER | INTERACTIVE)
        old = self._own.entries.get(group_id, 0)
        self._change(group_id, flags | (old & LEADER) | (old & ~FLAGS_MASK))

    def unhost(self, group_id: bytes) -> None:
        """This node's raft of the group is gone. Unknown ids are ignored."""
        self._change(group_id, UNHOSTED)

    def set_leader(self, group_id: bytes, term: int) -> None:
        """This node's raft leads the group in ``term``; 0: not any more. Ignored for a group that it does not host."""
        old = self._own.entries.get(group_id)
        if old is not None:
            flags = old & FLAGS_MASK & ~LEADER
            self._change(group_id, flags | LEADER | (term << 8) if term else flags)

    def take_deltas(self, count_max: int) -> list[Delta]:
        """Up to ``count_max`` deltas of changes not yet taken, each fit for one message; see also :meth:`pending`."""
        own = self._own
        oldest = own.version - len(own.log)
        if self._sent_version < oldest:
            self._sent_version = oldest  # receivers notice the gap and ask for the whole
        deltas: list[Delta] = []
        while len(deltas) < count_max and self._sent_version < own.version:
            delta = _delta(self.node_id, own, self._sent_version)
            self._sent_version += len(delta.changes)
            deltas.append(delta)
        return deltas

    def pending(self) -> int:
        """Changes that :meth:`take_deltas` has not handed out."""
        return self._own.version - self._sent_version

    # --- others' sets --------------------------------------------------------------------------------------------

    def receive_delta(self, delta: Delta) -> Want | None:
        """Apply what fits. A Want is what the sender, or anyone else who holds the set, should be asked for.

        Deltas that come as the answer to a Want are received here too. Each delta behind a gap gives the same Want:
        send one at a time for each node.
        """
        if not self._takes(delta.node_id) or len(delta.changes) > CHANGES_PER_MESSAGE_MAX:
            return None
        assembly = self._assemblies.get(delta.node_id)
        if assembly is not None and assembly.epoch == delta.epoch and assembly.whole:
            self._catch_up(delta, assembly)
            if delta.node_id in self._assemblies:
                return Want(delta.node_id, assembly.epoch, assembly.version, b"")
            return None
        held = self._sets.get(delta.node_id)
        if held is None or delta.epoch > held.epoch:
            if delta.first_version > 1:
                return self._want(delta.node_id)
            held = self._install(delta.node_id, _Set(delta.epoch, 0, CHANGES_KEPT_MAX))
        if delta.epoch < held.epoch:
            return None
        skip = held.version + 1 - delta.first_version
        if skip < 0:
            return self._want(delta.node_id)
        for group_id, value in delta.changes[skip:]:
            self._put(delta.node_id, held, group_id, value)
            held.version += 1
            held.log.append((group_id, value))
        return None

    def digests(self, count_max: int | None = None) -> list[Digest]:
        """One for each set held. With ``count_max``, the next so many in turn, our own always among them."""
        if count_max is None or count_max >= len(self._sets):
            return [_digest(node_id, held) for node_id, held in self._sets.items()]
        chosen = [self.node_id]
        while len(chosen) < count_max:
            if not self._digest_order:
                self._digest_order = [node_id for node_id in self._sets if node_id != self.node_id]
            node_id = self._digest_order.pop()
            if node_id in self._sets and node_id not in chosen:
                chosen.append(node_id)
        return [_digest(node_id, self._sets[node_id]) for node_id in chosen]

    def compare(self, sender: str, digests: Iterable[Digest]) -> list[Want]:
        """What to ask ``sender`` for, given what it holds. Also where a set has other content at the same version."""
        wants: list[Want] = []
        for theirs in digests:
            if theirs.node_id == self.node_id:
                self._outlive(theirs)
                continue
            if not self._takes(theirs.node_id):
                continue
            held = self._sets.get(theirs.node_id)
            if held is None or (theirs.epoch, theirs.version) > (held.epoch, held.version):
                wants.append(self._want(theirs.node_id))
            elif (
                sender == theirs.node_id
                and (theirs.epoch, theirs.version) == (held.epoch, held.version)
                and theirs.digest != held.digest()
            ):
                wants.append(Want(theirs.node_id, 0, 0, b""))
        return wants

    def serve(self, want: Want) -> Delta | Page | None:
        """The answer to a Want: changes where they are still kept, else a page. None if this node has nothing newer."""
        held = self._sets.get(want.node_id)
        if held is None or held.epoch < want.epoch:
            return None
        if not want.cursor and held.epoch == want.epoch:
            if held.version <= want.version:
                return None
            if held.has_changes_after(want.version):
                return _delta(want.node_id, held, want.version)
        return self.page(want.node_id, want.cursor if held.epoch == want.epoch else b"")

    def page(self, node_id: str, cursor: bytes) -> Page:
        """The groups behind ``cursor`` (empty: from the start) of a set that is held here, else KeyError."""
        held = self._sets[node_id]
        rest = sorted(group_id for group_id in held.entries if group_id > cursor)
        ids = rest[:CHANGES_PER_MESSAGE_MAX]
        next_cursor = ids[-1] if len(rest) > len(ids) else b""
        changes = tuple([(group_id, held.entries[group_id]) for group_id in ids])
        return Page(node_id, held.epoch, held.version, cursor, next_cursor, changes)

    def receive_page(self, page: Page) -> Want | None:
        """Take one page of a full transfer; a Want is the next thing to ask for, None ends it.

        If an answer stays away, the next comparison of digests goes on from where the transfer stopped.
        """
        node_id = page.node_id
        if not self._takes(node_id) or len(page.changes) > CHANGES_PER_MESSAGE_MAX:
            return None
        held = self._sets.get(node_id)
        if held is not None and (page.epoch, page.version) < (held.epoch, held.version):
            return None
        assembly = self._assemblies.get(node_id)
        if not page.cursor:
            assembly = self._assemblies[node_id] = _Assembly(page.epoch, page.version)
        if assembly is None or assembly.whole or assembly.epoch != page.epoch or assembly.cursor != page.cursor:
            return None
        if page.version < assembly.version or len(assembly.entries) > GROUPS_PER_NODE_MAX:
            del self._assemblies[node_id]  # from someone who is behind the one who began
            return None
        assembly.entries.update(page.changes)
        assembly.newest = max(assembly.newest, page.version)
        assembly.cursor = page.next_cursor
        if page.next_cursor:
            return Want(node_id, page.epoch, assembly.version, page.next_cursor)
        assembly.whole = True
        if assembly.version < assembly.newest:
            return Want(node_id, assembly.epoch, assembly.version, b"")
        self._finish(node_id, assembly)
        return None

    def drop_node(self, node_id: str) -> None:
        """The node left for good: forget its set, and take nothing about it from others any more."""
        assert node_id != self.node_id
        self._dropped.add(node_id)
        self._assemblies.pop(node_id, None)
        held = self._sets.pop(node_id, None)
        if held is not None:
            for group_id in held.entries:
                self._unlink(group_id, node_id)

    # --- reading -------------------------------------------------------------------------------------------------

    def hosts_of(self, group_id: bytes) -> tuple[Host, ...]:
        """Nodes that say they host the group, as far as is known here; whoever claims the highest term first."""
        hosts = [_host(node_id, self._sets[node_id].entries[group_id]) for node_id in self._hosts.get(group_id, ())]
        hosts.sort(key=lambda host: (-host.leader_term, not host.voter, host.node_id))
        return tuple(hosts)

    def groups_of(self, node_id: str) -> Iterator[bytes]:
        """The groups of a node, as far as is known here."""
        held = self._sets.get(node_id)
        return iter(held.entries) if held is not None else iter(())

    def __len__(self) -> int:
        """Number of distinct groups known here."""
        return len(self._hosts)

    # --- inside --------------------------------------------------------------------------------------------------

    def _change(self, group_id: bytes, value: int) -> None:
        own = self._own
        if own.entries.get(group_id, UNHOSTED) == value:
            return
        self._put(self.node_id, own, group_id, value)
        own.version += 1
        own.log.append((group_id, value))

    def _put(self, node_id: str, held: _Set, group_id: bytes, value: int) -> None:
        hosts = self._hosts.get(group_id)
        if value == UNHOSTED:
            if group_id in held.entries:
                self._unlink(group_id, node_id)
        elif hosts is None:
            self._hosts[group_id] = (node_id,)
        elif node_id not in hosts:
            self._hosts[group_id] = (*hosts, node_id)
        held.put(group_id, value)

    def _unlink(self, group_id: bytes, node_id: str) -> None:
        rest = tuple([host for host in self._hosts.get(group_id, ()) if host != node_id])
        if rest:
            self._hosts[group_id] = rest
        else:
            self._hosts.pop(group_id, None)

    def _takes(self, node_id: str) -> bool:
        return node_id != self.node_id and node_id not in self._dropped

    def _want(self, node_id: str) -> Want:
        assembly = self._assemblies.get(node_id)
        if assembly is not None:
            return Want(node_id, assembly.epoch, assembly.version, assembly.cursor)
        held = self._sets.get(node_id)
        return Want(node_id, held.epoch, held.version, b"") if held is not None else Want(node_id, 0, 0, b"")

    def _install(self, node_id: str, fresh: _Set) -> _Set:
        old = self._sets.get(node_id)
        if old is not None:
            for group_id in old.entries:
                if group_id not in fresh.entries:
                    self._unlink(group_id, node_id)
        self._sets[node_id] = fresh
        return fresh

    def _catch_up(self, delta: Delta, assembly: _Assembly) -> None:
        skip = assembly.version + 1 - delta.first_version
        if skip < 0:
            return
        for group_id, value in delta.changes[skip:]:
            if value == UNHOSTED:
                assembly.entries.pop(group_id, None)
            else:
                assembly.entries[group_id] = value
            assembly.version += 1
        if assembly.version >= assembly.newest:
            self._finish(delta.node_id, assembly)

    def _finish(self, node_id: str, assembly: _Assembly) -> None:
        del self._assemblies[node_id]
        fresh = self._install(node_id, _Set(assembly.epoch, assembly.version, CHANGES_KEPT_MAX))
        for group_id, value in assembly.entries.items():
            self._put(node_id, fresh, group_id, value)

    def _outlive(self, theirs: Digest) -> None:
        """Others remember more of us than we do: our count of starts was lost. Go on above what they remember."""
        own = self._own
        if (theirs.epoch, theirs.version) > (own.epoch, own.version):
            own.epoch = theirs.epoch + 1


def _mix(group_id: bytes, value: int) -> int:
    return int.from_bytes(blake2b(group_id + value.to_bytes(12, "big"), digest_size=8).digest(), "big")


def _digest(node_id: str, held: _Set) -> Digest:
    return Digest(node_id, held.epoch, held.version, held.digest())


def _delta(node_id: str, held: _Set, after: int) -> Delta:
    skip = after - (held.version - len(held.log))
    stop = min(skip + CHANGES_PER_MESSAGE_MAX, len(held.log))
    return Delta(node_id, held.epoch, after + 1, tuple([held.log[position] for position in range(skip, stop)]))


def _host(node_id: str, value: int) -> Host:
    return Host(node_id, bool(value & VOTER), bool(value & INTERACTIVE), value >> 8 if value & LEADER else 0)
