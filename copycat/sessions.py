"""Exactly once: what an entry of a group's log says, and the table that decides what counts.

A subscription proposes under a *session*. Its proposals are numbered from 1 in the order they were sent, and travel in
batches, one log entry each: ``(session, first number, proposals)``. A proposer repeats a batch until it has seen it commit,
so the log may hold a batch twice, or later than one that followed it. The table keeps, per session, the number that is
due next. It is part of the replicated state: every replica and every consumer computes it from the same entries, so all
agree on which proposals count, without a word about it on the wire.

    number < due     seen before: skipped
    number = due     counts
    number > due     something before it is missing: skipped; the proposer sends again from the gap

(Thesis, section 6.3: a session's serial numbers filter repetitions; here they also keep order, since several batches
may be in flight.) Sessions are opened, closed and expired by entries of their own, at the same place of the log for all.

What opens a session may itself be repeated, and so may come again after the session's end. Therefore a batch names the
index of the entry that opened its session (the thesis makes that index the session's name): repetitions of both, come
late, open another session, in which those batches count for nothing.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

from copycat import codec
from copycat.errors import CodecError

SESSIONS_MAX = 10_000
"""Open sessions of a group. No setting: replicas that disagreed on it would diverge."""

RECEIPTS_MAX = 8
"""Batches of a session whose positions the table remembers; as many may be in flight."""

SESSION_BYTES = 16
NODE_ID_MAX = 64
BOOT_BYTES_MAX = 16
_BATCH = struct.Struct(">B16sQQI")


class Kind(enum.IntEnum):
    """First byte of a normal entry's data. Raft's own empty entries have none."""

    BATCH = 1
    OPEN = 2
    CLOSE = 3
    EXPIRE = 4


@dataclass(frozen=True, slots=True)
class BatchHeader:
    """``opened`` is the index of the entry that opened the session; ``first`` the number of the first proposal."""

    session: bytes
    opened: int
    first: int
    count: int


def pack_batch(session: bytes, opened: int, first: int, proposals: list[bytes]) -> bytes:
    """An entry's data: a header that can be read without unpacking the proposals, then the proposals."""
    return _BATCH.pack(Kind.BATCH, session, opened, first, len(proposals)) + codec.pack(proposals)


def rename_batch(data: bytes, session: bytes, opened: int, first: int) -> bytes:
    """The same proposals under another session."""
    return _BATCH.pack(Kind.BATCH, session, opened, first, read_header(data).count) + data[_BATCH.size :]


def read_header(data: bytes) -> BatchHeader:
    _, session, opened, first, count = _BATCH.unpack_from(data)
    return BatchHeader(session, opened, first, count)


def unpack_proposals(data: bytes) -> list[bytes]:
    """The proposals of a batch. Raises :class:`~copycat.errors.CodecError` if they aren't what its header says."""
    proposals = codec.unpack(memoryview(data)[_BATCH.size :])
    if not isinstance(proposals, list) or len(proposals) != read_header(data).count:
        raise CodecError("a batch does not hold what its header says")
    return proposals


def check_proposed(data: bytes) -> None:
    """Raise :class:`~copycat.errors.CodecError` unless ``data``, from another node, is fit to be an entry."""
    kind = data[0] if data else 0
    if kind == Kind.BATCH:
        if len(data) <= _BATCH.size:
            raise CodecError("a truncated batch")
        if not 0 < read_header(data).count <= len(data) - _BATCH.size:
            raise CodecError("a batch of an impossible number of proposals")
    elif kind == Kind.OPEN:
        _unpack_open(data)
    elif kind in (Kind.CLOSE, Kind.EXPIRE):
        _unpack_end(data)
    else:
        raise CodecError("an entry of unknown kind")


def pack_open(session: bytes, node_id: str, boot: bytes) -> bytes:
    """Opens ``session`` for a subscription on ``node_id``; ``boot`` tells that node's starts apart."""
    return bytes((Kind.OPEN,)) + codec.pack([session, node_id, boot])


def pack_close(session: bytes) -> bytes:
    return bytes((Kind.CLOSE,)) + codec.pack([session])


def pack_expire(session: bytes) -> bytes:
    return bytes((Kind.EXPIRE,)) + codec.pack([session])


def _unpack_open(data: bytes) -> tuple[bytes, str, bytes]:
    value = codec.unpack(memoryview(data)[1:])
    if not isinstance(value, list) or [type(item) for item in value] != [bytes, str, bytes]:
        raise CodecError("a malformed opening of a session")
    session, node_id, boot = value
    if len(session) != SESSION_BYTES or len(node_id) > NODE_ID_MAX or len(boot) > BOOT_BYTES_MAX:
        raise CodecError("a malformed opening of a session")
    return session, node_id, boot


def _unpack_end(data: bytes) -> bytes:
    value = codec.unpack(memoryview(data)[1:])
    if not isinstance(value, list) or len(value) != 1 or not isinstance(value[0], bytes):
        raise CodecError("a malformed end of a session")
    return value[0]


class Outcome(enum.Enum):
    """What applying one entry meant."""

    NOTHING = "no item"
    DELIVERED = "the batch, or its unseen rest, counts"
    REPEATED = "seen before"
    GAP = "something before it is missing"
    UNKNOWN = "its session is not open"
    OPENED = "a session was opened"
    REFUSED = "the table is full"
    ENDED = "a session was closed or expired"


@dataclass(slots=True)
class Applied:
    """``skip`` items of the batch were seen before; the ``count`` after them count and are numbered from ``first``.

    ``opened`` is the index of the entry that opened the session, if it is open.
    """

    outcome: Outcome
    session: bytes = b""
    opened: int = 0
    first: int = 0
    skip: int = 0
    count: int = 0
    ended: tuple[bytes, ...] = ()


_NOTHING = Applied(Outcome.NOTHING)


@dataclass(slots=True)
class Session:
    node_id: str
    boot: bytes
    opened: int
    due: int
    receipts: tuple[tuple[int, int], ...] = ()
    """(number, position) of the last item of the latest batches, oldest first."""

    def position_of(self, number: int) -> int | None:
        """Position of a numbered proposal, if the receipts still tell: within a batch, positions are contiguous."""
        for last, position in self.receipts:
            if number <= last:
                return position - (last - number)
        return None


class SessionTable:
    """Sessions by id. A deterministic state machine: same entries, same table."""

    __slots__ = ("sessions",)

    def __init__(self) -> None:
        self.sessions: dict[bytes, Session] = {}

    def apply(self, data: bytes, index: int, position: int) -> Applied:
        """Apply the data of the normal entry at ``index``, ``position`` being that of the last item so far."""
        kind = data[0] if data else 0
        if kind == Kind.BATCH:
            return self._batch(data, position)
        if kind == Kind.OPEN:
            return self._open(*_unpack_open(data), index)
        if kind in (Kind.CLOSE, Kind.EXPIRE):
            session = _unpack_end(data)
            if self.sessions.pop(session, None) is None:
                return _NOTHING
            return Applied(Outcome.ENDED, session, ended=(session,))
        return _NOTHING

    def _batch(self, data: bytes, position: int) -> Applied:
        _, name, opened, first, count = _BATCH.unpack_from(data)
        session = self.sessions.get(name)
        if session is None or session.opened != opened:
            return Applied(Outcome.UNKNOWN, name)
        due = session.due
        if first > due:
            return Applied(Outcome.GAP, name, opened, first)
        skip = due - first
        fresh = count - skip
        if fresh <= 0:
            return Applied(Outcome.REPEATED, name, opened, first)
        session.due = due + fresh
        session.receipts = (*session.receipts[1 - RECEIPTS_MAX :], (due + fresh - 1, position + fresh))
        return Applied(Outcome.DELIVERED, name, opened, due, skip, fresh)

    def _open(self, name: bytes, node_id: str, boot: bytes, index: int) -> Applied:
        held = self.sessions.get(name)
        if held is not None:
            return Applied(Outcome.OPENED, name, held.opened)
        # What an earlier start of the same node left open can have no owner any more.
        ended = tuple(other for other, left in self.sessions.items() if left.node_id == node_id and left.boot != boot)
        for other in ended:
            del self.sessions[other]
        if len(self.sessions) >= SESSIONS_MAX:
            return Applied(Outcome.REFUSED, name, ended=ended)
        self.sessions[name] = Session(node_id, boot, index, 1)
        return Applied(Outcome.OPENED, name, index, ended=ended)

    def fork(self) -> SessionTable:
        """An independent copy."""
        twin = SessionTable()
        twin.sessions = {
            name: Session(held.node_id, held.boot, held.opened, held.due, held.receipts)
            for name, held in self.sessions.items()
        }
        return twin

    def pack(self) -> list[object]:
        return [
            [name, held.node_id, held.boot, held.opened, held.due, held.receipts]
            for name, held in self.sessions.items()
        ]

    @classmethod
    def unpack(cls, value: object) -> SessionTable:
        """Raises :class:`~copycat.errors.CodecError`."""
        table = cls()
        if not isinstance(value, list) or len(value) > SESSIONS_MAX:
            raise CodecError("malformed session table")
        try:
            for name, node_id, boot, opened, due, receipts in value:
                table.sessions[bytes(name)] = Session(
                    str(node_id),
                    bytes(boot),
                    int(opened),
                    int(due),
                    tuple((int(last), int(position)) for last, position in receipts),
                )
        except (TypeError, ValueError) as error:
            raise CodecError("malformed session table") from error
        return table
