"""The world of a script: nodes, one queue of messages in flight, and the commands that move them."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from dataclasses import dataclass

from copycat.errors import CopyCatError, LocalMessage, PeerUnknown, ProposalDropped
from copycat.messages import (
    LOCAL_APPEND_THREAD,
    LOCAL_APPLY_THREAD,
    ConfChange,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
    HardState,
    Message,
    MessageType,
)

from . import formats
from .datadriven import Case, NotUnderstood
from .nodes import ELECTION_TICK, HEARTBEAT_TICK, NODE_OPTIONS, Node, make_node

ANY_NUMBER = 1 << 30
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


@dataclass(frozen=True, slots=True)
class Command:
    """What a command may be given; anything else is not understood."""

    run: Callable[[Case], None]
    words_min: int = 1
    words_max: int = 1
    options: Collection[str] = ()
    takes_input: bool = False

    def check(self, case: Case) -> None:
        if not self.words_min <= len(case.bare()) <= self.words_max:
            raise NotUnderstood(f"line {case.line}: {case.command} does not take {len(case.bare())} words")
        if case.input and not self.takes_input:
            raise NotUnderstood(f"line {case.line}: {case.command} takes no input")
        case.take(*self.options)


class Environment:
    """Runs one script; starts empty."""

    def __init__(self, seed: int) -> None:
        self.nodes: list[Node] = []
        self.in_flight: list[Message] = []
        self.level = "DEBUG"
        self._rng = random.Random(seed)
        self._out: list[str] = []
        self._commands = {
            "_breakpoint": Command(lambda case: None, words_min=0, words_max=0),
            "add-nodes": Command(self._add_nodes, options=NODE_OPTIONS),
            "campaign": Command(lambda case: self._node(case).raw.campaign()),
            "propose": Command(self._propose, 2, 2),
            "propose-conf-change": Command(self._propose_conf_change, options=("v1", "transition"), takes_input=True),
            "process-ready": Command(self._process_ready, words_max=ANY_NUMBER),
            "process-append-thread": Command(self._process_append_thread, words_max=ANY_NUMBER),
            "process-apply-thread": Command(self._process_apply_thread, words_max=ANY_NUMBER),
            "deliver-msgs": Command(self._deliver, 0, ANY_NUMBER, options=("drop", "type")),
            "stabilize": Command(self._stabilize, 0, ANY_NUMBER, options=("log-level",)),
            "tick-heartbeat": Command(lambda case: self._tick(case, HEARTBEAT_TICK)),
            "tick-election": Command(lambda case: self._tick(case, ELECTION_TICK)),
            "set-randomized-election-timeout": Command(self._set_timeout, options=("timeout",)),
            "transfer-leadership": Command(self._transfer, 0, 0, options=("from", "to")),
            "forget-leader": Command(lambda case: self._node(case).raw.forget_leader()),
            "report-unreachable": Command(self._report_unreachable, 2, 2),
            "compact": Command(self._compact, 2, 2),
            "send-snapshot": Command(self._send_snapshot, 2, 2),
            "raft-log": Command(lambda case: self._print_log(self._node(case))),
            "raft-state": Command(self._raft_state, 0, 0),
            "status": Command(self._status),
            "log-level": Command(self._log_level),
        }

    def run(self, case: Case) -> str:
        """Carry a case out and return what it printed, its error's text at the end."""
        command = self._commands.get(case.command)
        if command is None:
            raise NotUnderstood(f"line {case.line}: unknown command {case.command}")
        command.check(case)
        self._out = []
        error = ""
        level = self.level
        try:
            command.run(case)
        except tuple(ERROR_TEXTS) as failure:
            error = ERROR_TEXTS[type(failure)]
        quiet = self.level == "NONE"
        if case.command == "stabilize":
            self.level = level
        lines = [] if quiet else self._out
        return "\n".join([*lines, error] if error else lines) or "ok"

    # --- arguments ---

    def _by_id(self, case: Case, text: str) -> Node:
        ident = case.number(text)
        if not 1 <= ident <= len(self.nodes):
            raise NotUnderstood(f"line {case.line}: there is no node {ident}")
        return self.nodes[ident - 1]

    def _node(self, case: Case) -> Node:
        """The node that the command names first."""
        return self._by_id(case, case.bare()[0])

    def _all_nodes(self, case: Case) -> list[Node]:
        return [self._by_id(case, text) for text in case.bare()]

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
        for _ in range(case.number(case.bare()[0])):
            self.nodes.append(make_node(case, len(self.nodes) + 1, self._rng))

    def _tick(self, case: Case, count: int) -> None:
        node = self._node(case)
        for _ in range(count):
            node.raw.tick()

    def _set_timeout(self, case: Case) -> None:
        self._node(case).raw.raft.randomized_election_timeout = case.number(case.one("timeout"))

    def _log_level(self, case: Case) -> None:
        self._set_level(case, case.bare()[0])

    def _set_level(self, case: Case, level: str) -> None:
        if level.upper() not in LEVELS:
            raise NotUnderstood(f"line {case.line}: log level {level}")
        self.level = level.upper()

    def _transfer(self, case: Case) -> None:
        self._by_id(case, case.one("from")).raw.transfer_leader(case.number(case.one("to")))

    def _report_unreachable(self, case: Case) -> None:
        node, peer = self._all_nodes(case)
        node.raw.report_unreachable(peer.raw.id)

    # --- proposals ---

    def _propose(self, case: Case) -> None:
        self._node(case).raw.propose(case.bare()[1].encode())

    def _propose_conf_change(self, case: Case) -> None:
        v1, transition = case.one("v1", "false"), case.one("transition", "auto")
        if v1 not in ("true", "false") or transition not in TRANSITIONS:
            raise NotUnderstood(f"line {case.line}: v1={v1} transition={transition}")
        changes = operations(case)
        if v1 == "true" and (len(changes) != 1 or transition != "auto"):
            raise NotUnderstood(f"line {case.line}: v1 takes one operation and no transition")
        change = ConfChange(changes, TRANSITIONS[transition], v1=v1 == "true")
        self._node(case).raw.propose_conf_change(change)

    # --- messages ---

    def _deliver(self, case: Case) -> None:
        only: MessageType | None = None
        if "type" in case.take("drop", "type"):
            name = case.one("type")
            if name not in MESSAGE_TYPES:
                raise NotUnderstood(f"line {case.line}: message type {name}")
            only = MESSAGE_TYPES[name]
        self._all_nodes(case)
        handled = 0
        for argument in case.arguments:
            if argument.bare:
                handled += self._deliver_to(int(argument.key), only, dropping=False)
            elif argument.key == "drop":
                # A recipient need not exist yet.
                for recipient in argument.values:
                    if recipient in case.bare():
                        raise NotUnderstood(f"line {case.line}: {recipient} can't be both delivered to and dropped")
                    handled += self._deliver_to(case.number(recipient), only, dropping=True)
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
        node, target = self._all_nodes(case)
        message = Message(
            MessageType.SNAP,
            to=target.raw.id,
            sender=node.raw.id,
            term=node.raw.term,
            snapshot=node.storage.history[-1],
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
        nodes = self._all_nodes(case)
        for node in nodes:
            if len(nodes) == 1:
                action(node)
            else:
                self._say(f"> {node.raw.id} {header}")
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
        node.write(ready.hard_state, ready.snapshot, ready.entries)
        node.apply(ready.committed_entries)
        self.in_flight += ready.messages
        node.raw.advance()

    def _do_append_work(self, node: Node) -> None:
        if not node.append_work:
            self._say("no append work to perform")
            return
        work = node.append_work.pop(0)
        responses = self._announce(work)
        hard_state = HardState(work.term, work.vote, work.commit)
        node.write(None if hard_state.is_empty() else hard_state, work.snapshot, work.entries)
        self._respond(responses)

    def _do_apply_work(self, node: Node) -> None:
        if not node.apply_work:
            self._say("no apply work to perform")
            return
        work = node.apply_work.pop(0)
        responses = self._announce(work)
        node.apply(work.entries)
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

    # --- stabilize ---

    def _stabilize(self, case: Case) -> None:
        self._set_level(case, case.one("log-level", self.level))
        nodes = self._all_nodes(case) or self.nodes
        for _ in range(10_000):
            if not self._stabilize_once(nodes):
                return
        raise AssertionError(f"line {case.line}: the group does not come to rest")

    def _stabilize_once(self, nodes: list[Node]) -> bool:
        busy = False
        for node in nodes:
            if node.raw.has_ready():
                busy = True
                self._say(f"> {node.raw.id} handling Ready")
                self._nested(lambda node=node: self._handle_ready(node))  # type: ignore[misc]
        for ident in [node.raw.id for node in nodes]:
            if any(message.to == ident for message in self.in_flight):
                busy = True
                self._say(f"> {ident} receiving messages")
                self._nested(lambda ident=ident: self._deliver_all(ident))  # type: ignore[misc]
        for queue, header, action in (
            ("append_work", "processing append thread", self._do_append_work),
            ("apply_work", "processing apply thread", self._do_apply_work),
        ):
            for node in nodes:
                if getattr(node, queue):
                    busy = True
                    self._say(f"> {node.raw.id} {header}")
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
        node = self._node(case)
        node.storage.compact(case.number(case.bare()[1]))
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
