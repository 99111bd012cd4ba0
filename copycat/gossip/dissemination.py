"""Spreading news: piggy-backed on every packet, and in packets of its own while there is any (SWIM, section 4.1).

Each piece of news is sent at most ``multiplier x ceil(log10(N + 1))`` times, what was sent least often first. There is
at most one piece per member: newer news replaces older.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from copycat.gossip.wire import UPDATES_MAX, pack_packet


def retransmit_limit(multiplier: int, members: int) -> int:
    """How often each node sends a piece of news in a cluster of ``members``."""
    return multiplier * math.ceil(math.log10(members + 1))


class BroadcastQueue:
    """News that waits to be sent, in buckets by the number of times it was."""

    __slots__ = ("_buckets", "_sent")

    def __init__(self) -> None:
        self._buckets: list[dict[str, bytes]] = [{}]
        self._sent: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._sent)

    def __contains__(self, node_id: str) -> bool:
        return node_id in self._sent

    def put(self, node_id: str, update: bytes) -> None:
        """Queue news about ``node_id`` in place of what waited about it."""
        self.discard(node_id)
        self._sent[node_id] = 0
        self._buckets[0][node_id] = update

    def discard(self, node_id: str) -> None:
        sent = self._sent.pop(node_id, None)
        if sent is not None:
            del self._buckets[sent][node_id]

    def take(self, bytes_max: int, count_max: int, limit: int) -> list[bytes]:
        """News that fits into ``bytes_max``: least often sent first, newest first among equals."""
        if not self._sent:
            return []
        chosen: list[tuple[int, str, bytes]] = []
        for sent, bucket in enumerate(self._buckets):
            for node_id, update in reversed(bucket.items()):
                if bytes_max < 35 or len(chosen) >= count_max:
                    break
                if len(update) <= bytes_max:
                    chosen.append((sent, node_id, update))
                    bytes_max -= len(update)
        for sent, node_id, update in chosen:
            del self._buckets[sent][node_id]
            if sent + 1 >= limit:
                del self._sent[node_id]
                continue
            if sent + 1 == len(self._buckets):
                self._buckets.append({})
            self._buckets[sent + 1][node_id] = update
            self._sent[node_id] = sent + 1
        return [update for _, _, update in chosen]


class Datagrams:
    """Packs packets, fills them with news up to the datagram's size, and keeps them until they are taken."""

    __slots__ = ("_bytes_max", "_multiplier", "members", "news", "outgoing")

    def __init__(self, bytes_max: int, multiplier: int) -> None:
        self._bytes_max = bytes_max
        self._multiplier = multiplier
        self.members = 1  # N of the formula, this node included; kept by whoever counts members
        self.news = BroadcastQueue()
        self.outgoing: list[tuple[str, int, bytes]] = []

    def send(self, host: str, port: int, head: bytes, notices: Sequence[bytes] = ()) -> None:
        """Queue a packet; ``notices`` are updates that must travel with it, before any other news."""
        room = self._bytes_max - len(head) - 1 - sum(map(len, notices))
        assert room >= 0, "a packet's head and its notices exceed the smallest datagram"
        updates = list(notices)
        if self.news:
            limit = retransmit_limit(self._multiplier, self.members)
            updates += self.news.take(room, UPDATES_MAX - len(updates), limit)
        self.outgoing.append((host, port, pack_packet(head, updates)))
