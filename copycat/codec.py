"""How everything that leaves a process is packed: msgpack behind a header that carries a version and the cluster's label.

A frame on the RAFT and BULK lanes is multipart:

    part 0   header: [version, label, sender node, receiving node]; the same bytes for every frame between two nodes
    part 1   body: an array of items, each an array whose first element is its kind
    part 2.. attachments: payloads of ATTACHMENT_BYTES_MIN bytes or more, referred to by number, so that a batch is
             carried from the proposer's packing to the receiver's disk without another copy

Item kind 0 is a Raft message of a group; all other kinds are dataclasses registered in :mod:`copycat.protocol`, packed field
by field in order. What arrives is checked for type and range before anyone sees it: whatever can't be understood
raises :class:`~copycat.errors.CodecError`, is counted by the caller, and dropped. Nothing here executes what it reads.
"""

from __future__ import annotations

import dataclasses
import types
import typing
import zlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgpack

from copycat.errors import CodecError
from copycat.messages import ConfState, Entry, EntryType, Message, MessageType, Snapshot

VERSION = 1
ATTACHMENT_BYTES_MIN = 512
ATTACHMENTS_MAX = 200
ENTRIES_PER_MESSAGE_MAX = 65_536
UINT_MAX = (1 << 64) - 1
RAFT_ITEM = 0

T = TypeVar("T")
Attachments = list[bytes]

_MESSAGE_TYPES = {int(kind): kind for kind in MessageType}
_ENTRY_TYPES = {int(kind): kind for kind in EntryType}


def pack(value: Any) -> bytes:
    """Pack plain values: None, bool, int, float, str, bytes, and lists or tuples of them."""
    packed: bytes = msgpack.packb(value, use_bin_type=True)
    return packed


def unpack(data: bytes | memoryview) -> Any:
    """The reverse of :func:`pack`; arrays come back as lists. Raises :class:`~copycat.errors.CodecError`."""
    try:
        return msgpack.unpackb(data, raw=False, strict_map_key=True)
    except Exception as error:  # msgpack raises a dozen unrelated types on garbage
        raise CodecError(f"not msgpack: {type(error).__name__}") from error


def checksum(data: bytes) -> int:
    return zlib.crc32(data)


# --- frames ---------------------------------------------------------------------------------------------------------


def pack_header(label: str, sender: str, receiver: str) -> bytes:
    return pack([VERSION, label, sender, receiver])


def open_frame(parts: Sequence[bytes], label: str, receiver: str) -> tuple[str, list[Any], Sequence[bytes]]:
    """Check a frame's header; return the sending node, the body's items, and the attachments.

    Raises :class:`~copycat.errors.CodecError` for another version, label or receiver, and for anything malformed.
    """
    if len(parts) < 2:
        raise CodecError("a frame has at least two parts")
    header = unpack(parts[0])
    if not isinstance(header, list) or len(header) != 4:
        raise CodecError("malformed header")
    if header[0] != VERSION:
        raise CodecError(f"version {header[0]!r} is not {VERSION}")
    if header[1] != label:
        raise CodecError("another cluster's label")
    if header[3] != receiver:
        raise CodecError("meant for another node")
    sender = header[2]
    if not isinstance(sender, str) or len(sender) != 26:
        raise CodecError("malformed sender")
    items = unpack(parts[1])
    if not isinstance(items, list):
        raise CodecError("malformed body")
    return sender, items, parts[2:]


def seal_datagram(label: str, payload: bytes) -> bytes:
    """A gossip datagram or publication: version, length of label, label, payload."""
    name = label.encode()
    return bytes((VERSION, len(name))) + name + payload


def open_datagram(data: bytes, label: str) -> bytes:
    """The payload of what :func:`seal_datagram` made. Raises :class:`~copycat.errors.CodecError`."""
    name = label.encode()
    start = 2 + len(name)
    if len(data) < start or data[0] != VERSION or data[1] != len(name) or data[2:start] != name:
        raise CodecError("another version or another cluster's label")
    return data[start:]


# --- Raft messages --------------------------------------------------------------------------------------------------


def pack_raft(group: bytes, message: Message, attachments: Attachments) -> list[Any]:
    """An item for one Raft message; long payloads are added to ``attachments``."""
    entries: list[Any] = []
    for entry in message.entries:
        data: bytes | int = entry.data
        if len(entry.data) >= ATTACHMENT_BYTES_MIN and len(attachments) < ATTACHMENTS_MAX:
            data = len(attachments)
            attachments.append(entry.data)
        entries += (entry.term, int(entry.type), data)
    snapshot = message.snapshot
    return [
        RAFT_ITEM,
        group,
        int(message.type),
        message.to,
        message.sender,
        message.term,
        message.log_term,
        message.index,
        message.commit,
        message.vote,
        message.reject,
        message.reject_hint,
        message.context,
        entries,
        None if snapshot is None else pack_snapshot(snapshot),
    ]


def unpack_raft(item: list[Any], attachments: Sequence[bytes]) -> tuple[bytes, Message]:
    """The group and the message of an item. Raises :class:`~copycat.errors.CodecError`."""
    try:
        _, group, kind, to, sender, term, log_term, index, commit, vote, reject, hint, context, flat, snapshot = item
        for number in (to, sender, term, log_term, index, commit, vote, hint):
            if number.__class__ is not int or not 0 <= number <= UINT_MAX:
                raise CodecError("a number of a Raft message is out of range")
        if group.__class__ is not bytes or len(group) != 16 or context.__class__ is not bytes:
            raise CodecError("malformed Raft message")
        if len(flat) % 3 or len(flat) > 3 * ENTRIES_PER_MESSAGE_MAX:
            raise CodecError("malformed entries")
        first = index + 1 if kind == MessageType.APP else 0
        entries = []
        for at in range(0, len(flat), 3):
            entry_term, entry_type, data = flat[at : at + 3]
            if data.__class__ is int:
                if not 0 <= data < len(attachments):
                    raise CodecError("an entry's attachment is missing")
                data = attachments[data]
            if data.__class__ is not bytes or entry_term.__class__ is not int or not 0 <= entry_term <= UINT_MAX:
                raise CodecError("malformed entry")
            entries.append(Entry(entry_term, first + at // 3 if first else 0, _ENTRY_TYPES[entry_type], data))
        return group, Message(
            type=_MESSAGE_TYPES[kind],
            to=to,
            sender=sender,
            term=term,
            log_term=log_term,
            index=index,
            commit=commit,
            vote=vote,
            reject=bool(reject),
            reject_hint=hint,
            entries=entries,
            snapshot=None if snapshot is None else unpack_snapshot(snapshot),
            context=context,
        )
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise CodecError(f"malformed Raft message: {error}") from error


def pack_conf_state(state: ConfState) -> list[Any]:
    return [state.voters, state.learners, state.voters_outgoing, state.learners_next, state.auto_leave]


def unpack_conf_state(value: Any) -> ConfState:
    if not isinstance(value, list) or len(value) != 5 or not isinstance(value[4], bool):
        raise CodecError("malformed configuration")
    sets = []
    for ids in value[:4]:
        if not isinstance(ids, list) or not all(type(i) is int and 0 < i <= UINT_MAX for i in ids):
            raise CodecError("malformed configuration")
        sets.append(tuple(ids))
    return ConfState(sets[0], sets[1], sets[2], sets[3], value[4])


def pack_snapshot(snapshot: Snapshot) -> list[Any]:
    return [snapshot.index, snapshot.term, pack_conf_state(snapshot.conf_state), snapshot.data]


def unpack_snapshot(value: Any) -> Snapshot:
    if not isinstance(value, list) or len(value) != 4:
        raise CodecError("malformed snapshot")
    index, term, conf_state, data = value
    if type(index) is not int or type(term) is not int or index < 0 or term < 0 or not isinstance(data, bytes):
        raise CodecError("malformed snapshot")
    return Snapshot(index, term, unpack_conf_state(conf_state), data)


# --- dataclasses, field by field ------------------------------------------------------------------------------------

Packer = Callable[[Any], Any]
Unpacker = Callable[[Any], Any]


class Registry:
    """Packs registered dataclasses as ``[kind, field, ...]``, checking every field's type on the way back.

    Field types may be int, float, bool, str, bytes, optional ones, tuples (``tuple[X, ...]`` or of fixed length), int
    enums, and other dataclasses, which are packed in place. Integers are within 64 bits.
    """

    def __init__(self) -> None:
        self._kinds: dict[type[Any], int] = {}
        self._packers: dict[type[Any], Packer] = {}
        self._unpackers: dict[int, Unpacker] = {}

    def register(self, kind: int, cls: type[Any]) -> None:
        if kind in self._unpackers or kind == RAFT_ITEM:
            raise ValueError(f"kind {kind} is taken")
        packer, unpacker = _dataclass_plan(cls)
        self._kinds[cls] = kind
        self._packers[cls] = packer
        self._unpackers[kind] = unpacker

    def pack(self, value: Any) -> list[Any]:
        cls = value.__class__
        return [self._kinds[cls], *self._packers[cls](value)]

    def unpack(self, item: Any) -> Any:
        """Raises :class:`~copycat.errors.CodecError` for an unknown kind or a field that doesn't fit."""
        if not isinstance(item, list) or not item or type(item[0]) is not int or item[0] not in self._unpackers:
            raise CodecError("unknown kind of item")
        return self._unpackers[item[0]](item[1:])


def pack_record(value: Any) -> bytes:
    """Pack one dataclass without a kind, for records whose place says what they are."""
    packer, _ = _dataclass_plan(value.__class__)
    return pack(packer(value))


def unpack_record(cls: type[T], data: bytes) -> T:
    """The reverse of :func:`pack_record`. Raises :class:`~copycat.errors.CodecError`."""
    _, unpacker = _dataclass_plan(cls)
    value: T = unpacker(unpack(data))
    return value


_plans: dict[type[Any], tuple[Packer, Unpacker]] = {}


def _dataclass_plan(cls: type[Any]) -> tuple[Packer, Unpacker]:
    if cls in _plans:
        return _plans[cls]
    hints = typing.get_type_hints(cls)
    names = [item.name for item in dataclasses.fields(cls)]
    plans = [_plan(hints[name]) for name in names]
    name_of_class = cls.__name__

    def packer(value: Any) -> list[Any]:
        return [plan[0](getattr(value, name)) for name, plan in zip(names, plans, strict=True)]

    def unpacker(value: Any) -> Any:
        if not isinstance(value, list) or len(value) != len(plans):
            raise CodecError(f"malformed {name_of_class}")
        return cls(*[plan[1](item) for item, plan in zip(value, plans, strict=True)])

    _plans[cls] = (packer, unpacker)
    return _plans[cls]


def _same(value: Any) -> Any:
    return value


def _plan(hint: Any) -> tuple[Packer, Unpacker]:
    origin = typing.get_origin(hint)
    if origin is None and dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _dataclass_plan(hint)
    if origin in (typing.Union, types.UnionType):
        return _optional_plan(hint)
    if origin is tuple:
        return _tuple_plan(typing.get_args(hint))
    if isinstance(hint, type) and issubclass(hint, int) and hint not in (int, bool):
        return _enum_plan(hint)
    if hint in (int, float, bool, str, bytes):
        return _same, _scalar_unpacker(hint)
    raise TypeError(f"{hint!r} can't be packed")


def _scalar_unpacker(wanted: type[Any]) -> Unpacker:
    def unpacker(value: Any) -> Any:
        if wanted is float and value.__class__ is int:
            return float(value)
        if value.__class__ is not wanted:
            raise CodecError(f"{wanted.__name__} expected, {value.__class__.__name__} found")
        if wanted is int and not -(1 << 63) <= value <= UINT_MAX:
            raise CodecError("integer out of range")
        return value

    return unpacker


def _enum_plan(hint: type[Any]) -> tuple[Packer, Unpacker]:
    def unpacker(value: Any) -> Any:
        try:
            return hint(value)
        except (ValueError, TypeError) as error:
            raise CodecError(f"no such {hint.__name__}") from error

    return int, unpacker


def _optional_plan(hint: Any) -> tuple[Packer, Unpacker]:
    (inner,) = (arg for arg in typing.get_args(hint) if arg is not type(None))
    packer, unpacker = _plan(inner)
    return (
        lambda value: None if value is None else packer(value),
        lambda value: None if value is None else unpacker(value),
    )


def _tuple_plan(args: tuple[Any, ...]) -> tuple[Packer, Unpacker]:
    if len(args) == 2 and args[1] is Ellipsis:
        packer, unpacker = _plan(args[0])

        def unpack_all(value: Any) -> Any:
            if not isinstance(value, list):
                raise CodecError("array expected")
            return tuple([unpacker(item) for item in value])

        return (lambda value: [packer(item) for item in value]), unpack_all
    plans = [_plan(arg) for arg in args]

    def unpack_each(value: Any) -> Any:
        if not isinstance(value, list) or len(value) != len(plans):
            raise CodecError(f"array of {len(plans)} expected")
        return tuple([plan[1](item) for item, plan in zip(value, plans, strict=True)])

    return (lambda value: [plan[0](item) for item, plan in zip(value, plans, strict=True)]), unpack_each
