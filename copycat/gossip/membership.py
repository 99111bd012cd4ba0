"""Which news about a member wins, and what follows from it (SWIM, section 4.2; Lifeguard, section IV-B).

======================  =========================================================================
news                    is believed of member m, known at incarnation j in state s, if
======================  =========================================================================
ALIVE at i              i > j; or i >= j where m is only remembered; or m is unknown
SUSPECT at i            m is alive or suspect and i >= j (same i: counts as confirmation)
DEAD at i               m is alive or suspect and i >= j, or dead or left and i > j
LEFT at i               m is not left and i >= j, or left and i > j
======================  =========================================================================

News about this node itself is never believed, but refuted: the incarnation is raised above what was heard. That is also
how a restarted node outlives its own death, and how a node with a new address replaces its old record.

The dead stay in the table until they leave or are forgotten, since they are still members of the cluster. Nothing is
sent from here, but for queueing news.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

from copycat.errors import UsageError
from copycat.gossip.awareness import Awareness
from copycat.gossip.dissemination import Datagrams
from copycat.gossip.profile import Profile
from copycat.gossip.records import INCARNATION_MAX, EventKind, MemberEvent, MemberRecord, MemberState
from copycat.gossip.suspicion import Suspicion, suspicion_timeout_min
from copycat.gossip.table import Member, MemberTable
from copycat.gossip.timers import Timers
from copycat.gossip.wire import Update, UpdateKind, pack_accusation, pack_alive, pack_departure

CONTESTED_MAX = 16

_LIVE = (MemberState.ALIVE, MemberState.SUSPECT)


class Membership:
    """This node's view of its cluster; all news about members goes through here."""

    def __init__(
        self,
        me: MemberRecord,
        profile: Profile,
        rng: random.Random,
        timers: Timers,
        awareness: Awareness,
        datagrams: Datagrams,
    ) -> None:
        self.me = me
        self.leaving = False
        self.table = MemberTable(rng)
        self._events: list[MemberEvent] = []
        self.contested: list[tuple[str, int]] = []  # addresses at which this node's id was said to be
        self.refuted = 0
        self.refused = 0  # unknown members beyond Profile.members_max
        self._profile = profile
        self._rng = rng
        self._remember_due = False
        self._timers = timers
        self._awareness = awareness
        self._datagrams = datagrams
        self._suspicions: dict[str, Suspicion] = {}
        self._recently_dead: dict[str, float] = {}

    # --- what is known ----------------------------------------------------------------------------------------------

    def record_of(self, node_id: str) -> MemberRecord | None:
        """The record of a known member, or of this node."""
        if node_id == self.me.node_id:
            return self.me
        member = self.table.entries.get(node_id)
        return None if member is None else member.record

    def gossip_targets(self, now: float, count: int) -> list[MemberRecord]:
        """Live members at random; the recently dead have their share, so that they can refute."""
        recently_dead = self._recently_dead
        for node_id in [node_id for node_id, until in recently_dead.items() if until <= now]:
            del recently_dead[node_id]
        records = [member.record for member in self.table.sample(count)]
        if recently_dead:
            share = count * len(recently_dead) / (len(recently_dead) + self.table.live_count)
            if self._rng.random() < share:
                dead = self.table.entries[self._rng.choice(list(recently_dead))]
                records = [*records[: count - 1], dead.record]
        return records

    def notices_for(self, node_id: str) -> list[bytes]:
        """What this member should be told of itself when a packet goes to it: that it is taken for anything but
        alive.
        """
        member = self.table.entries.get(node_id)
        if member is None or not member.verified:
            return []
        record = member.record
        if record.state is MemberState.ALIVE:
            return []
        if record.state is MemberState.SUSPECT and not self._profile.buddy_notice:
            return []
        if record.state is MemberState.LEFT:
            return [pack_departure(UpdateKind.LEFT, node_id, record.incarnation)]
        return [pack_accusation(UpdateKind(record.state), node_id, record.incarnation, self.me.node_id)]

    @property
    def has_events(self) -> bool:
        return self._remember_due or bool(self._events)

    def take_events(self) -> list[MemberEvent]:
        """What happened since the last call; at most one REMEMBER among it, the last."""
        if self._remember_due:
            self._remember_due = False
            self.emit(EventKind.REMEMBER, self.me)
        events = self._events
        self._events = []
        return events

    # --- news -------------------------------------------------------------------------------------------------------

    def hear_all(self, now: float, updates: Iterable[Update]) -> None:
        """Take news from a packet."""
        for update in updates:
            kind = update.kind
            if kind is UpdateKind.ALIVE:
                assert update.record is not None
                self.hear_alive(now, update.record)
            elif kind is UpdateKind.SUSPECT:
                self.hear_suspect(now, update.node_id, update.incarnation, update.source)
            elif kind is UpdateKind.DEAD:
                self.hear_dead(now, update.node_id, update.incarnation, update.source)
            elif kind is UpdateKind.LEFT:
                self.hear_left(now, update.node_id, update.incarnation)
            elif update.node_id == self.me.node_id and update.incarnation >= self.me.incarnation:
                self.refute(update.incarnation)

    def hear_alive(self, now: float, record: MemberRecord, spread: bool = True) -> None:
        """``spread`` says whether others should hear of it through this node, if it is news."""
        node_id = record.node_id
        if node_id == self.me.node_id:
            self._hear_self_alive(record)
            return
        member = self.table.entries.get(node_id)
        if member is None:
            member = self._add(now, record)
            if member is None:
                return
            self.table.start_probing(node_id)
            self._counted()
            self.emit(EventKind.JOINED, record)
            self.remember()
        else:
            known = member.record
            if record.incarnation < known.incarnation:
                return
            if record.incarnation == known.incarnation and member.verified:
                return
            changed = not record.says_the_same(known)
            member.record = record
            member.since = now
            member.verified = True
            self._stop_suspicion(node_id)
            if known.state not in _LIVE:
                self._recently_dead.pop(node_id, None)
                self._timers.cancel(("reap", node_id))
                self.table.start_probing(node_id)
                self._counted()
                self.emit(EventKind.JOINED, record)
                self.remember()
            else:
                if known.state is MemberState.SUSPECT:
                    self.emit(EventKind.REFUTED, record)
                if changed:
                    self.emit(EventKind.UPDATED, record)
                    self.remember()
        if spread:
            self._datagrams.news.put(node_id, pack_alive(record))

    def hear_suspect(self, now: float, node_id: str, incarnation: int, source: str) -> None:
        if node_id == self.me.node_id:
            self._refute_accusation(incarnation)
            return
        member = self.table.entries.get(node_id)
        if member is None or incarnation < member.record.incarnation or member.record.state not in _LIVE:
            return
        suspicion = self._suspicions.get(node_id)
        if suspicion is not None and incarnation == member.record.incarnation:
            if not suspicion.confirm(source):
                return
            self._timers.set(("suspect", node_id), suspicion.deadline(), lambda at: self._give_up(at, node_id))
        else:
            if suspicion is None:
                self.emit(EventKind.SUSPECTED, member.record)
            member.record = member.record.with_state(MemberState.SUSPECT, incarnation)
            member.since = now
            self._start_suspicion(now, node_id, source)
        self._datagrams.news.put(node_id, pack_accusation(UpdateKind.SUSPECT, node_id, incarnation, source))

    def hear_dead(self, now: float, node_id: str, incarnation: int, source: str) -> None:
        if node_id == self.me.node_id:
            self._refute_accusation(incarnation)
            return
        member = self.table.entries.get(node_id)
        if member is None or incarnation < member.record.incarnation:
            return
        state = member.record.state
        if state not in _LIVE and incarnation == member.record.incarnation:
            if state is MemberState.DEAD:
                member.verified = True
            return
        self._depart(now, member, MemberState.DEAD, incarnation)
        self._recently_dead[node_id] = now + self._profile.gossip_to_dead_s
        self._datagrams.news.put(node_id, pack_accusation(UpdateKind.DEAD, node_id, incarnation, source))
        if state is not MemberState.DEAD:
            self._timers.cancel(("reap", node_id))
            self.emit(EventKind.DIED, member.record)

    def hear_left(self, now: float, node_id: str, incarnation: int) -> None:
        if node_id == self.me.node_id:
            if not self.leaving and incarnation >= self.me.incarnation:
                self.refute(incarnation)
            return
        member = self.table.entries.get(node_id)
        if member is None or incarnation < member.record.incarnation:
            return
        state = member.record.state
        if state is MemberState.LEFT and incarnation == member.record.incarnation:
            return
        self._depart(now, member, MemberState.LEFT, incarnation)
        self._recently_dead.pop(node_id, None)
        self._timers.set(("reap", node_id), now + self._profile.left_kept_s, lambda _: self._reap(node_id))
        self._datagrams.news.put(node_id, pack_departure(UpdateKind.LEFT, node_id, incarnation))
        if state is not MemberState.LEFT:
            self.emit(EventKind.LEFT, member.record)
            self.remember()

    def learn_remembered(self, now: float, record: MemberRecord) -> None:
        """Somebody remembers this member from an earlier life: it counts as known, and as dead until heard of."""
        if record.node_id == self.me.node_id:
            self._hear_self_alive(record)
            return
        dead = record.with_state(MemberState.DEAD, record.incarnation)
        member = self.table.entries.get(record.node_id)
        if member is None:
            if self._add(now, dead, verified=False) is not None:
                self.remember()
        elif member.record.state is MemberState.DEAD and record.incarnation > member.record.incarnation:
            member.record = dead
            member.verified = False

    def learn_dead(self, now: float, record: MemberRecord) -> None:
        """A member that another one knows as dead, and that may be unknown here."""
        if record.node_id not in self.table.entries and record.node_id != self.me.node_id:
            dead = record.with_state(MemberState.DEAD, record.incarnation)
            if self._add(now, dead) is not None:
                self.emit(EventKind.DIED, dead)
                self.remember()

    def forget(self, now: float, node_id: str) -> None:
        """An operator's word that a dead member will not come back; spreads as if it had left.

        Raises :class:`~copycat.errors.UsageError` if it is unknown or not dead.
        """
        member = self.table.entries.get(node_id)
        if member is None:
            raise UsageError(f"no member {node_id} is known")
        if member.record.state is MemberState.LEFT:
            return
        if member.record.state is not MemberState.DEAD:
            raise UsageError(f"member {node_id} is {member.record.state.name.lower()}: only dead ones can be forgotten")
        self.hear_left(now, node_id, member.record.incarnation)

    # --- this node itself -------------------------------------------------------------------------------------------

    def refute(self, incarnation: int) -> None:
        """Say again who this node is, above ``incarnation``."""
        self.replace_me(self.me.with_state(MemberState.ALIVE, min(incarnation + 1, INCARNATION_MAX - 1)))

    def replace_me(self, record: MemberRecord) -> None:
        """Announce a new record of this node; its incarnation must be higher than before."""
        self.me = record
        self.announce()
        self.remember()

    def announce(self) -> None:
        self._datagrams.news.put(self.me.node_id, pack_alive(self.me))

    def _hear_self_alive(self, record: MemberRecord) -> None:
        if self.leaving:
            return
        mine = self.me.incarnation
        differs = not record.says_the_same(self.me)
        elsewhere = (record.hostname, record.gossip_port) != (self.me.hostname, self.me.gossip_port)
        if elsewhere and len(self.contested) < CONTESTED_MAX:
            self.contested.append((record.hostname, record.gossip_port))
        if record.incarnation > mine or (record.incarnation == mine and differs):
            self.refute(record.incarnation)

    def _refute_accusation(self, incarnation: int) -> None:
        if self.leaving or incarnation < self.me.incarnation:
            return
        self.refuted += 1
        self._awareness.add(1)
        self.refute(incarnation)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _add(self, now: float, record: MemberRecord, verified: bool = True) -> Member | None:
        if len(self.table) >= self._profile.members_max:
            self.refused += 1
            return None
        member = Member(record, now, verified)
        self.table.entries[record.node_id] = member
        return member

    def _depart(self, now: float, member: Member, state: MemberState, incarnation: int) -> None:
        node_id = member.record.node_id
        self._stop_suspicion(node_id)
        was_live = member.record.state in _LIVE
        member.record = member.record.with_state(state, incarnation)
        member.since = now
        member.verified = True
        if was_live:
            self.table.stop_probing(node_id)
            self._counted()

    def _start_suspicion(self, now: float, node_id: str, source: str) -> None:
        profile = self._profile
        members = self._datagrams.members
        minimum_s = suspicion_timeout_min(profile.suspicion_multiplier, members, profile.probe_interval_s)
        needed = max(0, min(profile.suspicion_confirmations, members - 2))
        suspicion = Suspicion(now, source, needed, minimum_s, minimum_s * profile.suspicion_max_multiplier)
        self._suspicions[node_id] = suspicion
        self._timers.set(("suspect", node_id), suspicion.deadline(), lambda at: self._give_up(at, node_id))

    def _stop_suspicion(self, node_id: str) -> None:
        if self._suspicions.pop(node_id, None) is not None:
            self._timers.cancel(("suspect", node_id))

    def _give_up(self, now: float, node_id: str) -> None:
        self.hear_dead(now, node_id, self.table.entries[node_id].record.incarnation, self.me.node_id)

    def _reap(self, node_id: str) -> None:
        member = self.table.entries.pop(node_id)
        self._datagrams.news.discard(node_id)
        self.emit(EventKind.REAPED, member.record)

    def _counted(self) -> None:
        self._datagrams.members = self.table.live_count + 1

    def emit(self, kind: EventKind, record: MemberRecord) -> None:
        self._events.append(MemberEvent(kind, record))

    def remember(self) -> None:
        self._remember_due = True
