"""A node of a script: a core, its storage, the work of its storage threads, and the options it was made with."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from copycat.messages import ConfState, Entry, EntryType, HardState, Message, Snapshot
from copycat.raft import NO_LIMIT, RaftConfig, RawNode, ReadOnly, unpack_conf_change

from .datadriven import Case, NotUnderstood
from .storage import ScriptStorage

ELECTION_TICK = 3
HEARTBEAT_TICK = 1

_SNAPSHOT_OPTIONS = ("voters", "learners", "index", "content")
NODE_OPTIONS = (
    *_SNAPSHOT_OPTIONS,
    "inflight",
    "async-storage-writes",
    "prevote",
    "checkquorum",
    "max-committed-size-per-ready",
    "disable-conf-change-validation",
    "read-only",
    "step-down-on-removal",
)


@dataclass(slots=True)
class Node:
    raw: RawNode
    storage: ScriptStorage
    asynchronous: bool
    append_work: list[Message] = field(default_factory=list)
    apply_work: list[Message] = field(default_factory=list)

    def write(self, hard_state: HardState | None, snapshot: Snapshot | None, entries: list[Entry]) -> None:
        if hard_state is not None:
            self.storage.hard_state = hard_state
        if snapshot is not None and not snapshot.is_empty():
            self.storage.install(snapshot)
            if entries and entries[0].index != snapshot.index + 1:
                raise AssertionError("a snapshot and entries that do not follow it")
        if entries:
            self.storage.append(entries)

    def apply(self, entries: list[Entry]) -> None:
        history = self.storage.history
        for entry in entries:
            last = history[-1]
            payload, state = entry.data, last.conf_state
            if entry.type != EntryType.NORMAL:
                change = unpack_conf_change(entry.data)
                payload = change.context
                state = self.raw.apply_conf_change(change)
            history.append(Snapshot(entry.index, entry.term, state, last.data + payload))


def make_node(case: Case, ident: int, rng: random.Random) -> Node:
    """One node as ``add-nodes`` with these options makes it."""
    options = case.take(*NODE_OPTIONS)

    def one(name: str, default: str) -> str:
        values = options.get(name, [default])
        if len(values) != 1:
            raise NotUnderstood(f"line {case.line}: {name} takes one value")
        return values[0]

    def number(name: str, default: int) -> int:
        return case.number(one(name, str(default)))

    def flag(name: str) -> bool:
        value = one(name, "false")
        if value not in ("true", "false"):
            raise NotUnderstood(f"line {case.line}: {name}={value}")
        return value == "true"

    def ids(name: str) -> tuple[int, ...]:
        return tuple(case.number(text) for text in options.get(name, []))

    start = Snapshot()
    if not options.keys().isdisjoint(_SNAPSHOT_OPTIONS):
        start = Snapshot(number("index", 0), 1, ConfState(ids("voters"), ids("learners")), one("content", "").encode())
        if start.index <= 1:
            raise NotUnderstood(f"line {case.line}: index must be above 1")
    read_only = one("read-only", "safe")
    if read_only not in [each.value for each in ReadOnly]:
        raise NotUnderstood(f"line {case.line}: read-only={read_only}")
    storage = ScriptStorage(start)
    config = RaftConfig(
        id=ident,
        storage=storage,
        rng=rng,
        election_tick=ELECTION_TICK,
        heartbeat_tick=HEARTBEAT_TICK,
        applied=start.index,
        async_storage_writes=flag("async-storage-writes"),
        size_per_msg_max=NO_LIMIT,
        committed_size_per_ready_max=number("max-committed-size-per-ready", NO_LIMIT),
        uncommitted_size_max=NO_LIMIT,
        inflight_msgs_max=number("inflight", 2**31 - 1),
        inflight_bytes_max=NO_LIMIT,
        check_quorum=flag("checkquorum"),
        pre_vote=flag("prevote"),
        read_only=ReadOnly(read_only),
        disable_conf_change_validation=flag("disable-conf-change-validation"),
        step_down_on_removal=flag("step-down-on-removal"),
    )
    return Node(RawNode(config), storage, config.async_storage_writes)
