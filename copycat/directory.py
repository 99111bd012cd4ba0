"""Who hosts which group: each node is the sole author of its own set; everybody keeps a copy of everybody's.

A set is versioned (epoch, version): the epoch grows with each start of its author, the version by one with each change.
Changes travel as deltas of contiguous versions, published to whoever listens, and lost at will. Repair is by
anti-entropy (Demers et al., "Epidemic algorithms for replicated database maintenance", 1987): peers exchange one
(epoch, version, digest) per node, and whoever is behind asks for the missing changes, or, if those are no longer kept,
for the full set in pages. Any node serves any set it holds whole.

An author that starts again has lost its count of versions, not its groups. Its new epoch begins with what its disk holds: nobody
leads yet, no consumer is attached. Whoever holds exactly that of it, but for leaders and consumers, takes the new epoch over
without a transfer (:meth:`Directory.birth`).

Pages of a set that changes meanwhile don't fit together. The receiver therefore takes the first page's version for the
whole, and catches up from there by changes: to apply a change again that a page already shows does no harm, because
the last change of a group decides.

Never does: decide who is a member, send, wait, or read a clock. What it knows of others is a hint: Raft alone says
who is in a group. One thread at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import blake2b
from itertools import islice

from copycat.hostset import (
    CHANGES_KEPT_MAX,
    DIGEST_BYTES,
    FLAGS_MASK,
    GROUP_ID_BYTES,
    GROUPS_PER_NODE_MAX,
    INTERACTIVE,
    LEADER,
    LEARNER,
    OWN_CHANGES_KEPT_MAX,
    UNHOSTED,
    VOTER,
    Assembly,
    Delta,
    Digest,
    Host,
    HostSet,
    Page,
    Want,
    delta_of,
    digest_of,
    host_of,
    is_sound,
    page_of,
)

SETS_MAX = 16_384
"""Nodes whose sets are kept; further ones are not taken in."""


class Directory:
    """This node's view. ``epoch`` must be above all that this node has used before (a durable count of starts)."""

    def __init__(self, node_id: str, epoch: int) -> None:
        assert epoch >= 1
        self.node_id = node_id
        self._own = HostSet(epoch, 0, OWN_CHANGES_KEPT_MAX)
        self._sets: dict[str, HostSet] = {node_id: self._own}
        self._assemblies: dict[str, Assembly] = {}
        self._hosts: dict[bytes, tuple[str, ...]] = {}
        self._dropped: set[str] = set()
        self._sent_version = 0
        self._digest_order: list[str] = []
        self._birth: Digest | None = None
        self._summary: bytes | None = None

    @property
    def epoch(self) -> int:
        """This node's epoch; it is raised if others remember a later one than ours."""
        return self._own.epoch

    # --- our own set ---------------------------------------------------------------------------------------------

    def host(self, group_id: bytes, flags: int) -> None:
        """This node has a raft of the group: VOTER or LEARNER, and INTERACTIVE if a consumer is attached."""
        assert len(group_id) == GROUP_ID_BYTES
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

    def born(self) -> None:
        """What this node hosts by now is what it began with: others learn it by comparison, and deltas begin behind it."""
        self._birth = digest_of(self.node_id, self._own)
        self._sent_version = self._own.version

    @property
    def birth(self) -> Digest | None:
        """The digest of what this node began with, in this epoch. Who holds that already needs no more than this."""
        return self._birth

    def take_deltas(self, count_max: int) -> list[Delta]:
        """Up to ``count_max`` deltas of changes not yet taken, each fit for one message; see also :meth:`pending`."""
        own = self._own
        oldest = own.version - len(own.log)
        if self._sent_version < oldest:
            self._sent_version = oldest  # receivers notice the gap and ask for the whole
        deltas: list[Delta] = []
        while len(deltas) < count_max and self._sent_version < own.version:
            delta = delta_of(self.node_id, own, self._sent_version)
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
        if not self._takes(delta.node_id) or not is_sound(delta.changes):
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
            held = self._install(delta.node_id, HostSet(delta.epoch, 0, CHANGES_KEPT_MAX))
        if delta.epoch < held.epoch:
            return None
        skip = held.version + 1 - delta.first_version
        if skip < 0:
            return self._want(delta.node_id)
        if len(held.entries) + len(delta.changes) > GROUPS_PER_NODE_MAX:
            return None
        if delta.changes[skip:]:
            for group_id, value in delta.changes[skip:]:
                self._put(delta.node_id, held, group_id, value)
                held.version += 1
                held.log.append((group_id, value))
            self._touched(delta.node_id)
        return None

    def want(self, node_id: str) -> Want | None:
        """What to ask for to get further with a set; None for our own, and for one that is not taken."""
        return self._want(node_id) if self._takes(node_id) else None

    def digests(self, count_max: int | None = None) -> list[Digest]:
        """One for each set held. With ``count_max``, our own, those that changed last, and as many others in turn.

        What has just changed is what a peer most likely lacks (Demers et al., section 1.3); the turns find what is older.
        """
        if count_max is None or count_max >= len(self._sets):
            return [digest_of(node_id, held) for node_id, held in self._sets.items()]
        chosen = dict.fromkeys((self.node_id, *islice(reversed(self._sets), count_max // 2)))
        while len(chosen) < count_max:
            if not self._digest_order:
                self._digest_order = list(self._sets)
            node_id = self._digest_order.pop()
            if node_id in self._sets:
                chosen[node_id] = None
        return [digest_of(node_id, self._sets[node_id]) for node_id in chosen]

    def summary(self) -> bytes:
        """Stands for all sets held: equal on two nodes that hold the same."""
        if self._summary is None:
            combined = 0
            for node_id, held in self._sets.items():
                line = f"{node_id} {held.epoch} {held.version} {held.checksum}"
                combined ^= int.from_bytes(blake2b(line.encode(), digest_size=DIGEST_BYTES).digest(), "big")
            self._summary = combined.to_bytes(DIGEST_BYTES, "big")
        return self._summary

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
                if held is None or not self._take_birth(held, theirs):
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
                return delta_of(want.node_id, held, want.version)
        return self.page(want.node_id, want.cursor if held.epoch == want.epoch else b"")

    def page(self, node_id: str, cursor: bytes) -> Page:
        """The groups behind ``cursor`` (empty: from the start) of a set that is held here, else KeyError."""
        return page_of(node_id, self._sets[node_id], cursor)

    def receive_page(self, page: Page) -> Want | None:
        """Take one page of a full transfer; a Want is the next thing to ask for, None ends it.

        If an answer stays away, the next comparison of digests goes on from where the transfer stopped.
        """
        node_id = page.node_id
        if not self._takes(node_id) or not is_sound(page.changes):
            return None
        held = self._sets.get(node_id)
        if held is not None and (page.epoch, page.version) < (held.epoch, held.version):
            return None
        assembly = self._assemblies.get(node_id)
        if not page.cursor:
            assembly = self._assemblies[node_id] = Assembly(page.epoch, page.version)
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
        self._summary = None
        if held is not None:
            for group_id in held.entries:
                self._unlink(group_id, node_id)

    # --- reading -------------------------------------------------------------------------------------------------

    def hosts_of(self, group_id: bytes) -> tuple[Host, ...]:
        """Nodes that say they host the group, as far as is known here; whoever claims the highest term first."""
        hosts = [host_of(node_id, self._sets[node_id].entries[group_id]) for node_id in self._hosts.get(group_id, ())]
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
        self._summary = None

    def _touched(self, node_id: str) -> None:
        """The set changed: it is the last in order now."""
        self._sets[node_id] = self._sets.pop(node_id)
        self._summary = None

    def _put(self, node_id: str, held: HostSet, group_id: bytes, value: int) -> None:
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
        if node_id == self.node_id or node_id in self._dropped:
            return False
        return node_id in self._sets or len(self._sets) < SETS_MAX

    def _take_birth(self, held: HostSet, theirs: Digest) -> bool:
        """The author started again, and what it has now is what is held of it, but for leaders and consumers."""
        if theirs.epoch <= held.epoch or not held.reborn(theirs.epoch, theirs.version, theirs.digest):
            return False
        self._assemblies.pop(theirs.node_id, None)
        self._touched(theirs.node_id)
        return True

    def _want(self, node_id: str) -> Want:
        assembly = self._assemblies.get(node_id)
        if assembly is not None:
            return Want(node_id, assembly.epoch, assembly.version, assembly.cursor)
        held = self._sets.get(node_id)
        return Want(node_id, held.epoch, held.version, b"") if held is not None else Want(node_id, 0, 0, b"")

    def _install(self, node_id: str, fresh: HostSet) -> HostSet:
        old = self._sets.get(node_id)
        if old is not None:
            for group_id in old.entries:
                if group_id not in fresh.entries:
                    self._unlink(group_id, node_id)
        self._sets.pop(node_id, None)
        self._sets[node_id] = fresh
        self._summary = None
        return fresh

    def _catch_up(self, delta: Delta, assembly: Assembly) -> None:
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

    def _finish(self, node_id: str, assembly: Assembly) -> None:
        del self._assemblies[node_id]
        fresh = self._install(node_id, HostSet(assembly.epoch, assembly.version, CHANGES_KEPT_MAX))
        for group_id, value in assembly.entries.items():
            self._put(node_id, fresh, group_id, value)

    def _outlive(self, theirs: Digest) -> None:
        """Others remember more of us than we do: our count of starts was lost. Go on above what they remember."""
        own = self._own
        if (theirs.epoch, theirs.version) > (own.epoch, own.version):
            own.epoch = theirs.epoch + 1
            self._birth = None
            self._summary = None
