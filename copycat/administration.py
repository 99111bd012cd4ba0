"""What can be asked of a node over its admin socket: each request by name, checked, and handed to the engine.

Every answer is made of plain values, in the form that docs/commands.md describes and ``--json`` prints. Groups come in pages, so
that a node with ten thousand of them never spends a long turn on one question.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from copycat.errors import Closed, CopyCatError, NodeFailure, UsageError
from copycat.genesis import Standing
from copycat.health import LAG_ENTRIES_MAX, check
from copycat.ids import DataStructureId
from copycat.recovery import Order, Recovery, recoveries_in
from copycat.ringchange import Step
from copycat.status import GroupStatus, Member, Peer

if TYPE_CHECKING:
    from copycat.engine import Engine

GROUPS_PER_PAGE_MAX = 200
TIMEOUT_S_MAX = 3600.0
SEEING = frozenset(["status", "members", "health", "groups", "group", "events"])
"""Requests that change nothing."""


class Administration:
    """:meth:`handle` is called on any thread, and never waits. ``leave`` begins to leave in a thread of its own."""

    def __init__(self, engine: Engine, leave: Callable[[float], Future[None]]) -> None:
        self._engine = engine
        self._leave_cluster = leave
        self.rejected: Callable[[], int] = lambda: 0
        self._requests: dict[str, Callable[[Arguments, Future[Any]], None]] = {
            "status": self._status,
            "members": self._members,
            "health": self._health,
            "groups": self._groups,
            "group": self._group,
            "events": self._events,
            "transfer_leader": self._transfer_leader,
            "replicas": self._replicas,
            "forget": self._forget,
            "recover": self._recover,
            "gossip_keys": self._gossip_keys,
            "backup_begin": self._backup_begin,
            "backup_read": self._backup_read,
            "backup_close": self._backup_close,
            "restore_begin": self._restore_begin,
            "restore_chunk": self._restore_chunk,
            "restore_items": self._restore_items,
            "restore_finish": self._restore_finish,
            "restore_give_up": self._restore_give_up,
        }

    def handle(self, name: str, values: dict[str, Any]) -> Future[Any]:
        """Raises :class:`~copycat.errors.UsageError` for what is no request, or has arguments that don't fit."""
        arguments = Arguments(values)
        if name == "leave":
            timeout = arguments.seconds("timeout", 60.0)
            arguments.check_all_known()
            return self._leave_cluster(timeout)
        request = self._requests.get(name)
        if request is None:
            raise UsageError(f"the node knows no request {name!r}: it is of another version than this command")
        answer: Future[Any] = Future()

        def asked() -> None:
            try:
                request(arguments, answer)
            except CopyCatError as error:
                if not answer.done():
                    answer.set_exception(error)
                if isinstance(error, NodeFailure):
                    raise  # what can't be read any more stops the node, whoever found it

        if not self._engine.post(asked):
            failed = self._engine.failed
            raise Closed("the node has been shut down" if failed is None else f"the node has stopped: {failed}")
        return answer

    # --- seeing; on the engine's thread ---

    def _status(self, arguments: Arguments, answer: Future[Any]) -> None:
        arguments.check_all_known()
        engine = self._engine
        config, address = engine.config, engine.address
        groups = engine.hosting.groups.values()
        states = Counter(member.state for member in engine.cluster.members())
        answer.set_result(
            {
                "node_id": engine.node_id,
                "pid": os.getpid(),
                "address": f"{address.hostname}:{address.gossip_port}",
                "copycat_port": address.copycat_port,
                "cluster_label": config.cluster_label,
                "data_center": config.data_center,
                "rack": config.rack,
                "data_dir": os.path.abspath(config.data_dir),
                "durability": str(getattr(config.durability, "value", config.durability)),
                "members": {state: states.get(state, 0) for state in ("alive", "suspect", "dead", "left")},
                "votes_on_creation": engine.founding.acceptor.standing is Standing.READY,
                "leaving": engine.departures.stage.value if engine.departures.leaving else None,
                "groups_hosted": len(groups),
                "groups_led": sum(group.leads for group in groups),
                "groups_interactive": sum(group.interactive for group in groups),
                "log_bytes": sum(group.store.log_bytes for group in groups),
                "write_age_s": engine.write_age(),
                "stalled_disk_hand_over_s": config.stalled_disk_hand_over_s,
                "counters": {
                    **asdict(engine.counters),
                    "frames_sent": engine.outbox.frames_sent,
                    "frames_dropped": engine.outbox.frames_dropped,
                    "admin_rejected": self.rejected(),
                },
                "recoveries": [recovery_form(recovery) for recovery in recoveries_in(engine.store)],
            }
        )

    def _health(self, arguments: Arguments, answer: Future[Any]) -> None:
        lag_max = arguments.count("lag_max", LAG_ENTRIES_MAX)
        arguments.check_all_known()
        health = check(self._engine, lag_max)
        answer.set_result({"healthy": health.healthy, "problems": [asdict(problem) for problem in health.problems]})

    def _members(self, arguments: Arguments, answer: Future[Any]) -> None:
        arguments.check_all_known()
        engine = self._engine
        leaving = {known.candidate.node_id for known in engine.cluster.candidates_with_state() if known.leaving}
        answer.set_result(
            [
                {
                    **member_form(member),
                    "this": member.node_id == engine.node_id,
                    "leaving": member.node_id in leaving,
                    "for_good": engine.departures.has_left(member.node_id),
                }
                for member in engine.cluster.members()
            ]
        )

    def _groups(self, arguments: Arguments, answer: Future[Any]) -> None:
        """A page: groups behind ``after``, in the order of ids, and where the next page begins."""
        after = arguments.text("after", "")
        limit = arguments.count("limit", GROUPS_PER_PAGE_MAX)
        arguments.check_all_known()
        behind = bytes(DataStructureId.parse(after)) if after else b""
        hosted = self._engine.hosting.groups
        ids = sorted(group_id for group_id in hosted if group_id > behind)
        page = ids[: min(limit, GROUPS_PER_PAGE_MAX)]
        steward = self._engine.stewardship
        nodes = steward.nodes()
        more = str(DataStructureId(page[-1])) if len(page) < len(ids) else None
        forms = [group_form(steward.status_of(hosted[group_id], nodes)) for group_id in page]
        answer.set_result({"groups": forms, "next": more})

    def _group(self, arguments: Arguments, answer: Future[Any]) -> None:
        group_id = arguments.group_id()
        arguments.check_all_known()
        group = self._engine.hosting.groups.get(group_id)
        if group is None:
            hosts = ", ".join(self._engine.cluster.hosts_of(group_id)) or "none that is known"
            raise UsageError(f"this node does not host the group; its hosts are: {hosts}")
        answer.set_result(group_form(self._engine.stewardship.status_of(group)))

    def _events(self, arguments: Arguments, answer: Future[Any]) -> None:
        """What happened behind number ``after``, the oldest first, and the number to go on from."""
        after = arguments.number("after", 0)
        arguments.check_all_known()
        happenings, now = self._engine.happenings, self._engine.now
        events = [
            {
                "number": one.number,
                "age_s": round(max(0.0, now - one.at), 3),
                "kind": one.kind,
                "node_id": one.node_id or None,
                "group": str(DataStructureId(one.group)) if one.group else None,
                "term": one.term if one.group else None,
            }
            for one in happenings.since(after)
        ]
        answer.set_result({"events": events, "last": happenings.last})

    # --- doing; on the engine's thread ---

    def _transfer_leader(self, arguments: Arguments, answer: Future[Any]) -> None:
        group_id, node_id = arguments.group_id(), arguments.text("node_id")
        timeout = arguments.seconds("timeout", 10.0)
        arguments.check_all_known()
        self._engine.errands.transfer_leader(group_id, node_id, timeout, answer)

    def _replicas(self, arguments: Arguments, answer: Future[Any]) -> None:
        group_id, step, node_id = arguments.group_id(), arguments.number("step"), arguments.text("node_id", "")
        timeout = arguments.seconds("timeout", 10.0)
        arguments.check_all_known()
        self._engine.errands.change_replicas(group_id, step, node_id, timeout, answer)

    def _forget(self, arguments: Arguments, answer: Future[Any]) -> None:
        node_id, force = arguments.text("node_id"), arguments.flag("force")
        arguments.check_all_known()
        self._engine.departures.forget(node_id, force, answer)

    def _recover(self, arguments: Arguments, answer: Future[Any]) -> None:
        group_id = arguments.group_id()
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        order = Order(arguments.text("operator"), arguments.text("reason", ""), now, arguments.flag("force"))
        timeout = arguments.seconds("timeout", 10.0)
        arguments.check_all_known()
        recovered: Future[Recovery] = Future()

        def done(future: Future[Recovery]) -> None:
            error = future.exception()
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(recovery_form(future.result()))

        self._engine.recoveries.recover(group_id, order, timeout, recovered)
        recovered.add_done_callback(done)

    def _gossip_keys(self, arguments: Arguments, answer: Future[Any]) -> None:
        name = arguments.text("step")
        key, timeout = arguments.text("key", ""), arguments.seconds("timeout", 10.0)
        arguments.check_all_known()
        try:
            step = Step(name)
        except ValueError:
            raise UsageError(f"{name!r:.80} is no step of a change of keys") from None
        self._engine.ring_changes.change(step, key, timeout, answer)

    # --- backups; on the engine's thread ---

    def _backup_begin(self, arguments: Arguments, answer: Future[Any]) -> None:
        group_id, local = arguments.group_id(), arguments.flag("local")
        timeout = arguments.seconds("timeout", 10.0)
        arguments.check_all_known()
        self._engine.backups.begin(group_id, local, timeout, answer)

    def _backup_read(self, arguments: Arguments, answer: Future[Any]) -> None:
        reader = arguments.number("reader")
        arguments.check_all_known()
        answer.set_result(self._engine.backups.read(reader))

    def _backup_close(self, arguments: Arguments, answer: Future[Any]) -> None:
        reader = arguments.number("reader")
        arguments.check_all_known()
        self._engine.backups.close(reader)
        answer.set_result({})

    def _restore_begin(self, arguments: Arguments, answer: Future[Any]) -> None:
        group_id = arguments.group_id()
        replicas, data_center_replicas = arguments.number("replicas"), arguments.number("data_center_replicas", 0)
        position, snapshot_bytes = arguments.number("position", 0), arguments.number("snapshot_bytes", 0)
        timeout = arguments.seconds("timeout", 10.0)
        arguments.check_all_known()
        size = snapshot_bytes if position else None
        self._engine.restores.begin(group_id, replicas, data_center_replicas, position, size, timeout, answer)

    def _restore_chunk(self, arguments: Arguments, answer: Future[Any]) -> None:
        group_id, data = arguments.group_id(), arguments.blob("data")
        arguments.check_all_known()
        self._engine.restores.take_chunk(group_id, data, answer)

    def _restore_items(self, arguments: Arguments, answer: Future[Any]) -> None:
        group_id, items = arguments.group_id(), arguments.array("items")
        arguments.check_all_known()
        self._engine.restores.take_items(group_id, items, answer)

    def _restore_finish(self, arguments: Arguments, answer: Future[Any]) -> None:
        group_id, position = arguments.group_id(), arguments.number("position")
        timeout = arguments.seconds("timeout", 10.0)
        arguments.check_all_known()
        self._engine.restores.finish(group_id, position, timeout, answer)

    def _restore_give_up(self, arguments: Arguments, answer: Future[Any]) -> None:
        group_id = arguments.group_id()
        arguments.check_all_known()
        self._engine.restores.give_up(group_id)
        answer.set_result({})


class Arguments:
    """What came with a request: each is taken once, by its type. Raises :class:`~copycat.errors.UsageError`."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = dict(values)

    def _take(self, name: str, kinds: tuple[type, ...], default: Any) -> Any:
        value = self._values.pop(name, default)
        if type(value) not in kinds:
            raise UsageError(f"{name} must be {kinds[-1].__name__}, not {value!r:.80}")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        value: str = self._take(name, (str,), default)
        return value

    def number(self, name: str, default: int | None = None) -> int:
        value: int = self._take(name, (int,), default)
        return value

    def count(self, name: str, default: int) -> int:
        value = self.number(name, default)
        if value < 1:
            raise UsageError(f"{name} must be at least 1, not {value}")
        return value

    def blob(self, name: str) -> bytes:
        value: bytes = self._take(name, (bytes,), None)
        return value

    def array(self, name: str) -> list[Any]:
        value: list[Any] = self._take(name, (list,), None)
        return value

    def flag(self, name: str) -> bool:
        value: bool = self._take(name, (bool,), False)
        return value

    def seconds(self, name: str, default: float) -> float:
        value: float = self._take(name, (int, float), default)
        if not 0 < value <= TIMEOUT_S_MAX:
            raise UsageError(f"{name} must be seconds, above 0 and up to {TIMEOUT_S_MAX:.0f}, not {value}")
        return value

    def group_id(self) -> bytes:
        return bytes(DataStructureId.parse(self.text("id")))

    def check_all_known(self) -> None:
        if self._values:
            raise UsageError(f"unknown arguments: {', '.join(map(str, sorted(self._values)))[:200]}")


# --- forms ----------------------------------------------------------------------------------------------------------
# Raft ids are text: they have 63 bits, and many readers of JSON keep only 53.


def member_form(member: Member) -> dict[str, Any]:
    return asdict(member)


def group_form(status: GroupStatus) -> dict[str, Any]:
    lag = [
        {**peer_form(peer), "entries": status.lag[peer.raft_id]}
        for peer in (*status.voters, *status.learners)
        if peer.raft_id in status.lag
    ]
    return {
        "id": status.data_structure_id,
        "raft_id": str(status.raft_id),
        "role": status.role,
        "term": status.term,
        "leader": status.leader,
        "commit_position": status.commit_position,
        "applied_position": status.applied_position,
        "voters": [peer_form(peer) for peer in status.voters],
        "learners": [peer_form(peer) for peer in status.learners],
        "lag": lag,
        "interactive": status.interactive,
        "replicas_wanted": status.replicas_wanted,
        "under_replicated": status.under_replicated,
        "has_quorum": status.has_quorum,
        "log_bytes": status.log_bytes,
        "snapshot_position": status.snapshot_position,
    }


def peer_form(peer: Peer) -> dict[str, str]:
    return {"raft_id": str(peer.raft_id), "node_id": peer.node_id}


def recovery_form(recovery: Recovery) -> dict[str, Any]:
    def peers(pairs: tuple[tuple[int, str], ...]) -> list[dict[str, str]]:
        return [{"raft_id": str(raft_id), "node_id": node_id} for raft_id, node_id in pairs]

    return {
        **asdict(recovery),
        "group": str(DataStructureId(recovery.group)),
        "old_raft_id": str(recovery.old_raft_id),
        "new_raft_id": str(recovery.new_raft_id),
        "voters": peers(recovery.voters),
        "learners": peers(recovery.learners),
    }
