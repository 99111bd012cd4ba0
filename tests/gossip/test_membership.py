"""Which news wins (SWIM, section 4.2), row by row, on a core that hears them as packets."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from copycat.errors import UsageError
from copycat.gossip import LAN, EventKind, MemberRecord, MemberState, Swim
from copycat.gossip.wire import (
    Packet,
    PacketKind,
    Update,
    UpdateKind,
    pack_head,
    pack_packet,
    pack_update,
    unpack_packet,
)
from copycat.testing.gossip_world import node_id_of

ME, PETER, ANNA, BERT, CLARA, STRANGER = (node_id_of(number) for number in range(6))
SOURCE = ("anna", 7459)


def record_of(node_id: str, incarnation: int = 5, host: str = "peter") -> MemberRecord:
    return MemberRecord(node_id, host, 7458, 7459, incarnation=incarnation)


def alive(incarnation: int, host: str = "peter", node_id: str = PETER) -> Update:
    return Update(UpdateKind.ALIVE, node_id, incarnation, node_id, record_of(node_id, incarnation, host))


def suspect(incarnation: int, source: str = ANNA, node_id: str = PETER) -> Update:
    return Update(UpdateKind.SUSPECT, node_id, incarnation, source)


def dead(incarnation: int, node_id: str = PETER) -> Update:
    return Update(UpdateKind.DEAD, node_id, incarnation, ANNA)


def left(incarnation: int, node_id: str = PETER) -> Update:
    return Update(UpdateKind.LEFT, node_id, incarnation, node_id)


class Listener:
    """A core that hears news from Anna at times of the test's choice."""

    def __init__(self) -> None:
        self.swim = Swim(record_of(ME, 0, "me"), LAN, random.Random(1))
        self.now = 0.0
        self.swim.start(self.now)
        self.hear(*(alive(0, "x", node_id) for node_id in (ANNA, BERT, CLARA)))

    def hear(self, *updates: Update) -> list[EventKind]:
        head = pack_head(Packet(PacketKind.GOSSIP, ANNA))
        self.swim.receive(self.now, pack_packet(head, [pack_update(update) for update in updates]), SOURCE)
        return [event.kind for event in self.swim.take_outputs().events if event.kind is not EventKind.REMEMBER]

    def wait(self, seconds: float) -> list[EventKind]:
        """Tick through; nobody answers a probe, so only what concerns Peter is returned."""
        kinds = []
        end = self.now + seconds
        while self.swim.next_deadline() <= end:
            self.now = max(self.now, self.swim.next_deadline())
            self.swim.tick(self.now)
            events = self.swim.take_outputs().events
            kinds += [event.kind for event in events if event.record.node_id == PETER]
        self.now = end
        return kinds

    def peter(self) -> tuple[MemberState, int]:
        record = self.swim.member(PETER)
        assert record is not None
        return record.state, record.incarnation


ALIVE, SUSPECT, DEAD, LEFT = MemberState.ALIVE, MemberState.SUSPECT, MemberState.DEAD, MemberState.LEFT


@pytest.mark.parametrize(
    ("before", "news", "after", "event"),
    [
        ([alive(5)], alive(5, "elsewhere"), (ALIVE, 5), []),
        ([alive(5)], alive(4, "elsewhere"), (ALIVE, 5), []),
        ([alive(5)], alive(6), (ALIVE, 6), []),
        ([alive(5)], alive(6, "elsewhere"), (ALIVE, 6), [EventKind.UPDATED]),
        ([alive(5)], suspect(4), (ALIVE, 5), []),
        ([alive(5)], suspect(5), (SUSPECT, 5), [EventKind.SUSPECTED]),
        ([alive(5)], suspect(6), (SUSPECT, 6), [EventKind.SUSPECTED]),
        ([alive(5)], dead(4), (ALIVE, 5), []),
        ([alive(5)], dead(5), (DEAD, 5), [EventKind.DIED]),
        ([alive(5)], left(4), (ALIVE, 5), []),
        ([alive(5)], left(5), (LEFT, 5), [EventKind.LEFT]),
        ([alive(5), suspect(5)], alive(5), (SUSPECT, 5), []),
        ([alive(5), suspect(5)], alive(6), (ALIVE, 6), [EventKind.REFUTED]),
        ([alive(5), suspect(5)], suspect(5, BERT), (SUSPECT, 5), []),
        ([alive(5), suspect(5)], suspect(6, BERT), (SUSPECT, 6), []),
        ([alive(5), suspect(5)], dead(5), (DEAD, 5), [EventKind.DIED]),
        ([alive(5), suspect(5)], dead(4), (SUSPECT, 5), []),
        ([alive(5), suspect(5)], left(5), (LEFT, 5), [EventKind.LEFT]),
        ([alive(5), dead(5)], alive(5), (DEAD, 5), []),
        ([alive(5), dead(5)], alive(6), (ALIVE, 6), [EventKind.JOINED]),
        ([alive(5), dead(5)], suspect(6), (DEAD, 5), []),
        ([alive(5), dead(5)], dead(6), (DEAD, 6), []),
        ([alive(5), dead(5)], left(5), (LEFT, 5), [EventKind.LEFT]),
        ([alive(5), left(5)], alive(5), (LEFT, 5), []),
        ([alive(5), left(5)], alive(6), (ALIVE, 6), [EventKind.JOINED]),
        ([alive(5), left(5)], suspect(6), (LEFT, 5), []),
        ([alive(5), left(5)], dead(5), (LEFT, 5), []),
        ([alive(5), left(5)], dead(6), (DEAD, 6), [EventKind.DIED]),
        ([alive(5), left(5)], left(5), (LEFT, 5), []),
    ],
)
def test_news_is_believed_as_the_table_says(
    before: list[Update], news: Update, after: tuple[MemberState, int], event: list[EventKind]
) -> None:
    listener = Listener()
    listener.hear(*before)
    assert listener.hear(news) == event
    assert listener.peter() == after


@pytest.mark.parametrize("news", [suspect(3, node_id=STRANGER), dead(3, STRANGER), left(3, STRANGER)])
def test_bad_news_of_strangers_is_ignored(news: Update) -> None:
    listener = Listener()
    assert listener.hear(news) == []
    assert listener.swim.member(STRANGER) is None


@pytest.mark.parametrize("news", [suspect(7, node_id=ME), dead(7, ME), left(7, ME), alive(7, "elsewhere", ME)])
def test_news_about_oneself_is_refuted_above_what_was_heard(news: Update) -> None:
    listener = Listener()
    listener.hear(news)
    assert listener.swim.me.incarnation == 8
    assert listener.swim.me.hostname == "me"
    assert listener.swim.me.state is ALIVE
    listener.hear(news)
    assert listener.swim.me.incarnation == 8


def test_an_accusation_that_had_to_be_refuted_counts_against_local_health() -> None:
    listener = Listener()
    listener.hear(suspect(0, node_id=ME))
    assert listener.swim.health == 1
    listener.hear(alive(9, "elsewhere", ME))
    assert listener.swim.health == 1


def test_a_lone_accusation_waits_longest_and_confirmations_shorten_it() -> None:
    waits = {}
    for accusers in ([ANNA], [ANNA, ANNA, ANNA], [ANNA, BERT], [ANNA, BERT, CLARA, STRANGER]):
        listener = Listener()
        listener.hear(alive(5))
        listener.hear(*(suspect(5, accuser) for accuser in accusers))
        listener.swim.membership.table.stop_probing(PETER)  # so that this core itself does not confirm
        listener.swim.membership.table.start_probing(ANNA)
        deadline = listener.swim.membership._suspicions[PETER].deadline()
        waits[len(set(accusers)), len(accusers)] = deadline
    assert waits[1, 1] == waits[1, 3] == pytest.approx(24.0)
    assert waits[1, 1] > waits[2, 2] > waits[4, 4]
    assert waits[4, 4] == pytest.approx(4.0)


def test_a_suspect_that_stays_silent_dies_and_one_that_answers_does_not() -> None:
    listener = Listener()
    listener.hear(alive(5), suspect(5))
    assert EventKind.DIED in listener.wait(30.0)
    listener = Listener()
    listener.hear(alive(5), *(suspect(5, accuser) for accuser in (ANNA, BERT, CLARA, STRANGER)))
    listener.now = 3.0
    listener.hear(alive(6))
    assert EventKind.DIED not in listener.wait(1.5)


def test_the_dead_stay_members_until_an_operator_forgets_them() -> None:
    listener = Listener()
    listener.hear(alive(5), dead(5))
    listener.wait(1_000_000.0)
    swim = listener.swim
    assert PETER in [record.node_id for record in swim.known()]
    assert PETER in [record.node_id for record in swim.remembered()]
    assert PETER not in [record.node_id for record in swim.alive()]
    swim.forget(listener.now, PETER)
    assert PETER not in [record.node_id for record in swim.known()]
    assert PETER in [record.node_id for record in swim.members()]
    swim.forget(listener.now, PETER)
    assert EventKind.REAPED in listener.wait(LAN.left_kept_s + 1)
    assert swim.member(PETER) is None


def test_only_the_dead_can_be_forgotten() -> None:
    listener = Listener()
    with pytest.raises(UsageError):
        listener.swim.forget(0.0, PETER)
    listener.hear(alive(5))
    with pytest.raises(UsageError):
        listener.swim.forget(0.0, PETER)


def test_a_member_that_is_back_before_its_tombstone_expires_is_not_reaped() -> None:
    listener = Listener()
    listener.hear(alive(5), left(5))
    listener.hear(alive(6))
    listener.wait(LAN.left_kept_s + 1)
    assert listener.swim.member(PETER) is not None


def test_no_more_members_are_kept_than_allowed() -> None:
    listener = Listener()
    listener.swim.membership._profile = replace(LAN, members_max=4)
    listener.hear(alive(5))
    listener.hear(alive(1, "x", STRANGER))
    assert listener.swim.member(PETER) is not None
    assert listener.swim.member(STRANGER) is None
    assert listener.swim.counters.refused == 1


def test_another_meta_is_announced_with_a_higher_incarnation() -> None:
    listener = Listener()
    listener.swim.update_meta(0.0, b"weight=3")
    assert (listener.swim.me.meta, listener.swim.me.incarnation) == (b"weight=3", 1)
    listener.swim.update_meta(0.0, b"weight=3")
    assert listener.swim.me.incarnation == 1
    with pytest.raises(UsageError):
        listener.swim.update_meta(0.0, bytes(513))


def test_whoever_is_taken_for_dead_or_suspect_is_told_in_the_answer_to_its_ping() -> None:
    listener = Listener()
    listener.hear(suspect(0, BERT, ANNA))
    ping = pack_packet(pack_head(Packet(PacketKind.PING, ANNA, seq=9, target=ME)), [])
    listener.swim.take_outputs()
    listener.swim.receive(0.0, ping, SOURCE)
    ((host, port, data),) = listener.swim.take_outputs().datagrams
    assert (host, port) == SOURCE
    ack = unpack_packet(data)
    assert (ack.kind, ack.seq, ack.target) == (PacketKind.ACK, 9, ME)
    assert ack.updates[0] == Update(UpdateKind.SUSPECT, ANNA, 0, ME)


def test_a_ping_for_whoever_had_this_address_before_is_not_answered() -> None:
    listener = Listener()
    ping = pack_packet(pack_head(Packet(PacketKind.PING, ANNA, seq=9, target=BERT)), [])
    listener.swim.receive(0.0, ping, SOURCE)
    assert listener.swim.take_outputs().datagrams == []


def test_each_probe_repairs_what_prober_and_target_missed_about_each_other() -> None:
    listener = Listener()
    listener.swim.update_meta(0.0, b"new")
    listener.hear(alive(4, "anna", ANNA))
    listener.swim.take_outputs()
    ping = Packet(PacketKind.PING, ANNA, seq=9, target=ME, incarnation=3, target_incarnation=0)
    listener.swim.receive(0.0, pack_packet(pack_head(ping), []), SOURCE)
    ((_, _, data),) = listener.swim.take_outputs().datagrams
    heard, announced = unpack_packet(data).updates[:2]
    assert heard == Update(UpdateKind.HEARD, ANNA, 4, ANNA)
    assert announced.record == listener.swim.me
