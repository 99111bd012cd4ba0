"""Packing: what goes in comes out, and nothing but CodecError comes of garbage."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from copycat.errors import CodecError, UsageError
from copycat.gossip.records import INCARNATION_MAX, MemberRecord, MemberState, check_record
from copycat.gossip.wire import (
    DATAGRAM_BYTES_MIN,
    PAGE_BYTES_MAX,
    VERSION,
    Packet,
    PacketKind,
    Page,
    PageKind,
    PageRecord,
    PageState,
    Update,
    UpdateKind,
    pack_alive,
    pack_head,
    pack_packet,
    pack_page,
    pack_page_record,
    pack_update,
    unpack_packet,
    unpack_page,
)
from copycat.testing.gossip_world import node_id_of


def short_text(bytes_max: int, min_size: int = 0) -> st.SearchStrategy[str]:
    return st.text(min_size=min_size, max_size=bytes_max).filter(lambda text: len(text.encode()) <= bytes_max)


node_ids = st.integers(0, 2**128 - 1).map(node_id_of)
ports = st.integers(1, 65535)
incarnations = st.integers(0, INCARNATION_MAX)
records = st.builds(
    MemberRecord,
    node_id=node_ids,
    hostname=short_text(255, 1),
    copycat_port=ports,
    gossip_port=ports,
    data_center=short_text(64),
    rack=short_text(64),
    incarnation=incarnations,
    state=st.just(MemberState.ALIVE),
    meta=st.binary(max_size=512),
)
updates = st.one_of(
    records.map(lambda record: Update(UpdateKind.ALIVE, record.node_id, record.incarnation, record.node_id, record)),
    st.builds(Update, st.sampled_from([UpdateKind.SUSPECT, UpdateKind.DEAD]), node_ids, incarnations, node_ids),
    st.builds(
        lambda kind, node_id, incarnation: Update(kind, node_id, incarnation, node_id),
        st.sampled_from([UpdateKind.LEFT, UpdateKind.HEARD]),
        node_ids,
        incarnations,
    ),
)


@st.composite
def packets(draw: st.DrawFn) -> Packet:
    kind = draw(st.sampled_from(PacketKind))
    packet = Packet(kind, draw(node_ids), updates=draw(st.lists(updates, max_size=5)))
    if kind in (PacketKind.PING, PacketKind.ACK, PacketKind.NACK, PacketKind.PING_REQ):
        packet.seq = draw(st.integers(0, 2**32 - 1))
        packet.target = draw(node_ids)
    if kind is PacketKind.PING:
        packet.incarnation, packet.target_incarnation = draw(incarnations), draw(incarnations)
    if kind is PacketKind.PING_REQ:
        packet.host = draw(short_text(255, 1))
        packet.port = draw(ports)
    if kind in (PacketKind.JOIN, PacketKind.WELCOME, PacketKind.CLAIM):
        packet.record = draw(records)
        packet.sender = packet.record.node_id
        packet.flag = kind is not PacketKind.JOIN and draw(st.booleans())
    if kind is PacketKind.CLAIM:
        packet.boot = draw(st.integers(0, 2**64 - 1))
    return packet


@st.composite
def pages(draw: st.DrawFn) -> Page:
    items = [
        PageRecord(
            state,
            record.with_state(MemberState(min(state, 2 if state == 4 else state)), record.incarnation),
        )
        for state, record in draw(st.lists(st.tuples(st.sampled_from(PageState), records), max_size=5))
    ]
    count = draw(st.integers(1, 1024))
    return Page(
        draw(st.sampled_from(PageKind)),
        draw(node_ids),
        draw(st.booleans()),
        draw(st.integers(0, count - 1)),
        count,
        draw(st.binary(min_size=8, max_size=8)),
        items,
    )


def pack(packet: Packet) -> bytes:
    return pack_packet(pack_head(packet), [pack_update(update) for update in packet.updates])


@given(packets())
def test_a_packet_comes_out_as_it_went_in(packet: Packet) -> None:
    assert unpack_packet(pack(packet)) == packet


@given(pages())
def test_a_page_comes_out_as_it_went_in(page: Page) -> None:
    assert unpack_page(pack_page(page, [pack_page_record(item) for item in page.records])) == page


@given(packets(), st.data())
def test_a_truncated_or_extended_packet_is_refused(packet: Packet, data: st.DataObject) -> None:
    packed = pack(packet)
    cut = data.draw(st.integers(0, len(packed) - 1))
    with pytest.raises(CodecError):
        unpack_packet(packed[:cut])
    with pytest.raises(CodecError):
        unpack_packet(packed + b"\0")


@given(st.one_of(st.binary(max_size=300), st.binary(max_size=300).map(lambda tail: bytes([VERSION, 0]) + tail)))
def test_garbage_raises_nothing_but_codec_error(data: bytes) -> None:
    for unpack in (unpack_packet, unpack_page):
        try:
            unpack(data)  # type: ignore[operator]
        except CodecError:
            pass


@given(packets(), st.data())
def test_a_flipped_byte_gives_a_valid_packet_or_codec_error(packet: Packet, data: st.DataObject) -> None:
    packed = bytearray(pack(packet))
    packed[data.draw(st.integers(0, len(packed) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        changed = unpack_packet(bytes(packed))
    except CodecError:
        return
    assert pack(changed) == bytes(packed)


@given(pages(), st.data())
def test_a_flipped_byte_gives_a_valid_page_or_codec_error(page: Page, data: st.DataObject) -> None:
    packed = bytearray(pack_page(page, [pack_page_record(item) for item in page.records]))
    packed[data.draw(st.integers(0, len(packed) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        changed = unpack_page(bytes(packed))
    except CodecError:
        return
    assert pack_page(changed, [pack_page_record(item) for item in changed.records]) == bytes(packed)


@given(records)
def test_whatever_the_wire_lets_in_may_also_be_given_by_the_caller(record: MemberRecord) -> None:
    if record.incarnation < INCARNATION_MAX:
        check_record(record)


def test_the_largest_head_and_update_fit_the_smallest_datagram() -> None:
    node_id = node_id_of(1)
    largest = MemberRecord(node_id, "h" * 255, 65535, 65535, "d" * 64, "r" * 64, 2**62, MemberState.ALIVE, b"m" * 512)
    for kind in PacketKind:
        head = pack_head(Packet(kind, node_id, target=node_id, host="h" * 255, port=1, record=largest))
        accusation = pack_update(Update(UpdateKind.SUSPECT, node_id, 1, node_id))
        assert len(pack_packet(head, [accusation])) <= DATAGRAM_BYTES_MIN
    request = pack_head(Packet(PacketKind.PING_REQ, node_id, target=node_id, host="h" * 255, port=1))
    assert len(pack_packet(request, [pack_alive(largest)])) <= DATAGRAM_BYTES_MIN


def test_an_oversized_page_is_refused() -> None:
    with pytest.raises(CodecError):
        unpack_page(bytes(PAGE_BYTES_MAX + 1))


@pytest.mark.parametrize(
    "record",
    [
        MemberRecord("no-ulid", "h", 1, 1),
        MemberRecord(node_id_of(1), "", 1, 1),
        MemberRecord(node_id_of(1), "h" * 256, 1, 1),
        MemberRecord(node_id_of(1), "h", 0, 1),
        MemberRecord(node_id_of(1), "h", 1, 65536),
        MemberRecord(node_id_of(1), "h", 1, 1, rack="r" * 65),
        MemberRecord(node_id_of(1), "h", 1, 1, meta=b"m" * 513),
        MemberRecord(node_id_of(1), "h", 1, 1, incarnation=-1),
    ],
)
def test_a_record_that_cannot_travel_is_refused_at_the_door(record: MemberRecord) -> None:
    with pytest.raises(UsageError):
        check_record(record)
