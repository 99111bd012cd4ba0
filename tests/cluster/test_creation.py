"""One group per id: seeded runs of whole clusters over a lossy network, with crashes, joins and leaves."""

from __future__ import annotations

import random
from concurrent.futures import Future

import pytest

from copycat.acceptor import Acceptor
from copycat.creation import RESEND_S, Creation, Verdict
from copycat.enrolment import Departure, Enrolment
from copycat.errors import CodecError, NoQuorum
from copycat.genesis import (
    Accept,
    Accepted,
    Chosen,
    EnrollPage,
    Genesis,
    HandOver,
    NotReady,
    Prepare,
    Promise,
    Reading,
    Record,
    Refresh,
    Send,
    Step,
    from_fields,
    merge,
    roster_digest,
    to_fields,
)
from copycat.testing.creation_engines import live
from copycat.testing.creation_world import GROUP, a_genesis, run
from copycat.testing.engines import a_world, engine_of, run_until, seek, voters


def test_at_most_one_group_per_id_in_a_fixed_cluster():
    created = sum(run(seed, 0, 0).decided is not None for seed in range(250))
    assert created == 250


@pytest.mark.parametrize("joins", [1, 4])
def test_at_most_one_group_per_id_while_nodes_join(joins):
    for seed in range(1000, 1150):
        run(seed, joins, 0)


def test_at_most_one_group_per_id_while_nodes_join_and_leave():
    for seed in range(2000, 2150):
        run(seed, 3, 2)


def test_engines_that_all_want_the_same_ids_at_once_make_one_group_of_each():
    """Partitions, restarts, one join or leave meanwhile; ``tools/simulate_creation engines`` runs thousands."""
    fresh = random.SystemRandom().randrange(1 << 40)
    served = 0
    for seed in (*range(10), *range(fresh, fresh + 10)):
        try:
            served += live(seed).served
        except AssertionError as error:
            raise AssertionError(f"tools/simulate_creation engines --seed {seed}: {error}") from error
    assert served, "nobody's wish came true in time, so this shows little"


def test_each_wish_hears_that_there_is_no_majority_before_its_own_time_is_up():
    world = a_world(1, 3)
    node, *others = world.running()
    for other in others:
        other.crash()
    began = world.now
    patient = seek(node, GROUP, timeout_s=20.0)
    hasty = seek(node, GROUP, timeout_s=2.0)
    run_until(world, hasty.done, "the hasty one hears")
    assert world.now - began < 2.0
    assert isinstance(hasty.result(), NoQuorum)
    assert "of 3 known nodes answered" in str(hasty.result())
    assert not patient.done()
    others[0].start()
    run_until(world, patient.done, "the patient one's wish comes true")
    assert patient.result() is None
    assert world.now - began < 20.0


def test_who_leaves_takes_its_place_in_a_group_that_was_accepted_and_hands_it_over_first():
    """Both nodes have accepted, nobody knows yet that this decided it: the group of two must not lose one of its voters."""
    world = a_world(2, 2)
    nodes = world.running()
    names = [engine_of(node).node_id for node in nodes]
    genesis = Genesis(GROUP, 7, names[0], ((11, names[0]), (12, names[1])), 2, 0)
    for node in nodes:
        founding = engine_of(node).founding
        accept = Accept((1, names[0], 7), genesis, roster_digest(names))
        node.post(lambda founding=founding, accept=accept: founding._do(founding.acceptor.step(names[0], accept)))
    world.run_for(0.1)
    assert not any(engine_of(node).hosting.groups for node in nodes)
    left: Future[None] = Future()
    nodes[1].post(lambda: engine_of(nodes[1]).departures.leave(left))
    run_until(world, left.done, "it has left")
    nodes[1].stop()
    run_until(world, lambda: voters(world) == {GROUP: {names[0]}}, "the one that stays leads the group alone")


def test_a_wish_from_before_a_node_left_is_not_made_a_group_with_that_node():
    acceptor = a_voter("a", "b")
    wish = Genesis(GROUP, 1, "a", ((1, "a"), (2, "b")), 2, 0)
    creation = Creation("a", GROUP, wish, "ab", (), random.Random(1), 0.0, 10.0)
    creation.tick(0.0)
    acceptor.meet((), {"b"})
    now = 0.0
    while creation.outcome is None:
        now += RESEND_S
        waiting = [send.message for send in creation.tick(now) if send.to == "a"]
        while waiting and creation.outcome is None:
            sends = creation.step("a", answer(acceptor.step("a", waiting.pop())), now)
            waiting += [send.message for send in sends if send.to == "a"]
    assert creation.outcome.verdict is Verdict.FAILED, "whoever wishes makes another, with those that are there"
    assert now < 1.0
    assert acceptor.record(GROUP).genesis is None


def test_whoever_is_given_a_leavers_records_first_finishes_what_it_has_accepted_with_it():
    """The one that stays accepted a group of two alone; it must be decided while the other can still take its place."""
    world = a_world(4, 2)
    nodes = world.running()
    names = [engine_of(node).node_id for node in nodes]
    genesis = Genesis(GROUP, 7, names[0], ((11, names[0]), (12, names[1])), 2, 0)
    founding = engine_of(nodes[0]).founding
    accept = Accept((1, names[0], 7), genesis, roster_digest(names))
    nodes[0].post(lambda: founding._do(founding.acceptor.step(names[0], accept)))
    world.run_for(0.1)
    left: Future[None] = Future()
    nodes[1].post(lambda: engine_of(nodes[1]).departures.leave(left))
    run_until(world, left.done, "it has left")
    nodes[1].stop()
    run_until(world, lambda: voters(world) == {GROUP: {names[0]}}, "the one that stays leads the group alone")


def test_no_new_wish_is_accepted_that_names_a_node_whose_records_were_handed_over():
    acceptor = a_voter("a", "b", "c")
    acceptor.step("c", HandOver(1, b"", b"", ()))
    wish = Genesis(GROUP, 1, "b", ((1, "b"), (2, "c")), 2, 0)
    ballot = (1, "b", 7)
    digest = roster_digest("abc")
    assert isinstance(answer(acceptor.step("b", Prepare(GROUP, ballot, digest))), Promise)
    assert answer(acceptor.step("b", Accept(ballot, wish, digest))) == Refresh(GROUP, ballot, ("a", "b"), ("c",))
    assert answer(acceptor.step("b", Accept(ballot, wish, digest, forced=True))) == Accepted(GROUP, ballot)


# --- single rules ---------------------------------------------------------------------------------------------------


def a_voter(*members: str) -> Acceptor:
    acceptor = Acceptor(members[0])
    acceptor.meet(members)
    acceptor.found()
    return acceptor


def answer(step: Step):
    (send,) = step.then_send
    return send.message


def test_a_promise_is_persisted_in_the_step_that_sends_it():
    acceptor = a_voter("a", "b", "c")
    step = acceptor.step("b", Prepare(GROUP, (1, "b", 7), roster_digest("abc")))
    assert step.persist == (Record(GROUP, promised=(1, "b", 7)),)
    assert step.then_send == (Send("b", Promise(GROUP, (1, "b", 7), (0, "", 0), None)),)


def test_a_proposer_that_misses_a_member_is_refreshed_in_both_phases():
    acceptor = a_voter("a", "b", "c", "d")
    ballot = (1, "b", 7)
    wanted = Refresh(GROUP, ballot, ("a", "b", "c", "d"), ())
    assert answer(acceptor.step("b", Prepare(GROUP, ballot, roster_digest("abc")))) == wanted
    assert answer(acceptor.step("b", Prepare(GROUP, ballot, roster_digest("abc"), ("a", "b", "c")))) == wanted
    assert answer(acceptor.step("b", Accept(ballot, a_genesis(1), roster_digest("abc")))) == wanted
    assert acceptor.record(GROUP) is None
    knows_more = Prepare(GROUP, ballot, roster_digest("abcde"), ("a", "b", "c", "d", "e"))
    assert isinstance(answer(acceptor.step("b", knows_more)), Promise)


def test_a_node_that_enrolls_or_leaves_does_not_vote():
    enrolling = Acceptor("a")
    enrolling.meet("abc")
    sealed = a_voter("a", "b", "c")
    sealed.seal()
    for acceptor in (enrolling, sealed):
        message = Prepare(GROUP, (1, "b", 7), roster_digest("abc"))
        assert answer(acceptor.step("b", message)) == NotReady(GROUP, (1, "b", 7))


def test_no_quorum_comes_when_time_is_up_and_names_the_silent():
    creation = Creation("a", GROUP, a_genesis(1), "abc", (), random.Random(1), 100.0, 10.0)
    acceptor = a_voter("a", "b", "c")
    now = 100.0
    while creation.outcome is None:
        now = creation.next_deadline()
        for send in creation.tick(now):
            if send.to == "a":
                creation.step("a", answer(acceptor.step("a", send.message)), now)
    assert now == 110.0
    error = creation.outcome.error
    assert creation.outcome.verdict is Verdict.FAILED
    assert isinstance(error, NoQuorum)
    assert "1 of 3 known nodes answered" in str(error)
    assert "2 are needed" in str(error)
    assert "Silent: b, c" in str(error)


def test_a_retry_with_the_same_genesis_ends_with_the_same_group():
    acceptor = a_voter("a")
    verdicts = []
    for proposal in (a_genesis(1), a_genesis(1), a_genesis(2), None):
        creation = Creation("a", GROUP, proposal, "a", (), random.Random(len(verdicts)), 0.0, 10.0)
        sends = creation.tick(0.0)
        while sends and creation.outcome is None:
            sends = creation.step("a", answer(acceptor.step("a", sends[0].message)), 0.0)
        for send in sends:
            acceptor.step("a", send.message)
        assert creation.outcome is not None
        assert creation.outcome.genesis == a_genesis(1)
        verdicts.append(creation.outcome.verdict)
    assert verdicts == [Verdict.CREATED, Verdict.CREATED, Verdict.EXISTS, Verdict.EXISTS]


def test_merging_records_keeps_the_decision_the_higher_value_and_the_higher_promise():
    low = Record(GROUP, (5, "a", 1), (2, "a", 1), a_genesis(1))
    high = Record(GROUP, (4, "a", 1), (4, "a", 1), a_genesis(2))
    assert merge(low, high) == merge(high, low) == Record(GROUP, (5, "a", 1), (4, "a", 1), a_genesis(2))
    chosen = Record(GROUP, (1, "a", 1), (1, "a", 1), a_genesis(1), chosen=True)
    assert merge(chosen, high) == merge(high, chosen) == chosen
    assert merge(None, low) == low


def test_records_are_copied_in_pages_that_miss_none():
    rng = random.Random(3)
    acceptor = Acceptor("a", None, [Record(rng.randbytes(16), (1, "a", 1)) for _ in range(200)])
    other = Acceptor("b")
    cursor, pages = b"", 0
    while pages == 0 or cursor:
        records, cursor = acceptor.page(cursor)
        other.absorb(records)
        pages += 1
    assert pages == 4
    assert other.page(b"")[0] == acceptor.page(b"")[0]
    assert len([1 for record in other._records]) == 200


@pytest.mark.parametrize(
    "values",
    [
        None,
        (),
        (99,),
        ("0",),
        (True,),
        (0,),
        (0, GROUP, (1, "a"), b"", ()),
        (0, b"x" * 17, (1, "a", 1), b"", ()),
        (0, GROUP, (1, "a", -1), b"", ()),
        (0, GROUP, (1, "a" * 200, 1), b"", ()),
        (7, (b"short", 1, "a", (), 1, 0)),
        (7, (GROUP, 1, "a", ((1,),), 1, 0)),
        (9, 1, b"", b"", 9, (), (), ()),
    ],
)
def test_what_is_no_message_is_a_codec_error(values):
    with pytest.raises(CodecError):
        from_fields(values)


def test_a_chosen_message_survives_the_wire():
    assert from_fields(list(to_fields(Chosen(a_genesis(5))))) == Chosen(a_genesis(5))


def enroll_pumped(enrolments: dict[str, Enrolment], acceptors: dict[str, Acceptor], down: str = "") -> list[str]:
    """Carry the messages of several enrolments at once, without loss; returns the order in which they ended."""
    ended: list[str] = []
    for turn in range(40):
        for node_id, enrolment in enrolments.items():
            for send in enrolment.tick(turn * 1.0).then_send:
                if send.to not in down:
                    page = answer(acceptors[send.to].step(node_id, send.message))
                    enrolment.step(send.to, page)
            if enrolment.done and node_id not in ended:
                ended.append(node_id)
    return ended


def test_newcomers_that_outnumber_the_old_know_what_the_old_accepted():
    record = Record(GROUP, (1, "a", 1), (1, "a", 1), a_genesis(1))
    acceptors = {name: a_voter(name, *"abc".replace(name, "")) for name in "abc"}
    for name in "bc":
        acceptors[name].absorb([record])
    joiners = ["p", "o", "n", "m"]
    enrolments = {}
    for name in joiners:
        acceptors[name] = Acceptor(name)
        acceptors[name].meet("abc")
        enrolments[name] = Enrolment(acceptors[name], 1, 0.0)
    ended = enroll_pumped(enrolments, acceptors, down="c")
    assert sorted(ended) == sorted(joiners)
    for name in joiners:
        assert acceptors[name].record(GROUP) == record
        assert answer(
            acceptors["a"].step(name, Prepare(GROUP, (9, "c", 1), roster_digest("abc"), ("a", "b", "c")))
        ) == (Refresh(GROUP, (9, "c", 1), tuple("abcmnop"), ()))


def test_of_two_that_enroll_at_once_the_smaller_goes_first_and_the_other_starts_over():
    small, large = Acceptor("m"), Acceptor("n")
    small.meet("amn")
    large.meet("amn")
    asked_by_large = answer(small.step("n", Enrolment(large, 1, 0.0).tick(0.0).then_send[-1].message))
    assert asked_by_large.reading is Reading.WAIT
    large_enrolment = Enrolment(large, 1, 0.0)
    page_of_a = EnrollPage(1, b"", b"", Reading.SERVED, ("a", "m", "n"), (), ())
    large_enrolment.step("a", page_of_a)
    yielded = answer(large.step("m", Enrolment(small, 1, 0.0).tick(0.0).then_send[-1].message))
    assert yielded.reading is Reading.YIELDED
    asked_again = {send.to for send in large_enrolment.tick(1.0).then_send}
    assert asked_again == {"a", "m"}
    large_enrolment.step("a", page_of_a)  # of the attempt before
    assert not large_enrolment.done


def test_a_leaver_is_gone_only_when_a_majority_of_the_others_holds_its_records():
    leaver = a_voter("a", "b", "c", "d", "e")
    record = Record(GROUP, (1, "a", 1), (1, "a", 1), a_genesis(1))
    leaver.absorb([record])
    leaver.seal()
    departure = Departure(leaver, 1, 0.0)
    sends = departure.tick(0.0)
    assert [send.to for send in sends] == ["b", "c", "d", "e"]
    for send in sends[:3]:
        assert not departure.done
        other = a_voter(send.to, *"abcde".replace(send.to, ""))
        step = other.step("a", send.message)
        assert record in step.persist
        assert other.roster.handed_over == ("a",)
        departure.step(send.to, answer(step))
        departure.step(send.to, answer(step))  # repeated
    assert departure.done
