"""How a node becomes part of a cluster, and how it comes back to it.

=============  =====================================================================================================
state          meaning
=============  =====================================================================================================
FOUNDED        neither seeds nor remembered members: this node is a new cluster, alone until somebody joins it
SEEKING        it has seeds and never belonged to a cluster; it asks the seeds until one answers that does belong
REJOINING      it belonged to a cluster in an earlier life, perhaps one of its own founding that nobody else had joined yet;
               it asks the members that it remembers and the seeds, and never starts another cluster
JOINED         it has exchanged tables with a member of its cluster
LEAVING, LEFT  it says, and has said, goodbye
=============  =====================================================================================================

Two nodes that both only seek don't make a cluster by meeting: otherwise a partition at the first start would make two.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Sequence

from copycat.gossip.dissemination import Datagrams
from copycat.gossip.membership import Membership
from copycat.gossip.profile import Profile
from copycat.gossip.records import EventKind, MemberState
from copycat.gossip.timers import Timers
from copycat.gossip.wire import Packet, PacketKind, UpdateKind, pack_departure, pack_head

SEEDS_PER_TRY_MAX = 8
REMEMBERED_PER_TRY_MAX = 4


class JoinState(enum.Enum):
    FOUNDED = "founded a new cluster: it has neither seeds nor remembered members"
    SEEKING = "seeking a cluster: no seed that belongs to one has answered yet"
    REJOINING = "rejoining its cluster: no member of it has answered yet"
    JOINED = "joined"
    LEAVING = "leaving"
    LEFT = "left"


class Joiner:
    """Asks seeds and remembered members until one of them lets this node in, and answers those who ask."""

    def __init__(
        self,
        profile: Profile,
        rng: random.Random,
        timers: Timers,
        datagrams: Datagrams,
        membership: Membership,
        seeds: Sequence[tuple[str, int]],
    ) -> None:
        self.state = JoinState.SEEKING
        self.push_pulls: list[str] = []
        self._profile = profile
        self._rng = rng
        self._timers = timers
        self._datagrams = datagrams
        self._membership = membership
        self._seeds = list(seeds)
        self.belongs = False  # this node is part of a cluster, or was so in this life or an earlier one

    @property
    def is_in(self) -> bool:
        """Whether this node is part of a cluster now."""
        return self.state in (JoinState.FOUNDED, JoinState.JOINED)

    def start(self, now: float, belonged: bool) -> None:
        """``belonged``: this node was part of a cluster in an earlier life."""
        self.belongs = belonged
        if belonged and (self._seeds or len(self._membership.table)):
            self.state = JoinState.REJOINING
        elif self._seeds:
            self.state = JoinState.SEEKING
        else:
            self.state = JoinState.FOUNDED
            self.belongs = True
            self._membership.remember()
            self._membership.emit(EventKind.READY, self._membership.me)
            return
        self._try(now)

    def ask_seeds(self) -> None:
        """Introduce this node to its seeds, whatever its state."""
        head = pack_head(Packet(PacketKind.JOIN, self._membership.me.node_id, record=self._membership.me))
        seeds = self._seeds
        for host, port in self._rng.sample(seeds, min(SEEDS_PER_TRY_MAX, len(seeds))):
            self._datagrams.send(host, port, head)

    def joined(self) -> None:
        """Tables were exchanged with a node that belongs to a cluster."""
        if self.state in (JoinState.SEEKING, JoinState.REJOINING):
            self.state = JoinState.JOINED
            self.belongs = True
            self._timers.cancel("join")
            self._membership.remember()
            self._membership.emit(EventKind.READY, self._membership.me)
        elif self.state is JoinState.FOUNDED:
            self.state = JoinState.JOINED

    def on_join(self, now: float, packet: Packet, source: tuple[str, int]) -> None:
        """Somebody introduces itself: take it in, and say who we are."""
        record = packet.record
        assert record is not None
        membership = self._membership
        membership.hear_alive(now, record)
        known = membership.record_of(record.node_id)
        notices: list[bytes] = []
        if known is not None and (known.incarnation > record.incarnation or not known.says_the_same(record)):
            notices = [pack_departure(UpdateKind.HEARD, record.node_id, known.incarnation)]
        elif known is not None and known.state is not MemberState.ALIVE:
            notices = membership.notices_for(record.node_id)
        reply = Packet(PacketKind.WELCOME, membership.me.node_id, record=membership.me, flag=self.belongs)
        self._datagrams.send(source[0], source[1], pack_head(reply), notices)

    def on_welcome(self, now: float, packet: Packet, source: tuple[str, int], told_of_itself: bool) -> None:
        """A seed answered. If it told us news of ourselves, introduce the new self first: the seed must know our
        address.
        """
        record = packet.record
        assert record is not None
        self._membership.hear_alive(now, record, spread=False)
        if self.state not in (JoinState.SEEKING, JoinState.REJOINING):
            return
        if told_of_itself:
            head = pack_head(Packet(PacketKind.JOIN, self._membership.me.node_id, record=self._membership.me))
            self._datagrams.send(source[0], source[1], head)
        elif packet.flag and record.node_id not in self.push_pulls:
            self.push_pulls.append(record.node_id)

    def _try(self, now: float) -> None:
        self.ask_seeds()
        head = pack_head(Packet(PacketKind.JOIN, self._membership.me.node_id, record=self._membership.me))
        known = self._membership.table.in_state(MemberState.ALIVE, MemberState.SUSPECT, MemberState.DEAD)
        for record in self._rng.sample(known, min(REMEMBERED_PER_TRY_MAX, len(known))):
            self._datagrams.send(record.hostname, record.gossip_port, head)
        # Spread by up to a half, so that a cluster that starts as one doesn't ask in step.
        self._timers.set("join", now + self._profile.join_retry_s * (1.0 + 0.5 * self._rng.random()), self._try)
