"""The world of a script: nodes, one queue of messages in flight, and the commands that move them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from copycat.errors import CopyCatError, LocalMessage, PeerUnknown, ProposalDropped
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
from copycat.raft import NO_LIMIT, RaftConfig, RawNode, ReadOnly, unpack_conf_change

from . import formats
from .datadriven import Case, NotUnderstood
from .storage import ScriptStorage

ELECTION_TICK = 3
HEARTBEAT_TICK = 1
LEVELS = ("DEBUG", "INFO", "WARN", "ERROR", "FATAL", "NONE")
TRANSITIONS = {
    "auto": ConfChangeTransition.AUTO,
    "implicit": ConfChangeTransition.JOINT_IMPLICIT,
    "explicit": ConfChangeTransition.JOINT_EXPLICIT,
}
OPERATIONS = {letter: kind for kind, letter in formats.OPERATION_LETTERS.items()}
MESSAGE_TYPES = {name: kind for kind, name in formats.MESSAGE_NAMES.items()}
ERROR_TEXTS: dict[type[CopyCatError], str] = {
    ProposalDropped: "raft proposal dropped",
    PeerUnknown: "raft: cannot step as peer not found",
    LocalMessage: "raft: cannot step raft local message",
}


@dataclass(slots=True)
class Node:
    raw: RawNode
    storage: ScriptStorage
    asynchronous: bool
    append_work: list[Message] = field(default_factory=list)
    apply_work: list[Message] = field(default_factory=list)


class Environment:
    """Runs one script; starts empty."""

    def __init__(self, seed: int) -> None:
        self.nodes: list[Node] = []
        self.in_flight: list[Message] = []
        self.level = "DEBUG"
        self._rng = random.Random(seed)
        self._out: list[str] = []
        self._commands: dict[str, Callable[[Case], None]] = {
            "add-nodes": self._add_nodes,
            "campaign": lambda case: self._node(case).raw.campaign(),
            "propose": self._propose,
            "propose-conf-change": self._propose_conf_change,
            "process-ready": self._process_ready,
            "process-append-thread": self._process_append_thread,
            "process-apply-thread": self._process_apply_thread,
            "deliver-msgs": self._deliver,
            "stabilize": self._stabilize,
            "tick-heartbeat": lambda case: self._tick(case, HEARTBEAT_TICK),
            "tick-election": lambda case: self._tick(case, ELECTION_TICK),
            "set-randomized-election-timeout": self._set_timeout,
            "transfer-leadership": self._transfer,
            "forget-leader": lambda case: self._node(case).raw.forget_leader(),
            "report-unreachable": self._report_unreachable,
            "compact": self._compact,
            "send-snapshot": self._send_snapshot,
            "raft-log": lambda case: self._print_log(self._node(case)),
            "raft-state": self._raft_state,
            "status": self._status,
            "log-level": self._log_level,
        }

    def run(self, case: Case) -> str:
        """Carry a case out and return what it printed, its error's text at the end."""
        handler = self._commands.get(case.command)
        if handler is None:
            raise NotUnderstood(f"line {case.line}: unknown command {case.command}")
        self._out = []
        error = ""
        level = self.level
        try:
            handler(case)
        except tuple(ERROR_TEXTS) as failure:
            error = ERROR_TEXTS[type(failure)]
        quiet = self.level == "NONE"
        if case.command == "stabilize":
            self.level = level
        lines = [] if quiet else self._out
        return "\n".join([*lines, error] if error else lines) or "ok"

    # --- arguments ---

    @staticmethod
    def _numbers(case: Case) -> list[int]:
        try:
            return [int(text) for text in case.bare()]
        except ValueError as error:
            raise NotUnderstood(f"line {case.line}: {error}") from error

    def _ids(self, case: Case) -> list[int]:
        ids = self._numbers(case)
        for ident in ids:
            if not 1 <= ident <= len(self.nodes):
                raise NotUnderstood(f"line {case.line}: there is no node {ident}")
        return ids

    def _node(self, case: Case) -> Node:
        """The node that the command names first."""
        words = case.bare()
        if not words or not words[0].isdigit() or not 1 <= int(words[0]) <= len(self.nodes):
            raise NotUnderstood(f"line {case.line}: {case.command} needs a node")
        return self.nodes[int(words[0]) - 1]

    def _node_and_number(self, case: Case) -> tuple[Node, int]:
        node = self._node(case)
        numbers = self._numbers(case)
        if len(numbers) != 2:
            raise NotUnderstood(f"line {case.line}: {case.command} takes a node and a number")
        return node, numbers[1]

    def _say(self, line: str) -> None:
        self._out.append(line)

    def _nested(self, action: Callable[[], None]) -> None:
        outer, self._out = self._out, []
        try:
            action()
        finally:
            outer += ["  " + line for printed in self._out for line in printed.split("\n")]
            self._out = outer

    # --- nodes ---

    def _add_nodes(self, case: Case) -> None:
        options = case.take(
            "voters",
            "learners",
            "index",
            "content",
            "inflight",
            "async-storage-writes",
            "prevote",
            "checkquorum",
            "max-committed-size-per-ready",
            "disable-conf-change-validation",
            "read-only",
            "step-down-on-removal",
        )
        (count,) = case.bare() or ["0"]

        def one(name: str, default: str) -> str:
            (value,) = options.get(name, [default])
            return value

        def flag(name: str) -> bool:
            value = one(name, "false")
            if value not in ("true", "false"):
                raise NotUnderstood(f"line {case.line}: {name}={value}")
            return value == "true"

        start = Snapshot()
        if options.keys() & {"voters", "learners", "index", "content"}:
            start = Snapshot(
                int(one("index", "0")),
                1,
                ConfState(tuple(map(int, options.get("voters", []))), tuple(map(int, options.get("learners", [])))),
                one("content", "").encode(),
            )
            if start.index <= 1:
                raise NotUnderstood(f"line {case.line}: index must be above 1")
        for _ in range(int(count)):
            storage = ScriptStorage(Snapshot(start.index, start.term, start.conf_state, start.data))
            config = RaftConfig(
                id=len(self.nodes) + 1,
                storage=storage,
                rng=self._rng,
                election_tick=ELECTION_TICK,
                heartbeat_tick=HEARTBEAT_TICK,
                applied=start.index,
                async_storage_writes=flag("async-storage-writes"),
                size_per_msg_max=NO_LIMIT,
                committed_size_per_ready_max=int(one("max-committed-size-per-ready", str(NO_LIMIT))),
                uncommitted_size_max=NO_LIMIT,
                inflight_msgs_max=int(one("inflight", str(2**31 - 1))),
                inflight_bytes_max=NO_LIMIT,
                check_quorum=flag("checkquorum"),
                pre_vote=flag("prevote"),
                read_only=ReadOnly(one("read-only", "safe")),
                disable_conf_change_validation=flag("disable-conf-change-validation"),
                step_down_on_removal=flag("step-down-on-removal"),
            )
            self.nodes.append(Node(RawNode(config), storage, config.async_storage_writes))

    def _tick(self, case: Case, count: int) -> None:
        node = self._node(case)
        for _ in range(count):
            node.raw.tick()

    def _set_timeout(self, case: Case) -> None:
        (timeout,) = case.take("timeout")["timeout"]
        self._node(case).raw.raft.randomized_election_timeout = int(timeout)

    def _log_level(self, case: Case) -> None:
        (level,) = case.bare()
        self._set_level(case, level)

    def _set_level(self, case: Case, level: str) -> None:
        if level.upper() not in LEVELS:
            raise NotUnderstood(f"line {case.line}: log level {level}")
        self.level = level.upper()

    def _transfer(self, case: Case) -> None:
        options = case.take("from", "to")
        (source,), (target,) = options["from"], options["to"]
        self.nodes[int(source) - 1].raw.transfer_leader(int(target))

    def _report_unreachable(self, case: Case) -> None:
        node, peer = self._node_and_number(case)
        node.raw.report_unreachable(peer)

    # --- proposals ---

    def _propose(self, case: Case) -> None:
        words = case.bare()
        if len(words) != 2 or len(case.arguments) != 2:
            raise NotUnderstood(f"line {case.line}: propose takes a node and one word")
        self._node(case).raw.propose(words[1].encode())

    def _propose_conf_change(self, case: Case) -> None:
        options = case.take("v1", "transition")
        (v1,) = options.get("v1", ["false"])
        (transition,) = options.get("transition", ["auto"])
        if v1 not in ("true", "false") or transition not in TRANSITIONS:
            raise NotUnderstood(f"line {case.line}: v1={v1} transition={transition}")
        changes = operations(case)
        if v1 == "true" and (len(changes) != 1 or transition != "auto"):
            raise NotUnderstood(f"line {case.line}: v1 takes one operation and no transition")
        change = ConfChange(changes, TRANSITIONS[transition], v1=v1 == "true")
        self._node(case).raw.propose_conf_change(change)

    # --- messages ---

    def _deliver(self, case: Case) -> None:
        options = case.take("drop", "type")
        only: MessageType | None = None
        if "type" in options:
            (name,) = options["type"]
            if name not in MESSAGE_TYPES:
                raise NotUnderstood(f"line {case.line}: message type {name}")
            only = MESSAGE_TYPES[name]
        self._ids(case)
        handled = 0
        for argument in case.arguments:
            if argument.bare:
                handled += self._deliver_to(int(argument.key), only, dropping=False)
            elif argument.key == "drop":
                for recipient in argument.values:
                    handled += self._deliver_to(int(recipient), only, dropping=True)
        if not handled:
            self._say("no messages")

    def _deliver_to(self, recipient: int, only: MessageType | None, *, dropping: bool) -> int:
        mine: list[Message] = []
        rest: list[Message] = []
        for message in self.in_flight:
            local = message.sender in (message.to, LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD)
            taken = message.to == recipient and only in (None, message.type) and not (dropping and local)
            (mine if taken else rest).append(message)
        self.in_flight = rest
        for message in mine:
            text = "\n".join(formats.message(message))
            if dropping:
                self._say("dropped: " + text)
                continue
            self._say(text)
            try:
                self.nodes[recipient - 1].raw.step(message)
            except tuple(ERROR_TEXTS) as failure:
                self._say(ERROR_TEXTS[type(failure)])
        return len(mine)

    def _send_snapshot(self, case: Case) -> None:
        node, target = self._node_and_number(case)
        message = Message(
            MessageType.SNAP, to=target, sender=node.raw.id, term=node.raw.term, snapshot=node.storage.history[-1]
        )
        self.in_flight.append(message)
        self._say("\n".join(formats.message(message)))

    # --- work ---

    def _process_ready(self, case: Case) -> None:
        self._each(case, "handling Ready", self._handle_ready)

    def _process_append_thread(self, case: Case) -> None:
        self._each(case, "processing append thread", self._do_append_work)

    def _process_apply_thread(self, case: Case) -> None:
        self._each(case, "processing apply thread", self._do_apply_work)

    def _each(self, case: Case, header: str, action: Callable[[Node], None]) -> None:
        ids = self._ids(case)
        if not ids:
            raise NotUnderstood(f"line {case.line}: {case.command} needs a node")
        for ident in ids:
            node = self.nodes[ident - 1]
            if len(ids) == 1:
                action(node)
            else:
                self._say(f"> {ident} {header}")
                self._nested(lambda node=node: action(node))  # type: ignore[misc]

    def _handle_ready(self, node: Node) -> None:
        ready = node.raw.ready()
        self._say("\n".join(formats.ready(ready)))
        if node.asynchronous:
            for message in ready.messages:
                if message.to == LOCAL_APPEND_THREAD:
                    node.append_work.append(message)
                elif message.to == LOCAL_APPLY_THREAD:
                    node.apply_work.append(message)
                else:
                    self.in_flight.append(message)
            return
        self._write(node, ready.hard_state, ready.snapshot, ready.entries)
        self._apply(node, ready.committed_entries)
        self.in_flight += ready.messages
        node.raw.advance()

    def _do_append_work(self, node: Node) -> None:
        if not node.append_work:
            self._say("no append work to perform")
            return
        work = node.append_work.pop(0)
        responses = self._announce(work)
        hard_state = HardState(work.term, work.vote, work.commit)
        self._write(node, None if hard_state.is_empty() else hard_state, work.snapshot, work.entries)
        self._respond(responses)

    def _do_apply_work(self, node: Node) -> None:
        if not node.apply_work:
            self._say("no apply work to perform")
            return
        work = node.apply_work.pop(0)
        responses = self._announce(work)
        self._apply(node, work.entries)
        self._respond(responses)

    def _announce(self, work: Message) -> list[Message]:
        responses, work.responses = work.responses, []
        self._say("Processing:")
        self._say("\n".join(formats.message(work)))
        return responses

    def _respond(self, responses: list[Message]) -> None:
        self._say("Responses:")
        for response in responses:
            self._say("\n".join(formats.message(response)))
        self.in_flight += responses

    @staticmethod
    def _write(node: Node, hard_state: HardState | None, snapshot: Snapshot | None, entries: list[Entry]) -> None:
        if hard_state is not None:
            node.storage.hard_state = hard_state
        if snapshot is not None and not snapshot.is_empty():
            node.storage.install(snapshot)
            if entries and entries[0].index != snapshot.index + 1:
                raise AssertionError("a snapshot and entries that do not follow it")
        if entries:
            node.storage.append(entries)

    @staticmethod
    def _apply(node: Node, entries: list[Entry]) -> None:
        history = node.storage.history
        for entry in entries:
            last = history[-1]
            payload, state = entry.data, last.conf_state
            if entry.type != EntryType.NORMAL:
                change = unpack_conf_change(entry.data)
                payload = change.context
                state = node.raw.apply_conf_change(change)
            history.append(Snapshot(entry.index, entry.term, state, last.data + payload))

    # --- stabilize ---

    def _stabilize(self, case: Case) -> None:
        options = case.take("log-level")
        if "log-level" in options:
            (level,) = options["log-level"]
            self._set_level(case, level)
        ids = self._ids(case) or list(range(1, len(self.nodes) + 1))
        for _ in range(10_000):
            if not self._stabilize_once(ids):
                return
        raise AssertionError(f"line {case.line}: the group does not come to rest")

    def _stabilize_once(self, ids: list[int]) -> bool:
        busy = False
        for ident in ids:
            node = self.nodes[ident - 1]
            if node.raw.has_ready():
                busy = True
                self._say(f"> {ident} handling Ready")
                self._nested(lambda node=node: self._handle_ready(node))  # type: ignore[misc]
        for ident in ids:
            if any(message.to == ident for message in self.in_flight):
                busy = True
                self._say(f"> {ident} receiving messages")
                self._nested(lambda ident=ident: self._deliver_all(ident))  # type: ignore[misc]
        for queue, header, action in (
            ("append_work", "processing append thread", self._do_append_work),
            ("apply_work", "processing apply thread", self._do_apply_work),
        ):
            for ident in ids:
                node = self.nodes[ident - 1]
                if getattr(node, queue):
                    busy = True
                    self._say(f"> {ident} {header}")
                    self._nested(lambda n=node, q=queue, a=action: self._drain(n, q, a))  # type: ignore[misc]
        return busy

    def _deliver_all(self, ident: int) -> None:
        self._deliver_to(ident, None, dropping=False)

    @staticmethod
    def _drain(node: Node, queue: str, action: Callable[[Node], None]) -> None:
        while getattr(node, queue):
            action(node)

    # --- looking ---

    def _compact(self, case: Case) -> None:
        node, index = self._node_and_number(case)
        node.storage.compact(index)
        self._print_log(node)

    def _print_log(self, node: Node) -> None:
        storage = node.storage
        if not storage.log:
            self._say(f"log is empty: first index={storage.first_index()}, last index={storage.last_index()}")
        for entry in storage.log:
            self._say(formats.entry(entry))

    def _raft_state(self, case: Case) -> None:
        for ident, node in enumerate(self.nodes, 1):
            status = node.raw.basic_status()
            voter = ident in status.config.voters | status.config.outgoing
            name = formats.ROLE_NAMES[status.role]
            kind = "Voter" if voter else "Non-Voter"
            self._say(f"{ident}: {name} ({kind}) Term:{status.term} Lead:{status.lead}")

    def _status(self, case: Case) -> None:
        for ident, peer in self._node(case).raw.status().progress.items():
            self._say(formats.progress(ident, peer))


def operations(case: Case) -> tuple[ConfChangeSingle, ...]:
    """``v1 l2 r3 u4`` in a case's input."""
    changes: list[ConfChangeSingle] = []
    for word in case.input.split():
        if word[0] not in OPERATIONS or not word[1:].isdigit():
            raise NotUnderstood(f"line {case.line}: operation {word}")
        changes.append(ConfChangeSingle(ConfChangeType(OPERATIONS[word[0]]), int(word[1:])))
    return tuple(changes)
