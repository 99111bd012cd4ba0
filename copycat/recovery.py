"""Groups that lost their quorum for good: they are reported, stay as they are, and go on when an operator says so.

Raft never elects without a majority, so such a group waits; nothing in here changes that. What an operator may order is a
*succession*: on one survivor, the log goes on under a raft id that was never used, in a configuration that is this
replica alone, in a term far above every old one. That is one synced write, in which the audit record lies too:

    the log as it was | leave the joint configuration, if in one | all old replicas out, the new one in | (joint left)

Everything that the survivor held counts as committed from there on, sessions included. Old replicas can't disturb the new
one, and can't be disturbed by it, because no message names both: Raft's messages go to raft ids. Whoever is in the new
configuration has the old ids in its log as departed, and tells their owners so (:mod:`copycat.hosting`). From one
voter the group grows back by ordinary repair.

Of several survivors that are ordered at once, at most one goes on: an answer to one is a promise to keep still oneself.

What must be true before (:meth:`Recoveries.recover`): no leader is known; every voter on a dead node was given up by
name, so that its node stops for good when it returns (:mod:`copycat.departures`); the living ones are no majority; and no
living replica has a log that is more complete, or knows an entry to be committed that is missing here.

Never does: begin anything by itself, or decide who is dead.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from copycat.codec import pack_record, unpack_record
from copycat.errors import CopyCatError, InvalidConfChange, Timeout, UsageError
from copycat.group import Group
from copycat.ids import name_of
from copycat.messages import (
    NONE,
    ConfChange,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
    Entry,
    EntryType,
    HardState,
)
from copycat.nodestore import NodeStore
from copycat.raft.confchange import leaves_joint, pack_conf_change, unpack_conf_change
from copycat.repair import fresh_raft_id
from copycat.replicastore import ReplicaStore
from copycat.sequencer import Replica, pack_context

if TYPE_CHECKING:
    from copycat.engine import Engine

log = logging.getLogger(__name__)

FIRST_KIND = 72
RECORD_PREFIX = "recovery/"
TERM_STEP = 1 << 20
"""How far the term is raised: old replicas that came back could hold so many elections, and would still be behind."""
ASK_EVERY_S = 0.25
ANSWER_COUNTS_S = 5.0
"""How long an answer counts for the one who asked; whoever gave it keeps still for longer."""
KEEP_STILL_S = 30.0
WATCH_EVERY_TICKS = 10
SCAN_BYTES_MAX = 1 << 20
TEXT_MAX = 1000


@dataclass(frozen=True, slots=True)
class ExtentAsk:
    """How much of the group's log do you hold, and is the entry at ``index``, of ``term``, in it?

    Whoever asks is about to go on alone. Whoever answers does not do the same for ``KEEP_STILL_S``.
    """

    group: bytes
    attempt: int
    index: int
    term: int


@dataclass(frozen=True, slots=True)
class Extent:
    """What a replica holds: the answer to that attempt. ``led``: it knows a leader.

    ``held``: the entry that was asked for is in its log.
    """

    group: bytes
    attempt: int
    raft_id: int
    led: bool
    commit: int
    commit_term: int
    last_index: int
    last_term: int
    held: bool


@dataclass(frozen=True, slots=True)
class Released:
    """Whoever asked does not go on alone after all: the promise is no longer needed."""

    group: bytes
    attempt: int


@dataclass(frozen=True, slots=True)
class Order:
    """An operator's word. ``at`` is when, in words (the engine has no calendar); ``force``: whatever else is said."""

    operator: str
    reason: str
    at: str
    force: bool = False


@dataclass(frozen=True, slots=True)
class Recovery:
    """The audit record of one recovery, as it is kept on the survivor's disk. ``voters`` and ``learners`` are the old ones."""

    group: bytes
    at: str
    operator: str
    reason: str
    forced: bool
    node_id: str
    old_raft_id: int
    new_raft_id: int
    old_term: int
    new_term: int
    last_index: int
    commit: int
    voters: tuple[tuple[int, str], ...]
    learners: tuple[tuple[int, str], ...]


@dataclass(slots=True)
class _Task:
    group: Group
    attempt: int
    order: Order
    deadline: float
    answer: Future[Recovery]
    asked: tuple[str, ...]
    """Nodes that live and have, or had, a replica."""
    answers: dict[str, tuple[float, Extent]] = field(default_factory=dict)
    """What each said, and when."""
    ask_at: float = 0.0


def recoveries_in(store: NodeStore) -> list[Recovery]:
    """What was recovered on this node, in order of time. Raises :class:`~copycat.errors.StorageCorrupt`."""
    found = [unpack_record(Recovery, value) for _, value in store.scan(RECORD_PREFIX)]
    return sorted(found, key=lambda recovery: recovery.at)


def is_quorum(living: Collection[int], *halves: Collection[int]) -> bool:
    """Whether ``living`` has a majority of each of ``halves``; an empty one agrees with everything."""
    return all(2 * len([one for one in half if one in living]) > len(half) for half in halves if half)


def objection(mine: Extent, theirs: Extent) -> str | None:
    """Why the group should not go on from ``mine`` while there is ``theirs``; None if nothing speaks against it.

    ``mine.held`` says whether their last entry that is known to be committed is here, ``theirs.held`` the reverse. Such an
    entry must be in the log that goes on. Beyond that, the more up to date log wins (Raft paper, 5.4.1), unless it lacks
    such an entry itself: what it has instead was then never committed.
    """
    if theirs.led:
        return "knows a leader"
    if not mine.held:
        return f"knows entry {theirs.commit} to be committed, which is not here"
    more = (theirs.last_term, theirs.last_index) > (mine.last_term, mine.last_index)
    if more and theirs.held:
        return f"has a more complete log, up to entry {theirs.last_index} of term {theirs.last_term}: recover it there"
    return None


class Recoveries:
    """Belongs to the engine's thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._tasks: list[_Task] = []
        self._under_way: dict[bytes, Future[Recovery]] = {}
        self._yielded: dict[bytes, tuple[str, float, int]] = {}
        """To which node a group was left, by an answer to it, until when, and for which attempt."""
        self._without: set[bytes] = set()
        self._ticks = 0
        for number, kind in enumerate((ExtentAsk, Extent, Released)):
            engine.registry.register(FIRST_KIND + number, kind)
        engine.handlers[ExtentAsk] = self._on_ask
        engine.handlers[Extent] = self._on_extent
        engine.handlers[Released] = self._on_released

    # --- seeing it ---

    def has_quorum(self, group: Group) -> bool:
        """Whether nodes with a majority of the voters live, as seen from here."""
        config = group.raft.raft.tracker.config
        living = [raft_id for raft_id in group.voters() if self._lives(group.node_of(raft_id))]
        return bool(config.voters) and is_quorum(living, config.voters, config.outgoing)

    def _lives(self, node_id: str | None) -> bool:
        if node_id is None:
            return False
        return node_id == self._engine.node_id or self._engine.cluster.absent_since(node_id) is None

    def tick(self) -> None:
        for task in list(self._tasks):
            self._go_on(task)
        self._ticks += 1
        if self._ticks % WATCH_EVERY_TICKS == 0:
            self._yielded = {key: left for key, left in self._yielded.items() if self._engine.now < left[1]}
            self._watch()

    def _watch(self) -> None:
        """Say once when a group is without a quorum, and when it has one again."""
        groups = self._engine.hosting.groups
        without = {
            group.id
            for group in groups.values()
            if not group.leads and group.raft.abandoned and not self.has_quorum(group)
        }
        for group_id in sorted(without - self._without):
            log.error("group has no quorum", extra={"group": name_of(group_id)})
        for group_id in sorted(self._without - without):
            log.warning("group has a quorum again", extra={"group": name_of(group_id)})
        self._without = without

    # --- the order ---

    def recover(self, group_id: bytes, order: Order, timeout_s: float, answer: Future[Recovery]) -> None:
        """Let the group go on from this node's replica alone; ``answer`` gets the record of it once it is durable.

        Raises :class:`~copycat.errors.UsageError` if that is not safe, as far as this node sees. ``order.force`` overrides
        what others say of their logs, and a majority that seems to live; never that the dead must be given up first.
        """
        engine = self._engine
        if max(len(order.operator), len(order.reason)) > TEXT_MAX or not 0 < len(order.at) <= 40:
            raise UsageError(f"operator and reason have at most {TEXT_MAX} characters, and the time 1 to 40")
        group = engine.hosting.groups.get(group_id)
        if group is None:
            hosts = ", ".join(engine.cluster.hosts_of(group_id)) or "none that is known"
            raise UsageError(f"this node has no replica of the group; recover it on one that has: {hosts}")
        if group.ended or any(task.group is group for task in self._tasks):
            raise UsageError("the group is being recovered already")
        if group.removed:
            raise UsageError("this replica was removed from its group, and is only waiting to be destroyed")
        members = group.sequencer.members
        config = group.raft.raft.tracker.config
        homes = {raft_id: group.node_of(raft_id) for raft_id in {*group.voters(), *members}}
        absent = {node for node in homes.values() if node is not None and not self._lives(node)}
        dead = sorted(node for node in absent if not engine.departures.has_left(node))
        if dead:
            raise UsageError(
                f"{', '.join(dead)} may come back with replicas of the group: give them up first ('copycat forget NODE', "
                "with --force where no majority of the nodes is left), so that they stop for good if they do"
            )
        if not order.force:
            if group.leader:
                raise UsageError("the group has a leader: there is nothing to recover")
            living = [raft_id for raft_id, node in homes.items() if self._lives(node)]
            if is_quorum(living, config.voters, config.outgoing):
                raise UsageError(
                    "a majority of the group's voters is on nodes that live: it will elect a leader by itself"
                )
            other, until, _ = self._yielded.get(group_id, ("", 0.0, 0))
            if engine.now < until:
                raise UsageError(
                    f"node {other} is about to recover the group; look there first, or wait {KEEP_STILL_S:g} s"
                )
        asked = {node for node in homes.values() if node is not None and node not in absent}
        asked.update(node for node in engine.cluster.hosts_of(group_id) if self._lives(node))
        asked.discard(engine.node_id)
        task = _Task(group, engine.rng.getrandbits(63), order, engine.now + timeout_s, answer, tuple(sorted(asked)))
        self._tasks.append(task)
        self._go_on(task)

    def _go_on(self, task: _Task) -> None:
        engine = self._engine
        fresh = {node for node, (at, _) in task.answers.items() if engine.now - at < ANSWER_COUNTS_S}
        missing = [node for node in task.asked if node not in fresh]
        if missing and not task.order.force:
            if engine.now >= task.deadline:
                self._refuse(
                    task, Timeout(f"{', '.join(missing)} did not say what they hold of the group; nothing was done")
                )
            elif engine.now >= task.ask_at:
                task.ask_at = engine.now + ASK_EVERY_S
                mine = extent_of(task.group)
                for node in missing:
                    engine.send(node, ExtentAsk(task.group.id, task.attempt, mine.commit, mine.commit_term))
            return
        if not task.order.force:
            for node, (_, theirs) in sorted(task.answers.items()):
                if theirs.raft_id == 0:
                    continue
                why = objection(extent_of(task.group, theirs.commit, theirs.commit_term), theirs)
                if why is not None:
                    self._refuse(task, UsageError(f"node {node} {why}; nothing was done"))
                    return
            if task.group.leader:
                self._refuse(task, UsageError("the group has found a leader: there is nothing to recover"))
                return
        self._tasks.remove(task)
        self._suspend(task)

    def _refuse(self, task: _Task, error: CopyCatError) -> None:
        self._tasks.remove(task)
        for node in task.asked:
            self._engine.send(node, Released(task.group.id, task.attempt))
        if not task.answer.done():
            task.answer.set_exception(error)

    # --- carrying it out ---

    def _suspend(self, task: _Task) -> None:
        """Stop the replica, and go on when everything that it had staged is on the disk."""
        group = task.group
        log.warning(
            "an operator recovers a group from this replica alone",
            extra={"group": name_of(group.id), "operator": task.order.operator, "reason": task.order.reason},
        )
        self._under_way[group.id] = task.answer
        group.suspend()
        self._engine.stage(True, lambda: self._rewrite(task))

    def _rewrite(self, task: _Task) -> None:
        engine, group, order = self._engine, task.group, task.order
        store = group.store
        hard_state, _ = store.initial_state()
        members = dict(group.sequencer.members)
        voters, old_ids, joint = end_of_configuration(group)
        old_ids |= set(members)
        raft_id = fresh_raft_id(engine.rng, {*old_ids, *group.sequencer.departed, *store.record.retired})
        last = store.last_index()
        term = max(hard_state.term, store.term(last) if last else 0) + TERM_STEP
        entries = succession(last + 1, term, joint, raft_id, old_ids, engine.node_id)
        record = Recovery(
            group.id,
            order.at,
            order.operator,
            order.reason,
            order.force,
            engine.node_id,
            group.raft_id,
            raft_id,
            hard_state.term,
            term,
            last,
            hard_state.commit,
            tuple([(old, group.node_of(old) or "") for old in sorted(voters)]),
            tuple([(old, group.node_of(old) or "") for old in sorted(old_ids - voters)]),
        )

        def durable() -> None:
            for pending in staged:
                store.complete(pending)
            self._under_way.pop(group.id, None)
            engine.hosting.succeed(group, store)
            log.warning(
                "group recovered",
                extra={
                    "group": name_of(group.id),
                    "raft_id": raft_id,
                    "term": term,
                    "last_index": last,
                    "operator": order.operator,
                },
            )
            if not task.answer.done():
                task.answer.set_result(record)

        batch = engine.stage(True, durable)
        staged = store.stage_succession(batch, raft_id, HardState(term, NONE, entries[-1].index), entries)
        engine.store.stage_put(batch, f"{RECORD_PREFIX}{order.at}/{group.id.hex()}/{raft_id:016x}", pack_record(record))

    # --- asking others ---

    def _on_ask(self, sender: str, ask: ExtentAsk) -> None:
        engine = self._engine
        group = engine.hosting.groups.get(ask.group)
        mine = next((task for task in self._tasks if task.group.id == ask.group), None)
        if mine is not None:
            if sender > engine.node_id:
                return  # of two that want to go on at once, the one with the smaller id does
            self._refuse(mine, UsageError(f"node {sender} is about to recover the group, too; nothing was done here"))
        if group is not None and group.ended:
            return
        self._yielded[ask.group] = (sender, engine.now + KEEP_STILL_S, ask.attempt)
        if group is None:
            engine.send(sender, Extent(ask.group, ask.attempt, 0, False, 0, 0, 0, 0, False))
        else:
            engine.send(sender, extent_of(group, ask.index, ask.term, ask.attempt))

    def _on_extent(self, sender: str, extent: Extent) -> None:
        for task in list(self._tasks):
            if task.attempt == extent.attempt and sender in task.asked:
                task.answers[sender] = (self._engine.now, extent)
                self._go_on(task)

    def _on_released(self, sender: str, released: Released) -> None:
        other, _, attempt = self._yielded.get(released.group, ("", 0.0, 0))
        if (other, attempt) == (sender, released.attempt):
            del self._yielded[released.group]

    def end(self, reason: CopyCatError) -> None:
        """No turn will come any more."""
        for answer in (*(task.answer for task in self._tasks), *self._under_way.values()):
            if not answer.done():
                answer.set_exception(reason)
        self._tasks.clear()
        self._under_way.clear()


def extent_of(group: Group, index: int = 0, term: int = 0, attempt: int = 0) -> Extent:
    """What is on the disk here (of what is under way, nothing was promised to anybody), and whether that entry is in it."""
    store = group.store
    first, last = store.first_index(), store.last_index()
    commit = min(max(group.sequencer.index, store.initial_state()[0].commit), last)
    # What is compacted away is committed, and so the same here as anywhere.
    held = index < first or (index <= last and store.term(index) == term)
    last_term = store.term(last) if last else 0
    commit_term = store.term(commit) if commit else 0
    return Extent(group.id, attempt, group.raft_id, bool(group.leader), commit, commit_term, last, last_term, held)


def end_of_configuration(group: Group) -> tuple[set[int], set[int], bool]:
    """Voters and all replicas of the configuration that the log ends in, what is not applied included; and if it is joint."""
    store: ReplicaStore = group.store
    tracker = group.raft.raft.tracker
    last = store.last_index()
    changer = tracker.changer(last)
    config = tracker.config
    index = group.sequencer.index + 1
    while index <= last:
        page = store.entries(index, last + 1, SCAN_BYTES_MAX)
        for entry in page:
            if entry.type is EntryType.NORMAL:
                continue
            try:
                changed = changer.apply(unpack_conf_change(entry.data))
            except InvalidConfChange:
                continue  # as every replica does that applies it
            config = changed.config
            changer = changer.after(changed)
        index += len(page)
    voters = set(config.voters | config.outgoing)
    return voters, voters | config.learners | config.learners_next, config.joint


def succession(
    first_index: int, term: int, joint: bool, raft_id: int, old_ids: Collection[int], node_id: str
) -> list[Entry]:
    """The entries that make ``raft_id`` the only member, from whatever configuration came before."""
    changes = [ConfChangeSingle(ConfChangeType.ADD_VOTER, raft_id)]
    changes += [ConfChangeSingle(ConfChangeType.REMOVE, old) for old in sorted(old_ids)]
    context = pack_context({raft_id: Replica(node_id, placed=True)})
    leave = ConfChange()
    assert leaves_joint(leave)
    steps = [leave] if joint else []
    steps += [ConfChange(tuple(changes), ConfChangeTransition.JOINT_EXPLICIT, context), leave]
    return [
        Entry(term, index, EntryType.CONF_CHANGE_V2, pack_conf_change(step))
        for index, step in enumerate(steps, first_index)
    ]
