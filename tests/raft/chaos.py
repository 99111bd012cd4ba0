"""A world that does its worst to a group of bare cores, one small step at a time, and looks after each.

A step is a line of text (``deliver 17``, ``crash 2``), and the same seed with the same lines gives the same run. So a
run that ends in a violation is its own script: cut lines from it, replay it, keep it.
"""

from __future__ import annotations

import hashlib
import random
from collections import deque
from dataclasses import replace
from typing import Any

from copycat.errors import ClusterError, InvalidConfChange
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
    Snapshot,
)
from copycat.raft import RaftConfig, RawNode, Role, unpack_conf_change

from .kit import Disk

IN_FLIGHT_MAX = 400

USUAL = {"deliver": 360.0, "ready": 260.0, "work": 180.0, "tick": 120.0, "propose": 40.0}
"""Steps that every run needs, and how often each is chosen."""

TROUBLE = {
    "lose": 7.5,
    "repeat": 7.5,
    "campaign": 3.0,
    "rivals": 3.0,
    "crash": 4.0,
    "die": 1.5,
    "change": 7.0,
    "transfer": 2.5,
    "compact": 4.0,
    "read": 2.5,
    "unreachable": 1.2,
    "snapshot-sent": 0.6,
    "snapshot-lost": 0.6,
    "forget": 0.5,
    "cut": 0.7,
    "heal": 1.3,
}
"""The rest. Each run has its own taste for each, none at all included: what never happens together in the average run
does in some."""


class Violation(AssertionError):
    """One of Raft's guarantees (paper, figure 3) does not hold."""


class ChaosDisk(Disk):
    """Forgets in a crash what was not synced. ``newest`` is a snapshot, ``point`` where the log begins."""

    def __init__(self, conf_state: ConfState) -> None:
        super().__init__(conf_state)
        self.sync()

    def initial_state(self) -> tuple[HardState, ConfState]:
        return self.hard_state, (self.newest or self.point).conf_state

    def sync(self) -> None:
        self._durable = (self.hard_state, list(self.log), self.point, self.newest)

    def crash(self) -> None:
        self.hard_state, log, self.point, self.newest = self._durable
        self.log = list(log)

    def make_snapshot(self, snapshot: Snapshot, keep: int) -> None:
        """Remember ``snapshot`` and drop the log up to ``keep`` entries before it."""
        point = max(self.point.index, snapshot.index - keep)
        term = self.term(point)
        del self.log[: point - self.point.index]
        self.point = Snapshot(point, term, snapshot.conf_state)
        self.newest = snapshot
        self.sync()


class Peer:
    """One replica, its disk, its state machine (a hash of everything applied) and its storage threads' queues."""

    def __init__(self, ident: int, conf_state: ConfState, options: dict[str, Any], seed: int) -> None:
        self.id = ident
        self.disk = ChaosDisk(conf_state)
        self.options = options
        self.seed = seed
        self.lives = 0
        self.start()

    def start(self) -> None:
        self.lives += 1
        newest = self.disk.newest
        self.applied = newest.index if newest else 0
        self.digest = newest.data if newest else b""
        self.append_work: deque[Message] = deque()
        self.apply_work: deque[Message] = deque()
        self.raw = RawNode(
            RaftConfig(
                id=self.id,
                storage=self.disk,
                applied=self.applied,
                rng=random.Random(f"{self.seed}/{self.id}/{self.lives}"),
                **self.options,
            )
        )
        self.committed = self.raw.committed
        self.was_leader_of = 0


class World:
    """See the module."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.script: list[str] = []
        size = self.rng.randint(3, 7)
        start = ConfState(tuple(range(1, self.rng.randint(3, size) + 1)))
        if self.rng.random() < 0.25:
            everyone = range(1, size + 1)
            halves = [tuple(sorted(self.rng.sample(everyone, min(size, 3)))) for _ in range(2)]
            start = ConfState(halves[0], (), halves[1], (), self.rng.random() < 0.5)
        weights = USUAL | {verb: usual * self.rng.choice((0, 1, 1, 4, 15)) for verb, usual in TROUBLE.items()}
        self._verbs, self._weights = [*weights], [*weights.values()]
        self._in_order = self.rng.choice((0.2, 0.6, 0.95))
        plain = self.rng.random() < 0.3
        options: dict[str, Any] = {
            "async_storage_writes": self.rng.random() < 0.5,
            "pre_vote": not plain and self.rng.random() < 0.7,
            "check_quorum": not plain and self.rng.random() < 0.7,
            "election_tick": 5,
            "size_per_msg_max": self.rng.choice((1, 30, 1 << 20)),
            "committed_size_per_ready_max": self.rng.choice((1, 30, 1 << 20)),
            "inflight_msgs_max": self.rng.choice((1, 2, 256)),
            "uncommitted_size_max": self.rng.choice((40, 1 << 20)),
            "step_down_on_removal": self.rng.random() < 0.5,
        }
        self.asynchronous: bool = options["async_storage_writes"]
        self.peers = {ident: Peer(ident, start, options, seed) for ident in range(1, size + 1)}
        self.in_flight: dict[int, Message] = {}
        self._next_message = 0
        self._next_proposal = 0
        self.cut: set[int] = set()

        self.leaders: dict[int, int] = {}
        self.entries: dict[tuple[int, int], tuple[Entry, int]] = {}
        self.committed: dict[int, Entry] = {}
        self.committed_in: dict[int, int] = {}
        self.digests: dict[int, bytes] = {0: b""}
        self.states: dict[int, ConfState] = {}
        self.asked: dict[bytes, int] = {}
        self.reads_done = 0

    # --- running ------------------------------------------------------------------------------------------------

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.do(self._choose())

    def replay(self, script: str) -> None:
        for line in script.split("\n"):
            if line.strip():
                self.do(line.strip())

    def do(self, line: str) -> None:
        """One step. What does not apply (any more) does nothing, so that lines can be cut from a script."""
        self.script.append(line)
        verb, *words = line.split()
        try:
            getattr(self, f"_do_{verb.replace('-', '_')}")(*words)
            for ident in self.peers:
                self._check(self.peers[ident])
        except Violation:
            raise
        except Exception as error:
            raise Violation(f"{type(error).__name__}: {error}") from error

    def _choose(self) -> str:
        if len(self.in_flight) > IN_FLIGHT_MAX:
            return f"lose {next(iter(self.in_flight))}"
        for verb in self.rng.choices(self._verbs, self._weights, k=8):
            line = self._line(verb)
            if line:
                return line
        return f"tick {self._anyone()}"

    def _anyone(self) -> int:
        return self.rng.choice([*self.peers])

    def _line(self, verb: str) -> str:
        """One step of this kind; nothing where it would have no object."""
        rng = self.rng
        if verb == "work":
            busy = [f"append {ident}" for ident, peer in self.peers.items() if peer.append_work]
            busy += [f"apply {ident}" for ident, peer in self.peers.items() if peer.apply_work]
            return rng.choice(busy) if busy else ""
        if verb == "ready":
            ready = [ident for ident, peer in self.peers.items() if peer.raw.has_ready()]
            return f"ready {rng.choice(ready)}" if ready else ""
        if verb == "deliver":
            numbers = list(self.in_flight)
            return f"deliver {numbers[0] if rng.random() < self._in_order else rng.choice(numbers)}" if numbers else ""
        if verb in ("lose", "repeat"):
            return f"{verb} {rng.choice(list(self.in_flight))}" if self.in_flight else ""
        if verb == "heal":
            return "heal" if self.cut else ""
        if verb == "change":
            kinds = rng.choices(("v", "l", "r"), k=rng.choice((0, 1, 1, 1, 2, 3)))
            operations = [f"{kind}{self._anyone()}" for kind in kinds]
            return " ".join([f"change {self._anyone()} {rng.choice(('auto', 'implicit', 'explicit'))}", *operations])
        if verb == "compact":
            return f"compact {self._anyone()} {rng.randint(0, 6)}"
        if verb in ("rivals", "transfer", "unreachable", "snapshot-sent", "snapshot-lost"):
            return f"{verb} {self._anyone()} {self._anyone()}"
        return f"{verb} {self._anyone()}"

    # --- steps --------------------------------------------------------------------------------------------------

    def _do_tick(self, ident: str) -> None:
        self.peers[int(ident)].raw.tick()

    def _do_campaign(self, ident: str) -> None:
        self.peers[int(ident)].raw.campaign()

    def _do_rivals(self, ident: str, other: str) -> None:
        """Two stand at once, often in the same term."""
        self._do_campaign(ident)
        self._do_campaign(other)

    def _do_deliver(self, number: str) -> None:
        message = self.in_flight.pop(int(number), None)
        if message is None or not self.cut.isdisjoint({message.to, message.sender}):
            return
        self._step(self.peers[message.to], message)

    @staticmethod
    def _step(peer: Peer, message: Message) -> None:
        try:
            peer.raw.step(message)
        except ClusterError:
            return

    def _do_lose(self, number: str) -> None:
        self.in_flight.pop(int(number), None)

    def _do_repeat(self, number: str) -> None:
        message = self.in_flight.get(int(number))
        if message is not None:
            self._send(message)

    def _send(self, message: Message) -> None:
        self.in_flight[self._next_message] = replace(message)
        self._next_message += 1

    def _do_propose(self, ident: str) -> None:
        self._next_proposal += 1
        try:
            self.peers[int(ident)].raw.propose(b"%d" % self._next_proposal)
        except ClusterError:
            return

    def _do_change(self, ident: str, transition: str, *operations: str) -> None:
        letters = {"v": ConfChangeType.ADD_VOTER, "l": ConfChangeType.ADD_LEARNER, "r": ConfChangeType.REMOVE}
        transitions = {
            "auto": ConfChangeTransition.AUTO,
            "implicit": ConfChangeTransition.JOINT_IMPLICIT,
            "explicit": ConfChangeTransition.JOINT_EXPLICIT,
        }
        singles = tuple(ConfChangeSingle(letters[each[0]], int(each[1:])) for each in operations)
        chosen = transitions[transition] if operations else ConfChangeTransition.AUTO
        try:
            self.peers[int(ident)].raw.propose_conf_change(ConfChange(singles, chosen))
        except ClusterError:
            return

    def _do_transfer(self, ident: str, target: str) -> None:
        self.peers[int(ident)].raw.transfer_leader(int(target))

    def _do_unreachable(self, ident: str, target: str) -> None:
        self.peers[int(ident)].raw.report_unreachable(int(target))

    def _do_snapshot_sent(self, ident: str, target: str) -> None:
        self.peers[int(ident)].raw.report_snapshot(int(target), True)

    def _do_snapshot_lost(self, ident: str, target: str) -> None:
        self.peers[int(ident)].raw.report_snapshot(int(target), False)

    def _do_forget(self, ident: str) -> None:
        self.peers[int(ident)].raw.forget_leader()

    def _do_cut(self, ident: str) -> None:
        if len(self.cut) < (len(self.peers) - 1) // 2:
            self.cut.add(int(ident))

    def _do_heal(self) -> None:
        self.cut.clear()

    def _do_read(self, ident: str) -> None:
        context = b"%d" % len(self.asked)
        self.asked[context] = max(self.committed, default=0)
        self.peers[int(ident)].raw.read_index(context)

    def _do_compact(self, ident: str, keep: str) -> None:
        peer = self.peers[int(ident)]
        newest = peer.disk.newest
        if peer.applied <= (newest.index if newest else 0):
            return
        state = peer.raw.status().config.conf_state()
        snapshot = Snapshot(peer.applied, peer.disk.term(peer.applied), state, peer.digest)
        peer.disk.make_snapshot(snapshot, int(keep))

    def _do_crash(self, ident: str) -> None:
        """What was not synced is gone."""
        peer = self.peers[int(ident)]
        peer.disk.crash()
        peer.start()

    def _do_die(self, ident: str) -> None:
        """Crash between the write and the sending of what it allows."""
        peer = self.peers[int(ident)]
        if self.asynchronous:
            if peer.append_work:
                self._write_work(peer, peer.append_work.popleft())
        elif peer.raw.has_ready():
            ready = peer.raw.ready()
            self._write(peer, ready.hard_state, ready.snapshot, ready.entries, ready.must_sync)
        self._do_crash(ident)

    def _do_ready(self, ident: str) -> None:
        peer = self.peers[int(ident)]
        if not peer.raw.has_ready():
            return
        ready = peer.raw.ready()
        for read in ready.read_states:
            self.reads_done += 1
            if read.index < self.asked[read.context]:
                raise Violation(
                    f"a read at {read.index} misses {self.asked[read.context]}, committed when it was asked"
                )
        if self.asynchronous:
            for message in ready.messages:
                if message.to == LOCAL_APPEND_THREAD:
                    peer.append_work.append(message)
                elif message.to == LOCAL_APPLY_THREAD:
                    peer.apply_work.append(message)
                else:
                    self._send(message)
            return
        self._write(peer, ready.hard_state, ready.snapshot, ready.entries, ready.must_sync)
        for message in ready.messages:
            self._send(message)
        self._apply(peer, ready.committed_entries)
        peer.raw.advance()

    def _do_append(self, ident: str) -> None:
        peer = self.peers[int(ident)]
        if peer.append_work:
            work = peer.append_work.popleft()
            self._write_work(peer, work)
            self._respond(peer, work)

    def _do_apply(self, ident: str) -> None:
        peer = self.peers[int(ident)]
        if peer.apply_work:
            work = peer.apply_work.popleft()
            self._apply(peer, work.entries)
            self._respond(peer, work)

    def _respond(self, peer: Peer, work: Message) -> None:
        for response in work.responses:
            if response.to == peer.id:
                self._step(peer, response)
            else:
                self._send(response)

    def _write_work(self, peer: Peer, work: Message) -> None:
        hard_state = HardState(work.term, work.vote, work.commit)
        stored = peer.disk.hard_state
        changed = not hard_state.is_empty() and (hard_state.term, hard_state.vote) != (stored.term, stored.vote)
        must_sync = changed or bool(work.entries)
        self._write(peer, None if hard_state.is_empty() else hard_state, work.snapshot, work.entries, must_sync)

    @staticmethod
    def _write(
        peer: Peer, hard_state: HardState | None, snapshot: Snapshot | None, entries: list[Entry], must_sync: bool
    ) -> None:
        peer.disk.write(hard_state, snapshot, entries)
        if snapshot is not None:
            peer.applied, peer.digest = snapshot.index, snapshot.data
        if must_sync or snapshot is not None:
            peer.disk.sync()

    def _apply(self, peer: Peer, entries: list[Entry]) -> None:
        for entry in entries:
            if self.asynchronous and entry.index <= peer.applied:
                continue  # a snapshot was stored while this waited for the other thread
            if entry.index != peer.applied + 1:
                raise Violation(f"{peer.id} applies {entry.index} after {peer.applied}")
            peer.applied = entry.index
            peer.digest = hashlib.sha1(peer.digest + b"%d/" % entry.term + entry.data).digest()
            if self.digests.setdefault(entry.index, peer.digest) != peer.digest:
                raise Violation(f"state machine safety: {peer.id} applied something else at {entry.index}")
            if entry.type != EntryType.NORMAL:
                try:
                    peer.raw.apply_conf_change(unpack_conf_change(entry.data))
                except InvalidConfChange:
                    # The same everywhere: it was proposed against the right configuration, but removes all voters.
                    pass
                if peer.raw.raft.log.unstable.snapshot is not None:
                    continue  # this replica counts by the snapshot's configuration already, which is a later one
                state = peer.raw.status().config.conf_state()
                if self.states.setdefault(entry.index, state) != state:
                    raise Violation(f"{peer.id} has {state} at {entry.index}, another {self.states[entry.index]}")

    # --- figure 3 -------------------------------------------------------------------------------------------------

    def _check(self, peer: Peer) -> None:
        raw, log = peer.raw, peer.raw.raft.log
        if raw.role == Role.LEADER and self.leaders.setdefault(raw.term, peer.id) != peer.id:
            raise Violation(f"election safety: {peer.id} and {self.leaders[raw.term]} lead term {raw.term}")
        if raw.committed < peer.committed:
            raise Violation(f"{peer.id} went back from commit index {peer.committed} to {raw.committed}")
        for entry in log.unstable.entries:
            self._check_matching(peer, entry)
        for index in range(max(peer.committed + 1, log.first_index()), raw.committed + 1):
            (entry,) = log.slice(index, index + 1, 1)
            if index not in self.committed:
                self.committed[index], self.committed_in[index] = entry, raw.term
                for leader in self.peers.values():
                    self._check_completeness(leader, index)
            known = self.committed[index]
            if known != entry:
                raise Violation(f"{peer.id} committed {entry}, another {known}")
        peer.committed = raw.committed
        if raw.role == Role.LEADER and peer.was_leader_of != raw.term:
            peer.was_leader_of = raw.term
            for index in self.committed:
                self._check_completeness(peer, index)

    def _check_completeness(self, peer: Peer, index: int) -> None:
        """An entry that was committed in one term is in the logs of the leaders of all higher ones."""
        raw, log = peer.raw, peer.raw.raft.log
        entry = self.committed[index]
        if raw.role != Role.LEADER or raw.term <= self.committed_in[index] or index < log.first_index():
            return
        if log.term(index) != entry.term:
            raise Violation(f"leader completeness: {peer.id} leads term {raw.term} without {entry}")

    def _check_matching(self, peer: Peer, entry: Entry) -> None:
        previous = peer.raw.raft.log.term(entry.index - 1)
        if previous is None:
            return
        known = self.entries.setdefault((entry.index, entry.term), (entry, previous))
        if known != (entry, previous):
            raise Violation(f"log matching: {peer.id} has {entry} after term {previous}, another {known}")

    def check_whole_logs(self) -> None:
        """Everything that is in any log now, not only what was new."""
        for peer in self.peers.values():
            log = peer.raw.raft.log
            for entry in log.entries(log.first_index(), 1 << 60):
                self._check_matching(peer, entry)

    # --- afterwards -----------------------------------------------------------------------------------------------

    def calm_down(self, rounds: int) -> bool:
        """Heal everything and let time pass evenly. Whether something new gets committed, or can't for a known reason."""
        self.do("heal")
        before = max(self.committed, default=0)
        for round_number in range(rounds):
            for ident, peer in self.peers.items():
                self.do(f"tick {ident}")
                if peer.raw.role == Role.LEADER and peer.raw.raft.tracker.own is None:
                    # Told to stay after its removal, it would for ever; whoever chose that shuts it down.
                    self.do(f"crash {ident}")
                if peer.raw.role == Role.LEADER and round_number % 10 == 9:
                    self.do(f"propose {ident}")
                    # A snapshot from before a replica joined is of no use to it.
                    self.do(f"compact {ident} 6")
                for other, progress in peer.raw.raft.tracker.members.items():
                    if progress.pending_snapshot:
                        self.do(f"snapshot-lost {ident} {other}")
            for _ in range(40):
                if not self._drain():
                    break
            data = [entry.data for index, entry in self.committed.items() if index > before]
            if any(data) and max(self.committed) >= before + 3:
                return True
        return self.held_back_by_a_departed_voter()

    def held_back_by_a_departed_voter(self) -> bool:
        """Whether an election can't be won although everything works: the one known way.

        A leader that ceases to be a voter steps down when it has applied that. Where its last word was lost, the others
        don't know that the change is committed and still need its vote, which it refuses to a log shorter than its own.
        A configuration in force from when it is *appended* (paper, section 6) has no such gap, but others.
        """
        return any(
            peer.id in other.raw.raft.tracker.voters()
            and peer.id not in peer.raw.raft.tracker.voters()
            and peer.raw.committed > other.raw.committed
            and not peer.raw.raft.log.is_up_to_date(other.raw.raft.log.last_term, other.raw.raft.log.last_index)
            for peer in self.peers.values()
            for other in self.peers.values()
        )

    def _drain(self) -> bool:
        busy = False
        for ident, peer in self.peers.items():
            if peer.raw.has_ready():
                busy = True
                self.do(f"ready {ident}")
            if peer.append_work:
                self.do(f"append {ident}")
            if peer.apply_work:
                self.do(f"apply {ident}")
        for number in list(self.in_flight):
            busy = True
            self.do(f"deliver {number}")
        return busy

    def summary(self) -> tuple[object, ...]:
        """What a replay must arrive at."""
        return tuple(
            (peer.id, peer.raw.term, peer.raw.role, peer.raw.last_index, peer.raw.committed, peer.digest)
            for peer in self.peers.values()
        )

    def report(self, violation: BaseException) -> str:
        script = "\n".join(self.script)
        return f"seed {self.seed}, step {len(self.script)}: {violation}\nWorld({self.seed}).replay('''\n{script}\n''')"
