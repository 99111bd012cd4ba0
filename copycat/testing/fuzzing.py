"""Everything that reads bytes from outside, as functions of bytes: what raises here is a bug.

Each :class:`Target` takes any bytes at all. It returns, having refused them in the way that is documented, or taken them; a
foreign exception, a node that stops, or a count of refusals that doesn't move is a failure. ``samples`` are valid inputs to
start from: random bytes hardly ever get past a checksum or a length, changed valid ones do. The suite runs them by
hypothesis; ``tools/fuzz`` by a fuzzer that follows the coverage.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from copycat import codec, sessions
from copycat.administration import Administration
from copycat.adminwire import REQUEST_BYTES_MAX, FrameReader, pack_frame
from copycat.adminwire import VERSION as ADMIN_VERSION
from copycat.config import Config
from copycat.engine import Engine
from copycat.errors import CodecError, CopyCatError, NodeFailure, OperationFailed, StorageCorrupt, UnknownOperation
from copycat.ids import DataStructureId
from copycat.messages import Entry, EntryType, Message, MessageType
from copycat.ports import Inbound, Lane
from copycat.raft.confchange import unpack_conf_change
from copycat.records import (
    ReplicaRecord,
    seal_entry,
    seal_record,
    term_of_sealed_entry,
    unpack_descriptor,
    unseal_entry,
    unseal_record,
)
from copycat.sequencer import Replica, Sequencer, unpack_context
from copycat.structures import Dict
from copycat.structures.packing import Packed, State, pack_operation, pack_state, unpack_operation, unpack_state
from copycat.subscription import Subscription
from copycat.testing.disk import Disk
from copycat.testing.world import World

HOST = "n1"
PEER = "0" * 26
INPUT_BYTES_MAX = 1 << 16


@dataclass(frozen=True, slots=True)
class Target:
    """``take`` is given bytes. Raises AssertionError, or whatever a bug raises."""

    name: str
    take: Callable[[bytes], None]
    samples: Callable[[], list[bytes]]


class _Node:
    """One real engine that hosts a group, and swallows what it is given."""

    def __init__(self) -> None:
        self.world = World(1)
        self.node = self.world.add_node(HOST, Config(gossip_profile="local", frame_bytes_max=4 << 20))
        self.node.start()
        engine = self.engine
        self.group_id = bytes(range(16))
        opening: Future[Subscription] = Future()
        self.node.post(lambda: engine.consumers.subscribe(self.group_id, lambda: b"", 10.0, opening))
        self.world.run_for(5.0)
        opening.result(0).propose.send(b"an item", timeout=0)
        self.world.run_for(1.0)

    @property
    def engine(self) -> Engine:
        assert self.node.engine is not None, f"the node has stopped: {self.node.failure!r}"
        return self.node.engine

    def hear(self, lane: Lane, parts: list[bytes]) -> int:
        """How often this one frame was counted as refused: others may come meanwhile, as answers to what came before."""
        engine = self.engine
        counted: list[int] = []

        def take() -> None:
            before = engine.counters.frames_rejected
            engine._receive(Inbound(lane, parts, ("n9", 7459)))
            counted.append(engine.counters.frames_rejected - before)

        self.node.post(take)
        self.world.run_for(0.01)
        assert counted, "a frame was neither taken nor refused"
        return counted[0]


@functools.cache
def _node() -> _Node:
    """Made once: what outlives thousands of wrong inputs is what is wanted."""
    return _Node()


# --- the network ----------------------------------------------------------------------------------------------------


def _take_body(data: bytes) -> None:
    """A frame whose header is right, and whose body is anything."""
    node = _node()
    node.hear(Lane.RAFT, [codec.pack_header("copycat", PEER, node.engine.node_id), data, data[:64]])


def _take_header(data: bytes) -> None:
    node = _node()
    refused = node.hear(Lane.RAFT, [data, codec.pack([])])
    assert refused == (not _is_header(data, node.engine.node_id)), "a wrong header was not counted, or a right one was"


def _is_header(data: bytes, node_id: str) -> bool:
    try:
        codec.open_frame([data, codec.pack([])], "copycat", node_id)
    except CodecError:
        return False
    return True


def _body_samples() -> list[bytes]:
    node = _node()
    entry = Entry(1, 2, EntryType.NORMAL, sessions.pack_batch(bytes(16), 1, 1, [b"x"]))
    message = Message(MessageType.APP, to=1, sender=2, term=1, log_term=1, index=1, commit=1, entries=[entry])
    raft = codec.pack_raft(node.group_id, message, [])
    known = [codec.pack([raft]), codec.pack([]), codec.pack([[number, []] for number in range(80)])]
    return [*known, *_heard(Lane.RAFT)]


def _header_samples() -> list[bytes]:
    return [codec.pack_header("copycat", PEER, _node().engine.node_id), codec.pack([codec.VERSION, "copycat", "", ""])]


def _take_datagram(data: bytes) -> None:
    _node().hear(Lane.HEARTBEAT, [codec.seal_datagram("copycat", data)])
    _node().hear(Lane.HEARTBEAT, [data])


def _take_published(data: bytes) -> None:
    _node().hear(Lane.GOSSIP, [codec.seal_datagram("copycat", data)])
    _node().hear(Lane.GOSSIP, [data])


def _heard(lane: Lane) -> list[bytes]:
    """What two nodes say to each other when they meet."""
    world = World(2)
    heard: list[bytes] = []
    for host in ("n1", "n2"):
        world.add_node(host, Config(gossip_profile="local", peers_to_contact=["n1:7459"] if host == "n2" else []))
    carry = world.network.carry

    def listen(source: str, target: str, frame: Inbound, size: int) -> None:
        if frame.lane is lane and len(heard) < 40:
            heard.append(frame.parts[1] if lane is Lane.RAFT else codec.open_datagram(frame.parts[0], "copycat"))
        carry(source, target, frame, size)

    world.network.carry = listen  # type: ignore[method-assign]
    for node in world.nodes.values():
        node.start()
    world.run_for(1.0)
    opening: Future[Subscription] = Future()
    engine = world.nodes["n1"].engine
    assert engine is not None
    world.nodes["n1"].post(lambda: engine.consumers.subscribe(bytes(16), lambda: b"", 10.0, opening))
    world.run_for(3.0)
    return sorted(set(heard))


# --- the admin socket -----------------------------------------------------------------------------------------------


def _take_request(data: bytes) -> None:
    """A stream of requests is answered, each with a value or a typed error, or refused as one that can't be read on."""
    node, reader = _node(), FrameReader(REQUEST_BYTES_MAX)
    administration = Administration(node.engine, lambda _: Future())
    reader.feed(data)
    try:
        while (request := reader.take()) is not None:
            name, values = request.get("do"), request.get("with", {})
            if isinstance(name, str) and isinstance(values, dict) and name != "recover":
                try:
                    administration.handle(name, values)
                except CopyCatError:
                    continue
    except CodecError:
        pass
    node.world.run_for(0.01)
    assert node.engine.failed is None


def _request_samples() -> list[bytes]:
    names = ("status", "members", "groups", "group", "transfer-leader", "forget", "replicas")
    values = {"group": str(DataStructureId(_node().group_id)), "node_id": PEER, "count": 3, "timeout": 1.0}
    requests = [pack_frame({"version": ADMIN_VERSION, "do": name, "with": {}}) for name in names]
    return [*requests, *(pack_frame({"version": ADMIN_VERSION, "do": name, "with": values}) for name in names)]


# --- the disk -------------------------------------------------------------------------------------------------------

_KEY = b"a key"


def _take_record(data: bytes) -> None:
    """A stored value is what was sealed, or it is reported as damaged: by its checksum, or by what it holds."""
    readers: Sequence[Callable[[], object]] = (
        lambda: unseal_record(_KEY, data, ReplicaRecord),
        lambda: unseal_entry(_KEY, data, 1),
        lambda: term_of_sealed_entry(_KEY, data),
    )
    for read in readers:
        try:
            read()
        except StorageCorrupt:
            pass


def _record_samples() -> list[bytes]:
    return [
        seal_record(_KEY, ReplicaRecord(1, b"genesis")),
        seal_entry(_KEY, Entry(3, 1, EntryType.NORMAL, b"data")),
    ]


def _take_disk(data: bytes) -> None:
    """One record of a node's disk is replaced: it starts as if nothing were wrong, or it says that its disk is damaged."""
    pairs = _kept_pairs()
    key = pairs[(data[0] if data else 0) % len(pairs)][0]
    world = World(3)
    node = world.add_node(HOST, Config())
    node.disk = Disk(random.Random(1))
    node.disk.restore([(each, data[1:] if each == key else value) for each, value in pairs])
    node.faulty = True  # to stop is right
    node.start()
    world.run_for(0.2)
    assert node.engine is not None or isinstance(node.failure, NodeFailure)


@functools.cache
def _kept_pairs() -> list[tuple[bytes, bytes]]:
    return _node().node.disk.pairs()


def _disk_samples() -> list[bytes]:
    return [bytes((number % 256,)) + value for number, (_, value) in enumerate(_kept_pairs())]


# --- snapshots, sessions and structures -----------------------------------------------------------------------------


def _take_snapshot(data: bytes) -> None:
    for read in (Sequencer.unpack, unpack_descriptor):
        try:
            read(data)
        except CodecError:
            pass


def _snapshot_samples() -> list[bytes]:
    sequencer = Sequencer({1: Replica(PEER, placed=True)})
    sequencer.apply(Entry(1, 1, EntryType.NORMAL, sessions.pack_open(bytes(16), PEER, b"boot")))
    sequencer.apply(Entry(1, 2, EntryType.NORMAL, sessions.pack_batch(bytes(16), 1, 1, [b"x", b"y"])))
    return [sequencer.pack()]


def _take_entry(data: bytes) -> None:
    """A proposed entry is refused, or the replicated state can take it: every replica, in the same way."""
    try:
        unpack_conf_change(data)
        unpack_context(data)
    except CodecError:
        pass
    try:
        sessions.check_proposed(data)
    except CodecError:
        return
    twins = [Sequencer({1: Replica(PEER, placed=True)}) for _ in range(2)]
    for index in (1, 2):
        for twin in twins:
            twin.apply(Entry(1, index, EntryType.NORMAL, data))
    assert twins[0].pack() == twins[1].pack()
    try:
        if data[:1] == bytes((sessions.Kind.BATCH,)):
            sessions.unpack_proposals(data)
    except CodecError:
        pass


def _entry_samples() -> list[bytes]:
    session = bytes(16)
    return [
        sessions.pack_open(session, PEER, b"boot"),
        sessions.pack_batch(session, 1, 1, [b"x", b""]),
        sessions.pack_close(session),
        sessions.pack_expire(session),
    ]


def _take_operation(data: bytes) -> None:
    """What the log of a structure holds is applied, or stops the copy with a typed error."""
    try:
        unpack_state(data)
    except UnknownOperation:
        pass
    nowhere: Any = SimpleNamespace(config=Config())
    copy = Dict(nowhere, bytes(16))
    try:
        copy._apply(unpack_operation(data), [], [])
    except (UnknownOperation, OperationFailed):
        pass


def _operation_samples() -> list[bytes]:
    put = Packed(b"client", 1, 0, "put", 1, ["key", "value"])
    take = Packed(b"client", 2, 1, "take", 1, ["key"])
    return [pack_operation(put), pack_operation(take), pack_state(State([0, 0, []], [["key", "value"]]))]


TARGETS = {
    target.name: target
    for target in (
        Target("body", _take_body, _body_samples),
        Target("header", _take_header, _header_samples),
        Target("datagram", _take_datagram, lambda: _heard(Lane.HEARTBEAT)),
        Target("published", _take_published, lambda: _heard(Lane.GOSSIP)),
        Target("request", _take_request, _request_samples),
        Target("record", _take_record, _record_samples),
        Target("disk", _take_disk, _disk_samples),
        Target("snapshot", _take_snapshot, _snapshot_samples),
        Target("entry", _take_entry, _entry_samples),
        Target("operation", _take_operation, _operation_samples),
    )
}
"""By name. Whoever adds a reader of foreign bytes adds it here."""
