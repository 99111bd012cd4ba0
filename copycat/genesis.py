"""How a group came to be, and what nodes say to each other to make it come to be once: plain data.

A group's *genesis* is the value that single-decree Paxos (Lamport, "Paxos made simple", 2001) decides for the group's
id among the nodes of the cluster. :mod:`copycat.acceptor` votes, :mod:`copycat.creation` proposes, and
:mod:`copycat.enrolment` carries the votes over when nodes join or leave.

Fields are int, str, bytes, bool, tuples of these, or a :class:`Genesis` or :class:`Record`; :func:`to_fields` turns any
message here into plain tuples for a codec, and :func:`from_fields` checks and rebuilds what came from outside.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from hashlib import blake2b
from typing import Any

from copycat.errors import CodecError

Ballot = tuple[int, str, int]
"""Round, node id of the proposer, nonce of its attempt: totally ordered, and never used for two values."""

NO_BALLOT: Ballot = (0, "", 0)

PAGE_RECORDS_MAX = 64
VOTERS_MAX = 64
NODES_MAX = 16_384
NODE_ID_LENGTH_MAX = 128
_INT_MAX = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Genesis:
    """The first configuration of a group. ``nonce`` tells one wish to create it from another, also over retries.

    ``voters`` are pairs of raft id and node id.
    """

    group_id: bytes
    nonce: int
    created_by: str
    voters: tuple[tuple[int, str], ...]
    replicas: int
    data_center_replicas: int

    def names(self, *node_ids: str) -> bool:
        """Whether one of these nodes is to have a voter."""
        return any(node_id in node_ids for _, node_id in self.voters)


@dataclass(frozen=True, slots=True)
class Record:
    """What one acceptor knows of one group id. Durable before anything that depends on it is said."""

    group_id: bytes
    promised: Ballot = NO_BALLOT
    accepted: Ballot = NO_BALLOT
    genesis: Genesis | None = None
    chosen: bool = False


class Standing(enum.IntEnum):
    """Whether an acceptor votes."""

    ENROLLING = 0  # joined, but does not yet hold what a majority held before
    READY = 1
    SEALED = 2  # leaving: never votes again


@dataclass(frozen=True, slots=True)
class Roster:
    """Whom one acceptor knows. Durable like a :class:`Record`.

    ``known`` has not left, dead or alive, this node included. ``handed_over`` are those of ``known`` that are leaving
    and whose records this node holds. ``left`` never come back under the same id.
    """

    known: tuple[str, ...] = ()
    handed_over: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    standing: Standing = Standing.ENROLLING


@dataclass(frozen=True, slots=True)
class Prepare:
    """Phase 1a. ``roster_digest`` stands for the proposer's list of members, which follows in full when asked for."""

    group_id: bytes
    ballot: Ballot
    roster_digest: bytes
    members: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Promise:
    """Phase 1b: no lower ballot will be taken; this was accepted so far, if ``genesis`` is there."""

    group_id: bytes
    ballot: Ballot
    accepted: Ballot
    genesis: Genesis | None


@dataclass(frozen=True, slots=True)
class Accept:
    """Phase 2a. ``forced``: the value was found in phase 1, and may have been decided; else it is the proposer's own wish."""

    ballot: Ballot
    genesis: Genesis
    roster_digest: bytes
    members: tuple[str, ...] = ()
    forced: bool = False


@dataclass(frozen=True, slots=True)
class Accepted:
    """Phase 2b."""

    group_id: bytes
    ballot: Ballot


@dataclass(frozen=True, slots=True)
class Outbid:
    """A higher ballot has been promised; try again above it."""

    group_id: bytes
    ballot: Ballot
    promised: Ballot


@dataclass(frozen=True, slots=True)
class Refresh:
    """The proposer's list of members does not fit the acceptor's; here is the acceptor's."""

    group_id: bytes
    ballot: Ballot
    known: tuple[str, ...]
    left: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NotReady:
    """The acceptor does not vote: it is enrolling, or leaving."""

    group_id: bytes
    ballot: Ballot


@dataclass(frozen=True, slots=True)
class Chosen:
    """The decision. To an acceptor: learn it. To a proposer: this is what exists."""

    genesis: Genesis


@dataclass(frozen=True, slots=True)
class Enroll:
    """A joiner reads the records behind ``cursor``. Whoever answers knows the joiner from then on, durably."""

    attempt: int
    cursor: bytes
    known: tuple[str, ...]
    left: tuple[str, ...]


class Reading(enum.IntEnum):
    """How a page of an enrolment counts."""

    SERVED = 0
    WAIT = 1  # the answering node is itself enrolling, and goes first
    YIELDED = 2  # the answering node is itself enrolling, and starts over after this joiner


@dataclass(frozen=True, slots=True)
class EnrollPage:
    attempt: int
    cursor: bytes
    next_cursor: bytes  # empty: this was the last page
    reading: Reading
    known: tuple[str, ...]
    left: tuple[str, ...]
    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class HandOver:
    """A leaving node gives its records away. With an empty ``next_cursor`` it is the last page."""

    attempt: int
    cursor: bytes
    next_cursor: bytes
    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class HandedOver:
    attempt: int
    cursor: bytes


CreationMessage = (
    Prepare
    | Promise
    | Accept
    | Accepted
    | Outbid
    | Refresh
    | NotReady
    | Chosen
    | Enroll
    | EnrollPage
    | HandOver
    | HandedOver
)

_TYPES: tuple[type[Any], ...] = (
    Prepare,
    Promise,
    Accept,
    Accepted,
    Outbid,
    Refresh,
    NotReady,
    Chosen,
    Enroll,
    EnrollPage,
    HandOver,
    HandedOver,
    Record,
    Roster,
)
"""Their position travels as their number: add at the end, never reorder."""

_NUMBERS = {kind: number for number, kind in enumerate(_TYPES)}


@dataclass(frozen=True, slots=True)
class Send:
    """A message for a node; for this node itself too, which is an acceptor like any other."""

    to: str
    message: CreationMessage


@dataclass(frozen=True, slots=True)
class Step:
    """What an acceptor wants done, in this order.

    ``persist`` must be on the disk, synced and in one atomic batch, *before* any of ``then_send`` leaves this node or
    reaches its own proposers. After a failed write nothing of ``then_send`` may be sent.
    """

    persist: tuple[Record | Roster, ...] = ()
    then_send: tuple[Send, ...] = ()


NOTHING = Step()


def group_of(message: CreationMessage) -> bytes:
    """The group that the message is about; empty for those that are about members."""
    if isinstance(message, (Accept, Chosen)):
        return message.genesis.group_id
    if isinstance(message, (Prepare, Promise, Accepted, Outbid, Refresh, NotReady)):
        return message.group_id
    return b""


def merge(mine: Record | None, theirs: Record) -> Record:
    """A record that knows what both know. Safe at any time: it only repeats proposals that were issued."""
    if mine is None or (theirs.chosen and not mine.chosen):
        return theirs
    if mine.chosen:
        return mine
    merged = mine
    if theirs.accepted > mine.accepted:
        merged = replace(merged, accepted=theirs.accepted, genesis=theirs.genesis)
    if theirs.promised > mine.promised:
        merged = replace(merged, promised=theirs.promised)
    return merged


def roster_digest(members: Iterable[str]) -> bytes:
    """16 bytes that stand for a set of node ids."""
    return blake2b("\n".join(sorted(members)).encode(), digest_size=16).digest()


# --- to and from plain tuples ---------------------------------------------------------------------------------------


def to_fields(item: CreationMessage | Record | Roster) -> tuple[Any, ...]:
    """``(number of the type, its fields...)``, all plain."""
    return (_NUMBERS[type(item)], *_plain(item))


def from_fields(values: Any) -> CreationMessage | Record | Roster:
    """The inverse of :func:`to_fields` for anything that came from outside. Raises CodecError for what it can't be."""
    if not isinstance(values, (tuple, list)) or not values or type(values[0]) is not int:
        raise CodecError("not a creation message")
    if not 0 <= values[0] < len(_TYPES):
        raise CodecError(f"unknown creation message {values[0]}")
    built: CreationMessage | Record | Roster = _build(_TYPES[values[0]], values[1:])
    return built


def _plain(item: Any) -> tuple[Any, ...]:
    return tuple([_plain_value(getattr(item, field.name)) for field in fields(item)])


def _plain_value(value: Any) -> Any:
    if isinstance(value, (Genesis, Record)):
        return _plain(value)
    if isinstance(value, tuple):
        return tuple([_plain_value(part) for part in value])
    return int(value) if isinstance(value, enum.IntEnum) else value


def _build(kind: type[Any], values: Any) -> Any:
    declared = fields(kind)
    if not isinstance(values, (tuple, list)) or len(values) != len(declared):
        raise CodecError(f"{kind.__name__} has {len(declared)} fields")
    return kind(*[_PARSERS[str(field.type)](value) for field, value in zip(declared, values, strict=True)])


def _int(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= _INT_MAX:
        raise CodecError("expected a number of 64 bits")
    return value


def _bool(value: Any) -> bool:
    if type(value) is not bool:
        raise CodecError("expected a boolean")
    return value


def _bytes(value: Any) -> bytes:
    if type(value) is not bytes or len(value) > 16:
        raise CodecError("expected at most 16 bytes")
    return value


def _node_id(value: Any) -> str:
    if type(value) is not str or len(value) > NODE_ID_LENGTH_MAX:
        raise CodecError("expected a node id")
    return value


def _items(value: Any, count_max: int) -> Any:
    if not isinstance(value, (tuple, list)) or len(value) > count_max:
        raise CodecError(f"expected at most {count_max} items")
    return value


def _node_ids(value: Any) -> tuple[str, ...]:
    return tuple([_node_id(part) for part in _items(value, NODES_MAX)])


def _ballot(value: Any) -> Ballot:
    parts = _items(value, 3)
    if len(parts) != 3:
        raise CodecError("expected a ballot")
    return (_int(parts[0]), _node_id(parts[1]), _int(parts[2]))


def _voters(value: Any) -> tuple[tuple[int, str], ...]:
    pairs = [_items(part, 2) for part in _items(value, VOTERS_MAX)]
    if any(len(pair) != 2 for pair in pairs):
        raise CodecError("expected pairs of raft id and node id")
    return tuple([(_int(pair[0]), _node_id(pair[1])) for pair in pairs])


def _genesis(value: Any) -> Genesis:
    built = _build(Genesis, value)
    assert isinstance(built, Genesis)
    if len(built.group_id) != 16:
        raise CodecError("a group id has 16 bytes")
    return built


def _records(value: Any) -> tuple[Record, ...]:
    return tuple([_build(Record, part) for part in _items(value, PAGE_RECORDS_MAX)])


def _standing(value: Any) -> Standing:
    try:
        return Standing(_int(value))
    except ValueError as error:
        raise CodecError("unknown standing") from error


def _reading(value: Any) -> Reading:
    try:
        return Reading(_int(value))
    except ValueError as error:
        raise CodecError("unknown reading") from error


_PARSERS: dict[str, Any] = {
    "int": _int,
    "bool": _bool,
    "bytes": _bytes,
    "str": _node_id,
    "tuple[str, ...]": _node_ids,
    "tuple[tuple[int, str], ...]": _voters,
    "tuple[Record, ...]": _records,
    "Ballot": _ballot,
    "Genesis": _genesis,
    "Genesis | None": lambda value: None if value is None else _genesis(value),
    "Standing": _standing,
    "Reading": _reading,
}
