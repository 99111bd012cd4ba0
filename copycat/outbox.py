"""Many groups' messages, one frame per peer node and turn.

Collects what all groups say during a turn of the engine, by receiving node, and sends it in one multipart frame each
(cut where a frame would grow too long). Best effort: what a transport does not take is dropped, and the groups that
spoke to that node are told that it is unreachable; Raft repeats what matters. What nodes say to each other beside Raft is
tried again for some ticks, since the first words to a new peer are spoken while the connection is still being made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from copycat import codec
from copycat.messages import Message
from copycat.ports import Lane, Transport

ITEM_OVERHEAD_BYTES = 96
HELD_ITEMS_MAX = 256
HELD_TICKS_MAX = 20
"""For how long, and how many, messages beside Raft's wait for a peer that can't be reached yet."""


class _Letter:
    __slots__ = ("attachments", "items", "raft", "size")

    def __init__(self) -> None:
        self.items: list[Any] = []
        self.attachments: list[bytes] = []
        self.raft: list[tuple[bytes, int]] = []
        self.size = 0


class _Held:
    __slots__ = ("items", "ticks")

    def __init__(self) -> None:
        self.items: list[Any] = []
        self.ticks = 0


class Outbox:
    """Belongs to the engine's thread. ``unreachable`` is told (group, raft id) for each message that was dropped."""

    def __init__(
        self,
        transport: Transport,
        registry: codec.Registry,
        label: str,
        node_id: str,
        frame_bytes_max: int,
        unreachable: Callable[[bytes, int], None],
    ) -> None:
        self._transport = transport
        self._registry = registry
        self._label = label
        self._node_id = node_id
        self._bytes_max = frame_bytes_max // 2
        self._unreachable = unreachable
        self._headers: dict[str, bytes] = {}
        self._letters: dict[str, _Letter] = {}
        self._held: dict[str, _Held] = {}
        self.frames_sent = 0
        self.frames_dropped = 0

    def add_raft(self, node_id: str, group: bytes, message: Message) -> None:
        """Queue a Raft message for the replica that lives on ``node_id``."""
        letter = self._letter(node_id)
        size = ITEM_OVERHEAD_BYTES
        for entry in message.entries:
            size += len(entry.data) + 16
        if letter.size + size > self._bytes_max and letter.items:
            self._send(node_id, letter)
            letter = self._letter(node_id)
        letter.items.append(codec.pack_raft(group, message, letter.attachments))
        letter.raft.append((group, message.to))
        letter.size += size

    def add(self, node_id: str, message: Any) -> None:
        """Queue a message of :mod:`copycat.protocol` on the RAFT lane."""
        self._letter(node_id).items.append(self._registry.pack(message))

    def send_bulk(self, node_id: str, message: Any) -> bool:
        """Send a message of :mod:`copycat.protocol` on the BULK lane, at once. False if it was dropped."""
        body = codec.pack([self._registry.pack(message)])
        return self._transport.send(Lane.BULK, node_id, [self._header(node_id), body])

    def flush(self) -> None:
        """Send everything that was queued."""
        while self._letters:
            node_id, letter = self._letters.popitem()
            self._post(node_id, letter)

    def tick(self) -> None:
        """Try again what is held; after a while, it is dropped."""
        for node_id, held in list(self._held.items()):
            held.ticks += 1
            if self._transport.send(Lane.RAFT, node_id, [self._header(node_id), codec.pack(held.items)]):
                self.frames_sent += 1
                del self._held[node_id]
            elif held.ticks >= HELD_TICKS_MAX:
                del self._held[node_id]

    def forget(self, node_id: str) -> None:
        self._headers.pop(node_id, None)
        self._letters.pop(node_id, None)
        self._held.pop(node_id, None)

    def _letter(self, node_id: str) -> _Letter:
        letter = self._letters.get(node_id)
        if letter is None:
            letter = self._letters[node_id] = _Letter()
        return letter

    def _send(self, node_id: str, letter: _Letter) -> None:
        del self._letters[node_id]
        self._post(node_id, letter)

    def _post(self, node_id: str, letter: _Letter) -> None:
        parts = [self._header(node_id), codec.pack(letter.items), *letter.attachments]
        if self._transport.send(Lane.RAFT, node_id, parts):
            self.frames_sent += 1
            return
        self.frames_dropped += 1
        for group, raft_id in letter.raft:
            self._unreachable(group, raft_id)
        if len(letter.raft) < len(letter.items):
            self._hold(node_id, [item for item in letter.items if item[0] != codec.RAFT_ITEM])

    def _hold(self, node_id: str, items: list[Any]) -> None:
        held = self._held.get(node_id)
        if held is None:
            held = self._held[node_id] = _Held()
        held.items += items[: HELD_ITEMS_MAX - len(held.items)]

    def _header(self, node_id: str) -> bytes:
        header = self._headers.get(node_id)
        if header is None:
            header = self._headers[node_id] = codec.pack_header(self._label, self._node_id, node_id)
        return header
