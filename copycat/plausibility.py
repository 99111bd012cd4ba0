"""What can't be true of a message for a replica, whoever says it, and who may say it at all.

Raft believes its members (docs/security.md says what); this keeps what no member could mean from getting as far as Raft's
arithmetic, the log or the disk, and the affairs of a group among its members. Whatever is refused here raises
:class:`~copycat.errors.CodecError`, is counted and dropped.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import fields, is_dataclass

from copycat.errors import CodecError, InvalidConfChange
from copycat.genesis import Genesis, Record
from copycat.messages import LOCAL_APPLY_THREAD, NONE, EntryType, Message, MessageType, Snapshot
from copycat.raft.confchange import Configuration, unpack_conf_change
from copycat.records import SnapshotMeta
from copycat.sequencer import Replica, Sequencer, unpack_context
from copycat.sessions import check_proposed

INDEX_MAX = 1 << 62
NUMBER_MAX = (1 << 63) - 1
"""In any message between nodes: one that is counted on from there still fits into 64 bits."""
TERM_LEAP_MAX = 1 << 32
"""By how much a message's term may be beyond a replica's own: nobody stands for election so often."""
VOTERS_MAX = 99
_WITHOUT_TERM = frozenset({MessageType.PROP, MessageType.READ_INDEX})
_NAMES_SOMETHING = _WITHOUT_TERM | {MessageType.READ_INDEX_RESP}
_PASSED_ON = _WITHOUT_TERM | {MessageType.TRANSFER_LEADER}
"""What a replica that doesn't lead sends on to who it thinks does."""


def check_message(message: Message, term: int) -> None:
    """Raises for what no replica sends to one whose term is ``term``."""
    if not NONE < message.sender < LOCAL_APPLY_THREAD:
        raise CodecError("a message of nobody")
    if message.type in _WITHOUT_TERM:
        if message.term:
            raise CodecError(f"term {message.term} where none is told")
    elif not 0 < message.term <= term + TERM_LEAP_MAX:
        raise CodecError(f"term {message.term} can't follow {term}")
    if max(message.index, message.commit, message.reject_hint) > INDEX_MAX or message.log_term > term + TERM_LEAP_MAX:
        raise CodecError("an index or a term beyond any log")
    if (message.type is MessageType.SNAP) != (message.snapshot is not None):
        raise CodecError("a snapshot that isn't there, or doesn't belong there")
    if message.type in _NAMES_SOMETHING and not message.entries:
        raise CodecError("a proposal of nothing, or a read without a name")
    if message.type is MessageType.APP:
        _check_entries(message)


def check_member(
    members: Mapping[int, Replica],
    leaving: Container[int],
    routes: Mapping[int, str],
    sender: str,
    message: Message,
    known_leader: int,
) -> None:
    """Raises unless node ``sender`` may speak as the replica that the message names.

    ``leaving``: who still counts in a joint configuration, though the log has removed him; ``routes`` says from where such
    a one spoke.

    A replica lives on one node as long as it lives. One that isn't known yet is believed by those who hear no leader, since
    they may have missed that it joined, and then for as long as it leads. ``known_leader`` is who that is; ``NONE``: nobody
    is heard. What is passed on names whoever asked first, so there it is the node that must host a member.
    """
    if message.type in _PASSED_ON:
        if not is_member(members, sender):
            raise CodecError(f"node {sender} is no member, and asks for something")
        return
    member = members.get(message.sender)
    if member is not None:
        if member.node_id != sender:
            raise CodecError(f"node {sender} speaks as a replica of another one")
    elif message.sender in leaving:
        if routes.get(message.sender, sender) != sender:
            raise CodecError(f"node {sender} speaks as a replica of another one")
    elif known_leader not in (NONE, message.sender):
        raise CodecError("the replica is no member")


def check_numbers(value: object) -> None:
    """Raises for a message between nodes with a number, however deep in it, that nothing can be counted on from."""
    if isinstance(value, int):
        if not -NUMBER_MAX <= value <= NUMBER_MAX:
            raise CodecError("a number beyond all counting")
    elif isinstance(value, tuple):
        for item in value:
            check_numbers(item)
    elif is_dataclass(value):
        for field in fields(value):
            check_numbers(getattr(value, field.name))


def check_record(record: Record) -> None:
    """Raises for what no acceptor knows of a group."""
    if len(record.group_id) != 16 or (record.chosen and record.genesis is None):
        raise CodecError("a record of no group")
    if record.genesis is not None:
        check_genesis(record.genesis)
        if record.genesis.group_id != record.group_id:
            raise CodecError("a record of another group")


def is_member(members: Mapping[int, Replica], node_id: str) -> bool:
    """Whether the node hosts one of these."""
    return any(member.node_id == node_id for member in members.values())


def check_genesis(genesis: Genesis) -> None:
    """Raises for a first configuration that no group can begin with."""
    raft_ids = {raft_id for raft_id, _ in genesis.voters}
    nodes = {node_id for _, node_id in genesis.voters}
    if (
        len(genesis.group_id) != 16
        or not 0 < len(genesis.voters) <= VOTERS_MAX
        or len(raft_ids) != len(genesis.voters)
        or len(nodes) != len(genesis.voters)
        or not all(NONE < raft_id < LOCAL_APPLY_THREAD for raft_id in raft_ids)
        or not 0 < genesis.replicas <= VOTERS_MAX
        or not 0 <= genesis.data_center_replicas <= VOTERS_MAX
    ):
        raise CodecError("a genesis that no group can begin with")


def check_snapshot(snapshot: Snapshot, meta: SnapshotMeta) -> None:
    """Raises for a snapshot, and what it says it is, that could not be taken over."""
    if (meta.index, meta.term, meta.conf_state) != (snapshot.index, snapshot.term, snapshot.conf_state):
        raise CodecError("a snapshot that contradicts itself")
    try:
        Configuration.of(meta.conf_state)
    except InvalidConfChange as error:
        raise CodecError(f"a snapshot of a group that can't be: {error}") from error
    if max(meta.index, meta.size, meta.chunk_count) > INDEX_MAX or meta.chunk_count > meta.size:
        raise CodecError("a snapshot of an impossible size")
    if meta.size == 0 and meta.checksum:
        raise CodecError("a checksum of nothing")
    if Sequencer.unpack(meta.state).index != meta.index:
        raise CodecError("a snapshot whose state is of another place")


def _check_entries(message: Message) -> None:
    term = message.log_term
    for entry in message.entries:
        if not term <= entry.term <= message.term:
            raise CodecError("terms that go back, or are still to come")
        term = entry.term
        if entry.type is EntryType.NORMAL:
            if entry.data:
                check_proposed(entry.data)
        else:
            unpack_context(unpack_conf_change(entry.data).context)
