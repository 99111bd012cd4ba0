"""One frame per peer and turn; what can't be sent is dropped or, beside Raft's own messages, tried again."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from copycat import codec, protocol
from copycat.errors import CodecError
from copycat.messages import Entry, Message, MessageType
from copycat.outbox import HELD_ITEMS_MAX, HELD_TICKS_MAX, Outbox
from copycat.ports import Lane
from copycat.transports.memory import MemoryTransport

ME = "01" + "A" * 24
PEER = "01" + "B" * 24
GROUP = b"g" * 16


class Wire(MemoryTransport):
    """Keeps what is sent, and refuses it while ``down``."""

    def __init__(self) -> None:
        super().__init__()
        self.frames: list[tuple[Lane, str, list[bytes]]] = []
        self.down = False

    def send(self, lane: Lane, node_id: str, parts: Sequence[bytes]) -> bool:
        if self.down:
            return False
        self.frames.append((lane, node_id, list(parts)))
        return True


@pytest.fixture
def registry() -> codec.Registry:
    registry = codec.Registry()
    protocol.register(registry)
    return registry


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def lost() -> list[tuple[bytes, int]]:
    return []


@pytest.fixture
def outbox(wire: Wire, registry: codec.Registry, lost: list[tuple[bytes, int]]) -> Outbox:
    return Outbox(wire, registry, "label", ME, 1 << 16, lambda group, raft_id: lost.append((group, raft_id)))


def append(data: bytes, to: int = 2) -> Message:
    return Message(MessageType.APP, to=to, sender=1, term=3, index=7, log_term=3, entries=[Entry(3, 8, data=data)])


def test_all_that_is_said_to_a_peer_in_a_turn_travels_in_one_frame(
    outbox: Outbox, wire: Wire, registry: codec.Registry
) -> None:
    small, large = append(b"small"), append(b"L" * codec.ATTACHMENT_BYTES_MIN, to=5)
    outbox.add_raft(PEER, GROUP, small)
    outbox.add(PEER, protocol.JoinAsk(GROUP, ME))
    outbox.add_raft(PEER, GROUP, large)
    outbox.flush()
    ((lane, node_id, parts),) = wire.frames
    assert (lane, node_id) == (Lane.RAFT, PEER)
    assert parts[2] == large.entries[0].data, "a long payload travels as a part of its own"
    sender, items, attachments = codec.open_frame(parts, "label", PEER)
    assert sender == ME
    assert codec.unpack_raft(items[0], attachments) == (GROUP, small)
    assert registry.unpack(items[1]) == protocol.JoinAsk(GROUP, ME)
    assert codec.unpack_raft(items[2], attachments) == (GROUP, large)


def test_a_frame_is_cut_before_it_grows_too_long(outbox: Outbox, wire: Wire) -> None:
    for _ in range(5):
        outbox.add_raft(PEER, GROUP, append(b"x" * 10_000))
    outbox.flush()
    assert len(wire.frames) == 2
    assert max(sum(map(len, parts)) for _, _, parts in wire.frames) < 1 << 15


def test_the_replicas_behind_dropped_messages_are_reported_as_unreachable(
    outbox: Outbox, wire: Wire, lost: list[tuple[bytes, int]]
) -> None:
    wire.down = True
    outbox.add_raft(PEER, GROUP, append(b"a", to=2))
    outbox.add_raft(PEER, b"h" * 16, append(b"b", to=9))
    outbox.flush()
    assert lost == [(GROUP, 2), (b"h" * 16, 9)]
    wire.down = False
    outbox.tick()
    assert wire.frames == [], "Raft repeats by itself what matters"


def test_words_between_nodes_wait_until_the_connection_is_made(
    outbox: Outbox, wire: Wire, registry: codec.Registry
) -> None:
    wire.down = True
    outbox.add(PEER, protocol.JoinAsk(GROUP, ME))
    outbox.add_raft(PEER, GROUP, append(b"a"))
    outbox.flush()
    outbox.add(PEER, protocol.LeaveAsk(GROUP, 4))
    outbox.flush()
    outbox.tick()
    assert wire.frames == []
    wire.down = False
    outbox.tick()
    outbox.tick()
    ((_, _, parts),) = wire.frames
    _, items, _ = codec.open_frame(parts, "label", PEER)
    assert [registry.unpack(item) for item in items] == [protocol.JoinAsk(GROUP, ME), protocol.LeaveAsk(GROUP, 4)]


def test_what_waits_for_a_peer_is_bounded_in_time_and_number(outbox: Outbox, wire: Wire) -> None:
    wire.down = True
    for number in range(HELD_ITEMS_MAX + 10):
        outbox.add(PEER, protocol.LeaveAsk(GROUP, number))
        outbox.flush()
    outbox.tick()
    wire.down = False
    outbox.tick()
    ((_, _, parts),) = wire.frames
    assert len(codec.open_frame(parts, "label", PEER)[1]) == HELD_ITEMS_MAX
    wire.down = True
    outbox.add(PEER, protocol.LeaveAsk(GROUP, 1))
    outbox.flush()
    for _ in range(HELD_TICKS_MAX):
        outbox.tick()
    wire.down = False
    outbox.tick()
    assert len(wire.frames) == 1


def test_a_frame_for_another_node_label_or_version_is_refused(outbox: Outbox, wire: Wire) -> None:
    outbox.add(PEER, protocol.LeaveAsk(GROUP, 1))
    outbox.flush()
    ((_, _, parts),) = wire.frames
    with pytest.raises(CodecError, match="label"):
        codec.open_frame(parts, "other", PEER)
    with pytest.raises(CodecError, match="another node"):
        codec.open_frame(parts, "label", ME)
    with pytest.raises(CodecError, match="version"):
        codec.open_frame([codec.pack([2, "label", ME, PEER]), *parts[1:]], "label", PEER)
