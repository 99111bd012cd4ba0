"""Metadata for everybody: a bounded random overlay of subscriptions, and flooding over it.

Up to a dozen nodes all subscribe to all, and nobody needs to pass anything on. Above that, each subscribes to its two
neighbours in the ring of sorted node ids, which keeps the overlay connected, and to some random others, which keep it
shallow (about log N hops); one random link is exchanged now and then, so that a bad draw doesn't last.

An item is published by its origin and, above a dozen nodes, republished by every node that sees it for the first time.
Items of an origin are numbered; they are handed up once, in order. One that is missing is waited for a little, then
reported as a gap and never handed up: the caller repairs gaps by asking a peer. An origin that starts anew has a higher
epoch, which voids the old.

Nothing here sends: what to publish and to whom to subscribe comes out of :meth:`Overlay.take_outputs`. Everything kept
is bounded, in items and bytes. Not thread-safe.
"""

from __future__ import annotations

import bisect
import random
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from copycat.errors import CodecError, UsageError
from copycat.gossip.records import NODE_ID_PATTERN
from copycat.gossip.timers import Timers

VERSION: Final = 1
ITEM_BYTES_MAX: Final = 64 * 1024
NUMBER_MAX: Final = (1 << 63) - 1
_ITEM = struct.Struct(">B26sQQ")


@dataclass(frozen=True, slots=True)
class OverlayProfile:
    """Bounds and periods of the overlay; periods in seconds. docs/gossip.md gives reasons."""

    everyone_up_to: int = 12  # nodes, this one included, up to which all subscribe to all
    degree: int = 6  # subscriptions of each node above that, the two ring neighbours included
    refresh_interval_s: float = 60.0
    gap_patience_s: float = 0.5
    held_per_origin_max: int = 64  # items that wait for one that is missing
    held_bytes_max: int = 8 * 1024 * 1024  # of all origins together
    origins_max: int = 16_384


@dataclass(frozen=True, slots=True)
class Item:
    """A piece of metadata; ``sequence`` counts from 1 within the origin's ``epoch``."""

    origin: str
    epoch: int
    sequence: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Gap:
    """Items ``first`` to ``last`` of an origin did not come, and will not be handed up any more."""

    origin: str
    epoch: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Position:
    """All items of ``origin`` up to ``sequence`` were handed up or reported as gaps."""

    origin: str
    epoch: int
    sequence: int


@dataclass(slots=True)
class OverlayOutputs:
    """What the caller is to do; items and gaps in the order of their origin."""

    subscribe: list[str] = field(default_factory=list)
    unsubscribe: list[str] = field(default_factory=list)
    publish: list[bytes] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)


def pack_item(item: Item) -> bytes:
    return _ITEM.pack(VERSION, item.origin.encode(), item.epoch, item.sequence) + item.payload


def unpack_item(data: bytes) -> Item:
    """The item in ``data``. Raises :class:`~copycat.errors.CodecError` for anything that is not exactly one."""
    if not _ITEM.size <= len(data) <= _ITEM.size + ITEM_BYTES_MAX:
        raise CodecError(f"an item of {len(data)} bytes")
    version, origin, epoch, sequence = _ITEM.unpack_from(data)
    if version != VERSION:
        raise CodecError(f"overlay version {version}")
    if NODE_ID_PATTERN.fullmatch(origin) is None:
        raise CodecError("malformed node id")
    if epoch > NUMBER_MAX or not 0 < sequence <= NUMBER_MAX:
        raise CodecError("epoch or sequence number out of range")
    return Item(origin.decode("ascii"), epoch, sequence, data[_ITEM.size :])


@dataclass(slots=True)
class _Origin:
    """What was received of one origin: all below ``next`` is settled, ``horizon`` is the highest known to exist."""

    epoch: int
    next: int = 1
    horizon: int = 0
    held: dict[int, Item] = field(default_factory=dict)


class Overlay:
    """One node's part in the overlay.

    ``epoch`` must be higher in each life of the node: a counter from disk, or the time of the start.
    """

    def __init__(self, me: str, epoch: int, rng: random.Random, profile: OverlayProfile | None = None) -> None:
        self._me = me
        self._epoch = epoch
        self._sequence = 0
        self._rng = rng
        self._profile = profile or OverlayProfile()
        self._timers = Timers()
        self._now = 0.0
        self._ring: list[str] = []  # live nodes but this one, sorted
        self._links: set[str] = set()
        self._subscribed: set[str] = set()  # the links that the caller was told of
        self._links_due = False
        self._origins: dict[str, _Origin] = {}
        self._held_bytes = 0
        self._outputs = OverlayOutputs()
        self.duplicates = 0
        self.refused = 0  # items of origins beyond OverlayProfile.origins_max

    @property
    def links(self) -> frozenset[str]:
        """Nodes this one subscribes to, as of the last outputs."""
        return frozenset(self._subscribed)

    # --- who is there -----------------------------------------------------------------------------------------------

    def start(self, now: float, live: Iterable[str] = ()) -> None:
        """Begin, with those other nodes that are known to live. Call once."""
        self._now = now
        for node_id in live:
            self.member_up(node_id)
        # At a random moment, so that nodes that were started together don't redraw together.
        self._timers.set("refresh", now + self._profile.refresh_interval_s * self._rng.random(), self._refresh)

    def member_up(self, node_id: str) -> None:
        """A node came to life; repeating it is harmless."""
        at = bisect.bisect_left(self._ring, node_id)
        if node_id != self._me and (at == len(self._ring) or self._ring[at] != node_id):
            self._ring.insert(at, node_id)
            self._links_due = True

    def member_down(self, node_id: str) -> None:
        """A node died or left; it is replaced as a source. What is known of its items stays."""
        at = bisect.bisect_left(self._ring, node_id)
        if at < len(self._ring) and self._ring[at] == node_id:
            del self._ring[at]
            self._links_due = True

    def forget(self, node_id: str) -> None:
        """A node is no member any more: drop what is known of its items."""
        self.member_down(node_id)
        origin = self._origins.pop(node_id, None)
        if origin is not None:
            self._held_bytes -= sum(len(item.payload) for item in origin.held.values())
            self._timers.cancel(node_id)

    # --- items ------------------------------------------------------------------------------------------------------

    def publish(self, payload: bytes) -> Position:
        """Spread an item of this node. Raises :class:`~copycat.errors.UsageError` if it is larger than 64 KiB."""
        if len(payload) > ITEM_BYTES_MAX:
            raise UsageError(f"an item of {len(payload)} bytes, {ITEM_BYTES_MAX} are allowed")
        self._sequence += 1
        self._outputs.publish.append(pack_item(Item(self._me, self._epoch, self._sequence, payload)))
        return Position(self._me, self._epoch, self._sequence)

    def renew(self, epoch: int) -> None:
        """Others may remember a later life of this node than it does: go on in ``epoch``, if that is higher."""
        if epoch > self._epoch:
            self._epoch = epoch
            self._sequence = 0

    def receive(self, now: float, data: bytes) -> None:
        """Take a frame that some node published.

        Raises :class:`~copycat.errors.CodecError`, before anything was changed, if it is none of ours.
        """
        item = unpack_item(data)
        self._now = max(self._now, now)
        if item.origin == self._me:
            self.duplicates += 1
            return
        origin = self._origin_at(item.origin, item.epoch)
        if origin is None:
            return
        sequence = item.sequence
        if sequence < origin.next or sequence in origin.held:
            self.duplicates += 1
            return
        if not self._is_mesh:
            self._outputs.publish.append(data)
        origin.horizon = max(origin.horizon, sequence)
        if sequence == origin.next:
            origin.next += 1
            self._outputs.items.append(item)
            self._hand_up(item.origin, origin)
            return
        origin.held[sequence] = item
        self._held_bytes += len(item.payload)
        profile = self._profile
        while origin.held and (
            len(origin.held) > profile.held_per_origin_max or self._held_bytes > profile.held_bytes_max
        ):
            self._give_up(item.origin)
        self._await(item.origin, origin)

    def heard_of(self, now: float, position: Position) -> None:
        """A peer has items up to there. What does not come in time is reported as a gap."""
        self._now = max(self._now, now)
        if position.origin == self._me:
            return
        origin = self._origin_at(position.origin, position.epoch)
        if origin is not None:
            origin.horizon = max(origin.horizon, position.sequence)
            self._await(position.origin, origin)

    def repaired(self, now: float, position: Position) -> None:
        """The caller has got, otherwise, all that an origin said up to there: older items are not wanted any more."""
        self._now = max(self._now, now)
        if position.origin == self._me:
            return
        origin = self._origin_at(position.origin, position.epoch)
        if origin is None or position.sequence < origin.next:
            return
        for sequence in [sequence for sequence in origin.held if sequence <= position.sequence]:
            self._held_bytes -= len(origin.held.pop(sequence).payload)
        origin.next = position.sequence + 1
        origin.horizon = max(origin.horizon, position.sequence)
        self._hand_up(position.origin, origin)

    def positions(self) -> list[Position]:
        """How far this node is with each origin, itself included: what to compare with a peer."""
        own = Position(self._me, self._epoch, self._sequence)
        return [own, *(Position(name, origin.epoch, origin.next - 1) for name, origin in self._origins.items())]

    # --- time and outputs -------------------------------------------------------------------------------------------

    def next_deadline(self) -> float:
        """When :meth:`tick` is needed next, in the caller's clock; infinity if never."""
        return self._timers.next_at()

    def tick(self, now: float) -> None:
        """Do what is due."""
        self._now = max(self._now, now)
        self._timers.run_due(self._now)

    @property
    def has_outputs(self) -> bool:
        """Whether there is anything to take; most often there is not."""
        outputs = self._outputs
        return bool(
            self._links_due or outputs.publish or outputs.items or outputs.gaps or self._links != self._subscribed
        )

    def take_outputs(self) -> OverlayOutputs:
        """All that is to be done since the last call."""
        if self._links_due:
            self._links_due = False
            self._relink()
        outputs = self._outputs
        if self._links != self._subscribed:
            outputs.subscribe = sorted(self._links - self._subscribed)
            outputs.unsubscribe = sorted(self._subscribed - self._links)
            self._subscribed = set(self._links)
        self._outputs = OverlayOutputs()
        return outputs

    # --- inside: items ----------------------------------------------------------------------------------------------

    def _origin_at(self, name: str, epoch: int) -> _Origin | None:
        """The origin's state in ``epoch``; None if that epoch is over, or if there are too many origins."""
        origin = self._origins.get(name)
        if origin is None:
            if len(self._origins) >= self._profile.origins_max:
                self.refused += 1
                return None
            origin = self._origins[name] = _Origin(epoch)
        elif epoch < origin.epoch:
            self.duplicates += 1
            return None
        elif epoch > origin.epoch:
            self._held_bytes -= sum(len(item.payload) for item in origin.held.values())
            self._timers.cancel(name)
            origin = self._origins[name] = _Origin(epoch)
        return origin

    def _hand_up(self, name: str, origin: _Origin) -> None:
        """Hand up what was waiting for the item that came."""
        held = origin.held
        while held and origin.next in held:
            item = held.pop(origin.next)
            self._held_bytes -= len(item.payload)
            self._outputs.items.append(item)
            origin.next += 1
        if origin.horizon < origin.next:
            self._timers.cancel(name)

    def _await(self, name: str, origin: _Origin) -> None:
        if origin.horizon >= origin.next and not self._timers.is_set(name):
            self._timers.set(name, self._now + self._profile.gap_patience_s, lambda _: self._give_up(name))

    def _give_up(self, name: str) -> None:
        """Report the first gap, and go on behind it."""
        origin = self._origins[name]
        last = min(origin.held) - 1 if origin.held else origin.horizon
        self._outputs.gaps.append(Gap(name, origin.epoch, origin.next, last))
        origin.next = last + 1
        self._hand_up(name, origin)
        self._await(name, origin)

    # --- inside: links ----------------------------------------------------------------------------------------------

    @property
    def _is_mesh(self) -> bool:
        """Whether everybody hears everybody, so that nothing need be passed on."""
        return len(self._ring) < self._profile.everyone_up_to

    def _relink(self) -> None:
        ring = self._ring
        if self._is_mesh:
            wanted = set(ring)
        else:
            at = bisect.bisect_left(ring, self._me)
            wanted = {ring[at - 1], ring[at % len(ring)]}
            live = [node_id for node_id in sorted(self._links - wanted) if self._is_live(node_id)]
            room = self._profile.degree - len(wanted)
            wanted.update(self._rng.sample(live, min(room, len(live))))
            while len(wanted) < self._profile.degree:
                wanted.add(self._rng.choice(ring))
        self._links = wanted

    def _is_live(self, node_id: str) -> bool:
        at = bisect.bisect_left(self._ring, node_id)
        return at < len(self._ring) and self._ring[at] == node_id

    def _refresh(self, now: float) -> None:
        """Draw one link anew; a ring neighbour comes back at once."""
        self._timers.set("refresh", now + self._profile.refresh_interval_s, self._refresh)
        if self._links:
            self._links.discard(self._rng.choice(sorted(self._links)))
            self._links_due = True
