"""How gossip packets and push-pull pages are packed: fixed big-endian structs, one version byte, every length bounded.

Whatever can't be packed by this module is refused by it: an unknown version, kind or state, a field that is too long, a
malformed node id, missing or trailing bytes. All of these raise :class:`~copycat.errors.CodecError` and nothing else
does. The caller wraps what comes out of here (its own version, cluster label, encryption) and unwraps what goes in.

A packet is: version u8, kind u8, sender (26 ASCII), body by kind, count u8, then that many updates.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from copycat.errors import CodecError
from copycat.gossip.records import (
    HOSTNAME_BYTES_MAX,
    INCARNATION_MAX,
    LABEL_BYTES_MAX,
    META_BYTES_MAX,
    NODE_ID_BYTES,
    NODE_ID_PATTERN,
    MemberRecord,
    MemberState,
)

VERSION: Final = 1
UPDATES_MAX: Final = 255
PAGE_BYTES_MAX: Final = 256 * 1024
PAGES_MAX: Final = 1024
DATAGRAM_BYTES_MIN: Final = 1280
"""The largest packet head and the largest single update fit into this."""


class PacketKind(enum.IntEnum):
    """The numbers travel on the wire: add at the end, never renumber."""

    PING = 0
    ACK = 1
    PING_REQ = 2  # SWIM's indirect probe: please ping the target for me
    NACK = 3  # Lifeguard: I am well, the target is silent
    GOSSIP = 4  # news only
    JOIN = 5  # to a seed: here I am, who are you?
    WELCOME = 6  # a seed's answer
    CLAIM = 7  # to whoever seems to use my node id: I am that node


class UpdateKind(enum.IntEnum):
    """A piece of news. The first four are the states of a member."""

    ALIVE = 0
    SUSPECT = 1
    DEAD = 2
    LEFT = 3
    HEARD = 4  # to the member itself only: you are known at this incarnation, but otherwise than you say


@dataclass(slots=True)
class Update:
    """News about ``node_id``. ``source`` is the accuser; ``record`` comes with ALIVE alone."""

    kind: UpdateKind
    node_id: str
    incarnation: int
    source: str = ""
    record: MemberRecord | None = None


@dataclass(slots=True)
class Packet:
    """One datagram. Which fields beside ``sender`` and ``updates`` count depends on the kind.

    ``seq`` and ``target``: PING, ACK, PING_REQ, NACK. ``incarnation`` of the sender, and ``target_incarnation`` as the
    sender knows it: PING. ``host``, ``port`` of the target: PING_REQ. ``record``: JOIN,
    WELCOME, CLAIM. ``flag``: in WELCOME, the seed belongs to a cluster; in CLAIM, an answer is wanted. ``boot``, a
    number drawn at start: CLAIM.
    """

    kind: PacketKind
    sender: str
    seq: int = 0
    target: str = ""
    incarnation: int = 0
    target_incarnation: int = 0
    host: str = ""
    port: int = 0
    record: MemberRecord | None = None
    flag: bool = False
    boot: int = 0
    updates: list[Update] = field(default_factory=list)


class PageKind(enum.IntEnum):
    """One step of a push-pull exchange."""

    OFFER = 0  # my digest
    SAME = 1  # mine is equal
    STATE_ASK = 2  # mine differs: here is my table, send me yours
    STATE = 3  # my table


class PageState(enum.IntEnum):
    """A record's state in a page: a :class:`MemberState`, or known from an earlier life of the sender only."""

    ALIVE = 0
    SUSPECT = 1
    DEAD = 2
    LEFT = 3
    REMEMBERED = 4


@dataclass(slots=True)
class PageRecord:
    state: PageState
    record: MemberRecord


@dataclass(slots=True)
class Page:
    """A part of one side's message in a push-pull exchange; ``index`` of ``count``, from 0."""

    kind: PageKind
    sender: str
    belongs: bool  # the sender belongs to a cluster, now or from an earlier life
    index: int = 0
    count: int = 1
    digest: bytes = bytes(8)
    records: list[PageRecord] = field(default_factory=list)


_HEAD = struct.Struct(">BB26s")
_PROBE = struct.Struct(">I26s")
_VIEW = struct.Struct(">QQ")
_PORT = struct.Struct(">H")
_U8 = struct.Struct(">B")
_U64 = struct.Struct(">Q")
_RECORD = struct.Struct(">26sQHH")
_ACCUSATION = struct.Struct(">B26sQ26s")
_DEPARTURE = struct.Struct(">B26sQ")
_PAGE = struct.Struct(">BB26sBHH8sI")

_PROBE_KINDS = frozenset({PacketKind.PING, PacketKind.ACK, PacketKind.NACK, PacketKind.PING_REQ})
_RECORD_KINDS = frozenset({PacketKind.JOIN, PacketKind.WELCOME, PacketKind.CLAIM})


def _short(data: bytes) -> bytes:
    return _U8.pack(len(data)) + data


def pack_record(record: MemberRecord) -> bytes:
    """A record without its state."""
    return b"".join(
        (
            _RECORD.pack(record.node_id.encode(), record.incarnation, record.copycat_port, record.gossip_port),
            _short(record.hostname.encode()),
            _short(record.data_center.encode()),
            _short(record.rack.encode()),
            _PORT.pack(len(record.meta)),
            record.meta,
        )
    )


def pack_alive(record: MemberRecord) -> bytes:
    return _U8.pack(UpdateKind.ALIVE) + pack_record(record)


def pack_accusation(kind: UpdateKind, node_id: str, incarnation: int, source: str) -> bytes:
    """SUSPECT or DEAD."""
    return _ACCUSATION.pack(kind, node_id.encode(), incarnation, source.encode())


def pack_departure(kind: UpdateKind, node_id: str, incarnation: int) -> bytes:
    """LEFT or HEARD."""
    return _DEPARTURE.pack(kind, node_id.encode(), incarnation)


def pack_update(update: Update) -> bytes:
    if update.kind is UpdateKind.ALIVE:
        assert update.record is not None
        return pack_alive(update.record)
    if update.kind in (UpdateKind.SUSPECT, UpdateKind.DEAD):
        return pack_accusation(update.kind, update.node_id, update.incarnation, update.source)
    return pack_departure(update.kind, update.node_id, update.incarnation)


def pack_head(packet: Packet) -> bytes:
    """The packet up to, and without, its updates."""
    kind = packet.kind
    head = _HEAD.pack(VERSION, kind, packet.sender.encode())
    if kind in _PROBE_KINDS:
        head += _PROBE.pack(packet.seq, packet.target.encode())
        if kind is PacketKind.PING:
            head += _VIEW.pack(packet.incarnation, packet.target_incarnation)
        elif kind is PacketKind.PING_REQ:
            head += _short(packet.host.encode()) + _PORT.pack(packet.port)
    elif kind in _RECORD_KINDS:
        assert packet.record is not None
        head += pack_record(packet.record)
        if kind is not PacketKind.JOIN:
            head += _U8.pack(packet.flag)
        if kind is PacketKind.CLAIM:
            head += _U64.pack(packet.boot)
    return head


def pack_packet(head: bytes, updates: Sequence[bytes]) -> bytes:
    """A whole packet from :func:`pack_head` and packed updates, at most :data:`UPDATES_MAX`."""
    return b"".join((head, _U8.pack(len(updates)), *updates))


class _Reader:
    __slots__ = ("at", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, size: int) -> bytes:
        at = self.at
        end = at + size
        if end > len(self.data):
            raise CodecError("truncated")
        self.at = end
        return self.data[at:end]

    def u8(self) -> int:
        return self.take(1)[0]

    def boolean(self) -> bool:
        value = self.u8()
        if value > 1:
            raise CodecError("a flag is neither 0 nor 1")
        return value == 1

    def u64(self) -> int:
        return int.from_bytes(self.take(8), "big")

    def port(self) -> int:
        port = int.from_bytes(self.take(2), "big")
        if port == 0:
            raise CodecError("port 0")
        return port

    def node_id(self) -> str:
        return _node_id(self.take(NODE_ID_BYTES))

    def incarnation(self) -> int:
        value = self.u64()
        if value > INCARNATION_MAX:
            raise CodecError("incarnation out of range")
        return value

    def text(self, bytes_max: int, bytes_min: int = 0) -> str:
        size = self.u8()
        if not bytes_min <= size <= bytes_max:
            raise CodecError(f"text of {size} bytes, {bytes_min} to {bytes_max} allowed")
        try:
            return self.take(size).decode()
        except UnicodeDecodeError as error:
            raise CodecError("text is not UTF-8") from error

    def record(self, state: MemberState) -> MemberRecord:
        node_id = self.node_id()
        incarnation = self.incarnation()
        copycat_port = self.port()
        gossip_port = self.port()
        hostname = self.text(HOSTNAME_BYTES_MAX, 1)
        data_center = self.text(LABEL_BYTES_MAX)
        rack = self.text(LABEL_BYTES_MAX)
        meta_bytes = int.from_bytes(self.take(2), "big")
        if meta_bytes > META_BYTES_MAX:
            raise CodecError(f"meta of {meta_bytes} bytes")
        meta = self.take(meta_bytes)
        return MemberRecord(node_id, hostname, copycat_port, gossip_port, data_center, rack, incarnation, state, meta)

    def update(self) -> Update:
        kind = self.u8()
        if kind == UpdateKind.ALIVE:
            record = self.record(MemberState.ALIVE)
            return Update(UpdateKind.ALIVE, record.node_id, record.incarnation, record.node_id, record)
        if kind > UpdateKind.HEARD:
            raise CodecError(f"update of kind {kind}")
        node_id = self.node_id()
        incarnation = self.incarnation()
        source = self.node_id() if kind in (UpdateKind.SUSPECT, UpdateKind.DEAD) else node_id
        return Update(UpdateKind(kind), node_id, incarnation, source)

    def end(self) -> None:
        if self.at != len(self.data):
            raise CodecError(f"{len(self.data) - self.at} bytes too many")


def _node_id(raw: bytes) -> str:
    if NODE_ID_PATTERN.fullmatch(raw) is None:
        raise CodecError("malformed node id")
    return raw.decode("ascii")


def unpack_packet(data: bytes) -> Packet:
    """The packet in ``data``. Raises :class:`~copycat.errors.CodecError` for anything that is not exactly one."""
    if len(data) < _HEAD.size:
        raise CodecError("truncated")
    version, kind_number, sender = _HEAD.unpack_from(data)
    if version != VERSION:
        raise CodecError(f"gossip version {version}")
    if kind_number > PacketKind.CLAIM:
        raise CodecError(f"packet of kind {kind_number}")
    kind = PacketKind(kind_number)
    packet = Packet(kind, _node_id(sender))
    reader = _Reader(data)
    reader.at = _HEAD.size
    if kind in _PROBE_KINDS:
        seq, target = _PROBE.unpack(reader.take(_PROBE.size))
        packet.seq = seq
        packet.target = _node_id(target)
        if kind is PacketKind.PING:
            packet.incarnation = reader.incarnation()
            packet.target_incarnation = reader.incarnation()
        elif kind is PacketKind.PING_REQ:
            packet.host = reader.text(HOSTNAME_BYTES_MAX, 1)
            packet.port = reader.port()
    elif kind in _RECORD_KINDS:
        packet.record = reader.record(MemberState.ALIVE)
        if packet.record.node_id != packet.sender:
            raise CodecError("a record that is not the sender's")
        if kind is not PacketKind.JOIN:
            packet.flag = reader.boolean()
        if kind is PacketKind.CLAIM:
            packet.boot = reader.u64()
    count = reader.u8()
    if count:
        packet.updates = [reader.update() for _ in range(count)]
    reader.end()
    return packet


def pack_page(page: Page, records: Sequence[bytes]) -> bytes:
    """A page whose records are already packed by :func:`pack_page_record`; its own ``records`` are not looked at."""
    return _PAGE.pack(
        VERSION,
        page.kind,
        page.sender.encode(),
        page.belongs,
        page.index,
        page.count,
        page.digest,
        len(records),
    ) + b"".join(records)


def pack_page_record(record: PageRecord) -> bytes:
    return _U8.pack(record.state) + pack_record(record.record)


PAGE_HEAD_BYTES: Final = _PAGE.size


def unpack_page(data: bytes) -> Page:
    """The page in ``data``. Raises :class:`~copycat.errors.CodecError` for anything that is not exactly one."""
    if not _PAGE.size <= len(data) <= PAGE_BYTES_MAX:
        raise CodecError(f"a page of {len(data)} bytes")
    version, kind, sender, belongs, index, count, digest, records = _PAGE.unpack_from(data)
    if version != VERSION:
        raise CodecError(f"gossip version {version}")
    if kind > PageKind.STATE:
        raise CodecError(f"page of kind {kind}")
    if belongs > 1:
        raise CodecError("a flag is neither 0 nor 1")
    if not 0 <= index < count <= PAGES_MAX:
        raise CodecError(f"page {index} of {count}")
    if records * (_RECORD.size + 6) > len(data):
        raise CodecError(f"{records} records in {len(data)} bytes")
    page = Page(PageKind(kind), _node_id(sender), belongs == 1, index, count, digest)
    reader = _Reader(data)
    reader.at = _PAGE.size
    for _ in range(records):
        state = reader.u8()
        if state > PageState.REMEMBERED:
            raise CodecError(f"record in state {state}")
        known_as = MemberState.DEAD if state == PageState.REMEMBERED else MemberState(state)
        page.records.append(PageRecord(PageState(state), reader.record(known_as)))
    reader.end()
    return page
