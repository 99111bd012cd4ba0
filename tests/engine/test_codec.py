"""What travels comes back as it was, and what is not of ours is refused with one error, whatever it is."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from copycat import codec, protocol
from copycat.errors import CodecError
from copycat.messages import ConfState, Entry, EntryType, Message, MessageType, Snapshot

uints = st.integers(0, codec.UINT_MAX)
ids = st.integers(1, codec.UINT_MAX)
conf_states = st.builds(
    ConfState,
    *[st.lists(ids, max_size=4).map(tuple) for _ in range(4)],
    st.booleans(),
)
snapshots = st.builds(Snapshot, st.integers(0, 1 << 62), st.integers(0, 1 << 62), conf_states, st.binary(max_size=64))
payloads = st.one_of(st.binary(max_size=32), st.binary(min_size=codec.ATTACHMENT_BYTES_MIN, max_size=600))


@st.composite
def messages(draw: st.DrawFn) -> Message:
    kind = draw(st.sampled_from([MessageType.APP, MessageType.PROP, MessageType.VOTE, MessageType.SNAP]))
    index = draw(st.integers(0, 1 << 62))
    first = index + 1 if kind is MessageType.APP else 0
    entries = [
        Entry(draw(uints), first + at if first else 0, draw(st.sampled_from(EntryType)), data)
        for at, data in enumerate(draw(st.lists(payloads, max_size=5)))
    ]
    return Message(
        type=kind,
        to=draw(uints),
        sender=draw(uints),
        term=draw(uints),
        log_term=draw(uints),
        index=index,
        commit=draw(uints),
        vote=draw(uints),
        reject=draw(st.booleans()),
        reject_hint=draw(uints),
        entries=entries,
        snapshot=draw(st.none() | snapshots),
        context=draw(st.binary(max_size=16)),
    )


@given(messages())
def test_a_raft_message_comes_back_as_it_was(message: Message) -> None:
    attachments: list[bytes] = []
    item = codec.unpack(codec.pack(codec.pack_raft(b"g" * 16, message, attachments)))
    assert codec.unpack_raft(item, attachments) == (b"g" * 16, message)


junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), codec.UINT_MAX)
    | st.floats()
    | st.binary(max_size=20)
    | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=16),
    max_leaves=40,
)


@given(messages(), st.integers(0, 14), junk)
def test_a_raft_message_with_one_field_of_something_else_is_understood_or_refused(
    message: Message, at: int, value: object
) -> None:
    attachments: list[bytes] = []
    item = codec.pack_raft(b"g" * 16, message, attachments)
    item[at] = value
    try:
        _, read = codec.unpack_raft(codec.unpack(codec.pack(item)), attachments)
    except CodecError:
        return
    assert all(isinstance(entry.data, bytes) for entry in read.entries)


@given(st.binary(max_size=200))
def test_random_bytes_are_refused_or_plain(data: bytes) -> None:
    registry = codec.Registry()
    protocol.register(registry)
    for read in (
        lambda: codec.open_datagram(data, "label"),
        lambda: codec.open_frame([data, data], "label", "N"),
        lambda: registry.unpack(codec.unpack(data)),
    ):
        try:
            read()
        except CodecError:
            continue


@given(junk)
def test_junk_is_no_message_between_nodes(value: object) -> None:
    registry = codec.Registry()
    protocol.register(registry)
    try:
        registry.unpack(value)
    except CodecError:
        return
    assert isinstance(value, list)


@dataclass(frozen=True, slots=True)
class Inner:
    name: str
    sizes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Outer:
    pairs: tuple[tuple[int, str], ...]
    inner: Inner | None
    ratio: float
    kind: EntryType


@given(
    st.builds(
        Outer,
        st.lists(st.tuples(uints, st.text(max_size=5)), max_size=3).map(tuple),
        st.none() | st.builds(Inner, st.text(max_size=5), st.lists(uints, max_size=3).map(tuple)),
        st.floats(allow_nan=False),
        st.sampled_from(EntryType),
    )
)
def test_a_record_comes_back_as_it_was(record: Outer) -> None:
    assert codec.unpack_record(Outer, codec.pack_record(record)) == record


def test_a_record_with_a_field_of_another_type_is_refused() -> None:
    good = codec.unpack(codec.pack_record(Outer(((1, "a"),), Inner("x", (1,)), 1.0, EntryType.NORMAL)))
    for at, value in ((0, [[1, 2]]), (0, "pairs"), (1, [1, []]), (2, "1.0"), (3, 99)):
        bad = list(good)
        bad[at] = value
        with pytest.raises(CodecError):
            codec.unpack_record(Outer, codec.pack(bad))
    with pytest.raises(CodecError):
        codec.unpack_record(Outer, codec.pack(good[:-1]))


def test_a_kind_is_given_once() -> None:
    registry = codec.Registry()
    registry.register(7, Inner)
    with pytest.raises(ValueError, match="taken"):
        registry.register(7, Outer)
    with pytest.raises(ValueError, match="taken"):
        registry.register(codec.RAFT_ITEM, Outer)
