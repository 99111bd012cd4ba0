"""How entries, messages, a Ready and the rest are printed in the scripts."""

from __future__ import annotations

from collections.abc import Iterable

from copycat.messages import (
    LOCAL_APPEND_THREAD,
    LOCAL_APPLY_THREAD,
    NONE,
    ConfChangeType,
    ConfState,
    Entry,
    EntryType,
    Message,
    MessageType,
    Snapshot,
)
from copycat.raft import Configuration, PeerStatus, ProgressState, Ready, Role, unpack_conf_change

MESSAGE_NAMES = {kind: "Msg" + "".join(part.capitalize() for part in kind.name.split("_")) for kind in MessageType}
ROLE_NAMES = {
    Role.FOLLOWER: "StateFollower",
    Role.CANDIDATE: "StateCandidate",
    Role.LEADER: "StateLeader",
    Role.PRE_CANDIDATE: "StatePreCandidate",
}
PROGRESS_NAMES = {
    ProgressState.PROBE: "StateProbe",
    ProgressState.REPLICATE: "StateReplicate",
    ProgressState.SNAPSHOT: "StateSnapshot",
}
ENTRY_NAMES = {
    EntryType.NORMAL: "EntryNormal",
    EntryType.CONF_CHANGE: "EntryConfChange",
    EntryType.CONF_CHANGE_V2: "EntryConfChangeV2",
}
OPERATION_LETTERS = {
    ConfChangeType.ADD_VOTER: "v",
    ConfChangeType.ADD_LEARNER: "l",
    ConfChangeType.REMOVE: "r",
    ConfChangeType.UPDATE: "u",
}
_ESCAPES = {
    '"': '\\"',
    "\\": "\\\\",
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
}


def quoted(data: bytes) -> str:
    """A Go string literal."""
    out: list[str] = []
    for char in data.decode("utf-8", "surrogateescape"):
        code = ord(char)
        if char in _ESCAPES:
            out.append(_ESCAPES[char])
        elif 0xDC80 <= code <= 0xDCFF:
            out.append(f"\\x{code - 0xDC00:02x}")
        elif char == " " or char.isprintable():
            out.append(char)
        elif code < 0x80:
            out.append(f"\\x{code:02x}")
        elif code < 0x10000:
            out.append(f"\\u{code:04x}")
        else:
            out.append(f"\\U{code:08x}")
    return '"' + "".join(out) + '"'


def entry(item: Entry) -> str:
    if item.type == EntryType.NORMAL:
        payload = quoted(item.data)
    else:
        changes = unpack_conf_change(item.data).changes
        payload = " ".join(f"{OPERATION_LETTERS[change.type]}{change.id}" for change in changes)
    return f"{item.term}/{item.index} {ENTRY_NAMES[item.type]} {payload}".rstrip(" ")


def replica(ident: int) -> str:
    if ident == NONE:
        return "None"
    if ident == LOCAL_APPEND_THREAD:
        return "AppendThread"
    if ident == LOCAL_APPLY_THREAD:
        return "ApplyThread"
    return f"{ident:x}"


def _ids(ids: Iterable[int]) -> str:
    return "[" + " ".join(str(ident) for ident in ids) + "]"


def conf_state(state: ConfState) -> str:
    return (
        f"Voters:{_ids(state.voters)} VotersOutgoing:{_ids(state.voters_outgoing)} Learners:{_ids(state.learners)} "
        f"LearnersNext:{_ids(state.learners_next)} AutoLeave:{str(state.auto_leave).lower()}"
    )


def snapshot(item: Snapshot) -> str:
    return f"Index:{item.index} Term:{item.term} ConfState:{conf_state(item.conf_state)}"


def message(item: Message, indent: str = "") -> list[str]:
    head = (
        f"{indent}{replica(item.sender)}->{replica(item.to)} {MESSAGE_NAMES[item.type]} "
        f"Term:{item.term} Log:{item.log_term}/{item.index}"
    )
    if item.reject:
        head += f" Rejected (Hint: {item.reject_hint})"
    if item.commit:
        head += f" Commit:{item.commit}"
    if item.vote:
        head += f" Vote:{item.vote}"
    lines = [head]
    if len(item.entries) == 1:
        lines[-1] += f" Entries:[{entry(item.entries[0])}]"
    elif item.entries:
        lines[-1] += " Entries:["
        lines += [f"{indent}  {entry(each)}" for each in item.entries]
        lines.append(f"{indent}]")
    if item.snapshot is not None and not item.snapshot.is_empty():
        lines.append(f"{indent}  Snapshot: {snapshot(item.snapshot)}")
    if item.responses:
        lines[-1] += " Responses:["
        for response in item.responses:
            lines += message(response, indent + "  ")
        lines.append(f"{indent}]")
    return lines


def ready(item: Ready) -> list[str]:
    lines: list[str] = []
    if item.soft_state is not None:
        lines.append(f"Lead:{item.soft_state.lead} State:{ROLE_NAMES[item.soft_state.role]}")
    if item.hard_state is not None:
        vote = f" Vote:{item.hard_state.vote}" if item.hard_state.vote != NONE else ""
        lines.append(f"HardState Term:{item.hard_state.term}{vote} Commit:{item.hard_state.commit}")
    if item.read_states:
        states = " ".join(f"{{{state.index} {_ids(state.context)}}}" for state in item.read_states)
        lines.append(f"ReadStates [{states}]")
    if item.entries:
        lines += ["Entries:", *map(entry, item.entries)]
    if item.snapshot is not None:
        lines.append(f"Snapshot {snapshot(item.snapshot)}")
    if item.committed_entries:
        lines += ["CommittedEntries:", *map(entry, item.committed_entries)]
    if item.messages:
        lines.append("Messages:")
        for each in item.messages:
            lines += message(each)
    if not lines:
        return ["<empty Ready>"]
    return [f"Ready MustSync={str(item.must_sync).lower()}:", *lines]


def configuration(config: Configuration) -> str:
    def half(ids: Iterable[int]) -> str:
        return "(" + " ".join(str(ident) for ident in sorted(ids)) + ")"

    text = f"voters={half(config.voters)}"
    if config.outgoing:
        text += f"&&{half(config.outgoing)}"
    if config.learners:
        text += f" learners={half(config.learners)}"
    if config.learners_next:
        text += f" learners_next={half(config.learners_next)}"
    if config.auto_leave:
        text += " autoleave"
    return text


def progress(ident: int, peer: PeerStatus) -> str:
    text = f"{ident}: {PROGRESS_NAMES[peer.state]} match={peer.match} next={peer.next}"
    if peer.is_learner:
        text += " learner"
    if peer.paused:
        text += " paused"
    if peer.pending_snapshot:
        text += f" pendingSnap={peer.pending_snapshot}"
    if not peer.active:
        text += " inactive"
    if peer.inflight:
        text += f" inflight={peer.inflight}"
        if peer.inflight_full:
            text += "[full]"
    return text
