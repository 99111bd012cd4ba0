"""A node with valid keys that lies: it stops no other node, and touches no group that it is no member of.

Real engines over the simulated network. The liar's words are thrown into its victims' inboxes as frames that bear its own
node id, which is all that a key gives it. Everything follows from the seed.
"""

from __future__ import annotations

import dataclasses
import random
import typing
from typing import Any

import pytest

from copycat import codec
from copycat.codec import pack_record
from copycat.config import Config
from copycat.errors import CodecError
from copycat.genesis import Chosen, Genesis
from copycat.messages import LOCAL_APPEND_THREAD, ConfState, Entry, EntryType, Message, MessageType, Snapshot
from copycat.placement import Candidate, place
from copycat.plausibility import INDEX_MAX, check_genesis, check_member, check_message, check_snapshot
from copycat.ports import Inbound, Lane
from copycat.protocol import JoinAsk, LeaveAsk, LogFullNotice, ReplicaInvite, ReplicaRemoved, SnapshotOffer
from copycat.records import SnapshotMeta, pack_descriptor
from copycat.sequencer import Replica, Sequencer
from copycat.testing.world import GOSSIP_PORT, World

LABEL = "copycat"
HOSTS = ("n1", "n2", "n3", "n4")
LIAR = "n4"


class Court:
    """Four nodes; one group on the first three, one that the liar leads or follows in; and the liar's mouth."""

    def __init__(self, seed: int) -> None:
        self.world = World(seed)
        self.rng = random.Random(seed)
        for number, host in enumerate(HOSTS):
            seeds = [f"{HOSTS[0]}:{GOSSIP_PORT}"] if number else []
            config = Config(peers_to_contact=seeds, gossip_profile="local", storage="memory", transport="memory")
            node = self.world.add_node(host, config)
            node.misled = host != LIAR
            node.start()
            self.world.run_for(0.5)
        self.liar = self.engine(LIAR).node_id
        self.honest_group = self._found(HOSTS[:3])
        self.shared_group = self._found((HOSTS[0], HOSTS[1], LIAR))

    def engine(self, host: str) -> Any:
        engine = self.world.nodes[host].engine
        assert engine is not None, f"{host} has stopped"
        return engine

    def _found(self, hosts: tuple[str, ...]) -> bytes:
        """A group on these hosts, where placement wants it, so that it stays there."""
        nodes = {self.engine(host).node_id for host in hosts}
        candidates = [Candidate(self.engine(host).node_id) for host in HOSTS]
        group_id = b""
        while not group_id or set(place(group_id, candidates, 3, 0)) != nodes:
            group_id = self.rng.getrandbits(128).to_bytes(16, "big")
        voters = tuple((100 + number, self.engine(host).node_id) for number, host in enumerate(hosts))
        genesis = pack_record(Genesis(group_id, 1, self.engine(hosts[0]).node_id, voters, 3, 0))
        for number, host in enumerate(hosts):
            node = self.world.nodes[host]
            node.post(lambda node=node, number=number: node.engine.hosting.create(group_id, 100 + number, genesis))
        self._wait(lambda: any(self._leads(host, group_id) for host in hosts), "a leader")
        return group_id

    def _leads(self, host: str, group_id: bytes) -> bool:
        group = self.engine(host).hosting.groups.get(group_id)
        return group is not None and group.leads

    def _wait(self, holds: Any, what: str, seconds: float = 60.0) -> None:
        ends = self.world.now + seconds
        while not holds():
            assert self.world.now < ends, f"no {what}"
            self.world.run_for(0.05)

    def say(self, host: str, *items: list[Any], attachments: tuple[bytes, ...] = ()) -> None:
        """The liar says something to a node."""
        header = codec.pack_header(LABEL, self.liar, self.engine(host).node_id)
        transport = self.world.nodes[host].transport
        assert transport is not None
        transport.arrived(Inbound(Lane.RAFT, [header, codec.pack(list(items)), *attachments]))

    def say_message(self, host: str, message: Any) -> None:
        self.say(host, self.engine(host).registry.pack(message))

    def say_raft(self, host: str, group_id: bytes, message: Message) -> None:
        self.say(host, codec.pack_raft(group_id, message, []))

    def commits(self, group_id: bytes, hosts: tuple[str, ...]) -> None:
        """The group takes an entry, on all of these."""
        before = {host: self.engine(host).hosting.groups[group_id].sequencer.index for host in hosts}
        reached: set[str] = set()

        def everywhere() -> bool:
            for host in hosts:
                group = self.engine(host).hosting.groups[group_id]
                if group.leads and not reached:
                    self.world.nodes[host].post(lambda group=group: group.propose(b""))
                if group.sequencer.index > before[host]:
                    reached.add(host)
            return len(reached) == len(hosts)

        self._wait(everywhere, "commit")

    def check(self) -> None:
        """All nodes run, and the group without the liar is whole."""
        for host in HOSTS[:3]:
            assert self.honest_group not in self.engine(host).hosting.quarantined
            assert self.engine(host).hosting.groups[self.honest_group].raft_id == 100 + HOSTS.index(host)
        self.commits(self.honest_group, HOSTS[:3])


@pytest.fixture
def court() -> Court:
    return Court(7)


# --- lies at random -------------------------------------------------------------------------------------------------

NUMBERS = (0, 1, 2, 3, 7, 99, 100, 101, 102, 255, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 62, 1 << 63, (1 << 64) - 1)


def any_value(hint: Any, court: Court, depth: int = 0) -> Any:
    """Something of the type that a field has, as absurd as the codec lets it through."""
    rng = court.rng
    origin = typing.get_origin(hint)
    if origin is typing.Union or type(None) in typing.get_args(hint):
        return None if rng.random() < 0.3 else any_value(typing.get_args(hint)[0], court, depth)
    if origin is tuple:
        arguments = typing.get_args(hint)
        if arguments[-1] is Ellipsis:
            return tuple(any_value(arguments[0], court, depth + 1) for _ in range(rng.choice((0, 1, 2, 5))))
        return tuple(any_value(argument, court, depth + 1) for argument in arguments)
    if dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        return hint(
            *[
                # Who has left for good, any member may say: see docs/security.md.
                ("0" * 26,) if field.name == "left" else any_value(hints[field.name], court, depth + 1)
                for field in dataclasses.fields(hint)
            ]
        )
    if hint is bytes:
        groups = [court.honest_group, court.shared_group]
        return rng.choice([*groups, *groups, b"", rng.randbytes(16), rng.randbytes(rng.randrange(80)), bytes(32)])
    if hint is str:
        nodes = [court.engine(host).node_id for host in HOSTS]
        return rng.choice([*nodes, *nodes, "", "x" * 26, "é" * 5, "0" * 26, "a" * 300])
    if hint is bool:
        return rng.random() < 0.5
    if hint is float:
        return rng.choice((0.0, -1.0, 1e308, float("nan"), float("inf")))
    if isinstance(hint, type) and issubclass(hint, int) and hint is not int:
        return rng.choice(list(hint))
    return rng.choice(NUMBERS)


def any_raft(court: Court) -> Message:
    rng = court.rng

    def number() -> int:
        return rng.choice(NUMBERS)

    kinds = list(EntryType)
    entries = [
        Entry(rng.choice((1, 2, number())), 0, rng.choice(kinds), rng.choice((b"", b"\1", b"\2x", rng.randbytes(40))))
        for _ in range(rng.choice((0, 0, 1, 3)))
    ]
    snapshot = None
    if rng.random() < 0.3:
        state = ConfState(
            *(tuple(rng.choice((1, 100, 101, 1 << 63)) for _ in range(rng.randrange(3))) for _ in range(4))
        )
        index, term = rng.choice((1, 5, 1000, number())), rng.choice((1, number()))
        sequencer = Sequencer({100: Replica(court.liar, True)})
        sequencer.index = rng.choice((index, number()))
        meta = SnapshotMeta(index, term, state, rng.choice((b"", sequencer.pack())), number(), number(), 1, number())
        snapshot = Snapshot(index, term, state, rng.choice((b"", pack_descriptor(meta))))
    return Message(
        type=rng.choice(list(MessageType)),
        to=rng.choice((100, 101, 102)),
        sender=rng.choice((100, 101, 102, 102, number())),
        term=rng.choice((0, 1, 2, 3, 4, number())),
        log_term=rng.choice((0, 1, number())),
        index=rng.choice((0, 1, 2, 3, number())),
        commit=rng.choice((0, 1, 2, 3, number())),
        vote=number(),
        reject=rng.random() < 0.5,
        reject_hint=number(),
        entries=entries,
        snapshot=snapshot,
        context=rng.choice((b"", b"CampaignTransfer", rng.randbytes(8))),
    )


def is_any_members_right(kind: type[Any]) -> bool:
    """What every node of the cluster may do (docs/security.md): say who was given up, and join a group."""
    return kind.__name__ in ("Departed", "JoinAsk")


@pytest.mark.parametrize("seed", range(6))
def test_no_lie_stops_another_node_or_touches_a_group_of_others(seed: int) -> None:
    court = Court(seed)
    rng = court.rng
    kinds = [kind for kind in court.engine("n1").registry._kinds if not is_any_members_right(kind)]
    heard = {host: court.engine(host).counters.items_rejected for host in HOSTS[:3]}
    for _ in range(400):
        host = rng.choice(HOSTS[:3])
        for _ in range(5):
            if rng.random() < 0.5:
                court.say_raft(host, rng.choice((court.honest_group, court.shared_group)), any_raft(court))
            else:
                try:
                    court.say_message(host, any_value(rng.choice(kinds), court))
                except (OverflowError, ValueError):  # nothing that can be packed
                    continue
        court.world.run_for(0.01)
    court.world.run_for(2.0)
    for host in HOSTS[:3]:
        assert court.engine(host).counters.items_rejected > heard[host]
    court.check()


# --- lies with a purpose --------------------------------------------------------------------------------------------


def test_a_replica_is_not_removed_by_a_node_that_is_no_member(court: Court) -> None:
    for number, host in enumerate(HOSTS[:3]):
        court.say_message(host, ReplicaRemoved(court.honest_group, 100 + number))
    court.world.run_for(1.0)
    court.check()


def test_nobody_speaks_as_a_replica_of_another_node(court: Court) -> None:
    terms = {host: court.engine(host).hosting.groups[court.honest_group].term for host in HOSTS[:3]}
    for host in HOSTS[:3]:
        for sender in (100, 101, 102, 555):
            for kind in (MessageType.HEARTBEAT, MessageType.APP, MessageType.VOTE, MessageType.TIMEOUT_NOW):
                message = Message(kind, to=100 + HOSTS.index(host), sender=sender, term=terms[host] + 5, commit=1)
                court.say_raft(host, court.honest_group, message)
    court.world.run_for(1.0)
    assert {host: court.engine(host).hosting.groups[court.honest_group].term for host in HOSTS[:3]} == terms
    court.check()


def test_a_leader_that_claims_a_commit_beyond_every_log_stops_one_replica_and_no_node(court: Court) -> None:
    victim = "n1"
    group = court.engine(victim).hosting.groups[court.shared_group]
    lie = Message(MessageType.HEARTBEAT, to=group.raft_id, sender=102, term=group.term + 1, commit=1 << 40)
    court.say_raft(victim, court.shared_group, lie)
    court.world.run_for(1.0)
    assert set(court.engine(victim).hosting.quarantined) == {court.shared_group}
    assert court.shared_group not in court.engine(victim).hosting.groups
    court.say_message(victim, ReplicaInvite(court.shared_group, 100, group.store.record.genesis))
    court.world.run_for(1.0)
    assert court.shared_group not in court.engine(victim).hosting.groups, "made again over what is on the disk"
    court.check()


def test_entries_that_no_replica_could_apply_are_not_appended(court: Court) -> None:
    victim = "n1"
    group = court.engine(victim).hosting.groups[court.shared_group]
    last, term = group.raft.last_index, group.term + 1
    for bad in (
        Entry(term, 0, EntryType.CONF_CHANGE_V2, b"garbage"),
        Entry(term, 0, EntryType.CONF_CHANGE, b"\1"),
        Entry(term, 0, EntryType.NORMAL, b"\1too short"),
        Entry(term, 0, EntryType.NORMAL, b"\x7f of no kind"),
        Entry(term + 1, 0, EntryType.NORMAL, b""),
    ):
        lie = Message(
            MessageType.APP,
            to=group.raft_id,
            sender=102,
            term=term,
            log_term=group.raft.raft.log.last_term,
            index=last,
            commit=last + 1,
            entries=[bad],
        )
        court.say_raft(victim, court.shared_group, lie)
    rejected = court.engine(victim).counters.items_rejected
    court.world.run_for(0.2)
    assert court.engine(victim).counters.items_rejected >= rejected + 5
    assert court.shared_group not in court.engine(victim).hosting.quarantined
    court.check()


def test_affairs_of_others_are_not_the_liars(court: Court) -> None:
    engine = court.engine("n1")
    victim = court.engine("n2").node_id
    meta = SnapshotMeta(1, 1, ConfState((100,)), Sequencer({}).pack(), 0, 0, 1, 0)
    offer = codec.pack(codec.pack_snapshot(Snapshot(1, 1, ConfState((100,)), pack_descriptor(meta))))
    rejected = engine.counters.items_rejected
    for lie in (JoinAsk(court.honest_group, victim), SnapshotOffer(court.honest_group, offer)):
        court.say_message("n1", lie)
    leader = next(host for host in HOSTS[:3] if court._leads(host, court.honest_group))
    court.say_message(leader, LeaveAsk(court.honest_group, 100))
    court.say_message("n1", LogFullNotice(court.honest_group, full=True))
    court.world.run_for(0.5)
    assert engine.counters.items_rejected >= rejected + 2
    assert all(not court.engine(host).hosting.groups[court.honest_group].log_full_until for host in HOSTS[:3])
    court.check()


def test_a_proposal_for_a_group_of_others_is_not_taken(court: Court) -> None:
    leader = next(host for host in HOSTS[:3] if court._leads(host, court.honest_group))
    group = court.engine(leader).hosting.groups[court.honest_group]
    last = group.raft.last_index
    for sender in (100, 101, 102, 7):
        message = Message(
            MessageType.PROP, to=group.raft_id, sender=sender, entries=[Entry(0, 0, EntryType.NORMAL, b"\3\x91\xc4\1x")]
        )
        court.say_raft(leader, court.honest_group, message)
    court.world.run_for(0.5)
    assert group.raft.last_index == last


# --- what is refused, one by one --------------------------------------------------------------------------------------

GENESIS = Genesis(bytes(16), 1, "a", ((1, "a"), (2, "b")), 3, 0)


@pytest.mark.parametrize(
    "change",
    [
        {"group_id": b"short"},
        {"voters": ()},
        {"voters": ((0, "a"),)},
        {"voters": ((LOCAL_APPEND_THREAD, "a"),)},
        {"voters": ((-1, "a"),)},
        {"voters": ((1, "a"), (1, "b"))},
        {"voters": ((1, "a"), (2, "a"))},
        {"voters": tuple((n + 1, str(n)) for n in range(100))},
        {"replicas": 0},
        {"replicas": 100},
        {"data_center_replicas": -1},
    ],
)
def test_a_genesis_that_no_group_can_begin_with_is_refused(change: dict[str, Any], court: Court) -> None:
    check_genesis(GENESIS)
    bad = dataclasses.replace(GENESIS, **change)
    with pytest.raises(CodecError):
        check_genesis(bad)
    court.say_message("n1", Chosen(bad))
    court.world.run_for(0.2)
    assert bad.group_id not in court.engine("n1").hosting.groups


@pytest.mark.parametrize(
    "fields",
    [
        {"sender": 0},
        {"sender": LOCAL_APPEND_THREAD},
        {"term": 0},
        {"term": 1 << 40},
        {"index": INDEX_MAX + 1},
        {"commit": INDEX_MAX + 1},
        {"reject_hint": INDEX_MAX + 1},
        {"log_term": 1 << 40},
        {"log_term": 3, "entries": [Entry(2, 0)]},
        {"entries": [Entry(3, 0), Entry(2, 0)]},
        {"entries": [Entry(6, 0)]},
    ],
)
def test_a_message_that_no_replica_sends_is_refused(fields: dict[str, Any]) -> None:
    good = Message(MessageType.APP, to=1, sender=2, term=5, log_term=1, index=1, entries=[Entry(2, 0), Entry(5, 0)])
    check_message(good, 4)
    with pytest.raises(CodecError):
        check_message(dataclasses.replace(good, **fields), 4)


def test_a_snapshot_that_could_not_be_taken_over_is_refused() -> None:
    sequencer = Sequencer({1: Replica("a", True)})
    sequencer.index = 5
    good = SnapshotMeta(5, 2, ConfState((1,)), sequencer.pack(), 10, 2, 1, 77)
    snapshot = Snapshot(5, 2, ConfState((1,)), b"")
    check_snapshot(snapshot, good)
    for change in (
        {"state": b"garbage"},
        {"index": 6},
        {"term": 3},
        {"size": 1 << 63},
        {"chunk_count": 11},
        {"size": 0, "chunk_count": 0},
        {"conf_state": ConfState((2,))},
    ):
        with pytest.raises(CodecError):
            check_snapshot(snapshot, dataclasses.replace(good, **change))  # type: ignore[arg-type]
    both = ConfState((1,), learners=(1,))
    with pytest.raises(CodecError):
        check_snapshot(Snapshot(5, 2, both, b""), dataclasses.replace(good, conf_state=both))


MEMBERS = {1: Replica("a", True), 2: Replica("b", True)}


@pytest.mark.parametrize(
    ("node", "replica", "leader", "kind", "believed"),
    [
        ("a", 1, 2, MessageType.APP_RESP, True),
        ("b", 1, 2, MessageType.APP_RESP, False),
        ("c", 3, 2, MessageType.APP, False),  # a leader is heard
        ("c", 3, 0, MessageType.APP, True),  # it may have joined while nobody was heard
        ("c", 3, 3, MessageType.APP, True),  # and leads since
        ("d", 4, 2, MessageType.APP_RESP, True),  # on its way out, and still counted
        ("e", 4, 2, MessageType.APP_RESP, False),
        ("b", 1, 2, MessageType.READ_INDEX, True),  # passed on
        ("c", 1, 2, MessageType.READ_INDEX, False),
        ("c", 1, 2, MessageType.TRANSFER_LEADER, False),
        ("c", 1, 0, MessageType.PROP, False),
    ],
)
def test_who_is_believed(node: str, replica: int, leader: int, kind: MessageType, believed: bool) -> None:
    def check() -> None:
        message = Message(kind, to=2, sender=replica, term=1)
        check_member(MEMBERS, {1, 2, 4}, {4: "d"}, node, message, leader)

    if believed:
        check()
    else:
        with pytest.raises(CodecError):
            check()
