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
        voters = tuple(range(1, self.rng.randint(3, size) + 1))
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
        self.peers = {ident: Peer(ident, ConfState(voters), options, seed) for ident in range(1, size + 1)}
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
        rng = self.rng
        roll = rng.random()
        ready = [ident for ident, peer in self.peers.items() if peer.raw.has_ready()]
        busy = [f"append {ident}" for ident, peer in self.peers.items() if peer.append_work]
        busy += [f"apply {ident}" for ident, peer in self.peers.items() if peer.apply_work]
        if len(self.in_flight) > IN_FLIGHT_MAX:
            return f"lose {next(iter(self.in_flight))}"
        if roll < 0.36 and self.in_flight:
            numbers = list(self.in_flight)
            number = numbers[0] if rng.random() < 0.6 else rng.choice(numbers)
            return f"deliver {number}"
        if roll < 0.62 and ready:
            return f"ready {rng.choice(ready)}"
        if roll < 0.80 and self.asynchronous and busy:
            return rng.choice(busy)
        if roll < 0.92:
            return f"tick {rng.choice([*self.peers])}"
        if roll < 0.96:
            return f"propose {rng.choice([*self.peers])}"
        if roll < 0.975 and self.in_flight:
            return f"{rng.choice(('lose', 'repeat'))} {rng.choice(list(self.in_flight))}"
        ident, other = rng.choice([*self.peers]), rng.choice([*self.peers])
        rare = rng.random()
        if rare < 0.10:
            return f"crash {ident}"
        if rare < 0.16:
            return f"die {ident}"
        if rare < 0.44:
            kinds = rng.choices(("v", "l", "r"), k=rng.choice((0, 1, 1, 1, 2, 3)))
            operations = [f"{kind}{rng.choice([*self.peers])}" for kind in kinds]
            return " ".join([f"change {ident} {rng.choice(('auto', 'implicit', 'explicit'))}", *operations])
        if rare < 0.54:
            return f"transfer {ident} {other}"
        if rare < 0.70:
            return f"compact {ident} {rng.randint(0, 6)}"
        if rare < 0.80:
            return f"read {ident}"
        if rare < 0.85:
            return f"unreachable {ident} {other}"
        if rare < 0.90:
            return f"snapshot-{rng.choice(('sent', 'lost'))} {ident} {other}"
        if rare < 0.92:
            return f"forget {ident}"
        if rare < 0.95:
            return f"cut {ident}"
        return "heal"

    # --- steps --------------------------------------------------------------------------------------------------

    def _do_tick(self, ident: str) -> None:
        self.peers[int(ident)].raw.tick()

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
            if entry.type != EntryType.NORMAL:
                try:
                    peer.raw.apply_conf_change(unpack_conf_change(entry.data))
                except InvalidConfChange:
                    # The same everywhere: it was proposed against the right configuration, but removes all voters.
                    pass
                state = peer.raw.status().config.conf_state()
                if self.states.setdefault(entry.index, state) != state:
                    raise Violation(f"{peer.id} has {state} at {entry.index}, another {self.states[entry.index]}")
            if self.digests.setdefault(entry.index, peer.digest) != peer.digest:
                raise Violation(f"state machine safety: {peer.id} applied something else at {entry.index}")

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
            known = self.committed.setdefault(index, entry)
            self.committed_in.setdefault(index, raw.term)
            if known != entry:
                raise Violation(f"{peer.id} committed {entry}, another {known}")
        peer.committed = raw.committed
        if raw.role == Role.LEADER and peer.was_leader_of != raw.term:
            peer.was_leader_of = raw.term
            for index, entry in self.committed.items():
                has = log.term(index)
                if self.committed_in[index] < raw.term and index >= log.first_index() and has != entry.term:
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
        """Heal everything and let time pass evenly. Whether something new gets committed."""
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
        return False

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
